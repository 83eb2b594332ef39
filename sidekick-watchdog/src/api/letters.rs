//! Dead letters: `GET /api/v1/dead-letters[?sink=&stream=&after=&limit=]`, `GET /api/v1/dead-letters/{id}` (with the
//! record), `POST /api/v1/dead-letters/replay` and `DELETE /api/v1/dead-letters`, which take `ids=1,2`, `sink=`, `stream=`
//! or `all=true` in the query.
//!
//! A replay is taken down here and carried out by the uploader; a letter that is refused again stays, with the new reason.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::routes::App;

/// Letters in a list when nothing else is asked for.
const LISTED: usize = 100;
/// The most letters in a list.
pub const LISTED_MAX: usize = 1000;

/// A dead letter in short.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LetterSummary {
    /// Names it.
    pub id: u64,
    /// The sink that it was meant for.
    pub sink: String,
    /// The record's stream.
    pub stream: String,
    /// Whose record it is.
    pub source: String,
    /// The record's session.
    pub epoch: String,
    /// The record's number in its session.
    pub seq: u64,
    /// `HTTP 400`, a SQLSTATE; of rules the part that refused it (`filter`, `rename`, `set`, `schema`), or `rules`.
    pub code: String,
    /// What was said of it.
    pub reason: String,
    /// Version of the rules that it was made with.
    pub rules_version: u32,
    /// When it was written: seconds ago, of those in which a watchdog ran.
    pub age_s: f64,
    /// It is to be sent again.
    pub marked: bool,
    /// Its sink is not configured any more: it waits until that is put back, or it is dropped.
    pub sink_removed: bool,
    /// How often it was sent again.
    pub replays: u32,
}

/// A page of letters, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LetterList {
    /// The letters.
    pub letters: Vec<LetterSummary>,
    /// How many there are of what was asked for, on this page or not.
    pub wanted: u64,
    /// How many there are of all kinds, whatever was asked for.
    pub count: u64,
    /// How many bytes these take.
    pub bytes: u64,
    /// Ask again with `after=` the last id here for more.
    pub more: bool,
}

/// One letter, with its record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LetterReport {
    /// The letter.
    #[serde(flatten)]
    pub letter: LetterSummary,
    /// The record as NDJSON has it, without what rules change.
    pub record: Value,
}

/// How many letters an order was carried out for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LettersChanged {
    /// How many.
    pub changed: u64,
    /// Of a drop: those that stay, since their sinks are sending them.
    pub on_their_way: u64,
    /// Of a replay: those that stay, since their sinks are not configured.
    pub without_sink: u64,
}

/// Which letters are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// These; `None`: of any id.
    pub ids: Option<Vec<u64>>,
    /// Of this sink.
    pub sink: Option<String>,
    /// Of this stream.
    pub stream: Option<String>,
}

/// What is done to letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterOrder {
    /// Send them again.
    Replay,
    /// Drop them, counted.
    Drop,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    /// The store is not open.
    #[error("the store is not open just now; ask again in a moment")]
    NotNow,
    /// There is no such letter.
    #[error("no dead letter {0}; `sidekick-watchdog dead-letters list` lists those that are kept")]
    Unknown(u64),
    /// There is no such sink.
    #[error("no sink {sink:?}; {}", is_one_of(known))]
    NoSink {
        /// What was asked for.
        sink: String,
        /// Those that there are, and those that have letters still.
        known: Vec<String>,
    },
    /// Nobody would send it.
    #[error(
        "sink {0:?} is not configured: put it back into [upload] sinks and replay then, or drop its dead letters"
    )]
    NotConfigured(String),
    /// The store did not take it.
    #[error("{0}")]
    Store(String),
}

fn is_one_of(known: &[String]) -> String {
    let named: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
    match named.as_slice() {
        [] => "there is none".to_owned(),
        [one] => format!("there is {one}"),
        many => format!("there are {}", many.join(", ")),
    }
}

/// Where the letters are. Waits for the disk: called where blocking is allowed.
pub trait LetterBox: Send + Sync + 'static {
    /// Letters with ids above `after`, at most `limit`.
    ///
    /// # Errors
    /// [`LetterError::NotNow`], [`LetterError::NoSink`].
    fn list(&self, wanted: &Wanted, after: u64, limit: usize) -> Result<LetterList, LetterError>;

    /// One letter with its record.
    ///
    /// # Errors
    /// [`LetterError::NotNow`], [`LetterError::Unknown`].
    fn show(&self, id: u64) -> Result<LetterReport, LetterError>;

    /// Carries out an order; durable when this returns. Letters that a sink is sending are not dropped. Those whose sinks are
    /// not configured are not replayed: named by id or sink they are an error, else they are counted.
    ///
    /// # Errors
    /// See [`LetterError`].
    fn change(&self, wanted: &Wanted, order: LetterOrder) -> Result<LettersChanged, LetterError>;
}

