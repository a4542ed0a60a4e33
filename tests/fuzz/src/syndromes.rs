//! Any syndrome that an AArch64 guest can cause: typed, and what it asks for decided or performed on any registers.

use xenith_core::addr::GuestPhys;
use xenith_core::emulate::a64::GuestRegs64;
use xenith_core::emulate::a64::features::CpuFeatures64;
use xenith_core::emulate::a64::mmio::execute;
use xenith_core::emulate::a64::syndrome::{Abort, Exit, Syndrome, SystemAccess};
use xenith_core::emulate::a64::sysreg::{AccessContext, Action, decide};
use xenith_core::emulate::coproc::Privilege;

use crate::input::Input;

/// Registers that random numbers hardly ever name: the timer's, caches by set and way, translation, SGIs, debug, counters.
const KNOWN: [(u32, u32, u32, u32, u32); 14] = [
    (3, 3, 14, 2, 0),
    (3, 3, 14, 2, 1),
    (3, 3, 14, 2, 2),
    (1, 0, 7, 6, 2),
    (1, 0, 7, 10, 2),
    (1, 0, 7, 14, 2),
    (3, 0, 1, 0, 0),
    (3, 0, 1, 0, 1),
    (3, 0, 2, 0, 0),
    (3, 0, 4, 0, 0),
    (3, 0, 12, 11, 5),
    (2, 0, 1, 0, 4),
    (3, 3, 9, 14, 0),
    (3, 0, 9, 14, 1),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Registers([u64; 31]);

impl GuestRegs64 for Registers {
    fn get(&self, register: u8) -> u64 {
        self.0.get(usize::from(register)).copied().unwrap_or(0)
    }
    fn set(&mut self, register: u8, value: u64) {
        if let Some(x) = self.0.get_mut(usize::from(register)) {
            *x = value;
        }
    }
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    // Any class, but the ones with fields most of the time.
    let iss = u64::from(input.word() & 0x01ff_ffff);
    let class = match input.byte() {
        byte @ 0..=63 => byte,
        64..=159 => 0x24,
        _ => 0x18,
    };
    let above = u64::from(input.half()) << 32;
    let syndrome = Syndrome::new(above | u64::from(class) << 26 | 1 << 25 | iss);
    match syndrome.exit() {
        Exit::DataAbort(abort) => device(&mut input, abort),
        Exit::SystemRegister(access) => {
            let known = input.pick(&KNOWN);
            let access = if input.flag() {
                let (op0, op1, crn, crm, op2) = known;
                let key = SystemAccess::key_of(op0, op1, crn, crm, op2);
                SystemAccess::new(key | iss as u32 & (0x1f << 5 | 1))
            } else {
                access
            };
            register(&mut input, access);
        }
        Exit::Hvc(immediate) | Exit::Smc(immediate) => {
            assert_eq!(u64::from(immediate), iss & 0xffff);
        }
        _ => {}
    }
}

/// A load or store of a device.
fn device(input: &mut Input<'_>, abort: Abort) {
    let before = Registers(core::array::from_fn(|_| input.double()));
    let mut after = before;
    let phys = 0x0300_1000 + u64::from(input.half() & 0xfff);
    let (answer, refuse_at) = (input.word(), input.below(3));
    let (mut count, mut written) = (0, 0u64);
    let size = 1u64 << abort.size_log2();
    let result = execute(abort, &mut after, GuestPhys::new(phys), |access| {
        let (at, width) = (access.address.raw(), u64::from(access.width.bytes()));
        assert!(at >= phys && at + width <= phys + size, "{access:x?}");
        assert_eq!(at % width, 0, "{access:x?}");
        assert_eq!(access.write.is_some(), abort.is_write());
        written |= u64::from(access.write.unwrap_or(0)) << ((at - phys) * 8);
        count += 1;
        if count > refuse_at {
            Err(())
        } else {
            Ok(answer)
        }
    });
    assert!(count <= 2);
    let register = abort.register();
    if result.is_err() || abort.is_write() {
        assert_eq!(after, before, "{abort:x?}: {result:?}");
    }
    if result.is_ok() {
        assert!(abort.is_valid() && phys % size == 0, "{abort:x?}");
        let whole = u64::MAX >> (64 - size * 8);
        if abort.is_write() {
            assert_eq!(written, before.get(register) & whole, "{abort:x?}");
        } else if register < 31 {
            let value = after.get(register);
            // Extended to the register's width, with the sign or without.
            let width = if abort.is_64_bit() { 64 } else { 32 };
            let is_negative = value >> (size * 8 - 1) & 1 != 0;
            let above = if abort.is_sign_extended() && is_negative {
                (u64::MAX >> (64 - width)) & !whole
            } else {
                0
            };
            if size * 8 <= width {
                assert_eq!(value & !whole, above, "{abort:x?}: {value:#x}");
            }
        }
        for n in (0..31).filter(|n| *n != register) {
            assert_eq!(after.get(n), before.get(n), "{abort:x?} changed x{n}");
        }
    }
}

/// A trapped system register.
fn register(input: &mut Input<'_>, access: SystemAccess) {
    let features = CpuFeatures64::default();
    let is_kernel = input.flag();
    let cntkctl = input.double();
    let context = AccessContext {
        privilege: if is_kernel {
            Privilege::Pl1
        } else {
            Privilege::Pl0
        },
        cntkctl,
        actlr: input.double(),
        features: &features,
    };
    let action = decide(access, &context);
    match action {
        Action::Read(_) | Action::TimerRead(_) | Action::CompareRead => {
            assert!(access.is_read(), "{access:x?}: {action:?}");
        }
        Action::Undefined => {}
        _ => assert!(!access.is_read(), "{access:x?}: {action:?}"),
    }
    match action {
        Action::TimerRead(_)
        | Action::TimerWrite(_)
        | Action::CompareRead
        | Action::CompareWrite => {
            assert!(is_kernel || cntkctl >> 9 & 1 != 0, "EL0 has the timer");
        }
        Action::Read(value) => assert!(is_kernel || value == 0, "EL0 reads {value:#x}"),
        Action::Undefined => {}
        // What changes the guest's own control registers, its caches or other vCPUs.
        _ => assert!(is_kernel, "{access:x?}: {action:?} from EL0"),
    }
}
