//! Rules in the file: what is read, and where mistakes are told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::{Sources, resolve, template};
use super::*;
use crate::process::{Expected, Recorded, Sent, SetSpec, Tried};

fn load(text: &str, folder: &Path) -> Result<StreamsConfig, Vec<String>> {
    let sources = Sources {
        file: Some((PathBuf::from("sidekick.toml"), text.to_owned())),
        working_dir: folder.to_owned(),
        hostname: "host-1".into(),
        ..Sources::default()
    };
    match resolve(&sources) {
        Ok(config) => Ok(config.streams),
        Err(errors) => Err(errors.complaints.iter().map(ToString::to_string).collect()),
    }
}

#[test]
fn rules_and_tests_are_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hash.key"), "0123456789abcdef\n").unwrap();
    let text = r#"
[[stream]]
match = "chat.*"
keep = true
drop_fields = ["ip", "player.email"]
hash_fields = ["player.id"]
hash_key_file = "hash.key"
truncate = { text = 500 }
filter = "text != ''"
rename = { pl = "player" }
set = { region = "eu", build = 7, server = { expr = "source" }, at = [1, 2.5] }
sink = ["file"]

[[stream]]
match = "*"
drop = true
sample = 0.1
sample_by = "player.id"

[[test]]
name = "no addresses"
stream = "chat.say"
input = { text = "hi" }
expect = { text = "hi" }

[[test]]
stream = "x"
input = 1
dropped = true

[[test]]
stream = "x"
input = "y"
refused = "no"
"#;
    let config = load(text, folder.path()).unwrap();
    let [chat, all] = &config.rules[..] else {
        panic!("two rules")
    };
    assert!(chat.keep && !all.keep);
    assert_eq!(chat.screen.drop_fields, ["ip", "player.email"]);
    assert!(chat.screen.hash_key.is_some());
    assert_eq!(chat.screen.truncate.get("text"), Some(&500));
    assert_eq!(chat.shape.sinks, Some(vec!["file".to_owned()]));
    assert_eq!(chat.shape.set.len(), 4);
    assert_eq!(
        chat.shape.set.get("server"),
        Some(&SetSpec::Expr("source".into()))
    );
    assert_eq!(all.screen.drop.as_deref(), Some("true"));
    assert_eq!(all.screen.sample, Some(0.1));
    let expected = config.trials.iter().map(|trial| match &trial.tried {
        Tried::Record { expected, .. } => expected,
        Tried::Run { .. } => panic!("it has one input"),
    });
    let expected: Vec<_> = expected.collect();
    assert_eq!(
        expected,
        [
            &Expected::Data(serde_json::json!({"text": "hi"})),
            &Expected::Dropped,
            &Expected::Refused("no".into())
        ]
    );
    assert_eq!(config.trials[1].name, "sidekick.toml:26:1");
    // What is shown reads back as the same, and holds no secret.
    let again = load(&config.shown, folder.path()).unwrap();
    assert_eq!(again.shape_text(), config.shape_text());
    assert!(!config.shown.contains("0123456789abcdef"));
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
}

