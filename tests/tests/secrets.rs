//! Secrets appear nowhere: every secret that there is is set, everything that can fail and tell of it does, and nothing that the
//! watchdog says or keeps has any of them in it. An engine without Godot; a backend that repeats what it was sent.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value as Json;
use sidekick_ipc::value::{Value, encode};
use sidekick_tests::engine;
use sidekick_tests::folders::texts;
use sidekick_tests::verdicts::{self, trial};
use sidekick_tests::watchdog::{Setup, Watchdog};

const PATIENCE: Duration = Duration::from_secs(120);
/// The first argument of this executable when it is to be an engine.
const FLAG: &str = "--act-as-chat";

const UPLOAD_TOKEN: &str = "sesame-upload-token";
const UPLOAD_QUERY: &str = "sesame-upload-query";
const HEADER: &str = "sesame-header-value";
const API_TOKEN: &str = "sesame-api-token-0123456789";
const DATABASE_PASSWORD: &str = "sesame-database-password";
const REGISTRY_PASSWORD: &str = "sesame-registry-password";
const HASH_KEY: &str = "sesame-hash-key-0123456789";
const ENGINE_VARIABLE: &str = "sesame-engine-variable";
const ENGINE_ARGUMENT: &str = "sesame-engine-argument";
const HOOK_ARGUMENT: &str = "sesame-hook-argument";
const VARIABLE: &str = "sesame-of-the-environment";
const DROPPED_FIELD: &str = "sesame.dropped.field";
const HASHED_FIELD: &str = "sesame-hashed-field";

const SECRETS: [&str; 13] = [
    UPLOAD_TOKEN,
    UPLOAD_QUERY,
    HEADER,
    API_TOKEN,
    DATABASE_PASSWORD,
    REGISTRY_PASSWORD,
    HASH_KEY,
    ENGINE_VARIABLE,
    ENGINE_ARGUMENT,
    HOOK_ARGUMENT,
    VARIABLE,
    DROPPED_FIELD,
    HASHED_FIELD,
];

const RULES: &str = "
[[stream]]
match = \"chat\"
drop_fields = [\"ip\"]
hash_fields = [\"name\"]
hash_key_file = \"hash.key\"
";

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == FLAG) {
        return play();
    }
    let trials = vec![
        trial(
            "no_secret_is_said_or_kept_anywhere",
            no_secret_is_said_or_kept_anywhere,
        ),
        trial(
            "a_secret_in_the_wrong_place_is_found",
            a_secret_in_the_wrong_place_is_found,
        ),
    ];
    verdicts::run(trials, 1)
}

/// Records a line of chat in each frame until it is asked to quit.
fn play() -> ExitCode {
    let text = |text: &str| Value::String(text.into());
    println!("the engine says {:?}", std::env::args().nth(2));
    engine::play_frames(engine::options(), Duration::from_millis(100), |session| {
        let said = Value::Dictionary(vec![
            (text("ip"), text(DROPPED_FIELD)),
            (text("name"), text(HASHED_FIELD)),
        ]);
        let _ = session.record("chat", &encode(&said));
    })
}

/// Takes nothing, and says in its refusal what it was sent, head and all, and `more`. Gives its address.
fn talkative_backend(more: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                let mut head = String::new();
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap_or(0) < 3 {
                        break;
                    }
                    let lower = line.to_ascii_lowercase();
                    if let Some(value) = lower.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap_or(0);
                    }
                    head.push_str(&line);
                }
                let mut body = vec![0; length];
                let _ = reader.read_exact(&mut body);
                // What is to be hidden comes first, as the reason is cut.
                let secrets = head.lines().filter(|line| line.contains("sesame"));
                let said = format!(
                    "{more}what is {}?",
                    secrets.collect::<Vec<_>>().join(" or ")
                );
                let answer = format!(
                    "HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{said}",
                    said.len()
                );
                let _ = reader.get_mut().write_all(answer.as_bytes());
            });
        }
    });
    address
}

fn own() -> String {
    let own = std::env::current_exe().expect("the path of this executable");
    own.into_os_string().into_string().expect("text")
}

