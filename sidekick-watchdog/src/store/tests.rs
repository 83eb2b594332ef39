//! The store as a whole, in a real directory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sidekick_ipc::frame::append_frame;

use super::*;
use crate::exit::ExitCode;
use crate::position::Position;
use crate::slab::SlabHead;

fn epoch() -> Uuid {
    Uuid::from_u128(42)
}

/// A slab of `count` frames with payloads that name their number.
fn slab(first_seq: u64, count: u64) -> Slab {
    let mut frames = Vec::new();
    for seq in first_seq..first_seq + count {
        let mut payload = vec![0; 100];
        payload[..8].copy_from_slice(&seq.to_le_bytes());
        append_frame(&mut frames, &epoch(), 1, seq, 0, &payload);
    }
    Slab {
        head: SlabHead {
            source: "s".into(),
            epoch: epoch(),
            incarnation: 1,
            realtime_offset_ns: 0,
            first_seq,
            count,
            checkpoint: RingCheckpoint {
                ring_position: first_seq + count,
                ..Default::default()
            },
        },
        frames: Bytes::from(frames),
    }
}

fn config(dir: &tempfile::TempDir) -> StoreConfig {
    StoreConfig {
        segment_bytes: 64 << 10,
        zero_step_bytes: 16 << 10,
        ..StoreConfig::new(dir.path().join("data"))
    }
}

