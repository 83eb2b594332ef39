//! The bytes that old logs hold.

use super::*;
use crate::slab::RingCheckpoint;
use crate::store::blob::Blob;
use crate::store::codec;
use crate::store::state::Marks;

pub(super) fn head(first_seq: u64, count: u64) -> SlabHead {
    SlabHead {
        source: "a".into(),
        epoch: Uuid::from_u128(7),
        incarnation: 3,
        realtime_offset_ns: -5,
        first_seq,
        count,
        checkpoint: RingCheckpoint {
            rotation: 1,
            ring_position: 2,
            spill_file: 3,
            spill_offset: 4,
        },
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Old logs hold these bytes; a change here makes them unreadable.
#[test]
fn the_encoding_of_commands_does_not_change() {
    let epoch = Uuid::from_u128(0x0102);
    let position = |index, item| Position { index, item };
    let plan = Plan {
        first: position(1, 2),
        last: position(3, 4),
        rules_version: 5,
        encoder_version: 6,
        extra: vec![9],
    };
    let uuid = "100000000000000000000000000000000000000000000102";
    let a = "010000000000000061";
    let at = "030000000000000004000000";
    let counted = format!(
        "0100000000000000020000000000000003000000000000000400000000000000\
         05000000000000000100000000000000{a}0600000000000000"
    );
    let counts = || Counts {
        rows: 1,
        records: 2,
        notes: 3,
        lost: 4,
        requests: 5,
        dropped: [("a".to_owned(), 6)].into(),
    };
    let letters = |change| Command::Letters { change, time_ns: 5 };
    let blob = || Blob::from(&b"a"[..]);
    let small_plan = Plan {
        first: position(3, 4),
        last: position(3, 4),
        rules_version: 5,
        encoder_version: 6,
        extra: Vec::new(),
    };
    let golden = [
        (Command::Init { group: epoch }, format!("00000000{uuid}")),
        (
            Command::OpenSession {
                source: "a".into(),
                epoch,
                launch: 2,
                started_realtime_ns: 3,
            },
            format!("01000000{a}{uuid}020000000300000000000000"),
        ),
        (
            Command::Append {
                head: head(1, 2),
                frames_bytes: 8,
            },
            format!(
                "02000000{a}100000000000000000000000000000000000000000000007\
                 03000000fbffffffffffffff01000000000000000200000000000000\
                 010000000200000000000000030000000400000000000000\
                 08000000"
            ),
        ),
        (
            Command::EndSession {
                source: "a".into(),
                epoch,
                cause: "x".into(),
                tail_unknown: true,
            },
            format!("03000000{a}{uuid}01000000000000007801"),
        ),
        (
            Command::SetSinks {
                sinks: vec![("a".into(), 4)],
            },
            format!("040000000100000000000000{a}04000000"),
        ),
        (
            Command::Plan {
                sink: "a".into(),
                lane: 1,
                plan,
            },
            format!(
                "05000000{a}01000000010000000000000002000000\
                 030000000000000004000000\
                 0500000006000000010000000000000009"
            ),
        ),
        (
            Command::Uploaded {
                sink: "a".into(),
                lane: 1,
                up_to: position(3, 4),
                records: 7,
            },
            format!("06000000{a}010000000300000000000000040000000700000000000000"),
        ),
        (
            Command::Derived {
                head: head(1, 1),
                frames_bytes: 8,
            },
            format!(
                "07000000{a}100000000000000000000000000000000000000000000007\
                 03000000fbffffffffffffff01000000000000000100000000000000\
                 010000000200000000000000030000000400000000000000\
                 08000000"
            ),
        ),
        (
            Command::NameSinks {
                sinks: vec![("a".into(), 4)],
                purged: 5,
            },
            format!("080000000100000000000000{a}040000000500000000000000"),
        ),
        (
            Command::AppendOps {
                head: head(1, 2),
                frames_bytes: 8,
                ops: vec![OpAt {
                    last_seq: 2,
                    fragments: vec![(3, 4)],
                }],
                time_ns: 5,
            },
            format!(
                "09000000{a}100000000000000000000000000000000000000000000007\
                 03000000fbffffffffffffff01000000000000000200000000000000\
                 010000000200000000000000030000000400000000000000\
                 0800000001000000000000000200000000000000\
                 010000000000000003000000040000000500000000000000"
            ),
        ),
        (
            Command::Tick { time_ns: 5 },
            "0a0000000500000000000000".to_owned(),
        ),
        (
            Command::Execute {
                client: epoch,
                number: 2,
                op: vec![9],
                time_ns: 5,
            },
            format!("0b000000{uuid}02000000000000000100000000000000090500000000000000"),
        ),
        (
            Command::Settle {
                sink: "a".into(),
                lane: 1,
                up_to: position(3, 4),
                counts: counts(),
            },
            format!("0c000000{a}01000000{at}{counted}"),
        ),
        (
            Command::DeadLetter {
                sink: "a".into(),
                lane: 1,
                counts: counts(),
                letter: Letter {
                    position: position(3, 4),
                    stream: "a".into(),
                    code: "a".into(),
                    reason: "a".into(),
                    rules_version: 5,
                    numbers: 1,
                    head: head(1, 1),
                    frame: vec![9],
                },
                time_ns: 5,
            },
            format!(
                "0d000000{a}01000000{counted}{at}{a}{a}{a}050000000100000000000000\
                 {a}100000000000000000000000000000000000000000000007\
                 03000000fbffffffffffffff01000000000000000100000000000000\
                 010000000200000000000000030000000400000000000000\
                 0100000000000000090500000000000000"
            ),
        ),
        (
            letters(LetterChange::Mark { ids: vec![2] }),
            "0e000000000000000100000000000000020000000000000005000000000000\
             00"
            .to_owned(),
        ),
        (
            letters(LetterChange::Drop { ids: vec![2] }),
            "0e00000001000000010000000000000002000000000000000500000000000000".to_owned(),
        ),
        (
            letters(LetterChange::Expire { keep_ns: 2 }),
            "0e0000000200000002000000000000000500000000000000".to_owned(),
        ),
        (
            letters(LetterChange::Plan {
                id: 2,
                number: 3,
                plan: small_plan.clone(),
            }),
            format!(
                "0e00000003000000020000000000000003000000{at}{at}0500000006000000000000000000000005\
                     00000000000000"
            ),
        ),
        (
            letters(LetterChange::Replayed { id: 2, number: 3 }),
            "0e000000040000000200000000000000030000000500000000000000".to_owned(),
        ),
        (
            letters(LetterChange::Refused {
                id: 2,
                number: 3,
                code: "a".into(),
                reason: "a".into(),
            }),
            format!("0e00000005000000020000000000000003000000{a}{a}0500000000000000"),
        ),
        (
            letters(LetterChange::PlanBeside {
                id: 2,
                number: 3,
                plan: small_plan,
                refused: position(3, 4),
            }),
            format!(
                "0e00000006000000020000000000000003000000{at}{at}0500000006000000000000000000000\
                 0{at}0500000000000000"
            ),
        ),
        (
            letters(LetterChange::Discard { ids: vec![2] }),
            "0e00000007000000010000000000000002000000000000000500000000000000".to_owned(),
        ),
        (
            letters(LetterChange::Outdate { keep_ns: 2 }),
            "0e0000000800000002000000000000000500000000000000".to_owned(),
        ),
        (
            Command::SetRules { text: "a".into() },
            format!("0f000000{a}"),
        ),
        (Command::SetFolding { is_on: true }, "1000000001".to_owned()),
        (
            Command::Fold {
                step: Step {
                    number: 2,
                    to: 5,
                    cells: vec![(blob(), Some(blob())), (blob(), None)],
                    marks: vec![((3, 4), Marks::new(1, &[(1, 9)]))],
                },
                rows: Some((head(1, 1), 8)),
            },
            format!(
                "1100000002000000000000000500000000000000\
                 0200000000000000{a}01{a}{a}00\
                 0100000000000000{at}010000000000000009010000000000000001\
                 01{a}100000000000000000000000000000000000000000000007\
                 03000000fbffffffffffffff01000000000000000100000000000000\
                 010000000200000000000000030000000400000000000000\
                 08000000"
            ),
        ),
        (
            Command::OpenGame {
                source: "a".into(),
                epoch,
                launch: 2,
                started_realtime_ns: 3,
                game_version: "a".into(),
            },
            format!("12000000{a}{uuid}020000000300000000000000{a}"),
        ),
        (
            Command::PlaceSinks {
                sinks: vec![("a".into(), 4)],
                purged: 5,
            },
            format!("130000000100000000000000{a}040000000500000000000000"),
        ),
    ];
    for (command, expected) in golden {
        let bytes = codec::encode("command", &command).unwrap();
        assert_eq!(hex(&bytes), expected, "{command:?}");
        assert_eq!(
            codec::decode::<Command>("command", &bytes).unwrap(),
            command
        );
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(
            codec::decode::<Command>("command", &longer).is_err(),
            "trailing bytes"
        );
        assert!(codec::decode::<Command>("command", &bytes[..bytes.len() - 1]).is_err());
    }
}
