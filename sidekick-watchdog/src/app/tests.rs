//! What joins the parts, without the parts' threads.

use sidekick_ipc::heartbeat::Phase;
use sidekick_ipc::session::{Session, SessionOptions, WhenFull};
use sidekick_ipc::{Attachment, scan};
use uuid::Uuid;

use super::*;
use crate::store::StoreConfig;
use crate::supervisor::EngineLink;

/// Its ring would be deleted undrained once it can be read again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_not_ended_because_its_ring_cannot_be_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig::new(dir.path().join("data")))
        .await
        .unwrap();
    let epoch = Uuid::from_u128(7);
    store.session_opened("s", epoch, 1, 0).await.unwrap();
    let unreadable = dir.path().join("file");
    std::fs::write(&unreadable, "").unwrap();
    let ended = end_vanished_sessions(&store, "s", &unreadable).await;
    assert!(matches!(ended, Err(AppError::System { .. })), "{ended:?}");
    assert_eq!(store.open_sessions().len(), 1);

    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    end_vanished_sessions(&store, "s", &empty).await.unwrap();
    assert_eq!(store.open_sessions().len(), 0);
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
        library_version: "test".to_owned(),
    })
    .unwrap();
    let old = Attachment::open(&scan(dir.path()).unwrap()[0]).unwrap();
    let words = link::RingLink {
        heartbeat: old.heartbeats(),
        controls: old.controls(),
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
