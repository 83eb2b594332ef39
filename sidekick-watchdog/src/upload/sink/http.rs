//! NDJSON over HTTP: any backend that takes a `POST`.
//!
//! | answer | what follows |
//! |---|---|
//! | 2xx, 409 | taken, now or before |
//! | 413 | the lane halves the batch; a single record becomes a dead letter |
//! | 429, 503 | all lanes of the sink wait, `Retry-After` is obeyed in both forms |
//! | 408, 425, other 5xx, time-out, no connection | tried again without end |
//! | 401 | the token file is read again; a new token is tried at once |
//! | 400, 422 | a record of the batch is bad: the lane looks for it and keeps it as a dead letter |
//! | other 4xx (401, 403, 404, 405, 415, …), 3xx | parked: shown, tried rarely, nothing dropped |
//!
//! The body of a batch and its `Idempotency-Key` are the same at every try, also after a restart, also when the
//! configured compression has changed meanwhile: the plan's `extra` pins it. Only where the backend answers 415 to that are
//! the same lines packed as configured.
//!
//! A backend that remembers keys should look at the key before the size: a 413 for a batch that it took before (and whose
//! answer was lost) brings the records again under the keys of the halves. What never changes is `(source, epoch, seq)`
//! of each record; dedup by that is right in any case, the key is the cheap way to it.

mod answer;
mod body;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue,
    LOCATION, RETRY_AFTER,
};
use reqwest::{Body, Client, Identity, Response, StatusCode, Url};
use uuid::Uuid;

use super::{Batch, BoxFuture, Compression, Outcome, PrepareError, Sink};
use crate::causes::in_full;
use crate::position::Position;
use crate::shown;
use crate::upload::pace::Pacer;
use crate::upload::plan::Plan;
use crate::upload::retry::retry_after;

use body::PacedBody;

/// How long to wait after a 429 or 503 that does not say.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(5);
/// Before the token.
const BEARER: &str = "Bearer ";
/// The compression that a plan keeps.
fn from_extra(extra: &[u8]) -> Option<Compression> {
    let mut all = Compression::ALL.into_iter();
    all.find(|compression| compression.as_str().as_bytes() == extra)
}

/// The backend. The app fills it from `[upload.http]`.
#[derive(Clone)]
pub struct HttpSettings {
    /// Where batches are posted to.
    pub url: String,
    /// Sent with each request, beside those that Sidekick sets. Not shown in logs.
    pub headers: Vec<(String, String)>,
    /// A file that holds a token, sent as `Authorization: Bearer`. Read again after a 401.
    pub token_file: Option<PathBuf>,
    /// For one try, from the connection to the end of the answer. Default 30 s.
    pub timeout: Duration,
    /// How the body is compressed.
    pub compression: Compression,
    /// How many batches may be on their way at once: the number of lanes. Default 4.
    pub concurrency_max: u32,
    /// PEM file of certificate authorities to trust beside the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// PEM files of a certificate, with those between it and its authority, and of its key: what this client shows to the
    /// backend.
    pub tls_client: Option<(PathBuf, PathBuf)>,
    /// Says when bytes may go.
    pub pacer: Option<Arc<Pacer>>,
}

impl fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("HttpSettings")
            .field("url", &shown::url(&self.url))
            .field("headers", &headers)
            .field("token_file", &self.token_file)
            .field("timeout", &self.timeout)
            .field("compression", &self.compression)
            .field("concurrency_max", &self.concurrency_max)
            .field("tls_ca_file", &self.tls_ca_file)
            .field("tls_client", &self.tls_client)
            .field("pacer", &self.pacer)
            .finish()
    }
}

/// What is wrong with the settings of an HTTP sink. All of it is the configuration's fault; whoever shows it names the
/// section.
#[derive(Debug, thiserror::Error)]
pub enum HttpSinkError {
    /// The URL cannot be used.
    #[error("url {url:?} cannot be used: {reason}")]
    Url {
        /// As configured, but for its secrets.
        url: String,
        /// Why.
        reason: String,
    },
    /// A header cannot be sent. Its value is not shown, it may be a secret.
    #[error("headers: {name:?} is not a header that can be sent, or its value is not")]
    Header {
        /// Its name.
        name: String,
    },
    /// The file with certificate authorities cannot be used.
    #[error("tls_ca_file {} cannot be used: {reason}", path.display())]
    CaFile {
        /// As configured.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The client's certificate or key cannot be used.
    #[error("tls_client_cert_file {} and tls_client_key_file {} cannot be used: {reason}", cert.display(), key.display())]
    ClientFiles {
        /// As configured.
        cert: PathBuf,
        /// As configured.
        key: PathBuf,
        /// Why.
        reason: String,
    },
    /// The client cannot be made.
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
}

/// Posts batches.
pub struct HttpSink {
    settings: HttpSettings,
    url: Url,
    /// What of the URL must be shown nowhere.
    url_secrets: Vec<String>,
    client: Client,
    shared: Mutex<Shared>,
}

impl fmt::Debug for HttpSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSink")
            .field("settings", &self.settings)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

/// What the lanes share.
#[derive(Debug, Default)]
struct Shared {
    token: Token,
}

#[derive(Default)]
enum Token {
    #[default]
    NotRead,
    Read(HeaderValue),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Token::NotRead => "NotRead",
            Token::Read(_) => "Read",
        })
    }
}

