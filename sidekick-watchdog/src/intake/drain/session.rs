//! A drain thread as the intake thread sees it: how it is started, woken and joined, and what anybody may read of it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use sidekick_ipc::attach::{Attachment, ReaderCheckpoint};
use tracing::error;

use super::super::answers::Answers;
use super::super::bell::Bell;
use super::super::{Asker, CommitError, Committer, IntakeConfig, IntakeEvent};
use super::{Drain, Outcome};
use crate::books::Refused;

/// A session's counts, for status and metrics. Written by its drain thread, read by anyone.
#[derive(Debug, Default)]
pub struct SessionProgress {
    /// The session's UUID, once known.
    pub epoch: uuid::Uuid,
    /// Last sequence number seen in ring or spill.
    pub recorded: AtomicU64,
    /// How many of these numbers are requests to the store, which go to no backend. Counted since this watchdog reads.
    pub requests: AtomicU64,
    /// The last number that another watchdog, or another plane of this one, has read; 0 where there was none.
    pub read_before: AtomicU64,
    /// Everything up to this number is durable.
    pub committed: AtomicU64,
    /// Numbers that were lost to corruption and stand as holes.
    pub holes: AtomicU64,
    /// Records that a rule left out before they were stored. Counted since this watchdog reads.
    pub dropped: AtomicU64,
    /// Records that could not be read by a rule that had to, and were not stored. Counted since this watchdog reads.
    pub unreadable: AtomicU64,
    /// Bytes copied out of the ring.
    pub bytes: AtomicU64,
    /// Nobody knows what its ring still held when it ended.
    pub tail_unknown: AtomicBool,
    /// Records that the engine refused and did not live to tell of; told at the session's end.
    pub refused_untold: AtomicU64,
    /// Records that the engine refused, as gaps tell that are committed. Counted since this watchdog reads.
    pub refused_by: Mutex<Refused>,
    /// Why the store takes no records just now; they wait in the ring.
    pub waits: Mutex<Option<String>>,
}

impl SessionProgress {
    /// What is known of why records were refused.
    pub fn refused_by(&self) -> Refused {
        *(self.refused_by.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count_refused(&self, refused: &Refused) {
        let counted = self.refused_by.lock();
        counted.unwrap_or_else(PoisonError::into_inner).add(refused);
    }
}

/// A session's turn to be opened: after those that were found before it. The store takes no session below the highest
/// launch that it knows, so opening a later one first would shut the earlier one out for good.
pub(in crate::intake) struct Turn {
    /// Closes when the one before is opened.
    before: Option<Receiver<()>>,
    /// Closes when this one is opened, or has given up.
    _opened: Sender<()>,
}

impl Turn {
    /// The next turn after `before`, and what the one after it waits for.
    pub(in crate::intake) fn after(before: Option<Receiver<()>>) -> (Self, Receiver<()>) {
        let (opened, after) = channel();
        let turn = Self {
            before,
            _opened: opened,
        };
        (turn, after)
    }

    pub(super) fn wait(&self) {
        if let Some(before) = &self.before {
            // Nothing is ever sent: it ends when the other side is gone.
            let _ = before.recv();
        }
    }
}

/// What the intake thread tells all drain threads.
pub(in crate::intake) struct Flags {
    /// The watchdog ends.
    pub(in crate::intake) stop: Arc<AtomicBool>,
    /// The launch that is the engine.
    pub(in crate::intake) active: Arc<AtomicU32>,
}

/// A drain thread and the means to wake it.
pub(in crate::intake) struct Session {
    bell: Arc<Bell>,
    epoch: uuid::Uuid,
    /// Gives back whether the session was refused for good.
    thread: JoinHandle<bool>,
}

impl Session {
    pub(in crate::intake) fn start(
        attachment: Attachment,
        launch: u32,
        config: &IntakeConfig,
        committer: Arc<dyn Committer>,
        on_event: Arc<dyn Fn(IntakeEvent) + Send + Sync>,
        flags: Flags,
        turn: Turn,
    ) -> std::io::Result<Self> {
        let bell = Bell::new(attachment.waker());
        let own_bell = Arc::clone(&bell);
        let epoch = attachment.info().epoch;
        let path = attachment.name().path.clone();
        let progress = Arc::new(SessionProgress {
            epoch: attachment.info().epoch,
            ..SessionProgress::default()
        });
        let config = config.clone();
        let thread = std::thread::Builder::new()
            .name(format!("drain-{launch}"))
            .spawn(move || {
                own_bell.belongs_to_this_thread();
                let drain = Drain {
                    attachment,
                    answers: Answers::new(Asker {
                        source: config.source.clone(),
                        epoch,
                        launch,
                    }),
                    bell: own_bell,
                    told_checkpoints: false,
                    held: None,
                    last_op: 0,
                    changed: None,
                    source: config.source.clone(),
                    config,
                    committer,
                    stop: flags.stop,
                    active: flags.active,
                    progress: Arc::clone(&progress),
                    in_flight: VecDeque::new(),
                    in_flight_bytes: 0,
                    next_seq: 1,
                    refusals: 0,
                    complained: false,
                    acked_seq: 0,
                    tail_known: true,
                    unreadable: false,
                    settled: (1, ReaderCheckpoint::default()),
                    on_event: Arc::clone(&on_event),
                };
                match drain.run(turn) {
                    Ok(Outcome::Ended) => on_event(IntakeEvent::Ended { launch, progress }),
                    Ok(Outcome::Stopped) => {}
                    Err(error @ (CommitError::Closed | CommitError::Later { .. })) => {
                        let reason = error.to_string();
                        on_event(IntakeEvent::Left { launch, reason });
                    }
                    Err(error) => {
                        let reason = error.to_string();
                        on_event(IntakeEvent::ShutOut {
                            launch,
                            path,
                            reason,
                        });
                        return true;
                    }
                }
                false
            })?;
        Ok(Self {
            bell,
            epoch,
            thread,
        })
    }

    pub(in crate::intake) fn epoch(&self) -> uuid::Uuid {
        self.epoch
    }

    pub(in crate::intake) fn wake(&self) {
        self.bell.ring();
    }

    pub(in crate::intake) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end. True when the store refused the session: trying again would change nothing.
    pub(in crate::intake) fn join(self) -> bool {
        self.thread.join().unwrap_or_else(|_| {
            error!("a drain thread panicked; its ring keeps what is in it");
            false
        })
    }
}
