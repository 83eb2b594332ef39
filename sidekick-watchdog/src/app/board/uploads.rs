//! How far the sinks have come, and what became of records at each.

use std::sync::atomic::Ordering;

use super::{Board, Current, age};
use crate::api::{BooksStatus, LettersStatus, RemovedSink, SinkStatus};
use crate::app::tell::seconds;
use crate::books::SinkBooks;
use crate::metrics::raise_to;
use crate::store::{LETTERS_BYTES_MAX, LETTERS_MAX, Store};
use crate::upload::{self, SinkState};

impl Board {
    /// The uploader has told something; the engine learns how far its own records have come.
    pub(in crate::app) fn uploads(&mut self, uploads: upload::UploadStatus) {
        let before = std::mem::replace(&mut self.uploads, uploads);
        if let Some(current) = &self.current {
            for sentence in parked(&before, &self.uploads) {
                // A full downlink means that the game does not look; status and log have it too.
                let _ = current.downlink.notice(&sentence);
            }
            current
                .link
                .controls
                .set_uploaded(self.uploaded_of(current));
        }
    }

    pub(super) fn uploaded_of(&self, current: &Current) -> u64 {
        let committed = current.progress.committed.load(Ordering::Acquire);
        if self.uploads.sinks.is_empty() {
            return committed;
        }
        let level = self
            .uploads
            .uploaded
            .iter()
            .find(|(epoch, _)| *epoch == current.progress.epoch);
        level.map_or(0, |(_, seq)| (*seq).min(committed))
    }

    pub(super) fn refresh_uploads(&mut self, store: &Store) {
        self.refresh_letters(store);
        self.status.upload.sinks.clear();
        let committed = self.status.totals.committed;
        let mut backlog = 0;
        for sink in &self.uploads.sinks {
            let (books, committed_numbers) = store.books(&sink.name);
            self.metrics
                .tell_books(&sink.name, &books, committed_numbers);
            // A replay moves no lane.
            let of_lanes = store.lanes(&sink.name);
            let of_lanes = of_lanes.iter().map(|lane| lane.records);
            let uploaded = of_lanes.fold(books.replayed, u64::saturating_add);
            // Where a sink does not know yet what it began with, rows taken are the best guess.
            let pending = books.pending(committed_numbers);
            backlog = backlog.max(pending.unwrap_or_else(|| committed.saturating_sub(uploaded)));
            self.status
                .totals
                .uploaded
                .insert(sink.name.clone(), uploaded);
            raise_to(&self.metrics.uploaded(&sink.name), uploaded);
            raise_to(&self.metrics.retries(&sink.name), sink.failures);
            let (state, reason) = match &sink.state {
                SinkState::Ok => ("ok", None),
                SinkState::Retrying { reason } => ("retrying", Some(reason.clone())),
                SinkState::Parked { reason } => ("parked", Some(reason.clone())),
            };
            self.status.upload.sinks.push(SinkStatus {
                name: sink.name.clone(),
                state: state.to_owned(),
                reason,
                records: uploaded,
                last_success_age_s: sink.last_success.and_then(age).map(seconds),
                entries_behind: match pending {
                    Some(_) => None,
                    None => Some(self.status.store.applied.saturating_sub(sink.done.index)),
                },
                books: books_status(&books, committed_numbers),
            });
        }
        self.metrics
            .backlog_records
            .set(i64::try_from(backlog.saturating_add(self.waiting)).unwrap_or(i64::MAX));
    }

    /// What is left of sinks that are not configured: they are in no books that are shown, and share one bound with the others.
    fn refresh_letters(&mut self, store: &Store) {
        let (count, bytes) = store.dead_letter_room();
        self.metrics.tell_letter_bytes(bytes);
        let upload = &mut self.status.upload;
        upload.dead_letters = LettersStatus {
            count,
            count_max: LETTERS_MAX,
            bytes,
            bytes_max: LETTERS_BYTES_MAX,
        };
        let remains = store.remains();
        for RemovedSink { name, .. } in &upload.removed {
            if !remains.contains_key(name) {
                self.metrics.tell_letters(name, 0);
            }
        }
        for (name, of) in &remains {
            self.metrics.tell_letters(name, of.letters);
        }
        let removed = remains.into_iter().map(|(name, of)| RemovedSink {
            name,
            dead_letters: of.letters,
            has_records: of.has_records,
            records: of.records,
        });
        upload.removed = removed.collect();
    }
}

fn books_status(books: &SinkBooks, committed: u64) -> BooksStatus {
    let counts = &books.counts;
    BooksStatus {
        accepted: books.accepted(committed),
        uploaded: counts.records,
        notes: counts.notes,
        lost: counts.lost,
        requests: counts.requests,
        dropped: counts.dropped.clone(),
        dead: books.dead,
        pending: books.pending(committed),
        dead_letters: books.letters_now,
        replayed: books.replayed,
    }
}

/// Sentences about sinks that wait for somebody to repair something since `before`.
fn parked(before: &upload::UploadStatus, now: &upload::UploadStatus) -> Vec<String> {
    let was_parked = |name: &str| {
        let sink = before.sinks.iter().find(|sink| sink.name == name);
        sink.is_some_and(|sink| matches!(sink.state, SinkState::Parked { .. }))
    };
    let told = now.sinks.iter().filter_map(|sink| match &sink.state {
        SinkState::Parked { reason } if !was_parked(&sink.name) => Some(format!(
            "uploads to {} stand still, nothing is lost: {reason}",
            sink.name
        )),
        _ => None,
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sink that gets parked is told of once, and again only after it worked.
    #[test]
    fn a_parked_sink_is_told_of_once() {
        let with = |state| upload::UploadStatus {
            sinks: vec![upload::SinkStatus {
                name: "http".into(),
                state,
                ..Default::default()
            }],
            ..Default::default()
        };
        let stuck = with(SinkState::Parked {
            reason: "401".into(),
        });
        let well = with(SinkState::Ok);
        assert_eq!(
            parked(&well, &stuck),
            ["uploads to http stand still, nothing is lost: 401"]
        );
        assert!(parked(&stuck, &stuck).is_empty());
        assert!(parked(&stuck, &well).is_empty());
    }
}
