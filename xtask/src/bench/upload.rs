//! From the ring over the disk to a backend: records per second, processor time, bytes written, and what a backlog costs.
//!
//! The producer is the example `flood` of sidekick-ipc, launched by a real watchdog as if it were the game; the time runs from its first
//! record to the last one's arrival. The backend over HTTP is a counter on loopback, the database a real PostgreSQL of the bench's own.
//! Beside them, in the same run: rsyslog with records of the same size, and PostgreSQL's own `\copy` of the very rows that came.

mod backlog;
mod counter;
mod rsyslog;
mod usage;
mod written;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use sidekick_tests::build::Profile;
use sidekick_tests::postgres::{self, Postgres};
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

use self::counter::Counter;
use self::rsyslog::{Queue, Sink};
use super::line::{Line, Printer, Target, median};
use super::passed;

const ROUNDS: usize = 3;
/// In each round.
const RECORDS: u64 = 1_000_000;
/// rsyslog is given fewer where it would take minutes; a rate is a rate.
const PEER_RECORDS: u64 = 200_000;
const PEER_SYNCED_RECORDS: u64 = 20_000;
const VALUE_BYTES: &str = "150";
const PATIENCE: Duration = Duration::from_secs(180);

const HTTP_PER_S_MIN: f64 = 100_000.0;
const HTTP_OF_SYNCED_RSYSLOG_MIN: f64 = 10.0;
const CPU_S_PER_MILLION_MAX: f64 = 6.0;
const POSTGRES_OF_COPY_MIN: f64 = 0.5;
const POSTGRES_OF_RSYSLOG_MIN: f64 = 5.0;

/// What `flood` writes down, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Flood {
    frame_bytes: u64,
    committed_s: f64,
    refused: u64,
}

/// How one round of ours went.
struct Delivery {
    per_s: f64,
    cpu_s_per_million: f64,
}

pub(super) fn run(printer: Printer) -> Result<(), Box<dyn Error>> {
    let flood = passed::example("sidekick-ipc", "flood")?;
    over_http(printer, &flood)?;
    written::run(printer, &flood)?;
    backlog::run(printer, &flood)?;
    into_postgres(printer, &flood)
}

/// The settings of all cases but for the sink: the flood is no game, and there is to be no quota in the way.
fn config(sink: &str) -> String {
    format!(
        "[engine]\nrestart = \"never\"\n[health]\nheartbeat = \"optional\"\n[store]\ndisk_quota = \"16GiB\"\n\
         [shutdown]\nupload_grace = \"0s\"\n{sink}"
    )
}

fn http_sink(port: u16) -> String {
    format!(
        "[upload]\nsinks = [\"http\"]\n[upload.http]\nurl = \"http://127.0.0.1:{port}/records\"\n"
    )
}

/// Sets the flood as the engine; `per_s` limits it. Returns the file that it writes when all is committed.
fn flood_command(setup: &mut Setup, flood: &Path, records: u64, per_s: Option<u64>) -> PathBuf {
    let out = setup.scratch().join("flood.json");
    let mut command = vec![
        flood.as_os_str().to_owned(),
        out.clone().into_os_string(),
        records.to_string().into(),
        "0".into(),
        VALUE_BYTES.into(),
    ];
    command.extend(per_s.map(|per_s| per_s.to_string().into()));
    setup.set_engine(command);
    out
}

/// What the flood wrote, and when its first record was made.
fn read_flood(out: &Path) -> Result<(Flood, SystemTime), Box<dyn Error>> {
    let flood: Flood = serde_json::from_str(&fs::read_to_string(out)?)?;
    if flood.refused > 0 {
        return Err(format!("{} records were refused", flood.refused).into());
    }
    let ended = fs::metadata(out)?.modified()?;
    let first = ended - Duration::from_secs_f64(flood.committed_s);
    Ok((flood, first))
}

