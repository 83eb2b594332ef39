//! What a backend reads is fixed: these lines may only change together with [`ENCODER_VERSION`].

use sidekick_ipc::frame::{FrameKind, Hole, append_frame, gap_cause, hole_cause};
use sidekick_ipc::value::Value;

use super::*;
use crate::slab::Slab;
use crate::upload::testing::{EPOCH, head, put_record, slab};

fn text(slab: Slab) -> String {
    let (mut walk, mut writer, mut out) = (Walk::new(slab), LineWriter::default(), Vec::new());
    while let Some((head, item)) = walk.step() {
        writer.write(head, &item, &mut out);
    }
    String::from_utf8(out).unwrap()
}

fn put(frames: &mut Vec<u8>, kind: u16, seq: u64, payload: &[u8]) {
    append_frame(frames, &EPOCH, kind, seq, 1_000_000_000_000 + seq, payload);
}

#[test]
fn lines_keep_their_form() {
    assert_eq!(ENCODER_VERSION, 1);
    let mut frames = Vec::new();
    let data = Value::Dictionary(vec![
        (Value::String("amount".into()), Value::Int(12)),
        (
            Value::StringName("to".into()),
            Value::String("a \"b\"\n".into()),
        ),
    ]);
    put_record(&mut frames, 17, "damage", &data);
    put_record(&mut frames, 18, "sch\u{f6}n \"x\"", &Value::Nil);
    let mut gap = Vec::new();
    let refused = Gap {
        count: 4,
        bytes: 512,
        first_monotonic_ns: 999_000_000_000,
        last_monotonic_ns: 999_999_999_999,
        cause: gap_cause::FULL,
    };
    refused.encode(&mut gap);
    put(&mut frames, FrameKind::Gap as u16, 19, &gap);
    let mut hole = Vec::new();
    Hole {
        count: 3,
        cause: hole_cause::CORRUPT,
    }
    .encode(&mut hole);
    put(&mut frames, FrameKind::Hole as u16, 20, &hole);
    put_record(&mut frames, 23, "damage", &Value::Bool(true));
    let expected = concat!(
        r#"{"source":"lobby-1","epoch":"00000000-0000-0000-0000-00000000e90c","seq":17,"stream":"damage","#,
        r#""time":"2026-11-22T12:00:00.000017Z","incarnation":3,"data":{"amount":12,"to":"a \"b\"\n"}}"#,
        "\n",
        r#"{"source":"lobby-1","epoch":"00000000-0000-0000-0000-00000000e90c","seq":18,"stream":"schön \"x\"","#,
        r#""time":"2026-11-22T12:00:00.000018Z","incarnation":3,"data":null}"#,
        "\n",
        r#"{"source":"lobby-1","epoch":"00000000-0000-0000-0000-00000000e90c","seq":19,"stream":"sidekick.gap","#,
        r#""time":"2026-11-22T12:00:00.000000Z","incarnation":3,"data":{"count":4,"bytes":512,"#,
        r#""cause":"refused by the engine: ring full","first_time":"2026-11-22T11:59:59.000000Z","#,
        r#""last_time":"2026-11-22T11:59:59.999999Z"}}"#,
        "\n",
        r#"{"source":"lobby-1","epoch":"00000000-0000-0000-0000-00000000e90c","seq":20,"stream":"sidekick.gap","#,
        r#""time":"2026-11-22T12:00:00.000000Z","incarnation":3,"data":{"count":3,"first_seq":20,"last_seq":22,"#,
        r#""cause":"the ring was damaged"}}"#,
        "\n",
        r#"{"source":"lobby-1","epoch":"00000000-0000-0000-0000-00000000e90c","seq":23,"stream":"damage","#,
        r#""time":"2026-11-22T12:00:00.000023Z","incarnation":3,"data":true}"#,
        "\n",
    );
    assert_eq!(
        text(Slab {
            head: head(17, 7),
            frames: frames.into()
        }),
        expected
    );
}

/// `(seq, count, what)` of each item.
fn items(slab: Slab) -> Vec<(u64, u64, String)> {
    let mut walk = Walk::new(slab);
    let mut items = Vec::new();
    while let Some((_, item)) = walk.step() {
        items.push(match item.what {
            What::Record(record) => (item.seq, 1, record.stream.to_owned()),
            What::Refused(_) => (item.seq, 1, "refused".to_owned()),
            What::Lost { count, cause, .. } => (item.seq, count, cause.into_owned()),
            What::Dropped { count, .. } => (item.seq, count, "dropped".to_owned()),
            What::TailUnknown => (item.seq, 1, "tail unknown".to_owned()),
        });
    }
    items
}

