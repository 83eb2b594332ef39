//! The project's own commands: `cargo xtask demo`, `test`, `bench`, `dist`, `godot`.
fn main() {}
