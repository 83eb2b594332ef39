//! Which version of the game recorded what, for rules that tell of it: a batch that is made again, after whatever
//! restarts, must say the same (CORRECTNESS rule 16), and sessions are forgotten long before their records are gone.
//!
//! So not each session's version is kept but each change of it, by the launch that brought it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::State;

/// Changes that are remembered of each source; the oldest give way. Far more than can be between a record and its upload.
const CHANGES_MAX: usize = 1024;
/// Epochs of records that the watchdog made itself are of this version of UUIDs; no game recorded them.
const OWN_EPOCHS: usize = 8;

/// The versions of one source's game.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Versions {
    /// By the first launch of each. What it says of a launch never changes: later ones only add to it.
    since: BTreeMap<u32, String>,
    /// Of further sessions of a launch, where it is not that of its first one.
    apart: BTreeMap<(u32, Uuid), String>,
}

impl Versions {
    fn of_launch(&self, launch: u32) -> &str {
        let known = self.since.range(..=launch).next_back();
        known.map_or("", |(_, version)| version)
    }

    fn note(&mut self, launch: u32, epoch: Uuid, is_first: bool, version: &str) {
        if self.of_launch(launch) == version {
            return;
        }
        if is_first {
            self.since.insert(launch, version.to_owned());
        } else {
            self.apart.insert((launch, epoch), version.to_owned());
        }
        if self.since.len() > CHANGES_MAX {
            self.since.pop_first();
        }
        if self.apart.len() > CHANGES_MAX {
            self.apart.pop_first();
        }
    }
}

impl State {
    /// A session opens, the first of its launch or not; its game says that this is its version.
    pub(super) fn note_game(
        &mut self,
        source: &str,
        (launch, epoch): (u32, Uuid),
        is_first: bool,
        version: &str,
    ) {
        let of_source = match self.games.get_mut(source) {
            Some(versions) => versions,
            None if version.is_empty() => return,
            None => self.games.entry(source.to_owned()).or_default(),
        };
        of_source.note(launch, epoch, is_first, version);
    }

    /// The version of the game that recorded what is of this session; empty where it told none, and for what the watchdog
    /// made itself. Once the session is open, always the same.
    pub(crate) fn game_version(&self, source: &str, launch: u32, epoch: Uuid) -> &str {
        let Some(versions) = self.games.get(source) else {
            return "";
        };
        if epoch.get_version_num() == OWN_EPOCHS {
            return "";
        }
        match versions.apart.get(&(launch, epoch)) {
            Some(version) => version,
            None => versions.of_launch(launch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::command::Command;
    use super::*;

    fn epoch(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn open(state: &mut State, launch: u32, number: u128, version: &str) {
        let open = Command::OpenGame {
            source: "s".into(),
            epoch: epoch(number),
            launch,
            started_realtime_ns: 0,
            game_version: version.into(),
        };
        let end = Command::EndSession {
            source: "s".into(),
            epoch: epoch(number),
            cause: "died".into(),
            tail_unknown: false,
        };
        for outcome in state.apply(1, vec![open, end]) {
            let is_refused = matches!(outcome, super::super::super::command::Outcome::Refused(_));
            assert!(!is_refused, "{outcome:?}");
        }
    }

    /// Each session's version is what it told, however many come after it, also when nobody remembers the session; a
    /// second program of one launch has its own.
    #[test]
    fn what_is_said_of_a_session_never_changes() {
        let mut state = State::default();
        let told = |launch: u32| match launch {
            1..20 => "1.0",
            20..30 => "",
            _ => "2.0",
        };
        let mut seen = Vec::new();
        for launch in 1..40 {
            open(&mut state, launch, u128::from(launch), told(launch));
            seen.push((launch, epoch(u128::from(launch)), told(launch)));
            if launch == 25 {
                open(&mut state, launch, 1000, "tool");
                open(&mut state, launch, 1001, "");
                open(&mut state, launch, 1002, "tool");
                let others = [(1000, "tool"), (1001, ""), (1002, "tool")];
                seen.extend(others.map(|(number, version)| (launch, epoch(number), version)));
            }
            for (launch, epoch, version) in &seen {
                assert_eq!(
                    state.game_version("s", *launch, *epoch),
                    *version,
                    "{launch}"
                );
            }
        }
        assert!(state.session("s", &epoch(1)).is_none(), "it is forgotten");
        let versions = &state.games["s"];
        assert_eq!((versions.since.len(), versions.apart.len()), (3, 2));
        assert_eq!(state.game_version("other", 1, epoch(1)), "");
        let own = uuid::Builder::from_custom_bytes([7; 16]).into_uuid();
        assert_eq!(state.game_version("s", 35, own), "");
    }

    /// Must fail: what is told is the version of the game that runs now.
    #[test]
    fn the_version_of_now_would_be_another() {
        let mut state = State::default();
        open(&mut state, 1, 1, "1.0");
        let before = state.game_version("s", 1, epoch(1)).to_owned();
        open(&mut state, 2, 2, "2.0");
        let of_now = state.games["s"].of_launch(u32::MAX);
        assert_ne!(of_now, before);
        assert_eq!(state.game_version("s", 1, epoch(1)), before);
    }

    /// Opened again, by the next watchdog, a session stays what it was; one that is opened without a word has that of
    /// the launch before.
    #[test]
    fn only_the_first_word_counts() {
        let mut state = State::default();
        open(&mut state, 1, 1, "1.0");
        let open_session = |number, launch| Command::OpenSession {
            source: "s".into(),
            epoch: epoch(number),
            launch,
            started_realtime_ns: 0,
        };
        state.apply(2, vec![open_session(2, 2)]);
        let again = Command::OpenGame {
            source: "s".into(),
            epoch: epoch(2),
            launch: 2,
            started_realtime_ns: 0,
            game_version: "2.0".into(),
        };
        state.apply(3, vec![again]);
        assert_eq!(state.game_version("s", 2, epoch(2)), "1.0");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut state = State::default();
        for launch in 1..3000 {
            open(&mut state, launch, u128::from(launch), &launch.to_string());
        }
        assert_eq!(state.games["s"].since.len(), CHANGES_MAX);
        assert_eq!(state.game_version("s", 2999, epoch(2999)), "2999");
        assert_eq!(state.game_version("s", 1, epoch(1)), "");
    }
}
