//! Slabs to lines: what a backend reads.
//!
//! [`Walk`] goes through a slab's frames and checks each again (crc, sequence); what is damaged or missing comes out as
//! an item of its own, so that nothing is lost in silence and nothing blocks. [`LineWriter`] writes an item as one line
//! of NDJSON. Both are pure functions of the slab's bytes: the same slab gives the same lines for ever, or else
//! [`ENCODER_VERSION`] goes up and the old version stays while plans name it (CORRECTNESS rule 16).

use std::borrow::Cow;
use std::io::Write;

use sidekick_ipc::frame::{FrameKind, Gap, Hole, Record, frames, gap_cause, hole_cause};

use super::plan::lane_of;
use crate::books::{DROPPED_AGGREGATED, DROPPED_BEFORE_STORING, DROPPED_DUPLICATE};
use crate::slab::{Slab, SlabHead};

/// Version of the NDJSON form.
pub const ENCODER_VERSION: u32 = 1;

/// The stream of lines that tell of records which are not there.
pub const GAP_STREAM: &str = "sidekick.gap";

/// One thing to tell the backend.
#[derive(Debug)]
pub struct Item<'a> {
    /// Its sequence number: the frame's own, or the first of those that are lost.
    pub seq: u64,
    /// The engine's monotonic clock, ns. Of something lost: that of the last good frame before it in the slab.
    pub monotonic_ns: u64,
    /// What it is.
    pub what: What<'a>,
}

/// What an [`Item`] is.
#[derive(Debug)]
pub enum What<'a> {
    /// A record.
    Record(Record<'a>),
    /// The engine refused records (they have no sequence numbers).
    Refused(Gap),
    /// Sequence numbers whose records are lost.
    Lost {
        /// How many, from [`Item::seq`] on.
        count: u64,
        /// Why, for the backend to read.
        cause: Cow<'static, str>,
        /// The stream of the one record that is lost, where that is known.
        stream: Option<&'a str>,
    },
    /// Sequence numbers whose records the operator's rules left out before a batch was made. No row tells of them.
    Dropped {
        /// How many, from [`Item::seq`] on.
        count: u64,
        /// What they are counted under.
        reason: &'static str,
    },
    /// The session ended here as far as anybody knows; what its ring still held is unknown. Has a number of its own.
    TailUnknown,
}

impl Item<'_> {
    /// How many sequence numbers it stands for.
    pub fn numbers(&self) -> u64 {
        match &self.what {
            What::Lost { count, .. } | What::Dropped { count, .. } => *count,
            What::Record(_) | What::Refused(_) | What::TailUnknown => 1,
        }
    }

    /// The stream that its row belongs to.
    pub fn stream(&self) -> &str {
        match &self.what {
            What::Record(record) => record.stream,
            What::Refused(_) | What::Lost { .. } | What::Dropped { .. } | What::TailUnknown => {
                GAP_STREAM
            }
        }
    }

    /// The lane among `lanes` that this item belongs to.
    pub fn lane(&self, lanes: u32) -> u32 {
        match &self.what {
            What::Record(record) => lane_of(record.stream, lanes),
            What::Lost {
                stream: Some(stream),
                ..
            } => lane_of(stream, lanes),
            What::Refused(_) | What::Lost { .. } | What::Dropped { .. } | What::TailUnknown => {
                lane_of(GAP_STREAM, lanes)
            }
        }
    }

    /// Whether a row tells of it.
    pub fn has_row(&self) -> bool {
        !matches!(self.what, What::Dropped { .. })
    }
}

/// Where a [`Walk`] stands; cheap to copy, to go back by one item.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    offset: usize,
    /// Where the frame of the last item begins; the end of the frames where it has none.
    frame: usize,
    next_seq: u64,
    monotonic_ns: u64,
}

/// A walk through the items of one slab.
#[derive(Debug)]
pub struct Walk {
    slab: Slab,
    mark: Mark,
}

impl Walk {
    /// Stands before the first item of `slab`.
    pub fn new(slab: Slab) -> Self {
        let mark = Mark {
            offset: 0,
            frame: 0,
            next_seq: slab.head.first_seq,
            monotonic_ns: 0,
        };
        Self { slab, mark }
    }

    /// Whose frames these are.
    pub fn head(&self) -> &SlabHead {
        &self.slab.head
    }

    /// Where the walk stands.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The frame that the last item came from; empty where there was none, or none that is whole.
    pub fn frame(&self) -> &[u8] {
        let frame = self.slab.frames.get(self.mark.frame..self.mark.offset);
        frame.unwrap_or_default()
    }

