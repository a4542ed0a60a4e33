//! Every order in which threads can take locks.
//!
//! [`explore`] runs a scene again and again, each time with its threads interleaved in another way, until all ways with
//! few enough preemptions were tried. Its threads are real ones, but only one runs at a time; it hands over only where it
//! takes or has returned a lock of the kinds that the scene watches, and where it must wait. What is decided there is
//! kept, and the last decision that has an alternative is decided otherwise in the next run: a search in depth, as loom
//! does it, without loom's types in the code that is tested.
//!
//! All that differs between two CPUs here is the order of sections under locks, and of what runs between them. Weak
//! memory is not modelled: what is read without a lock is read as if all were sequentially consistent.
//!
//! A thread that waits for ever (a deadlock), a panic in a thread, and a panic in the scene's check all fail the test with
//! the order of locks that led there.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// A spin lock that tells the explorer of what is done with it, in a thread of its own.
#[derive(Default)]
pub struct SpinLock<T>(spin::mutex::SpinMutex<T>);

/// The guard of a [`SpinLock`].
pub struct SpinLockGuard<'a, T> {
    /// `None` while it is dropped.
    inner: Option<spin::mutex::SpinMutexGuard<'a, T>>,
    /// The lock, by address, when a thread of the explorer's has it.
    lock: Option<usize>,
    at: &'static Location<'static>,
}

impl<T> SpinLock<T> {
    /// Makes an open lock.
    pub const fn new(value: T) -> Self {
        Self(spin::mutex::SpinMutex::new(value))
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Waits for the lock.
    #[track_caller]
    pub fn lock(&self) -> SpinLockGuard<'_, T> {
        let at = Location::caller();
        let Some(me) = Me::get() else {
            let inner = Some(self.0.lock());
            let lock = None;
            return SpinLockGuard { inner, lock, at };
        };
        me.take(self.address(), std::any::type_name::<T>(), at);
        let inner = self.0.try_lock();
        assert!(inner.is_some(), "{at}: held by no thread of the scene");
        let lock = Some(self.address());
        SpinLockGuard { inner, lock, at }
    }

    /// Takes the lock if it is free.
    #[track_caller]
    pub fn try_lock(&self) -> Option<SpinLockGuard<'_, T>> {
        let at = Location::caller();
        let mut lock = None;
        if let Some(me) = Me::get() {
            if !me.try_take(self.address(), std::any::type_name::<T>(), at) {
                return None;
            }
            lock = Some(self.address());
        }
        let inner = Some(self.0.try_lock()?);
        Some(SpinLockGuard { inner, lock, at })
    }

    /// Returns what is inside.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T> fmt::Debug for SpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpinLock")
    }
}

impl<T> Deref for SpinLockGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inner.as_deref().expect("until it is dropped")
    }
}

impl<T> DerefMut for SpinLockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_deref_mut().expect("until it is dropped")
    }
}

impl<T> Drop for SpinLockGuard<'_, T> {
    fn drop(&mut self) {
        self.inner = None;
        if let (Some(lock), Some(me)) = (self.lock, Me::get()) {
            me.give_back(lock, std::any::type_name::<T>(), self.at);
        }
    }
}

/// Returns whether the calling thread is one of a scene, and how many locks it holds.
pub(crate) fn locks_held() -> Option<usize> {
    let me = Me::get()?;
    let state = me.run.state();
    Some(state.held.iter().filter(|(_, by)| *by == me.thread).count())
}

/// What is explored, and how far.
#[derive(Clone, Copy)]
pub(crate) struct Bounds<'a> {
    /// Threads are interleaved where they take or return locks on types whose name contains one of these.
    pub(crate) watched: &'a [&'a str],
    /// How often a thread that could go on is stopped, in one run.
    pub(crate) preemptions: u32,
}

/// Runs the scene that `make` sets with these threads in every order within the bounds, `check` after each. Returns the
/// number of runs.
///
/// # Panics
/// With the order of locks, when a thread or the check panics, or no thread can go on.
pub(crate) fn explore<S: Sync>(
    bounds: Bounds<'_>,
    make: impl Fn() -> S,
    threads: &[&(dyn Fn(&S) + Sync)],
    check: impl Fn(&S),
) -> usize {
    let mut decisions = Vec::new();
    for runs in 1.. {
        let scene = make();
        let run = Arc::new(Run::new(threads.len(), bounds, decisions));
        std::thread::scope(|scope| {
            for (thread, body) in threads.iter().enumerate() {
                let (scene, run) = (&scene, Arc::clone(&run));
                scope.spawn(move || Me { run, thread }.run(|| body(scene)));
            }
            run.start();
        });
        let mut state = run.state();
        if state.failure.is_none() {
            let checked = catch_unwind(AssertUnwindSafe(|| check(&scene)));
            state.failure = checked.err().map(|panic| text_of(&*panic));
        }
        if let Some(failure) = &state.failure {
            panic!("run {runs}: {failure}\n{}", state.trace);
        }
        decisions = std::mem::take(&mut state.decisions);
        // The last decision that was not for the last alternative.
        while decisions.pop_if(|last| last.taken + 1 == last.of).is_some() {}
        match decisions.last_mut() {
            Some(last) => last.taken += 1,
            None => return runs,
        }
    }
    unreachable!("an endless count")
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic").to_string()
}

/// Which of the threads that could go on did.
#[derive(Clone, Copy)]
struct Decision {
    taken: usize,
    of: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Thread {
    Ready,
    /// Goes on when this lock is free.
    Wants(usize),
    Done,
}

struct State {
    threads: Vec<Thread>,
    /// Who runs; all are stopped before the start and after the end.
    running: Option<usize>,
    /// Locks and who has them.
    held: Vec<(usize, usize)>,
    decisions: Vec<Decision>,
    /// Decisions so far.
    decided: usize,
    preemptions_left: u32,
    failure: Option<String>,
    trace: String,
}

impl State {
    fn is_held(&self, lock: usize) -> bool {
        self.held.iter().any(|(held, _)| *held == lock)
    }

