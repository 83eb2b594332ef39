//! A registry as Uro is one, and a clock that runs through hours at once.

use super::*;

const BEAT: Duration = Duration::from_secs(10);
const UNLIST: Duration = Duration::from_secs(15);

struct World {
    listing: Listing,
    now: Instant,
    /// Rows: id and when they were last heard of.
    rows: Vec<(String, Instant)>,
    ids: u32,
    takes_beats: bool,
    /// Beats and removals meet an error of its own.
    fails: bool,
    /// So does every other request.
    is_down: bool,
    /// So does one for a row that there is not.
    misses_with_500: bool,
    /// It says under which id a row is.
    tells_ids: bool,
    steps: Vec<Step>,
}

impl World {
    fn new(id: Option<&str>) -> Self {
        Self {
            listing: Listing::new(BEAT, UNLIST, id.map(str::to_owned)),
            now: Instant::now(),
            rows: Vec::new(),
            ids: 0,
            takes_beats: true,
            fails: false,
            is_down: false,
            misses_with_500: false,
            tells_ids: true,
            steps: Vec::new(),
        }
    }

    /// A registry as Uro is one, for so long.
    fn run(&mut self, presence: Presence, time: Duration) {
        let end = self.now + time;
        loop {
            let step = self.listing.next(self.now, presence);
            if let Step::WaitUntil(at) = step {
                self.now = at.unwrap_or(end).min(end);
                if self.now == end {
                    return;
                }
                continue;
            }
            let answer = self.answer(&step);
            self.listing.done(self.now, &step, answer);
            self.steps.push(step);
            assert!(self.steps.len() < 1000, "it runs in circles");
        }
    }

    fn answer(&mut self, step: &Step) -> Result<Answer, ClientError> {
        let failed = || ClientError::Failed { status: 500 };
        let refused = || ClientError::Refused { status: 404 };
        let misses_with_500 = self.misses_with_500;
        let missing = || if misses_with_500 { failed() } else { refused() };
        match step {
            _ if self.is_down => return Err(failed()),
            Step::Create if !self.tells_ids => {
                self.ids += 1;
                return Err(ClientError::NoId);
            }

            Step::Create => {
                self.ids += 1;
                self.rows.push((self.ids.to_string(), self.now));
                let id = Some(self.ids.to_string());
                return Ok(Answer { id });
            }
            _ if self.fails => return Err(failed()),
            Step::Beat { .. } if !self.takes_beats => return Err(refused()),
            Step::Beat { id, .. } => {
                let row = self.rows.iter_mut().find(|row| row.0 == *id);
                row.ok_or_else(missing)?.1 = self.now;
            }
            Step::Forget { id } | Step::Remove { id } => {
                let row = self.rows.iter().position(|row| row.0 == *id);
                self.rows.remove(row.ok_or_else(missing)?);
            }
            Step::WaitUntil(_) => {}
        }
        Ok(Answer { id: None })
    }

    /// What clients see.
    fn fresh(&self) -> usize {
        let is_fresh = |row: &&(String, Instant)| self.now < row.1 + Duration::from_secs(30);
        self.rows.iter().filter(is_fresh).count()
    }
}

#[test]
fn a_server_that_serves_is_listed_once_for_hours() {
    let mut world = World::new(None);
    for _ in 0..360 {
        world.run(Presence::Up, Duration::from_secs(10));
        assert_eq!(world.fresh(), 1);
    }
    let creates = world.steps.iter().filter(|step| **step == Step::Create);
    assert_eq!(creates.count(), 1);
}

#[test]
fn a_short_restart_is_not_seen() {
    let mut world = World::new(None);
    world.run(Presence::Up, Duration::from_secs(9));
    for _ in 0..100 {
        world.run(Presence::Away, Duration::from_secs(14));
        assert_eq!(world.fresh(), 1);
        world.run(Presence::Up, Duration::from_secs(1));
    }
    assert_eq!(world.rows.len(), 1);
    let is_remove = |step: &Step| matches!(step, Step::Remove { .. });
    assert!(!world.steps.iter().any(is_remove));
}

