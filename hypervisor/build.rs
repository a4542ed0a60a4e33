//! Hands the linker the script of the target architecture, and the binary the facts of its build.

use std::process::Command;

fn output(command: &str, arguments: &[&str]) -> Option<String> {
    let out = Command::new(command).args(arguments).output().ok()?;
    out.status
        .success()
        .then(|| String::from_utf8_lossy(&out.stdout).trim().to_string())
}

fn main() {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let bare = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let script = match arch.as_str() {
        "arm" => "linker-arm32.ld",
        _ => "linker-arm64.ld",
    };
    if bare {
        println!("cargo:rustc-link-arg-bins=-T{dir}/src/{script}");
        println!("cargo:rerun-if-changed=src/{script}");
    }
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = output(&rustc, &["--version"]).unwrap_or_else(|| "rustc".into());
    // The commit names the build: the same sources give the same image, whenever and wherever they are built.
    let commit = output("git", &["rev-parse", "HEAD"]).unwrap_or_else(|| "0".repeat(40));
    let date = output(
        "git",
        &[
            "show",
            "-s",
            "--format=%cd",
            "--date=format:%a %b %e %H:%M:%S %Y",
        ],
    )
    .unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=XENITH_RUSTC={version}");
    println!(
        "cargo:rustc-env=XENITH_CHANGESET=git:{}",
        &commit[..commit.len().min(12)]
    );
    println!("cargo:rustc-env=XENITH_BUILD_ID={commit}");
    println!("cargo:rustc-env=XENITH_DATE={date}");
    println!("cargo:rerun-if-changed=../.git/logs/HEAD");
    println!("cargo:rerun-if-env-changed=XENITH_EARLY_UART");
}
