//! A stopped store's log is damaged, anywhere: one byte costs nothing, and of more what is lost is told exactly, and everything else
//! is there.

mod one_byte;

use std::fs;
use std::path::Path;

use sidekick_ipc::frame::append_frame;

use super::super::StoreConfig;
use super::super::view::LogView;
use super::super::wal::{WalError, broken};
use super::super::{Store, folding, read};
use super::*;
use crate::books::Counts;
use crate::slab::{RingCheckpoint, Slab, SlabHead};

/// What a reader of the store sees of a session: numbers of records and of holes, each as often as it comes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sight {
    records: Vec<u64>,
    lost: Vec<u64>,
}

type Sights = BTreeMap<Uuid, Sight>;

fn config(dir: &Path) -> StoreConfig {
    StoreConfig {
        segment_bytes: 64 << 10,
        zero_step_bytes: 16 << 10,
        ..StoreConfig::new(dir)
    }
}

fn slab(epoch: u128, first_seq: u64, count: u64) -> Slab {
    let epoch = Uuid::from_u128(epoch);
    let mut frames = Vec::new();
    for seq in first_seq..first_seq + count {
        let payload = vec![seq as u8; 200];
        append_frame(&mut frames, &epoch, 1, seq, seq * 10, &payload);
    }
    Slab {
        head: SlabHead {
            source: "s".to_owned(),
            epoch,
            incarnation: epoch.as_u128() as u32,
            realtime_offset_ns: 5,
            first_seq,
            count,
            checkpoint: RingCheckpoint {
                ring_position: first_seq + count,
                ..RingCheckpoint::default()
            },
        },
        frames: frames.into(),
    }
}

/// A store with two sessions over several segments, of which a sink has taken the beginning. How far each session is.
async fn write(dir: &Path) -> BTreeMap<Uuid, u64> {
    let store = Store::open(config(dir)).await.unwrap();
    store.set_sinks(vec![("file".into(), 1)]).await.unwrap();
    let mut next = BTreeMap::new();
    for epoch in [1_u128, 2] {
        let id = Uuid::from_u128(epoch);
        store
            .session_opened("s", id, epoch as u32, 5)
            .await
            .unwrap();
        let mut first = 1;
        for number in 0..80 {
            let count = 1 + number % 7;
            store.append(slab(epoch, first, count)).await.unwrap();
            first += count;
        }
        next.insert(id, first);
    }
    let taken = Position {
        index: 20,
        item: u32::MAX,
    };
    store
        .settle("file", 0, taken, Counts::default())
        .await
        .unwrap();
    store.shutdown().await;
    next
}

async fn look(store: &Store) -> Sights {
    let mut sights = Sights::new();
    let mut after = 0;
    loop {
        let read = store.read_slabs(after, 10_000).await.unwrap();
        let Some(last) = read.last() else {
            return sights;
        };
        after = last.index;
        for (_, slab) in read.into_iter().flat_map(|entry| entry.slabs) {
            let sight = sights.entry(slab.head.epoch).or_default();
            for frame in frames(&slab.frames, &slab.head.epoch) {
                let frame = frame.unwrap();
                let seq = frame.header.seq;
                if frame.header.kind == FrameKind::Hole as u16 {
                    let hole = Hole::parse(frame.payload).unwrap();
                    assert_eq!(hole.cause, hole_cause::ROTTEN);
                    sight.lost.extend(seq..seq + hole.count);
                } else {
                    sight.records.push(seq);
                }
            }
        }
    }
}

