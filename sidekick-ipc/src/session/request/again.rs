//! Questions that are asked again: the watchdog is another one, or an answer may have been lost.

use std::sync::atomic::Ordering::Relaxed;

use super::Requests;
use crate::frame::FrameKind;
use crate::session::{RefusedCause, Session, lock};
use crate::tree::StoreQuery;

impl Session {
    /// The answers to what was asked may have been lost with a file.
    pub(in crate::session) fn ask_again_later(&self) {
        self.asked_generation.store(0, Relaxed);
        self.is_break.store(true, Relaxed);
    }

    /// Puts the open questions to a watchdog that has not heard them.
    #[inline]
    pub(in crate::session) fn ask_again_if_new(&self, generation: u64) {
        if generation != 0 && generation != self.asked_generation.load(Relaxed) {
            self.ask_again(generation);
        }
    }

    #[cold]
    fn ask_again(&self, generation: u64) {
        let mut requests = lock(&self.requests);
        let before = self.asked_generation.swap(generation, Relaxed);
        if before == generation {
            return;
        }
        // The first watchdog finds what was asked in the ring.
        let is_break = self.is_break.load(Relaxed);
        if before == 0 && !is_break {
            return;
        }
        if self.ask_all(&mut requests).is_ok() {
            self.is_break.store(false, Relaxed);
        } else {
            // No room just now: the next frame tries again.
            self.asked_generation.store(0, Relaxed);
            self.is_break.store(true, Relaxed);
        }
    }

    fn ask_all(&self, requests: &mut Requests) -> Result<(), RefusedCause> {
        requests.unpacker.clear();
        let mut questions = std::mem::take(&mut requests.questions);
        let mut watches = std::mem::take(&mut requests.watches);
        let mut result = Ok(());
        for (number, question) in &mut questions {
            let sent = self.send_words(requests, FrameKind::Query, &question.query);
            match sent {
                Ok(asked) => {
                    question.asked.push(asked);
                    requests.again.insert(asked, *number);
                }
                Err(cause) => result = Err(cause),
            }
        }
        for (number, watch) in &mut watches {
            if let (Some(from), Some(last)) = (from_revision(&mut watch.query), watch.asked.last())
            {
                *from = watch.revision.or(*from);
                // It may be the same watchdog, after a rotation.
                let ended = StoreQuery::Unwatch { watch: *last };
                let _ = self.send_words(requests, FrameKind::Query, &ended);
            }
            let sent = self.send_words(requests, FrameKind::Query, &watch.query);
            match sent {
                Ok(asked) => {
                    watch.asked.push(asked);
                    requests.again.insert(asked, *number);
                }
                Err(cause) => result = Err(cause),
            }
        }
        requests.questions = questions;
        requests.watches = watches;
        result
    }
}

fn from_revision(query: &mut StoreQuery) -> Option<&mut Option<u64>> {
    match query {
        StoreQuery::Watch { from_revision, .. } => Some(from_revision),
        _ => None,
    }
}
