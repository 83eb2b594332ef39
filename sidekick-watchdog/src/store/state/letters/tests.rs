//! Dead letters and books in the state: each command twice, in bounds, and what a snapshot keeps of them.

use sidekick_ipc::frame::{FrameKind, append_frame};
use uuid::Uuid;

use super::*;
use crate::position::Position;
use crate::slab::{RingCheckpoint, SlabHead};
use crate::store::command::Command;
use crate::store::snapshot;

const EPOCH: Uuid = Uuid::from_u128(0xE);

fn at(index: u64, item: u32) -> Position {
    Position { index, item }
}

fn head(first_seq: u64, count: u64) -> SlabHead {
    SlabHead {
        source: "s".into(),
        epoch: EPOCH,
        incarnation: 1,
        realtime_offset_ns: 0,
        first_seq,
        count,
        checkpoint: RingCheckpoint::default(),
    }
}

fn letter(position: Position, bytes: usize) -> Letter {
    let mut frame = Vec::new();
    append_frame(
        &mut frame,
        &EPOCH,
        FrameKind::Record as u16,
        1,
        0,
        &vec![7; bytes],
    );
    Letter {
        position,
        stream: "a".into(),
        code: "HTTP 400".into(),
        reason: "bad".into(),
        rules_version: 2,
        numbers: 1,
        head: head(1, 1),
        frame,
    }
}

/// A state with one sink of one lane, and a session.
struct World {
    state: State,
    index: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            state: State::default(),
            index: 0,
        };
        world.apply(Command::NameSinks {
            sinks: vec![("a".into(), 1)],
            purged: 0,
        });
        world.apply(Command::OpenSession {
            source: "s".into(),
            epoch: EPOCH,
            launch: 1,
            started_realtime_ns: 0,
        });
        world
    }

    fn apply(&mut self, command: Command) -> Outcome {
        self.index += 1;
        self.state.apply(self.index, vec![command]).remove(0)
    }

    /// Commits so many numbers; gives the entry.
    fn append(&mut self, first_seq: u64, count: u64) -> u64 {
        let head = head(first_seq, count);
        let outcome = self.apply(Command::Append {
            head,
            frames_bytes: 0,
        });
        assert!(matches!(outcome, Outcome::Appended { .. }), "{outcome:?}");
        self.index
    }

    fn bury(&mut self, position: Position, counts: Counts) -> Outcome {
        self.apply(Command::DeadLetter {
            sink: "a".into(),
            lane: 0,
            counts,
            letter: letter(position, 10),
            time_ns: 1_000,
        })
    }

    fn settle(&mut self, up_to: Position, counts: Counts) {
        let outcome = self.apply(Command::Settle {
            sink: "a".into(),
            lane: 0,
            up_to,
            counts,
        });
        assert_eq!(outcome, Outcome::Done);
    }

    fn change(&mut self, change: LetterChange) -> Outcome {
        self.apply(Command::Letters {
            change,
            time_ns: 2_000,
        })
    }

    /// Committed is accounted for or pending.
    fn pending(&self) -> Option<u64> {
        self.state.books("a").pending(self.state.committed())
    }
}

fn records(count: u64) -> Counts {
    Counts {
        rows: count,
        records: count,
        ..Counts::default()
    }
}

fn plan(position: Position) -> Plan {
    Plan {
        first: position,
        last: position,
        rules_version: 0,
        encoder_version: 1,
        extra: Vec::new(),
    }
}

