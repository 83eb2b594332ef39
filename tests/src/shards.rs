//! A registry of game servers as V-Sekai's Uro is one, as far as its `shards` and its login go; the real one wants an Elixir and a
//! database of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{post, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::http_server::HttpServer;

/// Who may log in.
pub const USER: &str = "lobby";
/// With which password.
pub const PASSWORD: &str = "correct horse battery";

/// What the registry knows.
#[derive(Debug, Default, Clone)]
pub struct Known {
    /// The rows, by id.
    pub rows: BTreeMap<String, Value>,
    /// How often each row was beaten for.
    pub beats: BTreeMap<String, u64>,
    /// Rows that there ever were.
    pub created: u64,
    /// Logins that were granted.
    pub logins: u64,
    /// Requests that were refused for want of a token.
    pub refused: u64,
    /// Beats and removals that met an error of its own.
    pub failed: u64,
    /// It lists without saying under which id.
    is_silent: bool,
    /// Beats and removals meet an error of its own.
    is_failing: bool,
    /// So do those for a row that there is not.
    misses_with_500: bool,
    token: Option<String>,
}

/// A registry on a loopback port. It stops when this value goes.
#[derive(Debug)]
pub struct Shards {
    known: Arc<Mutex<Known>>,
    server: HttpServer,
}

impl Shards {
    /// Starts one without rows.
    ///
    /// # Panics
    /// When no port can be had.
    pub fn start() -> Self {
        let known = Arc::<Mutex<Known>>::default();
        let router = Router::new()
            .route("/api/v1/login", post(log_in))
            .route("/api/v1/shards", post(create))
            .route("/api/v1/shards/{id}", put(update).delete(remove))
            .with_state(Arc::clone(&known));
        let server = HttpServer::start(0, router).expect("a loopback port");
        Self { known, server }
    }

    /// Where its API begins.
    pub fn url(&self) -> String {
        format!("http://{}/api/v1", self.server.address())
    }

    /// All that it knows now.
    pub fn known(&self) -> Known {
        lock(&self.known).clone()
    }

    /// No token is good any more; gives what is known at that moment.
    pub fn revoke(&self) -> Known {
        let mut known = lock(&self.known);
        known.token = None;
        known.clone()
    }

    /// Lists without saying under which id from now on, as an older Uro does.
    pub fn tell_no_ids(&self) {
        lock(&self.known).is_silent = true;
    }

    /// Beats and removals meet a 500 while `is_failing`.
    pub fn fail(&self, is_failing: bool) {
        lock(&self.known).is_failing = is_failing;
    }

    /// Beats and removals of a row that there is not meet a 500 from now on, in place of a 404.
    pub fn miss_with_500(&self) {
        lock(&self.known).misses_with_500 = true;
    }

    /// Loses its rows, as after a restore from an old backup.
    pub fn forget(&self) {
        lock(&self.known).rows.clear();
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

type Shared = State<Arc<Mutex<Known>>>;

async fn log_in(State(known): Shared, Json(body): Json<Value>) -> Response {
    if body["username_or_email"] != USER || body["password"] != PASSWORD {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut known = lock(&known);
    known.logins += 1;
    let token = format!("token-{}", known.logins);
    known.token = Some(token.clone());
    Json(json!({"data": {"access_token": token}})).into_response()
}

/// The error that it has of its own at a beat or a removal of this row, where it has one.
fn failure(known: &mut Known, id: &str) -> Option<Response> {
    let is_missed = known.misses_with_500 && !known.rows.contains_key(id);
    let fails = known.is_failing || is_missed;
    known.failed += u64::from(fails);
    fails.then(|| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// Whether the request carries the token.
fn may(known: &mut Known, headers: &HeaderMap) -> bool {
    let wanted = known.token.as_ref().map(|token| format!("Bearer {token}"));
    let given = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    let may = wanted.is_some() && wanted.as_deref() == given;
    known.refused += u64::from(!may);
    may
}

fn with_id(id: &str) -> Response {
    Json(json!({"data": {"id": id}})).into_response()
}

async fn create(State(known): Shared, headers: HeaderMap, Json(row): Json<Value>) -> Response {
    let mut known = lock(&known);
    if !may(&mut known, &headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    known.created += 1;
    let id = known.created.to_string();
    known.rows.insert(id.clone(), row);
    match known.is_silent {
        true => Json(json!({"data": {}})).into_response(),
        false => with_id(&id),
    }
}

async fn update(
    State(known): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Option<Json<Value>>,
) -> Response {
    let mut known = lock(&known);
    if !may(&mut known, &headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if let Some(failure) = failure(&mut known, &id) {
        return failure;
    }
    let Some(row) = known.rows.get_mut(&id) else {
        // Phoenix's answer to `Repo.get!`.
        return StatusCode::NOT_FOUND.into_response();
    };
    if let Some(status) = body.as_ref().and_then(|body| body.pointer("/shard/status")) {
        row["status"] = status.clone();
    }
    *known.beats.entry(id.clone()).or_default() += 1;
    with_id(&id)
}

async fn remove(State(known): Shared, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let mut known = lock(&known);
    if !may(&mut known, &headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if let Some(failure) = failure(&mut known, &id) {
        return failure;
    }
    match known.rows.remove(&id) {
        Some(_) => with_id(&id),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
