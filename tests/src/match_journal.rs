//! What a match of `gd/match.gd` wrote down about itself, judged.
//!
//! The journal is a witness that knows nothing of ring, watchdog or store: a file `INCARNATION-PID` for each process that
//! was active, a line a fact, each in the kernel's hands before the match went on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The game: its journal goes into the folder that `--journal` names.
pub const SCRIPT: &str = include_str!("../gd/match.gd");

/// Ticks between two checkpoints.
const CHECKPOINT_EVERY: u64 = 6;

/// What a journal says of an incarnation that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// Its number.
    pub incarnation: u64,
    /// Its process.
    pub pid: u32,
    /// Whether it was booted as a standby.
    pub was_standby: bool,
    /// Of its program.
    pub version: u32,
}

/// Numbers of a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Checkpoints whose calls returned.
    pub done: u64,
    /// Incarnations that were given something to go on with.
    pub restored: u64,
    /// Of these, how many were given one whose call had begun and not returned.
    pub begun_only: u64,
    /// Incarnations that served and had been standbys.
    pub promoted: u64,
    /// Incarnations that served and were started cold.
    pub cold: u64,
    /// Incarnations that went on after one that had been asked to quit.
    pub handed_over: u64,
    /// The most ticks that a death took back.
    pub ticks_lost_max: u64,
    /// The processes that said that they serve.
    pub served: BTreeSet<u32>,
}

/// The whole lines of a file; what follows the last line break was being written when the engine was killed.
fn whole(text: &str) -> impl Iterator<Item = &str> {
    text.rfind('\n')
        .map_or("", |end| &text[..end])
        .lines()
        .filter(|line| !line.is_empty())
}

fn incarnation(file_name: &str) -> Option<u64> {
    file_name.split_once('-')?.0.parse().ok()
}

fn serving(file_name: &str, text: &str) -> Option<Serving> {
    let incarnation = incarnation(file_name)?;
    let line = whole(text).find_map(|line| line.strip_prefix("serves "))?;
    let mut words = line.split(' ');
    Some(Serving {
        incarnation,
        pid: words.next()?.parse().ok()?,
        was_standby: words.next()? == "true",
        version: words.next()?.parse().ok()?,
    })
}

/// The newest incarnation that said that it serves.
pub fn last_serving(folder: &Path) -> Option<Serving> {
    let entries = fs::read_dir(folder).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| incarnation(name).is_some()).collect();
    names.sort_unstable();
    let mut newest = names.iter().rev();
    newest.find_map(|name| serving(name, &fs::read_to_string(folder.join(name)).ok()?))
}

/// Judges a folder of journals.
///
/// # Panics
/// When it cannot be read.
pub fn judge(folder: &Path) -> (Summary, Vec<String>) {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the journals' folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        files.insert(
            name.into_owned(),
            fs::read_to_string(&path).expect("a journal"),
        );
    }
    judge_files(&files)
}

/// Sentences about everything that is not as promised, over the journals by name: what an incarnation is given is the last
/// checkpoint whose call had returned or the one whose call had begun, with the scores of that very tick; nobody's score goes
/// back by more than one interval's; nobody else has the port.
fn judge_files(files: &BTreeMap<String, String>) -> (Summary, Vec<String>) {
    let mut judge = Judge::default();
    let mut last = None;
    for (name, text) in files {
        let number = incarnation(name);
        if number.is_some() && number == last {
            let problem = format!("journal {name}: there was such an incarnation before");
            judge.broken.push(problem);
        }
        last = number;
        if let Some(serving) = serving(name, text) {
            judge.summary.served.insert(serving.pid);
            let count = match serving.was_standby {
                true => &mut judge.summary.promoted,
                false => &mut judge.summary.cold,
            };
            *count += 1;
        }
        for (number, line) in (1..).zip(whole(text)) {
            if let Err(problem) = judge.take(line) {
                judge
                    .broken
                    .push(format!("journal {name}, line {number}: {problem}"));
            }
        }
    }
    (judge.summary, judge.broken)
}

#[derive(Debug, Default)]
struct Judge {
    summary: Summary,
    broken: Vec<String>,
    /// Everybody's score at each tick of the match as it was played; 0 is its beginning.
    history: BTreeMap<u64, Vec<u64>>,
    done: u64,
    begun: Option<u64>,
    /// The last incarnation was asked to quit.
    has_quit: bool,
}

