//! Claims about all values and all bytes: round trips, agreement of the three readers, no panic on any input.
//! Overflow checks are on in this profile. The memory they take is measured in `tests/value_memory.rs`.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn real32() -> BoxedStrategy<f32> {
    prop_oneof![
        any::<u32>().prop_map(f32::from_bits),
        -1000.0_f32..1000.0,
        Just(f32::NAN),
        Just(f32::INFINITY)
    ]
    .boxed()
}

fn real64() -> BoxedStrategy<f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        any::<f32>().prop_map(f64::from),
        Just(f64::NAN),
        Just(f64::NEG_INFINITY)
    ]
    .boxed()
}

fn text() -> BoxedStrategy<String> {
    prop_oneof![
        any::<String>(),
        "[a-z]{0,6}",
        "[\"\\\\\u{0}-\u{1f}äß🚀]{0,5}"
    ]
    .boxed()
}

fn reals<const N: usize>() -> BoxedStrategy<Reals<N>> {
    prop_oneof![
        [(); N].map(|()| real32()).prop_map(Reals::Single),
        [(); N].map(|()| real64()).prop_map(Reals::Double),
    ]
    .boxed()
}

fn packed<const N: usize>() -> BoxedStrategy<Box<PackedReals<N>>> {
    prop_oneof![
        vec([(); N].map(|()| real32()), 0..4)
            .prop_map(|items| Box::new(PackedReals::Single(items))),
        vec([(); N].map(|()| real64()), 0..4)
            .prop_map(|items| Box::new(PackedReals::Double(items))),
    ]
    .boxed()
}

fn leaf() -> BoxedStrategy<Value> {
    let node_path = (any::<bool>(), vec(text(), 0..3), vec(text(), 0..3)).prop_map(
        |(absolute, names, subnames)| NodePath {
            absolute,
            names,
            subnames,
        },
    );
    let color = || [(); 4].map(|()| real32());
    prop_oneof![
        prop_oneof![
            Just(Value::Nil),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            any::<i32>().prop_map(|value| Value::Int(value.into())),
            real64().prop_map(Value::Float),
            text().prop_map(Value::String),
            text().prop_map(Value::StringName),
            node_path.prop_map(|path| Value::NodePath(Box::new(path))),
        ]
        .boxed(),
        prop_oneof![
            reals().prop_map(Value::Vector2),
            reals().prop_map(Value::Vector3),
            reals().prop_map(|parts| Value::Vector4(Box::new(parts))),
            reals().prop_map(|parts| Value::Rect2(Box::new(parts))),
            reals().prop_map(|parts| Value::Plane(Box::new(parts))),
            reals().prop_map(|parts| Value::Quaternion(Box::new(parts))),
            reals().prop_map(|parts| Value::Transform2D(Box::new(parts))),
            reals().prop_map(|parts| Value::Aabb(Box::new(parts))),
            reals().prop_map(|parts| Value::Basis(Box::new(parts))),
        ]
        .boxed(),
        prop_oneof![
            reals().prop_map(|parts| Value::Transform3D(Box::new(parts))),
            reals().prop_map(|parts| Value::Projection(Box::new(parts))),
            color().prop_map(Value::Color),
            any::<[i32; 2]>().prop_map(Value::Vector2i),
            any::<[i32; 3]>().prop_map(Value::Vector3i),
            any::<[i32; 4]>().prop_map(Value::Vector4i),
            any::<[i32; 4]>().prop_map(Value::Rect2i),
        ]
        .boxed(),
        prop_oneof![
            vec(any::<u8>(), 0..9).prop_map(Value::PackedByteArray),
            vec(any::<i32>(), 0..5).prop_map(Value::PackedInt32Array),
            vec(any::<i64>(), 0..5).prop_map(Value::PackedInt64Array),
            vec(real32(), 0..5).prop_map(Value::PackedFloat32Array),
            vec(real64(), 0..5).prop_map(Value::PackedFloat64Array),
        ]
        .boxed(),
        prop_oneof![
            vec(text(), 0..5).prop_map(Value::PackedStringArray),
            packed().prop_map(Value::PackedVector2Array),
            packed().prop_map(Value::PackedVector3Array),
            packed().prop_map(Value::PackedVector4Array),
            vec(color(), 0..4).prop_map(Value::PackedColorArray),
        ]
        .boxed(),
    ]
    .boxed()
}

