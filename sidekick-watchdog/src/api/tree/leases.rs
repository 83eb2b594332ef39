//! Leases over HTTP: `POST /api/v1/leases/{path}?ttl=10s` takes one, `PUT …?token=7` renews it, `DELETE …?token=7` gives it back.
//!
//! How long a holder may rely on its lease (CORRECTNESS rule 22) is told as `use_for_s`, seconds from the sending of the request on:
//! no two machines' clocks have to agree for that. `use_until` is the same moment by this machine's clock, for people. Both follow from
//! what is left of the lease now, and not from what an answer once was: a retry hears less, or that the lease is lost.

use std::time::{Duration, Instant};

use axum::Json as JsonBody;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use humantime_serde::re::humantime::parse_duration;
use jiff::Timestamp;
use serde_json::{Value as Json, json};
use sidekick_ipc::tree::{
    ErrorKind, LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN, LeaseRef, Path as TreePath, StoreOp, StoreResult,
};

use super::{Asked, BadRequest, TreeStore, answer, check_known, checked, find, store, words};
use crate::api::routes::App;

/// How a lease stands.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTime {
    /// How long it lives when nobody renews it.
    pub ttl: Duration,
    /// How much of that was left when the request came.
    pub left_when_asked: Duration,
}

impl LeaseTime {
    /// For how long its holder may rely on it, counted from the request: up to a fifth of its life before its end.
    fn use_for(self) -> Duration {
        let left = self.left_when_asked.min(self.ttl);
        left.saturating_sub(self.ttl / 5)
    }
}

/// When a request came, by the clock that measures and by the one that people read.
#[derive(Clone, Copy)]
struct Came {
    at: Instant,
    time: Timestamp,
}

impl Came {
    fn now() -> Self {
        Self {
            at: Instant::now(),
            time: Timestamp::now(),
        }
    }
}

/// Reads how long a lease is to live: `30s`, `2m`, or a number of seconds. In milliseconds.
///
/// # Errors
/// What is wrong with it, in a sentence.
pub fn parse_ttl(text: &str) -> Result<u64, String> {
    let seconds = text
        .parse()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok());
    let ttl = seconds
        .or_else(|| parse_duration(text).ok())
        .ok_or_else(|| format!("ttl is {text:?}; it is a duration such as 10s or 500ms"))?;
    u64::try_from(ttl.as_millis())
        .ok()
        .filter(|ms| (LEASE_TTL_MS_MIN..=LEASE_TTL_MS_MAX).contains(ms))
        .ok_or_else(|| format!("ttl is {text:?}; it is at least 100ms and at most 24h"))
}

pub(in crate::api) async fn take_lease(
    State(app): State<App>,
    Path(at): Path<String>,
    Query(asked): Asked,
    headers: HeaderMap,
) -> Response {
    let came = Came::now();
    let read = || -> Result<StoreOp, BadRequest> {
        check_known(&asked, &["ttl"])?;
        let ttl = find(&asked, "ttl").ok_or_else(|| {
            BadRequest("how long is the lease to live? Ask with ttl, as ?ttl=10s".to_owned())
        })?;
        Ok(StoreOp::LeaseGrant {
            path: words::path(&format!("/{at}"))?,
            ttl_ms: parse_ttl(ttl)?,
        })
    };
    hold(&app, read(), &headers, came).await
}

pub(in crate::api) async fn renew_lease(
    State(app): State<App>,
    Path(at): Path<String>,
    Query(asked): Asked,
    headers: HeaderMap,
) -> Response {
    let came = Came::now();
    let op = named(&at, &asked).map(StoreOp::LeaseRenew);
    hold(&app, op, &headers, came).await
}

pub(in crate::api) async fn release_lease(
    State(app): State<App>,
    Path(at): Path<String>,
    Query(asked): Asked,
    headers: HeaderMap,
) -> Response {
    let read = || -> Result<_, BadRequest> {
        let lease = named(&at, &asked)?;
        let (op, retry) = checked(StoreOp::LeaseRelease(lease.clone()), &headers)?;
        Ok((lease, op, retry))
    };
    match (read(), store(&app)) {
        (Err(bad), _) => bad.into_response(),
        (_, Err(response)) => *response,
        (Ok((lease, op, retry)), Ok(store)) => {
            let result = store.execute(op, retry).await;
            answer(&lost_or_never_there(&*store, &lease, result))
        }
    }
}

/// The lease that path and token name.
fn named(at: &str, asked: &[(String, String)]) -> Result<LeaseRef, BadRequest> {
    check_known(asked, &["token"])?;
    let token = find(asked, "token").ok_or_else(|| {
        BadRequest("which lease? Ask with its token, as ?token=7; taking it has told it".to_owned())
    })?;
    let token = token
        .parse()
        .map_err(|_| BadRequest(format!("token is {token:?}, it has to be a number")))?;
    Ok(LeaseRef {
        path: words::path(&format!("/{at}"))?,
        token,
    })
}

