//! The state, driven by hand and by chance.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::command::Plan;
use super::*;
use crate::position::Position;

#[derive(Clone, Debug)]
enum Step {
    Open {
        epoch: u8,
        launch: u32,
    },
    Append {
        epoch: u8,
        first_seq: u64,
        count: u64,
    },
    End {
        epoch: u8,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => (0..4_u8, 0..6_u32).prop_map(|(epoch, launch)| Step::Open { epoch, launch }),
        8 => (0..4_u8, 0..40_u64, 0..12_u64)
            .prop_map(|(epoch, first_seq, count)| Step::Append { epoch, first_seq, count }),
        1 => (0..4_u8).prop_map(|epoch| Step::End { epoch }),
    ];
    proptest::collection::vec(step, 1..200)
}

/// A session as a child would keep it: every number on a list.
#[derive(Default)]
struct Naive {
    open: bool,
    ended: bool,
    launch: u32,
    seen: Vec<u64>,
}

proptest! {
    /// Each number of a session is visible exactly once and in order, whatever is retried, lost or late.
    #[test]
    fn sessions_agree_with_a_naive_model(steps in steps()) {
        let mut state = State::default();
        let mut model: BTreeMap<u8, Naive> = BTreeMap::new();
        let mut visible: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
        let mut last_launch = 0;
        for (index, step) in steps.into_iter().enumerate() {
            let index = index as u64 + 1;
            let uuid = |epoch: u8| Uuid::from_u128(u128::from(epoch) + 1);
            let source = || "s".to_owned();
            match step {
                Step::Open { epoch, launch } => {
                    let command = Command::OpenSession {
                        source: source(), epoch: uuid(epoch), launch, started_realtime_ns: 0,
                    };
                    let outcome = state.apply(index, vec![command]).remove(0);
                    let of_launch = || model.values().filter(|naive| naive.open && naive.launch == launch);
                    let in_turn = of_launch().next().is_some() && of_launch().all(|naive| naive.ended);
                    let free = launch > last_launch || (launch == last_launch && in_turn);
                    let naive = model.entry(epoch).or_default();
                    let fine = if naive.open { !naive.ended } else { free };
                    prop_assert_eq!(matches!(outcome, Outcome::Session { .. }), fine);
                    if fine && !naive.open {
                        naive.open = true;
                        naive.launch = launch;
                        last_launch = launch;
                    }
                }
                Step::Append { epoch, first_seq, count } => {
                    let head = SlabHead {
                        source: source(), epoch: uuid(epoch), incarnation: 1,
                        realtime_offset_ns: 0, first_seq, count,
                        checkpoint: RingCheckpoint { ring_position: first_seq + count, ..Default::default() },
                    };
                    let command = Command::Append { head, frames_bytes: 0 };
                    let outcome = state.apply(index, vec![command]).remove(0);
                    let naive = model.entry(epoch).or_default();
                    let next = naive.seen.len() as u64 + 1;
                    let fine = naive.open && !naive.ended && count > 0
                        && first_seq > 0 && first_seq <= next;
                    prop_assert_eq!(matches!(outcome, Outcome::Appended { .. }), fine);
                    if fine {
                        naive.seen.extend(next.max(first_seq)..first_seq + count);
                    }
                    let shown = match state.cut(index, 0) {
                        Some(Cut::Whole) => first_seq..first_seq,
                        Some(Cut::Before(seq)) => seq..first_seq + count,
                        None => first_seq..first_seq + count,
                    };
                    visible.entry(epoch).or_default().extend(shown);
                }
                Step::End { epoch } => {
                    let command = Command::EndSession {
                        source: source(), epoch: uuid(epoch), cause: String::new(), tail_unknown: false,
                    };
                    state.apply(index, vec![command]);
                    let naive = model.entry(epoch).or_default();
                    naive.ended |= naive.open;
                }
            }
        }
        let mut committed = 0;
        for (epoch, naive) in &model {
            let shown = visible.get(epoch).cloned().unwrap_or_default();
            prop_assert_eq!(&shown, &naive.seen);
            prop_assert_eq!(shown, (1..=naive.seen.len() as u64).collect::<Vec<_>>());
            committed += naive.seen.len() as u64;
            if let Some(session) = state.session("s", &Uuid::from_u128(u128::from(*epoch) + 1)) {
                prop_assert_eq!(session.next_seq, naive.seen.len() as u64 + 1);
            }
        }
        prop_assert_eq!(state.totals().get("s").map_or(0, |of| of.committed), committed);
        let bytes = super::super::snapshot::seal(&state).unwrap();
        prop_assert_eq!(super::super::snapshot::unseal(&bytes).unwrap(), state);
    }
}

