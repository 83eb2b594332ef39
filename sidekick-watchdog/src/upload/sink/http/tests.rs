//! The HTTP sink against a real server on this machine that answers as it is told.

mod answers;
mod faults;
mod http2;
mod proxy;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap as Headers, StatusCode as Status};
use axum::response::IntoResponse;
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::upload::sink::Row;
use crate::upload::status::SinkState;
use crate::upload::testing::{FakeOutbox, Fuse, GROUP, Running, lines, start};
use crate::upload::{UploadSettings, UploadStatus};

/// What the server does with a request.
#[derive(Clone, Debug)]
enum Answer {
    Status(u16),
    /// With a header.
    With(u16, &'static str, String),
    /// With a `Retry-After` and the time that it is for the backend.
    WithDate(u16, String, String),
    /// 413 for more than one record; a single one is taken.
    TooMany,
    /// Takes nothing and says nothing.
    Mute,
    /// Takes the batch and says nothing.
    Silence,
    /// Takes the batch and cuts the connection.
    Cut,
}

#[derive(Debug)]
struct Request {
    key: String,
    encoding: Option<String>,
    authorization: Option<String>,
    content_type: String,
    custom: Option<String>,
    body: Bytes,
    at: Instant,
}

#[derive(Debug, Default)]
struct Backend {
    script: Mutex<VecDeque<Answer>>,
    /// Numbers of records that are a 400.
    poison: Mutex<BTreeSet<u64>>,
    /// A request without this token is a 401.
    token: Mutex<Option<String>>,
    requests: Mutex<Vec<Request>>,
    /// Bodies that were taken, by key, in their order.
    taken: Mutex<Vec<(String, Vec<u8>)>>,
}

impl Backend {
    fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.script.lock().unwrap().extend(answers);
    }

    fn records(&self) -> Vec<(String, u64)> {
        self.taken
            .lock()
            .unwrap()
            .iter()
            .flat_map(|(_, body)| lines(body))
            .collect()
    }

    fn is_bad(&self, body: &[u8]) -> bool {
        let poison = self.poison.lock().unwrap();
        lines(body).iter().any(|(_, seq)| poison.contains(seq))
    }

    fn has(&self, key: &str) -> bool {
        self.taken
            .lock()
            .unwrap()
            .iter()
            .any(|(known, _)| known == key)
    }

    fn take(&self, key: &str, lines: Vec<u8>) -> u16 {
        if self.has(key) {
            return 409;
        }
        self.taken.lock().unwrap().push((key.to_owned(), lines));
        200
    }
}

fn decompress(encoding: Option<&str>, body: &[u8]) -> Vec<u8> {
    match encoding {
        None => body.to_vec(),
        Some("gzip") => {
            let mut lines = Vec::new();
            let mut decoder = flate2::write::GzDecoder::new(&mut lines);
            decoder.write_all(body).unwrap();
            decoder.finish().unwrap();
            lines
        }
        Some("zstd") => zstd::bulk::decompress(body, 16 << 20).unwrap(),
        Some(other) => panic!("unknown encoding {other}"),
    }
}

async fn answer(
    State(backend): State<Arc<Backend>>,
    headers: Headers,
    body: Bytes,
) -> axum::response::Response {
    let header = |name| {
        headers
            .get(name)
            .map(|v: &HeaderValue| v.to_str().unwrap().to_owned())
    };
    let (key, encoding) = (
        header("idempotency-key").unwrap(),
        header("content-encoding"),
    );
    let authorization = header("authorization");
    let lines = decompress(encoding.as_deref(), &body);
    backend.requests.lock().unwrap().push(Request {
        key: key.clone(),
        encoding,
        authorization: authorization.clone(),
        content_type: header("content-type").unwrap(),
        custom: header("x-custom"),
        body,
        at: Instant::now(),
    });
    if let Some(token) = &*backend.token.lock().unwrap()
        && authorization != Some(format!("Bearer {token}"))
    {
        return (Status::UNAUTHORIZED, "who are you?").into_response();
    }
    let next = backend.script.lock().unwrap().pop_front();
    let is_single = crate::upload::testing::lines(&lines).len() < 2;
    let next = next.filter(|next| !(matches!(next, Answer::TooMany) && is_single));
    let status = |code| Status::from_u16(code).unwrap();
    match next {
        None if backend.is_bad(&lines) => (Status::BAD_REQUEST, "a bad record").into_response(),
        None => status(backend.take(&key, lines)).into_response(),
        Some(Answer::TooMany) if backend.has(&key) => status(409).into_response(),
        Some(Answer::TooMany) => (status(413), "because").into_response(),
        Some(Answer::Mute) => std::future::pending().await,
        // Who remembers keys looks at them before anything else.
        Some(Answer::Status(413)) if backend.has(&key) => status(409).into_response(),
        Some(Answer::Status(code)) => (status(code), "because").into_response(),
        Some(Answer::WithDate(code, value, date)) => {
            let headers = [("retry-after", value), ("date", date)];
            (status(code), headers).into_response()
        }
        Some(Answer::With(code, name, value)) => (status(code), [(name, value)]).into_response(),
        Some(Answer::Silence) => {
            backend.take(&key, lines);
            std::future::pending().await
        }
        Some(Answer::Cut) => {
            backend.take(&key, lines);
            // Ends the connection's task without an answer, and without the noise of a panic.
            std::panic::resume_unwind(Box::new("cut"))
        }
    }
}

