//! What is kept, what is refused, what is offered.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use sidekick_ipc::{CheckpointRoom, KeptCheckpoints};

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

fn of_key(key: &str, version: u64, bytes: usize) -> Write<'static> {
    let mut write = write(version, CheckpointKind::Full, 1, 0);
    write.key = key.to_owned();
    write.value = vec![version as u8; bytes];
    write
}

/// Whatever comes out of the ring.
#[test]
fn limits_are_kept() {
    let mut of = Checkpoints::default();
    for number in 0..KEYS_MAX {
        assert!(is_ok(of.write(of_key(&format!("k{number}"), 1, 1), 0)));
    }
    assert_eq!(kind(of.write(of_key("k", 1, 1), 0)), ErrorKind::TooMany);
    let mut count = 0;
    loop {
        match of.write(of_key(&format!("k{count}"), 2, VALUE_BYTES_MAX), 0) {
            StoreResult::Ok(_) => count += 1,
            other => break assert_eq!(kind(other), ErrorKind::TreeFull),
        }
    }
    assert_eq!(count, 127);
    // What replaces as much fits always, and every other source has room of its own.
    assert!(is_ok(of.write(of_key("k0", 3, VALUE_BYTES_MAX), 0)));
    let mut other = of_key("k", 1, VALUE_BYTES_MAX);
    other.source = "t";
    assert!(is_ok(of.write(other, 0)));
    assert_eq!(of.kept("t"), (1, VALUE_BYTES_MAX as u64));
}

/// The newest of every key stays; older ones fill what room there is, and those for a safe start go last.
#[test]
fn older_checkpoints_give_way_to_newer_ones() {
    let mut of = Checkpoints::default();
    let key = |number: usize| format!("k{number:02}");
    for version in 1..=3 {
        for number in 0..20 {
            let done = of.write(of_key(&key(number), version, VALUE_BYTES_MAX), 0);
            assert!(is_ok(done));
        }
    }
    // Before what is loaded there is an older one of each.
    for number in 0..20 {
        assert!(is_ok(of.loaded("s", 2, &key(number), 3, 0, 0)));
    }
    let keys = |of: &Checkpoints, is: fn(&Key) -> bool| {
        of.sources["s"].keys.values().filter(|key| is(key)).count()
    };
    assert_eq!(keys(&of, |key| key.pin.is_some()), 20);
    assert!(keys(&of, |key| key.recent.len() > 1) > 0);
    assert!(of.sources["s"].bytes <= CHECKPOINTS_BYTES_MAX);
    for number in 20..50 {
        assert!(is_ok(of.write(of_key(&key(number), 1, VALUE_BYTES_MAX), 0)));
    }
    assert_eq!(keys(&of, |key| key.recent.len() > 1), 0);
    assert_eq!(keys(&of, |key| key.pin.is_some()), 14);
    assert_eq!(of.sources["s"].bytes, CHECKPOINTS_BYTES_MAX);
    for number in 0..50 {
        let version = if number < 20 { 3 } else { 1 };
        let restored = of.restore("s", &key(number), false, 0);
        assert_eq!(restored.full_version, version);
    }
}

/// A key that is forgotten is as one that never was: no history, nothing held back, and its room is free.
#[test]
fn a_forgotten_key_leaves_nothing() {
    let mut of = Checkpoints::default();
    full(&mut of, 1, 1, 0);
    full(&mut of, 2, 1, 0);
    assert!(is_ok(of.loaded("s", 2, "k", 2, 0, 0)));
    assert!(is_ok(of.write(of_key("other", 1, 5), 0)));
    assert_eq!(of.kept("s"), (2, 6));
    assert!(is_ok(of.forget("s", "k", 0)));
    assert_eq!(of.kept("s"), (1, 5));
    for safe in [false, true] {
        assert_eq!(of.restore("s", "k", safe, 0), Restored::default());
    }
    assert_eq!(
        kind(of.write(write(3, CheckpointKind::Delta { base: 2 }, 2, 0), 0)),
        ErrorKind::DeltaGap
    );
    full(&mut of, 3, 2, 0);
    assert_eq!(of.restore("s", "k", true, 0).full_version, 3);
    // Nothing to forget is no error.
    for (source, key) in [("s", "none"), ("t", "k"), ("s", "k"), ("s", "other")] {
        assert!(is_ok(of.forget(source, key, 0)));
    }
    assert_eq!(of, Checkpoints::default());
}

/// How a game judges what there is room for.
trait Judge {
    fn hear(&mut self, told: KeptCheckpoints);
    fn takes(&mut self, seq: u64, key: &str, kind: CheckpointKind, bytes: usize) -> bool;
    fn forgets(&mut self, seq: u64, key: &str);
}

impl Judge for CheckpointRoom {
    fn hear(&mut self, told: KeptCheckpoints) {
        CheckpointRoom::hear(self, Some(told));
    }

    fn takes(&mut self, seq: u64, key: &str, kind: CheckpointKind, bytes: usize) -> bool {
        let growth = self.check(key, kind, bytes);
        let is_taken = growth.is_ok();
        if let Ok(growth) = growth {
            self.sent(seq, key, kind, bytes, growth);
        }
        is_taken
    }

    fn forgets(&mut self, seq: u64, key: &str) {
        self.sent_forget(seq, key);
    }
}

/// Believes what it was told last and forgets what is under way.
#[derive(Default)]
struct Hasty(u64);

impl Judge for Hasty {
    fn hear(&mut self, told: KeptCheckpoints) {
        self.0 = told.bytes;
    }

    fn takes(&mut self, _: u64, _: &str, _: CheckpointKind, bytes: usize) -> bool {
        self.0 + bytes as u64 <= CHECKPOINTS_BYTES_MAX
    }

