//! Checkpoints, whose answers nobody awaits: an error is told, and what would be refused for want of room is not sent.

use serde::Serialize;
use serde::ser::{SerializeStructVariant, Serializer};

use super::Requests;
use crate::control::KeptCheckpoints;
use crate::frame::FrameKind;
use crate::session::{RefusedCause, Session, lock};
use crate::tree::{CheckpointKind, StoreOp};

/// [`StoreOp::Checkpoint`] of a borrowed value, which is copied no more than it must be.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointRef<'a> {
    /// As there.
    pub key: &'a str,
    /// As there.
    pub kind: CheckpointKind,
    /// As there.
    pub version: u64,
    /// As there.
    pub value: &'a [u8],
    /// As there.
    pub frame: u64,
    /// As there.
    pub realtime_ms: i64,
}

impl Serialize for CheckpointRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // As serde derives it for the op; a test compares the two.
        let mut op = serializer.serialize_struct_variant("StoreOp", 7, "Checkpoint", 6)?;
        op.serialize_field("key", self.key)?;
        op.serialize_field("kind", &self.kind)?;
        op.serialize_field("version", &self.version)?;
        op.serialize_field("value", serde_bytes::Bytes::new(self.value))?;
        op.serialize_field("frame", &self.frame)?;
        op.serialize_field("realtime_ms", &self.realtime_ms)?;
        op.end()
    }
}

impl Session {
    /// Sends a checkpoint. Of its answer only an error is told, as far as it can be: it may be left out. There is none for want
    /// of room in the store: what would be refused for that is refused here.
    ///
    /// # Errors
    /// [`RefusedCause`]: nothing was sent.
    pub fn checkpoint(&self, checkpoint: &CheckpointRef<'_>) -> Result<u64, RefusedCause> {
        let CheckpointRef {
            key, kind, value, ..
        } = *checkpoint;
        let mut requests = lock(&self.requests);
        let told = KeptCheckpoints::read(&*self.current().mapping);
        requests.room.hear(told);
        let growth = requests.room.check(key, kind, value.len())?;
        let number = self.send_quietly(&mut requests, key, checkpoint)?;
        requests.room.sent(number, key, kind, value.len(), growth);
        Ok(number)
    }

    /// Takes all checkpoints of a key away; an error is told as for [`Session::checkpoint`].
    ///
    /// # Errors
    /// As there.
    pub fn forget_checkpoint(&self, key: &str) -> Result<u64, RefusedCause> {
        let mut requests = lock(&self.requests);
        let op = StoreOp::ForgetCheckpoint {
            key: key.to_owned(),
        };
        let number = self.send_quietly(&mut requests, key, &op)?;
        requests.room.sent_forget(number, key);
        Ok(number)
    }

    /// Tells that the game goes on with the checkpoint of this version, a full one's; an error is told as for
    /// [`Session::checkpoint`].
    ///
    /// # Errors
    /// As there.
    pub fn loaded(&self, key: &str, version: u64) -> Result<u64, RefusedCause> {
        let op = StoreOp::Loaded {
            key: key.to_owned(),
            version,
        };
        self.send_quietly(&mut lock(&self.requests), key, &op)
    }

    fn send_quietly(
        &self,
        requests: &mut Requests,
        key: &str,
        op: &impl Serialize,
    ) -> Result<u64, RefusedCause> {
        let number = self.send_words(requests, FrameKind::Op, op)?;
        requests.note_quiet(number, key);
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::decode_request;

    #[test]
    fn a_borrowed_checkpoint_is_the_op() {
        for kind in [CheckpointKind::Full, CheckpointKind::Delta { base: 4 }] {
            let borrowed = CheckpointRef {
                key: "match",
                kind,
                version: 5,
                value: b"value",
                frame: 6,
                realtime_ms: -7,
            };
            let mut bytes = Vec::new();
            crate::tree::codec::encode_request_into(9, &borrowed, &mut bytes).unwrap();
            let op = StoreOp::Checkpoint {
                key: "match".to_owned(),
                kind,
                version: 5,
                value: b"value".to_vec(),
                frame: 6,
                realtime_ms: -7,
            };
            assert_eq!(decode_request(&bytes), Some((9, Ok(op))));
        }
    }
}
