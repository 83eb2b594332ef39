//! The gate before a sink, which all its lanes share: how many may send at once, and whether to knock at all.
//!
//! - *Concurrency* follows the answers: each good one adds a little, one that tells of trouble halves it, between 1 and
//!   the number of lanes.
//! - A *circuit breaker* opens after [`FAILURES_MAX`] failed tries in a row. While it is open one try at a time goes
//!   through, at most one each [`PROBE_EVERY`]; the first that is answered well closes it, and concurrency begins at 1.
//! - What a backend asks for with `Retry-After` holds for all lanes.
//!
//! [`GateState`] decides, with the time as an argument; [`Gate`] lets lanes wait.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::sink::Outcome;

/// Failed tries in a row that open the breaker.
pub const FAILURES_MAX: u32 = 5;
/// While the breaker is open, tries are at least this far apart.
pub const PROBE_EVERY: Duration = Duration::from_secs(1);

/// What an answer says of the backend's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It took something.
    Good,
    /// It answered, if only to refuse: it lives.
    Answered,
    /// It failed, or wants to be left alone.
    Trouble,
    /// Nothing is known: the try was given up.
    Unknown,
}

impl Verdict {
    /// What an outcome says.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Taken => Self::Good,
            Outcome::TooLarge { .. } | Outcome::Refused { .. } | Outcome::Replan { .. } => {
                Self::Answered
            }
            Outcome::Wait { .. } | Outcome::Retry { .. } | Outcome::Park { .. } => Self::Trouble,
        }
    }
}

/// Whether a lane may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It may. The number goes back with the verdict.
    Go(u64),
    /// Not before then.
    At(Instant),
    /// Not before something changes.
    Busy,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Breaker {
    Closed { failures: u32 },
    Open { probe_at: Instant, is_probing: bool },
}

/// Decides who may send.
#[derive(Clone, Debug)]
pub struct GateState {
    limit: f64,
    limit_max: f64,
    in_flight: u32,
    /// Grows with each try.
    tries: u64,
    /// Tries up to this one had begun when concurrency was cut last; their failures tell nothing new.
    cut_at: u64,
    breaker: Breaker,
    quiet_until: Option<Instant>,
}

impl GateState {
    /// For a sink of so many lanes, all of which may send until there is trouble.
    pub fn new(lanes: u32) -> Self {
        let limit_max = f64::from(lanes.max(1));
        Self {
            limit: limit_max,
            limit_max,
            in_flight: 0,
            tries: 0,
            cut_at: 0,
            breaker: Breaker::Closed { failures: 0 },
            quiet_until: None,
        }
    }

    /// Asks to send at `now`.
    pub fn enter(&mut self, now: Instant) -> Entry {
        if let Some(until) = self.quiet_until {
            if now < until {
                return Entry::At(until);
            }
            self.quiet_until = None;
        }
        match &mut self.breaker {
            Breaker::Open {
                is_probing: true, ..
            } => return Entry::Busy,
            Breaker::Open { probe_at, .. } if now < *probe_at => return Entry::At(*probe_at),
            Breaker::Open {
                probe_at,
                is_probing,
            } => {
                *is_probing = true;
                *probe_at = now + PROBE_EVERY;
            }
            Breaker::Closed { .. } if f64::from(self.in_flight) + 1.0 > self.limit => {
                return Entry::Busy;
            }
            Breaker::Closed { .. } => {}
        }
        self.in_flight += 1;
        self.tries += 1;
        Entry::Go(self.tries)
    }

    /// The try `number` is over.
    pub fn leave(&mut self, number: u64, verdict: Verdict, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match (verdict, &mut self.breaker) {
            (Verdict::Good | Verdict::Answered, Breaker::Open { .. }) => {
                self.breaker = Breaker::Closed { failures: 0 };
                self.limit = 1.0;
                self.cut_at = self.tries;
            }
            (Verdict::Good | Verdict::Answered, Breaker::Closed { failures }) => {
                *failures = 0;
                if verdict == Verdict::Good {
                    self.limit = (self.limit + 1.0 / self.limit).min(self.limit_max);
                }
            }
            (Verdict::Trouble, Breaker::Closed { failures }) => {
                *failures += 1;
                if *failures >= FAILURES_MAX {
                    self.breaker = Breaker::Open {
                        probe_at: now + PROBE_EVERY,
                        is_probing: false,
                    };
                } else if number > self.cut_at {
                    self.limit = (self.limit / 2.0).max(1.0);
                    self.cut_at = self.tries;
                }
            }
            // Of the tries that had begun before it opened only the failures matter, and they change nothing.
            (Verdict::Trouble | Verdict::Unknown, Breaker::Open { is_probing, .. }) => {
                *is_probing = false;
            }
            (Verdict::Unknown, Breaker::Closed { .. }) => {}
        }
    }

    /// The backend wants to be left alone until then.
    pub fn quiet(&mut self, until: Instant) {
        self.quiet_until = self.quiet_until.max(Some(until));
    }

    /// How many may send at once.
    pub fn limit(&self) -> u32 {
        // Between 1 and the number of lanes.
        self.limit as u32
    }

    /// Whether tries are held back because of failures.
    pub fn is_open(&self) -> bool {
        matches!(self.breaker, Breaker::Open { .. })
    }
}

/// The gate, for lanes to wait at.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Notify,
    reopened: Notify,
}