    fn forgets(&mut self, _: u64, _: &str) {}
}

/// Counts what is under way, but each key as what it was sent last, though the store may have more of it just now.
#[derive(Default)]
struct Swapping {
    told: KeptCheckpoints,
    keys: BTreeMap<String, u64>,
    under_way: BTreeMap<u64, i64>,
}

impl Judge for Swapping {
    fn hear(&mut self, told: KeptCheckpoints) {
        self.told = told;
    }

    fn takes(&mut self, seq: u64, key: &str, kind: CheckpointKind, bytes: usize) -> bool {
        let known = self.keys.get(key).copied().unwrap_or(0);
        let now = match kind {
            CheckpointKind::Full => bytes as u64,
            CheckpointKind::Delta { .. } => known + bytes as u64,
        };
        let change = now as i64 - known as i64;
        // Number and word are not read together: the word may know more than the number says.
        let sum: i64 = self
            .under_way
            .range(self.told.seq + 1..)
            .map(|(_, of)| of)
            .sum();
        let is_taken = self.told.bytes as i64 + sum + change <= CHECKPOINTS_BYTES_MAX as i64;
        if is_taken {
            self.keys.insert(key.to_owned(), now);
            self.under_way.insert(seq, change);
        }
        is_taken
    }

    fn forgets(&mut self, seq: u64, key: &str) {
        let known = self.keys.remove(key).unwrap_or(0);
        self.under_way.insert(seq, -(known as i64));
    }
}

/// One step of a game and its watchdog.
#[derive(Clone, Copy, Debug)]
enum Step {
    Full(u8, usize),
    Delta(u8, usize),
    Forget(u8),
    /// The watchdog applies so many.
    Apply(usize),
    /// It tells what is kept: the word of now, with a number of some ops ago.
    Tell(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = || prop_oneof![0..VALUE_BYTES_MAX, VALUE_BYTES_MAX - 100..=VALUE_BYTES_MAX];
    let step = prop_oneof![
        8 => (0..150_u8, bytes()).prop_map(|(key, bytes)| Step::Full(key, bytes)),
        2 => (0..150_u8, 0..VALUE_BYTES_MAX / 4).prop_map(|(key, bytes)| Step::Delta(key, bytes)),
        1 => (0..150_u8).prop_map(Step::Forget),
        3 => (0..30_usize).prop_map(Step::Apply),
        2 => (0..4_u64).prop_map(Step::Tell),
    ];
    proptest::collection::vec(step, 200..400)
}

/// Runs a game with `judge`; the most bytes that the store had to keep, and whether one that was taken was refused for want
/// of room.
fn run(judge: &mut dyn Judge, steps: &[Step]) -> u64 {
    let mut store = Checkpoints::default();
    let (mut seq, mut applied, mut most) = (0, 0, 0);
    let mut under_way = std::collections::VecDeque::new();
    // Of each key: version, full one's, deltas and their bytes.
    let mut keys: BTreeMap<u8, (u64, u64, usize, usize)> = BTreeMap::new();
    let name = |key: u8| format!("k{key:02}");
    for step in steps {
        match *step {
            Step::Full(key, bytes) => {
                let kind = CheckpointKind::Full;
                if judge.takes(seq + 1, &name(key), kind, bytes) {
                    seq += 1;
                    keys.insert(key, (seq, seq, 0, 0));
                    under_way.push_back((key, Some((kind, seq, bytes))));
                }
            }
            Step::Delta(key, bytes) => {
                let Some((version, base, count, sum)) = keys.get_mut(&key) else {
                    continue;
                };
                if *count >= DELTAS_MAX || *sum + bytes > VALUE_BYTES_MAX {
                    continue;
                }
                let kind = CheckpointKind::Delta { base: *base };
                if judge.takes(seq + 1, &name(key), kind, bytes) {
                    seq += 1;
                    (*version, *count, *sum) = (*version + 1, *count + 1, *sum + bytes);
                    under_way.push_back((key, Some((kind, *version, bytes))));
                }
            }
            Step::Forget(key) => {
                seq += 1;
                keys.remove(&key);
                judge.forgets(seq, &name(key));
                under_way.push_back((key, None));
            }
            Step::Apply(count) => {
                for (key, sent) in under_way.drain(..count.min(under_way.len())) {
                    applied += 1;
                    let done = match sent {
                        None => store.forget("s", &name(key), 0),
                        Some((kind, version, bytes)) => {
                            let mut write = write(version, kind, 1, 0);
                            (write.key, write.value) = (name(key), vec![0; bytes]);
                            store.write(write, 0)
                        }
                    };
                    // The store has room for twice as much.
                    assert!(is_ok(done));
                    let (_, bytes) = store.kept("s");
                    most = most.max(bytes);
                }
            }
            Step::Tell(ago) => {
                let (keys, bytes) = store.kept("s");
                let seq = applied - ago.min(applied);
                judge.hear(KeptCheckpoints { seq, keys, bytes });
            }
        }
    }
    most
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// What a game's call took the store has room for, however late it hears of what is kept.
    #[test]
    fn what_a_call_took_there_is_room_for(steps in steps()) {
        prop_assert!(run(&mut CheckpointRoom::default(), &steps) <= CHECKPOINTS_BYTES_MAX);
    }
}

/// The test above can fail: judges that forget what is under way, or set off against it what may be counted already.
#[test]
fn judges_that_are_too_generous_are_found_out() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut found = [false; 2];
    for _ in 0..64 {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        found[0] |= run(&mut Hasty::default(), &steps) > CHECKPOINTS_BYTES_MAX;
        found[1] |= run(&mut Swapping::default(), &steps) > CHECKPOINTS_BYTES_MAX;
        if found == [true; 2] {
            return;
        }
    }
    panic!("not found out: {found:?}");
}
