//! The PostgreSQL sink against a real server, batch by batch: each record once, whatever comes twice, overlaps or breaks.

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use bytes::Bytes;
use sidekick_ipc::frame::{FrameKind, Record, append_frame};
use sidekick_ipc::value::{Value as Variant, encode};
use sidekick_tests::folders::Folder;
use sidekick_tests::postgres::{Database, Postgres};
use sidekick_tests::postgres_claims;
use sidekick_watchdog::position::Position;
use sidekick_watchdog::postgres::ServerSettings;
use sidekick_watchdog::slab::{RingCheckpoint, Slab, SlabHead};
use sidekick_watchdog::upload::encode::Walk;
use sidekick_watchdog::upload::sink::postgres::{Mode, TableName, TableRule, Value};
use sidekick_watchdog::upload::sink::{OfLetter, PostgresSettings, PostgresSink, Row};
use sidekick_watchdog::upload::{Batch, Outcome, Plan, Sink};
use tokio::runtime::Runtime;
use uuid::Uuid;

const GROUP: Uuid = Uuid::from_u128(0x6009);
const EPOCH: Uuid = Uuid::from_u128(0xE90C);

/// The amount that a record of this number has.
type Amount = fn(u64) -> Variant;

/// A sink and what drives it.
struct Bench {
    runtime: Runtime,
    sink: PostgresSink,
}

fn settings(url: String) -> PostgresSettings {
    PostgresSettings {
        server: ServerSettings {
            url: Some(url),
            url_file: None,
            password_file: None,
            tls_ca_file: None,
            tls_client: None,
            timeout: Duration::from_secs(60),
        },
        table: TableName::parse("sidekick_records").unwrap(),
        tables: Vec::new(),
        mode: Mode::Copy,
        create_tables: true,
        concurrency_max: 4,
    }
}

impl Bench {
    fn new(settings: PostgresSettings) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let sink = PostgresSink::new(settings);
        Self { runtime, sink }
    }

    fn of(database: &Database<'_>) -> Self {
        Self::new(settings(database.url()))
    }

    /// Records of the numbers `first..=last`, one a log entry, all in `lane`.
    fn batch(
        &self,
        lane: u32,
        first: u64,
        last: u64,
        record: impl Fn(u64) -> (String, Variant),
    ) -> Batch {
        let mut frames = Vec::new();
        for seq in first..=last {
            let (stream, value) = record(seq);
            let mut payload = Vec::new();
            Record::encode_head(&stream, &mut payload);
            payload.extend_from_slice(&encode(&value));
            append_frame(
                &mut frames,
                &EPOCH,
                FrameKind::Record as u16,
                seq,
                1_000_000_000 + seq,
                &payload,
            );
        }
        let slab = Slab {
            head: SlabHead {
                source: "lobby-1".into(),
                epoch: EPOCH,
                incarnation: 3,
                realtime_offset_ns: 1_795_348_800_000_000_000,
                first_seq: first,
                count: last + 1 - first,
                checkpoint: RingCheckpoint::default(),
            },
            frames: frames.into(),
        };
        let mut writer = self.sink.row_writer();
        let (mut body, mut rows) = (Vec::new(), Vec::new());
        let mut walk = Walk::new(slab);
        while let Some((head, item)) = walk.step() {
            let position = Position {
                index: item.seq,
                item: 0,
            };
            writer.write(head, &item, &mut body);
            rows.push(Row {
                position,
                end: body.len(),
            });
        }
        let plan = Plan {
            sink: "postgres".into(),
            lane,
            first: rows[0].position,
            last: rows[rows.len() - 1].position,
            rules_version: 0,
            encoder_version: writer.version(),
            extra: self
                .runtime
                .block_on(self.sink.prepare(&GROUP, rows[0].position))
                .unwrap(),
        };
        let body = self
            .runtime
            .block_on(self.sink.encode(&plan, body))
            .unwrap();
        Batch {
            key: plan.key(&GROUP),
            plan,
            replay: None,
            body,
            rows,
        }
    }

    fn plain(&self, first: u64, last: u64) -> Batch {
        self.batch(0, first, last, |seq| {
            ("damage".into(), Variant::Int(seq as i64))
        })
    }

    fn send(&self, batch: &Batch) -> Outcome {
        self.runtime.block_on(self.sink.send(batch))
    }

    #[track_caller]
    fn takes(&self, batch: &Batch) {
        assert_eq!(self.send(batch), Outcome::Taken);
    }
}

