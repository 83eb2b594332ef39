//! What a single key may hold: reading it from TOML or from a line of text, writing it back.
//!
//! Durations and sizes are strings with a unit. A bare number is refused, since nobody can know its unit.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use humantime_serde::re::humantime;
use toml::de::DeValue;

use crate::shown;

/// The longest duration that any key takes: ten years, so that adding it to a clock never overflows.
pub const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A type that a configuration key can have.
pub trait Value: Clone {
    /// What to write, for complaints: `a duration such as "10s"`.
    fn expected() -> String;
    /// Reads it from the file.
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String>;
    /// Reads it from an environment variable or a flag.
    fn from_text(text: &str) -> Result<Self, String>;
    /// As it would be written in the file.
    fn to_toml(&self) -> toml::Value;
    /// The same with what [`Value::to_toml`] hides: to be compared, never shown.
    fn whole(&self) -> toml::Value {
        self.to_toml()
    }
}

fn wrong_type<T: Value>(found: &DeValue<'_>) -> String {
    format!("must be {}, not {}", T::expected(), describe(found))
}

/// A found value in words, with the value itself where that is short.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {:?}", shorten(text)),
        DeValue::Integer(number) => format!("the number {}", shorten(&number.to_string())),
        DeValue::Float(number) => format!("the number {}", shorten(&number.to_string())),
        DeValue::Boolean(value) => format!("{value}"),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Reads a text that starts like TOML as TOML (`["a", "b"]`, `{ A = "b" }`).
fn from_toml_text<T: Value>(text: &str) -> Result<T, String> {
    let value = DeValue::parse(text).map_err(|error| {
        format!(
            "must be {}, not {:?} ({})",
            T::expected(),
            shorten(text),
            error.message()
        )
    })?;
    T::from_toml(value.get_ref())
}

impl Value for String {
    fn expected() -> String {
        "a string".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| wrong_type::<Self>(value))?;
        Self::from_text(text)
    }
    fn from_text(text: &str) -> Result<Self, String> {
        if text.contains('\0') {
            return Err("must not hold a NUL character".into());
        }
        Ok(text.to_owned())
    }
    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.clone())
    }
}

impl Value for PathBuf {
    fn expected() -> String {
        "a path as a string".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| wrong_type::<Self>(value))?;
        Self::from_text(text)
    }
    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("must not be an empty path".into());
        }
        String::from_text(text).map(Self::from)
    }
    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.to_string_lossy().into_owned())
    }
}

impl Value for bool {
    fn expected() -> String {
        "true or false".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| wrong_type::<Self>(value))
    }
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(format!("must be true or false, not {:?}", shorten(text))),
        }
    }
    fn to_toml(&self) -> toml::Value {
        toml::Value::Boolean(*self)
    }
}

macro_rules! integer {
    ($type:ty, $words:literal) => {
        impl Value for $type {
            fn expected() -> String {
                $words.into()
            }
            fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
                value
                    .as_integer()
                    .and_then(|n| <$type>::from_str_radix(n.as_str(), n.radix()).ok())
                    .ok_or_else(|| wrong_type::<Self>(value))
            }
            fn from_text(text: &str) -> Result<Self, String> {
                text.parse()
                    .map_err(|_| format!("must be {}, not {:?}", $words, shorten(text)))
            }
            fn to_toml(&self) -> toml::Value {
                toml::Value::Integer(i64::from(*self))
            }
        }
    };
}
integer!(u32, "a whole number from 0 to 4294967295");
integer!(i32, "a whole number");

impl Value for f64 {
    fn expected() -> String {
        "a number".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let text = match value {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => return Err(wrong_type::<Self>(value)),
        };
        Self::from_text(text)
    }
    fn from_text(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err(format!("must be a finite number, not {:?}", shorten(text))),
        }
    }
    fn to_toml(&self) -> toml::Value {
        toml::Value::Float(*self)
    }
}

impl Value for Duration {
    fn expected() -> String {
        "a duration such as \"10s\" or \"250ms\"".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| wrong_type::<Self>(value))?;
        Self::from_text(text)
    }
    fn from_text(text: &str) -> Result<Self, String> {
        // humantime reads a bare "0"; everything else must have its unit, so this must too.
        let duration = match humantime::parse_duration(text) {
            Ok(duration) if text.trim() != "0" => duration,
            _ => {
                return Err(format!(
                    "must be {}, not {:?}",
                    Self::expected(),
                    shorten(text)
                ));
            }
        };
        if duration > DURATION_MAX {
            return Err(format!("is {:?}: at most ten years", shorten(text)));
        }
        Ok(duration)
    }
    fn to_toml(&self) -> toml::Value {
        let text = match self.is_zero() {
            true => "0s".to_owned(),
            false => humantime::format_duration(*self).to_string(),
        };
        toml::Value::String(text.replace(' ', ""))
    }
}

