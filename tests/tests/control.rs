//! Orders over the control socket, with the real watchdog and an engine that is a shell.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sidekick_tests::process::{self, Running};
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

const PATIENCE: Duration = Duration::from_secs(120);
const NOT_RUNNING: i32 = 10;
const ORDER_FAILED: i32 = 13;

/// A watchdog of an engine that quits on SIGTERM and needs no extension.
fn setup() -> Setup {
    let mut setup = Setup::new();
    setup.set_config("[health]\nheartbeat = \"optional\"\n");
    setup.set_engine([
        "sh",
        "-c",
        "trap 'exit 0' TERM; while :; do sleep 0.02; done",
    ]);
    setup
}

/// The engine's state, number and process id.
fn engine(watchdog: &Watchdog<'_>, state: &str) -> (u64, Option<u64>) {
    watchdog.wait_for_status(state, PATIENCE, |status| {
        let engine = &status["engine"];
        let (number, pid) = (engine["incarnation"].as_u64(), engine["pid"].as_u64());
        // Before its first start it is starting, too.
        let is_there = engine["state"] == state && (pid.is_some() || state != "starting");
        is_there.then(|| (number.unwrap_or_default(), pid))
    })
}

#[track_caller]
fn order(setup: &Setup, arguments: &[&str]) -> String {
    let finished = setup.run(arguments, PATIENCE);
    assert!(finished.status.success(), "{:?}", finished.lines);
    finished.stdout.join("\n")
}

/// No process of an engine runs. One of the watchdog's own may, and ends soon.
#[track_caller]
fn runs_alone(setup: &Setup, watchdog: &Watchdog<'_>) {
    assert_eq!(setup.engines(Some(watchdog)), [0_u32; 0]);
    wait::until("the watchdog alone", PATIENCE, || {
        let others = setup.descendants(Some(watchdog));
        others.is_empty().then_some(())
    });
}

/// `stop` ends the engine and keeps the watchdog; a watchdog killed meanwhile leaves the stop in force for the next one;
/// `start` ends it.
#[test]
fn a_stop_holds_until_a_start_even_when_the_watchdog_is_killed() {
    let setup = setup();
    let watchdog = setup.start();
    let (first, _) = engine(&watchdog, "starting");
    let words = order(&setup, &["stop", "--grace", "20s"]);
    assert!(words.contains("has ended"), "{words}");
    runs_alone(&setup, &watchdog);
    assert_eq!(engine(&watchdog, "stopped").0, first);
    watchdog.kill();

    let watchdog = setup.start();
    engine(&watchdog, "stopped");
    runs_alone(&setup, &watchdog);
    let words = order(&setup, &["start"]);
    assert!(words.ends_with("runs"), "{words}");
    let (second, pid) = engine(&watchdog, "starting");
    assert!(second > first && pid.is_some());
    watchdog.stop(PATIENCE);
}

/// Who ends the watchdog and runs it again wants an engine.
#[test]
fn a_stop_ends_with_the_watchdog_that_is_asked_to_end() {
    let setup = setup();
    let watchdog = setup.start();
    engine(&watchdog, "starting");
    order(&setup, &["drain", "--grace", "20s"]);
    watchdog.stop(PATIENCE);
    let watchdog = setup.start();
    assert!(engine(&watchdog, "starting").1.is_some());
    watchdog.stop(PATIENCE);
}

