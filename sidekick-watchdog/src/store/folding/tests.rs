//! Folding on a real store: what readers see of marked records and of rows, over a restart.

use sidekick_ipc::frame::{frames, hole_cause};
use sidekick_ipc::value::{Value, encode};

use super::*;
use crate::store::{Refusal, StoreConfig};

/// Backends know rows by these; a change would send what is retried a second time.
#[test]
fn the_epochs_of_steps_do_not_change() {
    let group = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    let first = epoch(group, 0);
    assert_eq!(first.to_string(), "526a0122-c2cd-8283-8000-000000000000");
    assert_eq!(
        epoch(group, 258).to_string(),
        "526a0122-c2cd-8283-8000-000000000102"
    );
    assert!(is_of_a_step(group, epoch(group, 7)));
    assert!(!is_of_a_step(group, Uuid::from_u128(7)));
    assert!(!is_of_a_step(Uuid::nil(), first));
}

fn session_slab(epoch: Uuid) -> crate::slab::Slab {
    let rows = [1, 2, 3, 4].map(|n| FoldRow {
        time_ns: n,
        stream: "hit".to_owned(),
        variant: encode(&Value::Int(n as i64)),
    });
    let (head, frames) = slab("s", epoch, &rows);
    let frames = frames.into();
    crate::slab::Slab { head, frames }
}

/// Number and kind of each frame that a reader sees, by entries.
async fn seen(store: &Store) -> Vec<(u64, u16, u8)> {
    let entries = store.read_slabs(0, usize::MAX).await.unwrap();
    let slabs = entries.into_iter().flat_map(|entry| entry.slabs);
    slabs
        .flat_map(|(_, slab)| {
            let frames = frames(&slab.frames, &slab.head.epoch);
            let frames = frames.map(|frame| {
                let frame = frame.unwrap();
                let hole = sidekick_ipc::Hole::parse(frame.payload);
                let is_hole = frame.header.kind == FrameKind::Hole as u16;
                let cause = hole.ok().filter(|_| is_hole).map_or(0, |hole| hole.cause);
                (frame.header.seq, frame.header.kind, cause)
            });
            frames.collect::<Vec<_>>()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_holes_and_rows_once_a_step_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(dir.path().join("data"));
    let store = Store::open(config.clone()).await.unwrap();
    let session = Uuid::from_u128(7);
    store.session_opened("s", session, 1, 0).await.unwrap();
    store.set_folding(true).await.unwrap();
    store.append(session_slab(session)).await.unwrap();
    assert_eq!(seen(&store).await, [], "it waits to be folded");

    let unfolded = store.unfolded(usize::MAX).await.unwrap();
    let [entry] = &unfolded.entries[..] else {
        panic!("{unfolded:?}")
    };
    assert!(unfolded.holds_up && unfolded.is_all);
    let marked = vec![(1, hole_cause::DUPLICATE), (3, hole_cause::AGGREGATED)];
    let step = FoldStep {
        step: unfolded.step,
        to: unfolded.to,
        cells: vec![(b"k".to_vec(), Some(b"v".to_vec()))],
        marks: vec![FoldMarks {
            index: entry.index,
            item: entry.slabs[0].0,
            first_seq: 1,
            records: marked,
        }],
        rows: vec![FoldRow {
            time_ns: 5,
            stream: "hit.minute".to_owned(),
            variant: encode(&Value::Int(2)),
        }],
    };
    store.fold("s", step.clone()).await.unwrap();
    let again = store.fold("s", step).await;
    assert!(
        matches!(again, Err(StoreError::Refused(Refusal::NotNext))),
        "{again:?}"
    );
    let own = store.unfolded(usize::MAX).await.unwrap();
    assert!(own.entries.is_empty() && own.holds_up);
    let last = FoldStep {
        step: own.step,
        to: own.to,
        ..FoldStep::default()
    };
    store.fold("s", last).await.unwrap();
    let (record, hole) = (FrameKind::Record as u16, FrameKind::Hole as u16);
    let expected = [
        (1, hole, hole_cause::DUPLICATE),
        (2, record, 0),
        (3, hole, hole_cause::AGGREGATED),
        (4, record, 0),
        (1, record, 0),
    ];
    assert_eq!(seen(&store).await, expected);
    store.shutdown().await;
    drop(store);

    // With the state from sled, and with the state made anew of the log.
    for is_lost in [false, true] {
        if is_lost {
            std::fs::remove_dir_all(config.dir.join("state")).unwrap();
        }
        let store = Store::open(config.clone()).await.unwrap();
        assert!(store.is_folding());
        assert_eq!(
            store.cells().1,
            BTreeMap::from([(b"k".to_vec(), b"v".to_vec())])
        );
        assert_eq!(seen(&store).await, expected);
        store.shutdown().await;
    }
}
