//! Whether a text is an expression of which something can come, and what to write in place of one that is none.

use super::super::reader::did_you_mean;
use crate::process::{Expression, NameKind, UnknownName, unknown_name};

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

#[expect(clippy::ptr_arg, reason = "checks get what is read")]
pub(super) fn is_expression(text: &String) -> Result<(), String> {
    let wrong = |why: String| Err(format!("is no expression that can be used: {why}"));
    if let Err(why) = Expression::compile(text) {
        return wrong(why.to_string());
    }
    match unknown_name(text) {
        Ok(None) => Ok(()),
        Ok(Some(unknown)) => wrong(format!("{unknown}; {}", remedy(&unknown))),
        Err(why) => wrong(why.to_string()),
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
        ] {
            let why = is_expression(&text.to_owned()).unwrap_err();
            assert!(why.contains(said), "{text}: {why}");
        }
        assert_eq!(is_expression(&"text | length > 3".to_owned()), Ok(()));
    }
}
