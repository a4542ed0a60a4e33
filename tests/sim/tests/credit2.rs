//! The credit2 policy under the simulator.

use sched_sim::{Behaviour, MS, SECOND, Simulator, Trace, US, scenarios};

const NAME: &str = "credit2";

#[test]
fn time_is_shared_by_weight() {
    for cpus in [1, 4, 16] {
        for count in [2, 3, 8, 64] {
            for weights in [&[256][..], &[256, 512], &[128, 256, 512]] {
                let weights: Vec<u16> = weights.iter().copied().cycle().take(count).collect();
                let error = scenarios::unfairness(NAME, cpus, &weights);
                assert!(error < 0.02, "{cpus} pCPUs, {count} domains: {error}");
            }
        }
    }
}

#[test]
fn single_units_and_wakers_change_nothing() {
    for (cpus, count) in [(1, 2), (2, 8), (4, 8), (8, 64)] {
        let weights: Vec<u16> = (0..count).map(|i| [128, 256, 512][i % 3]).collect();
        let single = scenarios::unfairness_of_single_units(NAME, cpus, &weights);
        let wakers = scenarios::unfairness_beside_wakers(NAME, cpus, &weights);
        assert!(
            single < 0.02 && wakers < 0.02,
            "{cpus} {count}: {single} {wakers}"
        );
    }
}

#[test]
fn caps_are_held_and_used() {
    for (cpus, cap, units, others) in [
        (1, 10, 1, 0),
        (1, 50, 1, 1),
        (4, 50, 1, 8),
        (4, 150, 4, 0),
        (4, 150, 2, 8),
        (4, 5, 4, 4),
        (4, 300, 4, 16),
        (2, 99, 1, 4),
        (4, 1, 1, 4),
    ] {
        let error = scenarios::cap_error(NAME, cpus, cap, units, others);
        assert!(
            error.abs() < 0.02,
            "{cpus} pCPUs, cap {cap}, {units}+{others}: {error}"
        );
    }
    for (cpus, cap, units, others) in [
        (1, 50, 1, 0),
        (1, 20, 2, 1),
        (2, 60, 1, 3),
        (4, 150, 4, 0),
        (4, 150, 4, 8),
        (4, 50, 4, 8),
    ] {
        let error = scenarios::cap_error_of_waiters(NAME, cpus, cap, units, others);
        println!("{cpus} pCPUs, cap {cap}, {units} units, {others} others: {error}");
        assert!(error.abs() < 0.02, "{cpus} {cap} {units} {others}: {error}");
    }
    scenarios::caps_hold_for_random_patterns(NAME, 20);
}

#[test]
fn waits_are_bounded() {
    // In turns of 30 ms; the longest one seen is 0.48.
    assert!(scenarios::longest_wait(NAME, 60) < 1.0);
}

#[test]
fn units_that_wake_run_soon() {
    for cpus in [1, 2, 4, 8] {
        for hogs in [1, 2, 4] {
            let mut machine = Simulator::new(scenarios::make(NAME), cpus, 0);
            let latency = scenarios::wake_latency(&mut machine, cpus, hogs * cpus);
            // The rate limit, and the migration resistance.
            assert!(latency <= 1600 * US, "{cpus} {hogs}: {latency} ns");
        }
    }
}

#[test]
fn no_pcpu_idles_while_work_waits() {
    scenarios::work_is_conserved(NAME, 40);
}

#[test]
fn affinity_holds() {
    scenarios::affinity_holds_while_things_change(NAME, 40, 1000);
}

#[test]
fn a_large_machine_runs_everybody() {
    scenarios::large_machine(NAME, 128, 2000, SECOND);
}

#[test]
fn the_trace_is_read_by_the_tool() {
    let mut machine = Simulator::new(scenarios::make(NAME), 2, 1);
    let trace = Trace::new(2, 1 << 14);
    machine.observe(trace.observer());
    let domain = machine.add_domain(256, 0);
    machine.add_units(domain, 3, Behaviour::Hog);
    let period = 5 * MS;
    machine.add_units(domain, 1, Behaviour::Periodic { period, run: MS });
    machine.run(SECOND / 10);
    assert_eq!(trace.lost(), 0);
    let path = std::env::temp_dir().join(format!("xenith-{}.trace", std::process::id()));
    std::fs::write(&path, trace.file()).unwrap();
    let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/trace2json");
    let done = std::process::Command::new(tool)
        .arg(&path)
        .output()
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let json = String::from_utf8(done.stdout).unwrap();
    for row in ["pCPU0", "pCPU1", "d0v0", "d0v3"] {
        assert!(
            json.contains(&format!("{{\"name\": \"{row}\"}}")),
            "no row {row}"
        );
    }
    // Every move to another pCPU is there.
    let moves = json.lines().filter(|line| line.contains("migrates from"));
    let counted: u64 = machine.units().map(|id| machine.times(id).migrations).sum();
    assert!(counted > 0);
    assert_eq!(moves.count() as u64, counted);
    // The run states in the timeline add up to what the simulator counted.
    for (vcpu, id) in machine.units().enumerate() {
        let slices = json.lines().filter(|line| {
            line.contains("\"name\": \"running\"") && line.contains(&format!("\"tid\": {vcpu},"))
        });
        let number = |line: &str| -> f64 {
            let rest = line.split("\"dur\": ").nth(1).unwrap();
            rest.split(',').next().unwrap().parse().unwrap()
        };
        let shown: f64 = slices.map(number).sum();
        let ran = machine.times(id).states[0] as f64 / 1000.0;
        assert!(
            (shown - ran).abs() <= 1_100.0,
            "d0v{vcpu}: {shown} us, not {ran} us"
        );
    }
}