    /// How many numbers of requests of the game lie between `earlier`, where the walk stood before the last item, and
    /// that item, which has the number `seq`. They are the store's business, and no item tells of them.
    pub fn requests_between(earlier: &Mark, seq: u64) -> u64 {
        seq.saturating_sub(earlier.next_seq)
    }

    /// As [`Walk::requests_between`], at the end of the slab.
    pub fn requests_since(&self, earlier: &Mark) -> u64 {
        Self::requests_between(earlier, self.head().next_seq())
    }

    /// Goes back to where it stood.
    pub fn go_back(&mut self, mark: Mark) {
        self.mark = mark;
    }

    /// The next item; `None` after the last. Sequence numbers rise strictly, and every number that the slab's head
    /// covers is in exactly one item.
    pub fn step(&mut self) -> Option<(&SlabHead, Item<'_>)> {
        let Self {
            slab: Slab {
                head,
                frames: bytes,
            },
            mark,
        } = self;
        let head: &SlabHead = head;
        let end_seq = head.next_seq();
        loop {
            let at = *mark;
            let rest = bytes.get(at.offset..).unwrap_or_default();
            let lost = |count: u64, cause: Cow<'static, str>| {
                let what = What::Lost {
                    count,
                    cause,
                    stream: None,
                };
                Some((
                    head,
                    Item {
                        seq: at.next_seq,
                        monotonic_ns: at.monotonic_ns,
                        what,
                    },
                ))
            };
            // Frames that are gone from here on take the rest of the slab's numbers with them.
            let frame = match frames(rest, &head.epoch).next() {
                Some(Ok(frame)) if frame.header.seq < end_seq => frame,
                other => {
                    mark.offset = bytes.len();
                    mark.frame = bytes.len();
                    mark.next_seq = end_seq;
                    let cause = match other {
                        None => Cow::Borrowed("the slab ends early"),
                        Some(Ok(_)) => Cow::Borrowed("a frame lies beyond its slab"),
                        Some(Err(error)) => Cow::Owned(format!("damaged in the store: {error}")),
                    };
                    let count = end_seq.saturating_sub(at.next_seq);
                    return if count > 0 { lost(count, cause) } else { None };
                }
            };
            let header = frame.header;
            if header.seq > at.next_seq {
                mark.next_seq = header.seq;
                mark.frame = at.offset;
                return lost(
                    header.seq - at.next_seq,
                    Cow::Borrowed("missing in the slab"),
                );
            }
            mark.offset = at.offset.saturating_add(header.frame_bytes());
            mark.frame = at.offset;
            mark.monotonic_ns = header.monotonic_ns;
            let hole = match FrameKind::from_u16(header.kind) {
                Some(FrameKind::Hole) => Hole::parse(frame.payload).ok(),
                _ => None,
            };
            let end = hole.map_or(1, |hole| hole.count.max(1));
            let end = header.seq.saturating_add(end);
            if end <= at.next_seq {
                continue; // Seen before: the part of a repeated slab that apply has cut off.
            }
            // Cut off inside of a hole: what is left of it counts.
            let seq = header.seq.max(at.next_seq);
            if FrameKind::is_request(header.kind) {
                // The store's business, not the backend's.
                mark.next_seq = header.seq.saturating_add(1);
                continue;
            }
            let mut covers = 1;
            let what = match FrameKind::from_u16(header.kind) {
                Some(FrameKind::Record) => Record::parse(frame.payload).map(What::Record),
                Some(FrameKind::Gap) => Gap::parse(frame.payload).map(What::Refused),
                Some(FrameKind::Hole) => Hole::parse(frame.payload).map(|hole| {
                    if hole.cause == hole_cause::TAIL_UNKNOWN {
                        return What::TailUnknown;
                    }
                    covers = end.min(end_seq).saturating_sub(seq).max(1);
                    match drop_reason(hole.cause) {
                        Some(reason) => What::Dropped {
                            count: covers,
                            reason,
                        },
                        None => What::Lost {
                            count: covers,
                            cause: hole_words(hole.cause),
                            stream: Hole::stream(frame.payload),
                        },
                    }
                }),
                Some(FrameKind::Op | FrameKind::Query | FrameKind::Message) | None => {
                    Ok(What::Lost {
                        count: 1,
                        cause: Cow::Owned(format!("frame of unknown kind {}", header.kind)),
                        stream: None,
                    })
                }
            };
            let what = what.unwrap_or_else(|error| What::Lost {
                count: 1,
                cause: Cow::Owned(format!("damaged: {error}")),
                stream: None,
            });
            mark.next_seq = seq.saturating_add(covers);
            let item = Item {
                seq,
                monotonic_ns: header.monotonic_ns,
                what,
            };
            return Some((head, item));
        }
    }
}