/// With every secret that there is, in files, in the file, and in the environment.
fn setup(rules: &str, backend: &str) -> Setup {
    let mut setup = Setup::new();
    let folder = setup.config_path();
    let folder = folder.parent().expect("a folder");
    for (name, secret) in [
        ("upload.token", UPLOAD_TOKEN.to_owned()),
        ("api.token", API_TOKEN.to_owned()),
        ("hash.key", HASH_KEY.to_owned()),
        ("registry.password", REGISTRY_PASSWORD.to_owned()),
        // Nobody listens there.
        (
            "database.url",
            format!("postgres://sidekick:{DATABASE_PASSWORD}@127.0.0.1:9/game"),
        ),
    ] {
        fs::write(folder.join(name), secret).expect("a secret's file");
    }
    let own = own();
    setup.set_config(&format!(
        "[engine]\ncommand = [{own:?}, {FLAG:?}, \"hello\", \"--admin-password={ENGINE_ARGUMENT}\", \"--token\", \"{ENGINE_ARGUMENT}\"]\n\
         env = {{ GAME_KEY = \"{ENGINE_VARIABLE}\" }}\n\
         [restart]\nbackoff_first = \"10ms\"\nbackoff_max = \"10ms\"\n\
         [upload]\nsinks = [\"http\", \"postgres\"]\nbatch_max_age = \"20ms\"\nbatch_max_records = 2\n\
         retry_first = \"10ms\"\nretry_max = \"100ms\"\n\
         [upload.http]\nurl = \"http://{}/records?key={UPLOAD_QUERY}\"\ntoken_file = \"upload.token\"\n\
         [upload.postgres]\nurl_file = \"database.url\"\n\
         [registry]\nurl = \"http://{}/\"\nport = 7711\nuser = \"lobby\"\npassword_file = \"registry.password\"\n\
         [api]\ntoken_file = \"api.token\"\n\
         [hooks]\npre_start = [\"sh\", \"-c\", \"HOOK_SECRET={HOOK_ARGUMENT} true\"]\n\
         post_mortem = [\"true\", \"--api-key\", \"{HOOK_ARGUMENT}\"]\n{rules}",
        backend, backend
    ));
    let headers = format!("{{ \"X-Api-Key\" = \"{HEADER}\" }}");
    setup.set_variable("SIDEKICK_UPLOAD__HTTP__HEADERS", headers);
    setup.set_variable("SIDEKICK_LOG_LEVEL", "debug");
    setup.set_variable("BACKUP_TOKEN", VARIABLE);
    setup
}

/// Everything that a watchdog says and keeps, by what it is.
type Said = BTreeMap<String, String>;

/// Lets it come to a dead letter, a crash and a sink that cannot be reached, and asks it everything.
fn gather(setup: &Setup) -> Said {
    let mut said = Said::new();
    let watchdog = setup.start();
    watchdog.wait_for_status("a dead letter and a database away", PATIENCE, |status| {
        let sinks = status["upload"]["sinks"].as_array()?;
        let letters = |sink: &Json| sink["books"]["dead_letters"].as_u64();
        let is_dead = sinks.iter().any(|sink| letters(sink) > Some(0));
        let is_away = |sink: &Json| sink["name"] == "postgres" && sink["reason"].is_string();
        let is_away = sinks.iter().any(is_away);
        (is_dead && is_away).then_some(())
    });
    for engine in setup.engines(Some(&watchdog)) {
        setup.signal(engine, Signal::ABORT);
    }
    watchdog.wait_for_status(
        "a report of the crash, and the next game",
        PATIENCE,
        |status| {
            let engine = &status["engine"];
            let is_told = engine["last_deaths"][0]["report"].is_string();
            (is_told && engine["ready"] == true).then_some(())
        },
    );
    ask(setup, &watchdog, &mut said);
    // Its PostgreSQL cannot be asked.
    let finished = watchdog.stop_unaudited(PATIENCE);
    said.insert("the log".into(), finished.lines.join("\n"));
    let files = texts(&setup.data_dir()).into_iter();
    said.extend(files.map(|(path, text)| (path.display().to_string(), text)));
    said
}