/// The sessions of this database's sinks; those of a test before may be ending.
const OURS: &str = "pg_stat_activity where application_name = 'sidekick-watchdog' and datname = current_database()";

/// Without the key that would hide a double row.
fn drop_key(database: &Database<'_>) {
    database.query("alter table sidekick_records drop constraint sidekick_records_pkey");
}

#[track_caller]
fn assert_once(database: &Database<'_>, count: u64) {
    let counts = database
        .query("select count(*), count(distinct (source, epoch, seq)) from sidekick_records");
    let count = Some(count.to_string());
    assert_eq!(counts, [[count.clone(), count]]);
}

#[track_caller]
fn refused(outcome: &Outcome) -> &str {
    let Outcome::Refused { code, .. } = outcome else {
        panic!("{outcome:?}");
    };
    code
}

#[track_caller]
fn parked(outcome: Outcome) -> String {
    let Outcome::Park { reason } = outcome else {
        panic!("{outcome:?}");
    };
    reason
}

#[track_caller]
fn retried(outcome: Outcome) -> String {
    let Outcome::Retry { reason } = outcome else {
        panic!("{outcome:?}");
    };
    reason
}

/// A batch that comes again writes nothing, one that was seen in part its rest, in both modes and over two sinks.
fn what_was_seen_is_not_written_again(server: &Postgres) {
    for mode in [Mode::Copy, Mode::Insert] {
        let database = server.database("replay");
        let bench = Bench::new(PostgresSettings {
            mode,
            ..settings(database.url())
        });
        bench.takes(&bench.plain(1, 50));
        if mode == Mode::Copy {
            drop_key(&database);
        }
        let written = database.query("select xmin from sidekick_progress");
        bench.takes(&bench.plain(1, 50));
        bench.takes(&bench.plain(20, 30));
        assert_eq!(
            database.query("select xmin from sidekick_progress"),
            written,
            "nothing was written"
        );
        assert_once(&database, 50);
        bench.takes(&bench.plain(40, 70));
        assert_once(&database, 70);
        // A late leader that cut its batches differently, and one of another lane, which has its own progress.
        let late = Bench::new(PostgresSettings {
            mode,
            ..settings(database.url())
        });
        late.takes(&late.plain(60, 90));
        bench.takes(&bench.plain(71, 80));
        assert_once(&database, 90);
        bench.takes(&bench.batch(3, 100, 110, |_| ("x".into(), Variant::Nil)));
        assert_once(&database, 101);
        let row = database.query(
            "select source, epoch, stream, time at time zone 'utc', incarnation, data from sidekick_records where seq = 7",
        );
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            row,
            [[
                text("lobby-1"),
                text(&EPOCH.to_string()),
                text("damage"),
                text("2026-11-22 12:00:01"),
                text("3"),
                text("7")
            ]]
        );
    }
}

/// A dead letter that is replayed lies behind the watermark, and is written all the same: once, however often it is sent,
/// by whichever replay, and by whichever lane.
fn a_replayed_dead_letter_is_one_row(server: &Postgres) {
    let database = server.database("letters");
    let bench = Bench::of(&database);
    bench.takes(&bench.plain(1, 6));
    bench.takes(&bench.plain(8, 20));
    drop_key(&database);
    let replay = |seq, number, lane| {
        let mut replay = bench.plain(seq, seq);
        replay.replay = Some(OfLetter { number, lane });
        replay.key = format!("{}/replay-{number}", replay.key);
        replay
    };
    for number in [1, 1, 2] {
        bench.takes(&replay(7, number, 0));
        assert_once(&database, 20);
    }
    // The answer is lost, and the next start has other lanes.
    for today in [3, 0, 1] {
        let mut replay = replay(21, 1, 3);
        replay.plan.lane = today;
        bench.takes(&replay);
        assert_once(&database, 21);
    }
    // Lanes do not disturb one another, and letters may be replayed in any order.
    // And one may come again after others, where damage to the log took back that it was done.
    let order = [
        (24, 0),
        (23, 1),
        (24, 0),
        (22, 0),
        (22, 0),
        (24, 0),
        (23, 1),
    ];
    for (seq, lane) in order {
        bench.takes(&replay(seq, 1, lane));
    }
    assert_once(&database, 24);
    let marks = "select count(*) from sidekick_progress where sink like 'postgres replay %'";
    assert_eq!(database.number(marks), 5);
    // The lane stands where it stood.
    bench.takes(&bench.plain(15, 20));
    bench.takes(&bench.plain(25, 30));
    assert_once(&database, 30);
}

