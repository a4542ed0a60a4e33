//! The hypervisor binary: the only place that knows everything.
#![no_std]
#![no_main]

#[global_allocator]
static HEAP: xenith_hw::heap::LockedHeap = xenith_hw::heap::LockedHeap::new();

fn puts(base: usize, s: &str) {
    for b in s.bytes() {
        unsafe { (base as *mut u32).write_volatile(u32::from(b)) };
    }
}

#[unsafe(no_mangle)]
fn xenith_main(mut boot: xenith_arch::Boot) -> ! {
    let u = boot
        .tables
        .map_device(xenith_core::addr::HostPhys::new(0x0900_0000), 1)
        .unwrap();
    puts(u, "hello from hyp\r\n");
    loop {
        xenith_arch::sysreg::wfi();
    }
}

#[unsafe(no_mangle)]
fn xenith_not_hyp(_dtb: &'static [u8], _cpsr: u32) -> ! {
    puts(0x0900_0000, "not hyp\r\n");
    loop {
        xenith_arch::sysreg::wfi();
    }
}

#[unsafe(no_mangle)]
fn xenith_hyp_fault(_what: &str, _r: &xenith_arch::FaultRegisters) -> ! {
    loop {
        xenith_arch::sysreg::wfi();
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {
        xenith_arch::sysreg::wfi();
    }
}