/// Each number below `next` comes once, as a record or as lost, and in order.
fn complaint(sights: &Sights, next: &BTreeMap<Uuid, u64>) -> Option<String> {
    next.iter().find_map(|(epoch, next)| {
        let sight = sights.get(epoch).cloned().unwrap_or_default();
        if !sight.records.is_sorted() {
            return Some(format!("{epoch}: out of order"));
        }
        let mut all = [sight.records, sight.lost].concat();
        all.sort_unstable();
        let expected: Vec<u64> = (1..*next).collect();
        (all != expected).then(|| format!("{epoch}: {all:?} instead of {next}"))
    })
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Changes two bytes: what a single one was is known.
fn rot(path: &Path, at: u64, by: u8) {
    let mut bytes = fs::read(path).unwrap();
    for byte in &mut bytes[at as usize..at as usize + 2] {
        *byte ^= by;
    }
    fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rot_anywhere_costs_one_record_or_entry_and_its_numbers_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let next = write(&whole).await;
    let (log, _) = LogReader::beside(&whole.join("log"), is_whole, &mut |_, _| {}).unwrap();
    let (_, last) = log.bounds().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let (mut with_loss, mut refused) = (0, 0);
    for round in 0..60 {
        let data = dir.path().join(format!("round{round}"));
        copy(&whole, &data);
        // Every second time all has to be applied again.
        let is_replayed = round % 2 == 1;
        if is_replayed {
            fs::remove_dir_all(data.join("state")).unwrap();
        }
        // Any entry but the last one, where damage cannot be told from a tear.
        let index = random.u64(1..last);
        let (segment, at) = log.place(index).unwrap();
        let end = match log.place(index + 1) {
            Some((next, end)) if next == segment => end,
            _ => at + 100,
        };
        let path = data.join("log").join(segment_name(segment));
        let at = random.u64(at..end);
        rot(&path, at, random.u8(1..));
        let told = format!("round {round}, entry {index}, byte {at} of segment {segment}");

        let store = match Store::open(config(&data)).await {
            Ok(store) => store,
            Err(error) => {
                // The first entries say whose log it is.
                assert!(is_replayed && index < 6, "{told}: {error}");
                assert!(matches!(error, StoreError::Log(WalError::Damaged { .. })));
                refused += 1;
                continue;
            }
        };
        let rotten: Vec<RottenEntry> = store.rotten();
        let sights = look(&store).await;
        // What was behind the last slab that is left is in the ring still, if the state had to be made anew.
        let now: BTreeMap<Uuid, u64> = next
            .keys()
            .map(|epoch| (*epoch, store.session("s", *epoch).unwrap().next_seq))
            .collect();
        assert!(is_replayed || now == next, "{told}: {now:?}");
        assert_eq!(complaint(&sights, &now), None, "{told}");
        let lost: u64 = sights.values().map(|sight| sight.lost.len() as u64).sum();
        let gaps = rotten.iter().flat_map(|entry| &entry.gaps);
        let told_lost: u64 = gaps.map(|gap| gap.last_seq - gap.first_seq + 1).sum();
        assert_eq!(lost, told_lost, "{told}: {rotten:?}");
        assert!(rotten.len() <= 1, "{told}: {rotten:?}");
        if lost > 0 {
            with_loss += 1;
            assert!(lost <= 7, "{told}: {rotten:?}");
            assert_eq!(rotten[0].index, index, "{told}");
            // A reader that passes over what is lost would be noticed.
            let mut silent = sights.clone();
            silent.values_mut().for_each(|sight| sight.lost.clear());
            assert!(complaint(&silent, &now).is_some(), "{told}");
        }
        // The log goes on behind it, and the next start sees the same.
        let epoch = Uuid::from_u128(2);
        let appended = store.append(slab(2, now[&epoch], 3)).await.unwrap();
        let mut now = now;
        now.insert(epoch, appended.next_seq);
        let before = look(&store).await;
        store.shutdown().await;
        drop(store);
        let store = Store::open(config(&data)).await.unwrap();
        let after = look(&store).await;
        assert_eq!(before, after, "{told}");
        assert_eq!(complaint(&after, &now), None, "{told}");
        store.shutdown().await;

        // Whoever looks beside finds the same place. The padding of a frame is nobody's, and one byte of it costs nothing.
        let view = LogView::open(&data, &mut |_, _| {}).unwrap();
        let places = view.damage().len();
        assert!(places <= 1 && (lost == 0 || places == 1), "{told}");
        fs::remove_dir_all(&data).unwrap();
    }
    println!("{with_loss} of 60 rounds lost records, {refused} were refused");
    assert!(with_loss > 30 && refused < 5);
}

/// A store with a session of equal slabs, and the entries of the first and last of them.
async fn write_equal(dir: &Path) -> (u64, u64) {
    let store = Store::open(config(dir)).await.unwrap();
    store.set_sinks(vec![("file".into(), 1)]).await.unwrap();
    let epoch = Uuid::from_u128(1);
    store.session_opened("s", epoch, 1, 5).await.unwrap();
    let first = store.stats().applied + 1;
    for number in 0..20 {
        store.append(slab(1, 1 + number * 5, 5)).await.unwrap();
    }
    let last = store.stats().applied;
    store.shutdown().await;
    (first, last)
}

/// How many bytes the payload has of the frame at `at` of a segment.
fn payload_bytes(segment: &[u8], at: u64) -> u64 {
    let len = segment[at as usize..].first_chunk::<4>().unwrap();
    u64::from(u32::from_le_bytes(*len))
}

/// What lies there is an older entry, whole but for a bit: it is not taken for the one that lay there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_entry_is_not_taken_for_the_damaged_one() {
    for is_replayed in [false, true] {
        // Of the crc, of the index (which makes it the other one's, or none), of the commands, of a record.
        for byte in [4, 32, 39, 60, 400] {
            let dir = tempfile::tempdir().unwrap();
            let data = dir.path();
            let (first, _) = write_equal(data).await;
            let (log, _) = LogReader::beside(&data.join("log"), is_whole, &mut |_, _| {}).unwrap();
            let place = |index| log.place(index).unwrap();
            let ((segment, from), (_, at)) = (place(first + 7), place(first + 8));
            let path = data.join("log").join(segment_name(segment));
            let mut bytes = fs::read(&path).unwrap();
            let len = payload_bytes(&bytes, from);
            assert_eq!(len, payload_bytes(&bytes, at), "entries of one size");
            bytes.copy_within(from as usize..(from + 40 + len) as usize, at as usize);
            bytes[at as usize + byte] ^= 1;
            let claims_to_be_it = bytes[at as usize + 32] == (first + 8) as u8;
            assert_eq!(claims_to_be_it, byte == 32);
            fs::write(&path, bytes).unwrap();
            if claims_to_be_it {
                let (log, _) =
                    LogReader::beside(&data.join("log"), is_whole, &mut |_, _| {}).unwrap();
                let entry = log.lost()[&(first + 8)].clone();
                assert!(log.remains(&entry).is_none());
                // Who does not follow the heads takes it.
                broken::WITHOUT.set(Some(broken::Without::Chain));
                let is_taken = log.remains(&entry).is_some();
                broken::WITHOUT.set(None);
                assert!(is_taken);
            }
            if is_replayed {
                fs::remove_dir_all(data.join("state")).unwrap();
            }
            let store = Store::open(config(data)).await.unwrap();
            let sights = look(&store).await;
            let sight = &sights[&Uuid::from_u128(1)];
            let lost: Vec<u64> = (41..=45).collect();
            assert_eq!(sight.lost, lost, "replayed: {is_replayed}, byte {byte}");
            let next = BTreeMap::from([(Uuid::from_u128(1), 101)]);
            assert_eq!(complaint(&sights, &next), None);
            store.shutdown().await;
        }
    }
}

