//! Ops through the state: each once, whatever is retried; each answered until the answer was taken.

use sidekick_ipc::tree::{Answer, CheckpointKind, Words, encode_request};

use super::super::super::command::{Command, Outcome};
use super::*;
use crate::slab::RingCheckpoint;

const EPOCH: Uuid = Uuid::from_u128(7);

fn checkpoint(version: u64) -> StoreOp {
    StoreOp::Checkpoint {
        key: "k".into(),
        kind: CheckpointKind::Full,
        version,
        value: vec![version as u8],
        frame: 0,
        realtime_ms: 0,
    }
}

/// A slab in which each request takes two frames; the payloads stand for the frames.
fn slab(first_seq: u64, requests: &[Vec<u8>]) -> (Command, Vec<u8>) {
    let mut frames = Vec::new();
    let mut ops = Vec::new();
    for (number, request) in requests.iter().enumerate() {
        let (a, b) = request.split_at(request.len() / 2);
        let mut fragments = Vec::new();
        for part in [a, b] {
            frames.extend_from_slice(b"head");
            fragments.push((frames.len() as u32, part.len() as u32));
            frames.extend_from_slice(part);
        }
        let last_seq = first_seq + number as u64 * 2 + 1;
        ops.push(OpAt {
            last_seq,
            fragments,
        });
    }
    let head = SlabHead {
        source: "s".into(),
        epoch: EPOCH,
        incarnation: 3,
        realtime_offset_ns: 0,
        first_seq,
        count: requests.len() as u64 * 2,
        checkpoint: RingCheckpoint::default(),
    };
    let command = Command::AppendOps {
        head,
        frames_bytes: frames.len() as u32,
        ops,
        time_ns: 5,
    };
    (command, frames)
}

fn opened() -> State {
    let mut state = State::default();
    let open = Command::OpenSession {
        source: "s".into(),
        epoch: EPOCH,
        launch: 3,
        started_realtime_ns: 0,
    };
    state.apply(1, vec![open]);
    state
}

