//! How long a server is away: from `kill -9` to the next process's first instruction, and to the first tick of a real
//! engine; beside the floor (posix_spawn and waitpid in a loop) and runit's supervisor, killed in turns in the same run.
//!
//! Also while the store takes ten thousand records a second, and while its disk stands still for a second (a file system
//! in a file, frozen: root only). And how long after `hang_timeout` a hang is noticed.
//!
//! The programs take the time themselves, as their first act: how often this bench looks adds nothing.

mod subject;

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sidekick_tests::build::Profile;
use sidekick_tests::engine::Game;
use sidekick_tests::folders::Folder;
use sidekick_tests::mount::Mount;
use sidekick_tests::process::{Running, Token};
use sidekick_tests::project::Project;
use sidekick_tests::watchdog::{LogLine, Setup, Watchdog};

use self::subject::{Subject, compile, start_floor, start_runit};
use super::line::{Line, Printer, Target, median};
use super::metrics;
use crate::godot;

/// Nothing is killed before it has lived this long: a watchdog's relaunch waits longer for what dies young.
const SETTLE: Duration = Duration::from_millis(1300);
const PATIENCE: Duration = Duration::from_secs(60);
const RECORDS_PER_S: u64 = 10_000;
/// The engine without Godot has 200 frames a second.
const RECORDS_PER_FRAME: u64 = RECORDS_PER_S / 200;
/// How long a disk stands still, and when within that the engine is killed.
const STALL: Duration = Duration::from_secs(1);
const INTO_STALL: Duration = Duration::from_millis(200);
const DISK_BYTES: u64 = 512 << 20;
/// `[ring] size` as it is by default.
const RING_BYTES: u64 = 16 << 20;
const HANG_TIMEOUT: Duration = Duration::from_secs(1);

const OF_FLOOR_MAX: f64 = 2.0;
const P95_MS_MAX: f64 = 10.0;
const HANG_LATE_MS_MAX: f64 = 100.0;

const CONFIG: &str = "[engine]\nrestart = \"always\"\n[health]\nheartbeat = \"optional\"\n\
                      [restart]\nbackoff_first = \"1ms\"\nbackoff_max = \"1ms\"\nstable_after = \"1s\"\n\
                      [upload]\nsinks = []\n";

/// The programs of all measurements.
struct Tools {
    folder: Folder,
    /// Of the engines that no watchdog looks after.
    rings: Folder,
    stamp: PathBuf,
    floor: PathBuf,
}

pub(super) fn run(printer: Printer, samples: usize) -> Result<(), Box<dyn Error>> {
    let folder = Folder::new();
    let (stamp, floor) = (folder.join("stamp"), folder.join("floor"));
    compile(include_str!("relaunch/stamp.c"), &stamp)?;
    compile(include_str!("relaunch/floor.c"), &floor)?;
    let rings = Folder::in_memory();
    fs::set_permissions(rings.path(), fs::Permissions::from_mode(0o700))?;
    let tools = Tools {
        folder,
        rings,
        stamp,
        floor,
    };
    first_instruction(printer, &tools, samples)?;
    under_load(printer, &tools, samples)?;
    stalled_disk(printer, &tools, samples)?;
    hang(printer, &tools, samples.div_ceil(5))?;
    first_tick(printer, &tools, samples)
}

impl Tools {
    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// What stamps into `log` and then is `program`, or only waits.
    fn stamping(&self, log: &Path, program: &[OsString]) -> Vec<OsString> {
        let mut words = vec![self.stamp.clone().into_os_string(), log.into()];
        words.extend_from_slice(program);
        words
    }

    /// A setup whose engine stamps into `log` and then is `program`, or only waits.
    fn setup(&self, log: &Path, program: &[OsString]) -> Setup {
        let mut setup = Setup::with_profile(Profile::Dist);
        setup.set_config(CONFIG);
        setup.set_engine(self.stamping(log, program));
        setup
    }

    /// A setup whose engine records ten thousand times a second.
    fn recording_setup(&self, log: &Path) -> Result<Setup, Box<dyn Error>> {
        Ok(self.setup(log, &self.recording_engine()?))
    }

    /// The same engine under the floor, so that as much has to be given back at its death. Nobody takes what it records.
    fn start_recording_floor(&self, log: &Path, token: &Token) -> Result<Running, Box<dyn Error>> {
        let environment = [
            ("SIDEKICK_RUNTIME_DIR", self.rings.path().into()),
            ("SIDEKICK_LAUNCH", "1".into()),
            ("SIDEKICK_INCARNATION", "1".into()),
            ("SIDEKICK_RING_SIZE", RING_BYTES.to_string().into()),
            ("SIDEKICK_SPILL_MAX", "0".into()),
        ];
        let program = self.stamping(log, &self.recording_engine()?);
        start_floor(&self.floor, &program, &environment, token)
    }

