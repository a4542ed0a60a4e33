//! What the vCPUs share, and the interrupt handler.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use guest_lib::{cpu, gic, timer};

use crate::events;

/// vCPUs at most.
pub const MAX: usize = 8;
/// SGI 0 to 7 says which vCPU sends; this one carries nothing.
pub const NOISE_SGI: u32 = 8;
/// The longest that anything may take, in seconds of the virtual counter: many vCPUs may share one busy CPU of the host.
pub const LIMIT_S: u64 = 20;

/// A lock and what it protects.
pub struct Lock {
    next: AtomicU32,
    serving: AtomicU32,
    flag: AtomicBool,
    a: AtomicU32,
    b: AtomicU32,
    taken: [AtomicU32; MAX],
}

impl Lock {
    const fn new() -> Self {
        Self {
            next: AtomicU32::new(0),
            serving: AtomicU32::new(0),
            flag: AtomicBool::new(false),
            a: AtomicU32::new(0),
            b: AtomicU32::new(0),
            taken: [const { AtomicU32::new(0) }; MAX],
        }
    }

    /// Takes the lock, changes the counters with plain loads and stores, `hold` turns apart, and lets go.
    pub fn round(&self, me: usize, is_fair: bool, hold: u32, idle: &mut dyn FnMut()) {
        let limit = deadline();
        if is_fair {
            let ticket = self.next.fetch_add(1, Relaxed);
            while self.serving.load(Acquire) != ticket {
                check(limit, me, "a ticket lock");
                idle();
            }
        } else {
            while self.flag.swap(true, Acquire) {
                check(limit, me, "a test-and-set lock");
                idle();
            }
        }
        let (a, b) = (self.a.load(Relaxed), self.b.load(Relaxed));
        if a != b {
            fail!("two holders of a lock: it counted {a} and {b}");
        }
        self.a.store(a + 1, Relaxed);
        for _ in 0..hold {
            core::hint::spin_loop();
        }
        self.b.store(b + 1, Relaxed);
        let taken = &self.taken[me];
        taken.store(taken.load(Relaxed) + 1, Relaxed);
        if is_fair {
            self.serving.fetch_add(1, Release);
        } else {
            self.flag.store(false, Release);
        }
    }

    /// The two counters, which are equal while nobody holds the lock.
    pub fn counters(&self) -> (u32, u32) {
        (self.a.load(SeqCst), self.b.load(SeqCst))
    }

    /// How often all vCPUs took it.
    pub fn taken(&self) -> u32 {
        self.taken.iter().map(|n| n.load(SeqCst)).sum()
    }
}

/// Numbers sent from each vCPU to each, and those that arrived.
pub struct Numbers {
    sent: [[AtomicU32; MAX]; MAX],
    seen: [[AtomicU32; MAX]; MAX],
}

impl Numbers {
    const fn new() -> Self {
        Self {
            sent: [const { [const { AtomicU32::new(0) }; MAX] }; MAX],
            seen: [const { [const { AtomicU32::new(0) }; MAX] }; MAX],
        }
    }

    /// A new number from `from` to `to`; to be sent now.
    pub fn next(&self, from: usize, to: usize) -> u32 {
        let number = self.sent[from][to].load(Relaxed) + 1;
        self.sent[from][to].store(number, SeqCst);
        number
    }

    /// Notes, in the handler of `to`, what `from` sent.
    pub fn arrive(&self, from: usize, to: usize) {
        self.seen[from][to].store(self.sent[from][to].load(SeqCst), SeqCst);
    }

    /// The last number that the handler of `to` saw from `from`.
    pub fn seen(&self, from: usize, to: usize) -> u32 {
        self.seen[from][to].load(SeqCst)
    }
}

