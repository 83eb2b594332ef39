//! An HTTP backend that takes records as DESIGN.md says a backend does, with faults on demand.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use crate::http_server::HttpServer;
use crate::ledger::Ledger;

/// A body larger than this, uncompressed, is refused: no test sends that, a mistake does.
const BODY_BYTES_MAX: u64 = 256 << 20;

/// What the backend does to one request instead of taking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Takes nothing, answers with this status.
    Status(u16),
    /// As [`Fault::Status`], and says after how many seconds to come again.
    RetryAfter(u16, u64),
    /// Takes nothing and cuts the connection after the body.
    CutUntaken,
    /// Takes everything and cuts the connection after the body: the sender cannot know.
    CutTaken,
    /// Takes nothing and is silent for so long, then cuts the connection.
    SilentUntaken(Duration),
    /// Takes everything and is silent for so long, then cuts the connection.
    SilentTaken(Duration),
}

impl Fault {
    /// Whether the records of the request are taken all the same.
    pub fn is_taken(self) -> bool {
        matches!(self, Self::CutTaken | Self::SilentTaken(_))
    }
}

/// One request, as far as it matters.
#[derive(Debug, Clone)]
pub struct Request {
    /// `Idempotency-Key`; empty when it was missing.
    pub key: String,
    /// `Content-Encoding`; empty when it was missing.
    pub encoding: String,
    /// `Authorization`; empty when it was missing.
    pub authorization: String,
    /// As sent, compressed.
    pub body_bytes: usize,
    /// Lines in it.
    pub records: usize,
    /// What was done to it.
    pub fault: Option<Fault>,
}

type Plan = Box<dyn FnMut(&Request) -> Option<Fault> + Send>;
type Judge = Box<dyn Fn(&str) -> bool + Send>;

/// Everything that outlives a restart of the server.
#[derive(Default)]
struct Backend {
    ledger: Ledger,
    requests: Vec<Request>,
    taken: HashMap<String, Bytes>,
    plan: Option<Plan>,
    poison: Option<(Fault, Judge)>,
    answers_409: bool,
}

impl fmt::Debug for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requests = self.requests.len();
        formatter
            .debug_struct("Backend")
            .field("ledger", &self.ledger)
            .field("requests", &requests)
            .finish()
    }
}

/// A backend on a loopback port. It stops when this value goes.
#[derive(Debug)]
pub struct Receiver {
    backend: Arc<Mutex<Backend>>,
    address: SocketAddr,
    server: Option<HttpServer>,
}

impl Receiver {
    /// Starts a backend that takes everything.
    ///
    /// # Panics
    /// When no port can be had.
    pub fn start() -> Self {
        let backend = Arc::<Mutex<Backend>>::default();
        let server = HttpServer::start(0, router(&backend)).expect("a loopback port");
        Self {
            backend,
            address: server.address(),
            server: Some(server),
        }
    }

    /// Where to send records.
    pub fn url(&self) -> String {
        format!("http://{}/records", self.address)
    }

    /// Decides on a fault for each request from now on. It sees the request before it is answered.
    pub fn set_plan(&self, plan: impl FnMut(&Request) -> Option<Fault> + Send + 'static) {
        self.lock().plan = Some(Box::new(plan));
    }

    /// Answers each request with this status that has a line of which `is_bad` says so, whatever the plan says.
    pub fn refuse_lines(&self, status: u16, is_bad: impl Fn(&str) -> bool + Send + 'static) {
        self.lock().poison = Some((Fault::Status(status), Box::new(is_bad)));
    }

    /// Takes everything from now on.
    pub fn clear_plan(&self) {
        self.lock().plan = None;
    }

    /// Answers a request whose key was taken before with 409 instead of taking it again.
    pub fn answer_409_to_what_was_taken(&self) {
        self.lock().answers_409 = true;
    }

    /// Stops listening and drops all connections; what was taken stays.
    pub fn go_down(&mut self) {
        self.server = None;
    }

    /// Listens again on the same port.
    ///
    /// # Panics
    /// When another program has taken the port meanwhile.
    pub fn come_up(&mut self) {
        if self.server.is_none() {
            let server = HttpServer::start(self.address.port(), router(&self.backend));
            let server = server
                .unwrap_or_else(|error| panic!("cannot listen on {} again: {error}", self.address));
            self.server = Some(server);
        }
    }

