//! Requests to the store as they ride in the uplink, beside the records and in order with them.
//!
//! A request is a [`FrameKind::Op`] or a [`FrameKind::Query`], its bytes those of [`crate::tree::encode_request`]. One that is
//! larger than a frame goes on in the next ([`FLAG_MORE`], [`FLAG_CONTINUED`]); all its frames become visible with one
//! store (CORRECTNESS rule 21). **Its number is the sequence number of its last frame.**

use std::fmt;

use crate::frame::{FLAG_CONTINUED, FLAG_MORE, FRAGMENT_BYTES, FrameKind, FrameView, frame_bytes};
use crate::frame::{append_flagged_frame, crc_seed};
use crate::tree::codec::REQUEST_PAYLOAD_BYTES_MAX;

/// Bytes of the frames that a request of `bytes` bytes takes, headers and padding included.
pub fn request_frames_bytes(bytes: usize, fragment_bytes: usize) -> usize {
    let whole = bytes
        .saturating_sub(1)
        .checked_div(fragment_bytes)
        .unwrap_or(0);
    let last = bytes.saturating_sub(whole.saturating_mul(fragment_bytes));
    whole
        .saturating_mul(frame_bytes(fragment_bytes))
        .saturating_add(frame_bytes(last))
}

/// Cuts a request into what its frames carry: flags and payload, in order. At least one.
pub(crate) fn fragments(
    request: &[u8],
    fragment_bytes: usize,
) -> impl Iterator<Item = (u32, &[u8])> {
    let fragment_bytes = fragment_bytes.clamp(1, FRAGMENT_BYTES);
    let count = request.len().div_ceil(fragment_bytes).max(1);
    (0..count).map(move |index| {
        let start = index.saturating_mul(fragment_bytes);
        let end = start.saturating_add(fragment_bytes).min(request.len());
        let more = if index.saturating_add(1) < count {
            FLAG_MORE
        } else {
            0
        };
        let continued = if index > 0 { FLAG_CONTINUED } else { 0 };
        (
            more | continued,
            request.get(start..end).unwrap_or_default(),
        )
    })
}

/// Appends the frames of one request of session `epoch` to `out`, the first with number `first_seq`; returns the request's
/// number. For whoever makes slabs without a ring.
pub fn append_request(
    out: &mut Vec<u8>,
    epoch: &uuid::Uuid,
    kind: FrameKind,
    first_seq: u64,
    monotonic_ns: u64,
    request: &[u8],
) -> u64 {
    append_request_in(
        out,
        epoch,
        kind,
        first_seq,
        monotonic_ns,
        request,
        FRAGMENT_BYTES,
    )
}

/// As [`append_request`], with smaller fragments, for tests.
#[doc(hidden)]
pub fn append_request_in(
    out: &mut Vec<u8>,
    epoch: &uuid::Uuid,
    kind: FrameKind,
    first_seq: u64,
    monotonic_ns: u64,
    request: &[u8],
    fragment_bytes: usize,
) -> u64 {
    let seed = crc_seed(epoch);
    let mut seq = first_seq;
    for (index, (flags, payload)) in fragments(request, fragment_bytes).enumerate() {
        seq = first_seq.wrapping_add(index as u64);
        append_flagged_frame(out, seed, kind as u16, flags, seq, monotonic_ns, payload);
    }
    seq
}

/// A request put together.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestBytes {
    /// Its number.
    pub number: u64,
    /// [`FrameKind::Op`] or [`FrameKind::Query`].
    pub kind: FrameKind,
    /// To be read by [`crate::tree::decode_request`].
    pub bytes: Vec<u8>,
}

impl fmt::Debug for RequestBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBytes")
            .field("number", &self.number)
            .field("kind", &self.kind)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// Puts requests together from frames. Holds at most [`REQUEST_PAYLOAD_BYTES_MAX`] bytes, whatever comes.
#[derive(Debug, Default)]
pub struct Assembler {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    kind: FrameKind,
    next_seq: u64,
    bytes: Vec<u8>,
}