#[test]
fn who_is_away_for_long_is_taken_off_before_the_registry_would() {
    let mut world = World::new(None);
    world.run(Presence::Up, Duration::from_secs(60));
    world.run(Presence::Away, Duration::from_millis(15_001));
    assert_eq!((world.rows.len(), world.fresh()), (0, 0));
    world.run(Presence::Away, Duration::from_secs(3600));
    let removes = Step::Remove { id: "1".into() };
    assert_eq!(world.steps.last(), Some(&removes));
    world.run(Presence::Up, Duration::from_secs(1));
    assert_eq!(world.fresh(), 1);
}

/// The broken variant: beats that do not ask how the engine is.
#[test]
fn who_beats_for_a_dead_engine_is_found_out() {
    let mut world = World::new(None);
    world.run(Presence::Up, Duration::from_secs(60));
    let it_died = world.now;
    world.run(Presence::Up, Duration::from_millis(15_001));
    assert!(world.now > it_died + UNLIST);
    assert_eq!(world.fresh(), 1, "players are sent to it");
}

#[test]
fn a_drain_is_told_at_once_and_nothing_new_is_listed_for_it() {
    let mut world = World::new(None);
    world.run(Presence::Up, Duration::from_secs(3));
    world.run(Presence::Draining, Duration::from_secs(1));
    let told = Step::Beat {
        id: "1".into(),
        status: Some(Status::Draining),
    };
    assert_eq!(world.steps.last(), Some(&told));
    assert!(world.listing.is_draining());
    world.run(Presence::Up, Duration::from_secs(1));
    assert!(!world.listing.is_draining());

    let mut world = World::new(None);
    world.run(Presence::Draining, Duration::from_secs(60));
    assert!(world.steps.is_empty());
}

#[test]
fn a_row_that_the_registry_has_forgotten_is_made_anew_without_a_double() {
    let mut world = World::new(Some("of yesterday"));
    world.run(Presence::Up, Duration::from_secs(1));
    assert_eq!(world.listing.id(), Some("1"));
    assert_eq!(world.rows.len(), 1);
    let forgets = Step::Forget {
        id: "of yesterday".into(),
    };
    assert_eq!(world.steps[1], forgets);
    assert_eq!(world.steps[2], Step::Create);
}

#[test]
fn a_row_of_an_earlier_watchdog_is_used_again() {
    let mut world = World::new(Some("7"));
    world.rows.push(("7".into(), world.now));
    world.run(Presence::Up, Duration::from_secs(60));
    assert_eq!(world.rows.len(), 1);
    assert!(!world.steps.contains(&Step::Create));
}

/// Uro lets nobody change a row who is not logged in and comes from another address than the row's.
#[test]
fn a_registry_that_takes_no_beat_is_not_filled_with_rows() {
    let mut world = World::new(None);
    world.takes_beats = false;
    world.run(Presence::Up, Duration::from_secs(3600));
    assert!(world.ids <= 2 + 2 * 6, "{} rows in an hour", world.ids);
    world.takes_beats = true;
    world.run(Presence::Up, Duration::from_secs(700));
    assert_eq!(world.fresh(), 1);
}

/// A registry that is in trouble as a whole has the row afterwards, however long it takes, and shows it soon.
#[test]
fn a_registry_that_fails_for_a_moment_keeps_the_row() {
    let mut world = World::new(None);
    world.run(Presence::Up, Duration::from_secs(15));
    for (seconds, is_down) in [(3, false), (30, false), (30, true), (7200, true)] {
        (world.fails, world.is_down) = (!is_down, is_down);
        world.run(Presence::Up, Duration::from_secs(seconds));
        (world.fails, world.is_down) = (false, false);
        world.run(Presence::Up, RETRY_MAX);
        assert_eq!((world.fresh(), world.ids), (1, 1), "after {seconds} s");
        world.steps.clear();
    }
}