#[test]
fn books_move_with_the_watermark_and_only_once() {
    let mut world = World::new();
    let entry = world.append(1, 10);
    assert_eq!(world.pending(), Some(10));
    for _ in 0..3 {
        world.settle(at(entry, 3), records(4));
        assert_eq!(world.bury(at(entry, 4), Counts::default()), Outcome::Done);
    }
    assert_eq!(world.pending(), Some(5));
    let mut counts = records(3);
    counts.drop_of("rule", 2);
    world.settle(at(entry, 9), counts.clone());
    world.settle(at(entry, 9), counts);
    assert_eq!(world.pending(), Some(0));
    let books = world.state.books("a");
    assert_eq!((books.dead, books.letters, books.letters_now), (1, 1, 1));
    assert_eq!(books.counts.dropped["rule"], 2);
    // A letter that was brought twice is kept once, and all of it survives a snapshot.
    assert_eq!(world.state.letters().iter().count(), 1);
    let sealed = snapshot::seal(&world.state).unwrap();
    assert_eq!(snapshot::unseal(&sealed).unwrap(), world.state);
}

/// A sink that takes the place of another, or whose state is older than the books, learns what it began with.
#[test]
fn a_sink_learns_what_it_began_with_when_it_has_nothing_left() {
    let mut world = World::new();
    let entry = world.append(1, 10);
    world.settle(at(entry, 2), records(3));
    world.apply(Command::NameSinks {
        sinks: vec![("b".into(), 1)],
        purged: 0,
    });
    assert_eq!(world.state.books("b").pending(10), None);
    let settle = |world: &mut World, up_to, counts| {
        world.apply(Command::Settle {
            sink: "b".into(),
            lane: 0,
            up_to,
            counts,
        })
    };
    settle(&mut world, at(entry, 5), records(3));
    assert_eq!(world.state.books("b").pending(10), None);
    settle(&mut world, at(entry, u32::MAX), records(4));
    let books = world.state.books("b");
    assert_eq!((books.since, books.numbers()), (Some(3), 7));
    world.append(11, 5);
    assert_eq!(books.pending(world.state.committed()), Some(5));
}

#[test]
fn a_replay_ends_once_and_the_books_follow() {
    let mut world = World::new();
    let entry = world.append(1, 3);
    for item in 0..3 {
        assert_eq!(
            world.bury(at(entry, item), Counts::default()),
            Outcome::Done
        );
    }
    assert_eq!(world.pending(), Some(0));
    let (id, number) = (1, 1);
    let planned = LetterChange::Plan {
        id,
        number,
        plan: plan(at(entry, 0)),
    };
    let unknown = Outcome::Refused(Refusal::UnknownLetter);
    assert_eq!(world.change(planned.clone()), unknown, "it is not marked");
    let mark = LetterChange::Mark { ids: vec![1, 2, 9] };
    assert_eq!(world.change(mark.clone()), Outcome::Letters(2));
    assert_eq!(world.change(mark), Outcome::Letters(0));
    assert_eq!(world.change(planned.clone()), Outcome::Letters(1));
    assert_eq!(world.change(planned), Outcome::Letters(1), "the same again");
    // Its lane has one on its way at a time, and no batch beside it.
    let other = LetterChange::Plan {
        id: 2,
        number: 1,
        plan: plan(at(entry, 1)),
    };
    assert_eq!(world.change(other), Outcome::Refused(Refusal::ReplayStands));
    let batch = Command::Plan {
        sink: "a".into(),
        lane: 0,
        plan: plan(at(entry + 50, 0)),
    };
    assert_eq!(
        world.apply(batch.clone()),
        Outcome::Refused(Refusal::ReplayStands)
    );
    // What is under way is not dropped.
    let drop_all = LetterChange::Drop { ids: vec![1, 3] };
    assert_eq!(world.change(drop_all), Outcome::Letters(1));
    let replayed = LetterChange::Replayed { id, number };
    assert_eq!(world.change(replayed.clone()), Outcome::Letters(1));
    assert_eq!(world.change(replayed), unknown);
    let refused = LetterChange::Refused {
        id: 2,
        number: 1,
        code: "HTTP 422".into(),
        reason: "x".repeat(5000),
    };
    assert_eq!(world.change(refused.clone()), Outcome::Letters(1));
    assert_eq!(world.change(refused), unknown);
    let kept = world.state.letters().get(2).unwrap();
    assert_eq!((kept.marked, kept.replays), (false, 1));
    assert_eq!(kept.letter.code, "HTTP 422");
    assert_eq!(
        kept.letter.reason.len(),
        crate::books::LETTER_REASON_BYTES_MAX
    );
    assert_eq!(world.apply(batch), Outcome::Done);
    let books = world.state.books("a");
    assert_eq!((books.dead, books.letters_now, books.replayed), (1, 1, 1));
    assert_eq!(books.counts.records, 1);
    assert_eq!(books.counts.dropped[DROPPED_BY_OPERATOR], 1);
    assert_eq!(world.pending(), Some(0));
    let bytes: u64 = world
        .state
        .letters()
        .iter()
        .map(|(_, kept)| kept.letter.bytes())
        .sum();
    assert_eq!(world.state.letters().bytes(), bytes);
}

