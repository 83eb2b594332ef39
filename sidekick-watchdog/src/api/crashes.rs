//! `GET /api/v1/crashes?limit=` (the newest first, in short) and `GET /api/v1/crashes/{id}` (the whole report; `id` may be
//! any part that only one report's id begins or ends with, or `last`).

use std::path::PathBuf;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::operator::Operator;
use super::routes::App;
use crate::crash::CrashReport;
use crate::crash::keep::{CrashFolder, REPORTS_KEPT};

/// Reports in a list when nothing else is asked for.
const LISTED: usize = 20;
/// The shortest part of an id that is looked for.
const PART_MIN: usize = 4;
/// Of an id so much is shown: its end, since reports of one day begin alike.
pub const SHORT_ID_CHARS: usize = 8;
/// Ids that are named where one is not found.
const IDS_NAMED: usize = 5;

/// A report in short.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CrashSummary {
    /// Names the report.
    pub report_id: Uuid,
    /// The incarnation that died.
    pub incarnation: u32,
    /// Why, in words.
    pub cause: String,
    /// Why, in one word.
    pub kind: String,
    /// When, RFC 3339.
    pub ended: String,
    /// How long it had lived, in seconds.
    pub uptime_s: Option<f64>,
}

impl From<CrashReport> for CrashSummary {
    fn from(report: CrashReport) -> Self {
        Self {
            report_id: report.report_id,
            incarnation: report.incarnation,
            cause: report.cause,
            kind: report.kind,
            ended: report.ended,
            uptime_s: report.uptime_s,
        }
    }
}

/// Why there is no such report.
#[derive(Debug, thiserror::Error)]
pub enum CrashError {
    /// There is none at all.
    #[error("there are no crash reports in {dir:?}: no engine has crashed, as far as is known")]
    NoneKept {
        /// Their folder.
        dir: PathBuf,
    },
    /// None has such an id.
    #[error("there is no crash report {part:?}; those that are kept, the newest first: {}", named(.ids))]
    Unknown {
        /// What was asked for.
        part: String,
        /// Those that there are, the newest first.
        ids: Vec<Uuid>,
    },
    /// Several have.
    #[error("{count} crash reports are called {part:?}; give more of the id")]
    Ambiguous {
        /// What was asked for.
        part: String,
        /// How many there are.
        count: usize,
    },
    /// The folder or file cannot be read.
    #[error("crash reports cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
}

/// A part of an id that names it in lists and is enough to ask for it.
pub fn short_id(id: Uuid) -> String {
    let id = id.to_string();
    id[id.len() - SHORT_ID_CHARS..].to_owned()
}

fn named(ids: &[Uuid]) -> String {
    let names = ids.iter().take(IDS_NAMED).copied().map(short_id);
    let mut names = names.collect::<Vec<_>>().join(", ");
    match ids.len().saturating_sub(IDS_NAMED) {
        0 => {}
        more => names.push_str(&format!(" and {more} more")),
    }
    names
}

/// The newest reports in short, at most `limit`. A file that cannot be read is passed over. Blocks on the disk.
///
/// # Errors
/// [`CrashError::Unreadable`]; a missing folder is an empty one.
pub fn list(folder: &CrashFolder, limit: usize) -> Result<Vec<CrashSummary>, CrashError> {
    let ids = folder.ids()?;
    let read = ids.into_iter().filter_map(|id| folder.read(id).ok());
    Ok(read.take(limit).map(CrashSummary::from).collect())
}

/// The one report that `part` names: `last`, a whole id, or a part that only one id begins or ends with. Blocks on the
/// disk.
///
/// # Errors
/// See [`CrashError`].
pub fn find(folder: &CrashFolder, part: &str) -> Result<CrashReport, CrashError> {
    let ids = folder.ids()?;
    let Some(last) = ids.first() else {
        let dir = folder.dir().to_owned();
        return Err(CrashError::NoneKept { dir });
    };
    if part == "last" {
        return Ok(folder.read(*last)?);
    }
    let wanted = part.to_ascii_lowercase();
    let is_it = |id: &&Uuid| {
        let id = id.to_string();
        wanted.len() >= PART_MIN && (id.starts_with(&wanted) || id.ends_with(&wanted))
    };
    let found: Vec<Uuid> = ids.iter().filter(is_it).copied().collect();
    match found.as_slice() {
        [] => Err(CrashError::Unknown {
            part: part.to_owned(),
            ids,
        }),
        [id] => Ok(folder.read(*id)?),
        several => Err(CrashError::Ambiguous {
            part: part.to_owned(),
            count: several.len(),
        }),
    }
}

/// What may be asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wishes {
    limit: Option<usize>,
}

pub(super) async fn get_crashes(State(app): State<App>, Query(wishes): Query<Wishes>) -> Response {
    let limit = wishes.limit.unwrap_or(LISTED).min(REPORTS_KEPT);
    read(app, move |operator| list(&operator.crashes(), limit)).await
}

pub(super) async fn get_crash(State(app): State<App>, Path(part): Path<String>) -> Response {
    read(app, move |operator| find(&operator.crashes(), &part)).await
}

async fn read<T: Serialize + Send + 'static>(
    app: App,
    read: impl FnOnce(&dyn Operator) -> Result<T, CrashError> + Send + 'static,
) -> Response {
    let Some(operator) = app.operator else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    match tokio::task::spawn_blocking(move || read(&*operator)).await {
        Ok(Ok(found)) => ([(header::CACHE_CONTROL, "no-store")], Json(found)).into_response(),
        Ok(Err(error)) => {
            let code = match error {
                CrashError::NoneKept { .. } | CrashError::Unknown { .. } => StatusCode::NOT_FOUND,
                CrashError::Ambiguous { .. } => StatusCode::CONFLICT,
                CrashError::Unreadable(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (code, format!("{error}\n")).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_found_by_any_part_that_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let folder = CrashFolder::new(dir.path());
        assert!(list(&folder, 5).unwrap().is_empty());
        for part in ["last", "aaaa"] {
            let error = find(&folder, part).unwrap_err().to_string();
            assert!(error.contains("no engine has crashed"), "{error}");
        }
        let ids = [
            "01930000-0000-7000-8000-00000000aaaa",
            "01930000-0000-7000-8000-00000001bbbb",
        ];
        for (incarnation, id) in (1..).zip(ids) {
            let report = CrashReport {
                report_id: id.parse().unwrap(),
                incarnation,
                ..CrashReport::default()
            };
            folder.keep(&report).unwrap();
        }
        let numbers = |list: Vec<CrashSummary>| -> Vec<u32> {
            list.into_iter().map(|crash| crash.incarnation).collect()
        };
        assert_eq!(numbers(list(&folder, 5).unwrap()), [2, 1]);
        assert_eq!(numbers(list(&folder, 1).unwrap()), [2]);
        for (part, incarnation) in [("last", 2), ("AAAA", 1), (ids[1], 2), ("01bbbb", 2)] {
            assert_eq!(
                find(&folder, part).unwrap().incarnation,
                incarnation,
                "{part}"
            );
        }
        let error = find(&folder, "0193").unwrap_err().to_string();
        assert!(error.contains("2 crash reports"), "{error}");
        for part in ["aaa", "cccc", "../x"] {
            let error = find(&folder, part).unwrap_err().to_string();
            let named =
                format!("{part:?}; those that are kept, the newest first: 0001bbbb, 0000aaaa");
            assert!(error.ends_with(&named), "{error}");
        }
        let many = vec![Uuid::nil(); IDS_NAMED + 12];
        assert!(named(&many).ends_with("00000000 and 12 more"));
    }
}
