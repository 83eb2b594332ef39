//! Claims about what is done before anything is stored.

use sidekick_ipc::value::{Value, decode, encode};

use super::*;

fn origin(stream: &str, seq: u64) -> Origin<'_> {
    Origin {
        stream,
        source: "lobby-1",
        incarnation: 1,
        game_version: Some("1.2"),
        seq,
        time_ns: 0,
    }
}

fn spec(pattern: &str) -> ScreenSpec {
    ScreenSpec::new(pattern.parse().unwrap())
}

fn record(entries: &[(&str, Value)]) -> Vec<u8> {
    let entries = entries
        .iter()
        .map(|(name, value)| (Value::String((*name).into()), value.clone()));
    encode(&Value::Dictionary(entries.collect()))
}

fn verdict(screen: &Screen, stream: &str, seq: u64, data: &[u8]) -> Verdict {
    let mut scratch = Scratch::default();
    screen
        .screen(&origin(stream, seq), data, &mut scratch)
        .verdict
}

#[test]
fn records_are_dropped_by_name_and_by_condition() {
    let screen = Screen::compile(&[
        ScreenSpec {
            drop: Some("true".into()),
            ..spec("debug.*")
        },
        ScreenSpec {
            drop: Some("damage is defined and damage < 20".into()),
            ..spec("duel.hit")
        },
    ])
    .unwrap();
    let hit = |damage| record(&[("damage", Value::Int(damage))]);
    let verdict = |stream, data: &[u8]| verdict(&screen, stream, 1, data);
    assert_eq!(verdict("debug.draw", &hit(30)), Verdict::Dropped);
    assert_eq!(verdict("duel.hit", &hit(19)), Verdict::Dropped);
    assert_eq!(verdict("duel.hit", &hit(20)), Verdict::Same);
    assert_eq!(verdict("duel.hit", &record(&[])), Verdict::Same);
    assert_eq!(verdict("duel.hits", &hit(19)), Verdict::Same);
    assert!(screen.touches("debug.x") && !screen.touches("chat"));
}

#[test]
fn a_condition_without_a_value_does_not_hold_and_is_told() {
    let screen = Screen::compile(&[ScreenSpec {
        drop: Some("damage + 1 > 2".into()),
        ..spec("*")
    }])
    .unwrap();
    let data = record(&[("damage", Value::Array(vec![]))]);
    let screened = screen.screen(&origin("a", 1), &data, &mut Scratch::default());
    assert_eq!(
        screened,
        Screened {
            verdict: Verdict::Same,
            undecided: true
        }
    );
}

#[test]
fn a_sample_keeps_its_share_and_all_of_a_player_or_nothing() {
    let by_player = Screen::compile(&[ScreenSpec {
        sample: Some(0.1),
        sample_by: Some("player".into()),
        ..spec("*")
    }])
    .unwrap();
    let kept = |player: i64, seq| {
        let data = record(&[("player", Value::Int(player)), ("n", Value::Int(seq))]);
        verdict(&by_player, "move", seq.unsigned_abs(), &data) == Verdict::Same
    };
    let players: Vec<i64> = (0..10_000).filter(|player| kept(*player, 1)).collect();
    assert!((900..1100).contains(&players.len()), "{}", players.len());
    assert!((2..50).all(|seq| kept(players[0], seq)));

    let each = Screen::compile(&[ScreenSpec {
        sample: Some(0.5),
        ..spec("*")
    }])
    .unwrap();
    let data = record(&[]);
    let count = (0..10_000)
        .filter(|seq| verdict(&each, "move", *seq, &data) == Verdict::Same)
        .count();
    assert!((4800..5200).contains(&count), "{count}");
    for (share, expected) in [(0.0, Verdict::Dropped), (1.0, Verdict::Same)] {
        let all = Screen::compile(&[ScreenSpec {
            sample: Some(share),
            ..spec("*")
        }])
        .unwrap();
        assert!((0..500).all(|seq| verdict(&all, "move", seq, &data) == expected));
    }
}

#[test]
fn rules_apply_in_their_order_each_to_what_is_left() {
    let screen = Screen::compile(&[
        ScreenSpec {
            drop_fields: vec!["ip".into()],
            ..spec("*")
        },
        ScreenSpec {
            drop: Some("ip is defined".into()),
            truncate: [("say".to_owned(), 3)].into(),
            ..spec("chat.*")
        },
    ])
    .unwrap();
    let data = record(&[
        ("ip", Value::String("10.0.0.1".into())),
        ("say", Value::String("hello".into())),
    ]);
    let mut scratch = Scratch::default();
    let screened = screen.screen(&origin("chat.say", 1), &data, &mut scratch);
    assert_eq!(screened.verdict, Verdict::Changed);
    let left = decode(scratch.data()).unwrap();
    assert_eq!(left.get("say").and_then(Value::text), Some("hel"));
    assert_eq!(left.get("ip"), None);
    // The buffers hold nothing of the one before.
    let other = record(&[("x", Value::Nil)]);
    let screened = screen.screen(&origin("chat.say", 2), &other, &mut scratch);
    assert_eq!(screened.verdict, Verdict::Same);
}

#[test]
fn what_cannot_be_redacted_is_not_let_through() {
    let screen = Screen::compile(&[ScreenSpec {
        drop_fields: vec!["ip".into()],
        ..spec("*")
    }])
    .unwrap();
    let mut data = record(&[("ip", Value::String("10.0.0.1".into()))]);
    data.push(0);
    assert_eq!(verdict(&screen, "a", 1, &data), Verdict::Unreadable);
    data.truncate(data.len() - 5);
    assert_eq!(verdict(&screen, "a", 1, &data), Verdict::Unreadable);
    assert_eq!(verdict(&screen, "a", 1, &[]), Verdict::Unreadable);
}

#[test]
fn mistakes_name_the_rule_and_the_key() {
    let fails = |spec: ScreenSpec| Screen::compile(&[spec]).unwrap_err().to_string();
    let why = fails(ScreenSpec {
        drop_fields: vec!["a..b".into()],
        ..spec("chat")
    });
    assert_eq!(
        why,
        "the rule for \"chat\": drop_fields: the field \"a..b\" has an empty name in it"
    );
    let why = fails(ScreenSpec {
        hash_fields: vec!["a".into()],
        ..spec("chat")
    });
    assert_eq!(why, "the rule for \"chat\": hash_fields has no key");
    let why = fails(ScreenSpec {
        drop: Some("1 +".into()),
        ..spec("chat")
    });
    assert!(
        why.starts_with("the rule for \"chat\": drop: syntax error"),
        "{why}"
    );
    let why = fails(ScreenSpec {
        drop_fields: vec!["a".into()],
        truncate: [("a".to_owned(), 1)].into(),
        ..spec("chat")
    });
    assert!(why.ends_with("is named twice in one rule"), "{why}");
}
