//! `GET /api/v1/logs?lines=&incarnation=&follow=`: the engines' output, one JSON object a line (NDJSON).
//!
//! A line is a [`LogLine`]; `{"skipped": 12}` says that a follower was too slow for so many lines. While nothing comes an
//! empty line is sent now and then, so that both sides notice when the other is gone. What is ahead of a slow reader is
//! bounded; the engine and who reads its output never wait for one.

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

use super::operator::LogItem;
use super::routes::App;
use crate::log_line::LogLine;

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
    let incarnation = wishes.incarnation;
    let (lines, items) = if follow {
        let (lines, items) = operator.follow_log(incarnation, lines_max);
        (lines, Some(items))
    } else {
        let read = tokio::task::spawn_blocking(move || operator.log(incarnation, lines_max)).await;
        match read {
            Ok(Ok(lines)) => (lines, None),
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
    (headers, Body::new(Lines::new(lines.into(), items))).into_response()
}

#[derive(Serialize, Deserialize)]
struct Skipped {
    skipped: u64,
}

/// What one line of the answer says; `None` for the empty ones.
///
/// # Errors
/// It is neither a line of output nor the count of skipped ones.
pub fn parse_item(line: &[u8]) -> Result<Option<LogItem>, serde_json::Error> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    if let Ok(Skipped { skipped }) = serde_json::from_slice(line) {
        return Ok(Some(LogItem::Skipped(skipped)));
    }
    serde_json::from_slice(line).map(|line| Some(LogItem::Line(line)))
}

fn write_line(line: &LogLine, out: &mut Vec<u8>) {
    // Writing into memory what has no maps cannot fail.
    let _ = serde_json::to_writer(&mut *out, line);
    out.push(b'\n');
}

fn write_item(item: &LogItem, out: &mut Vec<u8>) {
    match item {
        LogItem::Line(line) => write_line(line, out),
        LogItem::Skipped(skipped) => {
            let _ = serde_json::to_writer(&mut *out, &Skipped { skipped: *skipped });
            out.push(b'\n');
        }
    }
}

/// The body: first the lines that are there, then those that come.
struct Lines {
    first: VecDeque<LogLine>,
    items: Option<Receiver<LogItem>>,
    alive: Pin<Box<Sleep>>,
}

impl Lines {
    fn new(first: VecDeque<LogLine>, items: Option<Receiver<LogItem>>) -> Self {
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
        for line in self.first.drain(..piece) {
            write_line(&line, &mut out);
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
        let mut body = Lines::new(VecDeque::from([line("old")]), Some(receiver));
        let mut next = async || {
            let frame = body.frame().await?.unwrap();
            Some(parse_item(&frame.into_data().unwrap()).unwrap())
        };
        assert_eq!(next().await, Some(Some(LogItem::Line(line("old")))));
        assert_eq!(next().await, Some(None));
        sender.send(LogItem::Skipped(12)).await.unwrap();
        assert_eq!(next().await, Some(Some(LogItem::Skipped(12))));
        sender.send(LogItem::Line(line("new"))).await.unwrap();
        assert_eq!(next().await, Some(Some(LogItem::Line(line("new")))));
        drop(sender);
        assert_eq!(next().await, None);
    }
}