/// Two leaders send overlapping batches at the same time: one waits for the other and writes the rest.
fn overlapping_leaders_write_each_record_once(server: &Postgres) {
    let database = server.database("leaders");
    let benches = [Bench::of(&database), Bench::of(&database)];
    benches[0].takes(&benches[0].plain(1, 1));
    drop_key(&database);
    std::thread::scope(|scope| {
        for (bench, length) in benches.iter().zip([7, 11]) {
            scope.spawn(move || {
                let mut first = 2;
                while first < 400 {
                    let last = (first + length).min(400);
                    bench.takes(&bench.plain(first, last));
                    first = last + 1;
                }
            });
        }
    });
    assert_once(&database, 400);
}

/// The test above can fail: with a progress that never moves each batch is written as often as it comes.
fn a_progress_that_stands_still_is_found_out(server: &Postgres) {
    let database = server.database("broken");
    let bench = Bench::of(&database);
    bench.takes(&bench.plain(1, 10));
    drop_key(&database);
    database.query(STAND_STILL);
    bench.takes(&bench.plain(11, 20));
    bench.takes(&bench.plain(11, 20));
    assert_eq!(database.number("select count(*) from sidekick_records"), 30);
}

/// The broken variant of the sink: its watermark does not move.
const STAND_STILL: &str = "create function stand_still() returns trigger language plpgsql as $$ begin return old; end $$; \
     create trigger stand_still before update on sidekick_progress for each row execute function stand_still()";

/// What a table does not take is refused with its SQLSTATE; nothing of the batch is written, and the rest goes on.
fn poison_is_refused_and_writes_nothing(server: &Postgres) {
    let database = server.database("poison");
    database
        .query("create table hits (n bigint not null, amount int check (amount < 1000), who text)");
    let column = |name: &str, from: &str| (name.to_owned(), Value::parse(from).unwrap());
    let rule = TableRule {
        pattern: "damage*".into(),
        table: TableName::parse("hits").unwrap(),
        columns: vec![
            column("n", "$seq"),
            column("amount", "amount"),
            column("who", "who.name"),
        ],
    };
    for mode in [Mode::Copy, Mode::Insert] {
        let bench = Bench::new(PostgresSettings {
            tables: vec![rule.clone()],
            mode,
            ..settings(database.url())
        });
        database.query("truncate hits; drop table if exists sidekick_progress, sidekick_records, sidekick_gaps");
        let batch = |first, last, amount: Amount| {
            bench.batch(0, first, last, move |seq| {
                let who = vec![("name".into(), Variant::from("a\\b\t\"c\"\n"))];
                let fields = vec![
                    ("amount".into(), amount(seq)),
                    ("who".into(), Variant::Dictionary(who)),
                ];
                let stream = if seq % 2 == 0 { "other" } else { "damage" };
                (stream.into(), Variant::Dictionary(fields))
            })
        };
        let bad: [(&str, Amount); 4] = [
            ("22P02", |seq| {
                if seq == 5 {
                    Variant::from("much")
                } else {
                    Variant::Int(1)
                }
            }),
            ("23514", |seq| Variant::Int(seq as i64 * 300)),
            ("22003", |_| Variant::Int(1 << 40)),
            ("22P02", |_| Variant::Float(f64::NAN)),
        ];
        for (code, amount) in bad {
            assert_eq!(refused(&bench.send(&batch(1, 9, amount))), code);
        }
        assert_eq!(database.number("select count(*) from hits"), 0);
        assert_eq!(database.number("select count(*) from sidekick_records"), 0);
        bench.takes(&batch(1, 4, |_| Variant::Float(7.0)));
        bench.takes(&batch(6, 9, |_| Variant::Nil));
        assert_eq!(
            database.number("select count(*) from hits where amount = 7"),
            2
        );
        assert_eq!(
            database.number("select count(*) from hits where amount is null"),
            2
        );
        assert_eq!(
            database.number("select count(*) from hits where who = E'a\\\\b\\t\"c\"\\n'"),
            4
        );
        assert_eq!(database.number("select count(*) from sidekick_records where data->'who'->>'name' = E'a\\\\b\\t\"c\"\\n'"), 4);
    }
    // What our own encoder never writes.
    let bench = Bench::of(&database);
    let mut batch = bench.plain(20, 20);
    let body = String::from_utf8(batch.body.to_vec()).unwrap();
    let body = body.replace("\t20\n", "\t\"\\\\u0000\"\n");
    batch.rows[0].end = body.len();
    batch.body = Bytes::from(body);
    assert_eq!(refused(&bench.send(&batch)), "22P05");
}

