//! A guest that reads and writes any register of its UART in any width, while somebody types.

use xenith_core::vgic::Width;
use xenith_core::vpl011::{SIZE, Vpl011};

use crate::input::Input;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut uart = Vpl011::default();
    let (mut typed, mut taken) = (0u32, 0u32);
    while !input.is_empty() {
        let offset = match input.byte() {
            byte @ 0..=127 => u32::from(byte) % 20 * 4,
            byte @ 128..=191 => 0xf80 + u32::from(byte) % 32 * 4,
            _ => u32::from(input.half()) % SIZE,
        };
        let width = input.pick(&[Width::Byte, Width::Half, Width::Word]);
        match input.below(4) {
            0 => {
                let value = input.number();
                let sent = uart.write(offset, width, value);
                assert!(
                    sent.is_none_or(|byte| u32::from(byte) == value << (8 * (offset & 3)) & 0xff),
                    "it sends what it was given"
                );
                // In loopback it comes back.
                typed += u32::from(offset < 4);
            }
            1 => {
                let value = uart.read(offset, width);
                let mask = match width {
                    Width::Byte => 0xff,
                    Width::Half => 0xffff,
                    Width::Word => u32::MAX,
                };
                assert_eq!(value & !mask, 0, "{offset:#x} {width:?}");
            }
            2 => {
                for _ in 0..input.byte() {
                    typed += u32::from(uart.receive(typed as u8));
                }
            }
            _ => {
                // A driver that empties it: what was kept comes in order, and it comes to an end.
                for _ in 0..1 << 16 {
                    if uart.read(0x18, Width::Word) & 1 << 4 != 0 {
                        break;
                    }
                    let _ = uart.read(0, Width::Word);
                    taken += 1;
                }
                assert_ne!(uart.read(0x18, Width::Word) & 1 << 4, 0, "never empty");
                assert!(taken <= typed, "{taken} of {typed}");
            }
        }
        // The line is what the masked status says.
        let status = uart.read(0x40, Width::Word);
        assert_eq!(uart.is_asserted(), status != 0);
        assert_eq!(
            status,
            uart.read(0x3c, Width::Word) & uart.read(0x38, Width::Word)
        );
    }
}
