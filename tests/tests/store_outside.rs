//! The state store from outside a game: the command line over the control socket and HTTP over TCP, with the real watchdog.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};
use sidekick_tests::process::Running;
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

const PATIENCE: Duration = Duration::from_secs(60);
const USAGE: i32 = 2;
const NOT_RUNNING: i32 = 10;
const NOT_SO: i32 = 14;

/// A watchdog of an engine that needs no extension.
fn setup(config: &str) -> Setup {
    let mut setup = Setup::new();
    setup.set_config(&format!("[health]\nheartbeat = \"optional\"\n{config}"));
    let script = "trap 'exit 0' TERM; while :; do sleep 0.02; done";
    setup.set_engine(["sh", "-c", script]);
    setup
}

fn wait_for_store(watchdog: &Watchdog<'_>) {
    watchdog.wait_for_status("an open store", PATIENCE, |status| {
        (status["store"]["state"] == "open").then_some(())
    });
}

/// What `store …` prints.
#[track_caller]
fn store(setup: &Setup, arguments: &[&str]) -> String {
    let arguments = [&["store"], arguments].concat();
    let finished = setup.run(&arguments, PATIENCE);
    assert!(finished.status.success(), "{:?}", finished.lines);
    finished.stdout.join("\n")
}

/// The exit code of `store …`, which fails and says why in a sentence.
#[track_caller]
fn failure(setup: &Setup, arguments: &[&str]) -> i32 {
    told_failure(setup, arguments).0
}

/// As [`failure`], with the sentence.
#[track_caller]
fn told_failure(setup: &Setup, arguments: &[&str]) -> (i32, String) {
    let arguments = [&["store"], arguments].concat();
    let finished = setup.run(&arguments, PATIENCE);
    let told = finished.lines.join("\n");
    assert!(finished.stdout.is_empty(), "{:?}", finished.lines);
    // The API's own form is none for people.
    assert!(!told.contains("\"ok\":"), "{told}");
    (finished.status.code().unwrap_or(-1), told)
}

/// Values, conditions and their exit codes; a kill of the watchdog loses nothing of it.
#[test]
fn the_command_line_reads_and_writes_and_a_killed_watchdog_keeps_it() {
    let setup = setup("");
    let watchdog = setup.start();
    wait_for_store(&watchdog);
    let value = "{\"hp\":5,\"map\":\"arena\",\"x\":0.5}";
    assert_eq!(store(&setup, &["put", "/match/1", value]), "version 1");
    assert_eq!(store(&setup, &["get", "/match/1"]), value);
    let again = ["put", "/match/1", "7", "--if-absent"];
    assert_eq!(failure(&setup, &again), NOT_SO);
    let wounded = "{\"field\": {\"hp\": [\"<\", 5]}}";
    let again = ["put", "/match/1", "7", "--when", wounded];
    assert_eq!(failure(&setup, &again), NOT_SO);
    let again = ["put", "/match/1", "-7", "--if-version", "1"];
    assert_eq!(store(&setup, &again), "version 2");
    store(
        &setup,
        &[
            "put",
            "/match/2",
            "[1, 2]",
            "--keep-while",
            "{\"/match/1\": true}",
        ],
    );
    let listed = store(&setup, &["list", "/match/*"]);
    assert_eq!(listed, "/match/1\t-7\n/match/2\t[1,2]");
    for (wrong, code) in [
        (["get", "/match/3"], NOT_SO),
        (["get", "match"], USAGE),
        (["put", "/sidekick/a"], USAGE),
        (["list", "/a//b"], USAGE),
    ] {
        assert_eq!(failure(&setup, &wrong), code, "{wrong:?}");
    }
    for (wrong, sentence) in [
        (&["put", "/a", "{bad"][..], "a text stands in quotes"),
        (&["put", "/a", "1", "--when", "{"], "is not JSON"),
        (&["watch", "x"], "does not begin with \"/\""),
        (&["watch", "/a**"], "let it be a segment of its own"),
        (&["list", "x"], "does not begin with \"/\""),
    ] {
        let (code, told) = told_failure(&setup, wrong);
        assert_eq!(code, USAGE, "{wrong:?}: {told}");
        assert!(told.contains(sentence), "{wrong:?}: {told}");
    }
    watchdog.kill();
    assert_eq!(failure(&setup, &["get", "/match/1"]), NOT_RUNNING);

    let watchdog = setup.start();
    wait_for_store(&watchdog);
    let node = store(&setup, &["get", "/match/1", "--node"]);
    let node: Value = serde_json::from_str(&node).expect("JSON");
    assert_eq!((&node["value"], &node["version"]), (&json!(-7), &json!(2)));
    // With the one goes the other, and then the node above them.
    assert_eq!(store(&setup, &["delete", "/match/1"]), "3 nodes deleted");
    assert_eq!(store(&setup, &["list"]), "");
    watchdog.stop(PATIENCE);
}