/// Damage from one entry into the next costs a record of each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbors_are_salvaged_both() {
    for is_replayed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        let (first, _) = write_equal(data).await;
        let (log, _) = LogReader::beside(&data.join("log"), is_whole, &mut |_, _| {}).unwrap();
        for (number, frame) in [(7, 4), (8, 0), (9, 2)] {
            let (segment, at) = log.place(first + number).unwrap();
            let path = data.join("log").join(segment_name(segment));
            let end = at + 40 + payload_bytes(&fs::read(&path).unwrap(), at);
            let frames_at = end - 5 * 232;
            rot(&path, frames_at + frame * 232 + 100, 1);
        }
        if is_replayed {
            fs::remove_dir_all(data.join("state")).unwrap();
        }
        let store = Store::open(config(data)).await.unwrap();
        let sights = look(&store).await;
        let sight = &sights[&Uuid::from_u128(1)];
        assert_eq!(sight.lost, [40, 41, 48], "replayed: {is_replayed}");
        let next = BTreeMap::from([(Uuid::from_u128(1), 101)]);
        assert_eq!(complaint(&sights, &next), None);
        store.shutdown().await;
    }
}

/// What a sink had taken of an entry before the damage came is not told as lost, and what tells of the rest comes behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_uploaded_of_a_lost_entry_is_not_lost() {
    // Requests have numbers and are no items.
    for requests in [0, 3] {
        for is_behind in [false, true] {
            uploaded_of_a_lost_entry(requests, is_behind).await;
        }
    }
}

