//! Ops on their way through the state: put together from their frames, applied once, answered until the answer was
//! taken (CORRECTNESS rule 9).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sidekick_ipc::tree::codec::REQUEST_PAYLOAD_BYTES_MAX;
use sidekick_ipc::tree::{
    ErrorKind, REQUESTS_OUTSTANDING_MAX, StoreOp, StoreResult, decode_request,
};
use uuid::Uuid;

use super::super::codec;
use super::super::command::{Outcome, Refusal};
use super::super::tree::Actor;
use super::checkpoints::Write;
use super::{Cut, State};
use crate::slab::{OpAt, SlabHead};

/// Bytes of answers that are kept for one session; beyond them the oldest large ones keep only what is small of them.
const ANSWERS_BYTES_MAX: u64 = 16 << 20;
/// An answer of more bytes is large; smaller ones are never given up.
const LARGE_BYTES: u64 = 1 << 10;
/// Answers that are kept for one session whatever it is. An engine of ours awaits [`REQUESTS_OUTSTANDING_MAX`] at most; as
/// many refusals of checkpoints, which nobody awaits, may lie between them.
const ANSWERS_MAX: usize = 2 * REQUESTS_OUTSTANDING_MAX;
/// Clients other than sessions whose answers are remembered, the latest ones.
const CLIENTS_MAX: usize = 1024;
/// Answers that are remembered for each of them.
const CLIENT_ANSWERS_MAX: usize = 64;
/// Bytes of the answers of all of them, but for what is small.
const CLIENTS_BYTES_MAX: u64 = 16 << 20;

/// What a session has asked and not yet heard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Requests {
    answers: BTreeMap<u64, StoreResult>,
    answers_bytes: u64,
}

/// What a client has asked that is no session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Client {
    /// The entry that it asked something with last.
    index: u64,
    /// Numbers below were answered, and the answers are gone.
    floor: u64,
    answers: BTreeMap<u64, StoreResult>,
}

/// All of them. How many bytes they take follows from them and is not written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<Uuid, Client>")]
pub(super) struct Clients {
    clients: BTreeMap<Uuid, Client>,
    #[serde(skip)]
    bytes: u64,
}

impl From<BTreeMap<Uuid, Client>> for Clients {
    fn from(clients: BTreeMap<Uuid, Client>) -> Self {
        let bytes = clients.values().map(Client::bytes).sum();
        Self { clients, bytes }
    }
}

fn bytes_of(result: &StoreResult) -> u64 {
    codec::encoded_bytes(result)
}

fn is_large(result: &StoreResult) -> bool {
    result.has_bulk() && bytes_of(result) > LARGE_BYTES
}

/// Gives up what is large of an answer; the bytes that this frees.
fn give_up(result: &mut StoreResult, limit: u64) -> u64 {
    if !is_large(result) {
        return 0;
    }
    let bytes = bytes_of(result);
    result.give_up(format_args!(
        "it was applied; its answer of {bytes} bytes was given up, since answers of more than {limit} bytes waited to be \
         taken. Read again what you need, and ask for less at a time"
    ));
    bytes.saturating_sub(bytes_of(result))
}

/// Whether nobody awaits the answer of an op, and only a refusal is told.
fn is_quiet(op: &StoreOp) -> bool {
    matches!(
        op,
        StoreOp::Checkpoint { .. } | StoreOp::Loaded { .. } | StoreOp::ForgetCheckpoint { .. }
    )
}

impl Requests {
    fn acknowledge(&mut self, acked: u64) {
        let kept = self.answers.split_off(&acked.saturating_add(1));
        let taken = std::mem::replace(&mut self.answers, kept);
        let bytes: u64 = taken.values().map(bytes_of).sum();
        self.answers_bytes = self.answers_bytes.saturating_sub(bytes);
    }

    /// Keeps an answer until it was taken. Of what is `quiet` only an error, and only as long as it takes no other's place.
    fn keep(&mut self, number: u64, result: StoreResult, quiet: bool) {
        let is_owed = !quiet
            || result.error_words().is_some() && self.answers.len() < REQUESTS_OUTSTANDING_MAX;
        if !is_owed {
            return;
        }
        self.answers_bytes += bytes_of(&result);
        self.answers.insert(number, result);
        for answer in self.answers.values_mut() {
            if self.answers_bytes <= ANSWERS_BYTES_MAX {
                break;
            }
            let freed = give_up(answer, ANSWERS_BYTES_MAX);
            self.answers_bytes = self.answers_bytes.saturating_sub(freed);
        }
        // An engine of ours has not asked so much.
        if self.answers.len() > ANSWERS_MAX
            && let Some((_, oldest)) = self.answers.pop_first()
        {
            self.answers_bytes = self.answers_bytes.saturating_sub(bytes_of(&oldest));
        }
    }
}

