//! Claims about what is done on the way to the backend.

use sidekick_ipc::value::{decode, encode};

use super::*;

fn shape(specs: &[ShapeSpec]) -> Shape {
    Shape::parse(&Shape::text(specs)).unwrap()
}

fn spec(pattern: &str) -> ShapeSpec {
    ShapeSpec {
        pattern: pattern.into(),
        ..ShapeSpec::default()
    }
}

fn origin(stream: &str) -> Origin<'_> {
    Origin {
        stream,
        source: "lobby-1",
        incarnation: 2,
        game_version: Some("1.2"),
        seq: 9,
        time_ns: 0,
    }
}

fn shaped(shape: &Shape, stream: &str, json: Json) -> (Shaped, Json) {
    let data = encode(&from_json(&json));
    let mut scratch = Scratch::default();
    let shaped = shape.shape(&origin(stream), &data, &mut scratch);
    let left = match shaped {
        Shaped::Changed => decode(scratch.data()).unwrap().to_json(),
        _ => json,
    };
    (shaped, left)
}

#[test]
fn records_are_filtered_renamed_and_set() {
    let shape = shape(&[ShapeSpec {
        filter: Some("kind == 'buy'".into()),
        rename: [("pl".to_owned(), "player".to_owned())].into(),
        set: [
            ("region".to_owned(), SetSpec::Value("eu".into())),
            ("server".to_owned(), SetSpec::Expr("source".into())),
            ("total".to_owned(), SetSpec::Expr("price * count".into())),
            ("who".to_owned(), SetSpec::Expr("player".into())),
        ]
        .into(),
        ..spec("shop.*")
    }]);
    let buy = serde_json::json!({"kind": "buy", "pl": 7, "price": 3, "count": 4});
    assert_eq!(
        shaped(&shape, "shop.buy", buy.clone()),
        (
            Shaped::Changed,
            serde_json::json!({
                "kind": "buy", "player": 7, "price": 3, "count": 4,
                "region": "eu", "server": "lobby-1", "total": 12, "who": 7
            })
        )
    );
    assert_eq!(shaped(&shape, "duel", buy.clone()).0, Shaped::Same);
    let look = serde_json::json!({"kind": "look"});
    assert_eq!(shaped(&shape, "shop.look", look).0, Shaped::Dropped);
}

#[test]
fn what_a_rule_cannot_do_is_refused_with_the_reason() {
    let shape = shape(&[ShapeSpec {
        set: [("total".to_owned(), SetSpec::Expr("price * count".into()))].into(),
        ..spec("shop.*")
    }]);
    let odd = serde_json::json!({"price": [], "count": {}});
    let (Shaped::Refused(Refusal { code, reason }), _) = shaped(&shape, "shop.buy", odd) else {
        panic!("it must be refused");
    };
    assert_eq!(code, "set");
    assert!(
        reason.starts_with("the rule for \"shop.*\": set: \"total\": "),
        "{reason}"
    );
}

#[test]
fn a_schema_sees_what_the_rule_made_and_refuses_the_rest() {
    let shape = shape(&[ShapeSpec {
        set: [("region".to_owned(), SetSpec::Value("eu".into()))].into(),
        schema: Some(serde_json::json!({
            "required": ["region", "price"], "properties": {"price": {"minimum": 1}}
        })),
        ..spec("shop.*")
    }]);
    let shaped = |json| shaped(&shape, "shop.buy", json).0;
    assert_eq!(shaped(serde_json::json!({"price": 1})), Shaped::Changed);
    let why = "the rule for \"shop.*\": schema: data.price: is 0, against Minimum 1";
    let refused = shaped(serde_json::json!({"price": 0}));
    let reason = why.to_owned();
    let code = "schema";
    assert_eq!(refused, Shaped::Refused(Refusal { code, reason }));
}