/// Floods a watchdog with this sink, until `arrived` says when the last record has come.
fn deliver(
    flood: &Path,
    sink: &str,
    arrived: impl Fn() -> Option<SystemTime>,
) -> Result<Delivery, Box<dyn Error>> {
    let mut setup = Setup::with_profile(Profile::Dist);
    setup.set_config(&config(sink));
    let out = flood_command(&mut setup, flood, RECORDS, None);
    let watchdog = setup.start();
    let last = wait::poll(PATIENCE, &arrived);
    let Some(last) = last else {
        let log = watchdog.running.lines.all().join("\n");
        return Err(format!("not all records came; the watchdog's log says:\n{log}").into());
    };
    let pid = watchdog.running.pid();
    let cpu_s = usage::cpu_s(pid)?;
    let (_, first) =
        wait::poll(PATIENCE, || read_flood(&out).ok()).ok_or("no word of the flood")?;
    watchdog.stop(PATIENCE);
    Ok(Delivery {
        per_s: RECORDS as f64 / last.duration_since(first)?.as_secs_f64(),
        cpu_s_per_million: cpu_s / RECORDS as f64 * 1e6,
    })
}

fn over_http(printer: Printer, flood: &Path) -> Result<(), Box<dyn Error>> {
    let (mut ours, mut synced, mut unsynced) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        printer.tell(&format!("upload, over HTTP, round {round} of {ROUNDS}"));
        let (counter, address) = Counter::start(0)?;
        let arrived = || {
            let count = counter.count();
            count.last.filter(|_| count.records >= RECORDS)
        };
        ours.push(deliver(flood, &http_sink(address.port()), arrived)?);
        for (queue, records, runs) in [
            (Queue::Synced, PEER_SYNCED_RECORDS, &mut synced),
            (Queue::Unsynced, PEER_RECORDS, &mut unsynced),
        ] {
            let (counter, address) = Counter::start(0)?;
            let port = address.port();
            let arrived = || {
                let count = counter.count();
                count.last.filter(|_| count.records >= records)
            };
            runs.extend(peer(
                printer,
                &Sink::Elasticsearch { port },
                queue,
                records,
                arrived,
            ));
        }
    }
    let rates: Vec<f64> = ours.iter().map(|run| run.per_s).collect();
    let line =
        Line::median("upload", "http", "records/s", &rates).target(Target::AtLeast(HTTP_PER_S_MIN));
    let line = with_peer(line, "rsyslog_synced", &synced, |peer| peer.per_s);
    printer.print(&with_peer(line, "rsyslog", &unsynced, |peer| peer.per_s));
    if !synced.is_empty() {
        let peer = median(&synced.iter().map(|peer| peer.per_s).collect::<Vec<_>>());
        let line = Line::median(
            "upload",
            "http_of_rsyslog_synced",
            "ratio",
            &[median(&rates) / peer],
        );
        printer.print(&line.target(Target::AtLeast(HTTP_OF_SYNCED_RSYSLOG_MIN)));
    }
    let of = |pick: fn(&Delivery) -> f64| ours.iter().map(pick).collect::<Vec<f64>>();
    let line = Line::median(
        "upload",
        "http_cpu",
        "s/million",
        &of(|run| run.cpu_s_per_million),
    );
    let line = with_peer(line, "rsyslog_synced", &synced, |peer| {
        peer.cpu_s_per_million
    });
    let line = with_peer(line, "rsyslog", &unsynced, |peer| peer.cpu_s_per_million);
    printer.print(&line.target(Target::AtMost(CPU_S_PER_MILLION_MAX)));
    Ok(())
}

/// How one round of a peer went.
struct Peer {
    per_s: f64,
    cpu_s_per_million: f64,
}

/// One round of rsyslog; `None`, and why, where it cannot be measured.
fn peer(
    printer: Printer,
    sink: &Sink<'_>,
    queue: Queue,
    records: u64,
    arrived: impl Fn() -> Option<SystemTime>,
) -> Option<Peer> {
    match rsyslog::run(sink, queue, records, arrived) {
        Ok(run) => Some(Peer {
            per_s: records as f64 / run.seconds,
            cpu_s_per_million: run.cpu_s / records as f64 * 1e6,
        }),
        Err(cause) => {
            printer.tell(&format!("without rsyslog ({queue:?}): {cause}"));
            None
        }
    }
}

fn with_peer(line: Line, name: &str, peers: &[Peer], pick: fn(&Peer) -> f64) -> Line {
    match peers {
        [] => line,
        peers => line.beside(name, median(&peers.iter().map(pick).collect::<Vec<_>>())),
    }
}

