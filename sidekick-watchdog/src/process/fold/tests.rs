//! What rules remember, over restarts, reloads and too much of it: no number is lost and none counts twice.

use sidekick_ipc::value::{Value, decode, encode};

use super::aggregate::GROUPS_MAX;
use super::*;

const SECOND_NS: u64 = 1_000_000_000;

fn text(text: &str) -> Value {
    Value::String(text.into())
}

fn data(fields: &[(&str, Value)]) -> Vec<u8> {
    let fields = fields.iter();
    let fields = fields.map(|(name, value)| (text(name), value.clone()));
    encode(&Value::Dictionary(fields.collect()))
}

fn origin(stream: &str, time_ns: u64) -> Origin<'_> {
    Origin {
        stream,
        source: "lobby-1",
        incarnation: 1,
        game_version: Some("1.2"),
        seq: 1,
        time_ns: i128::from(time_ns),
    }
}

fn dedupe(keys_max: u32) -> DedupeSpec {
    DedupeSpec {
        pattern: "hit*".into(),
        by: vec!["id".into(), "who.name".into()],
        within_ns: 10 * SECOND_NS,
        keys_max,
    }
}

fn minute() -> AggregateSpec {
    AggregateSpec {
        pattern: "damage".into(),
        into: "damage.minute".into(),
        every_ns: 60 * SECOND_NS,
        lateness_ns: 10 * SECOND_NS,
        by: vec!["weapon".into()],
        values: BTreeMap::from([
            ("amount".into(), vec![10.0, 100.0]),
            ("range".into(), Vec::new()),
        ]),
        keep_raw: false,
    }
}

fn fold(dedupes: &[DedupeSpec], aggregates: &[AggregateSpec]) -> Fold {
    let rules = FoldRules::compile(dedupes, aggregates).unwrap();
    Fold::new(Arc::new(rules), &BTreeMap::new())
}

/// Keeps cells as the store does.
fn keep(cells: &mut BTreeMap<Vec<u8>, Vec<u8>>, fold: &mut Fold) {
    for (name, cell) in fold.take_changes() {
        match cell {
            Some(cell) => drop(cells.insert(name, cell)),
            None => drop(cells.remove(&name)),
        }
    }
}

fn told(row: &Row) -> serde_json::Value {
    decode(&row.variant).unwrap().to_json()
}

#[test]
fn the_first_of_its_kind_counts() {
    let mut fold = fold(&[dedupe(3)], &[]);
    let who = |name: Value| Value::Dictionary(vec![(text("name"), name)]);
    let ann = || who(text("ann"));
    let mut take = |stream: &str, at_s: u64, fields: &[(&str, Value)]| {
        fold.fold(&origin(stream, at_s * SECOND_NS), &data(fields))
    };
    let seven = [("id", Value::Int(7)), ("who", ann())];
    assert_eq!(take("hit", 100, &seven), Folded::Kept);
    assert_eq!(take("hit", 101, &seven), Folded::Duplicate);
    // A text is its number, and what is not a key does not count.
    let again = [("id", text("7")), ("who", ann()), ("x", Value::Int(1))];
    assert_eq!(take("hit", 110, &again), Folded::Duplicate);
    // It may come too early: from another ring.
    assert_eq!(take("hit", 91, &seven), Folded::Duplicate);
    assert_eq!(take("hit.far", 100, &seven), Folded::Kept, "another stream");
    assert_eq!(take("miss", 100, &seven), Folded::Kept, "not the rule's");
    let bob = [("id", Value::Int(7)), ("who", who(text("bob")))];
    assert_eq!(take("hit", 100, &bob), Folded::Kept);
    // What lacks a key field is like no other.
    for _ in 0..2 {
        assert_eq!(take("hit", 100, &[("id", Value::Int(7))]), Folded::Kept);
    }
    // Long enough after the first.
    assert_eq!(take("hit", 111, &seven), Folded::Kept);
    assert_eq!(take("hit", 112, &seven), Folded::Duplicate);
    // Only the latest three are remembered.
    for id in 20..23 {
        let other = [("id", Value::Int(id)), ("who", ann())];
        assert_eq!(take("hit", 112, &other), Folded::Kept);
    }
    assert_eq!(take("hit", 112, &seven), Folded::Kept);
    assert_eq!(fold.seen.len(), 1);
    let mut cells = BTreeMap::new();
    keep(&mut cells, &mut fold);
    assert_eq!(cells.len(), 3, "what is forgotten is no cell");
}