/// `is_behind`: the state that goes on does not have what followed the lost entry.
async fn uploaded_of_a_lost_entry(requests: u64, is_behind: bool) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let store = Store::open(config(data)).await.unwrap();
    store.set_sinks(vec![("file".into(), 1)]).await.unwrap();
    let epoch = Uuid::from_u128(1);
    store.session_opened("s", epoch, 1, 5).await.unwrap();
    store.append(slab(1, 1, 10)).await.unwrap();
    let index = store.stats().applied;
    let taken = Position { index, item: 3 };
    let counts = Counts {
        rows: 4,
        records: 4,
        requests,
        ..Counts::default()
    };
    store.settle("file", 0, taken, counts).await.unwrap();
    store.shutdown().await;
    drop(store);
    let before = tempfile::tempdir().unwrap();
    copy(data, before.path());
    let store = Store::open(config(data)).await.unwrap();
    store.append(slab(1, 11, 2)).await.unwrap();
    store.shutdown().await;
    drop(store);
    if is_behind {
        for folder in ["state", "snapshots"] {
            fs::remove_dir_all(data.join(folder)).unwrap();
            copy(&before.path().join(folder), &data.join(folder));
        }
    }
    let (log, _) = LogReader::beside(&data.join("log"), is_whole, &mut |_, _| {}).unwrap();
    let (segment, at) = log.place(index).unwrap();
    // Among its commands: nothing of it is left.
    rot(&data.join("log").join(segment_name(segment)), at + 60, 1);
    let store = Store::open(config(data)).await.unwrap();
    let read = store.read_slabs(index - 1, usize::MAX).await.unwrap();
    assert!(read[0].loss.is_some() && read[0].index == index);
    let gap = &store.rotten()[0].gaps[0].clone();
    assert_eq!((gap.first_seq, gap.last_seq), (5 + requests, 10));
    let sights = look(&store).await;
    let lost: Vec<u64> = (5 + requests..=10).collect();
    assert_eq!(sights[&epoch].lost, lost);
    let (books, committed) = store.books("file");
    assert_eq!(books.pending(committed), Some(lost.len() as u64 + 2));
    assert_eq!(sights[&epoch].records, [11, 12]);
    store.shutdown().await;
}

/// All that a reader of the store gets.
async fn entries(store: &Store) -> Vec<read::IndexedSlabs> {
    let mut all = Vec::new();
    loop {
        let after = all
            .last()
            .map_or(0, |entry: &read::IndexedSlabs| entry.index);
        let read = store.read_slabs(after, 10_000).await.unwrap();
        if read.is_empty() {
            return all;
        }
        // Whether a loss is old is for this process alone.
        all.extend(read.into_iter().map(|mut entry| {
            entry.loss = entry.loss.map(|loss| Loss {
                is_old: false,
                ..loss
            });
            entry
        }));
    }
}