#[test]
fn each_mistake_is_told_at_its_place() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("short.key"), "short").unwrap();
    std::fs::write(folder.path().join("odd.json"), r#"{"minProperties": 1}"#).unwrap();
    let text = r#"
[[stream]]
drop = true

[[stream]]
match = ""

[[stream]]
match = "chat.*"
drop = "1 +"
sample = 1.5
sample_by = "a.*"
drop_fields = ["a..b"]
hash_fields = ["id"]
hash_key_file = "short.key"
truncate = { text = -1, "x." = 3 }
filter = 7
rename = { a = "" }
set = { a = { expr = "b c" }, b = { expr = "b", c = 1 } }
schema = "odd.json"
sink = ["http"]
dorp_fields = ["x"]

[[stream]]
match = "a"
hash_fields = ["id"]
sample_by = "id"

[[stream]]
match = "b"
drop_fields = ["id"]
truncate = { id = 1 }

[[test]]
stream = "a"
input = {}
"#;
    let complaints = load(text, folder.path()).unwrap_err();
    let (key, odd) = (
        folder.path().join("short.key"),
        folder.path().join("odd.json"),
    );
    let expected = [
        "sidekick.toml:2:1: stream.match is missing: name the streams, such as \"chat.*\"".to_owned(),
        "sidekick.toml:6:9: stream.match cannot be used: a stream pattern cannot be empty; \"*\" means every stream".into(),
        "sidekick.toml:10:8: stream.drop is no expression that can be used: syntax error: unexpected end of input, expected expression".into(),
        "sidekick.toml:11:10: stream.sample is 1.5: must be from 0 to 1".into(),
        "sidekick.toml:12:13: stream.sample_by must name one field, without *".into(),
        "sidekick.toml:13:15: stream.drop_fields the field \"a..b\" has an empty name in it".into(),
        format!("sidekick.toml:15:17: stream.hash_key_file cannot be used: {} holds 5 bytes, at least 16 are needed; try: openssl rand -hex 32", key.display()),
        "sidekick.toml:16:21: stream.truncate of the field \"text\" must be a whole number from 0 to 4294967295, not the number -1 (bytes)".into(),
        "sidekick.toml:16:32: stream.truncate the field \"x.\" has an empty name in it".into(),
        "sidekick.toml:17:10: stream.filter must be a string, not the number 7".into(),
        "sidekick.toml:18:16: stream.rename of the field \"a\" must not be empty".into(),
        "sidekick.toml:19:13: stream.set of the field \"a\" is no expression that can be used: syntax error: unexpected input after expression".into(),
        "sidekick.toml:19:35: stream.set of the field \"b\" has more than expr in its table".into(),
        format!("sidekick.toml:20:10: stream.schema cannot be used: {}: #/minProperties: is a keyword that is not known here", odd.display()),
        "sidekick.toml:21:8: stream.sink names \"http\", which is not in upload.sinks".into(),
        "sidekick.toml:22:1: stream.dorp_fields is an unknown key; did you mean \"drop_fields\"?".into(),
        "sidekick.toml:26:15: stream.hash_fields needs hash_key_file, a file with a secret of at least 16 characters".into(),
        "sidekick.toml:27:13: stream.sample_by means nothing without sample".into(),
        "sidekick.toml:29:1: stream cannot be used: the rule for \"b\": truncate: the field \"id\" is named twice in one rule".into(),
        "sidekick.toml:34:1: test.expect is missing: say what comes of the input by expect, dropped = true or refused".into(),
    ];
    assert_eq!(complaints, expected);
}

/// Compiled without a word, they would be wrong for every record.
#[test]
fn names_that_mean_nothing_are_told_at_their_place() {
    let text = r#"
[[stream]]
match = "chat"
drop = "contains(text, 'secret')"
filter = "text | lenght > 3"
set = { a = 1, b = { expr = "text.strip()" } }
"#;
    let complaints = load(text, Path::new("/")).unwrap_err();
    let wrong = "is no expression that can be used:";
    assert_eq!(
        complaints,
        [
            format!(
                "sidekick.toml:4:8: stream.drop {wrong} there is no function \"contains\" (character 1); write: 'part' in text"
            ),
            format!(
                "sidekick.toml:5:10: stream.filter {wrong} there is no filter \"lenght\" (character 8); did you mean \"length\"?"
            ),
            format!(
                "sidekick.toml:6:20: stream.set of the field \"b\" {wrong} values have no methods, such as \"strip\" (character 6); write: text | trim"
            ),
        ]
    );
}

#[test]
fn rules_for_more_than_one_record_are_read() {
    let text = r#"
[[stream]]
match = "damage"
dedupe = { by = ["id", "who.name"], within = "10m" }
aggregate = { into = "damage.minute", every = "1m", by = ["$source"], values = ["a"], histogram = { a = [1, 2.5], b = [0] } }
"#;
    let config = load(text, Path::new("/")).unwrap();
    let rule = &config.rules[0];
    let dedupe = DedupeSpec {
        pattern: "damage".into(),
        by: vec!["id".into(), "who.name".into()],
        within_ns: 600_000_000_000,
        keys_max: 10_000,
    };
    assert_eq!(rule.dedupe, Some(dedupe));
    let aggregate = AggregateSpec {
        pattern: "damage".into(),
        into: "damage.minute".into(),
        every_ns: 60_000_000_000,
        lateness_ns: 10_000_000_000,
        by: vec!["$source".into()],
        values: BTreeMap::from([("a".into(), vec![1.0, 2.5]), ("b".into(), vec![0.0])]),
        keep_raw: false,
    };
    assert_eq!(rule.aggregate, Some(aggregate));
    assert!(!config.fold_rules().unwrap().is_empty());
    let again = load(&config.shown, Path::new("/")).unwrap();
    assert_eq!(again.rules[0].aggregate, rule.aggregate);
}

