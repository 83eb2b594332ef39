//! `cargo xtask install`: builds what the addon loads and puts it into `addons/sidekick/bin`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use sidekick_tests::build::{self, Profile};

/// What to build.
#[derive(Debug, Args)]
pub struct Options {
    /// Build without optimizations: quicker to build, slower to run.
    #[arg(long)]
    pub debug: bool,
}

/// Builds and installs, and tells on standard error where.
pub fn run(options: &Options) {
    install(if options.debug {
        Profile::Debug
    } else {
        Profile::Release
    });
}

/// Builds the debug library, and watchdog and library in `profile`, and puts them where the addon looks.
pub fn install(profile: Profile) -> PathBuf {
    let started = Instant::now();
    eprintln!(
        "install: building the extension and the watchdog ({})",
        profile.name()
    );
    let bin = build::install(profile);
    eprintln!(
        "install: {} in {:.0} s",
        bin.display(),
        started.elapsed().as_secs_f64()
    );
    bin
}
