//! Dead letters that are full, and marked ones that make room: a replay beside the batch that waits for that room.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::faults::{dead, mark_all, settle};
use super::steady;
use crate::upload::status::SinkState;
use crate::upload::testing::{
    FakeOutbox, FakeSink, Fuse, Running, check_books, small_batches, start,
};

async fn until_parked(running: &mut Running) {
    let is_parked = |status: &crate::upload::UploadStatus| {
        let state = status.sinks.first().map(|sink| &sink.state);
        matches!(state, Some(SinkState::Parked { .. }))
    };
    running.status.wait_for(is_parked).await.unwrap();
}

/// A full world: number 2 is a letter and marked, number 3 of the same lane has no room. From there the
/// backend takes all but `still_bad`, and the engine is killed after so many points.
async fn run(still_bad: &[u64], crash_at: i64, refuses_beside: bool) -> Result<(), String> {
    let fuse = Fuse::new();
    let mut outbox = FakeOutbox::new(fuse.clone(), &[("fake", 2)]);
    outbox.refuses_beside = refuses_beside;
    let outbox = Arc::new(outbox);
    outbox.state.lock().unwrap().letters_max = 1;
    outbox.append(&[&["damage", "damage", "damage", "damage", "score", "score"]]);
    let bad = Arc::new(FakeSink {
        poison: BTreeSet::from([2, 3]),
        ..steady(2, &fuse)
    });
    let mut running = start(outbox.clone(), vec![bad.clone()], small_batches()).await;
    until_parked(&mut running).await;
    assert_eq!(dead(&outbox), [2]);
    running.tasks.shutdown().await;
    let seen = std::mem::take(&mut *bad.seen.lock().unwrap());
    let healed = Arc::new(FakeSink {
        poison: still_bad.iter().copied().collect(),
        fails_of_ten: 3,
        seen: Mutex::new(seen),
        ..steady(2, &fuse)
    });
    mark_all(&outbox);
    fuse.set(crash_at);
    let running = start(outbox.clone(), vec![healed.clone()], small_batches()).await;
    running.until_blown(outbox.index(), &fuse).await;
    fuse.set(i64::MAX);
    let mut running = start(outbox.clone(), vec![healed.clone()], small_batches()).await;
    outbox.append(&[&["damage", "score"]]);
    settle(&mut running, &outbox).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    check_books(&outbox)?;
    match dead(&outbox) == still_bad {
        true => {}
        false => return Err(format!("dead are {:?}", dead(&outbox))),
    }
    let mut came: Vec<u64> = healed.records().iter().map(|(_, seq)| *seq).collect();
    came.sort_unstable();
    let expected: Vec<u64> = (1..=8).filter(|seq| !still_bad.contains(seq)).collect();
    if came != expected {
        return Err(format!("came {came:?}"));
    }
    let (seen, state) = (healed.seen.lock().unwrap(), outbox.state.lock().unwrap());
    match seen.complaints.iter().chain(&state.complaints).next() {
        None => Ok(()),
        Some(complaint) => Err(complaint.clone()),
    }
}

/// Wherever the engine is killed, with the batch that has no room and a replay open side by side: both arrive once, or the
/// record at hand takes the place that the letter left.
#[tokio::test(start_paused = true)]
async fn a_replay_makes_room_wherever_the_engine_is_killed() {
    for still_bad in [&[][..], &[3]] {
        for crash_at in (0..40).chain([i64::MAX]) {
            let run = run(still_bad, crash_at, false).await;
            run.unwrap_or_else(|e| panic!("{still_bad:?} stay bad, point {crash_at}: {e}"));
        }
    }
}

/// Must fail: a store that takes no replay beside a plan, as it was once.
#[tokio::test(start_paused = true)]
#[should_panic(expected = "stuck")]
async fn a_store_that_refuses_the_replay_would_be_noticed() {
    let _ = run(&[3], i64::MAX, true).await;
}
