//! Common fields: what comes of a record is what the engine's encoder gives for the merged dictionary, and no bytes make it panic.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::property_tests::{damaged, value};
use super::*;

/// Names of a few letters, so that records and common fields often have the same.
fn name() -> BoxedStrategy<String> {
    "[a-d]{0,1}|größe".boxed()
}

fn text(name: &str, is_name: bool) -> Value {
    match is_name {
        true => Value::StringName(name.to_owned()),
        false => Value::String(name.to_owned()),
    }
}

fn fields() -> BoxedStrategy<Vec<(Value, Value)>> {
    let value = prop_oneof![
        any::<i64>().prop_map(Value::Int),
        name().prop_map(Value::String),
        vec(any::<bool>().prop_map(Value::Bool), 0..3).prop_map(Value::Array),
    ];
    btree_map(name(), (any::<bool>(), value), 0..5)
        .prop_map(|fields| {
            let entries = fields.into_iter();
            let entries = entries.map(|(name, (is_name, value))| (text(&name, is_name), value));
            entries.collect()
        })
        .boxed()
}

/// Any value, but mostly dictionaries with and without types.
fn record() -> BoxedStrategy<Value> {
    let key = prop_oneof![
        3 => (name(), any::<bool>()).prop_map(|(name, is_name)| text(&name, is_name)),
        1 => value(),
    ];
    let entries = vec((key, value()), 0..6).boxed();
    prop_oneof![
        2 => entries.clone().prop_map(Value::Dictionary),
        1 => entries.prop_map(|entries| {
            Value::TypedDictionary(Box::new(TypedDictionary {
                key_type: Some(ContainerType::Builtin(Type::StringName)),
                value_type: Some(ContainerType::Class("Node".to_owned())),
                entries,
            }))
        }),
        1 => value(),
    ]
    .boxed()
}

/// What is to come of it, by values.
fn model(fields: &[(Value, Value)], record: &Value) -> Option<Value> {
    let own = record.entries()?;
    let is_missing = |field: &&(Value, Value)| {
        field
            .0
            .text()
            .is_some_and(|name| record.get(name).is_none())
    };
    let missing: Vec<_> = fields.iter().filter(is_missing).cloned().collect();
    let merged = [missing.as_slice(), own].concat();
    (!missing.is_empty()).then_some(Value::Dictionary(merged))
}

fn read(fields: &[(Value, Value)]) -> Result<CommonFields, CommonFieldsError> {
    CommonFields::read(&encode(&Value::Dictionary(fields.to_vec())))
}

/// Whatever the bytes are: what is given is as good as what was there.
fn no_harm(bytes: &[u8]) -> Result<(), TestCaseError> {
    let _ = CommonFields::read(bytes);
    let fields = read(&[("a".into(), 1.into()), ("b".into(), "two".into())]).unwrap();
    if let Some(added) = fields.added_to(bytes) {
        prop_assert_eq!(check(&added).is_ok(), check(bytes).is_ok());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_record_gets_the_fields_that_it_lacks(fields in fields(), record in record()) {
        let added = read(&fields).unwrap().added_to(&encode(&record));
        prop_assert_eq!(added, model(&fields, &record).as_ref().map(encode));
    }

    #[test]
    fn cut_and_flipped_bytes_do_no_harm(bytes in damaged(record())) {
        no_harm(&bytes)?;
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..200)) {
        no_harm(&bytes)?;
    }
}

/// `{7: …}` and `{"7": …}` are one field of a JSON object: the record's own counts.
#[test]
fn a_key_that_json_calls_the_same_is_the_record_s_own() {
    for (own, name) in [
        (Value::Int(7), "7"),
        (Value::Float(0.5), "0.5"),
        (Value::Bool(true), "true"),
        (Value::Nil, "null"),
    ] {
        let record = encode(&Value::Dictionary(vec![(own, "own".into())]));
        let fields = read(&[(name.into(), "common".into())]).unwrap();
        let mut json = Vec::new();
        write_json(&fields.added_to(&record).unwrap(), &mut json).unwrap();
        assert_eq!(
            String::from_utf8(json).unwrap(),
            format!("{{\"{name}\":\"own\"}}")
        );
    }
}

#[test]
fn what_cannot_be_a_field_is_refused_with_the_reason() {
    let many: Vec<_> = (0..33)
        .map(|number| (number.to_string().as_str().into(), Value::Nil))
        .collect();
    assert!(read(&many[..COMMON_FIELDS_MAX]).is_ok());
    let long = |bytes: usize| vec![("a".into(), "x".repeat(bytes).as_str().into())];
    // Two words each for the dictionary and the text, three for the key.
    assert!(read(&long(COMMON_FIELDS_BYTES_MAX - 28)).is_ok());
    for (fields, sentence) in [
        (many, "33 fields, the limit is 32"),
        (
            long(COMMON_FIELDS_BYTES_MAX - 27),
            "4100 bytes, the limit is 4096, since each record has them in it",
        ),
        (
            vec![("a".into(), 1.into()), (7.into(), 1.into())],
            "the key 7 is neither a String nor a StringName",
        ),
        (
            vec![(Value::NodePath(Box::default()), 1.into())],
            "the key \"\" is neither a String nor a StringName",
        ),
    ] {
        assert_eq!(read(&fields).unwrap_err().to_string(), sentence);
    }
    let mut object = encode(&Value::Dictionary(vec![("a".into(), Value::Nil)]));
    let at = object.len() - 4;
    object[at] = Type::Object as u8;
    let refused = CommonFields::read(&object).unwrap_err().to_string();
    assert!(
        refused.starts_with("the data holds an Object at [\"a\"]; objects cannot be stored"),
        "{refused}"
    );
    // As a record it is left to whoever refuses it.
    let fields = read(&[("b".into(), 1.into())]).unwrap();
    assert_eq!(fields.added_to(&object), None);
    assert_eq!(
        CommonFields::read(&encode(&Value::Nil)),
        Err(CommonFieldsError::NoDictionary)
    );
    let nothing = CommonFields::read(&[]).unwrap_err();
    assert!(matches!(nothing, CommonFieldsError::Value(_)));
    assert!(read(&[]).unwrap().is_empty());
}