impl Client {
    fn bytes(&self) -> u64 {
        self.answers.values().map(bytes_of).sum()
    }
}

impl Clients {
    /// Takes a client out, to be put back.
    fn take(&mut self, id: &Uuid) -> Client {
        let client = self.clients.remove(id).unwrap_or_default();
        self.bytes = self.bytes.saturating_sub(client.bytes());
        client
    }

    fn put(&mut self, id: Uuid, client: Client) {
        self.bytes += client.bytes();
        self.clients.insert(id, client);
        if self.clients.len() > CLIENTS_MAX
            && let Some(oldest) = self.longest_ago(|_| true)
        {
            self.take(&oldest);
        }
        let has_large = |client: &Client| client.answers.values().any(is_large);
        while self.bytes > CLIENTS_BYTES_MAX
            && let Some(oldest) = self.longest_ago(has_large)
            && let Some(client) = self.clients.get_mut(&oldest)
        {
            let freed = client.answers.values_mut();
            let freed: u64 = freed.map(|of| give_up(of, CLIENTS_BYTES_MAX)).sum();
            self.bytes = self.bytes.saturating_sub(freed);
        }
    }

    /// Who of those asked something last, the longest ago.
    fn longest_ago(&self, of: impl Fn(&Client) -> bool) -> Option<Uuid> {
        let clients = self.clients.iter().filter(|(_, client)| of(client));
        let oldest = clients.min_by_key(|(_, client)| client.index);
        oldest.map(|(id, _)| *id)
    }
}

/// The request of an op, put together from the frames of its slab.
fn assemble(op: &OpAt, frames: &[u8]) -> Result<Vec<u8>, (ErrorKind, String)> {
    let bytes: usize = op.fragments.iter().map(|(_, len)| *len as usize).sum();
    if bytes > REQUEST_PAYLOAD_BYTES_MAX {
        let message =
            format!("the request is {bytes} bytes, the limit is {REQUEST_PAYLOAD_BYTES_MAX}");
        return Err((ErrorKind::TooLarge, message));
    }
    let mut request = Vec::with_capacity(bytes);
    for (offset, len) in &op.fragments {
        let from = *offset as usize;
        let Some(part) = frames.get(from..from.saturating_add(*len as usize)) else {
            let message = "a part of the request was lost in a damaged ring; nothing was changed";
            return Err((ErrorKind::Invalid, message.to_owned()));
        };
        request.extend_from_slice(part);
    }
    Ok(request)
}

impl State {
    /// Takes a slab's new part and applies the ops in it. The outcome has the answer to every op in it, also to those that
    /// were applied before.
    pub(super) fn append_ops(
        &mut self,
        place: (u64, u32),
        head: &SlabHead,
        ops: &[OpAt],
        frames: &[u8],
    ) -> Result<Outcome, Refusal> {
        let session = self.session(&head.source, &head.epoch);
        let expected = session.map_or(0, |session| session.next_seq);
        let launch = session.map_or(0, |session| session.launch);
        let taken = self.take_or_cut(place, head)?;
        let Outcome::Appended {
            next_seq,
            checkpoint,
        } = taken
        else {
            return Ok(taken);
        };
        let writer = Actor {
            source: &head.source,
            epoch: head.epoch,
        };
        let mut requests = self.requests.remove(&head.epoch).unwrap_or_default();
        let mut answers = Vec::new();
        for op in ops {
            let number = op.last_seq;
            // Beyond the slab there are no numbers that could be answered.
            if number >= head.next_seq() {
                continue;
            }
            if number < expected {
                if let Some(answer) = requests.answers.get(&number) {
                    answers.push((number, answer.clone()));
                }
                continue;
            }
            let request = assemble(op, frames);
            let (result, is_quiet) = match request.map(|bytes| decode_request::<StoreOp>(&bytes)) {
                Err((kind, message)) => (StoreResult::error(kind, message), false),
                Ok(None) => {
                    let message = "the request is cut off";
                    (StoreResult::error(ErrorKind::Invalid, message), false)
                }
                Ok(Some((acked, op))) => {
                    requests.acknowledge(acked);
                    match op {
                        Ok(op) => {
                            let is_quiet = is_quiet(&op);
                            (self.apply_op(writer, launch, op), is_quiet)
                        }
                        Err(error) => (StoreResult::error(ErrorKind::Invalid, error), false),
                    }
                }
            };
            requests.keep(number, result.clone(), is_quiet);
            answers.push((number, result));
        }
        self.requests.insert(head.epoch, requests);
        Ok(Outcome::AppendedOps {
            next_seq,
            checkpoint,
            answers,
        })
    }

