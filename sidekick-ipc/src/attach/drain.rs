//! Draining: ring and spill merged by number, damage put aside.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Acquire;

use super::{Attachment, ReaderCheckpoint};
use crate::frame::{
    FLAG_MORE, FRAGMENT_BYTES, FRAME_HEADER_BYTES, FrameHeader, FrameKind, Hole, append_frame,
    hole_cause, is_reserved_record,
};
use crate::layout;
use crate::region::Region;
use crate::request::request_frames_bytes;
use crate::ring::RingError;
use crate::sys;
use crate::tree::codec::REQUEST_PAYLOAD_BYTES_MAX;

/// A frame that claims to be so many numbers ahead is damage, however right its checksum is.
const SEQ_JUMP_MAX: u64 = 1 << 40;
/// Copies of damaged files in `quarantine/`, over all sessions.
const QUARANTINE_FILES_MAX: usize = 8;

/// What one call of [`Attachment::drain`] gave.
#[derive(Debug, PartialEq)]
pub struct Drained {
    /// Number of the first frame, which is also the number that was expected.
    pub first_seq: u64,
    /// Numbers covered: one per frame, and what hole frames stand for. 0: nothing was there.
    pub count: u64,
    /// To be committed together with the frames.
    pub checkpoint: ReaderCheckpoint,
    /// Of `count`, how many numbers are lost: what hole frames stand for.
    pub lost: u64,
    /// The first damage that was met, if any.
    pub corruption: Option<Corruption>,
    /// More may be had at once: it stopped at `max_bytes` or at another limit of one call.
    pub more: bool,
}

/// Damaged bytes in a ring. A hole frame takes the place of what is lost, as soon as a later frame tells how much.
#[derive(Clone, Debug, PartialEq)]
pub struct Corruption {
    /// What is wrong.
    pub error: RingError,
    /// Where a copy of the file lies, if this was the first damage in it and there was room.
    pub quarantine: Option<PathBuf>,
}

/// Why nothing can be drained.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// Somebody truncated the file; what was in it is gone.
    #[error(
        "ring file {path:?} was truncated while it was in use; its records are lost from number {next_seq} on"
    )]
    Truncated {
        /// Which file.
        path: PathBuf,
        /// The first number that is lost.
        next_seq: u64,
    },
    /// A spill file cannot be read. Try again later.
    #[error("spill file {number} of ring {path:?} cannot be read: {source}")]
    Spill {
        /// Which ring.
        path: PathBuf,
        /// Which spill file.
        number: u32,
        /// Why.
        source: io::Error,
    },
}

/// After so much damage in one call it returns, so that a hostile writer cannot keep the thread busy.
const DAMAGE_PER_CALL_MAX: u32 = 64;
/// Frames per call: what a ring can hold of the smallest (32 bytes), and again as many for the spill.
const fn steps_max(ring_bytes: u64) -> u64 {
    ring_bytes / 16
}

enum Step {
    Took,
    Nothing,
}

/// Damage met in one call.
#[derive(Default)]
struct Damage {
    first: Option<Corruption>,
    count: u32,
}

