//! What the bare-metal test guests share.
//!
//! A guest is a zImage (on AArch64 an Image) that starts on one processor (others: [`secondary`]) in the kernel's mode with the
//! MMU and caches on: its image at the address it is linked to, physical memory below 4 GiB flat. It sees only what the hypervisor
//! gives it and prints through `console_io`. A guest calls [`main!`] with its main function; when that returns, the
//! machine is powered off.
#![no_std]

#[cfg_attr(target_arch = "arm", path = "arm32/mod.rs")]
#[cfg_attr(target_arch = "aarch64", path = "arm64/mod.rs")]
mod arch;
pub mod console;
pub mod cpu;
pub mod events;
pub mod exceptions;
pub mod fdt;
pub mod gic;
pub mod grants;
pub mod hypercall;
pub mod memory;
pub mod platform;
pub mod secondary;

use xen_abi::smccc;

pub use arch::timer;
pub use platform::Platform;

/// What a guest's main function gets.
pub struct Start {
    /// The machine.
    pub platform: Platform,
    /// CNTPCT at the guest's first instructions, in ticks.
    pub first_instruction: u64,
    /// The device tree's physical address.
    pub device_tree: usize,
    /// Physical load address minus link address.
    pub delta: usize,
}

unsafe extern "Rust" {
    /// Defined by [`main!`].
    safe fn guest_main(start: &Start);
}

/// Makes a function the guest's main function.
#[macro_export]
macro_rules! main {
    ($function:path) => {
        #[unsafe(no_mangle)]
        fn guest_main(start: &$crate::Start) {
            $function(start)
        }
    };
}

#[unsafe(no_mangle)]
extern "C" fn guest_start(device_tree: usize, delta: usize, first_instruction: u64) -> ! {
    memory::set_delta(delta);
    // SAFETY: start.S mapped more than this from the device tree on; it is never written.
    let bytes = unsafe { core::slice::from_raw_parts(device_tree as *const u8, 0x20_0000) };
    let tree = fdt::Fdt::new(bytes).unwrap_or_else(|| panic!("no device tree at {device_tree:#x}"));
    let platform = Platform::new(&tree);
    console::set_uart(platform.uart);
    for (start, size) in platform.banks.iter().filter(|bank| bank.0 < 1 << 32) {
        // SAFETY: the tree says that this is memory.
        unsafe { memory::map_normal(*start, *size) };
    }
    assert!(
        platform.gicd != 0 && platform.gicc != 0,
        "the device tree has no GICv2"
    );
    gic::init(platform.gicd, platform.gicc);
    guest_main(&Start {
        platform,
        first_instruction,
        device_tree,
        delta,
    });
    power_off()
}

/// Powers the machine (or the domain) off.
pub fn power_off() -> ! {
    loop {
        hypercall::firmware_hvc(smccc::PSCI_SYSTEM_OFF, 0, 0, 0);
        cpu::wfi();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    cpu::disable_irq();
    println!("\nguest: PANIC: {info}");
    power_off()
}
