//! Frames before and after a filter: every number once, in order, whole.

use proptest::collection::vec;
use proptest::prelude::*;
use sidekick_ipc::frame::frames;

use super::*;

/// Judges by the first byte of a record's value.
struct ByFirstByte;

impl Filter for ByFirstByte {
    fn growth(&self) -> usize {
        1
    }

    fn judge(
        &self,
        _: &FilterOrigin<'_>,
        record: &Record<'_>,
        _: &FrameHeader,
        out: &mut Vec<u8>,
    ) -> Filtered {
        match record.variant.first() {
            Some(b'd') => Filtered::Dropped,
            Some(b'u') => Filtered::Unreadable,
            Some(b'c') => {
                out.extend_from_slice(b"changed");
                Filtered::Changed
            }
            Some(b'l') => {
                out.resize(RECORD_BYTES_MAX, 0);
                Filtered::Changed
            }
            _ => Filtered::Keep,
        }
    }
}

const EPOCH: Uuid = Uuid::from_u128(7);

fn frames_of(kinds: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, kind) in kinds.iter().enumerate() {
        let mut payload = Vec::new();
        let frame_kind = match kind {
            b'o' => FrameKind::Op,
            _ => {
                Record::encode_head("a", &mut payload);
                FrameKind::Record
            }
        };
        payload.push(*kind);
        payload.resize(payload.len() + number % 9, b'.');
        let (seq, time) = (number as u64 + 10, number as u64 * 3);
        append_frame(&mut out, &EPOCH, frame_kind as u16, seq, time, &payload);
    }
    out
}

fn filtered(kinds: &[u8], from: usize) -> (Vec<u8>, Done) {
    let mut bytes = frames_of(kinds);
    let origin = FilterOrigin {
        source: "s",
        epoch: EPOCH,
        incarnation: 1,
        game_version: "",
        realtime_offset_ns: 0,
    };
    let done = run(&ByFirstByte, &origin, &mut bytes, from);
    (bytes, done)
}

#[test]
fn what_is_left_out_becomes_holes_that_cover_its_numbers() {
    let (bytes, done) = filtered(b"kddkcuudlok", 0);
    let (dropped, unreadable) = (3, 3);
    assert_eq!(
        done,
        Done {
            dropped,
            unreadable
        }
    );
    let found: Vec<String> = frames(&bytes, &EPOCH)
        .map(|frame| {
            let frame = frame.unwrap();
            let seq = frame.header.seq;
            match FrameKind::from_u16(frame.header.kind).unwrap() {
                FrameKind::Hole => {
                    let hole = Hole::parse(frame.payload).unwrap();
                    format!("{seq} hole {} {}", hole.count, hole.cause)
                }
                FrameKind::Op => format!("{seq} op"),
                _ => {
                    let record = Record::parse(frame.payload).unwrap();
                    let is_changed = record.variant == b"changed";
                    assert_eq!(frame.header.monotonic_ns, (seq - 10) * 3);
                    format!("{seq} {}", if is_changed { "changed" } else { "kept" })
                }
            }
        })
        .collect();
    let (rule, failed) = (hole_cause::RULE, hole_cause::RULE_FAILED);
    assert_eq!(
        found,
        [
            "10 kept".to_owned(),
            format!("11 hole 2 {rule}"),
            "13 kept".into(),
            "14 changed".into(),
            format!("15 hole 2 {failed}"),
            format!("17 hole 1 {rule}"),
            format!("18 hole 1 {failed}"),
            "19 op".into(),
            "20 kept".into(),
        ]
    );
}

#[test]
fn what_is_not_touched_stays_as_it_is() {
    let (bytes, done) = filtered(b"kokk", 0);
    assert_eq!(bytes, frames_of(b"kokk"));
    assert_eq!(done, Done::default());
}

#[test]
fn frames_from_before_are_left_alone() {
    let before = frames_of(b"dd").len();
    let (bytes, done) = filtered(b"ddkd", before);
    assert_eq!(done.dropped, 1);
    assert!(bytes.starts_with(&frames_of(b"ddk")));
}

proptest! {
    /// What comes in is what is stored and what was counted as left out.
    #[test]
    fn every_number_is_stored_or_counted(
        kinds in vec(prop::sample::select(b"kkkdducol".to_vec()), 0..40),
    ) {
        let (bytes, done) = filtered(&kinds, 0);
        let (mut next, mut holes) = (10, Done::default());
        for frame in frames(&bytes, &EPOCH) {
            let frame = frame.unwrap();
            prop_assert_eq!(frame.header.seq, next);
            next += 1;
            if FrameKind::from_u16(frame.header.kind) == Some(FrameKind::Hole) {
                let hole = Hole::parse(frame.payload).unwrap();
                next += hole.count - 1;
                match hole.cause {
                    hole_cause::RULE => holes.dropped += hole.count,
                    _ => holes.unreadable += hole.count,
                }
            }
        }
        prop_assert_eq!(next, 10 + kinds.len() as u64);
        prop_assert_eq!(holes, done);
        let left_out = kinds.iter().filter(|kind| b"dul".contains(kind)).count() as u64;
        prop_assert_eq!(done.dropped + done.unreadable, left_out);
    }
}