/// A watch hears what another process does, in order; what is exported from one server comes to another, and a damaged file changes nothing.
#[test]
fn a_watch_hears_of_writes_and_a_tree_moves_to_another_server() {
    let first = setup("");
    let watchdog = first.start();
    wait_for_store(&watchdog);
    // Listed when it was empty, at revision 0.
    let (_, listed) = ask(&watchdog, "GET /api/v1/store", "", "");
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed["revision"], 0);
    let mut watch =
        Running::start(&mut first.command(&["store", "watch", "/a/*"])).expect("starts");
    let line = |watch: &mut Running, text: &str| -> Value {
        let found = wait::poll(PATIENCE, || {
            watch
                .lines
                .all()
                .into_iter()
                .find(|line| line.contains(text))
        });
        let line = found.unwrap_or_else(|| panic!("no {text:?}: {:?}", watch.lines.all()));
        serde_json::from_str(&line).expect("JSON")
    };
    line(&mut watch, "ready");
    for name in ["/a/1", "/b/1", "/a/2"] {
        store(&first, &["put", name, "\"x\""]);
    }
    store(&first, &["delete", "/a/1"]);
    let told = line(&mut watch, "delete");
    assert_eq!(
        (&told["path"], &told["reason"]),
        (&json!("/a/1"), &json!("asked"))
    );
    let puts = watch
        .lines
        .all()
        .into_iter()
        .filter(|line| line.contains("\"put\""));
    let puts: Vec<Value> = puts
        .map(|line| serde_json::from_str(&line).expect("JSON"))
        .collect();
    let paths: Vec<&Value> = puts.iter().map(|put| &put["path"]).collect();
    assert_eq!(paths, [&json!("/a/1"), &json!("/a/2")]);
    // From the list on nothing was missed.
    let arguments = ["store", "watch", "/a/*", "--from", "0"];
    let mut all = Running::start(&mut first.command(&arguments)).expect("starts");
    line(&mut all, "delete");
    let puts_of_all = all.lines.all();
    let puts_of_all = puts_of_all.iter().filter(|line| line.contains("\"put\""));
    assert_eq!(puts_of_all.count(), 2);
    // From the revision before the second put on.
    let from = puts[0]["revision"].to_string();
    let arguments = ["store", "watch", "/a/*", "--from", &from];
    let mut later = Running::start(&mut first.command(&arguments)).expect("starts");
    line(&mut later, "delete");
    let puts = later
        .lines
        .all()
        .into_iter()
        .filter(|line| line.contains("\"put\""));
    assert_eq!(puts.count(), 1);

    let file = first.scratch().join("tree.ndjson");
    let file = file.to_str().expect("text");
    store(&first, &["export", file]);
    let second = setup("");
    let other = second.start();
    wait_for_store(&other);
    store(&second, &["import", file]);
    assert_eq!(store(&second, &["list"]), store(&first, &["list"]));
    let text = fs::read_to_string(file).expect("there");
    fs::write(file, text.replacen("/a/2", "/a/3", 1)).expect("written");
    assert_eq!(failure(&second, &["import", file]), USAGE);
    assert_eq!(store(&second, &["list"]), store(&first, &["list"]));
    other.stop(PATIENCE);
    watchdog.stop(PATIENCE);
}

/// One request over TCP: code and body.
fn ask(watchdog: &Watchdog<'_>, line: &str, headers: &str, body: &str) -> (String, String) {
    let address = watchdog.wait_for_status("an address", PATIENCE, |status| {
        status["api"].as_str().map(str::to_owned)
    });
    let mut stream = TcpStream::connect(address).expect("listens");
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (head[9..12].to_owned(), body.to_owned())
}