/// What may be asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wishes {
    ids: Option<String>,
    sink: Option<String>,
    stream: Option<String>,
    all: Option<bool>,
    after: Option<u64>,
    limit: Option<usize>,
}

impl Wishes {
    /// Which letters; an order must name some.
    fn wanted(self, is_order: bool) -> Result<Wanted, String> {
        let ids = match self.ids {
            None => None,
            Some(ids) => {
                let parsed = ids.split(',').map(|id| id.trim().parse::<u64>());
                let parsed: Result<Vec<u64>, _> = parsed.collect();
                Some(parsed.map_err(|_| format!("ids is {ids:?}; it is numbers, such as 3,7"))?)
            }
        };
        let names_some = ids.is_some() || self.sink.is_some() || self.stream.is_some();
        match (is_order, self.all == Some(true), names_some) {
            (true, false, false) => Err("say which: ids=, sink=, stream= or all=true".to_owned()),
            (_, true, true) => Err("all=true goes with nothing else".to_owned()),
            _ => Ok(Wanted {
                ids,
                sink: self.sink,
                stream: self.stream,
            }),
        }
    }
}

pub(super) async fn list_letters(State(app): State<App>, Query(wishes): Query<Wishes>) -> Response {
    let (after, limit) = (wishes.after.unwrap_or(0), wishes.limit.unwrap_or(LISTED));
    match wishes.wanted(false) {
        Ok(wanted) => {
            answer(app, move |letters| {
                letters.list(&wanted, after, limit.min(LISTED_MAX))
            })
            .await
        }
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
}

pub(super) async fn show_letter(State(app): State<App>, Path(id): Path<u64>) -> Response {
    answer(app, move |letters| letters.show(id)).await
}

pub(super) async fn replay_letters(app: State<App>, wishes: Query<Wishes>) -> Response {
    order(app, wishes, LetterOrder::Replay).await
}

pub(super) async fn drop_letters(app: State<App>, wishes: Query<Wishes>) -> Response {
    order(app, wishes, LetterOrder::Drop).await
}

async fn order(
    State(app): State<App>,
    Query(wishes): Query<Wishes>,
    order: LetterOrder,
) -> Response {
    match wishes.wanted(true) {
        Ok(wanted) => answer(app, move |letters| letters.change(&wanted, order)).await,
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
}

async fn answer<T: Serialize + Send + 'static>(
    app: App,
    ask: impl FnOnce(&dyn LetterBox) -> Result<T, LetterError> + Send + 'static,
) -> Response {
    let letters: Option<Arc<dyn LetterBox>> = app.operator.and_then(|operator| operator.letters());
    let Some(letters) = letters else {
        let text = format!("{}\n", LetterError::NotNow);
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    match tokio::task::spawn_blocking(move || ask(&*letters)).await {
        Ok(Ok(found)) => ([(header::CACHE_CONTROL, "no-store")], Json(found)).into_response(),
        Ok(Err(error)) => {
            let code = match error {
                LetterError::NotNow => StatusCode::SERVICE_UNAVAILABLE,
                LetterError::Unknown(_) | LetterError::NoSink { .. } => StatusCode::NOT_FOUND,
                LetterError::NotConfigured(_) => StatusCode::CONFLICT,
                LetterError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
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
    fn an_order_names_what_it_is_for() {
        let wishes = |ids: Option<&str>, sink: Option<&str>, all| Wishes {
            ids: ids.map(str::to_owned),
            sink: sink.map(str::to_owned),
            all,
            ..Wishes::default()
        };
        assert!(wishes(None, None, None).wanted(true).is_err());
        assert!(wishes(None, None, Some(false)).wanted(true).is_err());
        assert!(wishes(Some("1"), None, Some(true)).wanted(true).is_err());
        assert!(wishes(Some("1,x"), None, None).wanted(true).is_err());
        assert_eq!(
            wishes(None, None, None).wanted(false),
            Ok(Wanted::default())
        );
        assert_eq!(
            wishes(None, None, Some(true)).wanted(true),
            Ok(Wanted::default())
        );
        let some = wishes(Some("3, 7"), Some("http"), None)
            .wanted(true)
            .unwrap();
        assert_eq!(
            (some.ids, some.sink),
            (Some(vec![3, 7]), Some("http".into()))
        );
    }
}