struct Server {
    backend: Arc<Backend>,
    url: String,
    _task: JoinSet<()>,
}

async fn server() -> Server {
    let backend = Arc::new(Backend::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/records", listener.local_addr().unwrap());
    let router = axum::Router::new()
        .route("/records", post(answer))
        .with_state(backend.clone());
    let mut task = JoinSet::new();
    task.spawn(async move { axum::serve(listener, router).await.unwrap() });
    Server {
        backend,
        url,
        _task: task,
    }
}

fn settings(url: &str) -> HttpSettings {
    HttpSettings {
        url: url.to_owned(),
        headers: vec![("X-Custom".into(), "yes".into())],
        token_file: None,
        timeout: Duration::from_secs(10),
        compression: Compression::Gzip,
        concurrency_max: 1,
        tls_ca_file: None,
        tls_client: None,
        pacer: None,
    }
}

/// For a server that will not answer.
fn impatient(url: &str, timeout: Duration) -> HttpSettings {
    HttpSettings {
        timeout,
        ..settings(url)
    }
}

fn quick() -> UploadSettings {
    UploadSettings {
        batch_max_records: 5,
        batch_max_age: Duration::from_millis(5),
        retry_first: Duration::from_millis(5),
        retry_max: Duration::from_millis(40),
        ..UploadSettings::default()
    }
}

fn batch(extra: &[u8], body: &'static [u8]) -> Batch {
    let plan = Plan {
        sink: "http".into(),
        lane: 0,
        first: Position { index: 1, item: 0 },
        last: Position { index: 1, item: 4 },
        rules_version: 0,
        encoder_version: 1,
        extra: extra.to_vec(),
    };
    let key = plan.key(&GROUP);
    Batch {
        plan,
        key,
        body: Bytes::from_static(body),
        rows: (0..5)
            .map(|item| Row {
                position: Position { index: 1, item },
                end: body.len(),
            })
            .collect(),
        replay: None,
    }
}

fn recorded(outbox: &FakeOutbox) -> Vec<(String, u64)> {
    let state = outbox.state.lock().unwrap();
    state
        .records
        .iter()
        .map(|(_, stream, seq)| (stream.clone(), *seq))
        .collect()
}

async fn begin(settings: HttpSettings, lanes: u32) -> (Arc<FakeOutbox>, Running) {
    let outbox = Arc::new(FakeOutbox::new(Fuse::new(), &[("http", lanes)]));
    let sink = Arc::new(HttpSink::new(settings).unwrap());
    let running = start(outbox.clone(), vec![sink], quick()).await;
    (outbox, running)
}

async fn until(running: &mut Running, done: impl FnMut(&UploadStatus) -> bool) {
    let waited =
        tokio::time::timeout(Duration::from_secs(120), running.status.wait_for(done)).await;
    assert!(
        waited.is_ok_and(|done| done.is_ok()),
        "stuck: {:?}",
        running.status.borrow()
    );
}

/// One fault after another: everything arrives once, in order, and no key ever has two bodies.
#[tokio::test]
async fn records_survive_every_fault_of_a_backend() {
    let Server {
        backend,
        url,
        _task,
    } = server().await;
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
    backend.script([
        Answer::Status(500),
        Answer::Silence,
        Answer::Cut,
        Answer::With(429, "retry-after", "1".into()),
        Answer::TooMany,
        Answer::Status(502),
        Answer::With(503, "retry-after", date),
        Answer::Status(404),
        Answer::Cut,
        Answer::Status(403),
        Answer::Status(408),
        Answer::Silence,
    ]);
    // Of those that do answer none is to be taken for one that does not.
    let (outbox, mut running) = begin(impatient(&url, Duration::from_secs(3)), 1).await;
    for _ in 0..6 {
        outbox.append(&[&["a", "b", "c"], &["b", "a"]]);
    }
    until(&mut running, |status| status.is_through(6)).await;
    assert_eq!(backend.records(), recorded(&outbox));
    let requests = backend.requests.lock().unwrap();
    let mut bodies: BTreeMap<&str, &Bytes> = BTreeMap::new();
    for request in &*requests {
        let known = bodies.entry(&request.key).or_insert(&request.body);
        assert_eq!(*known, &request.body, "two bodies under {}", request.key);
        assert!(
            request.key.starts_with(&format!("{GROUP}/http/")),
            "{}",
            request.key
        );
        assert_eq!(request.content_type, "application/x-ndjson");
        assert_eq!(request.encoding.as_deref(), Some("gzip"));
        assert_eq!(request.custom.as_deref(), Some("yes"));
        assert_eq!(request.authorization, None);
    }
    let waited = requests[4].at - requests[3].at;
    assert!(
        waited >= Duration::from_secs(1),
        "Retry-After in seconds: {waited:?}"
    );
    let status = running.status.borrow();
    assert_eq!(status.sinks[0].state, SinkState::Ok);
    assert_eq!(status.sinks[0].records, 30);
    assert!(status.sinks[0].failures >= 11, "{status:?}");
}

/// Four lanes at once.
#[tokio::test]
async fn lanes_keep_the_order_of_their_streams() {
    let Server {
        backend,
        url,
        _task,
    } = server().await;
    backend.script((0..12).map(|n| match n % 4 {
        0 => Answer::Status(500),
        1 => Answer::Cut,
        2 => Answer::With(503, "retry-after", "0".into()),
        _ => Answer::TooMany,
    }));
    let settings = HttpSettings {
        compression: Compression::Zstd,
        ..settings(&url)
    };
    let (outbox, mut running) = begin(settings, 4).await;
    for _ in 0..10 {
        outbox.append(&[&["damage", "chat.say", "score", "move", "match.end", "damage"]]);
    }
    until(&mut running, |status| status.is_through(10)).await;
    let by_stream = |records: Vec<(String, u64)>| {
        let mut streams: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (stream, seq) in records {
            streams.entry(stream).or_default().push(seq);
        }
        streams
    };
    assert_eq!(by_stream(backend.records()), by_stream(recorded(&outbox)));
}

/// What each answer means.
#[tokio::test]
async fn answers_are_judged_as_documented() {
    let Server {
        backend,
        url,
        _task,
    } = server().await;
    let sink = HttpSink::new(HttpSettings {
        compression: Compression::None,
        ..settings(&url)
    });
    let sink = sink.unwrap();
    let batch = batch(b"none", b"{\"stream\":\"a\",\"seq\":1}\n");
    for code in 200..600 {
        let expected = match code {
            200..300 | 409 => "Taken",
            400 | 422 => "Refused",
            413 => "TooLarge",
            429 | 503 => "Wait",
            408 | 425 | 500.. => "Retry",
            _ => "Park",
        };
        backend.script([Answer::Status(code)]);
        let outcome = format!("{:?}", sink.send(&batch).await);
        assert!(outcome.starts_with(expected), "{code}: {outcome}");
        let told = expected == "Taken" || outcome.contains(&format!("answered {code}"));
        // These have no body.
        let has_body = !matches!(code, 204 | 205 | 304);
        assert!(
            told && (expected == "Taken" || !has_body || outcome.contains("because")),
            "{code}: {outcome}"
        );
    }
    // A record that is too large by itself cannot be halved.
    let mut single = batch.clone();
    single.rows.truncate(1);
    backend.script([Answer::Status(413)]);
    let outcome = format!("{:?}", sink.send(&single).await);
    assert!(
        outcome.contains("Refused { code: \"HTTP 413\""),
        "{outcome}"
    );
    backend.script([Answer::With(
        307,
        "location",
        "https://elsewhere.example/".into(),
    )]);
    let outcome = format!("{:?}", sink.send(&batch).await);
    assert!(
        outcome.contains("elsewhere.example") && outcome.starts_with("Park"),
        "{outcome}"
    );
}

/// `Retry-After` is read in both forms, a date by the backend's own clock, also where that is a year off.
#[tokio::test]
async fn retry_after_is_read_in_both_forms() {
    let Server {
        backend,
        url,
        _task,
    } = server().await;
    let sink = HttpSink::new(settings(&url)).unwrap();
    let batch = batch(b"none", b"{\"stream\":\"a\",\"seq\":1}\n");
    let date = |at| httpdate::fmt_http_date(at);
    let year = Duration::from_secs(365 * 24 * 3600);
    // One moment: a date has whole seconds.
    let last_year = SystemTime::now() - year;
    for (code, value, clock, least, most) in [
        (429, "7".to_owned(), None, 7, 7),
        (
            503,
            date(SystemTime::now() + Duration::from_secs(300)),
            None,
            200,
            300,
        ),
        (
            503,
            date(SystemTime::now() - Duration::from_secs(30)),
            None,
            0,
            0,
        ),
        (
            503,
            date(last_year + Duration::from_secs(9)),
            Some(date(last_year)),
            9,
            10,
        ),
        (429, "999999999".to_owned(), None, 3600, 3600),
    ] {
        let answer = match clock {
            None => Answer::With(code, "retry-after", value),
            Some(clock) => Answer::WithDate(code, value, clock),
        };
        backend.script([answer]);
        let Outcome::Wait { pause, .. } = sink.send(&batch).await else {
            panic!("not told to wait")
        };
        assert!(
            (least..=most).contains(&pause.as_secs()),
            "{code}: {pause:?}"
        );
    }
    backend.script([Answer::Status(503)]);
    let Outcome::Wait { pause, .. } = sink.send(&batch).await else {
        panic!("not told to wait")
    };
    assert_eq!(pause, RETRY_AFTER_DEFAULT);
}

/// A wrong token parks the sink and drops nothing; the file is read again at each 401, so mending it is enough.
#[tokio::test]
async fn a_mended_token_file_is_enough() {
    let Server {
        backend,
        url,
        _task,
    } = server().await;
    *backend.token.lock().unwrap() = Some("right".into());
    let dir = tempfile::TempDir::new().unwrap();
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, "wrong\n").unwrap();
    let with_token = HttpSettings {
        token_file: Some(token_file.clone()),
        ..settings(&url)
    };
    let (outbox, mut running) = begin(with_token, 1).await;
    outbox.append(&[&["a", "b"]]);
    let parked = |words: &'static str| move |status: &UploadStatus| matches!(&status.sinks[0].state, SinkState::Parked { reason } if reason.contains(words));
    until(
        &mut running,
        parked("401 Unauthorized: who are you?; check [upload.http] token_file"),
    )
    .await;
    std::fs::remove_file(&token_file).unwrap();
    until(&mut running, parked("cannot read [upload.http] token_file")).await;
    std::fs::write(&token_file, "  \n").unwrap();
    until(&mut running, parked("holds no token")).await;
    assert_eq!(backend.records(), []);
    std::fs::write(&token_file, "right\n").unwrap();
    until(&mut running, |status| status.is_through(1)).await;
    assert_eq!(backend.records(), recorded(&outbox));
    let shown = format!("{:?}", running.status.borrow());
    assert!(
        !shown.contains("right") && !shown.contains("wrong"),
        "a token is shown: {shown}"
    );
    // The token is replaced while all is well: the old one is refused once, the new one tried at once.
    *backend.token.lock().unwrap() = Some("newer".into());
    std::fs::write(&token_file, "newer").unwrap();
    let failures = running.status.borrow().sinks[0].failures;
    outbox.append(&[&["c"]]);
    let index = outbox.index();
    until(&mut running, |status| status.is_through(index)).await;
    assert_eq!(running.status.borrow().sinks[0].failures, failures);
}

