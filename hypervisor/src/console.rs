//! The console: the UART, the ring that `xl dmesg` reads, the log, and what is typed.
//!
//! One static behind the lock of the highest rank: the panic handler and the `log` facade must reach it from anywhere.

use core::fmt::Write;
use core::sync::atomic::{AtomicBool, Ordering};

use alloc::boxed::Box;
use alloc::vec::Vec;

use log::{LevelFilter as LogFilter, Log, Metadata, Record};
use xenith_arch::guest_memory::this_cpu;
use xenith_core::addr::DomId;
use xenith_core::console::{
    Clocks, ConSwitch, ConsoleRing, GuestLine, InputTarget, LevelFilter, LineState, Named,
    RateLimiter, Received, SerialInput, Source, Threshold, Timestamps, Verdict, classify,
};
use xenith_core::domain::Domain;
use xenith_core::evtchn::Virq;
use xenith_core::sync::SpinLock;
use xenith_core::time::TickScale;
use xenith_platforms::uart::Uart;

use crate::machine::{Hv, Machine};

/// Kept until there is a heap and a UART.
const EARLY_RING: usize = 4096;

#[allow(
    clippy::large_enum_variant,
    reason = "one value, in a static: the early bytes must be there before the heap"
)]
enum Ring {
    Early(ConsoleRing<[u8; EARLY_RING]>),
    Full(ConsoleRing<Box<[u8]>>),
}

struct Console {
    uart: Option<Box<dyn Uart>>,
    ring: Ring,
    line: LineState,
    filter: LevelFilter,
    host_limiter: RateLimiter,
    guest_limiter: RateLimiter,
    input: SerialInput,
    last_byte: u8,
    scale: Option<TickScale>,
    boot_ticks: u64,
    /// Since when, in ticks, input waits in the UART for dom0 to read.
    stalled: Option<u64>,
}

/// Whether input waits for dom0: [`Console::stalled`] for those who do not take the lock.
static STALLED: AtomicBool = AtomicBool::new(false);
/// How long input waits for dom0. Then it is looked at for the switch to the debug keys, and the rest is lost.
const STALL_NS: u64 = 1_000_000_000;
/// How often it is looked at: a UART keeps few characters, and those that come meanwhile are lost.
pub const STALL_LOOK_NS: u64 = 2_000_000;

static CONSOLE: SpinLock<Console> = SpinLock::new(Console {
    uart: None,
    ring: Ring::Early(ConsoleRing::in_place()),
    line: LineState::new(Timestamps::None),
    filter: LevelFilter::new(),
    host_limiter: RateLimiter::new(),
    guest_limiter: RateLimiter::new(),
    input: SerialInput::new(ConSwitch::DEFAULT),
    last_byte: 0,
    scale: None,
    boot_ticks: 0,
    stalled: None,
});

struct Logger;

static LOGGER: Logger = Logger;

/// Something was printed that nobody was told of: see [`tell_news`].
static NEWS: AtomicBool = AtomicBool::new(false);

/// Has dom0 told soon that something was printed: who prints may hold any lock.
fn note_news() {
    // Before, nobody is there to be told.
    if crate::machine::installed().is_some() && !NEWS.swap(true, Ordering::Relaxed) {
        crate::smp::state(this_cpu()).ask_schedule();
    }
}

/// Tells dom0, or who else handles it, if something was printed (VIRQ_CON_RING): xenconsoled then reads it. No lock may be held but that of a vCPU's
/// context.
#[inline]
pub fn tell_news(hv: &Hv) {
    if NEWS.load(Ordering::Relaxed) {
        tell_dom0(hv);
    }
}

#[cold]
fn tell_dom0(hv: &Hv) {
    NEWS.store(false, Ordering::Relaxed);
    hv.raise_global(Virq::CON_RING);
}

/// The bytes' way to the UART: line feeds become carriage return and line feed, once.
fn to_uart(uart: &mut Option<Box<dyn Uart>>, last: &mut u8, bytes: &[u8]) {
    let Some(uart) = uart else { return };
    for &byte in bytes {
        if byte == b'\n' && *last != b'\r' {
            uart.put(b'\r');
        }
        uart.put(byte);
        *last = byte;
    }
}

/// Where the hypervisor's own lines go: UART and ring.
struct Sinks<'a> {
    uart: &'a mut Option<Box<dyn Uart>>,
    ring: &'a mut Ring,
    last: &'a mut u8,
}

