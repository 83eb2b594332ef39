//! Ops through the state: each once, whatever is retried; each answered until the answer was taken.

use sidekick_ipc::tree::{
    Answer, CheckpointKind, Condition, NodeInfo, Path, Put, Words, encode_request,
};

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

fn put(value: u8) -> StoreOp {
    StoreOp::Put(Put::new(Path::new("/k").unwrap(), Some(vec![value])))
}

fn end() -> Command {
    Command::EndSession {
        source: "s".into(),
        epoch: EPOCH,
        cause: String::new(),
        tail_unknown: false,
    }
}

/// Of the ops whose answers are kept.
fn numbers(state: &State) -> Vec<u64> {
    let answers = state.answers_after(&EPOCH, 0, u64::MAX);
    answers.into_iter().map(|(number, _)| number).collect()
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
    let request = |acked, value| encode_request(acked, &put(value)).unwrap();
    let first = slab(1, &[request(0, 1), request(0, 2)]);
    let outcome = apply(&mut state, first.clone());
    assert_eq!(answers(&outcome), [(2, true), (4, true)]);
    // The answer was lost on its way: sent again, nothing changes and the same is said. Applied twice, the versions
    // would go on.
    assert_eq!(apply(&mut state, first), outcome);
    // A longer slab that begins with the same: the new part counts.
    let longer = slab(1, &[request(0, 1), request(0, 2), request(2, 3)]);
    let outcome = apply(&mut state, longer);
    assert_eq!(answers(&outcome), [(2, true), (4, true), (6, true)]);
    assert_eq!(numbers(&state), [4, 6]);
    let node = state.tree().get(&Path::new("/k").unwrap()).unwrap();
    assert_eq!((node.version, node.value), (3, Some(vec![3])));
    let mut unmet = Put::new(Path::new("/k").unwrap(), None);
    unmet.when.push(Condition::Exists(false));
    let unmet = slab(7, &[encode_request(6, &StoreOp::Put(unmet)).unwrap()]);
    assert_eq!(answers(&apply(&mut state, unmet)), [(8, false)]);
    assert_eq!(numbers(&state), [8]);
    assert!(state.is_earlier_session_open("s", 4));
    assert!(!state.is_earlier_session_open("s", 3));
    assert!(!state.is_earlier_session_open("t", 4));
    state.apply(10, vec![end()]);
    assert!(!state.is_earlier_session_open("s", 4));
    assert!(numbers(&state).is_empty());
    let bytes = codec::encode("state", &state).unwrap();
    assert_eq!(codec::decode::<State>("state", &bytes).unwrap(), state);
}

