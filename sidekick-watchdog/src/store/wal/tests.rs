//! The log against torn, stale, cut, rotten and full disks.

use std::sync::mpsc::channel;

use super::frame::broken::{WITHOUT, Without};
use super::recovery::{Reading, Recovered};
use std::path::{Path, PathBuf};

use super::frame::FRAME_HEAD_BYTES;
use super::*;

pub(super) const NODE: u64 = 7;

/// As a node of a group does: damage is refused.
fn recover(directory: &Path) -> Result<Recovered, WalError> {
    super::recovery::recover(
        directory,
        Reading::Owner(Rot::Refused),
        |_, _| true,
        &mut |_, _| {},
    )
}

pub(super) fn options(directory: &Path) -> WalOptions {
    WalOptions {
        segment_bytes: 64 << 10,
        zero_step_bytes: 16 << 10,
        cache_bytes: 4 << 10,
        node: NODE,
        is_whole: |_, _| true,
        ..WalOptions::new(directory)
    }
}

/// A directory in memory where there is one: thousands of logs are recovered, and no power is cut.
pub(super) fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

pub(super) fn id(index: u64) -> EntryId {
    EntryId {
        term: 1,
        node: NODE,
        index,
    }
}

fn payload(index: u64, bytes: usize) -> Bytes {
    (0..bytes)
        .map(|at| (index as usize * 31 + at * 7 + 1) as u8)
        .collect::<Vec<_>>()
        .into()
}

pub(super) fn entries(range: std::ops::RangeInclusive<u64>, bytes: usize) -> Vec<LogEntry> {
    range
        .map(|index| LogEntry {
            id: id(index),
            kind: Kind::Normal,
            payload: payload(index, bytes),
        })
        .collect()
}

pub(super) fn wait(job: impl FnOnce(Done)) -> io::Result<()> {
    let (sender, receiver) = channel();
    job(Box::new(move |result| drop(sender.send(result))));
    receiver.recv().unwrap()
}

pub(super) fn append(wal: &Wal, entries: Vec<LogEntry>) -> io::Result<()> {
    wait(|done| wal.append(entries, done))
}

/// Every entry in the log, checked against what was written.
fn check(wal: &Wal, first: u64, last: u64, bytes: usize) {
    assert_eq!(wal.bounds(), (first <= last).then_some((first, last)));
    assert_eq!(wal.last().map(|id| id.index), Some(last));
    for index in first..=last {
        let entry = wal.read(index, Part::Whole).unwrap().unwrap();
        assert_eq!(entry.id, id(index));
        assert_eq!(entry.payload, payload(index, bytes), "entry {index}");
    }
    assert!(wal.read(last + 1, Part::Whole).unwrap().is_none());
}

#[test]
fn everything_survives_a_restart_over_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(&options(dir.path())).unwrap();
    let vote = Vote {
        term: 3,
        node: NODE,
        committed: true,
    };
    wait(|done| wal.save_vote(vote, done)).unwrap();
    for first in (0..300).step_by(3) {
        append(&wal, entries(first..=first + 2, 1000)).unwrap();
    }
    wal.set_committed(Some(id(299)));
    check(&wal, 0, 299, 1000);
    wait(|done| wal.truncate(id(290), done)).unwrap();
    append(&wal, entries(290..=295, 1000)).unwrap();
    wait(|done| wal.purge(id(150), done)).unwrap();
    check(&wal, 151, 295, 1000);
    let files = || segment::list(dir.path()).unwrap();
    let (segments, spares) = files();
    assert!(
        segments.len() <= 4 && spares.len() == 1,
        "{segments:?} {spares:?}"
    );
    wal.stop();
    assert!(append(&wal, entries(296..=296, 10)).is_err());

    for _ in 0..2 {
        let wal = Wal::open(&options(dir.path())).unwrap();
        assert_eq!(wal.vote(), Some(vote));
        assert_eq!(wal.purged(), Some(id(150)));
        assert_eq!(
            wal.committed().map(|id| id.index),
            None,
            "beyond what was truncated"
        );
        check(&wal, 151, 295, 1000);
        wal.stop();
    }
    // All of it goes; the vote stays, the next entry follows the purged ones.
    let wal = Wal::open(&options(dir.path())).unwrap();
    wait(|done| wal.purge(id(400), done)).unwrap();
    assert_eq!(wal.last(), Some(id(400)));
    append(&wal, entries(401..=402, 10)).unwrap();
    wal.stop();
    let wal = Wal::open(&options(dir.path())).unwrap();
    assert_eq!(wal.vote(), Some(vote));
    check(&wal, 401, 402, 10);
    assert_eq!(files().0.len(), 1);
    wal.stop();
}

