//! `cargo xtask godot`: prints the path of a Godot, which is unpacked first where there is none.

use std::error::Error;

use sidekick_tests::godot::{self, Godot};

/// Prints the path alone on standard output; everything else goes to standard error.
pub fn run() -> Result<(), Box<dyn Error>> {
    let godot = locate()?;
    eprintln!("godot: version {}", godot.version);
    println!("{}", godot.path.display());
    Ok(())
}

/// Finds or unpacks a Godot and shows the progress on standard error.
pub fn locate() -> Result<Godot, Box<dyn Error>> {
    let mut show = |line: &str| eprintln!("godot: {line}");
    Ok(godot::find_or_fetch(&mut show)?)
}
