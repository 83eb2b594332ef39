//! The Godot extension: the `Sidekick` singleton inside the engine.
//!
//! | file | owns |
//! |---|---|
//! | `sidekick.rs` | the singleton's methods and signals as GDScript sees them; no logic |
//! | `core.rs` | what lives as long as the library is loaded: mode, recorder, who supervises us |
//! | `recorder.rs` | plain Rust: refusals, counting, pushing into the ring |
//! | `hot_call.rs` | `record`, registered by hand for its speed |
//! | `encode.rs` | Godot's values to bytes |
//! | `common_fields.rs` | the fields that every record gets |
//! | `flush.rs` | the objects behind `await Sidekick.flush()` |
//! | `checkpoint.rs` | checkpoints and their restoring |
//! | `store.rs` | the store's methods as GDScript sees them; no logic |
//! | `request.rs`, `watch.rs` | the objects that the store's methods give |
//! | `requests.rs` | what the game waits for, and threads that wait |
//! | `words.rs` | GDScript's values to the store's words and back |
//! | `frame.rs` | the hook after each frame: heartbeat, wake, control words to signals |
//! | `quit.rs` | the watchdog's request to quit, and leaving cleanly |
//! | `death.rs` | the report of the last death |
//! | `logger.rs` | the engine's errors, kept for the report of this one |
//! | `crash.rs` | the word that the engine's crash handler has begun |
//! | `respawn.rs` | a dead watchdog brought back |
//! | `settings.rs` | Project Settings under `sidekick/` |
//! | `clash.rs` | the warning of an autoload or `class_name` that hides the singleton |
//!
//! The engine calls in this order: `Scene` (classes are registered, the mode is decided, the ring is opened), `MainLoop`,
//! one call per frame, and at the end `MainLoop` again, when every script still exists.

mod checkpoint;
mod clash;
mod common_fields;
mod core;
mod crash;
mod death;
mod encode;
mod flush;
mod frame;
mod hot_call;
mod logger;
mod quit;
mod recorder;
mod request;
mod requests;
mod respawn;
mod settings;
mod sidekick;
mod standby;
mod store;
mod watch;
mod words;

use godot::init::InitStage;
use godot::prelude::*;

struct SidekickExtension;

// SAFETY: the macro's generated entry point is called by the engine once, as gdext documents.
#[gdextension(entry_symbol = sidekick_init)]
unsafe impl ExtensionLibrary for SidekickExtension {
    fn on_stage_init(stage: InitStage) {
        match stage {
            InitStage::Scene => {
                hot_call::register();
                settings::register();
                core::start();
                logger::register();
            }
            InitStage::MainLoop if !godot::init::is_editor_hint() => {
                clash::warn_of_shadowing();
                core::say_mode();
                core::warn_of_lost_lines();
            }
            _ => {}
        }
    }

    fn on_main_loop_frame() {
        frame::on_frame();
    }

    fn on_stage_deinit(stage: InitStage) {
        if stage == InitStage::MainLoop {
            quit::on_main_loop_end();
        }
    }
}