/// Bodies are the same at every making, hold no time, and are what the lines were.
#[tokio::test]
async fn bodies_are_made_the_same_every_time() {
    let text: Vec<u8> = (0..2000)
        .flat_map(|n| format!("{{\"n\":{n}}}\n").into_bytes())
        .collect();
    let sink = HttpSink::new(settings("http://127.0.0.1:1/")).unwrap();
    for (extra, encoding) in [
        ("none", None),
        ("gzip", Some("gzip")),
        ("zstd", Some("zstd")),
    ] {
        let plan = batch(extra.as_bytes(), b"").plan;
        let one = sink.encode(&plan, text.clone()).await.unwrap();
        let two = sink.encode(&plan, text.clone()).await.unwrap();
        assert_eq!(one, two);
        assert_eq!(decompress(encoding, &one), text);
        if extra == "gzip" {
            // Magic, deflate, no flags, no time.
            assert_eq!(one.get(..8), Some(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0][..]));
        }
    }
}

/// The configuration changes between the plan and its next try: the planned body goes out.
#[tokio::test]
async fn a_planned_body_survives_another_configuration() {
    let Server {
        backend,
        url,
        _task,
    } = server().await;
    backend.script([Answer::Silence]);
    let (outbox, mut running) = begin(impatient(&url, Duration::from_millis(400)), 1).await;
    outbox.append(&[&["a", "b"]]);
    until(&mut running, |status| status.sinks[0].failures > 0).await;
    running.tasks.shutdown().await;
    outbox.append(&[&["c"]]);
    let zstd = HttpSettings {
        compression: Compression::Zstd,
        ..settings(&url)
    };
    let sink = Arc::new(HttpSink::new(zstd).unwrap());
    let mut running = start(outbox.clone(), vec![sink], quick()).await;
    let index = outbox.index();
    until(&mut running, |status| status.is_through(index)).await;
    assert_eq!(backend.records(), recorded(&outbox));
    let requests = backend.requests.lock().unwrap();
    let (first, last) = (&requests[0], requests.last().unwrap());
    let again = &requests[requests.len() - 2];
    assert_eq!((&again.key, &again.body), (&first.key, &first.body));
    assert_eq!(
        last.encoding.as_deref(),
        Some("zstd"),
        "the next batch follows the configuration"
    );
}

