use sidekick_ipc::value::{Reals, Value as Godot};

use super::super::Expression;
use super::super::tests::view;
use super::*;

fn wrong(text: &str) -> Option<WrongCall> {
    wrong_call(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn calls_that_can_never_work_are_found_wherever_they_stand() {
    use NameKind::{Filter, Function, Test};
    const FEW: &str = "an argument is missing";
    const MANY: &str = "there are too many arguments";
    for (text, kind, name, at, why) in [
        ("text | replace('a')", Filter, "replace", 8, FEW),
        ("'ä' == text | replace", Filter, "replace", 15, FEW),
        ("text | upper(1)", Filter, "upper", 8, MANY),
        ("text | trim('a', size)", Filter, "trim", 8, MANY),
        (
            "level | round(digits=2)",
            Filter,
            "round",
            9,
            "unknown keyword argument 'digits'",
        ),
        (
            "level | default(value=2)",
            Filter,
            "default",
            9,
            "unexpected keyword arguments",
        ),
        (
            "players | groupby",
            Filter,
            "groupby",
            11,
            "missing keyword argument 'attribute'",
        ),
        ("level is divisibleby", Test, "divisibleby", 10, FEW),
        ("level is defined(1)", Test, "defined", 10, MANY),
        ("range()", Function, "range", 1, FEW),
        ("range(1, 2, 3, size)", Function, "range", 1, MANY),
        // Kinds.
        (
            "tags | batch('2')",
            Filter,
            "batch",
            8,
            "cannot convert string to usize",
        ),
        (
            "text | split(1)",
            Filter,
            "split",
            8,
            "value is not a string",
        ),
        (
            "scores | dictsort(by=2)",
            Filter,
            "dictsort",
            10,
            "value is not a string",
        ),
        (
            "level | round(2, 'up')",
            Filter,
            "round",
            9,
            "method must be common, ceil or floor",
        ),
        ("tags | map", Filter, "map", 8, "filter name is required"),
        ("'a' | abs", Filter, "abs", 7, "cannot get absolute value"),
        (
            "range(1, 9, 0)",
            Function,
            "range",
            1,
            "cannot create range with step of 0",
        ),
        // In a branch, in an argument, and named in a text.
        ("true or text | upper(1)", Filter, "upper", 16, MANY),
        ("text | default(range())", Function, "range", 16, FEW),
        ("tags | map('replace', 'a')", Filter, "replace", 13, FEW),
        ("tags | map('map', 'upper', 1)", Filter, "upper", 20, MANY),
        ("tags | select('divisibleby')", Test, "divisibleby", 16, FEW),
        ("tags | rejectattr('a', 'odd', 2)", Test, "odd", 25, MANY),
    ] {
        let Some(found) = wrong(text) else {
            panic!("{text} is taken");
        };
        let told = (found.kind, found.name.as_str(), found.at, found.why);
        assert_eq!(told, (kind, name, at, why.to_owned()), "{text}");
    }
}

/// Each name as it is meant, with fields and with constants.
const RIGHT: &[&str] = &[
    "x | abs",
    "x | attr('name') == 1 and x | attr(key) == 2",
    "x | batch(2) | list and x | batch(count, 'filled')",
    "x | bool",
    "x | capitalize",
    "x | chain(y, [1]) | list",
    "x | count",
    "x | default and x | default('a') and x | default(y, true) and x | d('')",
    "x | dictsort(by='value', reverse=true, case_sensitive=y)",
    "x | first",
    "x | float and x | float(0.5) and x | float(default=y)",
    "x | format(1) and '%d of %s' | format(y, z) and '%s' | format('a')",
    "x | groupby('team') and x | groupby(attribute='team', default=1) and x | groupby(y)",
    "x | indent(2) and x | indent(y, true, blank=true)",
    "x | int and x | int(0) and x | int(default=0, base=16)",
    "x | items",
    "x | join and x | join(', ') and x | join(d=y, attribute='name') and x | join(1)",
    "x | last",
    "x | length",
    "x | lines",
    "x | list",
    "x | lower",
    "x | map('upper') and x | map(attribute='a', default=1) and x | map('round', 2, 'ceil') and x | map(y)",
    "x | map('upper', default=1) and x | map('map', 'upper')",
    "x | max(attribute='a')",
    "x | min(case_sensitive=true)",
    "x | pprint",
    "x | reject('odd') and x | reject and x | reject('in', [1, 2]) and x | reject(y, 1, 2)",
    "x | rejectattr('a') and x | rejectattr('a', 'divisibleby', 3)",
    "x | replace('a', 'b') and x | replace(1, y) and x | replace('a', 'b', 1) and x | replace('a', 'b', count=y)",
    "x | reverse",
    "x | round and x | round(2) and x | round(2, 'ceil') and x | round(method='floor') and x | round(-2)",
    "x | select('odd') and x | select and x | select('==', 3) and x | select('ge', y)",
    "x | selectattr('a') and x | selectattr('a', 'eq', 'b')",
    "x | slice(2) and x | slice(3, 'filled')",
    "x | sort and x | sort(attribute='a, b', reverse=true) and x | sort(case_sensitive=true)",
    "x | split and x | split(',') and x | split(none, 1) and x | split(y, 2)",
    "x | string",
    "x | sum and x | sum('a') and x | sum(attribute='a', start=1)",
    "x | title",
    "x | trim and x | trim('_')",
    "x | unique(attribute='a', case_sensitive=true)",
    "x | upper",
    "x | zip(y) and x | zip([1, 2], [3])",
    "x is boolean",
    "x is defined",
    "x is divisibleby(3) and x is divisibleby 3 and x is divisibleby(y)",
    "x is endingwith('a') and x is endingwith y",
    "x is eq(1)",
    "x is even",
    "x is false",
    "x is float",
    "x is ge(1)",
    "x is gt(y)",
    "x is in([1, 2])",
    "x is integer",
    "x is iterable",
    "x is le(1)",
    "x is lower",
    "x is lt(1)",
    "x is mapping",
    "x is ne('a')",
    "x is none",
    "x is number",
    "x is odd",
    "x is sameas(none)",
    "x is sequence",
    "x is startingwith 'a'",
    "x is string",
    "x is true",
    "x is undefined",
    "x is upper",
    "dict(a=1, b=x) and dict({'a': 1}) and dict(x) and dict()",
    "range(3) and range(1, x) and range(9, 1, -2) and range(x, y, z)",
    "range(*x) and dict(**x) and x | replace(*y)",
];

#[test]
fn what_can_work_is_left_in_peace() {
    for text in RIGHT {
        assert_eq!(wrong(text), None, "{text}");
    }
    // Each name is among them.
    for (kind, before) in [
        (NameKind::Filter, "| "),
        (NameKind::Test, "is "),
        (NameKind::Function, ""),
    ] {
        for name in kind.known() {
            let call = format!("{before}{name}");
            let is_there = RIGHT.iter().any(|text| text.contains(&call));
            assert!(is_there, "{call}");
        }
    }
}

fn text(text: &str) -> Godot {
    Godot::String(text.into())
}

fn dictionary(entries: &[(&str, &Godot)]) -> Godot {
    let entries = entries.iter().copied();
    Godot::Dictionary(
        entries
            .map(|(name, value)| (text(name), value.clone()))
            .collect(),
    )
}

/// Values as records have them; more than the trial knows.
fn recorded() -> Vec<Godot> {
    let ann = dictionary(&[("a", &text("ann")), ("b", &Godot::Int(3))]);
    let bob = dictionary(&[("a", &text("Bob")), ("b", &Godot::Float(0.5))]);
    let mut values = vec![
        Godot::Nil,
        Godot::Bool(false),
        Godot::Int(0),
        Godot::Int(-7),
        Godot::Int(i64::MAX),
        Godot::Float(f64::NAN),
        Godot::Float(-0.25),
        Godot::PackedByteArray(vec![0, 255]),
        Godot::Vector2(Reals::Single([1.0, 2.5])),
        ann.clone(),
        dictionary(&[]),
        Godot::Array(vec![]),
        Godot::Array(vec![Godot::Int(3), Godot::Int(1)]),
        Godot::Array(vec![text("b"), text("a")]),
        Godot::Array(vec![ann, bob]),
        Godot::Array(vec![
            Godot::Array(vec![Godot::Int(1)]),
            Godot::Array(vec![]),
        ]),
        Godot::Array(vec![Godot::Nil, text("%s")]),
    ];
    let texts = [
        "",
        "a",
        "12",
        "0x1f",
        "a,b",
        "%s",
        "%d %s",
        "%s %s %s %s",
        "two\nlines",
    ];
    values.extend(texts.map(text));
    values
}

const ARGUMENTS: &[&str] = &[
    "",
    "1",
    "0",
    "-2",
    "1.5",
    "true",
    "none",
    "'a'",
    "','",
    "'upper'",
    "'odd'",
    "[]",
    "[1, 2]",
    "{'a': 1}",
    "y",
    "'a', 'b'",
    "'a', y",
    "1, 2",
    "2, 'ceil'",
    "y, 1",
    "'a', 'eq', 1",
    "'divisibleby', 2",
    "'replace', 'a', 'b'",
    "'replace', 'a'",
    "'select', 'odd', 1",
    "1, 2, 3",
    "'a', 'b', 1",
    "1, 2, 3, 4",
    "y, y, y, y",
    "attribute='a'",
    "attribute=y",
    "by='value'",
    "reverse=true",
    "default=1",
    "'a', default=1",
    "'upper', default=y",
    "base=16",
    "d=','",
    "start=1",
    "count=1",
    "method='floor'",
    "nothing=1",
    "width=y",
];

/// Holds calls of every name, with many kinds of arguments, against records of many kinds. What is refused works with no record; what
/// is taken works with one, as far as all its arguments are constants.
#[test]
fn what_is_refused_works_with_no_record() {
    let mut records = Vec::new();
    for x in recorded() {
        for y in [Godot::Int(2), text("a"), Godot::Array(vec![])] {
            records.push(view(&dictionary(&[("x", &x), ("y", &y)])));
        }
    }
    let (mut refused, mut taken) = (0, 0);
    let mut wrongly = Vec::new();
    for (text, name) in calls() {
        let expression = Expression::compile(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let works = || records.iter().any(|record| expression.eval(record).is_ok());
        match wrong(&text) {
            // With what is named in a text, only lists without items get by.
            Some(wrong) if wrong.name != name => {}
            Some(wrong) => {
                refused += 1;
                wrongly.extend(works().then(|| format!("{text} is refused: {wrong}")));
            }
            None if text.contains('y') => {}
            None => {
                taken += 1;
                wrongly.extend((!works()).then(|| format!("{text} is taken")));
            }
        }
    }
    assert!(wrongly.is_empty(), "{wrongly:#?}");
    assert!(refused > 2_000 && taken > 400, "{refused} {taken}");
}

/// Each with the name that is called.
fn calls() -> Vec<(String, &'static str)> {
    let mut calls = Vec::new();
    for kind in [NameKind::Filter, NameKind::Test, NameKind::Function] {
        for name in kind.known() {
            calls.extend(ARGUMENTS.iter().map(|arguments| {
                let call = match kind {
                    NameKind::Filter => format!("x | {name}({arguments})"),
                    NameKind::Test => format!("x is {name}({arguments})"),
                    _ => format!("{name}({arguments})"),
                };
                (call, *name)
            }));
        }
    }
    calls
}

/// The broken variant: a trial with an empty record alone would refuse what works.
#[test]
fn an_empty_record_does_not_tell_what_works() {
    let empty = view(&Godot::Nil);
    for text in [
        "x | abs",
        "x | split(',')",
        "x | round(2)",
        "x | dictsort(by='value')",
    ] {
        assert!(Expression::compile(text).unwrap().eval(&empty).is_err());
        assert_eq!(wrong(text), None, "{text}");
    }
}
