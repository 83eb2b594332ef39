//! One pass over all sources of configuration: takes each key from the strongest source that has it, and keeps
//! every complaint with its place instead of stopping at the first.
//!
//! Each key is declared once, where its section reads it: name, default, explanation and check stand together,
//! and `init`, `config print` and the unknown-key complaints all come from that one declaration.

mod complaint;
mod place;
mod section;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::value::Value;
use crate::shown;
use complaint::not_available;
use place::{is_unquoted_quantity, line_and_column};

pub use complaint::Complaint;
pub(super) use complaint::{did_you_mean, unknown};
pub use place::Place;
pub(super) use section::{Section, any, between};

/// A key as it was declared and what it came to; the stuff of `init` and `config print`.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The section (`upload.http`), empty for the top.
    pub section: &'static str,
    /// The key in its section.
    pub name: &'static str,
    /// What it means, in sentences.
    pub doc: &'static str,
    /// The default as TOML; `None` when there is none.
    pub default: Option<toml::Value>,
    /// What `init` shows where there is no fixed default.
    pub example: Option<&'static str>,
    /// The value in force; `None` when it is not set.
    pub value: Option<toml::Value>,
    /// The same with what is never shown.
    pub(super) whole: Whole,
    /// Where it came from.
    pub origin: Place,
}

impl Entry {
    /// Puts a value in force.
    fn set(&mut self, value: &impl Value) {
        self.value = Some(value.to_toml());
        self.whole = Whole(Some(value.whole()));
    }

    /// Whether both hold the same, in what is never shown as well.
    pub fn is_as(&self, other: &Self) -> bool {
        self.whole == other.whole
    }
}

/// A value that may be secret, to be compared.
#[derive(Clone, PartialEq)]
pub(super) struct Whole(Option<toml::Value>);

impl fmt::Debug for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(shown::HIDDEN)
    }
}

/// What the pass reads from, all as plain data so that a test can make it up.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file's path and its text.
    pub file: Option<(PathBuf, String)>,
    /// The environment (only names that start with `SIDEKICK_` matter).
    pub env: BTreeMap<String, String>,
    /// The rest of the environment, as far as it is text: what rules may name.
    pub variables: BTreeMap<String, String>,
    /// Key, flag and text for each flag given.
    pub flags: Vec<(&'static str, &'static str, String)>,
    /// The engine command that followed `--`.
    pub command: Option<Vec<String>>,
    /// What relative paths of environment and flags are relative to.
    pub working_dir: PathBuf,
    /// The machine's name, the default for `name`.
    pub hostname: String,
    /// Mistakes found while the sources were gathered (text that is not UTF-8).
    pub mistakes: Vec<Complaint>,
}

/// The state of the one pass.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    sources: &'a Sources,
    root: Option<&'a DeTable<'a>>,
    pub(super) complaints: Vec<Complaint>,
    pub(super) warnings: Vec<String>,
    pub(super) entries: Vec<Entry>,
    sections: BTreeSet<&'static str>,
    env_used: BTreeSet<String>,
}

/// Names that Sidekick itself sets for an engine or reads elsewhere: no reason to warn.
const ENV_KNOWN_ELSEWHERE: &[&str] = &["SIDEKICK_CONFIG"];

/// Short names for the keys that are set by environment most often.
const ENV_SHORT: &[(&str, &str)] = &[
    ("name", "SIDEKICK_NAME"),
    ("data_dir", "SIDEKICK_DATA_DIR"),
    ("runtime_dir", "SIDEKICK_RUNTIME_DIR"),
    ("log.level", "SIDEKICK_LOG_LEVEL"),
    ("api.listen", "SIDEKICK_API_LISTEN"),
];

impl<'a> Pass<'a> {
    pub(super) fn new(sources: &'a Sources, root: Option<&'a DeTable<'a>>) -> Self {
        Self {
            sources,
            root,
            complaints: sources.mistakes.clone(),
            warnings: Vec::new(),
            entries: Vec::new(),
            sections: BTreeSet::new(),
            env_used: BTreeSet::new(),
        }
    }