/// What records are counted under that a hole of this cause says were left out on purpose.
fn drop_reason(cause: u8) -> Option<&'static str> {
    match cause {
        hole_cause::RULE => Some(DROPPED_BEFORE_STORING),
        hole_cause::DUPLICATE => Some(DROPPED_DUPLICATE),
        hole_cause::AGGREGATED => Some(DROPPED_AGGREGATED),
        _ => None,
    }
}

pub(super) fn hole_words(cause: u8) -> Cow<'static, str> {
    Cow::Borrowed(match cause {
        hole_cause::CORRUPT => "the ring was damaged",
        hole_cause::OVERWRITTEN => "overwritten in the ring before it was read",
        hole_cause::ROTATED => "the ring was rotated before it was whole",
        hole_cause::SPILL => "a spill file is missing or damaged",
        hole_cause::RESERVED => "a record of a stream that only the watchdog may write to",
        hole_cause::ROTTEN => "the log on the disk was damaged",
        hole_cause::RULE => "left out by a rule",
        hole_cause::RULE_FAILED => {
            "not stored: a rule had to change the record and could not read it"
        }
        other => return Cow::Owned(format!("hole of unknown cause {other}")),
    })
}

pub(super) fn gap_words(cause: u8) -> Cow<'static, str> {
    Cow::Borrowed(match cause {
        gap_cause::FULL => "refused by the engine: ring full",
        gap_cause::SPILL_FAILED => "refused by the engine: the spill file could not be written",
        gap_cause::QUOTA => "refused by the engine: the watchdog's disk quota is nearly used up",
        gap_cause::UNKNOWN => "refused by the engine, which died before it told why",
        other => return Cow::Owned(format!("refused by the engine: unknown cause {other}")),
    })
}

/// Writes the items of one lane in the form that a sink takes: NDJSON ([`LineWriter`]) or rows of its own.
///
/// A pure function of the items: the same ones in the same order give the same bytes for ever, or else
/// [`RowWriter::version`] goes up and the old version stays while plans name it (CORRECTNESS rule 16).
pub trait RowWriter: std::fmt::Debug + Send + Sync {
    /// The version of its form. A plan pins it.
    fn version(&self) -> u32;

    /// Appends one row for `item` of the slab with `head` to `out`. Always writes one.
    fn write(&mut self, head: &SlabHead, item: &Item<'_>, out: &mut Vec<u8>) -> Written;
}

/// Writes items as lines. Keeps what successive lines have in common.
#[derive(Debug, Default)]
pub struct LineWriter {
    clock: Clock,
    head: Option<SlabHead>,
    /// `{"source":…,"epoch":…,"seq":`
    before_seq: Vec<u8>,
    /// `,"incarnation":…,"data":`
    before_data: Vec<u8>,
}

/// What a [`RowWriter`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// A record.
    Record,
    /// A line that tells of refused or lost records.
    Gap,
    /// A line in place of a record whose value cannot be decoded.
    Undecodable,
}

impl RowWriter for LineWriter {
    fn version(&self) -> u32 {
        ENCODER_VERSION
    }

    /// One line, with its line feed.
    fn write(&mut self, head: &SlabHead, item: &Item<'_>, out: &mut Vec<u8>) -> Written {
        self.prepare(head);
        let start = out.len();
        let written = match &item.what {
            What::Record(record) => {
                self.write_until_data(head, item, record.stream, out);
                match sidekick_ipc::value::write_json(record.variant, out) {
                    Ok(()) => Written::Record,
                    Err(error) => {
                        out.truncate(start);
                        self.write_until_data(head, item, GAP_STREAM, out);
                        write_lost(
                            out,
                            item.seq,
                            1,
                            &format!("undecodable: {error}"),
                            Some(record.stream),
                        );
                        Written::Undecodable
                    }
                }
            }
            What::Refused(gap) => {
                self.write_until_data(head, item, GAP_STREAM, out);
                put(
                    out,
                    format_args!(
                        "{{\"count\":{},\"bytes\":{},\"cause\":",
                        gap.count, gap.bytes
                    ),
                );
                put_string(out, &gap_words(gap.cause));
                out.extend_from_slice(b",\"first_time\":\"");
                self.clock
                    .write(realtime_ns(head, gap.first_monotonic_ns), out);
                out.extend_from_slice(b"\",\"last_time\":\"");
                self.clock
                    .write(realtime_ns(head, gap.last_monotonic_ns), out);
                out.extend_from_slice(b"\"}");
                Written::Gap
            }
            What::Lost {
                count,
                cause,
                stream,
            } => {
                self.write_until_data(head, item, GAP_STREAM, out);
                write_lost(out, item.seq, *count, cause, *stream);
                Written::Gap
            }
            // Never asked for: it has no row.
            What::Dropped { count, .. } => {
                self.write_until_data(head, item, GAP_STREAM, out);
                write_lost(out, item.seq, *count, &hole_words(hole_cause::RULE), None);
                Written::Gap
            }
            What::TailUnknown => {
                self.write_until_data(head, item, GAP_STREAM, out);
                put(
                    out,
                    format_args!(
                        "{{\"count\":null,\"first_seq\":{},\"last_seq\":null,\"cause\":\"tail unknown\"}}",
                        item.seq
                    ),
                );
                Written::Gap
            }
        };
        out.extend_from_slice(b"}\n");
        written
    }
}

