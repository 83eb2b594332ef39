//! A small backend to receive what the HTTP sink sends: a reference of what such a one must do, for trying things out and
//! for tests. Not for production: it keeps what it knows in memory and takes one batch at a time.
//!
//! `POST /records` with NDJSON, plain, gzip or zstd:
//!
//! | answer | when |
//! |---|---|
//! | 200 | every record is durable; those that were there before are counted, not kept again |
//! | 409 | a batch with this `Idempotency-Key` was taken before |
//! | 400 | a line is no record: its number and what is wrong with it; nothing was taken |
//! | 401 | the token is missing or another |
//! | 413 | the body is larger than the limit, packed or unpacked |
//! | 415 | it is no NDJSON, or packed in another way |
//! | 422 | the database does not take a record (its SQLSTATE); nothing was taken |
//! | 503 | it cannot be stored now |
//!
//! A record is the same if `source`, `epoch` and `seq` are. The process may be killed at any moment.

mod folder;
mod line;
mod rows;

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tokio::net::TcpListener;

use crate::postgres::ServerSettings;
use folder::FolderStore;
use line::Record;
use rows::RowStore;

/// Where records go.
#[derive(Clone, Debug)]
pub enum Place {
    /// `records.ndjson` in a folder.
    Folder(PathBuf),
    /// The table `sidekick_records` of a database, which is made where it is missing.
    Postgres(ServerSettings),
}

/// What the backend is asked to be.
#[derive(Clone, Debug)]
pub struct BackendSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where records go.
    pub place: Place,
    /// What `Authorization: Bearer` must carry.
    pub token: Option<String>,
    /// The largest body in bytes, packed and unpacked.
    pub body_bytes_max: usize,
}

/// Why there is no backend.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Beyond loopback everybody could write.
    #[error("{0} is beyond this machine: name a --token-file")]
    Open(SocketAddr),
    /// The port cannot be had.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The folder cannot be used.
    #[error("cannot use {0}: {1}")]
    Folder(PathBuf, io::Error),
    /// Another process writes into the folder.
    #[error("another backend stores into {0}; end that one, or name another folder with --dir")]
    Locked(PathBuf),
    /// It broke.
    #[error("cannot answer any more: {0}")]
    Serve(io::Error),
}

/// Why a batch was not stored; nothing of it was.
#[derive(Debug)]
enum StoreError {
    /// Not now.
    Later(String),
    /// Not these records.
    Refused(String),
}

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
enum Stored {
    /// It is durable: so many records are new.
    New(usize),
    /// Its key is known.
    Known,
}

#[derive(Debug)]
enum Store {
    Folder(Arc<FolderStore>),
    Rows(Box<RowStore>),
}

#[derive(Debug)]
struct Backend {
    store: Store,
    token: Option<String>,
    body_bytes_max: usize,
}

/// Listens, tells `ready` where, and answers until it breaks.
///
/// # Errors
/// Why it does not.
pub async fn serve(
    settings: BackendSettings,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), BackendError> {
    let listen = settings.listen;
    if !listen.ip().is_loopback() && settings.token.is_none() {
        return Err(BackendError::Open(listen));
    }
    let store = match settings.place {
        Place::Folder(dir) => match FolderStore::open(&dir) {
            Ok(Some(store)) => Store::Folder(Arc::new(store)),
            Ok(None) => return Err(BackendError::Locked(dir)),
            Err(error) => return Err(BackendError::Folder(dir, error)),
        },
        Place::Postgres(server) => Store::Rows(Box::new(RowStore::new(server))),
    };
    let backend = Backend {
        store,
        token: settings.token,
        body_bytes_max: settings.body_bytes_max,
    };
    let router = Router::new()
        .route("/records", post(take))
        .layer(DefaultBodyLimit::max(backend.body_bytes_max))
        .with_state(Arc::new(backend));
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|error| BackendError::Listen(listen, error))?;
    ready(listener.local_addr().map_err(BackendError::Serve)?);
    axum::serve(listener, router)
        .await
        .map_err(BackendError::Serve)
}

