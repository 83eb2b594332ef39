//! Lists what a slab's frames ask of the store: operations, which go along with the slab, and queries, which are
//! answered at once.

use std::collections::HashMap;

use sidekick_ipc::frame::{
    FLAG_CONTINUED, FLAG_MORE, FRAME_HEADER_BYTES, FrameHeader, FrameKind, Gap,
};
use sidekick_ipc::tree::codec::REQUEST_PAYLOAD_BYTES_MAX;
use sidekick_ipc::tree::{CheckpointKind, StoreQuery, WordsError, decode_request, peek_checkpoint};

use crate::books::Refused;
use crate::slab::OpAt;

/// A question of the game.
#[derive(Debug)]
pub(super) struct Asked {
    /// Its number.
    pub(super) number: u64,
    /// The last operation before it; it is answered once that one is applied. 0 = none.
    pub(super) after_op: u64,
    /// What is asked.
    pub(super) query: Result<StoreQuery, WordsError>,
}

/// What was found in the frames of one slab.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// The operations, in their order, less those that a later one makes needless.
    pub(super) ops: Vec<OpAt>,
    /// The queries, in their order.
    pub(super) queries: Vec<Asked>,
    /// Records that the engine refused, as gaps among the frames tell.
    pub(super) refused: Refused,
    /// There is something besides queries.
    pub(super) has_more_than_queries: bool,
    /// Frames that are no records but requests, or parts of them, and were not read before.
    pub(super) new_frames: u64,
}

struct Open {
    kind: FrameKind,
    next_seq: u64,
    bytes: usize,
    fragments: Vec<(u32, u32)>,
}

/// Goes through `frames`, whole frames whose checksums were looked at. `last_op` is the last operation of the session
/// before them and moves on; numbers up to `seen` were read before.
///
/// A request that is damaged (a part is missing, another frame stands amid it, it is larger than any may be) is left
/// out: whoever wrote it is no library of ours.
pub(super) fn list(frames: &[u8], last_op: &mut u64, seen: u64) -> Listed {
    let mut listed = Listed::default();
    let mut open: Option<Open> = None;
    let mut at = 0_usize;
    while let Some(header) = header(frames, at) {
        let begins = at.saturating_add(FRAME_HEADER_BYTES);
        at = at.saturating_add(header.frame_bytes());
        let begun = open.take();
        let kind = match FrameKind::from_u16(header.kind) {
            Some(kind @ (FrameKind::Op | FrameKind::Query)) => kind,
            other => {
                if other == Some(FrameKind::Gap)
                    && let Some(gap) = read_gap(frames, begins, &header)
                {
                    listed.refused.note(&gap);
                }
                listed.has_more_than_queries = true;
                continue;
            }
        };
        listed.has_more_than_queries |= kind == FrameKind::Op;
        listed.new_frames += u64::from(header.seq > seen);
        let fresh = Open {
            kind,
            next_seq: header.seq,
            bytes: 0,
            fragments: Vec::new(),
        };
        let request = match begun {
            _ if header.flags & FLAG_CONTINUED == 0 => Some(fresh),
            Some(begun) if begun.kind == kind && begun.next_seq == header.seq => Some(begun),
            _ => None,
        };
        let Some(mut request) = request else {
            continue;
        };
        let (Ok(offset), bytes) = (u32::try_from(begins), header.len as usize) else {
            continue;
        };
        request.bytes = request.bytes.saturating_add(bytes);
        if request.bytes > REQUEST_PAYLOAD_BYTES_MAX {
            continue;
        }
        request.fragments.push((offset, header.len));
        request.next_seq = header.seq.saturating_add(1);
        if header.flags & FLAG_MORE != 0 {
            open = Some(request);
        } else if kind == FrameKind::Op {
            *last_op = header.seq;
            listed.ops.push(OpAt {
                last_seq: header.seq,
                fragments: request.fragments,
            });
        } else {
            listed.queries.push(Asked {
                number: header.seq,
                after_op: *last_op,
                query: read_query(frames, &request.fragments),
            });
        }
    }
    coalesce(frames, &mut listed.ops);
    listed
}

fn read_gap(frames: &[u8], begins: usize, header: &FrameHeader) -> Option<Gap> {
    let end = begins.saturating_add(header.len as usize);
    Gap::parse(frames.get(begins..end)?).ok()
}

/// The header of the frame at `at`, if a whole one lies there.
pub(super) fn header(frames: &[u8], at: usize) -> Option<FrameHeader> {
    let bytes = frames.get(at..)?.first_chunk::<FRAME_HEADER_BYTES>()?;
    let mut words = [0; 4];
    let (chunks, _) = bytes.as_chunks::<8>();
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u64::from_le_bytes(*chunk);
    }
    let header = FrameHeader::from_words(words)?;
    let end = at.checked_add(header.frame_bytes())?;
    (end <= frames.len()).then_some(header)
}

fn part(frames: &[u8], (offset, len): (u32, u32)) -> &[u8] {
    let offset = offset as usize;
    frames
        .get(offset..offset.saturating_add(len as usize))
        .unwrap_or_default()
}

fn read_query(frames: &[u8], fragments: &[(u32, u32)]) -> Result<StoreQuery, WordsError> {
    let bytes: Vec<u8> = match fragments {
        [one] => return decode(part(frames, *one)),
        many => many
            .iter()
            .flat_map(|at| part(frames, *at))
            .copied()
            .collect(),
    };
    decode(&bytes)
}

fn decode(bytes: &[u8]) -> Result<StoreQuery, WordsError> {
    let query = match decode_request::<StoreQuery>(bytes) {
        Some((_, query)) => query?,
        None => {
            return Err(WordsError::Malformed {
                what: "store query",
                cause: format!("it has {} bytes", bytes.len()),
            });
        }
    };
    match query.check() {
        Ok(()) => Ok(query),
        Err(invalid) => Err(WordsError::Malformed {
            what: "store query",
            cause: invalid.to_string(),
        }),
    }
}

/// Leaves out full checkpoints that a later full one of the same key makes needless (CORRECTNESS rule 21). One with a
/// delta on it stays, and so does one that was loaded meanwhile: the delta would have lost its base.
fn coalesce(frames: &[u8], ops: &mut Vec<OpAt>) {
    if ops.len() < 2 {
        return;
    }
    let mut needless = Vec::new();
    // By key: the last full checkpoint that nothing has referred to.
    let mut last: HashMap<&str, u64> = HashMap::new();
    for op in &*ops {
        let Some(first) = op.fragments.first() else {
            continue;
        };
        match peek_checkpoint(part(frames, *first)) {
            Some((key, Some(CheckpointKind::Full))) => {
                needless.extend(last.insert(key, op.last_seq));
            }
            Some((key, _)) => {
                last.remove(key);
            }
            None => {}
        }
    }
    ops.retain(|op| !needless.contains(&op.last_seq));
}