impl LineWriter {
    fn prepare(&mut self, head: &SlabHead) {
        let same = self.head.as_ref().is_some_and(|known| {
            known.epoch == head.epoch
                && known.incarnation == head.incarnation
                && known.source == head.source
        });
        if same {
            return;
        }
        self.before_seq.clear();
        self.before_seq.extend_from_slice(b"{\"source\":");
        put_string(&mut self.before_seq, &head.source);
        put(
            &mut self.before_seq,
            format_args!(",\"epoch\":\"{}\",\"seq\":", head.epoch),
        );
        self.before_data.clear();
        put(
            &mut self.before_data,
            format_args!("\",\"incarnation\":{},\"data\":", head.incarnation),
        );
        self.head = Some(head.clone());
    }

    fn write_until_data(
        &mut self,
        head: &SlabHead,
        item: &Item<'_>,
        stream: &str,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(&self.before_seq);
        put(out, format_args!("{}", item.seq));
        out.extend_from_slice(b",\"stream\":");
        put_string(out, stream);
        out.extend_from_slice(b",\"time\":\"");
        self.clock.write(realtime_ns(head, item.monotonic_ns), out);
        out.extend_from_slice(&self.before_data);
    }
}

fn write_lost(out: &mut Vec<u8>, first_seq: u64, count: u64, cause: &str, stream: Option<&str>) {
    let last_seq = first_seq.saturating_add(count.saturating_sub(1));
    put(
        out,
        format_args!(
            "{{\"count\":{count},\"first_seq\":{first_seq},\"last_seq\":{last_seq},\"cause\":"
        ),
    );
    put_string(out, cause);
    if let Some(stream) = stream {
        out.extend_from_slice(b",\"stream\":");
        put_string(out, stream);
    }
    out.push(b'}');
}

pub(super) fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a Vec cannot fail.
    let _ = out.write_fmt(text);
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    let plain = text
        .bytes()
        .all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\');
    if plain {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing a str to a Vec cannot fail.
        let _ = serde_json::to_writer(out, text);
    }
}

pub(super) fn realtime_ns(head: &SlabHead, monotonic_ns: u64) -> i128 {
    i128::from(monotonic_ns) + i128::from(head.realtime_offset_ns)
}

/// Writes instants as RFC 3339 in UTC with microseconds, and keeps the last second's text.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: Option<i64>,
    /// `2026-11-22T12:00:00.`
    text: Vec<u8>,
}

impl Clock {
    /// 9999-12-31T23:59:59Z. What lies beyond it, or before 1970, is clamped: the numbers come from the engine.
    const SECOND_MAX: i64 = 253_402_300_799;

    pub(super) fn write(&mut self, realtime_ns: i128, out: &mut Vec<u8>) {
        let micros = realtime_ns
            .div_euclid(1000)
            .clamp(0, i128::from(Self::SECOND_MAX) * 1_000_000);
        let micros = i64::try_from(micros).unwrap_or(0);
        let (second, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
        if self.second != Some(second) {
            let (year, month, day) = civil_from_days(second.div_euclid(86_400));
            let of_day = second.rem_euclid(86_400);
            let (hour, minute, sec) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
            self.text.clear();
            put(
                &mut self.text,
                format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{sec:02}."),
            );
            self.second = Some(second);
        }
        out.extend_from_slice(&self.text);
        put(out, format_args!("{fraction:06}Z"));
    }
}

/// Year, month and day of a number of days since 1970-01-01, not before it (Hinnant's `civil_from_days`).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests;
