//! A backend that counts and keeps nothing: what it costs must not hide what its senders cost.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use sidekick_tests::http_server::HttpServer;
use sidekick_tests::receiver::decompress;

/// What has come so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Count {
    pub(super) records: u64,
    pub(super) first: Option<SystemTime>,
    pub(super) last: Option<SystemTime>,
}

/// It listens on loopback until this value goes.
pub(super) struct Counter {
    count: Arc<Mutex<Count>>,
    _server: HttpServer,
}

impl Counter {
    /// Listens on a port, 0 = a free one. The address that it got comes with it.
    pub(super) fn start(port: u16) -> io::Result<(Self, SocketAddr)> {
        let count = Arc::<Mutex<Count>>::default();
        let router = Router::new()
            .route("/records", post(lines))
            .route("/_bulk", post(bulk))
            // What an Elasticsearch client looks at before it sends.
            .fallback(any(|| async { StatusCode::OK }))
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(&count));
        let server = HttpServer::start(port, router)?;
        let address = server.address();
        let counter = Self {
            count,
            _server: server,
        };
        Ok((counter, address))
    }

    pub(super) fn count(&self) -> Count {
        *lock(&self.count)
    }
}

fn lock(count: &Mutex<Count>) -> MutexGuard<'_, Count> {
    count.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts the lines of a body. `None` when it cannot be read.
fn take(count: &Mutex<Count>, headers: &HeaderMap, body: &[u8], lines_each: u64) -> Option<u64> {
    let encoding = headers.get("content-encoding");
    let encoding = encoding.map_or(Ok(""), |value| value.to_str()).ok()?;
    let text = decompress(encoding, body).ok()?;
    let records = text.lines().count() as u64 / lines_each;
    let now = SystemTime::now();
    let mut count = lock(count);
    count.records += records;
    count.first.get_or_insert(now);
    count.last = Some(now);
    Some(records)
}

async fn lines(
    State(count): State<Arc<Mutex<Count>>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    match take(&count, &headers, &body, 1) {
        Some(_) => StatusCode::OK,
        None => StatusCode::BAD_REQUEST,
    }
}

/// As Elasticsearch answers a bulk request, in which each record is two lines.
async fn bulk(State(count): State<Arc<Mutex<Count>>>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(records) = take(&count, &headers, &body, 2) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let items = vec![r#"{"index":{"status":201}}"#; usize::try_from(records).unwrap_or_default()];
    let answer = format!(r#"{{"errors":false,"items":[{}]}}"#, items.join(","));
    ([("content-type", "application/json")], answer).into_response()
}