#[test]
fn plans_and_watermarks_move_forward_only() {
    let mut state = State::default();
    let at = |index, item| Position { index, item };
    let plan = |first, last| Plan {
        first,
        last,
        rules_version: 1,
        encoder_version: 1,
        extra: Vec::new(),
    };
    let mut index = 0;
    let mut apply = |command| {
        index += 1;
        state.apply(index, vec![command]).remove(0)
    };
    let sinks = |lanes| Command::SetSinks {
        sinks: vec![("a".into(), lanes)],
    };
    let uploaded = |lane, up_to| Command::Uploaded {
        sink: "a".into(),
        lane,
        up_to,
        records: 1,
    };
    let propose = |plan| Command::Plan {
        sink: "a".into(),
        lane: 0,
        plan,
    };
    assert_eq!(
        apply(uploaded(0, at(1, 0))),
        Outcome::Refused(Refusal::UnknownLane)
    );
    assert_eq!(apply(sinks(2)), Outcome::Sinks(vec![("a".into(), 2)]));
    let first = plan(at(5, 0), at(6, 3));
    assert_eq!(apply(propose(first.clone())), Outcome::Done);
    assert_eq!(apply(propose(first.clone())), Outcome::Done);
    let other = plan(at(5, 1), at(6, 3));
    assert_eq!(apply(propose(other)), Outcome::Refused(Refusal::PlanStands));
    // A batch that was too large is halved, and planned whole again.
    assert_eq!(apply(propose(plan(at(5, 0), at(5, 9)))), Outcome::Done);
    assert_eq!(apply(propose(first.clone())), Outcome::Done);
    // While a plan stands the lanes stay.
    assert_eq!(apply(sinks(4)), Outcome::Sinks(vec![("a".into(), 2)]));
    // Half of the batch, then all of it, then a late retry.
    assert_eq!(apply(uploaded(0, at(5, 9))), Outcome::Done);
    assert_eq!(apply(propose(first.clone())), Outcome::Done);
    assert_eq!(apply(uploaded(0, at(6, 3))), Outcome::Done);
    assert_eq!(apply(uploaded(0, at(5, 9))), Outcome::Done);
    assert_eq!(apply(propose(first)), Outcome::Refused(Refusal::PlanBehind));
    assert_eq!(
        apply(propose(plan(at(9, 1), at(9, 0)))),
        Outcome::Refused(Refusal::BadPlan)
    );
    assert_eq!(apply(uploaded(1, at(6, 3))), Outcome::Done);
    assert_eq!(apply(sinks(4)), Outcome::Sinks(vec![("a".into(), 4)]));
}

#[test]
fn sinks_come_and_go() {
    let mut state = State::default();
    let at = |index, item| Position { index, item };
    let whole = |index| at(index, u32::MAX);
    let set = |state: &mut State, index, names: &[&str], purged| {
        let sinks = names.iter().map(|name| ((*name).to_owned(), 1)).collect();
        let command = Command::NameSinks { sinks, purged };
        match state.apply(index, vec![command]).remove(0) {
            Outcome::SinksNamed { lanes, changes } => {
                assert_eq!(lanes.len(), names.len());
                changes
            }
            other => panic!("{other:?}"),
        }
    };
    let uploaded = |state: &mut State, sink: &str, up_to| {
        let command = Command::Uploaded {
            sink: sink.into(),
            lane: 0,
            up_to,
            records: 1,
        };
        assert_eq!(state.apply(0, vec![command]), [Outcome::Done]);
    };
    let watermark = |state: &State, sink: &str| state.lanes(sink).unwrap()[0].watermark;
    let added = |sink: &str, after, instead_of: Option<&str>| SinkChange::Added {
        sink: sink.into(),
        after,
        instead_of: instead_of.map(str::to_owned),
    };
    // The first ones take all that comes, and so does one that is added later.
    let changes = set(&mut state, 10, &["a"], 0);
    assert_eq!(changes, [added("a", 9, None)]);
    uploaded(&mut state, "a", at(15, 3));
    let changes = set(&mut state, 20, &["a", "b"], 0);
    assert_eq!(changes, [added("b", 19, None)]);
    assert_eq!(watermark(&state, "b"), whole(19));
    assert_eq!(set(&mut state, 21, &["b", "a"], 0), []);
    assert_eq!(state.uploaded_index(), 14);
    // "a" no longer holds the log; "c" comes beside "b", which has all that "a" had not taken.
    let changes = set(&mut state, 30, &["b", "c"], 0);
    let removed = SinkChange::Removed {
        sink: "a".into(),
        behind: 15,
    };
    assert_eq!(changes, [removed, added("c", 29, None)]);
    assert_eq!(state.uploaded_index(), 19);
    // "d" takes the place of all there are: what "c", the more advanced one, had not taken goes to it.
    uploaded(&mut state, "c", at(33, 1));
    let changes = set(&mut state, 40, &["d"], 0);
    assert_eq!(changes[2], added("d", 32, Some("c")));
    assert_eq!(watermark(&state, "d"), at(33, 1));
    // "a" is back, and goes on where it stood as far as the log does.
    let changes = set(&mut state, 50, &["d", "a"], 14);
    let returned = |missed| SinkChange::Returned {
        sink: "a".into(),
        missed,
        batch_given_up: false,
    };
    assert_eq!(changes, [returned(0)]);
    assert_eq!(watermark(&state, "a"), at(15, 3));
    set(&mut state, 51, &["d"], 0);
    let changes = set(&mut state, 52, &["d", "a"], 30);
    assert_eq!(changes, [returned(16)]);
    assert_eq!(watermark(&state, "a"), whole(30));
    // Nothing wanted, nothing kept; what comes then begins now.
    set(&mut state, 60, &[], 0);
    assert_eq!(state.uploaded_index(), u64::MAX);
    assert_eq!(set(&mut state, 70, &["e"], 0), [added("e", 69, None)]);
    // Names that nobody uses any more are forgotten in the end.
    for index in 71..200 {
        set(&mut state, index, &[&format!("n{index}")], 0);
    }
    assert_eq!(state.retired.len(), 16);
}

