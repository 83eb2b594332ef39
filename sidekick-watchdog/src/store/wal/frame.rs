//! One frame of the log: a fixed head, the payload, and a crc over both.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | payload length |
//! | 4 | 4 | crc32 over the segment's salt, the head from byte 8 and the payload |
//! | 8 | 4 | crc of the frame before it in this segment (0 for the first) |
//! | 12 | 1 | kind |
//! | 13 | 1 | flags: 1 = the first frame of a batch |
//! | 14 | 2 | zero |
//! | 16 | 8 | term |
//! | 24 | 8 | node |
//! | 32 | 8 | index |
//!
//! Frames are padded with zeros to 8 bytes. All numbers are little-endian. The salt in the crc makes the frames
//! of a recycled file's earlier life invalid; the previous frame's crc makes the remains of a torn batch invalid.

/// Bytes before the payload.
pub(crate) const FRAME_HEAD_BYTES: usize = 40;
/// The first frame of a batch: everything before it was fsynced when it was written.
pub(crate) const FLAG_BATCH_START: u8 = 1;
/// A payload's largest length; more is refused on writing and taken for garbage on reading.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 256 << 20;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The node's vote; the payload's one byte tells whether it is committed.
    Vote = 1,
    /// A log entry without content.
    Blank = 2,
    /// A log entry with a batch of commands.
    Normal = 3,
    /// A log entry that changes the group's membership.
    Membership = 4,
    /// Entries from `index` on are void.
    Truncate = 5,
    /// Entries up to `index` are no longer needed.
    Purge = 6,
    /// Entries up to `index` are known to be committed.
    Committed = 7,
    /// The segment is complete; the log goes on in the next one.
    Seal = 8,
    /// A log entry that is damaged on the disk, as readers get it. No frame has this kind.
    Lost = 9,
}

impl Kind {
    pub(crate) fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Vote,
            2 => Self::Blank,
            3 => Self::Normal,
            4 => Self::Membership,
            5 => Self::Truncate,
            6 => Self::Purge,
            7 => Self::Committed,
            8 => Self::Seal,
            _ => return None,
        })
    }

    pub(crate) fn is_entry(self) -> bool {
        matches!(self, Self::Blank | Self::Normal | Self::Membership)
    }
}

/// Term and node of the leader, and the index: what Raft calls a log id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    /// The leader's term.
    pub term: u64,
    /// The leader's node id.
    pub node: u64,
    /// The entry's index.
    pub index: u64,
}

/// A frame's head, decoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameHead {
    pub(crate) len: u32,
    pub(crate) crc: u32,
    pub(crate) previous: u32,
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) id: EntryId,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// How many bytes a frame takes in the file.
pub(crate) fn frame_bytes(payload: usize) -> usize {
    (FRAME_HEAD_BYTES + payload).next_multiple_of(8)
}

/// The crc with which every frame's crc of a segment begins.
pub(crate) fn salted(salt: u64) -> crc32fast::Hasher {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher
}

impl FrameHead {
    /// Reads a head; `None` when the bytes cannot be one. Says nothing about the crc.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < FRAME_HEAD_BYTES || bytes[14] != 0 || bytes[15] != 0 {
            return None;
        }
        let kind = Kind::from_u8(bytes[12])?;
        let len = u32_at(bytes, 0);
        if len as usize > PAYLOAD_BYTES_MAX {
            return None;
        }
        Some(Self {
            len,
            crc: u32_at(bytes, 4),
            previous: u32_at(bytes, 8),
            kind,
            flags: bytes[13],
            id: EntryId {
                term: u64_at(bytes, 16),
                node: u64_at(bytes, 24),
                index: u64_at(bytes, 32),
            },
        })
    }

    /// Whether the crc of the whole frame (head and payload, as they lie in the file) is right.
    pub(crate) fn verify(&self, frame: &[u8], salt: u64) -> bool {
        let end = FRAME_HEAD_BYTES + self.len as usize;
        if frame.len() < end {
            return false;
        }
        let mut hasher = salted(salt);
        hasher.update(&frame[8..end]);
        hasher.finalize() == self.crc || broken::get(broken::Without::Crc)
    }

    /// Whether this frame follows the one with the crc `previous`.
    pub(crate) fn follows(&self, previous: u32) -> bool {
        self.previous == previous || broken::get(broken::Without::Chain)
    }
}

/// Variants of the format that the crash tests have to catch.
pub(crate) mod broken {
    /// What is left out.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Without {
        Crc,
        Chain,
        /// Whatever is bad is where the log ends.
        Rot,
        /// What differs in one byte is as bad as anything else.
        Mending,
    }

    #[cfg(test)]
    thread_local! {
        pub(crate) static WITHOUT: std::cell::Cell<Option<Without>> = const { std::cell::Cell::new(None) };
    }

    #[inline]
    pub(crate) fn get(what: Without) -> bool {
        #[cfg(test)]
        return WITHOUT.get() == Some(what);
        #[cfg(not(test))]
        {
            let _ = what;
            false
        }
    }
}

/// The head of a frame with `payload`, and the frame's crc, which the next one has to name. The payload follows it, then
/// zeros up to [`frame_bytes`].
pub(crate) fn frame_head(
    salt: u64,
    previous: u32,
    kind: Kind,
    flags: u8,
    id: EntryId,
    payload: &[u8],
) -> ([u8; FRAME_HEAD_BYTES], u32) {
    let mut head = [0; FRAME_HEAD_BYTES];
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    head[0..4].copy_from_slice(&len.to_le_bytes());
    head[8..12].copy_from_slice(&previous.to_le_bytes());
    head[12..14].copy_from_slice(&[kind as u8, flags]);
    head[16..24].copy_from_slice(&id.term.to_le_bytes());
    head[24..32].copy_from_slice(&id.node.to_le_bytes());
    head[32..40].copy_from_slice(&id.index.to_le_bytes());
    let mut hasher = salted(salt);
    hasher.update(&head[8..]);
    hasher.update(payload);
    let crc = hasher.finalize();
    head[4..8].copy_from_slice(&crc.to_le_bytes());
    (head, crc)
}

/// Appends a frame to `out` and returns its crc, which the next frame has to name.
pub(crate) fn write_frame(
    out: &mut Vec<u8>,
    salt: u64,
    previous: u32,
    kind: Kind,
    flags: u8,
    id: EntryId,
    payload: &[u8],
) -> u32 {
    let start = out.len();
    let (head, crc) = frame_head(salt, previous, kind, flags, id, payload);
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    out.resize(start + frame_bytes(payload.len()), 0);
    crc
}
