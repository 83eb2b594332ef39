//! The file sink on a real directory: killed at its points, short of disk, in company of others.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::folder::{Faults, LOCK_NAME};
use super::*;
use crate::upload::UploadSettings;
use crate::upload::plan::Plan;
use crate::upload::sink::Row;
use crate::upload::status::SinkState;
use crate::upload::testing::{FakeOutbox, Fuse, GROUP, lines, small_batches, start};

fn settings(dir: &TempDir) -> FileSettings {
    FileSettings {
        dir: dir.path().join("uploads"),
        rotate_bytes: 1500,
        compression: Compression::None,
    }
}

fn broken(settings: FileSettings, faults: Faults) -> FileSink {
    let mut files = Files::new(settings);
    files.faults = faults;
    FileSink::of(files)
}

/// What a reader of the directory finds: all files in the order of their names.
fn read(dir: &Path) -> Vec<(String, u64)> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name != LOCK_NAME && name != mark::MARK_NAME);
    names.sort();
    names
        .iter()
        .flat_map(|name| lines(&std::fs::read(dir.join(name)).unwrap()))
        .collect()
}

fn expected(outbox: &FakeOutbox) -> Vec<(String, u64)> {
    let state = outbox.state.lock().unwrap();
    state
        .records
        .iter()
        .map(|(_, stream, seq)| (stream.clone(), *seq))
        .collect()
}

/// A sink that can be killed before and after each of its steps, and remembers nothing.
#[derive(Debug)]
struct Killable {
    sink: FileSink,
    fuse: Arc<Fuse>,
}

impl Sink for Killable {
    fn name(&self) -> &str {
        "file"
    }
    fn prepare<'a>(
        &'a self,
        group: &'a Uuid,
        first: Position,
    ) -> BoxFuture<'a, Result<Vec<u8>, PrepareError>> {
        Box::pin(async move {
            self.fuse.point().await;
            self.sink.prepare(group, first).await
        })
    }
    fn held<'a>(
        &'a self,
        group: &'a Uuid,
        lane: u32,
    ) -> BoxFuture<'a, Result<Option<Held>, PrepareError>> {
        Box::pin(async move {
            self.fuse.point().await;
            self.sink.held(group, lane).await
        })
    }
    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            self.fuse.point().await;
            let outcome = self.sink.send(batch).await;
            self.fuse.point().await;
            outcome
        })
    }
}

fn quick_batches() -> UploadSettings {
    UploadSettings {
        batch_max_age: Duration::from_millis(5),
        ..small_batches()
    }
}

/// One kill at `crash_at`; when `torn` the kill comes in the middle of the write that follows.
async fn run(crash_at: i64, torn: bool, no_truncation: bool) -> (i64, bool) {
    let dir = TempDir::new().unwrap();
    let fuse = Fuse::new();
    let outbox = Arc::new(FakeOutbox::new(fuse.clone(), &[("file", 1)]));
    for _ in 0..4 {
        outbox.append(&[&["a", "b", "c"], &["b", "a"], &["c"]]);
    }
    fuse.set(crash_at);
    let mut passed = 0;
    for _ in 0..3 {
        let before = fuse.left();
        let faults = Faults {
            no_truncation,
            ..Faults::default()
        };
        let sink = Killable {
            sink: broken(settings(&dir), faults),
            fuse: fuse.clone(),
        };
        let running = start(outbox.clone(), vec![Arc::new(sink)], quick_batches()).await;
        let blown = running.until_blown(outbox.index(), &fuse).await;
        passed += before - fuse.left().max(0);
        if !blown {
            return (passed, read(&settings(&dir).dir) == expected(&outbox));
        }
        let plan = outbox.state.lock().unwrap().lanes[&("file".to_owned(), 0)]
            .plan
            .clone();
        if torn && let Some(plan) = plan {
            // The state of the directory after a kill inside of the write, or after a power cut: any part of the batch.
            let place = Place::from_extra(&plan.extra).unwrap();
            let path = settings(&dir).dir.join(&place.name);
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path);
            let mut file = file.unwrap();
            file.set_len(place.offset).unwrap();
            file.seek(SeekFrom::End(0)).unwrap();
            file.write_all(b"{\"source\":\"lobby-1\",\"ep\0\0\0")
                .unwrap();
        }
        outbox.append(&[&["a", "c"]]);
        fuse.set(i64::MAX);
    }
    panic!("no end");
}

