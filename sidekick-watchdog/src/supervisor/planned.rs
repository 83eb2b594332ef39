//! When an engine is restarted by plan or at the game's own wish. Pure: the clocks come in as arguments.

use std::time::Duration;

use jiff::Zoned;

use crate::schedule::Schedule;

/// The plan of a watchdog.
#[derive(Clone, Debug, Default)]
pub struct RestartPlan {
    /// Planned restarts.
    pub schedule: Vec<Schedule>,
    /// Whether they wait until the game says that it is idle.
    pub when_idle: bool,
}

/// What the game says about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    pub idle: bool,
    pub restart_wanted: bool,
}

/// The plan of one engine's life.
#[derive(Debug)]
pub(super) struct Planned {
    /// The next time of each entry by the clock on the wall, as of the last look.
    next: Vec<Option<Zoned>>,
    /// The entry whose time has come, while it waits for the game to be idle.
    due: Option<Schedule>,
}

impl Planned {
    /// The plan of an engine that is watched from `now` on.
    pub(super) fn new(plan: &RestartPlan, now: impl Fn() -> Zoned) -> Self {
        let next = if plan.schedule.is_empty() {
            Vec::new()
        } else {
            let now = now();
            let next = plan.schedule.iter().map(|entry| entry.next_after(&now));
            next.collect()
        };
        Self { next, due: None }
    }

    /// Why the engine is to be restarted now, if it is.
    pub(super) fn look(
        &mut self,
        plan: &RestartPlan,
        now: impl Fn() -> Zoned,
        uptime: Duration,
        wishes: Wishes,
    ) -> Option<String> {
        if wishes.idle && wishes.restart_wanted {
            return Some("the game asked for it".to_owned());
        }
        if self.due.is_none() && !plan.schedule.is_empty() {
            self.due = self.find_due(plan, &now(), uptime);
        }
        let due = self.due?;
        if plan.when_idle && !wishes.idle {
            return None;
        }
        self.due = None;
        Some(due.to_string())
    }

    fn find_due(&self, plan: &RestartPlan, now: &Zoned, uptime: Duration) -> Option<Schedule> {
        let is_due = |(entry, next): &(&Schedule, &Option<Zoned>)| match (entry, next) {
            (Schedule::After(after), _) => uptime >= *after,
            (Schedule::At { .. }, next) => next.as_ref().is_some_and(|next| now >= next),
        };
        let found = plan.schedule.iter().zip(&self.next).find(is_due);
        found.map(|(entry, _)| *entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn plan(schedule: &[&str], when_idle: bool) -> RestartPlan {
        let entries = schedule.iter().map(|text| text.parse());
        RestartPlan {
            schedule: entries.map(|entry| entry.expect("a schedule")).collect(),
            when_idle,
        }
    }

    fn at(text: &str) -> Zoned {
        format!("2026-11-22T{text}+00:00[UTC]")
            .parse()
            .expect("a time")
    }

    #[test]
    fn a_time_of_day_and_an_age_are_due_once_they_have_come() {
        let plan = plan(&["04:00 daily", "after 24h"], false);
        let nobody = Wishes::default();
        let mut planned = Planned::new(&plan, || at("03:00:00"));
        let mut look = |time, uptime| planned.look(&plan, || at(time), uptime, nobody);
        assert_eq!(look("03:59:59", HOUR), None);
        assert_eq!(look("04:00:03", HOUR).as_deref(), Some("04:00 daily"));
        // The engine that follows has the next day's.
        let mut planned = Planned::new(&plan, || at("04:00:03"));
        let mut look = |time, uptime| planned.look(&plan, || at(time), uptime, nobody);
        assert_eq!(look("23:59:59", HOUR * 23), None);
        assert_eq!(look("23:59:59", HOUR * 24).as_deref(), Some("after 1day"));
    }

    #[test]
    fn it_waits_for_an_idle_game_if_told_to_and_the_game_may_wish_for_it() {
        let plan = plan(&["04:00 daily"], true);
        let mut planned = Planned::new(&plan, || at("03:00:00"));
        let wishes = |idle, restart_wanted| Wishes {
            idle,
            restart_wanted,
        };
        let mut look = |time, wishes| planned.look(&plan, || at(time), HOUR, wishes);
        assert_eq!(look("03:30:00", wishes(true, false)), None);
        assert_eq!(look("04:30:00", wishes(false, true)), None);
        // Its time stays come, whatever the clock does meanwhile.
        assert_eq!(look("01:00:00", wishes(false, false)), None);
        let due = look("05:00:00", wishes(true, false));
        assert_eq!(due.as_deref(), Some("04:00 daily"));
        let wished = look("05:00:00", wishes(true, true));
        assert_eq!(wished.as_deref(), Some("the game asked for it"));
    }
}
