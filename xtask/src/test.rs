//! `cargo xtask test`: everything a fresh machine needs, then all tests, then what came of them in one place.
//!
//! Nothing but Rust and a C compiler must be there beforehand. Godot is fetched where the machine has none;
//! where that cannot be, the tests that need it are ignored with the reason, and the summary says so.

use std::collections::BTreeSet;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use clap::Args;
use serde_json::Value;
use sidekick_tests::build::{self, Profile};
use sidekick_tests::folders::repository;

use crate::{godot, install};

/// What to run.
#[derive(Debug, Args)]
pub struct Options {
    /// Run only tests whose names contain this.
    #[arg(long)]
    filter: Option<String>,
    /// Leave out what takes long: the exhaustive models.
    #[arg(long)]
    quick: bool,
    /// Fail where there is no Godot, instead of ignoring the tests that need one.
    #[arg(long)]
    require_godot: bool,
}

/// Runs the tests.
///
/// # Errors
/// When one failed or did not compile, or none ran; the summary was printed.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    // Not fatal where nobody asked for it: what needs no engine is worth running without.
    if let Err(error) = godot::locate() {
        if options.require_godot {
            return Err(format!("no Godot to test with: {error}").into());
        }
        eprintln!("test: {error}");
    }
    // The debug builds: they check for overflow, and every test uses them. What is measured builds its own.
    install::install(Profile::Debug);

    let mut tally = Tally::default();
    // Once and whole, so that below nothing but the choice of targets differs: all have the same features.
    run_tests("all tests are built", "", tests(&["--no-run"]), &mut tally)?;
    if tally.broken.is_empty() {
        tally.add(run_lanes(options)?);
    }
    tally.print(started.elapsed().as_secs());
    if tally.is_good() {
        Ok(())
    } else {
        Err("not all tests passed".into())
    }
}

/// Runs all tests in two lanes beside each other: both wait most of the time, for deaths, restarts and time-outs.
///
/// What starts a Godot runs one after the other as before. Beside it runs all that starts none.
fn run_lanes(options: &Options) -> io::Result<Tally> {
    let (godot, other) = targets()?;
    let godot = vec![("tests with a Godot".to_owned(), tests(&chosen(&godot)))];
    let mut rest = vec!["--lib".to_owned(), "--bins".to_owned()];
    rest.extend(chosen(&other));
    let mut rest = vec![
        ("tests without a Godot".to_owned(), tests(&rest)),
        (
            "examples in the documentation".to_owned(),
            tests(&["--doc"]),
        ),
    ];
    if !options.quick {
        for model in loom_models()? {
            rest.push((format!("the model {model}"), loom(&model)));
        }
    }
    // Two lanes that build get in each other's way: one links a program while the other copies it.
    let built = build::ready_made();
    let filter = options.filter.as_deref();
    thread::scope(|scope| {
        let beside = scope.spawn(|| run_lane("godot | ", godot, filter, &built));
        let mut tally = run_lane("other | ", rest, filter, &built)?;
        let beside = beside.join().unwrap_or_else(|_| {
            let error = io::Error::other("the lane of tests with a Godot panicked");
            Err(error)
        });
        tally.add(beside?);
        Ok(tally)
    })
}

/// One command after the other, each with what is built for it.
fn run_lane(
    lane: &str,
    commands: Vec<(String, Command)>,
    filter: Option<&str>,
    built: &[(&str, PathBuf)],
) -> io::Result<Tally> {
    let mut tally = Tally::default();
    for (what, mut command) in commands {
        command.arg("--").args(filter);
        command.envs(built.iter().map(|(name, path)| (name, path)));
        run_tests(&what, lane, command, &mut tally)?;
    }
    Ok(tally)
}

/// `cargo test` over the whole workspace, whatever is chosen of it.
fn tests<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = cargo();
    // The debug library's own features, so that its dependencies are compiled once.
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(["--features", "sidekick-gdext/docs"])
        .args(arguments);
    command
}

/// The model's own build: its atomics are others.
fn loom(model: &str) -> Command {
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let mut command = cargo();
    command
        .args([
            "test",
            "--package",
            "sidekick-ipc",
            "--release",
            "--test",
            model,
        ])
        .env("RUSTFLAGS", format!("{flags} --cfg loom"))
        .env("CARGO_TARGET_DIR", repository().join("target/loom"));
    command
}

fn chosen(targets: &BTreeSet<String>) -> Vec<String> {
    let options = targets
        .iter()
        .map(|name| ["--test".to_owned(), name.clone()]);
    options.flatten().collect()
}

/// The names of the test targets that start a Godot, and of all others. A name is of one lane, whichever crate has it.
fn targets() -> io::Result<(BTreeSet<String>, BTreeSet<String>)> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .stderr(Stdio::inherit())
        .output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.filter_map(|package| package["targets"].as_array());
    let is_test = |target: &&Value| {
        target["kind"]
            .as_array()
            .is_some_and(|kind| kind.contains(&"test".into()))
    };
    let (mut godot, mut other) = (BTreeSet::new(), BTreeSet::new());
    for target in targets.flatten().filter(is_test) {
        let (Some(name), Some(source)) = (target["name"].as_str(), target["src_path"].as_str())
        else {
            continue;
        };
        if starts_a_godot(&fs::read_to_string(source)?) {
            godot.insert(name.to_owned());
        } else {
            other.insert(name.to_owned());
        }
    }
    other.retain(|name| !godot.contains(name));
    Ok((godot, other))
}

/// As `tests/src/claims.rs` has it, such a target names the harness's engine or its macro.
fn starts_a_godot(source: &str) -> bool {
    source.contains("sidekick_tests::godot")
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository());
    command
}

