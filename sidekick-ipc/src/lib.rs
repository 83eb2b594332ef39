//! What the Godot extension and the watchdog agree on byte for byte.

pub mod value;
