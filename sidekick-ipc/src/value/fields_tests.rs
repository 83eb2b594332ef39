//! What [`fields`](super::fields) cuts out of an encoding is what decoding it gives, and no bytes make it panic.

use proptest::collection::vec;
use proptest::prelude::*;

use super::fields::*;
use super::property_tests::{damaged, value};
use super::*;

/// Every part of the value, through all containers: decodes each slice by itself.
fn parts(bytes: &[u8]) -> Result<Vec<Value>, DecodeError> {
    let mut found = Vec::new();
    let mut left = vec![bytes];
    while let Some(bytes) = left.pop() {
        match look(bytes)? {
            Look::Array(items) => {
                for item in items {
                    left.push(item?);
                }
            }
            Look::Dictionary(entries) => {
                for entry in entries {
                    let entry = entry?;
                    found.push(decode(entry.key)?);
                    left.push(entry.value);
                }
            }
            _ => found.push(decode(bytes)?),
        }
    }
    Ok(found)
}

fn parts_of_value(value: &Value, keys_too: bool, found: &mut Vec<Value>) {
    let entries = |entries: &[(Value, Value)], found: &mut Vec<Value>| {
        for (key, value) in entries {
            if keys_too {
                found.push(key.clone());
            }
            parts_of_value(value, keys_too, found);
        }
    };
    let items = |items: &[Value], found: &mut Vec<Value>| {
        for item in items {
            parts_of_value(item, keys_too, found);
        }
    };
    match value {
        Value::Array(all) => items(all, found),
        Value::TypedArray(typed) => items(&typed.items, found),
        Value::Dictionary(all) => entries(all, found),
        Value::TypedDictionary(typed) => entries(&typed.entries, found),
        leaf => found.push(leaf.clone()),
    }
}

/// Comparable also where NaNs stand in them.
fn sorted(values: &[Value]) -> Vec<Vec<u8>> {
    let mut all: Vec<_> = values.iter().map(encode).collect();
    all.sort();
    all
}

/// Takes a container apart and puts it together again from the slices.
fn rebuilt(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    match look(bytes)? {
        Look::Dictionary(entries) => {
            let mut writer = DictionaryWriter::begin(entries.head(), &mut out);
            for entry in entries {
                let entry = entry?;
                out.extend_from_slice(entry.key);
                out.extend_from_slice(entry.value);
                writer.added();
            }
            writer.finish(&mut out);
        }
        Look::Array(items) => {
            let mut writer = ArrayWriter::begin(items.head(), &mut out);
            for item in items {
                out.extend_from_slice(item?);
                writer.added();
            }
            writer.finish(&mut out);
        }
        _ => out.extend_from_slice(bytes),
    }
    Ok(out)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn slices_are_the_parts_of_the_value(value in value()) {
        let bytes = encode(&value);
        let mut expected = Vec::new();
        parts_of_value(&value, true, &mut expected);
        prop_assert_eq!(sorted(&parts(&bytes).unwrap()), sorted(&expected));
        prop_assert_eq!(rebuilt(&bytes).unwrap(), bytes);
    }

    #[test]
    fn cut_and_flipped_bytes_end_in_an_error_or_in_parts(bytes in damaged(value())) {
        no_harm(&bytes)?;
    }

    #[test]
    fn any_bytes_end_in_an_error_or_in_parts(bytes in vec(any::<u8>(), 0..200)) {
        no_harm(&bytes)?;
    }

    #[test]
    fn words_that_look_like_headers_end_in_an_error_or_in_parts(
        words in vec(prop_oneof![0_u32..40, Just(27), Just(28), any::<u32>()], 0..60),
    ) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        no_harm(&bytes)?;
    }
}

/// What decodes can be taken apart; what cannot be decoded is noticed, or its parts can be (nesting is judged from
/// each part on).
fn no_harm(bytes: &[u8]) -> Result<(), TestCaseError> {
    let found = parts(bytes);
    if decode(bytes).is_ok() {
        prop_assert!(found.is_ok());
        prop_assert!(rebuilt(bytes).is_ok());
    }
    if let Ok(Look::Dictionary(entries)) = look(bytes) {
        let _ = entries.get("a");
        prop_assert!(entries.count() <= bytes.len() / 8);
    }
    Ok(())
}

#[test]
fn an_entry_is_found_by_the_name_that_json_gives_it() {
    let value = Value::Dictionary(vec![
        (Value::String("a".into()), Value::Int(1)),
        (Value::StringName("b".into()), Value::Int(2)),
        (Value::Int(-7), Value::Int(3)),
        (Value::String("a".into()), Value::Int(4)),
    ]);
    let bytes = encode(&value);
    let Ok(Look::Dictionary(entries)) = look(&bytes) else {
        panic!("a dictionary");
    };
    let get = |name| {
        entries
            .get(name)
            .unwrap()
            .map(|bytes| decode(bytes).unwrap())
    };
    assert_eq!(get("a"), Some(Value::Int(4)));
    assert_eq!(get("b"), Some(Value::Int(2)));
    assert_eq!(get("-7"), Some(Value::Int(3)));
    for other in ["", "7", "-07", "+7", "c"] {
        assert_eq!(get(other), None, "{other:?}");
    }
}

#[test]
fn bytes_behind_the_last_entry_are_told() {
    let mut bytes = encode(&Value::Dictionary(vec![(Value::Int(1), Value::Nil)]));
    bytes.extend_from_slice(&[0; 4]);
    let Ok(Look::Dictionary(mut entries)) = look(&bytes) else {
        panic!("a dictionary");
    };
    assert!(entries.next().unwrap().is_ok());
    assert!(matches!(
        entries.next(),
        Some(Err(DecodeError::Trailing { left: 4, .. }))
    ));
    assert!(entries.next().is_none());
}

#[test]
fn nesting_beyond_the_limit_is_an_error() {
    let deep = |depth| {
        let mut value = Value::Nil;
        for _ in 0..depth {
            value = Value::Array(vec![value]);
        }
        encode(&Value::Array(vec![value]))
    };
    let all = |bytes: &[u8]| match look(bytes) {
        Ok(Look::Array(mut items)) => items.try_for_each(|item| item.map(|_| ())),
        _ => Ok(()),
    };
    assert_eq!(all(&deep(DEPTH_MAX - 1)), Ok(()));
    let result: Result<(), _> = all(&deep(DEPTH_MAX + 1));
    assert!(matches!(result, Err(DecodeError::TooDeep { .. })));
}
