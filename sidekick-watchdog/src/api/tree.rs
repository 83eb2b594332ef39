//! The state store over HTTP: `GET|PUT|DELETE /api/v1/store/{path}`, `GET /api/v1/store?pattern=`, `POST /api/v1/transactions`,
//! `GET /api/v1/watch?pattern=&from=` (`watch.rs`), `GET /api/v1/count?pattern=`, leases (`leases.rs`), and the whole tree as text:
//! `GET /api/v1/export`, `POST /api/v1/import`.
//!
//! Values are JSON; with `Content-Type` or `Accept: application/octet-stream` they are Godot's own encoding (`var_to_bytes`), which loses
//! nothing. Conditions of a write stand in the query (`version=3`, `version=>=3`, `exists=false`, `when={"field":{"hp":[">",0]}}`) or in
//! `If-Match: "3"` and `If-None-Match: *`; `ETag` is the version. A write is durable when it is answered. With an `Idempotency-Key`, a UUID, it
//! may be sent again and counts once.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json as JsonBody, http};
use serde_json::{Map, Value as Json, json};
use sidekick_ipc::tree::{
    ErrorKind, NODES_PER_ANSWER_MAX, NodeInfo, Pattern, StoreOp, StoreQuery, StoreResult,
    WatchBatch,
};
use tokio::sync::watch::Receiver;
use uuid::Uuid;

use super::routes::App;

pub(super) mod leases;
#[cfg(test)]
mod tests;
mod watch;
mod words;

pub use leases::{LeaseTime, parse_ttl};

/// The largest body of a write: a value of 1 MiB as JSON, or a transaction.
pub(super) const WRITE_BYTES_MAX: usize = 8 << 20;
/// The largest tree that is imported in one piece: what a tree may hold, as base64.
pub(super) const IMPORT_BYTES_MAX: usize = 512 << 20;
/// What marks a write that may be sent again.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const OCTETS: &str = "application/octet-stream";
const NDJSON: &str = "application/x-ndjson";

/// An answer that comes later.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the API needs of the state store.
pub trait TreeStore: Debug + Send + Sync {
    /// Applies an op; durable when answered. The same `retry` with the same op counts once.
    fn execute(&self, op: StoreOp, retry: Option<Uuid>) -> Later<StoreResult>;

    /// Takes or renews a lease as [`Self::execute`] does, and tells how it stands; `None` if it is not held any more, or was not
    /// given. `asked` is when the request came.
    fn hold(
        &self,
        op: StoreOp,
        retry: Option<Uuid>,
        asked: Instant,
    ) -> Later<(StoreResult, Option<LeaseTime>)>;

    /// Answers a question about the tree.
    fn query(&self, query: StoreQuery) -> Later<StoreResult>;

    /// The tree's revision; `None` while there is no store.
    fn revision(&self) -> Option<u64>;

    /// What happened after a revision; `None` while there is no store.
    fn events(&self, pattern: &Pattern, after: u64) -> Option<WatchBatch>;

    /// Changes whenever the store may have; `None` while there is no store.
    fn changes(&self) -> Option<Receiver<u64>>;

    /// The tree as text.
    ///
    /// # Errors
    /// In words.
    fn export(&self) -> Later<Result<String, StoreResult>>;

    /// Puts every node of an exported tree; how many.
    ///
    /// # Errors
    /// The first node's that was refused, or the text is damaged and nothing was changed.
    fn import(&self, text: String) -> Later<Result<u64, StoreResult>>;
}

/// What is asked for in the query, by its names.
type Asked = Query<Vec<(String, String)>>;

/// Why a request is not understood.
struct BadRequest(String);

impl From<String> for BadRequest {
    fn from(why: String) -> Self {
        Self(why)
    }
}

impl IntoResponse for BadRequest {
    fn into_response(self) -> Response {
        answer(&StoreResult::error(ErrorKind::Invalid, self.0))
    }
}

fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::ConditionFailed | ErrorKind::KeepWhileFailed => StatusCode::PRECONDITION_FAILED,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::TreeFull => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable
        | ErrorKind::Timeout
        | ErrorKind::Unsupervised
        | ErrorKind::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::LeaseHeld
        | ErrorKind::LeaseLost
        | ErrorKind::StaleVersion
        | ErrorKind::DeltaGap
        | ErrorKind::AnswerLost => StatusCode::CONFLICT,
    }
}

fn answer(result: &StoreResult) -> Response {
    let error = result.error_words();
    let status = error.map_or(StatusCode::OK, |(kind, _)| status_of(kind));
    let headers = [(header::CACHE_CONTROL, "no-store")];
    let mut response = (status, headers, JsonBody(words::result(result))).into_response();
    if let StoreResult::Ok(answer) = result
        && answer.version > 0
    {
        set_version(&mut response, answer.version);
    }
    response
}

fn set_version(response: &mut Response, version: u64) {
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
}

fn store(app: &App) -> Result<Arc<dyn TreeStore>, Box<Response>> {
    app.operator
        .as_ref()
        .and_then(|operator| operator.tree())
        .ok_or_else(|| Box::new(answer(&no_store())))
}

fn no_store() -> StoreResult {
    StoreResult::error(
        ErrorKind::Unavailable,
        "the store is not open; status tells why",
    )
}

pub(super) async fn get_node(
    State(app): State<App>,
    Path(at): Path<String>,
    Query(asked): Asked,
    headers: HeaderMap,
) -> Response {
    let read = || -> Result<StoreQuery, BadRequest> {
        Ok(StoreQuery::Get {
            path: words::path(&format!("/{at}"))?,
            linearizable: is_linearizable(&asked, &["linearizable"])?,
        })
    };
    let query = match read() {
        Ok(query) => query,
        Err(bad) => return bad.into_response(),
    };
    let store = match store(&app) {
        Ok(store) => store,
        Err(response) => return *response,
    };
    let mut result = store.query(query).await;
    if let StoreResult::Ok(found) = &mut result
        && let Some(node) = found.nodes.pop()
    {
        return node_response(node, found.revision, &headers);
    }
    answer(&result)
}

fn node_response(node: NodeInfo, revision: u64, headers: &HeaderMap) -> Response {
    let wants_octets = (headers.get(header::ACCEPT))
        .is_some_and(|accept| accept.as_bytes().starts_with(OCTETS.as_bytes()));
    let mut response = match (&node.value, wants_octets) {
        (Some(value), true) => ([(header::CONTENT_TYPE, OCTETS)], value.clone()).into_response(),
        (None, true) => StatusCode::NO_CONTENT.into_response(),
        (_, false) => {
            let mut told = words::node(&node);
            told["revision"] = revision.into();
            JsonBody(told).into_response()
        }
    };
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    set_version(&mut response, node.version);
    response
}

/// `linearizable` of the query, in which nothing but `known` may stand.
fn is_linearizable(asked: &[(String, String)], known: &[&str]) -> Result<bool, BadRequest> {
    check_known(asked, known)?;
    match find(asked, "linearizable") {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1" | "") => Ok(true),
        Some(other) => Err(BadRequest(format!(
            "linearizable is {other:?}; it is true or false"
        ))),
    }
}

fn check_known(asked: &[(String, String)], known: &[&str]) -> Result<(), BadRequest> {
    match asked
        .iter()
        .find(|(name, _)| !known.contains(&name.as_str()))
    {
        Some((name, _)) => Err(BadRequest(format!(
            "there is no {name:?} to ask for; there are {}",
            known.join(", ")
        ))),
        None => Ok(()),
    }
}

fn find<'a>(asked: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = asked.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

pub(super) async fn put_node(
    State(app): State<App>,
    Path(at): Path<String>,
    Query(asked): Asked,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let read = || -> Result<StoreOp, BadRequest> {
        let is_octets = (headers.get(header::CONTENT_TYPE))
            .is_some_and(|kind| kind.as_bytes().starts_with(OCTETS.as_bytes()));
        let value = if is_octets {
            sidekick_ipc::value::check(&body).map_err(|error| error.to_string())?;
            body.to_vec()
        } else {
            words::value(&parse(&body)?)?
        };
        let options = write_options(&asked, &headers)?;
        Ok(words::put(&format!("/{at}"), value, options)?)
    };
    write(&app, read(), &headers).await
}

