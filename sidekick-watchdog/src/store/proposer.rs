//! Group commit: whatever is queued when the last batch came back is the next batch. No timer; the fsync is the timer.

use std::sync::Arc;

use bytes::Bytes;
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, oneshot};

use super::command::{Batch, Command, Outcome};
use super::machine::Machine;
use super::raft::Raft;
use super::wal::Wal;

/// Requests that may wait; a sender beyond that waits itself.
const QUEUE_MAX: usize = 4096;
/// Commands of one batch.
const BATCH_COMMANDS_MAX: usize = 4096;

/// Why a command was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProposeError {
    #[error("this node is not the leader; leader: {leader:?}")]
    NotLeader { leader: Option<u64> },
    #[error("no space for the log: {0}")]
    NoSpace(String),
    #[error("the store has stopped: {0}")]
    Stopped(String),
}

pub(crate) struct Request {
    pub(crate) command: Command,
    pub(crate) frames: Option<Bytes>,
    /// Goes into the same entry, behind `command`; the answer is its outcome then.
    pub(crate) then: Option<Command>,
    pub(crate) answer: oneshot::Sender<Result<Outcome, ProposeError>>,
}

/// The sending side.
#[derive(Clone, Debug)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Request>,
}

/// An answer that is on its way.
#[derive(Debug)]
pub(crate) struct Ticket(oneshot::Receiver<Result<Outcome, ProposeError>>);

impl Ticket {
    pub(crate) async fn wait(self) -> Result<Outcome, ProposeError> {
        self.0.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> ProposeError {
    ProposeError::Stopped("it was shut down".to_owned())
}

impl Proposer {
    /// A proposer and the task that drives it; the task ends when all proposers are gone or openraft has stopped.
    pub(crate) fn new(
        raft: Raft,
        wal: Wal,
        machine: Arc<Machine>,
        batch_bytes_max: usize,
        fatal: impl Fn(String) + Send + 'static,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        (
            Self { queue },
            run(raft, wal, machine, batch_bytes_max, requests, fatal),
        )
    }

    /// Queues a command; commands are proposed in the order in which this was called. Waits while the queue is full.
    pub(crate) async fn submit(
        &self,
        command: Command,
        frames: Option<Bytes>,
    ) -> Result<Ticket, ProposeError> {
        self.submit_both(command, frames, None).await
    }

    /// As [`Proposer::submit`]; `then` goes into the same entry right behind it, and its outcome is the answer.
    pub(crate) async fn submit_both(
        &self,
        command: Command,
        frames: Option<Bytes>,
        then: Option<Command>,
    ) -> Result<Ticket, ProposeError> {
        let (answer, receiver) = oneshot::channel();
        let request = Request {
            command,
            frames,
            then,
            answer,
        };
        self.queue.send(request).await.map_err(|_| stopped())?;
        Ok(Ticket(receiver))
    }

    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        self.submit(command, None).await?.wait().await
    }
}

async fn run(
    raft: Raft,
    wal: Wal,
    machine: Arc<Machine>,
    batch_bytes_max: usize,
    mut requests: mpsc::Receiver<Request>,
    fatal: impl Fn(String) + Send + 'static,
) {
    let mut held: Option<Request> = None;
    loop {
        let first = match held.take() {
            Some(request) => request,
            None => match requests.recv().await {
                Some(request) => request,
                None => return,
            },
        };
        let mut commands = Vec::new();
        let mut frames = Vec::new();
        let mut answers = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(request) = next.take() {
            let size = request.command.head_bytes() + request.frames.as_ref().map_or(0, Bytes::len);
            if bytes + size > batch_bytes_max && !commands.is_empty() {
                held = Some(request);
                break;
            }
            bytes += size;
            commands.push(request.command);
            frames.extend(request.frames);
            answers.push((request.answer, 1 + usize::from(request.then.is_some())));
            commands.extend(request.then);
            if commands.len() < BATCH_COMMANDS_MAX {
                next = requests.try_recv().ok();
            }
        }
        let now_ns = machine.now_ns();
        for command in &mut commands {
            command.stamp(now_ns);
        }
        let result = write(&raft, &wal, &commands, &frames).await;
        if let Err(ProposeError::Stopped(why)) = &result {
            fatal(why.clone());
        }
        match result {
            Ok(outcomes) => {
                let mut outcomes = outcomes.into_iter();
                for (answer, count) in answers {
                    let last = outcomes.by_ref().take(count).last();
                    let _ = answer.send(last.ok_or_else(stopped));
                }
            }
            Err(error) => {
                for (answer, _) in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }
}

async fn write(
    raft: &Raft,
    wal: &Wal,
    commands: &[Command],
    frames: &[Bytes],
) -> Result<Vec<Outcome>, ProposeError> {
    let batch = Batch::encode(commands, frames)
        .map_err(|error| ProposeError::Stopped(error.to_string()))?;
    // A full disk is found out before anything is written, so that it costs nothing but this batch.
    let need = batch.bytes().len() as u64 + 4096;
    if wal.room() < need {
        let (sender, receiver) = oneshot::channel();
        wal.prepare(need, Box::new(move |result| drop(sender.send(result))));
        if let Ok(Err(error)) = receiver.await {
            return Err(if wal.is_dead() {
                ProposeError::Stopped(
                    wal.failure()
                        .map_or_else(|| error.to_string(), str::to_owned),
                )
            } else {
                ProposeError::NoSpace(error.to_string())
            });
        }
    }
    match raft.client_write(batch).await {
        Ok(response) => Ok(response.data.0),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            Err(ProposeError::NotLeader {
                leader: forward.leader_id,
            })
        }
        // openraft's words for a failed write are not an operator's.
        Err(error) => Err(ProposeError::Stopped(
            wal.failure()
                .map_or_else(|| error.to_string(), str::to_owned),
        )),
    }
}