    fn recording_engine(&self) -> Result<Vec<OsString>, Box<dyn Error>> {
        let journals = self.folder.join("journals");
        fs::create_dir_all(&journals)?;
        let game = Game {
            per_frame: RECORDS_PER_FRAME,
            text_bytes: 150,
            ..Game::new(journals)
        };
        Ok(game.command_line())
    }
}

/// Kills all subjects' programs in turns.
fn rounds(subjects: &mut [Subject<'_>], samples: usize) -> Result<(), Box<dyn Error>> {
    for _ in 0..samples {
        for subject in subjects.iter_mut() {
            subject.settle(SETTLE)?;
            subject.kill()?;
        }
    }
    Ok(())
}

/// Prints the watchdog's times, the last of the subjects, beside the others'.
fn print(printer: Printer, case: &str, subjects: &[Subject<'_>], has_targets: bool) {
    let Some((ours, peers)) = subjects.split_last() else {
        return;
    };
    let mut line = Line::median("relaunch", case, "ms", &ours.samples);
    for peer in peers {
        let its = Line::median("", "", "", &peer.samples);
        line = line
            .beside(peer.name, its.p50)
            .beside(&format!("{}_p95", peer.name), its.p95);
    }
    let p95 = line.p95;
    let tail =
        Line::median("relaunch", &format!("{case}_p95"), "ms", &ours.samples).with_value(p95);
    printer.print(&line);
    if !has_targets {
        return;
    }
    printer.print(&tail.target(Target::AtMost(P95_MS_MAX)));
    for peer in peers {
        let ratio = median(&ours.samples) / median(&peer.samples);
        let limit = if peer.name == "floor" {
            OF_FLOOR_MAX
        } else {
            1.0
        };
        let line = Line::median(
            "relaunch",
            &format!("{case}_of_{}", peer.name),
            "ratio",
            &[ratio],
        )
        .with_n(ours.samples.len() as u64)
        .target(Target::AtMost(limit));
        printer.print(&line);
    }
}

/// A watchdog with nothing else to do, the floor and runit.
fn first_instruction(
    printer: Printer,
    tools: &Tools,
    samples: usize,
) -> Result<(), Box<dyn Error>> {
    printer.tell("relaunch, to the first instruction");
    let token = Token::new();
    let logs = ["floor", "runit", "sidekick"].map(|name| tools.log(name));
    let _floor = start_floor(&tools.floor, &tools.stamping(&logs[0], &[]), &[], &token)?;
    let runit = start_runit(tools.folder.path(), &tools.stamping(&logs[1], &[]), &token)?;
    let setup = tools.setup(&logs[2], &[]);
    let watchdog = setup.start();
    let mut subjects = vec![Subject::new("floor", &token, logs[0].clone())];
    match runit {
        Some(_) => subjects.push(Subject::new("runit", &token, logs[1].clone())),
        None => printer.tell("runit is not measured: runsv is not installed"),
    }
    subjects.push(Subject::new("sidekick", &setup.token, logs[2].clone()));
    rounds(&mut subjects, samples)?;
    print(printer, "first_instruction", &subjects, true);
    print_gaps(printer, "first_instruction", &watchdog);
    Ok(())
}

/// While the engine that is killed records, and the store commits, ten thousand records a second.
fn under_load(printer: Printer, tools: &Tools, samples: usize) -> Result<(), Box<dyn Error>> {
    printer.tell("relaunch, while the store takes 10,000 records/s");
    let token = Token::new();
    let logs = ["floor_load", "sidekick_load"].map(|name| tools.log(name));
    let _floor = tools.start_recording_floor(&logs[0], &token)?;
    let setup = tools.recording_setup(&logs[1])?;
    let watchdog = setup.start();
    let mut subjects = [
        Subject::new("floor", &token, logs[0].clone()),
        Subject::new("sidekick", &setup.token, logs[1].clone()),
    ];
    let (started, before) = (Instant::now(), committed(&watchdog));
    rounds(&mut subjects, samples)?;
    let rate = (committed(&watchdog) - before) / started.elapsed().as_secs_f64();
    printer.tell(&format!("  {rate:.0} records/s were committed meanwhile"));
    print(printer, "records_10k", &subjects, true);
    print_gaps(printer, "records_10k", &watchdog);
    watchdog.stop(PATIENCE);
    Ok(())
}

/// From the proof of a death to the return of the next start, by the watchdog's own account: its own part of the way.
fn print_gaps(printer: Printer, case: &str, watchdog: &Watchdog<'_>) {
    let lines = watchdog.log();
    let gaps: Vec<f64> = lines
        .iter()
        .filter(|line| line.message == "engine started")
        .filter_map(|line| line.fields.get("gap_ms")?.as_f64())
        .collect();
    printer.print(&Line::median(
        "relaunch",
        &format!("{case}_proof_to_started"),
        "ms",
        &gaps,
    ));
}

fn committed(watchdog: &Watchdog<'_>) -> f64 {
    metrics::read(watchdog, "sidekick_records_committed_total").unwrap_or_default()
}

/// While the engine records and the disk under the data directory stands still for a second.
fn stalled_disk(printer: Printer, tools: &Tools, samples: usize) -> Result<(), Box<dyn Error>> {
    printer.tell("relaunch, while the disk stands still for a second");
    let disk = match Mount::disk(&tools.folder.join("disk"), DISK_BYTES) {
        Ok(disk) => disk,
        Err(problem) => {
            printer.tell(&format!("the stalled disk is not measured: {problem}"));
            return Ok(());
        }
    };
    let token = Token::new();
    let logs = ["floor_stall", "sidekick_stall"].map(|name| tools.log(name));
    let _floor = tools.start_recording_floor(&logs[0], &token)?;
    let mut setup = tools.recording_setup(&logs[1])?;
    setup.set_variable("SIDEKICK_DATA_DIR", disk.path().join("data"));
    let watchdog = setup.start();
    let mut subjects = [
        Subject::new("floor", &token, logs[0].clone()),
        Subject::new("sidekick", &setup.token, logs[1].clone()),
    ];
    for _ in 0..samples {
        for subject in &subjects {
            subject.settle(SETTLE)?;
        }
        let stall = disk.stall(STALL)?;
        thread::sleep(INTO_STALL);
        for subject in &mut subjects {
            subject.kill()?;
        }
        stall.wait()?;
    }
    print(printer, "stalled_disk", &subjects, true);
    watchdog.stop(PATIENCE);
    Ok(())
}

/// From SIGSTOP of an engine at 200 frames a second to the watchdog's word, beyond `hang_timeout`.
fn hang(printer: Printer, tools: &Tools, samples: usize) -> Result<(), Box<dyn Error>> {
    printer.tell("relaunch, until a hang is noticed");
    let log = tools.log("sidekick_hang");
    let setup = tools.recording_setup(&log)?;
    let seconds = HANG_TIMEOUT.as_secs();
    setup.set_config(&CONFIG.replace(
        "[health]\n",
        &format!("[health]\nhang_timeout = \"{seconds}s\"\n"),
    ));
    let watchdog = setup.start();
    let mut late = Vec::new();
    for incarnation in 1..=samples as u64 {
        let plays = |line: &LogLine| {
            let is_it =
                line.message == "game ready" && line.number("incarnation") == Some(incarnation);
            is_it.then_some(())
        };
        wait_for_line(&watchdog, 0, plays).ok_or("the engine never played")?;
        thread::sleep(SETTLE);
        let seen = watchdog.running.lines.count();
        let engine = setup.engines(Some(&watchdog));
        let stopped = Instant::now();
        for pid in &engine {
            setup.signal(*pid, Signal::STOP);
        }
        let noticed = wait_for_line(&watchdog, seen, |line| {
            (line.message == "engine hung").then(Instant::now)
        });
        let noticed = noticed.ok_or("the hang was never noticed")?;
        let after = noticed.duration_since(stopped).as_secs_f64() - HANG_TIMEOUT.as_secs_f64();
        late.push(after * 1e3);
        for pid in engine {
            setup.signal(pid, Signal::KILL);
        }
    }
    let line = Line::median("relaunch", "hang_noticed_late", "ms", &late);
    let worst = late.iter().copied().fold(f64::MIN, f64::max);
    let line = line
        .with_value(worst)
        .beside("hang_timeout", HANG_TIMEOUT.as_secs_f64() * 1e3);
    printer.print(&line.target(Target::AtMost(HANG_LATE_MS_MAX)));
    watchdog.stop(PATIENCE);
    Ok(())
}

/// Looks every millisecond: what is measured is told by the line's arrival.
fn wait_for_line<T>(
    watchdog: &Watchdog<'_>,
    from: usize,
    mut pick: impl FnMut(&LogLine) -> Option<T>,
) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let lines = &watchdog.running.lines;
        if let Some(found) = lines.find(from, |line| pick(&LogLine::parse(line)?)) {
            return Some(found);
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

/// To the first frame of a real engine, which takes its own time to start: beside the same engine under the floor.
fn first_tick(printer: Printer, tools: &Tools, samples: usize) -> Result<(), Box<dyn Error>> {
    printer.tell("relaunch, to a real engine's first tick");
    let godot = godot::locate()?;
    let project = Project::shipped(include_str!("relaunch/main.gd"));
    let token = Token::new();
    let logs = ["floor_godot", "sidekick_godot"].map(|name| tools.log(name));
    let command = |log: &Path| {
        let log = log.display().to_string();
        project.command_line(&godot, &[&log])
    };
    let _floor = start_floor(&tools.floor, &command(&logs[0]), &[], &token)?;
    let mut setup = Setup::with_profile(Profile::Dist);
    setup.set_config(CONFIG);
    setup.set_engine(command(&logs[1]));
    let watchdog = setup.start();
    let mut subjects = [
        Subject::new("floor", &token, logs[0].clone()),
        Subject::new("sidekick", &setup.token, logs[1].clone()),
    ];
    rounds(&mut subjects, samples)?;
    print(printer, "first_tick", &subjects, false);
    watchdog.stop(PATIENCE);
    Ok(())
}
