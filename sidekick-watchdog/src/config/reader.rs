//! One pass over all sources of configuration: takes each key from the strongest source that has it, and keeps
//! every complaint with its place instead of stopping at the first.
//!
//! Each key is declared once, where its section reads it: name, default, explanation and check stand together,
//! and `init`, `config print` and the unknown-key complaints all come from that one declaration.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::Value;

/// Where a value came from, or where a mistake is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The configuration file, line and column from 1 (columns count characters).
    File {
        /// The file as the user named it.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// An environment variable.
    Env(String),
    /// A flag of the command line.
    Flag(&'static str),
    /// The built-in default, or nowhere in particular.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Self::Env(name) => write!(f, "{name}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Default => write!(f, "default"),
        }
    }
}

/// One mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Where it is.
    pub place: Place,
    /// The key in full (`health.hang_timeout`), empty for a syntax error.
    pub key: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place != Place::Default {
            write!(f, "{}: ", self.place)?;
        }
        if !self.key.is_empty() {
            write!(f, "{} ", self.key)?;
        }
        write!(f, "{}", self.message)
    }
}

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
    /// Where it came from.
    pub origin: Place,
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
        Section {
            pass: self,
            path: "",
            table,
            known: BTreeSet::new(),
        }
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
        Section {
            pass: self,
            path,
            table,
            known: BTreeSet::new(),
        }
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
        self.complaints.sort_by(|a, b| a.place.cmp(&b.place));
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

/// The strongest source's value of a key, not yet read.
enum Raw<'a> {
    Toml(&'a DeValue<'a>),
    Text(&'a str),
    List(&'a [String]),
}

/// One section while its keys are read.
pub(super) struct Section<'p, 'a> {
    pass: &'p mut Pass<'a>,
    path: &'static str,
    table: Option<&'a DeTable<'a>>,
    known: BTreeSet<&'static str>,
}

impl<'a> Section<'_, 'a> {
    /// A key with a default. A value that cannot be read or that `check` refuses becomes a complaint, and the
    /// default stands in so that the pass can go on.
    pub(super) fn get<T: Value>(
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
    pub(super) fn optional<T: Value>(
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
    pub(super) fn optional_path(
        &mut self,
        name: &'static str,
        example: &'static str,
        doc: &'static str,
    ) -> Option<PathBuf> {
        let path: PathBuf = self.optional(name, example, doc, any)?;
        Some(self.absolute(path))
    }

    /// A path with a default, see [`Self::optional_path`].
    pub(super) fn path(&mut self, name: &'static str, default: &str, doc: &'static str) -> PathBuf {
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
        entry.value = Some(path.to_toml());
        path
    }

    /// Marks a key of the design whose feature does not exist yet: setting it is refused, with the feature named.
    pub(super) fn later(&mut self, name: &'static str, feature: &'static str) {
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
    pub(super) fn subsection(&mut self, name: &'static str) {
        self.known.insert(name);
    }

    /// Complains of all keys that nobody asked for.
    pub(super) fn finish(self) {
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
                    entry.value = Some(value.to_toml());
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
pub(super) fn any<T>(_: &T) -> Result<(), String> {
    Ok(())
}

/// Takes values from `min` to `max`, both included.
pub(super) fn between<T: Value + PartialOrd>(min: T, max: T) -> impl Fn(&T) -> Result<(), String> {
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

fn not_available(feature: &str) -> String {
    format!("is not available in this version ({feature}); remove it")
}

pub(super) fn unknown<'k>(what: &str, name: &str, known: impl Iterator<Item = &'k str>) -> String {
    format!("is an unknown {what}{}", did_you_mean(name, known))
}

pub(super) fn did_you_mean<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> String {
    /// Below this similarity (Jaro-Winkler, 0 to 1) a suggestion confuses more than it helps.
    const SIMILARITY_MIN: f64 = 0.8;
    known
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, candidate)| {
            format!("; did you mean {candidate:?}?")
        })
}

/// Line and column of a byte offset, both from 1; columns count characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// Whether the value of the line at this offset looks like `10s` or `16MiB` without quotes.
fn is_unquoted_quantity(text: &str, offset: usize) -> bool {
    let (line, _) = line_and_column(text, offset);
    let value = text
        .lines()
        .nth(line - 1)
        .and_then(|line| line.split_once('='))
        .map_or("", |(_, value)| value.trim());
    value.starts_with(|c: char| c.is_ascii_digit())
        && value
            .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
            .starts_with(|c: char| c.is_ascii_alphabetic())
}
