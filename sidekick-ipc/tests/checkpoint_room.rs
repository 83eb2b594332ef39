//! A checkpoint that the store would have no room for is refused at the call, whatever is under way.

mod support;

use sidekick_ipc::message::Parcel;
use sidekick_ipc::tree::*;
use sidekick_ipc::*;
use support::*;

const KEYS: u64 = CHECKPOINT_KEYS_MAX as u64;

fn send(
    session: &Session,
    key: &str,
    kind: CheckpointKind,
    bytes: usize,
) -> Result<u64, RefusedCause> {
    session.checkpoint(&CheckpointRef {
        key,
        kind,
        version: session.last_seq() + 1,
        value: &vec![7; bytes],
        frame: 1,
        realtime_ms: 1,
    })
}

fn full(session: &Session, key: &str, bytes: usize) -> Result<u64, RefusedCause> {
    send(session, key, CheckpointKind::Full, bytes)
}

fn tell(attachment: &Attachment, seq: u64, keys: u64, bytes: u64) {
    let kept = KeptCheckpoints { seq, keys, bytes };
    attachment.controls().set_checkpoints(kept);
}

fn session(dir: &std::path::Path) -> (Session, Attachment) {
    let session = Session::create(options(dir, WhenFull::Spill)).unwrap();
    let attachment = attach(dir);
    (session, attachment)
}

#[test]
fn a_key_too_many_is_refused_until_one_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (session, attachment) = session(dir.path());
    // Before it is told, a game may begin.
    let first = full(&session, "early", 10).unwrap();
    tell(&attachment, 0, KEYS - 2, 0);
    // The early one counts on top of what was told without it.
    let second = full(&session, "second", 10).unwrap();
    let max = CHECKPOINT_KEYS_MAX;
    let too_many = Err(RefusedCause::CheckpointKeys { max });
    assert_eq!(full(&session, "third", 10), too_many);
    // Keys that are there go on.
    full(&session, "early", 10).unwrap();
    tell(&attachment, first, KEYS - 1, 10);
    assert_eq!(full(&session, "third", 10), too_many);
    tell(&attachment, second, KEYS, 20);
    assert_eq!(full(&session, "third", 10), too_many);
    let forgotten = session.forget_checkpoint("second").unwrap();
    // It may yet be there.
    assert_eq!(full(&session, "third", 10), too_many);
    tell(&attachment, forgotten, KEYS - 1, 10);
    full(&session, "third", 10).unwrap();
    assert_eq!(full(&session, "second", 10), too_many);
}

#[test]
fn bytes_count_what_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (session, attachment) = session(dir.path());
    let room = 1000;
    tell(&attachment, 0, 9, CHECKPOINTS_BYTES_MAX - room);
    let seq = full(&session, "a", 600).unwrap();
    let refused = |bytes| {
        let max = CHECKPOINTS_BYTES_MAX;
        Err(RefusedCause::CheckpointBytes { bytes, max })
    };
    assert_eq!(full(&session, "b", 401), refused(CHECKPOINTS_BYTES_MAX + 1));
    // What replaces as much or more always fits.
    full(&session, "a", 600).unwrap();
    full(&session, "a", 100).unwrap();
    // The growth from 100 to 501 counts on top of the first 600, both may be seen.
    assert_eq!(full(&session, "a", 501), refused(CHECKPOINTS_BYTES_MAX + 1));
    full(&session, "a", 500).unwrap();
    let delta = CheckpointKind::Delta { base: seq };
    assert!(send(&session, "a", delta, 1).is_err());
    tell(
        &attachment,
        session.last_seq(),
        10,
        CHECKPOINTS_BYTES_MAX - room + 500,
    );
    send(&session, "a", delta, 500).unwrap();
    assert!(send(&session, "a", delta, 1).is_err());
    // As large as full one and delta together.
    full(&session, "a", 1000).unwrap();
}

/// What is there of a key is known from its restore; not from one that was overtaken, nor in a safe start.
#[test]
fn a_restored_key_is_replaced_and_not_added() {
    let dir = tempfile::tempdir().unwrap();
    let (session, attachment) = session(dir.path());
    tell(&attachment, 0, KEYS, CHECKPOINTS_BYTES_MAX);
    let restored = |key: &str, is_safe, overtaken: bool| {
        let query = StoreQuery::Restore {
            key: key.into(),
            safe: is_safe,
        };
        let number = session.query(&query).unwrap();
        if overtaken {
            session.forget_checkpoint(key).unwrap();
        }
        let result = StoreResult::Restored(Restored {
            status: RestoreStatus::Restored,
            full_version: 1,
            version: 2,
            full: vec![1; 60],
            deltas: vec![vec![2; 40].into()],
            is_safe,
            ..Restored::default()
        });
        let mut parcel = Parcel::reply(number, &result).unwrap();
        attachment.downlink().send_parcel(&mut parcel).unwrap();
        session.next_message().unwrap();
    };
    assert!(full(&session, "a", 100).is_err());
    restored("a", false, false);
    assert!(full(&session, "a", 101).is_err());
    full(&session, "a", 100).unwrap();
    restored("b", true, false);
    // It is there, but how large the newest is nobody knows.
    assert!(matches!(
        full(&session, "b", 1),
        Err(RefusedCause::CheckpointBytes { .. })
    ));
    restored("c", false, true);
    assert!(full(&session, "c", 1).is_err());
    // Refused for another reason: nothing is known of it any more.
    let seq = full(&session, "a", 50).unwrap();
    let stale = StoreResult::error(ErrorKind::StaleVersion, "stale");
    let mut parcel = Parcel::reply(seq, &stale).unwrap();
    attachment.downlink().send_parcel(&mut parcel).unwrap();
    assert!(session.next_message().is_some());
    assert!(full(&session, "a", 1).is_err());
}
