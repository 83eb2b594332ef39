//! `GET /api/v1/records?stage=&stream=&limit=`: records as they pass, one JSON object a line, until `limit` are told or
//! the reader goes. `{"lost": 12}` says that the reader was too slow for so many; nobody waits for it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::mpsc::Receiver;

use super::operator::{Stage, TailError, Wanted};
use super::routes::App;

/// What may be asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wishes {
    stage: Option<String>,
    stream: Option<String>,
    limit: Option<u64>,
}

pub(super) async fn get_records(State(app): State<App>, Query(wishes): Query<Wishes>) -> Response {
    let refused = |text: String| (StatusCode::BAD_REQUEST, text).into_response();
    let stage = match wishes.stage.as_deref().unwrap_or("stored").parse::<Stage>() {
        Ok(stage) => stage,
        Err(()) => return refused("stage is one of raw, stored and uploaded\n".into()),
    };
    let pattern = match wishes.stream.as_deref().map(str::parse).transpose() {
        Ok(pattern) => pattern,
        Err(error) => return refused(format!("stream cannot be used: {error}\n")),
    };
    let Some(operator) = app.operator else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let wanted = Wanted {
        stage,
        pattern,
        count: wishes.limit.unwrap_or(u64::MAX),
    };
    match operator.tail(wanted) {
        Ok(lines) => {
            let headers = [
                (header::CONTENT_TYPE, "application/x-ndjson"),
                (header::CACHE_CONTROL, "no-store"),
            ];
            (headers, Body::new(Lines(lines))).into_response()
        }
        Err(error @ TailError::TooMany { .. }) => {
            (StatusCode::TOO_MANY_REQUESTS, format!("{error}\n")).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

struct Lines(Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.0.poll_recv(cx);
        next.map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