/// Each bit of a slab flipped: every sequence number that the head covers is still told of exactly once, in order, and
/// only what is damaged is not a record any more.
#[test]
fn damage_is_told_and_blocks_nothing() {
    let whole = slab(5, &["a", "b", "c"]);
    for bit in 0..whole.frames.len() * 8 {
        let mut frames = whole.frames.to_vec();
        frames[bit / 8] ^= 1 << (bit % 8);
        let items = items(Slab {
            head: whole.head.clone(),
            frames: frames.into(),
        });
        let mut next = 5;
        for (seq, count, _) in &items {
            assert_eq!(*seq, next, "bit {bit}: {items:?}");
            next += count;
        }
        assert_eq!(next, 8, "bit {bit}: {items:?}");
        let (_, count, cause) = items.last().unwrap();
        let damaged = cause.starts_with("damaged in the store") && *count >= 1;
        // Padding is covered by no crc and is not looked at.
        assert!(damaged || items.len() == 3, "bit {bit}: {items:?}");
    }
}

#[test]
fn missing_repeated_and_foreign_frames_are_told() {
    let told = |frames: Vec<u8>, first, count| {
        items(Slab {
            head: head(first, count),
            frames: frames.into(),
        })
    };
    let mut frames = slab(5, &["a", "b"]).frames.to_vec();
    frames.extend_from_slice(&slab(9, &["c"]).frames);
    let item = |seq, count, what: &str| (seq, count, what.to_owned());
    let (a, b, c) = (item(5, 1, "a"), item(6, 1, "b"), item(9, 1, "c"));
    let missing = item(7, 2, "missing in the slab");
    assert_eq!(
        told(frames.clone(), 5, 5),
        [a.clone(), b.clone(), missing.clone(), c.clone()]
    );
    let early = item(10, 4, "the slab ends early");
    assert_eq!(
        told(frames.clone(), 5, 9),
        [a, b.clone(), missing.clone(), c.clone(), early]
    );
    assert_eq!(
        told(frames.clone(), 6, 4),
        [b.clone(), missing.clone(), c],
        "a was seen before"
    );
    assert_eq!(
        told(frames, 6, 2),
        [b, item(7, 1, "a frame lies beyond its slab")]
    );

    let mut frames = Vec::new();
    put(&mut frames, 99, 1, b"?");
    put(&mut frames, FrameKind::Record as u16, 2, &[9, b'x']);
    put(&mut frames, FrameKind::Gap as u16, 3, b"short");
    let mut hole = Vec::new();
    Hole {
        count: u64::MAX,
        cause: 200,
    }
    .encode(&mut hole);
    put(&mut frames, FrameKind::Hole as u16, 4, &hole);
    let found = told(frames, 1, 6);
    let lost: Vec<(u64, u64)> = found.iter().map(|(seq, count, _)| (*seq, *count)).collect();
    assert_eq!(
        lost,
        [(1, 1), (2, 1), (3, 1), (4, 3)],
        "a hole covers no more than its slab"
    );
    assert_eq!(told(Vec::new(), 1, 0), []);
}

/// A value that cannot be decoded takes its own line, nobody else's.
#[test]
fn an_undecodable_value_is_told() {
    let mut frames = slab(1, &["a"]).frames.to_vec();
    put(
        &mut frames,
        FrameKind::Record as u16,
        2,
        b"\x04chatno variant",
    );
    frames.extend_from_slice(&slab(3, &["a"]).frames);
    let text = text(Slab {
        head: head(1, 3),
        frames: frames.into(),
    });
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1]["stream"], GAP_STREAM);
    assert_eq!(lines[1]["seq"], 2);
    assert_eq!(lines[1]["data"]["stream"], "chat");
    assert_eq!(lines[1]["data"]["count"], 1);
    assert!(
        lines[1]["data"]["cause"]
            .as_str()
            .unwrap()
            .starts_with("undecodable: ")
    );
    assert_eq!(lines[2]["data"], 3);
}

#[test]
fn going_back_gives_the_same_item_again() {
    let mut walk = Walk::new(slab(1, &["a", "b", "c"]));
    let start = walk.mark();
    assert_eq!(walk.step().unwrap().1.seq, 1);
    let mark = walk.mark();
    assert_eq!(walk.step().unwrap().1.seq, 2);
    walk.go_back(mark);
    assert_eq!(walk.step().unwrap().1.seq, 2);
    walk.go_back(start);
    assert_eq!(walk.step().unwrap().1.seq, 1);
}

