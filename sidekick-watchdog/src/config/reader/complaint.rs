//! What is said of mistakes.

use std::fmt;

use super::Place;

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

pub(super) fn not_available(feature: &str) -> String {
    format!("is not available in this version ({feature}); remove it")
}

pub(in crate::config) fn unknown<'k>(
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'k str>,
) -> String {
    format!("is an unknown {what}{}", did_you_mean(name, known))
}

pub(in crate::config) fn did_you_mean<'k>(
    name: &str,
    known: impl Iterator<Item = &'k str>,
) -> String {
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
