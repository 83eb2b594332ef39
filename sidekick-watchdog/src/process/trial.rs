//! A record put through the rules without a server: what `[[test]]` says should come of it, and what does.

use serde_json::Value as Json;
use sidekick_ipc::value::{decode, encode};

use super::{Origin, Scratch, Screen, Shape, Shaped, Verdict, from_json};

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

/// One `[[test]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// What it is called.
    pub name: String,
    /// The stream that is recorded to.
    pub stream: String,
    /// What is recorded.
    pub input: Json,
    /// What should come of it.
    pub expected: Expected,
}

impl Trial {
    /// Puts the record through both halves of the rules, as a server called `source` would.
    ///
    /// # Errors
    /// What came of it instead, a line for each difference.
    pub fn run(&self, screen: &Screen, shape: &Shape, source: &str) -> Result<(), Vec<String>> {
        let found = self.outcome(screen, shape, source);
        let mut differences = Vec::new();
        match (&self.expected, &found) {
            (Expected::Data(expected), Expected::Data(found)) => {
                compare("data", Some(expected), Some(found), &mut differences);
            }
            (Expected::Refused(expected), Expected::Refused(found)) if found.contains(expected) => {
            }
            (expected, found) if expected == found => {}
            (expected, found) => {
                differences.push(format!("expected: {}", words(expected)));
                differences.push(format!("found:    {}", words(found)));
            }
        }
        match differences.is_empty() {
            true => Ok(()),
            false => Err(differences),
        }
    }

    fn outcome(&self, screen: &Screen, shape: &Shape, source: &str) -> Expected {
        let origin = Origin {
            stream: &self.stream,
            source,
            incarnation: 1,
            game_version: Some(""),
            seq: 1,
            time_ns: 0,
        };
        let mut data = encode(&from_json(&self.input));
        let mut scratch = Scratch::default();
        match screen.screen(&origin, &data, &mut scratch).verdict {
            Verdict::Same => {}
            Verdict::Changed => data = scratch.data().to_vec(),
            Verdict::Dropped => return Expected::Dropped,
            Verdict::Unreadable => return Expected::Refused("it cannot be decoded".into()),
        }
        match shape.shape(&origin, &data, &mut scratch) {
            Shaped::Same => {}
            Shaped::Changed => data = scratch.data().to_vec(),
            Shaped::Dropped => return Expected::Dropped,
            Shaped::Refused(why) => return Expected::Refused(why),
        }
        match decode(&data) {
            Ok(value) => Expected::Data(value.to_json()),
            Err(error) => Expected::Refused(error.to_string()),
        }
    }
}

fn words(expected: &Expected) -> String {
    match expected {
        Expected::Data(data) => format!("sent as {data}"),
        Expected::Dropped => "dropped".into(),
        Expected::Refused(why) => format!("refused: {why}"),
    }
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

    use super::super::{ScreenSpec, SetSpec, ShapeSpec};
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
            set: [("region".to_owned(), SetSpec::Value("eu".into()))].into(),
            ..ShapeSpec::default()
        }]))
        .unwrap();
        let run = |input: Json, expected| {
            let trial = Trial {
                name: "t".into(),
                stream: "chat.say".into(),
                input,
                expected,
            };
            trial.run(&screen, &shape, "lobby-1")
        };
        let said = json!({"say": "hi", "ip": "10.0.0.1", "n": [1, 2]});
        let right = json!({"say": "hi", "region": "eu", "n": [1.0, 2]});
        assert_eq!(run(said.clone(), Expected::Data(right)), Ok(()));
        assert_eq!(run(json!({"say": ""}), Expected::Dropped), Ok(()));
        let wrong = json!({"say": "hi", "ip": "10.0.0.1", "n": [1, 3, 4], "region": "eu"});
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
                "found:    sent as {\"n\":[1,2],\"region\":\"eu\",\"say\":\"hi\"}".to_owned(),
            ])
        );
    }
}