impl Gate {
    /// For a sink of so many lanes.
    pub fn new(lanes: u32) -> Self {
        Self {
            state: Mutex::new(GateState::new(lanes)),
            changed: Notify::new(),
            reopened: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        // Each change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this lane may send. Dropping what it gives without a verdict is a try given up.
    pub async fn enter(&self) -> Pass<'_> {
        loop {
            let changed = self.changed.notified();
            let entry = self.lock().enter(Instant::now());
            match entry {
                Entry::Go(number) => {
                    return Pass {
                        gate: self,
                        number,
                        verdict: Verdict::Unknown,
                    };
                }
                Entry::At(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = changed => {}
                },
                Entry::Busy => changed.await,
            }
        }
    }

    /// The backend wants to be left alone for `pause`.
    pub fn quiet(&self, pause: Duration) {
        self.lock().quiet(Instant::now() + pause);
    }

    /// Whether nobody can be let through at this moment for a reason that lies with the backend.
    pub fn is_shut(&self) -> bool {
        let state = self.lock();
        state.is_open()
            || state
                .quiet_until
                .is_some_and(|until| Instant::now() < until)
    }

    /// Resolves when the breaker closes: what waits for its next try need wait no longer.
    pub async fn reopened(&self) {
        self.reopened.notified().await;
    }
}

/// Leave to send once.
#[derive(Debug)]
pub struct Pass<'a> {
    gate: &'a Gate,
    number: u64,
    verdict: Verdict,
}

impl Pass<'_> {
    /// The try is over.
    pub fn leave(mut self, verdict: Verdict) {
        self.verdict = verdict;
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let closes = {
            let mut state = self.gate.lock();
            let was_open = state.is_open();
            state.leave(self.number, self.verdict, Instant::now());
            was_open && !state.is_open()
        };
        self.gate.changed.notify_waiters();
        if closes {
            self.gate.reopened.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(gate: &mut GateState, now: Instant) -> u64 {
        match gate.enter(now) {
            Entry::Go(number) => number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn concurrency_halves_with_trouble_and_grows_back() {
        let now = Instant::now();
        let mut gate = GateState::new(8);
        let tries: Vec<u64> = (0..8).map(|_| go(&mut gate, now)).collect();
        assert_eq!(gate.enter(now), Entry::Busy);
        // Four of eight fail, of one trouble: it is cut once.
        for number in &tries[..4] {
            gate.leave(*number, Verdict::Trouble, now);
        }
        assert_eq!(gate.limit(), 4);
        assert_eq!(gate.enter(now), Entry::Busy, "four are still on their way");
        for number in &tries[4..] {
            gate.leave(*number, Verdict::Answered, now);
        }
        assert_eq!(gate.limit(), 4);
        let mut good = 0;
        while gate.limit() < 8 {
            let number = go(&mut gate, now);
            gate.leave(number, Verdict::Good, now);
            good += 1;
        }
        assert!((20..60).contains(&good), "{good}");
        for _ in 0..100 {
            let number = go(&mut gate, now);
            gate.leave(number, Verdict::Good, now);
        }
        assert_eq!(gate.limit(), 8, "never beyond");
        for _ in 0..3 {
            let number = go(&mut gate, now);
            gate.leave(number, Verdict::Trouble, now);
        }
        assert_eq!(gate.limit(), 1, "never below");
    }

    #[test]
    fn an_open_breaker_lets_one_probe_through_a_second() {
        let mut now = Instant::now();
        let mut gate = GateState::new(4);
        for _ in 0..FAILURES_MAX {
            let number = go(&mut gate, now);
            gate.leave(number, Verdict::Trouble, now);
        }
        assert!(gate.is_open());
        let mut probes = 0;
        let began = now;
        while now < began + Duration::from_secs(60) {
            match gate.enter(now) {
                Entry::Go(number) => {
                    probes += 1;
                    assert_eq!(gate.enter(now), Entry::Busy, "one at a time");
                    gate.leave(number, Verdict::Trouble, now);
                }
                Entry::At(at) => now = at,
                Entry::Busy => panic!("nothing is on its way"),
            }
        }
        assert!((59..=60).contains(&probes), "{probes}");
        // A probe that is given up is none, but it had its second.
        let at = now.max(began + Duration::from_secs(61));
        let number = go(&mut gate, at);
        gate.leave(number, Verdict::Unknown, at);
        assert_eq!(gate.enter(at), Entry::At(at + PROBE_EVERY));
        let number = go(&mut gate, at + PROBE_EVERY);
        // A slow one holds off the next.
        assert_eq!(gate.enter(at + 5 * PROBE_EVERY), Entry::Busy);
        gate.leave(number, Verdict::Good, at + 5 * PROBE_EVERY);
        assert!(!gate.is_open());
        assert_eq!(gate.limit(), 1, "it begins slowly");
    }

    #[test]
    fn what_the_backend_asks_for_holds_for_all() {
        let now = Instant::now();
        let mut gate = GateState::new(4);
        let later = now + Duration::from_secs(7);
        gate.quiet(later);
        gate.quiet(now + Duration::from_secs(3));
        assert_eq!(gate.enter(now), Entry::At(later));
        go(&mut gate, later);
    }

    /// The broken variant: without the breaker a backend that is away is asked as often as lanes like.
    #[test]
    fn broken_a_gate_that_never_opens_would_knock_on() {
        let now = Instant::now();
        let mut gate = GateState::new(4);
        let mut knocks = 0;
        for _ in 0..100 {
            if let Entry::Go(number) = gate.enter(now) {
                knocks += 1;
                gate.leave(number, Verdict::Trouble, now);
                gate.breaker = Breaker::Closed { failures: 0 };
            }
        }
        assert_eq!(knocks, 100);
    }
}