    fn can_run(&self, thread: usize) -> bool {
        match self.threads[thread] {
            Thread::Ready => true,
            Thread::Wants(lock) => !self.is_held(lock),
            Thread::Done => false,
        }
    }

    /// Decides who runs after `before`.
    fn decide(&mut self, before: Option<usize>) {
        let goes_on = before.filter(|&before| self.can_run(before));
        let others = (0..self.threads.len()).filter(|&n| Some(n) != before && self.can_run(n));
        let able: Vec<usize> = match goes_on {
            Some(before) if self.preemptions_left == 0 => vec![before],
            goes_on => goes_on.into_iter().chain(others).collect(),
        };
        if able.is_empty() {
            self.running = None;
            if self.threads.iter().any(|thread| *thread != Thread::Done) {
                self.failure.get_or_insert("a deadlock".to_string());
            }
            return;
        }
        let mut taken = 0;
        if able.len() > 1 {
            match self.decisions.get(self.decided) {
                Some(decision) => {
                    assert_eq!(decision.of, able.len(), "the scene is not deterministic");
                    taken = decision.taken;
                }
                None => {
                    let of = able.len();
                    self.decisions.push(Decision { taken, of });
                }
            }
            self.decided += 1;
        }
        self.running = Some(able[taken]);
        if goes_on.is_some() && taken != 0 {
            self.preemptions_left -= 1;
        }
    }
}

struct Run {
    state: Mutex<State>,
    changed: Condvar,
    watched: Vec<String>,
}

/// What a thread panics with when another failed.
struct GivenUp;

impl Run {
    fn new(threads: usize, bounds: Bounds<'_>, decisions: Vec<Decision>) -> Self {
        let state = State {
            threads: vec![Thread::Ready; threads],
            running: None,
            held: Vec::new(),
            decisions,
            decided: 0,
            preemptions_left: bounds.preemptions,
            failure: None,
            trace: String::new(),
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            watched: bounds.watched.iter().map(ToString::to_string).collect(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under it")
    }

    fn start(&self) {
        self.state().decide(None);
        self.changed.notify_all();
    }
}

/// The calling thread, in a scene.
#[derive(Clone)]
struct Me {
    run: Arc<Run>,
    thread: usize,
}

thread_local! {
    static ME: RefCell<Option<Me>> = const { RefCell::new(None) };
}

impl Me {
    fn get() -> Option<Self> {
        // At a thread's end there is no scene any more.
        ME.try_with(|me| me.borrow().clone()).ok().flatten()
    }

    fn run(self, body: impl FnOnce()) {
        ME.set(Some(self.clone()));
        let ended = catch_unwind(AssertUnwindSafe(|| {
            drop(self.wait(self.run.state()));
            body();
        }));
        ME.set(None);
        let mut state = self.run.state();
        if let Err(panic) = ended
            && !panic.is::<GivenUp>()
        {
            let failure = format!("thread {}: {}", self.thread, text_of(&*panic));
            state.failure.get_or_insert(failure);
        }
        state.threads[self.thread] = Thread::Done;
        state.decide(Some(self.thread));
        drop(state);
        self.run.changed.notify_all();
    }

    /// Waits until this thread is to run.
    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while state.running != Some(self.thread) {
            if state.failure.is_some() {
                drop(state);
                resume_unwind(Box::new(GivenUp));
            }
            let limit = Duration::from_secs(60);
            let (again, waited) = self.run.changed.wait_timeout(state, limit).unwrap();
            state = again;
            if waited.timed_out() {
                let failure = "a thread waits for what is no spin lock";
                state.failure.get_or_insert(failure.to_string());
            }
        }
        state
    }

    /// Lets another thread run, if that is to be tried now.
    fn hand_over<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.decide(Some(self.thread));
        if state.running != Some(self.thread) {
            self.run.changed.notify_all();
        }
        self.wait(state)
    }

    fn is_watched(&self, kind: &str) -> bool {
        self.run.watched.iter().any(|part| kind.contains(part))
    }

    fn note(&self, state: &mut State, what: &str, at: &Location<'_>) {
        let _ = writeln!(state.trace, "  thread {} {what} at {at}", self.thread);
    }

    fn take(&self, lock: usize, kind: &str, at: &Location<'_>) {
        let mut state = self.run.state();
        let is_watched = self.is_watched(kind);
        if is_watched || state.is_held(lock) {
            state.threads[self.thread] = Thread::Wants(lock);
            state = self.hand_over(state);
            state.threads[self.thread] = Thread::Ready;
        }
        if is_watched {
            self.note(&mut state, "locks", at);
        }
        state.held.push((lock, self.thread));
    }

    fn try_take(&self, lock: usize, kind: &str, at: &Location<'_>) -> bool {
        let mut state = self.run.state();
        if self.is_watched(kind) {
            state = self.hand_over(state);
            self.note(&mut state, "tries to lock", at);
        }
        let is_free = !state.is_held(lock);
        if is_free {
            state.held.push((lock, self.thread));
        }
        is_free
    }

    fn give_back(&self, lock: usize, kind: &str, at: &Location<'_>) {
        let mut state = self.run.state();
        state.held.retain(|(held, _)| *held != lock);
        // A thread that fails goes on to its end.
        if std::thread::panicking() || state.failure.is_some() || !self.is_watched(kind) {
            return;
        }
        self.note(&mut state, "returned what it locked", at);
        drop(self.hand_over(state));
    }
}

#[cfg(test)]
mod tests;