/// One engine command may run several engines, one after the other; none of their sessions ever opens a second time.
#[test]
fn sessions_of_one_launch_take_turns() {
    let mut state = State::default();
    let mut index = 0;
    let mut apply = |command| {
        index += 1;
        state.apply(index, vec![command]).remove(0)
    };
    let open = |epoch: u128, launch| Command::OpenSession {
        source: "s".into(),
        epoch: Uuid::from_u128(epoch),
        launch,
        started_realtime_ns: 0,
    };
    let end = |epoch: u128| Command::EndSession {
        source: "s".into(),
        epoch: Uuid::from_u128(epoch),
        cause: String::new(),
        tail_unknown: false,
    };
    let max = LAUNCH_SESSIONS_MAX as u128;
    for epoch in 1..=max {
        assert!(matches!(apply(open(epoch, 7)), Outcome::Session { .. }));
        let other = apply(open(epoch + 1, 7));
        assert_eq!(other, Outcome::Refused(Refusal::LaunchBusy { launch: 7 }));
        apply(end(epoch));
        for old in [1, epoch] {
            let again = apply(open(old, 7));
            assert_eq!(again, Outcome::Refused(Refusal::SessionEnded));
        }
    }
    let launch_sessions = Refusal::LaunchSessions {
        launch: 7,
        max: LAUNCH_SESSIONS_MAX,
    };
    assert_eq!(apply(open(max + 1, 7)), Outcome::Refused(launch_sessions));
    assert!(matches!(apply(open(max + 2, 8)), Outcome::Session { .. }));
    apply(end(max + 2));
    let late = apply(open(max + 3, 7));
    assert_eq!(
        late,
        Outcome::Refused(Refusal::OldLaunch { launch: 7, last: 8 })
    );
    assert!(matches!(apply(open(1, 7)), Outcome::Refused(_)));
}

/// A version is a text's name for as long as a plan may call it by that.
#[test]
fn rules_are_kept_while_a_plan_names_them() {
    let mut state = State::default();
    let mut index = 0;
    let mut apply = |state: &mut State, command| {
        index += 1;
        state.apply(index, vec![command]).remove(0)
    };
    let set = |text: &str| Command::SetRules { text: text.into() };
    assert_eq!(apply(&mut state, set("")), Outcome::Rules(0));
    assert_eq!(apply(&mut state, set("a")), Outcome::Rules(1));
    assert_eq!(apply(&mut state, set("b")), Outcome::Rules(2));
    assert_eq!(apply(&mut state, set("a")), Outcome::Rules(1));
    let sinks = vec![("s".to_owned(), 1)];
    apply(&mut state, Command::SetSinks { sinks });
    let plan = Plan {
        first: Position { index: 9, item: 0 },
        last: Position { index: 9, item: 0 },
        rules_version: 1,
        encoder_version: 1,
        extra: Vec::new(),
    };
    let sink = "s".to_owned();
    let planned = apply(
        &mut state,
        Command::Plan {
            sink,
            lane: 0,
            plan,
        },
    );
    assert_eq!(planned, Outcome::Done);
    for number in 0..40_u32 {
        let answer = apply(&mut state, set(&number.to_string()));
        assert_eq!(answer, Outcome::Rules(number + 3));
    }
    assert_eq!(state.rules().get(&1).map(String::as_str), Some("a"));
    assert_eq!(state.rules().get(&2), None, "no plan names it");
    assert_eq!(state.rules().len(), 17);
    // No rules are no version, and forget nothing that is named.
    assert_eq!(apply(&mut state, set("")), Outcome::Rules(0));
    assert_eq!(state.rules().get(&1).map(String::as_str), Some("a"));
    let settle = Command::Settle {
        sink: "s".into(),
        lane: 0,
        up_to: Position { index: 9, item: 0 },
        counts: crate::books::Counts::default(),
    };
    assert_eq!(apply(&mut state, settle), Outcome::Done);
    assert_eq!(apply(&mut state, set("b")), Outcome::Rules(43));
    assert_eq!(state.rules().get(&1), None);
}
