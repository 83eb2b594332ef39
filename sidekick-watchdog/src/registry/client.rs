//! The registry's API, and the file in which its id is kept.

use std::io;
use std::path::Path;
use std::time::Duration;

use reqwest::header::AUTHORIZATION;
use reqwest::{Method, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Settings;
use super::listing::{Status, Step};
use crate::causes::in_full;

/// For one request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A longer password file is surely not one.
const PASSWORD_BYTES_MAX: u64 = 8 << 10;

/// What the registry has answered, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) id: Option<String>,
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The settings cannot be used.
    #[error("[registry] {0}")]
    Settings(String),
    /// No answer, or one that says to come again.
    #[error("the registry cannot be reached: {0}")]
    Unreachable(String),
    /// It does not know us.
    #[error("the registry refuses the login: {0}; check [registry] user and password_file")]
    Login(String),
    /// It has an answer, and it is no. What else it says is not shown: it might repeat what it was sent.
    #[error(
        "the registry answers {status}; a server that is not logged in can be changed from its own address alone"
    )]
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// It has an error of its own, which by itself says nothing of the row.
    #[error("the registry answers {status}; tried again")]
    Failed {
        /// The HTTP status, from 500 on.
        status: u16,
    },
    /// It took the server, and did not say under which id: without one it cannot be kept listed.
    #[error(
        "the registry lists the server and does not say under which id, so it is hidden there before long; update the \
         registry, then restart the game: each try leaves a row, so the next one waits for another engine, ten minutes at least"
    )]
    NoId,
}

