//! Keeps the server listed in a registry of game servers, as V-Sekai's Uro has it, so that clients find it while it serves and are
//! not sent to it when it does not.
//!
//! The protocol (Uro's `shards`): `POST {url}/shards` lists and answers with an id; `PUT {url}/shards/{id}` is a beat, and the registry hides
//! what has not beaten for 30 s; `DELETE` takes it off. `POST {url}/login` gives a token. Uro knows no upsert, and a row of somebody who
//! is not logged in can be changed from its own address alone, so:
//!
//! - the id is kept in a file and used again by the next watchdog; not in the store, on which no listing shall hang;
//! - a beat that is refused (404, 410: no such row; other 4xx: not ours to change) is followed by a `DELETE` of that row and a new
//!   `POST`; one that meets an error of the registry's own (5xx) is tried again. A row that is gone may be answered so, too: after half a
//!   minute of 500s (502 to 504 are a proxy's) it gets a `DELETE`, whatever becomes of that, and a `POST`. Where that is not taken either, the
//!   row is beaten for as before, so that a registry that is down as a whole has it afterwards;
//! - a `POST` that is taken and answered without an id is not repeated for the same engine: each would leave a row for ever, and the
//!   list that `GET` gives has no ids either;
//! - a 401 is followed by a new login, once.
//!
//! An engine that is away for a moment stays listed, since nobody has missed a beat yet; the watchdog beats only while the engine's own
//! heart does. One that is away for longer than `unlist_after` is taken off, which comes before the registry would notice.
//! A `POST` whose answer was lost leaves a row that nobody beats for: it is hidden after 30 s.

mod client;
mod doubt;
mod listing;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::client::Client;
use self::listing::{Listing, Step};

pub use self::client::ClientError;

/// The longest that taking it off may take when the watchdog ends, with all tries.
const LAST_WORD_MAX: Duration = Duration::from_secs(3);
/// Between two of them.
const LAST_WORD_PAUSE: Duration = Duration::from_millis(500);

/// `[registry]`: the registry, and what is listed there.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where its API begins, as `https://uro.example/api/v1`.
    pub url: String,
    /// The host that clients connect to; `None`: the address that the registry sees us come from.
    pub address: Option<String>,
    /// The port that clients connect to.
    pub port: u16,
    /// The map that is played.
    pub map: String,
    /// The name that is shown.
    pub name: String,
    /// Whether it is shown to everybody.
    pub is_public: bool,
    /// The hash of the server's certificate, for clients that connect over WebTransport.
    pub cert_hash: Option<String>,
    /// Who lists it, and the file with the password.
    pub login: Option<(String, PathBuf)>,
    /// Time between two beats.
    pub beat_every: Duration,
    /// How long the engine may be away before it is taken off.
    pub unlist_after: Duration,
    /// PEM file of certificate authorities to trust beside the system's.
    pub tls_ca_file: Option<PathBuf>,
}

/// Whether players can be sent to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// It serves.
    Up,
    /// It serves who is there, and will end.
    Draining,
    /// It does not.
    #[default]
    Away,
}

/// What is known of the listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The id under which it is listed, `None` if it is not.
    pub id: Option<String>,
    /// It is listed as one that will end.
    pub is_draining: bool,
    /// Why the last try failed; `None` if it did not.
    pub error: Option<String>,
}

/// Keeps the server listed as `presence` says, until `ended` turns true or its sender goes; takes it off then if it is away. The
/// listing's id is kept in `file`.
pub async fn keep(
    settings: Settings,
    file: PathBuf,
    mut presence: watch::Receiver<Presence>,
    report: watch::Sender<Report>,
    mut ended: watch::Receiver<bool>,
) {
    let mut client = match Client::new(&settings) {
        Ok(client) => client,
        Err(error) => {
            warn!(%error, "the server is not listed");
            report.send_modify(|report| report.error = Some(error.to_string()));
            return;
        }
    };
    let kept = client::read_id(&file, &settings.url);
    let mut listing = Listing::new(settings.beat_every, settings.unlist_after, kept);
    loop {
        let now_is = *presence.borrow_and_update();
        match listing.next(Instant::now(), now_is) {
            Step::WaitUntil(at) => {
                let wait = async {
                    match at {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = wait => {}
                    changed = presence.changed() => {
                        if changed.is_err() {
                            break;
                        }
                    }
                    _ = ended.wait_for(|ended| *ended) => break,
                }
            }
            step => take(&step, &settings, &file, &mut client, &mut listing, &report).await,
        }
    }
    let id = listing.id().map(str::to_owned);
    if let Some(id) = id.filter(|_| *presence.borrow() == Presence::Away) {
        let step = Step::Remove { id };
        let last = async {
            loop {
                take(&step, &settings, &file, &mut client, &mut listing, &report).await;
                if listing.id().is_none() {
                    return;
                }
                tokio::time::sleep(LAST_WORD_PAUSE).await;
            }
        };
        if tokio::time::timeout(LAST_WORD_MAX, last).await.is_err() {
            debug!("the registry did not answer in time; it will miss our beats");
        }
    }
}

/// Does one step and tells of it.
async fn take(
    step: &Step,
    settings: &Settings,
    file: &Path,
    client: &mut Client,
    listing: &mut Listing,
    report: &watch::Sender<Report>,
) {
    let result = client.take(step).await;
    let error = result.as_ref().err().map(ToString::to_string);
    let before = listing.id().map(str::to_owned);
    listing.done(Instant::now(), step, result);
    let id = listing.id().map(str::to_owned);
    if id != before {
        match &id {
            Some(id) => info!(id, name = settings.name, "the server is listed"),
            None => info!("the server is no longer listed"),
        }
        if let Err(error) = client::keep_id(file, &settings.url, id.as_deref()) {
            warn!(%error, "the listing's id cannot be kept; the next watchdog lists the server anew");
        }
    }
    let told = Report {
        id,
        is_draining: listing.is_draining(),
        error,
    };
    if let Some(error) = told.error.as_ref()
        && report.borrow().error != told.error
    {
        warn!(%error, "the registry was not told");
    }
    report.send_if_modified(|report| {
        let is_news = *report != told;
        *report = told;
        is_news
    });
}
