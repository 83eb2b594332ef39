//! Who takes whose place when the configuration changes, and what is told of it.

use uuid::Uuid;

use super::*;
use crate::books::Counts;
use crate::slab::{RingCheckpoint, SlabHead};
use crate::store::command::{Command, Outcome};
use crate::store::snapshot;

/// Sinks of one lane each, and a session that has recorded something.
struct World {
    state: State,
    index: u64,
    next_seq: u64,
}

impl World {
    fn new(sinks: &[(&str, u32)]) -> Self {
        let mut world = Self {
            state: State::default(),
            index: 0,
            next_seq: 1,
        };
        world.place(sinks);
        world.apply(Command::OpenSession {
            source: "s".into(),
            epoch: Uuid::nil(),
            launch: 1,
            started_realtime_ns: 0,
        });
        world
    }

    fn apply(&mut self, command: Command) -> Outcome {
        self.index += 1;
        self.state.apply(self.index, vec![command]).remove(0)
    }

    fn change(&mut self, command: Command) -> Vec<SinkChange> {
        match self.apply(command) {
            Outcome::SinksNamed { changes, .. } => changes,
            other => panic!("{other:?}"),
        }
    }

    fn place(&mut self, sinks: &[(&str, u32)]) -> Vec<SinkChange> {
        let purged = 0;
        let sinks = owned(sinks);
        self.change(Command::PlaceSinks { sinks, purged })
    }

    /// Records so many; gives the entry.
    fn record(&mut self, count: u64) -> u64 {
        let head = SlabHead {
            source: "s".into(),
            epoch: Uuid::nil(),
            incarnation: 1,
            realtime_offset_ns: 0,
            first_seq: self.next_seq,
            count,
            checkpoint: RingCheckpoint::default(),
        };
        self.next_seq += count;
        let frames_bytes = 0;
        self.apply(Command::Append { head, frames_bytes });
        self.index
    }

    /// The sink's lane has taken so many more, up to there.
    fn take(&mut self, sink: &str, lane: u32, up_to: Position, records: u64) {
        let counts = Counts {
            rows: records,
            records,
            ..Counts::default()
        };
        let sink = sink.to_owned();
        let settled = self.apply(Command::Settle {
            sink,
            lane,
            up_to,
            counts,
        });
        assert_eq!(settled, Outcome::Done);
    }

    fn starts(&self, sink: &str) -> Position {
        self.state.lanes(sink).unwrap()[0].watermark
    }

    fn pending(&self, sink: &str) -> Option<u64> {
        self.state.books(sink).pending(self.state.committed())
    }
}

fn owned(sinks: &[(&str, u32)]) -> Vec<(String, u32)> {
    let sinks = sinks.iter();
    sinks
        .map(|(sink, lanes)| ((*sink).to_owned(), *lanes))
        .collect()
}

fn at(index: u64, item: u32) -> Position {
    Position { index, item }
}

fn taken_out(sink: &str, pending: Option<u64>, successor: Option<&str>) -> SinkChange {
    SinkChange::TakenOut {
        sink: sink.into(),
        pending,
        letters: 0,
        successor: successor.map(str::to_owned),
    }
}

/// `http` has 61 of 100 records still to take, `file` has all.
fn backlog() -> (World, u64) {
    let mut world = World::new(&[("file", 1), ("http", 1)]);
    let entry = world.record(100);
    world.take("file", 0, whole(entry), 100);
    world.take("http", 0, at(entry, 38), 39);
    (world, entry)
}

