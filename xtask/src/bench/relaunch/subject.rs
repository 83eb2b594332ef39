//! A supervisor under measurement: something that keeps a program alive whose first act is a stamp in a file. And the
//! rounds in which several of them have theirs killed.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Signal, pidfd_send_signal};
use sidekick_tests::process::{self, Running, Token};

/// Between two looks at a stamp file. The stamp says itself when it was made; this only shortens the bench.
const LOOK: Duration = Duration::from_millis(1);
/// The longest that a relaunch may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest that all rounds of one measurement may take: with slow programs there are fewer samples then.
const ROUNDS_TIME_MAX: Duration = Duration::from_secs(240);

/// A process's first act.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stamp {
    pid: u32,
    /// Seconds since the epoch.
    at: f64,
}

/// A supervisor and the stamps of what it keeps alive.
pub(super) struct Subject<'a> {
    pub(super) name: &'static str,
    token: &'a Token,
    log: PathBuf,
    /// Milliseconds from the kill to the next stamp.
    pub(super) samples: Vec<f64>,
    /// Of a peer, which may fail without an end to the whole: why it takes part no longer.
    pub(super) gave_up: Option<String>,
    is_peer: bool,
    samples_max: usize,
}

impl<'a> Subject<'a> {
    /// `log` is where the supervised program stamps; the program carries `token`.
    pub(super) fn new(name: &'static str, token: &'a Token, log: PathBuf) -> Self {
        Self {
            name,
            token,
            log,
            samples: Vec::new(),
            gave_up: None,
            is_peer: false,
            samples_max: usize::MAX,
        }
    }

    /// Takes part in at most so many rounds, spread over all of them, and no longer once it has failed.
    pub(super) fn into_peer(mut self, samples_max: usize) -> Self {
        self.is_peer = true;
        self.samples_max = samples_max;
        self
    }

    /// Whether it takes part in this one of so many rounds, counted from 0.
    fn is_due(&self, round: usize, rounds: usize) -> bool {
        let wanted = self.samples_max.min(rounds);
        self.gave_up.is_none() && self.samples.len() < ((round + 1) * wanted).div_ceil(rounds)
    }

    /// Whether its program has been started within `patience`.
    pub(super) fn has_started(&self, patience: Duration) -> bool {
        self.wait_for(1, patience).is_ok()
    }

    fn stamps(&self) -> Vec<Stamp> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        // A line without its end is being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line: &str| {
            let (pid, at) = line.split_once(' ')?;
            Some(Stamp {
                pid: pid.parse().ok()?,
                at: at.parse().ok()?,
            })
        };
        whole.lines().filter_map(parse).collect()
    }

    /// Waits for a stamp number `count`, counted from 1, and returns it.
    fn wait_for(&self, count: usize, patience: Duration) -> Result<Stamp, String> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(stamp) = self.stamps().get(count - 1) {
                return Ok(*stamp);
            }
            thread::sleep(LOOK);
        }
        Err(format!(
            "{} did not start its program a {count}. time",
            self.name
        ))
    }

    /// Waits until its program has lived for `settle`.
    pub(super) fn settle(&self, settle: Duration) -> Result<(), String> {
        let stamp = self.wait_for(self.stamps().len().max(1), PATIENCE)?;
        let lived = Duration::try_from_secs_f64(now() - stamp.at).unwrap_or_default();
        thread::sleep(settle.saturating_sub(lived));
        Ok(())
    }

    /// Kills its program and takes the time to the next one's stamp.
    pub(super) fn kill(&mut self) -> Result<(), String> {
        let stamps = self.stamps();
        let last = stamps.last().ok_or("nothing to kill")?;
        let handle = process::open(self.token, last.pid)
            .ok_or_else(|| format!("{}'s program died by itself", self.name))?;
        let killed = now();
        pidfd_send_signal(&handle, Signal::KILL).map_err(|error| error.to_string())?;
        let next = self.wait_for(stamps.len() + 1, PATIENCE)?;
        self.samples.push((next.at - killed) * 1e3);
        Ok(())
    }
}

/// Kills all subjects' programs in turns, each after it has lived for `settle`.
pub(super) fn rounds(
    subjects: &mut [Subject<'_>],
    settle: Duration,
    samples: usize,
) -> Result<(), String> {
    let started = Instant::now();
    for round in 0..samples {
        if started.elapsed() > ROUNDS_TIME_MAX {
            break;
        }
        for subject in subjects.iter_mut() {
            if !subject.is_due(round, samples) {
                continue;
            }
            match subject.settle(settle).and_then(|()| subject.kill()) {
                Err(why) if subject.is_peer => subject.gave_up = Some(why),
                done => done?,
            }
        }
    }
    Ok(())
}

/// By the clock that the programs stamp with.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// Compiles one of our C programs, statically where the system has what that takes.
pub(super) fn compile(source: &str, to: &Path) -> Result<(), Box<dyn Error>> {
    let file = to.with_extension("c");
    fs::write(&file, source)?;
    for linking in [&["-static"][..], &[]] {
        let mut command = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        command
            .arg("-O2")
            .args(linking)
            .arg("-o")
            .arg(to)
            .arg(&file);
        if command.output()?.status.success() {
            return Ok(());
        }
    }
    Err(format!("{file:?} does not compile; is there a C compiler (cc)?").into())
}

/// The floor: a loop around posix_spawn and waitpid.
pub(super) fn start_floor(
    floor: &Path,
    program: &[OsString],
    environment: &[(&str, OsString)],
    token: &Token,
) -> Result<Running, Box<dyn Error>> {
    let mut command = Command::new(floor);
    command
        .args(program)
        .envs(environment.iter().map(|(name, value)| (name, value)));
    token.mark(&mut command);
    Ok(Running::start(&mut command)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_subject_has_its_few_rounds_spread_over_all() {
        for (rounds, samples_max) in [(100, 10), (5, 10), (7, 3), (10, usize::MAX), (1, 1)] {
            let token = Token::new();
            let mut subject = Subject::new("slow", &token, PathBuf::new()).into_peer(samples_max);
            let mut took_part = Vec::new();
            for round in 0..rounds {
                if subject.is_due(round, rounds) {
                    subject.samples.push(0.0);
                    took_part.push(round);
                }
            }
            assert_eq!(took_part.len(), samples_max.min(rounds));
            let widest = took_part.windows(2).map(|pair| pair[1] - pair[0]).max();
            assert!(widest.unwrap_or(1) <= rounds.div_ceil(took_part.len()));
        }
    }
}
