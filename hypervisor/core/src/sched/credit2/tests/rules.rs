//! Single decisions, credits, costs and errors.

use std::vec::Vec;

use super::super::*;
use super::machine::*;
use crate::sched::policy;

#[test]
fn the_policy_is_found_by_name() {
    let found = policy("credit2").unwrap();
    assert_eq!((found.id(), found.name()), (6, "credit2"));
}

#[test]
fn a_yield_lets_another_go_first_once() {
    let mut policy = Credit2::default();
    policy.add_cpu(cpu(0), 0, &mut CpuSet::default()).unwrap();
    policy.add_domain(DomId::DOM0).unwrap();
    let mut kick = CpuSet::EMPTY;
    for i in 0..2 {
        policy
            .add_unit(unit(i), DomId::DOM0, Affinity::default(), 0)
            .unwrap();
        policy.wake(unit(i), 0, &mut kick);
    }
    let first = policy.schedule(cpu(0), 0, &mut kick).unit.unwrap();
    // Within the rate limit nothing changes, except by a yield.
    assert_eq!(policy.schedule(cpu(0), 1000, &mut kick).unit, Some(first));
    policy.yield_unit(first);
    let second = policy.schedule(cpu(0), 2000, &mut kick).unit.unwrap();
    assert_ne!(first, second);
    assert_eq!(policy.schedule(cpu(0), 3000, &mut kick).unit, Some(second));
    // Alone, a unit that yields goes on.
    policy.sleep(first, 4000, &mut kick);
    policy.yield_unit(second);
    assert_eq!(policy.schedule(cpu(0), 5000, &mut kick).unit, Some(second));
}

#[test]
fn idle_pcpus_are_found_by_preference() {
    let mut policy = Credit2::default();
    policy.add_domain(DomId::DOM0).unwrap();
    let mut kick = CpuSet::EMPTY;
    for c in 0..4 {
        policy.add_cpu(cpu(c), 0, &mut CpuSet::default()).unwrap();
        assert_eq!(policy.schedule(cpu(c), 0, &mut kick).unit, None);
    }
    let affinities = [
        pinned(&[3]),
        preferring(&[2]),
        preferring(&[2]),
        Affinity::default(),
    ];
    let mut woken = Vec::new();
    for (i, affinity) in affinities.into_iter().enumerate() {
        let id = unit(i as u16);
        policy.add_unit(id, DomId::DOM0, affinity, 0).unwrap();
        kick = CpuSet::EMPTY;
        policy.wake(id, 0, &mut kick);
        assert_eq!(kick.len(), 1);
        woken.push(kick.first().unwrap().index());
    }
    assert_eq!(woken, [3, 2, 0, 1]);
}

#[test]
fn an_affinity_outside_of_the_pool_says_nothing_until_its_pcpu_joins() {
    let mut policy = Credit2::default();
    let mut kick = CpuSet::EMPTY;
    policy.add_domain(DomId::DOM0).unwrap();
    policy
        .add_unit(unit(0), DomId::DOM0, pinned(&[9]), 0)
        .unwrap();
    policy.add_cpu(cpu(0), 0, &mut CpuSet::default()).unwrap();
    policy.wake(unit(0), 0, &mut kick);
    assert_eq!(policy.schedule(cpu(0), 0, &mut kick).unit, Some(unit(0)));
    policy
        .add_cpu(cpu(9), 5 * MS, &mut CpuSet::default())
        .unwrap();
    assert_eq!(policy.schedule(cpu(0), 5 * MS, &mut kick).unit, None);
    assert_eq!(
        policy.schedule(cpu(9), 5 * MS, &mut kick).unit,
        Some(unit(0))
    );
    policy.remove_cpu(cpu(9), 6 * MS, &mut kick);
    assert!(kick.contains(cpu(0)));
    assert_eq!(
        policy.schedule(cpu(0), 6 * MS, &mut kick).unit,
        Some(unit(0))
    );
}

#[test]
fn a_unit_wakes_where_it_ran() {
    let mut policy = Credit2::default();
    let mut kick = CpuSet::EMPTY;
    policy.add_domain(DomId::DOM0).unwrap();
    policy
        .add_unit(unit(0), DomId::DOM0, pinned(&[18]), 0)
        .unwrap();
    for c in 0..20 {
        policy.add_cpu(cpu(c), 0, &mut CpuSet::default()).unwrap();
        policy.schedule(cpu(c), 0, &mut kick);
    }
    policy.wake(unit(0), 0, &mut kick);
    assert_eq!(policy.schedule(cpu(18), 0, &mut kick).unit, Some(unit(0)));
    policy.set_affinity(unit(0), Affinity::default(), MS, &mut kick);
    policy.sleep(unit(0), MS, &mut kick);
    policy.schedule(cpu(18), MS, &mut kick);
    kick = CpuSet::EMPTY;
    policy.wake(unit(0), 2 * MS, &mut kick);
    assert_eq!(kick, CpuSet::single(cpu(18)));
}