impl Attachment {
    /// Appends complete, checked frames to `out`, ring and spill merged by number, about `max_bytes` at most (but at
    /// least one frame if there is one, so up to one frame more). The frames of one value stay together: it goes on to
    /// the last of them, up to [`REQUEST_PAYLOAD_BYTES_MAX`] (and its headers) beyond `max_bytes`; a value of more frames than an engine
    /// makes is cut there, and goes on with the next call.
    ///
    /// Frames are given out once; after a failed commit call [`Attachment::resume`] and drain again.
    ///
    /// # Errors
    /// [`DrainError`]. What was appended to `out` before is good and stays to be drained again after a `resume`; `out`
    /// itself is as it was.
    pub fn drain(&mut self, out: &mut Vec<u8>, max_bytes: usize) -> Result<Drained, DrainError> {
        let (start, first_seq) = (out.len(), self.next_seq);
        // SYNC: before the look at the files, so that what is spilled after that look is seen by `has_more`.
        self.spill_seq_seen = self.mapping.load(layout::P_SPILL_SEQ, Acquire);
        let lost_before = self.lost;
        let (before, mut damage) = (self.checkpoint(), Damage::default());
        let mut more = true;
        let mut steps_left = steps_max(self.info.ring_bytes);
        let max_bytes = max_bytes.max(1);
        let longest = request_frames_bytes(REQUEST_PAYLOAD_BYTES_MAX, FRAGMENT_BYTES);
        let max_bytes_amid = max_bytes.saturating_add(longest);
        let has_room = |out: &Vec<u8>, is_amid_value: bool| {
            let max = if is_amid_value {
                max_bytes_amid
            } else {
                max_bytes
            };
            out.len().saturating_sub(start) < max
        };
        while has_room(out, self.is_amid_value)
            && damage.count < DAMAGE_PER_CALL_MAX
            && steps_left > 0
        {
            steps_left = steps_left.wrapping_sub(1);
            match self.step(out, &mut damage) {
                Ok(Step::Took) => {}
                Ok(Step::Nothing) => {
                    more = false;
                    break;
                }
                Err(source) => {
                    if self.next_seq != first_seq {
                        // What came before it is good; the error comes again at the next call.
                        break;
                    }
                    let (path, number) = (self.name.path.clone(), before.spill_file);
                    return Err(DrainError::Spill {
                        path,
                        number,
                        source,
                    });
                }
            }
        }
        let count = self.next_seq.wrapping_sub(first_seq);
        if self.mapping.is_lost() {
            if count == 0 {
                let (path, next_seq) = (self.name.path.clone(), self.next_seq);
                return Err(DrainError::Truncated { path, next_seq });
            }
            more = true;
        }
        Ok(Drained {
            first_seq,
            count,
            // Damage is met again by a successor, until a frame behind it is committed: or who comes after us would
            // not know that the end is unknown.
            checkpoint: self.damaged_from.unwrap_or_else(|| self.checkpoint()),
            lost: self.lost.wrapping_sub(lost_before),
            corruption: damage.first,
            more,
        })
    }

    fn step(&mut self, out: &mut Vec<u8>, met: &mut Damage) -> io::Result<Step> {
        let header = match self.consumer.peek() {
            Ok(header) => header,
            Err(error) => return Ok(self.on_damage(error, met)),
        };
        match header {
            Some(header) if header.seq == self.next_seq => match self.consumer.take(header, out) {
                Ok(()) => {
                    self.took(header, out);
                    Ok(Step::Took)
                }
                Err(error) => Ok(self.on_damage(error, met)),
            },
            Some(header) => self.step_out_of_turn(header, out, met),
            None => self.step_spill(out),
        }
    }

    /// The ring's next frame is not the next one: it is in the spill, or lost, or this one is old.
    fn step_out_of_turn(
        &mut self,
        header: FrameHeader,
        out: &mut Vec<u8>,
        met: &mut Damage,
    ) -> io::Result<Step> {
        // Before anything is believed of it: is it a frame?
        let (start, position) = (out.len(), self.consumer.position());
        if let Err(error) = self.consumer.take(header, out) {
            return Ok(self.on_damage(error, met));
        }
        if header.seq < self.next_seq {
            // Committed already; the checkpoint was older than the number.
            out.truncate(start);
            return Ok(Step::Took);
        }
        if header.seq.wrapping_sub(self.next_seq) > SEQ_JUMP_MAX {
            out.truncate(start);
            let (found, expected) = (header.seq, self.next_seq);
            return Ok(self.on_damage(
                RingError::Seq {
                    position,
                    found,
                    expected,
                },
                met,
            ));
        }
        // The spill file was written before this frame was committed, so what is missing is there by now, or nowhere.
        out.truncate(start);
        self.consumer.seek(position);
        if let Some(spilled) = self.peek_spill()? {
            if spilled.seq == self.next_seq {
                self.take_spill(spilled, out);
                return Ok(Step::Took);
            }
            self.hole_until(header.seq.min(spilled.seq), header.monotonic_ns, out);
        } else {
            self.hole_until(header.seq, header.monotonic_ns, out);
        }
        Ok(Step::Took)
    }

    fn step_spill(&mut self, out: &mut Vec<u8>) -> io::Result<Step> {
        let Some(spilled) = self.peek_spill()? else {
            return Ok(Step::Nothing);
        };
        if spilled.seq == self.next_seq {
            self.take_spill(spilled, out);
            return Ok(Step::Took);
        }
        // The ring was empty when it was looked at; what comes before the spilled frame may have come since.
        if let Ok(Some(_)) = self.consumer.peek() {
            return Ok(Step::Took);
        }
        if spilled.seq.wrapping_sub(self.next_seq) <= SEQ_JUMP_MAX {
            self.hole_until(spilled.seq, spilled.monotonic_ns, out);
        } else {
            // Cannot be in order in a file that is only appended to; leave the rest of it.
            return Ok(Step::Nothing);
        }
        Ok(Step::Took)
    }

