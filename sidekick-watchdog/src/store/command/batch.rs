//! How commands lie in an entry: `[version u8][has ops u8][2 zero][length of the heads u32][fold u64][crc32 of the first 8 bytes and the
//! heads][heads][frames of the slabs]`. The heads are the commands in bincode, a slab's frames follow as they came from the ring, each with a checksum
//! of its own. Whoever needs only the heads (apply, unless ops ride in the frames) reads only them. The log checks the whole entry; the
//! heads' own crc tells, where the entry is damaged, whether it is the frames alone (`store::rot::salvage`). Version 1 had none.
//!
//! The fold makes all 64-bit words of a batch come to zero, one XOR the other. It tells what no crc does: whether a byte that was changed so
//! that the log's crc is right again is the one that had been damaged (`store::wal::mend`). Version 2 had none.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Command;
use crate::slab::Slab;
use crate::store::codec::{self, CodecError};

const BATCH_VERSION: u8 = 3;
/// The version without a fold, still read.
const BATCH_VERSION_UNFOLDED: u8 = 2;
/// The version without a crc, still read.
const BATCH_VERSION_BARE: u8 = 1;
/// Bytes that tell where the heads end.
const BATCH_WORDS_BYTES: usize = 8;
const FOLD_BYTES: usize = 8;
const CRC_BYTES: usize = 4;
/// Bytes before the heads.
const BATCH_HEAD_BYTES: usize = BATCH_WORDS_BYTES + FOLD_BYTES + CRC_BYTES;
/// So much is copied before it is folded: it is still at hand then.
const FOLDED_BYTES: usize = 4096;

/// Bytes before the heads of an encoded batch.
fn head_bytes(bytes: &[u8]) -> usize {
    match bytes.first() {
        Some(&BATCH_VERSION_BARE) => BATCH_WORDS_BYTES,
        Some(&BATCH_VERSION_UNFOLDED) => BATCH_WORDS_BYTES + CRC_BYTES,
        _ => BATCH_HEAD_BYTES,
    }
}

/// The words of bytes that are added one behind the other, one XOR the other.
#[derive(Default)]
struct Fold {
    words: u64,
    len: usize,
}

impl Fold {
    fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let folded = words.iter().fold(u64::from_le_bytes(last), |folded, word| {
            folded ^ u64::from_le_bytes(*word)
        });
        // Where they begin amid a word, each byte goes where its place in the whole is.
        let shift = 8 * (self.len % 8) as u32;
        self.words ^= folded.rotate_left(shift);
        self.len += bytes.len();
    }
}

fn crc_of(words: &[u8], heads: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(words);
    hasher.update(heads);
    hasher.finalize().to_le_bytes()
}

/// A batch of commands as it lies in an entry: bytes, shared, never decoded twice on the write path.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    bytes: Bytes,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({} bytes)", self.bytes.len())
    }
}

impl Batch {
    /// Lays commands and frames out. `frames` are those of the commands that bring slabs, in their order.
    pub(crate) fn encode(commands: &[Command], frames: &[Bytes]) -> Result<Self, CodecError> {
        let heads = codec::encode("commands", &commands)?;
        let heads_len = u32::try_from(heads.len())
            .map_err(|cause| CodecError::new("cannot encode", "commands", cause))?;
        let total = BATCH_HEAD_BYTES + heads.len() + frames.iter().map(Bytes::len).sum::<usize>();
        let mut bytes = Vec::with_capacity(total);
        let has_ops = commands
            .iter()
            .any(|command| matches!(command, Command::AppendOps { .. }));
        bytes.extend_from_slice(&[BATCH_VERSION, u8::from(has_ops), 0, 0]);
        bytes.extend_from_slice(&heads_len.to_le_bytes());
        let crc = crc_of(&bytes, &heads);
        bytes.extend_from_slice(&[0; FOLD_BYTES]);
        bytes.extend_from_slice(&crc);
        bytes.extend_from_slice(&heads);
        let mut fold = Fold::default();
        fold.add(&bytes);
        for piece in frames.iter().flat_map(|frames| frames.chunks(FOLDED_BYTES)) {
            bytes.extend_from_slice(piece);
            fold.add(piece);
        }
        bytes[BATCH_WORDS_BYTES..BATCH_WORDS_BYTES + FOLD_BYTES]
            .copy_from_slice(&fold.words.to_le_bytes());
        Ok(Self {
            bytes: bytes.into(),
        })
    }

