//! The watchdog's side of a ring file: attach, drain, release, sleep.
//!
//! Everything that the engine wrote is judged on a private copy. A checkpoint that is committed together with the
//! frames before it is all that a successor needs.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control::Controls;
use crate::frame::{FrameKind, Gap, crc_seed, gap_cause};
use crate::header::{self, HEADER_BYTES, HeaderError, SessionInfo};
use crate::heartbeat::{self, Heartbeat, HeartbeatReader};
use crate::layout::{self, RingLayout};
use crate::message::{Downlink, DownlinkMessage, MESSAGE_BODY_BYTES_MAX};
use crate::name::RingFileName;
use crate::region::{Mapping, Region, Side};
use crate::ring::{Consumer, DRAIN_SLEEP, Producer, SPACE_SLEEP, kick, sleep};
use crate::spill::{self, SpillReader};
use crate::sys::{self, Dir};

mod drain;

pub use drain::{Corruption, DrainError, Drained};

/// Where in a session's ring and spill a reader stands. All that a successor needs to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderCheckpoint {
    /// Which ring file of the session: 0, then one more for each rotation.
    pub rotation: u32,
    /// Byte position in that ring; grows for ever.
    pub ring_position: u64,
    /// Which spill file of the session is being read.
    pub spill_file: u32,
    /// Byte offset in that spill file.
    pub spill_offset: u64,
}

/// Why a ring file cannot be attached to.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The system refused, or it is not a file that only this user can have made.
    #[error(
        "ring file {path:?} cannot be opened: {source}; a game makes it as a plain file of this user alone, so move \
         this one away once its game has ended"
    )]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The header is damaged or of another version.
    #[error("ring file {path:?} is refused: {source}")]
    Header {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: HeaderError,
    },
    /// The file's size is not what its header says.
    #[error(
        "ring file {path:?} has {found} bytes, its header asks for {expected}; move it away once its game has ended"
    )]
    Size {
        /// Which file.
        path: PathBuf,
        /// Bytes there.
        found: u64,
        /// Bytes that the header implies.
        expected: u64,
    },
    /// The header belongs to another name.
    #[error(
        "ring file {path:?} holds launch {launch}, session {epoch}, rotation {rotation}; give it back its own name"
    )]
    Name {
        /// Which file.
        path: PathBuf,
        /// Launch in the header.
        launch: u32,
        /// Session in the header.
        epoch: uuid::Uuid,
        /// Rotation in the header.
        rotation: u32,
    },
}

impl AttachError {
    /// Both version numbers (found, ours) when the two sides speak different protocols.
    pub fn version_mismatch(&self) -> Option<(u16, u16)> {
        match self {
            AttachError::Header {
                source: HeaderError::Version { found, ours, .. },
                ..
            } => Some((*found, *ours)),
            _ => None,
        }
    }

    /// The version of the game's library when it speaks another protocol, if it can be made out.
    pub fn library_version(&self) -> Option<&str> {
        match self {
            AttachError::Header {
                source: HeaderError::Version { library, .. },
                ..
            } => library.as_deref(),
            _ => None,
        }
    }
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The engine has not read enough of the downlink.
    #[error("the downlink is full; the game has not read it for a while")]
    Full,
    /// Larger than a frame can hold.
    #[error("the message has {bytes} bytes, the limit is {MESSAGE_BODY_BYTES_MAX}")]
    TooLarge {
        /// Bytes of the body.
        bytes: usize,
    },
}

#[derive(Debug, Default)]
struct Sleeper {
    poked: AtomicBool,
    asleep: AtomicBool,
}

/// Wakes the thread in [`Attachment::wait`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Waker {
    mapping: Arc<Mapping>,
    sleeper: Arc<Sleeper>,
}

impl Waker {
    /// Ends the wait that is under way, or the next one.
    pub fn wake(&self) {
        // SYNC: Dekker with `Attachment::wait`: `poked` then `asleep` here, `asleep` then `poked` there.
        self.sleeper.poked.store(true, SeqCst);
        // The futex word belongs to the engine and cannot be changed here, so a wake that comes between the
        // sleeper's last look and its sleep would get lost: repeat it until the sleeper was woken or has seen `poked`.
        let mut pause = Duration::from_micros(1);
        while self.sleeper.asleep.load(SeqCst) && self.sleeper.poked.load(SeqCst) {
            // Nobody else sleeps on this word.
            if self.mapping.wake_only(layout::P_WAKE) > 0 {
                return;
            }
            std::thread::sleep(pause);
            pause = pause.saturating_mul(2).min(Duration::from_millis(1));
        }
    }
}

