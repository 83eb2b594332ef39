//! `POST /api/v1/engine/{restart,start,stop,drain}`.
//!
//! Answers as soon as the order is taken (202); with `wait=true` when it is carried out (200), has failed (409) or
//! a minute is over (202 again, the order stands).

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use humantime_serde::re::humantime::parse_duration;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::operator::{Accepted, Goal, Operator, Order, OrderError, Progress, ReloadError, Verb};
use super::routes::App;

/// How long `wait=true` waits at most: a connection says nothing meanwhile.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest grace that may be asked for; beyond it somebody has mistaken the unit.
pub const GRACE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What may be asked for besides, in the query or as a JSON object in the body.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wishes {
    /// As `30s` or as seconds.
    grace: Option<Value>,
    wait: Option<Value>,
}

/// `POST /api/v1/config/reload`: 200 with [`super::operator::Reloaded`], 422 with all that is wrong.
pub(super) async fn post_reload(State(app): State<App>) -> Response {
    let Some(operator) = app.operator.clone() else {
        let text = OrderError::NotNow.to_string();
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n")).into_response();
    };
    match tokio::task::spawn_blocking(move || operator.reload()).await {
        Ok(Ok(reloaded)) => Json(reloaded).into_response(),
        Ok(Err(error @ ReloadError::Refused { .. })) => {
            (StatusCode::UNPROCESSABLE_ENTITY, format!("{error}\n")).into_response()
        }
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

pub(super) async fn post_order(
    State(app): State<App>,
    Path(word): Path<String>,
    Query(query): Query<Wishes>,
    body: Bytes,
) -> Response {
    let Ok(verb) = word.parse::<Verb>() else {
        let text = "no such order; there are restart, start, stop and drain\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let (grace, wait) = match wishes(query, &body) {
        Ok(wishes) => wishes,
        Err(why) => return (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    };
    let Some(operator) = app.operator.clone() else {
        let text = OrderError::NotNow.to_string();
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n")).into_response();
    };
    let mut status = app.status.clone();
    let goal = Goal::new(verb, &status.borrow_and_update());
    let taken = tokio::task::spawn_blocking(move || take(&operator, Order { verb, grace })).await;
    let grace = match taken {
        Ok(Ok(grace)) => grace,
        Ok(Err(error)) => {
            let code = match error {
                OrderError::NotNow | OrderError::Busy => StatusCode::SERVICE_UNAVAILABLE,
                OrderError::Note { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            };
            return (code, format!("{error}\n")).into_response();
        }
        Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    if wait {
        let is_over = |status: &_| !matches!(goal.judge(status), Progress::Underway(_));
        // Too late or the watchdog ends: the answer tells how far it has come.
        let _ = timeout(WAIT_MAX, status.wait_for(is_over)).await;
    }
    let status = app.status.borrow().clone();
    let (code, done, words) = match goal.judge(&status) {
        Progress::Underway(words) => (StatusCode::ACCEPTED, false, words),
        Progress::Done(words) if wait => (StatusCode::OK, true, words),
        Progress::Done(words) => (StatusCode::ACCEPTED, true, words),
        Progress::Failed(words) if wait => (StatusCode::CONFLICT, false, words),
        Progress::Failed(words) => (StatusCode::ACCEPTED, false, words),
    };
    let answer = Accepted {
        order: verb,
        grace_s: grace.as_secs_f64(),
        goal,
        done,
        words,
        engine: status.engine,
    };
    let headers = [(header::CACHE_CONTROL, "no-store")];
    (code, headers, Json(answer)).into_response()
}

fn take(operator: &Arc<dyn Operator>, order: Order) -> Result<Duration, OrderError> {
    operator.order(order)
}

/// Grace and waiting from query and body; the query wins.
fn wishes(query: Wishes, body: &[u8]) -> Result<(Option<Duration>, bool), String> {
    let body: Wishes = match body.iter().all(u8::is_ascii_whitespace) {
        true => Wishes::default(),
        false => serde_json::from_slice(body).map_err(|error| {
            format!("the body is not {{\"grace\": \"30s\", \"wait\": true}}: {error}")
        })?,
    };
    let grace = match query.grace.or(body.grace) {
        None | Some(Value::Null) => None,
        Some(value) => Some(grace(&value)?),
    };
    let wait = match query.wait.or(body.wait) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(Value::String(word)) if matches!(word.as_str(), "true" | "1" | "") => true,
        Some(Value::String(word)) if matches!(word.as_str(), "false" | "0") => false,
        Some(other) => return Err(format!("wait is {other}; it is true or false")),
    };
    Ok((grace, wait))
}

fn grace(value: &Value) -> Result<Duration, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    parse_grace(&text)
}

/// Reads a grace: `30s`, `2m`, or a number of seconds.
///
/// # Errors
/// What is wrong with it, in a sentence.
pub fn parse_grace(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok());
    let grace = seconds
        .or_else(|| parse_duration(text).ok())
        .ok_or_else(|| format!("grace is {text:?}; it is a duration such as 30s or 2m"))?;
    match grace <= GRACE_MAX {
        true => Ok(grace),
        false => Err(format!("grace is {text:?}; it is at most 24h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_come_from_query_or_body_and_the_query_wins() {
        let query = |grace: &str| Wishes {
            grace: Some(Value::String(grace.into())),
            wait: None,
        };
        let none = Wishes::default;
        let seconds = Duration::from_secs;
        assert_eq!(wishes(none(), b" \n"), Ok((None, false)));
        assert_eq!(wishes(query("90"), b""), Ok((Some(seconds(90)), false)));
        let body = br#"{"grace": 5, "wait": true}"#;
        assert_eq!(wishes(none(), body), Ok((Some(seconds(5)), true)));
        assert_eq!(wishes(query("2m"), body), Ok((Some(seconds(120)), true)));
        for body in [
            &b"grace=5"[..],
            b"{\"gracy\": 5}",
            b"{\"wait\": 7}",
            b"{\"grace\": \"-1s\"}",
        ] {
            assert!(wishes(none(), body).is_err(), "{body:?}");
        }
        assert!(parse_grace("25h").unwrap_err().contains("24h"));
    }
}
