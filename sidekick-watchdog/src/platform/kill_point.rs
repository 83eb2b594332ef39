//! Places at which a debug build ends itself by SIGKILL, for tests of what comes after a watchdog that was killed there.
//!
//! A test sets the variable `HARNESS_WATCHDOG_KILL_AT` to the name of a place. A release build reads nothing and dies nowhere: the
//! function is empty there, and the variable's name is not in the program (`cargo xtask dist` looks).

/// The variable that names a place. Not called `SIDEKICK_…`: it is no setting.
#[cfg(debug_assertions)]
const VARIABLE: &str = "HARNESS_WATCHDOG_KILL_AT";

/// Ends this process, as `kill -9` does, if a test asked for it at this place.
#[cfg(debug_assertions)]
pub fn kill_point(place: &str) {
    use rustix::process::{Signal, getpid, kill_process};
    if std::env::var_os(VARIABLE).is_some_and(|asked| asked == place)
        && kill_process(getpid(), Signal::KILL).is_ok()
    {
        // The signal is on its way; nothing else may happen here.
        loop {
            std::thread::park();
        }
    }
}

/// Does nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn kill_point(_place: &str) {}