/// Killed at each point around plan, write and commit; also within the write.
#[tokio::test]
async fn a_reader_finds_each_record_once_wherever_it_is_killed() {
    let (points, good) = run(i64::MAX, false, false).await;
    assert!(good && points > 20);
    for crash_at in 0..points {
        for torn in [false, true] {
            let (_, good) = run(crash_at, torn, false).await;
            assert!(good, "killed at {crash_at}, torn: {torn}");
        }
    }
}

/// Must fail: appending without cutting the file to the plan's offset.
#[tokio::test]
async fn appending_without_truncation_would_double_records() {
    let mut caught = 0;
    for crash_at in 0..30 {
        caught += u32::from(!run(crash_at, false, true).await.1);
    }
    assert!(caught > 0, "the check does not see doubled records");
}

#[tokio::test]
async fn files_are_rotated_private_and_sorted() {
    let dir = TempDir::new().unwrap();
    let fuse = Fuse::new();
    let outbox = Arc::new(FakeOutbox::new(fuse, &[("file", 1)]));
    for _ in 0..10 {
        outbox.append(&[&["a", "b", "c", "d", "e"]]);
    }
    let sink = Arc::new(FileSink::new(settings(&dir)));
    let mut running = start(outbox.clone(), vec![sink], quick_batches()).await;
    running.through(outbox.index()).await;
    let uploads = settings(&dir).dir;
    assert_eq!(read(&uploads), expected(&outbox));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&uploads), 0o700);
    let (mut parts, mut complete) = (0, 0);
    for entry in std::fs::read_dir(&uploads).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(PART_SUFFIX) {
            parts += 1;
        } else if name.ends_with(SUFFIX) {
            complete += 1;
            assert!(
                name.starts_with("records-00000000-00000000000000000"),
                "{name}"
            );
            assert!(std::fs::metadata(&path).unwrap().len() >= 1500);
        }
    }
    assert_eq!(parts, 1);
    assert!(complete >= 3, "{complete} complete files");
}

/// A full disk is shown with its remedy, leaves no torn line, and all is well when there is room again.
#[tokio::test]
async fn a_full_disk_is_told_and_survived() {
    let dir = TempDir::new().unwrap();
    let outbox = Arc::new(FakeOutbox::new(Fuse::new(), &[("file", 1)]));
    outbox.append(&[&["a", "b"]]);
    let sink = Arc::new(FileSink::new(settings(&dir)));
    let quick = UploadSettings {
        batch_max_age: Duration::ZERO,
        retry_first: Duration::from_millis(5),
        retry_max: Duration::from_millis(20),
        ..UploadSettings::default()
    };
    let mut running = start(outbox.clone(), vec![sink.clone()], quick).await;
    running.through(outbox.index()).await;
    *sink.files.faults.disk_left.lock().unwrap() = Some(10);
    outbox.append(&[&["c"]]);
    let told = |status: &crate::upload::UploadStatus| {
        matches!(&status.sinks[0].state, SinkState::Retrying { reason }
        if reason.contains("free space") && reason.contains("records-"))
    };
    let full = tokio::time::timeout(Duration::from_secs(20), running.status.wait_for(told)).await;
    assert!(full.unwrap().is_ok());
    assert_eq!(read(&settings(&dir).dir).len(), 2, "no part of a line");
    *sink.files.faults.disk_left.lock().unwrap() = None;
    running.through(outbox.index()).await;
    assert_eq!(read(&settings(&dir).dir), expected(&outbox));
    assert_eq!(running.status.borrow().sinks[0].state, SinkState::Ok);
}

fn batch(name: &str, offset: u64, body: &'static [u8]) -> Batch {
    let extra = Place {
        offset,
        name: name.into(),
    }
    .to_extra();
    let plan = Plan {
        sink: "file".into(),
        lane: 0,
        first: Position { index: 1, item: 0 },
        last: Position { index: 1, item: 0 },
        rules_version: 0,
        encoder_version: 1,
        extra,
    };
    let key = plan.key(&GROUP);
    Batch {
        plan,
        key,
        body: Bytes::from_static(body),
        rows: vec![Row {
            position: Position { index: 1, item: 0 },
            end: body.len(),
        }],
        replay: None,
    }
}

