//! What policies must do, each by the name of the policy. Those that return something measure it; the others check it.

use xenith_core::addr::{CpuId, DomId};
use xenith_core::sched::{Affinity, CpuSet, Policy, UnitId, policy};

use crate::{Behaviour, MS, Random, SECOND, Simulator, US};

/// Makes a policy by its name.
pub fn make(name: &str) -> Box<dyn Policy> {
    policy(name).unwrap_or_else(|| panic!("no policy {name}"))
}

/// Returns the affinity of a unit that may run on these pCPUs only.
pub fn hard(cpus: impl IntoIterator<Item = u16>) -> Affinity {
    let mut hard = CpuSet::EMPTY;
    cpus.into_iter()
        .for_each(|cpu| hard.insert(CpuId::new(cpu)));
    Affinity {
        hard,
        soft: CpuSet::ALL,
    }
}

/// Prints the seed when the test that it decided fails.
struct Seed(&'static str, u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} failed with seed {}", self.0, self.1);
        }
    }
}

/// Returns the largest deviation of the domains' times from their weights, in relation to what each is entitled to.
fn largest_error(machine: &Simulator, domains: &[(DomId, u16)], time: u64) -> f64 {
    let total: f64 = domains.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let errors = domains.iter().map(|(domain, weight)| {
        let fair = time as f64 * f64::from(*weight) / total;
        (machine.ran(*domain) as f64 / fair - 1.0).abs()
    });
    errors.fold(0.0, f64::max)
}

/// Runs domains with these weights, each with a hog for every pCPU, for 10 s. Returns the largest error of a domain's time,
/// in relation to the time that its weight entitles it to.
pub fn unfairness(name: &str, cpus: u16, weights: &[u16]) -> f64 {
    let mut machine = Simulator::new(make(name), cpus, 1);
    let mut domains = Vec::new();
    for weight in weights {
        let domain = machine.add_domain(*weight, 0);
        machine.add_units(domain, cpus, Behaviour::Hog);
        domains.push((domain, *weight));
    }
    machine.run(10 * SECOND);
    largest_error(&machine, &domains, 10 * SECOND * u64::from(cpus))
}

/// As [`unfairness`], with domains of one unit each. None can have more than one pCPU: a domain whose weight says more is
/// entitled to one, and the others share what is left by weight.
pub fn unfairness_of_single_units(name: &str, cpus: u16, weights: &[u16]) -> f64 {
    let mut machine = Simulator::new(make(name), cpus, 2);
    let mut domains = Vec::new();
    for weight in weights {
        let domain = machine.add_domain(*weight, 0);
        machine.add_units(domain, 1, Behaviour::Hog);
        domains.push(domain);
    }
    machine.run(10 * SECOND);
    let errors = domains.iter().zip(feasible(cpus, weights));
    let errors = errors.map(|(domain, share)| {
        let fair = share * 10.0 * SECOND as f64;
        (machine.ran(*domain) as f64 / fair - 1.0).abs()
    });
    errors.fold(0.0, f64::max)
}

/// Returns the shares of pCPUs that are fair to the weights where none can have more than one.
fn feasible(cpus: u16, weights: &[u16]) -> Vec<f64> {
    let mut is_full = vec![false; weights.len()];
    loop {
        let full = is_full.iter().filter(|full| **full).count();
        let left = f64::from(cpus) - full as f64;
        let others = weights.iter().zip(&is_full).filter(|(_, full)| !**full);
        let total: f64 = others.map(|(weight, _)| f64::from(*weight)).sum();
        let fair = |weight: &u16| left * f64::from(*weight) / total;
        let now: Vec<bool> = weights
            .iter()
            .zip(&is_full)
            .map(|(weight, full)| *full || fair(weight) > 1.0)
            .collect();
        if now == is_full {
            let share = |(weight, full): (&u16, bool)| if full { 1.0 } else { fair(weight) };
            return weights.iter().zip(now).map(share).collect();
        }
        is_full = now;
    }
}

