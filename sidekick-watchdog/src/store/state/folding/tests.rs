//! Steps by themselves: taken once, in their turn, and what waits for them.

use uuid::Uuid;

use super::*;
use crate::slab::{RingCheckpoint, SlabHead};
use crate::store::command::Command;
use crate::store::state::sinks::whole;
use crate::store::wal::EntryId;

fn apply(state: &mut State, index: u64, command: Command) -> Outcome {
    let (term, node) = (1, 1);
    let id = EntryId { term, node, index };
    state.last_applied = Some(crate::store::raft::log_id(id));
    state.apply(index, vec![command]).remove(0)
}

fn head(epoch: u128, count: u64) -> SlabHead {
    SlabHead {
        source: "s".to_owned(),
        epoch: Uuid::from_u128(epoch),
        incarnation: 1,
        realtime_offset_ns: 0,
        first_seq: 1,
        count,
        checkpoint: RingCheckpoint::default(),
    }
}

fn derived(epoch: u128) -> Command {
    Command::Derived {
        head: head(epoch, 1),
        frames_bytes: 0,
    }
}

fn blob(text: &str) -> Blob {
    text.as_bytes().into()
}

fn step(number: u64, to: u64, cell: Option<&str>) -> Step {
    Step {
        number,
        to,
        cells: vec![(blob("name"), cell.map(blob))],
        marks: vec![((to, 0), Marks::new(1, &[(1, 9)]))],
    }
}

fn fold(step: Step, rows: Option<u64>) -> Command {
    let rows = rows.map(|count| (head(99, count), 0));
    Command::Fold { step, rows }
}

#[test]
fn a_step_is_taken_once_and_in_its_turn() {
    let mut state = State::default();
    let refused = Outcome::Refused(Refusal::NotNext);
    assert_eq!(apply(&mut state, 1, fold(step(0, 0, None), None)), refused);
    apply(&mut state, 2, derived(1));
    assert_eq!(state.uploadable(), 2);
    apply(&mut state, 3, Command::SetFolding { is_on: true });
    assert_eq!((state.folding(), state.uploadable()), ((true, 3, 0), 3));
    assert_eq!(state.unfolded(), Some(0), "that came before");
    apply(&mut state, 4, derived(2));
    assert_eq!(state.unfolded(), Some(1));
    apply(&mut state, 5, Command::SetFolding { is_on: true });
    assert_eq!((state.folding(), state.uploadable()), ((true, 3, 0), 3));
    assert_eq!(state.uploaded_index(), 3, "the log is kept for folding");

    assert_eq!(
        apply(&mut state, 6, fold(step(1, 5, Some("a")), None)),
        refused
    );
    let before = state.committed();
    let first = fold(step(0, 5, Some("a")), Some(3));
    assert_eq!(apply(&mut state, 8, first.clone()), Outcome::Done);
    assert_eq!(state.committed(), before + 3);
    assert_eq!(state.uploadable(), 7, "its own rows are looked at, too");
    assert_eq!(state.unfolded(), Some(0), "but not folded");
    // Somebody folds the same once more; neither cells nor rows count.
    let again = fold(step(0, 5, Some("b")), Some(3));
    assert_eq!(apply(&mut state, 9, again), refused);
    assert_eq!(state.cut(9, 0), Some(Cut::Whole));
    assert_eq!(state.cut(8, 0), None);
    assert_eq!(state.committed(), before + 3);
    assert_eq!(state.cells().get(&blob("name")), Some(&blob("a")));
    assert_eq!(state.marks(5, 0).and_then(|marks| marks.cause(0)), Some(9));

    // It does not end while a cell is kept.
    apply(&mut state, 10, fold(step(1, 9, Some("c")), None));
    assert_eq!(state.uploadable(), 10);
    apply(&mut state, 11, Command::SetFolding { is_on: false });
    assert!(state.folding().0);
    apply(&mut state, 12, fold(step(2, 11, None), None));
    apply(&mut state, 13, derived(3));
    apply(&mut state, 14, Command::SetFolding { is_on: false });
    assert!(state.folding().0, "something waits");
    assert_eq!(state.unfolded(), Some(1));
    apply(&mut state, 15, fold(step(3, 14, None), None));
    apply(&mut state, 16, Command::SetFolding { is_on: false });
    assert_eq!((state.folding().0, state.uploadable()), (false, 16));
    assert_eq!(state.unfolded(), None);
    assert_eq!(state.uploaded_index(), u64::MAX);
    state.forget_cuts(11);
    assert_eq!((state.marks(9, 0), state.marks(11, 0)), (None, None));
    assert!(state.marks(14, 0).is_some());
}

/// What a session's slabs bring waits once, whatever is sent again, and over a snapshot.
#[test]
fn what_waits_is_counted_by_its_numbers() {
    let mut state = State::default();
    let open = Command::OpenGame {
        source: "s".into(),
        epoch: Uuid::from_u128(7),
        launch: 1,
        started_realtime_ns: 0,
        game_version: String::new(),
    };
    apply(&mut state, 1, open);
    let append = |first_seq, count| Command::Append {
        head: SlabHead {
            first_seq,
            ..head(7, count)
        },
        frames_bytes: 0,
    };
    apply(&mut state, 2, append(1, 10));
    apply(&mut state, 3, Command::SetFolding { is_on: true });
    apply(&mut state, 4, append(11, 5));
    apply(&mut state, 5, append(11, 5));
    apply(&mut state, 6, append(14, 4));
    assert_eq!(state.unfolded(), Some(7));
    let sealed = crate::store::snapshot::seal(&state).unwrap();
    state = crate::store::snapshot::unseal(&sealed).unwrap();
    apply(&mut state, 7, fold(step(0, 5, None), None));
    assert_eq!(state.unfolded(), Some(2));
    apply(&mut state, 8, fold(step(1, 7, None), None));
    assert_eq!(state.unfolded(), Some(0));
}

/// Must fail: a state that does not ask which step it is.
#[test]
fn a_state_that_takes_any_step_would_count_twice() {
    let mut state = State::default();
    apply(&mut state, 1, Command::SetFolding { is_on: true });
    let take = |state: &mut State, index| {
        // Broken: whatever comes is made the next one.
        let number = state.folding().2;
        apply(state, index, fold(step(number, 1, Some("a")), Some(3)))
    };
    take(&mut state, 2);
    let once = state.committed();
    take(&mut state, 3);
    assert_ne!(state.committed(), once);
}

/// A sink stands where it stands; the log is not freed beyond what is folded.
#[test]
fn the_log_waits_for_folding_and_for_sinks() {
    let mut state = State::default();
    let sinks = vec![("file".to_owned(), 1)];
    apply(&mut state, 1, Command::NameSinks { sinks, purged: 0 });
    apply(&mut state, 2, Command::SetFolding { is_on: true });
    apply(&mut state, 3, derived(1));
    state
        .settle("file", 0, whole(3), &Default::default())
        .unwrap();
    assert_eq!(state.uploaded_index(), 2);
    apply(&mut state, 4, fold(step(0, 3, None), None));
    assert_eq!(state.uploaded_index(), 3);
}

#[test]
fn marks_are_found_again() {
    let marked = [(100, 9), (101, 10), (163, 9), (7, 9)];
    let marks = Marks::new(100, &marked);
    let found: Vec<_> = (0..200)
        .filter_map(|at| marks.cause(at).map(|cause| (100 + at, cause)))
        .collect();
    assert_eq!(found, marked[..3]);
    assert_eq!(Marks::default().cause(0), None);
}
