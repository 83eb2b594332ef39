//! The reference receiver behind the real watchdog: what it has answered for is there once, however often it is killed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use sidekick_tests::engine::{self, Game, faults_of_arrival};
use sidekick_tests::ledger::Ledger;
use sidekick_tests::ports;
use sidekick_tests::postgres::Postgres;
use sidekick_tests::postgres_claims;
use sidekick_tests::process::Running;
use sidekick_tests::verdicts::{PATIENCE, journals, stop_cleanly};
use sidekick_tests::wait;
use sidekick_tests::watchdog::Setup;

const KILLS: u32 = 6;
const LINE: &str = r#"{"source":"a","epoch":"00000000-0000-0000-0000-00000000e90c","seq":1,"stream":"s","time":"2026-11-22T12:00:00.000001Z","incarnation":1,"data":{"n":1}}"#;

/// A receiver that runs, and where.
struct Receiver {
    running: Running,
    address: String,
}

impl Receiver {
    fn start(setup: &Setup, listen: &str, arguments: &[&str]) -> Self {
        let mut command = setup.command(&["backend", "--listen", listen]);
        let mut running =
            Running::start(command.args(arguments)).expect("the watchdog's executable");
        let address = wait::poll(PATIENCE, || {
            let has_said_all = running.has_said_all();
            let found = running.lines.find(0, |line| {
                let rest = line.strip_prefix("listening on http://")?;
                rest.strip_suffix("/records").map(str::to_owned)
            });
            found.map(Some).or_else(|| has_said_all.then_some(None))
        });
        let address = address.flatten();
        let address =
            address.unwrap_or_else(|| panic!("no backend: {:?}", running.settled_lines()));
        Self { running, address }
    }

