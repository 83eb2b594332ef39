//! Frames that come back, and bytes that are none.

use uuid::Uuid;

use super::*;

#[test]
fn frames_come_back_as_they_were_appended() {
    let epoch = Uuid::from_u128(7);
    let mut out = Vec::new();
    let mut payload = Vec::new();
    Record::encode_head("chat.say", &mut payload);
    payload.extend_from_slice(b"0123456");
    append_frame(&mut out, &epoch, FrameKind::Record as u16, 1, 10, &payload);
    let gap = Gap {
        count: 3,
        bytes: 9,
        first_monotonic_ns: 1,
        last_monotonic_ns: 2,
        cause: 1,
    };
    let mut body = Vec::new();
    gap.encode(&mut body);
    append_frame(&mut out, &epoch, FrameKind::Gap as u16, 2, 11, &body);
    let hole = Hole {
        count: 5,
        cause: hole_cause::CORRUPT,
    };
    let mut body = Vec::new();
    hole.encode(&mut body);
    append_frame(&mut out, &epoch, FrameKind::Hole as u16, 3, 12, &body);

    let all: Vec<_> = frames(&out, &epoch).collect::<Result<_, _>>().unwrap();
    assert_eq!(all.len(), 3);
    let record = Record::parse(all[0].payload).unwrap();
    assert_eq!(
        (record.stream, record.variant),
        ("chat.say", &b"0123456"[..])
    );
    assert_eq!(Gap::parse(all[1].payload), Ok(gap));
    assert_eq!(Hole::parse(all[2].payload), Ok(hole));
    assert_eq!((all[2].header.seq, all[2].header.monotonic_ns), (3, 12));
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let epoch = Uuid::from_u128(7);
    let mut out = Vec::new();
    append_frame(&mut out, &epoch, 1, 1, 10, &[1, 1, b'a', 4, 5, 6, 7, 8]);
    for bit in 0..out.len() * 8 {
        let mut bad = out.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(frames(&bad, &epoch).any(|f| f.is_err()), "bit {bit}");
    }
    for cut in 1..out.len() {
        assert!(
            frames(&out[..cut], &epoch).any(|f| f.is_err()),
            "cut at {cut}"
        );
    }
    assert!(
        frames(&out, &Uuid::from_u128(8)).any(|f| f.is_err()),
        "another session's frame"
    );
}

#[test]
fn a_record_needs_a_name() {
    assert!(Record::parse(&[]).is_err());
    assert!(Record::parse(&[0, 1, 2]).is_err());
    assert!(Record::parse(&[3, b'a']).is_err());
    assert!(Record::parse(&[1, 0xff]).is_err());
}