/// Thousands of checkpoints while the answer of a put waits: they take its place neither by being taken nor by being refused.
#[test]
fn checkpoints_take_no_answers_place() {
    let mut state = opened();
    let put = encode_request(0, &put(1)).unwrap();
    assert_eq!(answers(&apply(&mut state, slab(1, &[put]))), [(2, true)]);
    let mut seq = 3;
    for round in 0..2 * REQUESTS_OUTSTANDING_MAX as u64 {
        // Every second one is refused as stale.
        let request = encode_request(0, &checkpoint(1 + round / 2)).unwrap();
        let told = answers(&apply(&mut state, slab(seq, &[request])));
        assert_eq!(told, [(seq + 1, round % 2 == 0)]);
        seq += 2;
    }
    let kept = numbers(&state);
    assert_eq!((kept[0], kept.len()), (2, REQUESTS_OUTSTANDING_MAX));
    state.apply(10, vec![end()]);
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

fn large(bytes: usize, revision: u64) -> StoreResult {
    StoreResult::Ok(Answer {
        revision,
        version: revision + 1,
        nodes: vec![NodeInfo {
            path: Path::new("/k").unwrap(),
            version: revision + 1,
            child_version: 1,
            child_count: 0,
            has_value: true,
            value: Some(vec![0; bytes]),
            lease: 0,
        }],
        ..Answer::default()
    })
}

/// The bytes of what is kept, if every number up to `last` has an answer, with its revision.
fn bytes_if_all_answered(answers: &BTreeMap<u64, StoreResult>, last: u64) -> Option<u64> {
    let is_answered = |number: u64| match answers.get(&number) {
        Some(StoreResult::Ok(of) | StoreResult::AnswerLost { answer: of, .. }) => {
            (of.revision, of.version) == (number, number + 1)
        }
        _ => false,
    };
    let all = (1..=last).all(is_answered);
    all.then(|| answers.values().map(bytes_of).sum())
}

/// More than can be kept waits to be taken: each op has its answer all the same, since it was applied. What the test is for
/// is to catch a store that makes room by leaving answers out.
#[test]
fn answers_that_nobody_takes_are_bounded_and_none_is_left_out() {
    let mut requests = Requests::default();
    let mut leaving_out = BTreeMap::new();
    for number in 1..=200 {
        let answer = large(if number % 2 == 0 { 1 << 20 } else { 8 }, number);
        leaving_out.insert(number, answer.clone());
        while leaving_out.values().map(bytes_of).sum::<u64>() > ANSWERS_BYTES_MAX {
            leaving_out.pop_first();
        }
        requests.keep(number, answer, false);
        let bytes = bytes_if_all_answered(&requests.answers, number);
        assert_eq!(bytes, Some(requests.answers_bytes));
        assert!(bytes <= Some(ANSWERS_BYTES_MAX));
    }
    assert_eq!(bytes_if_all_answered(&leaving_out, 200), None);
    // The newest are whole, the oldest say what became of them.
    assert!(matches!(requests.answers[&200], StoreResult::Ok(_)));
    let (kind, message) = requests.answers[&2].error_words().unwrap();
    assert_eq!(kind, ErrorKind::AnswerLost);
    assert!(message.contains("it was applied"), "{message}");
    requests.acknowledge(u64::MAX);
    assert_eq!(requests, Requests::default());
    // Whatever an engine does that is none of ours.
    for number in 1..=ANSWERS_MAX as u64 + 10 {
        requests.keep(number, large(1, number), false);
    }
    assert_eq!(requests.answers.len(), ANSWERS_MAX);
}

/// Answers are handed on in pieces, in order, and none is too large for one.
#[test]
fn answers_are_looked_up_in_pieces() {
    let mut state = opened();
    let mut requests = Requests::default();
    for number in 1..=20 {
        requests.keep(
            number,
            large(if number == 7 { 9000 } else { 500 }, number),
            false,
        );
    }
    state.requests.insert(EPOCH, requests);
    let (mut after, mut pieces) = (0, Vec::new());
    loop {
        let piece = state.answers_after(&EPOCH, after, 2000);
        let Some((last, _)) = piece.last() else { break };
        after = *last;
        let bytes: u64 = piece.iter().map(|(_, result)| bytes_of(result)).sum();
        assert!(bytes <= 2000 || piece.len() == 1);
        pieces.extend(piece.into_iter().map(|(number, _)| number));
    }
    assert_eq!(pieces, (1..=20).collect::<Vec<u64>>());
}

/// Idempotency keys are a client each: their answers together are bounded, and a retry still hears that it was done.
#[test]
fn answers_of_clients_are_bounded_together() {
    let mut clients = Clients::default();
    for number in 1..=60_u64 {
        let id = Uuid::from_u128(number.into());
        let mut client = clients.take(&id);
        client.index = number;
        client.answers.insert(number, large(1 << 20, number));
        clients.put(id, client);
        let bytes: u64 = clients.clients.values().map(Client::bytes).sum();
        assert_eq!(bytes, clients.bytes);
        assert!(bytes <= CLIENTS_BYTES_MAX);
    }
    let all = clients
        .clients
        .values()
        .flat_map(|client| client.answers.clone());
    assert!(bytes_if_all_answered(&all.collect(), 60).is_some());
    let is_lost = |id: u128| {
        let client = &clients.clients[&Uuid::from_u128(id)];
        client.answers.values().any(|of| of.error_words().is_some())
    };
    assert!(is_lost(1) && !is_lost(60));
    let bytes = codec::encode("clients", &clients).unwrap();
    let plain = codec::encode("clients", &clients.clients).unwrap();
    assert_eq!(bytes, plain);
    assert_eq!(
        codec::decode::<Clients>("clients", &bytes).unwrap(),
        clients
    );
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
    assert_eq!(state.clients.clients.len(), CLIENTS_MAX);
    assert!(!state.clients.clients.contains_key(&client));
    assert_eq!(state.time_ns(), 100 + CLIENTS_MAX as u64);
}