/// Over TCP nothing is written without a token; with it, conditions and transactions hold and a repeated write counts once.
#[test]
fn over_tcp_a_write_wants_the_token_and_counts_once() {
    let setup = setup("");
    let watchdog = setup.start();
    wait_for_store(&watchdog);
    let (code, body) = ask(&watchdog, "PUT /api/v1/store/a", "", "1");
    assert_eq!(code, "403", "{body}");
    store(&setup, &["put", "/a", "1"]);
    // Without a configured token reads are answered: this is loopback.
    assert_eq!(ask(&watchdog, "GET /api/v1/store/a", "", "").0, "200");
    watchdog.stop(PATIENCE);

    let token = setup.scratch().join("token");
    fs::write(&token, "0123456789abcdef0123\n").expect("written");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("private");
    let name = token.display();
    setup.set_config(&format!(
        "[health]\nheartbeat = \"optional\"\n[api]\ntoken_file = \"{name}\"\n"
    ));
    let watchdog = setup.start();
    // The status wants the token, too: the socket tells.
    let open = wait::poll(PATIENCE, || {
        let finished = setup.run(&["store", "get", "/a"], PATIENCE);
        finished.status.success().then_some(())
    });
    open.expect("the store opens");
    let status = setup.run(&["status", "--json"], PATIENCE).stdout.join("\n");
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let address = status["api"].as_str().expect("an address").to_owned();
    let ask = |line: &str, headers: &str, body: &str| {
        let mut stream = TcpStream::connect(&address).expect("listens");
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let json: Value = serde_json::from_str(body).unwrap_or_default();
        (head[9..12].to_owned(), json)
    };
    let bearer = "Authorization: Bearer 0123456789abcdef0123\r\n";
    assert_eq!(ask("PUT /api/v1/store/a", "", "2").0, "401");
    assert_eq!(ask("GET /api/v1/store/a", "", "").0, "401");
    let once = format!(
        "{bearer}Idempotency-Key: 5f3a91c2-0000-4000-8000-000000000001\r\nIf-Match: \"1\"\r\n"
    );
    for _ in 0..2 {
        let (code, told) = ask("PUT /api/v1/store/a", &once, "2");
        assert_eq!(
            (code.as_str(), &told["version"]),
            ("200", &json!(2)),
            "{told}"
        );
    }
    let transaction = json!({
        "compare": {"/a": {"value": 2}},
        "then": [{"put": "/b/c", "value": [null, true]}, {"get": "/a"}],
        "otherwise": [{"delete": "/a"}],
    });
    let (code, told) = ask(
        "POST /api/v1/transactions",
        bearer,
        &transaction.to_string(),
    );
    assert_eq!(
        (code.as_str(), &told["succeeded"]),
        ("200", &json!(true)),
        "{told}"
    );
    assert_eq!(told["nodes"][1]["value"], 2);
    assert_eq!(told["nodes"][0]["has_value"], true);
    let (_, told) = ask("GET /api/v1/store?pattern=/**&limit=1", bearer, "");
    assert_eq!(
        (&told["nodes"][0]["path"], &told["next"]),
        (&json!("/a"), &json!("/a"))
    );
    let stale = format!("{bearer}If-Match: \"1\"\r\n");
    let (code, told) = ask("DELETE /api/v1/store/a", &stale, "");
    assert_eq!(
        (code.as_str(), &told["error"]),
        ("412", &json!("condition_failed"))
    );
    let (code, told) = ask("DELETE /api/v1/store/a", bearer, "");
    assert_eq!(
        (code.as_str(), &told["deleted"][0]["path"]),
        ("200", &json!("/a"))
    );

    // More than an answer has names for.
    for piece in 0..9 {
        let puts: Vec<Value> = (0..128)
            .map(|number| json!({"put": format!("/many/{piece}-{number}"), "value": number}))
            .collect();
        let transaction = json!({"then": puts});
        let (code, told) = ask(
            "POST /api/v1/transactions",
            bearer,
            &transaction.to_string(),
        );
        assert_eq!(code, "200", "{told}");
    }
    let told = store(&setup, &["delete", "/many"]);
    assert_eq!(told, format!("{} nodes deleted", 9 * 128 + 1));
    watchdog.stop(PATIENCE);
}
