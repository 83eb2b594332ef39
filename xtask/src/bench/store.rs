//! What keeping a match's state costs the game, on its own thread in the real engine: a checkpoint of 64 KiB beside
//! `var_to_bytes` of the same state, and a read that is waited for.

use std::error::Error;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use sidekick_tests::build::Profile;
use sidekick_tests::project::Project;
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

use super::line::{Line, Printer, Target, median};
use crate::godot;

const PATIENCE: Duration = Duration::from_secs(120);
const CONFIG: &str = "[upload]\nsinks = []\n";

const OF_VAR_TO_BYTES_MAX: f64 = 1.3;
const READ_US_MAX: f64 = 150.0;
const WAKE_UPS: usize = 200;
/// Three frames, as in `store.gd`.
const REST: Duration = Duration::from_millis(50);

pub(super) fn run(printer: Printer) -> Result<(), Box<dyn Error>> {
    printer.tell("store, checkpoints and reads");
    let godot = godot::locate()?;
    let project = Project::shipped(include_str!("store.gd"));
    let mut setup = Setup::with_profile(Profile::Dist);
    setup.set_config(CONFIG);
    let out = setup.scratch().join("store.json");
    setup.set_engine(project.command_line(&godot, &[&out.display().to_string()]));
    let watchdog = setup.start();
    let Some(text) = wait::poll(PATIENCE, || fs::read_to_string(&out).ok()) else {
        let log = watchdog.running.lines.all().join("\n");
        return Err(format!("the game never measured; the watchdog says:\n{log}").into());
    };
    watchdog.stop(PATIENCE);
    let results = Results(serde_json::from_str(&text)?);
    results.check()?;
    // Bytes are copied by var_to_bytes and nothing else, so there is no target beside it: it is the floor of a checkpoint, which copies
    // them twice more (behind the request's head, and into the ring) and reads them once more (the checksum).
    for (kind, has_target) in [("dictionary", true), ("bytes", false)] {
        let (ours, peers) = (
            results.samples(&format!("checkpoint_{kind}"))?,
            results.samples(&format!("var_to_bytes_{kind}"))?,
        );
        let peer = median(&peers);
        let line = Line::median("store", &format!("checkpoint_{kind}"), "us", &ours);
        let bytes = results.0[format!("size_{kind}")].as_f64();
        printer.print(
            &line
                .beside("var_to_bytes", peer)
                .beside("bytes", bytes.unwrap_or_default()),
        );
        let name = format!("checkpoint_{kind}_of_var_to_bytes");
        let line = Line::median("store", &name, "ratio", &[median(&ours) / peer]);
        let line = line.with_n(ours.len() as u64);
        printer.print(&match has_target {
            true => line.target(Target::AtMost(OF_VAR_TO_BYTES_MAX)),
            false => line.beside("copies", 3.0).beside("peer_copies", 1.0),
        });
    }
    // Waits for the checkpoints of the same frame to be on disk.
    let samples = results.samples("get_value_after_write")?;
    printer.print(&Line::median(
        "store",
        "get_value_after_write",
        "us",
        &samples,
    ));
    // As a server reads that loads, which is what the call is for.
    let in_a_row = results.samples("get_value_in_a_row")?;
    let line = Line::median("store", "get_value_in_a_row", "us", &in_a_row);
    printer.print(&line.target(Target::AtMost(READ_US_MAX)));
    let (cold, warm) = (
        median(&results.samples("engine_call")?),
        median(&results.samples("engine_call_in_a_row")?),
    );
    let wake_ups = median(&two_wake_ups()?);
    // Two processes go through code and data that the processor's caches no longer hold.
    let floor = median(&in_a_row) + wake_ups + 2.0 * (cold - warm);
    let line = Line::median("store", "get_value", "us", &results.samples("get_value")?)
        .beside("floor", floor)
        .beside("two_wake_ups", wake_ups)
        .beside("engine_call", cold)
        .beside("engine_call_in_a_row", warm);
    printer.print(&line.target(Target::AtMost(READ_US_MAX)));
    Ok(())
}

/// The floor of a read that comes out of the blue: the watchdog's thread sleeps and has to be woken, then the game's. Between two
/// threads that do nothing else, after as long a rest as the game's frames have, in microseconds.
fn two_wake_ups() -> Result<Vec<f64>, Box<dyn Error>> {
    let turns = Arc::new(AtomicUsize::new(0));
    let (asker, answered) = (thread::current(), Arc::clone(&turns));
    let answerer = thread::spawn(move || {
        for turn in 0..WAKE_UPS {
            wait_for_turn(&answered, 2 * turn + 1);
            answered.store(2 * turn + 2, Ordering::Release);
            asker.unpark();
        }
    });
    let mut samples = Vec::new();
    for turn in 0..WAKE_UPS {
        thread::sleep(REST);
        let asked = Instant::now();
        turns.store(2 * turn + 1, Ordering::Release);
        answerer.thread().unpark();
        wait_for_turn(&turns, 2 * turn + 2);
        samples.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    answerer
        .join()
        .map_err(|_| "the answering thread panicked")?;
    Ok(samples)
}

fn wait_for_turn(turns: &AtomicUsize, turn: usize) {
    while turns.load(Ordering::Acquire) != turn {
        thread::park();
    }
}

/// What the game wrote.
struct Results(Value);

impl Results {
    /// A checkpoint that was refused or a read that gave something else costs nothing, and says nothing.
    fn check(&self) -> Result<(), String> {
        let problems = self.0["problems"].as_array();
        let problems = problems.ok_or("the game did not say whether it had problems")?;
        match problems.first() {
            Some(first) => Err(format!("{} problems, the first: {first}", problems.len())),
            None => Ok(()),
        }
    }

    fn samples(&self, name: &str) -> Result<Vec<f64>, String> {
        let samples = self.0[name].as_array();
        let samples: Option<Vec<f64>> =
            samples.and_then(|all| all.iter().map(Value::as_f64).collect());
        samples
            .filter(|samples| !samples.is_empty())
            .ok_or_else(|| format!("the game measured no {name}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_went_wrong_is_no_measurement() {
        assert!(Results(json!({"problems": []})).check().is_ok());
        assert!(Results(json!({})).check().is_err());
        let text = Results(json!({"problems": ["refused", "refused"]})).check();
        assert!(text.unwrap_err().starts_with("2 problems"));
    }

    #[test]
    fn samples_are_numbers_and_there_are_some() {
        let results = Results(json!({"a": [1.0, 2], "none": [], "b": [1, "x"]}));
        assert_eq!(results.samples("a").unwrap(), [1.0, 2.0]);
        for name in ["none", "b", "c"] {
            assert!(results.samples(name).is_err(), "{name}");
        }
    }
}
