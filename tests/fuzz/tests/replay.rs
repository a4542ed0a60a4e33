//! The fuzzer's targets without the fuzzer: random bytes, always the same, and the inputs in `seeds`, among them those
//! that failed once.
//!
//! `XENITH_FUZZ=TARGET XENITH_FUZZ_INPUT=FILE cargo test -p xenith-fuzz -- one_input --nocapture` does what a file says.

use std::fs;
use std::path::Path;

use xenith_fuzz::{TARGETS, Target, target};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn seeds(target: Target) -> Vec<std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(target.name);
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn replay(name: &str) {
    let target = target(name).unwrap();
    for file in seeds(target) {
        println!("{}", file.display());
        (target.run)(&fs::read(file).unwrap());
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..target.rounds {
        let length = random.next() as usize % if round % 2 == 0 { 64 } else { 1200 };
        let bytes: Vec<u8> = (0..length).map(|_| (random.next() >> 56) as u8).collect();
        let result = std::panic::catch_unwind(|| (target.run)(&bytes));
        if result.is_err() {
            let file = std::env::temp_dir().join(format!("xenith-fuzz-{name}-{round}"));
            fs::write(&file, &bytes).unwrap();
            panic!(
                "round {round}: XENITH_FUZZ={name} XENITH_FUZZ_INPUT={}",
                file.display()
            );
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "reads files, and is slow")]
fn hypercalls() {
    replay("hypercalls");
}

#[test]
#[cfg_attr(miri, ignore = "reads files, and is slow")]
fn trees() {
    replay("trees");
}

#[test]
#[cfg_attr(miri, ignore = "reads files, and is slow")]
fn vgic() {
    replay("vgic");
}

#[test]
#[cfg_attr(miri, ignore = "reads files, and is slow")]
fn vgic3() {
    replay("vgic3");
}

#[test]
#[cfg_attr(miri, ignore = "reads files, and is slow")]
fn vpl011() {
    replay("vpl011");
}

#[test]
#[cfg_attr(miri, ignore = "reads files, and is slow")]
fn instructions() {
    replay("instructions");
}

#[test]
#[cfg_attr(miri, ignore = "reads files, and is slow")]
fn syndromes() {
    replay("syndromes");
}

#[test]
fn one_input() {
    let Ok(file) = std::env::var("XENITH_FUZZ_INPUT") else {
        return;
    };
    let name = std::env::var("XENITH_FUZZ").expect("XENITH_FUZZ names the target");
    (target(&name).expect("a target").run)(&fs::read(file).unwrap());
}

#[test]
fn every_target_has_a_test() {
    for target in TARGETS {
        let test = format!("replay(\"{}\")", target.name);
        assert!(include_str!("replay.rs").contains(&test), "{}", target.name);
    }
}
