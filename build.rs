//! Link arguments of the shared library: its soname, that it is never unloaded (threads and signal handlers point into
//! it), and the compiler's unwinder as a part of it.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let major = std::env::var("CARGO_PKG_VERSION_MAJOR").expect("set by cargo");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libshellflip.so.{major}");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo"));
    if has_static_unwinder() {
        unwinder(&out);
    }
}

/// libgcc_s is one more file to find, map and relocate in every process, and asks the processor for its features by
/// an instruction that takes tens of microseconds in a virtual machine. Its archive is the same code; what is found
/// under its name comes before the system's.
fn unwinder(out: &Path) {
    std::fs::write(out.join("libgcc_s.so"), "GROUP ( -lgcc_eh -lgcc )\n").expect("OUT_DIR can be written");
    println!("cargo:rustc-cdylib-link-arg=-L{}", out.display());
    // Its names are nobody else's business.
    println!("cargo:rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
}

/// Whether the C compiler that links has it; another one than gcc may not.
fn has_static_unwinder() -> bool {
    let gnu = std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu");
    let native = std::env::var("HOST") == std::env::var("TARGET");
    let found = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output().ok();
    let path = found.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    gnu && native && Path::new(path.trim()).is_absolute()
}
