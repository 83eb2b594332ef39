//! The harness of the end-to-end tests: engines, receivers, directories, ports.
//!
//! - [`godot`]: finds a real Godot, or unpacks one into a cache folder.

pub mod godot;
