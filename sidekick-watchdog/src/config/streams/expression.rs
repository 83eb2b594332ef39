//! Whether a text is an expression of which something can come, and what to write in place of one that is none.

use super::super::reader::did_you_mean;
use crate::process::{Expression, NameKind, UnknownName, unknown_name, wrong_call};

/// Names that other languages have, and what is written here.
const IN_PLACE_OF: &[(&[&str], &str)] = &[
    (&["contains", "includes", "has", "find"], "'part' in text"),
    (
        &["startswith", "starts_with", "begins_with"],
        "text is startingwith 'part'",
    ),
    (&["endswith", "ends_with"], "text is endingwith 'part'"),
    (&["len", "size"], "text | length"),
    (&["strip", "strip_edges"], "text | trim"),
    (&["to_lower", "tolower"], "text | lower"),
    (&["to_upper", "toupper"], "text | upper"),
    (&["str"], "value | string"),
    (&["exists", "isset"], "field is defined"),
    (&["null", "nil"], "field is none"),
];

/// How those are written that take arguments.
const WITH_ARGUMENTS: &[(&str, &str)] = &[
    ("attr", "value | attr('name')"),
    ("batch", "list | batch(2)"),
    ("chain", "list | chain(other)"),
    ("default", "value | default('none')"),
    ("dict", "dict(name=value)"),
    ("dictsort", "dictionary | dictsort(by='value')"),
    ("divisibleby", "number is divisibleby(3)"),
    ("endingwith", "text is endingwith 'part'"),
    ("eq", "value is eq(3)"),
    ("format", "'%d of %s' | format(count, name)"),
    ("ge", "value is ge(3)"),
    ("groupby", "list | groupby('team')"),
    ("gt", "value is gt(3)"),
    ("in", "value is in([1, 2])"),
    ("indent", "text | indent(2)"),
    ("int", "text | int(default=0)"),
    ("join", "list | join(', ')"),
    ("le", "value is le(3)"),
    ("lt", "value is lt(3)"),
    ("map", "list | map('upper')"),
    ("max", "list | max(attribute='name')"),
    ("min", "list | min(attribute='name')"),
    ("ne", "value is ne(3)"),
    ("range", "range(1, 10)"),
    ("reject", "list | reject('odd')"),
    ("rejectattr", "list | rejectattr('team', 'eq', 'red')"),
    ("replace", "text | replace('old', 'new')"),
    ("round", "number | round(2, 'ceil')"),
    ("sameas", "value is sameas(true)"),
    ("select", "list | select('odd')"),
    ("selectattr", "list | selectattr('team', 'eq', 'red')"),
    ("slice", "list | slice(3)"),
    ("sort", "list | sort(attribute='name', reverse=true)"),
    ("split", "text | split(',')"),
    ("startingwith", "text is startingwith 'part'"),
    ("sum", "list | sum(attribute='price')"),
    ("trim", "text | trim('_')"),
    ("unique", "list | unique(attribute='name')"),
    ("zip", "list | zip(other)"),
];

#[expect(clippy::ptr_arg, reason = "checks get what is read")]
pub(super) fn is_expression(text: &String) -> Result<(), String> {
    let wrong = |why: String| Err(format!("is no expression that can be used: {why}"));
    if let Err(why) = Expression::compile(text) {
        return wrong(why.to_string());
    }
    match unknown_name(text) {
        Ok(None) => {}
        Ok(Some(unknown)) => return wrong(format!("{unknown}; {}", remedy(&unknown))),
        Err(why) => return wrong(why.to_string()),
    }
    match wrong_call(text) {
        Ok(None) => Ok(()),
        Ok(Some(call)) => wrong(format!("{call}; write: {}", usual(call.kind, &call.name))),
        Err(why) => wrong(why.to_string()),
    }
}

/// How a filter, a test or a function of this name is written.
fn usual(kind: NameKind, name: &str) -> String {
    let mut with_arguments = WITH_ARGUMENTS.iter();
    match (with_arguments.find(|(known, _)| *known == name), kind) {
        (Some((_, usual)), _) => (*usual).to_owned(),
        (None, NameKind::Filter) => format!("value | {name}"),
        (None, NameKind::Test) => format!("value is {name}"),
        (None, _) => format!("{name}()"),
    }
}

fn remedy(unknown: &UnknownName) -> String {
    let UnknownName { kind, name, .. } = unknown;
    if *kind == NameKind::Field {
        return format!("the field of this name is data.{name}");
    }
    let mut usual = IN_PLACE_OF.iter();
    if let Some((_, instead)) = usual.find(|(names, _)| names.contains(&name.as_str())) {
        return format!("write: {instead}");
    }
    let is = |kind: NameKind| kind.known().contains(&name.as_str());
    if is(NameKind::Filter) {
        return format!("write it as a filter: value | {name}");
    }
    if is(NameKind::Test) {
        return format!("write it as a test: value is {name}");
    }
    let near = did_you_mean(name, kind.known().iter().copied());
    match (near.strip_prefix("; "), kind.known()) {
        (Some(near), _) => near.to_owned(),
        (None, []) => format!(
            "there are filters: value | name, with {}",
            NameKind::Filter.known().join(", ")
        ),
        (None, known) => format!("there are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_write_is_told() {
        for (text, said) in [
            (
                "text | lenght > 3",
                "there is no filter \"lenght\" (character 8); did you mean \"length\"?",
            ),
            (
                "contains(text, 'secret')",
                "there is no function \"contains\" (character 1); write: 'part' in text",
            ),
            (
                "text.startswith('a')",
                "values have no methods, such as \"startswith\" (character 6); write: text is startingwith 'part'",
            ),
            ("lower(text)", "write it as a filter: value | lower"),
            ("level | defined", "write it as a test: value is defined"),
            ("level is definde", "did you mean \"defined\"?"),
            ("frobnicate(text)", "; there are dict, range"),
            ("text is xyzzy", "; there are boolean, defined, "),
            (
                "text.xyzzy()",
                "; there are filters: value | name, with abs, ",
            ),
            (
                "range > 5",
                "\"range\" is a function (character 1); the field of this name is data.range",
            ),
            ("a b", "syntax error"),
            (
                "text | replace('a') == ''",
                "the filter \"replace\" does not work like this (character 8): an argument is missing; \
                 write: text | replace('old', 'new')",
            ),
            (
                "level is odd(2)",
                "the test \"odd\" does not work like this (character 10): there are too many arguments; write: value is odd",
            ),
        ] {
            let why = is_expression(&text.to_owned()).unwrap_err();
            assert!(why.contains(said), "{text}: {why}");
        }
        assert_eq!(is_expression(&"text | length > 3".to_owned()), Ok(()));
    }

    #[test]
    fn what_is_told_to_write_is_taken() {
        for kind in [NameKind::Filter, NameKind::Test, NameKind::Function] {
            for name in kind.known() {
                let usual = usual(kind, name);
                assert!(usual.contains(name), "{name}: {usual}");
                assert_eq!(is_expression(&usual), Ok(()));
            }
        }
        for (name, _) in WITH_ARGUMENTS {
            let kinds = [NameKind::Filter, NameKind::Test, NameKind::Function];
            let is_known = kinds.iter().any(|kind| kind.known().contains(name));
            assert!(is_known, "{name}");
        }
    }
}
