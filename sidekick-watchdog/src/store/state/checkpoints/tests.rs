//! What is kept, what is refused, what is offered.

use super::*;

const SECOND: u64 = 1_000_000_000;

fn write(version: u64, kind: CheckpointKind, launch: u32, time_ns: u64) -> Write<'static> {
    Write {
        source: "s",
        launch,
        key: "k".into(),
        kind,
        version,
        value: vec![version as u8],
        frame: version * 10,
        realtime_ms: version as i64 * 1000,
        time_ns,
    }
}

fn is_ok(result: StoreResult) -> bool {
    matches!(result, StoreResult::Ok(_))
}

fn kind(result: StoreResult) -> ErrorKind {
    match result {
        StoreResult::Error { kind, .. } => kind,
        other => panic!("{other:?}"),
    }
}

fn full(of: &mut Checkpoints, version: u64, launch: u32, time_ns: u64) {
    assert!(is_ok(of.write(
        write(version, CheckpointKind::Full, launch, time_ns),
        0
    )));
}

#[test]
fn the_newest_checkpoint_is_restored_with_its_deltas() {
    let mut of = Checkpoints::default();
    assert_eq!(of.restore("s", "k", false, 0), Restored::default());
    full(&mut of, 1, 1, 0);
    let delta = |base| CheckpointKind::Delta { base };
    assert!(is_ok(of.write(write(2, delta(1), 1, 0), 0)));
    assert!(is_ok(of.write(write(3, delta(1), 1, 0), 0)));
    let restored = of.restore("s", "k", false, 5000);
    assert_eq!(restored.status, RestoreStatus::Restored);
    assert_eq!((restored.full_version, restored.version), (1, 3));
    assert_eq!(restored.full, [1]);
    assert_eq!(restored.deltas, [[2].as_slice(), &[3]]);
    assert_eq!((restored.frame, restored.age_ms), (30, 2000));
    // Another source's is another one.
    assert_eq!(of.restore("t", "k", false, 0).status, RestoreStatus::None);
}

/// A delta is never merged over a gap, whichever is missing.
#[test]
fn a_delta_that_does_not_follow_is_refused() {
    let mut of = Checkpoints::default();
    let delta = |base| CheckpointKind::Delta { base };
    assert_eq!(
        kind(of.write(write(2, delta(1), 1, 0), 0)),
        ErrorKind::DeltaGap
    );
    full(&mut of, 1, 1, 0);
    assert_eq!(
        kind(of.write(write(3, delta(1), 1, 0), 0)),
        ErrorKind::DeltaGap
    );
    full(&mut of, 4, 1, 0);
    assert_eq!(
        kind(of.write(write(5, delta(1), 1, 0), 0)),
        ErrorKind::DeltaGap
    );
    assert_eq!(
        kind(of.write(write(4, delta(1), 1, 0), 0)),
        ErrorKind::StaleVersion
    );
    assert!(is_ok(of.write(write(5, delta(4), 1, 0), 0)));
    assert_eq!(
        kind(of.write(write(3, CheckpointKind::Full, 1, 0), 0)),
        ErrorKind::StaleVersion
    );
    assert_eq!(of.restore("s", "k", false, 0).deltas, [[5]]);
    for version in 6..5 + DELTAS_MAX as u64 {
        assert!(is_ok(of.write(write(version, delta(4), 1, 0), 0)));
    }
    let next = write(5 + DELTAS_MAX as u64, delta(4), 1, 0);
    assert_eq!(kind(of.write(next, 0)), ErrorKind::TooLarge);
}

/// Launches that load a poisoned checkpoint, write more and die: the one from before all of them is offered.
#[test]
fn a_safe_start_gets_the_checkpoint_from_before_the_deaths() {
    let mut of = Checkpoints::default();
    for version in 1..=3 {
        full(&mut of, version, 1, 0);
    }
    let mut version = 3;
    for launch in 2..8 {
        assert!(is_ok(of.loaded("s", launch, "k", version, 0, 0)));
        version += 1;
        full(&mut of, version, launch, SECOND);
    }
    assert_eq!(of.restore("s", "k", false, 0).full_version, version);
    let safe = of.restore("s", "k", true, 0);
    assert_eq!(
        (safe.full_version, safe.version, safe.is_safe),
        (2, version, true)
    );
    // The safe one lives long enough: it is no longer held back.
    assert!(is_ok(of.loaded("s", 9, "k", 2, 10 * SECOND, 0)));
    full(&mut of, version + 1, 9, 69 * SECOND);
    assert_eq!(of.restore("s", "k", true, 0).full_version, 2);
    full(&mut of, version + 2, 9, 70 * SECOND);
    assert_ne!(of.restore("s", "k", true, 0).full_version, 2);
    assert_eq!(
        kind(of.loaded("s", 9, "other", 1, 0, 0)),
        ErrorKind::NotFound
    );
}

#[test]
fn limits_are_kept() {
    let mut of = Checkpoints::default();
    for number in 0..KEYS_MAX {
        let mut write = write(1, CheckpointKind::Full, 1, 0);
        write.key = format!("k{number}");
        assert!(is_ok(of.write(write, 0)));
    }
    assert_eq!(
        kind(of.write(write(1, CheckpointKind::Full, 1, 0), 0)),
        ErrorKind::TooMany
    );
    let mut count = 0;
    loop {
        let mut write = write(2, CheckpointKind::Full, 1, 0);
        write.key = format!("k{count}");
        write.value = vec![0; VALUE_BYTES_MAX];
        match of.write(write, 0) {
            StoreResult::Ok(_) => count += 1,
            other => break assert_eq!(kind(other), ErrorKind::TreeFull),
        }
    }
    assert_eq!(count, 63);
}
