//! Kills the watchdog, PostgreSQL, the connection and the engine at random moments, and holds the rows against what the
//! engines themselves say they recorded: each record is one row, none is missing.
//!
//! `HARNESS_ROUNDS` sets the number of kills (100 by default; thousands are fine), shared among the ways in which rows are
//! written; `HARNESS_SEED` repeats a run's choices. Where the way allows it the table of records has no key, which would
//! hide a record that came twice. Each commit takes a while, so that
//! many kills of the watchdog fall between the commit and its answer.

use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sidekick_tests::engine::{self, Game};
use sidekick_tests::log_bytes::{damage, entry_with, kill_all, segment};
use sidekick_tests::postgres::{Database, Postgres};
use sidekick_tests::postgres_claims;
use sidekick_tests::verdicts::{PATIENCE, journals, stop_cleanly, stop_unaudited};
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

const ROUNDS_DEFAULT: u64 = 100;
/// Records in a frame of the engine.
const PER_FRAME: u64 = 10;
/// Damaged logs.
const ROTS: u64 = 8;
/// Kills after which the broken variant must have doubled something.
const BROKEN_ROUNDS_MAX: u32 = 60;

const TABLES: &str = "\
    create table sidekick_records (source text not null, epoch uuid not null, seq bigint not null, stream text, \
        time timestamptz, incarnation int, data jsonb);\
    create table sidekick_gaps (source text not null, epoch uuid not null, seq bigint not null, time timestamptz, \
        incarnation int, count bigint, bytes bigint, first_seq bigint, last_seq bigint, cause text, stream text, \
        first_time timestamptz, last_time timestamptz, primary key (source, epoch, seq));\
    create table sidekick_progress (group_id uuid not null, sink text not null, lane int not null, \
        log_index bigint not null, item bigint not null, primary key (group_id, sink, lane));\
    create function be_slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.03); return null; end $$;\
    create constraint trigger be_slow after update on sidekick_progress deferrable initially deferred \
        for each row execute function be_slow()";

/// The broken variant: a watermark that does not move.
const STAND_STILL: &str = "create function stand_still() returns trigger language plpgsql as $$ begin new.log_index = \
     old.log_index; new.item = old.item; return new; end $$; \
     create trigger stand_still before update on sidekick_progress for each row execute function stand_still()";

/// How rows are written: name, what the table needs for it, settings.
const WAYS: [(&str, &str, &str); 3] = [
    ("copy", "", ""),
    (
        "columns",
        // The table of records becomes one of the user's own, with columns of which one has another name.
        "create table others (like sidekick_records); alter table sidekick_records rename data to said",
        "table = \"others\"\n[[upload.postgres.tables]]\nmatch = \"*\"\ntable = \"sidekick_records\"\ncolumns = { source = \
         \"$source\", epoch = \"$epoch\", seq = \"$seq\", stream = \"$stream\", time = \"$time\", incarnation = \
         \"$incarnation\", said = \"$data\" }\n",
    ),
    (
        "insert",
        "alter table sidekick_records add primary key (source, epoch, seq)",
        "mode = \"insert\"\n",
    ),
];

const CUT: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'sidekick-watchdog'";

fn set_up(database: &Database<'_>) -> Setup {
    set_up_with(database, "")
}

fn set_up_with(database: &Database<'_>, settings: &str) -> Setup {
    database.query(TABLES);
    let mut setup = Setup::new();
    let game = Game {
        per_frame: PER_FRAME,
        ..Game::new(journals(&setup))
    };
    setup.set_engine(game.command_line());
    setup.set_config(&format!(
        "[upload]\nsinks = [\"postgres\"]\nbatch_max_age = \"50ms\"\nbatch_max_records = 200\nretry_first = \"10ms\"\n\
         retry_max = \"200ms\"\n[upload.postgres]\nurl = \"{}\"\n{settings}\
         [restart]\nbackoff_first = \"10ms\"\nbackoff_max = \"50ms\"\ncrash_loop_deaths = 1000\n\
         [shutdown]\nupload_grace = \"60s\"\n",
        database.url()
    ));
    setup
}

