//! The client that plays along: what its player sees of each death of the server.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use sidekick_tests::bot::Bot;
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
    deaths: Vec<Seen>,
}

/// One death as the client saw it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    gap_ms: f64,
    player: (i64, i64),
    score: (i64, i64),
    tick: (i64, i64),
    /// The tick at which the next server took the match up.
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
            deaths: Vec::new(),
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
            .wait("resumed", self.deaths.len() + 1, self.patience)
            .ok_or_else(|| complaint(&self.bot, "go on"))?;
        let seen = Seen::read(&word);
        self.deaths.push(seen);
        Ok(format!(
            "{}'s client: gap {:.0} ms; score {} -> {}; tick {}, taken up at {} ({} played again)",
            self.name(),
            seen.gap_ms,
            seen.score.0,
            seen.score.1,
            seen.tick.0,
            seen.began,
            seen.played_again(),
        ))
    }

    /// What the client saw in all, in words.
    ///
    /// # Errors
    /// When the match did not go on where it was.
    pub fn verdict(&self) -> Result<String, Box<dyn Error>> {
        verdict(&self.deaths)
    }
}

impl Seen {
    fn read(word: &Value) -> Self {
        let both = |name: &str| (number(word, &format!("{name}_before")), number(word, name));
        Self {
            gap_ms: word["gap_ms"].as_f64().unwrap_or(f64::NAN),
            player: both("player"),
            score: both("score"),
            tick: both("tick"),
            began: number(word, "tick_began"),
        }
    }

    /// Ticks that the client had seen and that were lost.
    fn played_again(self) -> i64 {
        (self.tick.0 - self.began).max(0)
    }
}

fn verdict(deaths: &[Seen]) -> Result<String, Box<dyn Error>> {
    let mut lost_max = 0;
    for seen in deaths {
        let lost = seen.played_again();
        lost_max = lost_max.max(lost);
        if lost > LOST_TICKS_MAX {
            return Err(
                format!("the match did not go on: {lost} ticks are missing: {seen:?}").into(),
            );
        }
        if seen.player.0 != seen.player.1 {
            return Err(format!("the client's player is another one: {seen:?}").into());
        }
    }
    let worst = deaths.iter().map(|seen| seen.gap_ms).fold(0.0, f64::max);
    Ok(format!(
        "the match went on after every death; the client's worst gap {worst:.0} ms, at most {lost_max} ticks played again"
    ))
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

    #[test]
    fn the_clients_words_are_read() {
        let word = serde_json::from_str(
            r#"{"gap_ms":812.5,"player":4,"player_before":4,"score":7.0,"score_before":8,"tick":300,"tick_before":295,"tick_began":290}"#,
        );
        let seen = Seen::read(&word.unwrap());
        assert_eq!((seen.score, seen.tick), ((8, 7), (295, 300)));
        assert_eq!(seen.played_again(), 5);
    }
}
