//! Hands the linker the script that all guests share.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo:rustc-link-arg-bins=-T{dir}/../lib/image.ld");
    println!("cargo:rerun-if-changed=../lib/image.ld");
}