/// Another sink stays and has everything: the new one gets the old one's backlog all the same. As the broken variant the
/// command of older logs, which drops it.
#[test]
fn a_sink_that_comes_as_another_goes_gets_its_backlog() {
    let sinks = [("postgres", 4), ("file", 1)];
    let (mut world, entry) = backlog();
    let changes = world.place(&sinks);
    let replaced = SinkChange::Replaced {
        sink: "postgres".into(),
        instead_of: "http".into(),
        after: entry - 1,
        pending: Some(61),
    };
    assert_eq!(
        changes,
        [taken_out("http", Some(61), Some("postgres")), replaced]
    );
    assert_eq!(world.starts("postgres"), at(entry, 38));
    assert_eq!(world.pending("postgres"), Some(61));
    assert!(world.state.remains(0).is_empty());
    for lane in 0..4 {
        world.take(
            "postgres",
            lane,
            whole(entry),
            if lane == 0 { 61 } else { 0 },
        );
    }
    assert_eq!(world.pending("postgres"), Some(0));

    let (mut world, _) = backlog();
    let (sinks, purged) = (owned(&sinks), 0);
    world.change(Command::NameSinks { sinks, purged });
    assert_eq!(world.pending("postgres"), Some(0), "the broken variant");
    assert!(world.starts("postgres") > at(entry, 99));
}

/// Of several that go the least advanced says where the new one begins: what another had taken may come a second time to a new
/// place, and nothing falls between.
#[test]
fn of_several_that_go_the_least_advanced_has_the_place() {
    let (mut world, entry) = backlog();
    world.place(&[("postgres", 1), ("command", 1)]);
    for sink in ["postgres", "command"] {
        assert_eq!(world.starts(sink), at(entry, 38), "{sink}");
        assert_eq!(world.pending(sink), Some(61), "{sink}");
    }
    // Where the lanes of the old one stood apart, the slowest counts, and the sum is known when the new one is through.
    let mut world = World::new(&[("http", 2)]);
    let entry = world.record(100);
    world.take("http", 1, at(entry, 90), 30);
    world.take("http", 0, at(entry, 9), 5);
    world.place(&[("postgres", 1)]);
    assert_eq!(world.starts("postgres"), at(entry, 9));
    assert_eq!(world.pending("postgres"), None);
    world.take("postgres", 0, whole(entry), 90);
    assert_eq!(world.pending("postgres"), Some(0));
}

/// What nobody takes over is counted in records, remembered, and gone when the sink is back or the log is purged.
#[test]
fn what_a_sink_leaves_behind_is_counted_in_records() {
    let (mut world, _) = backlog();
    assert_eq!(
        world.place(&[("file", 1)]),
        [taken_out("http", Some(61), None)]
    );
    let out = world.index;
    let left = Remains {
        letters: 0,
        has_records: true,
        records: Some(61),
    };
    assert_eq!(world.state.remains(0), [("http".to_owned(), left)].into());
    assert!(world.state.remains(out).is_empty());
    let sealed = snapshot::seal(&world.state).unwrap();
    assert_eq!(snapshot::unseal(&sealed).unwrap(), world.state);
    world.place(&[("file", 1), ("http", 1)]);
    assert!(world.state.remains(0).is_empty());
}

/// Entries that hold no records are none that a sink had not taken. As the broken variant the count of older logs.
#[test]
fn a_sink_that_has_taken_everything_leaves_nothing_behind() {
    let through = || {
        let mut world = World::new(&[("file", 1), ("http", 1)]);
        let entry = world.record(197);
        world.take("file", 0, whole(entry), 197);
        world.take("http", 0, whole(entry), 197);
        for _ in 0..3 {
            world.apply(Command::Tick { time_ns: 1 });
        }
        world
    };
    let mut world = through();
    assert_eq!(
        world.place(&[("http", 1)]),
        [taken_out("file", Some(0), None)]
    );
    assert!(world.state.remains(0).is_empty());
    // Back before anything was recorded: nothing is missing, whatever was purged.
    let (sinks, purged) = (owned(&[("file", 1), ("http", 1)]), world.index);
    let back = SinkChange::Returned {
        sink: "file".into(),
        missed: 0,
        batch_given_up: false,
    };
    assert_eq!(world.change(Command::PlaceSinks { sinks, purged }), [back]);

    let (sinks, purged) = (owned(&[("http", 1)]), 0);
    let told = through().change(Command::NameSinks { sinks, purged });
    assert!(
        matches!(told[..], [SinkChange::Removed { behind: 4.., .. }]),
        "the broken variant: {told:?}"
    );
}