/// A number of bytes, written with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] = [
            ("TiB", 1 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
        ];
        match UNITS
            .iter()
            .find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes))
        {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Value for Size {
    fn expected() -> String {
        "a size such as \"16MiB\"".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| wrong_type::<Self>(value))?;
        Self::from_text(text)
    }
    fn from_text(text: &str) -> Result<Self, String> {
        const UNITS: &[&str] = &[
            "B", "KiB", "MiB", "GiB", "TiB", "kB", "KB", "MB", "GB", "TB",
        ];
        let text = text.trim();
        let number_len = text
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(text.len());
        let unit = text[number_len..].trim();
        if !UNITS.contains(&unit) {
            // "16M" could be 16 000 000 or 16 777 216: refused, not guessed.
            return Err(format!(
                "must be {}, not {:?} (units: B, KiB, MiB, GiB, TiB, or kB, MB, GB, TB of 1000)",
                Self::expected(),
                shorten(text)
            ));
        }
        let size = ByteSize::from_str(text)
            .map_err(|_| format!("must be {}, not {:?}", Self::expected(), shorten(text)))?;
        Ok(Self(size.as_u64()))
    }
    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.to_string())
    }
}

impl Value for SocketAddr {
    fn expected() -> String {
        "an address and port such as \"127.0.0.1:7117\"".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| wrong_type::<Self>(value))?;
        Self::from_text(text)
    }
    fn from_text(text: &str) -> Result<Self, String> {
        let numeric = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        };
        numeric
            .parse()
            .map_err(|_| format!("must be {}, not {:?}", Self::expected(), shorten(text)))
    }
    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.to_string())
    }
}

impl<T: Value> Value for Vec<T> {
    fn expected() -> String {
        format!("a list, each item {}", T::expected())
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let items = value.as_array().ok_or_else(|| wrong_type::<Self>(value))?;
        items
            .iter()
            .enumerate()
            .map(|(at, item)| {
                T::from_toml(item.get_ref()).map_err(|why| format!("item {} {why}", at + 1))
            })
            .collect()
    }
    /// `["a", "b"]` as in the file, or `a,b`.
    fn from_text(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.starts_with('[') {
            return from_toml_text(text);
        }
        text.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .enumerate()
            .map(|(at, item)| T::from_text(item).map_err(|why| format!("item {} {why}", at + 1)))
            .collect()
    }
    fn to_toml(&self) -> toml::Value {
        toml::Value::Array(self.iter().map(Value::to_toml).collect())
    }
    fn whole(&self) -> toml::Value {
        toml::Value::Array(self.iter().map(Value::whole).collect())
    }
}

/// Names with values that may be secret: neither `Debug` nor `config print` shows the values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HiddenMap(pub BTreeMap<String, String>);

impl fmt::Debug for HiddenMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.keys().map(|name| (name, "(hidden)")))
            .finish()
    }
}

impl Value for HiddenMap {
    fn expected() -> String {
        "a table of strings such as { NAME = \"value\" }".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        // Not even what is no table is shown: it may be a secret all the same.
        let table = value
            .as_table()
            .ok_or_else(|| format!("must be {}, not {}", Self::expected(), value.type_str()))?;
        let mut map = BTreeMap::new();
        for (name, value) in table {
            let name = name.get_ref().to_string();
            // The value itself stays out of the complaint: it may be a secret of the wrong type.
            let text = value.get_ref().as_str().ok_or_else(|| {
                format!(
                    "{name:?} must be a string, not {}",
                    value.get_ref().type_str()
                )
            })?;
            map.insert(
                name.clone(),
                String::from_text(text).map_err(|why| format!("{name:?} {why}"))?,
            );
        }
        Ok(Self(map))
    }
    fn from_text(text: &str) -> Result<Self, String> {
        let value = DeValue::parse(text).map_err(|_| format!("must be {}", Self::expected()))?;
        Self::from_toml(value.get_ref())
    }
    fn to_toml(&self) -> toml::Value {
        let hide = |name: &String| (name.clone(), toml::Value::String("(hidden)".into()));
        toml::Value::Table(self.0.keys().map(hide).collect())
    }
    fn whole(&self) -> toml::Value {
        let all = self.0.clone().into_iter();
        toml::Value::Table(all.map(|(name, text)| (name, text.into())).collect())
    }
}

