//! Handlers over a real socket, with a store that remembers what it was asked and answers what the test says.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use sidekick_ipc::tree::{
    Answer, Comparison, Condition, DeleteReason, Deleted, LeaseRef, WatchEvent, WatchKind,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch as changes};

use super::*;
use crate::api::operator::{Following, Operator, Order, OrderError};
use crate::api::{Api, Status};
use crate::config::ApiConfig;
use crate::log_line::{LogLine, LogPosition};
use crate::metrics::Metrics;

#[derive(Debug)]
struct Fake {
    asked: Mutex<Vec<(StoreOp, Option<Uuid>)>>,
    answer: Mutex<StoreResult>,
    queried: Mutex<Vec<StoreQuery>>,
    lease_time: Mutex<Option<LeaseTime>>,
    events: Mutex<Vec<WatchEvent>>,
    revision: changes::Sender<u64>,
}

impl Fake {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            asked: Mutex::default(),
            answer: Mutex::new(StoreResult::Ok(Answer::default())),
            queried: Mutex::default(),
            lease_time: Mutex::default(),
            events: Mutex::default(),
            revision: changes::channel(4).0,
        })
    }

    fn will_answer(&self, result: StoreResult) {
        *self.answer.lock().unwrap() = result;
    }

    fn happens(&self, revision: u64, at: &[&str]) {
        let event = |at: &&str| WatchEvent {
            revision,
            path: words::path(at).unwrap(),
            kind: WatchKind::Delete {
                reason: DeleteReason::Asked,
            },
        };
        self.events.lock().unwrap().extend(at.iter().map(event));
        self.revision.send_replace(revision);
    }

    fn last(&self) -> (StoreOp, Option<Uuid>) {
        self.asked.lock().unwrap().pop().unwrap()
    }
}

impl TreeStore for Fake {
    fn execute(&self, op: StoreOp, retry: Option<Uuid>) -> Later<StoreResult> {
        self.asked.lock().unwrap().push((op, retry));
        let answer = self.answer.lock().unwrap().clone();
        Box::pin(async { answer })
    }

    fn hold(
        &self,
        op: StoreOp,
        retry: Option<Uuid>,
        _: Instant,
    ) -> Later<(StoreResult, Option<LeaseTime>)> {
        let time = *self.lease_time.lock().unwrap();
        let answer = self.execute(op, retry);
        Box::pin(async move { (answer.await, time) })
    }

    fn query(&self, query: StoreQuery) -> Later<StoreResult> {
        self.queried.lock().unwrap().push(query);
        let answer = self.answer.lock().unwrap().clone();
        Box::pin(async { answer })
    }

    fn revision(&self) -> Option<u64> {
        Some(*self.revision.borrow())
    }

    fn events(&self, pattern: &Pattern, after: u64) -> Option<WatchBatch> {
        let events = self.events.lock().unwrap();
        let events = events
            .iter()
            .filter(|event| event.revision > after && pattern.matches(&event.path));
        Some(WatchBatch {
            revision: *self.revision.borrow(),
            compacted: after == 0,
            events: events.cloned().collect(),
        })
    }

    fn changes(&self) -> Option<Receiver<u64>> {
        Some(self.revision.subscribe())
    }

    fn export(&self) -> Later<Result<String, StoreResult>> {
        Box::pin(async { Ok("all\n".to_owned()) })
    }

    fn import(&self, text: String) -> Later<Result<u64, StoreResult>> {
        Box::pin(async move { Ok(text.len() as u64) })
    }
}

#[derive(Debug)]
struct Owner(Option<Arc<Fake>>);

impl Operator for Owner {
    fn order(&self, _: Order) -> Result<std::time::Duration, OrderError> {
        Err(OrderError::NotNow)
    }

    fn log(&self, _: Option<u32>, _: usize) -> std::io::Result<Vec<LogLine>> {
        Ok(Vec::new())
    }

    fn follow_log(&self, _: Option<u32>, _: usize, _: Option<LogPosition>) -> Option<Following> {
        None
    }

    fn crashes(&self) -> crate::crash::keep::CrashFolder {
        crate::crash::keep::CrashFolder::new("/nonexistent".as_ref())
    }

    fn tree(&self) -> Option<Arc<dyn TreeStore>> {
        let store: Arc<dyn TreeStore> = self.0.clone()?;
        Some(store)
    }
}

struct Server {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
    _status: changes::Sender<Status>,
}

