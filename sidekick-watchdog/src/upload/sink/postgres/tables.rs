//! The tables: what they are called, what they hold, and the SQL for them.

use std::fmt;

use sidekick_ipc::frame::RESERVED_STREAM_PREFIX;

/// Where a column's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `$source`: the watchdog's name.
    Source,
    /// `$epoch`: the session's UUID.
    Epoch,
    /// `$seq`: the record's number in its session, from 1.
    Seq,
    /// `$stream`: the stream's name.
    Stream,
    /// `$time`: when it was recorded.
    Time,
    /// `$incarnation`: the engine's launch number.
    Incarnation,
    /// `$data`: all of what was recorded, as JSON.
    Data,
    /// A field of `data`, by the names on the way to it.
    Field(Vec<String>),
}

impl Value {
    /// Reads `$seq` or `attacker.name`.
    ///
    /// # Errors
    /// A sentence that goes on after the value's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "$source" => Self::Source,
            "$epoch" => Self::Epoch,
            "$seq" => Self::Seq,
            "$stream" => Self::Stream,
            "$time" => Self::Time,
            "$incarnation" => Self::Incarnation,
            "$data" => Self::Data,
            _ if text.starts_with('$') => {
                return Err(
                    "is none of $source, $epoch, $seq, $stream, $time, $incarnation, $data".into(),
                );
            }
            _ if text.split('.').any(str::is_empty) => {
                return Err("is not a field of data, such as \"attacker.name\"".into());
            }
            path => Self::Field(path.split('.').map(str::to_owned).collect()),
        })
    }
}

/// As [`Value::parse`] reads it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "$source",
            Self::Epoch => "$epoch",
            Self::Seq => "$seq",
            Self::Stream => "$stream",
            Self::Time => "$time",
            Self::Incarnation => "$incarnation",
            Self::Data => "$data",
            Self::Field(path) => return f.write_str(&path.join(".")),
        })
    }
}

/// A table's name, perhaps with its schema, as PostgreSQL has it: case counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    schema: Option<String>,
    name: String,
}

impl TableName {
    /// Reads `table` or `schema.table`: letters, digits and underscores.
    ///
    /// # Errors
    /// A sentence that goes on after the name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, text),
        };
        for word in schema.into_iter().chain([name]) {
            check_name(word)?;
        }
        Ok(Self {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
        })
    }

    /// Another table of the same schema.
    fn beside(&self, name: &str) -> Self {
        Self {
            schema: self.schema.clone(),
            name: name.to_owned(),
        }
    }
}

/// Checks the name of a table, schema or column: 1 to 63 letters, digits and underscores, the first no digit.
///
/// # Errors
/// A sentence that goes on after the name.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match is_word
        && (1..=63).contains(&name.len())
        && !name.starts_with(|c: char| c.is_ascii_digit())
    {
        true => Ok(()),
        false => Err("must be 1 to 63 of A-Z a-z 0-9 _, not beginning with a digit".into()),
    }
}

/// Quoted for SQL; it holds no quotes itself.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "\"{schema}\".")?;
        }
        write!(f, "\"{}\"", self.name)
    }
}

/// Which streams go into which table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRule {
    /// Names of streams; `*` stands for anything.
    pub pattern: String,
    /// The table.
    pub table: TableName,
    /// Its columns and what goes into them; empty: those of `sidekick_records`.
    pub columns: Vec<(String, Value)>,
}

/// Whether `pattern`, in which `*` stands for any run of characters, fits all of `name`.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// As for `[[stream]]` rules: the watchdog's own streams are meant only by a pattern that names them.
fn means(pattern: &str, stream: &str) -> bool {
    fits(pattern, stream)
        && (!stream.starts_with(RESERVED_STREAM_PREFIX)
            || pattern.starts_with(RESERVED_STREAM_PREFIX))
}

/// A table that rows are written to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) table: TableName,
    pub(super) columns: Vec<(String, Value)>,
    /// It is ours: made and migrated on request.
    pub(super) is_ours: bool,
}

/// Index of the table of records among the targets.
pub(super) const RECORDS: u16 = 0;
/// Index of the table of gaps. Its columns are [`GAPS`], not [`Target::columns`].
pub(super) const GAPS_INDEX: u16 = 1;

const RECORD: [(&str, &str, Value); 7] = [
    ("source", "text not null", Value::Source),
    ("epoch", "uuid not null", Value::Epoch),
    ("seq", "bigint not null", Value::Seq),
    ("stream", "text", Value::Stream),
    ("time", "timestamptz", Value::Time),
    ("incarnation", "int", Value::Incarnation),
    ("data", "jsonb", Value::Data),
];