pub(super) async fn delete_node(
    State(app): State<App>,
    Path(at): Path<String>,
    Query(asked): Asked,
    headers: HeaderMap,
) -> Response {
    let read = || -> Result<StoreOp, BadRequest> {
        let options = write_options(&asked, &headers)?;
        Ok(words::delete(&format!("/{at}"), options)?)
    };
    write(&app, read(), &headers).await
}

pub(super) async fn post_transaction(
    State(app): State<App>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let read = || -> Result<StoreOp, BadRequest> { Ok(words::transaction(&parse(&body)?)?) };
    write(&app, read(), &headers).await
}

async fn write(app: &App, op: Result<StoreOp, BadRequest>, headers: &HeaderMap) -> Response {
    let (op, retry) = match op.and_then(|op| checked(op, headers)) {
        Ok(read) => read,
        Err(bad) => return bad.into_response(),
    };
    match store(app) {
        Ok(store) => answer(&store.execute(op, retry).await),
        Err(response) => *response,
    }
}

/// A write within its limits, with what marks it.
fn checked(op: StoreOp, headers: &HeaderMap) -> Result<(StoreOp, Option<Uuid>), BadRequest> {
    op.check()
        .map_err(|invalid| BadRequest(invalid.to_string()))?;
    Ok((op, retry(headers)?))
}

fn parse(body: &[u8]) -> Result<Json, BadRequest> {
    serde_json::from_slice(body)
        .map_err(|error| BadRequest(format!("the body is not JSON ({error}); a text stands in quotes, as \"welcome\", a dictionary in braces, as {{\"map\": \"arena\"}}")))
}

fn retry(headers: &http::HeaderMap) -> Result<Option<Uuid>, BadRequest> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = key.to_str().ok().and_then(|key| key.parse().ok());
    key.map(Some).ok_or_else(|| {
        BadRequest("Idempotency-Key has to be a UUID, a new one for each write".to_owned())
    })
}

/// Conditions of the query and of the headers.
fn write_options(
    asked: &[(String, String)],
    headers: &HeaderMap,
) -> Result<words::WriteOptions, BadRequest> {
    let mut options = Map::new();
    for (name, text) in asked {
        options.insert(name.clone(), option(name, text)?);
    }
    let mut insert = |name: &str, value: Json| match options.insert(name.to_owned(), value) {
        None => Ok(()),
        Some(_) => Err(BadRequest(format!(
            "{name} is asked for in the query and in the headers"
        ))),
    };
    let text = |name| match headers.get(&name).map(HeaderValue::to_str) {
        None => Ok(None),
        Some(text) => text
            .map(Some)
            .map_err(|_| BadRequest(format!("{name} is no text"))),
    };
    match text(header::IF_MATCH)?.map(str::trim) {
        None => {}
        Some("*") => insert("exists", Json::Bool(true))?,
        Some(tag) => {
            let version = tag.trim_matches('"').parse::<u64>();
            let bad = |_| {
                BadRequest(format!(
                    "If-Match is {tag:?}; it is * or a version in quotes, as ETag told it"
                ))
            };
            insert("version", version.map_err(bad)?.into())?;
        }
    }
    match text(header::IF_NONE_MATCH)?.map(str::trim) {
        None => {}
        Some("*") => insert("exists", Json::Bool(false))?,
        Some(other) => {
            return Err(BadRequest(format!("If-None-Match is {other:?}; it is *")));
        }
    }
    Ok(words::write_options(&options, &[])?)
}

