//! Records that the watchdog makes itself: crash reports, notes, what is posted to it (CORRECTNESS rule 19).
//!
//! Each is a session of its own, with one record: its epoch follows from the id that its maker gave it, its sequence
//! number is 1. So a retry, also one by a later watchdog, names the same record, and the group takes it once.

use std::time::{SystemTime, UNIX_EPOCH};

use sidekick_ipc::frame::{FrameKind, RECORD_BYTES_MAX, Record, STREAM_NAME_BYTES_MAX};
use uuid::Uuid;

use super::command::{Command, Outcome};
use super::{AppendError, Store};
use crate::slab::{RingCheckpoint, SlabHead};

/// Keeps ids of crash reports and epochs of ring sessions apart, should anybody use one for the other.
const EPOCH_MASK: u128 = 0x5349_4445_4b49_434b_2064_6572_6976_6564;

/// A record that the watchdog makes itself.
#[derive(Clone, Copy, Debug)]
pub struct Derived<'a> {
    /// The watchdog's configured name.
    pub source: &'a str,
    /// Names this record for ever: with the same id, nothing is stored a second time.
    pub id: Uuid,
    /// The launch number of the engine that it is about; 0 if it is about none.
    pub incarnation: u32,
    /// When what it tells happened; the record's time at the backend.
    pub time: SystemTime,
    /// The stream, 1 to 255 bytes; the watchdog's own begin with `sidekick.`.
    pub stream: &'a str,
    /// The value in Godot's binary encoding ([`sidekick_ipc::value::encode`]); with the stream's name at most 64 KiB.
    pub variant: &'a [u8],
}

