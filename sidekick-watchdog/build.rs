//! How the program that ships is linked: functions whose code is the same are there once.
//!
//! That makes it smaller by 90 KB. Nothing here compares functions by their addresses, and Rust gives none of its own to
//! any. Only lld and gold can do it, so the linker in use is asked first; where it cannot, the program is as large as it is.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const FOLD_IDENTICAL_CODE: &str = "link-arg=-Wl,--icf=all";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Of all profiles `dist` alone optimizes for size.
    let is_dist = env::var("OPT_LEVEL").is_ok_and(|level| level == "s");
    if is_dist && links_with(FOLD_IDENTICAL_CODE) == Some(true) {
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
}

/// Whether a program for the target can be linked with this option; `None` if that cannot be found out.
fn links_with(option: &str) -> Option<bool> {
    let folder = env::var_os("OUT_DIR")?;
    let source = Path::new(&folder).join("probe.rs");
    fs::write(&source, "fn main() {}\n").ok()?;
    let mut rustc = Command::new(env::var_os("RUSTC")?);
    rustc
        .arg("--target")
        .arg(env::var_os("TARGET")?)
        .args(["-C", option, "-o"])
        .arg(source.with_extension("out"))
        .arg(&source);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut choice = std::ffi::OsString::from("linker=");
        choice.push(linker);
        rustc.arg("-C").arg(choice);
    }
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    rustc.args(flags.split('\u{1f}').filter(|flag| !flag.is_empty()));
    let status = rustc.stdout(Stdio::null()).stderr(Stdio::null()).status();
    Some(status.ok()?.success())
}