#[test]
fn an_entry_larger_than_a_segment_gets_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(&options(dir.path())).unwrap();
    for index in 0..6 {
        let bytes = if index % 2 == 0 { 300_000 } else { 10 };
        append(&wal, entries(index..=index, bytes)).unwrap();
    }
    wal.stop();
    let wal = Wal::open(&options(dir.path())).unwrap();
    for index in 0..6 {
        let bytes = if index % 2 == 0 { 300_000 } else { 10 };
        let entry = wal.read(index, Part::Whole).unwrap().unwrap();
        assert_eq!(entry.payload, payload(index, bytes));
    }
    wal.stop();
}

/// A log of small batches in one segment, the last of them of three entries; returns the file before and after that.
fn two_states(dir: &Path) -> (PathBuf, Vec<u8>, Vec<u8>) {
    let wal = Wal::open(&options(dir)).unwrap();
    let vote = Vote {
        term: 1,
        node: NODE,
        committed: true,
    };
    wait(|done| wal.save_vote(vote, done)).unwrap();
    for index in 0..5 {
        append(&wal, entries(index..=index, 100)).unwrap();
    }
    let path = dir.join(segment::segment_name(1));
    let before = std::fs::read(&path).unwrap();
    append(&wal, entries(5..=7, 700)).unwrap();
    wal.stop();
    let after = std::fs::read(&path).unwrap();
    (path, before, after)
}

/// The recovered entries are a prefix of what was written, at least up to `acknowledged`.
fn is_prefix(recovered: &Recovered, path: &Path, acknowledged: Option<u64>) -> Result<(), String> {
    let file = std::fs::read(path).map_err(|error| error.to_string())?;
    let last = recovered.index.bounds().map(|(_, last)| last);
    if last < acknowledged {
        return Err(format!("acknowledged {acknowledged:?}, recovered {last:?}"));
    }
    (0..last.map_or(0, |last| last + 1)).try_for_each(|index| is_whole(recovered, &file, index))
}

/// The entry at `index` of a log of [`two_states`] is what was written.
fn is_whole(recovered: &Recovered, file: &[u8], index: u64) -> Result<(), String> {
    let (_, offset) = recovered.index.get(index).ok_or("a hole")?;
    let at = offset as usize + FRAME_HEAD_BYTES;
    let expected = payload(index, if index < 5 { 100 } else { 700 });
    match file.get(at..at + expected.len()) == Some(&expected[..]) {
        true => Ok(()),
        false => Err(format!("entry {index} is not what was written")),
    }
}

