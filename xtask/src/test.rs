//! `cargo xtask test`: everything a fresh machine needs, then all tests, then what came of them in one place.
//!
//! Nothing but Rust and a C compiler must be there beforehand. Godot is fetched where the machine has none;
//! where that cannot be, the tests that need it are ignored with the reason, and the summary says so.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

mod tally;

use clap::Args;
use serde_json::Value;
use sidekick_tests::build::{self, Profile};
use sidekick_tests::folders::repository;

use crate::{godot, install};
use tally::Tally;

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

    // Once and whole, so that below nothing but the choice of targets differs: all have the same features.
    let build = Run::new("all tests are built", tests(&["--no-run"]), 0);
    let mut tally = run_lane("", vec![build]);
    if tally.broken.is_empty() {
        tally.add(run_lanes(options)?);
    }
    println!("\n{}", tally.summary(started.elapsed().as_secs()));
    if tally.is_good() {
        Ok(())
    } else {
        Err("not all tests passed".into())
    }
}

/// One command that runs tests.
struct Run {
    what: String,
    command: Command,
    /// How many test targets it runs: each tells a result, or it died before.
    targets: usize,
}

impl Run {
    fn new(what: impl Into<String>, command: Command, targets: usize) -> Self {
        let what = what.into();
        Self {
            what,
            command,
            targets,
        }
    }

    /// With the filter of its tests' names, and what is built for them.
    fn given(mut self, filter: Option<&str>, built: &[(&str, PathBuf)]) -> Self {
        self.command.arg("--").args(filter);
        self.command
            .envs(built.iter().map(|(name, path)| (name, path)));
        self
    }
}

/// Runs all tests in two lanes beside each other: both wait most of the time, for deaths, restarts and time-outs.
///
/// What starts a Godot runs one after the other as before. Beside it runs all that starts none.
fn run_lanes(options: &Options) -> io::Result<Tally> {
    let targets = Targets::find()?;
    let godot = vec![Run::new(
        "tests with a Godot",
        tests(&chosen(&targets.godot)),
        targets.godot.values().sum(),
    )];
    let mut rest = vec!["--lib".to_owned(), "--bins".to_owned()];
    rest.extend(chosen(&targets.other));
    let mut rest = vec![
        Run::new(
            "tests without a Godot",
            tests(&rest),
            targets.units + targets.other.values().sum::<usize>(),
        ),
        Run::new(
            "examples in the documentation",
            tests(&["--doc"]),
            targets.documented,
        ),
    ];
    if !options.quick {
        for model in loom_models()? {
            rest.push(Run::new(format!("the model {model}"), loom(&model), 1));
        }
    }
    // Two lanes that build get in each other's way: one links a program while the other copies it.
    let built = build::ready_made();
    let given = |runs: Vec<Run>| -> Vec<Run> {
        let filter = options.filter.as_deref();
        let runs = runs.into_iter();
        runs.map(|run| run.given(filter, &built)).collect()
    };
    Ok(side_by_side(given(godot), given(rest)))
}

/// Both lanes to their end, whatever becomes of either.
fn side_by_side(godot: Vec<Run>, rest: Vec<Run>) -> Tally {
    thread::scope(|scope| {
        let beside = scope.spawn(|| run_lane("godot | ", godot));
        let mut tally = run_lane("other | ", rest);
        match beside.join() {
            Ok(beside) => tally.add(beside),
            Err(_) => tally
                .broken
                .push("the lane of tests with a Godot panicked".to_owned()),
        }
        tally
    })
}

/// One command after the other.
fn run_lane(lane: &str, runs: Vec<Run>) -> Tally {
    let mut tally = Tally::default();
    for run in runs {
        let what = run.what.clone();
        if let Err(error) = run_tests(lane, run, &mut tally) {
            tally.broken.push(format!("{what}: {error}"));
        }
    }
    tally
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

fn chosen(targets: &BTreeMap<String, usize>) -> Vec<String> {
    let options = targets
        .keys()
        .map(|name| ["--test".to_owned(), name.clone()]);
    options.flatten().collect()
}

/// The test targets of the workspace.
#[derive(Debug, Default)]
struct Targets {
    /// The names of those that start a Godot, with how many crates have one of this name. A name is of one lane, whichever crate
    /// has it.
    godot: BTreeMap<String, usize>,
    /// All others.
    other: BTreeMap<String, usize>,
    /// Libraries and programs, which have tests inside.
    units: usize,
    /// Libraries, whose documentation has examples.
    documented: usize,
}

impl Targets {
    fn find() -> io::Result<Self> {
        let output = cargo()
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .stderr(Stdio::inherit())
            .output()?;
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let listed = packages.filter_map(|package| package["targets"].as_array());
        let mut targets = Self::default();
        let mut named = Vec::new();
        for target in listed.flatten() {
            let is = |wanted: &str| {
                let kinds = target["kind"].as_array();
                kinds.is_some_and(|kinds| kinds.contains(&wanted.into()))
            };
            let is_library = is("lib") || is("cdylib");
            targets.units += usize::from((is_library || is("bin")) && target["test"] == true);
            targets.documented += usize::from(is_library && target["doctest"] == true);
            if let (true, Some(name), Some(source)) = (
                is("test"),
                target["name"].as_str(),
                target["src_path"].as_str(),
            ) {
                named.push((
                    name.to_owned(),
                    starts_a_godot(&fs::read_to_string(source)?),
                ));
            }
        }
        let godot = named.iter().filter(|(_, starts)| *starts);
        let godot: BTreeSet<String> = godot.map(|(name, _)| name.clone()).collect();
        for (name, _) in named {
            let lane = match godot.contains(&name) {
                true => &mut targets.godot,
                false => &mut targets.other,
            };
            *lane.entry(name).or_default() += 1;
        }
        Ok(targets)
    }
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
fn run_tests(lane: &str, run: Run, tally: &mut Tally) -> io::Result<()> {
    let Run {
        what,
        mut command,
        targets,
    } = run;
    eprintln!("{lane}test: {what}");
    let told_before = tally.told;
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
    let told = tally.told - told_before;
    if !status.success() {
        tally
            .broken
            .push(format!("{what}: cargo ended with {status}"));
    }
    // One that ends early and well would pass unseen.
    if told < targets {
        tally.broken.push(format!(
            "{what}: {told} of {targets} test targets told a result"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
