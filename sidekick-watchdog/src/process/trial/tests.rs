//! Trials that hold, and what is told of those that do not.

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
    let wrong = json!({"say": "hi", "ip": "10.0.0.1", "n": [1, 3, 4], "region": "eu", "v": "1.2"});
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