/// What belongs to one vCPU.
pub struct PerVcpu {
    /// Others may send to it.
    pub is_active: AtomicBool,
    /// Sends to it that are under way.
    pub in_flight: AtomicU32,
    /// SGIs taken.
    pub sgis: AtomicU32,
    /// Events taken.
    pub events: AtomicU32,
    /// Timer interrupts taken.
    pub ticks: AtomicU32,
    /// The latest of them, in microseconds.
    pub late_us: AtomicU32,
    /// Ticks of the counter between two timer interrupts; 0: the timer is a watchdog.
    pub period: AtomicU64,
    /// When the timer fires next.
    pub next: AtomicU64,
    /// The watchdog fired.
    pub barked: AtomicBool,
    /// Waits in a poll for a kick.
    pub polling: AtomicBool,
    /// Polls that were ended by their event.
    pub polls: AtomicU32,
    /// Returns from CPU_SUSPEND.
    pub suspends: AtomicU32,
    /// Floating-point registers found unchanged.
    pub vfp: AtomicU32,
    /// Rounds of ping-pong.
    pub balls: AtomicU32,
    /// Times it came back from being off.
    pub lives: AtomicU32,
}

impl PerVcpu {
    const fn new() -> Self {
        Self {
            is_active: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            sgis: AtomicU32::new(0),
            events: AtomicU32::new(0),
            ticks: AtomicU32::new(0),
            late_us: AtomicU32::new(0),
            period: AtomicU64::new(0),
            next: AtomicU64::new(0),
            barked: AtomicBool::new(false),
            polling: AtomicBool::new(false),
            polls: AtomicU32::new(0),
            suspends: AtomicU32::new(0),
            vfp: AtomicU32::new(0),
            balls: AtomicU32::new(0),
            lives: AtomicU32::new(0),
        }
    }
}

/// Everything shared.
pub struct Shared {
    pub cpus: AtomicU32,
    pub seed: AtomicU32,
    pub timer_irq: AtomicU32,
    pub event_irq: AtomicU32,
    pub seconds: AtomicU32,
    pub balls: AtomicU32,
    pub cycles: AtomicU32,
    /// vCPUs that have come to the barrier, and its round.
    pub arrived: AtomicU32,
    pub round: AtomicU32,
    /// The hot-plug phase has begun.
    pub is_hotplugging: AtomicBool,
    /// Who is to go off (plus 1).
    pub victim: AtomicU32,
    /// The hot-plug phase is over.
    pub is_done: AtomicBool,
    /// vCPU 1 may start the victim (number of the cycle), and what it was told.
    pub race: AtomicU32,
    pub race_done: AtomicU32,
    pub answer: AtomicU32,
    pub locks: [Lock; 4],
    pub sgis: Numbers,
    pub events: Numbers,
    pub vcpus: [PerVcpu; MAX],
}

pub static SHARED: Shared = Shared {
    cpus: AtomicU32::new(0),
    seed: AtomicU32::new(0),
    timer_irq: AtomicU32::new(0),
    event_irq: AtomicU32::new(0),
    seconds: AtomicU32::new(0),
    balls: AtomicU32::new(0),
    cycles: AtomicU32::new(0),
    arrived: AtomicU32::new(0),
    round: AtomicU32::new(0),
    is_hotplugging: AtomicBool::new(false),
    victim: AtomicU32::new(0),
    is_done: AtomicBool::new(false),
    race: AtomicU32::new(0),
    race_done: AtomicU32::new(0),
    answer: AtomicU32::new(0),
    locks: [const { Lock::new() }; 4],
    sgis: Numbers::new(),
    events: Numbers::new(),
    vcpus: [const { PerVcpu::new() }; MAX],
};

impl Shared {
    /// The number of vCPUs.
    pub fn count(&self) -> usize {
        self.cpus.load(Relaxed) as usize
    }

    /// What belongs to each vCPU that there is.
    pub fn all(&self) -> impl Iterator<Item = &PerVcpu> {
        self.vcpus.iter().take(self.count())
    }
}

/// Says what is wrong, and ends everything.
macro_rules! fail {
    ($($a:tt)*) => {{
        guest_lib::cpu::disable_irq();
        guest_lib::println!("torture: FAIL: vCPU {}: {}", guest_lib::cpu::mpidr() & 0xff, format_args!($($a)*));
        guest_lib::power_off()
    }};
}
pub(crate) use fail;