/// What was not asked of a schema is not said by one.
#[test]
fn a_refusal_names_the_part_of_the_rule_that_refused() {
    let code_of = |spec: ShapeSpec, data: &[u8]| {
        let shape = shape(&[spec]);
        match shape.shape(&origin("a"), data, &mut Scratch::default()) {
            Shaped::Refused(Refusal { code, reason }) => {
                let told = format!("the rule for \"a\": {code}: ");
                assert!(reason.starts_with(&told), "{reason}");
                code
            }
            other => panic!("{other:?}"),
        }
    };
    let (list, cut_off) = (encode(&Godot::Array(Vec::new())), [27_u8, 0, 0, 0, 9, 0]);
    let filter = Some("data + 1 > 1".to_owned());
    let rename = BTreeMap::from([("b".to_owned(), "c".to_owned())]);
    let set = |set| BTreeMap::from([("b".to_owned(), set)]);
    let (fixed, made) = (
        set(SetSpec::Value(1.into())),
        set(SetSpec::Expr("data + 1".into())),
    );
    let schema = Some(serde_json::json!({"type": "object"}));
    let spec = || spec("a");
    assert_eq!(code_of(ShapeSpec { filter, ..spec() }, &list), "filter");
    assert_eq!(code_of(ShapeSpec { rename, ..spec() }, &cut_off), "rename");
    assert_eq!(
        code_of(
            ShapeSpec {
                set: fixed,
                ..spec()
            },
            &cut_off
        ),
        "set"
    );
    assert_eq!(
        code_of(
            ShapeSpec {
                set: made,
                ..spec()
            },
            &list
        ),
        "set"
    );
    assert_eq!(code_of(ShapeSpec { schema, ..spec() }, &list), "schema");
}

#[test]
fn a_stream_goes_where_the_last_rule_says() {
    let to = |pattern: &str, sinks: &[&str]| ShapeSpec {
        sinks: Some(sinks.iter().map(|name| (*name).to_owned()).collect()),
        ..spec(pattern)
    };
    let shape = shape(&[to("*", &["http"]), to("chat.*", &["file", "postgres"])]);
    assert!(shape.goes_to("duel", "http") && !shape.goes_to("duel", "file"));
    assert!(shape.goes_to("chat.say", "file") && !shape.goes_to("chat.say", "http"));
    assert!(Shape::default().goes_to("duel", "http"));
    // What the watchdog tells itself is meant only by name.
    assert!(shape.goes_to("sidekick.crash", "file") && !shape.touches("sidekick.crash"));
}

#[test]
fn rules_are_their_text() {
    let specs = [
        ShapeSpec {
            filter: Some("a".into()),
            set: [("v".to_owned(), SetSpec::Value(serde_json::json!(1.0)))].into(),
            ..spec("a*")
        },
        spec("empty"),
    ];
    let text = Shape::text(&specs);
    // Plans name rules by this text: a change of its form must keep the old one readable.
    assert_eq!(
        text,
        r#"{"form":2,"rules":[{"match":"a*","filter":"a","set":{"v":{"value":1.0}}}]}"#
    );
    assert_eq!(Shape::text(&[spec("empty")]), "");
    assert!(Shape::parse("").unwrap().is_empty());
    assert!(Shape::parse(r#"{"form":1,"rules":[]}"#).is_ok());
    assert!(Shape::parse(r#"{"form":3,"rules":[]}"#).is_err());
    assert!(Shape::parse("{}").is_err());
}

/// What is planned with rules of an older form is made again as it was: there, the word was a field of the record.
#[test]
fn the_version_of_the_game_is_a_word_since_form_2() {
    let spec = ShapeSpec {
        set: [("v".to_owned(), SetSpec::Expr("game_version".into()))].into(),
        ..spec("a")
    };
    let text = Shape::text(&[spec]);
    let old = Shape::parse(&text.replace("\"form\":2", "\"form\":1")).unwrap();
    let new = Shape::parse(&text).unwrap();
    let recorded = serde_json::json!({"game_version": 7});
    let v = |shape: &Shape| shaped(shape, "a", recorded.clone()).1["v"].clone();
    assert_eq!((v(&old), v(&new)), (7.into(), "1.2".into()));
}
