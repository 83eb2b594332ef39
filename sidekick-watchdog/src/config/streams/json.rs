//! TOML as rules and tests take it, and as `config print` shows it.

use serde_json::Value as Json;
use toml::de::DeValue;

use crate::config::value::Value;

/// A value as the same in JSON; a date is its text.
pub(super) fn to_json(value: &DeValue<'_>) -> Result<Json, String> {
    Ok(match value {
        DeValue::String(text) => Json::String(text.to_string()),
        DeValue::Boolean(value) => Json::Bool(*value),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| "is a number beyond 64 bits".to_owned())?
            .into(),
        DeValue::Float(_) => f64::from_toml(value)?.into(),
        DeValue::Datetime(date) => Json::String(date.to_string()),
        DeValue::Array(items) => Json::Array(
            items
                .iter()
                .map(|item| to_json(item.get_ref()))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(entries) => Json::Object(
            entries
                .iter()
                .map(|(key, value)| Ok((key.get_ref().to_string(), to_json(value.get_ref())?)))
                .collect::<Result<_, String>>()?,
        ),
    })
}

/// A value as it was written.
pub(super) fn to_toml(value: &DeValue<'_>) -> toml::Value {
    match value {
        DeValue::Array(items) => {
            toml::Value::Array(items.iter().map(|item| to_toml(item.get_ref())).collect())
        }
        DeValue::Table(entries) => toml::Value::Table(
            entries
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), to_toml(value.get_ref())))
                .collect(),
        ),
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Boolean(value) => toml::Value::Boolean(*value),
        DeValue::Integer(number) => toml::Value::Integer(
            i64::from_str_radix(number.as_str(), number.radix()).unwrap_or_default(),
        ),
        DeValue::Float(number) => toml::Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Datetime(date) => toml::Value::Datetime(*date),
    }
}
