//! A batch was planned, and an entry of it is damaged on the disk before it is sent again.

use std::sync::Arc;

use sidekick_ipc::frame::{FrameKind, Hole, append_frame, hole_cause};

use crate::position::{LOST_ITEM, Loss, Position};
use crate::slab::Slab;
use crate::upload::Drive;
use crate::upload::encode::{ENCODER_VERSION, GAP_STREAM};
use crate::upload::engine::losses::broken::IS_BLIND;
use crate::upload::outbox::{IndexedSlabs, LaneState};
use crate::upload::plan::Plan;
use crate::upload::testing::{FakeOutbox, FakeSink, Fuse, GROUP, small_batches, start};

/// All of an entry of one slab is lost, but the first numbers, which are uploaded.
pub(super) fn lose(entry: &mut IndexedSlabs, taken: u64) {
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
    entry.loss = Some(Loss {
        taken,
        counted: 0,
        is_old: false,
    });
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

/// Numbers that are on the books already are told with the others where nobody knows which they are, and count once.
#[tokio::test(start_paused = true)]
async fn what_was_dealt_with_of_a_lost_entry_counts_once() {
    let fuse = Fuse::new();
    let outbox = FakeOutbox::new(fuse.clone(), &[("fake", 1)]);
    for _ in 0..4 {
        outbox.append(&[&["damage", "damage"]]);
    }
    {
        let mut state = outbox.state.lock().unwrap();
        let lane = LaneState {
            watermark: Position { index: 1, item: 1 },
            plan: None,
        };
        state.lanes.insert(("fake".to_owned(), 0), lane);
        // Two of the first entry, one of the second.
        state.books.records = 3;
        lose(&mut state.entries[1], 0);
        state.entries[1].loss.as_mut().unwrap().counted = 1;
    }
    let outbox = Arc::new(outbox);
    let mut sink = FakeSink::new(1, fuse, 7);
    (sink.fails_of_ten, sink.lines_max) = (0, usize::MAX);
    let mut running = start(outbox.clone(), vec![Arc::new(sink)], small_batches()).await;
    running.drive.send_replace(Drive::Drain);
    running.through(outbox.index()).await;
    let books = outbox.state.lock().unwrap().books.clone();
    assert_eq!((books.lost, books.numbers()), (1, 8), "{books:?}");
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

/// Lanes read, and an entry rots amid that, whoever has it in memory or has passed it. What became of its numbers, where
/// some of its records did not arrive: told once, or not at all.
async fn rot_amid_reading(seed: u64) -> Result<bool, String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let fuse = Fuse::new();
    let lanes = random.u32(1..=4);
    let outbox = FakeOutbox::new(fuse.clone(), &[("fake", lanes)]);
    for _ in 0..12 {
        outbox.append(&[&["damage", "chat.say", "score", "move", "match.end"]]);
    }
    let outbox = Arc::new(outbox);
    let mut sink = FakeSink::new(lanes, fuse, seed);
    sink.fails_of_ten = random.u32(0..8);
    sink.lines_max = [2, usize::MAX][random.usize(0..2)];
    let sink = Arc::new(sink);
    let mut running = start(outbox.clone(), vec![sink.clone()], small_batches()).await;
    let commits = random.u64(0..40);
    for _ in 0..10_000 {
        if outbox.state.lock().unwrap().commits >= commits {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_micros(200)).await;
    }
    // One or two of them; what is lost cannot be read, and is known as lost from then on.
    let mut lost = vec![random.usize(1..11)];
    if random.bool() {
        lost.push(random.usize(1..11));
    }
    for at in &lost {
        let mut state = outbox.state.lock().unwrap();
        if state.entries[*at].loss.is_none() {
            lose(&mut state.entries[*at], 0);
        }
    }
    running.drive.send_replace(Drive::Drain);
    let through = running.through(outbox.index());
    if tokio::time::timeout(std::time::Duration::from_secs(3600), through)
        .await
        .is_err()
    {
        return Err(format!("seed {seed}: nothing moves any more"));
    }
    let records = sink.records();
    let mut is_told = false;
    for entry in 0..12_usize {
        let first = entry as u64 * 5 + 1;
        let of_entry = |(_, seq): &&(String, u64)| (first..first + 5).contains(seq);
        let (gaps, others): (Vec<_>, Vec<_>) = records
            .iter()
            .filter(of_entry)
            .partition(|(stream, _)| stream == GAP_STREAM);
        let is_lost = lost.contains(&entry);
        let arrived: std::collections::BTreeSet<u64> = others.iter().map(|(_, seq)| *seq).collect();
        let is_all = arrived.len() == 5;
        let is_right = match (is_lost, gaps.len()) {
            (false, gaps) => gaps == 0 && is_all,
            (true, 0) => is_all,
            (true, gaps) => gaps == 1,
        };
        is_told |= !gaps.is_empty();
        if !is_right || arrived.len() != others.len() {
            return Err(format!(
                "seed {seed}: entry {entry} of {lost:?}: {records:?}"
            ));
        }
    }
    let state = outbox.state.lock().unwrap();
    match state.complaints.is_empty() {
        true => Ok(is_told),
        false => Err(format!("seed {seed}: {:?}", state.complaints)),
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_rots_while_lanes_read_is_told_once_or_arrives() {
    let mut told = 0;
    for seed in 0..200 {
        told += u32::from(rot_amid_reading(seed).await.unwrap());
    }
    assert!((25..195).contains(&told), "{told} of 200 told of a loss");
}

/// Must fail: a lane that leaves the telling to one that has the entry in memory.
#[tokio::test(start_paused = true)]
async fn lanes_that_know_nothing_of_one_another_tell_of_no_loss() {
    IS_BLIND.set(true);
    let mut is_found_out = false;
    for seed in 0..400 {
        if rot_amid_reading(seed).await.is_err() {
            is_found_out = true;
            break;
        }
    }
    IS_BLIND.set(false);
    assert!(is_found_out);
}

/// A lane whose open plan lies beyond a lost entry has passed it: another tells.
#[tokio::test(start_paused = true)]
async fn a_plan_beyond_a_lost_entry_does_not_silence_the_others() {
    let fuse = Fuse::new();
    let outbox = FakeOutbox::new(fuse.clone(), &[("fake", 2)]);
    for _ in 0..4 {
        outbox.append(&[&["damage", "chat.say", "score", "move", "match.end"]]);
    }
    // The stream of which lane 1 has its records.
    let streams = ["damage", "chat.say", "score", "move", "match.end"];
    let of_lane = |lane| {
        let mut numbers = (0..).zip(streams);
        let found = numbers.find(|(_, stream)| crate::upload::plan::lane_of(stream, 2) == lane);
        found.map(|(item, _)| item).unwrap()
    };
    let position = Position {
        index: 4,
        item: of_lane(1),
    };
    {
        let mut state = outbox.state.lock().unwrap();
        lose(&mut state.entries[1], 0);
        let lane = state.lanes.get_mut(&("fake".to_owned(), 1)).unwrap();
        lane.watermark = Position {
            index: 1,
            item: u32::MAX,
        };
        lane.plan = Some(Plan {
            sink: "fake".into(),
            lane: 1,
            first: position,
            last: position,
            rules_version: 0,
            encoder_version: ENCODER_VERSION,
            extra: Vec::new(),
        });
    }
    let outbox = Arc::new(outbox);
    let mut sink = FakeSink::new(2, fuse, 7);
    (sink.fails_of_ten, sink.lines_max) = (0, usize::MAX);
    let sink = Arc::new(sink);
    let mut running = start(outbox.clone(), vec![sink.clone()], small_batches()).await;
    running.through(outbox.index()).await;
    let records = sink.records();
    let gaps = records.iter().filter(|(stream, _)| stream == GAP_STREAM);
    assert_eq!(gaps.count(), 1, "{records:?}");
}

/// What came to the backend, when it had taken the records from 1 to `arrived` and nobody had written that down, entry 2 of
/// four is lost, and the plan is known or is not: numbers of records, and of those that are told as lost.
async fn after_an_unknown_batch(
    arrived: u64,
    is_planned: bool,
    tells: bool,
) -> (Vec<u64>, Vec<u64>) {
    let fuse = Fuse::new();
    let outbox = FakeOutbox::new(fuse.clone(), &[("fake", 1)]);
    for _ in 0..4 {
        outbox.append(&[&["damage", "damage", "damage"]]);
    }
    let mut sink = FakeSink::new(1, fuse, 7);
    (sink.fails_of_ten, sink.lines_max) = (0, usize::MAX);
    sink.tells_held = tells;
    {
        let mut state = outbox.state.lock().unwrap();
        let at = |number: u64| state.records[number as usize].0;
        let plan = Plan {
            sink: "fake".into(),
            lane: 0,
            first: at(0),
            last: at(arrived - 1),
            rules_version: 0,
            encoder_version: ENCODER_VERSION,
            extra: Vec::new(),
        };
        let line = |seq| format!("{{\"stream\":\"damage\",\"seq\":{seq}}}\n");
        let body: String = (1..=arrived).map(line).collect();
        let mut seen = sink.seen.lock().unwrap();
        seen.bodies.insert(plan.key(&GROUP), body.into());
        seen.taken.push(plan.key(&GROUP));
        drop(seen);
        let lane = state.lanes.get_mut(&("fake".to_owned(), 0)).unwrap();
        lane.plan = is_planned.then_some(plan);
        lose(&mut state.entries[1], 0);
    }
    let (outbox, sink) = (Arc::new(outbox), Arc::new(sink));
    let mut running = start(outbox.clone(), vec![sink.clone()], small_batches()).await;
    running.drive.send_replace(Drive::Drain);
    running.through(outbox.index()).await;
    let state = outbox.state.lock().unwrap();
    assert!(state.complaints.is_empty(), "{:?}", state.complaints);
    if tells {
        assert_eq!(state.books.numbers(), 12, "{:?}", state.books);
        assert_eq!(state.books.lost, 6_u64.saturating_sub(arrived).min(3));
    }
    let (mut records, mut lost) = (Vec::new(), Vec::new());
    let seen = sink.seen.lock().unwrap();
    for line in seen.taken.iter().flat_map(|key| {
        let lines = seen.bodies[key].split(|byte| *byte == b'\n');
        lines.filter(|line| !line.is_empty())
    }) {
        let line: serde_json::Value = serde_json::from_slice(line).unwrap();
        let seq = line["seq"].as_u64().unwrap();
        match line["data"]["last_seq"].as_u64() {
            Some(last) => lost.extend(seq..=last),
            None => records.push(seq),
        }
    }
    records.sort_unstable();
    (records, lost)
}

/// A sink that says what it holds is told of nothing as lost that it has, and gets nothing twice.
#[tokio::test(start_paused = true)]
async fn what_a_sink_holds_is_not_told_as_lost() {
    for arrived in [2, 3, 4, 5, 6, 7, 9] {
        for is_planned in [true, false] {
            let told = format!("{arrived} arrived, planned: {is_planned}");
            let (records, lost) = after_an_unknown_batch(arrived, is_planned, true).await;
            let missing: Vec<u64> = (4..=6).filter(|seq| *seq > arrived).collect();
            assert_eq!(lost, missing, "{told}");
            let there: Vec<u64> = (1..=12).filter(|seq| !missing.contains(seq)).collect();
            assert_eq!(records, there, "{told}");
        }
    }
    // The same, of one that says nothing.
    let (_, lost) = after_an_unknown_batch(5, false, false).await;
    assert_eq!(lost, [4, 5, 6]);
}
