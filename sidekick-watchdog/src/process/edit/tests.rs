//! Edits on the encoding are held against the same edits on decoded values.

use proptest::collection::vec;
use proptest::prelude::*;
use sidekick_ipc::value::{Value, decode, encode};

use super::*;

fn key() -> HashKey {
    HashKey::new(b"a key that nobody knows")
}

fn text(text: &str) -> Value {
    Value::String(text.into())
}

fn dictionary(entries: &[(&str, Value)]) -> Value {
    let entries = entries
        .iter()
        .map(|(name, value)| (text(name), value.clone()));
    Value::Dictionary(entries.collect())
}

fn edit(changes: &[(&str, Change)]) -> Edit {
    let mut edit = Edit::default();
    for (path, change) in changes {
        edit.add(&FieldPath::parse(path).unwrap(), change.clone())
            .unwrap();
    }
    edit
}

fn applied(edit: &Edit, value: &Value, values: &[Value]) -> (Value, bool) {
    let values: Vec<_> = values.iter().map(encode).collect();
    let mut out = b"before".to_vec();
    let changed = edit.apply(&encode(value), &values, &mut out).unwrap();
    let bytes = out.strip_prefix(b"before").unwrap();
    (decode(bytes).unwrap(), changed)
}

#[test]
fn fields_are_dropped_hashed_and_cut_at_any_depth() {
    let player = |name: &str| dictionary(&[("name", text(name)), ("hp", Value::Int(5))]);
    let value = dictionary(&[
        ("ip", text("10.0.0.1")),
        ("say", text("häßlich")),
        ("players", Value::Array(vec![player("ann"), player("bob")])),
        ("blob", Value::PackedByteArray(vec![1, 2, 3, 4, 5])),
        ("who", player("eve")),
    ]);
    let edit = edit(&[
        ("ip", Change::Drop),
        ("say", Change::Truncate(4)),
        ("players.*.name", Change::Hash(key())),
        ("blob", Change::Truncate(3)),
        ("who.hp", Change::Drop),
    ]);
    let hash = |name: &str| {
        let bytes = encode(&text(name));
        text(&key().hash(&bytes, look(&bytes).unwrap()))
    };
    let hashed = |name: &str| dictionary(&[("name", hash(name)), ("hp", Value::Int(5))]);
    let expected = dictionary(&[
        // Four bytes would end inside of the ß.
        ("say", text("hä")),
        ("players", Value::Array(vec![hashed("ann"), hashed("bob")])),
        ("blob", Value::PackedByteArray(vec![1, 2, 3])),
        ("who", dictionary(&[("name", text("eve"))])),
    ]);
    assert_eq!(applied(&edit, &value, &[]), (expected, true));
    assert_ne!(hash("ann"), hash("bob"));
    let Value::String(hash) = hash("ann") else {
        panic!("a text")
    };
    assert_eq!(hash.len(), 32);
}

#[test]
fn a_hash_is_hmac_sha_256_and_a_number_is_its_text() {
    // RFC 4231, test case 2, cut to 128 bits.
    let key = HashKey::new(b"Jefe");
    let hash = |value: &Value| {
        let bytes = encode(value);
        key.hash(&bytes, look(&bytes).unwrap())
    };
    let expected = "5bdcc146bf60754e6a042426089575c7";
    assert_eq!(hash(&text("what do ya want for nothing?")), expected);
    assert_eq!(hash(&Value::Int(7)), hash(&text("7")));
    assert_eq!(
        hash(&Value::StringName("a".into())),
        hash(&Value::String("a".into()))
    );
    assert_eq!(format!("{key:?}"), "HashKey(hidden)");
}

#[test]
fn what_is_not_there_changes_nothing() {
    let edit = edit(&[
        ("ip", Change::Drop),
        ("a.b", Change::Truncate(1)),
        ("name", Change::Hash(key())),
        ("old", Change::Rename("new".into())),
    ]);
    for value in [
        Value::Nil,
        text("ip"),
        Value::Array(vec![text("ip")]),
        dictionary(&[("a", Value::Int(1)), ("name", Value::Nil)]),
        dictionary(&[("a", dictionary(&[("b", Value::Int(12345))]))]),
    ] {
        assert_eq!(applied(&edit, &value, &[]), (value.clone(), false));
    }
}

