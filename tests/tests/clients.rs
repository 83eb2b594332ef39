//! A client of the demo's arena sees its server killed, and goes on with the next one.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sidekick_tests::bot::{Bot, is_of_another_server};
use sidekick_tests::godot::Godot;
use sidekick_tests::ports;
use sidekick_tests::process;
use sidekick_tests::project::{Engine, Options, Project};
use sidekick_tests::watchdog::{Setup, Watchdog};

const DEADLINE: Duration = Duration::from_secs(120);
/// The interval of the demo's State node (0.1 s at 60 ticks a second), the tick in which it was due, and the one that the client saw.
const LOST_TICKS_MAX: i64 = 8;

/// Starts a client of the project's server.
fn client(godot: &Godot, project: &Project, port: u16, arguments: &[&str]) -> Bot {
    Bot::start(godot, project.path(), port, arguments, project.path())
}

/// The `number`th time, from 1, that the client said this.
#[track_caller]
fn said(bot: &Bot, what: &str, number: usize) -> Value {
    bot.wait(what, number, DEADLINE)
        .unwrap_or_else(|| panic!("no {what} {number}: {:#?}", bot.running.lines.all()))
}

/// The `number`th time, from 1, that the match went on with another server.
#[track_caller]
fn gone_on(bot: &Bot, number: usize) -> Value {
    bot.wait_for_the_next_server(number, DEADLINE)
        .unwrap_or_else(|| panic!("no server {number}: {:#?}", bot.running.lines.all()))
}

fn serve(godot: &Godot, project: &Project, port: u16) -> Engine {
    let port = port.to_string();
    let options = Options {
        user_arguments: vec!["--players", "20", "--port", &port],
        ..Options::default()
    };
    let mut server = project.start(godot, &options);
    server.wait_for_line("arena: open on UDP port", DEADLINE);
    server
}

/// The client notices the death long before ENet would, and tries until there is a server. (Without a watchdog that one knows
/// nothing of the match before.)
fn a_client_goes_on_with_the_next_server(godot: &Godot) {
    let project = Project::demo();
    let port = ports::free_udp();
    let mut server = serve(godot, &project, port);
    let bot = client(godot, &project, port, &["--token", "one"]);
    let other = client(godot, &project, port, &[]);
    let joined = said(&bot, "joined", 1);
    assert_ne!(joined["player"], said(&other, "joined", 1)["player"]);
    for number in 1..=2 {
        process::signal(&server.token, server.running.pid(), Signal::KILL);
        let lost = said(&bot, "lost", number);
        assert!(
            lost["gap_ms"].as_f64() >= Some(150.0),
            "not before its time: {lost}"
        );
        server = serve(godot, &project, port);
        let resumed = said(&bot, "resumed", number);
        assert!(
            resumed["gap_ms"].as_f64() >= lost["gap_ms"].as_f64(),
            "{resumed}"
        );
        said(&other, "resumed", number);
    }
}

/// The arena keeps nothing by itself: with its State node the match goes on after each `kill -9` where it was, up to a checkpoint
/// interval, and each client gets the player that it had. A server that only stood still is no other one.
fn the_match_goes_on_after_each_kill(godot: &Godot) {
    let project = Project::demo();
    let mut setup = Setup::new();
    let port = ports::free_udp();
    let arguments = ["--players", "50", "--port", &port.to_string()];
    setup.set_engine(project.command_line(godot, &arguments));
    // One that is made to stand still is not to be taken for hung.
    setup.set_config(
        "[health]\nhang_timeout = \"60s\"\n[restart]\nbackoff_first = \"10ms\"\nbackoff_max = \"50ms\"\n",
    );
    let watchdog = setup.start();
    let bots = [
        client(godot, &project, port, &[]),
        client(godot, &project, port, &[]),
    ];
    let joined: Vec<Value> = bots.iter().map(|bot| said(bot, "joined", 1)).collect();
    assert_ne!(joined[0]["player"], joined[1]["player"]);
    stand_still(&setup, &watchdog, &bots);
    let mut tick = 0;
    for number in 1..=5 {
        // A while after the last: what is kept must be newer than what was restored.
        play_on(&watchdog);
        for engine in setup.engines(Some(&watchdog)) {
            setup.signal(engine, Signal::KILL);
        }
        for (bot, joined) in bots.iter().zip(&joined) {
            let word = gone_on(bot, number);
            let value = |name: &str| word[name].as_f64().unwrap_or(f64::NAN) as i64;
            let lost = value("tick_before") - value("tick_began");
            assert!(lost <= LOST_TICKS_MAX, "{lost} ticks are missing: {word}");
            assert!(value("score") >= value("score_before") - 1, "{word}");
            assert_eq!(word["player"], joined["player"], "{word}");
            assert!(value("tick_began") > tick, "it does not move: {word}");
        }
        tick = gone_on(&bots[0], number)["tick"]
            .as_f64()
            .unwrap_or_default() as i64;
    }
    watchdog.stop(DEADLINE);
    // Each server process has found out which match it is, and told it in its records.
    let ledger = setup.uploaded_files();
    let seconds = ledger.records().values();
    let seconds = seconds.filter(|arrival| arrival.stream == "match.second");
    let told: BTreeSet<(String, u64)> = seconds
        .filter_map(|arrival| {
            let incarnation = arrival.value()["incarnation"].as_u64()?;
            Some((arrival.data()["match"].to_string(), incarnation))
        })
        .collect();
    let matches: BTreeSet<&String> = told.iter().map(|(told, _)| told).collect();
    assert!(told.len() > 1 && matches.len() == 1, "{told:?}");
    assert!(matches.iter().all(|told| *told != "null"), "{told:?}");
}