/// A ring file, mapped by the watchdog.
#[derive(Debug)]
pub struct Attachment {
    dir: Arc<Dir>,
    name: RingFileName,
    info: SessionInfo,
    file: std::fs::File,
    mapping: Arc<Mapping>,
    consumer: Consumer<Arc<Mapping>>,
    spill: SpillReader,
    next_seq: u64,
    hole_cause: u8,
    /// Where the reader stood before damage that no good frame has followed yet.
    damaged_from: Option<ReaderCheckpoint>,
    /// The frame taken last is of a value that goes on.
    is_amid_value: bool,
    /// Numbers that stood as holes so far.
    lost: u64,
    quarantined: bool,
    /// A commit word that made no sense and has not changed since.
    broken_tail: Option<u64>,
    spill_deleted_below: u32,
    /// [`layout::P_SPILL_SEQ`] before the last look at the spill files.
    spill_seq_seen: u64,
    downlink: Downlink,
    sleeper: Arc<Sleeper>,
}

impl Attachment {
    /// Opens and maps a ring file, and judges its header. Reads no frame; call [`Attachment::resume`] before that.
    ///
    /// # Errors
    /// [`AttachError`]. The file is as it was.
    pub fn open(name: &RingFileName) -> Result<Attachment, AttachError> {
        let path = || name.path.clone();
        let io_error = |source| AttachError::Io {
            path: path(),
            source,
        };
        let (Some(parent), Some(file_name)) = (
            name.path.parent(),
            name.path.file_name().and_then(|n| n.to_str()),
        ) else {
            return Err(io_error(io::ErrorKind::InvalidFilename.into()));
        };
        let dir = Arc::new(Dir::open(parent).map_err(io_error)?);
        let (file, found) = dir.open_own(file_name, true).map_err(io_error)?;
        let mut bytes = [0; HEADER_BYTES];
        sys::read_at(&file, &mut bytes, layout::H as u64).map_err(io_error)?;
        let info = header::decode(&bytes).map_err(|source| AttachError::Header {
            path: path(),
            source,
        })?;
        if (info.launch, info.epoch, info.rotation) != (name.launch, name.epoch, name.rotation) {
            let SessionInfo {
                launch,
                epoch,
                rotation,
                ..
            } = info;
            return Err(AttachError::Name {
                path: path(),
                launch,
                epoch,
                rotation,
            });
        }
        // The header's size was checked to be a power of two within the limits.
        let file_bytes = layout::file_bytes(info.ring_bytes as usize);
        if found != file_bytes as u64 {
            let expected = file_bytes as u64;
            return Err(AttachError::Size {
                path: path(),
                found,
                expected,
            });
        }
        let mapping = Arc::new(Mapping::open(&file, file_bytes, Side::Watchdog).map_err(io_error)?);
        let seed = crc_seed(&info.epoch);
        let uplink = RingLayout::uplink(info.ring_bytes);
        let consumer = Consumer::new(Arc::clone(&mapping), uplink, seed, 0, FrameKind::is_uplink);
        let spill = SpillReader::new(
            Arc::clone(&dir),
            info.launch,
            info.epoch,
            seed,
            info.spill_first,
        );
        let downlink = Producer::attach(Arc::clone(&mapping), RingLayout::downlink());
        Ok(Attachment {
            dir,
            name: name.clone(),
            next_seq: info.first_seq,
            spill_deleted_below: info.spill_first,
            info,
            file,
            mapping,
            consumer,
            spill,
            hole_cause: crate::frame::hole_cause::ROTATED,
            damaged_from: None,
            is_amid_value: false,
            lost: 0,
            quarantined: false,
            broken_tail: None,
            spill_seq_seen: 0,
            downlink: Downlink::new(downlink, seed),
            sleeper: Arc::default(),
        })
    }

    /// What the header says.
    pub fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// The file's name.
    pub fn name(&self) -> &RingFileName {
        &self.name
    }

    /// Whether the engine process that made the file still holds it. False is a proof, by the kernel: it has died, or
    /// has gone on to the next rotation ([`Heartbeat::rotated`]). Then drain once more: what it committed is there.
    pub fn is_writer_alive(&self) -> bool {
        sys::is_locked_by_other(&self.file)
    }

