//! `GET /api/v1/watch?pattern=&from=`: what happens in the tree, as server-sent events, with none missed.
//!
//! `put` and `delete` tell of one node each. The `id` of an event is the revision up to which everything was told, so a client that comes
//! back with `Last-Event-ID` (as browsers do by themselves) goes on where it was. `ready` comes first and tells where the watch begins; a
//! `compacted` says that something before it is no longer known: read anew what is watched. Who reads slowly is held in no memory here:
//! nothing is made before the last piece was taken.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::Frame;
use serde_json::json;
use sidekick_ipc::tree::{Pattern, WatchBatch};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, Sleep, sleep};

use super::{TreeStore, words};

/// A client that gets nothing else gets a comment this often; below the API's limit on silent connections.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

type Change = Pin<Box<dyn Future<Output = Option<Receiver<u64>>> + Send>>;

/// The body of the answer: ends when the store does.
pub(super) struct Events {
    store: Arc<dyn TreeStore>,
    pattern: Pattern,
    /// Everything up to this revision was told.
    told: u64,
    /// What is to be sent first.
    first: Option<String>,
    change: Change,
    alive: Pin<Box<Sleep>>,
}

impl Events {
    /// From now on, or of everything after revision `from`. `None` without a store.
    pub(super) fn new(
        store: Arc<dyn TreeStore>,
        pattern: Pattern,
        from: Option<u64>,
    ) -> Option<Self> {
        // Before the look at the revision: what changes after it is noticed.
        let changes = store.changes()?;
        let now = store.revision()?;
        // From the future: the store knows less than it did, as after a restored copy.
        let compacted = from.is_some_and(|from| from > now);
        let told = from.unwrap_or(now).min(now);
        let mut first = String::new();
        write_event(&mut first, "ready", &json!({"revision": told}), Some(told));
        if compacted {
            write_event(
                &mut first,
                "compacted",
                &json!({"revision": now}),
                Some(now),
            );
        }
        Some(Self {
            store,
            pattern,
            told,
            first: Some(first),
            change: next_change(changes),
            alive: Box::pin(sleep(ALIVE_EVERY)),
        })
    }

    /// What there is to tell now; `None` when the store is gone.
    fn news(&mut self) -> Option<String> {
        let mut out = String::new();
        while out.is_empty() && self.store.revision()? > self.told {
            let batch = self.store.events(&self.pattern, self.told)?;
            if batch.revision <= self.told {
                break;
            }
            self.told = batch.revision;
            write_batch(&mut out, &batch);
        }
        Some(out)
    }
}

fn next_change(mut changes: Receiver<u64>) -> Change {
    Box::pin(async move { changes.changed().await.ok().map(|()| changes) })
}

fn write_event(out: &mut String, name: &str, data: &serde_json::Value, id: Option<u64>) {
    // Writing into memory cannot fail.
    let _ = write!(out, "event: {name}\ndata: {data}\n");
    if let Some(id) = id {
        let _ = writeln!(out, "id: {id}");
    }
    out.push('\n');
}

fn write_batch(out: &mut String, batch: &WatchBatch) {
    if batch.compacted {
        let before = batch.goes_on_after();
        write_event(out, "compacted", &json!({"revision": before}), Some(before));
    }
    let mut events = batch.events.iter().peekable();
    while let Some(event) = events.next() {
        // Several events of one write share their revision: only the last of them says that it was told.
        let is_last = events
            .peek()
            .is_none_or(|next| next.revision != event.revision);
        let (name, data) = words::event(event);
        write_event(out, name, &data, is_last.then_some(event.revision));
    }
}

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut out = self.first.take().unwrap_or_default();
        while out.is_empty() {
            match self.news() {
                None => return Poll::Ready(None),
                Some(news) => out = news,
            }
            if !out.is_empty() {
                break;
            }
            match self.change.as_mut().poll(cx) {
                Poll::Ready(Some(changes)) => self.change = next_change(changes),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    if self.alive.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    out.push_str(":\n\n");
                }
            }
        }
        self.alive.as_mut().reset(Instant::now() + ALIVE_EVERY);
        Poll::Ready(Some(Ok(Frame::data(out.into()))))
    }
}