impl Assembler {
    /// Takes the next frame, of any kind. Gives a request when its last frame came.
    ///
    /// What does not follow the frame before (another kind in between, a missing number) drops the value that was begun; so
    /// does one that grows too large. A fragment without its beginning is skipped.
    pub fn push(&mut self, frame: &FrameView<'_>) -> Option<RequestBytes> {
        let header = &frame.header;
        let kind = FrameKind::from_u16(header.kind).filter(|_| FrameKind::is_request(header.kind));
        let begun = self.open.take();
        let kind = kind?;
        let mut bytes = if header.flags & FLAG_CONTINUED == 0 {
            Vec::new()
        } else {
            begun
                .filter(|open| open.kind == kind && open.next_seq == header.seq)?
                .bytes
        };
        if bytes.len().saturating_add(frame.payload.len()) > REQUEST_PAYLOAD_BYTES_MAX {
            return None;
        }
        bytes.extend_from_slice(frame.payload);
        if header.flags & FLAG_MORE == 0 {
            return Some(RequestBytes {
                number: header.seq,
                kind,
                bytes,
            });
        }
        self.open = Some(Open {
            kind,
            next_seq: header.seq.wrapping_add(1),
            bytes,
        });
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{append_frame, frames};
    use uuid::Uuid;

    fn assembled(bytes: &[u8], epoch: &Uuid) -> Vec<RequestBytes> {
        let mut assembler = Assembler::default();
        frames(bytes, epoch)
            .filter_map(|frame| assembler.push(&frame.unwrap()))
            .collect()
    }

    #[test]
    fn requests_of_any_size_come_back() {
        let epoch = Uuid::from_u128(5);
        let (mut out, mut expected, mut seq) = (Vec::new(), Vec::new(), 1);
        let sizes = [
            0,
            1,
            8,
            FRAGMENT_BYTES,
            FRAGMENT_BYTES + 1,
            3 * FRAGMENT_BYTES,
            1 << 20,
        ];
        for (index, size) in sizes.into_iter().enumerate() {
            let kind = [FrameKind::Op, FrameKind::Query][index % 2];
            let bytes: Vec<u8> = (0..size).map(|k| (k + index) as u8).collect();
            let before = out.len();
            let number = append_request(&mut out, &epoch, kind, seq, 1, &bytes);
            assert_eq!(
                out.len() - before,
                request_frames_bytes(size, FRAGMENT_BYTES)
            );
            expected.push(RequestBytes {
                number,
                kind,
                bytes,
            });
            append_frame(
                &mut out,
                &epoch,
                FrameKind::Record as u16,
                number + 1,
                1,
                &[1, b'a'],
            );
            seq = number + 2;
        }
        assert_eq!(assembled(&out, &epoch), expected);
    }

    #[test]
    fn what_lost_its_beginning_or_its_end_is_no_request() {
        let epoch = Uuid::from_u128(5);
        let mut long = Vec::new();
        let last = append_request(&mut long, &epoch, FrameKind::Op, 1, 1, &[7; 150_000]);
        assert_eq!(last, 3);
        let first_bytes = frame_bytes(FRAGMENT_BYTES);
        assert_eq!(assembled(&long[first_bytes..], &epoch), []);
        assert_eq!(assembled(&long[..2 * first_bytes], &epoch), []);
        // A number is missing amid it.
        let holey = [&long[..first_bytes], &long[2 * first_bytes..]].concat();
        assert_eq!(assembled(&holey, &epoch), []);
        // A record stands amid it; the next request is good again.
        let mut mixed = long[..first_bytes].to_vec();
        append_frame(
            &mut mixed,
            &epoch,
            FrameKind::Record as u16,
            2,
            1,
            &[1, b'a'],
        );
        mixed.extend_from_slice(&long[first_bytes..]);
        append_request(&mut mixed, &epoch, FrameKind::Op, 4, 1, b"x");
        let got = assembled(&mixed, &epoch);
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].number, &got[0].bytes[..]), (4, &b"x"[..]));
    }

    #[test]
    fn a_value_without_end_is_dropped() {
        let epoch = Uuid::from_u128(5);
        let mut out = Vec::new();
        let endless = vec![0; REQUEST_PAYLOAD_BYTES_MAX + 1];
        append_request(&mut out, &epoch, FrameKind::Op, 1, 1, &endless);
        assert_eq!(assembled(&out, &epoch), []);
    }
}
