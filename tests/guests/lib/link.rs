//! The build script of every guest: hands the linker the script that all guests of an architecture share.

fn main() {
    let var = |name| std::env::var(name).expect("cargo sets it");
    let folder = match var("CARGO_CFG_TARGET_ARCH").as_str() {
        "aarch64" => "arm64",
        _ => "arm32",
    };
    let script = format!("../lib/src/{folder}/image.ld");
    println!(
        "cargo:rustc-link-arg-bins=-T{}/{script}",
        var("CARGO_MANIFEST_DIR")
    );
    println!("cargo:rerun-if-changed={script}");
}