fn ask(setup: &Setup, watchdog: &Watchdog<'_>, said: &mut Said) {
    for command in [
        "config print",
        "check",
        "doctor",
        "status",
        "status --json",
        "crashes",
        "crashes 1",
        "dead-letters list",
        "dead-letters list --json",
        "dead-letters show 1",
        "dead-letters show 1 --json",
        "logs",
        "records tail -n 3 --stage stored",
        "records tail -n 3 --stage uploaded",
        "config reload",
        "version",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let finished = setup.run(&words, PATIENCE);
        said.insert(command.into(), finished.lines.join("\n"));
    }
    for path in [
        "/metrics",
        "/healthz",
        "/readyz",
        "/api/v1/status",
        "/api/v1/crashes",
        "/api/v1/logs",
        "/api/v1/dead-letters",
    ] {
        said.insert(path.into(), get(watchdog, path));
    }
}

/// What a reader with the token is told.
fn get(watchdog: &Watchdog<'_>, path: &str) -> String {
    let address = watchdog.api_address().expect("it listens");
    let mut stream = TcpStream::connect(&address).expect("a connection");
    let bearer = format!("Authorization: Bearer {API_TOKEN}");
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\n{bearer}\r\n\r\n"
    )
    .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains(" 200 OK\r\n"), "{path}: {answer}");
    answer
}

/// Where which secrets are.
fn found(said: &Said) -> Vec<(&str, &str)> {
    let pairs = said.iter().flat_map(|(what, text)| {
        let found = SECRETS.into_iter().filter(|secret| text.contains(secret));
        found.map(move |secret| (what.as_str(), secret))
    });
    pairs.collect()
}

fn no_secret_is_said_or_kept_anywhere() {
    let said = gather(&setup(RULES, &talkative_backend("")));
    assert_eq!(found(&said), []);
    // They were asked for what would have them.
    for (what, part) in [
        ("config print", "X-Api-Key"),
        ("config print", "/records?key=(hidden)"),
        ("config print", "GAME_KEY"),
        (
            "config print",
            "\"--admin-password=(hidden)\", \"--token\", \"(hidden)\"",
        ),
        ("config print", "HOOK_SECRET=(hidden)"),
        ("config print", "\"--api-key\", \"(hidden)\""),
        ("config print", "hash_key_file"),
        ("dead-letters show 1", "what is"),
        ("dead-letters show 1", "(hidden)"),
        ("dead-letters list --json", "HTTP 400"),
        ("status", "postgres"),
        ("status --json", "127.0.0.1"),
        ("crashes 1", "SIGABRT"),
        ("records tail -n 3 --stage stored", "\"stream\":\"chat\""),
        ("logs", "the engine says Some(\"hello\")"),
        ("the log", "(hidden)"),
    ] {
        let text = &said[what];
        assert!(text.contains(part), "{what} has no {part:?}: {text}");
    }
    let crash = said.keys().any(|what| what.contains("/crashes/"));
    assert!(crash, "{:?}", said.keys());
}

/// The broken variant: without the rules the redacted fields are in what was recorded; the server is called after a secret, the
/// engine prints one, and the backend says one that it was not sent. Each is found where it has to be.
fn a_secret_in_the_wrong_place_is_found() {
    let mut setup = setup("", &talkative_backend(API_TOKEN));
    setup.set_variable("SIDEKICK_NAME", UPLOAD_TOKEN);
    let command = format!("[{:?}, {FLAG:?}, {ENGINE_VARIABLE:?}]", own());
    setup.set_variable("SIDEKICK_ENGINE__COMMAND", command);
    let said = gather(&setup);
    let found = found(&said);
    for (part, secret) in [
        ("/log/", DROPPED_FIELD),
        ("dead-letters show 1", HASHED_FIELD),
        ("--stage stored", DROPPED_FIELD),
        ("--stage uploaded", HASHED_FIELD),
        ("config print", UPLOAD_TOKEN),
        // An argument without a name.
        ("config print", ENGINE_VARIABLE),
        ("status --json", UPLOAD_TOKEN),
        ("/api/v1/status", UPLOAD_TOKEN),
        ("logs", ENGINE_VARIABLE),
        ("/engine/", ENGINE_VARIABLE),
        ("/crashes/", ENGINE_VARIABLE),
        ("dead-letters show 1 --json", API_TOKEN),
        ("the log", API_TOKEN),
    ] {
        let mut found = found.iter();
        let is_there = found.any(|(what, found)| what.contains(part) && *found == secret);
        assert!(is_there, "{secret} is not found in {part}");
    }
}