const GAPS: [(&str, &str); 13] = [
    ("source", "text not null"),
    ("epoch", "uuid not null"),
    ("seq", "bigint not null"),
    ("time", "timestamptz"),
    ("incarnation", "int"),
    ("count", "bigint"),
    ("bytes", "bigint"),
    ("first_seq", "bigint"),
    ("last_seq", "bigint"),
    ("cause", "text"),
    ("stream", "text"),
    ("first_time", "timestamptz"),
    ("last_time", "timestamptz"),
];

const PROGRESS: [(&str, &str); 5] = [
    ("group_id", "uuid not null"),
    ("sink", "text not null"),
    ("lane", "int not null"),
    ("log_index", "bigint not null"),
    ("item", "bigint not null"),
];

/// All tables of a sink.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) targets: Vec<Target>,
    pub(super) rules: Vec<TableRule>,
    pub(super) progress: TableName,
}

impl Tables {
    pub(super) fn new(records: &TableName, rules: &[TableRule]) -> Self {
        let columns = || {
            RECORD
                .map(|(name, _, value)| (name.to_owned(), value))
                .to_vec()
        };
        let mut targets = vec![
            Target {
                table: records.clone(),
                columns: columns(),
                is_ours: true,
            },
            Target {
                table: records.beside("sidekick_gaps"),
                columns: Vec::new(),
                is_ours: true,
            },
        ];
        targets.extend(rules.iter().map(|rule| Target {
            table: rule.table.clone(),
            columns: match rule.columns.is_empty() {
                true => columns(),
                false => rule.columns.clone(),
            },
            is_ours: rule.columns.is_empty(),
        }));
        Self {
            targets,
            rules: rules.to_vec(),
            progress: records.beside("sidekick_progress"),
        }
    }

    /// The index of the table that `stream` goes to.
    pub(super) fn of_stream(&self, stream: &str) -> u16 {
        let rule = self
            .rules
            .iter()
            .position(|rule| means(&rule.pattern, stream));
        rule.and_then(|rule| u16::try_from(rule + 2).ok())
            .unwrap_or(RECORDS)
    }

    /// Each table once, with the SQL that makes it where it is ours and with its columns.
    pub(super) fn all(&self) -> Vec<Wanted> {
        let mut all = vec![Wanted::new(
            &self.progress,
            &PROGRESS,
            "group_id, sink, lane",
        )];
        for (index, target) in self.targets.iter().enumerate() {
            if all.iter().any(|known| known.table == target.table) {
                continue;
            }
            let columns = RECORD.map(|(name, kind, _)| (name, kind));
            all.push(match target.is_ours {
                true if index == usize::from(GAPS_INDEX) => {
                    Wanted::new(&target.table, &GAPS, "source, epoch, seq")
                }
                true => Wanted::new(&target.table, &columns, "source, epoch, seq"),
                false => Wanted {
                    table: target.table.clone(),
                    columns: Vec::new(),
                    create: None,
                },
            });
        }
        all
    }
}

/// A table that must be there.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) table: TableName,
    /// Name and type of each column of a table of ours.
    pub(super) columns: Vec<(&'static str, &'static str)>,
    /// How it is made, where it is ours.
    pub(super) create: Option<String>,
}

impl Wanted {
    fn new(table: &TableName, columns: &[(&'static str, &'static str)], key: &str) -> Self {
        let list: Vec<String> = columns
            .iter()
            .map(|(name, kind)| format!("{name} {kind}"))
            .collect();
        Self {
            table: table.clone(),
            columns: columns.to_vec(),
            create: Some(format!(
                "create table if not exists {table} ({}, primary key ({key}))",
                list.join(", ")
            )),
        }
    }
}

impl Target {
    /// The names of its columns, in the order of its rows.
    pub(super) fn names(&self) -> Vec<&str> {
        match self.columns.is_empty() {
            true => GAPS.iter().map(|(name, _)| *name).collect(),
            false => self.columns.iter().map(|(name, _)| name.as_str()).collect(),
        }
    }

    fn list(&self) -> String {
        let quoted: Vec<String> = self
            .names()
            .iter()
            .map(|name| format!("\"{name}\""))
            .collect();
        quoted.join(", ")
    }

    pub(super) fn copy(&self) -> String {
        format!("copy {} ({}) from stdin", self.table, self.list())
    }