/// Nobody there, and somebody who does not speak TLS: tried again, with the cause in words.
#[tokio::test]
async fn no_connection_is_told_with_its_cause() {
    let Server { url, _task, .. } = server().await;
    let port_of_nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    for url in [
        format!("http://{port_of_nobody}/"),
        url.replace("http://", "https://"),
    ] {
        let sink = HttpSink::new(settings(&url)).unwrap();
        let outcome = sink.send(&batch(b"none", b"1\n")).await;
        let Outcome::Retry { reason } = outcome else {
            panic!("{outcome:?}")
        };
        assert!(reason.len() > 30, "{reason}");
    }
}

#[test]
fn wrong_settings_are_refused_with_their_name() {
    let complaint = |change: &dyn Fn(&mut HttpSettings)| {
        let mut settings = settings("https://backend.example/records");
        change(&mut settings);
        HttpSink::new(settings).unwrap_err().to_string()
    };
    assert!(complaint(&|s| s.url = "ftp://x/".into()).contains("url \"ftp://x/\""));
    assert!(complaint(&|s| s.url = "nonsense".into()).contains("nonsense"));
    let text = complaint(&|s| s.headers = vec![("X-Key".into(), "se\ncret".into())]);
    assert!(
        text.contains("\"X-Key\"") && !text.contains("cret"),
        "{text}"
    );
    assert!(complaint(&|s| s.headers = vec![("bad name".into(), "x".into())]).contains("bad name"));
    let text = complaint(&|s| s.tls_ca_file = Some("/nonexistent/ca.pem".into()));
    assert!(text.contains("tls_ca_file /nonexistent/ca.pem"), "{text}");
    let shown = format!("{:?}", settings("http://x/"));
    assert!(
        shown.contains("X-Custom") && !shown.contains("yes"),
        "{shown}"
    );
    let sink = HttpSink::new(settings("http://x/?key=hunter2")).unwrap();
    assert!(!format!("{sink:?}").contains("hunter2"));
    assert!(sink.secrets(None).contains(&"hunter2"));
}

