//! The frames of one batch on their way to the file. Large payloads are not copied: they are written from where they are.

use std::fs::File;
use std::io;

use bytes::Bytes;

use super::frame::{EntryId, FRAME_HEAD_BYTES, Kind, frame_bytes, frame_head};
use super::segment::write_all_at;

/// Payloads below this are copied beside their heads: one write for many of them.
const COPIED_BYTES_MAX: usize = 16 << 10;
/// Memory kept for the next batch.
const KEPT_BYTES: usize = 256 << 10;

/// A piece of the batch, in the order of the file.
#[derive(Debug)]
enum Piece {
    /// The next so many bytes of [`PendingBatch::small`].
    Small(usize),
    Large(Bytes),
}

/// Frames that are not written yet.
#[derive(Debug, Default)]
pub(super) struct PendingBatch {
    pieces: Vec<Piece>,
    small: Vec<u8>,
    bytes: usize,
}

impl PendingBatch {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Bytes that it takes in the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Adds a frame and returns its crc, which the next frame has to name.
    pub(super) fn put(
        &mut self,
        salt: u64,
        previous: u32,
        kind: Kind,
        flags: u8,
        id: EntryId,
        payload: &Bytes,
    ) -> u32 {
        let (head, crc) = frame_head(salt, previous, kind, flags, id, payload);
        self.add_small(&head);
        if payload.len() <= COPIED_BYTES_MAX {
            self.add_small(payload);
        } else {
            self.pieces.push(Piece::Large(payload.clone()));
            self.bytes += payload.len();
        }
        let padding = frame_bytes(payload.len()) - FRAME_HEAD_BYTES - payload.len();
        self.add_small(&[0; 8][..padding]);
        crc
    }

    fn add_small(&mut self, bytes: &[u8]) {
        self.small.extend_from_slice(bytes);
        self.bytes += bytes.len();
        match self.pieces.last_mut() {
            Some(Piece::Small(len)) => *len += bytes.len(),
            _ => self.pieces.push(Piece::Small(bytes.len())),
        }
    }

    /// Writes all of it to `file` at `offset`.
    pub(super) fn write(&self, file: &File, mut offset: u64) -> io::Result<()> {
        let mut small = self.small.as_slice();
        for piece in &self.pieces {
            let bytes = match piece {
                Piece::Small(len) => {
                    let (bytes, rest) = small.split_at(*len);
                    small = rest;
                    bytes
                }
                Piece::Large(bytes) => bytes,
            };
            write_all_at(file, bytes, offset)?;
            offset += bytes.len() as u64;
        }
        Ok(())
    }

    /// Empties it for the next batch.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.small.clear();
        self.small.shrink_to(KEPT_BYTES);
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::write_frame;
    use super::*;

    /// What lies in the file is what `write_frame` makes, whether payloads are copied or not.
    #[test]
    fn frames_lie_in_the_file_as_if_they_were_copied() {
        let mut batch = PendingBatch::default();
        for round in 0..2 {
            let mut expected = vec![0; 7];
            let (mut a, mut b) = (round, round);
            for len in [
                0,
                1,
                7,
                COPIED_BYTES_MAX,
                50_001,
                COPIED_BYTES_MAX + 1,
                100_000,
                3,
            ] {
                let payload = Bytes::from(vec![len as u8; len]);
                let id = EntryId {
                    term: 1,
                    node: 2,
                    index: len as u64,
                };
                a = write_frame(&mut expected, 9, a, Kind::Normal, 1, id, &payload);
                b = batch.put(9, b, Kind::Normal, 1, id, &payload);
                assert_eq!(a, b);
            }
            let file = tempfile::tempfile().unwrap();
            assert_eq!(batch.bytes(), expected.len() as u64 - 7);
            batch.write(&file, 7).unwrap();
            let mut found = vec![0; expected.len()];
            super::super::segment::read_exact_at(&file, &mut found, 0).unwrap();
            assert!(found == expected);
            batch.clear();
            assert!(batch.is_empty());
        }
    }
}