/// The sequence numbers of all records that a reader sees, in order.
async fn sequence(store: &Store) -> Vec<u64> {
    let mut after = 0;
    let mut all = Vec::new();
    loop {
        let read = store.read_slabs(after, 10_000).await.unwrap();
        let Some(last) = read.last() else { return all };
        after = last.index;
        for (_, slab) in read.into_iter().flat_map(|entry| entry.slabs) {
            let frames = sidekick_ipc::frame::frames(&slab.frames, &slab.head.epoch);
            let before = all.len();
            all.extend(frames.map(|frame| frame.unwrap().header.seq));
            assert_eq!(all[before], slab.head.first_seq);
            assert_eq!((all.len() - before) as u64, slab.head.count);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_appended_is_read_back_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(&dir)).await.unwrap();
    let group = store.group();
    assert_eq!(store.last_launch("s"), 0);
    let opened = store.session_opened("s", epoch(), 1, 5).await.unwrap();
    assert_eq!(
        opened,
        SessionOpened {
            next_seq: 1,
            checkpoint: None
        }
    );
    let lanes = store.set_sinks(vec![("file".into(), 2)]).await.unwrap();
    assert_eq!(lanes["file"], 2);
    for first in (1..=191).step_by(10) {
        let appended = store.append(slab(first, 10)).await.unwrap();
        assert_eq!(appended.next_seq, first + 10);
        assert_eq!(appended.checkpoint.ring_position, first + 10);
    }
    let expected: Vec<u64> = (1..=200).collect();
    assert_eq!(sequence(&store).await, expected);
    let plan = Plan {
        first: Position { index: 9, item: 0 },
        last: Position { index: 11, item: 3 },
        rules_version: 0,
        encoder_version: 1,
        extra: vec![1, 2],
    };
    store.plan("file", 1, plan.clone()).await.unwrap();
    assert!(store.stats().log.syncs > 0);
    store.shutdown().await;
    assert!(matches!(
        store.append(slab(201, 1)).await,
        Err(AppendError::Stopped(_))
    ));
    drop(store);

    let store = Store::open(config(&dir)).await.unwrap();
    assert_eq!(store.group(), group);
    assert_eq!(sequence(&store).await, expected);
    assert_eq!(store.lanes("file")[1].plan.as_ref(), Some(&plan));
    assert_eq!(store.last_launch("s"), 1);
    let session = store.session("s", epoch()).unwrap();
    assert_eq!(session.next_seq, 201);
    assert_eq!(store.open_sessions().len(), 1);
    // The same ring again goes on; an older launch does not, nor another one beside it.
    let opened = store.session_opened("s", epoch(), 1, 5).await.unwrap();
    assert_eq!(opened.next_seq, 201);
    let error = store
        .session_opened("s", Uuid::from_u128(43), 1, 5)
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        StoreError::Refused(Refusal::LaunchBusy { launch: 1 })
    ));
    let error = store
        .session_opened("s", Uuid::from_u128(43), 0, 5)
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        StoreError::Refused(Refusal::OldLaunch { launch: 0, last: 1 })
    ));
    store.append(slab(201, 1)).await.unwrap();
    store
        .session_ended("s", epoch(), "it left", false, None)
        .await
        .unwrap();
    assert_eq!(store.open_sessions().len(), 0);
    assert_eq!(store.totals()["s"].committed, 201);
    let error = store.append(slab(202, 1)).await.unwrap_err();
    assert_eq!(error, AppendError::Refused(Refusal::SessionEnded));
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_is_cut_and_a_hole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(&dir)).await.unwrap();
    let unknown = store.append(slab(1, 5)).await.unwrap_err();
    assert_eq!(unknown, AppendError::Refused(Refusal::UnknownSession));
    store.session_opened("s", epoch(), 1, 5).await.unwrap();
    store.append(slab(1, 5)).await.unwrap();
    // CORRECTNESS 8: A is lost, B comes first.
    let hole = store.append(slab(11, 5)).await.unwrap_err();
    assert_eq!(
        hole,
        AppendError::Refused(Refusal::Hole {
            first_seq: 11,
            expected: 6
        })
    );
    store.append(slab(6, 5)).await.unwrap();
    store.append(slab(11, 5)).await.unwrap();
    // Wholly and partly seen ones.
    assert_eq!(store.append(slab(6, 5)).await.unwrap().next_seq, 16);
    let appended = store.append(slab(14, 6)).await.unwrap();
    assert_eq!(appended.next_seq, 20);
    let expected: Vec<u64> = (1..20).collect();
    assert_eq!(sequence(&store).await, expected);
    // Positions count all frames of an entry, also those that were cut off.
    let read = store.read_slabs(0, usize::MAX).await.unwrap();
    assert_eq!(read.last().unwrap().slabs[0].0, 2);
    store.shutdown().await;
    drop(store);
    let store = Store::open(config(&dir)).await.unwrap();
    assert_eq!(sequence(&store).await, expected);
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slabs_in_flight_are_committed_in_order_with_few_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = faulty(&dir);
    options.wal.segment_bytes = 8 << 20;
    let store = Arc::new(Store::open_with(options.clone(), 1 << 30).await.unwrap());
    store.session_opened("s", epoch(), 1, 5).await.unwrap();
    let before = store.stats().log.syncs;
    // Slower than the slabs come on any machine.
    let faults = &options.wal.faults;
    faults
        .sync_delay_us
        .store(20_000, std::sync::atomic::Ordering::Relaxed);
    let mut tickets = Vec::new();
    for seq in 1..=1000 {
        tickets.push(store.submit(slab(seq, 1)).await.unwrap());
    }
    for (at, ticket) in tickets.into_iter().enumerate() {
        let appended = tokio::time::timeout(Duration::from_secs(120), ticket.wait())
            .await
            .unwrap();
        assert_eq!(appended.unwrap().next_seq, at as u64 + 2);
    }
    let syncs = store.stats().log.syncs - before;
    assert!(syncs < 1000 / 4, "{syncs} fdatasyncs for 1000 slabs");
    assert_eq!(sequence(&store).await, (1..=1000).collect::<Vec<u64>>());
    store.shutdown().await;
}

/// Appends until `last`, ten numbers a slab.
async fn fill(store: &Store, from: u64, last: u64) {
    for first in (from..last).step_by(10) {
        store.append(slab(first, 10)).await.unwrap();
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A watchdog that is restarted before each snapshot is due, and then loses the sink that held the log: the log must
/// not stay full for ever, since a full one takes no records that would make a further snapshot due.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_many_short_runs_is_purged_by_one_jump_of_the_watermark() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        snapshot_every: 20,
        ..config(&dir)
    };
    for run in 0..12 {
        let store = Store::open(config.clone()).await.unwrap();
        store.set_sinks(vec![("a".into(), 1)]).await.unwrap();
        store.session_opened("s", epoch(), 1, 5).await.unwrap();
        for n in 0..5 {
            store.append(slab(1 + run * 50 + n * 10, 10)).await.unwrap();
        }
        store.shutdown().await;
    }
    let store = Store::open(config.clone()).await.unwrap();
    assert_eq!(store.stats().purged, 0);
    store.set_sinks(Vec::new()).await.unwrap();
    until("the log is purged", || store.stats().purged > 0).await;
    store.shutdown().await;
}

