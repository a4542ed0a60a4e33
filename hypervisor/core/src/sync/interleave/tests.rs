//! The explorer finds what is wrong, and tries all there is.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

const TWO: Bounds<'_> = Bounds {
    watched: &["u32"],
    preemptions: 2,
};

/// Runs what must fail and returns how it did.
fn failure(explore: impl FnOnce() -> usize) -> String {
    let failed = catch_unwind(AssertUnwindSafe(explore));
    text_of(&*failed.expect_err("the mistake was not found"))
}

#[test]
fn a_lost_update_is_found() {
    let racy = |lock: &SpinLock<u32>| {
        let before = *lock.lock();
        *lock.lock() = before + 1;
    };
    let right = |lock: &SpinLock<u32>| *lock.lock() += 1;
    let check = |lock: &SpinLock<u32>| assert_eq!(*lock.lock(), 2);
    let found = failure(|| explore(TWO, Default::default, &[&racy, &racy], check));
    assert!(found.contains("left: 1"), "{found}");
    assert!(found.contains("thread 1 locks at"), "{found}");
    assert!(explore(TWO, Default::default, &[&right, &right], check) > 1);
    let none = Bounds {
        preemptions: 0,
        ..TWO
    };
    assert_eq!(explore(none, Default::default, &[&racy, &racy], check), 2);
}

#[test]
fn a_deadlock_is_found_and_does_not_hang() {
    type Pair = [SpinLock<u32>; 2];
    let forth = |[a, b]: &Pair| {
        let _a = a.lock();
        *b.lock() += 1;
    };
    let back = |[a, b]: &Pair| {
        let _b = b.lock();
        *a.lock() += 1;
    };
    let twice = |[a, _]: &Pair| {
        let _a = a.lock();
        *a.lock() += 1;
    };
    let found = failure(|| explore(TWO, Default::default, &[&forth, &back], |_| {}));
    assert!(found.contains("a deadlock"), "{found}");
    let found = failure(|| explore(TWO, Default::default, &[&twice], |_| {}));
    assert!(found.contains("a deadlock"), "{found}");
    explore(TWO, Default::default, &[&forth, &forth], |_| {});
}

#[test]
fn every_order_is_tried_once() {
    let orders = Mutex::new(BTreeSet::new());
    let letter =
        |letter: &'static str| move |lock: &SpinLock<(u32, String)>| lock.lock().1.push_str(letter);
    explore(
        TWO,
        Default::default,
        &[&letter("a"), &letter("b"), &letter("c")],
        |lock| {
            orders.lock().unwrap().insert(lock.lock().1.clone());
        },
    );
    let orders = orders.into_inner().unwrap();
    let all = ["abc", "acb", "bac", "bca", "cab", "cba"];
    assert_eq!(orders, all.map(str::to_string).into());
}

#[test]
fn what_no_lock_protects_is_seen_between_locks() {
    type Scene = (SpinLock<u32>, AtomicU32);
    let two_steps = |(lock, plain): &Scene| {
        let before = plain.load(Ordering::SeqCst);
        drop(lock.lock());
        plain.store(before + 1, Ordering::SeqCst);
    };
    let found = failure(|| {
        explore(
            TWO,
            Default::default,
            &[&two_steps, &two_steps],
            |(_, plain)| assert_eq!(plain.load(Ordering::SeqCst), 2),
        )
    });
    assert!(found.contains("left: 1"), "{found}");
}