    /// Stands where the committed state says: `next_seq` is the first number that is not committed, `checkpoint` what
    /// was committed with the one before it. Repairs `ack` and `head`, which the predecessor may not have stored.
    ///
    /// For a session of which nothing is committed: 1 (or 0) and the default checkpoint.
    pub fn resume(&mut self, next_seq: u64, checkpoint: ReaderCheckpoint) {
        self.next_seq = next_seq.max(1);
        self.broken_tail = None;
        self.damaged_from = None;
        self.is_amid_value = false;
        self.hole_cause = crate::frame::hole_cause::ROTATED;
        let (position, spill_file, spill_offset) =
            match checkpoint.rotation.cmp(&self.info.rotation) {
                std::cmp::Ordering::Equal => {
                    let spill_file = checkpoint.spill_file.max(self.info.spill_first);
                    let same = spill_file == checkpoint.spill_file;
                    let offset = if same { checkpoint.spill_offset } else { 0 };
                    (checkpoint.ring_position & !7, spill_file, offset)
                }
                std::cmp::Ordering::Less => (0, self.info.spill_first, 0),
                // A later rotation is being read: all of this one is behind it.
                std::cmp::Ordering::Greater => {
                    let end = self.mapping.load(layout::P_SPILL_END, Acquire);
                    (
                        self.mapping.load(layout::P_TAIL, Acquire) & !7,
                        end as u32,
                        0,
                    )
                }
            };
        let head = self.mapping.load(layout::C_HEAD, Acquire);
        let ahead = head.wrapping_sub(position);
        if ahead > 0 && ahead <= self.info.ring_bytes && head.is_multiple_of(8) {
            // The store is older than what was released (a restored backup): those bytes may be overwritten.
            self.hole_cause = crate::frame::hole_cause::OVERWRITTEN;
            self.consumer.seek(head);
        } else {
            self.consumer.seek(position);
        }
        self.spill.seek(spill_file, spill_offset);
        let checkpoint = self.checkpoint();
        self.release(self.next_seq.saturating_sub(1), &checkpoint);
    }

    /// The last number that any watchdog acknowledged in this file. Ask before [`Attachment::resume`], which stores
    /// what the committed state says: if that is less, the state is older than what was released.
    pub fn acked_seq(&self) -> u64 {
        self.mapping.load(layout::C_ACK_SEQ, Acquire)
    }

    /// Where the reader stands now.
    pub fn checkpoint(&self) -> ReaderCheckpoint {
        let (spill_file, spill_offset) = self.spill.place();
        ReaderCheckpoint {
            rotation: self.info.rotation,
            ring_position: self.consumer.position(),
            spill_file,
            spill_offset,
        }
    }

    /// The next number that [`Attachment::drain`] gives out.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Everything up to `ack_seq` is committed, with `checkpoint`: tells the engine, gives it the space, and deletes
    /// the spill files before the checkpoint's.
    ///
    /// A checkpoint of another rotation, or beyond what was drained, moves nothing but `ack`.
    pub fn release(&mut self, ack_seq: u64, checkpoint: &ReaderCheckpoint) {
        // SYNC: before `head`, so that whoever sees the space sees the acknowledgment.
        self.mapping.store(layout::C_ACK_SEQ, ack_seq, Release);
        let left = self
            .consumer
            .position()
            .wrapping_sub(checkpoint.ring_position);
        if checkpoint.rotation != self.info.rotation || left > self.info.ring_bytes {
            return;
        }
        self.consumer.release(checkpoint.ring_position);
        kick(&self.mapping, SPACE_SLEEP);
        let (at, _) = self.spill.place();
        let below = checkpoint.spill_file.min(at);
        if below > self.spill_deleted_below {
            // What cannot be deleted now goes with the session.
            let _ = self.remove_spill(|number| number < below);
            self.spill_deleted_below = below;
        }
    }