#[test]
fn a_window_is_one_row_for_each_group() {
    let mut fold = fold(&[], &[minute()]);
    let mut hit = |at_s: u64, weapon: Value, amount: Value| {
        let fields = [("weapon", weapon), ("amount", amount)];
        fold.fold(&origin("damage", at_s * SECOND_NS), &data(&fields))
    };
    for (at_s, weapon, amount) in [
        (120, text("bow"), Value::Int(5)),
        (121, text("bow"), Value::Int(10)),
        (179, Value::StringName("bow".into()), Value::Float(100.5)),
        (130, text("bow"), text("much")),
        (125, Value::Nil, Value::Int(-1)),
        (180, text("bow"), Value::Int(1)),
    ] {
        assert_eq!(hit(at_s, weapon, amount), Folded::Aggregated);
    }
    assert_eq!(fold.close(None), [], "it waits for what comes late");
    let open = OpenWindows {
        count: 3,
        oldest_ns: Some(120 * SECOND_NS),
    };
    assert_eq!(fold.open(), open);
    assert_eq!(fold.due_ns(), Some(190 * SECOND_NS));
    fold.fold(&origin("damage", 190 * SECOND_NS), &data(&[]));
    let rows = fold.close(None);
    let stats = serde_json::json!({"count": 3, "sum": 115.5, "min": 5, "max": 100.5, "bounds": [10.0, 100.0],
        "buckets": [2, 0, 1]});
    let found: Vec<_> = rows.iter().map(told).collect();
    let empty = serde_json::json!({"count": 0});
    let one = serde_json::json!({"count": 1, "sum": -1, "min": -1, "max": -1, "bounds": [10.0, 100.0], "buckets": [1, 0, 0]});
    let mut expected = [
        serde_json::json!({"window_s": 60.0, "by": {"weapon": "bow"}, "count": 4, "values": {"amount": stats, "range": empty}}),
        serde_json::json!({"window_s": 60.0, "by": {"weapon": null}, "count": 1, "values": {"amount": one, "range": empty}}),
    ];
    expected.sort_by_key(|row| found.iter().position(|found| found == row));
    assert_eq!(found, expected);
    assert!(
        rows.iter()
            .all(|row| row.time_ns == 120 * SECOND_NS && row.stream == "damage.minute")
    );
    // What comes later still is told in another row.
    fold.fold(&origin("damage", 150 * SECOND_NS), &data(&[]));
    let late = fold.close(None);
    assert_eq!((late.len(), late[0].time_ns), (1, 120 * SECOND_NS));
    // With nobody left to tell the time, the clock does.
    assert_eq!(fold.close(Some(249 * SECOND_NS)), []);
    assert_eq!(fold.close(Some(250 * SECOND_NS)).len(), 2);
    assert_eq!(fold.open(), OpenWindows::default());
    let mut cells = BTreeMap::new();
    keep(&mut cells, &mut fold);
    assert_eq!(cells, BTreeMap::new());
}

#[test]
fn numbers_stay_whole_while_they_fit() {
    let mut fold = fold(
        &[],
        &[AggregateSpec {
            by: Vec::new(),
            ..minute()
        }],
    );
    let mut cells = BTreeMap::new();
    let mut sum_with = |amount: Value| {
        fold.fold(&origin("damage", 0), &data(&[("amount", amount)]));
        // A copy tells, so that it can be asked again.
        keep(&mut cells, &mut fold);
        let mut copy = Fold::new(Arc::clone(&fold.rules), &cells);
        told(&copy.close(Some(u64::MAX))[0])["values"]["amount"]["sum"].clone()
    };
    assert_eq!(sum_with(Value::Int(i64::MAX - 1)), i64::MAX - 1);
    assert_eq!(sum_with(Value::Int(1)), i64::MAX);
    assert_eq!(sum_with(Value::Float(f64::NAN)), i64::MAX);
    assert_eq!(sum_with(Value::Int(1)), i64::MAX as f64 + 1.0);
}

/// A rule that is taken out or changed: what it has counted is told at once; one that is only read again goes on.
#[test]
fn a_rule_that_goes_tells_what_it_has() {
    let mut fold = fold(&[dedupe(9)], &[minute()]);
    fold.fold(&origin("damage", 0), &data(&[]));
    let key = data(&[
        ("id", Value::Int(1)),
        ("who", Value::Dictionary(vec![(text("name"), Value::Nil)])),
    ]);
    assert_eq!(fold.fold(&origin("hit", 0), &key), Folded::Kept);
    let mut cells = BTreeMap::new();
    keep(&mut cells, &mut fold);
    let same = FoldRules::compile(&[dedupe(9)], &[minute()]).unwrap();
    fold.set_rules(Arc::new(same));
    assert_eq!(fold.close(None), []);
    assert_eq!(fold.fold(&origin("hit", 0), &key), Folded::Duplicate);
    let hourly = AggregateSpec {
        every_ns: 3600 * SECOND_NS,
        ..minute()
    };
    let other = Arc::new(FoldRules::compile(&[], &[hourly]).unwrap());
    // Whether it hears of it while it runs or when it starts.
    fold.set_rules(Arc::clone(&other));
    let mut again = Fold::new(other, &cells);
    for fold in [&mut fold, &mut again] {
        let rows = fold.close(None);
        assert_eq!((rows.len(), &told(&rows[0])["window_s"]), (1, &60.0.into()));
        let mut kept = cells.clone();
        keep(&mut kept, fold);
        assert_eq!(kept, BTreeMap::new());
    }
}