    /// Looks at what was taken, without copying it.
    pub fn look<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.lock().ledger)
    }

    /// A copy of what was taken.
    pub fn ledger(&self) -> Ledger {
        self.lock().ledger.clone()
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Backend> {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn router(backend: &Arc<Mutex<Backend>>) -> Router {
    Router::new()
        .route("/records", post(take))
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::clone(backend))
}

async fn take(
    State(backend): State<Arc<Mutex<Backend>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (answer, fault) = {
        let mut backend = backend.lock().unwrap_or_else(PoisonError::into_inner);
        backend.take(&headers, &body)
    };
    match fault {
        None | Some(Fault::Status(_) | Fault::RetryAfter(..)) => answer,
        Some(Fault::CutUntaken | Fault::CutTaken) => cut(),
        Some(Fault::SilentUntaken(duration) | Fault::SilentTaken(duration)) => {
            tokio::time::sleep(duration).await;
            cut()
        }
    }
}

/// Ends the connection without an answer: its task unwinds and drops the socket. Nothing is printed, since
/// this goes past the panic hook.
fn cut() -> Response {
    std::panic::resume_unwind(Box::new("connection cut on purpose"))
}

impl Backend {
    fn take(&mut self, headers: &HeaderMap, body: &Bytes) -> (Response, Option<Fault>) {
        let header = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let encoding = header("content-encoding");
        let text = match decompress(&encoding, body) {
            Ok(text) => text,
            Err(problem) => {
                self.ledger.violations.push(problem.clone());
                return ((StatusCode::BAD_REQUEST, problem).into_response(), None);
            }
        };
        let mut request = Request {
            key: header("idempotency-key"),
            encoding,
            authorization: header("authorization"),
            body_bytes: body.len(),
            records: text.lines().count(),
            fault: None,
        };
        let poisoned = self.poison.as_ref().and_then(|(fault, is_bad)| {
            let has_bad = text.lines().any(is_bad);
            has_bad.then_some(*fault)
        });
        request.fault = poisoned.or_else(|| self.plan.as_mut()?(&request));
        let (key, fault) = (request.key.clone(), request.fault);
        if header("content-type") != "application/x-ndjson" {
            let said = format!(
                "request {key:?} has the content type {:?}",
                header("content-type")
            );
            self.ledger.violations.push(said);
        }
        self.requests.push(request);
        match fault {
            Some(Fault::Status(status)) => return (with_status(status).into_response(), fault),
            Some(Fault::RetryAfter(status, seconds)) => {
                let wait = [("retry-after", seconds.to_string())];
                return ((with_status(status), wait).into_response(), fault);
            }
            Some(fault) if !fault.is_taken() => {
                return (StatusCode::OK.into_response(), Some(fault));
            }
            _ => {}
        }
        if key.is_empty() {
            self.ledger
                .violations
                .push("a request came without Idempotency-Key".to_owned());
        }
        match self.taken.get(&key) {
            Some(before) if before != body => {
                let said = format!("the key {key:?} came with two bodies");
                self.ledger.violations.push(said);
            }
            Some(_) if self.answers_409 => return (StatusCode::CONFLICT.into_response(), fault),
            _ => {}
        }
        self.taken.insert(key, body.clone());
        self.ledger.take_lines(&text);
        (StatusCode::OK.into_response(), fault)
    }
}

fn with_status(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The text of a body that came with this `Content-Encoding`, empty = none.
///
/// # Errors
/// A sentence about what cannot be read.
pub fn decompress(encoding: &str, body: &[u8]) -> Result<String, String> {
    let reader: Box<dyn Read> = match encoding {
        "" | "identity" => Box::new(body),
        "gzip" => Box::new(flate2::read::MultiGzDecoder::new(body)),
        "zstd" => Box::new(
            zstd::stream::read::Decoder::new(body)
                .map_err(|error| format!("no zstd decoder: {error}"))?,
        ),
        other => return Err(format!("a body came in the unknown encoding {other:?}")),
    };
    let mut text = String::new();
    reader
        .take(BODY_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| {
            format!(
                "a body of {} bytes is no {encoding:?} text: {error}",
                body.len()
            )
        })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;

    use super::*;

    const LINE: &str = r#"{"source":"a","epoch":"e","seq":1,"stream":"s","data":null}"#;

    /// Sends one request and returns the answer's status line; empty when the connection was cut.
    fn send(receiver: &Receiver, key: &str, encoding: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(receiver.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST /records HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\n\
             Content-Encoding: {encoding}\r\nIdempotency-Key: {key}\r\nContent-Length: {length}\r\n\r\n"
        )
        .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[test]
    fn every_encoding_is_taken() {
        let receiver = Receiver::start();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(LINE.as_bytes()).unwrap();
        let zstd = zstd::stream::encode_all(LINE.as_bytes(), 1).unwrap();
        for (key, encoding, body) in [
            ("1", "identity", LINE.as_bytes().to_vec()),
            ("2", "gzip", gzip.finish().unwrap()),
            ("3", "zstd", zstd),
        ] {
            assert!(send(&receiver, key, encoding, &body).contains("200"));
        }
        assert_eq!(
            receiver.look(|ledger| (ledger.count(), ledger.duplicates)),
            (1, 2)
        );
        assert_eq!(
            receiver.look(|ledger| ledger.violations.clone()),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_cut_connection_has_no_answer_and_may_have_been_taken() {
        let receiver = Receiver::start();
        for (fault, is_taken) in [(Fault::CutUntaken, false), (Fault::CutTaken, true)] {
            receiver.set_plan(move |_| Some(fault));
            assert_eq!(send(&receiver, "1", "identity", LINE.as_bytes()), "");
            assert_eq!(receiver.look(|ledger| ledger.count() == 1), is_taken);
        }
        receiver.clear_plan();
        receiver.answer_409_to_what_was_taken();
        assert!(send(&receiver, "1", "identity", LINE.as_bytes()).contains("409"));
        assert_eq!(receiver.look(|ledger| ledger.duplicates), 0);
    }

    #[test]
    fn a_key_with_two_bodies_is_a_violation() {
        let receiver = Receiver::start();
        send(&receiver, "1", "identity", LINE.as_bytes());
        send(&receiver, "1", "identity", format!("{LINE}\n").as_bytes());
        assert!(receiver.look(|ledger| ledger.violations[0].contains("two bodies")));
    }

    #[test]
    fn what_was_taken_outlives_a_restart_on_the_same_port() {
        let mut receiver = Receiver::start();
        receiver.set_plan(|request| (request.key == "1").then_some(Fault::RetryAfter(503, 1)));
        assert!(send(&receiver, "1", "identity", LINE.as_bytes()).contains("503"));
        receiver.go_down();
        assert!(TcpStream::connect(receiver.address).is_err());
        receiver.come_up();
        assert!(send(&receiver, "2", "identity", LINE.as_bytes()).contains("200"));
        assert_eq!(receiver.requests().len(), 2);
    }
}
