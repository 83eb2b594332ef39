//! One bad record in ten thousand, against backends that refuse it for good: all others arrive in their order, it alone is a
//! dead letter, with what the backend said and the rules that it was made with.

use std::process::ExitCode;

use serde_json::Value;
use sidekick_tests::engine::{Game, KEPT_VARIABLE, played};
use sidekick_tests::ledger::Key;
use sidekick_tests::postgres::{self, Postgres};
use sidekick_tests::receiver::{Fault, Receiver, Request};
use sidekick_tests::verdicts::{self, PATIENCE, ignorable, journals, stop_cleanly, trial};
use sidekick_tests::watchdog::{Setup, Watchdog};

/// The engine records so many, of two streams.
const RECORDS: u64 = 10_000;
/// The number of the bad one, amid a batch.
const BAD: u64 = 4711;
/// As much as a batch may hold.
const BATCH: u64 = 1000;

fn main() -> ExitCode {
    verdicts::main(vec![
        trial("over_http_it_costs_few_requests", over_http),
        ignorable("a_constraint_of_postgresql_is_one", in_postgresql),
    ])
}

/// A flood of records and rules of a first version.
fn setup(sink: &str) -> Setup {
    let mut setup = Setup::new();
    setup.set_config(&config(sink, 1));
    setup.set_variable(KEPT_VARIABLE, "kept");
    let game = Game {
        per_frame: 500,
        records_max: RECORDS,
        ..Game::new(journals(&setup))
    };
    setup.set_engine(game.command_line());
    setup
}

/// The rules differ with their version, and in nothing that the records meet.
fn config(sink: &str, version: u32) -> String {
    format!(
        "[upload]\nbatch_max_records = {BATCH}\nbatch_max_age = \"50ms\"\nconcurrency_max = 1\nretry_first = \"10ms\"\n\
         retry_max = \"200ms\"\n{sink}\n[[stream]]\nmatch = \"test\"\nfilter = \"seq < {}\"\n",
        RECORDS + u64::from(version)
    )
}

fn wait_until_committed(watchdog: &Watchdog<'_>) {
    watchdog.wait_for_status("all of it committed", PATIENCE, |status| {
        (status["totals"]["committed"].as_u64() >= Some(RECORDS)).then_some(())
    });
}

/// Waits until nothing is left to send; the books.
fn wait_until_settled(watchdog: &Watchdog<'_>) -> Value {
    wait_until_committed(watchdog);
    watchdog.wait_for_status("nothing left to send", PATIENCE, |status| {
        let books = &status["upload"]["sinks"][0]["books"];
        (books["pending"] == 0 && books["dead_letters"] != 0).then(|| books.clone())
    })
}

/// There is one dead letter, of this code and these rules.
#[track_caller]
fn assert_one_letter(setup: &Setup, code: &str, rules_version: u32) {
    let list = setup.run(&["dead-letters", "list", "--json"], PATIENCE);
    let list: Value = serde_json::from_str(&list.stdout.join("\n")).expect("a list");
    assert_eq!(list["count"], 1, "{list:#}");
    let letter = &list["letters"][0];
    assert_eq!(letter["seq"], BAD, "{letter:#}");
    assert_eq!(letter["stream"], "test", "{letter:#}");
    assert_eq!(letter["code"], code, "{letter:#}");
    assert_eq!(letter["rules_version"], rules_version, "{letter:#}");
}

/// First and last position of a request's batch.
fn range(request: &Request) -> [(u64, u64); 2] {
    let range = request.key.rsplit('/').next().unwrap_or_default();
    let position = |text: &str| {
        let (index, item) = text.split_once('.')?;
        Some((index.parse().ok()?, item.parse().ok()?))
    };
    let both = range.split_once('-');
    let both = both.and_then(|(first, last)| Some([position(first)?, position(last)?]));
    both.unwrap_or_else(|| panic!("the key {:?}", request.key))
}

/// A receiver that answers 400 to whatever holds the bad record, after a time in which a backlog grew: full batches.
fn over_http() {
    let mut receiver = Receiver::start();
    receiver.refuse_lines(400, |line| line.contains(&format!("\"data\":\"{BAD}:")));
    receiver.go_down();
    let sink = |receiver: &Receiver| {
        format!(
            "sinks = [\"http\"]\n[upload.http]\nurl = \"{}\"",
            receiver.url()
        )
    };
    let setup = setup(&sink(&receiver));
    let watchdog = setup.start();
    wait_until_committed(&watchdog);
    setup.set_config(&config(&sink(&receiver), 2));
    let reload = setup.run(&["config", "reload"], PATIENCE);
    assert!(reload.status.success(), "{:#?}", reload.lines);
    receiver.come_up();
    let books = wait_until_settled(&watchdog);
    assert_eq!(books["dead_letters"], 1, "{books:#}");
    assert_one_letter(&setup, "HTTP 400", 2);
    stop_cleanly(&setup, watchdog);

    let ledger = receiver.ledger();
    assert!(ledger.violations.is_empty(), "{:#?}", ledger.violations);
    let engines = played(&setup.scratch().join("journals"));
    let keys: Vec<Key> = engines.iter().flat_map(|engine| engine.keys()).collect();
    assert_eq!(keys.len() as u64, RECORDS);
    let missing: Vec<u64> = ledger.missing(&keys).iter().map(|key| key.seq).collect();
    assert_eq!(missing, [BAD]);

    let requests = receiver.requests();
    let refused = |request: &&Request| request.fault == Some(Fault::Status(400));
    let bad = requests.iter().find(refused).expect("a refusal");
    assert!(bad.records as u64 >= BATCH / 2, "{bad:?} is no full batch");
    let [first, last] = range(bad);
    let tries = requests.iter().map(range);
    let tries = tries.filter(|[from, _]| (first..=last).contains(from));
    let (extra, bound) = (tries.count() - 1, 2 * bad.records.ilog2() as usize + 2);
    println!("{extra} requests more for {} records", bad.records);
    assert!(extra <= bound, "{extra} requests more, not {bound}");
}

/// A table with a constraint of the user's own.
fn in_postgresql() -> Result<(), String> {
    let programs = postgres::find().ok_or("no PostgreSQL found; install `postgresql`")?;
    let server = Postgres::start(&programs);
    let database = server.database("poison");
    database.query(&format!(
        "create table sidekick_records (source text not null, epoch uuid not null, seq bigint not null, stream text, \
         time timestamptz, incarnation int, data jsonb check (data #>> '{{}}' not like '{BAD}:%'), \
         written bigint generated always as identity, primary key (source, epoch, seq))"
    ));
    let setup = setup(&format!(
        "sinks = [\"postgres\"]\n[upload.postgres]\ncreate_tables = true\nurl = \"{}\"",
        database.url()
    ));
    let watchdog = setup.start();
    let books = wait_until_settled(&watchdog);
    assert_eq!(books["dead_letters"], 1, "{books:#}");
    assert_one_letter(&setup, "23514", 1);
    stop_cleanly(&setup, watchdog);
    let rows = "from sidekick_records where stream in ('test', 'kept')";
    assert_eq!(
        database.number(&format!("select count(*) {rows}")),
        RECORDS - 1
    );
    let sum = RECORDS * (RECORDS + 1) / 2 - BAD;
    assert_eq!(database.number(&format!("select sum(seq) {rows}")), sum);
    let out_of_order = "select count(*) from (select seq < lag(seq) over (partition by stream order by written) as is_late \
                        from sidekick_records) as rows where is_late";
    assert_eq!(database.number(out_of_order), 0);
    Ok(())
}
