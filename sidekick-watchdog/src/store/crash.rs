//! kill -9 at random moments while writers note what was acknowledged: nothing lost, nothing twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sidekick_ipc::frame::append_frame;

mod tree;

use super::*;
use crate::position::Position;
use crate::slab::SlabHead;

const WRITERS: u64 = 4;
const DIR: &str = "SIDEKICK_STORE_CRASH_DIR";
const EARLY: &str = "SIDEKICK_STORE_CRASH_EARLY";

fn config(dir: &Path) -> StoreConfig {
    StoreConfig {
        segment_bytes: 256 << 10,
        zero_step_bytes: 64 << 10,
        cache_size: 64 << 10,
        snapshot_every: 40,
        ..StoreConfig::new(dir)
    }
}

fn slab(writer: u64, first_seq: u64) -> Slab {
    let epoch = Uuid::from_u128(u128::from(writer) + 1);
    let count = 1 + first_seq % 7;
    let mut frames = Vec::new();
    for seq in first_seq..first_seq + count {
        append_frame(&mut frames, &epoch, 1, seq, 0, &[seq as u8; 120]);
    }
    let head = SlabHead {
        source: format!("w{writer}"),
        epoch,
        incarnation: 1,
        realtime_offset_ns: 0,
        first_seq,
        count,
        checkpoint: RingCheckpoint::default(),
    };
    Slab {
        head,
        frames: Bytes::from(frames),
    }
}

fn say(writer: u64, next_seq: u64) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "ack {writer} {next_seq}");
    let _ = out.flush();
}

/// Not a test: what the test below starts and kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test"]
async fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let early = std::env::var(EARLY).is_ok();
    let store = Arc::new(Store::open(config(Path::new(&dir))).await.unwrap());
    store.set_sinks(vec![("sink".into(), 1)]).await.unwrap();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let epoch = Uuid::from_u128(u128::from(writer) + 1);
            let opened = store
                .session_opened(&format!("w{writer}"), epoch, 1, 0)
                .await
                .unwrap();
            let mut next = opened.next_seq;
            loop {
                let mut tickets = Vec::new();
                for _ in 0..8 {
                    let slab = slab(writer, next);
                    next = slab.head.next_seq();
                    tickets.push(store.submit(slab).await.unwrap());
                    if early {
                        say(writer, next);
                    }
                }
                for ticket in tickets {
                    say(writer, ticket.wait().await.unwrap().next_seq);
                }
            }
        });
    }
    // An uploader that is always a little behind, so that snapshots are published and the log is purged.
    let mut applied = store.applied();
    loop {
        applied.changed().await.unwrap();
        let index = applied.borrow_and_update().saturating_sub(50);
        let up_to = Position {
            index,
            item: u32::MAX,
        };
        store.uploaded("sink", 0, up_to, 1).await.unwrap();
    }
}

/// Runs the child for a while, kills it, and returns what it acknowledged.
fn run_and_kill(dir: &Path, early: bool, millis: u64) -> BTreeMap<u64, u64> {
    run_child_and_kill("store::crash::child", dir, early, millis)
}

fn run_child_and_kill(name: &str, dir: &Path, early: bool, millis: u64) -> BTreeMap<u64, u64> {
    let mut command = Process::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if early {
        command.env(EARLY, "1");
    }
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reader = std::thread::spawn({
        let pid = child.id();
        move || {
            let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
            let mut deadline = None;
            for line in lines {
                let Ok(line) = line else { break };
                let mut words = line.split(' ');
                if words.next() != Some("ack") {
                    continue;
                }
                let mut number = || words.next().and_then(|word| word.parse().ok());
                if let (Some(writer), Some(next)) = (number(), number()) {
                    let best = acknowledged.entry(writer).or_default();
                    *best = next.max(*best);
                }
                let deadline =
                    *deadline.get_or_insert_with(|| Instant::now() + Duration::from_millis(millis));
                if Instant::now() >= deadline {
                    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            acknowledged
        }
    });
    let acknowledged = reader.join().unwrap();
    child.wait().unwrap();
    acknowledged
}

/// Compares what the store holds with what was acknowledged.
async fn verify(dir: &Path, acknowledged: &BTreeMap<u64, u64>) -> Result<(), String> {
    let store = Store::open(config(dir))
        .await
        .map_err(|error| error.to_string())?;
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut result = Ok(());
    let mut after = 0;
    loop {
        let read = store
            .read_slabs(after, 1 << 20)
            .await
            .map_err(|error| error.to_string())?;
        let Some(end) = read.last() else { break };
        // The store goes on purging what is uploaded while we read: then the reader jumps, and may, but only once for
        // each source and only forward.
        let was_purged = store.stats().purged > after;
        let mut jumped = BTreeSet::new();
        after = end.index;
        for (_, slab) in read.into_iter().flat_map(|entry| entry.slabs) {
            for frame in sidekick_ipc::frame::frames(&slab.frames, &slab.head.epoch) {
                let seq = frame.map_err(|error| format!("{error:?}"))?.header.seq;
                let source = slab.head.source.clone();
                let may_jump = jumped.insert(source.clone()) && was_purged;
                if let Some(before) = last.insert(source, seq)
                    && before + 1 != seq
                    && !(may_jump && seq > before)
                {
                    result = Err(format!("{} is followed by {seq}", before));
                }
            }
        }
    }
    for (writer, next) in acknowledged {
        let source = format!("w{writer}");
        let session = store.session(&source, Uuid::from_u128(u128::from(*writer) + 1));
        let known = session.map_or(0, |session| session.next_seq);
        let read = last.get(&source).map_or(0, |last| last + 1);
        if known < *next || read != known {
            result = Err(format!(
                "{source}: acknowledged {next}, known {known}, read {read}"
            ));
        }
    }
    store.shutdown().await;
    result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_loses_nothing_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = BTreeMap::new();
    for round in 0..8 {
        let path = dir.path().to_owned();
        let millis = fastrand::u64(5..400);
        let acknowledged = tokio::task::spawn_blocking(move || run_and_kill(&path, false, millis))
            .await
            .unwrap();
        assert!(
            !acknowledged.is_empty(),
            "round {round}: the child acknowledged nothing"
        );
        all.extend(acknowledged);
        verify(dir.path(), &all).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledging_before_the_commit_is_noticed_by_this_test() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let acknowledged = tokio::task::spawn_blocking(move || run_and_kill(&path, true, 50))
            .await
            .unwrap();
        if verify(dir.path(), &acknowledged).await.is_err() {
            return;
        }
    }
    panic!("ten kills and nothing was lost");
}