#[test]
fn a_log_cut_at_any_byte_keeps_a_prefix() {
    let dir = memory_dir();
    let (path, _, after) = two_states(dir.path());
    let end = after.iter().rposition(|byte| *byte != 0).unwrap() + 16;
    let mut kept = 0;
    for len in (0..4096).step_by(101).chain(4096..end) {
        std::fs::write(&path, &after[..len]).unwrap();
        match recover(dir.path()) {
            Ok(recovered) => {
                is_prefix(&recovered, &path, None).unwrap();
                let last = recovered.index.bounds().map_or(0, |(_, last)| last + 1);
                assert!(last >= kept, "a longer file keeps more");
                kept = last;
            }
            // The header is written once, before the file gets its name.
            Err(WalError::Damaged { .. }) => assert!(len < 4096),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(kept, 8);
}

/// Replaces sectors of the unacknowledged batch by what was there before; returns the first complaint.
fn tear_every_sector() -> Result<(), String> {
    let dir = memory_dir();
    let (path, before, after) = two_states(dir.path());
    let sectors: Vec<usize> = (0..before.len().min(after.len()))
        .step_by(512)
        .filter(|at| before[*at..*at + 512] != after[*at..*at + 512])
        .collect();
    assert!(sectors.len() >= 4);
    for pattern in 0..1_usize << sectors.len().min(8) {
        let mut torn = after.clone();
        for (bit, at) in sectors.iter().enumerate() {
            if pattern >> (bit % 8) & 1 == 1 {
                torn[*at..*at + 512].copy_from_slice(&before[*at..*at + 512]);
            }
        }
        std::fs::write(&path, &torn).unwrap();
        let recovered = recover(dir.path()).map_err(|error| error.to_string())?;
        is_prefix(&recovered, &path, Some(4))?;
    }
    Ok(())
}

#[test]
fn a_torn_batch_costs_nothing_acknowledged() {
    tear_every_sector().unwrap();
}

#[test]
fn without_the_crc_a_torn_batch_is_noticed_by_these_tests() {
    WITHOUT.set(Some(Without::Crc));
    let result = tear_every_sector();
    WITHOUT.set(None);
    result.unwrap_err();
}

/// Changes two bytes: one alone costs nothing (`mend`).
fn spoil(bytes: &mut [u8], at: usize) {
    for byte in &mut bytes[at..at + 2] {
        *byte ^= 1 << (at % 8);
    }
}

#[test]
fn rot_before_the_last_batch_is_damage_and_not_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _, after) = two_states(dir.path());
    let recovered = recover(dir.path()).unwrap();
    for index in 0..5 {
        let (_, offset) = recovered.index.get(index).unwrap();
        let mut rotten = after.clone();
        spoil(&mut rotten, offset as usize + FRAME_HEAD_BYTES + 50);
        std::fs::write(&path, &rotten).unwrap();
        let error = recover(dir.path()).unwrap_err();
        assert!(matches!(error, WalError::Damaged { .. }), "{error}");
    }
    // In the last batch it cannot be told from a tear.
    let (_, offset) = recovered.index.get(6).unwrap();
    let mut torn = after;
    spoil(&mut torn, offset as usize + FRAME_HEAD_BYTES + 50);
    std::fs::write(&path, &torn).unwrap();
    assert_eq!(recover(dir.path()).unwrap().index.bounds(), Some((0, 5)));
}

/// Recovers a damaged log as its only owner does; `Err` where that is not the whole log without the entries of `lost`.
fn bridges(path: &Path, lost: &[u64]) -> Result<(), String> {
    let reading = Reading::Owner(Rot::Bridged);
    let directory = path.parent().expect("a directory");
    let recovered = super::recovery::recover(directory, reading, |_, _| true, &mut |_, _| {})
        .map_err(|error| error.to_string())?;
    if recovered.index.bounds() != Some((0, 7)) {
        return Err(format!("{:?} are left", recovered.index.bounds()));
    }
    let found: Vec<u64> = recovered.lost.keys().copied().collect();
    if found != lost {
        return Err(format!("{found:?} are lost instead of {lost:?}"));
    }
    if let Some((index, (found, _))) = recovered.lost.iter().find(|(at, (of, _))| *of != id(**at)) {
        return Err(format!("entry {index} got the id {found:?}"));
    }
    let voted = Vote {
        term: 1,
        node: NODE,
        committed: true,
    };
    if recovered.vote != Some(voted) {
        return Err(format!("the vote is {:?}", recovered.vote));
    }
    let file = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut intact = (0..=7).filter(|index| !lost.contains(index));
    intact.try_for_each(|index| is_whole(&recovered, &file, index))
}

/// Changes every two bytes before the last batch, then whole stretches; returns the first complaint.
fn rot_everywhere() -> Result<(), String> {
    let dir = memory_dir();
    let (path, _, after) = two_states(dir.path());
    let recovered = recover(dir.path()).map_err(|error| error.to_string())?;
    let place = |index| recovered.index.get(index).expect("an entry").1 as usize;
    let begin = segment::HEADER_BYTES as usize;
    for at in begin..place(5) - 1 {
        let index = (0..5).rfind(|index| place(*index) <= at);
        let end = index.map_or(0, |index| place(index) + FRAME_HEAD_BYTES + 100);
        if at + 1 == end {
            // One byte alone: the padding is nobody's.
            continue;
        }
        let mut rotten = after.clone();
        spoil(&mut rotten, at);
        std::fs::write(&path, &rotten).unwrap();
        let lost: Vec<u64> = index.filter(|_| at < end).into_iter().collect();
        bridges(&path, &lost).map_err(|complaint| format!("byte {at}: {complaint}"))?;
    }
    for (first, last) in [(0, 1), (1, 4), (0, 4)] {
        let mut rotten = after.clone();
        rotten[place(first) + 5..place(last) + 50].fill(0);
        std::fs::write(&path, &rotten).unwrap();
        let lost: Vec<u64> = (first..=last).collect();
        bridges(&path, &lost).map_err(|complaint| format!("{first} to {last}: {complaint}"))?;
    }
    Ok(())
}