async fn take(State(backend): State<Arc<Backend>>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    if let Some(token) = &backend.token {
        let given = header(header::AUTHORIZATION.as_str())
            .strip_prefix("Bearer ")
            .unwrap_or_default();
        if !is_same(given.as_bytes(), token.as_bytes()) {
            return (
                StatusCode::UNAUTHORIZED,
                "the token is missing or another\n",
            )
                .into_response();
        }
    }
    let kind = header(header::CONTENT_TYPE.as_str());
    if kind.split(';').next().map(str::trim) != Some("application/x-ndjson") {
        let said = format!("the content type is {kind:?}, not application/x-ndjson\n");
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, said).into_response();
    }
    let key = header("idempotency-key").to_owned();
    let encoding = header(header::CONTENT_ENCODING.as_str()).to_owned();
    let body_bytes_max = backend.body_bytes_max;
    let read = tokio::task::spawn_blocking(move || read(&encoding, &body, body_bytes_max)).await;
    let records = match read
        .unwrap_or_else(|error| Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())))
    {
        Ok(records) => records,
        Err((status, said)) => return (status, format!("{said}\n")).into_response(),
    };
    let count = records.len();
    let stored = match &backend.store {
        Store::Folder(store) => {
            let store = store.clone();
            let stored = tokio::task::spawn_blocking(move || store.put(&key, &records)).await;
            stored.unwrap_or_else(|error| Err(StoreError::Later(error.to_string())))
        }
        Store::Rows(store) => store.put(&key, &records).await,
    };
    match stored {
        Ok(Stored::New(new)) => format!("{new} of {count} records are new\n").into_response(),
        Ok(Stored::Known) => {
            (StatusCode::CONFLICT, "this batch was taken before\n").into_response()
        }
        Err(StoreError::Refused(why)) => {
            (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")).into_response()
        }
        Err(StoreError::Later(why)) => {
            let wait = [(header::RETRY_AFTER, "1")];
            (StatusCode::SERVICE_UNAVAILABLE, wait, format!("{why}\n")).into_response()
        }
    }
}

/// Compares without telling by its time where two differ.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// Unpacks a body and reads its lines.
fn read(
    encoding: &str,
    body: &[u8],
    bytes_max: usize,
) -> Result<Vec<Record>, (StatusCode, String)> {
    let reader: Box<dyn Read + '_> = match encoding {
        "" | "identity" => Box::new(body),
        "gzip" => Box::new(flate2::read::MultiGzDecoder::new(body)),
        "zstd" => Box::new(
            zstd::stream::read::Decoder::new(body)
                .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?,
        ),
        other => {
            let said = format!("the content encoding {other:?} is not known");
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, said));
        }
    };
    let mut text = String::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    reader
        .take(limit.saturating_add(1))
        .read_to_string(&mut text)
        .map_err(|error| {
            (
                StatusCode::BAD_REQUEST,
                format!("the body cannot be unpacked as UTF-8: {error}"),
            )
        })?;
    if text.len() > bytes_max {
        let said = format!("the body is larger than {bytes_max} bytes when it is unpacked");
        return Err((StatusCode::PAYLOAD_TOO_LARGE, said));
    }
    let lines = (1..).zip(text.lines());
    let records: Result<Vec<Record>, String> = lines
        .map(|(number, line)| Record::parse(line).map_err(|why| format!("line {number}: {why}")))
        .collect();
    let records = records.map_err(|why| (StatusCode::BAD_REQUEST, why))?;
    match records.is_empty() {
        true => Err((StatusCode::BAD_REQUEST, "the body holds no record".into())),
        false => Ok(records),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"source":"a","epoch":"00000000-0000-0000-0000-00000000e90c","seq":1,"stream":"s","time":"2026-11-22T12:00:00Z","incarnation":1,"data":null}"#;

    #[test]
    fn the_line_that_is_no_record_is_named_and_a_bomb_is_refused() {
        let body = format!("{LINE}\n{LINE}\n{{\"source\":\"a\"}}\n");
        let (status, said) = read("", body.as_bytes(), 1 << 20).unwrap_err();
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(said.starts_with("line 3: "), "{said}");
        let bomb = zstd::bulk::compress(&vec![b' '; 10 << 20], 3).unwrap();
        assert!(bomb.len() < 10_000);
        let (status, _) = read("zstd", &bomb, 1 << 20).unwrap_err();
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(
            read("br", b"", 10).unwrap_err().0,
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
        assert_eq!(read("", b"", 10).unwrap_err().0, StatusCode::BAD_REQUEST);
        assert_eq!(read("", LINE.as_bytes(), LINE.len()).unwrap().len(), 1);
    }
}
