//! A batch was planned, and an entry of it is damaged on the disk before it is sent again.

use std::sync::Arc;

use sidekick_ipc::frame::{FrameKind, Hole, append_frame, hole_cause};

use crate::position::{LOST_ITEM, Position};
use crate::slab::Slab;
use crate::upload::Drive;
use crate::upload::encode::{ENCODER_VERSION, GAP_STREAM};
use crate::upload::outbox::{IndexedSlabs, LaneState};
use crate::upload::plan::Plan;
use crate::upload::testing::{FakeOutbox, FakeSink, Fuse, GROUP, small_batches, start};

/// All of an entry of one slab is lost, but the first numbers, which are uploaded.
fn lose(entry: &mut IndexedSlabs, taken: u64) {
    let mut head = entry.slabs[0].head.clone();
    head.first_seq += taken;
    head.count -= taken;
    let hole = Hole {
        count: head.count,
        cause: hole_cause::ROTTEN,
    };
    let mut payload = Vec::new();
    hole.encode(&mut payload);
    let mut frames = Vec::new();
    let kind = FrameKind::Hole as u16;
    append_frame(&mut frames, &head.epoch, kind, head.first_seq, 0, &payload);
    let frames = frames.into();
    entry.slabs = vec![Slab { head, frames }];
    entry.is_lost = true;
}

/// Four entries of two records; all of the second is lost but what lies before the plan.
async fn upload(first: (u64, u32), last: (u64, u32)) -> (Arc<FakeOutbox>, Arc<FakeSink>, String) {
    let fuse = Fuse::new();
    let outbox = FakeOutbox::new(fuse.clone(), &[("fake", 1)]);
    for _ in 0..4 {
        outbox.append(&[&["damage", "damage"]]);
    }
    let position = |(index, item)| Position { index, item };
    let plan = Plan {
        sink: "fake".into(),
        lane: 0,
        first: position(first),
        last: position(last),
        rules_version: 0,
        encoder_version: ENCODER_VERSION,
        extra: Vec::new(),
    };
    let key = plan.key(&GROUP);
    let is_amid = first == (2, 1);
    {
        let mut state = outbox.state.lock().unwrap();
        let watermark = match first {
            (1, 0) => Position::default(),
            (2, 0) => position((1, 1)),
            _ => position((2, 0)),
        };
        // What lies before it is on the books.
        let before: u64 = if is_amid { 3 } else { 2 * (first.0 - 1) };
        state.books.records = before;
        let plan = Some(plan);
        let lane = LaneState { watermark, plan };
        state.lanes.insert(("fake".to_owned(), 0), lane);
        lose(&mut state.entries[1], u64::from(is_amid));
    }
    let outbox = Arc::new(outbox);
    let mut sink = FakeSink::new(1, fuse, 7);
    (sink.fails_of_ten, sink.lines_max) = (0, usize::MAX);
    let sink = Arc::new(sink);
    let mut running = start(outbox.clone(), vec![sink.clone()], small_batches()).await;
    running.drive.send_replace(Drive::Drain);
    running.through(outbox.index()).await;
    (outbox, sink, key)
}

/// What is left goes out under the batch's own key, so that a backend which had taken it takes nothing twice; what is lost
/// is told once, also where the batch began or ended amid it, and where nothing of the batch is left.
#[tokio::test(start_paused = true)]
async fn a_batch_over_a_lost_entry_is_sent_with_what_is_left() {
    for (first, last, of_plan) in [
        ((1, 0), (4, 1), 7),
        ((1, 0), (2, 1), 2),
        ((2, 0), (3, 1), 3),
        ((2, 1), (3, 0), 2),
        ((2, 0), (2, 1), 0),
    ] {
        let (outbox, sink, key) = upload(first, last).await;
        let told = format!("{first:?} to {last:?}");
        let seen = sink.seen.lock().unwrap();
        let lines = seen
            .bodies
            .get(&key)
            .map_or(0, |body| body.iter().filter(|byte| **byte == b'\n').count());
        assert_eq!(lines, of_plan, "{told}: {:?}", seen.bodies.keys());
        drop(seen);
        let mut records = sink.records();
        records.sort_by_key(|(_, seq)| *seq);
        let seqs: Vec<u64> = records.iter().map(|(_, seq)| *seq).collect();
        let begin = if first == (2, 1) { 4 } else { 2 * first.0 - 1 };
        // One row stands for all that is lost.
        let expected: Vec<u64> = (begin..=8).filter(|seq| *seq != 4 || begin == 4).collect();
        assert_eq!(seqs, expected, "{told}");
        let gaps: Vec<u64> = records
            .iter()
            .filter(|(stream, _)| stream == GAP_STREAM)
            .map(|(_, seq)| *seq)
            .collect();
        assert_eq!(gaps, [begin.max(3)], "{told}");
        let state = outbox.state.lock().unwrap();
        let lost = if first == (2, 1) { 1 } else { 2 };
        assert_eq!(state.books.lost, lost, "{told}");
        assert_eq!(state.books.numbers(), 8, "{told}: {:?}", state.books);
        assert!(state.complaints.is_empty(), "{:?}", state.complaints);
        let watermark = state.lanes[&("fake".to_owned(), 0)].watermark;
        assert!(
            watermark
                >= Position {
                    index: 2,
                    item: LOST_ITEM
                },
            "{told}"
        );
    }
}

/// With several lanes it is told by one of those that had not passed it, whichever these are, and once.
#[tokio::test(start_paused = true)]
async fn one_lane_tells_of_a_lost_entry_and_none_where_all_had_passed_it() {
    for ahead in 0..8_u32 {
        let fuse = Fuse::new();
        let outbox = FakeOutbox::new(fuse.clone(), &[("fake", 3)]);
        for _ in 0..4 {
            outbox.append(&[&["damage", "chat.say", "score", "move", "match.end"]]);
        }
        {
            let mut state = outbox.state.lock().unwrap();
            for lane in (0..3).filter(|lane| ahead >> lane & 1 == 1) {
                let key = ("fake".to_owned(), lane);
                let state = state.lanes.get_mut(&key).unwrap();
                state.watermark = Position {
                    index: 4,
                    item: u32::MAX,
                };
            }
            lose(&mut state.entries[1], 0);
        }
        let outbox = Arc::new(outbox);
        let mut sink = FakeSink::new(3, fuse, 7);
        (sink.fails_of_ten, sink.lines_max) = (0, usize::MAX);
        let sink = Arc::new(sink);
        let mut running = start(outbox.clone(), vec![sink.clone()], small_batches()).await;
        running.through(outbox.index()).await;
        let records = sink.records();
        let gaps = records.iter().filter(|(stream, _)| stream == GAP_STREAM);
        let expected = if ahead == 7 { 0 } else { 1 };
        assert_eq!(gaps.count(), expected, "{ahead:03b}: {records:?}");
        let of_lost =
            |(stream, seq): &&(String, u64)| (6..=10).contains(seq) && stream != GAP_STREAM;
        assert_eq!(records.iter().filter(of_lost).count(), 0, "{ahead:03b}");
        let state = outbox.state.lock().unwrap();
        assert_eq!(state.books.lost, 5 * expected as u64, "{ahead:03b}");
    }
}
