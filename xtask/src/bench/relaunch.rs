//! How long a server is away: from `kill -9` to the next process's first instruction, and to the first tick of a real
//! engine; beside the floor (posix_spawn and waitpid in a loop) and the supervisors that are installed (`peers`), killed
//! in turns in the same run. Floor and runit are what the targets are judged by.
//!
//! Also while the store takes ten thousand records a second, and while its disk stands still for a second (a file system
//! in a file, frozen: root only). And how long after `hang_timeout` a hang is noticed.
//!
//! The programs take the time themselves, as their first act: how often this bench looks adds nothing.

mod hang;
mod peers;
mod report;
mod subject;

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use sidekick_tests::build::Profile;
use sidekick_tests::engine::Game;
use sidekick_tests::folders::Folder;
use sidekick_tests::mount::Mount;
use sidekick_tests::process::{Running, Token};
use sidekick_tests::project::Project;
use sidekick_tests::watchdog::{Setup, Watchdog};

use self::peers::PEERS;
use self::subject::{Subject, compile, rounds, start_floor};
use super::line::{Line, Printer, Target};
use crate::godot;

/// Nothing is killed before it has lived this long: supervisors wait longer for what dies young, most of them within a
/// second, some by clocks of whole seconds.
const SETTLE_BESIDE_PEERS: Duration = Duration::from_millis(1300);
/// The same where there is only Sidekick, which takes a life of a second for a stable one.
const SETTLE: Duration = Duration::from_millis(1100);
/// The longest that a peer may take until its program runs.
const PEER_START_MAX: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(60);
const RECORDS_PER_S_MIN: f64 = 10_000.0;
/// The engine without Godot has nearly 200 frames a second while it lives, and it is killed again and again.
const RECORDS_PER_FRAME: u64 = 60;
/// How long a disk stands still, and when within that the engine is killed.
const STALL: Duration = Duration::from_secs(1);
const INTO_STALL: Duration = Duration::from_millis(200);
const DISK_BYTES: u64 = 512 << 20;
/// `[ring] size` as it is by default.
const RING_BYTES: u64 = 16 << 20;

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
    hang::run(printer, &tools, samples.div_ceil(5))?;
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

/// A watchdog with nothing else to do, the floor and the peers.
fn first_instruction(
    printer: Printer,
    tools: &Tools,
    samples: usize,
) -> Result<(), Box<dyn Error>> {
    printer.tell("relaunch, to the first instruction");
    let case = "first_instruction";
    let token = Token::new();
    let (floor_log, log) = (tools.log("floor"), tools.log("sidekick"));
    let _floor = start_floor(&tools.floor, &tools.stamping(&floor_log, &[]), &[], &token)?;
    let mut subjects = vec![Subject::new("floor", &token, floor_log)];
    let mut running = Vec::new();
    for peer in PEERS {
        let log = tools.log(peer.name);
        let folder = tools.folder.join(peer.name);
        let its = match peer.start(&folder, &tools.stamping(&log, &[]), &token) {
            Ok(its) => its,
            Err(why) => {
                printer.skip("relaunch", &report::by(case, peer.name), &why);
                continue;
            }
        };
        let subject = Subject::new(peer.name, &token, log).into_peer(peer.samples_max);
        if subject.has_started(PEER_START_MAX) {
            subjects.push(subject);
            running.push(its);
        } else {
            let said = its.lines.all().pop().unwrap_or_default();
            let why = format!("it does not start its program here: {said}");
            printer.skip("relaunch", &report::by(case, peer.name), &why);
        }
    }
    let setup = tools.setup(&log, &[]);
    let watchdog = setup.start();
    subjects.push(Subject::new("sidekick", &setup.token, log));
    rounds(&mut subjects, SETTLE_BESIDE_PEERS, samples)?;
    report::print(printer, case, &subjects, true);
    report::print_gaps(printer, case, &watchdog);
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
    for subject in &subjects {
        subject.settle(SETTLE)?;
    }
    let before = Committed::read(&watchdog)?;
    rounds(&mut subjects, SETTLE, samples)?;
    let rate = Committed::read(&watchdog)?.rate_since(&before);
    let line = Line::median("relaunch", "records_10k_committed", "records/s", &[rate]);
    printer.print(&line.target(Target::AtLeast(RECORDS_PER_S_MIN)));
    report::print(printer, "records_10k", &subjects, true);
    report::print_gaps(printer, "records_10k", &watchdog);
    watchdog.stop(PATIENCE);
    Ok(())
}

/// What a watchdog's status says of its commits, and when.
struct Committed {
    records: f64,
    /// Of the watchdog's life when the status was made.
    at_s: f64,
}

impl Committed {
    fn read(watchdog: &Watchdog<'_>) -> Result<Self, Box<dyn Error>> {
        let status = watchdog.status().ok_or("the watchdog tells no status")?;
        let number = |value: &Value| value.as_f64().ok_or("the status has no such number");
        Ok(Self {
            records: number(&status["totals"]["committed"])?,
            at_s: number(&status["uptime_s"])?,
        })
    }

    /// Records a second since then.
    fn rate_since(&self, before: &Self) -> f64 {
        (self.records - before.records) / (self.at_s - before.at_s).max(f64::MIN_POSITIVE)
    }
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
    report::print(printer, "stalled_disk", &subjects, true);
    watchdog.stop(PATIENCE);
    Ok(())
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
    rounds(&mut subjects, SETTLE, samples)?;
    report::print(printer, "first_tick", &subjects, false);
    watchdog.stop(PATIENCE);
    Ok(())
}
