//! Brings committed records to the sinks: each at least once, in order per stream, under keys that never change.
//!
//! Owns: what a backend receives ([`encode`]), batches and their plans ([`plan`]), tries and pauses ([`retry`]), the
//! sinks ([`sink`]) and the lanes that drive them ([`engine`]). Does not own: where records and plans are kept. That is
//! the store's work, and this module knows it only as an [`Outbox`].
//!
//! # The way of a batch (CORRECTNESS rules 7 and 16 to 20)
//! 1. A *lane* reads committed slabs in order and encodes the records of its streams until the batch is full or old.
//! 2. The *plan* (first and last position, versions, what the sink needs) is committed. From then on the plan names the
//!    bytes: every try, also one after a restart, sends the same body under the same `Idempotency-Key`.
//! 3. The sink is tried until the batch is taken. A batch that the backend refuses for good is halved down to the bad
//!    record ([`engine`]), which becomes a *dead letter*: kept, with what was said of it, until somebody has it sent
//!    again or drops it. Nothing is dropped unasked: where only an operator can help, the lane parks and says so.
//! 4. What became of the batch is committed, in one proposal with the next plan where that one is ready, and frees the
//!    log. Watermark and books move together: every sequence number is counted once, whatever is killed when.
//!
//! Every future here may be dropped at any await point. That is a crash as far as the outbox and the sinks can tell, and
//! the tests do it at each of these points.
//!
//! # Where rules come in
//! Between [`encode::Walk`] and [`encode::RowWriter`], as a [`Shaper`] given to [`Engine::shaped_by`]. A batch is made
//! with one version of the rules, which its [`Plan::rules_version`] pins; what they drop is counted by reason, what they
//! refuse becomes a dead letter.

pub mod encode;
pub mod engine;
pub mod gate;
pub mod outbox;
pub mod pace;
pub mod plan;
pub mod retry;
pub mod shape;
pub mod sink;
pub mod status;
#[cfg(test)]
mod testing;

use std::time::Duration;

pub use engine::{Drive, Engine};
pub use outbox::{IndexedSlabs, LaneState, Outbox, OutboxError};
pub use plan::{Dead, Plan, Replay, Settled, lane_of};
pub use shape::{BY_RULES, KeepAll, Shaped, Shaper, Stored};
pub use sink::{Batch, Outcome, Sink};
pub use status::{SinkState, SinkStatus, UploadStatus};

/// How batches are cut and tried again. The app fills it from `[upload]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadSettings {
    /// Most records in a batch. Default 5000.
    pub batch_max_records: usize,
    /// Most bytes of NDJSON in a batch, before compression; a longer record travels alone. Default 1 MiB.
    pub batch_max_bytes: usize,
    /// How long a batch that is not full waits for more. Default 1 s.
    pub batch_max_age: Duration,
    /// Upper bound of the first pause after a failed try; it doubles from there. Default 250 ms.
    pub retry_first: Duration,
    /// Upper bound of every pause, and the pause of a parked lane. Default 60 s.
    pub retry_max: Duration,
}

impl Default for UploadSettings {
    fn default() -> Self {
        Self {
            batch_max_records: 5000,
            batch_max_bytes: 1 << 20,
            batch_max_age: Duration::from_secs(1),
            retry_first: Duration::from_millis(250),
            retry_max: Duration::from_secs(60),
        }
    }
}
