//! Where in the configuration something stands.

use std::fmt;
use std::path::PathBuf;

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

/// Line and column of a byte offset, both from 1; columns count characters.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
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
pub(super) fn is_unquoted_quantity(text: &str, offset: usize) -> bool {
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
