//! Makes frames, and checks what was copied out of shared memory.

use crc32fast::Hasher;
use uuid::Uuid;

use super::{FRAME_HEADER_BYTES, FrameError, FrameHeader, RECORD_BYTES_MAX, frame_bytes};

/// The crc's start value in the session `epoch`. A frame of another session never passes.
pub fn crc_seed(epoch: &Uuid) -> u32 {
    crc32fast::hash(epoch.as_bytes())
}

/// Fills in the header of `frame`, whose payload of `payload_bytes` stands from byte 32 on, and returns the crc.
///
/// `frame` ends with the payload or its padding; shorter ones are left alone.
pub fn seal(
    frame: &mut [u8],
    seed: u32,
    kind: u16,
    payload_bytes: usize,
    seq: u64,
    monotonic_ns: u64,
) -> u32 {
    let header = FrameHeader {
        kind,
        len: payload_bytes as u32,
        seq,
        monotonic_ns,
        flags: 0,
        crc: 0,
    };
    let Some(covered) = frame.get_mut(..FRAME_HEADER_BYTES.saturating_add(payload_bytes)) else {
        return 0;
    };
    if let Some(head) = covered.first_chunk_mut::<FRAME_HEADER_BYTES>() {
        *head = header.to_bytes();
    }
    let crc = crc_of(seed, covered);
    if let Some(field) = covered.get_mut(24..28) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
    crc
}

/// The header of a frame whose payload lies elsewhere.
pub(crate) fn sealed_header(
    seed: u32,
    kind: u16,
    flags: u32,
    payload: &[u8],
    seq: u64,
    monotonic_ns: u64,
) -> [u8; FRAME_HEADER_BYTES] {
    let header = FrameHeader {
        kind,
        len: payload.len() as u32,
        seq,
        monotonic_ns,
        flags,
        crc: 0,
    };
    let crc = crc_apart(seed, header, payload);
    FrameHeader { crc, ..header }.to_bytes()
}

/// Checks a frame that was copied out of shared memory. Sets its padding to zero.
pub(crate) fn verify_copy(frame: &mut [u8], seed: u32) -> Result<FrameHeader, FrameError> {
    let header = match frame.first_chunk::<FRAME_HEADER_BYTES>() {
        Some(head) => FrameHeader::from_bytes(head).ok_or(FrameError::Magic)?,
        None => {
            return Err(FrameError::Short {
                bytes: frame.len(),
                need: FRAME_HEADER_BYTES,
            });
        }
    };
    let end = FRAME_HEADER_BYTES.saturating_add(header.len as usize);
    if frame.len() < end {
        return Err(FrameError::Short {
            bytes: frame.len(),
            need: end,
        });
    }
    let (covered, padding) = frame.split_at_mut(end);
    padding.fill(0);
    if let Some(field) = covered.get_mut(24..28) {
        field.fill(0);
    }
    let crc = crc_of(seed, covered);
    if let Some(field) = covered.get_mut(24..28) {
        field.copy_from_slice(&header.crc.to_le_bytes());
    }
    if crc != header.crc {
        return Err(FrameError::Crc {
            seq: header.seq,
            found: header.crc,
            computed: crc,
        });
    }
    Ok(header)
}

#[inline]
fn crc_of(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// The crc of a frame whose payload lies elsewhere; the header's own is taken as zero.
#[inline]
pub(super) fn crc_apart(seed: u32, header: FrameHeader, payload: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(&FrameHeader { crc: 0, ..header }.to_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// Appends one frame of session `epoch` to `out`. `payload` is at most [`RECORD_BYTES_MAX`] bytes; a longer one is
/// cut off there.
pub fn append_frame(
    out: &mut Vec<u8>,
    epoch: &Uuid,
    kind: u16,
    seq: u64,
    monotonic_ns: u64,
    payload: &[u8],
) {
    append_flagged_frame(out, crc_seed(epoch), kind, 0, seq, monotonic_ns, payload);
}

/// [`append_frame`] with flags, in the session whose crc begins with `seed`.
pub(crate) fn append_flagged_frame(
    out: &mut Vec<u8>,
    seed: u32,
    kind: u16,
    flags: u32,
    seq: u64,
    monotonic_ns: u64,
    payload: &[u8],
) {
    let payload = payload.get(..RECORD_BYTES_MAX).unwrap_or(payload);
    let start = out.len();
    let header = sealed_header(seed, kind, flags, payload, seq, monotonic_ns);
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    out.resize(start.saturating_add(frame_bytes(payload.len())), 0);
}