/// Lets the match go on for a second; it has at most a frame for each tick.
#[track_caller]
fn play_on(watchdog: &Watchdog) {
    let frame = |status: &Value| status["engine"]["frame"].as_u64();
    let begun = watchdog.wait_for_status("a match", DEADLINE, frame);
    watchdog.wait_for_status("a match that goes on", DEADLINE, |status| {
        frame(status).filter(|frame| *frame > begun + 60)
    });
}

/// Stops the server until all clients have lost it.
fn stand_still(setup: &Setup, watchdog: &Watchdog, bots: &[Bot]) {
    let signal = |signal: Signal| {
        for engine in setup.engines(Some(watchdog)) {
            setup.signal(engine, signal);
        }
    };
    // A busy machine may have done the same before.
    let number = |bot: &Bot| bot.words("lost").len() + 1;
    let numbers: Vec<usize> = bots.iter().map(number).collect();
    signal(Signal::STOP);
    for (bot, number) in bots.iter().zip(&numbers) {
        said(bot, "lost", *number);
    }
    signal(Signal::CONT);
    for (bot, number) in bots.iter().zip(&numbers) {
        let word = said(bot, "resumed", *number);
        assert!(!is_of_another_server(&word), "{word}");
        assert!(
            word["tick"].as_f64() >= word["tick_before"].as_f64(),
            "{word}"
        );
    }
}

/// A restart while players are on: the new server is booted first, and goes on with the match and everybody's player.
fn a_restart_by_way_of_a_standby_keeps_the_match(godot: &Godot) {
    let project = Project::demo();
    let mut setup = Setup::new();
    let port = ports::free_udp();
    let arguments = ["--players", "50", "--port", &port.to_string()];
    setup.set_engine(project.command_line(godot, &arguments));
    setup.set_config("[engine]\nstandby = 1\n");
    let watchdog = setup.start();
    let bot = client(godot, &project, port, &[]);
    let joined = said(&bot, "joined", 1);
    watchdog.wait_for_status("a parked standby", DEADLINE, |status| {
        (status["standby"]["state"] == "parked").then_some(())
    });
    play_on(&watchdog);
    let restarted = setup.run(&["restart"], DEADLINE);
    assert!(restarted.status.success(), "{:#?}", restarted.lines);
    let word = gone_on(&bot, 1);
    let value = |name: &str| word[name].as_f64().unwrap_or(f64::NAN) as i64;
    let lost = value("tick_before") - value("tick_began");
    assert!(lost <= LOST_TICKS_MAX, "{lost} ticks are missing: {word}");
    assert!(value("tick_began") > 60, "it began anew: {word}");
    assert!(value("score") >= value("score_before") - 1, "{word}");
    assert_eq!(word["player"], joined["player"], "{word}");
    let status = watchdog.status().expect("answers");
    assert_eq!(
        status["engine"]["incarnation"], 3,
        "the fresh one: {status:#}"
    );
    watchdog.stop(DEADLINE);
}

/// A server that only stands still is lost as well; once it goes on, the client is let in again, and its old connection is no
/// second player.
fn a_client_comes_back_to_a_server_that_stood_still(godot: &Godot) {
    let project = Project::demo();
    let port = ports::free_udp();
    let server = serve(godot, &project, port);
    let bot = client(godot, &project, port, &[]);
    let joined = said(&bot, "joined", 1);
    process::signal(&server.token, server.running.pid(), Signal::STOP);
    said(&bot, "lost", 1);
    process::signal(&server.token, server.running.pid(), Signal::CONT);
    let resumed = said(&bot, "resumed", 1);
    assert_eq!(resumed["player"], joined["player"], "{resumed}");
    assert!(
        resumed["tick"].as_u64() >= resumed["tick_before"].as_u64(),
        "{resumed}"
    );
    assert_eq!(bot.words("joined").len(), 1);
}

sidekick_tests::godot_claims!(
    the_match_goes_on_after_each_kill,
    a_restart_by_way_of_a_standby_keeps_the_match,
    a_client_goes_on_with_the_next_server,
    a_client_comes_back_to_a_server_that_stood_still,
);
