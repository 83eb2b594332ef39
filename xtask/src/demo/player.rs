//! The client that plays along: what its player sees of each death of the server.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use sidekick_tests::bot::{Bot, is_of_another_server};
use sidekick_tests::folders::repository;
use sidekick_tests::godot::Godot;

/// Ticks that a death may take back: the arena's checkpoint interval (0.1 s at 60 ticks a second), the tick in which it was due, and
/// one that was seen but not checkpointed yet.
const LOST_TICKS_MAX: i64 = 8;

/// A client without a window, and the deaths that it has lived through.
#[derive(Debug)]
pub struct Player {
    bot: Bot,
    patience: Duration,
    number: i64,
    deaths: usize,
}

/// One time that the client lost the server and the match went on for it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The server was another process afterwards. On a busy machine a client loses one that is only silent.
    is_death: bool,
    gap_ms: f64,
    player: (i64, i64),
    score: (i64, i64),
    tick: (i64, i64),
    /// The tick at which the server took the match up, as it says itself.
    began: i64,
}

impl Player {
    /// Starts a client and waits until it plays.
    ///
    /// # Errors
    /// When the server does not let it in within `patience`.
    pub fn join(
        godot: &Godot,
        port: u16,
        scratch: &Path,
        patience: Duration,
    ) -> Result<Self, Box<dyn Error>> {
        let project = repository().join("demo_project");
        let bot = Bot::start(godot, &project, port, &[], scratch);
        let joined = bot
            .wait("joined", 1, patience)
            .ok_or_else(|| complaint(&bot, "join"))?;
        Ok(Self {
            bot,
            patience,
            number: number(&joined, "player"),
            deaths: 0,
        })
    }

    /// How the transcript calls it.
    pub fn name(&self) -> String {
        format!("player {}", self.number)
    }

    /// Waits until the match goes on for the client after one more death; what it saw, in words.
    ///
    /// # Errors
    /// When it does not go on in time.
    pub fn resumed(&mut self) -> Result<String, Box<dyn Error>> {
        let word = self
            .bot
            .wait_for_the_next_server(self.deaths + 1, self.patience)
            .ok_or_else(|| complaint(&self.bot, "go on"))?;
        let seen = Seen::read(&word);
        self.deaths += 1;
        Ok(format!(
            "{}'s client: gap {:.0} ms; score {} -> {}; tick {}, taken up at {} ({} played again)",
            self.name(),
            seen.gap_ms,
            seen.score.0,
            seen.score.1,
            seen.tick.0,
            seen.began,
            seen.lost(),
        ))
    }

    /// What the client saw in all, in words.
    ///
    /// # Errors
    /// When the match did not go on where it was.
    pub fn verdict(&self) -> Result<String, Box<dyn Error>> {
        let words = self.bot.words("resumed");
        verdict(&words.iter().map(Seen::read).collect::<Vec<_>>())
    }
}

impl Seen {
    fn read(word: &Value) -> Self {
        let both = |name: &str| (number(word, &format!("{name}_before")), number(word, name));
        Self {
            is_death: is_of_another_server(word),
            gap_ms: word["gap_ms"].as_f64().unwrap_or(f64::NAN),
            player: both("player"),
            score: both("score"),
            tick: both("tick"),
            began: number(word, "tick_began"),
        }
    }

    /// Ticks that the client had seen and that were lost.
    fn lost(self) -> i64 {
        let goes_on_at = if self.is_death {
            self.began
        } else {
            self.tick.1
        };
        (self.tick.0 - goes_on_at).max(0)
    }

    /// Ticks that may be: a server that did not die has no reason to forget any.
    fn lost_max(self) -> i64 {
        if self.is_death { LOST_TICKS_MAX } else { 0 }
    }
}

fn verdict(all: &[Seen]) -> Result<String, Box<dyn Error>> {
    let mut lost_max = 0;
    for seen in all {
        let lost = seen.lost();
        lost_max = lost_max.max(lost);
        if lost > seen.lost_max() {
            return Err(
                format!("the match did not go on: {lost} ticks are missing: {seen:?}").into(),
            );
        }
        if seen.player.0 != seen.player.1 {
            return Err(format!("the client's player is another one: {seen:?}").into());
        }
    }
    let deaths = all.iter().filter(|seen| seen.is_death);
    let worst = deaths.map(|seen| seen.gap_ms).fold(0.0, f64::max);
    let mut words = format!(
        "the match went on after every death; the client's worst gap {worst:.0} ms, at most {lost_max} ticks played again"
    );
    let silences = all.iter().filter(|seen| !seen.is_death).count();
    if silences > 0 {
        words += &format!("; servers that were only silent for a while: {silences}");
    }
    Ok(words)
}

fn number(word: &Value, name: &str) -> i64 {
    // GDScript's JSON may write whole numbers as floats.
    let value = &word[name];
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|number| number as i64))
        .unwrap_or(-1)
}

fn complaint(bot: &Bot, what: &str) -> String {
    let lines = bot.running.lines.all().join("\n");
    format!("the client did not {what}; it wrote:\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(tick: (i64, i64), player: (i64, i64)) -> Seen {
        Seen {
            is_death: true,
            began: tick.1,
            gap_ms: 700.0,
            player,
            score: (3, 3),
            tick,
        }
    }

    /// A match that begins anew, or another player, is found out.
    #[test]
    fn the_verdict_can_fail() {
        let good = verdict(&[seen((300, 296), (4, 4)), seen((600, 620), (4, 4))]).unwrap();
        assert!(good.contains("at most 4 ticks"), "{good}");
        assert!(verdict(&[seen((300, 12), (4, 4))]).is_err());
        assert!(verdict(&[seen((300, 300), (4, 0))]).is_err());
    }

    /// A server that was silent for a while took the match up long ago and has gone on since; one that took it up anew has not.
    #[test]
    fn a_silence_is_no_death() {
        let silence = |tick| Seen {
            is_death: false,
            began: 0,
            ..seen(tick, (4, 4))
        };
        let good = verdict(&[silence((149, 173)), seen((300, 296), (4, 4))]).unwrap();
        assert!(good.contains("at most 4 ticks"), "{good}");
        assert!(good.ends_with("only silent for a while: 1"), "{good}");
        let anew = Seen {
            is_death: true,
            ..silence((149, 173))
        };
        assert!(verdict(&[anew]).is_err());
        assert!(verdict(&[silence((149, 148))]).is_err());
        let other = Seen {
            player: (4, 5),
            ..silence((149, 173))
        };
        assert!(verdict(&[other]).is_err());
    }

    #[test]
    fn the_clients_words_are_read() {
        let word = serde_json::from_str(
            r#"{"gap_ms":812.5,"player":4,"player_before":4,"score":7.0,"score_before":8,"tick":300,"tick_before":295,"tick_began":290,"incarnation":2,"incarnation_before":1}"#,
        );
        let mut word: Value = word.unwrap();
        let seen = Seen::read(&word);
        assert_eq!((seen.score, seen.tick), ((8, 7), (295, 300)));
        assert_eq!((seen.is_death, seen.lost()), (true, 5));
        word["incarnation"] = 1.into();
        let seen = Seen::read(&word);
        assert_eq!((seen.is_death, seen.lost()), (false, 0));
    }
}
