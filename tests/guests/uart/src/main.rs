//! A program for the bare machine that proves the driver of Samsung's UART on QEMU's model of it.
//!
//! QEMU has no Exynos 5, but the Exynos 4 of its smdkc210 has the same UART, on a Cortex-A9 without the Virtualization
//! Extensions, where the hypervisor cannot run. Prints a line; then each byte that the interrupt's pending bit announces
//! comes back in brackets, and a word on whether the interrupt could be cleared. No division anywhere: the compiler may use `udiv`, which this CPU does not have.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

#[cfg(target_os = "none")]
mod bare {
    use core::alloc::{GlobalAlloc, Layout};
    use core::arch::global_asm;
    use core::panic::PanicInfo;

    use xenith_platforms::RegisterIo;
    use xenith_platforms::uart::{Port, TreeLayout, Uart, by_name};

    /// UART 0 of Exynos 4210 (Linux exynos4.dtsi: serial@13800000).
    const UART: usize = 0x1380_0000;
    /// UINTP: pending interrupts; bit 0 is received data.
    const UINTP: usize = 0x30;

    global_asm!(
        ".section .text.head, \"ax\"",
        ".globl _start",
        "_start:",
        // Only the first CPU goes on.
        "mrc p15, 0, r0, c0, c0, 5",
        "tst r0, #3",
        "1: wfene",
        "bne 1b",
        "ldr sp, =__stack_top",
        "bl main_bare",
        "2: wfi",
        "b 2b",
    );

    /// The UART's registers: the MMU is off, so this is their physical address.
    struct Registers;

    impl RegisterIo for Registers {
        fn read32(&self, offset: usize) -> u32 {
            // SAFETY: Registers of the UART, which nobody else uses.
            unsafe { ((UART + (offset & 0xfc)) as *const u32).read_volatile() }
        }
        fn write32(&self, offset: usize, value: u32) {
            // SAFETY: As above.
            unsafe { ((UART + (offset & 0xfc)) as *mut u32).write_volatile(value) }
        }
        fn read8(&self, _: usize) -> u8 {
            0
        }
        fn write8(&self, _: usize, _: u8) {}
    }

    fn print(uart: &mut impl Uart, text: &[u8]) {
        for &byte in text {
            uart.put(byte);
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn main_bare() {
        let Some(family) = by_name("exynos4210") else {
            return;
        };
        let mut uart = Port::new(family, TreeLayout::default(), Registers);
        print(&mut uart, b"UART-TEST exynos4210\r\n");
        uart.enable_receive_interrupt();
        print(&mut uart, b"ready\r\n");
        loop {
            // Only what the interrupt announces is read.
            while Registers.read32(UINTP) & 1 == 0 {}
            uart.clear_interrupt();
            while let Some(byte) = uart.get() {
                print(&mut uart, &[b'[', byte, b']']);
            }
            uart.clear_interrupt();
            let cleared = Registers.read32(UINTP) & 1 == 0;
            let answer: &[u8] = if cleared {
                b"cleared\r\n"
            } else {
                b"still pending\r\n"
            };
            print(&mut uart, answer);
        }
    }

    /// There is no heap: nothing here allocates.
    struct NoHeap;

    // SAFETY: Never gives memory.
    unsafe impl GlobalAlloc for NoHeap {
        unsafe fn alloc(&self, _: Layout) -> *mut u8 {
            core::ptr::null_mut()
        }
        unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
    }

    #[global_allocator]
    static HEAP: NoHeap = NoHeap;

    #[panic_handler]
    fn panic(_: &PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