#[test]
fn the_least_deserving_is_preempted_with_regard_to_places() {
    // The credits of those that run on pCPUs 0 and 1, what the third likes, and whom it interrupts; it ran on 1 before.
    for (credits, soft, expected) in [
        ([5 * MS, 8 * MS], &[0, 1][..], Some(0)),
        ([5 * MS, 5 * MS + 400_000], &[0, 1], Some(1)),
        ([5 * MS, 5 * MS + 600_000], &[0, 1], Some(0)),
        ([5 * MS, 8 * MS], &[1], Some(1)),
        ([8 * MS, 5 * MS], &[0], Some(0)),
        ([9 * MS + 600_000, 11 * MS], &[0, 1], None),
        ([11 * MS, 9 * MS + 600_000], &[0, 1], Some(1)),
    ] {
        let mut policy = Credit2::default();
        let mut kick = CpuSet::EMPTY;
        policy.add_domain(DomId::DOM0).unwrap();
        for c in 0..2 {
            policy.add_cpu(cpu(c), 0, &mut CpuSet::default()).unwrap();
            let id = unit(c);
            policy
                .add_unit(id, DomId::DOM0, Affinity::default(), 0)
                .unwrap();
            policy.wake(id, 0, &mut kick);
            assert_eq!(policy.schedule(cpu(c), 0, &mut kick).unit, Some(id));
        }
        for c in 0..2 {
            policy.set_credit(unit(c), 0, credits[usize::from(c)] as i64);
        }
        policy
            .add_unit(unit(2), DomId::DOM0, preferring(soft), 0)
            .unwrap();
        policy.set_credit(unit(2), 0, CREDIT_INIT);
        policy.unit_mut(unit(2)).unwrap().cpu = cpu(1);
        kick = CpuSet::EMPTY;
        policy.wake(unit(2), 0, &mut kick);
        assert_eq!(kick.first(), expected.map(cpu), "{credits:?} {soft:?}");
    }
}

#[test]
fn the_rate_limit_ends_when_it_says() {
    let mut policy = Credit2::default();
    let mut kick = CpuSet::EMPTY;
    policy.add_cpu(cpu(0), 0, &mut CpuSet::default()).unwrap();
    policy.add_domain(DomId::DOM0).unwrap();
    for i in 0..2 {
        policy
            .add_unit(unit(i), DomId::DOM0, Affinity::default(), 0)
            .unwrap();
    }
    policy.wake(unit(0), 0, &mut kick);
    let alone = policy.schedule(cpu(0), 0, &mut kick);
    assert_eq!((alone.unit, alone.until), (Some(unit(0)), MAX_TIMER));
    kick = CpuSet::EMPTY;
    policy.wake(unit(1), 800_000, &mut kick);
    assert!(kick.contains(cpu(0)));
    let decision = policy.schedule(cpu(0), 800_000, &mut kick);
    assert_eq!((decision.unit, decision.until), (Some(unit(0)), MS));
    let decision = policy.schedule(cpu(0), MS, &mut kick);
    assert_eq!(decision.unit, Some(unit(1)));
}

#[test]
fn credit_given_while_asleep_is_what_it_would_have_been_awake() {
    let mut policy = Credit2::default();
    policy.add_cpu(cpu(0), 0, &mut CpuSet::default()).unwrap();
    policy.add_domain(DomId::DOM0).unwrap();
    for i in 0..2 {
        policy
            .add_unit(unit(i), DomId::DOM0, Affinity::default(), 0)
            .unwrap();
    }
    let set = |policy: &mut Credit2, credit| policy.set_credit(unit(0), 0, credit);
    let credit = |policy: &Credit2| policy.credit(policy.unit(unit(0)).unwrap());
    // Added and limited at each reset, which is the same as once.
    for start in [
        CREDIT_INIT,
        0,
        -1,
        -CREDIT_INIT,
        -35_000_000,
        -1_000_000_000_000,
    ] {
        set(&mut policy, start);
        let mut plain = start;
        for next in [0, -5, -CREDIT_INIT, -70_000_000, -1, 0, 0] {
            policy.reset(0, next, 0);
            let times = 1 + (-next) / CREDIT_INIT;
            plain = (plain + times * CREDIT_INIT).min(CREDIT_MAX);
            assert_eq!(credit(&policy), plain, "from {start}");
        }
    }
    // The count wraps without anybody noticing, however long one sleeps.
    for sleep in [1u64 << 19, 1 << 20, 1 << 40] {
        set(&mut policy, -CREDIT_INIT);
        let queue = &mut policy.queues[0];
        queue.given = queue.given.wrapping_add(i64::MAX / 2 + 12345);
        queue.resets += sleep;
        assert_eq!(credit(&policy), CREDIT_MAX);
    }
}