    /// The spill's next frame; steps over those that are committed already.
    fn peek_spill(&mut self) -> io::Result<Option<FrameHeader>> {
        // SYNC: pairs with the Release store in `Session::spill`: before the reads of the files.
        let end = self.mapping.load(layout::P_SPILL_END, Acquire);
        let end = u32::try_from(end).unwrap_or(u32::MAX);
        while let Some(header) = self.spill.peek(end)? {
            if header.seq >= self.next_seq && FrameKind::is_uplink(header.kind) {
                return Ok(Some(header));
            }
            self.spill.take(header, &mut Vec::new());
        }
        Ok(None)
    }

    fn take_spill(&mut self, header: FrameHeader, out: &mut Vec<u8>) {
        self.spill.take(header, out);
        self.took(header, out);
    }

    /// The next frame stands at the end of `out`.
    fn took(&mut self, header: FrameHeader, out: &mut Vec<u8>) {
        self.damaged_from = None;
        self.is_amid_value = FrameKind::is_request(header.kind) && header.flags & FLAG_MORE != 0;
        let start = out.len().saturating_sub(header.frame_bytes());
        let payload = out.get(start.saturating_add(FRAME_HEADER_BYTES)..);
        if is_reserved_record(header.kind, payload.unwrap_or_default()) {
            // No library writes it: it would pass for our own word at the backend.
            out.truncate(start);
            self.hole_cause = hole_cause::RESERVED;
            self.hole_until(self.next_seq.wrapping_add(1), header.monotonic_ns, out);
        } else {
            self.next_seq = self.next_seq.wrapping_add(1);
        }
        self.hole_cause = hole_cause::SPILL;
    }

    /// Puts a hole in the place of the numbers before `seq`.
    fn hole_until(&mut self, seq: u64, monotonic_ns: u64, out: &mut Vec<u8>) {
        let count = seq.saturating_sub(self.next_seq);
        if count == 0 {
            return;
        }
        let mut payload = Vec::with_capacity(Hole::BYTES);
        Hole {
            count,
            cause: self.hole_cause,
        }
        .encode(&mut payload);
        let kind = FrameKind::Hole as u16;
        append_frame(
            out,
            &self.info.epoch,
            kind,
            self.next_seq,
            monotonic_ns,
            &payload,
        );
        self.next_seq = seq;
        self.is_amid_value = false;
        self.lost = self.lost.saturating_add(count);
    }

    /// Puts a copy of the file aside, asks for a new one, and looks for the next good frame.
    fn on_damage(&mut self, error: RingError, met: &mut Damage) -> Step {
        let tail = self.mapping.load(layout::P_TAIL, Acquire);
        if self.broken_tail == Some(tail) {
            return Step::Nothing;
        }
        let before = self.checkpoint();
        self.damaged_from.get_or_insert(before);
        met.count = met.count.saturating_add(1);
        if met.first.is_none() {
            let quarantine = if self.quarantined {
                None
            } else {
                self.quarantine().ok().flatten()
            };
            self.quarantined = true;
            met.first = Some(Corruption { error, quarantine });
        }
        self.controls()
            .set_rotate_to(self.info.rotation.saturating_add(1));
        self.hole_cause = hole_cause::CORRUPT;
        let next = self.next_seq;
        let found = self
            .consumer
            .resync(|seq| seq >= next && seq.wrapping_sub(next) <= SEQ_JUMP_MAX);
        if !found && self.consumer.tail().is_err() {
            self.broken_tail = Some(tail);
            return Step::Nothing;
        }
        Step::Took
    }

    fn quarantine(&self) -> io::Result<Option<PathBuf>> {
        if self.mapping.is_lost() {
            return Ok(None);
        }
        let dir = self.dir.subdir("quarantine")?;
        if std::fs::read_dir(dir.path())?.count() >= QUARANTINE_FILES_MAX {
            return Ok(None);
        }
        let stem = self
            .name
            .path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or("ring");
        let name = format!("{stem}.{}", sys::monotonic_ns());
        let copy = dir.create_new(&name)?;
        if let Err(error) = copy_file(&self.file, copy, self.mapping.bytes() as u64) {
            dir.remove(&name)?;
            return Err(error);
        }
        Ok(Some(dir.path().join(name)))
    }
}

fn copy_file(from: &File, mut to: File, bytes_max: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < bytes_max {
        let bytes = sys::read_at(from, &mut buffer, at)?;
        if bytes == 0 {
            break;
        }
        to.write_all(buffer.get(..bytes).unwrap_or_default())?;
        at = at.saturating_add(bytes as u64);
    }
    Ok(())
}