/// As [`unfairness`], between domains of hogs while another domain of a large weight wakes often and computes little. The
/// hogs are entitled to what that leaves.
pub fn unfairness_beside_wakers(name: &str, cpus: u16, weights: &[u16]) -> f64 {
    let mut machine = Simulator::new(make(name), cpus, 3);
    let waker = machine.add_domain(2048, 0);
    let behaviour = Behaviour::Random {
        run: MS / 2,
        block: 10 * MS,
    };
    machine.add_units(waker, 2 * cpus, behaviour);
    let mut domains = Vec::new();
    for weight in weights {
        let domain = machine.add_domain(*weight, 0);
        machine.add_units(domain, cpus, Behaviour::Hog);
        domains.push((domain, *weight));
    }
    machine.run(10 * SECOND);
    let left = 10 * SECOND * u64::from(cpus) - machine.ran(waker);
    largest_error(&machine, &domains, left)
}

/// Runs a domain with a cap (in percent of a pCPU) and `units` hogs for 10 s, beside `others` uncapped hogs. Returns how far its time
/// is from the cap, in relation to the cap.
pub fn cap_error(name: &str, cpus: u16, cap: u16, units: u16, others: u16) -> f64 {
    let mut machine = Simulator::new(make(name), cpus, 4);
    let capped = machine.add_domain(4096, cap);
    machine.add_units(capped, units, Behaviour::Hog);
    let rest = machine.add_domain(256, 0);
    machine.add_units(rest, others, Behaviour::Hog);
    machine.run(10 * SECOND);
    let allowed = 10 * SECOND / 100 * u64::from(cap);
    machine.ran(capped) as f64 / allowed as f64 - 1.0
}

/// Domains with caps whose units wake and block at random, and hogs: no domain ever has more than its cap, which the
/// assertion allows a domain to exceed by 2 % and by what a unit may have saved.
pub fn caps_hold_for_random_patterns(name: &str, seeds: u64) {
    for seed in 0..seeds {
        let _seed = Seed("caps_hold_for_random_patterns", seed);
        let mut random = Random::new(seed);
        let cpus = random.between(1, 6) as u16;
        let mut machine = Simulator::new(make(name), cpus, seed);
        let mut capped = Vec::new();
        for _ in 0..random.between(1, 6) {
            let units = random.between(1, 4) as u16;
            let cap = random.between(5, 100 * u64::from(units)) as u16;
            let domain = machine.add_domain(random.between(64, 1024) as u16, cap);
            for _ in 0..units {
                let behaviour = random_behaviour(&mut random);
                machine.add_unit(domain, Affinity::default(), behaviour);
            }
            capped.push((domain, cap, units));
        }
        machine.run(10 * SECOND);
        for (domain, cap, units) in capped {
            let most = SECOND / 10 * u64::from(cap) * 102 / 100 + 30 * MS * u64::from(units);
            assert!(machine.ran(domain) <= most, "{domain} with cap {cap}");
        }
    }
}

/// Runs a domain with a cap and `units` units that compute for up to 10 ms and wait for up to 2 ms, which is more than the cap
/// allows, for 10 s, beside `others` hogs. Returns how far its time is from the cap, in relation to the cap.
pub fn cap_error_of_waiters(name: &str, cpus: u16, cap: u16, units: u16, others: u16) -> f64 {
    let mut machine = Simulator::new(make(name), cpus, 9);
    let capped = machine.add_domain(4096, cap);
    let behaviour = Behaviour::Random {
        run: 10 * MS,
        block: 2 * MS,
    };
    machine.add_units(capped, units, behaviour);
    let rest = machine.add_domain(256, 0);
    machine.add_units(rest, others, Behaviour::Hog);
    machine.run(10 * SECOND);
    let allowed = 10 * SECOND / 100 * u64::from(cap);
    machine.ran(capped) as f64 / allowed as f64 - 1.0
}

fn random_behaviour(random: &mut Random) -> Behaviour {
    match random.below(5) {
        0 => Behaviour::Hog,
        1 => Behaviour::Periodic {
            period: random.between(MS, 50 * MS),
            run: random.between(10 * US, 5 * MS),
        },
        2 => Behaviour::Yielder {
            run: random.between(10 * US, 5 * MS),
        },
        3 => Behaviour::Random {
            run: random.between(US, 100 * US),
            block: random.between(US, 300 * US),
        },
        _ => Behaviour::Random {
            run: random.between(US, 60 * MS),
            block: random.between(US, 60 * MS),
        },
    }
}

