//! Finds the running watchdog of a data directory and asks it over its control socket.
//!
//! The socket lies in the runtime directory, which the data directory names. hyper speaks HTTP over it; one runtime on
//! this thread drives the connection.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::runtime::Runtime;

use crate::api::{CONTROL_SOCKET, Status};
use crate::config::Config;
use crate::exit::ExitCode;
use crate::platform::{self, connect_control};

/// How long the watchdog may take for each answer; it answers from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// And for a write: the import of a large tree is many of them.
const WRITE_TIMEOUT: Duration = Duration::from_secs(600);
/// A larger answer is not a watchdog's.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// The file in the data directory that names the runtime directory of its watchdog.
const RUNTIME_DIR_RECORD: &str = "runtime_dir";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("no watchdog runs for {data_dir:?}: {why}; start one with `sidekick-watchdog run`")]
    NotRunning { data_dir: PathBuf, why: String },
    #[error(
        "the watchdog of {data_dir:?} cannot be asked: {path:?} belongs to another user; run this command as that user \
         (sudo -u USER), or as root"
    )]
    NotOurs { data_dir: PathBuf, path: PathBuf },
    #[error("the watchdog did not answer: {0}")]
    Broken(String),
    #[error("the watchdog refused: {0}")]
    Refused(String),
    /// There is no such thing, whoever was asked.
    #[error("{0}")]
    Missing(String),
}

impl ClientError {
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotRunning { .. } | Self::NotOurs { .. } | Self::Broken(_) => {
                ExitCode::NotRunning
            }
            Self::Refused(_) | Self::Missing(_) => ExitCode::Internal,
        }
    }
}

/// An answer with its code.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: StatusCode,
    pub(super) body: String,
}

impl Answer {
    /// The body of an answer that is a success.
    pub(super) fn success(self) -> Result<String, ClientError> {
        match self.code.is_success() {
            true => Ok(self.body),
            false => Err(ClientError::Refused(self.sentence())),
        }
    }

    /// What an answer that is none has to say: the message of its JSON, or its text.
    pub(super) fn sentence(&self) -> String {
        let json: Option<Json> = serde_json::from_str(&self.body).ok();
        let message = json.as_ref().and_then(|json| json["message"].as_str());
        message.unwrap_or_else(|| self.body.trim_end()).to_owned()
    }
}

/// A connection to the running watchdog.
#[derive(Debug)]
pub(super) struct Client {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    data_dir: PathBuf,
}

impl Client {
    /// Connects to the watchdog of this configuration's data directory.
    pub(super) fn connect(config: &Config) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ClientError::Broken(error.to_string()))?;
        let sender = runtime.block_on(connect(config))?;
        Ok(Self {
            runtime,
            sender,
            data_dir: config.data_dir.clone(),
        })
    }

    /// The answer to `GET path`.
    pub(super) fn get(&mut self, path: &str) -> Result<Answer, ClientError> {
        self.ask(Method::GET, path, Bytes::new(), ANSWER_TIMEOUT)
    }

    /// The answer to `POST path` without a body.
    pub(super) fn post(&mut self, path: &str) -> Result<Answer, ClientError> {
        self.ask(Method::POST, path, Bytes::new(), ANSWER_TIMEOUT)
    }

    /// The answer to a write; it may have to wait for the disk.
    pub(super) fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Answer, ClientError> {
        self.ask(method, path, body.into(), WRITE_TIMEOUT)
    }

    /// The whole status, as read and as it came.
    pub(super) fn status(&mut self) -> Result<(Status, String), ClientError> {
        let json = self.get("/api/v1/status")?.success()?;
        let status = serde_json::from_str(&json)
            .map_err(|error| ClientError::Broken(format!("its status is not JSON ({error})")))?;
        Ok((status, json))
    }

    /// Hands each piece of the answer to `GET path` to `take`, until the answer ends or `take` returns `false`; what comes back
    /// has no body then. One that is no success comes back whole.
    pub(super) fn stream(
        &mut self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<Answer, ClientError> {
        let sender = &mut self.sender;
        self.runtime.block_on(async {
            let response = send(sender, Method::GET, path, Bytes::new()).await?;
            if !response.status().is_success() {
                return read(response).await;
            }
            let taken = Answer {
                code: response.status(),
                body: String::new(),
            };
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(broken)?;
                if let Some(data) = frame.data_ref()
                    && !take(data)
                {
                    break;
                }
            }
            Ok(taken)
        })
    }

    fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Answer, ClientError> {
        let sender = &mut self.sender;
        let answer = self.runtime.block_on(async {
            tokio::time::timeout(within, async {
                read(send(sender, method, path, body).await?).await
            })
            .await
        });
        answer.unwrap_or_else(|_| {
            let seconds = within.as_secs();
            Err(ClientError::Broken(format!("nothing within {seconds} s")))
        })
    }

    /// An error that says that it is not there any more.
    pub(super) fn gone(&self, why: &str) -> ClientError {
        ClientError::NotRunning {
            data_dir: self.data_dir.clone(),
            why: why.to_owned(),
        }
    }
}

async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Response<Incoming>, ClientError> {
    sender.ready().await.map_err(broken)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .body(Full::new(body))
        .map_err(|error| ClientError::Broken(error.to_string()))?;
    sender.send_request(request).await.map_err(broken)
}

async fn read(response: Response<Incoming>) -> Result<Answer, ClientError> {
    let code = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = body
        .collect()
        .await
        .map_err(|error| ClientError::Broken(error.to_string()))?;
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok(Answer { code, body })
}

fn broken(error: hyper::Error) -> ClientError {
    ClientError::Broken(error.to_string())
}

async fn connect(config: &Config) -> Result<SendRequest<Full<Bytes>>, ClientError> {
    let not_running = |why: String| ClientError::NotRunning {
        data_dir: config.data_dir.clone(),
        why,
    };
    let not_ours = |path: &Path| ClientError::NotOurs {
        data_dir: config.data_dir.clone(),
        path: path.to_owned(),
    };
    // The recorded one first: the configuration may have changed since the watchdog started.
    let record = config.data_dir.join(RUNTIME_DIR_RECORD);
    let recorded = match std::fs::read(&record) {
        Ok(text) => {
            let text = text.strip_suffix(b"\n").unwrap_or(&text);
            Some(platform::path_from_bytes(text))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(not_ours(&record));
        }
        Err(_) => None,
    };
    let mut why = format!("{} does not exist", record.display());
    for dir in recorded.into_iter().chain(config.runtime_dir.clone()) {
        let socket = dir.join(CONTROL_SOCKET);
        match connect_control(&dir, CONTROL_SOCKET).await {
            Ok(stream) => {
                let (sender, connection) = http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(broken)?;
                tokio::spawn(async move {
                    // What ends it reaches whoever waits for an answer.
                    let _ = connection.await;
                });
                return Ok(sender);
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(not_ours(&socket));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                why = format!("nobody answers at {}, it has died", socket.display());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                why = "the last one has ended".to_owned();
            }
            Err(error) => why = format!("{}: {error}", socket.display()),
        }
    }
    Err(not_running(why))
}
