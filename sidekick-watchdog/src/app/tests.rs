//! What joins the parts, without the parts' threads.

use sidekick_ipc::heartbeat::Phase;
use sidekick_ipc::session::{Session, SessionOptions, WhenFull};
use sidekick_ipc::{Attachment, scan};
use uuid::Uuid;

use super::committer::StoreCommitter;
use super::names::Names;
use super::plane::end_vanished_sessions;
use super::*;
use crate::api::Status;
use crate::metrics::Metrics;
use crate::store::{Store, StoreConfig};
use crate::supervisor::EngineLink;
use std::sync::Arc;

/// Its ring would be deleted undrained once it can be read again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_not_ended_because_its_ring_cannot_be_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig::new(dir.path().join("data")))
        .await
        .unwrap();
    let epoch = Uuid::from_u128(7);
    let opened = store.session_opened_of("s", epoch, 1, 0, "1.2").await;
    opened.unwrap();
    let names = Names::remember(&dir.path().join("data"), "s").unwrap();
    let unreadable = dir.path().join("file");
    std::fs::write(&unreadable, "").unwrap();
    let ended = end_vanished_sessions(&store, &names, &unreadable).await;
    assert!(matches!(ended, Err(AppError::System { .. })), "{ended:?}");
    assert_eq!(store.open_sessions().len(), 1);

    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let ended = end_vanished_sessions(&store, &names, &empty).await;
    assert_eq!(ended.unwrap(), 1);
    assert_eq!(store.open_sessions().len(), 0);
    let told: Vec<_> = store.read_slabs(0, usize::MAX).await.unwrap();
    let told: Vec<_> = told.into_iter().flat_map(|entry| entry.slabs).collect();
    let [(_, slab), (_, note)] = &told[..] else {
        panic!("{told:?}")
    };
    let frames = sidekick_ipc::frame::frames(&slab.frames, &epoch);
    let causes: Vec<u8> = frames
        .map(|frame| sidekick_ipc::Hole::parse(frame.unwrap().payload).unwrap())
        .map(|hole| hole.cause)
        .collect();
    assert_eq!(causes, [sidekick_ipc::frame::hole_cause::TAIL_UNKNOWN]);
    assert_eq!((slab.head.epoch, slab.head.first_seq), (epoch, 1));
    // And a record of its own tells which number was the last.
    let mut notes = sidekick_ipc::frame::frames(&note.frames, &note.head.epoch);
    let frame = notes.next().unwrap().unwrap();
    let record = sidekick_ipc::Record::parse(frame.payload).unwrap();
    let value = sidekick_ipc::value::decode(record.variant).unwrap();
    assert_eq!((record.stream, note.head.incarnation), ("sidekick.end", 1));
    assert_eq!(
        value.to_json().to_string(),
        r#"{"cause":"its ring vanished","clean":false,"epoch":"00000000-0000-0000-0000-000000000007","game_version":"1.2","last_seq":1,"tail_unknown":true}"#
    );
    // Told again, as by the next watchdog, it is one record all the same.
    super::ends::note(&store, "s", epoch).await.unwrap();
    assert_eq!(store.derived_records(), 1);
    store.shutdown().await;
}

