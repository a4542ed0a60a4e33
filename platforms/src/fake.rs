//! A board of plain memory, for tests: remembers in order what was read, written, waited and asked of firmware.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::board::{BoardIo, Lookup, Registers};
use crate::{Platform, RegisterIo, detect};

/// Something the code under test did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Wrote a register of a device.
    Write(&'static str, usize, u32),
    /// Waited, in microseconds.
    Delay(u32),
    /// Called firmware: function, argument.
    Smc(u32, u32),
}

/// A register: its device and its offset.
type Place = (&'static str, usize);

#[derive(Default)]
struct State {
    registers: BTreeMap<Place, u32>,
    events: Vec<Event>,
    /// Registers that change when others are written: written, changed, new value.
    reactions: Vec<(Place, Place, u32)>,
}

/// The board.
#[derive(Clone, Default)]
pub struct FakeBoard {
    state: Arc<Mutex<State>>,
    devices: Vec<&'static str>,
    pub boot_mpidr: u64,
}

// What lives for ever is kept where Miri sees it.
static DEVICES: Mutex<Vec<Registers>> = Mutex::new(Vec::new());
static PLATFORMS: Mutex<Vec<&'static dyn Platform>> = Mutex::new(Vec::new());

struct Device(Arc<Mutex<State>>, &'static str);

impl RegisterIo for Device {
    fn read32(&self, offset: usize) -> u32 {
        let state = self.0.lock().unwrap();
        state.registers.get(&(self.1, offset)).copied().unwrap_or(0)
    }
    fn write32(&self, offset: usize, value: u32) {
        let mut state = self.0.lock().unwrap();
        state.events.push(Event::Write(self.1, offset, value));
        state.registers.insert((self.1, offset), value);
        let key = (self.1, offset);
        for (written, changed, new) in state.reactions.clone() {
            if written == key {
                state.registers.insert(changed, new);
            }
        }
    }
    fn read8(&self, _: usize) -> u8 {
        panic!("no byte registers here")
    }
    fn write8(&self, _: usize, _: u8) {
        panic!("no byte registers here")
    }
}

impl Lookup for FakeBoard {
    fn registers(&mut self, compatible: &str) -> Option<Registers> {
        let name = self.devices.iter().find(|name| **name == compatible)?;
        let device: Registers = Box::leak(Box::new(Device(self.state.clone(), name)));
        DEVICES.lock().unwrap().push(device);
        Some(device)
    }
    fn has(&self, compatible: &str) -> bool {
        self.devices.contains(&compatible)
    }
}

impl BoardIo for FakeBoard {
    fn delay_us(&self, us: u32) {
        self.state.lock().unwrap().events.push(Event::Delay(us));
    }
    fn smc(&self, function: u32, argument: u32) -> u32 {
        let event = Event::Smc(function, argument);
        self.state.lock().unwrap().events.push(event);
        0
    }
    fn boot_mpidr(&self) -> u64 {
        self.boot_mpidr
    }
}

impl FakeBoard {
    /// Makes a board with these devices.
    pub fn new(devices: &[&'static str]) -> Self {
        Self {
            devices: devices.to_vec(),
            ..Self::default()
        }
    }

    /// Sets a register.
    pub fn set(&self, device: &'static str, offset: usize, value: u32) {
        let mut state = self.state.lock().unwrap();
        state.registers.insert((device, offset), value);
    }

    /// Makes a write to one register change another.
    pub fn react(
        &self,
        written: (&'static str, usize),
        changed: (&'static str, usize),
        value: u32,
    ) {
        let mut state = self.state.lock().unwrap();
        state.reactions.push((written, changed, value));
    }

    /// Returns what happened since the last call.
    pub fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.state.lock().unwrap().events)
    }

    /// Returns the platform for this `compatible` of the root.
    pub fn platform(&mut self, root: &str) -> &'static dyn Platform {
        let platform = detect(&|names| names.contains(&root), self).expect(root);
        PLATFORMS.lock().unwrap().push(platform);
        platform
    }
}