/// Waits until rows come that were not there.
fn wait_for_rows(database: &Database<'_>, watchdog: &Watchdog<'_>) {
    let count = "select count(*) from sidekick_records";
    let before = database.number(count);
    let more = wait::poll(PATIENCE, || (database.number(count) > before).then_some(()));
    assert!(
        more.is_some(),
        "no rows come; the log says:\n{}",
        watchdog.running.lines.all().join("\n")
    );
}

/// What is wrong with the rows.
fn faults(database: &Database<'_>, setup: &Setup) -> Vec<String> {
    let mut faults = Vec::new();
    let rows = "from sidekick_records where stream = 'test'";
    // Of the same moment: more may come meanwhile.
    let counts = format!("select count(*), count(distinct (source, epoch, seq)) {rows}");
    let counts = database.query(&counts);
    let count = |at: usize| -> u64 {
        let text = counts[0][at].as_deref();
        text.and_then(|text| text.parse().ok()).expect("a count")
    };
    let (all, distinct) = (count(0), count(1));
    if all != distinct {
        faults.push(format!("{} rows came twice", all - distinct));
    }
    let mut recorded = 0;
    for engine in engine::played(&setup.scratch().join("journals")) {
        let of_epoch = format!("{rows} and epoch = '{}'", engine.epoch);
        let journaled = database.number(&format!(
            "select count(distinct seq) {of_epoch} and seq between 1 and {}",
            engine.last
        ));
        recorded += engine.last;
        if journaled != engine.last {
            faults.push(format!(
                "{} has {journaled} of {} records",
                engine.epoch, engine.last
            ));
        }
        // What a killed engine recorded after it last wrote its journal.
        let beyond = database.number(&format!(
            "select count(distinct seq) {of_epoch} and seq > {}",
            engine.last
        ));
        if beyond > PER_FRAME || engine.refused > 0 {
            faults.push(format!(
                "{}: {beyond} records beyond the last, {} refused",
                engine.epoch, engine.refused
            ));
        }
    }
    let gaps = database.number("select count(*) from sidekick_gaps");
    if gaps > 0 {
        faults.push(format!("{gaps} gaps"));
    }
    println!("{recorded} records journaled, {all} rows, {distinct} of them different");
    if recorded == 0 {
        faults.push("nothing was recorded".into());
    }
    faults
}

/// Whatever is killed, at whatever moment: the rows are what was recorded, each once.
fn each_record_is_one_row_whatever_is_killed(server: &Postgres) {
    let rounds = number("HARNESS_ROUNDS").unwrap_or(ROUNDS_DEFAULT);
    let seed = number("HARNESS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{rounds} kills, HARNESS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for (way, (name, table, settings)) in (0..).zip(WAYS) {
        let database = server.database(&format!("kills_{name}"));
        let setup = set_up_with(&database, settings);
        database.query(table);
        let ways = WAYS.len() as u64;
        let rounds = rounds / ways + u64::from(way < rounds % ways);
        println!("{name}, {rounds} kills");
        kill_at_random(server, &database, &setup, rounds, &mut random);
    }
}