/// Values of every kind, NaN, huge numbers and deep nesting among them, are taken and come back as their JSON.
fn strange_values_are_taken(server: &Postgres) {
    let database = server.database("strange");
    let bench = Bench::of(&database);
    let mut deep = Variant::Nil;
    for _ in 0..60 {
        deep = Variant::Array(vec![deep]);
    }
    let values = vec![
        Variant::Float(f64::NAN),
        Variant::Float(f64::MAX),
        Variant::Float(-0.0),
        Variant::Int(i64::MIN),
        Variant::from(
            "nul \0, quote \", backslash \\ \\N \\. tab \t, line \r\n, \u{1} \u{7f} \u{2028} 😀",
        ),
        Variant::PackedByteArray(vec![0, 255]),
        Variant::Dictionary(vec![
            (Variant::Int(1), Variant::from("a")),
            (Variant::Nil, Variant::Bool(true)),
        ]),
        deep,
        Variant::from("x".repeat(60_000).as_str()),
    ];
    let count = values.len() as u64;
    let batch = bench.batch(0, 1, count, |seq| {
        (format!("s\\t{seq}\t"), values[seq as usize - 1].clone())
    });
    bench.takes(&batch);
    assert_once(&database, count);
    assert_eq!(
        database.number("select count(distinct stream) from sidekick_records"),
        count
    );
    for (seq, value) in (1..).zip(&values) {
        let rows = database.query(&format!(
            "select data::text from sidekick_records where seq = {seq}"
        ));
        // Those two PostgreSQL writes with other digits.
        if seq != 2 && seq != 3 {
            let came: serde_json::Value =
                serde_json::from_str(rows[0][0].as_deref().unwrap()).unwrap();
            assert_eq!(came, value.to_json(), "{seq}");
        }
    }
}

/// Records that a damaged slab lost are rows of the table of gaps, not of records.
fn gaps_are_rows_of_their_own_table(server: &Postgres) {
    let database = server.database("gaps");
    let bench = Bench::of(&database);
    let mut slab_frames = Vec::new();
    for seq in [1, 4] {
        let mut payload = Vec::new();
        Record::encode_head("a", &mut payload);
        payload.extend_from_slice(&encode(&Variant::Nil));
        append_frame(
            &mut slab_frames,
            &EPOCH,
            FrameKind::Record as u16,
            seq,
            1,
            &payload,
        );
    }
    let mut batch = bench.plain(1, 4);
    let mut walk = Walk::new(Slab {
        head: SlabHead {
            source: "lobby-1".into(),
            epoch: EPOCH,
            incarnation: 3,
            realtime_offset_ns: 0,
            first_seq: 1,
            count: 4,
            checkpoint: RingCheckpoint::default(),
        },
        frames: slab_frames.into(),
    });
    let mut writer = bench.sink.row_writer();
    let mut body = Vec::new();
    batch.rows.clear();
    while let Some((head, item)) = walk.step() {
        writer.write(head, &item, &mut body);
        batch.rows.push(Row {
            position: Position {
                index: item.seq,
                item: 0,
            },
            end: body.len(),
        });
    }
    batch.body = body.into();
    bench.takes(&batch);
    bench.takes(&batch);
    assert_once(&database, 2);
    let gaps = database.query("select seq, count, first_seq, last_seq, cause from sidekick_gaps");
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        gaps,
        [[
            text("2"),
            text("2"),
            text("2"),
            text("3"),
            text("missing in the slab")
        ]]
    );
}

