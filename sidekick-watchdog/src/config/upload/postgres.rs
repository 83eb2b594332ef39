//! `[upload.postgres]`: the database, and which streams go into which of its tables.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::SinkKind;
use crate::config::reader::{Pass, any, between};
use crate::config::value::{HiddenUrl, Value, keywords};
use crate::platform::is_readable_by_all;
use crate::postgres::{self, ServerSettings};
use crate::upload::sink::postgres::{TableName, TableRule, Value as Column, check_name};

keywords! {
    /// How rows are written.
    pub enum PostgresMode {
        /// `COPY`, the fast way.
        Copy = "copy",
        /// `INSERT … ON CONFLICT DO NOTHING`.
        Insert = "insert",
    }
}

/// `[upload.postgres]`: the database.
#[derive(Clone, Debug)]
pub struct PostgresSinkConfig {
    /// Where it is, and who we are there.
    pub server: ServerSettings,
    /// The table of records.
    pub table: TableName,
    /// Streams with tables of their own.
    pub tables: Vec<TableRule>,
    /// How rows are written.
    pub mode: PostgresMode,
    /// Make our tables where they are missing.
    pub create_tables: bool,
}

impl PostgresSinkConfig {
    pub(super) fn read(pass: &mut Pass<'_>, sinks: &[SinkKind]) -> Option<Self> {
        let mut section = pass.section("upload.postgres");
        let url: Option<HiddenUrl> = section.optional(
            "url",
            "\"postgres://sidekick@db.example/game\"",
            "The database, without a password. TLS is on but to this machine; ?sslmode=disable turns it off.",
            |url: &HiddenUrl| postgres::check_url(&url.0),
        );
        let url_file = section.optional_path(
            "url_file",
            "\"/run/secrets/database-url\"",
            "File with the whole URL, password included, instead of url.",
        );
        let password_file = section.optional_path(
            "password_file",
            "\"/run/secrets/database-password\"",
            "File with the password.",
        );
        let table = section.get(
            "table",
            "sidekick_records".to_owned(),
            "The table of records, perhaps with its schema (\"game.records\"); sidekick_gaps and sidekick_progress are beside it.",
            |name: &String| TableName::parse(name).map(drop),
        );
        let tables = section.get(
            "tables",
            Vec::new(),
            "Streams with tables of their own: [[upload.postgres.tables]] match = \"damage.*\", table = \"damage\", and columns = \
             { amount = \"amount\", who = \"attacker.name\", n = \"$seq\" } for a table of another form.",
            |rules: &Vec<TableRule>| match rules.len() {
                0..=1000 => Ok(()),
                count => Err(format!("has {count} rules; at most 1000")),
            },
        );
        let mode = section.get(
            "mode",
            PostgresMode::Copy,
            "How rows are written: \"copy\", or \"insert\" (on conflict do nothing) for CockroachDB and for tables that others fill too.",
            any,
        );
        let create_tables = section.get(
            "create_tables",
            false,
            "Make Sidekick's tables where they are missing, and the columns they lack.",
            any,
        );
        let timeout = section.get(
            "timeout",
            Duration::from_secs(30),
            "The longest that one batch may take.",
            between(Duration::from_millis(100), Duration::from_secs(3600)),
        );
        let tls_ca_file = section.optional_path(
            "tls_ca_file",
            "\"/etc/sidekick/ca.pem\"",
            "PEM file of certificate authorities to trust beside the system's.",
        );
        let tls_cert_file = section.optional_path(
            "tls_cert_file",
            "\"/etc/sidekick/client.pem\"",
            "PEM file of the certificate to show to the server.",
        );
        let tls_key_file = section.optional_path(
            "tls_key_file",
            "\"/etc/sidekick/client.key\"",
            "PEM file of its key.",
        );
        section.finish();
        let wanted = sinks.contains(&SinkKind::Postgres);
        let secrets = [
            ("upload.postgres.url_file", &url_file),
            ("upload.postgres.password_file", &password_file),
        ];
        for (key, path) in secrets {
            let Some(path) = path else {
                continue;
            };
            if let Err(why) = postgres::read_secret(path) {
                pass.complain(key, format!("cannot be used: {why}"));
            } else if is_readable_by_all(path) {
                let file = path.display();
                pass.warnings.push(format!(
                    "{key}: every user of this machine can read {file}; run: chmod o-r {file}"
                ));
            }
        }
        if let Some(Err(why)) = tls_ca_file.as_deref().map(super::check_authorities) {
            pass.complain(
                "upload.postgres.tls_ca_file",
                format!("cannot be used: {why}"),
            );
        }
        let tls_client = both(pass, tls_cert_file, tls_key_file);
        let is_given = url.is_some() || url_file.is_some();
        if url.is_some() && url_file.is_some() {
            pass.warnings.push(
                "upload.postgres.url is not used: url_file is set, and holds the whole URL".into(),
            );
        }
        if !wanted {
            if is_given {
                pass.warnings
                    .push("[upload.postgres] is set but not used: upload.sinks does not have \"postgres\"".into());
            }
            return None;
        }
        let has_complaint = pass
            .complaints
            .iter()
            .any(|c| c.key.starts_with("upload.postgres.url"));
        if !is_given && !has_complaint {
            pass.complain(
                "upload.sinks",
                "has \"postgres\", but upload.postgres.url is not set; add [upload.postgres] url = \"postgres://user@host/database\"",
            );
        }
        Some(Self {
            server: ServerSettings {
                url: url.map(|url| url.0),
                url_file,
                password_file,
                tls_ca_file,
                tls_client,
                timeout,
            },
            // A name that cannot be read was complained of, and is the default here.
            table: TableName::parse(&table).ok()?,
            tables,
            mode,
            create_tables,
        })
    }
}