/// Random machines with random patterns of computing, blocking and yielding, equal weights, no caps. Returns the longest wait
/// for a pCPU in relation to a fair turn: the time in which all units have 30 ms of the pCPUs.
pub fn longest_wait(name: &str, seeds: u64) -> f64 {
    let mut worst: f64 = 0.0;
    for seed in 0..seeds {
        let _seed = Seed("longest_wait", seed);
        let mut random = Random::new(seed);
        let cpus = random.between(1, 8) as u16;
        let mut machine = Simulator::new(make(name), cpus, seed);
        let units = random.between(1, 40);
        for _ in 0..units {
            let domain = machine.add_domain(256, 0);
            let behaviour = random_behaviour(&mut random);
            machine.add_unit(domain, Affinity::default(), behaviour);
        }
        machine.run(5 * SECOND);
        let turn = 30 * MS * units.div_ceil(u64::from(cpus));
        for unit in machine.units() {
            let wait = machine.times(unit).longest_wait as f64 / turn as f64;
            if wait > worst {
                println!(
                    "seed {seed}: {cpus} pCPUs, {units} units, {unit:?} waited {wait:.2} turns"
                );
                worst = wait;
            }
        }
    }
    worst
}

/// Returns the longest time in ns that units which compute 200 us every 10 ms waited after a wake-up, on pCPUs that hogs share.
pub fn wake_latency(machine: &mut Simulator, cpus: u16, hogs: u16) -> u64 {
    let busy = machine.add_domain(256, 0);
    machine.add_units(busy, hogs, Behaviour::Hog);
    // New units have no credit yet.
    machine.run(SECOND / 10);
    let quick = machine.add_domain(256, 0);
    let behaviour = Behaviour::Periodic {
        period: 10 * MS,
        run: 200 * US,
    };
    machine.add_units(quick, cpus.div_ceil(2), behaviour);
    machine.run(10 * SECOND);
    let quick = machine.units().filter(|id| machine.domain_of(*id) == quick);
    let longest = quick.map(|id| machine.times(id).longest_latency).max();
    longest.unwrap_or(0)
}

fn random_affinity(random: &mut Random, cpus: u16) -> Affinity {
    let mut set = || {
        let mut set = CpuSet::EMPTY;
        for _ in 0..random.between(1, 3) {
            set.insert(CpuId::new(random.below(u64::from(cpus)) as u16));
        }
        set
    };
    let (hard, soft) = (set(), set());
    match random.below(4) {
        0 => Affinity::default(),
        1 => Affinity {
            hard: CpuSet::ALL,
            soft,
        },
        2 => Affinity {
            hard,
            soft: CpuSet::ALL,
        },
        _ => Affinity { hard, soft },
    }
}

/// Random machines with random affinities: no pCPU idles for longer than a tick while a unit waits for as long that
/// may run there.
pub fn work_is_conserved(name: &str, seeds: u64) {
    for seed in 0..seeds {
        let _seed = Seed("work_is_conserved", seed);
        let mut random = Random::new(seed);
        let cpus = random.between(2, 16) as u16;
        let mut machine = Simulator::new(make(name), cpus, seed);
        machine.check_work_conservation(10 * MS);
        for _ in 0..random.between(1, 3 * u64::from(cpus)) {
            let units = random.between(1, 3);
            // A cap that the units cannot reach is none.
            let cap = [0, 100 * units as u16][random.below(2) as usize];
            let domain = machine.add_domain(random.between(64, 1024) as u16, cap);
            for _ in 0..units {
                let affinity = random_affinity(&mut random, cpus);
                let behaviour = random_behaviour(&mut random);
                machine.add_unit(domain, affinity, behaviour);
            }
        }
        machine.run(2 * SECOND);
    }
}