/// A batch that was planned with a compression that the backend does not take goes through once another one is configured.
#[tokio::test]
async fn an_unsupported_compression_is_replaced_by_the_configured_one() {
    let Server {
        backend,
        url,
        _task,
    } = server().await;
    let sink = HttpSink::new(settings(&url)).unwrap();
    for (planned, expected, tries) in [
        ("gzip", "Park", 1),
        ("none", "Taken", 2),
        ("zstd", "Taken", 2),
    ] {
        backend.script([Answer::Status(415)]);
        let mut batch = batch(planned.as_bytes(), b"{\"stream\":\"a\",\"seq\":1}\n");
        batch.key = planned.into();
        let lines = batch.body.to_vec();
        batch.body = sink.encode(&batch.plan, lines.clone()).await.unwrap();
        let outcome = format!("{:?}", sink.send(&batch).await);
        assert!(outcome.starts_with(expected), "{planned}: {outcome}");
        let requests = std::mem::take(&mut *backend.requests.lock().unwrap());
        assert_eq!(requests.len(), tries, "{planned}");
        assert!(requests.iter().all(|request| request.key == planned));
        let last = requests.last().unwrap();
        assert_eq!(last.encoding.as_deref(), Some("gzip"));
        assert_eq!(decompress(last.encoding.as_deref(), &last.body), lines);
    }
}