fn answers(outcome: &Outcome) -> Vec<(u64, bool)> {
    match outcome {
        Outcome::AppendedOps { answers, .. } => answers
            .iter()
            .map(|(number, result)| (*number, matches!(result, StoreResult::Ok(_))))
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn apply(state: &mut State, slab: (Command, Vec<u8>)) -> Outcome {
    state.apply_batch(9, vec![slab.0], &slab.1).remove(0)
}

#[test]
fn an_op_applies_once_and_is_answered_until_the_answer_was_taken() {
    let mut state = opened();
    let request = |acked, version| encode_request(acked, &checkpoint(version)).unwrap();
    let first = slab(1, &[request(0, 1), request(0, 2)]);
    let outcome = apply(&mut state, first.clone());
    assert_eq!(answers(&outcome), [(2, true), (4, true)]);
    // The answer was lost on its way: sent again, nothing changes and the same is said. Applied twice, the versions
    // would be refused as stale.
    assert_eq!(apply(&mut state, first), outcome);
    // A longer slab that begins with the same: the new part counts.
    let longer = slab(1, &[request(0, 1), request(0, 2), request(2, 3)]);
    let outcome = apply(&mut state, longer);
    assert_eq!(answers(&outcome), [(2, true), (4, true), (6, true)]);
    let numbers = |state: &State| {
        let answers = state.answers(&EPOCH);
        answers
            .into_iter()
            .map(|(number, _)| number)
            .collect::<Vec<u64>>()
    };
    assert_eq!(numbers(&state), [4, 6]);
    assert_eq!(state.restore("s", "k", false, 0).full, [3]);
    let stale = slab(7, &[request(6, 3)]);
    assert_eq!(answers(&apply(&mut state, stale)), [(8, false)]);
    assert_eq!(numbers(&state), [8]);
    assert!(state.is_earlier_session_open("s", 4));
    assert!(!state.is_earlier_session_open("s", 3));
    assert!(!state.is_earlier_session_open("t", 4));
    let end = Command::EndSession {
        source: "s".into(),
        epoch: EPOCH,
        cause: String::new(),
        tail_unknown: false,
    };
    state.apply(10, vec![end]);
    assert!(!state.is_earlier_session_open("s", 4));
    assert!(numbers(&state).is_empty());
    let bytes = codec::encode("state", &state).unwrap();
    assert_eq!(codec::decode::<State>("state", &bytes).unwrap(), state);
}

/// Whatever intake lists and a game writes: an error for the one op, nothing for the others.
#[test]
fn bad_ops_are_answered_with_an_error() {
    let mut state = opened();
    let good = encode_request(0, &checkpoint(1)).unwrap();
    let outcome = apply(
        &mut state,
        slab(1, &[vec![1, 2, 3], vec![0; 30], good.clone()]),
    );
    assert_eq!(answers(&outcome), [(2, false), (4, false), (6, true)]);
    let (mut command, frames) = slab(7, &[good]);
    if let Command::AppendOps { ops, .. } = &mut command {
        ops[0].fragments[1].1 = u32::MAX;
        ops.push(OpAt {
            last_seq: 100,
            fragments: Vec::new(),
        });
    }
    // The frames are cut off as well.
    let outcome = apply(&mut state, (command, frames[..5].to_vec()));
    assert_eq!(answers(&outcome), [(8, false)]);
    let (command, frames) = slab(1, &[vec![0; 4]]);
    if let Command::AppendOps { mut head, .. } = command.clone() {
        head.epoch = Uuid::from_u128(8);
        let other = Command::Append {
            head,
            frames_bytes: 0,
        };
        assert!(matches!(
            state.apply(9, vec![other])[0],
            Outcome::Refused(_)
        ));
    }
    assert_eq!(answers(&apply(&mut state, (command, frames))), [(2, false)]);
}

/// Answers that nobody takes do not pile up without end.
#[test]
fn answers_that_nobody_takes_are_bounded() {
    let mut requests = Requests::default();
    let large = |bytes| {
        StoreResult::Ok(Answer {
            value: Some(vec![0; bytes]),
            ..Answer::default()
        })
    };
    for number in 0..REQUESTS_OUTSTANDING_MAX as u64 + 10 {
        requests.keep(number, large(1));
    }
    assert_eq!(requests.answers.len(), REQUESTS_OUTSTANDING_MAX);
    requests.keep(9000, large(15 << 20));
    requests.keep(9001, large(15 << 20));
    assert_eq!(requests.answers.keys().copied().collect::<Vec<_>>(), [9001]);
    requests.acknowledge(u64::MAX);
    assert_eq!(requests, Requests::default());
}

#[test]
fn a_client_gets_the_same_answer_for_the_same_number() {
    let mut state = State::default();
    let op = checkpoint(1).encode().unwrap();
    let client = Uuid::from_u128(1);
    let execute = |state: &mut State, index, client, number| {
        let op = op.clone();
        let command = Command::Execute {
            client,
            number,
            op,
            time_ns: index,
        };
        match state.apply(index, vec![command]).remove(0) {
            Outcome::Executed(result) => result,
            other => panic!("{other:?}"),
        }
    };
    // It is no session, so this op is not for it; but it is answered.
    let first = execute(&mut state, 1, client, 1);
    assert!(matches!(
        first,
        StoreResult::Error {
            kind: ErrorKind::Invalid,
            ..
        }
    ));
    for number in 2..100 {
        execute(&mut state, number, client, number);
    }
    let again = execute(&mut state, 100, client, 1);
    assert!(matches!(
        again,
        StoreResult::Error {
            kind: ErrorKind::AnswerLost,
            ..
        }
    ));
    for number in 0..CLIENTS_MAX as u64 {
        execute(
            &mut state,
            101 + number,
            Uuid::from_u128(u128::from(number) + 2),
            1,
        );
    }
    assert_eq!(state.clients.len(), CLIENTS_MAX);
    assert!(!state.clients.contains_key(&client));
    assert_eq!(state.time_ns(), 100 + CLIENTS_MAX as u64);
}
