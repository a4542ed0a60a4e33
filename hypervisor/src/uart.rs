//! Finds and opens the console's UART: the early one of the build, or the one the device tree names.

use alloc::boxed::Box;

use log::warn;
use xenith_arch::{DeviceRegisters, HypTables};
use xenith_boot::fdt::host::ConsoleUart;
use xenith_core::addr::{HostPhys, PAGE_SIZE};
use xenith_platforms::RegisterIo;
use xenith_platforms::uart::{self, Family, Layout, Port, REGISTER_BYTES, TreeLayout};

use crate::console;

/// An early UART chosen at build time (`XENITH_EARLY_UART=pl011,0x9000000`): for what goes wrong before the device tree
/// names one.
const EARLY_UART: Option<&str> = option_env!("XENITH_EARLY_UART");

/// A UART that can be opened.
#[derive(Clone, Copy)]
pub struct Found {
    family: &'static Family,
    tree: TreeLayout,
    /// Where its registers are.
    pub at: HostPhys,
}

impl Found {
    /// Returns the UART that a device tree names, if there is a driver.
    pub fn in_tree(uart: &ConsoleUart<'_>) -> Option<Self> {
        Some(Self {
            family: uart::find(uart.compatible.iter())?,
            tree: TreeLayout {
                shift: uart.reg_shift,
                width: uart.reg_io_width,
            },
            at: uart.reg.base(),
        })
    }

    /// Makes it the console. `map` maps pages from an address and returns the address's virtual one.
    pub fn open(self, map: &mut dyn FnMut(HostPhys, usize) -> Option<usize>) -> bool {
        let pages = (self.at.page_offset() + REGISTER_BYTES).div_ceil(PAGE_SIZE);
        let Some(va) = map(self.at, pages) else {
            return false;
        };
        // SAFETY: Just mapped for good, and this driver is the only one that uses the registers.
        let registers = Registers(unsafe { DeviceRegisters::new(va, REGISTER_BYTES) });
        console::set_uart(Box::new(Port::new(self.family, self.tree, registers)));
        true
    }
}

/// Returns the early UART of this build.
pub fn early() -> Option<Found> {
    let (kind, address) = EARLY_UART?.split_once(',')?;
    let address = u64::from_str_radix(address.trim_start_matches("0x"), 16).ok()?;
    let family = uart::by_name(kind)?;
    Some(Found {
        family,
        // What nearly every SoC has.
        tree: TreeLayout {
            shift: (family.layout == Layout::FromTree).then_some(2),
            width: (family.name == "dw-apb").then_some(4),
        },
        at: HostPhys::new(address),
    })
}

/// Opens the console that the command line and the device tree name; returns whether it works.
pub fn open_console(tables: &mut HypTables, uart: &ConsoleUart<'_>) -> bool {
    let Some(found) = Found::in_tree(uart) else {
        warn!(
            "console {}: no driver for \"{}\"; name another UART with dtuart= (docs/boards.md has the list)",
            uart.path,
            uart.compatible.first()
        );
        return false;
    };
    let opened = found.open(&mut |at, pages| tables.map_device(at, pages).ok());
    if !opened {
        warn!("console {}: its registers cannot be mapped", uart.path);
    }
    opened
}

/// Adapts mapped registers to the drivers' trait.
pub struct Registers(pub DeviceRegisters);

impl RegisterIo for Registers {
    fn read32(&self, offset: usize) -> u32 {
        self.0.read32(offset)
    }
    fn write32(&self, offset: usize, value: u32) {
        self.0.write32(offset, value);
    }
    fn read8(&self, offset: usize) -> u8 {
        self.0.read8(offset)
    }
    fn write8(&self, offset: usize, value: u8) {
        self.0.write8(offset, value);
    }
}
