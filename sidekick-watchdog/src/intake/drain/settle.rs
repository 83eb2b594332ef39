//! What is on its way to the disk: how much of it there may be, and what its becoming durable (or not) leads to.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use sidekick_ipc::attach::ReaderCheckpoint;
use tracing::{info, warn};

use super::super::{CommitError, PendingAppend};
use super::{Drain, REFUSED_PAUSE};
use crate::books::Refused;

/// Slabs that may be on their way to the disk at once, so that small ones, too, are put together: in the ring, where
/// they take no memory. Their bytes have a bound of their own ([`IntakeConfig::in_flight_bytes_max`]).
const IN_FLIGHT_MAX: usize = 16;

/// A slab on its way, and where the reader stands once it is durable.
pub(super) struct InFlight {
    pub(super) pending: PendingAppend,
    pub(super) last_seq: u64,
    /// There are operations in it.
    pub(super) has_ops: bool,
    pub(super) checkpoint: ReaderCheckpoint,
    /// Numbers in it that are holes.
    pub(super) lost: u64,
    /// What its gaps tell.
    pub(super) refused: Refused,
    /// Bytes of its frames.
    pub(super) bytes: usize,
}

impl Drain {
    /// Counts what committed gaps tell.
    pub(super) fn count_refused(&self, refused: &Refused) {
        if !refused.is_empty() {
            self.progress.count_refused(refused);
            self.committer.refused(refused);
        }
    }

    /// Waits until one more slab may be sent.
    pub(super) fn settle_for_one(&mut self) -> Result<(), CommitError> {
        let bytes = self.config.slab_bytes_max;
        self.settle(
            IN_FLIGHT_MAX - 1,
            self.config.in_flight_bytes_max.saturating_sub(bytes),
        )
    }

    /// Sends what is held back, and waits until nothing is in flight.
    pub(super) fn settle_all(&mut self) -> Result<(), CommitError> {
        self.send_held();
        self.settle(0, 0)
    }

    /// Waits until at most so many slabs and bytes are in flight, acknowledging each slab as it becomes durable.
    fn settle(&mut self, slabs: usize, bytes: usize) -> Result<(), CommitError> {
        while self.in_flight.len() > slabs || self.in_flight_bytes > bytes {
            if !self.settle_first()? {
                // The bell rings when it is there.
                std::thread::park();
            }
        }
        Ok(())
    }

    /// Acknowledges the slabs that have become durable. The bell rings for the next one.
    pub(super) fn settle_ready(&mut self) -> Result<(), CommitError> {
        while !self.in_flight.is_empty() {
            if !self.settle_first()? {
                break;
            }
        }
        Ok(())
    }

    /// Acknowledges the slab that was sent first if it has become durable. False if it has not.
    fn settle_first(&mut self) -> Result<bool, CommitError> {
        let Some(first) = self.in_flight.front_mut() else {
            return Ok(true);
        };
        let waker = Arc::clone(&self.bell).into();
        let Poll::Ready(settled) = first
            .pending
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
        else {
            return Ok(false);
        };
        let Some(first) = self.in_flight.pop_front() else {
            return Ok(true);
        };
        self.in_flight_bytes -= first.bytes;
        match settled {
            Ok(()) => {
                // First the number, then the space: `ack` may not lag behind what was given back.
                self.attachment.release(first.last_seq, &first.checkpoint);
                self.progress
                    .committed
                    .store(first.last_seq, Ordering::Release);
                self.settled = (first.last_seq.saturating_add(1), first.checkpoint);
                if first.has_ops {
                    self.answers.applied();
                    self.tell_checkpoints();
                }
                if first.lost > 0 {
                    self.progress.holes.fetch_add(first.lost, Ordering::Relaxed);
                    warn!(epoch = %self.progress.epoch, count = first.lost, "records are lost; a gap is uploaded in their place");
                }
                self.count_refused(&first.refused);
                if std::mem::take(&mut self.refusals) > 0 {
                    self.set_waits(None);
                    info!(epoch = %self.progress.epoch, "records are taken again");
                }
            }
            Err(CommitError::Hole { expected }) => {
                info!(
                    expected,
                    sent = first.last_seq,
                    "a slab was lost on the way; reading it again"
                );
                self.resume()?;
            }
            Err(CommitError::Later { reason }) => {
                self.put_off(reason)?;
                // Nothing is asked of the store: each question would be one more entry in a log that is full.
                self.rewind();
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Waits a moment after the store had no room; when the watchdog stops, gives up instead.
    pub(super) fn put_off(&mut self, reason: String) -> Result<(), CommitError> {
        if self.stop.load(Ordering::Acquire) {
            return Err(CommitError::Later { reason });
        }
        // Once, and then about once a minute: the ring holds what is not taken.
        self.set_waits(Some(reason.clone()));
        if self.refusals.is_multiple_of(240) {
            warn!(epoch = %self.progress.epoch, %reason, "records wait in the ring");
        }
        self.refusals = self.refusals.wrapping_add(1);
        // Not the ring's own sleep: that ends at once as long as there is something to read. And a bell that rang for
        // something else is no reason to ask again.
        let since = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            let left = REFUSED_PAUSE.saturating_sub(since.elapsed());
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
        Ok(())
    }

    pub(super) fn set_waits(&self, reason: Option<String>) {
        *self
            .progress
            .waits
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = reason;
    }
}
