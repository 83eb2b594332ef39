//! One byte of a log is changed, anywhere: nothing is lost, nobody is told that something is, and no start is refused.

use super::*;

/// All that a log shows: its entries, the state that they come to, and which bytes were mended.
fn view(data: &Path) -> Result<(String, Vec<u64>), String> {
    let view = LogView::open(data, &mut |_, _| {}).map_err(|error| error.to_string())?;
    if let Some(why) = view.untold() {
        return Err(why.to_owned());
    }
    if !view.damage().is_empty() || !view.rotten().is_empty() {
        return Err(format!("{:?}", view.damage()));
    }
    let entries: Result<Vec<_>, StoreError> = view.entries().collect();
    let entries = entries.map_err(|error| error.to_string())?;
    let sinks: Vec<_> = view.sinks().collect();
    let books: Vec<_> = sinks.iter().map(|(sink, _)| view.books(sink)).collect();
    let sessions: Vec<_> = view.sessions().collect();
    let mended = view.mended().iter().map(|(_, at)| *at).collect();
    let seen = format!(
        "{:?} {:?} {entries:?} {sinks:?} {books:?} {sessions:?}",
        view.group(),
        view.bounds()
    );
    Ok((seen, mended))
}

fn change(path: &Path, at: u64, by: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= by;
    fs::write(path, bytes).unwrap();
}

/// Changes bytes of the only segment in turn, all of those of commands and heads; the first complaint, or how many there were.
fn change_every_byte(data: &Path) -> Result<u32, String> {
    let path = data.join("log").join(segment_name(1));
    let whole = view(data)?;
    let bytes = fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let (mut at, mut count) = (0, 0);
    while at <= end {
        let mut rotten = bytes.clone();
        rotten[at] ^= random.u8(1..);
        fs::write(&path, &rotten).unwrap();
        let (seen, mended) = view(data).map_err(|error| format!("byte {at}: {error}"))?;
        if seen != whole.0 {
            return Err(format!("byte {at}: it reads otherwise"));
        }
        // The padding of a frame, and what follows the header in its page, is nobody's.
        if !mended.is_empty() && mended != [at as u64] {
            return Err(format!("byte {at}: {mended:?} is mended"));
        }
        count += u32::from(!mended.is_empty());
        // Nobody's, and amid a record.
        at += match bytes[at..].get(..17) {
            Some(same) if same.iter().all(|byte| *byte == same[0]) => 16,
            _ => 1,
        };
    }
    fs::write(&path, &bytes).unwrap();
    Ok(count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_anywhere_costs_nothing() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let dir = dir.unwrap();
    write_folded(dir.path(), &["file", "http"], &["file"]).await;
    let count = change_every_byte(dir.path()).unwrap();
    println!("{count} bytes, and nothing is lost");
    assert!(count > 3000, "{count}");
    // Must be caught: a log that is not mended.
    broken::WITHOUT.set(Some(broken::Without::Mending));
    let result = change_every_byte(dir.path());
    broken::WITHOUT.set(None);
    result.unwrap_err();
}

/// The first entries name the group, its members and its sinks, and the header tells whose log it is: no start is refused for one byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_goes_on_as_if_nothing_were() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let next = write(&whole).await;
    let store = Store::open(config(&whole)).await.unwrap();
    let before = look(&store).await;
    store.shutdown().await;
    drop(store);
    let (log, _) = LogReader::beside(&whole.join("log"), is_whole, &mut |_, _| {}).unwrap();
    let (first, last) = log.bounds().unwrap();
    let mut random = fastrand::Rng::with_seed(4);
    for round in 0..12 {
        let data = dir.path().join(format!("round{round}"));
        copy(&whole, &data);
        if round % 2 == 0 {
            fs::remove_dir_all(data.join("state")).unwrap();
        }
        let (segment, at) = match round {
            0 | 1 => (1, random.u64(0..60)),
            2..6 => log.place(first + round / 2 - 1).unwrap(),
            6 | 7 => log.place(last).unwrap(),
            _ => log.place(random.u64(first..last)).unwrap(),
        };
        let at = match round {
            0 | 1 => at,
            _ => at + random.u64(0..40),
        };
        let path = data.join("log").join(segment_name(segment));
        change(&path, at, random.u8(1..));
        let told = format!("round {round}, byte {at} of segment {segment}");
        for start in 0..2 {
            let store = Store::open(config(&data)).await;
            let store = store.unwrap_or_else(|error| panic!("{told}: {error}"));
            assert!(store.rotten().is_empty(), "{told}: {:?}", store.rotten());
            assert_eq!(store.stats().log.mended, 1, "{told}, start {start}");
            let mut expected = before.clone();
            let epoch = Uuid::from_u128(2);
            let behind = next[&epoch]..next[&epoch] + start;
            expected.get_mut(&epoch).unwrap().records.extend(behind);
            assert_eq!(look(&store).await, expected, "{told}, start {start}");
            let appended = store.append(slab(2, next[&epoch] + start, 1)).await;
            assert_eq!(appended.unwrap().next_seq, next[&epoch] + start + 1);
            store.shutdown().await;
        }
        fs::remove_dir_all(&data).unwrap();
    }
}
