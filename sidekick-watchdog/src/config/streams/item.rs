//! A table of a list while its keys are read: each mistake is told at its own line.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::reader::{Pass, unknown};
use crate::config::value::Value;
use crate::process::FieldPath;

/// A table of a list while its keys are read.
pub(super) struct Item<'p, 'a, 's> {
    pub(super) pass: &'p mut Pass<'a>,
    pub(super) name: &'static str,
    pub(super) table: &'s DeTable<'s>,
    known: Vec<&'static str>,
    /// Something was wrong.
    pub(super) failed: bool,
}

impl<'p, 'a, 's> Item<'p, 'a, 's> {
    /// `name` is what complaints call it.
    pub(super) fn new(pass: &'p mut Pass<'a>, name: &'static str, table: &'s DeTable<'s>) -> Self {
        Self {
            pass,
            name,
            table,
            known: Vec::new(),
            failed: false,
        }
    }

    pub(super) fn raw(&mut self, key: &'static str) -> Option<&'s Spanned<DeValue<'s>>> {
        self.known.push(key);
        self.table.get(key)
    }

    pub(super) fn get<T: Value>(&mut self, key: &'static str) -> Option<T> {
        self.get_checked(key, |_: &T| Ok(()))
    }

    pub(super) fn get_checked<T: Value>(
        &mut self,
        key: &'static str,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Option<T> {
        let raw = self.raw(key)?;
        let read = T::from_toml(raw.get_ref());
        match read.and_then(|value| check(&value).map(|()| value)) {
            Ok(value) => Some(value),
            Err(why) => {
                self.complain(raw.span(), key, why);
                None
            }
        }
    }

    /// A table of fields, each value read by itself.
    pub(super) fn fields<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) -> BTreeMap<String, T> {
        let mut found = BTreeMap::new();
        let Some(raw) = self.raw(key) else {
            return found;
        };
        let Some(table) = raw.get_ref().as_table() else {
            self.complain(
                raw.span(),
                key,
                format!("must be a table of fields such as {expected}"),
            );
            return found;
        };
        for (field, value) in table {
            let name = field.get_ref().to_string();
            let checked = check_field(&name).and_then(|()| {
                read(value.get_ref()).map_err(|why| format!("of the field {name:?} {why}"))
            });
            match checked {
                Ok(value) => drop(found.insert(name, value)),
                Err(why) => self.complain(value.span(), key, why),
            }
        }
        found
    }

    pub(super) fn complain(&mut self, span: Range<usize>, key: &str, why: String) {
        self.failed = true;
        let place = self.pass.at(span);
        self.pass
            .complain_at(place, format!("{}.{key}", self.name), why);
    }

    pub(super) fn finish(&mut self) {
        for (name, _) in self.table {
            let text: &str = name.get_ref();
            if !self.known.contains(&text) {
                let why = unknown("key", text, self.known.iter().copied());
                self.complain(name.span(), text, why);
            }
        }
    }
}

/// Whether a field can be called so.
pub(super) fn check_field(field: &str) -> Result<(), String> {
    match FieldPath::parse(field) {
        Ok(_) => Ok(()),
        Err(why) => Err(format!("the field {field:?} {why}")),
    }
}

/// The same of several.
#[expect(clippy::ptr_arg, reason = "checks get what is read")]
pub(super) fn are_fields(fields: &Vec<String>) -> Result<(), String> {
    fields.iter().try_for_each(|field| check_field(field))
}