/// `restart` leads to another process; the socket is this user's alone; a dead watchdog's socket is told as such.
#[test]
fn a_restart_starts_another_and_a_dead_watchdogs_socket_refuses() {
    let setup = setup();
    let watchdog = setup.start();
    let (first, pid) = engine(&watchdog, "starting");
    let words = order(&setup, &["restart", "--grace", "20s"]);
    assert!(
        words.ends_with(&format!("incarnation {} runs", first + 1)),
        "{words}"
    );
    assert_ne!(engine(&watchdog, "starting").1, pid);
    let socket = setup.runtime_dir().join("control.sock");
    let mode = fs::metadata(&socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    watchdog.kill();
    let finished = setup.run(&["restart"], PATIENCE);
    assert_eq!(finished.status.code(), Some(NOT_RUNNING));
    let words = finished.lines.join("\n");
    assert!(words.contains("it has died"), "{words}");
    // Adopted: whoever has its frames, or is known to have none, runs.
    let watchdog = setup.start();
    let (adopted, _) = engine(&watchdog, "running");
    assert_eq!(adopted, first + 1);
    let words = order(&setup, &["restart", "--grace", "20s"]);
    assert!(words.ends_with("runs"), "{words}");
    watchdog.stop(PATIENCE);
}

/// `logs` shows what the engine printed, also an earlier one, and `logs -f` what it prints from then on.
#[test]
fn logs_are_shown_and_followed() {
    let mut setup = setup();
    setup.set_engine([
        "sh",
        "-c",
        "trap 'exit 0' TERM; echo hello $SIDEKICK_INCARNATION; n=0; while :; do sleep 0.02; n=$((n+1)); echo tick $n; done",
    ]);
    let watchdog = setup.start();
    let (first, _) = engine(&watchdog, "starting");
    let shown = || setup.run(&["logs", "-n", "5000", "-i", &first.to_string()], PATIENCE);
    // An engine that is ended before it has said anything says nothing.
    wait::until("its first line", PATIENCE, || {
        (!shown().stdout.is_empty()).then_some(())
    });
    order(&setup, &["restart", "--grace", "20s"]);
    let hello = format!("{first} | hello {first}");
    assert_eq!(shown().stdout.first(), Some(&hello));
    let mut following =
        Running::start(&mut setup.command(&["logs", "-f", "-n", "1", "--reconnect", "0s"]))
            .expect("it starts");
    wait::until("new lines", PATIENCE, || {
        (following.stdout.count() > 20).then_some(())
    });
    let numbers: Vec<u64> = following
        .stdout
        .all()
        .iter()
        .filter_map(|line| line.rsplit_once(" tick ")?.1.parse().ok())
        .collect();
    let begin = numbers[0];
    let wanted: Vec<u64> = (begin..).take(numbers.len()).collect();
    assert_eq!(numbers, wanted, "none is missing or doubled");
    watchdog.stop(PATIENCE);
    let status = following.wait(PATIENCE).expect("the watchdog has ended");
    assert_eq!(status.code(), Some(NOT_RUNNING));
}

/// `logs -f` goes on with the next watchdog: what the engine printed while none lived is shown then, also what a dead
/// one printed last, and no line is missing or doubled.
#[test]
fn logs_are_followed_over_watchdogs() {
    let setup = printing();
    let told = follow_over_watchdogs(&setup, &mut setup.command(&["logs", "-f", "-n", "1"]));
    let told = told.unwrap_or_else(|wrong| panic!("{wrong}"));
    assert!(
        told.contains("waiting") && told.contains("going on"),
        "{told}"
    );
}

/// A client that asks the next watchdog anew, for its last line or for all it has, is caught by the same look.
#[test]
fn a_client_that_does_not_go_on_where_it_was_is_caught() {
    for lines in ["1", "100000"] {
        let setup = printing();
        let once = setup.command(&["logs", "-f", "-n", lines, "--reconnect", "0s"]);
        let mut again_and_again = Command::new("sh");
        again_and_again
            .args(["-c", r#"while :; do "$0" "$@"; sleep 0.05; done"#])
            .arg(once.get_program())
            .args(once.get_args())
            .current_dir(setup.scratch());
        for (name, value) in once.get_envs() {
            again_and_again.env(name, value.unwrap_or_default());
        }
        let wrong = follow_over_watchdogs(&setup, &mut again_and_again).expect_err("caught");
        assert!(wrong.contains("missing or doubled"), "{wrong}");
    }
}

/// A watchdog of an engine that counts in lines.
fn printing() -> Setup {
    let mut setup = setup();
    let script = "trap 'exit 0' TERM; n=0; while [ $n -lt 1000000 ]; do n=$((n+1)); echo tick $n; \
                  [ $((n%1000)) = 0 ] && sleep 0.05; done; while :; do sleep 0.02; done";
    setup.set_engine(["sh", "-c", script]);
    setup
}

/// Follows the log with `client` while watchdogs are killed, and the engine with the last one. What the client said
/// besides, or what is wrong with the lines that it showed.
fn follow_over_watchdogs(setup: &Setup, client: &mut Command) -> Result<String, String> {
    let watchdog = setup.start();
    let (first, pid) = engine(&watchdog, "starting");
    let mut following = Running::start(client).expect("it starts");
    let tick = |line: &str| {
        let (incarnation, tick) = line.split_once(" | tick ")?;
        Some((incarnation.parse().ok()?, tick.parse().ok()?))
    };
    let ticks = || -> Vec<(u64, u64)> {
        let lines = following.stdout.all();
        lines.iter().filter_map(|line| tick(line)).collect()
    };
    let shown = |at_least: u64| {
        wait::until("lines", PATIENCE, || {
            let &(incarnation, last) = ticks().last()?;
            (incarnation > first || last >= at_least).then_some(last)
        })
    };
    let live = setup.runtime_dir().join(format!("output/{first:010}.log"));
    let printed = || fs::metadata(&live).map_or(0, |found| found.len());
    let mut seen = shown(1);
    watchdog.kill();
    for _ in 0..2 {
        // More than what a watchdog that adopts an engine looks back.
        let before = printed();
        wait::until("output without a watchdog", PATIENCE, || {
            (printed() > before + 100_000).then_some(())
        });
        let watchdog = setup.start();
        engine(&watchdog, "running");
        seen = shown(seen + 1);
        last_of_gapless(ticks().into_iter())?;
        watchdog.kill();
    }
    // It ends while no watchdog lives, in the middle of what it prints.
    let before = printed();
    wait::until("output before the death", PATIENCE, || {
        (printed() > before).then_some(())
    });
    let pid = u32::try_from(pid.expect("it runs")).expect("a pid");
    setup.signal(pid, Signal::KILL);
    wait::until("the engine's end", PATIENCE, || {
        (!process::runs(pid)).then_some(())
    });
    let watchdog = setup.start();
    wait::until("the next engine's lines", PATIENCE, || {
        ticks()
            .last()
            .filter(|(incarnation, _)| *incarnation > first)
            .copied()
    });
    let kept = order(setup, &["logs", "-n", "100000", "-i", &first.to_string()]);
    let kept: Vec<(u64, u64)> = kept.lines().filter_map(tick).collect();
    let shown = ticks().into_iter().filter(|(number, _)| *number == first);
    let last = last_of_gapless(shown)?;
    following.kill();
    watchdog.stop(PATIENCE);
    let printed = kept.last().copied();
    if last != printed {
        return Err(format!("shown up to {last:?}, printed up to {printed:?}"));
    }
    Ok(following.lines.all().join("\n"))
}

/// The last of these lines of one engine, each of which counts one more than the one before.
fn last_of_gapless(ticks: impl Iterator<Item = (u64, u64)>) -> Result<Option<(u64, u64)>, String> {
    let mut last = None;
    for (number, tick) in ticks {
        if last.is_some_and(|last| last != (number, tick - 1)) {
            return Err(format!(
                "a line is missing or doubled: {tick} of {number} comes after {last:?}"
            ));
        }
        last = Some((number, tick));
    }
    Ok(last)
}

/// A crash is listed and shown by a running watchdog, and without one.
#[test]
fn crashes_are_listed_and_shown() {
    let setup = setup();
    let watchdog = setup.start();
    let (first, pid) = engine(&watchdog, "starting");
    setup.signal(
        u32::try_from(pid.expect("it runs")).expect("a pid"),
        Signal::KILL,
    );
    let id = wait::until("a report", PATIENCE, || {
        let list = setup.run(&["crashes", "--json"], PATIENCE);
        let list: Value = serde_json::from_str(&list.stdout.join("\n")).ok()?;
        let report = list.get(0)?;
        assert_eq!(report["incarnation"], first);
        Some(report["report_id"].as_str()?.to_owned())
    });
    let short = &id[id.len() - 8..];
    assert!(order(&setup, &["crashes"]).contains(short));
    let shown = order(&setup, &["crashes", short]);
    assert!(shown.contains("signal       SIGKILL"), "{shown}");
    watchdog.stop(PATIENCE);
    assert_eq!(order(&setup, &["crashes", "last"]), shown);
}

/// An engine that has printed Godot's crash banner and does not end is killed, with its children; one that only sleeps
/// on lives.
#[test]
fn an_engine_that_crashed_and_does_not_end_is_killed() {
    let mut setup = setup();
    setup.set_engine([
        "sh",
        "-c",
        "trap '' TERM; [ $SIDEKICK_INCARNATION = 1 ] && echo 'handle_crash: Program crashed with signal 11'; \
         sleep 600 & sleep 600",
    ]);
    let watchdog = setup.start();
    let cause = watchdog.wait_for_status("the next engine", PATIENCE, |status| {
        let engine = &status["engine"];
        let death = engine["last_deaths"].as_array()?.last()?;
        (engine["incarnation"] == 2).then(|| death["cause"].as_str().map(str::to_owned))?
    });
    // The supervisor's words, or the report's, which take their place.
    let words = ["did not end; killed", "hung in the engine's crash handler"];
    assert!(words.iter().any(|words| cause.contains(words)), "{cause}");
    wait::until("the second engine's processes alone", PATIENCE, || {
        let all = setup.descendants(Some(&watchdog)).len();
        (all == 3 && setup.engines(Some(&watchdog)).len() == 1).then_some(())
    });
    watchdog.stop(PATIENCE);
}

/// What has to be done before each start: while it fails there is no engine, once it succeeds there is one.
#[test]
fn nothing_is_started_before_its_hook_has_succeeded() {
    let setup = setup();
    let go = setup.scratch().join("go");
    setup.set_config(&format!(
        "[health]\nheartbeat = \"optional\"\n[restart]\nbackoff_first = \"50ms\"\nbackoff_max = \"50ms\"\n\
         [hooks]\npre_start = [\"sh\", \"-c\", \"echo look >> $0.looks; test -e $0\", {go:?}]\n",
    ));
    let watchdog = setup.start();
    let looks = setup.scratch().join("go.looks");
    wait::until("a second look", PATIENCE, || {
        let looks = fs::read_to_string(&looks).ok()?;
        (looks.lines().count() > 1).then_some(())
    });
    let status = watchdog.status().expect("an answer");
    assert!(status["engine"]["pid"].is_null(), "{status:#}");
    fs::write(&go, "").expect("written");
    let pid = watchdog.wait_for_status("an engine", PATIENCE, |status| {
        status["engine"]["pid"].as_u64()
    });
    assert!(process::runs(u32::try_from(pid).expect("a pid")));
    watchdog.stop(PATIENCE);
}

/// What is wrong with a status after a start whose hook failed as `why` says.
fn faults_of_a_failed_hook(status: &Value, program: &str, why: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let engine = &status["engine"];
    if engine["failed_starts"].as_u64() < Some(1) {
        faults.push("no start has failed".to_owned());
    }
    let error = engine["start_error"].as_str().unwrap_or_default();
    for wanted in ["[hooks] pre_start", program, why] {
        if !error.contains(wanted) {
            faults.push(format!("{wanted:?} is not in {error:?}"));
        }
    }
    faults
}

/// Whatever keeps a hook from its success, status and log say which and why, and an order that waits for a start ends.
#[test]
fn a_hook_that_fails_is_named_and_orders_do_not_wait_for_it() {
    for (program, arguments, timeout, why) in [
        ("false", "", "30s", "exit code 1"),
        ("sh", ", \"-c\", \"kill -9 $$\"", "30s", "signal 9"),
        ("sleep", ", \"600\"", "200ms", "killed after 200ms"),
        ("/nowhere/hook", "", "30s", "No such file"),
    ] {
        let setup = setup();
        setup.set_config(&format!(
            "[health]\nheartbeat = \"optional\"\n[restart]\nbackoff_first = \"10m\"\nbackoff_max = \"10m\"\n\
             [hooks]\npre_start = [{program:?}{arguments}]\npre_start_timeout = \"{timeout}\"\n",
        ));
        let mut watchdog = setup.start();
        let error = watchdog.wait_for_log("the failed start", PATIENCE, |line| {
            (line.message == "engine not started")
                .then(|| line.text("error").unwrap_or_default().to_owned())
        });
        assert!(error.contains(why), "{error}");
        let status = watchdog.wait_for_status("a later try", PATIENCE, |status| {
            let engine = &status["engine"];
            let is_told = engine["next_try_s"].is_number() && !engine["start_error"].is_null();
            is_told.then(|| status.clone())
        });
        let faults = faults_of_a_failed_hook(&status, program, why);
        assert_eq!(faults, Vec::<String>::new(), "{status:#}");
        // As it was when only a process that could not be made was a failed start.
        let mut silent = status.clone();
        silent["engine"]["start_error"] = Value::Null;
        assert_eq!(faults_of_a_failed_hook(&silent, program, why).len(), 3);
        let words = order(&setup, &["status"]);
        assert!(words.contains(why), "{words}");

        let finished = setup.run(&["restart"], PATIENCE);
        assert_eq!(finished.status.code(), Some(ORDER_FAILED));
        let words = finished.lines.join("\n");
        assert!(words.contains(why), "{words}");
        watchdog.stop(PATIENCE);
    }
}

/// A hook that a stop ends has not failed.
#[test]
fn a_hook_that_is_cancelled_is_no_failed_start() {
    let setup = setup();
    setup.set_config(
        "[health]\nheartbeat = \"optional\"\n[hooks]\npre_start = [\"sleep\", \"600\"]\npre_start_timeout = \"1h\"\n",
    );
    let mut watchdog = setup.start();
    wait::until("the hook", PATIENCE, || {
        (!setup.descendants(Some(&watchdog)).is_empty()).then_some(())
    });
    // The first hook runs before orders are taken.
    wait::until("the stop to be taken", PATIENCE, || {
        let stop = setup.run(&["stop"], PATIENCE);
        stop.status.success().then_some(())
    });
    let words = watchdog.wait_for_log("its end", PATIENCE, |line| {
        let error = line.text("error")?;
        error.contains("pre_start").then(|| error.to_owned())
    });
    assert!(words.ends_with("was cancelled"), "{words}");
    let status = watchdog.status().expect("an answer");
    assert_eq!(status["engine"]["failed_starts"], 0, "{status:#}");
    runs_alone(&setup, &watchdog);
    watchdog.stop(PATIENCE);
}

/// A watchdog is killed while its hook runs: the next one ends that hook, with what left its group, before it runs one of
/// its own. Where nothing tells it of that hook (the broken variant) there are two.
#[test]
fn a_hook_of_a_killed_watchdog_is_ended_before_the_next_one() {
    for is_told in [true, false] {
        let setup = setup();
        let pids = setup.scratch().join("pids");
        setup.set_config(&format!(
            "[health]\nheartbeat = \"optional\"\n[hooks]\npre_start_timeout = \"1h\"\n\
             pre_start = [\"sh\", \"-c\", \"setsid sleep 600 & echo $! $$ >> $0; exec sleep 600\", {pids:?}]\n",
        ));
        let hooks = |count: usize| {
            wait::until("the hook", PATIENCE, || {
                let text = fs::read_to_string(&pids).ok()?;
                let numbers = text.split_whitespace().map(|pid| pid.parse::<u32>().ok());
                let numbers: Vec<u32> = numbers.collect::<Option<_>>()?;
                (text.ends_with('\n') && numbers.len() == 2 * count).then_some(numbers)
            })
        };
        let watchdog = setup.start();
        hooks(1);
        watchdog.kill();
        if !is_told {
            let file = setup.runtime_dir().join("launch/pre_start");
            fs::remove_file(file).expect("it is kept there");
        }
        let watchdog = setup.start();
        let all = hooks(2);
        let living = || all.iter().filter(|pid| process::runs(**pid)).count();
        if is_told {
            wait::until("the new hook alone", PATIENCE, || {
                (living() == 2).then_some(())
            });
        } else {
            assert_eq!(living(), 4);
        }
        assert!(all[2..].iter().all(|pid| process::runs(*pid)));
        watchdog.stop(PATIENCE);
    }
}

/// A watchdog that adopts tells how long the engine has run, and what died before.
#[test]
fn uptime_and_earlier_deaths_outlive_the_watchdog() {
    let setup = setup();
    let watchdog = setup.start();
    let (first, pid) = engine(&watchdog, "starting");
    let pid = u32::try_from(pid.expect("it runs")).expect("a pid");
    setup.signal(pid, Signal::KILL);
    let deaths = |status: &Value| {
        let deaths = status["engine"]["last_deaths"].as_array()?.clone();
        let is_whole = deaths.last()?["gap_ms"].is_number();
        is_whole.then_some(deaths)
    };
    watchdog.wait_for_status("a death", PATIENCE, deaths);
    let file = setup.data_dir().join("deaths.json");
    wait::until("the list of deaths", PATIENCE, || {
        let kept: Value = serde_json::from_str(&fs::read_to_string(&file).ok()?).ok()?;
        kept[0]["gap_ms"].is_number().then_some(())
    });
    watchdog.kill();

    let watchdog = setup.start();
    let status = watchdog.wait_for_status("the adopted engine", PATIENCE, |status| {
        (status["engine"]["state"] == "running").then(|| status.clone())
    });
    let kept = deaths(&status).expect("kept");
    assert_eq!(kept[0]["incarnation"], first);
    let uptime = status["engine"]["uptime_s"].as_f64().expect("known");
    let since = status["uptime_s"].as_f64().expect("known");
    assert!(uptime > since, "{uptime} s, the watchdog {since} s");
    watchdog.stop(PATIENCE);
}