/// A missing table, right, database or column parks with what helps, and goes on by itself once it is there.
fn what_is_missing_parks_until_it_is_there(server: &Postgres) {
    let database = server.database("missing");
    let without = Bench::new(PostgresSettings {
        create_tables: false,
        ..settings(database.url())
    });
    let batch = without.plain(1, 10);
    let reason = parked(without.send(&batch));
    assert!(
        reason.contains("42P01") && reason.contains("create_tables = true"),
        "{reason}"
    );
    assert_eq!(
        without.runtime.block_on(without.sink.examine()).unwrap(),
        [
            "\"sidekick_progress\"",
            "\"sidekick_records\"",
            "\"sidekick_gaps\""
        ]
    );
    let with = Bench::of(&database);
    with.takes(&with.plain(1, 1));
    without.takes(&batch);
    assert_eq!(
        without.runtime.block_on(without.sink.examine()).unwrap(),
        Vec::<String>::new()
    );
    assert_once(&database, 10);

    // Tables of an older version get the columns that they lack.
    database.query("alter table sidekick_gaps drop column bytes; alter table sidekick_records drop column incarnation");
    let reason = parked(without.send(&without.plain(11, 11)));
    assert!(reason.contains("42703"), "{reason}");
    let with = Bench::of(&database);
    with.takes(&with.plain(11, 11));
    assert_eq!(
        database.number("select incarnation from sidekick_records where seq = 11"),
        3
    );

    database.query("create role nobody_here login");
    let url = database.url().replace("postgres@", "nobody_here@");
    let other = Bench::new(PostgresSettings {
        create_tables: false,
        ..settings(url)
    });
    let reason = parked(other.send(&other.plain(20, 20)));
    assert!(
        reason.contains("42501") && reason.contains("grant"),
        "{reason}"
    );
    database.query(
        "grant insert on sidekick_records, sidekick_gaps to nobody_here; \
         grant insert, select, update on sidekick_progress to nobody_here",
    );
    other.takes(&other.plain(20, 20));
    database.query("drop owned by nobody_here; drop role nobody_here");

    let lost = Bench::new(settings(
        database.url().replace("/missing", "/no_such_database"),
    ));
    let reason = parked(lost.send(&lost.plain(1, 1)));
    assert!(
        reason.contains("3D000") && reason.contains("create the database"),
        "{reason}"
    );
}

/// Progress that somebody set back doubles nothing where the table has its key.
fn a_progress_that_was_set_back_doubles_nothing(server: &Postgres) {
    let database = server.database("set_back");
    let bench = Bench::of(&database);
    bench.takes(&bench.plain(1, 50));
    database.query("truncate sidekick_progress");
    bench.takes(&bench.plain(40, 60));
    assert_once(&database, 60);
    // An own table without the record's key: a key of the user's that is hurt is a bad record, not a known one.
    database.query("create table once (name text primary key)");
    let rule = TableRule {
        pattern: "*".into(),
        table: TableName::parse("once").unwrap(),
        columns: vec![("name".into(), Value::parse("$source").unwrap())],
    };
    let own = Bench::new(PostgresSettings {
        tables: vec![rule],
        ..settings(database.url())
    });
    assert_eq!(refused(&own.send(&own.plain(61, 62))), "23505");
}

/// An own table that has the record's columns and no key over them: another key of the user's that is hurt is a bad record,
/// which is refused, and the others go on over the same connection.
fn a_hurt_key_beside_columns_without_one_is_a_bad_record(server: &Postgres) {
    let database = server.database("no_key");
    database.query(
        "create table hits (source text, epoch uuid, seq bigint, name text unique); \
         insert into hits (name) values ('taken')",
    );
    let column = |name: &str, from: &str| (name.to_owned(), Value::parse(from).unwrap());
    let rule = TableRule {
        pattern: "*".into(),
        table: TableName::parse("hits").unwrap(),
        columns: vec![
            column("source", "$source"),
            column("epoch", "$epoch"),
            column("seq", "$seq"),
            column("name", "name"),
        ],
    };
    let bench = Bench::new(PostgresSettings {
        tables: vec![rule],
        ..settings(database.url())
    });
    let batch = |first, last| {
        bench.batch(0, first, last, |seq| {
            let name = match seq {
                5 => "taken".to_owned(),
                seq => format!("name {seq}"),
            };
            let fields = vec![("name".into(), Variant::from(name.as_str()))];
            ("damage".into(), Variant::Dictionary(fields))
        })
    };
    let session = format!("select pid from {OURS}");
    bench.takes(&batch(1, 2));
    let before = database.query(&session);
    assert_eq!(refused(&bench.send(&batch(3, 9))), "23505");
    assert_eq!(refused(&bench.send(&batch(5, 5))), "23505");
    bench.takes(&batch(6, 9));
    assert_eq!(database.query(&session), before);
    assert_eq!(
        database.number("select count(distinct seq) from hits where source is not null"),
        6
    );
}