/// With the token `secret`, unless there is none.
async fn start(store: Option<Arc<Fake>>, has_token: bool) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let token_file = has_token.then(|| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.path().join("token");
        std::fs::write(&path, "secret\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    });
    let config = ApiConfig {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        token_file,
    };
    let api = Api::bind(&config).await.unwrap();
    let address = api.address();
    let (status, receiver) = changes::channel(Status::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let operator: Arc<dyn Operator> = Arc::new(Owner(store));
    tokio::spawn(api.serve(receiver, Metrics::new(), Some(operator), async {
        let _ = stopped.await;
    }));
    Server {
        address,
        _stop: stop,
        _status: status,
    }
}

impl Server {
    /// Sends a request with the token; `headers` end with a line break each.
    async fn send(&self, line: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer secret\r\n\
             Content-Length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// The answer's code and all of it.
    async fn ask(&self, line: &str, headers: &str, body: &str) -> (u16, String) {
        let mut answer = String::new();
        let mut stream = self.send(line, headers, body).await;
        stream.read_to_string(&mut answer).await.unwrap();
        let code = answer[9..12].parse().unwrap();
        (code, answer)
    }
}

#[tokio::test]
async fn a_put_carries_its_value_its_conditions_and_its_key() {
    let store = Fake::new();
    let server = start(Some(Arc::clone(&store)), true).await;
    store.will_answer(StoreResult::Ok(Answer {
        version: 4,
        revision: 9,
        succeeded: true,
        ..Answer::default()
    }));
    let key = Uuid::from_u128(7);
    let headers = format!("If-Match: \"3\"\r\nIdempotency-Key: {key}\r\n");
    let line = "PUT /api/v1/store/match/a%20b?child_count=%3E=2&when=%7B%22has_value%22:true%7D";
    let (code, answer) = server.ask(line, &headers, "{\"map\": \"arena\"}").await;
    assert_eq!(code, 200, "{answer}");
    assert!(answer.contains("etag: \"4\""), "{answer}");
    assert!(answer.contains("\"revision\":9"), "{answer}");
    let (op, retry) = store.last();
    assert_eq!(retry, Some(key));
    let StoreOp::Put(put) = op else {
        panic!("{op:?}");
    };
    assert_eq!(put.path.as_str(), "/match/a b");
    assert_eq!(
        put.value,
        Some(words::value(&json!({"map": "arena"})).unwrap())
    );
    for expected in [
        Condition::Version(Comparison::Equal, 3),
        Condition::ChildCount(Comparison::GreaterOrEqual, 2),
        Condition::HasValue(true),
    ] {
        assert!(put.when.contains(&expected), "{expected:?} {:?}", put.when);
    }
    // Godot's own encoding is kept as it is.
    let (code, _) = server
        .ask(
            "PUT /api/v1/store/b",
            "If-None-Match: *\r\nContent-Type: application/octet-stream\r\n",
            "\u{1}\0\0\0\u{1}\0\0\0",
        )
        .await;
    assert_eq!(code, 200);
    let (StoreOp::Put(put), None) = store.last() else {
        panic!();
    };
    assert_eq!(put.value.unwrap(), [1, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(put.when, [Condition::Exists(false)]);
}

#[tokio::test]
async fn what_is_wrong_is_told_and_asks_nothing_of_the_store() {
    let store = Fake::new();
    let server = start(Some(Arc::clone(&store)), true).await;
    for (line, headers, body, told) in [
        ("PUT /api/v1/store/a", "", "{", "not JSON"),
        ("PUT /api/v1/store/a", "", "18446744073709551615", "int"),
        ("PUT /api/v1/store/a?versoin=1", "", "1", "versoin"),
        ("PUT /api/v1/store/a?version=%3E=x", "", "1", "version"),
        ("PUT /api/v1/store/a//b", "", "1", "path"),
        ("PUT /api/v1/store/sidekick/b", "", "1", "sidekick"),
        ("PUT /api/v1/store/a", "If-Match: x\r\n", "1", "If-Match"),
        (
            "PUT /api/v1/store/a?version=1",
            "If-Match: \"1\"\r\n",
            "1",
            "headers",
        ),
        ("PUT /api/v1/store/a", "Idempotency-Key: 1\r\n", "1", "UUID"),
        (
            "PUT /api/v1/store/a",
            "Content-Type: application/octet-stream\r\n",
            "abc",
            "byte",
        ),
        (
            "DELETE /api/v1/store/a?keep_while=%7B%22/a%22:true%7D",
            "",
            "",
            "keep_while",
        ),
        ("POST /api/v1/transactions", "", "{\"than\": []}", "than"),
        ("GET /api/v1/store?patern=/a", "", "", "patern"),
        ("GET /api/v1/store?limit=x", "", "", "limit"),
        ("GET /api/v1/count?pattern=a", "", "", "begin"),
        ("GET /api/v1/count?limit=1", "", "", "limit"),
        ("POST /api/v1/leases/a", "", "", "?ttl=10s"),
        ("POST /api/v1/leases/a?ttl=50ms", "", "", "100ms"),
        ("POST /api/v1/leases/a?seconds=5", "", "", "seconds"),
        ("POST /api/v1/leases/a*?ttl=5", "", "", "pattern"),
        ("POST /api/v1/leases/sidekick?ttl=5", "", "", "sidekick"),
        ("PUT /api/v1/leases/a", "", "", "?token=7"),
        ("PUT /api/v1/leases/a?token=x", "", "", "number"),
        ("DELETE /api/v1/leases/a?ttl=5", "", "", "ttl"),
        (
            "DELETE /api/v1/leases/a?token=1",
            "Idempotency-Key: 1\r\n",
            "",
            "UUID",
        ),
        ("GET /api/v1/watch?from=x", "", "", "revision"),
        ("GET /api/v1/store/a?linearizable=2", "", "", "linearizable"),
    ] {
        let (code, answer) = server.ask(line, headers, body).await;
        assert_eq!(code, 400, "{line}: {answer}");
        assert!(answer.contains("\"error\":\"invalid\""), "{line}: {answer}");
        let words = answer.to_lowercase();
        assert!(words.contains(&told.to_lowercase()), "{line}: {answer}");
    }
    assert!(store.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn no_write_goes_through_without_a_token() {
    let store = Fake::new();
    let lines = [
        "PUT /api/v1/store/a",
        "DELETE /api/v1/store/a",
        "POST /api/v1/transactions",
        "POST /api/v1/import",
        "POST /api/v1/leases/a?ttl=5",
        "PUT /api/v1/leases/a?token=4",
        "DELETE /api/v1/leases/a?token=4",
    ];
    // None is configured: reads are answered, writes are not.
    let server = start(Some(Arc::clone(&store)), false).await;
    for line in lines {
        let (code, answer) = server.ask(line, "", "1").await;
        assert_eq!(code, 403, "{line}: {answer}");
    }
    assert_eq!(server.ask("GET /api/v1/export", "", "").await.0, 200);
    // One is, and another is sent.
    let server = start(Some(Arc::clone(&store)), true).await;
    for line in lines.into_iter().chain(["GET /api/v1/store/a"]) {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer other\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401"), "{line}: {answer}");
    }
    assert!(store.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn errors_of_the_store_have_their_codes() {
    let store = Fake::new();
    let server = start(Some(Arc::clone(&store)), true).await;
    for (kind, expected) in [
        (ErrorKind::NotFound, 404),
        (ErrorKind::ConditionFailed, 412),
        (ErrorKind::LeaseHeld, 409),
        (ErrorKind::TooLarge, 413),
        (ErrorKind::TreeFull, 507),
        (ErrorKind::Unavailable, 503),
    ] {
        store.will_answer(StoreResult::error(kind, "why"));
        let (code, answer) = server.ask("DELETE /api/v1/store/a", "", "").await;
        assert_eq!(code, expected, "{answer}");
        assert!(answer.contains(kind.name()) && answer.contains("why"));
    }
    let server = start(None, true).await;
    for line in [
        "GET /api/v1/store/a",
        "GET /api/v1/store",
        "GET /api/v1/watch",
    ] {
        assert_eq!(server.ask(line, "", "").await.0, 503, "{line}");
    }
}

#[tokio::test]
async fn a_node_is_json_or_godots_own_bytes() {
    let store = Fake::new();
    let server = start(Some(Arc::clone(&store)), true).await;
    let bytes = words::value(&json!("text")).unwrap();
    store.will_answer(StoreResult::Ok(Answer {
        nodes: vec![NodeInfo {
            path: words::path("/a").unwrap(),
            version: 3,
            child_version: 0,
            child_count: 0,
            has_value: true,
            value: Some(bytes.clone()),
            lease: 0,
        }],
        ..Answer::default()
    }));
    let (code, answer) = server.ask("GET /api/v1/store/a", "", "").await;
    assert_eq!(code, 200);
    assert!(answer.contains("\"value\":\"text\"") && answer.contains("etag: \"3\""));
    let octets = "Accept: application/octet-stream\r\n";
    let (_, answer) = server.ask("GET /api/v1/store/a", octets, "").await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(body.as_bytes(), bytes);
    store.will_answer(StoreResult::error(
        ErrorKind::NotFound,
        "there is no node /a",
    ));
    assert_eq!(server.ask("GET /api/v1/store/a", "", "").await.0, 404);
}

/// A lease's answer as the store gives it, of token 3 at `/jobs/a b`.
fn leased() -> StoreResult {
    StoreResult::Ok(Answer {
        revision: 4,
        lease: Some(LeaseRef {
            path: words::path("/jobs/a b").unwrap(),
            token: 3,
        }),
        succeeded: true,
        ..Answer::default()
    })
}

/// What is told of a lease follows from what is left of it, however the store's answer came about.
#[tokio::test]
async fn a_lease_says_how_long_it_may_be_relied_on() {
    let store = Fake::new();
    let server = start(Some(Arc::clone(&store)), true).await;
    store.will_answer(leased());
    let left = |seconds| {
        *store.lease_time.lock().unwrap() = Some(LeaseTime {
            ttl: Duration::from_secs(10),
            left_when_asked: Duration::from_secs(seconds),
        });
    };
    left(10);
    let key = Uuid::from_u128(7);
    let headers = format!("Idempotency-Key: {key}\r\n");
    let take = "POST /api/v1/leases/jobs/a%20b?ttl=10s";
    let (code, answer) = server.ask(take, &headers, "").await;
    assert_eq!(code, 200, "{answer}");
    for told in [
        "\"path\":\"/jobs/a b\"",
        "\"token\":3",
        "\"seconds\":10.0",
        "\"use_for_s\":8.0",
        "\"use_until\":\"2",
    ] {
        assert!(answer.contains(told), "{told}: {answer}");
    }
    let path = words::path("/jobs/a b").unwrap();
    let grant = StoreOp::LeaseGrant {
        path: path.clone(),
        ttl_ms: 10_000,
    };
    assert_eq!(store.last(), (grant, Some(key)));
    // A retry, seconds later.
    left(5);
    let (_, answer) = server.ask(take, &headers, "").await;
    assert!(answer.contains("\"use_for_s\":3.0"), "{answer}");
    let renew = "PUT /api/v1/leases/jobs/a%20b?token=3";
    let (code, answer) = server.ask(renew, "", "").await;
    assert!(
        code == 200 && answer.contains("\"use_for_s\":3.0"),
        "{answer}"
    );
    let lease = LeaseRef { path, token: 3 };
    assert_eq!(store.last(), (StoreOp::LeaseRenew(lease.clone()), None));
    // The answer that was remembered is good news; the lease has ended since.
    *store.lease_time.lock().unwrap() = None;
    for line in [take, renew] {
        let (code, answer) = server.ask(line, &headers, "").await;
        assert_eq!(code, 409, "{answer}");
        assert!(answer.contains("lease_lost"), "{answer}");
        assert!(!answer.contains("use_for_s"), "{answer}");
    }
    // The answer to another write under the same key is none to this one.
    left(10);
    for other in [
        "POST /api/v1/leases/b?ttl=10s",
        "PUT /api/v1/leases/jobs/a%20b?token=2",
    ] {
        let (code, answer) = server.ask(other, &headers, "").await;
        assert_eq!(code, 400, "{answer}");
        assert!(answer.contains("Idempotency-Key"), "{answer}");
    }
    store.will_answer(StoreResult::Ok(Answer::default()));
    assert_eq!(server.ask(take, &headers, "").await.0, 400);
}

#[tokio::test]
async fn a_lease_is_given_back_and_what_went_is_told() {
    let store = Fake::new();
    let server = start(Some(Arc::clone(&store)), true).await;
    let gone = |number| Deleted {
        path: words::path(&format!("/host/{number}")).unwrap(),
        reason: DeleteReason::Lease,
    };
    let release = "DELETE /api/v1/leases/a?token=3";
    for (count, is_cut) in [(1024, false), (1025, true)] {
        store.will_answer(StoreResult::Ok(Answer {
            count,
            deleted: (0..1024).map(gone).collect(),
            ..Answer::default()
        }));
        let (code, answer) = server.ask(release, "", "").await;
        assert_eq!(code, 200, "{answer}");
        let cut = format!("\"deleted_cut\":{is_cut}");
        assert!(answer.contains(&format!("\"count\":{count},")));
        assert!(answer.contains(&cut), "{cut}");
        let path = words::path("/a").unwrap();
        let lease = LeaseRef { path, token: 3 };
        assert_eq!(store.last(), (StoreOp::LeaseRelease(lease), None));
    }
}

/// The store's revision is 4, so no token is above it.
#[tokio::test]
async fn a_lease_that_never_was_is_not_found_and_one_that_ended_is_lost() {
    let store = Fake::new();
    let server = start(Some(Arc::clone(&store)), true).await;
    store.will_answer(StoreResult::error(ErrorKind::LeaseLost, "it ended"));
    for method in ["PUT", "DELETE"] {
        for (token, expected, word) in [
            (0, 404, "not_found"),
            (4, 409, "lease_lost"),
            (5, 404, "not_found"),
        ] {
            let line = format!("{method} /api/v1/leases/a?token={token}");
            let (code, answer) = server.ask(&line, "", "").await;
            assert_eq!(code, expected, "{line}: {answer}");
            assert!(answer.contains(word), "{line}: {answer}");
        }
    }
    store.will_answer(StoreResult::error(ErrorKind::LeaseHeld, "by another"));
    let line = "POST /api/v1/leases/a?ttl=5";
    let (code, answer) = server.ask(line, "", "").await;
    assert!(code == 409 && answer.contains("lease_held"), "{answer}");
}

#[tokio::test]
async fn nodes_are_counted_by_a_pattern() {
    let store = Fake::new();
    let server = start(Some(Arc::clone(&store)), true).await;
    store.will_answer(StoreResult::Ok(Answer {
        count: 12,
        ..Answer::default()
    }));
    for (query, pattern, linearizable) in [
        ("", "/**", false),
        ("?pattern=/a/*&linearizable=true", "/a/*", true),
    ] {
        let (code, answer) = server
            .ask(&format!("GET /api/v1/count{query}"), "", "")
            .await;
        assert!(code == 200 && answer.contains("\"count\":12,"), "{answer}");
        let asked = store.queried.lock().unwrap().pop();
        let pattern = words::pattern(pattern).unwrap();
        let count = StoreQuery::Count {
            pattern,
            linearizable,
        };
        assert_eq!(asked, Some(count));
    }
}

/// Reads until the text has come.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut all = String::new();
    let mut bytes = [0; 4096];
    while !all.contains(text) {
        let read = stream.read(&mut bytes);
        let patience = std::time::Duration::from_secs(20);
        let count = tokio::time::timeout(patience, read).await.unwrap().unwrap();
        assert!(count > 0, "ended before {text:?}: {all}");
        all.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    all
}

/// A watch tells where it begins, then what happens; only the last event of a revision has its id, so that a client that was cut off amid a
/// revision hears all of it again.
#[tokio::test]
async fn a_watch_tells_what_happens_and_goes_on_after_a_break() {
    let store = Fake::new();
    let server = start(Some(Arc::clone(&store)), true).await;
    let mut stream = server.send("GET /api/v1/watch?pattern=/a/*", "", "").await;
    let first = read_until(&mut stream, "id: 4").await;
    assert!(first.contains("text/event-stream"), "{first}");
    assert!(first.contains("event: ready\ndata: {\"revision\":4}\nid: 4\n\n"));
    store.happens(5, &["/a/1", "/a/2", "/b"]);
    let told = read_until(&mut stream, "id: 5\n\n").await;
    assert!(
        told.contains("\"path\":\"/a/1\",\"reason\":\"asked\",\"revision\":5}\n\n"),
        "{told}"
    );
    assert!(told.contains("\"path\":\"/a/2\",\"reason\":\"asked\",\"revision\":5}\nid: 5\n\n"));
    assert!(!told.contains("/b"));
    drop(stream);
    store.happens(6, &["/a/3"]);
    let back = "Last-Event-ID: 5\r\n";
    let mut stream = server
        .send("GET /api/v1/watch?pattern=/a/*&from=1", back, "")
        .await;
    let told = read_until(&mut stream, "id: 6").await;
    assert!(told.contains("/a/3") && !told.contains("/a/2"), "{told}");
    // From the very beginning, which is not from now on.
    let mut stream = server.send("GET /api/v1/watch?from=0", "", "").await;
    let told = read_until(&mut stream, "id: 6").await;
    assert!(
        told.contains("{\"revision\":0}") && told.contains("/a/1"),
        "{told}"
    );
    // From the future, as after a restored copy.
    let mut stream = server.send("GET /api/v1/watch?from=99", "", "").await;
    let told = read_until(&mut stream, "compacted").await;
    assert!(told.contains("ready"), "{told}");
}
