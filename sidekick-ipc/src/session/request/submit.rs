//! The frames of a request: into the ring together, or into a spill file.

use serde::Serialize;

use super::Requests;
use crate::frame::{FRAGMENT_BYTES, FrameKind, append_flagged_frame, frame_bytes, sealed_header};
use crate::request::{fragments, request_frames_bytes};
use crate::session::{RefusedCause, Session, State, WhenFull, lock};
use crate::sys;
use crate::tree::WordsError;
use crate::tree::codec::{REQUEST_PAYLOAD_BYTES_MAX, encode_request_into};

impl Session {
    /// Encodes and sends. The requests are locked meanwhile, so that no answer is looked up before its request is noted.
    pub(super) fn send_words(
        &self,
        requests: &mut Requests,
        kind: FrameKind,
        words: &impl Serialize,
    ) -> Result<u64, RefusedCause> {
        let acked = requests.acked();
        let mut scratch = std::mem::take(&mut requests.scratch);
        scratch.clear();
        let sent = encode_request_into(acked, words, &mut scratch)
            .map_err(|error| match error {
                WordsError::TooLarge { bytes, max, .. } => {
                    RefusedCause::RequestTooLarge { bytes, max }
                }
                WordsError::Malformed { .. } => RefusedCause::RequestTooLarge {
                    bytes: usize::MAX,
                    max: REQUEST_PAYLOAD_BYTES_MAX,
                },
            })
            .and_then(|()| self.submit_request(kind, &scratch, FRAGMENT_BYTES));
        requests.scratch = scratch;
        sent
    }

    /// Stores the frames of one request: all of them or none.
    ///
    /// Public for tests, which cut into smaller fragments than a request needs.
    ///
    /// # Errors
    /// [`RefusedCause`]: nothing was stored.
    #[doc(hidden)]
    pub fn submit_request(
        &self,
        kind: FrameKind,
        request: &[u8],
        fragment_bytes: usize,
    ) -> Result<u64, RefusedCause> {
        let now_ns = sys::monotonic_ns();
        if request.len() > REQUEST_PAYLOAD_BYTES_MAX {
            return Err(RefusedCause::RequestTooLarge {
                bytes: request.len(),
                max: REQUEST_PAYLOAD_BYTES_MAX,
            });
        }
        let bytes = request_frames_bytes(request.len(), fragment_bytes);
        let mut state = lock(&self.state);
        let state = &mut *state;
        if state.closed {
            return Err(RefusedCause::Closed);
        }
        if self.is_fenced_in(state.producer.region()) {
            return Err(RefusedCause::Fenced);
        }
        if self.is_standby_in(state.producer.region()) {
            return Err(RefusedCause::Standby);
        }
        if bytes > self.ring_bytes && self.options.when_full != WhenFull::Spill {
            return Err(RefusedCause::TooLargeForRing {
                bytes,
                ring_bytes: self.ring_bytes,
            });
        }
        self.make_room(state, bytes, true)?;
        let first_seq = state.last_seq.wrapping_add(1);
        let mut seq = state.last_seq;
        let in_ring = state.producer.publish_together(
            bytes,
            fragments(request, fragment_bytes).map(|(flags, payload)| {
                seq = seq.wrapping_add(1);
                let header = sealed_header(self.seed, kind as u16, flags, payload, seq, now_ns);
                (header, payload)
            }),
        );
        if in_ring.is_err() {
            if self.options.when_full != WhenFull::Spill {
                return Err(RefusedCause::Full);
            }
            seq = self.spill_request(state, kind, request, fragment_bytes, first_seq, now_ns)?;
        }
        self.count(state, seq);
        self.kick_if_filling(state);
        Ok(seq)
    }

    #[cold]
    fn spill_request(
        &self,
        state: &mut State,
        kind: FrameKind,
        request: &[u8],
        fragment_bytes: usize,
        first_seq: u64,
        now_ns: u64,
    ) -> Result<u64, RefusedCause> {
        let mut frames = Vec::with_capacity(request_frames_bytes(request.len(), fragment_bytes));
        let (mut seq, mut first_bytes) = (first_seq, 0);
        for (index, (flags, payload)) in fragments(request, fragment_bytes).enumerate() {
            seq = first_seq.wrapping_add(index as u64);
            if index == 0 {
                first_bytes = frame_bytes(payload.len());
            }
            append_flagged_frame(
                &mut frames,
                self.seed,
                kind as u16,
                flags,
                seq,
                now_ns,
                payload,
            );
        }
        self.spill(state, &frames, first_bytes, seq)?;
        Ok(seq)
    }
}