    /// Applies an op of a client that is no session, once for each of its numbers.
    pub(super) fn execute(&mut self, index: u64, id: Uuid, number: u64, op: &[u8]) -> StoreResult {
        let mut client = self.clients.take(&id);
        let result = if let Some(answer) = client.answers.get(&number) {
            answer.clone()
        } else if number < client.floor {
            let message =
                format!("request {number} was answered before, and the answer is no longer kept");
            StoreResult::error(ErrorKind::AnswerLost, message)
        } else {
            let writer = Actor {
                source: "",
                epoch: id,
            };
            let result = match sidekick_ipc::tree::Words::decode(op) {
                Ok(op) => self.apply_op(writer, 0, op),
                Err(error) => StoreResult::error(ErrorKind::Invalid, error),
            };
            client.answers.insert(number, result.clone());
            if client.answers.len() > CLIENT_ANSWERS_MAX
                && let Some((oldest, _)) = client.answers.pop_first()
            {
                client.floor = oldest.saturating_add(1);
            }
            result
        };
        client.index = index;
        self.clients.put(id, client);
        result
    }

    /// The one door to everything that an op may change. `launch` is the writer's, 0 if it is no session.
    fn apply_op(&mut self, writer: Actor<'_>, launch: u32, op: StoreOp) -> StoreResult {
        if let Err(invalid) = op.check() {
            return StoreResult::error(ErrorKind::Invalid, invalid);
        }
        let revision = self.tree.revision();
        match op {
            StoreOp::Checkpoint { .. }
            | StoreOp::Loaded { .. }
            | StoreOp::ForgetCheckpoint { .. }
                if launch == 0 =>
            {
                let message = "checkpoints belong to a game's session; write to the tree instead";
                StoreResult::error(ErrorKind::Invalid, message)
            }
            StoreOp::Checkpoint {
                key,
                kind,
                version,
                value,
                frame,
                realtime_ms,
            } => {
                let write = Write {
                    source: writer.source,
                    launch,
                    key,
                    kind,
                    version,
                    value,
                    frame,
                    realtime_ms,
                    time_ns: self.time_ns,
                };
                self.checkpoints.write(write, revision)
            }
            StoreOp::Loaded { key, version } => self.checkpoints.loaded(
                writer.source,
                launch,
                &key,
                version,
                self.time_ns,
                revision,
            ),
            StoreOp::ForgetCheckpoint { key } => {
                self.checkpoints.forget(writer.source, &key, revision)
            }
            op => self.apply_to_tree(writer, op),
        }
    }

    /// Answers of a session that were not yet taken, of the ops after number `after`, in their order: about `bytes_max` bytes
    /// of them, at least one if there is one.
    pub(crate) fn answers_after(
        &self,
        epoch: &Uuid,
        after: u64,
        bytes_max: u64,
    ) -> Vec<(u64, StoreResult)> {
        let Some(requests) = self.requests.get(epoch) else {
            return Vec::new();
        };
        let mut bytes = 0;
        requests
            .answers
            .range(after.saturating_add(1)..)
            .take_while(|(_, result)| {
                let is_first = bytes == 0;
                bytes += bytes_of(result);
                is_first || bytes <= bytes_max
            })
            .map(|(number, result)| (*number, result.clone()))
            .collect()
    }

    fn take_or_cut(&mut self, place: (u64, u32), head: &SlabHead) -> Result<Outcome, Refusal> {
        let result = self.take(head);
        let cut = match &result {
            Ok((_, None)) => None,
            Ok((_, cut)) => *cut,
            Err(_) => Some(Cut::Whole),
        };
        if let Some(cut) = cut {
            self.cuts.insert(place, cut);
        }
        if cut != Some(Cut::Whole) {
            self.last_slab = place.0;
            let numbers = match cut {
                Some(Cut::Before(seq)) => head.next_seq().saturating_sub(seq),
                _ => head.count,
            };
            self.awaits_folding(place.0, numbers);
        }
        result.map(|(outcome, _)| outcome)
    }

    /// As `append_ops` for a slab without ops.
    pub(super) fn append(
        &mut self,
        place: (u64, u32),
        head: &SlabHead,
    ) -> Result<Outcome, Refusal> {
        self.take_or_cut(place, head)
    }
}

#[cfg(test)]
mod tests;