impl Write for Sinks<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        to_uart(self.uart, self.last, text.as_bytes());
        match self.ring {
            Ring::Early(ring) => ring.append(text.as_bytes()),
            Ring::Full(ring) => ring.append(text.as_bytes()),
        }
        Ok(())
    }
}

impl Console {
    fn clocks(scale: Option<TickScale>, boot_ticks: u64) -> Clocks {
        let counter = xenith_arch::timer::now();
        let boot_ns = scale.map_or(0, |scale| scale.to_ns(counter.saturating_sub(boot_ticks)));
        Clocks {
            boot_ns,
            counter,
            wall: None,
        }
    }

    /// A domain's bytes, as they are, to UART and ring.
    fn raw(&mut self, bytes: &[u8]) {
        note_news();
        to_uart(&mut self.uart, &mut self.last_byte, bytes);
        for &byte in bytes.iter().filter(|&&byte| byte != b'\r') {
            match &mut self.ring {
                Ring::Early(ring) => ring.append(&[byte]),
                Ring::Full(ring) => ring.append(&[byte]),
            }
        }
    }

    fn line(&mut self, arguments: core::fmt::Arguments<'_>) {
        note_news();
        let (scale, boot) = (self.scale, self.boot_ticks);
        let mut sinks = Sinks {
            uart: &mut self.uart,
            ring: &mut self.ring,
            last: &mut self.last_byte,
        };
        let mut writer = self.line.writer(|| Self::clocks(scale, boot), &mut sinks);
        // The sinks do not fail.
        let _ = writer.write_fmt(arguments);
        let _ = writer.end_line();
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let (source, severity) = classify(record.target(), record.level());
        let mut console = CONSOLE.lock();
        match console.filter.judge(source, severity) {
            Verdict::Drop => return,
            Verdict::Print => {}
            Verdict::RateLimit => {
                let (scale, boot) = (console.scale, console.boot_ticks);
                let now = Console::clocks(scale, boot).boot_ns;
                let limiter = match source {
                    Source::Host => &mut console.host_limiter,
                    Source::Guest => &mut console.guest_limiter,
                };
                match limiter.allow(now) {
                    None => return,
                    Some(0) => {}
                    Some(dropped) => {
                        console.line(format_args!("printk: {dropped} messages suppressed."))
                    }
                }
            }
        }
        console.line(*record.args());
    }

    fn flush(&self) {}
}

/// Makes the `log` facade write here.
pub fn init() {
    // Fails only when called twice.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LogFilter::Debug);
}

/// Gives the console its UART and shows what was said before.
pub fn set_uart(mut uart: Box<dyn Uart>) {
    let mut console = CONSOLE.lock();
    let mut early = [0; EARLY_RING];
    let (length, _) = match &console.ring {
        Ring::Early(ring) => ring.read(None, &mut early),
        Ring::Full(ring) => ring.read(None, &mut early),
    };
    for &byte in &early[..length] {
        if byte == b'\n' {
            uart.put(b'\r');
        }
        uart.put(byte);
    }
    console.uart = Some(uart);
}

/// Returns whether there is a UART.
pub fn has_uart() -> bool {
    CONSOLE.lock().uart.is_some()
}

/// What the command line says about the console.
pub struct Settings<'a> {
    /// `loglvl=`.
    pub loglvl: Option<&'a str>,
    /// `guest_loglvl=`.
    pub guest_loglvl: Option<&'a str>,
    /// `console_timestamps=`.
    pub timestamps: Option<&'a str>,
    /// `conswitch=`.
    pub conswitch: Option<&'a str>,
    /// `conring_size=` in bytes.
    pub ring_size: Option<u64>,
}