/// Random machines where affinities change, units are paused and pCPUs come and go: the machine checks the affinities and
/// that units run once. In the end all pCPUs are there and all units run.
pub fn affinity_holds_while_things_change(name: &str, seeds: u64, units: u64) {
    for seed in 0..seeds {
        let _seed = Seed("affinity_holds_while_things_change", seed);
        let mut random = Random::new(seed);
        let cpus = random.between(2, 10) as u16;
        let mut machine = Simulator::new(make(name), cpus, seed);
        let domain = machine.add_domain(256, 0);
        let count = random.between(1, units.min(u64::from(cpus) * 4));
        for _ in 0..count {
            let affinity = random_affinity(&mut random, cpus);
            machine.add_unit(domain, affinity, random_behaviour(&mut random));
        }
        let mut offline = CpuSet::EMPTY;
        for _ in 0..400 {
            machine.run(random.below(4 * MS));
            let unit = UnitId::new(random.below(count) as u16);
            let cpu = CpuId::new(random.below(u64::from(cpus)) as u16);
            match random.below(8) {
                0..4 => machine.set_affinity(unit, random_affinity(&mut random, cpus)),
                4 => machine.set_paused(unit, true),
                5 => machine.set_paused(unit, false),
                _ if offline.contains(cpu) => {
                    offline.remove(cpu);
                    machine.add_cpu(cpu);
                }
                // Now and then none is left.
                _ if offline.len() + 1 < u32::from(cpus) || random.below(10) == 0 => {
                    offline.insert(cpu);
                    machine.remove_cpu(cpu);
                }
                _ => {}
            }
        }
        offline.iter().for_each(|cpu| machine.add_cpu(cpu));
        for unit in machine.units() {
            machine.set_paused(unit, false);
            machine.set_affinity(unit, Affinity::default());
        }
        let before: Vec<u64> = machine.units().map(|id| machine.times(id).starts).collect();
        let ran: Vec<u64> = machine
            .units()
            .map(|id| machine.times(id).states[0])
            .collect();
        machine.check_work_conservation(10 * MS);
        machine.run(4 * SECOND);
        for (unit, (before, ran)) in machine.units().zip(before.iter().zip(ran)) {
            let times = machine.times(unit);
            assert!(
                times.starts > *before || times.states[0] > ran,
                "{unit:?} does not run any more: {times:?}"
            );
        }
    }
}

/// Runs `units` units that block and wake, and as many hogs as pCPUs, on `cpus` pCPUs for `time` ns. Returns the number of
/// decisions.
pub fn large_machine(name: &str, cpus: u16, units: u16, time: u64) -> u64 {
    let mut machine = Simulator::new(make(name), cpus, 5);
    for index in 0..units / 8 {
        let domain = machine.add_domain(128 << (index % 3), 0);
        let behaviour = Behaviour::Random {
            run: MS,
            block: 60 * MS,
        };
        machine.add_units(domain, 7, behaviour);
        machine.add_units(domain, 1, Behaviour::Hog);
    }
    machine.check_work_conservation(10 * MS);
    machine.run(time);
    for unit in machine.units() {
        assert!(machine.times(unit).states[0] > 0, "{unit:?} never ran");
    }
    machine.decisions()
}

/// Returns the longest wait, in ns, of a hog in a domain of weight 64 on one pCPU, among four hogs of weight 1024 and as many
/// units that wake often.
pub fn longest_wait_of_a_small_weight(name: &str) -> u64 {
    let mut machine = Simulator::new(make(name), 1, 6);
    let small = machine.add_domain(64, 0);
    let unit = machine.add_unit(small, Affinity::default(), Behaviour::Hog);
    for _ in 0..4 {
        let large = machine.add_domain(1024, 0);
        machine.add_units(large, 1, Behaviour::Hog);
        let behaviour = Behaviour::Random {
            run: MS,
            block: 3 * MS,
        };
        machine.add_units(large, 1, behaviour);
    }
    machine.run(30 * SECOND);
    machine.times(unit).longest_wait
}

/// Returns how much of 10 s a hog got, beside a unit of the same domain that computes 100 us and yields, on one pCPU.
pub fn time_beside_a_yielder(name: &str) -> f64 {
    let mut machine = Simulator::new(make(name), 1, 7);
    let domain = machine.add_domain(256, 0);
    let hog = machine.add_unit(domain, Affinity::default(), Behaviour::Hog);
    machine.add_units(domain, 1, Behaviour::Yielder { run: 100 * US });
    machine.run(10 * SECOND);
    machine.times(hog).states[0] as f64 / (10 * SECOND) as f64
}

/// A machine where nothing happens takes no decisions and sets no timers.
pub fn an_idle_machine_is_quiet(name: &str) {
    let mut machine = Simulator::new(make(name), 8, 8);
    let domain = machine.add_domain(256, 0);
    for _ in 0..20 {
        let behaviour = Behaviour::Random {
            run: 20 * MS,
            block: MS,
        };
        let unit = machine.add_unit(domain, Affinity::default(), behaviour);
        machine.run(SECOND / 10);
        machine.set_paused(unit, true);
    }
    machine.run(SECOND);
    let before = machine.decisions();
    machine.run(100 * SECOND);
    assert_eq!(machine.decisions(), before);
    for cpu in 0..8 {
        let timer = machine.policy().next_timer(CpuId::new(cpu));
        assert_eq!(timer, u64::MAX, "pCPU {cpu}");
    }
}