/// CORRECTNESS 12 and 13: a backlog holds the log; what is uploaded lets it go, up to the older of two snapshots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_purged_behind_what_is_uploaded_and_never_before() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        snapshot_every: 20,
        ..config(&dir)
    };
    let store = Store::open(config.clone()).await.unwrap();
    store
        .set_sinks(vec![("a".into(), 2), ("b".into(), 1)])
        .await
        .unwrap();
    store.session_opened("s", epoch(), 1, 5).await.unwrap();
    fill(&store, 1, 2000).await;
    let snapshots = || {
        let files = store.parts.machine.snapshots().list().unwrap();
        let (published, pending): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|file| file.published);
        (published.len(), pending.len())
    };
    until("pending snapshots are taken along the way", || {
        snapshots().1 >= 4
    })
    .await;
    assert_eq!(snapshots().0, 0);
    let full = store.stats().log.log_bytes;
    let whole = |index| Position {
        index,
        item: u32::MAX,
    };
    // One lane of three is not enough.
    store.uploaded("a", 0, whole(150), 10).await.unwrap();
    store.uploaded("b", 0, whole(150), 10).await.unwrap();
    assert!(store.stats().uploaded < 20);
    assert_eq!(snapshots().0, 0);
    store.uploaded("a", 1, whole(90), 10).await.unwrap();
    until("two snapshots are published while a backlog stands", || {
        snapshots().0 == 2 && store.stats().purged > 0
    })
    .await;
    let first = store.stats().purged;
    let newest = |published: bool| {
        let files = store.parts.machine.snapshots().list().unwrap();
        let mut files = files.into_iter().rev();
        files
            .find(|file| file.published == published)
            .unwrap()
            .index
    };
    assert!(
        first < newest(true) && newest(true) <= 90,
        "up to the older one: {first}"
    );
    store.uploaded("a", 1, whole(150), 10).await.unwrap();
    until("the log is purged", || store.stats().purged > first).await;
    let purged = store.stats().purged;
    assert!(purged <= 90, "up to the older one: {purged}");
    until("space is given back", || store.stats().log.log_bytes < full).await;
    let kept = sequence(&store).await;
    assert_eq!(*kept.last().unwrap(), 2000);
    store.shutdown().await;
    drop(store);

    // Everything that is not uploaded is still there.
    let store = Store::open(config.clone()).await.unwrap();
    assert_eq!(store.stats().purged, purged);
    assert_eq!(sequence(&store).await, kept);
    assert_eq!(store.session("s", epoch()).unwrap().next_seq, 2001);
    store.shutdown().await;
    drop(store);

    // A purged log without a snapshot is a stop, never an empty start.
    let snapshots = config.dir.join("snapshots");
    let saved = dir.path().join("saved");
    std::fs::rename(&snapshots, &saved).unwrap();
    let error = Store::open(config.clone()).await.unwrap_err();
    assert!(matches!(error, StoreError::NoSnapshot { .. }), "{error}");
    assert_eq!(error.exit_code(), ExitCode::StoreUnusable);
    std::fs::remove_dir_all(&snapshots).unwrap();
    std::fs::rename(&saved, &snapshots).unwrap();
    // A damaged one is set aside; the older one and the log serve.
    let newest = std::fs::read_dir(&snapshots)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let newest = newest
        .filter(|path| path.extension().is_some_and(|e| e == "snap"))
        .max()
        .unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&newest, &bytes).unwrap();
    std::fs::remove_dir_all(config.dir.join("state")).unwrap();
    let store = Store::open(config).await.unwrap();
    assert_eq!(sequence(&store).await, kept);
    assert_eq!(store.session("s", epoch()).unwrap().next_seq, 2001);
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_unfitting_sled_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir);
    let state = config.dir.join("state");
    let store = Store::open(config.clone()).await.unwrap();
    store.session_opened("s", epoch(), 1, 5).await.unwrap();
    fill(&store, 1, 100).await;
    store.shutdown().await;
    drop(store);
    let old = dir.path().join("old");
    let copy = |from: &Path, to: &Path| {
        let _ = std::fs::remove_dir_all(to);
        std::fs::create_dir_all(to).unwrap();
        for name in ["conf", "db"] {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    };
    copy(&state, &old);
    for damage in 0..5 {
        match damage {
            0 => std::fs::remove_dir_all(&state).unwrap(),
            1 => std::fs::write(state.join("db"), b"not a database").unwrap(),
            2 => std::fs::write(state.join("conf"), b"?").unwrap(),
            // Behind the log, which is no fault.
            3 => copy(&old, &state),
            _ => {
                std::fs::remove_dir_all(&state).unwrap();
                std::fs::write(&state, b"a file").unwrap();
            }
        }
        let store = Store::open(config.clone()).await.unwrap();
        let next = store.session("s", epoch()).unwrap().next_seq;
        assert_eq!(next, 101 + damage * 10);
        fill(&store, next, next + 9).await;
        store.shutdown().await;
    }
    let bad = std::fs::read_dir(&config.dir).unwrap().filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("sled.bad-")
    });
    assert!(bad.count() >= 1);
    // Ahead of the log, as after somebody restored an old log.
    let log = config.dir.join("log");
    std::fs::remove_dir_all(&log).unwrap();
    let store = Store::open(config).await.unwrap();
    assert_eq!(store.session("s", epoch()), None);
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_directories_are_told_clearly() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    std::fs::write(&path, b"").unwrap();
    let error = Store::open(StoreConfig::new(&path)).await.unwrap_err();
    assert!(matches!(error, StoreError::NotADirectory { .. }), "{error}");
    let error = Store::open(StoreConfig::new("/proc/sidekick"))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}

