//! The null policy in the simulator.

use sched_sim::scenarios::{self, make};
use sched_sim::{Behaviour, MS, SECOND, Simulator, US};

const NAME: &str = "null";

#[test]
fn a_unit_runs_whenever_it_can() {
    let mut machine = Simulator::new(make(NAME), 8, 1);
    let domain = machine.add_domain(256, 0);
    machine.add_units(domain, 4, Behaviour::Hog);
    let behaviour = Behaviour::Random { run: MS, block: MS };
    machine.add_units(domain, 4, behaviour);
    machine.run(10 * SECOND);
    for unit in machine.units() {
        let times = machine.times(unit);
        assert!(times.longest_wait < 5 * US, "{unit:?}: {times:?}");
        assert_eq!(times.migrations, 0);
    }
}

#[test]
fn affinity_holds_while_affinities_and_pcpus_change() {
    scenarios::affinity_holds_while_things_change(NAME, 200, 2);
}

#[test]
fn an_idle_machine_is_quiet() {
    let mut machine = Simulator::new(make(NAME), 2, 1);
    let domain = machine.add_domain(256, 0);
    machine.add_units(domain, 2, Behaviour::Hog);
    machine.run(SECOND);
    let before = machine.decisions();
    machine.run(100 * SECOND);
    assert_eq!(machine.decisions(), before);
}