/// How many rounds gave other bytes to a later start, where what was made of the loss is kept or is not.
async fn rot_under_a_reader(is_kept: bool) -> u32 {
    let mut differing = 0;
    for round in 0..16 {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut next = write(&data).await;
        let store = Store::open(StoreConfig {
            cache_size: 1,
            ..config(&data)
        });
        let store = store.await.unwrap();
        // What comes now is only on the disk and in the state's memory.
        for count in [2, 3] {
            for (epoch, next) in &mut next {
                let appended = store.append(slab(epoch.as_u128(), *next, count)).await;
                *next = appended.unwrap().next_seq;
            }
        }
        let mut random = fastrand::Rng::with_seed(round);
        let applied = store.stats().applied;
        let sessions = |store: &Store| -> Vec<_> {
            let session = |epoch: &Uuid| store.session("s", *epoch).unwrap();
            next.keys().map(session).collect()
        };
        let before = sessions(&store);
        for number in 0..2 {
            // The first time often the last slab of a session, of whose numbers only the state knows.
            let index = match (round % 2, number) {
                (0, 0) => applied - random.u64(0..2),
                _ => random.u64(22..applied),
            };
            let log = &store.parts.wal;
            let (segment, at) = log.place(index).unwrap();
            let path = data.join("log").join(segment_name(segment));
            // Among its commands.
            rot(&path, at + 40 + random.u64(0..60), random.u8(1..));
        }
        let sights = look(&store).await;
        let told = format!("round {round}: {:?}", store.rotten());
        assert_eq!(complaint(&sights, &next), None, "{told}");
        let rotten = store.rotten();
        assert!(rotten.iter().all(|entry| !entry.is_unapplied), "{told}");
        let lost: u64 = sights.values().map(|sight| sight.lost.len() as u64).sum();
        let gaps = rotten.iter().flat_map(|entry| &entry.gaps);
        let told_lost: u64 = gaps.map(|gap| gap.last_seq - gap.first_seq + 1).sum();
        assert_eq!(lost, told_lost, "{told}");
        assert!((1..=14).contains(&lost), "{told}");
        let first = entries(&store).await;

        // It goes on, and is killed: the state in sled is older than the loss.
        let mut more = next.clone();
        for (epoch, next) in &mut more {
            let appended = store.append(slab(epoch.as_u128(), *next, 4)).await;
            *next = appended.unwrap().next_seq;
        }
        let killed = dir.path().join("killed");
        copy(&data, &killed);
        store.shutdown().await;
        drop(store);
        if !is_kept {
            for entry in fs::read_dir(killed.join("log")).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|end| end == "lost") {
                    fs::remove_file(path).unwrap();
                }
            }
        }
        let store = Store::open(config(&killed)).await.unwrap();
        let again = entries(&store).await;
        let again: Vec<_> = again.into_iter().take(first.len()).collect();
        assert_eq!(complaint(&look(&store).await, &more), None, "{told}");
        differing += u32::from(again != first);
        for (before, now) in before.iter().zip(sessions(&store)) {
            assert_eq!(now.next_seq, before.next_seq + 4, "{told}");
            assert_eq!(now.started_realtime_ns, before.started_realtime_ns);
        }
        let rotten = store.rotten();
        assert!(rotten.iter().all(|entry| !entry.is_unapplied), "{told}");
        store.shutdown().await;
    }
    differing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rot_that_a_running_store_meets_is_bridged_for_good() {
    assert_eq!(rot_under_a_reader(true).await, 0);
}

/// Must differ: a store that finds out at each start what a lost entry is read as.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_kept_is_told_otherwise_by_a_later_start() {
    assert!(rot_under_a_reader(false).await > 0);
}

/// What readers see: session, number, how many numbers, and the cause of a hole or 0.
async fn seen(store: &Store) -> Vec<(Uuid, u64, u64, u8)> {
    let mut seen = Vec::new();
    for (_, slab) in entries(store)
        .await
        .into_iter()
        .flat_map(|entry| entry.slabs)
    {
        for frame in frames(&slab.frames, &slab.head.epoch) {
            let frame = frame.unwrap();
            let is_hole = frame.header.kind == FrameKind::Hole as u16;
            let hole = is_hole.then(|| Hole::parse(frame.payload).unwrap());
            let (count, cause) = hole.map_or((1, 0), |hole| (hole.count, hole.cause));
            seen.push((slab.head.epoch, frame.header.seq, count, cause));
        }
    }
    seen
}

/// A rule as a driver carries it out: counts records in a cell, and tells of them in a row.
#[derive(Debug, Default)]
struct Counting {
    /// Where each step lies.
    steps: Vec<u64>,
}

