//! Entries of all that can ride in them, damaged anywhere: what comes back is what was written, but for what the damage lies in.

use sidekick_ipc::frame::Gap;
use uuid::Uuid;

use super::*;
use crate::slab::RingCheckpoint;

/// A frame as it was written.
#[derive(Clone, Debug)]
struct Written {
    /// Its bytes in the entry.
    bytes: Range<usize>,
    /// So many of them have a crc; what follows is padding.
    covered: usize,
    seq: u64,
    end_seq: u64,
    kind: FrameKind,
    stream: &'static str,
}

struct Entry {
    payload: Vec<u8>,
    heads_end: usize,
    frames: Vec<Written>,
    /// Payloads of ops, in the entry.
    ops: Vec<Range<usize>>,
}

const STREAMS: [&str; 3] = ["a", "damage", "player.moved"];

/// What can ride in a slab: mostly records.
fn payload_of(
    kind: FrameKind,
    stream: &str,
    are_equal: bool,
    random: &mut fastrand::Rng,
) -> Vec<u8> {
    let mut payload = Vec::new();
    match kind {
        FrameKind::Record => {
            Record::encode_head(stream, &mut payload);
            // A nil takes four bytes.
            let len = 4 + 4 * random.usize(0..40);
            payload.extend((0..len).map(|_| random.u8(..)));
            if are_equal {
                // A flipped bit of the length leads from one frame of 64 bytes to another one.
                payload.resize(32, 0);
            }
        }
        FrameKind::Gap => Gap::default().encode(&mut payload),
        FrameKind::Hole => Hole {
            count: random.u64(1..4),
            cause: hole_cause::SPILL,
        }
        .encode(&mut payload),
        _ => payload.extend((0..random.usize(9..200)).map(|_| random.u8(..))),
    }
    payload
}

fn entry(random: &mut fastrand::Rng) -> Entry {
    let (mut commands, mut all, mut frames) = (Vec::new(), Vec::new(), Vec::new());
    let mut at = 0;
    let mut ops_in_entry = Vec::new();
    let are_equal = random.bool();
    for number in 0..random.u128(1..4) {
        let epoch = Uuid::from_u128(number);
        let (mut bytes, mut ops) = (Vec::new(), Vec::new());
        let first_seq = random.u64(1..1000);
        let mut seq = first_seq;
        let has_ops = random.bool();
        for _ in 0..random.usize(1..12) {
            let kind = match random.u8(0..16) {
                0 => FrameKind::Gap,
                1 => FrameKind::Hole,
                2 => FrameKind::Query,
                3 if has_ops => FrameKind::Op,
                _ => FrameKind::Record,
            };
            let stream = STREAMS[random.usize(..STREAMS.len())];
            let payload = payload_of(kind, stream, are_equal, random);
            let from = bytes.len();
            append_frame(&mut bytes, &epoch, kind as u16, seq, seq * 10, &payload);
            let end_seq = match kind {
                FrameKind::Hole => seq + Hole::parse(&payload).unwrap().count,
                _ => seq + 1,
            };
            if kind == FrameKind::Op {
                let offset = from + FRAME_HEADER_BYTES;
                ops.push(OpAt {
                    last_seq: seq,
                    fragments: vec![(offset as u32, payload.len() as u32)],
                });
                ops_in_entry.push(at + offset..at + offset + payload.len());
            }
            frames.push(Written {
                bytes: at + from..at + bytes.len(),
                covered: FRAME_HEADER_BYTES + payload.len(),
                seq,
                end_seq,
                kind,
                stream,
            });
            seq = end_seq;
        }
        at += bytes.len();
        let head = SlabHead {
            source: "s".to_owned(),
            epoch,
            incarnation: 1,
            realtime_offset_ns: 5,
            first_seq,
            count: seq - first_seq,
            checkpoint: RingCheckpoint::default(),
        };
        let frames_bytes = bytes.len() as u32;
        commands.push(match ops.is_empty() {
            true => Command::Append { head, frames_bytes },
            false => Command::AppendOps {
                head,
                frames_bytes,
                ops,
                time_ns: 1,
            },
        });
        all.push(bytes.into());
    }
    let payload = Batch::encode(&commands, &all).unwrap().bytes().to_vec();
    let heads_end = Batch::heads_end(&payload);
    let shift = |range: &Range<usize>| range.start + heads_end..range.end + heads_end;
    for frame in &mut frames {
        frame.bytes = shift(&frame.bytes);
    }
    let ops = ops_in_entry.iter().map(shift).collect();
    Entry {
        payload,
        heads_end,
        frames,
        ops,
    }
}

