//! The store as a whole, in a real directory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sidekick_ipc::frame::append_frame;

use super::*;
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
        first: Position { index: 3, item: 0 },
        last: Position { index: 5, item: 3 },
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
    // The same ring again goes on; an older launch does not.
    let opened = store.session_opened("s", epoch(), 1, 5).await.unwrap();
    assert_eq!(opened.next_seq, 201);
    let error = store
        .session_opened("s", Uuid::from_u128(43), 1, 5)
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        StoreError::Refused(Refusal::OldLaunch { launch: 1, last: 1 })
    ));
    store.append(slab(201, 1)).await.unwrap();
    store
        .session_ended("s", epoch(), "it left", false)
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
    let store = Arc::new(Store::open(config(&dir)).await.unwrap());
    store.session_opened("s", epoch(), 1, 5).await.unwrap();
    let before = store.stats().log.syncs;
    let mut tickets = Vec::new();
    for seq in 1..=1000 {
        tickets.push(store.submit(slab(seq, 1)).await.unwrap());
    }
    for (at, ticket) in tickets.into_iter().enumerate() {
        let appended = tokio::time::timeout(Duration::from_secs(20), ticket.wait())
            .await
            .unwrap();
        assert_eq!(appended.unwrap().next_seq, at as u64 + 2);
    }
    let syncs = store.stats().log.syncs - before;
    assert!(syncs < 1000 / 4, "{syncs} fdatasyncs for 1000 slabs");
    assert_eq!(sequence(&store).await, (1..=1000).collect::<Vec<u64>>());
    store.shutdown().await;
}