fn faulty(dir: &tempfile::TempDir) -> NodeOptions {
    NodeOptions {
        directory: dir.path().join("data"),
        wal: WalOptions {
            segment_bytes: 64 << 10,
            zero_step_bytes: 16 << 10,
            ..WalOptions::new("")
        },
        batch_bytes_max: 64 << 10,
        snapshot_every: SnapshotEvery {
            entries: 50,
            bytes: 1 << 20,
        },
        timing: super::raft::Timing::Quick,
        state_helper: None,
    }
}

/// A full disk refuses before anything is written; when there is space again the store goes on, and so does a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let options = faulty(&dir);
    let faults = Arc::clone(&options.wal.faults);
    let space = |bytes| {
        faults
            .space_left
            .store(bytes, std::sync::atomic::Ordering::Relaxed);
    };
    let store = Store::open_with(options.clone(), 1 << 30).await.unwrap();
    store.session_opened("s", epoch(), 1, 5).await.unwrap();
    space(30 << 10);
    let mut next = 1;
    let error = loop {
        match store.append(slab(next, 10)).await {
            Ok(appended) => next = appended.next_seq,
            Err(error) => break error,
        }
        assert!(next < 1000);
    };
    assert!(matches!(error, AppendError::NoSpace(_)), "{error}");
    space(u64::MAX);
    assert_eq!(
        store.append(slab(next, 10)).await.unwrap().next_seq,
        next + 10
    );
    space(0);
    while store.append(slab(next + 10, 10)).await.is_ok() {
        next += 10;
    }
    store.shutdown().await;
    drop(store);
    space(u64::MAX);
    let store = Store::open_with(options, 1 << 30).await.unwrap();
    assert_eq!(sequence(&store).await, (1..next + 10).collect::<Vec<u64>>());
    store.shutdown().await;
}