/// A lane has more of the entry than was written down.
const AMID: Standing = Standing {
    is_anybodys: false,
    is_fresh: false,
    is_applied: false,
};
const FRESH: Standing = Standing {
    is_anybodys: true,
    is_fresh: true,
    is_applied: false,
};

impl Written {
    fn covered(&self) -> Range<usize> {
        self.bytes.start..self.bytes.start + self.covered
    }

    fn is_hit(&self, hit: &Range<usize>) -> bool {
        let covered = self.covered();
        covered.start < hit.end && covered.end > hit.start
    }
}

/// What is wrong with what was made of `entry` after these bytes of it were damaged.
fn complaint(
    entry: &Entry,
    hit: &Range<usize>,
    standing: Standing,
    salvaged: &Salvaged,
) -> Option<String> {
    let mended = &salvaged.payload;
    if mended.len() != entry.payload.len() {
        return Some("it has another length".to_owned());
    }
    let is_op_hit = entry
        .ops
        .iter()
        .any(|op| op.start < hit.end && op.end > hit.start);
    if is_op_hit && salvaged.is_applicable {
        return Some("a damaged op is applied".to_owned());
    }
    let slabs = Batch::from_bytes(mended.clone()).slabs().unwrap();
    let mut at = entry.heads_end;
    let mut written = entry.frames.iter().peekable();
    for (_, slab) in slabs {
        for frame in frames(&slab.frames, &slab.head.epoch) {
            let Ok(frame) = frame else {
                return Some("a frame is damaged".to_owned());
            };
            let end = at + frame.header.frame_bytes();
            let here: Vec<_> =
                std::iter::from_fn(|| written.next_if(|frame| frame.bytes.end <= end)).collect();
            at = end;
            let is_hit = here.iter().any(|frame| frame.is_hit(hit));
            let (Some(first), Some(last)) = (here.first(), here.last()) else {
                return Some("frames begin elsewhere".to_owned());
            };
            if !is_hit {
                if here.len() != 1 || mended[first.covered()] != entry.payload[first.covered()] {
                    return Some(format!("an intact frame is another one: {first:?}"));
                }
                continue;
            }
            let hole = Hole::parse(frame.payload).unwrap();
            let is_told = frame.header.kind == FrameKind::Hole as u16
                && hole.cause == hole_cause::ROTTEN
                && (frame.header.seq, frame.header.seq + hole.count) == (first.seq, last.end_seq);
            if !is_told {
                return Some(format!("{here:?} is told as {hole:?}"));
            }
            let stream = Hole::stream(frame.payload);
            if let Some(stream) = stream
                && (here.len() > 1 || first.kind != FrameKind::Record || first.stream != stream)
            {
                return Some(format!("{here:?} is told to be of {stream}"));
            }
            if !standing.is_anybodys && stream.is_none() {
                return Some(format!("nobody knows whose lane tells of {here:?}"));
            }
            if !standing.is_fresh && (here.len() > 1 || first.kind != FrameKind::Record) {
                return Some("items may be elsewhere".to_owned());
            }
            // One byte costs one frame, whatever it says of its length.
            if hit.len() == 1 && here.len() > 1 {
                return Some(format!("a byte costs {here:?}"));
            }
        }
    }
    None
}

/// Damages entries by chance, `len` bytes each. How many were salvaged of those hit in their frames, and the first complaint.
fn damage(len: usize, standing: Standing) -> (usize, usize, Option<String>) {
    let mut random = fastrand::Rng::with_seed(len as u64);
    let (mut salvaged, mut hit_frames) = (0, 0);
    for round in 0..4000 {
        let entry = entry(&mut random);
        let from = random.usize(..entry.payload.len());
        let hit = from..(from + len).min(entry.payload.len());
        let mut payload = entry.payload.clone();
        for byte in &mut payload[hit.clone()] {
            *byte ^= random.u8(1..);
        }
        let made = salvage(&payload, standing);
        // The fold, which nobody looks at here, lies before the heads.
        let is_fold = hit.start >= 8 && hit.end <= 16;
        if hit.start < entry.heads_end && !is_fold {
            assert!(made.is_none(), "round {round}: the commands are damaged");
            continue;
        }
        hit_frames += 1;
        let Some(made) = made else { continue };
        salvaged += 1;
        if let Some(complaint) = complaint(&entry, &hit, standing, &made) {
            return (
                salvaged,
                hit_frames,
                Some(format!("round {round}: {complaint}")),
            );
        }
    }
    (salvaged, hit_frames, None)
}

