//! What a schema lets through, and the sentences for what it does not.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;
use sidekick_ipc::value::{NodePath, Reals, Value};

use super::*;

fn check(schema: &Json, data: &Json) -> Result<(), String> {
    Schema::compile(schema)
        .unwrap()
        .check(&encode(&from_json(data)))
}

#[test]
fn records_are_held_against_it_as_their_json() {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": ["item", "price"],
        "properties": {
            "item": {"type": "string", "minLength": 2, "maxLength": 5},
            "price": {"type": "integer", "minimum": 1, "exclusiveMaximum": 100},
            "kind": {"enum": ["buy", "sell", 1]},
            "tags": {"type": "array", "items": {"type": ["string", "null"]}, "maxItems": 2},
            "old": false,
        },
        "additionalProperties": {"type": "boolean"},
    });
    for right in [
        json!({"item": "axe", "price": 1}),
        json!({"item": "äxte", "price": 99.0, "kind": 1.0, "tags": ["a", null], "more": true}),
    ] {
        assert_eq!(check(&schema, &right), Ok(()), "{right}");
    }
    for (wrong, why) in [
        (json!([]), "data: is not of type object"),
        (json!({"item": "axe"}), "data.price: is missing"),
        (
            json!({"item": "a", "price": 1}),
            "data.item: has length 1, against MinLength 2",
        ),
        (
            json!({"item": "axe", "price": 0}),
            "data.price: is 0, against Minimum 1",
        ),
        (
            json!({"item": "axe", "price": 100}),
            "data.price: is 100, against ExclusiveMaximum 100",
        ),
        (
            json!({"item": "axe", "price": 1.5}),
            "data.price: is not of type integer",
        ),
        (
            json!({"item": "axe", "price": 1, "kind": "x"}),
            "data.kind: is none of the values that are allowed",
        ),
        (
            json!({"item": "axe", "price": 1, "tags": ["a", 1]}),
            "data.tags[1]: is not of type string or null",
        ),
        (
            json!({"item": "axe", "price": 1, "tags": ["a", "b", "c"]}),
            "data.tags: has length 3, against MaxItems 2",
        ),
        (
            json!({"item": "axe", "price": 1, "old": 1}),
            "data.old: may not be there",
        ),
        (
            json!({"item": "axe", "price": 1, "more": 1}),
            "data.more: is not of type boolean",
        ),
    ] {
        assert_eq!(check(&schema, &wrong), Err(why.to_owned()), "{wrong}");
    }
}

#[test]
fn schemas_are_put_together() {
    let schema = json!({
        "$defs": {"id": {"type": "integer", "minimum": 1}, "name": {"type": "string"}},
        "properties": {
            "who": {"anyOf": [{"$ref": "#/$defs/id"}, {"$ref": "#/$defs/name"}]},
            "at": {"$ref": "#/$defs/id", "maximum": 9},
            "size": {"oneOf": [{"minimum": 0}, {"maximum": 5}]},
            "kind": {"not": {"enum": ["x"]}, "allOf": [{"minLength": 1}, {"maxLength": 2}]},
        },
    });
    let long = json!({"who": "ann", "at": 9, "size": 7, "kind": "ab"});
    for right in [json!({"who": 7}), long] {
        assert_eq!(check(&schema, &right), Ok(()), "{right}");
    }
    for (wrong, why) in [
        (json!({"who": 0}), "data.who: fits nothing of anyOf"),
        (json!({"at": 0}), "data.at: is 0, against Minimum 1"),
        (json!({"at": 10}), "data.at: is 10, against Maximum 9"),
        (json!({"size": 3}), "data.size: fits 2 of oneOf"),
        (json!({"kind": "x"}), "data.kind: fits what it must not"),
        (
            json!({"kind": "abc"}),
            "data.kind: has length 3, against MaxLength 2",
        ),
    ] {
        assert_eq!(check(&schema, &wrong), Err(why.to_owned()), "{wrong}");
    }
}

#[test]
fn texts_are_held_against_patterns_and_formats() {
    let schema = json!({
        "$defs": {"name": {"pattern": "^[a-z]+$"}},
        "properties": {
            "a": {"pattern": "b\\d"},
            "name": {"$ref": "#/$defs/name"},
            "nick": {"$ref": "#/$defs/name"},
            "at": {"format": "date-time"},
            "id": {"anyOf": [{"format": "uuid"}, {"type": "null"}]},
            "path": {"pattern": "^/root"},
        },
    });
    // A pattern need not fit the whole text, and is nothing to what is no text.
    let right = json!({"a": "ab7c", "name": "ann", "at": "2026-11-29T12:00:00Z", "id": null});
    assert_eq!(check(&schema, &right), Ok(()));
    assert_eq!(
        check(&schema, &json!({"a": 7, "at": [], "name": true})),
        Ok(())
    );
    for (wrong, why) in [
        (
            json!({"a": "b\u{664}"}),
            "data.a: does not match the pattern \"b\\\\d\"",
        ),
        (
            json!({"nick": "ann\n"}),
            "data.nick: does not match the pattern \"^[a-z]+$\"",
        ),
        (json!({"at": "yesterday"}), "data.at: is no date-time"),
        (json!({"id": "7"}), "data.id: fits nothing of anyOf"),
    ] {
        assert_eq!(check(&schema, &wrong), Err(why.to_owned()), "{wrong}");
    }
    // What JSON has as a text is one.
    let schema = Schema::compile(&schema).unwrap();
    for (name, is_right) in [("root", true), ("a", false)] {
        let path = NodePath {
            names: vec![name.into()],
            subnames: Vec::new(),
            absolute: true,
        };
        for value in [
            Value::StringName(path.to_string()),
            Value::NodePath(path.into()),
        ] {
            let fields = vec![(Value::String("path".into()), value)];
            let checked = schema.check(&encode(&Value::Dictionary(fields)));
            assert_eq!(checked.is_ok(), is_right, "{name}");
        }
    }
}

