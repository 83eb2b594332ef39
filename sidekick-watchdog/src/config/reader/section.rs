//! One section while its keys are read.

use std::collections::BTreeSet;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::complaint::{not_available, unknown};
use super::{ENV_SHORT, Entry, Pass, Place, Whole, env_name, file_folder, full_key};
use crate::config::value::Value;

/// The strongest source's value of a key, not yet read.
enum Raw<'a> {
    Toml(&'a DeValue<'a>),
    Text(&'a str),
    List(&'a [String]),
}

/// One section while its keys are read.
pub(in crate::config) struct Section<'p, 'a> {
    pass: &'p mut Pass<'a>,
    /// `health` or `upload.http`; empty for the top.
    path: &'static str,
    table: Option<&'a DeTable<'a>>,
    known: BTreeSet<&'static str>,
}

impl<'p, 'a> Section<'p, 'a> {
    pub(super) fn new(
        pass: &'p mut Pass<'a>,
        path: &'static str,
        table: Option<&'a DeTable<'a>>,
    ) -> Self {
        Self {
            pass,
            path,
            table,
            known: BTreeSet::new(),
        }
    }

    /// A key with a default. A value that cannot be read or that `check` refuses becomes a complaint, and the
    /// default stands in so that the pass can go on.
    pub(in crate::config) fn get<T: Value>(
        &mut self,
        name: &'static str,
        default: T,
        doc: &'static str,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> T {
        let shown = default.to_toml();
        self.read(name, Some(shown), None, doc, check)
            .unwrap_or(default)
    }

    /// A key without a default; `example` is what `init` shows, as TOML.
    pub(in crate::config) fn optional<T: Value>(
        &mut self,
        name: &'static str,
        example: &'static str,
        doc: &'static str,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Option<T> {
        self.read(name, None, Some(example), doc, check)
    }

    /// A path without a default; a relative one counts from the file's folder, or from the working directory
    /// when environment or flag gave it.
    pub(in crate::config) fn optional_path(
        &mut self,
        name: &'static str,
        example: &'static str,
        doc: &'static str,
    ) -> Option<PathBuf> {
        let path: PathBuf = self.optional(name, example, doc, any)?;
        Some(self.absolute(path))
    }

    /// A path with a default, see [`Self::optional_path`].
    pub(in crate::config) fn path(
        &mut self,
        name: &'static str,
        default: &str,
        doc: &'static str,
    ) -> PathBuf {
        let path = self.get(name, PathBuf::from(default), doc, any);
        self.absolute(path)
    }

    fn absolute(&mut self, path: PathBuf) -> PathBuf {
        let sources = self.pass.sources;
        let Some(entry) = self.pass.entries.last_mut() else {
            return path;
        };
        let base = match entry.origin {
            Place::File { .. } | Place::Default => file_folder(sources),
            Place::Env(_) | Place::Flag(_) => sources.working_dir.clone(),
        };
        let path = base.join(path);
        entry.set(&path);
        path
    }

    /// Marks a key of the design whose feature does not exist yet: setting it is refused, with the feature named.
    pub(in crate::config) fn later(&mut self, name: &'static str, feature: &'static str) {
        self.known.insert(name);
        if let Some((key, _)) = self.table.and_then(|table| table.get_key_value(name)) {
            let place = self.pass.at(key.span());
            let key = full_key(self.path, name);
            self.pass.complain_at(place, key, not_available(feature));
        }
        let variable = env_name(self.path, name);
        if self.pass.sources.env.contains_key(&variable) {
            self.pass.env_used.insert(variable.clone());
            let key = full_key(self.path, name);
            self.pass
                .complain_at(Place::Env(variable), key, not_available(feature));
        }
    }

    /// Marks a name in this section's table as a section of its own.
    pub(in crate::config) fn subsection(&mut self, name: &'static str) {
        self.known.insert(name);
    }

    /// Complains of all keys that nobody asked for.
    pub(in crate::config) fn finish(self) {
        // The top's unknown keys are judged together with unknown sections, in `Pass::finish`.
        let (Some(table), false) = (self.table, self.path.is_empty()) else {
            return;
        };
        for (name, _) in table {
            let name_text: &str = name.get_ref();
            if !self.known.contains(name_text) {
                let place = self.pass.at(name.span());
                let message = unknown("key", name_text, self.known.iter().copied());
                let key = full_key(self.path, name_text);
                self.pass.complain_at(place, key, message);
            }
        }
    }

    fn read<T: Value>(
        &mut self,
        name: &'static str,
        default: Option<toml::Value>,
        example: Option<&'static str>,
        doc: &'static str,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Option<T> {
        self.known.insert(name);
        let raw = self.strongest(name);
        let mut entry = Entry {
            section: self.path,
            name,
            doc,
            value: default.clone(),
            whole: Whole(default.clone()),
            default,
            example,
            origin: Place::Default,
        };
        let mut result = None;
        if let Some((raw, origin)) = raw {
            let read = match raw {
                Raw::Toml(value) => T::from_toml(value),
                Raw::Text(text) => T::from_text(text),
                Raw::List(items) => {
                    let items = items.iter().map(|item| DeValue::String(item.into()));
                    let mut list = toml::de::DeArray::new();
                    items.for_each(|item| list.push(Spanned::new(0..0, item)));
                    T::from_toml(&DeValue::Array(list))
                }
            };
            match read.and_then(|value| check(&value).map(|()| value)) {
                Ok(value) => {
                    entry.set(&value);
                    result = Some(value);
                }
                Err(message) => {
                    let key = full_key(self.path, name);
                    self.pass.complain_at(origin.clone(), key, message);
                }
            }
            entry.origin = origin;
        }
        self.pass.entries.push(entry);
        result
    }

    /// Flag, then environment, then file.
    fn strongest(&mut self, name: &'static str) -> Option<(Raw<'a>, Place)> {
        let key = full_key(self.path, name);
        let sources = self.pass.sources;
        let long = env_name(self.path, name);
        let short = ENV_SHORT.iter().find(|(short_key, _)| *short_key == key);
        let variable = [short.map(|(_, short)| (*short).to_owned()), Some(long)]
            .into_iter()
            .flatten()
            .find_map(|variable| Some((sources.env.get(&variable)?, variable)));
        if let Some((_, variable)) = &variable {
            self.pass.env_used.insert(variable.clone());
        }
        if let ("engine.command", Some(command)) = (key.as_str(), &sources.command) {
            return Some((Raw::List(command), Place::Flag("--")));
        }
        if let Some((_, flag, text)) = sources.flags.iter().find(|(flag, ..)| *flag == key) {
            return Some((Raw::Text(text), Place::Flag(flag)));
        }
        if let Some((text, variable)) = variable {
            return Some((Raw::Text(text), Place::Env(variable)));
        }
        let value = self.table?.get(name)?;
        Some((Raw::Toml(value.get_ref()), self.pass.at(value.span())))
    }
}

/// Takes every value.
pub(in crate::config) fn any<T>(_: &T) -> Result<(), String> {
    Ok(())
}

/// Takes values from `min` to `max`, both included.
pub(in crate::config) fn between<T: Value + PartialOrd>(
    min: T,
    max: T,
) -> impl Fn(&T) -> Result<(), String> {
    move |value| match *value < min || *value > max {
        true => Err(format!(
            "is {}: must be from {} to {}",
            value.to_toml(),
            min.to_toml(),
            max.to_toml()
        )),
        false => Ok(()),
    }
}