impl HttpSink {
    /// A sink for these settings. Connects to nobody yet. Installs rustls' ring provider for the process if there is
    /// none.
    ///
    /// # Errors
    /// Only what is wrong with the settings; a backend that cannot be reached shows later, in the status.
    pub fn new(settings: HttpSettings) -> Result<Self, HttpSinkError> {
        // An error means that there is one already, and any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let wrong_url = |reason: String| HttpSinkError::Url {
            url: shown::url(&settings.url),
            reason,
        };
        let url = Url::parse(&settings.url).map_err(|error| wrong_url(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong_url(
                "it is not of the form https://host/path".to_owned(),
            ));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers {
            let wrong = || HttpSinkError::Header { name: name.clone() };
            let key: HeaderName = name.parse().map_err(|_| wrong())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.append(key, value);
        }
        let mut builder = Client::builder()
            .default_headers(headers)
            .timeout(settings.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(settings.concurrency_max as usize)
            .user_agent(concat!("sidekick-watchdog/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &settings.tls_ca_file {
            let wrong = |reason: String| HttpSinkError::CaFile {
                path: path.clone(),
                reason,
            };
            let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| wrong(in_full(&error)))?;
            if certificates.is_empty() {
                return Err(wrong("it holds no certificate".to_owned()));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        if let Some((cert, key)) = &settings.tls_client {
            let identity = identity(cert, key).map_err(|reason| HttpSinkError::ClientFiles {
                cert: cert.clone(),
                key: key.clone(),
                reason,
            })?;
            builder = builder.identity(identity);
        }
        let client = builder
            .build()
            .map_err(|error| HttpSinkError::Client(in_full(&error)))?;
        Ok(Self {
            settings,
            url_secrets: shown::secrets(&url),
            url,
            client,
            shared: Mutex::default(),
        })
    }

    async fn try_once(&self, batch: &Batch) -> Outcome {
        let Some(mut compression) = from_extra(&batch.plan.extra) else {
            let reason = format!("the plan {} names no compression known here", batch.key);
            return Outcome::Park { reason };
        };
        let mut token = match self.token(false).await {
            Ok(token) => token,
            Err(reason) => return Outcome::Park { reason },
        };
        let mut body = batch.body.clone();
        loop {
            let mut request = self
                .client
                .post(self.url.clone())
                .header(CONTENT_TYPE, "application/x-ndjson")
                .header("idempotency-key", &batch.key)
                .body(self.body(&body));
            if let Some(pacer) = &self.settings.pacer {
                // All lanes may be waiting for the line.
                let line = pacer.span(body.len()).saturating_mul(self.lanes());
                request = request.timeout(self.settings.timeout.saturating_add(line));
            }
            if compression != Compression::None {
                request = request.header(CONTENT_ENCODING, compression.as_str());
            }
            if let Some(token) = &token {
                request = request.header(AUTHORIZATION, token.clone());
            }
            let response = match request.send().await {
                Ok(response) => response,
                Err(error) => {
                    return Outcome::Retry {
                        reason: in_full(&error.without_url()),
                    };
                }
            };
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && token.is_some() {
                match self.token(true).await {
                    // Another token than the one just refused: try it now.
                    Ok(fresh) if fresh != token => {
                        token = fresh;
                        continue;
                    }
                    Ok(_) => {}
                    Err(reason) => return Outcome::Park { reason },
                }
            }
            let configured = self.settings.compression;
            if status == StatusCode::UNSUPPORTED_MEDIA_TYPE && compression != configured {
                // Another one was configured since the batch was planned: the same lines under the same key, else it
                // would be in the way for ever.
                match repack(body, compression, configured).await {
                    Ok(packed) => (body, compression) = (packed, configured),
                    Err(error) => {
                        let reason = format!("cannot pack the batch {} anew: {error}", batch.key);
                        return Outcome::Park { reason };
                    }
                }
                continue;
            }
            return self.judge(response, batch.records(), token.as_ref()).await;
        }
    }

    async fn judge(
        &self,
        response: Response,
        records: u64,
        token: Option<&HeaderValue>,
    ) -> Outcome {
        let status = response.status();
        let header = |name| {
            response
                .headers()
                .get(name)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned)
        };
        let (asked, location, date) = (header(RETRY_AFTER), header(LOCATION), header(DATE));
        let secrets = self.secrets(token);
        let text = answer::text(response, &secrets).await;
        let said = if text.is_empty() {
            String::new()
        } else {
            format!(": {text}")
        };
        let reason = format!("the backend answered {status}{said}");
        match status.as_u16() {
            200..=299 | 409 => Outcome::Taken,
            413 if records > 1 => Outcome::TooLarge { reason },
            429 | 503 => {
                // A date is meant by the backend's clock, which it tells.
                let now = date.and_then(|date| httpdate::parse_http_date(&date).ok());
                let now = now.unwrap_or_else(SystemTime::now);
                let pause = asked.and_then(|value| retry_after(&value, now));
                let pause = pause.unwrap_or(RETRY_AFTER_DEFAULT);
                Outcome::Wait { pause, reason }
            }
            408 | 425 | 500..=599 => Outcome::Retry { reason },
            300..=399 => {
                let to = answer::hide(&location.unwrap_or_default(), &secrets);
                let reason =
                    format!("{reason}; it redirects to {to:?}: set [upload.http] url to that");
                Outcome::Park { reason }
            }
            401 if self.settings.token_file.is_none() => Outcome::Park {
                reason: format!("{reason}; set [upload.http] token_file"),
            },
            401 | 403 => Outcome::Park {
                reason: format!("{reason}; check [upload.http] token_file and headers"),
            },
            // All that is said of a record; what another code says is true of whatever is sent.
            code @ (400 | 413 | 422) => Outcome::Refused {
                code: format!("HTTP {code}"),
                reason,
            },
            415 => Outcome::Park {
                reason: format!(
                    "{reason}; check that the backend takes [upload] compression, and application/x-ndjson"
                ),
            },
            404 | 405 | 410 | 411 | 414 | 421 | 426 => Outcome::Park {
                reason: format!("{reason}; check [upload.http] url"),
            },
            407 => Outcome::Park {
                reason: format!("{reason}; check the proxy of the watchdog's environment"),
            },
            _ => Outcome::Park { reason },
        }
    }

    /// What is sent and must be shown nowhere.
    fn secrets<'a>(&'a self, token: Option<&'a HeaderValue>) -> Vec<&'a str> {
        let token = token.and_then(|token| token.to_str().ok()?.strip_prefix(BEARER));
        let headers = self.settings.headers.iter();
        headers
            .map(|(_, value)| value.as_str())
            .chain(self.url_secrets.iter().map(String::as_str))
            .chain(token)
            .collect()
    }

    /// The body of a request, in chunks as the pacer lets them go.
    fn body(&self, bytes: &Bytes) -> Body {
        match &self.settings.pacer {
            None => Body::from(bytes.clone()),
            Some(pacer) => Body::wrap(PacedBody::new(bytes.clone(), pacer.clone())),
        }
    }

    /// The `Authorization` header, read from the token file at first and when `again`.
    async fn token(&self, again: bool) -> Result<Option<HeaderValue>, String> {
        let Some(path) = &self.settings.token_file else {
            return Ok(None);
        };
        if !again && let Token::Read(value) = &self.lock().token {
            return Ok(Some(value.clone()));
        }
        let at = path.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(at)).await;
        let text = read
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|error| {
                format!(
                    "cannot read [upload.http] token_file {}: {error}",
                    path.display()
                )
            })?;
        let mut value = HeaderValue::from_str(&format!("{BEARER}{}", text.trim()))
            .ok()
            .filter(|_| !text.trim().is_empty())
            .ok_or_else(|| format!("[upload.http] token_file {} holds no token", path.display()))?;
        value.set_sensitive(true);
        self.lock().token = Token::Read(value.clone());
        Ok(Some(value))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Each change of it is a single store.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for HttpSink {
    fn name(&self) -> &str {
        "http"
    }

    fn lanes(&self) -> u32 {
        self.settings.concurrency_max.max(1)
    }

    fn prepare<'a>(
        &'a self,
        _group: &'a Uuid,
        _first: Position,
    ) -> BoxFuture<'a, Result<Vec<u8>, PrepareError>> {
        Box::pin(async { Ok(self.settings.compression.as_str().as_bytes().to_vec()) })
    }

