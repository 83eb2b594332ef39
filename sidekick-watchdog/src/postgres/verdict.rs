//! What an error of PostgreSQL means for who wants to write: wait, repair, or these data never.
//!
//! | SQLSTATE | meaning |
//! |---|---|
//! | 22 data, 23 constraints, 44 views, 54 limits, P0 raised by a trigger | the data are refused |
//! | 28 access, 3D database, 3F schema, 42 tables, columns and rights, 0A, 0L, 0P | somebody has to repair something |
//! | everything else: 08, 25006 (read-only), 40 (serialization), 53 (resources), 55, 57 (shutdown), 58, XX | passes |

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::Severity;

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It passes by itself. The connection may be gone.
    #[error("{reason}")]
    Passing {
        /// What happened.
        reason: String,
        /// There was no connection, or it broke.
        lost: bool,
    },
    /// Somebody has to repair something.
    #[error("{reason}")]
    Repair {
        /// The SQLSTATE, where the server said it.
        code: Option<String>,
        /// What happened and what may help.
        reason: String,
    },
    /// The data are not taken, now or ever.
    #[error("{code}: {reason}")]
    Data {
        /// The SQLSTATE.
        code: String,
        /// What the server said.
        reason: String,
    },
}

impl Trouble {
    /// The connection is gone.
    pub fn lost(reason: impl Into<String>) -> Self {
        Self::Passing {
            reason: reason.into(),
            lost: true,
        }
    }

    /// Somebody has to repair something that the server did not put a code to.
    pub fn repair(reason: impl Into<String>) -> Self {
        Self::Repair {
            code: None,
            reason: reason.into(),
        }
    }

    /// The server's code, where it gave one that says more than to come again.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Data { code, .. } => Some(code),
            Self::Repair { code, .. } => code.as_deref(),
            Self::Passing { .. } => None,
        }
    }

    /// There was no connection, or it broke, before anything was answered.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Passing { lost: true, .. })
    }

    /// The same, of a connection that ended with it.
    pub(super) fn of_lost_connection(self) -> Self {
        match self {
            Self::Passing { reason, .. } => Self::Passing { reason, lost: true },
            other => other,
        }
    }
}

/// Whether the server refused who we say we are.
pub(super) fn is_of_access(error: &Error) -> bool {
    error
        .code()
        .is_some_and(|code| code.code().starts_with("28"))
}

/// What `error` means.
pub fn trouble(error: &Error) -> Trouble {
    let Some(said) = error.as_db_error() else {
        return without_answer(error);
    };
    let code = said.code().code();
    let mut reason = said.message().to_owned();
    for (what, name) in [("column", said.column()), ("constraint", said.constraint())] {
        if let Some(name) = name.filter(|name| !said.message().contains(name)) {
            reason = format!("{reason} ({what} {name})");
        }
    }
    match of_code(code) {
        Meaning::Passes => Trouble::Passing {
            reason: format!("PostgreSQL says {code}: {reason}"),
            // The session ends with it.
            lost: matches!(
                said.parsed_severity(),
                Some(Severity::Fatal | Severity::Panic)
            ),
        },
        Meaning::Data => Trouble::Data {
            code: code.to_owned(),
            reason,
        },
        Meaning::Repair(remedy) => Trouble::Repair {
            code: Some(code.to_owned()),
            reason: format!("PostgreSQL says {code}: {reason}; {remedy}"),
        },
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Passes,
    Repair(&'static str),
    Data,
}

fn of_code(code: &str) -> Meaning {
    match code {
        "42501" => Meaning::Repair(
            "grant this user INSERT, SELECT and UPDATE on the tables, or correct the user in url",
        ),
        "42P01" => {
            Meaning::Repair("create the table, or set [upload.postgres] create_tables = true")
        }
        "42703" => Meaning::Repair("add the column, or correct [[upload.postgres.tables]] columns"),
        "42P10" => Meaning::Repair(
            "mode = \"insert\" needs a unique key over the columns of source, epoch and seq",
        ),
        _ => match code.get(..2).unwrap_or_default() {
            "22" | "23" | "44" | "54" | "P0" => Meaning::Data,
            "28" => Meaning::Repair(
                "check user and password ([upload.postgres] url, url_file, password_file) and pg_hba.conf",
            ),
            "3D" => Meaning::Repair("create the database, or correct it in [upload.postgres] url"),
            "3F" => Meaning::Repair("create the schema, or correct [upload.postgres] table"),
            "0A" | "0L" | "0P" | "42" => Meaning::Repair("check [upload.postgres] and the tables"),
            _ => Meaning::Passes,
        },
    }
}

/// An error that the server did not send.
fn without_answer(error: &Error) -> Trouble {
    let mut text = error.to_string();
    let mut source = error.source();
    let mut is_of_tls = false;
    while let Some(cause) = source {
        let inner = cause
            .downcast_ref::<std::io::Error>()
            .and_then(|io| io.get_ref());
        is_of_tls |=
            cause.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>());
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    if text.contains("does not support TLS") {
        return Trouble::repair(format!(
            "{text}; turn TLS on in the server, or write ?sslmode=disable in the URL"
        ));
    }
    if is_of_tls {
        return Trouble::repair(format!(
            "{text}; the certificate must be for the URL's host and of an authority of the system or of \
             [upload.postgres] tls_ca_file"
        ));
    }
    if text.contains("password missing") || text.contains("authentication method") {
        return Trouble::repair(format!("{text}; set [upload.postgres] password_file"));
    }
    Trouble::lost(format!("PostgreSQL cannot be reached: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_the_table_says() {
        for code in [
            "22P05", "22P02", "22021", "22003", "23502", "23505", "54000", "P0001",
        ] {
            assert_eq!(of_code(code), Meaning::Data, "{code}");
        }
        for code in [
            "40001", "40P01", "57P01", "57P03", "57014", "53300", "53100", "08006", "25006",
            "55P03", "XX000", "", "26000",
        ] {
            assert_eq!(of_code(code), Meaning::Passes, "{code}");
        }
        for code in [
            "28P01", "28000", "3D000", "3F000", "42P01", "42501", "42703", "42804", "0A000",
        ] {
            assert!(matches!(of_code(code), Meaning::Repair(_)), "{code}");
        }
    }
}