#[test]
fn a_byte_costs_one_record_and_nothing_moves() {
    for standing in [AMID, FRESH] {
        let (salvaged, hit, complaint) = damage(1, standing);
        println!("{salvaged} of {hit} entries are salvaged, {standing:?}");
        assert_eq!(complaint, None);
        assert!(salvaged * 2 > hit);
    }
}

#[test]
fn many_bytes_cost_the_records_that_they_lie_in() {
    for len in [16, 512] {
        for standing in [AMID, FRESH] {
            let (salvaged, hit, complaint) = damage(len, standing);
            println!("{len} bytes: {salvaged} of {hit} entries are salvaged, {standing:?}");
            assert_eq!(complaint, None);
        }
        let (salvaged, hit, _) = damage(len, FRESH);
        assert!(salvaged * 2 > hit);
    }
}

/// Must be caught: what is left out makes a wrong lane tell, or moves items.
#[test]
fn a_salvage_that_is_not_careful_is_caught() {
    for without in [Without::SureStreams, Without::Standing] {
        broken::WITHOUT.set(Some(without));
        let (.., complaint) = damage(1, AMID);
        broken::WITHOUT.set(None);
        assert!(complaint.is_some(), "{without:?}");
    }
}

#[test]
fn whole_frames_behind_commands_of_no_crc_are_left_alone() {
    let mut payload = entry(&mut fastrand::Rng::with_seed(1)).payload;
    assert!(salvage(&payload, FRESH).is_some());
    // As version 1 has it: the crc is not there.
    payload.drain(8..20);
    payload[0] = 1;
    assert!(Batch::from_bytes(payload.clone().into()).slabs().is_ok());
    assert!(salvage(&payload, FRESH).is_none());
}

/// What lanes wrote down in the log counts, beyond the state that goes on.
#[test]
fn lanes_that_stand_apart_make_it_matter_who_tells() {
    let position = |index, item| Position { index, item };
    let settle = |lane, up_to| Command::Settle {
        sink: "http".into(),
        lane,
        up_to,
        counts: crate::books::Counts::default(),
    };
    let plan = |lane, first, last| Command::Plan {
        sink: "http".into(),
        lane,
        plan: super::super::super::command::Plan {
            first,
            last,
            rules_version: 0,
            encoder_version: 1,
            extra: Vec::new(),
        },
    };
    let end = u32::MAX;
    // Entry 5: what two lanes wrote down, whether it matters who tells of it, and whether nobody stands amid it.
    let cases = [
        (vec![], true, true),
        (
            vec![settle(0, position(4, end)), settle(1, position(2, 3))],
            true,
            true,
        ),
        (vec![settle(0, position(5, end))], false, false),
        (
            vec![settle(0, position(5, end)), settle(1, position(7, 0))],
            true,
            true,
        ),
        (
            vec![settle(0, position(5, 2)), settle(1, position(5, 2))],
            false,
            false,
        ),
        (vec![plan(0, position(5, 1), position(6, 0))], false, false),
        (vec![plan(0, position(3, 1), position(5, 0))], false, false),
        (vec![plan(0, position(3, 1), position(4, 8))], true, true),
        // A batch beyond it has passed it.
        (
            vec![
                plan(0, position(6, 0), position(6, 1)),
                settle(1, position(5, end)),
            ],
            true,
            true,
        ),
        // It was taken meanwhile.
        (
            vec![
                plan(0, position(3, 0), position(5, 3)),
                settle(0, position(5, 3)),
            ],
            false,
            false,
        ),
    ];
    for (commands, is_anybodys, is_fresh) in cases {
        for are_running in [false, true] {
            let mut readers = Readers {
                lanes: BTreeMap::from([("http".to_owned(), vec![LaneState::default(); 2])]),
                folded: 4,
                applied: 0,
                are_running,
            };
            commands
                .iter()
                .cloned()
                .for_each(|command| readers.note(command));
            let standing = readers.towards(5);
            assert_eq!(standing.is_fresh, is_fresh, "{commands:?}");
            assert_eq!(
                standing.is_anybodys,
                is_anybodys && !are_running,
                "{commands:?}"
            );
            // What was folded has marks, which count items.
            readers.folded = 5;
            assert!(!readers.towards(5).is_fresh);
            // A single lane tells of everything.
            readers
                .lanes
                .values_mut()
                .for_each(|lanes| lanes.truncate(1));
            assert_eq!(readers.towards(5).is_anybodys, !are_running);
        }
    }
}