#[test]
fn mistakes_in_them_are_told() {
    let rule = |line: &str| {
        let text = format!("[[stream]]\nmatch = \"a\"\n{line}\n");
        load(&text, Path::new("/")).unwrap_err().join("\n")
    };
    for (line, why) in [
        ("dedupe = true", "stream.dedupe must be a table such as {"),
        (
            "dedupe = { by = [] }",
            "stream.dedupe.by must name the fields",
        ),
        ("dedupe = { by = [\"a\"] }", "stream.dedupe lacks something"),
        (
            "dedupe = { by = [\"a.*\"], within = \"1m\" }",
            "stream.dedupe.by the field \"a.*\" may not have a * in it",
        ),
        (
            "dedupe = { by = [\"a\"], within = \"1ms\" }",
            "stream.dedupe.within is \"1ms\": must be from",
        ),
        (
            "dedupe = { by = [\"a\"], within = \"1m\", keys_max = 0 }",
            "stream.dedupe.keys_max is 0",
        ),
        (
            "aggregate = { every = \"1m\" }",
            "stream.aggregate lacks something",
        ),
        (
            "aggregate = { into = \"sidekick.x\", every = \"1m\" }",
            "stream.aggregate.into begins with \"sidekick.\"",
        ),
        (
            "aggregate = { into = \"x\", every = \"1m\", histogram = { a = [2, 1] } }",
            "stream.aggregate.histogram of the field \"a\" must be 1 to 32 rising numbers",
        ),
        (
            "aggregate = { into = \"x\", every = \"1m\", vales = [\"a\"] }",
            "did you mean \"values\"?",
        ),
        (
            "aggregate = { into = \"x\", every = \"1m\", values = [\"a\", \"b\", \"c\", \"d\", \"e\"], \
             histogram = { f = [1], g = [1], h = [1], i = [1] } }",
            "stream.aggregate.values has 9 fields, at most 8",
        ),
    ] {
        let found = rule(line);
        assert!(found.contains(why), "{line}: {found}");
    }
}

#[test]
fn tests_of_several_records_are_read() {
    let text = r#"
[[test]]
stream = "damage"
game_version = "1.2"
inputs = [{ at = "1s", data = { a = 5 } }, { stream = "chat", data = 1 }]
outputs = [{ stream = "damage.minute", at = "0s", data = {} }, { refused = "no" }]

[[test]]
stream = "damage"
inputs = [{ data = 1 }]
outputs = []
"#;
    let config = load(text, Path::new("/")).unwrap();
    let recorded = |stream: &str, at_ns, data| Recorded {
        stream: stream.into(),
        at_ns,
        data,
    };
    let sent = |stream: &str, at_ns, what| Sent {
        stream: stream.into(),
        at_ns,
        what,
    };
    let trial = &config.trials[0];
    assert_eq!(trial.game_version, "1.2");
    assert_eq!(
        trial.tried,
        Tried::Run {
            inputs: vec![
                recorded("damage", 1_000_000_000, serde_json::json!({"a": 5})),
                recorded("chat", 0, serde_json::json!(1)),
            ],
            outputs: vec![
                sent(
                    "damage.minute",
                    Some(0),
                    Expected::Data(serde_json::json!({}))
                ),
                sent("damage", None, Expected::Refused("no".into())),
            ],
        }
    );
    // The second is that of a record which is sent as it is.
    assert_eq!(config.failing_trials("s").unwrap().len(), 2);
    let again = load(&config.shown, Path::new("/")).unwrap();
    assert_eq!(again.trials[0].tried, trial.tried);
}

