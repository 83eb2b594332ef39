//! What is seen of an engine from outside while its watchdogs come and go, and what must not be seen.

use std::path::Path;

use sidekick_ipc::{Attachment, scan};

use crate::watchdog::{Setup, Watchdog};

/// One look at the engines of a setup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The engines that live: process group leaders that any watchdog of the setup started.
    pub engines: Vec<u32>,
    /// The session in the newest ring, and how many frames it has told of.
    pub session: Option<(String, u64)>,
}

impl Look {
    /// Looks now.
    pub fn at(setup: &Setup, watchdog: Option<&Watchdog<'_>>) -> Self {
        let mut engines = setup.engines(watchdog);
        engines.sort_unstable();
        Self {
            engines,
            session: newest_session(setup.runtime_dir()),
        }
    }
}

/// Reads the engine's own words; nothing is written into the ring.
fn newest_session(runtime_dir: &Path) -> Option<(String, u64)> {
    let files = scan(runtime_dir).ok()?;
    let newest = Attachment::open(files.last()?).ok()?;
    let frames = newest.heartbeat().frames;
    Some((newest.info().epoch.to_string(), frames))
}

/// Sentences about everything in a history that shows more than one engine process, or one that began anew.
pub fn faults_of_one_life(history: &[Look]) -> Vec<String> {
    let mut faults = Vec::new();
    let first = history.first();
    for (number, look) in history.iter().enumerate() {
        let at_first = first.map(|first| &first.engines);
        if look.engines.len() != 1 || Some(&look.engines) != at_first {
            faults.push(format!(
                "look {number}: engines {:?}, at first {at_first:?}",
                look.engines
            ));
        }
        let Some((epoch, frames)) = &look.session else {
            faults.push(format!("look {number}: no session"));
            continue;
        };
        let before = number
            .checked_sub(1)
            .and_then(|before| history[before].session.as_ref());
        let Some((epoch_before, frames_before)) = before else {
            continue;
        };
        if epoch != epoch_before {
            faults.push(format!(
                "look {number}: session {epoch}, before {epoch_before}"
            ));
        } else if frames < frames_before {
            // The same one again: two looks within one frame.
            faults.push(format!(
                "look {number}: frame {frames}, before {frames_before}"
            ));
        }
    }
    faults
}

/// Sentences about everything that is wrong after two watchdogs were started at once and one of them has ended.
/// `ends` are their exit codes (`None` = it runs), `engines` the engines that live, in each of several looks.
pub fn faults_of_a_duel(ends: [Option<i32>; 2], engines: &[Vec<u32>], locked: i32) -> Vec<String> {
    let mut faults = Vec::new();
    if !matches!(ends, [None, Some(code)] | [Some(code), None] if code == locked) {
        faults.push(format!(
            "the watchdogs ended with {ends:?}, one of them with {locked} is right"
        ));
    }
    if engines.is_empty()
        || engines
            .iter()
            .any(|look| look.len() != 1 || *look != engines[0])
    {
        faults.push(format!("not one engine throughout: {engines:?}"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(engines: &[u32], epoch: &str, frames: u64) -> Look {
        Look {
            engines: engines.to_vec(),
            session: Some((epoch.to_owned(), frames)),
        }
    }

    /// The broken variants: what a watchdog without launch lock, adoption or its own lock would do.
    #[test]
    fn every_fault_of_a_life_is_seen() {
        let good = look(&[7], "a", 1);
        assert!(faults_of_one_life(&[good.clone(), look(&[7], "a", 2)]).is_empty());
        let lost = Look {
            engines: vec![7],
            session: None,
        };
        for bad in [
            look(&[7, 8], "a", 2),
            look(&[8], "a", 2),
            look(&[], "a", 2),
            look(&[7], "b", 2),
            look(&[7], "a", 0),
            lost,
        ] {
            let faults = faults_of_one_life(&[good.clone(), bad.clone()]);
            assert_eq!(faults.len(), 1, "{bad:?}: {faults:?}");
        }
    }

    #[test]
    fn every_fault_of_a_duel_is_seen() {
        let one = [vec![7], vec![7]];
        assert!(faults_of_a_duel([None, Some(7)], &one, 7).is_empty());
        assert!(faults_of_a_duel([Some(7), None], &one, 7).is_empty());
        for (ends, engines) in [
            ([None, None], one.to_vec()),
            ([Some(7), Some(7)], one.to_vec()),
            ([None, Some(1)], one.to_vec()),
            ([None, Some(7)], vec![vec![7], vec![8]]),
            ([None, Some(7)], vec![vec![7, 8]]),
            ([None, Some(7)], vec![]),
            ([None, Some(7)], vec![vec![]]),
        ] {
            let faults = faults_of_a_duel(ends, &engines, 7);
            assert_eq!(faults.len(), 1, "{ends:?} {engines:?}: {faults:?}");
        }
    }
}