    pub(super) fn sources(&self) -> &'a Sources {
        self.sources
    }

    /// The keys outside of any section.
    pub(super) fn top(&mut self) -> Section<'_, 'a> {
        let table = self.root;
        Section::new(self, "", table)
    }

    /// A section, `health` or `upload.http`.
    pub(super) fn section(&mut self, path: &'static str) -> Section<'_, 'a> {
        self.sections.insert(path);
        let mut table = self.root;
        for name in path.split('.') {
            let found = table.and_then(|table| table.get(name));
            table = found.and_then(|value| value.get_ref().as_table());
            if let (Some(found), None) = (found, table) {
                let place = self.at(found.span());
                self.complain_at(
                    place,
                    path.to_owned(),
                    format!("must be a section, written as [{path}]"),
                );
                break;
            }
        }
        Section::new(self, path, table)
    }

    /// A complaint about a key that was read already, at the place where its value came from.
    pub(super) fn complain(&mut self, key: &str, message: impl Into<String>) {
        let place = self
            .entries
            .iter()
            .find(|entry| full_key(entry.section, entry.name) == key)
            .map_or(Place::Default, |entry| entry.origin.clone());
        self.complain_at(place, key.to_owned(), message.into());
    }

    /// A complaint about two keys of which the first is over the second: at the place of the one that was set, of the first
    /// where both were. `is` has what each is, and how it stands to the other (`longer than`).
    pub(super) fn complain_of_two(&mut self, is: [(&str, String, &str); 2], remark: &str) {
        let is_set = |pass: &Self, key: &str| {
            let mut entries = pass.entries.iter();
            entries.any(|entry| {
                full_key(entry.section, entry.name) == key && entry.origin != Place::Default
            })
        };
        let [first, second] = is;
        let ((key, value, stands), (other, limit, _)) =
            match is_set(self, first.0) || !is_set(self, second.0) {
                true => (first, second),
                false => (second, first),
            };
        let default = match is_set(self, other) {
            true => "",
            false => ", the default",
        };
        self.complain(
            key,
            format!("is {value}, {stands} {other} ({limit}{default}){remark}"),
        );
    }

    /// Shows what an unset key comes to.
    pub(super) fn derive(&mut self, key: &str, value: &impl Value) {
        let entry = self
            .entries
            .iter_mut()
            .find(|entry| entry.value.is_none() && full_key(entry.section, entry.name) == key);
        if let Some(entry) = entry {
            entry.value = Some(value.to_toml());
        }
    }

    pub(super) fn complain_at(&mut self, place: Place, key: String, message: String) {
        self.complaints.push(Complaint {
            place,
            key,
            message,
        });
    }

    /// Adds what the TOML parser said, and drops what we said about the same lines.
    pub(super) fn add_syntax_errors(&mut self, errors: &[toml::de::Error]) {
        for error in errors {
            let place = self.at(error.span().unwrap_or(0..0));
            if let Place::File { line, .. } = place {
                self.complaints.retain(
                    |other| !matches!(other.place, Place::File { line: at, .. } if at == line),
                );
            }
            let unquoted = self.sources.file.as_ref().is_some_and(|(_, text)| {
                error
                    .span()
                    .is_some_and(|span| is_unquoted_quantity(text, span.start))
            });
            let hint = match unquoted {
                true => " (durations and sizes are strings: \"10s\", \"16MiB\")",
                false => "",
            };
            self.complain_at(
                place,
                String::new(),
                format!("this is not valid TOML: {}{hint}", error.message()),
            );
        }
    }

    /// Complains of sections that do not exist; warns of variables that mean nothing. Ends the pass.
    pub(super) fn finish(&mut self, later: &[(&str, &str)]) {
        self.complain_of_unknown(later);
        self.warn_of_variables();
        self.complaints.sort_by(|a, b| a.place.cmp(&b.place));
    }

    fn complain_of_unknown(&mut self, later: &[(&str, &str)]) {
        let known: BTreeSet<&str> = self
            .entries
            .iter()
            .filter(|entry| entry.section.is_empty())
            .map(|entry| entry.name)
            .chain(self.sections.iter().copied())
            .collect();
        if let Some(root) = self.root {
            for (name, value) in root {
                let name_text: &str = name.get_ref();
                if known.contains(name_text) {
                    continue;
                }
                let place = self.at(name.span());
                let message = match later.iter().find(|(key, _)| *key == name_text) {
                    Some((_, feature)) => not_available(feature),
                    None => {
                        let is_section = value.get_ref().is_table();
                        let what = if is_section { "section" } else { "key" };
                        unknown(what, name_text, known.iter().copied())
                    }
                };
                self.complain_at(place, name_text.to_owned(), message);
            }
        }
    }

    fn warn_of_variables(&mut self) {
        for name in self.sources.env.keys() {
            if name.starts_with("SIDEKICK_")
                && !self.env_used.contains(name)
                && !ENV_KNOWN_ELSEWHERE.contains(&name.as_str())
            {
                let names: Vec<String> = self
                    .entries
                    .iter()
                    .map(|entry| env_name(entry.section, entry.name))
                    .chain(ENV_SHORT.iter().map(|(_, short)| (*short).to_owned()))
                    .collect();
                self.warnings.push(format!(
                    "environment variable {name} means nothing to the watchdog{}",
                    did_you_mean(name, names.iter().map(String::as_str))
                ));
            }
        }
    }

    /// The tables of a list, written as `[[name]]`, and where each begins.
    pub(super) fn tables(&mut self, name: &'static str) -> Vec<(Place, &'a DeTable<'a>)> {
        self.sections.insert(name);
        let Some(found) = self.root.and_then(|root| root.get(name)) else {
            return Vec::new();
        };
        let items = found.get_ref().as_array().map(|items| items.iter());
        let mut tables = Vec::new();
        for item in items.into_iter().flatten() {
            if let Some(table) = item.get_ref().as_table() {
                tables.push((self.at(item.span()), table));
            }
        }
        if found.get_ref().as_array().map(|items| items.len()) != Some(tables.len()) {
            let place = self.at(found.span());
            let why = format!("must be a list of tables, each written as [[{name}]]");
            self.complain_at(place, name.to_owned(), why);
        }
        tables
    }

    /// The place of a byte range of the file.
    pub(super) fn at(&self, span: Range<usize>) -> Place {
        let Some((path, text)) = &self.sources.file else {
            return Place::Default;
        };
        let (line, column) = line_and_column(text, span.start);
        Place::File {
            path: path.clone(),
            line,
            column,
        }
    }
}

/// The folder that paths in the file, and default paths, are relative to.
pub(super) fn file_folder(sources: &Sources) -> PathBuf {
    match &sources.file {
        Some((path, _)) => sources
            .working_dir
            .join(path.parent().unwrap_or_else(|| Path::new(""))),
        None => sources.working_dir.clone(),
    }
}

pub(crate) fn full_key(section: &str, name: &str) -> String {
    match section.is_empty() {
        true => name.to_owned(),
        false => format!("{section}.{name}"),
    }
}

/// `SIDEKICK_UPLOAD__HTTP__URL` for `upload.http.url`.
fn env_name(section: &str, name: &str) -> String {
    format!("SIDEKICK_{}", full_key(section, name).replace('.', "__")).to_uppercase()
}