/// One condition of the query: JSON, or a number with an operator before it.
fn option(name: &str, text: &str) -> Result<Json, BadRequest> {
    let digits = text.trim_start_matches(['=', '!', '<', '>']);
    let symbol = &text[..text.len() - digits.len()];
    if matches!(name, "version" | "child_version" | "child_count") && !symbol.is_empty() {
        let number: u64 = (digits.trim().parse())
            .map_err(|_| BadRequest(format!("{name} is {text:?}; it is a number, as 3 or >=3")))?;
        return Ok(json!([symbol, number]));
    }
    serde_json::from_str(text).map_err(|error| {
        BadRequest(format!(
            "{name} is {text:?}, which is not JSON ({error}); it is a number, true or false, or an object of conditions, as \
             {{\"exists\": true}}"
        ))
    })
}

pub(super) async fn list_nodes(State(app): State<App>, Query(asked): Asked) -> Response {
    let read = || -> Result<StoreQuery, BadRequest> {
        let linearizable = is_linearizable(&asked, &["pattern", "after", "limit", "linearizable"])?;
        let limit = match find(&asked, "limit") {
            None => NODES_PER_ANSWER_MAX as u32,
            Some(text) => text
                .parse()
                .map_err(|_| BadRequest(format!("limit is {text:?}, it has to be a number")))?,
        };
        let after = find(&asked, "after").filter(|after| !after.is_empty());
        Ok(StoreQuery::List {
            pattern: words::pattern(find(&asked, "pattern").unwrap_or("/**"))?,
            after: after.map(words::path).transpose()?,
            limit,
            linearizable,
        })
    };
    match (read(), store(&app)) {
        (Err(bad), _) => bad.into_response(),
        (_, Err(response)) => *response,
        (Ok(query), Ok(store)) => answer(&store.query(query).await),
    }
}

pub(super) async fn count_nodes(State(app): State<App>, Query(asked): Asked) -> Response {
    let read = || -> Result<StoreQuery, BadRequest> {
        let linearizable = is_linearizable(&asked, &["pattern", "linearizable"])?;
        Ok(StoreQuery::Count {
            pattern: words::pattern(find(&asked, "pattern").unwrap_or("/**"))?,
            linearizable,
        })
    };
    match (read(), store(&app)) {
        (Err(bad), _) => bad.into_response(),
        (_, Err(response)) => *response,
        (Ok(query), Ok(store)) => answer(&store.query(query).await),
    }
}

pub(super) async fn watch_nodes(
    State(app): State<App>,
    Query(asked): Asked,
    headers: HeaderMap,
) -> Response {
    let read = || -> Result<(Pattern, Option<u64>), BadRequest> {
        check_known(&asked, &["pattern", "from"])?;
        // A browser that comes back knows better than its address.
        let last = headers.get("last-event-id");
        let from = last
            .and_then(|id| id.to_str().ok())
            .or_else(|| find(&asked, "from"))
            .filter(|from| !from.is_empty());
        let number = |text: &str| {
            text.parse::<u64>()
                .map_err(|_| BadRequest(format!("from is {text:?}, it has to be a revision")))
        };
        let pattern = words::pattern(find(&asked, "pattern").unwrap_or("/**"))?;
        Ok((pattern, from.map(number).transpose()?))
    };
    let (pattern, from) = match read() {
        Ok(read) => read,
        Err(bad) => return bad.into_response(),
    };
    let events = match store(&app) {
        Ok(store) => watch::Events::new(store, pattern, from),
        Err(response) => return *response,
    };
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    match events {
        Some(events) => (headers, Body::new(events)).into_response(),
        None => answer(&no_store()),
    }
}

pub(super) async fn export(State(app): State<App>) -> Response {
    let store = match store(&app) {
        Ok(store) => store,
        Err(response) => return *response,
    };
    let headers = [
        (header::CONTENT_TYPE, NDJSON),
        (header::CACHE_CONTROL, "no-store"),
    ];
    match store.export().await {
        Ok(text) => (headers, text).into_response(),
        Err(result) => answer(&result),
    }
}

pub(super) async fn import(State(app): State<App>, body: String) -> Response {
    let store = match store(&app) {
        Ok(store) => store,
        Err(response) => return *response,
    };
    match store.import(body).await {
        Ok(count) => JsonBody(json!({"ok": true, "count": count})).into_response(),
        Err(result) => answer(&result),
    }
}