/// A failed fdatasync ends the store: it says so, takes nothing more, and a restart has all that was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_fdatasync_is_fatal() {
    let dir = tempfile::tempdir().unwrap();
    let options = faulty(&dir);
    let faults = Arc::clone(&options.wal.faults);
    let store = Store::open_with(options.clone(), 1 << 30).await.unwrap();
    store.session_opened("s", epoch(), 1, 5).await.unwrap();
    store.append(slab(1, 10)).await.unwrap();
    faults
        .syncs_left
        .store(0, std::sync::atomic::Ordering::Relaxed);
    let error = store.append(slab(11, 10)).await.unwrap_err();
    assert!(matches!(error, AppendError::Stopped(_)), "{error}");
    let fatal = tokio::time::timeout(Duration::from_secs(120), store.fatal())
        .await
        .unwrap();
    assert_eq!(fatal.exit_code(), ExitCode::StoreUnusable);
    assert_eq!(
        fatal.to_string(),
        "the store has stopped: the log cannot be written: fdatasync failed on purpose; to open it again recovers, nothing \
         that was acknowledged is lost"
    );
    let error = store.append(slab(11, 10)).await.unwrap_err();
    assert!(matches!(error, AppendError::Stopped(_)), "{error}");
    store.shutdown().await;
    drop(store);
    faults
        .syncs_left
        .store(u64::MAX, std::sync::atomic::Ordering::Relaxed);
    let store = Store::open_with(options, 1 << 30).await.unwrap();
    // What was not acknowledged may be there or not; what was, is.
    let kept = sequence(&store).await;
    assert!(kept.len() == 10 || kept.len() == 20, "{kept:?}");
    let session = store.session("s", epoch()).unwrap();
    assert_eq!(session.next_seq, kept.len() as u64 + 1);
    store.shutdown().await;
}

/// A fault of ours in the log's thread is a death like any other: nobody waits for ever, and another store opens after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_logs_thread_is_told_and_another_store_opens() {
    let dir = tempfile::tempdir().unwrap();
    let options = faulty(&dir);
    let faults = Arc::clone(&options.wal.faults);
    let store = Store::open_with(options.clone(), 1 << 30).await.unwrap();
    store.session_opened("s", epoch(), 1, 5).await.unwrap();
    store.append(slab(1, 10)).await.unwrap();
    let panics = |on| {
        let order = std::sync::atomic::Ordering::Relaxed;
        faults.panics.store(on, order);
    };
    panics(true);
    let patience = Duration::from_secs(120);
    let answer = tokio::time::timeout(patience, store.append(slab(11, 10))).await;
    let error = answer.expect("an answer").unwrap_err();
    assert!(matches!(error, AppendError::Stopped(_)), "{error}");
    let died = tokio::time::timeout(patience, store.fatal()).await;
    assert!(died.is_ok(), "the death was not told");
    let stopped = tokio::time::timeout(patience, store.shutdown()).await;
    assert!(stopped.is_ok(), "it does not stop");
    panics(false);
    let store = Store::open_with(options, 1 << 30).await.unwrap();
    let kept = sequence(&store).await;
    assert!(kept.len() == 10 || kept.len() == 20, "{kept:?}");
    store.append(slab(11, 10)).await.unwrap();
    assert_eq!(sequence(&store).await, (1..=20).collect::<Vec<u64>>());
    store.shutdown().await;
}

/// CORRECTNESS 14: the quota refuses new records, never purges accepted ones, and uploads make room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quota_refuses_until_something_is_uploaded() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        disk_quota: 300 << 10,
        snapshot_every: 10,
        ..config(&dir)
    };
    let store = Store::open(config).await.unwrap();
    store.set_sinks(vec![("a".into(), 1)]).await.unwrap();
    store.session_opened("s", epoch(), 1, 5).await.unwrap();
    let mut next = 1;
    let error = loop {
        match store.append(slab(next, 10)).await {
            Ok(appended) => next = appended.next_seq,
            Err(error) => break error,
        }
        assert!(next < 10_000);
    };
    assert!(matches!(error, AppendError::Quota { .. }), "{error}");
    assert_eq!(sequence(&store).await, (1..next).collect::<Vec<u64>>());
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while store.append(slab(next, 10)).await.is_err() {
        let index = *store.applied().borrow();
        let up_to = Position {
            index,
            item: u32::MAX,
        };
        store.uploaded("a", 0, up_to, 1).await.unwrap();
        assert!(std::time::Instant::now() < deadline, "{:?}", store.stats());
    }
    store.shutdown().await;
}