    fn encode<'a>(
        &'a self,
        plan: &'a Plan,
        rows: Vec<u8>,
    ) -> BoxFuture<'a, Result<Bytes, PrepareError>> {
        Box::pin(async move {
            // A plan that names another compression is refused when it is sent.
            let compression = from_extra(&plan.extra).unwrap_or(Compression::None);
            if compression == Compression::None {
                return Ok(rows.into());
            }
            let done = tokio::task::spawn_blocking(move || compression.compress(rows)).await;
            let body = done.unwrap_or_else(|error| Err(io::Error::other(error)));
            body.map(Bytes::from)
                .map_err(|error| PrepareError(format!("cannot compress a batch: {error}")))
        })
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome> {
        Box::pin(self.try_once(batch))
    }
}

/// The same lines in another compression.
async fn repack(body: Bytes, from: Compression, to: Compression) -> io::Result<Bytes> {
    let packed = tokio::task::spawn_blocking(move || to.compress(from.decompress(&body)?)).await;
    let packed = packed.unwrap_or_else(|error| Err(io::Error::other(error)));
    packed.map(Bytes::from)
}

/// What the client shows to the backend. Never tells what is in the files.
fn identity(cert: &Path, key: &Path) -> Result<Identity, String> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| error.to_string());
    let mut pem = read(cert)?;
    pem.push(b'\n');
    pem.extend_from_slice(&read(key)?);
    Identity::from_pem(&pem)
        .map_err(|_| "they do not hold a certificate and its key in PEM format".to_owned())
}

#[cfg(test)]
mod tests;