/// Letters are full: a replay may stand beside the plan of the one record that was refused, and beside no other.
#[test]
fn a_replay_stands_beside_a_refused_record_alone() {
    let mut world = World::new();
    let entry = world.append(1, 5);
    for item in 0..2 {
        world.bury(at(entry, item), Counts::default());
    }
    world.change(LetterChange::Mark { ids: vec![1, 2] });
    let batch = |first, last| Command::Plan {
        sink: "a".into(),
        lane: 0,
        plan: Plan {
            last: at(entry, last),
            ..plan(at(entry, first))
        },
    };
    let beside = |id, refused| LetterChange::PlanBeside {
        id,
        number: 1,
        plan: plan(at(entry, 0)),
        refused: at(entry, refused),
    };
    let stands = Outcome::Refused(Refusal::PlanStands);
    assert_eq!(world.apply(batch(2, 3)), Outcome::Done);
    assert_eq!(world.change(beside(1, 2)), stands, "a record of several");
    assert_eq!(world.apply(batch(2, 2)), Outcome::Done);
    assert_eq!(world.change(beside(1, 3)), stands, "another record");
    let alone = LetterChange::Plan {
        id: 1,
        number: 1,
        plan: plan(at(entry, 0)),
    };
    assert_eq!(world.change(alone), stands);
    assert_eq!(world.change(beside(1, 2)), Outcome::Letters(1));
    let replaying = Outcome::Refused(Refusal::ReplayStands);
    assert_eq!(world.change(beside(2, 2)), replaying);
    // Both are open. The batch may be planned anew, and no other begins before the replay has ended.
    assert_eq!(world.apply(batch(2, 2)), Outcome::Done);
    assert_eq!(world.apply(batch(3, 4)), stands);
    assert_eq!(world.bury(at(entry, 2), Counts::default()), Outcome::Done);
    assert_eq!(world.apply(batch(3, 4)), replaying);
    let replayed = LetterChange::Replayed { id: 1, number: 1 };
    assert_eq!(world.change(replayed), Outcome::Letters(1));
    assert_eq!(world.apply(batch(3, 4)), Outcome::Done);
    let sealed = snapshot::seal(&world.state).unwrap();
    assert_eq!(snapshot::unseal(&sealed).unwrap(), world.state);
}

#[test]
fn letters_expire_by_log_time_and_are_counted() {
    let mut world = World::new();
    let entry = world.append(1, 2);
    world.bury(at(entry, 0), Counts::default());
    let expire = |keep_ns| LetterChange::Expire { keep_ns };
    assert_eq!(world.change(expire(1_001)), Outcome::Letters(0));
    assert_eq!(world.change(expire(1_000)), Outcome::Letters(1));
    let books = world.state.books("a");
    assert_eq!(books.counts.dropped[DROPPED_EXPIRED], 1);
    assert_eq!((books.dead, world.pending()), (0, Some(1)));
}