/// A sink that was away goes on with what the log still holds; a batch that was on its way then, and is no longer in
/// the log, is not sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_was_away_holds_no_log_and_gets_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        snapshot_every: 20,
        ..config(&dir)
    };
    let whole = |index| Position {
        index,
        item: u32::MAX,
    };
    let sinks = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 1)).collect();
    let store = Store::open(config.clone()).await.unwrap();
    store.session_opened("s", epoch(), 1, 5).await.unwrap();
    store.set_sinks(sinks(&["a", "b"])).await.unwrap();
    let begin = store.lanes("a")[0].watermark;
    fill(&store, 1, 400).await;
    store.uploaded("a", 0, whole(20), 50).await.unwrap();
    let plan = |first, last| Plan {
        first: Position {
            index: first,
            item: 0,
        },
        last: Position {
            index: last,
            item: 3,
        },
        rules_version: 0,
        encoder_version: 1,
        extra: Vec::new(),
    };
    store.plan("a", 0, plan(21, 24)).await.unwrap();
    store.plan("b", 0, plan(35, 36)).await.unwrap();
    // "b" holds the log, with "a" or without it.
    store.set_sinks(sinks(&["b"])).await.unwrap();
    assert_eq!(store.lanes("a"), []);
    assert!(store.stats().uploaded <= begin.index);
    // Back before anything was purged, also over a restart: it stands where it stood.
    store.shutdown().await;
    drop(store);
    let store = Store::open(config.clone()).await.unwrap();
    store.set_sinks(sinks(&["a", "b"])).await.unwrap();
    assert_eq!(store.lanes("a")[0].watermark, whole(20));
    assert_eq!(store.lanes("a")[0].plan, Some(plan(21, 24)));
    // Away for long: "b" is through, the log goes.
    store.set_sinks(sinks(&["b"])).await.unwrap();
    fill(&store, 401, 2000).await;
    store.uploaded("b", 0, whole(200), 50).await.unwrap();
    until("the log is purged", || store.stats().purged > 24).await;
    let purged = store.stats().purged;
    store.set_sinks(sinks(&["b", "a"])).await.unwrap();
    let lane = store.lanes("a").remove(0);
    assert_eq!(lane.plan, None, "a batch that nobody can make again stands");
    assert!(lane.watermark >= whole(purged), "{lane:?}");
    assert_eq!(lane.records, 50);
    // From here on it holds the log, though snapshots far ahead of it are published already.
    fill(&store, 2001, 2100).await;
    store.uploaded("b", 0, whole(210), 50).await.unwrap();
    store.shutdown().await;
    drop(store);
    let store = Store::open(config).await.unwrap();
    assert_eq!(store.stats().purged, purged);
    let kept = sequence(&store).await;
    assert_eq!(*kept.last().unwrap(), 2100);
    store.shutdown().await;
}

/// Each start takes a bit of the log's last room. Where there is none left, it says so in our words and not openraft's,
/// as often as it is tried, and harms nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_log_on_a_full_disk_refuses_to_start_in_plain_words() {
    let dir = tempfile::tempdir().unwrap();
    let options = faulty(&dir);
    let space = |bytes| {
        let faults = &options.wal.faults;
        faults
            .space_left
            .store(bytes, std::sync::atomic::Ordering::Relaxed);
    };
    let store = Store::open_with(options.clone(), 1 << 30).await.unwrap();
    store.session_opened("s", epoch(), 1, 5).await.unwrap();
    space(0);
    let mut next = 1;
    while let Ok(appended) = store.append(slab(next, 2)).await {
        next = appended.next_seq;
    }
    store.shutdown().await;
    drop(store);
    let mut refused = 0;
    for start in 0.. {
        assert!(start < 300, "it starts for ever");
        match Store::open_with(options.clone(), 1 << 30).await {
            Ok(store) => {
                assert_eq!(refused, 0, "it started where it had not before");
                store.shutdown().await;
            }
            Err(error) => {
                assert_eq!(error.exit_code(), ExitCode::StoreUnusable);
                let text = error.to_string();
                assert!(
                    text.starts_with("no space for the log: no space left"),
                    "{text}"
                );
                assert!(
                    text.ends_with("free some space on the data directory's disk"),
                    "{text}"
                );
                refused += 1;
            }
        }
        if refused == 3 {
            break;
        }
    }
    space(u64::MAX);
    let store = Store::open_with(options, 1 << 30).await.unwrap();
    assert_eq!(sequence(&store).await, (1..next).collect::<Vec<u64>>());
    store.shutdown().await;
}