/// A plan of an unknown compression is not guessed at.
#[tokio::test]
async fn an_unknown_compression_parks() {
    let sink = HttpSink::new(settings("http://127.0.0.1:1/")).unwrap();
    let outcome = sink.send(&batch(b"brotli", b"1\n")).await;
    assert!(matches!(outcome, Outcome::Park { .. }), "{outcome:?}");
}

/// What a TLS server needs, with a certificate of the test's own authority (`tls/`, good for nothing else).
fn tls_config(wants_client: bool) -> rustls::ServerConfig {
    let certificate = include_bytes!("tls/server.pem");
    tls_config_of(certificate, include_bytes!("tls/server.key"), wants_client)
}

fn tls_config_of(certificate: &[u8], key: &[u8], wants_client: bool) -> rustls::ServerConfig {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = CertificateDer::from_pem_slice(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = match wants_client {
        false => config.with_no_client_auth(),
        true => {
            let ca = CertificateDer::from_pem_slice(include_bytes!("tls/client-ca.pem")).unwrap();
            let mut roots = rustls::RootCertStore::empty();
            roots.add(ca).unwrap();
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    config.with_single_cert(vec![certificate], key).unwrap()
}

/// A TLS server on this machine that answers one request after another with 200.
fn tls_server(address: &str, wants_client: bool) -> String {
    let config = Arc::new(tls_config(wants_client));
    let listener = std::net::TcpListener::bind(address).unwrap();
    let url = format!("https://{}/records", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        use std::io::Read;
        for socket in listener.incoming() {
            let session = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(session, socket.unwrap());
            let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
            // A client that refuses the certificate ends the handshake; the next one may not.
            while let Ok(bytes @ 1..) = stream.read(&mut chunk) {
                request.extend_from_slice(&chunk[..bytes]);
                if request.ends_with(b"\r\n\r\n{\"n\":1}\n") {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                    break;
                }
            }
        }
    });
    url
}

/// TLS with an authority of one's own; without it the backend is not trusted and gets nothing.
#[tokio::test]
async fn tls_trusts_the_configured_authority_only() {
    let url = tls_server("127.0.0.1:0", false);
    let dir = tempfile::TempDir::new().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, include_bytes!("tls/ca.pem")).unwrap();
    let timeout = Duration::from_secs(10);
    let batch = batch(b"none", b"{\"n\":1}\n");
    let stranger = HttpSink::new(HttpSettings {
        timeout,
        ..settings(&url)
    })
    .unwrap();
    let outcome = stranger.send(&batch).await;
    let Outcome::Retry { reason } = outcome else {
        panic!("{outcome:?}")
    };
    assert!(reason.to_lowercase().contains("certificate"), "{reason}");
    let trusting = HttpSettings {
        timeout,
        tls_ca_file: Some(ca_file),
        ..settings(&url)
    };
    let outcome = HttpSink::new(trusting).unwrap().send(&batch).await;
    assert_eq!(outcome, Outcome::Taken);
}
