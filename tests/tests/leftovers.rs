//! A test that fails leaves no process behind: neither what it started nor what that started, in whatever session.
//!
//! Each trial runs this executable as a test run of its own, in which one trial starts real processes and panics. All of
//! them carry a witness besides the failing test's own tokens, so that what those miss is found.

use std::fs;
use std::mem;
use std::process::{Command, ExitCode};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use sidekick_tests::engine::{self, Game};
use sidekick_tests::process::{self, Running, Token};
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

/// Generous: a loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(90);
/// The first argument of an executable that is to fail, before the name of the scene.
const FLAG: &str = "--fail";
/// What a test run exits with when one of its tests has failed.
const FAILED: i32 = 101;
const LAST_WORDS: &str = "a failure on purpose";
/// A daemon out of the engine's reach: its own session, no descriptor of ours.
const DAEMON: &str = "setsid sh -c 'exec <&- >&- 2>&-; while :; do sleep 0.05; done' &";

fn main() -> ExitCode {
    if let Some(code) = engine::act_if_asked() {
        return code;
    }
    if let Some(code) = fail_if_asked() {
        return code;
    }
    let trials = vec![
        trial("a_failing_test_of_watchdogs_leaves_nothing", || {
            assert_eq!(left_by("watchdogs"), Vec::<String>::new());
        }),
        trial("a_failing_test_of_a_script_leaves_nothing", || {
            assert_eq!(left_by("script"), Vec::<String>::new());
        }),
        trial("a_failing_test_that_forgets_is_seen", || {
            let left = left_by("forgetful");
            assert!(left.iter().any(|line| line.contains("setsid")), "{left:?}");
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(name: &str, run: fn()) -> Trial {
    Trial::test(name, move || {
        run();
        Ok(())
    })
}

/// Lets a test run with this scene fail, and gives what is left of its processes.
#[track_caller]
fn left_by(scene: &str) -> Vec<String> {
    let witness = Token::witness();
    let own = std::env::current_exe().expect("the path of this executable");
    let mut command = Command::new(own);
    command.args([FLAG, scene]);
    witness.mark(&mut command);
    // Not by `Running`, whose own token would clean up.
    let output = command.output().expect("this executable");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(FAILED), "{said}");
    assert!(said.contains(LAST_WORDS), "{said}");
    let mut left = witness.processes();
    left.retain(|pid| process::runs(*pid));
    left.into_iter().map(process::command_line).collect()
}

/// Runs the failing test if this process was started for it; `None` = it is the test run itself.
fn fail_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != FLAG {
        return None;
    }
    let scene: fn() -> Result<(), Failed> = match arguments.next()?.as_str() {
        "watchdogs" => watchdogs,
        "script" => script,
        _ => forgetful,
    };
    let trials = vec![Trial::test("fails", scene)];
    Some(libtest_mimic::run(&Arguments::default(), trials).exit_code())
}

/// An orphaned engine and its daemon, and a second watchdog that has adopted it and would start it again.
fn watchdogs() -> Result<(), Failed> {
    let mut setup = Setup::new();
    let journals = setup.scratch().join("journals");
    fs::create_dir(&journals).expect("a folder");
    let game = Game::new(journals).command_line();
    let script = format!("{DAEMON} exec \"$0\" \"$@\"");
    let wrapper = ["sh".into(), "-c".into(), script.into()];
    setup.set_engine(wrapper.into_iter().chain(game));
    let plays = |watchdog: &Watchdog<'_>| {
        watchdog.wait_for_status("an engine", PATIENCE, |status| {
            (status["engine"]["connected"] == true).then_some(())
        });
    };
    let watchdog = setup.start();
    plays(&watchdog);
    watchdog.kill();
    let watchdog = setup.start();
    plays(&watchdog);
    // Watchdog, engine and daemon.
    let started = setup.token.processes();
    assert!(started.len() >= 3, "{started:?}");
    panic!("{LAST_WORDS}");
}

/// A shell, a child of it in a session of its own, started without any token.
fn shell() -> Running {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{DAEMON} echo up; sleep 600 & wait")]);
    let shell = Running::start(&mut command).expect("there is a sh");
    wait::until("the shell", PATIENCE, || {
        shell.lines.find(0, |line| (line == "up").then_some(()))
    });
    shell
}

fn script() -> Result<(), Failed> {
    let _shell = shell();
    panic!("{LAST_WORDS}");
}

/// The broken variant: nobody cleans up. (The shell is left with its children: it waits for them.)
fn forgetful() -> Result<(), Failed> {
    mem::forget(shell());
    panic!("{LAST_WORDS}");
}
