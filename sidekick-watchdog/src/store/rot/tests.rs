//! One byte of a stopped store's log is changed, anywhere: what is lost is told exactly, everything else is there.

use std::fs;
use std::path::Path;

use sidekick_ipc::frame::frames;

use super::super::Store;
use super::super::StoreConfig;
use super::super::view::LogView;
use super::*;
use crate::books::Counts;
use crate::slab::Slab;

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

/// Changes one byte.
fn rot(path: &Path, at: u64, by: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= by;
    fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_anywhere_costs_one_entry_and_its_numbers_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let next = write(&whole).await;
    let (log, _) = LogReader::beside(&whole.join("log"), &mut |_, _| {}).unwrap();
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
        let rotten: Vec<RottenEntry> = store.rotten().cloned().collect();
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

        // Whoever looks beside finds the same place. The padding of a frame is nobody's.
        let view = LogView::open(&data, &mut |_, _| {}).unwrap();
        let places = view.damage().len();
        assert!(places <= 1 && (lost == 0 || places == 1), "{told}");
        fs::remove_dir_all(&data).unwrap();
    }
    println!("{with_loss} of 60 rounds lost records, {refused} were refused");
    assert!(with_loss > 30 && refused < 5);
}

/// What a sink had taken of an entry before the damage came is not told as lost, and what tells of the rest comes behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_uploaded_of_a_lost_entry_is_not_lost() {
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
        ..Counts::default()
    };
    store.settle("file", 0, taken, counts).await.unwrap();
    store.append(slab(1, 11, 2)).await.unwrap();
    store.shutdown().await;
    drop(store);
    let (log, _) = LogReader::beside(&data.join("log"), &mut |_, _| {}).unwrap();
    let (segment, at) = log.place(index).unwrap();
    rot(&data.join("log").join(segment_name(segment)), at + 300, 1);
    let store = Store::open(config(data)).await.unwrap();
    let read = store.read_slabs(index - 1, usize::MAX).await.unwrap();
    assert!(read[0].is_lost && read[0].index == index);
    let gap = &store.rotten().next().unwrap().gaps[0];
    assert_eq!((gap.first_seq, gap.last_seq), (5, 10));
    let sights = look(&store).await;
    assert_eq!(sights[&epoch].lost, [5, 6, 7, 8, 9, 10]);
    assert_eq!(sights[&epoch].records, [11, 12]);
    store.shutdown().await;
}
