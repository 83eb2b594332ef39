//! Shows records as they pass: from the ring, from the log, on their way to a sink.
//!
//! Nobody waits for who looks: what finds no room in a reader's queue is counted and told. With nobody looking a record
//! costs one load. What is shown is copied as bytes where it passes, and made text on the reader's own task.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sidekick_ipc::frame::{FrameHeader, FrameKind, Record, frames};
use sidekick_ipc::stream::StreamPattern;
use tokio::sync::mpsc;

use crate::api::operator::{Stage, TailError, Wanted};
use crate::intake::{Filter, FilterOrigin, Filtered};
use crate::slab::{RingCheckpoint, Slab, SlabHead};
use crate::upload::Stored;
use crate::upload::encode::{Item, LineWriter, RowWriter, What};

/// Readers at once; more are refused.
const READERS_MAX: usize = 8;
/// Records that wait for one reader.
const AHEAD: usize = 1024;
/// Lines that wait for its connection.
const LINES_AHEAD: usize = 64;
/// A reader that gets nothing else gets an empty line this often, so that both sides notice when the other is gone.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

/// A record as it was seen.
#[derive(Debug)]
struct Seen {
    head: SlabHead,
    seq: u64,
    monotonic_ns: u64,
    stream: String,
    variant: Vec<u8>,
    sink: Option<String>,
}

#[derive(Debug)]
struct Reader {
    stage: Stage,
    pattern: Option<StreamPattern>,
    queue: mpsc::Sender<Seen>,
    /// Records that found no room since it was last told.
    lost: Arc<AtomicU64>,
}

/// Who looks at records.
#[derive(Debug, Default)]
pub(super) struct Tap {
    /// How many readers each stage has.
    counts: [AtomicUsize; 3],
    readers: Mutex<Vec<Reader>>,
}

impl Tap {
    fn readers(&self) -> MutexGuard<'_, Vec<Reader>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody looks there.
    pub(super) fn is_open(&self, stage: Stage) -> bool {
        self.counts
            .get(stage as usize)
            .is_some_and(|count| count.load(Ordering::Relaxed) > 0)
    }

    /// A new reader, as lines of JSON. Must be called on the runtime. It ends when the receiver is dropped.
    ///
    /// # Errors
    /// [`TailError::TooMany`].
    pub(super) fn read(&self, wanted: Wanted) -> Result<mpsc::Receiver<Bytes>, TailError> {
        let (queue, seen) = mpsc::channel(AHEAD);
        let (lines, receiver) = mpsc::channel(LINES_AHEAD);
        let lost = Arc::new(AtomicU64::new(0));
        let mut readers = self.readers();
        self.forget_gone(&mut readers);
        if readers.len() >= READERS_MAX {
            return Err(TailError::TooMany { max: READERS_MAX });
        }
        readers.push(Reader {
            stage: wanted.stage,
            pattern: wanted.pattern,
            queue,
            lost: Arc::clone(&lost),
        });
        self.count(&readers);
        drop(readers);
        tokio::spawn(write_lines(wanted.stage, wanted.count, seen, lost, lines));
        Ok(receiver)
    }

    fn forget_gone(&self, readers: &mut Vec<Reader>) {
        readers.retain(|reader| !reader.queue.is_closed());
        self.count(readers);
    }

    fn count(&self, readers: &[Reader]) {
        for (stage, count) in Stage::ALL.into_iter().zip(&self.counts) {
            let readers = readers.iter().filter(|reader| reader.stage == stage);
            count.store(readers.count(), Ordering::Relaxed);
        }
    }

    /// Shows a record to whoever looks at this stage. `seen` is called for each reader that has room.
    fn show(&self, stage: Stage, stream: &str, seen: impl Fn() -> Seen) {
        if !self.is_open(stage) {
            return;
        }
        let mut readers = self.readers();
        let mut is_gone = false;
        for reader in readers.iter().filter(|reader| reader.stage == stage) {
            if !reader
                .pattern
                .as_ref()
                .is_none_or(|pattern| pattern.matches(stream))
            {
                continue;
            }
            match reader.queue.try_reserve() {
                Ok(room) => room.send(seen()),
                Err(mpsc::error::TrySendError::Full(())) => {
                    reader.lost.fetch_add(1, Ordering::Relaxed);
                }
                Err(mpsc::error::TrySendError::Closed(())) => is_gone = true,
            }
        }
        if is_gone {
            self.forget_gone(&mut readers);
        }
    }