/// A URL, of which neither login nor the query's values are shown.
#[derive(Clone, PartialEq, Eq)]
pub struct HiddenUrl(pub String);

impl fmt::Debug for HiddenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown::url(&self.0))
    }
}

impl Value for HiddenUrl {
    fn expected() -> String {
        "a URL as a string".into()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| wrong_type::<Self>(value))?;
        Self::from_text(text)
    }
    fn from_text(text: &str) -> Result<Self, String> {
        String::from_text(text).map(Self)
    }
    fn to_toml(&self) -> toml::Value {
        toml::Value::String(shown::url(&self.0))
    }
    fn whole(&self) -> toml::Value {
        toml::Value::String(self.0.clone())
    }
}

/// Makes an enum of fixed words that a key can have.
macro_rules! keywords {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant,)+ }

        impl $name {
            const WORDS: &'static [(&'static str, $name)] = &[$(($word, $name::$variant)),+];

            /// The word that stands for it in the configuration.
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        impl $crate::config::value::Value for $name {
            fn expected() -> String {
                $crate::config::value::words_expected(Self::WORDS.iter().map(|(word, _)| *word))
            }
            fn from_toml(value: &toml::de::DeValue<'_>) -> Result<Self, String> {
                match value.as_str() {
                    Some(text) => Self::from_text(text),
                    None => Err(format!("must be {}, not {}", Self::expected(), value.type_str())),
                }
            }
            fn from_text(text: &str) -> Result<Self, String> {
                match Self::WORDS.iter().find(|(word, _)| *word == text) {
                    Some((_, value)) => Ok(*value),
                    None => Err(format!("must be {}, not {text:?}", Self::expected())),
                }
            }
            fn to_toml(&self) -> toml::Value {
                toml::Value::String(self.word().into())
            }
        }
    };
}
pub(crate) use keywords;

/// `"a", "b" or "c"`.
pub(crate) fn words_expected<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut quoted: Vec<String> = words.map(|word| format!("{word:?}")).collect();
    match quoted.pop() {
        Some(last) if quoted.is_empty() => last,
        Some(last) => format!("{} or {last}", quoted.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_stay_below_ten_years() {
        assert_eq!(Duration::from_text("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(Duration::from_text("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(Duration::from_text("0s"), Ok(Duration::ZERO));
        for bad in [
            "",
            "0",
            "5",
            "5 parsecs",
            "-5s",
            "5s5",
            "600000000000h",
            "11y",
        ] {
            assert!(Duration::from_text(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn sizes_need_an_unambiguous_unit() {
        assert_eq!(Size::from_text("16MiB"), Ok(Size(16 << 20)));
        assert_eq!(Size::from_text("16 MB"), Ok(Size(16_000_000)));
        assert_eq!(Size::from_text("1.5GiB"), Ok(Size(3 << 29)));
        for bad in [
            "", "16", "16M", "16Mi", "16mib", "MiB", "-1B", "1..5GiB", "16MiB/s",
        ] {
            assert!(Size::from_text(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn values_read_back_as_written() {
        for size in [0, 1, 1023, 1024, 16 << 20, (16 << 20) + 1, 1 << 50] {
            assert_eq!(Size::from_text(&Size(size).to_string()), Ok(Size(size)));
        }
        for millis in [0, 1, 2, 250, 1000, 90_061_001] {
            let duration = Duration::from_millis(millis);
            let toml::Value::String(text) = duration.to_toml() else {
                panic!("a string")
            };
            assert_eq!(Duration::from_text(&text), Ok(duration));
        }
    }

    #[test]
    fn debug_hides_the_values_of_a_hidden_map() {
        let map = HiddenMap::from_text("{ \"X-Key\" = \"hunter2\" }").unwrap();
        assert!(!format!("{map:?}").contains("hunter2"));
        assert!(format!("{map:?}").contains("X-Key"));
        // Nor does the complaint of one that is none.
        let value = DeValue::String("Authorization: Bearer hunter2".into());
        let complaint = HiddenMap::from_toml(&value).unwrap_err();
        assert!(complaint.ends_with(", not string"), "{complaint}");
    }

    #[test]
    fn lists_are_read_as_toml_or_with_commas() {
        let both = vec!["a".to_owned(), "b c".to_owned()];
        assert_eq!(
            Vec::<String>::from_text("[\"a\", \"b c\"]"),
            Ok(both.clone())
        );
        assert_eq!(Vec::<String>::from_text("a, b c"), Ok(both));
        assert_eq!(Vec::<String>::from_text(""), Ok(vec![]));
    }
}