    pub(crate) fn from_bytes(bytes: Bytes) -> Self {
        Self { bytes }
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many bytes of an encoded batch hold the heads. Given its first eight bytes or more.
    pub(crate) fn heads_end(bytes: &[u8]) -> usize {
        match bytes.get(4..8) {
            Some(&[a, b, c, d]) => {
                head_bytes(bytes).saturating_add(u32::from_le_bytes([a, b, c, d]) as usize)
            }
            _ => usize::MAX,
        }
    }

    /// How many bytes of an encoded batch apply needs. Given its first eight bytes or more.
    pub(crate) fn apply_end(bytes: &[u8]) -> usize {
        match bytes.get(1) {
            Some(0) => Self::heads_end(bytes),
            _ => usize::MAX,
        }
    }

    /// The heads, where it can be told that they are what was written, whatever became of the frames.
    pub(crate) fn checked_heads(bytes: &[u8]) -> Option<&[u8]> {
        let words = bytes.get(..BATCH_WORDS_BYTES)?;
        let begin = head_bytes(bytes);
        let heads = bytes.get(begin..Self::heads_end(bytes))?;
        let has_crc = matches!(words, [BATCH_VERSION | BATCH_VERSION_UNFOLDED, ..]);
        let crc = bytes.get(begin.checked_sub(CRC_BYTES)?..begin)?;
        (has_crc && *crc == crc_of(words, heads)).then_some(heads)
    }

    /// Whether the words of an encoded batch come to zero, as they do if a version that sees to that wrote it.
    pub(crate) fn is_folded(bytes: &[u8]) -> bool {
        let mut fold = Fold::default();
        fold.add(bytes);
        bytes.first() == Some(&BATCH_VERSION) && fold.words == 0
    }

    /// The frames of all slabs, one after the other; none when only the heads were read.
    pub(crate) fn frames(&self) -> &[u8] {
        let heads = Self::heads_end(&self.bytes);
        self.bytes.get(heads..).unwrap_or_default()
    }

    /// The commands, without their frames.
    pub(crate) fn commands(&self) -> Result<Vec<Command>, CodecError> {
        match self.bytes.first() {
            Some(&(BATCH_VERSION | BATCH_VERSION_UNFOLDED | BATCH_VERSION_BARE)) => {}
            Some(version) => {
                return Err(CodecError::new(
                    "cannot decode",
                    "a batch",
                    format!("version {version}"),
                ));
            }
            None => return Err(CodecError::new("cannot decode", "a batch", "it is empty")),
        }
        let heads = self
            .bytes
            .get(head_bytes(&self.bytes)..Self::heads_end(&self.bytes))
            .ok_or_else(|| CodecError::new("cannot decode", "a batch", "its heads are cut off"))?;
        codec::decode("commands", heads)
    }

    /// The slabs with their numbers among the slabs of this entry, from 0. The batch must be whole.
    pub(crate) fn slabs(&self) -> Result<Vec<(u32, Slab)>, CodecError> {
        let mut at = Self::heads_end(&self.bytes);
        let mut slabs = Vec::new();
        for command in self.commands()? {
            let Some((head, frames_bytes)) = command.slab() else {
                continue;
            };
            let end = at.saturating_add(frames_bytes as usize);
            if end > self.bytes.len() {
                return Err(CodecError::new(
                    "cannot decode",
                    "a slab",
                    "its frames are cut off",
                ));
            }
            slabs.push((
                slabs.len() as u32,
                Slab {
                    head,
                    frames: self.bytes.slice(at..end),
                },
            ));
            at = end;
        }
        Ok(slabs)
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
        Ok(Self {
            bytes: bytes.into_vec().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::head;
    use super::*;

    #[test]
    fn a_batch_gives_back_commands_and_frames() {
        let commands = [
            Command::Append {
                head: head(1, 2),
                frames_bytes: 8,
            },
            Command::SetSinks { sinks: Vec::new() },
            Command::Append {
                head: head(3, 1),
                frames_bytes: 3,
            },
        ];
        let frames = [Bytes::from_static(b"12345678"), Bytes::from_static(b"abc")];
        let batch = Batch::encode(&commands, &frames).unwrap();
        assert_eq!(batch.commands().unwrap(), commands);
        let slabs = batch.slabs().unwrap();
        assert_eq!(slabs.len(), 2);
        assert_eq!(slabs[1].0, 1);
        assert_eq!(slabs[1].1.frames, frames[1]);
        assert!(Batch::is_folded(batch.bytes()));
        for at in 0..batch.bytes().len() {
            let mut changed = batch.bytes().to_vec();
            changed[at] ^= 1;
            assert!(!Batch::is_folded(&changed), "byte {at}");
        }
        let heads = Batch::heads_end(batch.bytes());
        let cut = Batch::from_bytes(batch.bytes().slice(..heads));
        assert_eq!(cut.commands().unwrap(), commands);
        assert!(cut.slabs().is_err());
        for len in 0..heads {
            assert!(
                Batch::from_bytes(batch.bytes().slice(..len))
                    .commands()
                    .is_err()
            );
        }
    }

    /// Logs of earlier versions have batches without a fold, or without a crc as well.
    #[test]
    fn earlier_versions_are_read() {
        let commands = [Command::Append {
            head: head(1, 2),
            frames_bytes: 8,
        }];
        let frames = [Bytes::from_static(b"12345678")];
        let batch = Batch::encode(&commands, &frames).unwrap();
        for (version, gone) in [(2, 8..16), (1, 8..20)] {
            let mut bytes = batch.bytes().to_vec();
            bytes.drain(gone);
            bytes[0] = version;
            if version == 2 {
                let heads = bytes[12..bytes.len() - 8].to_vec();
                let crc = crc_of(&bytes[..8], &heads);
                bytes[8..12].copy_from_slice(&crc);
            }
            assert_eq!(Batch::checked_heads(&bytes).is_some(), version == 2);
            assert!(!Batch::is_folded(&bytes));
            let old = Batch::from_bytes(bytes.into());
            assert_eq!(old.commands().unwrap(), commands);
            assert_eq!(old.slabs().unwrap()[0].1.frames, frames[0]);
        }
    }
}