#[test]
fn rot_costs_the_entry_that_it_lies_in() {
    rot_everywhere().unwrap();
}

#[test]
fn a_log_that_ends_at_whatever_is_bad_is_noticed_by_these_tests() {
    WITHOUT.set(Some(Without::Rot));
    let result = rot_everywhere();
    WITHOUT.set(None);
    result.unwrap_err();
}

/// The frame that says that a segment is complete, an entry before it, and the first one of the next.
#[test]
fn rot_at_the_border_of_two_segments_is_bridged() {
    let dir = memory_dir();
    let wal = Wal::open(&options(dir.path())).unwrap();
    for index in 0..100 {
        append(&wal, entries(index..=index, 1000)).unwrap();
    }
    wal.stop();
    let wal = Wal::open(&options(dir.path())).unwrap();
    let border =
        (0..99).find(|index| wal.place(*index).unwrap().0 < wal.place(index + 1).unwrap().0);
    let border = border.unwrap();
    let (_, last) = wal.place(border).unwrap();
    let (_, first) = wal.place(border + 1).unwrap();
    wal.stop();
    let seal = last as usize + frame::frame_bytes(1000);
    for (number, at, lost) in [
        (1, seal + 6, vec![]),
        (1, last as usize + 500, vec![border]),
        (2, first as usize + 13, vec![border + 1]),
    ] {
        let path = dir.path().join(segment::segment_name(number));
        let whole = std::fs::read(&path).unwrap();
        let mut rotten = whole.clone();
        spoil(&mut rotten, at);
        std::fs::write(&path, &rotten).unwrap();
        let options = WalOptions {
            rot: Rot::Bridged,
            ..options(dir.path())
        };
        let wal = Wal::open(&options).unwrap();
        assert_eq!(wal.bounds(), Some((0, 99)));
        let found: Vec<u64> = wal.lost().keys().copied().collect();
        assert_eq!(found, lost);
        wal.stop();
        std::fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn a_missing_or_damaged_segment_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(&options(dir.path())).unwrap();
    for index in 0..300 {
        append(&wal, entries(index..=index, 1000)).unwrap();
    }
    wal.stop();
    let first = dir.path().join(segment::segment_name(1));
    let second = dir.path().join(segment::segment_name(2));
    let bytes = std::fs::read(&second).unwrap();
    std::fs::remove_file(&second).unwrap();
    assert!(matches!(recover(dir.path()), Err(WalError::Damaged { .. })));
    // Cut in the middle, and with a newer version.
    std::fs::write(&second, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(recover(dir.path()), Err(WalError::Damaged { .. })));
    // A newer program has other fields, and perhaps another checksum.
    let mut newer = bytes.clone();
    newer[8] = 2;
    newer[10] = 1;
    std::fs::write(&second, &newer).unwrap();
    assert!(matches!(
        recover(dir.path()),
        Err(WalError::Newer { found: 2, .. })
    ));
    std::fs::write(&second, &bytes).unwrap();
    recover(dir.path()).unwrap();
    std::fs::remove_file(&first).unwrap();
    assert!(matches!(
        recover(dir.path()),
        Err(WalError::Hole { expected: 1, .. })
    ));
}

/// Fills segments with entries of one size so that stale frames lie where new ones would, recycles them, and tears
/// off the process; true when recovery finds exactly what was written.
fn recycled_segments_are_clean(fixed_salt: bool) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    options
        .faults
        .fixed_salt
        .store(fixed_salt, Ordering::Relaxed);
    let wal = Wal::open(&options).unwrap();
    let mut next = 0;
    // Each round ends with the first entry of a new segment, behind which the old ones' frames lie.
    for newest in 1..7 {
        if newest > 1 {
            wait(|done| wal.purge(id(next - 2), done)).unwrap();
        }
        while segment::list(dir.path()).unwrap().0.last().unwrap().0 == newest {
            append(&wal, entries(next..=next, 1000)).unwrap();
            next += 1;
        }
    }
    wal.stop();
    let Ok(recovered) = recover(dir.path()) else {
        return false;
    };
    recovered.index.bounds().map(|(_, last)| last) == Some(next - 1)
}

