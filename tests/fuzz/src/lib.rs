//! Interprets bytes as what hostile guests and boot loaders do. Any bytes mean something, so whatever a fuzzer changes
//! stays a program: `scripts/fuzz` gives them to libFuzzer, `tests/replay.rs` random ones and those that failed once.
#![forbid(unsafe_code)]

#[macro_use]
mod made {
    macro_rules! made {
        ($ty:ty { $($field:ident: $value:expr),* $(,)? }) => {{
            #[allow(unused_mut, reason = "a structure may have no field")]
            let mut value = <$ty>::new_zeroed();
            $(value.$field = $value;)*
            value
        }};
    }
}
mod hypercalls;
mod input;
mod instructions;
mod operations;
mod syndromes;
mod toolstack;
mod trees;
mod vgic;
mod vpl011;

/// Something to fuzz.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Does what the bytes say; panics if something does not hold.
    pub run: fn(&[u8]),
    /// How many random inputs a test gives it.
    pub rounds: u32,
}

/// All targets.
pub const TARGETS: [Target; 7] = [
    Target {
        name: "hypercalls",
        run: hypercalls::run,
        rounds: 400,
    },
    Target {
        name: "trees",
        run: trees::run,
        rounds: 3000,
    },
    Target {
        name: "vgic",
        run: vgic::run,
        rounds: 2000,
    },
    Target {
        name: "vgic3",
        run: vgic::run_v3,
        rounds: 2000,
    },
    Target {
        name: "vpl011",
        run: vpl011::run,
        rounds: 2000,
    },
    Target {
        name: "instructions",
        run: instructions::run,
        rounds: 20_000,
    },
    Target {
        name: "syndromes",
        run: syndromes::run,
        rounds: 20_000,
    },
];

/// Returns the target of that name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
