//! What `set` sets a field to: a constant, an expression over the record, or a variable of the watchdog's environment.
//!
//! A variable is looked up once, when the rules are read, and its value becomes part of them: a batch that is made again
//! after a reload or under another environment has the bytes that it was planned with.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::super::value::Value;
use super::expression::is_expression;
use super::json::to_json;
use crate::process::SetSpec;

/// The longest value of a variable that is taken, in bytes.
const VARIABLE_BYTES_MAX: usize = 1024;
/// Parts of names whose values are not to be sent about in records.
const SECRET_WORDS: [&str; 8] = [
    "AUTH",
    "CREDENTIALS",
    "KEY",
    "PASSWD",
    "PASSWORD",
    "PWD",
    "SECRET",
    "TOKEN",
];

/// A constant, `{ expr = "…" }` or `{ env = "…" }`.
pub(super) fn read(
    value: &DeValue<'_>,
    variables: &BTreeMap<String, String>,
) -> Result<SetSpec, String> {
    let Some(table) = value.as_table() else {
        return to_json(value).map(SetSpec::Value);
    };
    let text = |key: &str| match table.get(key) {
        Some(text) => String::from_toml(text.get_ref())
            .map(Some)
            .map_err(|why| format!("{key} {why}")),
        None => Ok(None),
    };
    if let Some(expression) = text("expr")? {
        has_only(table, &["expr"])?;
        is_expression(&expression)?;
        return Ok(SetSpec::Expr(expression));
    }
    if let Some(name) = text("env")? {
        has_only(table, &["env", "default"])?;
        let value = variable(&name, variables)?.or(text("default")?);
        return match value {
            Some(value) => Ok(SetSpec::Value(value.into())),
            None => Err(format!(
                "is the variable {name} of the watchdog's environment, which is not set; set it, or add default = \"…\""
            )),
        };
    }
    to_json(value).map(SetSpec::Value)
}

fn has_only(table: &DeTable<'_>, keys: &[&str]) -> Result<(), String> {
    let mut names = table.keys().map(|name| name.get_ref());
    match names.all(|name| keys.contains(&name.as_ref())) {
        true => Ok(()),
        false => Err(format!("has more than {} in its table", keys.join(" and "))),
    }
}

fn variable(name: &str, variables: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    let is_secret = |word: &str| {
        let mut secrets = SECRET_WORDS.iter();
        secrets.any(|secret| word.eq_ignore_ascii_case(secret))
    };
    if name.starts_with("SIDEKICK_") {
        return Err(format!(
            "is {name}, a setting of Sidekick itself; {{ expr = \"source\" }} is the server's name"
        ));
    }
    if name.split('_').any(is_secret) {
        return Err(format!(
            "is {name}, by its name a secret, and records go to files and backends; give what is none another name"
        ));
    }
    match variables.get(name) {
        Some(value) if value.len() > VARIABLE_BYTES_MAX => Err(format!(
            "is {name}, which has {} bytes, at most {VARIABLE_BYTES_MAX} are taken",
            value.len()
        )),
        value => Ok(value.cloned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(text: &str) -> Result<SetSpec, String> {
        let table = DeTable::parse(text).unwrap();
        let variables = [
            ("REGION", "eu".to_owned()),
            ("EMPTY", String::new()),
            ("LONG", "x".repeat(2000)),
            ("DB_PASSWORD", "hunter2".to_owned()),
            ("KEYBOARD", "qwerty".to_owned()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value));
        let value = table.get_ref().get("a").unwrap().get_ref();
        read(value, &BTreeMap::from(variables))
    }

    #[test]
    fn variables_become_constants() {
        let constant = |value| Ok(SetSpec::Value(value));
        assert_eq!(set("a = { env = 'REGION' }"), constant(json!("eu")));
        assert_eq!(set("a = { env = 'EMPTY' }"), constant(json!("")));
        assert_eq!(set("a = { env = 'KEYBOARD' }"), constant(json!("qwerty")));
        let with_default = "a = { env = 'NONE', default = 'us' }";
        assert_eq!(set(with_default), constant(json!("us")));
        let with_default = "a = { env = 'REGION', default = 'us' }";
        assert_eq!(set(with_default), constant(json!("eu")));
        assert_eq!(set("a = { b = 1 }"), constant(json!({"b": 1})));
    }

    #[test]
    fn what_is_no_ones_business_is_refused_and_not_said() {
        for (text, part) in [
            ("a = { env = 'NONE' }", "is not set"),
            ("a = { env = 'DB_PASSWORD' }", "a secret"),
            ("a = { env = 'db_token', default = 'x' }", "a secret"),
            ("a = { env = 'SIDEKICK_NAME' }", "a setting of Sidekick"),
            ("a = { env = 'LONG' }", "2000 bytes"),
            (
                "a = { env = 'REGION', defualt = 'x' }",
                "more than env and default",
            ),
            ("a = { env = 7 }", "env must be a string"),
        ] {
            let why = set(text).unwrap_err();
            assert!(
                why.contains(part) && !why.contains("hunter2"),
                "{text}: {why}"
            );
        }
    }
}