/// `name` was changed: what the old one left open goes on and ends under the old one, so that no record gets a second
/// identity, and what other watchdogs of a group have open is not ours to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_an_old_name_are_drained_and_ended_under_it() {
    use crate::intake::{Committer, SessionEnding, SessionOpening};

    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let store = Store::open(StoreConfig::new(&data_dir)).await.unwrap();
    let store = Arc::new(store);
    let [gone, living, other] = [7, 8, 9].map(Uuid::from_u128);
    store.session_opened("old", gone, 1, 0).await.unwrap();
    store.session_opened("old", living, 2, 0).await.unwrap();
    store.session_opened("other", other, 1, 0).await.unwrap();
    Names::remember(&data_dir, "old").unwrap();
    let names = Names::remember(&data_dir, "new").unwrap();
    let committer = StoreCommitter {
        store: Arc::clone(&store),
        names: names.clone(),
        runtime: tokio::runtime::Handle::current(),
        rules: LiveRules::none(&rules::tests::config_of("", dir.path()).unwrap()),
        metrics: Metrics::new(),
    };
    let open = move |epoch| {
        committer
            .open(&SessionOpening {
                epoch,
                incarnation: 3,
                started_realtime_ns: 0,
                game_version: String::new(),
            })
            .map(|resume| {
                let ending = SessionEnding {
                    epoch,
                    tail_known: true,
                    clean_exit: None,
                    last: None,
                };
                committer.end(&ending).unwrap();
                resume.source
            })
    };
    let fresh = Uuid::from_u128(10);
    let opened =
        tokio::task::spawn_blocking(move || [living, fresh].map(|epoch| open(epoch).unwrap()));
    assert_eq!(opened.await.unwrap(), ["old", "new"]);
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    end_vanished_sessions(&store, &names, &empty).await.unwrap();
    let open: Vec<_> = store
        .open_sessions()
        .into_iter()
        .map(|(source, epoch, _)| (source, epoch))
        .collect();
    assert_eq!(open, [("other".to_owned(), other)]);
    store.shutdown().await;
}

/// The drain thread may be busy with the old file for long: a disk that stands still, a quota that is reached.
#[test]
fn a_rotated_session_is_heard_and_asked_before_it_is_drained() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(SessionOptions {
        runtime_dir: dir.path().to_owned(),
        launch: 3,
        incarnation: 3,
        ring_bytes: 64 << 10,
        when_full: WhenFull::Refuse,
        block_max: Duration::ZERO,
        spill_bytes_max: 0,
        keep: Vec::new(),
        library_version: "test".to_owned(),
        game_version: String::new(),
    })
    .unwrap();
    let old = Attachment::open(&scan(dir.path()).unwrap()[0]).unwrap();
    let words = link::RingLink {
        heartbeat: old.heartbeats(),
        controls: old.controls(),
        downlink: old.downlink(),
        game_version: "".into(),
    };
    let link = link::SessionLink::new(dir.path().to_owned(), 3, session.epoch(), words);
    session.on_frame(Phase::Running);
    assert_eq!(link.heartbeat().frames, 1);
    old.controls().set_rotate_to(1);
    for _ in 0..4 {
        session.on_frame(Phase::Running);
    }
    assert_eq!(link.heartbeat().frames, 5);
    link.ask_quit(Duration::from_secs(1));
    assert!(session.control().quit.is_some());
}

/// While the next engine starts, the last one's final numbers are shown, and none of them as the new one's.
#[test]
fn a_dead_sessions_last_numbers_are_shown_until_the_next_connects() {
    use std::sync::atomic::Ordering;

    use crate::intake::{AttachedSession, SessionProgress};

    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(SessionOptions {
        runtime_dir: dir.path().to_owned(),
        launch: 3,
        incarnation: 3,
        ring_bytes: 64 << 10,
        when_full: WhenFull::Refuse,
        block_max: Duration::ZERO,
        spill_bytes_max: 0,
        keep: Vec::new(),
        library_version: "test".to_owned(),
        game_version: String::new(),
    })
    .unwrap();
    let attachment = Attachment::open(&scan(dir.path()).unwrap()[0]).unwrap();
    let progress = Arc::new(SessionProgress::default());
    let mut board = Board::new(Status::default(), Metrics::new());
    let started = |incarnation| EngineEvent::Started {
        incarnation,
        pid: 7,
        gap: None,
        log: PathBuf::new(),
        standby: false,
    };
    board.engine(&started(3));
    board.attached(&AttachedSession {
        info: attachment.info().clone(),
        heartbeat: attachment.heartbeats(),
        controls: attachment.controls(),
        downlink: attachment.downlink(),
        progress: Arc::clone(&progress),
    });
    for _ in 0..9 {
        session.on_frame(Phase::Running);
    }
    board.engine(&started(4));
    progress.committed.store(5, Ordering::Relaxed);
    progress.requests.store(2, Ordering::Relaxed);
    board.ended(3, &progress);
    let status = board.status();
    assert_eq!(status.engine.frame, None, "it is the new engine's");
    let session = status.session.as_ref().unwrap();
    assert_eq!((session.committed, session.recorded), (5, Some(5)));
    assert_eq!(session.requests, Some(2));
}