    fn remove_spill(&self, which: impl Fn(u32) -> bool) -> io::Result<()> {
        for number in spill::numbers(&self.dir, self.info.launch, &self.info.epoch)? {
            if which(number) {
                let name = crate::name::spill_name(self.info.launch, &self.info.epoch, number);
                self.dir.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Tells the engine up to which number everything is uploaded.
    pub fn set_uploaded(&self, seq: u64) {
        self.mapping.store(layout::C_UPLOADED_SEQ, seq, Relaxed);
    }

    /// Sleeps until the engine or a [`Waker`] wakes, at most `timeout`; not at all when there is something to drain.
    pub fn wait(&self, timeout: Duration) {
        if timeout.is_zero() {
            return;
        }
        let sleeper = &*self.sleeper;
        // SYNC: Dekker with `Waker::wake`.
        sleeper.asleep.store(true, SeqCst);
        sleep(&self.mapping, DRAIN_SLEEP, timeout, || {
            sleeper.poked.load(SeqCst) || self.has_more()
        });
        sleeper.asleep.store(false, SeqCst);
        // SYNC: a swap, so that what the waker stored before its call is visible to this thread from here on.
        sleeper.poked.swap(false, SeqCst);
    }

    /// Whether ring or spill hold something that was not drained. The engine wakes only for what is new, so what it
    /// told before the sleep must be seen here.
    fn has_more(&self) -> bool {
        let tail = self.mapping.load(layout::P_TAIL, Acquire);
        let in_ring = tail != self.consumer.position() && self.broken_tail != Some(tail);
        // Another value, not a larger one: whatever a hostile engine stores there once, it keeps nobody awake.
        in_ring || self.mapping.load(layout::P_SPILL_SEQ, Acquire) != self.spill_seq_seen
    }

    /// What to add to a frame's monotonic nanoseconds for nanoseconds since the Unix epoch: as the engine saw the two
    /// clocks within about the last second, so a set clock shows in the records that follow it.
    pub fn realtime_offset_ns(&self) -> i64 {
        self.mapping
            .load(layout::P_REALTIME_OFFSET_NS, Relaxed)
            .cast_signed()
    }

    /// A handle that wakes the thread in [`Attachment::wait`].
    pub fn waker(&self) -> Waker {
        Waker {
            mapping: Arc::clone(&self.mapping),
            sleeper: Arc::clone(&self.sleeper),
        }
    }

    /// The engine's heartbeat words now.
    pub fn heartbeat(&self) -> Heartbeat {
        heartbeat::read(&self.mapping)
    }

    /// A handle for reading heartbeats in another thread.
    pub fn heartbeats(&self) -> HeartbeatReader {
        HeartbeatReader(Arc::clone(&self.mapping))
    }

    /// A handle for the control words.
    pub fn controls(&self) -> Controls {
        Controls(Arc::clone(&self.mapping))
    }

    /// Sends a message to the engine; see [`Downlink::send`].
    ///
    /// # Errors
    /// [`SendError`]: nothing was sent.
    pub fn send(&self, message: &DownlinkMessage) -> Result<(), SendError> {
        self.downlink.send(message)
    }

    /// A handle for messages to the engine.
    pub fn downlink(&self) -> Downlink {
        self.downlink.clone()
    }

    /// Whether a dead engine's file may have held more than could be read: damage that no good frame follows, a spill
    /// file that is gone, a rotation that ended too early. Ask when [`Attachment::drain`] gives nothing more.
    pub fn is_tail_unknown(&self) -> bool {
        self.damaged_from.is_some()
            || self.broken_tail.is_some()
            || self.mapping.is_lost()
            || self.info.first_seq > self.next_seq
            || self.mapping.load(layout::P_SPILL_SEQ, Acquire) >= self.next_seq
    }

    /// What the engine refused and could not tell of in a gap frame before it died: one gap for each cause. The engine's
    /// word, like all that it tells. To be asked when everything is drained: what a frame tells that was drained is not
    /// told again, though the engine was killed before it could note that.
    pub fn untold_refusals(&self) -> Vec<Gap> {
        let causes = [gap_cause::FULL, gap_cause::SPILL_FAILED, gap_cause::QUOTA];
        let gap = |(at, cause): (usize, u8)| {
            let word = |offset| self.mapping.load(at.saturating_add(offset), Relaxed);
            Gap {
                count: word(0),
                bytes: word(8),
                first_monotonic_ns: word(16),
                last_monotonic_ns: word(24),
                cause,
            }
        };
        let (mut gaps, mut in_frames) = (Vec::new(), 0_u64);
        let words = layout::P_UNTOLD.into_iter().zip(causes).map(gap);
        for (gap, told_in) in words.zip(layout::P_UNTOLD_TOLD_IN) {
            let told_in = self.mapping.load(told_in, Relaxed);
            if told_in > 0 && told_in < self.next_seq {
                in_frames = in_frames.saturating_add(gap.count);
            } else if gap.count > 0 {
                gaps.push(gap);
            }
        }
        let beat = self.heartbeat();
        let untold = beat.refused_count.saturating_sub(beat.refused_told);
        let count = untold.saturating_sub(in_frames);
        // Killed amid its words, or of a library that does not tell the causes.
        if gaps.is_empty() && count > 0 {
            gaps.push(Gap {
                count,
                first_monotonic_ns: beat.monotonic_ns,
                last_monotonic_ns: beat.monotonic_ns,
                cause: gap_cause::UNKNOWN,
                ..Gap::default()
            });
        }
        gaps
    }

    /// After the session's end (or this rotation's) is committed: deletes the ring file and its spill files.
    ///
    /// # Errors
    /// As the system gives them; call it again after a later [`Attachment::open`].
    pub fn finish(self) -> io::Result<()> {
        let rotated = self.heartbeat().rotated;
        let end = self.mapping.load(layout::P_SPILL_END, Acquire);
        // The next rotation's spill files stay. The ring goes last: as long as it is there, this is done again.
        self.remove_spill(|number| !rotated || u64::from(number) < end)?;
        match self.name.path.file_name().and_then(|n| n.to_str()) {
            Some(name) => self.dir.remove(name),
            None => Ok(()),
        }
    }
}