/// Talks to the registry.
pub(super) struct Client {
    settings: Settings,
    url: Url,
    http: reqwest::Client,
    token: Option<String>,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Result<Self, ClientError> {
        // An error means that there is one already, and any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let wrong = |what: String| ClientError::Settings(what);
        // A base without a slash at its end would lose its last part when paths are joined to it.
        let base = format!("{}/", settings.url.trim_end_matches('/'));
        let url = Url::parse(&base).map_err(|error| wrong(format!("url: {error}")))?;
        let mut builder = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(1)
            .user_agent(concat!("sidekick-watchdog/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &settings.tls_ca_file {
            let cannot =
                |reason: String| wrong(format!("tls_ca_file {}: {reason}", path.display()));
            let pem = std::fs::read(path).map_err(|error| cannot(error.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| cannot(error.to_string()))?;
            builder = builder.tls_certs_merge(certificates);
        }
        Ok(Self {
            http: builder.build().map_err(|error| wrong(error.to_string()))?,
            settings: settings.clone(),
            url,
            token: None,
        })
    }

    /// Does what a step asks for.
    pub(super) async fn take(&mut self, step: &Step) -> Result<Answer, ClientError> {
        match step {
            Step::Create => {
                let answer = self.send(Method::POST, "shards", Some(self.row())).await?;
                match answer.id {
                    Some(_) => Ok(answer),
                    None => Err(ClientError::NoId),
                }
            }
            Step::Beat { id, status } => {
                let body = status.map(|status| json!({"shard": {"status": status.word()}}));
                self.send(Method::PUT, &format!("shards/{id}"), body).await
            }
            Step::Forget { id } | Step::Remove { id } => {
                self.send(Method::DELETE, &format!("shards/{id}"), None)
                    .await
            }
            Step::WaitUntil(_) => Ok(Answer { id: None }),
        }
    }

    /// The server's row. Registries of one generation want its fields by themselves, those of another below `shard`.
    fn row(&self) -> Value {
        let settings = &self.settings;
        let mut row = json!({
            "port": settings.port,
            "map": settings.map,
            "name": settings.name,
            "public": settings.is_public,
            "status": Status::Online.word(),
        });
        for (key, value) in [
            ("address", &settings.address),
            ("cert_hash", &settings.cert_hash),
        ] {
            if let Some(value) = value {
                row[key] = json!(value);
            }
        }
        let shard = row.clone();
        row["shard"] = shard;
        row
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Answer, ClientError> {
        let is_fresh = self.token.is_none();
        if is_fresh {
            self.log_in().await?;
        }
        match self.send_once(&method, path, body.as_ref()).await {
            Err(ClientError::Refused { status, .. })
                if status == StatusCode::UNAUTHORIZED.as_u16()
                    && !is_fresh
                    && self.settings.login.is_some() =>
            {
                self.log_in().await?;
                self.send_once(&method, path, body.as_ref()).await
            }
            other => other,
        }
    }

    async fn send_once(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, ClientError> {
        let url = self.url.join(path);
        let url = url.map_err(|error| ClientError::Settings(error.to_string()))?;
        let mut request = self.http.request(method.clone(), url);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json");
            request = request.body(body.to_string());
        }
        let answer = read(request).await?;
        let id = answer.pointer("/data/id").or_else(|| answer.get("id"));
        let id = id.and_then(|id| match id {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        });
        // It becomes part of a path.
        let is_plain = |id: &String| {
            !id.is_empty()
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        Ok(Answer {
            id: id.filter(is_plain),
        })
    }

    /// Gets a token, where somebody is to be logged in.
    async fn log_in(&mut self) -> Result<(), ClientError> {
        let Some((user, file)) = &self.settings.login else {
            return Ok(());
        };
        let password = read_password(file).map_err(ClientError::Settings)?;
        let url = self.url.join("login");
        let url = url.map_err(|error| ClientError::Settings(error.to_string()))?;
        let body = json!({"username_or_email": user, "password": password});
        let request = self.http.post(url);
        let request = request.header("content-type", "application/json");
        let answer = match read(request.body(body.to_string())).await {
            Err(ClientError::Refused { status }) => {
                return Err(ClientError::Login(format!("it answers {status}")));
            }
            other => other?,
        };
        let token = answer
            .pointer("/data/access_token")
            .or_else(|| answer.get("access_token"))
            .and_then(Value::as_str)
            .ok_or_else(|| ClientError::Login("its answer has no access_token".to_owned()))?;
        self.token = Some(token.to_owned());
        Ok(())
    }
}

/// Sends a request and reads a success as JSON; a body that is none is null.
async fn read(request: reqwest::RequestBuilder) -> Result<Value, ClientError> {
    let unreachable =
        |error: reqwest::Error| ClientError::Unreachable(in_full(&error.without_url()));
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let text = response.text().await.map_err(unreachable)?;
    if status.is_success() {
        return Ok(serde_json::from_str(&text).unwrap_or_default());
    }
    let is_for_later = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    if is_for_later {
        return Err(ClientError::Unreachable(format!("it answers {status}")));
    }
    let is_its_own = status.is_server_error();
    let status = status.as_u16();
    Err(match is_its_own {
        true => ClientError::Failed { status },
        false => ClientError::Refused { status },
    })
}

fn read_password(path: &Path) -> Result<String, String> {
    let cannot = |reason: String| format!("password_file {}: {reason}", path.display());
    let length = std::fs::metadata(path).map_err(|error| cannot(error.to_string()))?;
    if length.len() > PASSWORD_BYTES_MAX {
        return Err(cannot("is too long for a password".to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| cannot(error.to_string()))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(cannot("is empty".to_owned())),
        password => Ok(password.to_owned()),
    }
}

/// What is kept of the listing.
#[derive(Serialize, Deserialize)]
struct Kept {
    url: String,
    id: String,
}

/// The id that this or an earlier watchdog got from this registry.
pub(super) fn read_id(file: &Path, url: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let kept: Kept = serde_json::from_str(&text).ok()?;
    (kept.url == url).then_some(kept.id)
}

/// Keeps the id, or forgets it.
pub(super) fn keep_id(file: &Path, url: &str, id: Option<&str>) -> io::Result<()> {
    let Some(id) = id else {
        return match std::fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    let kept = Kept {
        url: url.to_owned(),
        id: id.to_owned(),
    };
    let text = serde_json::to_string(&kept)?;
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, file)
}
