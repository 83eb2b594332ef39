//! The Godot extension: the `Sidekick` singleton inside the engine.
use godot::prelude::*;

struct SidekickExtension;

// SAFETY: the macro's generated entry point is called by the engine once, as gdext documents.
#[gdextension]
unsafe impl ExtensionLibrary for SidekickExtension {}