    /// Shows a record as it came out of the ring.
    fn raw(&self, origin: &FilterOrigin<'_>, record: &Record<'_>, header: &FrameHeader) {
        self.show(Stage::Raw, record.stream, || Seen {
            head: SlabHead {
                source: origin.source.to_owned(),
                epoch: origin.epoch,
                incarnation: origin.incarnation,
                realtime_offset_ns: origin.realtime_offset_ns,
                first_seq: header.seq,
                count: 1,
                checkpoint: RingCheckpoint::default(),
            },
            seq: header.seq,
            monotonic_ns: header.monotonic_ns,
            stream: record.stream.to_owned(),
            variant: record.variant.to_vec(),
            sink: None,
        });
    }

    /// Shows the records of a slab that is committed.
    pub(super) fn stored(&self, slab: &Slab) {
        for frame in frames(&slab.frames, &slab.head.epoch).map_while(Result::ok) {
            if FrameKind::from_u16(frame.header.kind) != Some(FrameKind::Record) {
                continue;
            }
            let Ok(record) = Record::parse(frame.payload) else {
                continue;
            };
            self.show(Stage::Stored, record.stream, || Seen {
                head: slab.head.clone(),
                seq: frame.header.seq,
                monotonic_ns: frame.header.monotonic_ns,
                stream: record.stream.to_owned(),
                variant: record.variant.to_vec(),
                sink: None,
            });
        }
    }

    /// Shows a record as it goes into a batch for `sink`.
    pub(super) fn uploaded(&self, sink: &str, stored: &Stored<'_>, variant: &[u8]) {
        let stream = stored.record.stream;
        self.show(Stage::Uploaded, stream, || Seen {
            head: stored.head.clone(),
            seq: stored.seq,
            monotonic_ns: stored.monotonic_ns,
            stream: stream.to_owned(),
            variant: variant.to_vec(),
            sink: Some(sink.to_owned()),
        });
    }
}

/// Shows records before the rules have their say.
pub(super) struct TappedFilter {
    pub(super) tap: Arc<Tap>,
    pub(super) rules: Option<Arc<dyn Filter>>,
}

impl Filter for TappedFilter {
    fn growth(&self) -> usize {
        self.rules.as_ref().map_or(1, |rules| rules.growth())
    }

    fn judge(
        &self,
        origin: &FilterOrigin<'_>,
        record: &Record<'_>,
        header: &FrameHeader,
        out: &mut Vec<u8>,
    ) -> Filtered {
        self.tap.raw(origin, record, header);
        match &self.rules {
            Some(rules) => rules.judge(origin, record, header, out),
            None => Filtered::Keep,
        }
    }
}

/// Makes lines of what is seen, `count` of them, until the reader is gone.
async fn write_lines(
    stage: Stage,
    count: u64,
    mut seen: mpsc::Receiver<Seen>,
    lost: Arc<AtomicU64>,
    lines: mpsc::Sender<Bytes>,
) {
    let mut writer = LineWriter::default();
    let mut left = count;
    while left > 0 {
        let next = tokio::select! {
            next = tokio::time::timeout(ALIVE_EVERY, seen.recv()) => next,
            () = lines.closed() => return,
        };
        let mut out = Vec::new();
        match next {
            Ok(Some(seen)) => {
                left -= 1;
                write_line(stage, &mut writer, &seen, &mut out);
            }
            Ok(None) => return,
            Err(_) => out.push(b'\n'),
        }
        let missed = lost.swap(0, Ordering::Relaxed);
        if missed > 0 {
            out.extend_from_slice(format!("{{\"lost\":{missed}}}\n").as_bytes());
        }
        if lines.send(out.into()).await.is_err() {
            return;
        }
    }
}