fn kill_at_random(
    server: &Postgres,
    database: &Database<'_>,
    setup: &Setup,
    rounds: u64,
    random: &mut fastrand::Rng,
) {
    let mut watchdog = setup.start();
    wait_for_rows(database, &watchdog);
    let started = Instant::now();
    let (mut kills, mut order) = ([0; 4], Vec::new());
    for round in 0..rounds {
        // The moment of the kill, not a wait for anything.
        thread::sleep(Duration::from_millis(random.u64(0..400)));
        if order.is_empty() {
            // Each of them in every four rounds.
            order = vec![0, 1, 2, 3];
            random.shuffle(&mut order);
        }
        let kind = order.pop().unwrap_or_default();
        kills[kind] += 1;
        match kind {
            0 => {
                watchdog.kill();
                thread::sleep(Duration::from_millis(random.u64(0..200)));
                watchdog = setup.start();
            }
            1 => {
                server.kill();
                thread::sleep(Duration::from_millis(random.u64(0..300)));
                server.come_up();
            }
            2 => drop(database.query(CUT)),
            _ => {
                if let Some(pid) = setup.engines(Some(&watchdog)).first() {
                    setup.signal(*pid, Signal::KILL);
                }
            }
        }
        // Every third time the next one comes whenever it comes.
        if round % 3 != 0 {
            wait_for_rows(database, &watchdog);
        }
    }
    wait_for_rows(database, &watchdog);
    println!(
        "killed: watchdog {}, PostgreSQL {}, connection {}, engine {} times in {:?}",
        kills[0],
        kills[1],
        kills[2],
        kills[3],
        started.elapsed()
    );
    let finished = stop_cleanly(setup, watchdog);
    let faults = faults(database, setup);
    assert!(
        faults.is_empty(),
        "{faults:#?}\n{}",
        finished.lines.join("\n")
    );
}

/// The test above can fail: with a watermark that does not move, a batch whose commit was not answered comes twice.
fn a_watermark_that_stands_still_is_found_out(server: &Postgres) {
    let database = server.database("broken");
    let setup = set_up(&database);
    database.query(STAND_STILL);
    let mut watchdog = setup.start();
    let mut random = fastrand::Rng::new();
    for round in 1.. {
        wait_for_rows(&database, &watchdog);
        thread::sleep(Duration::from_millis(random.u64(0..100)));
        watchdog.kill();
        watchdog = setup.start();
        // The batch that was on its way is the first to come again.
        wait_for_rows(&database, &watchdog);
        if faults(&database, &setup)
            .iter()
            .any(|fault| fault.contains("came twice"))
        {
            break;
        }
        assert!(round < BROKEN_ROUNDS_MAX, "nothing came twice");
    }
    stop_unaudited(&setup, watchdog);
    // So would the audit at the end of every test.
    audit(&setup, 15);
}

/// A table that is not there, and then is; `doctor` and `status` say what is missing, and no secret is shown.
fn a_missing_table_parks_and_is_told(server: &Postgres) {
    let database = server.database("parked");
    let setup = set_up(&database);
    database.query("drop table sidekick_records");
    let finished = setup.run(&["doctor"], PATIENCE);
    let line = finished
        .lines
        .iter()
        .find(|line| line.contains("upload.postgres"));
    let line = line.unwrap_or_else(|| panic!("{}", finished.lines.join("\n")));
    assert!(
        line.starts_with("warn") && line.contains("\"sidekick_records\" is missing"),
        "{line}"
    );
    let watchdog = setup.start();
    let reason = watchdog.wait_for_status("a parked sink", PATIENCE, |status| {
        let sink = status["upload"]["sinks"].as_array()?.first()?;
        (sink["state"] == "parked").then(|| sink["reason"].as_str().unwrap_or_default().to_owned())
    });
    assert!(
        reason.contains("42P01") && reason.contains("create_tables"),
        "{reason}"
    );
    database.query("create table sidekick_records (source text not null, epoch uuid not null, seq bigint not null, \
                    stream text, time timestamptz, incarnation int, data jsonb, primary key (source, epoch, seq))");
    wait_for_rows(&database, &watchdog);
    stop_cleanly(&setup, watchdog);
    assert_eq!(faults(&database, &setup), Vec::<String>::new());
    let finished = setup.run(&["doctor"], PATIENCE);
    let told = finished
        .lines
        .iter()
        .any(|line| line.starts_with("ok") && line.contains("the tables are there"));
    assert!(told, "{}", finished.lines.join("\n"));
}