/// A password that changes is read again from its file; a wrong one parks, and is in no message.
fn a_changed_password_is_read_again(server: &Postgres) {
    let database = server.database("password");
    let folder = Folder::new();
    let file = folder.join("password");
    fs::write(&file, "hunter2\n").unwrap();
    database.query("create role keeper login superuser password 'hunter2'");
    server.set_access("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n");
    let mut with_file = settings(database.url().replace("postgres@", "keeper@"));
    with_file.server.password_file = Some(file.clone());
    let bench = Bench::new(with_file);
    bench.takes(&bench.plain(1, 10));
    let cut = format!("select count(pg_terminate_backend(pid)) from {OURS} and usename = 'keeper'");
    database.query("alter role keeper password 'correct horse'");
    assert_eq!(database.number(&cut), 1);
    let reason = parked(bench.send(&bench.plain(11, 20)));
    assert!(
        reason.contains("28P01") && !reason.contains("hunter2"),
        "{reason}"
    );
    fs::write(&file, "correct horse\n").unwrap();
    bench.takes(&bench.plain(11, 20));
    // The whole URL in a file.
    let url_file = folder.join("url");
    fs::write(
        &url_file,
        database.url().replace("postgres@", "keeper:wrong@"),
    )
    .unwrap();
    let mut with_url = settings(String::new());
    with_url.server.url = None;
    with_url.server.url_file = Some(url_file.clone());
    let bench = Bench::new(with_url);
    let reason = parked(bench.send(&bench.plain(21, 30)));
    assert!(
        reason.contains("28P01") && !reason.contains("wrong@"),
        "{reason}"
    );
    fs::write(
        &url_file,
        database
            .url()
            .replace("postgres@", "keeper:correct%20horse@"),
    )
    .unwrap();
    bench.takes(&bench.plain(21, 30));
    assert_once(&database, 30);
    let shown = format!("{:?}", bench.sink);
    assert!(
        !shown.contains("horse") && !shown.contains("hunter2"),
        "{shown}"
    );
    // One that is asked for and not given.
    let none = Bench::new(settings(database.url().replace("postgres@", "keeper@")));
    let reason = parked(none.send(&none.plain(31, 31)));
    assert!(reason.contains("password_file"), "{reason}");
    server.trust_all();
    database.query("drop owned by keeper; drop role keeper");
}

/// A connection that is cut while nobody uses it is opened again unseen; a killed server is waited for.
fn cuts_and_kills_lose_and_double_nothing(server: &Postgres) {
    let database = server.database("cuts");
    let bench = Bench::of(&database);
    bench.takes(&bench.plain(1, 10));
    drop_key(&database);
    let cut = format!("select count(pg_terminate_backend(pid)) from {OURS}");
    assert_eq!(database.number(&cut), 1);
    bench.takes(&bench.plain(11, 20));
    server.kill();
    let reason = retried(bench.send(&bench.plain(21, 30)));
    assert!(reason.contains("cannot be reached"), "{reason}");
    server.come_up();
    bench.takes(&bench.plain(21, 30));
    assert_once(&database, 30);
    // The watermark's row is held by somebody: the try ends with its time, and leaves nothing behind.
    let mut impatient = settings(database.url());
    impatient.server.timeout = Duration::from_millis(500);
    let impatient = Bench::new(impatient);
    // Connected first: on a busy machine that alone may take the time.
    sidekick_tests::wait::until("a connection", Duration::from_secs(60), || {
        (impatient.send(&impatient.plain(21, 30)) == Outcome::Taken).then_some(())
    });
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| {
            database.try_query(
                "begin; select * from sidekick_progress for update; select pg_sleep(600); rollback",
            )
        });
        let holds = "from pg_stat_activity where query like 'begin; select * from%' and wait_event = 'PgSleep'";
        sidekick_tests::wait::until("the lock", Duration::from_secs(60), || {
            (database.number(&format!("select count(*) {holds}")) == 1).then_some(())
        });
        let reason = retried(impatient.send(&impatient.plain(31, 40)));
        assert!(reason.contains("did not answer"), "{reason}");
        database.query(&format!("select pg_terminate_backend(pid) {holds}"));
        assert!(holder.join().unwrap().is_err());
    });
    bench.takes(&bench.plain(31, 40));
    assert_once(&database, 40);
}