/// `{"stage":"raw",` and then what an upload's line has.
fn write_line(stage: Stage, writer: &mut LineWriter, seen: &Seen, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{{\"stage\":\"{}\",", stage.word()).as_bytes());
    if let Some(sink) = &seen.sink {
        // A sink's name is one of our own words.
        out.extend_from_slice(format!("\"sink\":\"{sink}\",").as_bytes());
    }
    let item = Item {
        seq: seen.seq,
        monotonic_ns: seen.monotonic_ns,
        what: What::Record(Record {
            stream: &seen.stream,
            variant: &seen.variant,
        }),
    };
    let brace = out.len();
    writer.write(&seen.head, &item, out);
    out.remove(brace);
}

#[cfg(test)]
mod tests {
    use sidekick_ipc::value::{Value, encode};
    use uuid::Uuid;

    use super::*;

    fn show(tap: &Tap, stream: &str, seq: u64) {
        let variant = encode(&Value::Int(7));
        let origin = FilterOrigin {
            source: "s",
            epoch: Uuid::from_u128(7),
            incarnation: 1,
            game_version: "",
            realtime_offset_ns: 0,
        };
        let header = FrameHeader {
            kind: 1,
            len: 0,
            seq,
            monotonic_ns: 0,
            flags: 0,
            crc: 0,
        };
        let record = Record {
            stream,
            variant: &variant,
        };
        let filter = TappedFilter {
            tap: Arc::new(Tap::default()),
            rules: None,
        };
        let verdict = filter.judge(&origin, &record, &header, &mut Vec::new());
        assert_eq!(verdict, Filtered::Keep);
        tap.raw(&origin, &record, &header);
    }

    fn wanted(pattern: &str, count: u64) -> Wanted {
        Wanted {
            stage: Stage::Raw,
            pattern: Some(pattern.parse().unwrap()),
            count,
        }
    }

    #[tokio::test]
    async fn a_reader_sees_its_streams_and_is_told_what_it_missed() {
        let tap = Tap::default();
        show(&tap, "chat.say", 1);
        let mut lines = tap.read(wanted("chat.*", u64::MAX)).unwrap();
        assert!(tap.is_open(Stage::Raw) && !tap.is_open(Stage::Stored));
        for seq in 0..3000 {
            show(&tap, "chat.say", seq);
            show(&tap, "other", seq);
        }
        let mut text = String::new();
        let expected = AHEAD + 1;
        while text.matches('\n').count() < expected {
            text.push_str(std::str::from_utf8(&lines.recv().await.unwrap()).unwrap());
        }
        let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(
            (
                &first["stage"],
                &first["stream"],
                &first["seq"],
                &first["data"]
            ),
            (&"raw".into(), &"chat.say".into(), &0.into(), &7.into())
        );
        let told: Vec<_> = text.lines().filter(|line| line.contains("lost")).collect();
        assert_eq!(told, [format!("{{\"lost\":{}}}", 3000 - AHEAD)]);
        drop(lines);
        // The writer's task has to notice first.
        while !tap.readers().iter().all(|reader| reader.queue.is_closed()) {
            tokio::task::yield_now().await;
        }
        show(&tap, "chat.say", 1);
        assert!(!tap.is_open(Stage::Raw));
    }

    #[tokio::test]
    async fn readers_are_bounded_and_end_with_their_count() {
        let tap = Tap::default();
        let mut readers = Vec::new();
        for _ in 0..READERS_MAX {
            readers.push(tap.read(wanted("*", 2)).unwrap());
        }
        let refused = tap.read(wanted("*", 2));
        assert!(matches!(refused, Err(TailError::TooMany { .. })));
        for seq in 0..5 {
            show(&tap, "a", seq);
        }
        for reader in &mut readers {
            assert!(reader.recv().await.is_some() && reader.recv().await.is_some());
            assert_eq!(reader.recv().await, None);
        }
        assert!(tap.read(wanted("*", 2)).is_ok());
    }
}