#[test]
fn nothing_is_lost_in_payments() {
    let mut policy = Credit2::default();
    let mut kick = CpuSet::EMPTY;
    policy.add_cpu(cpu(0), 0, &mut CpuSet::default()).unwrap();
    for (i, weight) in [(0, 256), (1, 255)] {
        policy.add_domain(DomId::new(i)).unwrap();
        let share = DomainShare { weight, cap: 0 };
        policy.set_share(DomId::new(i), share).unwrap();
        policy
            .add_unit(unit(i), DomId::new(i), Affinity::default(), 0)
            .unwrap();
    }
    policy.wake(unit(1), 0, &mut kick);
    let mut credit = |policy: &mut Credit2, now| {
        policy.schedule(cpu(0), now, &mut kick);
        policy.credit(policy.unit(unit(1)).unwrap())
    };
    let start = credit(&mut policy, 0);
    // One ns at a time: each costs one and a bit.
    let end = (1..=2550)
        .map(|now| credit(&mut policy, now))
        .last()
        .unwrap();
    assert_eq!(start - end, 2560);
    // A reset takes nothing that was not paid for yet.
    policy.set_credit(unit(1), 0, CREDIT_MAX);
    policy.reset(0, 0, 2550 + 255_000);
    assert_eq!(credit(&mut policy, 2550 + 255_000), CREDIT_MAX);
}

#[test]
fn cost_is_flat_in_sleepers_and_logarithmic_in_waiters() {
    let visits = |waiting: u16, asleep: u16| -> f64 {
        let mut policy = Credit2::default();
        let mut kick = CpuSet::EMPTY;
        for c in 0..4 {
            policy.add_cpu(cpu(c), 0, &mut CpuSet::default()).unwrap();
        }
        policy.add_domain(DomId::DOM0).unwrap();
        for i in 0..waiting + asleep {
            // All but a few are pinned elsewhere than the pCPU that is asked.
            let affinity = if i % 100 == 0 {
                pinned(&[0])
            } else {
                pinned(&[1, 2, 3])
            };
            policy.add_unit(unit(i), DomId::DOM0, affinity, 0).unwrap();
        }
        for i in 0..waiting {
            policy.wake(unit(i), 0, &mut kick);
        }
        let (mut now, mut decisions) = (0, 0);
        policy.waiting.visits.set(0);
        for _ in 0..500 {
            now += 2 * MS;
            for c in 0..4 {
                policy.schedule(cpu(c), now, &mut kick);
                decisions += 1;
            }
        }
        policy.waiting.visits.get() as f64 / f64::from(decisions)
    };
    let (few, many, huge) = (visits(30, 0), visits(300, 0), visits(3000, 0));
    std::println!("nodes per decision: 30: {few:.1}, 300: {many:.1}, 3000: {huge:.1}");
    assert!(many < 2.5 * few && huge < 4.0 * few, "{few} {many} {huge}");
    let slept = visits(300, 3000);
    assert!((slept - many).abs() < 0.01, "{many} {slept}");
}

#[test]
fn errors_are_those_of_the_contract() {
    let mut policy = Credit2::default();
    let dom1 = DomId::new(1);
    assert_eq!(
        policy.add_cpu(cpu(128), 0, &mut CpuSet::default()),
        Err(Errno::Inval)
    );
    assert_eq!(policy.add_cpu(cpu(0), 0, &mut CpuSet::default()), Ok(()));
    assert_eq!(
        policy.add_cpu(cpu(0), 0, &mut CpuSet::default()),
        Err(Errno::Exist)
    );
    assert_eq!(
        policy.add_unit(unit(0), dom1, Affinity::default(), 0),
        Err(Errno::NoEnt)
    );
    assert_eq!(policy.add_domain(dom1), Ok(()));
    assert_eq!(policy.add_domain(dom1), Err(Errno::Exist));
    assert_eq!(
        policy.add_unit(unit(0), dom1, Affinity::default(), 0),
        Ok(())
    );
    assert_eq!(
        policy.add_unit(unit(0), dom1, Affinity::default(), 0),
        Err(Errno::Exist)
    );
    assert_eq!(
        policy.add_unit(unit(65535), dom1, Affinity::default(), 0),
        Err(Errno::Inval)
    );
    let share = |weight, cap| DomainShare { weight, cap };
    assert_eq!(policy.share(dom1), Some(share(256, 0)));
    assert_eq!(policy.set_share(dom1, share(0, 0)), Err(Errno::Inval));
    assert_eq!(
        policy.set_share(DomId::DOM0, share(1, 0)),
        Err(Errno::NoEnt)
    );
    assert_eq!(policy.set_share(dom1, share(65535, 400)), Ok(()));
    assert_eq!(policy.share(dom1), Some(share(65535, 400)));
    policy.remove_unit(unit(0), 0, &mut CpuSet::default());
    policy.remove_domain(dom1);
    assert_eq!((policy.share(dom1), policy.max_weight), (None, 256));
    // What nobody knows does nothing.
    let mut kick = CpuSet::EMPTY;
    policy.wake(unit(7), 0, &mut kick);
    policy.sleep(unit(7), 0, &mut kick);
    policy.yield_unit(unit(7));
    policy.set_affinity(unit(7), Affinity::default(), 0, &mut kick);
    policy.remove_unit(unit(7), 0, &mut CpuSet::default());
    policy.remove_domain(dom1);
    policy.remove_cpu(cpu(9), 0, &mut kick);
    assert_eq!(policy.schedule(cpu(9), 0, &mut kick).unit, None);
    assert!(kick.is_empty());
}
