//! The supervisor with real processes (no Godot: small shell scripts stand for the engine).

#[path = "supervisor/adoption.rs"]
mod adoption;
#[path = "supervisor/harness.rs"]
mod harness;
#[path = "supervisor/leftovers.rs"]
mod leftovers;
#[path = "supervisor/lifecycle.rs"]
mod lifecycle;
#[path = "supervisor/logs.rs"]
mod logs;
#[path = "supervisor/policies.rs"]
mod policies;
#[path = "supervisor/signals.rs"]
mod signals;
#[path = "supervisor/soak.rs"]
mod soak;
#[path = "supervisor/standby.rs"]
mod standby;
