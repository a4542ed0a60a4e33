//! Who gets what is typed: the debug keys or a domain, switched by CTRL and a letter three times (`conswitch=`).

use core::fmt;

use alloc::vec::Vec;

use crate::addr::DomId;

/// Characters kept for dom0 until it reads them, as in Xen.
const QUEUE_BYTES: usize = 128;
/// How often the switch character must come.
const SWITCH_COUNT: u8 = 3;

/// `conswitch=`: the letter, and whether input stays with the hypervisor when dom0 has booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConSwitch {
    /// `a` to `z`, or `None`: no switching.
    letter: Option<u8>,
    keeps_xen: bool,
}

impl ConSwitch {
    /// CTRL-a, and dom0 gets the input when it boots.
    pub const DEFAULT: Self = Self {
        letter: Some(b'a'),
        keeps_xen: false,
    };

    /// Parses the option's value: a letter (`` ` `` for none) and optionally `x`. `None` when it is neither.
    pub fn parse(value: &str) -> Option<Self> {
        let mut bytes = value.bytes();
        let letter = match bytes.next()?.to_ascii_lowercase() {
            // One below `a`: Xen's control code is then 0, which means off.
            b'`' => None,
            letter @ b'a'..=b'z' => Some(letter),
            _ => return None,
        };
        Some(Self {
            letter,
            keeps_xen: bytes.next() == Some(b'x'),
        })
    }

    /// Returns the control character.
    fn code(self) -> Option<u8> {
        self.letter.map(|letter| letter & 0x1f)
    }
}

/// Who gets the input. Displayed as Xen says it when input is switched, without the line's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputTarget {
    /// The domain, or the hypervisor's debug keys.
    pub domain: Option<DomId>,
    letter: Option<u8>,
}

impl fmt::Display for InputTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("*** Serial input to ")?;
        match self.domain {
            None => f.write_str("Xen")?,
            Some(domain) => write!(f, "DOM{}", domain.raw())?,
        }
        match self.letter {
            None => Ok(()),
            Some(letter) => write!(
                f,
                " (type 'CTRL-{}' three times to switch input)",
                char::from(letter)
            ),
        }
    }
}

/// One to three characters that arrive together: switch characters that were held back, and the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    bytes: [u8; SWITCH_COUNT as usize],
    count: u8,
}

impl Bytes {
    /// Returns the characters.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.count))
            .unwrap_or(&self.bytes)
    }
}

/// What became of a character.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Held back: it may be part of a switch sequence.
    Held,
    /// Input goes to somebody else now: print the target as a line.
    Switched(InputTarget),
    /// For the hypervisor: debug keys.
    Keys(Bytes),
    /// Queued for dom0 (or dropped, when it does not read): raise `VIRQ_CONSOLE`, in any case, so that dom0 reads.
    QueuedForDom0,
    /// For another domain's virtual UART.
    Domain(DomId, Bytes),
}

/// Characters that wait for `CONSOLEIO_read`.
#[derive(Clone, Debug)]
pub struct InputQueue {
    bytes: [u8; QUEUE_BYTES],
    /// Where the first one is.
    first: usize,
    count: usize,
}

impl InputQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self {
            bytes: [0; QUEUE_BYTES],
            first: 0,
            count: 0,
        }
    }

    /// Appends a character; returns false and drops it when the queue is full.
    pub fn push(&mut self, byte: u8) -> bool {
        if self.count >= QUEUE_BYTES {
            return false;
        }
        if let Some(slot) = self.bytes.get_mut((self.first + self.count) % QUEUE_BYTES) {
            *slot = byte;
            self.count += 1;
        }
        true
    }

    /// Returns whether the next call of [`SerialInput::receive`] will find room.
    pub fn has_room(&self) -> bool {
        self.count + usize::from(SWITCH_COUNT) <= QUEUE_BYTES
    }

    /// Takes the oldest characters into `out` and returns how many.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let count = self.count.min(out.len());
        for to in out.iter_mut().take(count) {
            *to = self.bytes.get(self.first).copied().unwrap_or(0);
            self.first = (self.first + 1) % QUEUE_BYTES;
        }
        self.count -= count;
        count
    }
}

impl Default for InputQueue {
    fn default() -> Self {
        Self::new()
    }
}

/// The input side of the console.
#[derive(Clone, Debug)]
pub struct SerialInput {
    switch: ConSwitch,
    target: Option<DomId>,
    /// The domains that take input, by number: it goes round Xen, dom0, dom0less domains.
    domains: Vec<DomId>,
    /// Switch characters held back.
    held: u8,
    /// What dom0 has not read yet.
    pub queue: InputQueue,
}

impl SerialInput {
    /// Input goes to the hypervisor until [`Self::end_boot`].
    pub const fn new(switch: ConSwitch) -> Self {
        Self {
            switch,
            target: None,
            domains: Vec::new(),
            held: 0,
            queue: InputQueue::new(),
        }
    }

    /// Ends boot: `domains`, by number, take input from now on. Gives it to dom0; without dom0, or with `conswitch=ax`, it
    /// stays with the hypervisor. Returns the target, to be printed as a line.
    pub fn end_boot(&mut self, domains: Vec<DomId>) -> InputTarget {
        let has_dom0 = domains.first() == Some(&DomId::DOM0);
        self.target = (has_dom0 && !self.switch.keeps_xen).then_some(DomId::DOM0);
        self.domains = domains;
        self.target()
    }

    /// A domain does not take input any more. If it had the input, the hypervisor has it then: returns that, to be
    /// printed as a line.
    pub fn remove(&mut self, domain: DomId) -> Option<InputTarget> {
        self.domains.retain(|&other| other != domain);
        if self.target != Some(domain) {
            return None;
        }
        self.target = None;
        Some(self.target())
    }

    /// Returns who gets the input now.
    pub fn target(&self) -> InputTarget {
        InputTarget {
            domain: self.target,
            letter: self.switch.letter,
        }
    }

    fn switch_target(&mut self) -> InputTarget {
        let behind = self
            .domains
            .partition_point(|&domain| Some(domain) <= self.target);
        self.target = self.domains.get(behind).copied();
        self.target()
    }

    /// Returns whether a character can be taken without losing it: else it had better stay in the UART until dom0 reads.
    pub fn has_room(&self) -> bool {
        self.target != Some(DomId::DOM0) || self.queue.has_room()
    }

    /// Takes a character from the UART.
    pub fn receive(&mut self, byte: u8) -> Received {
        let code = self.switch.code();
        if code == Some(byte) {
            self.held += 1;
            if self.held < SWITCH_COUNT {
                return Received::Held;
            }
            self.held = 0;
            return Received::Switched(self.switch_target());
        }
        // Fewer than three: they were meant for the receiver.
        let held = core::mem::take(&mut self.held);
        let mut bytes = Bytes {
            bytes: [code.unwrap_or(0); SWITCH_COUNT as usize],
            count: held + 1,
        };
        if let Some(last) = bytes.bytes.get_mut(usize::from(held)) {
            *last = byte;
        }
        match self.target {
            None => Received::Keys(bytes),
            Some(DomId::DOM0) => {
                for &byte in bytes.as_slice() {
                    self.queue.push(byte);
                }
                Received::QueuedForDom0
            }
            Some(domain) => Received::Domain(domain, bytes),
        }
    }
}