    /// Posts a body; the answer's status and text.
    fn post(&self, headers: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        let length = body.len();
        write!(
            stream,
            "POST /records HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        )
        .expect("a request");
        // What is too large is answered before all of it is sent.
        let _ = stream.write_all(body);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        let text = answer
            .split_once("\r\n\r\n")
            .map(|(_, text)| text.to_owned());
        (status.unwrap_or_default(), text.unwrap_or_default())
    }
}

/// Where to listen, also again after a kill.
fn address() -> String {
    format!("127.0.0.1:{}", ports::free())
}

fn set_up(receiver: &str) -> Setup {
    let mut setup = Setup::new();
    let game = Game::new(journals(&setup));
    setup.set_engine(game.command_line());
    setup.set_config(&format!(
        "[upload]\nsinks = [\"http\"]\nbatch_max_age = \"50ms\"\nretry_first = \"10ms\"\nretry_max = \"200ms\"\n\
         [upload.http]\nurl = \"http://{receiver}/records\"\n[shutdown]\nupload_grace = \"60s\"\n"
    ));
    setup
}

/// Kills the receiver again and again while the watchdog sends to it.
fn kill_often(home: &Setup, setup: &Setup, mut receiver: Receiver, arguments: &[&str]) -> Receiver {
    let watchdog = setup.start();
    for _ in 0..KILLS {
        let sent = |status: &serde_json::Value| status["totals"]["uploaded"]["http"].as_u64();
        let before = watchdog.wait_for_status("uploads", PATIENCE, sent);
        watchdog.wait_for_status("more uploads", PATIENCE, |status| {
            sent(status).filter(|count| *count > before)
        });
        // The moment of the kill, not a wait for anything.
        thread::sleep(Duration::from_millis(fastrand::u64(0..150)));
        receiver.running.kill();
        let address = receiver.address.clone();
        receiver = Receiver::start(home, &address, arguments);
    }
    stop_cleanly(setup, watchdog);
    receiver
}

/// Every record is in the folder once, whenever the receiver is killed.
fn a_folder_has_each_record_once(_: &Postgres) {
    let home = Setup::new();
    let dir = home.scratch().join("received");
    let arguments = ["--dir", dir.to_str().expect("UTF-8")];
    let receiver = Receiver::start(&home, &address(), &arguments);
    let setup = set_up(&receiver.address);
    let _receiver = kill_often(&home, &setup, receiver, &arguments);
    let ledger = Ledger::read_folder(&dir).expect("the folder");
    let played = engine::played(&setup.scratch().join("journals"));
    assert_eq!(faults_of_arrival(&played, &ledger), Vec::<String>::new());
    assert_eq!(ledger.duplicates, 0, "a record is there twice");
    assert!(ledger.count() > 100, "hardly anything was recorded");
    // The verdict can fail: of a receiver that lost its first record and doubled its second.
    let path = dir.join("records.ndjson");
    let text = std::fs::read_to_string(&path).expect("the records");
    let (first, rest) = text.split_once('\n').expect("a line");
    let second = rest.lines().next().expect("a line");
    assert!(first.contains("\"stream\":\"test\""), "{first}");
    std::fs::write(&path, format!("{rest}{second}\n")).expect("the records");
    let ledger = Ledger::read_folder(&dir).expect("the folder");
    let faults = faults_of_arrival(&played, &ledger);
    assert!(
        faults.iter().any(|fault| fault.contains("1 of ")),
        "{faults:?}"
    );
    assert_eq!(ledger.duplicates, 1);
}

/// And in a table.
fn a_database_has_each_record_once(server: &Postgres) {
    let database = server.database("received");
    let home = Setup::new();
    let url = database.url();
    let arguments = ["--postgres", url.as_str()];
    let receiver = Receiver::start(&home, &address(), &arguments);
    let setup = set_up(&receiver.address);
    let _receiver = kill_often(&home, &setup, receiver, &arguments);
    for engine in engine::played(&setup.scratch().join("journals")) {
        let count = database.number(&format!(
            "select count(*) from sidekick_records where stream = 'test' and epoch = '{}' and seq <= {}",
            engine.epoch, engine.last
        ));
        assert_eq!(count, engine.last);
    }
}

/// Each refusal of the table at the top of the backend's file, and what it says.
fn refusals_say_what_is_wrong(server: &Postgres) {
    let database = server.database("refusals");
    let setup = Setup::new();
    let token = setup.scratch().join("token");
    std::fs::write(&token, "sesame\n").expect("a file");
    let dir = setup.scratch().join("received");
    let token = [
        "--token-file",
        token.to_str().expect("UTF-8"),
        "--body-max",
        "4KiB",
    ];
    let (dir, url) = (dir.to_str().expect("UTF-8").to_owned(), database.url());
    for place in [["--dir", &dir], ["--postgres", &url]] {
        let receiver = Receiver::start(&setup, &address(), &[&place[..], &token[..]].concat());
        let right = "Authorization: Bearer sesame\r\nContent-Type: application/x-ndjson\r\n";
        let keyed = format!("{right}Idempotency-Key: k1\r\n");
        let two = format!("{LINE}\n{}\n", LINE.replace("\"seq\":1", "\"seq\":2"));
        for (headers, body, status, said) in [
            ("Content-Type: application/x-ndjson\r\n", LINE, 401, "token"),
            (
                "Authorization: Bearer sesam\r\nContent-Type: application/x-ndjson\r\n",
                LINE,
                401,
                "token",
            ),
            (
                "Authorization: Bearer sesame\r\nContent-Type: text/plain\r\n",
                LINE,
                415,
                "content type",
            ),
            (
                &format!("{right}Content-Encoding: br\r\n"),
                LINE,
                415,
                "content encoding",
            ),
            (right, &format!("{LINE}\nnonsense\n"), 400, "line 2:"),
            (
                right,
                &LINE.replace("\"seq\":1", "\"seq\":0"),
                400,
                "line 1: seq is 0",
            ),
            (
                right,
                &LINE.replace("2026-11-22", "2026-13-22"),
                400,
                "line 1: time is no instant",
            ),
            (right, "", 400, "no record"),
            (right, &" ".repeat(5000), 413, ""),
            (&keyed, LINE, 200, "1 of 1 records are new"),
            (&keyed, LINE, 409, "taken before"),
            (right, &two, 200, "1 of 2 records are new"),
            (right, &two, 200, "0 of 2 records are new"),
        ] {
            let (code, text) = receiver.post(headers, body.as_bytes());
            assert_eq!(code, status, "{headers} {body}: {text}");
            assert!(text.contains(said), "{headers} {body}: {text}");
        }
        if place[0] == "--postgres" {
            let poison = LINE
                .replace("{\"n\":1}", "\"\\u0000\"")
                .replace("\"seq\":1", "\"seq\":3");
            let (code, text) = receiver.post(right, poison.as_bytes());
            assert!(code == 422 && text.contains("22P05"), "{code} {text}");
            server.kill();
            let (code, text) = receiver.post(right, two.as_bytes());
            assert!(code == 503 && !text.is_empty(), "{code} {text}");
            server.come_up();
            assert_eq!(receiver.post(right, two.as_bytes()).0, 200);
        }
    }
    assert_eq!(database.number("select count(*) from sidekick_records"), 2);
    let finished = setup.run(
        &["backend", "--listen", "0.0.0.0:0", "--dir", &dir],
        PATIENCE,
    );
    assert_eq!(finished.status.code(), Some(2), "{:?}", finished.lines);
}

/// Two at once would each cut off what the other has answered for.
fn a_folder_is_refused_to_a_second_one(_: &Postgres) {
    let setup = Setup::new();
    let dir = setup.scratch().join("received");
    let arguments = ["--dir", dir.to_str().expect("UTF-8")];
    let first = Receiver::start(&setup, &address(), &arguments);
    let second = ["backend", "--listen", "127.0.0.1:0", "--dir", arguments[1]];
    let finished = setup.run(&second, PATIENCE);
    assert_eq!(finished.status.code(), Some(7), "{:?}", finished.lines);
    let said = finished.lines.join("\n");
    assert!(said.contains("another backend stores into"), "{said}");
    let headers = "Content-Type: application/x-ndjson\r\n";
    assert_eq!(first.post(headers, LINE.as_bytes()).0, 200);
}

fn main() -> ExitCode {
    if let Some(code) = engine::act_if_asked() {
        return code;
    }
    postgres_claims!(
        a_folder_has_each_record_once,
        a_database_has_each_record_once,
        refusals_say_what_is_wrong,
        a_folder_is_refused_to_a_second_one,
    )
}