impl Counting {
    /// Folds what there is.
    async fn step(&mut self, store: &Store, tells: bool) {
        let unfolded = store.unfolded(usize::MAX).await.unwrap();
        let (_, cells) = store.cells();
        let known = cells.get(&b"n"[..]).map_or(0, |cell| u64::from(cell[0]));
        let mut count = known;
        let mut marks = Vec::new();
        for entry in &unfolded.entries {
            for (item, slab) in &entry.slabs {
                let frames = frames(&slab.frames, &slab.head.epoch).map(Result::unwrap);
                let records = frames.filter(|frame| frame.header.kind == 1);
                let records: Vec<_> = records
                    .map(|frame| (frame.header.seq, hole_cause::AGGREGATED))
                    .collect();
                count += records.len() as u64;
                marks.push(super::super::FoldMarks {
                    index: entry.index,
                    item: *item,
                    first_seq: slab.head.first_seq,
                    records,
                });
            }
        }
        let cell = (!tells).then(|| vec![count as u8]);
        // The count is the row's time, which comes back with its frame.
        let row = super::super::FoldRow {
            time_ns: count,
            stream: "n".to_owned(),
            variant: Vec::new(),
        };
        let step = super::super::FoldStep {
            step: unfolded.step,
            to: unfolded.to,
            cells: vec![(b"n".to_vec(), cell)],
            marks,
            rows: if tells { vec![row] } else { Vec::new() },
        };
        store.fold("s", step).await.unwrap();
        self.steps.push(store.stats().applied);
    }
}

/// What the rows tell that readers see, and how many there are.
async fn counted(store: &Store) -> (u64, usize) {
    let mut rows = Vec::new();
    for entry in entries(store).await {
        for (_, slab) in entry.slabs {
            if slab.head.incarnation > 0 {
                continue;
            }
            for frame in frames(&slab.frames, &slab.head.epoch).map(Result::unwrap) {
                if frame.header.kind == 1 {
                    rows.push(frame.header.monotonic_ns);
                }
            }
        }
    }
    (rows.iter().sum(), rows.len())
}

/// A store that folds: two steps count, one tells, and a last one looks at the row. Entry of each step.
async fn write_folded(data: &Path, sinks: &[&str], uploaded: &[&str]) -> Vec<u64> {
    let store = Store::open(config(data)).await.unwrap();
    let sinks = sinks.iter().map(|sink| ((*sink).to_owned(), 1)).collect();
    store.set_sinks(sinks).await.unwrap();
    let epoch = Uuid::from_u128(1);
    store.session_opened("s", epoch, 1, 5).await.unwrap();
    store.set_folding(true).await.unwrap();
    let mut counting = Counting::default();
    for (first, tells) in [(1, false), (6, false), (11, true)] {
        store.append(slab(1, first, 5)).await.unwrap();
        counting.step(&store, tells).await;
    }
    counting.step(&store, false).await;
    assert_eq!(counted(&store).await, (15, 1));
    for sink in uploaded {
        let up_to = Position {
            index: store.stats().applied,
            item: u32::MAX,
        };
        let done = store.settle(sink, 0, up_to, Counts::default()).await;
        done.unwrap();
    }
    store.append(slab(1, 16, 5)).await.unwrap();
    counting.step(&store, false).await;
    store.append(slab(1, 21, 1)).await.unwrap();
    store.shutdown().await;
    counting.steps
}

/// The entry rots, and all has to be applied again.
fn rot_entry(data: &Path, index: u64) {
    let (log, _) = LogReader::beside(&data.join("log"), is_whole, &mut |_, _| {}).unwrap();
    let (segment, at) = log.place(index).unwrap();
    rot(&data.join("log").join(segment_name(segment)), at + 60, 1);
}

/// Folds to the end and tells of the rest; how many records are in rows.
async fn finish(store: &Store) -> (u64, usize) {
    let mut counting = Counting::default();
    counting.step(store, false).await;
    counting.step(store, true).await;
    counting.step(store, false).await;
    counted(store).await
}