/// Somebody takes the file away while it is written to: the batch gets a new place, and no hole of zeros.
#[tokio::test]
async fn a_file_taken_away_gives_the_batch_a_new_place() {
    let dir = TempDir::new().unwrap();
    let sink = FileSink::new(settings(&dir));
    let first = Position { index: 1, item: 0 };
    let extra = sink.prepare(&GROUP, first).await.unwrap();
    let name = Place::from_extra(&extra).unwrap().name;
    assert_eq!(sink.send(&batch(&name, 0, b"1\n")).await, Outcome::Taken);
    assert_eq!(
        sink.prepare(&GROUP, first).await.unwrap(),
        format!("2 {name}").into_bytes()
    );
    let path = settings(&dir).dir.join(&name);
    std::fs::write(&path, b"").unwrap();
    let gone = |outcome: Outcome| matches!(outcome, Outcome::Replan { .. });
    assert!(
        gone(sink.send(&batch(&name, 2, b"2\n")).await),
        "shorter than it was"
    );
    std::fs::remove_file(&path).unwrap();
    assert!(gone(sink.send(&batch(&name, 2, b"2\n")).await), "gone");
    assert!(!path.exists());
    let extra = sink
        .prepare(&GROUP, Position { index: 2, item: 0 })
        .await
        .unwrap();
    let place = Place::from_extra(&extra).unwrap();
    assert_eq!(place.offset, 0);
    std::fs::remove_dir_all(settings(&dir).dir).unwrap();
    let made_again = sink.send(&batch(&place.name, 0, b"2\n")).await;
    assert_eq!(
        made_again,
        Outcome::Taken,
        "the whole directory was removed"
    );
}

/// Two watchdogs with one directory would destroy each other's files.
#[tokio::test]
async fn a_directory_has_one_writer() {
    let dir = TempDir::new().unwrap();
    let (one, two) = (FileSink::new(settings(&dir)), FileSink::new(settings(&dir)));
    let first = Position { index: 1, item: 0 };
    one.prepare(&GROUP, first).await.unwrap();
    let error = two.prepare(&GROUP, first).await.unwrap_err();
    assert!(error.0.contains("is used by another watchdog"), "{error}");
    drop(one);
    two.prepare(&GROUP, first).await.unwrap();
}

/// Files of another group (the data directory was wiped) are neither appended to nor renamed.
#[tokio::test]
async fn files_of_another_group_are_left_alone() {
    let dir = TempDir::new().unwrap();
    let uploads = settings(&dir).dir;
    std::fs::create_dir_all(&uploads).unwrap();
    let other = "records-ffffffff-00000000000000000001.0000000000.ndjson.part";
    std::fs::write(uploads.join(other), b"old\n").unwrap();
    let sink = FileSink::new(settings(&dir));
    let extra = sink
        .prepare(&GROUP, Position { index: 1, item: 0 })
        .await
        .unwrap();
    let place = Place::from_extra(&extra).unwrap();
    assert_eq!(
        sink.send(&batch(&place.name, 0, b"1\n")).await,
        Outcome::Taken
    );
    assert_eq!(std::fs::read(uploads.join(other)).unwrap(), b"old\n");
}

/// A complete file is never written over.
#[tokio::test]
async fn a_complete_file_is_never_replaced() {
    let dir = TempDir::new().unwrap();
    let sink = FileSink::new(settings(&dir));
    let extra = sink
        .prepare(&GROUP, Position { index: 1, item: 0 })
        .await
        .unwrap();
    let name = Place::from_extra(&extra).unwrap().name;
    assert_eq!(sink.send(&batch(&name, 0, b"1\n")).await, Outcome::Taken);
    let complete = settings(&dir).dir.join(name.replace(PART_SUFFIX, SUFFIX));
    std::fs::write(&complete, b"mine\n").unwrap();
    let next = "records-00000000-00000000000000000002.0000000000.ndjson.part";
    let outcome = sink.send(&batch(next, 0, b"2\n")).await;
    assert!(matches!(&outcome, Outcome::Retry { reason } if reason.contains("move it away")));
    assert_eq!(std::fs::read(&complete).unwrap(), b"mine\n");
}

