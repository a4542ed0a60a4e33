//! Hands the linker the script of the target architecture.

fn main() {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let bare = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    if bare && arch == "arm" {
        println!("cargo:rustc-link-arg-bins=-T{dir}/src/linker-arm32.ld");
        println!("cargo:rerun-if-changed=src/linker-arm32.ld");
    }
}