/// Our own formatting of time against jiff's, over the whole range and at its edges.
#[test]
fn times_are_those_of_the_calendar() {
    // Jiff ends a day earlier, to leave room for time zones.
    const LAST_SECOND: i64 = Clock::SECOND_MAX - 2 * 86_400;
    let mut clock = Clock::default();
    let mut write = |realtime_ns: i128| {
        let mut out = Vec::new();
        clock.write(realtime_ns, &mut out);
        String::from_utf8(out).unwrap()
    };
    let mut random = fastrand::Rng::with_seed(1);
    for n in 0..20_000 {
        let micros = match n {
            0 => 0,
            1 => 951_782_400_000_000, // 2000-02-29
            2 => LAST_SECOND * 1_000_000,
            _ => random.i64(0..LAST_SECOND * 1_000_000),
        };
        let expected = jiff::Timestamp::from_microsecond(micros).unwrap();
        let expected = jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%S.%6fZ", expected).unwrap();
        assert_eq!(write(i128::from(micros) * 1000 + 999), expected);
    }
    assert_eq!(write(-1), "1970-01-01T00:00:00.000000Z");
    assert_eq!(write(i128::MAX), "9999-12-31T23:59:59.000000Z");
}

#[test]
fn what_a_session_could_not_tell_at_its_end_is_told() {
    let gap = Gap {
        count: 7,
        bytes: 70,
        first_monotonic_ns: 1_000,
        last_monotonic_ns: 2_000,
        cause: gap_cause::UNKNOWN,
    };
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_795_353_600);
    let slab = Slab::closing(head(31, 0), &[gap], true, now).unwrap();
    assert_eq!((slab.head.first_seq, slab.head.count), (31, 2));
    let text = text(slab);
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["seq"], 31);
    assert_eq!(lines[0]["data"]["count"], 7);
    assert_eq!(
        lines[0]["data"]["cause"],
        "refused by the engine, which died before it told why"
    );
    assert_eq!(lines[1]["seq"], 32);
    assert_eq!(lines[1]["stream"], GAP_STREAM);
    assert_eq!(
        lines[1]["data"],
        serde_json::json!({"count": null, "first_seq": 32, "last_seq": null, "cause": "tail unknown"})
    );
    assert_eq!(lines[1]["time"], "2026-11-22T13:20:00.000000Z");
    assert_eq!(Slab::closing(head(31, 0), &[], false, now), None);
}

/// A hole stands for several numbers, and a repeated slab may be cut off inside of it: what is left of it still counts,
/// and what rules left out is no loss.
#[test]
fn what_rules_left_out_is_told_apart_wherever_it_is_cut() {
    let mut frames = Vec::new();
    put_record(&mut frames, 17, "a", &Value::Nil);
    for (seq, count, cause) in [(18, 5, hole_cause::RULE), (23, 2, hole_cause::RULE_FAILED)] {
        let mut hole = Vec::new();
        Hole { count, cause }.encode(&mut hole);
        put(&mut frames, FrameKind::Hole as u16, seq, &hole);
    }
    put_record(&mut frames, 25, "b", &Value::Nil);
    let failed = "not stored: a rule had to change the record and could not read it";
    let whole = [
        (17, 1, "a"),
        (18, 5, "dropped"),
        (23, 2, failed),
        (25, 1, "b"),
    ];
    for first in 17..=25 {
        let found = items(Slab {
            head: head(first, 26 - first),
            frames: frames.clone().into(),
        });
        let left = whole.iter().filter(|(seq, count, _)| seq + count > first);
        let expected: Vec<_> = left
            .map(|(seq, count, what)| {
                let seq_left = (*seq).max(first);
                (seq_left, seq + count - seq_left, (*what).to_owned())
            })
            .collect();
        assert_eq!(found, expected, "cut off before {first}");
    }
}

/// The lane that would have sent a record tells that it is lost, if its stream is known.
#[test]
fn a_hole_that_knows_its_stream_is_of_that_streams_lane() {
    let hole = Hole {
        count: 1,
        cause: hole_cause::ROTTEN,
    };
    let gap_lane = lane_of(GAP_STREAM, 8);
    let stream = ["a", "b", "c", "d"]
        .into_iter()
        .find(|stream| lane_of(stream, 8) != gap_lane)
        .unwrap();
    let mut lanes = Vec::new();
    let mut lines = Vec::new();
    for known in [Some(stream), None] {
        let payload = hole.fill(48, known).unwrap();
        let mut frames = Vec::new();
        put(&mut frames, FrameKind::Hole as u16, 20, &payload);
        let mut walk = Walk::new(Slab {
            head: head(20, 1),
            frames: frames.into(),
        });
        let (head, item) = walk.step().unwrap();
        lanes.push(item.lane(8));
        LineWriter::default().write(head, &item, &mut lines);
        assert!(walk.step().is_none());
    }
    assert_eq!(lanes, [lane_of(stream, 8), gap_lane]);
    let lines = String::from_utf8(lines).unwrap();
    let named = format!("\"stream\":\"{stream}\"");
    let of_lines: Vec<bool> = lines.lines().map(|line| line.contains(&named)).collect();
    assert_eq!(of_lines, [true, false], "{lines}");
}