/// Some registries answer a beat and a removal for a row that is gone with a 500.
#[test]
fn a_row_that_is_gone_and_is_answered_with_a_500_is_made_anew() {
    let mut world = World::new(Some("of yesterday"));
    world.misses_with_500 = true;
    for ids in 1..5 {
        world.run(Presence::Up, Duration::from_secs(30));
        assert_eq!(world.ids, ids - 1, "too soon");
        world.run(Presence::Up, Duration::from_secs(15));
        assert_eq!((world.fresh(), world.ids), (1, ids));
        world.run(Presence::Up, Duration::from_secs(60));
        assert_eq!((world.fresh(), world.ids), (1, ids));
        world.rows.clear();
    }
}

/// It lists whatever it is given and fails at the rest. Once it is well, the server shows at once, without a rest.
#[test]
fn a_registry_that_fails_at_beats_alone_is_not_filled_with_rows() {
    let mut world = World::new(None);
    world.fails = true;
    world.run(Presence::Up, Duration::from_secs(3600));
    assert!((3..=1 + 2 + 6).contains(&world.ids), "{} rows", world.ids);
    world.fails = false;
    world.run(Presence::Up, RETRY_MAX);
    assert_eq!(world.fresh(), 1);
}

/// Neither is another row made for a server that drains, nor is one dropped at which the registry fails.
#[test]
fn no_row_is_made_in_doubt_of_one_that_drains() {
    let mut world = World::new(None);
    world.run(Presence::Up, Duration::from_secs(15));
    world.fails = true;
    world.run(Presence::Up, Duration::from_secs(30));
    world.run(Presence::Draining, Duration::from_secs(3600));
    let forgets = |step: &Step| matches!(step, Step::Forget { .. });
    assert!(!world.steps.iter().any(forgets));
    assert_eq!(world.ids, 1);
}

/// A row that the registry fails to take off is tried again, and neither for ever nor in the way of the next row.
#[test]
fn a_removal_that_fails_is_tried_again_for_a_while() {
    for (fails_for, rows) in [(60, 0), (3600, 1)] {
        let mut world = World::new(None);
        world.run(Presence::Up, Duration::from_secs(15));
        world.fails = true;
        world.run(Presence::Away, Duration::from_secs(fails_for));
        world.fails = false;
        world.run(Presence::Away, Duration::from_secs(60));
        assert_eq!(world.rows.len(), rows);
        let removals = |step: &&Step| matches!(step, Step::Remove { .. });
        let removals = world.steps.iter().filter(removals).count();
        assert!(removals <= REMOVAL_FAILURES_MAX as usize, "{removals}");
    }
    let mut world = World::new(Some("of yesterday"));
    world.listing.refused = world.listing.id.take();
    world.fails = true;
    // The eighth try comes after 91 s.
    world.run(Presence::Up, Duration::from_secs(100));
    assert_eq!(world.ids, 1);
}

/// An older Uro lists a server without telling its id, and keeps its rows for ever.
#[test]
fn a_registry_that_tells_no_id_gets_one_row_for_each_engine_and_few_in_an_hour() {
    let mut world = World::new(None);
    world.tells_ids = false;
    world.run(Presence::Up, Duration::from_secs(24 * 3600));
    assert_eq!(world.ids, 1);
    // A crash loop is no reason for a row a minute.
    for _ in 0..60 {
        world.run(Presence::Away, Duration::from_secs(30));
        world.run(Presence::Up, Duration::from_secs(30));
    }
    assert!((2..=1 + 6).contains(&world.ids), "{} rows", world.ids);
    world.tells_ids = true;
    world.run(Presence::Away, Duration::from_secs(1));
    world.run(Presence::Up, ROW_RETRY);
    assert_eq!(world.fresh(), 1);
}

#[test]
fn a_registry_that_is_away_is_asked_less_and_less_often() {
    let mut listing = Listing::new(BEAT, UNLIST, None);
    let mut now = Instant::now();
    let begun = now;
    let mut tries = 0;
    while now < begun + Duration::from_secs(600) {
        match listing.next(now, Presence::Up) {
            Step::WaitUntil(at) => now = at.unwrap_or(begun + Duration::from_secs(600)),
            step => {
                tries += 1;
                let error = ClientError::Unreachable("refused".into());
                listing.done(now, &step, Err(error));
            }
        }
    }
    assert!((20..=26).contains(&tries), "{tries} tries in ten minutes");
}
