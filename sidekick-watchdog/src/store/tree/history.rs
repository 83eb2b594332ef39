//! What happened: the events of the last writes, for watches that go on from a revision.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use sidekick_ipc::tree::{DeleteReason, Path, Pattern, WatchBatch, WatchEvent, WatchKind};

use super::super::blob::Blob;
use super::Tree;

/// Events that are kept.
const EVENTS_MAX: usize = 8192;
/// Bytes of events that are kept, values included.
const EVENTS_BYTES_MAX: u64 = 8 << 20;
/// Bytes of events of one write; one with more is told as a gap. Has to fit into one batch of words.
const REVISION_BYTES_MAX: u64 = 4 << 20;
/// About what an event takes besides its value.
const EVENT_BYTES: u64 = 160;

/// What happened to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Put { version: u64, value: Option<Blob> },
    Delete(DeleteReason),
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Event {
    pub(super) revision: u64,
    pub(super) path: Path,
    pub(super) kind: Kind,
}

impl Event {
    fn bytes(&self) -> u64 {
        let value = match &self.kind {
            Kind::Put {
                value: Some(value), ..
            } => value.len(),
            _ => 0,
        };
        EVENT_BYTES + (self.path.as_str().len() + value) as u64
    }

    fn words(&self) -> WatchEvent {
        WatchEvent {
            revision: self.revision,
            path: self.path.clone(),
            kind: match &self.kind {
                Kind::Put { version, value } => WatchKind::Put {
                    version: *version,
                    value: value.as_ref().map(|value| value.to_vec()),
                },
                Kind::Delete(reason) => WatchKind::Delete { reason: *reason },
            },
        }
    }
}

/// The events of the last writes, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct History {
    events: VecDeque<Event>,
    bytes: u64,
    /// All events of revisions above this one are there.
    compacted: u64,
}

impl History {
    /// Adds the events of one revision. What is too much goes, whole revisions at a time.
    pub(super) fn add(&mut self, events: Vec<Event>) {
        let bytes = events.iter().map(Event::bytes).sum::<u64>();
        if bytes > REVISION_BYTES_MAX {
            self.compacted = events
                .first()
                .map_or(self.compacted, |event| event.revision);
            self.events.clear();
            self.bytes = 0;
            return;
        }
        self.bytes += bytes;
        self.events.extend(events);
        while self.events.len() > EVENTS_MAX || self.bytes > EVENTS_BYTES_MAX {
            let Some(revision) = self.events.front().map(|event| event.revision) else {
                return;
            };
            let end = self
                .events
                .partition_point(|event| event.revision <= revision);
            let gone: u64 = self.events.drain(..end).map(|event| event.bytes()).sum();
            self.bytes = self.bytes.saturating_sub(gone);
            self.compacted = revision;
        }
    }
}

impl Tree {
    /// What happened to nodes that match after `revision`, in order; about `bytes_max` bytes of it, but never a part of
    /// one write's events. [`WatchBatch::revision`] is where to go on from; there is more while it is below
    /// [`Tree::revision`].
    pub(crate) fn events_after(
        &self,
        pattern: &Pattern,
        revision: u64,
        bytes_max: usize,
    ) -> WatchBatch {
        // A revision that was never reached is one of another tree.
        let compacted = revision < self.history.compacted || revision > self.revision;
        let from = match compacted {
            true => self.history.compacted,
            false => revision,
        };
        let events = &self.history.events;
        let start = events.partition_point(|event| event.revision <= from);
        let mut batch = WatchBatch {
            revision: self.revision,
            compacted,
            events: Vec::new(),
        };
        let mut bytes = 0;
        for event in events.range(start..) {
            let is_new = batch.events.last().map(|last| last.revision) != Some(event.revision);
            if bytes >= bytes_max as u64 && is_new {
                batch.revision = event.revision.saturating_sub(1);
                break;
            }
            if pattern.matches(&event.path) {
                bytes += event.bytes();
                batch.events.push(event.words());
            }
        }
        batch
    }
}
