//! The routes, and who may ask.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use tokio::sync::watch;

use super::operator::Operator;
use super::status::Status;
use super::tree::leases;
use super::{crashes, letters, logs, orders, records, tree};
use crate::metrics::{self, Metrics};

/// The largest body of an order.
const ORDER_BYTES_MAX: usize = 4096;

/// Who may ask. The default answers everybody who gets through.
#[derive(Default)]
pub(super) struct Guard {
    /// Listening on loopback at this address: only requests that name it, or `localhost`, are answered.
    pub(super) hosts: Option<IpAddr>,
    /// What all but the probes must carry.
    pub(super) token: Option<String>,
    /// Whether orders are taken.
    pub(super) orders: Orders,
}

/// Whether orders are taken from who may ask.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Orders {
    /// From everybody who may ask.
    #[default]
    Taken,
    /// From nobody, since no token is configured.
    WantToken,
}

/// What the handlers answer from.
#[derive(Clone)]
pub(super) struct App {
    pub(super) status: watch::Receiver<Status>,
    pub(super) metrics: Metrics,
    pub(super) operator: Option<Arc<dyn Operator>>,
}

pub(super) fn router(app: App, guard: Arc<Guard>) -> Router {
    let orders = Router::new()
        .route("/api/v1/engine/{order}", post(orders::post_order))
        .route("/api/v1/dead-letters/replay", post(letters::replay_letters))
        .route("/api/v1/dead-letters", delete(letters::drop_letters))
        .route("/api/v1/config/reload", post(orders::post_reload))
        // What players said, before any rule: not for everybody on this machine.
        .route("/api/v1/records", get(records::get_records))
        .layer(DefaultBodyLimit::max(ORDER_BYTES_MAX))
        .route_layer(from_fn_with_state(Arc::clone(&guard), check_orders));
    let writes = Router::new()
        .route(
            "/api/v1/store/{*path}",
            put(tree::put_node).delete(tree::delete_node),
        )
        .route("/api/v1/transactions", post(tree::post_transaction))
        .route(
            "/api/v1/leases/{*path}",
            post(leases::take_lease)
                .put(leases::renew_lease)
                .delete(leases::release_lease),
        )
        .layer(DefaultBodyLimit::max(tree::WRITE_BYTES_MAX));
    let imports = Router::new()
        .route("/api/v1/import", post(tree::import))
        .layer(DefaultBodyLimit::max(tree::IMPORT_BYTES_MAX));
    let writes = writes
        .merge(imports)
        .route_layer(from_fn_with_state(Arc::clone(&guard), check_orders));
    let guarded = Router::new()
        .route("/api/v1/store", get(tree::list_nodes))
        .route("/api/v1/store/{*path}", get(tree::get_node))
        .route("/api/v1/count", get(tree::count_nodes))
        .route("/api/v1/watch", get(tree::watch_nodes))
        .route("/api/v1/export", get(tree::export))
        .route("/metrics", get(get_metrics))
        .route("/api/v1/status", get(get_status))
        .route("/api/v1/logs", get(logs::get_logs))
        .route("/api/v1/crashes", get(crashes::get_crashes))
        .route("/api/v1/crashes/{id}", get(crashes::get_crash))
        .route("/api/v1/dead-letters", get(letters::list_letters))
        .route("/api/v1/dead-letters/{id}", get(letters::show_letter))
        .merge(orders)
        .merge(writes)
        .route_layer(from_fn_with_state(Arc::clone(&guard), check_token));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .merge(guarded)
        .fallback(|| async { (StatusCode::NOT_FOUND, "no such path\n") })
        .layer(from_fn_with_state(guard, check_host))
        .with_state(app)
}

async fn readyz(State(app): State<App>) -> Response {
    let unready = app.status.borrow().unready_reason();
    match unready {
        None => "ready\n".into_response(),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {reason}\n"),
        )
            .into_response(),
    }
}

async fn get_metrics(State(app): State<App>) -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
    (headers, app.metrics.encode())
}

async fn get_status(State(app): State<App>) -> Response {
    let status = app.status.borrow().clone();
    let headers = [(header::CACHE_CONTROL, "no-store")];
    (headers, Json(status)).into_response()
}

async fn check_host(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    if let Some(ip) = guard.hosts
        && !is_our_host(request.headers(), ip)
    {
        let text = "the Host header names somebody else; ask for localhost or 127.0.0.1\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

async fn check_orders(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    if guard.orders == Orders::WantToken {
        let text = "orders and writes need a token: set [api] token_file and send its content as a Bearer token, or use \
                    the command line (sidekick-watchdog restart, store put), which needs none\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

async fn check_token(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    if let Some(token) = &guard.token {
        let given = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map_or("", |(_, given)| given.trim());
        if !is_equal(given.as_bytes(), token.as_bytes()) {
            let headers = [(header::WWW_AUTHENTICATE, "Bearer")];
            let text = "a token is needed: Authorization: Bearer <content of [api] token_file>\n";
            return (StatusCode::UNAUTHORIZED, headers, text).into_response();
        }
    }
    next.run(request).await
}

/// Whether the request names this machine: `localhost`, a loopback address, or the one listened on.
fn is_our_host(headers: &HeaderMap, ip: IpAddr) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let Ok(host) = host.to_str() else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|named| named.is_loopback() || named == ip)
}

/// Compares secrets in a time that tells nothing but their length.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (x, y)| all | (x ^ y)) == 0
}