fn container_type() -> impl Strategy<Value = ContainerType> {
    prop_oneof![
        (0..39_u32)
            .prop_map(|number| ContainerType::Builtin(Type::from_number(number).expect("a type"))),
        text().prop_map(ContainerType::Class),
        text().prop_map(ContainerType::Script),
    ]
}

/// Any value of any type, containers up to five deep.
pub(super) fn value() -> BoxedStrategy<Value> {
    leaf()
        .prop_recursive(5, 60, 6, |inner| {
            let entries = || {
                vec(
                    (
                        prop_oneof![text().prop_map(Value::String), inner.clone()],
                        inner.clone(),
                    ),
                    0..6,
                )
            };
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(Value::Array),
                (container_type(), vec(inner.clone(), 0..4)).prop_map(|(element_type, items)| {
                    Value::TypedArray(Box::new(TypedArray {
                        element_type,
                        items,
                    }))
                }),
                entries().prop_map(Value::Dictionary),
                (
                    container_type(),
                    proptest::option::of(container_type()),
                    entries()
                )
                    .prop_map(|(one, other, entries)| {
                        let (key_type, value_type) = if entries.len() % 2 == 0 {
                            (Some(one), other)
                        } else {
                            (other, Some(one))
                        };
                        Value::TypedDictionary(Box::new(TypedDictionary {
                            key_type,
                            value_type,
                            entries,
                        }))
                    }),
            ]
        })
        .boxed()
}

/// Encodings of such values with some bytes overwritten, cut off anywhere.
pub(super) fn damaged(values: BoxedStrategy<Value>) -> BoxedStrategy<Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let damage =
        |(value, changes, cut): (Value, Vec<(prop::sample::Index, u8)>, prop::sample::Index)| {
            let mut bytes = encode(&value);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            bytes
        };
    (values, changes, any::<prop::sample::Index>())
        .prop_map(damage)
        .boxed()
}

/// Doubles may differ in the last digit, since `serde_json` reads them back inexactly;
/// `floats_are_printed_exactly` looks at the digits.
fn same_json(left: &serde_json::Value, right: &serde_json::Value) -> bool {
    use serde_json::Value as Json;
    match (left, right) {
        (Json::Array(left), Json::Array(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| same_json(left, right))
        }
        (Json::Object(left), Json::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(key, value)| right.get(key).is_some_and(|other| same_json(value, other)))
        }
        (Json::Number(left), Json::Number(right)) if left.is_f64() && right.is_f64() => {
            let (left, right) = (left.as_f64().unwrap_or(0.0), right.as_f64().unwrap_or(0.0));
            left == right || (left.to_bits().abs_diff(right.to_bits())) <= 8
        }
        _ => left == right,
    }
}

/// Whatever the bytes are: the three readers agree, nothing panics, and what is accepted goes through all forms.
fn all_readers_agree(bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut json = Vec::new();
    let checked = check(bytes);
    let decoded = decode(bytes);
    let written = write_json(bytes, &mut json);
    match decoded {
        Ok(value) => {
            prop_assert!(checked.is_ok());
            prop_assert!(written.is_ok());
            let parsed: serde_json::Value = match serde_json::from_slice(&json) {
                Ok(parsed) => parsed,
                Err(error) => return Err(TestCaseError::fail(format!("{error} in {json:?}"))),
            };
            prop_assert!(
                same_json(&parsed, &value.to_json()),
                "{} and {}",
                parsed,
                value.to_json()
            );
            // Lenient forms come out in the usual form, which is then stable.
            let usual = encode(&value);
            let again = decode(&usual);
            prop_assert!(again.is_ok());
            prop_assert_eq!(encode(&again.unwrap_or_default()), usual);
        }
        Err(error) => {
            let refusal = checked.expect_err("check accepts what decode refuses");
            prop_assert_eq!(refusal.error, error);
            prop_assert!(!refusal.to_string().is_empty());
            prop_assert_eq!(written, Err(error));
            prop_assert!(json.is_empty());
        }
    }
    Ok(())
}

