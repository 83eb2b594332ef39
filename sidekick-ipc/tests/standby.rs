//! A session that waits to be the active one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sidekick_ipc::{Attachment, RefusedCause, Session, SessionOptions, WhenFull, scan};

fn options(dir: &std::path::Path, launch: u32) -> SessionOptions {
    SessionOptions {
        runtime_dir: dir.to_owned(),
        launch,
        incarnation: launch,
        ring_bytes: 256 << 10,
        when_full: WhenFull::Refuse,
        block_max: Duration::ZERO,
        spill_bytes_max: 0,
        keep: Vec::new(),
        library_version: "test".to_owned(),
        game_version: String::new(),
    }
}

#[test]
fn a_standby_takes_nothing_until_it_is_active_and_is_woken_then() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let session = Arc::new(Session::create(options(dir.path(), 7)).expect("made"));
    session.stand_by();
    let files = scan(dir.path()).expect("readable");
    let ring = Attachment::open(&files[0]).expect("opened");
    // Told of the engine that is active, it goes on waiting.
    ring.controls().activate(6);
    assert!(session.is_standby());
    assert_eq!(session.record("s", b"x"), Err(RefusedCause::Standby));
    assert_eq!(session.last_seq(), 0);
    let patience = Duration::from_secs(600);
    let asleep = Arc::clone(&session);
    let sleeper = std::thread::spawn(move || {
        let began = Instant::now();
        while asleep.is_standby() {
            asleep.park(patience);
        }
        began.elapsed()
    });
    ring.controls().activate(7);
    assert!(sleeper.join().expect("ended") < patience);
    assert!(!session.is_standby());
    // Nothing to wait for.
    session.park(patience);
    assert_eq!(session.record("s", b"x"), Ok(1));
    // Nor does it go back to waiting.
    ring.controls().set_active_launch(6);
    assert!(!session.is_standby());
}

#[test]
fn a_session_that_was_begun_as_the_engine_never_waits() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let session = Session::create(options(dir.path(), 7)).expect("made");
    assert!(!session.is_standby());
    session.park(Duration::from_secs(600));
    assert_eq!(session.record("s", b"x"), Ok(1));
}