/// Certificate and key, of which neither is anything without the other.
fn both(
    pass: &mut Pass<'_>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Option<(PathBuf, PathBuf)> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            for (name, path) in [("tls_cert_file", &certificate), ("tls_key_file", &key)] {
                if let Err(error) = std::fs::File::open(path) {
                    let why = format!("cannot be used: {}: {error}", path.display());
                    pass.complain(&format!("upload.postgres.{name}"), why);
                }
            }
            Some((certificate, key))
        }
        (Some(_), None) => {
            pass.complain(
                "upload.postgres.tls_cert_file",
                "is set without tls_key_file",
            );
            None
        }
        (None, Some(_)) => {
            pass.complain(
                "upload.postgres.tls_key_file",
                "is set without tls_cert_file",
            );
            None
        }
        (None, None) => None,
    }
}

impl Value for TableRule {
    fn expected() -> String {
        "a table such as { match = \"damage.*\", table = \"damage\" }".into()
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let wrong = || format!("must be {}", Self::expected());
        let table = value.as_table().ok_or_else(wrong)?;
        let (mut pattern, mut name, mut columns) = (None, None, Vec::new());
        for (key, value) in table {
            let (key, value) = (key.get_ref(), value.get_ref());
            match (&**key, value.as_str(), value.as_table()) {
                ("match", Some(text), _) if !text.is_empty() => pattern = Some(text.to_owned()),
                ("table", Some(text), _) => {
                    name = Some(
                        TableName::parse(text).map_err(|why| format!("table {text:?} {why}"))?,
                    );
                }
                ("columns", _, Some(pairs)) if !pairs.is_empty() => {
                    for (column, from) in pairs {
                        let column: &str = column.get_ref();
                        check_name(column).map_err(|why| format!("columns: {column:?} {why}"))?;
                        let from = from.get_ref().as_str();
                        let from = from.ok_or_else(|| {
                            format!(
                                "columns.{column} must be a string, such as \"amount\" or \"$seq\""
                            )
                        })?;
                        let from = Column::parse(from)
                            .map_err(|why| format!("columns.{column} {from:?} {why}"))?;
                        columns.push((column.to_owned(), from));
                    }
                }
                ("match" | "table" | "columns", ..) => {
                    return Err(format!(
                        "has a {key} that is empty or of the wrong type: {}",
                        wrong()
                    ));
                }
                _ => return Err(format!("has the unknown key {key:?}: {}", wrong())),
            }
        }
        match (pattern, name) {
            (Some(pattern), Some(table)) => Ok(Self {
                pattern,
                table,
                columns,
            }),
            _ => Err(format!("lacks match or table: {}", wrong())),
        }
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let value = DeValue::parse(text).map_err(|error| error.message().to_owned())?;
        Self::from_toml(value.get_ref())
    }

    fn to_toml(&self) -> toml::Value {
        let mut table = toml::Table::new();
        table.insert("match".into(), self.pattern.clone().into());
        table.insert(
            "table".into(),
            self.table.to_string().replace('"', "").into(),
        );
        if !self.columns.is_empty() {
            let pairs = self.columns.iter();
            let pairs = pairs.map(|(column, from)| (column.clone(), from.to_string().into()));
            table.insert("columns".into(), toml::Value::Table(pairs.collect()));
        }
        toml::Value::Table(table)
    }
}