/// When something that begins now must have ended.
pub fn deadline() -> u64 {
    cpu::cntvct() + LIMIT_S * u64::from(cpu::cntfrq())
}

/// Fails when the deadline has passed.
pub fn check(deadline: u64, me: usize, what: &str) {
    if cpu::cntvct() > deadline {
        fail!("vCPU {me} waited {LIMIT_S} s for {what}");
    }
}

/// Random numbers of a vCPU, the same in every run with a seed.
pub struct Random(u32);

impl Random {
    pub fn new(me: usize) -> Self {
        let seed = SHARED.seed.load(Relaxed).wrapping_mul(0x9e37_79b9);
        Self((seed ^ (me as u32 + 1).wrapping_mul(0x85eb_ca6b)) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (self.0 >> 4) % end
    }
}

/// Starts the periodic timer of this vCPU: something between 1 and 5 ms, of each another.
pub fn start_ticks(me: usize) {
    let vcpu = &SHARED.vcpus[me];
    let period = u64::from(cpu::cntfrq()) * (10 + 5 * me as u64) / 10_000;
    let next = cpu::cntvct() + period;
    vcpu.next.store(next, Relaxed);
    vcpu.period.store(period, Relaxed);
    timer::set_virtual_compare(next);
    timer::set_virtual_control(1);
}

/// Makes the timer a watchdog that fires when a wait that begins now has lasted `limits` times too long.
pub fn start_watchdog(me: usize, limits: u64) {
    SHARED.vcpus[me].period.store(0, Relaxed);
    timer::set_virtual_compare(cpu::cntvct() + limits * LIMIT_S * u64::from(cpu::cntfrq()));
    timer::set_virtual_control(1);
}

/// Stops the timer.
pub fn stop_timer() {
    timer::set_virtual_control(0);
}

/// Handles an interrupt of whichever vCPU this is.
pub fn on_irq(intid: u32, _time: u64) {
    let me = (cpu::mpidr() & 0xff) as usize;
    let vcpu = &SHARED.vcpus[me];
    if (intid as usize) < MAX {
        SHARED.sgis.arrive(intid as usize, me);
        count(&vcpu.sgis);
    } else if intid == NOISE_SGI {
        count(&vcpu.sgis);
    } else if intid == SHARED.event_irq.load(Relaxed) {
        events::take(me, |from| {
            SHARED.events.arrive(from, me);
            count(&vcpu.events);
        });
    } else if intid == SHARED.timer_irq.load(Relaxed) {
        tick(me, vcpu);
    }
}

fn count(counter: &AtomicU32) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

fn tick(me: usize, vcpu: &PerVcpu) {
    let period = vcpu.period.load(Relaxed);
    if period == 0 {
        timer::set_virtual_control(0);
        vcpu.barked.store(true, SeqCst);
        return;
    }
    let (now, was) = (cpu::cntvct(), vcpu.next.load(Relaxed));
    if now < was {
        fail!("a timer interrupt {} ticks early", was - now);
    }
    let late = ((now - was) * 1_000_000 / u64::from(cpu::cntfrq())) as u32;
    if late > vcpu.late_us.load(Relaxed) {
        vcpu.late_us.store(late, Relaxed);
    }
    let next = was + ((now - was) / period + 1) * period;
    vcpu.next.store(next, Relaxed);
    count(&vcpu.ticks);
    timer::set_virtual_compare(next);
    // Xen masks the timer when it delivers the interrupt, and leaves it to the guest to undo that.
    timer::set_virtual_control(1);
    // Whoever polls is kicked by its neighbour.
    let neighbour = (me + 1) % SHARED.count();
    if SHARED.vcpus[neighbour].polling.load(SeqCst) {
        events::kick(neighbour);
    }
}

/// Sends this vCPU's SGI to those of the mask.
pub fn send_sgi(id: u32, mask: u32) {
    cpu::dsb();
    gic::write(gic::GICD_SGIR, mask << 16 | id);
}