/// Why a derived record was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DerivedError {
    /// It does not fit into a frame.
    #[error("the record takes {bytes} bytes, the limit is {max}; shorten what it holds")]
    TooLarge {
        /// Bytes of name and value.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The stream's name is empty or too long.
    #[error("the stream's name has {bytes} bytes, it must have 1 to {STREAM_NAME_BYTES_MAX}")]
    StreamName {
        /// Bytes of the name.
        bytes: usize,
    },
    /// The value is not one that can be stored.
    #[error("the value cannot be stored: {0}")]
    Value(String),
    /// The store did not take it. Try again later: with the same id it is never stored twice.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// The epoch of the record that `id` names. The same for ever: backends know records by it.
fn epoch(id: Uuid) -> Uuid {
    let masked = Uuid::from_u128(id.as_u128() ^ EPOCH_MASK);
    uuid::Builder::from_custom_bytes(masked.into_bytes()).into_uuid()
}

/// The record as the log holds it.
fn encode(record: &Derived<'_>) -> Result<(SlabHead, Vec<u8>), DerivedError> {
    let name_bytes = record.stream.len();
    if !(1..=STREAM_NAME_BYTES_MAX).contains(&name_bytes) {
        return Err(DerivedError::StreamName { bytes: name_bytes });
    }
    let bytes = 1 + name_bytes + record.variant.len();
    if bytes > RECORD_BYTES_MAX {
        return Err(DerivedError::TooLarge {
            bytes,
            max: RECORD_BYTES_MAX,
        });
    }
    sidekick_ipc::value::check(record.variant)
        .map_err(|refusal| DerivedError::Value(refusal.to_string()))?;
    let mut payload = Vec::with_capacity(bytes);
    Record::encode_head(record.stream, &mut payload);
    payload.extend_from_slice(record.variant);
    let epoch = epoch(record.id);
    let mut frames = Vec::new();
    sidekick_ipc::frame::append_frame(
        &mut frames,
        &epoch,
        FrameKind::Record as u16,
        1,
        0,
        &payload,
    );
    let time = record.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let head = SlabHead {
        source: record.source.to_owned(),
        epoch,
        incarnation: record.incarnation,
        realtime_offset_ns: i64::try_from(time.as_nanos()).unwrap_or(i64::MAX),
        first_seq: 1,
        count: 1,
        checkpoint: RingCheckpoint::default(),
    };
    Ok((head, frames))
}

impl Store {
    /// Stores a record that the watchdog makes itself; durable when this returns. With an id that was stored before
    /// nothing is stored, and that is no error: call it again after any failure, also after a restart.
    ///
    /// The group remembers the last 1024 ids. A repetition after more than that is stored again under the same
    /// identity `(source, epoch, 1)`, so backends that keep records by it still see one.
    ///
    /// # Errors
    /// [`DerivedError::TooLarge`], [`DerivedError::StreamName`], [`DerivedError::Value`]: it will never be taken.
    /// [`DerivedError::Append`]: try again later, as after [`Store::append`].
    pub async fn derived(&self, record: &Derived<'_>) -> Result<(), DerivedError> {
        self.refuse_over_quota()?;
        self.note(record).await
    }

    /// As [`Store::derived`], over quota too: for a few small records that say what has become of others.
    ///
    /// # Errors
    /// As [`Store::derived`], but for the quota.
    pub async fn note(&self, record: &Derived<'_>) -> Result<(), DerivedError> {
        let (head, frames) = encode(record)?;
        // A record has at most 64 KiB.
        let frames_bytes = frames.len() as u32;
        let command = Command::Derived { head, frames_bytes };
        let ticket = self
            .parts
            .proposer
            .submit(command, Some(frames.into()))
            .await
            .map_err(AppendError::from)?;
        match ticket.wait().await.map_err(AppendError::from)? {
            Outcome::Done => Ok(()),
            Outcome::Refused(refusal) => Err(AppendError::Refused(refusal).into()),
            other => Err(AppendError::Stopped(format!("unexpected outcome {other:?}")).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sidekick_ipc::value::Value;

    use super::*;
    use crate::store::StoreConfig;

    /// Backends know records by these; a change would send what is retried a second time.
    #[test]
    fn the_epoch_of_an_id_does_not_change() {
        let epoch = epoch(Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef));
        assert_eq!(epoch.to_string(), "526a0122-c2e2-8ea4-a147-2015e0dda88b");
    }

    /// Everything derived that a reader sees: source, incarnation, time, stream, value.
    async fn seen(store: &Store) -> Vec<(String, u32, i64, String, Vec<u8>)> {
        let mut after = 0;
        let mut all = Vec::new();
        loop {
            let read = store.read_slabs(after, usize::MAX).await.unwrap();
            let Some(last) = read.last() else { return all };
            after = last.index;
            for (_, slab) in read.into_iter().flat_map(|entry| entry.slabs) {
                for frame in sidekick_ipc::frame::frames(&slab.frames, &slab.head.epoch) {
                    let frame = frame.unwrap();
                    assert_eq!(frame.header.seq, 1);
                    let record = Record::parse(frame.payload).unwrap();
                    all.push((
                        slab.head.source.clone(),
                        slab.head.incarnation,
                        slab.head.realtime_offset_ns + frame.header.monotonic_ns as i64,
                        record.stream.to_owned(),
                        record.variant.to_vec(),
                    ));
                }
            }
        }
    }

    /// A maker that never hears the answer tries again, at once and after restarts, and with its state rebuilt.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_derived_record_is_stored_once_however_often_it_is_retried() {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            segment_bytes: 64 << 10,
            zero_step_bytes: 16 << 10,
            ..StoreConfig::new(dir.path().join("data"))
        };
        let variant = sidekick_ipc::value::encode(&Value::Int(5));
        let record = |id: u128| Derived {
            source: "s",
            id: Uuid::from_u128(id),
            incarnation: 7,
            time: UNIX_EPOCH + Duration::from_nanos(1_000 + id as u64),
            stream: "sidekick.crash",
            variant: &variant,
        };
        let expected = |ids: std::ops::Range<u128>| {
            ids.map(|id| {
                (
                    "s".to_owned(),
                    7,
                    1_000 + id as i64,
                    "sidekick.crash".to_owned(),
                    variant.clone(),
                )
            })
            .collect::<Vec<_>>()
        };
        let store = Store::open(config.clone()).await.unwrap();
        // All at once: in one entry, too.
        let first = record(1);
        let (a, b, c) = tokio::join!(
            store.derived(&first),
            store.derived(&first),
            store.derived(&first)
        );
        a.and(b).and(c).unwrap();
        store.derived(&record(2)).await.unwrap();
        assert_eq!(seen(&store).await, expected(1..3));
        store.shutdown().await;
        drop(store);

        let store = Store::open(config.clone()).await.unwrap();
        for id in 1..4 {
            store.derived(&record(id)).await.unwrap();
        }
        assert_eq!(seen(&store).await, expected(1..4));
        store.shutdown().await;
        drop(store);

        std::fs::remove_dir_all(config.dir.join("state")).unwrap();
        let store = Store::open(config).await.unwrap();
        for id in (1..4).rev() {
            store.derived(&record(id)).await.unwrap();
        }
        assert_eq!(seen(&store).await, expected(1..4));
        assert_eq!(store.last_launch("s"), 0, "it is no engine's session");
        store.shutdown().await;
    }

    #[test]
    fn what_no_backend_could_read_is_refused() {
        let record = |stream: &'static str, variant: &'static [u8]| {
            encode(&Derived {
                source: "s",
                id: Uuid::from_u128(1),
                incarnation: 1,
                time: UNIX_EPOCH,
                stream,
                variant,
            })
            .unwrap_err()
        };
        static LARGE: [u8; RECORD_BYTES_MAX] = [0; RECORD_BYTES_MAX];
        assert_eq!(record("", &[]), DerivedError::StreamName { bytes: 0 });
        assert_eq!(
            record("x", &LARGE),
            DerivedError::TooLarge {
                bytes: RECORD_BYTES_MAX + 2,
                max: RECORD_BYTES_MAX
            }
        );
        assert!(matches!(record("x", &[1, 2, 3]), DerivedError::Value(_)));
    }
}