#[test]
fn mistakes_in_tests_are_told() {
    let test = |lines: &str| {
        let text = format!("[[test]]\nstream = \"a\"\n{lines}\n");
        load(&text, Path::new("/")).unwrap_err().join("\n")
    };
    for (lines, why) in [
        (
            "inputs = [{ data = 1 }]",
            "1:1: test.outputs is missing: list all that is sent",
        ),
        (
            "inputs = [{ data = 1 }]\noutputs = []\ninput = 1\ndropped = true",
            "3:10: test.inputs does not go with input: ",
        ),
        (
            "expect = 1",
            "1:1: test.input is missing: say what is recorded, or list",
        ),
        (
            "outputs = []",
            "1:1: test.inputs is missing: list what is recorded",
        ),
        (
            "input = 1\ndropped = false",
            "1:1: test.expect is missing: ",
        ),
        (
            "input = 1\nexpect = 1\ndropped = true",
            "5:11: test.dropped does not go with expect: ",
        ),
        (
            "input = 1\nexpect = 1\nrefused = \"x\"",
            "5:11: test.refused does not go with expect: ",
        ),
        (
            "input = 1\nexpect = 1\noutputs = []",
            "5:11: test.outputs does not go with input: ",
        ),
        (
            "inputs = [{ data = 1 }]\noutputs = []\nexpect = 1\ndropped = true",
            "5:10: test.expect does not go with inputs: outputs lists all that is sent\n\
             sidekick.toml:6:11: test.dropped does not go with inputs: ",
        ),
        (
            "inputs = [1]\noutputs = []",
            "3:10: test.inputs must be a list of tables such as [{ at",
        ),
        (
            "inputs = [{ data = 1 }, { at = \"1s\" }]\noutputs = []",
            "3:25: test.inputs lacks data in one of its tables",
        ),
        (
            "inputs = [{ data = 1, at = 7 }]\noutputs = []",
            "test.inputs.at must be a duration",
        ),
        (
            "inputs = [{ daat = 1 }]\noutputs = []",
            "test.inputs.daat is an unknown key; did you mean \"data\"?",
        ),
        (
            "inputs = []\noutputs = [{ data = 1, refused = \"x\" }]",
            "test.outputs.refused means nothing beside data",
        ),
    ] {
        let found = test(lines);
        assert!(found.contains(why), "{lines}: {found}");
    }
}

#[test]
fn a_test_without_a_stream_is_told() {
    let complaints = load("[[test]]\ninput = 1\ndropped = true\n", Path::new("/")).unwrap_err();
    assert_eq!(
        complaints,
        [
            "sidekick.toml:1:1: test.stream is missing: name the stream that is recorded to, such as \"chat.say\""
        ]
    );
}

/// Bytes count, as in the ring's header, where a longer one is cut.
#[test]
fn a_test_has_no_game_version_that_no_game_tells() {
    let test = |version: &str| {
        let text = format!(
            "[[test]]\nstream = \"a\"\ninput = 1\nexpect = 1\ngame_version = \"{version}\"\n"
        );
        load(&text, Path::new("/"))
    };
    assert!(test(&"x".repeat(51)).is_ok());
    for version in ["x".repeat(52), "ö".repeat(26)] {
        let why = "has 52 bytes: a game tells at most 51 of its version";
        let complaints = test(&version).unwrap_err();
        assert_eq!(
            complaints,
            [format!("sidekick.toml:5:16: test.game_version {why}")]
        );
    }
}

#[test]
fn a_rule_that_is_no_list_is_told() {
    let complaints = load("[stream]\nmatch = \"a\"\n", Path::new("/")).unwrap_err();
    assert_eq!(
        complaints,
        ["sidekick.toml:1:1: stream must be a list of tables, each written as [[stream]]"]
    );
}

/// With the file that it names, what `init` shows can be used, and its own test passes.
#[test]
fn the_example_of_init_works() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hash.key"), "0123456789abcdef\n").unwrap();
    assert!(template().ends_with(TEMPLATE));
    let lines = TEMPLATE.lines().filter_map(|line| line.strip_prefix('#'));
    let text: Vec<_> = lines.filter(|line| !line.starts_with(' ')).collect();
    let config = load(&text.join("\n"), folder.path()).unwrap();
    assert_eq!((config.rules.len(), config.trials.len()), (3, 2));
    assert_eq!(config.failing_trials("lobby-1").unwrap(), []);
    // They would be told.
    let failing = config.failing_trials("lobby-2").unwrap();
    assert_eq!(failing[0].0, "no addresses");
}
