//! The value codec against the real engine: `var_to_bytes` of a value of every type and of random ones, decoded,
//! compared with what the engine says the value is, and encoded again to the same bytes.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value as Json;
use sidekick_ipc::value::{
    ContainerType, Reals, Type, TypedArray, Value, check, decode, encode, write_json,
};
use sidekick_tests::godot::Godot;
use sidekick_tests::project::{Options, Output, Project};

const DEADLINE: Duration = Duration::from_secs(120);
const SCRIPT: &str = include_str!("../gd/codec/main.gd");

/// One value of the engine's.
struct Case {
    name: String,
    bytes: Vec<u8>,
    json: Json,
}

fn cases(godot: &Godot) -> Vec<Case> {
    let output = Project::without_extension(SCRIPT).run(godot, &Options::default(), DEADLINE);
    output.assert_clean_exit(0);
    assert_eq!(output.answer("done"), Some(""));
    let lines = answers(&output, "case: ");
    lines
        .map(|line| {
            let mut parts = line.splitn(3, ' ');
            let mut part = || {
                parts
                    .next()
                    .unwrap_or_else(|| panic!("a short line: {line}"))
            };
            let name = part().to_owned();
            let bytes = from_hex(part());
            let json =
                serde_json::from_str(part()).unwrap_or_else(|error| panic!("{error}: {line}"));
            Case { name, bytes, json }
        })
        .collect()
}

fn answers<'a>(output: &'a Output, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    output
        .lines
        .iter()
        .filter_map(move |line| line.strip_prefix(prefix))
}

fn from_hex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(byte).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn json_of(bytes: &[u8]) -> Json {
    let mut out = Vec::new();
    write_json(bytes, &mut out).expect("written");
    serde_json::from_slice(&out).expect("JSON")
}

/// Equal, where the engine's numbers are doubles made of 32-bit floats and ours have the shortest digits of these.
fn same(ours: &Json, engine: &Json) -> bool {
    match (ours, engine) {
        (Json::Array(ours), Json::Array(engine)) => {
            ours.len() == engine.len()
                && ours
                    .iter()
                    .zip(engine)
                    .all(|(ours, engine)| same(ours, engine))
        }
        (Json::Object(ours), Json::Object(engine)) => {
            ours.len() == engine.len()
                && ours
                    .iter()
                    .all(|(key, ours)| engine.get(key).is_some_and(|engine| same(ours, engine)))
        }
        (Json::Number(ours), Json::Number(engine)) if ours.is_f64() => {
            let (ours, engine) = (ours.as_f64().unwrap_or(0.0), engine.as_f64().unwrap_or(1.0));
            ours == engine || (ours as f32).to_bits() == (engine as f32).to_bits()
        }
        _ => ours == engine,
    }
}

/// Takes every value apart and puts it together again; the bytes must be those of the engine.
fn every_type_goes_through_byte_for_byte(godot: &Godot) {
    let cases = cases(godot);
    let mut types = Vec::new();
    for case in cases
        .iter()
        .filter(|case| !case.name.starts_with("refused_"))
    {
        let name = &case.name;
        check(&case.bytes).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        let value = decode(&case.bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            to_hex(&encode(&value)),
            to_hex(&case.bytes),
            "{name}: {value:?}"
        );
        let json = json_of(&case.bytes);
        assert!(
            same(&json, &value.to_json()),
            "{name}: {json} and {}",
            value.to_json()
        );
        if !name.starts_with("random_") {
            assert!(
                same(&json, &case.json),
                "{name}: {json} where the engine has {}",
                case.json
            );
        }
        types.push(case.bytes[0]);
    }
    types.sort_unstable();
    types.dedup();
    let storable: Vec<u8> = (0..39).filter(|kind| !(23..=26).contains(kind)).collect();
    assert_eq!(types, storable, "the script has a value of every type");
    assert!(cases.len() > 450, "{} cases", cases.len());
}

/// The sentence names the place and the remedy.
fn what_cannot_be_stored_is_refused_where_it_is(godot: &Godot) {
    let refused: Vec<(String, String)> = cases(godot)
        .into_iter()
        .filter(|case| case.name.starts_with("refused_"))
        .map(|case| {
            decode(&case.bytes).expect_err("not decoded");
            write_json(&case.bytes, &mut Vec::new()).expect_err("not written");
            (
                case.name,
                check(&case.bytes).expect_err("refused").to_string(),
            )
        })
        .collect();
    let expected = [
        (
            "refused_object",
            r#"the data holds an Object at ["target"][0]; "#,
        ),
        (
            "refused_resource",
            r#"the data holds an Object at ["texture"]; "#,
        ),
        (
            "refused_callable",
            r#"the data holds a Callable at ["then"]; "#,
        ),
        ("refused_signal", r#"the data holds a Signal at ["when"]; "#),
        ("refused_rid", r#"the data holds an RID at ["body"]; "#),
        ("refused_depth", "the data at [0][0]"),
    ];
    assert_eq!(refused.len(), expected.len(), "{refused:#?}");
    for ((name, sentence), (expected_name, beginning)) in refused.iter().zip(expected) {
        assert_eq!(name, expected_name);
        assert!(sentence.starts_with(beginning), "{name}: {sentence}");
    }
}

/// The other way round: the engine reads what was encoded here and writes the same bytes.
fn the_engine_reads_what_is_encoded_here(godot: &Godot) {
    let values = [
        Value::Int(i64::MIN),
        Value::Float(0.1),
        Value::Dictionary(vec![
            (
                Value::from("position"),
                Value::Vector3(Reals::Single([0.1, 2.0, 3.0])),
            ),
            (
                Value::StringName("hp".into()),
                Value::PackedStringArray(vec!["a".into(), "ä".into()]),
            ),
            (Value::Int(3), Value::PackedByteArray(vec![1, 2, 3])),
        ]),
        Value::TypedArray(Box::new(TypedArray {
            element_type: ContainerType::Builtin(Type::Int),
            items: vec![Value::Int(1), Value::Int(1 << 40)],
        })),
        Value::Transform3D(Box::new(Reals::Single([0.5; 12]))),
    ];
    let encoded: Vec<String> = values.iter().map(|value| to_hex(&encode(value))).collect();
    let project = Project::without_extension(SCRIPT);
    project.write("values.txt", &encoded.join("\n"));
    let options = Options {
        user_arguments: vec!["res://values.txt"],
        ..Options::default()
    };
    let output = project.run(godot, &options, DEADLINE);
    output.assert_clean_exit(0);
    let echoed: Vec<&str> = answers(&output, "echo: ").collect();
    assert_eq!(echoed, encoded);
}

/// A container that holds itself makes the engine give no bytes at all, which is refused with a sentence of its own.
fn a_container_that_holds_itself_is_refused(godot: &Godot) {
    let script = "extends Node\n\nfunc _ready() -> void:\n\tvar array: Array = []\n\tarray.append(array)\n\
                  \tprint(\"bytes: \", var_to_bytes(array).hex_encode())\n\tarray.clear()\n\tget_tree().quit()\n";
    let output = Project::without_extension(script).run(godot, &Options::default(), DEADLINE);
    assert_eq!(output.answer("bytes: "), Some(""));
    let refusal = check(&[]).expect_err("refused");
    assert!(
        refusal.to_string().contains("a container holds itself"),
        "{refusal}"
    );
}

sidekick_tests::godot_claims!(
    every_type_goes_through_byte_for_byte,
    what_cannot_be_stored_is_refused_where_it_is,
    the_engine_reads_what_is_encoded_here,
    a_container_that_holds_itself_is_refused,
);
