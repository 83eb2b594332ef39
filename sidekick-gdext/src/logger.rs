//! The engine's errors as they are reported, kept for the report of a death: a `Logger` of the engine's.
//!
//! Called from any thread, also inside the engine's crash handler. It logs nothing itself, borrows nothing and waits for nobody.

// The engine's signature.
#![allow(clippy::too_many_arguments)]

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use godot::classes::{ILogger, Logger, Os, ScriptBacktrace};
use godot::prelude::*;
use sidekick_ipc::errors::{ErrorKind, ScriptError};

use crate::core;

/// Frames of a script's stack that are kept.
const FRAMES_MAX: i32 = 32;
/// `Logger.ErrorType.WARNING`, which is no error.
const WARNING: i32 = 1;

thread_local! {
    /// The logger as the main thread registered it.
    static REGISTERED: RefCell<Option<Gd<SidekickLogger>>> = const { RefCell::new(None) };
}

/// Not to be made by scripts.
#[derive(GodotClass)]
#[class(init, internal, base = Logger)]
pub(crate) struct SidekickLogger {
    base: Base<Logger>,
}

#[godot_api]
impl ILogger for SidekickLogger {
    // `gd_self`: nothing is borrowed, so it may come from every thread, and again while it runs.
    #[func(gd_self)]
    fn log_error(
        _this: Gd<Self>,
        function: GString,
        file: GString,
        line: i32,
        code: GString,
        rationale: GString,
        _editor_notify: bool,
        error_type: i32,
        script_backtraces: Array<Gd<ScriptBacktrace>>,
    ) {
        if error_type == WARNING {
            return;
        }
        // A panic would be reported as an error, that is: to here again.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let Some(log) = core::core().and_then(|core| core.errors.as_ref()) else {
                return;
            };
            let text = if rationale.is_empty() {
                &code
            } else {
                &rationale
            };
            let mut error = ScriptError {
                kind: kind(error_type),
                text: text.to_string(),
                function: function.to_string(),
                file: file.to_string(),
                line: u32::try_from(line).unwrap_or(0),
                ..ScriptError::default()
            };
            add_backtraces(&mut error, &script_backtraces);
            log.append(error);
        }));
    }
}

fn kind(error_type: i32) -> ErrorKind {
    match error_type {
        2 => ErrorKind::Script,
        3 => ErrorKind::Shader,
        _ => ErrorKind::Error,
    }
}

/// The scripts' stacks, innermost first. What the engine reports from its own source (`push_error`) is the script's at the top.
fn add_backtraces(error: &mut ScriptError, backtraces: &Array<Gd<ScriptBacktrace>>) {
    for backtrace in backtraces.iter_shared() {
        for index in 0..backtrace.get_frame_count().min(FRAMES_MAX) {
            let function = backtrace.get_frame_function(index).to_string();
            let file = backtrace.get_frame_file(index).to_string();
            let line = backtrace.get_frame_line(index);
            if error.backtrace.is_empty() && !error.file.starts_with("res://") {
                error.function.clone_from(&function);
                error.file.clone_from(&file);
                error.line = u32::try_from(line).unwrap_or(0);
            }
            if !error.backtrace.is_empty() {
                error.backtrace.push('\n');
            }
            error
                .backtrace
                .push_str(&format!("{function} ({file}:{line})"));
        }
    }
}

/// Begins to listen. On the main thread.
pub(crate) fn register() {
    if core::core().is_none_or(|core| core.errors.is_none()) {
        return;
    }
    // gdext 0.5.5 panics when it meets a class's name in an array's type before its own use of the class.
    let _ = ScriptBacktrace::class_id();
    let logger = SidekickLogger::new_gd();
    Os::singleton().add_logger(&logger);
    REGISTERED.set(Some(logger));
}

/// Lets go of the engine while it still has scripts. On the main thread.
pub(crate) fn unregister() {
    if let Some(logger) = REGISTERED.take() {
        Os::singleton().remove_logger(&logger);
    }
}
