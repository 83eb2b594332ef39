//! The time of leases over a kill of the watchdog: it stands still while none runs, and it never goes back.
//!
//! The engine is this executable: under each watchdog it takes a lease of its own, of the same length, and renews none. After an
//! outage longer than that the first one must be there beside the second, and must end before it. Both are questions of order, so
//! a slow machine fails neither: a run in which the second watchdog took too long to be asked proves nothing, and is repeated
//! with longer leases.

use std::ffi::OsString;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Arguments;
use serde_json::Value;
use sidekick_ipc::tree::{Path as TreePath, StoreOp};
use sidekick_ipc::{Phase, Session};
use sidekick_tests::engine;
use sidekick_tests::process::Running;
use sidekick_tests::verdicts::trial;
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

const FLAG: &str = "--act-as-holder";
const FRAME: Duration = Duration::from_millis(5);
/// Frames before the first lease is taken, so that a clock that begins anew is behind it afterwards.
const FRAMES_BEFORE: u32 = 300;
/// Length of the leases at the first try.
const TTL: Duration = Duration::from_secs(4);
const TRIES: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == FLAG) {
        return hold();
    }
    let trials = vec![
        trial(
            "a_lease_outlives_an_outage_and_ends_in_its_turn",
            a_lease_outlives_an_outage_and_ends_in_its_turn,
        ),
        trial(
            "clocks_that_run_on_or_go_back_are_noticed",
            clocks_that_run_on_or_go_back_are_noticed,
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The engine: takes lease `/leases/<n>` under the n-th watchdog.
fn hold() -> ExitCode {
    let ttl_ms = std::env::args().nth(2).expect("a time to live");
    let ttl_ms = ttl_ms.parse().expect("milliseconds");
    let session = Session::create(engine::options()).expect("a session");
    session.set_ready();
    let (mut generation, mut count, mut frames) = (0, 0, 0);
    loop {
        session.on_frame(Phase::Running);
        while session.next_message().is_some() {}
        let control = session.control();
        if control.quit.is_some() {
            session.set_clean_exit(0);
            return ExitCode::SUCCESS;
        }
        frames += 1;
        if frames > FRAMES_BEFORE && control.generation != generation {
            generation = control.generation;
            count += 1;
            let path = TreePath::new(&format!("/leases/{count}")).expect("a path");
            let grant = StoreOp::LeaseGrant { path, ttl_ms };
            session.op(&grant).expect("to be taken");
        }
        thread::sleep(FRAME);
    }
}

/// What there was to see.
#[derive(Debug)]
struct Seen {
    /// Tokens of the leases when the second one was first seen; 0 of one that was not held.
    tokens: [u64; 2],
    /// In which order they ended.
    ended: Vec<u32>,
}

/// Sentences about what is not as promised.
fn broken_promises(seen: &Seen) -> Vec<String> {
    let mut broken = Vec::new();
    let [first, second] = seen.tokens;
    if first == 0 {
        broken.push("a lease ended while no watchdog ran".to_owned());
    }
    if second <= first {
        broken.push(format!("token {second} came after {first}"));
    }
    if seen.ended != [1, 2] {
        broken.push(format!("the leases ended in the order {:?}", seen.ended));
    }
    broken
}

fn a_lease_outlives_an_outage_and_ends_in_its_turn() {
    for number in 0..TRIES {
        let ttl = TTL * 2_u32.pow(number);
        if let Some(seen) = outage(ttl) {
            assert_eq!(broken_promises(&seen), Vec::<String>::new(), "{seen:?}");
            return;
        }
    }
    panic!("in {TRIES} tries the watchdog was never asked in time");
}

/// Kills the watchdog once the first lease is granted and starts another after more than the lease's time. `None`: the second
/// had run for as long as a lease lives when it was asked.
fn outage(ttl: Duration) -> Option<Seen> {
    let mut setup = Setup::new();
    let own = std::env::current_exe().expect("the path of this executable");
    let ttl_ms = ttl.as_millis().to_string();
    setup.set_engine([own.into(), FLAG.into(), OsString::from(ttl_ms)]);
    setup.set_config("[upload]\nsinks = []\n");
    let watchdog = setup.start();
    wait::until("the first lease", PATIENCE, || held(&setup, 1));
    watchdog.kill();
    // What is waited for is that time goes by.
    thread::sleep(ttl + ttl / 4);
    let runs_since = Instant::now();
    let watchdog = setup.start();
    let tokens = wait::until("the second lease", PATIENCE, || {
        let second = held(&setup, 2)?;
        Some([held(&setup, 1).unwrap_or(0), second])
    });
    if runs_since.elapsed() >= ttl {
        watchdog.stop(PATIENCE);
        return None;
    }
    let arguments = ["store", "watch", "/leases/*", "--from", "0"];
    let events = Running::start(&mut setup.command(&arguments)).expect("starts");
    let ended = wait::until("both leases to end", PATIENCE, || {
        let ended: Vec<u32> = events.stdout.all().iter().filter_map(ended).collect();
        assert!(ended.len() <= 2, "one lease for each watchdog: {ended:?}");
        (ended.len() == 2).then_some(ended)
    });
    watchdog.stop(PATIENCE);
    Some(Seen { tokens, ended })
}

/// The token of a lease that is held.
fn held(setup: &Setup, number: u32) -> Option<u64> {
    let arguments = ["store", "get", &format!("/leases/{number}"), "--node"];
    let finished = setup.run(&arguments, PATIENCE);
    let node: Value = serde_json::from_str(finished.stdout.first()?).ok()?;
    node["lease_token"].as_u64().filter(|token| *token > 0)
}

/// Which lease's node this event says has gone, as the nodes of leases do at their end.
fn ended(line: impl AsRef<str>) -> Option<u32> {
    let event: Value = serde_json::from_str(line.as_ref()).ok()?;
    let is_end = event["event"] == "delete" && event["reason"] == "lease";
    let path = event["path"].as_str().filter(|_| is_end)?;
    path.strip_prefix("/leases/")?.parse().ok()
}

/// What would be seen of leases of three seconds whose time goes as `clock` says: from seconds since the start and whether this
/// is the second watchdog, which begins after nine seconds, to lease time. The leases are granted after 2 s and 9.5 s.
fn seen_with(clock: impl Fn(f64, bool) -> f64) -> Seen {
    let ends = [clock(2.0, false) + 3.0, clock(9.5, true) + 3.0];
    let is_there = |end: f64| clock(9.5, true) < end;
    let mut ended = vec![1, 2];
    ended.sort_by(|a, b| ends[*a as usize - 1].total_cmp(&ends[*b as usize - 1]));
    let tokens = [
        u64::from(is_there(ends[0])),
        2 * u64::from(is_there(ends[1])),
    ];
    Seen { tokens, ended }
}

/// The test above can fail: its judge knows a clock that runs on during the outage, and one that begins anew after it.
fn clocks_that_run_on_or_go_back_are_noticed() {
    // What was committed at 2 s is where the second watchdog goes on.
    let right = |s: f64, is_second| if is_second { 2.0 + s - 9.0 } else { s };
    assert_eq!(broken_promises(&seen_with(right)), Vec::<String>::new());
    let runs_on = broken_promises(&seen_with(|s, _| s));
    assert!(runs_on[0].contains("no watchdog ran"), "{runs_on:?}");
    let anew = |s: f64, is_second| if is_second { s - 9.0 } else { s };
    let begins_anew = broken_promises(&seen_with(anew));
    assert!(begins_anew[0].contains("[2, 1]"), "{begins_anew:?}");
}