/// What would take too long on somebody's text is refused when it is read.
#[test]
fn patterns_are_bounded_and_what_they_lack_is_said() {
    let refused = |pattern: &str| {
        let error = Schema::compile(&json!({"pattern": pattern})).unwrap_err();
        assert_eq!(error.at, "#/pattern");
        error.why
    };
    for lacking in ["(?=a)", "(a)\\1", "\\p{L}", "(", "a{2,1}"] {
        let why = refused(lacking);
        assert!(why.contains("look-arounds"), "{lacking}: {why}");
    }
    assert!(refused("(a{100}){100}").contains("size limit"));
    assert!(refused(&"a".repeat(2000)).contains("has 2000 bytes, at most 1024"));
    let usual = r"^(?:[A-Za-z0-9+/]{4}){1,8}=?\/\u0041-\x41[^\s]$";
    assert!(Schema::compile(&json!({"pattern": usual})).is_ok());
}

#[test]
fn what_json_has_no_word_for_is_what_it_becomes_there() {
    let schema = Schema::compile(&json!({
        "type": "array", "items": {"type": "number", "maximum": 2}, "minItems": 2
    }))
    .unwrap();
    let vector = |y| encode(&Value::Vector2(Reals::Single([1.0, y])));
    assert_eq!(schema.check(&vector(2.0)), Ok(()));
    assert_eq!(
        schema.check(&vector(2.5)),
        Err("data[1]: is 2.5, against Maximum 2".into())
    );
    let text = Schema::compile(&json!({"type": "string"})).unwrap();
    for value in [
        Value::Float(f64::NAN),
        Value::PackedByteArray(vec![1]),
        Value::StringName("a".into()),
    ] {
        assert_eq!(text.check(&encode(&value)), Ok(()));
    }
}

#[test]
fn what_is_not_known_is_refused_and_not_ignored() {
    let mut deep = json!({});
    for _ in 0..40 {
        deep = json!({"items": deep});
    }
    for (schema, why) in [
        (json!(1), "#: must be an object, true or false"),
        (
            json!({"properties": {"a": {"minProperties": 1}}}),
            "#/properties/a/minProperties: is a keyword that is not known here",
        ),
        (
            json!({"$ref": "#/x"}),
            "#/$ref: must be #/$defs/ and a name without \"/\", \"~\" and \"%\"",
        ),
        (
            json!({"items": {"$ref": "#/$defs/x"}}),
            "#/items/$ref: names \"x\", which is not there",
        ),
        (
            json!({"$defs": {"unused": {"format": "hostname"}}}),
            "#/$defs/unused/format: names \"hostname\", which is not checked here; known are date, date-time, email, ipv4, ipv6, time, uri, uuid",
        ),
        (
            json!({"pattern": 1}),
            "#/pattern: must be a regular expression, as a string",
        ),
        (
            json!({"items": {"$defs": {}}}),
            "#/items/$defs: must be at the root",
        ),
        (json!({"anyOf": []}), "#/anyOf: must be a list of schemas"),
        (
            json!({"type": "text"}),
            "#/type: names \"text\", which is no type of JSON Schema",
        ),
        (
            json!({"required": ["a", 1]}),
            "#/required: must be a list of names",
        ),
        (json!({"minimum": "1"}), "#/minimum: must be a number"),
        (
            json!({"maxLength": -1}),
            "#/maxLength: must be a whole number",
        ),
    ] {
        assert_eq!(Schema::compile(&schema).unwrap_err().to_string(), why);
    }
    assert!(Schema::compile(&deep).unwrap_err().why.contains("too deep"));
    let endless = json!({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}});
    assert!(
        Schema::compile(&endless)
            .unwrap_err()
            .why
            .contains("back to itself")
    );
    // Each names the next one twice.
    let mut defs = serde_json::Map::new();
    for n in 0..30 {
        let next = json!({"$ref": format!("#/$defs/{}", n + 1)});
        defs.insert(n.to_string(), json!({"allOf": [next, next]}));
    }
    defs.insert("30".into(), json!({}));
    let wide = json!({"$defs": defs, "$ref": "#/$defs/0"});
    assert!(Schema::compile(&wide).is_err());
}

proptest! {
    #[test]
    fn no_bytes_do_harm(words in vec(prop_oneof![0_u32..40, Just(27), Just(28), any::<u32>()], 0..40)) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let inner = json!({"items": {"type": "integer"}, "properties": {"a": {}}, "required": ["a"]});
        let schema = json!({"items": inner, "additionalProperties": inner, "enum": [1, [2]]});
        let _ = Schema::compile(&schema).unwrap().check(&bytes);
    }
}