/// A file of the log that somebody has taken away: a stop that names it, with nothing changed, and all is there once
/// it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_segment_is_named_and_nothing_is_harmed() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir);
    let store = Store::open(config.clone()).await.unwrap();
    store.session_opened("s", epoch(), 1, 5).await.unwrap();
    fill(&store, 1, 2000).await;
    store.shutdown().await;
    drop(store);
    let log = config.dir.join("log");
    let files = || {
        let entries = std::fs::read_dir(&log).unwrap();
        let mut files: Vec<(PathBuf, Vec<u8>)> = entries
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let segments = files().len();
    assert!(segments >= 4, "{segments}");
    let away = dir.path().join("away");
    for number in [1, 2, segments - 1] {
        let path = log.join(format!("{number:016}.wal"));
        std::fs::rename(&path, &away).unwrap();
        let before = files();
        let error = Store::open(config.clone()).await.unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::StoreUnusable);
        let text = error.to_string();
        assert!(text.contains("missing"), "{text}");
        if number > 1 {
            assert!(
                text.contains(&format!("segment {number} before it is missing")),
                "{text}"
            );
            assert!(text.contains("restore it from a copy"), "{text}");
        }
        assert!(files() == before, "it changed the log");
        std::fs::rename(&away, &path).unwrap();
    }
    let store = Store::open(config).await.unwrap();
    assert_eq!(sequence(&store).await, (1..=2000).collect::<Vec<u64>>());
    store.shutdown().await;
}

/// A disk that hangs in fdatasync holds up who waits for it, and nobody else: the main loop's looks at the store, by
/// which it tells and adopts engines, answer meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_disk_holds_up_only_who_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = faulty(&dir);
    let delay = |us| {
        let faults = &options.wal.faults;
        faults
            .sync_delay_us
            .store(us, std::sync::atomic::Ordering::Relaxed);
    };
    let store = Arc::new(Store::open_with(options.clone(), 1 << 30).await.unwrap());
    store.session_opened("s", epoch(), 1, 5).await.unwrap();
    store.append(slab(1, 10)).await.unwrap();
    delay(600_000_000);
    let stuck = store.submit(slab(11, 10)).await.unwrap();
    let stuck = tokio::spawn(stuck.wait());
    // A look at everything that needs no disk, over and over while it stalls.
    for _ in 0..100 {
        assert_eq!(store.totals()["s"].committed, 10);
        assert_eq!(store.session("s", epoch()).unwrap().next_seq, 11);
        assert_eq!(store.open_sessions().len(), 1);
        assert_eq!(store.last_launch("s"), 1);
        assert!(store.stats().log.log_bytes > 0);
        assert_eq!(sequence(&store).await, (1..=10).collect::<Vec<u64>>());
    }
    assert!(!stuck.is_finished(), "the disk did not stall");
    delay(0);
    assert_eq!(stuck.await.unwrap().unwrap().next_seq, 21);
    store.shutdown().await;
}

/// A panic in apply ends the store and says so; the state can still be read, and the end comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panicking_apply_is_told_and_blocks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir);
    let store = Store::open(config.clone()).await.unwrap();
    store.session_opened("s", epoch(), 1, 5).await.unwrap();
    store.append(slab(1, 10)).await.unwrap();
    let panics = &store.parts.machine.panics;
    panics.store(true, std::sync::atomic::Ordering::Relaxed);
    let patience = Duration::from_secs(120);
    let error = tokio::time::timeout(patience, store.append(slab(11, 10)));
    let error = error.await.expect("an answer").unwrap_err();
    assert!(matches!(error, AppendError::Stopped(_)), "{error}");
    let fatal = tokio::time::timeout(patience, store.fatal()).await;
    assert_eq!(fatal.expect("a word").exit_code(), ExitCode::StoreUnusable);
    assert_eq!(store.session("s", epoch()).unwrap().next_seq, 11);
    assert_eq!(store.totals()["s"].committed, 10);
    panics.store(false, std::sync::atomic::Ordering::Relaxed);
    tokio::time::timeout(patience, store.shutdown())
        .await
        .expect("an end");
    drop(store);
    // What was fsynced before the panic is taken by the next one.
    let store = Store::open(config).await.unwrap();
    assert_eq!(store.session("s", epoch()).unwrap().next_seq, 21);
    store.shutdown().await;
}
