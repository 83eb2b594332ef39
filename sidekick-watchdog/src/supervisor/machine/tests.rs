//! The machine by tables, and driven through hours in milliseconds by random worlds.

use super::*;

mod broken;
mod crash_loops;
mod hangs;
mod histories;
mod limbo;
mod memory;
mod restarts;
mod stops;
mod unfit;
mod world;

use broken::Broken;
use world::{World, crashing};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn quiet() -> Policy {
    Policy {
        backoff_jitter: 0.0,
        ..Policy::default()
    }
}