#[test]
fn stale_frames_of_a_recycled_segment_are_refused() {
    assert!(recycled_segments_are_clean(false));
}

#[test]
fn without_salt_and_chain_stale_frames_are_noticed_by_these_tests() {
    WITHOUT.set(Some(Without::Chain));
    let clean = recycled_segments_are_clean(true);
    WITHOUT.set(None);
    assert!(!clean);
}

#[test]
fn a_failed_fdatasync_is_final_and_told_to_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let wal = Wal::open(&options).unwrap();
    append(&wal, entries(0..=0, 10)).unwrap();
    options.faults.syncs_left.store(0, Ordering::Relaxed);
    append(&wal, entries(1..=1, 10)).unwrap_err();
    assert!(wal.is_dead());
    // The disk is well again, but what the page cache holds proves nothing.
    options.faults.syncs_left.store(u64::MAX, Ordering::Relaxed);
    append(&wal, entries(2..=2, 10)).unwrap_err();
    let vote = Vote {
        term: 2,
        node: NODE,
        committed: false,
    };
    wait(|done| wal.save_vote(vote, done)).unwrap_err();
    wal.stop();
    let wal = Wal::open(&WalOptions {
        faults: Arc::default(),
        ..options
    })
    .unwrap();
    let last = wal.last().unwrap().index;
    assert!(last <= 1);
    append(&wal, entries(last + 1..=last + 1, 10)).unwrap();
    wal.stop();
}

/// Fills the disk while entries are written that were promised space before; `Err` = the promise was not kept.
fn fill_the_disk(options: &WalOptions) -> Result<(Wal, u64), String> {
    let wal = Wal::open(options).unwrap();
    append(&wal, entries(0..=0, 1000)).unwrap();
    options.faults.space_left.store(40 << 10, Ordering::Relaxed);
    let mut last = 0;
    let error = loop {
        if let Err(error) = wait(|done| wal.prepare(1100, done)) {
            break error;
        }
        last += 1;
        append(&wal, entries(last..=last, 1000))
            .map_err(|error| format!("entry {last} had been promised space: {error}"))?;
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(!wal.is_dead());
    Ok((wal, last))
}

#[test]
fn a_full_disk_is_told_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let (wal, last) = fill_the_disk(&options).unwrap();
    // A small record that frees space still fits, and then the log goes on.
    wait(|done| wal.purge(id(0), done)).unwrap();
    options.faults.space_left.store(u64::MAX, Ordering::Relaxed);
    wait(|done| wal.prepare(1100, done)).unwrap();
    append(&wal, entries(last + 1..=last + 1, 1000)).unwrap();
    check(&wal, 1, last + 1, 1000);
    // Without asking before, a full disk is final.
    options.faults.space_left.store(0, Ordering::Relaxed);
    let mut at = last + 2;
    while append(&wal, entries(at..=at, 1000)).is_ok() {
        at += 1;
    }
    assert!(wal.is_dead());
    wal.stop();
    let wal = Wal::open(&WalOptions {
        faults: Arc::default(),
        ..options
    })
    .unwrap();
    check(&wal, 1, at - 1, 1000);
    wal.stop();
}

#[test]
fn without_the_reserve_a_full_disk_is_noticed_by_these_tests() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    options.faults.promises_space.store(true, Ordering::Relaxed);
    assert!(fill_the_disk(&options).is_err());
}

#[test]
fn heads_are_read_without_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(&options(dir.path())).unwrap();
    append(&wal, entries(0..=20, 1000)).unwrap();
    let all = wal
        .read_range(0, 21, usize::MAX, Part::Heads(|_| 16))
        .unwrap();
    assert_eq!(all.len(), 21);
    assert_eq!(all[0].payload, payload(0, 1000)[..16]);
    // The newest come from memory, whole.
    assert_eq!(all[20].payload, payload(20, 1000));
    assert_eq!(wal.read_range(3, 21, 2500, Part::Whole).unwrap().len(), 2);
    assert_eq!(wal.read_range(3, 21, 1, Part::Whole).unwrap().len(), 1);
    wal.stop();
}