/// Full is full, by number and by bytes; nothing is dropped for it, and a watermark stays where it was.
#[test]
fn letters_are_bounded() {
    let mut world = World::new();
    let entry = world.append(1, 20_000);
    for item in 0..u32::try_from(LETTERS_MAX).unwrap() {
        assert_eq!(
            world.bury(at(entry, item), Counts::default()),
            Outcome::Done
        );
    }
    let full = world.bury(at(entry, 15_000), Counts::default());
    assert!(
        matches!(
            full,
            Outcome::Refused(Refusal::LettersFull { count: 10_000, .. })
        ),
        "{full:?}"
    );
    let watermark = world.state.lanes("a").unwrap()[0].watermark;
    assert_eq!(watermark, at(entry, 9_999));
    assert_eq!(
        world.change(LetterChange::Drop { ids: vec![1] }),
        Outcome::Letters(1)
    );
    assert_eq!(
        world.bury(at(entry, 15_000), Counts::default()),
        Outcome::Done
    );

    let mut world = World::new();
    let entry = world.append(1, 20_000);
    let mut taken = 0;
    let full = loop {
        let outcome = world.apply(Command::DeadLetter {
            sink: "a".into(),
            lane: 0,
            counts: Counts::default(),
            letter: letter(at(entry, taken), 60 << 10),
            time_ns: 0,
        });
        if outcome != Outcome::Done {
            break outcome;
        }
        taken += 1;
    };
    assert!(
        matches!(full, Outcome::Refused(Refusal::LettersFull { .. })),
        "{full:?}"
    );
    assert!((1000..1100).contains(&taken), "{taken}");
    assert!(world.state.letters().bytes() <= LETTERS_BYTES_MAX);
}

#[test]
fn who_is_refused_for_want_of_room_is_told_how_full_it_is() {
    let full = Refusal::LettersFull {
        count: 1112,
        bytes: 67_054_712,
    };
    let told = "dead letters are full (1112 of 10000 letters, 63.9 of 64 MiB); replay or drop some";
    assert_eq!(full.to_string(), told);
}

/// Nobody sends what a sink that was taken out had on its way: it can be dropped, and gets too old, as all others do. Older
/// logs, in which that was not so, come to the same state as ever.
#[test]
fn letters_of_a_sink_that_was_taken_out_are_not_immortal() {
    let with_one_on_its_way = || {
        let mut world = World::new();
        let entry = world.append(1, 3);
        for item in 0..2 {
            let buried = world.bury(at(entry, item), Counts::default());
            assert_eq!(buried, Outcome::Done);
        }
        world.change(LetterChange::Mark { ids: vec![1] });
        let planned = LetterChange::Plan {
            id: 1,
            number: 1,
            plan: plan(at(entry, 0)),
        };
        assert_eq!(world.change(planned), Outcome::Letters(1));
        world
    };
    let ids = vec![1, 2];
    let orders = [
        LetterChange::Discard { ids: ids.clone() },
        LetterChange::Outdate { keep_ns: 1 },
    ];
    let old_orders = [
        LetterChange::Drop { ids },
        LetterChange::Expire { keep_ns: 1 },
    ];
    for (order, is_gone, dropped) in [
        (&orders, false, 1),
        (&orders, true, 2),
        (&old_orders, false, 1),
        (&old_orders, true, 1),
    ] {
        for order in order {
            let mut world = with_one_on_its_way();
            assert!(world.state.remains(0).is_empty());
            if is_gone {
                world.apply(Command::NameSinks {
                    sinks: vec![("b".into(), 1)],
                    purged: 0,
                });
                assert_eq!(world.state.remains(0)["a"].letters, 2);
            }
            let outcome = world.change(order.clone());
            assert_eq!(outcome, Outcome::Letters(dropped), "{order:?}, {is_gone}");
            let books = world.state.books("a");
            assert_eq!((books.dead, books.letters_now), (2 - dropped, 2 - dropped));
        }
    }
}