/// A commit is durable when it is taken, whatever the server's default is.
fn commits_are_durable_whatever_the_default(server: &Postgres) {
    let database = server.database("durable");
    database.query("alter database durable set synchronous_commit = off");
    database.query("create table seen (mode text)");
    let bench = Bench::of(&database);
    bench.takes(&bench.plain(1, 1));
    database.query(
        "create function note() returns trigger language plpgsql as $$ begin insert into seen values \
         (current_setting('synchronous_commit')); return new; end $$; \
         create trigger note after update on sidekick_progress for each row execute function note()",
    );
    bench.takes(&bench.plain(2, 2));
    assert_eq!(
        database.query("select mode from seen"),
        [[Some("on".to_owned())]]
    );
}

/// TLS with an authority of one's own; a wrong name, an unknown authority and a server without TLS park with a remedy.
fn tls_is_checked(server: &Postgres) {
    let folder = Folder::new();
    let openssl = |arguments: &str| {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let authority = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30";
    openssl(&format!(
        "req -x509 {authority} -keyout ca.key -out ca.pem -subj /CN=ca"
    ));
    for (name, san) in [("server", "DNS:localhost"), ("client", "DNS:client")] {
        fs::write(
            folder.join("extensions"),
            format!("subjectAltName={san}\nbasicConstraints=CA:FALSE\n"),
        )
        .unwrap();
        let subject = if name == "client" {
            "postgres"
        } else {
            "server"
        };
        openssl(&format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={subject}"
        ));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -out {name}.pem -extfile extensions"
        ));
    }
    let database = server.database("tls");
    let port = server.port();
    let url = |host: &str| format!("postgres://postgres@{host}:{port}/tls?sslmode=require");
    let to = |url: String, with_ca: bool| {
        let mut settings = settings(url);
        settings.server.tls_ca_file = with_ca.then(|| folder.join("ca.pem"));
        settings
    };
    let plain = Bench::new(to(url("localhost"), true));
    let reason = parked(plain.send(&plain.plain(1, 1)));
    assert!(reason.contains("sslmode=disable"), "{reason}");

    for name in ["server.pem", "server.key", "ca.pem"] {
        server.write(name, &fs::read_to_string(folder.join(name)).unwrap());
    }
    database.query("alter system set ssl_cert_file = 'server.pem'");
    database.query("alter system set ssl_key_file = 'server.key'");
    database.query("alter system set ssl_ca_file = 'ca.pem'");
    database.query("alter system set ssl = on");
    server.set_access(
        "local all all trust\nhostssl all all 127.0.0.1/32 trust clientcert=verify-full\n",
    );
    let mut right = to(url("localhost"), true);
    right.server.tls_client = Some((folder.join("client.pem"), folder.join("client.key")));
    let bench = Bench::new(right.clone());
    bench.takes(&bench.plain(1, 10));
    let encrypted =
        format!("select count(*) from {OURS} and pid in (select pid from pg_stat_ssl where ssl)");
    assert_eq!(database.number(&encrypted), 1);

    let nobody = Bench::new(to(url("localhost"), true));
    let reason = parked(nobody.send(&nobody.plain(11, 11)));
    assert!(reason.contains("28000"), "no client certificate: {reason}");
    for wrong in [to(url("127.0.0.1"), true), to(url("localhost"), false)] {
        let bench = Bench::new(wrong);
        let reason = parked(bench.send(&bench.plain(11, 11)));
        assert!(reason.contains("tls_ca_file"), "{reason}");
    }
    assert_once(&database, 10);
    database.query("alter system reset ssl");
    server.trust_all();
    server.postgres().query("select pg_reload_conf()");
}

fn main() -> ExitCode {
    postgres_claims!(
        what_was_seen_is_not_written_again,
        a_replayed_dead_letter_is_one_row,
        overlapping_leaders_write_each_record_once,
        a_progress_that_stands_still_is_found_out,
        poison_is_refused_and_writes_nothing,
        strange_values_are_taken,
        gaps_are_rows_of_their_own_table,
        what_is_missing_parks_until_it_is_there,
        a_progress_that_was_set_back_doubles_nothing,
        a_hurt_key_beside_columns_without_one_is_a_bad_record,
        a_changed_password_is_read_again,
        cuts_and_kills_lose_and_double_nothing,
        commits_are_durable_whatever_the_default,
        tls_is_checked,
    )
}