/// Nobody has taken anything behind the lost step: all is folded again, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_step_is_folded_again_where_nobody_was_beyond() {
    for number in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        let steps = write_folded(data, &["file"], &[]).await;
        fs::remove_dir_all(data.join("state")).unwrap();
        rot_entry(data, steps[number]);
        let store = Store::open(config(data)).await.unwrap();
        let (next, _) = store.cells();
        assert_eq!(next, number as u64, "later steps wait for the lost one");
        // Nothing that is not folded can be read, no row of a refused step at all.
        assert_eq!(counted(&store).await, (0, 0));
        assert_eq!(finish(&store).await.0, 21, "step {number}");
        let seen = seen(&store).await;
        let told = seen
            .iter()
            .filter(|(.., cause)| *cause == hole_cause::ROTTEN);
        assert_eq!(told.count(), 0, "step {number}: {seen:?}");
        let epoch = Uuid::from_u128(1);
        let of_session = seen.iter().filter(|(of, ..)| *of == epoch);
        let raw = of_session.clone().filter(|(.., cause)| *cause == 0);
        assert_eq!((of_session.count(), raw.count()), (21, 0), "step {number}");
        store.shutdown().await;
    }
}

/// A sink has what lies behind the lost step: nothing of it comes again, what rules lost is told, and who has not taken the
/// records of the step yet gets gaps, since they may be in a row that went out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_step_is_told_where_a_sink_was_beyond() {
    for (number, sinks) in [(0, 1), (1, 1), (0, 2), (1, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        let sinks = &["file", "http"][..sinks];
        let steps = write_folded(data, sinks, &["file"]).await;
        fs::remove_dir_all(data.join("state")).unwrap();
        rot_entry(data, steps[number]);
        for start in 0..2 {
            let store = Store::open(config(data)).await.unwrap();
            let told = format!("step {number} of {sinks:?}, start {start}");
            let group = store.group();
            let before = seen(&store).await;
            let of_step = |seen: &[(Uuid, u64, u64, u8)]| {
                let epoch = folding::epoch(group, number as u64);
                let of_step = seen.iter().filter(|(of, ..)| *of == epoch);
                of_step.map(|(.., cause)| *cause).collect::<Vec<_>>()
            };
            assert_eq!(of_step(&before), [hole_cause::ROTTEN], "{told}");
            // The row of the third step, which holds those of the lost one, and what came since.
            if start == 0 {
                assert_eq!(counted(&store).await, (15, 1), "{told}");
                assert_eq!(finish(&store).await, (21, 2), "{told}");
            }
            let seen = seen(&store).await;
            let of_session = seen
                .iter()
                .filter(|(of, ..)| *of == Uuid::from_u128(1))
                .map(|(_, seq, count, cause)| {
                    assert_eq!(*count, 1);
                    (*seq, *cause)
                })
                .collect::<BTreeMap<_, _>>();
            for (seq, cause) in &of_session {
                let is_lost = (number as u64 * 5 + 1..=number as u64 * 5 + 5).contains(seq);
                let expected = match is_lost {
                    true => hole_cause::ROTTEN,
                    false => hole_cause::AGGREGATED,
                };
                assert_eq!(*cause, expected, "{told}: {seq}");
            }
            assert_eq!(of_session.len(), 21, "{told}");
            let (books, committed) = store.books("file");
            assert!(books.numbers() <= committed, "{told}");
            store.shutdown().await;
        }
    }
}

/// An entry with rows rots that was applied: the rows are told as lost, each of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_lost_entry_are_told() {
    for is_running in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        let steps = write_folded(data, &["file"], &[]).await;
        let open = || {
            Store::open(StoreConfig {
                cache_size: 1,
                ..config(data)
            })
        };
        let store = if is_running {
            let store = open().await.unwrap();
            rot_entry(data, steps[2]);
            store
        } else {
            rot_entry(data, steps[2]);
            open().await.unwrap()
        };
        assert_eq!(counted(&store).await, (0, 0));
        let seen = seen(&store).await;
        let epoch = folding::epoch(store.group(), 2);
        let rows: Vec<_> = seen.iter().filter(|(of, ..)| *of == epoch).collect();
        assert_eq!(rows, [&(epoch, 1, 1, hole_cause::ROTTEN)]);
        // All that is committed, but for what is not folded yet, can be seen as something.
        let numbers: u64 = seen.iter().map(|(_, _, count, _)| count).sum();
        assert_eq!(numbers + 1, store.books("file").1);
        store.shutdown().await;
    }
}