/// Takes or renews a lease, and says how long it may be relied on.
async fn hold(
    app: &App,
    op: Result<StoreOp, BadRequest>,
    headers: &HeaderMap,
    came: Came,
) -> Response {
    let (op, retry) = match op.and_then(|op| checked(op, headers)) {
        Ok(read) => read,
        Err(bad) => return bad.into_response(),
    };
    let store = match store(app) {
        Ok(store) => store,
        Err(response) => return *response,
    };
    let asked = match &op {
        StoreOp::LeaseGrant { path, .. } => Some((path.clone(), None)),
        StoreOp::LeaseRenew(lease) => Some((lease.path.clone(), Some(lease.token))),
        _ => None,
    };
    let (result, time) = store.hold(op, retry, came.at).await;
    let StoreResult::Ok(done) = &result else {
        return match asked {
            Some((path, Some(token))) => answer(&lost_or_never_there(
                &*store,
                &LeaseRef { path, token },
                result,
            )),
            _ => answer(&result),
        };
    };
    let lease = done.lease.as_ref().filter(|lease| {
        let is_asked = |(path, token): &(TreePath, Option<u64>)| {
            lease.path == *path && token.is_none_or(|token| lease.token == token)
        };
        asked.as_ref().is_some_and(is_asked)
    });
    match (lease, time) {
        (Some(lease), Some(time)) => {
            let mut told = words::result(&result);
            told["lease"] = held(lease, time, came);
            ([(header::CACHE_CONTROL, "no-store")], JsonBody(told)).into_response()
        }
        (Some(LeaseRef { path, token }), None) => answer(&StoreResult::error(
            ErrorKind::LeaseLost,
            format_args!(
                "the lease at {path} was given under token {token} and has ended since; take it anew, and not with the same \
                 Idempotency-Key"
            ),
        )),
        (None, _) => answer(&StoreResult::error(
            ErrorKind::Invalid,
            "this Idempotency-Key is that of another write; each has one of its own",
        )),
    }
}

/// A lease as its holder is told of it.
fn held(lease: &LeaseRef, time: LeaseTime, came: Came) -> Json {
    let use_for = time.use_for();
    let until = came.time.checked_add(use_for).unwrap_or(came.time);
    json!({
        "path": lease.path.as_str(),
        "token": lease.token,
        "seconds": time.ttl.as_secs_f64(),
        "use_for_s": use_for.as_secs_f64(),
        "use_until": format!("{until:.3}"),
    })
}

/// A token that no lease has had yet is no lease's that was lost, but a mistake.
fn lost_or_never_there(
    store: &dyn TreeStore,
    lease: &LeaseRef,
    result: StoreResult,
) -> StoreResult {
    let LeaseRef { path, token } = lease;
    let is_lost = (result.error_words()).is_some_and(|(kind, _)| kind == ErrorKind::LeaseLost);
    // Tokens are revisions.
    let newest = store.revision().unwrap_or(u64::MAX);
    match is_lost && (*token == 0 || *token > newest) {
        false => result,
        true => StoreResult::error(
            ErrorKind::NotFound,
            format_args!(
                "there never was a lease with token {token} at {path}; a lease is named by the path and the token that its taking \
                 has told"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_stops_a_fifth_of_the_lease_before_its_end() {
        let seconds = Duration::from_secs;
        let use_for = |left| {
            let (ttl, left_when_asked) = (seconds(10), left);
            LeaseTime {
                ttl,
                left_when_asked,
            }
            .use_for()
        };
        assert_eq!(use_for(seconds(10)), seconds(8));
        // It was granted a moment after the request had come; that moment is no gain.
        assert_eq!(use_for(seconds(11)), seconds(8));
        // A retry, three seconds later.
        assert_eq!(use_for(seconds(7)), seconds(5));
        assert_eq!(use_for(seconds(2)), seconds(0));
        assert_eq!(use_for(seconds(1)), seconds(0));
    }

    #[test]
    fn a_time_to_live_is_read_and_a_wrong_one_explained() {
        assert_eq!(parse_ttl("10s"), Ok(10_000));
        assert_eq!(parse_ttl("0.5"), Ok(500));
        assert_eq!(parse_ttl("24h"), Ok(86_400_000));
        for (wrong, told) in [
            ("", "such as 10s"),
            ("soon", "such as 10s"),
            ("-1", "such as 10s"),
            ("nan", "such as 10s"),
            ("99ms", "at least 100ms"),
            ("86401", "at most 24h"),
            ("1e300", "such as 10s"),
        ] {
            let error = parse_ttl(wrong).unwrap_err();
            assert!(error.contains(told), "{wrong}: {error}");
        }
    }
}
