//! A machine, its clock, and what would be done of what it says.

use std::collections::VecDeque;

use super::*;

/// A machine and its clock; a started engine lives.
pub(super) struct World {
    pub machine: Machine,
    pub now: Duration,
    pub engines: u32,
    pub starts: Vec<Duration>,
    pub told: Vec<Told>,
    pub kills: u32,
    pub backtraces: u32,
    pub asked: Vec<Duration>,
    pub next_spawn_fails: bool,
    pub left: bool,
    pub safe_starts: u32,
    pub hooks: u32,
    pub hook_kills: u32,
    pub broken: Option<Broken>,
    /// Starts beside a living engine, by a broken machine; by one that is not, they panic.
    pub doubles: u32,
}

impl World {
    pub fn new(policy: Policy) -> Self {
        Self::with_broken(policy, None)
    }

    /// A world whose machine lacks a rule.
    pub fn with_broken(policy: Policy, broken: Option<Broken>) -> Self {
        let policy = match broken {
            Some(broken) => broken.policy(policy),
            None => policy,
        };
        Self {
            machine: Machine::new(policy, 7),
            broken,
            doubles: 0,
            now: Duration::from_secs(1000),
            engines: 0,
            starts: Vec::new(),
            told: Vec::new(),
            kills: 0,
            backtraces: 0,
            asked: Vec::new(),
            next_spawn_fails: false,
            left: false,
            safe_starts: 0,
            hooks: 0,
            hook_kills: 0,
        }
    }

    pub fn started(policy: Policy) -> Self {
        let mut world = Self::new(policy);
        world.feed(Event::Start);
        world
    }

    pub fn feed(&mut self, event: Event) {
        let event = match self.broken {
            Some(broken) => broken.event(event, self.now),
            None => Some(event),
        };
        let Some(event) = event else { return };
        let mut actions = VecDeque::from(self.machine.on_event(event, self.now));
        while let Some(action) = actions.pop_front() {
            if self.broken.is_some_and(|broken| broken.swallows(&action)) {
                continue;
            }
            match action {
                Action::Prepare => {
                    assert_eq!((self.engines, self.hooks), (0, 0), "two at once");
                    self.hooks = 1;
                }
                Action::EndPrepare => self.hook_kills += 1,
                Action::Spawn { safe } => {
                    let is_double = (self.engines, self.hooks) != (0, 0);
                    assert!(!is_double || self.broken.is_some(), "two engines at once");
                    self.doubles += u32::from(is_double);
                    self.safe_starts += u32::from(safe);
                    self.starts.push(self.now);
                    let event = if std::mem::take(&mut self.next_spawn_fails) {
                        Event::SpawnFailed
                    } else {
                        self.engines = 1;
                        Event::Spawned
                    };
                    actions.extend(self.machine.on_event(event, self.now));
                }
                Action::AskQuit { grace } => self.asked.push(grace),
                Action::Backtrace { .. } => self.backtraces += 1,
                Action::KillGroup => self.kills += 1,
                Action::Leave => self.left = true,
                Action::Tell(told) => self.told.push(told),
            }
        }
    }

    pub fn die(&mut self, success: bool) {
        assert_eq!(self.engines, 1);
        self.engines = 0;
        self.feed(Event::Died { success });
    }

    pub fn hook_ends(&mut self, success: bool) {
        assert_eq!(self.hooks, 1);
        self.hooks = 0;
        self.feed(Event::Prepared { success });
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.feed(Event::Tick);
    }

    pub fn let_it_come(&mut self) {
        let deadline = self.machine.deadline().expect("a deadline");
        self.now = self.now.max(deadline);
        self.feed(Event::Tick);
    }

    pub fn beat(&mut self, frames: u64) {
        let stamp = self.now;
        self.feed(Event::Beat(Beat {
            frames,
            stamp,
            ..Beat::default()
        }));
    }
}

/// A banner, or the next line of a crash handler that has begun.
pub(super) fn crashing(last_output: Duration) -> Event {
    Event::Crashing {
        banner: last_output,
        last_output,
    }
}