#[test]
fn fields_are_renamed_and_set() {
    let value = dictionary(&[
        ("new", Value::Int(1)),
        ("old", Value::Int(2)),
        ("c", Value::Int(3)),
    ]);
    let renames = edit(&[("old", Change::Rename("new".into()))]);
    let renamed = dictionary(&[("new", Value::Int(2)), ("c", Value::Int(3))]);
    assert_eq!(applied(&renames, &value, &[]), (renamed, true));
    let swap = edit(&[
        ("old", Change::Rename("new".into())),
        ("new", Change::Rename("old".into())),
    ]);
    let swapped = dictionary(&[
        ("old", Value::Int(1)),
        ("new", Value::Int(2)),
        ("c", Value::Int(3)),
    ]);
    assert_eq!(applied(&swap, &value, &[]), (swapped, true));
    let sets = edit(&[("c", Change::Set(1)), ("region", Change::Set(0))]);
    let set = dictionary(&[
        ("new", Value::Int(1)),
        ("old", Value::Int(2)),
        ("c", Value::Nil),
        ("region", text("eu")),
    ]);
    assert_eq!(
        applied(&sets, &value, &[text("eu"), Value::Nil]),
        (set, true)
    );
}

#[test]
fn a_typed_dictionary_stays_typed_while_its_types_hold() {
    use sidekick_ipc::value::{ContainerType, Type, TypedDictionary};
    let typed = Value::TypedDictionary(Box::new(TypedDictionary {
        key_type: Some(ContainerType::Builtin(Type::String)),
        value_type: Some(ContainerType::Builtin(Type::Int)),
        entries: vec![(text("a"), Value::Int(1)), (text("b"), Value::Int(2))],
    }));
    let (dropped, _) = applied(&edit(&[("a", Change::Drop)]), &typed, &[]);
    assert!(matches!(dropped, Value::TypedDictionary(typed) if typed.entries.len() == 1));
    let (hashed, _) = applied(&edit(&[("a", Change::Hash(key()))]), &typed, &[]);
    assert!(matches!(hashed, Value::Dictionary(entries) if entries.len() == 2));
}

#[test]
fn paths_say_what_is_wrong_with_them() {
    let parse = |text: &str| FieldPath::parse(text).map(|path| path.0.len());
    assert_eq!(parse("a.b.*"), Ok(3));
    assert_eq!(parse(r"a\.b"), Ok(1));
    assert_eq!(parse(r"\*"), Ok(1));
    assert!(FieldPath::parse(r"\*").unwrap().is_single());
    for (text, error) in [
        ("", PathError::Empty),
        (".a", PathError::Empty),
        ("a..b", PathError::Empty),
        ("a.", PathError::Empty),
        (r"a\b", PathError::Escape),
        (r"a\", PathError::Escape),
        ("a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a", PathError::TooLong),
    ] {
        assert_eq!(parse(text), Err(error), "{text:?}");
    }
    let twice = |first: &str, second: &str| {
        let mut edit = Edit::default();
        edit.add(&FieldPath::parse(first).unwrap(), Change::Drop)
            .unwrap();
        edit.add(&FieldPath::parse(second).unwrap(), Change::Drop)
    };
    for (first, second) in [("a", "a"), ("a", "a.b"), ("a.b", "a"), ("*", "*.a")] {
        assert_eq!(twice(first, second), Err(PathError::Twice));
    }
    assert_eq!(twice("a.b", "a.c"), Ok(()));
}

#[test]
fn a_dot_in_a_name_can_be_meant() {
    let value = dictionary(&[("a.b", Value::Int(1)), ("*", Value::Int(2))]);
    let edit = edit(&[(r"a\.b", Change::Drop), (r"\*", Change::Drop)]);
    assert_eq!(applied(&edit, &value, &[]), (dictionary(&[]), true));
}

fn names() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just("c"), Just("7")]
}