#[track_caller]
fn audit(setup: &Setup, code: i32) -> serde_json::Value {
    let finished = setup.run(&["audit", "--json"], PATIENCE);
    let text = finished.stdout.join("\n");
    assert_eq!(
        finished.status.code(),
        Some(code),
        "{text}{:?}",
        finished.lines
    );
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What an audit says that is wrong: in a word and the first number.
fn differences(audit: &serde_json::Value) -> Vec<(String, Option<u64>)> {
    let differences = audit["sinks"][0]["differences"].as_array();
    let differences = differences.into_iter().flatten();
    differences
        .map(|difference| {
            let what = difference["what"].as_str().unwrap_or_default();
            (what.to_owned(), difference["first_seq"].as_u64())
        })
        .collect()
}

/// An audit reads every row back: the books balance, beside a running watchdog as well, and a row that is deleted, doubled
/// or nobody's is found and named.
fn an_audit_finds_what_is_wrong_with_the_rows(server: &Postgres) {
    let database = server.database("audit");
    let setup = set_up(&database);
    let watchdog = setup.start();
    wait_for_rows(&database, &watchdog);
    audit(&setup, 0);
    stop_cleanly(&setup, watchdog);
    let whole = audit(&setup, 0);
    let sink = &whole["sinks"][0];
    assert_eq!(sink["name"], "postgres");
    assert_eq!(
        sink["uploaded"], sink["destination"]["records"],
        "{whole:#}"
    );
    assert_eq!(sink["pending"], 0, "{whole:#}");
    assert_eq!(sink["accepted"], sink["uploaded"], "{whole:#}");

    database.query("create table kept as select * from sidekick_records where seq = 7");
    database.query("delete from sidekick_records where seq = 7");
    let missing = vec![("missing".to_owned(), Some(7))];
    assert_eq!(differences(&audit(&setup, 15)), missing);
    database.query("insert into sidekick_records select * from kept");
    audit(&setup, 0);
    database.query("insert into sidekick_records select * from kept");
    let doubled = vec![("doubled".to_owned(), Some(7))];
    assert_eq!(differences(&audit(&setup, 15)), doubled);
    database.query("update sidekick_records set seq = 1000000 where ctid = (select max(ctid) from sidekick_records where seq = 7)");
    let beyond = vec![("there, and never accepted".to_owned(), Some(1_000_000))];
    assert_eq!(differences(&audit(&setup, 15)), beyond);

    // A table that is not there makes the sink one that cannot be asked; one that the sink would make holds nothing.
    database.query("alter table sidekick_gaps rename to gone");
    let unread = audit(&setup, 1);
    assert!(unread["sinks"][0]["unread"].is_string(), "{unread:#}");
    let config = fs::read_to_string(setup.config_path()).expect("a configuration");
    let section = "[upload.postgres]\n";
    setup.set_config(&config.replace(section, &format!("{section}create_tables = true\n")));
    assert_eq!(differences(&audit(&setup, 15)), beyond);
}

/// The log is damaged behind a kill amid uploads: what had arrived by then is asked of the database. Each number is a row
/// or told as lost, once, and the books balance.
fn what_arrived_is_not_told_as_lost(server: &Postgres) {
    let mut random = fastrand::Rng::with_seed(20_261_134);
    let (mut losses, mut rounds) = (0, 0);
    for round in 0..ROTS {
        let database = server.database(&format!("rot{round}"));
        let mut setup = set_up(&database);
        setup.set_variable("SIDEKICK_UPLOAD__CONCURRENCY_MAX", "1");
        let game = Game {
            per_frame: 1,
            text_bytes: 500,
            ..Game::new(setup.scratch().join("journals"))
        };
        setup.set_engine(game.command_line());
        let watchdog = setup.start();
        let committed = |watchdog: &Watchdog<'_>, count: u64| {
            watchdog.wait_for_status("committed records", PATIENCE, |status| {
                let committed = status["totals"]["committed"].as_u64();
                committed.filter(|committed| *committed >= count)
            });
        };
        committed(&watchdog, 200);
        wait_for_rows(&database, &watchdog);
        kill_all(&setup, watchdog);
        let bytes = std::fs::read(segment(&setup)).expect("a log");
        wait::until("the end of the last transaction", PATIENCE, || {
            let connections = "select count(*) from pg_stat_activity where application_name = 'sidekick-watchdog'";
            (database.number(connections) == 0).then_some(())
        });
        // The entry of the last record that arrived: most often of a batch of which the watchdog did not hear any more. Where
        // it holds the last records of the session, these are read from the ring again, which tells nothing of what arrived.
        let last = database.number("select max(seq) from sidekick_records where stream = 'test'");
        let Some(entry) = entry_with(&bytes, &format!("{last}:xxx"), 500) else {
            continue;
        };
        let at = random.usize(entry.at..entry.end - 8);
        rounds += 1;
        damage(&setup, at, &mut random);
        println!("round {round}: byte {at}");
        let watchdog = setup.start();
        committed(&watchdog, 400);
        let log = stop_cleanly(&setup, watchdog).lines.join("\n");
        let told = format!("round {round}, byte {at}");
        for engine in engine::played(&setup.scratch().join("journals")) {
            let epoch = format!("epoch = '{}'", engine.epoch);
            let lost = format!(
                "select first_seq + n as seq from sidekick_gaps, generate_series(0, last_seq - first_seq) as n where {epoch}"
            );
            let twice = database.number(&format!(
                "select count(*) from (select seq from (select seq from sidekick_records where {epoch} union all {lost}) as a \
                 group by seq having count(*) > 1) as b"
            ));
            let missing = database.number(&format!(
                "select count(*) from generate_series(1, {}) as seq where seq not in (select seq from sidekick_records \
                 where {epoch}) and seq not in ({lost})",
                engine.last
            ));
            assert_eq!((twice, missing), (0, 0), "{told}:\n{log}");
            losses += database.number(&format!("select count(*) from ({lost}) as a"));
        }
        audit(&setup, 0);
    }
    println!("{losses} records were lost in {rounds} rounds");
    assert!(rounds > 0, "the last record always lay at the log's end");
}