/// Applies the command line; bad values are reported by name and the default stays.
pub fn configure(settings: &Settings<'_>, scale: TickScale, boot_ticks: u64) {
    let mut bad: [Option<(&str, &str)>; 4] = [None; 4];
    {
        let mut console = CONSOLE.lock();
        console.scale = Some(scale);
        console.boot_ticks = boot_ticks;
        if let Some(value) = settings.loglvl {
            match Threshold::parse(value) {
                Some(threshold) => console.filter.host = threshold,
                None => bad[0] = Some(("loglvl", value)),
            }
        }
        if let Some(value) = settings.guest_loglvl {
            match Threshold::parse(value) {
                Some(threshold) => console.filter.guest = threshold,
                None => bad[1] = Some(("guest_loglvl", value)),
            }
        }
        if let Some(value) = settings.timestamps {
            match Timestamps::parse(value) {
                Some(timestamps) => console.line.set_timestamps(timestamps),
                None => bad[2] = Some(("console_timestamps", value)),
            }
        }
        if let Some(value) = settings.conswitch {
            match ConSwitch::parse(value) {
                Some(switch) => console.input = SerialInput::new(switch),
                None => bad[3] = Some(("conswitch", value)),
            }
        }
    }
    for (option, value) in bad.into_iter().flatten() {
        log::warn!("parameter \"{option}\" has invalid value \"{value}\": the default holds");
    }
    let size = settings
        .ring_size
        .unwrap_or(xenith_core::console::DEFAULT_RING_BYTES as u64);
    match ConsoleRing::allocate(size) {
        Ok(mut ring) => {
            let kib = ring.capacity() / 1024;
            {
                let mut console = CONSOLE.lock();
                match &console.ring {
                    Ring::Early(old) => ring.take_over(old),
                    Ring::Full(old) => ring.take_over(old),
                }
                console.ring = Ring::Full(ring);
            }
            log::info!(target: xenith_core::console::PLAIN_TARGET, "Allocated console ring of {kib} KiB.");
        }
        Err(_) => log::warn!(
            "no memory for a console ring of {size} bytes (conring_size): the small one stays"
        ),
    }
}

/// Prints the thresholds as the end of boot does, and gives the input to dom0, if it is among the `domains` (by number)
/// that take any.
pub fn end_boot(domains: Vec<DomId>) {
    let (host, guest, target) = {
        let mut console = CONSOLE.lock();
        if let Some(uart) = &mut console.uart {
            uart.enable_receive_interrupt();
        }
        (
            console.filter.host,
            console.filter.guest,
            console.input.end_boot(domains),
        )
    };
    log::info!(target: xenith_core::console::PLAIN_TARGET, "Std. Loglevel: {host}");
    log::info!(target: xenith_core::console::PLAIN_TARGET, "Guest Loglevel: {guest}");
    say_target(target);
}

fn say_target(target: InputTarget) {
    log::info!(target: xenith_core::console::PLAIN_TARGET, "{target}");
}

/// Writes what dom0 prints, as it is.
pub fn guest_write(bytes: &[u8]) {
    let mut console = CONSOLE.lock();
    let console = &mut *console;
    to_uart(&mut console.uart, &mut console.last_byte, bytes);
}

/// Takes a character that a domain sent on its virtual UART, and the line that it has begun.
pub fn vuart_write(domain: DomId, line: &mut GuestLine, byte: u8) {
    let mut console = CONSOLE.lock();
    if console.input.target().domain == Some(domain) {
        // Somebody works there: as it is.
        line.take(&mut |text| console.raw(text.as_bytes()));
        console.raw(&[byte]);
    } else {
        line.push(byte, &mut |text| {
            console.line(format_args!("{}", Named(domain, text)));
        });
    }
}

/// A domain went away: what it has begun to say is printed, and its input is the hypervisor's.
pub fn forget_domain(domain: &Domain<Machine>) {
    let id = domain.facts.id;
    domain.take_vuart_line(&mut |text| print_line(format_args!("{}", Named(id, text))));
    let target = CONSOLE.lock().input.remove(id);
    if let Some(target) = target {
        say_target(target);
    }
}

/// Takes what was typed for dom0.
pub fn guest_read(buf: &mut [u8]) -> usize {
    let (count, is_stalled) = {
        let mut console = CONSOLE.lock();
        let count = console.input.queue.read(buf);
        if count > 0 && console.stalled.is_some() {
            // It reads: what waits has its time again.
            console.stalled = Some(xenith_arch::timer::now());
        }
        (count, console.stalled.is_some())
    };
    if is_stalled && let Some(hv) = crate::machine::installed() {
        receive(hv);
    }
    count
}

/// Returns whether [`look_at_stalled`] must be called in a while.
#[inline]
pub fn is_stalled() -> bool {
    STALLED.load(Ordering::Relaxed)
}

/// Looks at input that dom0 does not read, after a while: the debug keys must be within reach when it is stuck.
#[inline]
pub fn look_at_stalled(hv: &'static Hv) {
    if is_stalled() {
        let since = CONSOLE.lock().stalled;
        if since.is_some_and(|since| {
            hv.scale
                .to_ns(xenith_arch::timer::now().saturating_sub(since))
                > STALL_NS
        }) {
            receive_all(hv, WhenFull::Lose);
        }
    }
}

/// Characters that are taken at a time. No FIFO has so many, but QEMU fills one as fast as it is read.
const MAX_RECEIVED: u32 = 4096;

