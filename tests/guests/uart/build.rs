//! Hands the linker the script of this program.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo:rustc-link-arg-bins=-T{dir}/image.ld");
    println!("cargo:rerun-if-changed=image.ld");
}