/// 512 cases each, or as many as `PROPTEST_CASES` says.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(512);
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_value_survives_the_encoding(value in value()) {
        let bytes = encode(&value);
        prop_assert_eq!(bytes.len() % 4, 0);
        let decoded = decode(&bytes).expect("decodes");
        // Bytes, not values: NaN is not equal to itself.
        prop_assert_eq!(encode(&decoded), bytes.clone());
        prop_assert_eq!(format!("{decoded:?}"), format!("{value:?}"));
        all_readers_agree(&bytes)?;
    }

    #[test]
    fn json_is_the_same_from_bytes_and_from_values(value in value()) {
        let mut json = Vec::new();
        write_json(&encode(&value), &mut json).expect("written");
        let parsed = serde_json::from_slice(&json).expect("JSON");
        prop_assert!(same_json(&parsed, &value.to_json()), "{} and {}", parsed, value.to_json());
    }

    #[test]
    fn floats_are_printed_exactly(double in any::<u64>().prop_map(f64::from_bits), single in any::<u32>().prop_map(f32::from_bits)) {
        prop_assume!(double.is_finite() && single.is_finite());
        let mut json = Vec::new();
        write_json(&encode(&Value::Float(double)), &mut json).expect("written");
        let text = String::from_utf8(json).expect("UTF-8");
        prop_assert_eq!(text.parse::<f64>().map(f64::to_bits), Ok(double.to_bits()));
        let mut json = Vec::new();
        write_json(&encode(&Value::PackedFloat32Array(vec![single])), &mut json).expect("written");
        let text = String::from_utf8(json).expect("UTF-8");
        let text = text.trim_matches(['[', ']']);
        prop_assert_eq!(text.parse::<f32>().map(f32::to_bits), Ok(single.to_bits()));
        prop_assert!(text.len() <= 16, "{}", text);
    }

    #[test]
    fn damaged_encodings_are_read_alike_by_all(
        value in value(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in proptest::option::of(any::<prop::sample::Index>()),
        tail in vec(any::<u8>(), 0..3),
    ) {
        let mut bytes = encode(&value);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(length) = length {
            bytes.truncate(length.index(bytes.len() + 1));
        }
        bytes.extend(tail);
        all_readers_agree(&bytes)?;
    }

    /// Headers of every type with every flag and small counts: far more of these are nearly right than of random bytes.
    #[test]
    fn arbitrary_words_are_read_alike_by_all(
        words in vec(
            prop_oneof![
                (0..41_u32, 0..16_u32).prop_map(|(kind, flags)| kind | flags << 16),
                prop_oneof![4 => 27..29_u32, 1 => Just(0_u32)],
                0..6_u32,
                any::<u32>(),
                Just(0x8000_0001_u32),
            ],
            0..40,
        )
    ) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        all_readers_agree(&bytes)?;
    }

    #[test]
    fn arbitrary_bytes_are_read_alike_by_all(bytes in vec(any::<u8>(), 0..200)) {
        all_readers_agree(&bytes)?;
    }
}

/// Shows that the comparison above has teeth: a reader that forgets to look for bytes left over is found out.
#[test]
fn a_reader_that_ignores_what_follows_is_found_out() {
    let sloppy = |bytes: &[u8]| decode(bytes.get(..4).unwrap_or(bytes));
    let bytes = [0, 0, 0, 0, 1];
    assert_ne!(sloppy(&bytes).is_ok(), check(&bytes).is_ok());
}