/// What a plan says is checked before it becomes a path.
#[test]
fn a_place_is_a_plain_name() {
    let good = "12 records-1a2b3c4d-00000000000000000017.0000000000.ndjson.part";
    let place = Place::from_extra(good.as_bytes()).unwrap();
    assert_eq!(
        (place.offset, place.to_extra()),
        (12, good.as_bytes().to_vec())
    );
    for bad in [
        "",
        "12",
        "x records-1.ndjson.part",
        "-1 records-1.ndjson.part",
        "1 records-/../../x.ndjson.part",
        "1 other.ndjson.part",
        "1 records-1.ndjson",
    ] {
        assert_eq!(Place::from_extra(bad.as_bytes()), None, "{bad:?}");
    }
}

/// What it holds is known over a kill, also of a kill between its lines and its mark: lines of which nobody knows are cut off.
#[tokio::test]
async fn it_knows_what_it_holds_and_cuts_off_what_nobody_knows() {
    let dir = TempDir::new().unwrap();
    let settings = settings(&dir);
    let group = GROUP;
    let batch = |sink: FileSink, index: u64, lines: String| async move {
        let position = Position { index, item: 3 };
        let mut plan = Plan {
            sink: "file".into(),
            lane: 0,
            first: position,
            last: position,
            rules_version: 0,
            encoder_version: 0,
            extra: sink.prepare(&GROUP, position).await.unwrap(),
        };
        plan.last.item += 1;
        let body = Bytes::from(lines);
        let end = body.len();
        let key = plan.key(&GROUP);
        let rows = vec![Row { position, end }];
        let batch = Batch {
            plan,
            key,
            body,
            rows,
            replay: None,
        };
        assert_eq!(sink.send(&batch).await, Outcome::Taken);
    };
    let line = |seq: u64, size: usize| {
        let epoch = Uuid::from_u128(9);
        let text = "x".repeat(size);
        format!("{{\"epoch\":\"{epoch}\",\"seq\":{seq},\"stream\":\"s\",\"data\":\"{text}\"}}\n")
    };
    let held = |index, seq| Held {
        position: Position { index, item: 4 },
        last: Some((Uuid::from_u128(9), seq)),
    };
    let open = || FileSink::new(settings.clone());
    let sink = open();
    assert_eq!(sink.held(&group, 0).await, Ok(None));
    batch(sink.clone(), 5, line(1, 10) + &line(2, 10)).await;
    drop(sink);
    let sink = open();
    assert_eq!(sink.held(&group, 0).await, Ok(Some(held(5, 2))));
    assert_eq!(sink.held(&Uuid::from_u128(1), 0).await, Ok(None));
    let whole = read(&settings.dir);
    drop(sink);
    // A kill between lines and mark, in the same file and in the next one.
    for next in [false, true] {
        let mark = std::fs::read(settings.dir.join(mark::MARK_NAME)).unwrap();
        let sink = open();
        batch(sink.clone(), 6, line(3, 2000)).await;
        if next {
            batch(sink.clone(), 7, line(4, 10)).await;
            assert_eq!(read(&settings.dir).len(), whole.len() + 2);
        }
        drop(sink);
        if next {
            // The mark is that of the batch that filled the first file.
            let sink = open();
            assert_eq!(sink.held(&group, 0).await, Ok(Some(held(7, 4))));
            continue;
        }
        std::fs::write(settings.dir.join(mark::MARK_NAME), &mark).unwrap();
        let sink = open();
        assert_eq!(sink.held(&group, 0).await, Ok(Some(held(5, 2))));
        assert_eq!(read(&settings.dir), whole, "the lines are cut off");
    }
    // Torn, it says nothing.
    let path = settings.dir.join(mark::MARK_NAME);
    let mut mark = std::fs::read(&path).unwrap();
    mark[50] ^= 1;
    std::fs::write(path, mark).unwrap();
    assert_eq!(open().held(&group, 0).await, Ok(None));
}
