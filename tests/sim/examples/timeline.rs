//! Writes a trace of a policy at work, for `scripts/trace2json`:
//!
//! `cargo run -p sched-sim --example timeline -- credit trace.bin && scripts/trace2json trace.bin -o trace.json`

use sched_sim::{Behaviour, MS, Simulator, Trace, US, scenarios};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(policy), Some(file)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: timeline POLICY FILE");
        std::process::exit(2);
    };
    let trace = Trace::new(4, 1 << 16);
    let mut machine = Simulator::new(scenarios::make(&policy), 4, 1);
    machine.observe(trace.observer());
    for (weight, behaviour) in [
        (256, Behaviour::Hog),
        (512, Behaviour::Hog),
        (
            256,
            Behaviour::Periodic {
                period: 10 * MS,
                run: 200 * US,
            },
        ),
        (
            256,
            Behaviour::Random {
                run: 5 * MS,
                block: 5 * MS,
            },
        ),
    ] {
        let domain = machine.add_domain(weight, 0);
        machine.add_units(domain, 3, behaviour);
    }
    machine.run(500 * MS);
    std::fs::write(&file, trace.file()).expect("the file can be written");
}