fn values() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::Bool),
        (-9_i64..9).prop_map(Value::Int),
        "[a-zäß🚀]{0,9}".prop_map(Value::String),
        "[a-zäß🚀]{0,9}".prop_map(Value::StringName),
        vec(any::<u8>(), 0..9).prop_map(Value::PackedByteArray),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        // No two keys of one name: the model below would have to repeat what hostile encodings come to.
        let entries = proptest::collection::btree_map(names(), inner.clone(), 0..4);
        prop_oneof![
            vec(inner, 0..5).prop_map(Value::Array),
            entries.prop_map(|entries| {
                let key = |name: &str| match name {
                    "7" => Value::Int(7),
                    "b" => Value::StringName("b".into()),
                    name => text(name),
                };
                Value::Dictionary(entries.into_iter().map(|(n, v)| (key(n), v)).collect())
            }),
        ]
    })
    .boxed()
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::Drop),
        Just(Change::Hash(key())),
        (0_usize..12).prop_map(Change::Truncate),
    ]
}

fn paths() -> impl Strategy<Value = String> {
    vec(prop_oneof![names(), Just("*")], 1..4).prop_map(|names| names.join("."))
}

/// The model: the same on decoded values, one path at a time.
fn model(value: &Value, edit: &Edit) -> Option<Value> {
    match &edit.change {
        Some(Change::Drop) => return None,
        Some(Change::Hash(key)) => {
            let bytes = encode(value);
            return Some(match value {
                Value::Nil => Value::Nil,
                _ => text(&key.hash(&bytes, look(&bytes).unwrap())),
            });
        }
        Some(Change::Truncate(max)) => {
            let cut = |text: &str| {
                text.get(..text.floor_char_boundary(*max))
                    .unwrap()
                    .to_owned()
            };
            return Some(match value {
                Value::String(text) => Value::String(cut(text)),
                Value::StringName(text) => Value::StringName(cut(text)),
                Value::PackedByteArray(bytes) => {
                    Value::PackedByteArray(bytes.iter().take(*max).copied().collect())
                }
                other => other.clone(),
            });
        }
        _ => {}
    }
    let inside = |name: Option<&str>| {
        let named = edit
            .names
            .iter()
            .find(|(known, _)| Some(known.as_str()) == name);
        named.map(|(_, edit)| edit).or(edit.each.as_deref())
    };
    Some(match value {
        Value::Array(items) => Value::Array(
            items
                .iter()
                .filter_map(|item| match &edit.each {
                    Some(edit) => model(item, edit),
                    None => Some(item.clone()),
                })
                .collect(),
        ),
        Value::Dictionary(entries) => Value::Dictionary(
            entries
                .iter()
                .filter_map(|(key, value)| {
                    let name = match key {
                        Value::Int(number) => Some(number.to_string()),
                        key => key.text().map(str::to_owned),
                    };
                    Some(match inside(name.as_deref()) {
                        Some(edit) => (key.clone(), model(value, edit)?),
                        None => (key.clone(), value.clone()),
                    })
                })
                .collect(),
        ),
        other => other.clone(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn slices_put_together_are_what_changed_values_encode_to(
        value in values(),
        wanted in vec((paths(), changes()), 1..5),
    ) {
        let mut edit = Edit::default();
        for (path, change) in wanted {
            let _ = edit.add(&FieldPath::parse(&path).unwrap(), change);
        }
        let data = encode(&value);
        let mut out = Vec::new();
        let changed = edit.apply(&data, &[], &mut out).unwrap();
        let expected = encode(&model(&value, &edit).unwrap());
        prop_assert_eq!(&out, &expected);
        if !changed {
            prop_assert_eq!(out, data);
        }
    }

    #[test]
    fn damaged_data_is_an_error_or_well_formed(
        value in values(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        path in paths(),
        change in changes(),
    ) {
        let mut data = encode(&value);
        for (at, byte) in flips {
            let at = at.index(data.len());
            data[at] = byte;
        }
        let mut out = b"x".to_vec();
        let edit = edit(&[(&path, change)]);
        match edit.apply(&data, &[], &mut out) {
            Ok(_) if decode(&data).is_ok() => prop_assert!(decode(&out[1..]).is_ok()),
            Ok(_) => {}
            Err(_) => prop_assert_eq!(out, b"x"),
        }
    }
}