impl Judge {
    fn take(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["restored", status, tick, scores] => {
                self.restored(status, number(tick)?, numbers(scores)?)
            }
            ["tick", tick, scores] => {
                let (tick, scores) = (number(tick)?, numbers(scores)?);
                let last = self.last_tick();
                self.history.insert(tick, scores);
                match tick == last + 1 {
                    true => Ok(()),
                    false => Err(format!("tick {tick} came after {last}")),
                }
            }
            ["begin", tick] => {
                self.begun = Some(number(tick)?);
                Ok(())
            }
            ["done", tick] => {
                (self.done, self.begun) = (number(tick)?, None);
                self.summary.done += 1;
                Ok(())
            }
            ["quits"] => {
                self.has_quit = true;
                Ok(())
            }
            ["serves", ..] => Ok(()),
            _ => Err(line.to_owned()),
        }
    }

    fn last_tick(&self) -> u64 {
        self.history.last_key_value().map_or(0, |(tick, _)| *tick)
    }

    fn restored(&mut self, status: &str, tick: u64, scores: Vec<u64>) -> Result<(), String> {
        let (last, done, begun) = (self.last_tick(), self.done, self.begun.take());
        let played = self.history.clone();
        self.history.retain(|played, _| *played <= tick);
        self.history.insert(tick, scores.clone());
        self.done = tick;
        self.summary.restored += u64::from(tick > 0);
        self.summary.begun_only += u64::from(Some(tick) == begun);
        let lost = last.saturating_sub(tick);
        self.summary.ticks_lost_max = self.summary.ticks_lost_max.max(lost);
        let has_quit = std::mem::take(&mut self.has_quit);
        self.summary.handed_over += u64::from(has_quit);
        if has_quit && lost > 0 {
            return Err(format!("{lost} ticks were lost though the match had quit"));
        }
        if status != if tick > 0 { "restored" } else { "none" } {
            return Err(format!("tick {tick} was restored with the status {status}"));
        }
        if tick != done && Some(tick) != begun {
            return Err(format!(
                "tick {tick} was restored, {done} was the last one done, {begun:?} was begun"
            ));
        }
        if tick > 0 && played.get(&tick) != Some(&scores) {
            return Err(format!(
                "the scores restored of tick {tick} are {scores:?}, they were {:?}",
                played.get(&tick)
            ));
        }
        // Before anything was kept there is nothing to hold it to but the interval.
        let allowed = played.get(&last.saturating_sub(CHECKPOINT_EVERY));
        let went_back = allowed.is_some_and(|allowed| {
            let mut pairs = scores.iter().zip(allowed);
            pairs.any(|(score, allowed)| score < allowed)
        });
        if lost > CHECKPOINT_EVERY || went_back {
            return Err(format!(
                "a score went back by more than one interval: {lost} ticks, {scores:?} after {:?}",
                played.get(&last)
            ));
        }
        Ok(())
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word:?} is no number"))
}

fn numbers(words: &str) -> Result<Vec<u64>, String> {
    words.split(',').map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(files: &[&str]) -> (Summary, Vec<String>) {
        let name = |number: usize| format!("{number:010}-7");
        let files = files.iter().enumerate();
        judge_files(
            &files
                .map(|(at, text)| (name(at), (*text).to_owned()))
                .collect(),
        )
    }

    const FIRST: &str = "restored none 0 0,0\nserves 7 false 1\ntick 1 1,0\ntick 2 1,2\nbegin 2\ndone 2\ntick 3 1,5\n\
                         tick 4 4,5\nbegin 4\n";

    #[test]
    fn a_match_that_goes_on_is_right() {
        for (second, begun_only) in [
            ("restored restored 2 1,2\nserves 8 true 1\ntick 3 1,9\n", 0),
            (
                "restored restored 4 4,5\nserves 8 true 1\ntick 5 4,9\ntic",
                1,
            ),
        ] {
            let (summary, broken) = judged(&[FIRST, second]);
            assert_eq!(broken, Vec::<String>::new());
            assert_eq!((summary.done, summary.restored), (1, 1));
            assert_eq!((summary.promoted, summary.cold), (1, 1));
            assert_eq!(summary.begun_only, begun_only);
            assert_eq!(summary.served, BTreeSet::from([7, 8]));
        }
    }

    #[test]
    fn broken_journals_are_noticed() {
        for (second, word) in [
            ("restored none 0 0,0\n", "was the last one done"),
            ("restored restored 3 1,5\n", "was the last one done"),
            ("restored restored 2 1,3\n", "the scores restored"),
            ("restored timeout 0 0,0\n", "timeout"),
            ("restored restored 2 1,2\ntick 4 1,2\n", "came after"),
            ("taken\n", "taken"),
            ("quits\nrestored restored 2 1,2\n", "had quit"),
            ("refused 6\n", "refused"),
        ] {
            let (_, broken) = judged(&[FIRST, second]);
            assert!(
                broken.iter().any(|line| line.contains(word)),
                "{second:?}: {broken:?}"
            );
        }
        let twice = [FIRST, FIRST].iter().zip(["0000000001-7", "0000000001-8"]);
        let twice = twice.map(|(text, name)| (name.to_owned(), (*text).to_owned()));
        let (_, broken) = judge_files(&twice.collect());
        assert!(broken[0].contains("such an incarnation"), "{broken:?}");
        // What was done is given back, and yet too much was played since.
        let late: String = (5..=11).map(|tick| format!("tick {tick} 4,6\n")).collect();
        let (_, broken) = judged(&[
            &format!("{FIRST}done 4\n{late}"),
            "restored restored 4 4,5\n",
        ]);
        assert!(broken[0].contains("went back"), "{broken:?}");
    }
}