/// The password is in no output of the watchdog's, whatever goes wrong.
fn the_password_is_shown_nowhere(server: &Postgres) {
    let database = server.database("secret");
    let mut setup = set_up(&database);
    let file = setup.scratch().join("url");
    let secret = "hunter2secret";
    std::fs::write(
        &file,
        database
            .url()
            .replace("postgres@", &format!("postgres:{secret}@"))
            .replace("/secret", "/nowhere"),
    )
    .expect("a file");
    setup.set_variable("SIDEKICK_UPLOAD__POSTGRES__URL_FILE", &file);
    setup.set_variable("SIDEKICK_LOG__LEVEL", "trace");
    let mut lines = Vec::new();
    for command in [&["config", "print"][..], &["check"], &["doctor"]] {
        lines.extend(setup.run(command, PATIENCE).lines);
    }
    let watchdog = setup.start();
    let status = watchdog.wait_for_status("a parked sink", PATIENCE, |status| {
        let text = status.to_string();
        text.contains("3D000").then_some(text)
    });
    lines.push(status);
    lines.extend(watchdog.running.lines.all());
    let shown: Vec<&String> = lines.iter().filter(|line| line.contains(secret)).collect();
    assert!(shown.is_empty(), "{shown:#?}");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text:?} is no number")),
    )
}

fn main() -> ExitCode {
    if let Some(code) = engine::act_if_asked() {
        return code;
    }
    postgres_claims!(
        each_record_is_one_row_whatever_is_killed,
        a_watermark_that_stands_still_is_found_out,
        a_missing_table_parks_and_is_told,
        an_audit_finds_what_is_wrong_with_the_rows,
        what_arrived_is_not_told_as_lost,
        the_password_is_shown_nowhere,
    )
}