/// The test targets that need `--cfg loom`: without it they are empty.
fn loom_models() -> io::Result<Vec<String>> {
    let folder = repository().join("sidekick-ipc/tests");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let name = |path: &Path| {
        let name = path.file_stem()?.to_str()?;
        let is_model =
            name.starts_with("loom") && path.extension().is_some_and(|extension| extension == "rs");
        is_model.then(|| name.to_owned())
    };
    let mut models = Vec::new();
    for entry in fs::read_dir(folder)? {
        models.extend(name(&entry?.path()));
    }
    models.sort();
    Ok(models)
}

/// Runs one cargo command and shows what it writes while counting its tests. Each line begins with its lane.
fn run_tests(what: &str, lane: &str, mut command: Command, tally: &mut Tally) -> io::Result<()> {
    eprintln!("{lane}test: {what}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let mut shown = io::stdout().lock();
            shown.write_all(lane.as_bytes())?;
            shown.write_all(&line)?;
            shown.write_all(b"\n")?;
            tally.count(&String::from_utf8_lossy(&line));
        }
    }
    let status = child.wait()?;
    if !status.success() {
        tally
            .broken
            .push(format!("{what}: cargo ended with {status}"));
    }
    Ok(())
}

/// What all test runs said together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// The lines of the tests that failed.
    failures: Vec<String>,
    /// The lines of the tests that were ignored, each with its reason.
    reasons: Vec<String>,
    /// Runs that ended badly, which a compile error does without a failed test.
    broken: Vec<String>,
}

impl Tally {
    /// Takes in what another lane said.
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.failures.extend(other.failures);
        self.reasons.extend(other.reasons);
        self.broken.extend(other.broken);
    }

    /// Counts one line of a test run's output.
    fn count(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            let number = |what: &str| {
                let count = result
                    .split([';', '.'])
                    .find_map(|part| part.trim().strip_suffix(what));
                count
                    .and_then(|count| count.trim().parse::<u64>().ok())
                    .unwrap_or(0)
            };
            self.passed += number("passed");
            self.failed += number("failed");
            self.ignored += number("ignored");
        } else if let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|line| line.split_once(" ... "))
        {
            let line = format!("{}: {outcome}", name.trim());
            if outcome.starts_with("FAILED") {
                self.failures.push(line);
            } else if outcome.starts_with("ignored") {
                self.reasons.push(line);
            }
        }
    }

    /// Nothing that passed proves nothing: a filter that fits no test, or a summary that we no longer understand.
    fn is_good(&self) -> bool {
        self.passed > 0 && self.failed == 0 && self.broken.is_empty()
    }

    fn print(&self, seconds: u64) {
        println!();
        for line in self
            .reasons
            .iter()
            .chain(&self.failures)
            .chain(&self.broken)
        {
            println!("{line}");
        }
        let verdict = if self.is_good() { "ok" } else { "FAILED" };
        println!(
            "xtask test: {verdict}. {} passed; {} failed; {} ignored; {seconds} s",
            self.passed, self.failed, self.ignored
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up_over_all_runs() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a::b ... ok",
            "test needs_godot   ... ignored (no Godot found)",
            "test long ... ignored, takes an hour",
            "test c ... FAILED",
            "test result: FAILED. 7 passed; 1 failed; 2 ignored; 0 measured; 4 filtered out; finished in 0.10s",
            "test result: ok. 30 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 12.00s",
        ] {
            tally.count(line);
        }
        assert_eq!((tally.passed, tally.failed, tally.ignored), (37, 1, 2));
        assert_eq!(tally.failures, ["c: FAILED"]);
        assert_eq!(
            tally.reasons,
            [
                "needs_godot: ignored (no Godot found)",
                "long: ignored, takes an hour"
            ]
        );
        assert!(!tally.is_good());
    }

    #[test]
    fn a_run_without_a_test_is_not_good() {
        let mut tally = Tally::default();
        tally.count("test result: ok. 0 passed; 0 failed; 3 ignored; 0 measured; 9 filtered out");
        assert!(!tally.is_good());
        tally.count("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out");
        assert!(tally.is_good());
    }

    #[test]
    fn what_starts_a_godot_is_in_a_lane_of_its_own() {
        let (godot, other) = targets().unwrap();
        for name in ["kills", "exported_server", "standby"] {
            assert!(godot.contains(name), "{name}");
        }
        for name in ["duels", "architecture", "cli", "step_crash"] {
            assert!(other.contains(name), "{name}");
        }
        assert!(godot.is_disjoint(&other));
        assert_eq!(chosen(&["a".to_owned()].into()), ["--test", "a"]);
    }

    /// Nothing is built while lanes run beside each other.
    #[test]
    fn a_lane_is_given_what_is_built() {
        let built = [("HARNESS_WATCHDOG", PathBuf::from("/built"))];
        let lane = |built: &[(&str, PathBuf)]| {
            let mut command = Command::new("sh");
            command.args(["-c", "test \"$HARNESS_WATCHDOG\" = /built"]);
            run_lane("", vec![("a test".to_owned(), command)], None, built).unwrap()
        };
        assert!(lane(&built).broken.is_empty());
        assert!(!lane(&[]).broken.is_empty());
    }

    #[test]
    fn a_run_that_does_not_compile_is_not_good() {
        let mut tally = Tally {
            passed: 1,
            ..Tally::default()
        };
        let mut command = Command::new("false");
        command.arg("x");
        run_tests("nothing", "", command, &mut tally).unwrap();
        assert!(!tally.is_good());
    }
}
