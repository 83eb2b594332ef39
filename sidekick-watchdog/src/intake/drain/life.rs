//! A session's stations: opened, gone on with in its next ring file, ended.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use sidekick_ipc::attach::{Attachment, ReaderCheckpoint};
use sidekick_ipc::name::RingFileName;
use tracing::{error, warn};

use super::super::{CommitError, SessionEnding, SessionOpening, SessionResume};
use super::{Drain, Outcome};
use crate::books::Refused;
use crate::slab::{RingCheckpoint, Slab, SlabHead};

/// What became of going on to a session's next ring file.
#[derive(PartialEq, Eq)]
pub(super) enum Rotation {
    /// There is none.
    Last,
    /// It is being read now.
    Next,
    /// There is one, or nobody knows, but it cannot be read now.
    Later,
}

impl Drain {
    /// Opens the session and waits until that is committed.
    pub(super) fn open(&mut self) -> Result<SessionResume, CommitError> {
        let info = self.attachment.info();
        let opening = SessionOpening {
            epoch: info.epoch,
            incarnation: info.launch,
            started_realtime_ns: i64::try_from(info.realtime_base_ns).unwrap_or(i64::MAX),
            game_version: info.game_version.clone(),
        };
        loop {
            match self.committer.open(&opening) {
                Err(CommitError::Later { reason }) => self.put_off(reason)?,
                opened => {
                    self.set_waits(None);
                    return opened;
                }
            }
        }
    }

    /// Asks where the session stands in the committed state and puts the reader there.
    pub(super) fn resume(&mut self) -> Result<SessionResume, CommitError> {
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        let resume = self.open()?;
        self.source.clone_from(&resume.source);
        self.answers.set_source(&resume.source);
        self.answers.applied();
        while self.attachment.info().rotation < resume.checkpoint.rotation
            && self.next_rotation() == Rotation::Next
        {}
        self.acked_seq = self.acked_seq.max(self.attachment.acked_seq());
        if self.acked_seq >= resume.next_seq {
            warn!(
                epoch = %self.progress.epoch,
                acknowledged = self.acked_seq,
                next = resume.next_seq,
                "the log is older than what was acknowledged (restored from a copy, or a disk that lost writes); \
                 what the ring no longer holds is lost"
            );
        }
        self.settled = (resume.next_seq, reader_checkpoint(&resume.checkpoint));
        self.rewind();
        let committed = resume.next_seq - 1;
        if self.progress.recorded.load(Ordering::Relaxed) == 0 {
            (self.progress.read_before).store(committed, Ordering::Relaxed);
        }
        (self.progress.recorded).fetch_max(committed, Ordering::Relaxed);
        (self.progress.committed).store(committed, Ordering::Release);
        Ok(resume)
    }

    /// Puts the reader where everything before is acknowledged. The store cuts off what it has seen after all.
    pub(super) fn rewind(&mut self) {
        self.held = None;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        let (next_seq, checkpoint) = self.settled;
        self.attachment.resume(next_seq, checkpoint);
        self.next_seq = next_seq;
    }

    /// Goes on to the session's next ring file if there is one: the engine made it because this one is damaged. All
    /// that this one held is committed by now, so it is removed.
    pub(super) fn next_rotation(&mut self) -> Rotation {
        let info = self.attachment.info();
        let (launch, epoch, rotation) = (info.launch, info.epoch, info.rotation + 1);
        let is_next = |file: &RingFileName| {
            file.launch == launch && file.epoch == epoch && file.rotation == rotation
        };
        let files = match sidekick_ipc::name::scan(&self.config.runtime_dir) {
            Ok(files) => files,
            Err(error) => {
                self.complain(&error, "the runtime directory cannot be read");
                return Rotation::Later;
            }
        };
        let Some(file) = files.iter().find(|file| is_next(file)) else {
            // The engine says that it went on to a file that is no longer there.
            self.tail_known &= !self.attachment.heartbeat().rotated;
            return Rotation::Last;
        };
        match Attachment::open(file) {
            Ok(attachment) => {
                let drained = std::mem::replace(&mut self.attachment, attachment);
                self.bell.set_ring(self.attachment.waker());
                self.answers.begin_anew();
                self.told_checkpoints = false;
                if let Err(error) = drained.finish() {
                    warn!(%error, "a drained ring could not be removed; the next start will");
                }
                self.complained = false;
                self.tell_attached();
                Rotation::Next
            }
            Err(error) => {
                self.complain(&error, "the session's next ring cannot be opened");
                Rotation::Later
            }
        }
    }

    /// Tells of what cannot be read, once.
    fn complain(&mut self, error: &dyn std::error::Error, what: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            error!(%error, epoch = %self.progress.epoch, "{what}; trying again");
        }
    }

    pub(super) fn end(mut self) -> Result<Outcome, CommitError> {
        let tail_known =
            self.tail_known && self.next_seq > self.acked_seq && !self.attachment.is_tail_unknown();
        let untold = self.attachment.untold_refusals();
        let (next_seq, checkpoint) = self.settled;
        let head = SlabHead {
            realtime_offset_ns: self.realtime_offset_ns(),
            ..self.head(next_seq, 0, checkpoint)
        };
        let ending = SessionEnding {
            epoch: self.attachment.info().epoch,
            tail_known,
            clean_exit: self.attachment.heartbeat().clean_exit,
            last: Slab::closing(head, &untold, !tail_known, SystemTime::now()),
        };
        loop {
            match self.committer.end(&ending) {
                Err(CommitError::Later { reason }) => self.put_off(reason)?,
                ended => break ended?,
            }
        }
        self.set_waits(None);
        let refused = untold
            .iter()
            .fold(0, |sum: u64, gap| sum.saturating_add(gap.count));
        self.progress
            .refused_untold
            .store(refused, Ordering::Relaxed);
        let mut by_cause = Refused::default();
        untold.iter().for_each(|gap| by_cause.note(gap));
        self.count_refused(&by_cause);
        if refused > 0 {
            warn!(epoch = %self.progress.epoch, count = refused, "the engine died before it told of records that it refused; a gap is uploaded for them");
        }
        if let Some(last) = &ending.last {
            let last_seq = last.head.next_seq().saturating_sub(1);
            self.progress.committed.store(last_seq, Ordering::Release);
            self.progress
                .recorded
                .fetch_max(last_seq, Ordering::Relaxed);
        }
        if !tail_known {
            self.progress.tail_unknown.store(true, Ordering::Relaxed);
            self.progress.holes.fetch_add(1, Ordering::Relaxed);
        }
        Ok(self.remove_files())
    }

    /// The engine's clock; its first word of it when its last one is lost with the ring.
    fn realtime_offset_ns(&self) -> i64 {
        let info = self.attachment.info();
        match self.attachment.realtime_offset_ns() {
            0 => i64::try_from(
                i128::from(info.realtime_base_ns) - i128::from(info.monotonic_base_ns),
            )
            .unwrap_or(0),
            offset => offset,
        }
    }

    pub(super) fn remove_files(self) -> Outcome {
        if let Err(error) = self.attachment.finish() {
            warn!(%error, "a drained ring could not be removed; the next start will");
        }
        Outcome::Ended
    }
}

fn reader_checkpoint(from: &RingCheckpoint) -> ReaderCheckpoint {
    ReaderCheckpoint {
        rotation: from.rotation,
        ring_position: from.ring_position,
        spill_file: from.spill_file,
        spill_offset: from.spill_offset,
    }
}