#[test]
fn too_many_groups_are_told_early() {
    let mut fold = fold(&[], &[minute()]);
    let total = GROUPS_MAX + ROWS_MAX + 10;
    for n in 0..total {
        let at_ns = (n as u64) * SECOND_NS / 100;
        let fields = [("weapon", Value::Int(n as i64))];
        fold.fold(&origin("damage", at_ns), &data(&fields));
    }
    let (first, second) = (fold.close(None).len(), fold.close(None).len());
    assert_eq!(first, ROWS_MAX);
    let rest = fold.close(Some(u64::MAX)).len();
    assert!(second > 0 && rest <= GROUPS_MAX, "{second} {rest}");
    let mut told = first + second + rest;
    loop {
        match fold.close(Some(u64::MAX)).len() {
            0 => break,
            more => told += more,
        }
    }
    assert_eq!(told, total);
}

/// Cells of another version, or damaged ones: forgotten, and taken away.
#[test]
fn cells_that_nobody_can_read_go() {
    let odd = [
        "",
        "k",
        "kshort",
        "a12345678",
        "g",
        "zzz",
        "g12345678123456781",
    ];
    let cells = odd.map(|name| (name.as_bytes().to_vec(), b"?".to_vec()));
    let mut cells = BTreeMap::from(cells);
    let mut fold = Fold::new(Arc::default(), &cells);
    assert_eq!(fold.close(Some(u64::MAX)), []);
    keep(&mut cells, &mut fold);
    assert_eq!(cells, BTreeMap::new());
}

/// How a driver does it wrong.
#[derive(Clone, Copy, PartialEq)]
enum Driver {
    Right,
    /// It does not keep the cells.
    Forgets,
    /// It folds what a step was committed with once more after a restart.
    FoldsTwice,
}

/// Runs of records, each a step that is committed or not; a start from the cells in between, wherever it likes. Gives
/// how many records and how much of their amounts the rows tell, and what was recorded.
fn totals(seed: u64, driver: Driver) -> ((u64, i64), (u64, i64)) {
    let mut random = fastrand::Rng::with_seed(seed);
    let rules = Arc::new(FoldRules::compile(&[dedupe(20)], &[minute()]).unwrap());
    let mut cells = BTreeMap::new();
    let mut fold = Fold::new(Arc::clone(&rules), &cells);
    let (mut rows, mut recorded) = (Vec::new(), (0, 0));
    for step in 0..60 {
        let records: Vec<_> = (0..random.usize(1..20))
            .map(|_| {
                let fields = [
                    ("weapon", Value::Int(random.i64(0..4))),
                    ("amount", Value::Int(random.i64(-50..150))),
                ];
                let late = random.u64(0..30);
                let amount = fields[1].1.clone();
                (
                    (100 + step * 7_u64).saturating_sub(late) * SECOND_NS,
                    data(&fields),
                    amount,
                )
            })
            .collect();
        for (_, _, amount) in &records {
            let Value::Int(amount) = amount else { continue };
            recorded = (recorded.0 + 1, recorded.1 + amount);
        }
        let mut tries = random.u32(1..3);
        if driver == Driver::FoldsTwice {
            tries = 1;
        }
        while tries > 0 {
            for (at_ns, data, _) in &records {
                fold.fold(&origin("damage", *at_ns), data);
            }
            let told = fold.close(None);
            tries -= 1;
            if tries > 0 {
                // It was not taken: begin again with what is kept.
                fold = Fold::new(Arc::clone(&rules), &cells);
                continue;
            }
            keep(&mut cells, &mut fold);
            rows.extend(told);
        }
        if random.u32(0..4) == 0 {
            let kept = match driver {
                Driver::Forgets => &BTreeMap::new(),
                _ => &cells,
            };
            fold = Fold::new(Arc::clone(&rules), kept);
            if driver == Driver::FoldsTwice {
                for (at_ns, data, _) in &records {
                    fold.fold(&origin("damage", *at_ns), data);
                }
            }
        }
    }
    rows.extend(fold.close(Some(u64::MAX)));
    let told = rows.iter().map(told).fold((0, 0), |(count, sum), row| {
        let stats = &row["values"]["amount"];
        let one = row["count"].as_u64().unwrap();
        (count + one, sum + stats["sum"].as_i64().unwrap())
    });
    (told, recorded)
}

#[test]
fn rows_add_up_to_what_was_recorded_whenever_it_is_begun_again() {
    for seed in 0..100 {
        let (told, recorded) = totals(seed, Driver::Right);
        assert_eq!(told, recorded, "seed {seed}");
    }
}

/// Must fail: memory that does not outlive a start, and a step that is folded again.
#[test]
fn a_driver_that_forgets_or_folds_twice_is_found_out() {
    for driver in [Driver::Forgets, Driver::FoldsTwice] {
        let caught = (0..10).filter(|seed| {
            let (told, recorded) = totals(*seed, driver);
            told != recorded
        });
        assert!(caught.count() > 5);
    }
}