/// What to do with a character for dom0 while there is no room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WhenFull {
    /// It stays in the UART, which signals nothing until dom0 reads.
    Wait,
    /// It is lost.
    Lose,
}

/// Takes everything the UART received (called for its interrupt).
pub fn receive(hv: &'static Hv) {
    receive_all(hv, WhenFull::Wait);
}

fn receive_all(hv: &'static Hv, when_full: WhenFull) {
    // Before reading: a byte that comes after the last read must find the interrupt armed again.
    if let Some(uart) = &mut CONSOLE.lock().uart {
        uart.clear_interrupt();
    }
    // Until it is empty: a FIFO that was filled again while it was read signals nothing new. Bounded: a UART that is never
    // empty is broken.
    for _ in 0..MAX_RECEIVED {
        let received = {
            let mut console = CONSOLE.lock();
            let console = &mut *console;
            let Some(uart) = &mut console.uart else {
                return;
            };
            if when_full == WhenFull::Wait && !console.input.has_room() {
                console.stalled.get_or_insert_with(xenith_arch::timer::now);
                STALLED.store(true, Ordering::Relaxed);
                uart.mask_receive_interrupt(true);
                return;
            }
            let Some(byte) = uart.get() else {
                // Empty, or emptied for now: what comes from here on signals.
                if console.input.has_room() && console.stalled.take().is_some() {
                    STALLED.store(false, Ordering::Relaxed);
                    uart.mask_receive_interrupt(false);
                }
                return;
            };
            console.input.receive(byte)
        };
        match received {
            Received::Held => {}
            Received::Switched(target) => {
                say_target(target);
                // Its prompt, perhaps.
                if let Some(domain) = target.domain.and_then(|id| hv.domains.get(id)) {
                    domain.take_vuart_line(&mut |text| CONSOLE.lock().raw(text.as_bytes()));
                }
            }
            Received::Keys(bytes) => {
                for &key in bytes.as_slice() {
                    crate::keys::handle(hv, key);
                }
            }
            Received::QueuedForDom0 => hv.raise_global(Virq::CONSOLE),
            Received::Domain(id, bytes) => {
                if let Some(domain) = hv.domains.get(id) {
                    domain.type_to_vuart(bytes.as_slice());
                }
            }
        }
    }
}

/// Prints a line whatever the log level is and whoever holds the lock: for panics.
pub fn emergency(text: &str) {
    emergency_line(format_args!("{text}"));
}

/// Looks at the console's lock before it is taken by force: some tenths of a second, in which whoever prints a line on
/// another CPU is done with it, also at 9600 baud. No timer is asked: it may be what is broken.
const EMERGENCY_LOOKS: u32 = 10_000_000;

/// As [`emergency`], formatted.
pub fn emergency_line(arguments: core::fmt::Arguments<'_>) {
    for _ in 0..EMERGENCY_LOOKS {
        if let Some(mut console) = CONSOLE.try_lock() {
            console.line(arguments);
            return;
        }
        core::hint::spin_loop();
    }
    // SAFETY: The machine is going down, and whoever holds the lock will not give it back: this CPU, which failed while it
    // printed, or another one that is stuck.
    unsafe { CONSOLE.force_unlock() };
    CONSOLE.lock().line(arguments);
}

/// Copies what was printed: see [`ConsoleRing::read`].
pub fn read_log(since: Option<u32>, out: &mut [u8]) -> (usize, u32) {
    match &CONSOLE.lock().ring {
        Ring::Early(ring) => ring.read(since, out),
        Ring::Full(ring) => ring.read(since, out),
    }
}

/// Forgets what was printed before byte `to`.
pub fn forget_log(to: u32) {
    match &mut CONSOLE.lock().ring {
        Ring::Early(ring) => ring.clear_to(to),
        Ring::Full(ring) => ring.clear_to(to),
    }
}

/// Prints a line whatever the log level is.
pub fn print_line(arguments: core::fmt::Arguments<'_>) {
    CONSOLE.lock().line(arguments);
}

/// Prints everything while `f` runs: debug keys are not filtered.
pub fn with_everything(f: impl FnOnce()) {
    CONSOLE.lock().filter.start_everything();
    f();
    CONSOLE.lock().filter.end_everything();
}

/// Prints one of the hypervisor's plain lines. Out of line, for the many places that say something once.
#[inline(never)]
pub fn say(arguments: core::fmt::Arguments<'_>) {
    log::info!(target: xenith_core::console::PLAIN_TARGET, "{arguments}");
}

/// Prints one of the hypervisor's plain lines.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::console::say(format_args!($($argument)*))
    };
}
