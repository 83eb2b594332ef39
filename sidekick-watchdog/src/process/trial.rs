//! Records put through the rules without a server: what `[[test]]` says should come of them, and what does.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value as Json;
use sidekick_ipc::value::{decode, encode};

use super::{
    Fold, FoldRules, Folded, Origin, Row, Scratch, Screen, Shape, Shaped, Verdict, from_json,
};

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

impl Expected {
    fn fits(&self, found: &Self) -> bool {
        match (self, found) {
            (Self::Data(expected), Self::Data(found)) => {
                let mut differences = Vec::new();
                compare("", Some(expected), Some(found), &mut differences);
                differences.is_empty()
            }
            (Self::Refused(expected), Self::Refused(found)) => found.contains(expected),
            (expected, found) => expected == found,
        }
    }
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

impl Sent {
    fn fits(&self, found: &Self) -> bool {
        let is_then = self.at_ns.is_none() || self.at_ns == found.at_ns;
        self.stream == found.stream && is_then && self.what.fits(&found.what)
    }
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

fn tell(expected: &Expected, found: &Expected) -> Vec<String> {
    match (expected, found) {
        (Expected::Data(expected), Expected::Data(found)) => {
            let mut differences = Vec::new();
            compare("data", Some(expected), Some(found), &mut differences);
            differences
        }
        (expected, found) if expected.fits(found) => Vec::new(),
        (expected, found) => vec![
            format!("expected: {expected}"),
            format!("found:    {found}"),
        ],
    }
}

/// Takes for each record that should be sent one that is; tells of those that are left on either side.
fn match_up(outputs: &[Sent], mut found: Vec<Sent>) -> Vec<String> {
    let mut missing = Vec::new();
    for output in outputs {
        match found.iter().position(|found| output.fits(found)) {
            Some(at) => drop(found.remove(at)),
            None => missing.push(format!("expected: {output}")),
        }
    }
    missing.extend(found.iter().map(|found| format!("found:    {found}")));
    missing
}

/// Lists where two values differ.
fn compare(at: &str, expected: Option<&Json>, found: Option<&Json>, differences: &mut Vec<String>) {
    let shown = |value: Option<&Json>| value.map_or_else(|| "nothing".into(), Json::to_string);
    match (expected, found) {
        (Some(Json::Object(expected)), Some(Json::Object(found))) => {
            let more = found.keys().filter(|key| !expected.contains_key(*key));
            for key in expected.keys().chain(more) {
                let at = format!("{at}.{key}");
                compare(&at, expected.get(key), found.get(key), differences);
            }
        }
        (Some(Json::Array(expected)), Some(Json::Array(found))) => {
            for index in 0..expected.len().max(found.len()) {
                let at = format!("{at}[{index}]");
                compare(&at, expected.get(index), found.get(index), differences);
            }
        }
        (Some(Json::Number(one)), Some(Json::Number(other))) if one.as_f64() == other.as_f64() => {}
        (one, other) if one == other => {}
        (one, other) => {
            differences.push(format!(
                "{at}: expected {}, found {}",
                shown(one),
                shown(other)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{AggregateSpec, DedupeSpec, ScreenSpec, SetSpec, ShapeSpec};
    use super::*;

    #[test]
    fn a_trial_tells_each_difference() {
        let screen = Screen::compile(&[ScreenSpec {
            drop_fields: vec!["ip".into()],
            ..ScreenSpec::new("chat.*".parse().unwrap())
        }])
        .unwrap();
        let shape = Shape::parse(&Shape::text(&[ShapeSpec {
            pattern: "chat.*".into(),
            filter: Some("say != ''".into()),
            set: [
                ("region".to_owned(), SetSpec::Value("eu".into())),
                ("v".to_owned(), SetSpec::Expr("game_version".into())),
            ]
            .into(),
            ..ShapeSpec::default()
        }]))
        .unwrap();
        let run = |input: Json, expected| {
            let trial = Trial {
                name: "t".into(),
                game_version: "1.2".into(),
                tried: Tried::Record {
                    stream: "chat.say".into(),
                    input,
                    expected,
                },
            };
            trial.run(&TrialRules {
                screen: &screen,
                folds: &Arc::default(),
                shape: &shape,
                source: "lobby-1",
            })
        };
        let said = json!({"say": "hi", "ip": "10.0.0.1", "n": [1, 2]});
        let right = json!({"say": "hi", "region": "eu", "n": [1.0, 2], "v": "1.2"});
        assert_eq!(run(said.clone(), Expected::Data(right)), Ok(()));
        assert_eq!(run(json!({"say": ""}), Expected::Dropped), Ok(()));
        let wrong =
            json!({"say": "hi", "ip": "10.0.0.1", "n": [1, 3, 4], "region": "eu", "v": "1.2"});
        assert_eq!(
            run(said.clone(), Expected::Data(wrong)),
            Err(vec![
                "data.ip: expected \"10.0.0.1\", found nothing".to_owned(),
                "data.n[1]: expected 3, found 2".to_owned(),
                "data.n[2]: expected 4, found nothing".to_owned(),
            ])
        );
        assert_eq!(
            run(said, Expected::Dropped),
            Err(vec![
                "expected: dropped".to_owned(),
                "found:    sent as {\"n\":[1,2],\"region\":\"eu\",\"say\":\"hi\",\"v\":\"1.2\"}"
                    .to_owned(),
            ])
        );
    }

    const SECOND_NS: u64 = 1_000_000_000;

    /// Hits are counted by the minute, and a match is told of once; what comes of that is filtered and set like the rest.
    fn run(inputs: &[Recorded], outputs: &[Sent]) -> Result<(), Vec<String>> {
        let dedupe = DedupeSpec {
            pattern: "match.*".into(),
            by: vec!["id".into()],
            within_ns: 60 * SECOND_NS,
            keys_max: 10,
        };
        let aggregate = AggregateSpec {
            pattern: "damage".into(),
            into: "damage.minute".into(),
            every_ns: 60 * SECOND_NS,
            lateness_ns: 10 * SECOND_NS,
            by: vec!["$game_version".into()],
            values: BTreeMap::from([("amount".into(), Vec::new())]),
            keep_raw: false,
        };
        let shape = |pattern: &str| ShapeSpec {
            pattern: pattern.into(),
            set: [("server".to_owned(), SetSpec::Expr("source".into()))].into(),
            filter: Some("id != 13".into()),
            ..ShapeSpec::default()
        };
        let shape = Shape::text(&[shape("damage.*"), shape("match.*")]);
        let trial = Trial {
            name: "t".into(),
            game_version: "1.2".into(),
            tried: Tried::Run {
                inputs: inputs.to_vec(),
                outputs: outputs.to_vec(),
            },
        };
        trial.run(&TrialRules {
            screen: &Screen::default(),
            folds: &Arc::new(FoldRules::compile(&[dedupe], &[aggregate]).unwrap()),
            shape: &Shape::parse(&shape).unwrap(),
            source: "lobby-1",
        })
    }

    fn hit(at_s: u64, amount: i64) -> Recorded {
        Recorded {
            stream: "damage".into(),
            at_ns: at_s * SECOND_NS,
            data: json!({"amount": amount}),
        }
    }

    fn end(at_s: u64, id: i64) -> Recorded {
        Recorded {
            stream: "match.end".into(),
            at_ns: at_s * SECOND_NS,
            data: json!({"id": id}),
        }
    }

    fn row(at_s: u64, amounts: &[i64]) -> Sent {
        let (count, sum) = (amounts.len(), amounts.iter().sum::<i64>());
        let stats = json!({
            "count": count, "sum": sum, "min": amounts.iter().min(), "max": amounts.iter().max()
        });
        let data = json!({
            "window_s": 60, "by": {"$game_version": "1.2"}, "count": count,
            "values": {"amount": stats}, "server": "lobby-1"
        });
        Sent {
            stream: "damage.minute".into(),
            at_ns: Some(at_s * SECOND_NS),
            what: Expected::Data(data),
        }
    }

    fn told(at_s: Option<u64>, id: i64) -> Sent {
        Sent {
            stream: "match.end".into(),
            at_ns: at_s.map(|at_s| at_s * SECOND_NS),
            what: Expected::Data(json!({"id": id, "server": "lobby-1"})),
        }
    }

    /// The clock closes windows, what comes too late opens one again, and what is open at the end is told.
    #[test]
    fn a_run_tells_windows_and_leaves_out_what_was_there_before() {
        let inputs = [
            hit(1, 5),
            end(2, 7),
            hit(61, 1),
            end(3, 7),
            hit(59, 10),
            // 70 s is when the first minute is told.
            end(70, 7),
            hit(58, 2),
            end(71, 13),
        ];
        let outputs = [
            told(None, 7),
            told(Some(70), 7),
            row(0, &[5, 10]),
            row(0, &[2]),
            row(60, &[1]),
        ];
        assert_eq!(run(&inputs, &outputs), Ok(()));
        assert_eq!(run(&[], &[]), Ok(()));
        // Each of them is needed, and counts once.
        for left_out in 0..outputs.len() {
            let mut fewer = outputs.to_vec();
            let more = [&outputs[..], &[outputs[left_out].clone()]].concat();
            let gone = fewer.remove(left_out);
            let differences = run(&inputs, &fewer).unwrap_err();
            assert_eq!(differences.len(), 1, "{differences:?}");
            assert!(differences[0].starts_with("found:    stream"));
            let expected = format!("expected: {gone}");
            assert_eq!(run(&inputs, &more), Err(vec![expected]));
        }
        let late = [told(Some(3), 7)];
        let differences = run(&[end(2, 7)], &late).unwrap_err();
        assert_eq!(
            differences,
            [
                "expected: stream \"match.end\" at 3 s sent as {\"id\":7,\"server\":\"lobby-1\"}",
                "found:    stream \"match.end\" at 2 s sent as {\"id\":7,\"server\":\"lobby-1\"}",
            ]
        );
    }

    /// Without a rule for them, the lists try what is for each record alone.
    #[test]
    fn a_refusal_is_one_of_the_things_that_are_sent() {
        let shape = Shape::text(&[ShapeSpec {
            pattern: "shop".into(),
            schema: Some(json!({"required": ["price"]})),
            ..ShapeSpec::default()
        }]);
        let sent = |what| Sent {
            stream: "shop".into(),
            at_ns: None,
            what,
        };
        let trial = Trial {
            name: "t".into(),
            game_version: String::new(),
            tried: Tried::Run {
                inputs: [json!({}), json!({"price": 1})]
                    .map(|data| Recorded {
                        stream: "shop".into(),
                        at_ns: 0,
                        data,
                    })
                    .to_vec(),
                outputs: vec![
                    sent(Expected::Data(json!({"price": 1}))),
                    sent(Expected::Refused("price: is missing".into())),
                ],
            },
        };
        let rules = TrialRules {
            screen: &Screen::default(),
            folds: &Arc::default(),
            shape: &Shape::parse(&shape).unwrap(),
            source: "lobby-1",
        };
        assert_eq!(trial.run(&rules), Ok(()));
    }
}
