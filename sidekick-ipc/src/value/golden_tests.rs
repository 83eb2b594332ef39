//! Every type against bytes written by hand after Godot's `encode_variant`, and what is refused with which sentence.
//! `tests/tests/codec.rs` does the same with the bytes of a real engine.

use super::*;

/// Words of the encoding, so that a golden value reads like the format's description.
fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn singles(header: u32, parts: &[f32]) -> Vec<u8> {
    let mut bytes = words(&[header]);
    bytes.extend(parts.iter().flat_map(|part| part.to_le_bytes()));
    bytes
}

fn doubles(header: u32, parts: &[f64]) -> Vec<u8> {
    let mut bytes = words(&[header | WIDE]);
    bytes.extend(parts.iter().flat_map(|part| part.to_le_bytes()));
    bytes
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn json_of(bytes: &[u8]) -> String {
    let mut out = b"before ".to_vec();
    write_json(bytes, &mut out).expect("well-formed");
    String::from_utf8(out)
        .expect("JSON is UTF-8")
        .split_off("before ".len())
}

/// `bytes` are what Godot writes for `value`, and `json` is what a backend gets.
#[track_caller]
fn golden(bytes: &[u8], value: Value, json: &str) {
    check(bytes).expect("accepted");
    assert_eq!(decode(bytes).expect("decodes"), value);
    assert_eq!(encode(&value), bytes, "encoded");
    assert_eq!(json_of(bytes), json);
    let parsed: serde_json::Value = serde_json::from_str(json).expect("valid JSON");
    assert_eq!(value.to_json(), parsed);
}

const WIDE: u32 = 1 << 16;

#[test]
fn scalars() {
    golden(&words(&[0]), Value::Nil, "null");
    golden(&words(&[1, 1]), Value::Bool(true), "true");
    golden(&words(&[1, 0]), Value::Bool(false), "false");
    golden(&words(&[2, 7]), Value::Int(7), "7");
    golden(&words(&[2, u32::MAX]), Value::Int(-1), "-1");
    golden(
        &words(&[2, 0x8000_0000]),
        Value::Int(i32::MIN.into()),
        "-2147483648",
    );
    golden(
        &words(&[2 | WIDE, 0x8000_0000, 0]),
        Value::Int(1 << 31),
        "2147483648",
    );
    golden(
        &words(&[2 | WIDE, 0, 0x8000_0000]),
        Value::Int(i64::MIN),
        "-9223372036854775808",
    );
    golden(&singles(3, &[0.5]), Value::Float(0.5), "0.5");
    golden(&doubles(3, &[0.1]), Value::Float(0.1), "0.1");
    golden(&singles(3, &[-0.0]), Value::Float(-0.0), "-0.0");
    golden(&doubles(3, &[1e300]), Value::Float(1e300), "1e+300");
}

/// A float that happens to fit into 32 bits is still a double: a time in seconds must not lose its last digits.
#[test]
fn a_short_float_keeps_all_its_digits_in_json() {
    golden(
        &singles(3, &[1_763_829_760.0]),
        Value::Float(1_763_829_760.0),
        "1763829760.0",
    );
    let tenth = f64::from(0.1_f32);
    golden(
        &singles(3, &[0.1]),
        Value::Float(tenth),
        "0.10000000149011612",
    );
}

#[test]
fn what_is_not_finite_is_a_string_in_json() {
    golden(
        &singles(3, &[f32::INFINITY]),
        Value::Float(f64::INFINITY),
        r#""inf""#,
    );
    golden(
        &singles(3, &[f32::NEG_INFINITY]),
        Value::Float(f64::NEG_INFINITY),
        r#""-inf""#,
    );
    let nan = doubles(3, &[f64::NAN]);
    check(&nan).expect("accepted");
    assert_eq!(encode(&decode(&nan).expect("decodes")), nan);
    assert_eq!(json_of(&nan), r#""nan""#);
    assert_eq!(
        json_of(&singles(5, &[f32::NAN, f32::INFINITY])),
        r#"["nan","inf"]"#
    );
}

#[test]
fn texts() {
    golden(&words(&[4, 0]), Value::from(""), r#""""#);
    golden(
        b"\x04\0\0\0\x04\0\0\0fire",
        Value::from("fire"),
        r#""fire""#,
    );
    golden(
        b"\x04\0\0\0\x05\0\0\0\xC3\xA4\"\n\\\0\0\0",
        Value::from("ä\"\n\\"),
        r#""ä\"\n\\""#,
    );
    golden(
        b"\x15\0\0\0\x02\0\0\0hp\0\0",
        Value::StringName("hp".into()),
        r#""hp""#,
    );
    golden(
        b"\x04\0\0\0\x04\0\0\0\xF0\x9F\x9A\x80",
        Value::from("🚀"),
        r#""🚀""#,
    );
}

/// PostgreSQL's jsonb refuses `\u0000`; Godot has no such string, but whoever writes bytes by hand may.
#[test]
fn a_nul_character_is_replaced_in_json() {
    assert_eq!(json_of(b"\x04\0\0\0\x03\0\0\0a\0b\0"), "\"a\u{FFFD}b\"");
}

#[test]
fn node_paths() {
    let bytes = joined(&[
        &words(&[22, 0x8000_0002, 1, 1]),
        b"\x04\0\0\0root\x01\0\0\0A\0\0\0\x02\0\0\0hp\0\0",
    ]);
    let path = NodePath {
        absolute: true,
        names: vec!["root".into(), "A".into()],
        subnames: vec!["hp".into()],
    };
    golden(&bytes, Value::NodePath(Box::new(path)), r#""/root/A:hp""#);
    golden(
        &words(&[22, 0x8000_0000, 0, 0]),
        Value::NodePath(Box::default()),
        r#""""#,
    );
}

#[test]
fn vectors_and_their_kin_are_flat_arrays() {
    golden(
        &singles(5, &[0.1, 1.0]),
        Value::Vector2(Reals::Single([0.1, 1.0])),
        "[0.1,1.0]",
    );
    golden(
        &words(&[6, 1, u32::MAX]),
        Value::Vector2i([1, -1]),
        "[1,-1]",
    );
    let four = [1.0, 2.0, 3.0, 4.5];
    let four_json = "[1.0,2.0,3.0,4.5]";
    golden(
        &singles(7, &four),
        Value::Rect2(Box::new(Reals::Single(four))),
        four_json,
    );
    golden(
        &words(&[8, 1, 2, 3, 4]),
        Value::Rect2i([1, 2, 3, 4]),
        "[1,2,3,4]",
    );
    golden(
        &singles(9, &[1.0, 2.0, 3.0]),
        Value::Vector3(Reals::Single([1.0, 2.0, 3.0])),
        "[1.0,2.0,3.0]",
    );
    golden(
        &words(&[10, 1, 2, 3]),
        Value::Vector3i([1, 2, 3]),
        "[1,2,3]",
    );
    let six = [1.0, 0.0, 0.0, 1.0, 5.0, 6.0];
    let six_json = "[1.0,0.0,0.0,1.0,5.0,6.0]";
    golden(
        &singles(11, &six),
        Value::Transform2D(Box::new(Reals::Single(six))),
        six_json,
    );
    golden(
        &singles(12, &four),
        Value::Vector4(Box::new(Reals::Single(four))),
        four_json,
    );
    golden(
        &words(&[13, 1, 2, 3, 4]),
        Value::Vector4i([1, 2, 3, 4]),
        "[1,2,3,4]",
    );
    golden(
        &singles(14, &four),
        Value::Plane(Box::new(Reals::Single(four))),
        four_json,
    );
    golden(
        &singles(15, &four),
        Value::Quaternion(Box::new(Reals::Single(four))),
        four_json,
    );
    golden(
        &singles(16, &six),
        Value::Aabb(Box::new(Reals::Single(six))),
        six_json,
    );
    let nine = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let nine_json = "[1.0,0.0,0.0,0.0,1.0,0.0,0.0,0.0,1.0]";
    golden(
        &singles(17, &nine),
        Value::Basis(Box::new(Reals::Single(nine))),
        nine_json,
    );
    let twelve = std::array::from_fn(|index| index as f32);
    let twelve_json = "[0.0,1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0,9.0,10.0,11.0]";
    golden(
        &singles(18, &twelve),
        Value::Transform3D(Box::new(Reals::Single(twelve))),
        twelve_json,
    );
    let sixteen = [0.5; 16];
    let sixteen_json = "[0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5]";
    golden(
        &singles(19, &sixteen),
        Value::Projection(Box::new(Reals::Single(sixteen))),
        sixteen_json,
    );
    golden(&singles(20, &four), Value::Color(four), four_json);
}

/// A build of Godot with `precision=double` sets the flag for 64 bits on all of these, but never on colors.
#[test]
fn double_precision_builds() {
    golden(
        &doubles(5, &[0.1, 1.0]),
        Value::Vector2(Reals::Double([0.1, 1.0])),
        "[0.1,1.0]",
    );
    golden(
        &doubles(9, &[0.1, 1.0, 2.0]),
        Value::Vector3(Reals::Double([0.1, 1.0, 2.0])),
        "[0.1,1.0,2.0]",
    );
    let four = [0.1, 0.2, 0.3, 0.4];
    let four_json = "[0.1,0.2,0.3,0.4]";
    golden(
        &doubles(7, &four),
        Value::Rect2(Box::new(Reals::Double(four))),
        four_json,
    );
    golden(
        &doubles(12, &four),
        Value::Vector4(Box::new(Reals::Double(four))),
        four_json,
    );
    golden(
        &doubles(14, &four),
        Value::Plane(Box::new(Reals::Double(four))),
        four_json,
    );
    golden(
        &doubles(15, &four),
        Value::Quaternion(Box::new(Reals::Double(four))),
        four_json,
    );
    let six = [0.1; 6];
    let six_json = "[0.1,0.1,0.1,0.1,0.1,0.1]";
    golden(
        &doubles(11, &six),
        Value::Transform2D(Box::new(Reals::Double(six))),
        six_json,
    );
    golden(
        &doubles(16, &six),
        Value::Aabb(Box::new(Reals::Double(six))),
        six_json,
    );
    let nine_json = "[0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1]";
    golden(
        &doubles(17, &[0.1; 9]),
        Value::Basis(Box::new(Reals::Double([0.1; 9]))),
        nine_json,
    );
    let bytes = joined(&[&words(&[35 | WIDE, 1]), &doubles(0, &[0.1, 0.2])[4..]]);
    let value = Value::PackedVector2Array(Box::new(PackedReals::Double(vec![[0.1, 0.2]])));
    golden(&bytes, value, "[[0.1,0.2]]");
}

#[test]
fn arrays_and_dictionaries() {
    golden(&words(&[28, 0]), Value::Array(vec![]), "[]");
    golden(
        &words(&[28, 2, 0, 2, 5]),
        Value::Array(vec![Value::Nil, Value::Int(5)]),
        "[null,5]",
    );
    golden(&words(&[27, 0]), Value::Dictionary(vec![]), "{}");
    let bytes = joined(&[
        &words(&[27, 2]),
        b"\x04\0\0\0\x02\0\0\0hp\0\0",
        &words(&[2, 90, 2, 1, 28, 0]),
    ]);
    let value = Value::Dictionary(vec![
        (Value::from("hp"), Value::Int(90)),
        (Value::Int(1), Value::Array(vec![])),
    ]);
    golden(&bytes, value, r#"{"hp":90,"1":[]}"#);
}

#[test]
fn typed_arrays_and_dictionaries_keep_their_types() {
    let typed = |element_type, items| {
        Value::TypedArray(Box::new(TypedArray {
            element_type,
            items,
        }))
    };
    let ints = typed(ContainerType::Builtin(Type::Int), vec![Value::Int(1)]);
    golden(&words(&[28 | 1 << 16, 2, 1, 2, 1]), ints, "[1]");
    let objects = typed(ContainerType::Class("Node".into()), vec![Value::Nil]);
    golden(
        &joined(&[&words(&[28 | 2 << 16, 4]), b"Node", &words(&[1, 0])]),
        objects,
        "[null]",
    );
    let scripts = typed(ContainerType::Script("res://a.gd".into()), vec![]);
    golden(
        &joined(&[&words(&[28 | 3 << 16, 10]), b"res://a.gd\0\0", &words(&[0])]),
        scripts,
        "[]",
    );

    let entries = vec![(Value::Int(1), Value::Bool(true))];
    let both = Value::TypedDictionary(Box::new(TypedDictionary {
        key_type: Some(ContainerType::Builtin(Type::Int)),
        value_type: Some(ContainerType::Builtin(Type::Bool)),
        entries: entries.clone(),
    }));
    golden(
        &words(&[27 | 1 << 16 | 1 << 18, 2, 1, 1, 2, 1, 1, 1]),
        both,
        r#"{"1":true}"#,
    );
    let values = Value::TypedDictionary(Box::new(TypedDictionary {
        key_type: None,
        value_type: Some(ContainerType::Builtin(Type::Bool)),
        entries,
    }));
    golden(
        &words(&[27 | 1 << 18, 1, 1, 2, 1, 1, 1]),
        values,
        r#"{"1":true}"#,
    );
}

#[test]
fn packed_arrays() {
    golden(&words(&[29, 0]), Value::PackedByteArray(vec![]), r#""""#);
    golden(
        b"\x1D\0\0\0\x05\0\0\0\x01\x02\x03\x04\xFF\0\0\0",
        Value::PackedByteArray(vec![1, 2, 3, 4, 255]),
        r#""AQIDBP8=""#,
    );
    golden(
        &words(&[30, 2, 1, u32::MAX]),
        Value::PackedInt32Array(vec![1, -1]),
        "[1,-1]",
    );
    golden(
        &words(&[31, 1, 0, 1]),
        Value::PackedInt64Array(vec![1 << 32]),
        "[4294967296]",
    );
    let bytes = joined(&[&words(&[32, 1]), &0.1_f32.to_le_bytes()]);
    golden(&bytes, Value::PackedFloat32Array(vec![0.1]), "[0.1]");
    let bytes = joined(&[&words(&[33, 1]), &0.1_f64.to_le_bytes()]);
    golden(&bytes, Value::PackedFloat64Array(vec![0.1]), "[0.1]");
    // Godot counts the zero byte at the end of each text, in this type only.
    let bytes = joined(&[&words(&[34, 2]), b"\x04\0\0\0abc\0\x01\0\0\0\0\0\0\0"]);
    golden(
        &bytes,
        Value::PackedStringArray(vec!["abc".into(), String::new()]),
        r#"["abc",""]"#,
    );
    let single = |kind, parts: &[f32]| joined(&[&words(&[kind, 1]), &singles(0, parts)[4..]]);
    let value = Value::PackedVector2Array(Box::new(PackedReals::Single(vec![[1.0, 2.0]])));
    golden(&single(35, &[1.0, 2.0]), value, "[[1.0,2.0]]");
    let value = Value::PackedVector3Array(Box::new(PackedReals::Single(vec![[1.0, 2.0, 3.0]])));
    golden(&single(36, &[1.0, 2.0, 3.0]), value, "[[1.0,2.0,3.0]]");
    let value = Value::PackedColorArray(vec![[1.0, 0.5, 0.0, 1.0]]);
    golden(
        &single(37, &[1.0, 0.5, 0.0, 1.0]),
        value,
        "[[1.0,0.5,0.0,1.0]]",
    );
    let value =
        Value::PackedVector4Array(Box::new(PackedReals::Single(vec![[1.0, 2.0, 3.0, 4.0]])));
    golden(
        &single(38, &[1.0, 2.0, 3.0, 4.0]),
        value,
        "[[1.0,2.0,3.0,4.0]]",
    );
}

#[test]
fn keys_that_are_no_texts_become_texts() {
    let dictionary = |keys: Vec<Value>| {
        encode(&Value::Dictionary(
            keys.into_iter().map(|key| (key, Value::Nil)).collect(),
        ))
    };
    let keys = vec![
        Value::Nil,
        Value::Bool(true),
        Value::Int(-3),
        Value::Float(1.0),
        Value::Float(f64::NAN),
        Value::Vector2i([1, 2]),
        Value::Array(vec![Value::from("a")]),
        Value::PackedByteArray(vec![1]),
        Value::NodePath(Box::new(NodePath {
            absolute: false,
            names: vec!["A".into()],
            subnames: vec![],
        })),
    ];
    assert_eq!(
        json_of(&dictionary(keys)),
        r#"{"null":null,"true":null,"-3":null,"1.0":null,"nan":null,"[1,2]":null,"[\"a\"]":null,"AQ==":null,"A":null}"#
    );
    assert_eq!(
        json_of(&dictionary(vec![Value::Vector2i([1, 2])])),
        r#"{"[1,2]":null}"#
    );
}

#[test]
fn of_keys_with_the_same_text_the_last_wins() {
    let inner = Value::Dictionary(vec![
        (Value::Int(1), Value::Int(10)),
        (Value::from("1"), Value::Int(20)),
    ]);
    let value = Value::Dictionary(vec![
        (Value::from("2"), Value::from("gone")),
        (Value::from("in"), inner),
        (Value::Int(2), Value::from("kept")),
    ]);
    assert_eq!(json_of(&encode(&value)), r#"{"in":{"1":20},"2":"kept"}"#);
    let mut json = Vec::new();
    write_json(&encode(&value), &mut json).expect("written");
    assert_eq!(
        value.to_json(),
        serde_json::from_slice::<serde_json::Value>(&json).expect("JSON")
    );
}

#[test]
fn what_cannot_be_stored_is_refused_with_its_place() {
    let refusal = |bytes: &[u8]| check(bytes).expect_err("refused").to_string();
    let object = words(&[24 | WIDE, 1, 0]);
    assert_eq!(
        refusal(&object),
        "the data holds an Object; objects cannot be stored; store its properties instead"
    );
    let nested = joined(&[
        &words(&[27, 2]),
        b"\x04\0\0\0\x02\0\0\0hp\0\0",
        &words(&[2, 1]),
        b"\x15\0\0\0\x07\0\0\0targets\0",
        &words(&[28, 2, 0]),
        &object,
    ]);
    assert_eq!(
        refusal(&nested),
        "the data holds an Object at [&\"targets\"][1]; objects cannot be stored; store its properties instead"
    );
    assert!(matches!(
        decode(&nested),
        Err(DecodeError::Forbidden {
            kind: Type::Object,
            ..
        })
    ));
    let mut out = b"kept".to_vec();
    write_json(&nested, &mut out).expect_err("refused");
    assert_eq!(out, b"kept");
    for (kind, word) in [(23, "an RID"), (25, "a Callable"), (26, "a Signal")] {
        let text = refusal(&words(&[28, 1, kind, 0, 0, 0]));
        assert!(
            text.starts_with(&format!("the data holds {word} at [0]; ")),
            "{text}"
        );
    }
    let key = joined(&[&words(&[27, 1]), &object, &words(&[0])]);
    assert!(refusal(&key).contains(" at [key 0]; "), "{}", refusal(&key));
}

#[test]
fn malformed_bytes_are_refused() {
    assert_eq!(decode(&[]), Err(DecodeError::Empty));
    assert!(
        check(&[])
            .expect_err("refused")
            .to_string()
            .starts_with("Godot could not encode the data")
    );
    assert_eq!(
        decode(&[0, 0, 0]),
        Err(DecodeError::Truncated {
            at: 0,
            needed: 4,
            left: 3
        })
    );
    assert_eq!(
        decode(&words(&[39])),
        Err(DecodeError::UnknownType { at: 0, found: 39 })
    );
    assert_eq!(
        decode(&words(&[0, 0])),
        Err(DecodeError::Trailing { at: 4, left: 4 })
    );
    assert_eq!(
        decode(&words(&[28 | 1 << 16, 99, 0])),
        Err(DecodeError::UnknownType { at: 4, found: 99 })
    );
    assert_eq!(
        decode(&words(&[22, 4, 0, 0])),
        Err(DecodeError::OldNodePath { at: 0 })
    );
    assert_eq!(
        decode(b"\x04\0\0\0\x04\0\0\0a\xED\xA0\x80"),
        Err(DecodeError::NotUnicode { at: 9 })
    );
    for kind in [4, 21, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38] {
        let bytes = words(&[kind, u32::MAX >> 1, 0, 0]);
        assert!(
            matches!(decode(&bytes), Err(DecodeError::Truncated { .. })),
            "type {kind}"
        );
        let bytes = words(&[kind, u32::MAX, 0, 0]);
        assert!(
            matches!(decode(&bytes), Err(DecodeError::Truncated { .. })),
            "type {kind}"
        );
    }
}

#[test]
fn the_depth_is_bounded() {
    let nested = |depth: usize| {
        let mut bytes = words(&[28, 1]).repeat(depth - 1);
        bytes.extend(words(&[28, 0]));
        bytes
    };
    let deepest = nested(DEPTH_MAX);
    check(&deepest).expect("accepted");
    assert_eq!(encode(&decode(&deepest).expect("decodes")), deepest);
    assert_eq!(
        json_of(&deepest),
        format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX))
    );
    let deeper = nested(DEPTH_MAX + 1);
    assert_eq!(
        decode(&deeper),
        Err(DecodeError::TooDeep { at: 8 * DEPTH_MAX })
    );
    let text = check(&deeper).expect_err("refused").to_string();
    assert!(
        text.contains("nested more than 64 containers deep"),
        "{text}"
    );
    assert_eq!(
        write_json(&nested(100_000), &mut Vec::new()),
        Err(DecodeError::TooDeep { at: 8 * DEPTH_MAX })
    );
}

/// What Godot's decoder takes and its encoder never writes is taken too, and comes out in the usual form.
#[test]
fn unusual_forms_are_read_leniently() {
    assert_eq!(decode(&words(&[2 | WIDE, 5, 0])), Ok(Value::Int(5)));
    assert_eq!(decode(&doubles(3, &[0.5])), Ok(Value::Float(0.5)));
    assert_eq!(decode(&words(&[1, 7])), Ok(Value::Bool(true)));
    assert_eq!(decode(&words(&[28, 0x8000_0000])), Ok(Value::Array(vec![])));
    assert_eq!(decode(b"\x04\0\0\0\x01\0\0\0aXYZ"), Ok(Value::from("a")));
    assert_eq!(decode(&words(&[0xFFFF_FF00])), Ok(Value::Nil));
}

#[test]
fn serde_carries_the_encoding() {
    let value = Value::Dictionary(vec![(
        Value::StringName("a".into()),
        Value::Vector2i([1, 2]),
    )]);
    let binary = bincode::serialize(&value).expect("serializes");
    assert_eq!(
        bincode::deserialize::<Value>(&binary).expect("deserializes"),
        value
    );
    let text = serde_json::to_string(&value).expect("serializes");
    assert_eq!(
        serde_json::from_str::<Value>(&text).expect("deserializes"),
        value
    );
    assert!(
        serde_json::from_str::<Value>(r#""GAAAAA==""#).is_err(),
        "an Object is refused here too"
    );
}

#[test]
fn keys_are_found_by_text() {
    let value = Value::Dictionary(vec![(Value::StringName("hp".into()), Value::Int(1))]);
    assert_eq!(value.get("hp"), Some(&Value::Int(1)));
    assert_eq!(value.get("mp"), None);
    assert_eq!(Value::Nil.get("hp"), None);
}

/// Threads of an engine's worker pool have small stacks; debug builds have the largest frames.
#[test]
fn the_deepest_value_fits_a_small_stack() {
    let work = || {
        for bytes in [
            words(&[28, 1]).repeat(DEPTH_MAX + 1),
            words(&[27, 1, 0]).repeat(DEPTH_MAX + 1),
        ] {
            check(&bytes).expect_err("too deep");
            decode(&bytes).expect_err("too deep");
            write_json(&bytes, &mut Vec::new()).expect_err("too deep");
        }
    };
    std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(work)
        .expect("a thread")
        .join()
        .expect("no overflow");
}
