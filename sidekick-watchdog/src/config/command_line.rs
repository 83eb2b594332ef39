//! A program and its arguments, as a key's value.

use std::fmt;

use toml::de::DeValue;

use super::value::Value;
use crate::shown;

/// A program and its arguments. Neither `Debug` nor `config print` nor a complaint shows what is by its name a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CommandLine(pub Vec<String>);

impl fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        shown::command(&self.0).fmt(f)
    }
}

impl Value for CommandLine {
    fn expected() -> String {
        Vec::<String>::expected()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let items = match value {
            DeValue::Array(items) => items,
            DeValue::String(text) => {
                let (expected, text) = (Self::expected(), shown::argument(text));
                return Err(format!("must be {expected}, not the string {text:?}"));
            }
            other => return Vec::from_toml(other).map(Self),
        };
        let items = items.iter().enumerate().map(|(at, item)| {
            // The value itself stays out of the complaint: it may be a secret of the wrong type.
            let (at, item) = (at + 1, item.get_ref());
            let text = item
                .as_str()
                .ok_or_else(|| format!("item {at} must be a string, not {}", item.type_str()))?;
            String::from_text(text).map_err(|why| format!("item {at} {why}"))
        });
        items.collect::<Result<_, _>>().map(Self)
    }
    /// `["a", "b"]` as in the file, or `a,b`.
    fn from_text(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !text.starts_with('[') {
            return Vec::from_text(text).map(Self);
        }
        let value = DeValue::parse(text)
            .map_err(|error| format!("must be {}: {}", Self::expected(), error.message()))?;
        Self::from_toml(value.get_ref())
    }
    fn to_toml(&self) -> toml::Value {
        shown::command(&self.0).to_toml()
    }
    fn whole(&self) -> toml::Value {
        self.0.to_toml()
    }
}
