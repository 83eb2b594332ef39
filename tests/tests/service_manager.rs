//! The watchdog under a service manager: its notifications, and the unit that the addon ships.
//!
//! The manager is a socket of the test's; what systemd itself thinks of the unit is asked of `systemd-analyze`, and that
//! test is ignored where there is none.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use libtest_mimic::Arguments;
use rustix::process::Signal;
use sidekick_tests::folders::{Folder, repository};
use sidekick_tests::verdicts::{ignorable, trial};
use sidekick_tests::watchdog::Setup;

const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let trials = vec![
        trial(
            "the_manager_is_told_of_start_life_and_end",
            the_manager_is_told_of_start_life_and_end,
        ),
        trial(
            "a_reload_is_told_whatever_comes_of_it",
            a_reload_is_told_whatever_comes_of_it,
        ),
        trial(
            "a_watchdog_that_stands_still_gives_no_sign",
            a_watchdog_that_stands_still_gives_no_sign,
        ),
        trial(
            "a_long_end_asks_for_more_time",
            a_long_end_asks_for_more_time,
        ),
        trial(
            "the_unit_says_what_adoption_needs",
            the_unit_says_what_adoption_needs,
        ),
        ignorable(
            "systemd_finds_nothing_wrong_with_the_unit",
            systemd_finds_nothing_wrong_with_the_unit,
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A service manager's end of the socket.
struct Manager {
    socket: UnixDatagram,
    folder: Folder,
}

impl Manager {
    fn new() -> Self {
        let folder = Folder::new();
        let socket = UnixDatagram::bind(folder.join("notify")).expect("bound");
        Self { socket, folder }
    }

    /// A watchdog of it, and an engine that quits on SIGTERM after running `on_term`.
    fn setup(&self, alive_within: Duration, on_term: &str) -> Setup {
        let mut setup = Setup::new();
        setup.set_config("[health]\nheartbeat = \"optional\"\n");
        let script = format!(
            "trap '{on_term} exit 0' TERM; env > \"$ENV_SEEN\"; while :; do sleep 0.02; done"
        );
        setup.set_engine(["sh", "-c", &script]);
        setup.set_variable("ENV_SEEN", self.folder.join("env").into_os_string());
        setup.set_variable("NOTIFY_SOCKET", self.folder.join("notify").into_os_string());
        setup.set_variable("WATCHDOG_USEC", alive_within.as_micros().to_string());
        setup
    }

    /// The next message, or `None` when none comes within `patience`.
    fn next(&self, patience: Duration) -> Option<String> {
        self.socket
            .set_read_timeout(Some(patience))
            .expect("a time");
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Waits for a message with this line.
    #[track_caller]
    fn wait_for(&self, line: &str) -> String {
        let begun = Instant::now();
        let mut seen = Vec::new();
        while let Some(message) = self.next(PATIENCE.saturating_sub(begun.elapsed())) {
            if message.lines().any(|found| found == line) {
                return message;
            }
            seen.push(message);
        }
        panic!("{line} never came; there were {seen:?}");
    }
}

/// READY when the engine runs, WATCHDOG again and again, STATUS with the engine's state, STOPPING at the end; the engine is told nothing of
/// the manager.
fn the_manager_is_told_of_start_life_and_end() {
    let manager = Manager::new();
    let setup = manager.setup(Duration::from_secs(4), "");
    let watchdog = setup.start();
    manager.wait_for("READY=1");
    let descendants = setup.descendants(Some(&watchdog));
    assert!(!descendants.is_empty(), "ready means that the engine runs");
    manager.wait_for("STATUS=incarnation 1 starting");
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
    let finished = setup.run(&["stop"], PATIENCE);
    assert!(finished.status.success(), "{:?}", finished.lines);
    manager.wait_for("WATCHDOG=1");
    watchdog.stop(PATIENCE);
    manager.wait_for("STOPPING=1");
    let seen = fs::read_to_string(manager.folder.join("env")).expect("the engine ran");
    assert!(!seen.contains("NOTIFY_SOCKET") && !seen.contains("WATCHDOG_USEC"));
}

/// RELOADING with the time, then READY again: by command and by signal, with good rules and with bad ones.
fn a_reload_is_told_whatever_comes_of_it() {
    let manager = Manager::new();
    let setup = manager.setup(Duration::from_secs(60), "");
    let mut watchdog = setup.start();
    manager.wait_for("READY=1");
    let mut last_usec = 0;
    let mut told = |manager: &Manager| {
        let message = manager.wait_for("RELOADING=1");
        let usec = message
            .lines()
            .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        let usec: u64 = usec.and_then(|usec| usec.parse().ok()).expect(&message);
        assert!(usec > last_usec, "{usec} after {last_usec}");
        last_usec = usec;
        manager.wait_for("READY=1");
    };
    let reload = setup.run(&["config", "reload"], PATIENCE);
    assert!(reload.status.success(), "{:?}", reload.lines);
    told(&manager);
    // A hangup would end it where there is a terminal.
    if fs::File::open("/dev/tty").is_err() {
        watchdog.running.signal(Signal::HUP);
        told(&manager);
        setup.set_config("[[stream]]\nmatch = \"a\"\ndrop = \"1 +\"\n");
        watchdog.running.signal(Signal::HUP);
        told(&manager);
        setup.set_config("");
    }
    watchdog.stop(PATIENCE);
    manager.wait_for("STOPPING=1");
}

/// Stopped by a signal it gives no sign, which is what the manager goes by; continued it does again.
fn a_watchdog_that_stands_still_gives_no_sign() {
    let manager = Manager::new();
    let setup = manager.setup(Duration::from_secs(1), "");
    let mut watchdog = setup.start();
    manager.wait_for("WATCHDOG=1");
    watchdog.running.signal(Signal::STOP);
    // What was on its way.
    while manager.next(Duration::from_millis(500)).is_some() {}
    assert_eq!(manager.next(Duration::from_secs(3)), None);
    watchdog.running.signal(Signal::CONT);
    manager.wait_for("WATCHDOG=1");
    watchdog.stop(PATIENCE);
}

/// The engine takes its time to save: the manager is asked to wait.
fn a_long_end_asks_for_more_time() {
    let manager = Manager::new();
    let setup = manager.setup(Duration::from_secs(4), "sleep 1;");
    let watchdog = setup.start();
    manager.wait_for("READY=1");
    watchdog.stop(PATIENCE);
    manager.wait_for("STOPPING=1");
    manager.wait_for("EXTEND_TIMEOUT_USEC=15000000");
}

fn unit() -> String {
    let path = repository().join("addons/sidekick/run/sidekick.service");
    fs::read_to_string(path).expect("part of the addon")
}

/// Without these lines systemd would kill the game with the watchdog, or take its shared memory away.
fn the_unit_says_what_adoption_needs() {
    let unit = unit();
    for line in [
        "Type=notify",
        "NotifyAccess=main",
        "Restart=on-failure",
        "KillMode=process",
        "OOMPolicy=continue",
        "RuntimeDirectoryPreserve=yes",
        "RestartPreventExitStatus=2 3 4 5 7 11 12",
        "ExecReload=/opt/my_game/addons/sidekick/bin/linux.x86_64/sidekick-watchdog config reload --data-dir /var/lib/sidekick",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
}

/// With the paths of a game that is here. Anything it says is a complaint.
fn systemd_finds_nothing_wrong_with_the_unit() -> Result<(), String> {
    let is_there = Command::new("systemd-analyze").arg("--version").output();
    if !is_there.is_ok_and(|output| output.status.success()) {
        return Err("there is no systemd-analyze".to_owned());
    }
    let folder = Folder::new();
    let text: Vec<String> = unit()
        .lines()
        .map(|line| match line.split_once('=') {
            Some(("ExecStart", _)) => "ExecStart=/bin/true --no-restart".to_owned(),
            Some(("ExecReload", _)) => "ExecReload=/bin/true".to_owned(),
            Some(("WorkingDirectory", _)) => "WorkingDirectory=/".to_owned(),
            Some(("User" | "Group", _)) => String::new(),
            _ => line.to_owned(),
        })
        .collect();
    let path = folder.join("sidekick.service");
    fs::write(&path, text.join("\n")).expect("writable");
    let verify = |path: &std::path::Path| {
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .arg(path)
            .output()
            .expect("it was there");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), words)
    };
    let (is_fine, words) = verify(&path);
    if words.contains("unrecognized option") {
        return Err("this systemd-analyze is too old".to_owned());
    }
    let ours: Vec<&str> = words
        .lines()
        .filter(|line| line.contains("sidekick.service"))
        .collect();
    assert!(is_fine && ours.is_empty(), "{words}");
    // It does look: a line that it must refuse.
    fs::write(
        &path,
        text.join("\n")
            .replace("Restart=on-failure", "Restart=on-failures"),
    )
    .expect("writable");
    assert!(verify(&path).1.contains("sidekick.service"));
    Ok(())
}