fn into_postgres(printer: Printer, flood: &Path) -> Result<(), Box<dyn Error>> {
    let Some(programs) = postgres::find() else {
        printer.tell("upload, without PostgreSQL: not installed (`apt-get install postgresql`)");
        return Ok(());
    };
    let server = Postgres::start(&programs);
    let (mut ours, mut copies, mut peers) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        printer.tell(&format!(
            "upload, into PostgreSQL, round {round} of {ROUNDS}"
        ));
        let database = server.database("bench");
        let sink = format!(
            "[upload]\nsinks = [\"postgres\"]\n[upload.postgres]\nurl = \"{}\"\ncreate_tables = true\n",
            database.url()
        );
        // A look at the last one by its key costs nothing, where counting a million rows would.
        let last = format!(
            "select true from sidekick_records r, (select source, epoch from sidekick_records limit 1) one \
             where r.source = one.source and r.epoch = one.epoch and r.seq = {RECORDS}"
        );
        let arrived = || {
            let rows = database.try_query(&last).ok()?;
            (!rows.is_empty()).then(SystemTime::now)
        };
        ours.push(deliver(flood, &sink, arrived)?);
        let came = database.number("select count(*) from sidekick_records");
        if came < RECORDS {
            return Err(format!("{came} rows of {RECORDS} came").into());
        }
        copies.push(copy(&database.url())?);

        database.query("create table peer (seq bigint, body jsonb)");
        let (port, records) = (server.port(), PEER_RECORDS);
        let arrived = || {
            let rows = database.try_query("select count(*) from peer").ok()?;
            let count: u64 = rows.first()?.first()?.as_deref()?.parse().ok()?;
            (count >= records).then(SystemTime::now)
        };
        let sink = Sink::Postgres {
            port,
            database: "bench",
        };
        peers.extend(peer(printer, &sink, Queue::Unsynced, records, arrived));
    }
    let rates: Vec<f64> = ours.iter().map(|run| run.per_s).collect();
    let line =
        Line::median("upload", "postgres", "records/s", &rates).beside("copy", median(&copies));
    printer.print(&with_peer(line, "rsyslog", &peers, |peer| peer.per_s));
    let line = Line::median(
        "upload",
        "postgres_of_copy",
        "ratio",
        &[median(&rates) / median(&copies)],
    );
    printer.print(&line.target(Target::AtLeast(POSTGRES_OF_COPY_MIN)));
    if !peers.is_empty() {
        let peer = median(&peers.iter().map(|peer| peer.per_s).collect::<Vec<_>>());
        let line = Line::median(
            "upload",
            "postgres_of_rsyslog",
            "ratio",
            &[median(&rates) / peer],
        );
        printer.print(&line.target(Target::AtLeast(POSTGRES_OF_RSYSLOG_MIN)));
    }
    let cpu: Vec<f64> = ours.iter().map(|run| run.cpu_s_per_million).collect();
    let line = Line::median("upload", "postgres_cpu", "s/million", &cpu);
    printer.print(&with_peer(line, "rsyslog", &peers, |peer| {
        peer.cpu_s_per_million
    }));
    Ok(())
}

/// Rows per second of `psql`'s own `\copy` of the rows that came, into a table of the same form.
fn copy(url: &str) -> Result<f64, Box<dyn Error>> {
    let folder = sidekick_tests::folders::Folder::new();
    let rows = folder.join("rows");
    let psql = |sql: &str| -> Result<Duration, Box<dyn Error>> {
        let started = Instant::now();
        let output = Command::new("psql")
            .args([
                "--no-psqlrc",
                "--quiet",
                "--set",
                "ON_ERROR_STOP=1",
                "--command",
                sql,
                url,
            ])
            .output()?;
        match output.status.success() {
            true => Ok(started.elapsed()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
        }
    };
    let path = rows.display();
    psql(&format!(
        "\\copy (select * from sidekick_records limit {RECORDS}) to '{path}'"
    ))?;
    psql("create table copied (like sidekick_records including all)")?;
    let took = psql(&format!("\\copy copied from '{path}'"))?;
    Ok(RECORDS as f64 / took.as_secs_f64())
}
