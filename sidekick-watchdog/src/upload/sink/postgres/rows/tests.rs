//! Rows are what COPY reads back as the same values.

use sidekick_ipc::frame::{FrameKind, Gap, append_frame, gap_cause};

use super::super::tables::{TableName, TableRule};
use super::*;
use crate::slab::Slab;
use crate::upload::encode::Walk;
use crate::upload::testing::{EPOCH, head, put_record};

fn writer(rules: &[TableRule]) -> CopyWriter {
    let records = TableName::parse("sidekick_records").unwrap();
    CopyWriter::new(Arc::new(Tables::new(&records, rules)))
}

/// The rows of a slab, each with its index before a colon.
fn rows(writer: &mut CopyWriter, slab: Slab) -> Vec<String> {
    let mut walk = Walk::new(slab);
    let mut rows = Vec::new();
    while let Some((head, item)) = walk.step() {
        let mut out = Vec::new();
        writer.write(head, &item, &mut out);
        let (index, columns) = out.split_first_chunk::<INDEX_BYTES>().unwrap();
        let columns = std::str::from_utf8(columns).unwrap();
        let columns = columns.strip_suffix('\n').expect("a line feed at the end");
        assert!(!columns.contains('\n'), "one line: {columns:?}");
        rows.push(format!("{}:{columns}", u16::from_le_bytes(*index)));
    }
    rows
}

fn dictionary(pairs: &[(&str, Variant)]) -> Variant {
    let pair = |(key, value): &(&str, Variant)| (Variant::from(*key), value.clone());
    Variant::Dictionary(pairs.iter().map(pair).collect())
}

/// The form is part of what a table holds: it changes with its version only.
#[test]
fn rows_keep_their_form() {
    let mut frames = Vec::new();
    let value = dictionary(&[
        ("who", Variant::from("a\"b\\c\td\ne")),
        ("n", Variant::Int(7)),
    ]);
    put_record(&mut frames, 1, "chat.say", &value);
    let mut payload = Vec::new();
    Gap {
        first_monotonic_ns: 999_000_000_000,
        last_monotonic_ns: 1_000_000_000_000,
        count: 4,
        bytes: 512,
        cause: gap_cause::FULL,
    }
    .encode(&mut payload);
    append_frame(
        &mut frames,
        &EPOCH,
        FrameKind::Gap as u16,
        2,
        1_000_000_000_000,
        &payload,
    );
    let slab = Slab {
        head: head(1, 4),
        frames: frames.into(),
    };
    let start = "lobby-1\t00000000-0000-0000-0000-00000000e90c";
    assert_eq!(
        rows(&mut writer(&[]), slab),
        [
            format!(
                "0:{start}\t1\tchat.say\t2026-11-22T12:00:00.000001Z\t3\t{}",
                r#"{"who":"a\\"b\\\\c\\td\\ne","n":7}"#
            ),
            format!(
                "1:{start}\t2\t2026-11-22T12:00:00.000000Z\t3\t4\t512\t\\N\t\\N\trefused by the engine: ring full\t\\N\t\
                 2026-11-22T11:59:59.000000Z\t2026-11-22T12:00:00.000000Z"
            ),
            format!(
                "1:{start}\t3\t2026-11-22T12:00:00.000000Z\t3\t2\t\\N\t3\t4\tthe slab ends early\t\\N\t\\N\t\\N"
            ),
        ]
    );
}

#[test]
fn fields_go_into_the_columns_of_their_streams_table() {
    let column = |name: &str, from: &str| (name.to_owned(), Value::parse(from).unwrap());
    let rule = TableRule {
        pattern: "damage.*".into(),
        table: TableName::parse("damage").unwrap(),
        columns: vec![
            column("n", "$seq"),
            column("amount", "amount"),
            column("who", "attacker.name"),
            column("at", "at"),
            column("none", "no.such"),
            column("kind", "$stream"),
        ],
    };
    let attacker = dictionary(&[("name", Variant::from("tab\there"))]);
    let at = Variant::Array(vec![Variant::Float(0.5), Variant::from("x\\")]);
    let value = dictionary(&[
        ("attacker", attacker),
        ("amount", Variant::Float(12.0)),
        ("at", at),
    ]);
    let mut frames = Vec::new();
    put_record(&mut frames, 1, "damage.fire", &value);
    put_record(
        &mut frames,
        2,
        "damage.fire",
        &Variant::from("no dictionary"),
    );
    put_record(&mut frames, 3, "other", &Variant::Nil);
    let slab = Slab {
        head: head(1, 3),
        frames: frames.into(),
    };
    let rows = rows(&mut writer(&[rule]), slab);
    assert_eq!(
        rows[0],
        "2:1\t12\ttab\\there\t[0.5,\"x\\\\\\\\\"]\t\\N\tdamage.fire"
    );
    assert_eq!(rows[1], "2:2\t\\N\t\\N\t\\N\t\\N\tdamage.fire");
    assert!(rows[2].starts_with("0:lobby-1\t"), "{}", rows[2]);
}

/// What COPY reads is what was meant: any text comes back, and a NUL is no end of it.
#[test]
fn texts_come_back_as_they_were() {
    for text in [
        "",
        "a",
        "\\N",
        "\\",
        "a\tb\nc\rd\\e",
        "ü\u{1}\u{7f}",
        "\\\\t",
    ] {
        let mut out = Vec::new();
        put_text(&mut out, text);
        let row = String::from_utf8(out).unwrap();
        assert_eq!(
            columns(&row).collect::<Vec<_>>(),
            [Some(text.to_owned())],
            "{row:?}"
        );
    }
    let mut out = Vec::new();
    put_text(&mut out, "a\0b");
    assert_eq!(out, "a\u{fffd}b".as_bytes());
    assert_eq!(
        columns("\\N\t1").collect::<Vec<_>>(),
        [None, Some("1".into())]
    );
}
