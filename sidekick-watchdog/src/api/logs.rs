//! `GET /api/v1/logs?lines=&incarnation=&follow=&after=`: the engines' output, one JSON object a line (NDJSON).
//!
//! A line is a [`LogLine`](crate::log_line::LogLine); with its incarnation and `end` it tells a place, from which a follower goes on with
//! `after=<incarnation>:<end>`, also with a later watchdog. `{"position": "3:4096"}` tells that place while there is no
//! line, `{"skipped_bytes": 12}` that so much is not kept any more. While nothing comes an empty line is sent now and
//! then, so that both sides notice when the other is gone. What is ahead of a slow reader is bounded; the engine and who
//! reads its output never wait for one.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, Sleep, sleep};

use super::operator::{Following, LogItem};
use super::routes::App;
use crate::log_line::LogPosition;

/// Lines when nothing else is asked for.
const LINES: usize = 100;
/// Lines that may be asked for.
pub const LINES_MAX: usize = 100_000;
/// A follower that gets nothing else gets an empty line this often; below the API's limit on silent connections.
const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// Lines that go out in one piece.
const PIECE_LINES_MAX: usize = 256;

/// What may be asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wishes {
    lines: Option<usize>,
    incarnation: Option<u32>,
    follow: Option<String>,
    after: Option<String>,
}

pub(super) async fn get_logs(State(app): State<App>, Query(wishes): Query<Wishes>) -> Response {
    let Some(operator) = app.operator else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let lines_max = wishes.lines.unwrap_or(LINES).min(LINES_MAX);
    let follow = match wishes.follow.as_deref() {
        None | Some("false" | "0") => false,
        Some("true" | "1" | "") => true,
        Some(other) => {
            let text = format!("follow is {other:?}; it is true or false\n");
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    let after = match wishes.after.as_deref().map(str::parse::<LogPosition>) {
        None => None,
        Some(Ok(after)) if follow => Some(after),
        Some(Ok(_)) => {
            let text = "after goes with follow=true only\n";
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
        Some(Err(error)) => {
            let text = format!("after cannot be used: {error}\n");
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    let incarnation = wishes.incarnation;
    let body = if follow {
        match operator.follow_log(incarnation, lines_max, after) {
            Some(following) => Lines::following(following),
            None => {
                let text = "the watchdog is starting; ask again in a moment\n";
                return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
            }
        }
    } else {
        let read = tokio::task::spawn_blocking(move || operator.log(incarnation, lines_max)).await;
        match read {
            Ok(Ok(lines)) => Lines::new(lines.into_iter().map(LogItem::Line).collect(), None),
            Ok(Err(error)) => {
                let text = format!("the engine's output cannot be read: {error}\n");
                return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response();
            }
            Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::new(body)).into_response()
}

/// What is said beside lines.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Aside {
    SkippedBytes(u64),
    Position(String),
}

/// What one line of the answer says; `None` for the empty ones.
///
/// # Errors
/// It is neither a line of output nor one of the others.
pub fn parse_item(line: &[u8]) -> Result<Option<LogItem>, serde_json::Error> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    match serde_json::from_slice(line) {
        Ok(Aside::SkippedBytes(bytes)) => Ok(Some(LogItem::Skipped(bytes))),
        Ok(Aside::Position(position)) => Ok(position.parse().map(LogItem::At).ok()),
        Err(_) => serde_json::from_slice(line).map(|line| Some(LogItem::Line(line))),
    }
}

fn write_item(item: &LogItem, out: &mut Vec<u8>) {
    // Writing into memory what has no maps cannot fail.
    let _ = match item {
        LogItem::Line(line) => serde_json::to_writer(&mut *out, line),
        LogItem::Skipped(bytes) => serde_json::to_writer(&mut *out, &Aside::SkippedBytes(*bytes)),
        LogItem::At(position) => {
            serde_json::to_writer(&mut *out, &Aside::Position(position.to_string()))
        }
    };
    out.push(b'\n');
}

/// The body: first the lines that are there, then those that come.
struct Lines {
    first: VecDeque<LogItem>,
    items: Option<Receiver<LogItem>>,
    alive: Pin<Box<Sleep>>,
}

impl Lines {
    fn following(following: Following) -> Self {
        let mut first: VecDeque<LogItem> = following.lines.into_iter().map(LogItem::Line).collect();
        first.push_back(LogItem::At(following.position));
        Self::new(first, Some(following.items))
    }

    fn new(first: VecDeque<LogItem>, items: Option<Receiver<LogItem>>) -> Self {
        Self {
            first,
            items,
            alive: Box::pin(sleep(ALIVE_EVERY)),
        }
    }
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut out = Vec::new();
        let piece = self.first.len().min(PIECE_LINES_MAX);
        for item in self.first.drain(..piece) {
            write_item(&item, &mut out);
        }
        if !out.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(out.into()))));
        }
        let Some(items) = &mut self.items else {
            return Poll::Ready(None);
        };
        match items.poll_recv(cx) {
            Poll::Ready(Some(item)) => {
                write_item(&item, &mut out);
                for _ in 1..PIECE_LINES_MAX {
                    match items.try_recv() {
                        Ok(item) => write_item(&item, &mut out),
                        Err(_) => break,
                    }
                }
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                if self.alive.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                out.push(b'\n');
            }
        }
        self.alive.as_mut().reset(Instant::now() + ALIVE_EVERY);
        Poll::Ready(Some(Ok(Frame::data(out.into()))))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::sync::mpsc;

    use super::*;
    use crate::log_line::LogLine;

    fn line(text: &str) -> LogLine {
        LogLine {
            incarnation: 3,
            text: text.to_owned(),
            ..LogLine::default()
        }
    }

    /// On a paused clock: first what is there, then what comes, an empty line in the silence, and the end.
    #[tokio::test(start_paused = true)]
    async fn a_follower_gets_old_lines_new_ones_and_signs_of_life() {
        let (sender, receiver) = mpsc::channel(8);
        let position = LogPosition {
            incarnation: 3,
            offset: 4,
        };
        let mut body = Lines::following(Following {
            lines: vec![line("old")],
            position,
            items: receiver,
        });
        let mut next = async || {
            let frame = body.frame().await?.unwrap();
            let bytes = frame.into_data().unwrap();
            let lines = bytes
                .strip_suffix(b"\n")
                .unwrap()
                .split(|&byte| byte == b'\n');
            Some(
                lines
                    .map(|line| parse_item(line).unwrap())
                    .collect::<Vec<_>>(),
            )
        };
        let both = [LogItem::Line(line("old")), LogItem::At(position)];
        assert_eq!(next().await, Some(both.map(Some).to_vec()));
        assert_eq!(next().await, Some(vec![None]));
        sender.send(LogItem::Skipped(12)).await.unwrap();
        assert_eq!(next().await, Some(vec![Some(LogItem::Skipped(12))]));
        sender.send(LogItem::Line(line("new"))).await.unwrap();
        assert_eq!(next().await, Some(vec![Some(LogItem::Line(line("new")))]));
        drop(sender);
        assert_eq!(next().await, None);
    }
}
