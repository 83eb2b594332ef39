//! Records put through the rules without a server: what `[[test]]` says should come of them, and what does.

mod compare;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value as Json;
use sidekick_ipc::value::{decode, encode};

use super::{
    Fold, FoldRules, Folded, Origin, Row, Scratch, Screen, Shape, Shaped, Verdict, from_json,
};

use compare::{match_up, tell};

/// What should come of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// It is sent as this.
    Data(Json),
    /// It is not sent, or not even stored.
    Dropped,
    /// It becomes a dead letter whose reason has this in it.
    Refused(String),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(data) => write!(f, "sent as {data}"),
            Self::Dropped => write!(f, "dropped"),
            Self::Refused(why) => write!(f, "refused: {why}"),
        }
    }
}

/// A record that is recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Its stream.
    pub stream: String,
    /// When, nanoseconds since 1970.
    pub at_ns: u64,
    /// What.
    pub data: Json,
}

/// A record that is sent, or would be.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// Its stream.
    pub stream: String,
    /// Its time, nanoseconds since 1970; `None` for any.
    pub at_ns: Option<u64>,
    /// What comes of it.
    pub what: Expected,
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {:?}", self.stream)?;
        if let Some(at_ns) = self.at_ns {
            write!(f, " at {} s", at_ns as f64 / 1e9)?;
        }
        write!(f, " {}", self.what)
    }
}

/// What is tried.
#[derive(Clone, Debug, PartialEq)]
pub enum Tried {
    /// One record by itself: rules that look at more than one have no say.
    Record {
        /// The stream that is recorded to.
        stream: String,
        /// What is recorded.
        input: Json,
        /// What should come of it.
        expected: Expected,
    },
    /// Records one after the other, until all windows are told.
    Run {
        /// In the order of their coming. The clock shows the latest of their times.
        inputs: Vec<Recorded>,
        /// All that should be sent, in any order.
        outputs: Vec<Sent>,
    },
}

/// One `[[test]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// What it is called.
    pub name: String,
    /// The version of the game that records.
    pub game_version: String,
    /// What is tried.
    pub tried: Tried,
}

/// The rules, and under which name a server has them.
#[derive(Clone, Copy, Debug)]
pub struct TrialRules<'a> {
    /// What is done before anything is stored.
    pub screen: &'a Screen,
    /// What looks at more than one record.
    pub folds: &'a Arc<FoldRules>,
    /// What is done before upload.
    pub shape: &'a Shape,
    /// The server's name.
    pub source: &'a str,
}

impl Trial {
    /// Puts the records through the rules, as a server would.
    ///
    /// # Errors
    /// What came of them instead, a line for each difference.
    pub fn run(&self, rules: &TrialRules<'_>) -> Result<(), Vec<String>> {
        let differences = match &self.tried {
            Tried::Record {
                stream,
                input,
                expected,
            } => {
                let recorded = Recorded {
                    stream: stream.clone(),
                    at_ns: 0,
                    data: input.clone(),
                };
                let origin = self.origin(rules, &recorded, 1);
                let mut scratch = Scratch::default();
                let found = match stored(rules, &origin, &recorded.data, &mut scratch) {
                    Ok(data) => sent(rules, &origin, data, &mut scratch),
                    Err(end) => end,
                };
                tell(expected, &found)
            }
            Tried::Run { inputs, outputs } => match_up(outputs, self.sent(rules, inputs)),
        };
        match differences.is_empty() {
            true => Ok(()),
            false => Err(differences),
        }
    }

    fn origin<'a>(
        &'a self,
        rules: &TrialRules<'a>,
        recorded: &'a Recorded,
        seq: u64,
    ) -> Origin<'a> {
        Origin {
            stream: &recorded.stream,
            source: rules.source,
            incarnation: 1,
            game_version: Some(&self.game_version),
            seq,
            time_ns: recorded.at_ns.into(),
        }
    }

    /// All that is sent, rows of windows when the clock says that they are due.
    fn sent(&self, rules: &TrialRules<'_>, inputs: &[Recorded]) -> Vec<Sent> {
        let mut fold = Fold::new(Arc::clone(rules.folds), &BTreeMap::new());
        let mut scratch = Scratch::default();
        let mut all = Vec::new();
        let mut now_ns = 0;
        for (seq, recorded) in (1..).zip(inputs) {
            now_ns = recorded.at_ns.max(now_ns);
            told(rules, &mut fold, now_ns, &mut scratch, &mut all);
            let origin = self.origin(rules, recorded, seq);
            let end = match stored(rules, &origin, &recorded.data, &mut scratch) {
                Ok(data) => match fold.fold(&origin, &data) {
                    Folded::Kept => sent(rules, &origin, data, &mut scratch),
                    Folded::Duplicate | Folded::Aggregated => Expected::Dropped,
                },
                Err(end) => end,
            };
            all.push(Sent {
                stream: recorded.stream.clone(),
                at_ns: Some(recorded.at_ns),
                what: end,
            });
        }
        told(rules, &mut fold, u64::MAX, &mut scratch, &mut all);
        all.retain(|sent| sent.what != Expected::Dropped);
        all
    }
}

/// What is stored of a record, or that it ends before.
fn stored(
    rules: &TrialRules<'_>,
    origin: &Origin<'_>,
    data: &Json,
    scratch: &mut Scratch,
) -> Result<Vec<u8>, Expected> {
    let data = encode(&from_json(data));
    match rules.screen.screen(origin, &data, scratch).verdict {
        Verdict::Same => Ok(data),
        Verdict::Changed => Ok(scratch.data().to_vec()),
        Verdict::Dropped => Err(Expected::Dropped),
        Verdict::Unreadable => Err(Expected::Refused("it cannot be decoded".into())),
    }
}

/// What is sent of what is stored.
fn sent(
    rules: &TrialRules<'_>,
    origin: &Origin<'_>,
    mut data: Vec<u8>,
    scratch: &mut Scratch,
) -> Expected {
    match rules.shape.shape(origin, &data, scratch) {
        Shaped::Same => {}
        Shaped::Changed => data = scratch.data().to_vec(),
        Shaped::Dropped => return Expected::Dropped,
        Shaped::Refused(refusal) => return Expected::Refused(refusal.reason),
    }
    match decode(&data) {
        Ok(value) => Expected::Data(value.to_json()),
        Err(error) => Expected::Refused(error.to_string()),
    }
}

/// The rows of windows that are due by `now_ns`. A row is a record of the watchdog's own, and goes through what is done
/// before upload.
fn told(
    rules: &TrialRules<'_>,
    fold: &mut Fold,
    now_ns: u64,
    scratch: &mut Scratch,
    all: &mut Vec<Sent>,
) {
    loop {
        let rows = fold.close(Some(now_ns));
        if rows.is_empty() {
            return;
        }
        for row in rows {
            let Row {
                time_ns,
                stream,
                variant,
            } = row;
            let origin = Origin {
                stream: &stream,
                source: rules.source,
                incarnation: 0,
                game_version: Some(""),
                seq: 1,
                time_ns: time_ns.into(),
            };
            let what = sent(rules, &origin, variant, scratch);
            all.push(Sent {
                at_ns: Some(time_ns),
                what,
                stream,
            });
        }
    }
}

#[cfg(test)]
mod tests;