    /// The statement that inserts arrays of texts, one for each column, and skips the rows that are there. `types` are
    /// the columns' own.
    pub(super) fn insert(&self, types: &[String]) -> String {
        let casts = (1..)
            .zip(types)
            .map(|(n, kind)| format!("cast(c{n} as {kind})"));
        let casts: Vec<String> = casts.collect();
        let numbers = 1..=self.names().len();
        let arrays: Vec<String> = numbers.clone().map(|n| format!("${n}::text[]")).collect();
        let aliases: Vec<String> = numbers.map(|n| format!("c{n}")).collect();
        let conflict = match self.key() {
            Some(key) => format!(" on conflict ({key}) do nothing"),
            None => String::new(),
        };
        format!(
            "insert into {} ({}) select {} from unnest({}) as u({}){conflict}",
            self.table,
            self.list(),
            casts.join(", "),
            arrays.join(", "),
            aliases.join(", "),
        )
    }

    /// The columns that tell a record from every other, if it has them.
    pub(super) fn key(&self) -> Option<String> {
        if self.columns.is_empty() {
            return Some("source, epoch, seq".into());
        }
        let column = |value: &Value| {
            let found = self.columns.iter().find(|(_, of)| of == value);
            found.map(|(name, _)| format!("\"{name}\""))
        };
        Some(
            [
                column(&Value::Source)?,
                column(&Value::Epoch)?,
                column(&Value::Seq)?,
            ]
            .join(", "),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name, is_fit) in [
            ("damage", "damage", true),
            ("damage", "damages", false),
            ("damage.*", "damage.fire", true),
            ("damage.*", "damage", false),
            ("*", "", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c2b", false),
            ("ab*ba", "aba", false),
            ("*.x", "y.x", true),
        ] {
            assert_eq!(fits(pattern, name), is_fit, "{pattern} {name}");
        }
    }

    #[test]
    fn own_streams_go_where_they_are_named() {
        let rule = |pattern: &str, table: &str| TableRule {
            pattern: pattern.into(),
            table: TableName::parse(table).unwrap(),
            columns: Vec::new(),
        };
        let records = TableName::parse("sidekick_records").unwrap();
        let tables = Tables::new(
            &records,
            &[rule("*", "mine"), rule("sidekick.c*", "crashes")],
        );
        for (stream, table) in [
            ("chat", "\"mine\""),
            ("sidekick", "\"mine\""),
            ("sidekick.end", "\"sidekick_records\""),
            ("sidekick.crash", "\"crashes\""),
        ] {
            let index = usize::from(tables.of_stream(stream));
            assert_eq!(tables.targets[index].table.to_string(), table, "{stream}");
        }
    }

    #[test]
    fn names_are_quoted_and_cannot_break_out() {
        assert_eq!(
            TableName::parse("game.Order").unwrap().to_string(),
            "\"game\".\"Order\""
        );
        for bad in ["", "a.b.c", "a\"b", "a b", "1a", "a;drop", ".a", "ä"] {
            TableName::parse(bad).unwrap_err();
        }
    }

    #[test]
    fn the_sql_is_as_documented() {
        let rule = TableRule {
            pattern: "damage".into(),
            table: TableName::parse("hits").unwrap(),
            columns: vec![
                ("src".into(), Value::Source),
                ("e".into(), Value::Epoch),
                ("n".into(), Value::Seq),
                ("amount".into(), Value::parse("hit.amount").unwrap()),
            ],
        };
        let tables = Tables::new(&TableName::parse("s.sidekick_records").unwrap(), &[rule]);
        let types = ["text", "uuid", "bigint", "int"].map(str::to_owned);
        assert_eq!(
            tables.targets[2].insert(&types),
            "insert into \"hits\" (\"src\", \"e\", \"n\", \"amount\") select cast(c1 as text), cast(c2 as uuid), \
             cast(c3 as bigint), cast(c4 as int) from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as u(c1, \
             c2, c3, c4) on conflict (\"src\", \"e\", \"n\") do nothing"
        );
        assert_eq!(
            tables.targets[0].copy(),
            "copy \"s\".\"sidekick_records\" (\"source\", \"epoch\", \"seq\", \"stream\", \"time\", \"incarnation\", \
             \"data\") from stdin"
        );
        assert_eq!(
            tables.all()[0].create.as_deref(),
            Some(
                "create table if not exists \"s\".\"sidekick_progress\" (group_id uuid not null, sink text not null, \
                 lane int not null, log_index bigint not null, item bigint not null, primary key (group_id, sink, lane))"
            )
        );
        assert_eq!(tables.all().len(), 4);
    }
}
