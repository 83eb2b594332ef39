//! Answers operators over HTTP; the only part that names axum.
//!
//! `GET /healthz` (the process serves) · `GET /readyz` (the engine serves) · `GET /metrics` ·
//! `GET /api/v1/status` · `GET /api/v1/logs` · `GET /api/v1/crashes[/{id}]` · `POST /api/v1/engine/{restart,start,stop,drain}` ·
//! `GET|DELETE /api/v1/dead-letters`, `GET /api/v1/dead-letters/{id}`, `POST /api/v1/dead-letters/replay` · the state store ([`tree`]).
//!
//! Over TCP and over the control socket (`control.sock` in the runtime directory, for this user alone); the same
//! handlers answer both. The socket needs no token: who reaches it is this user. Over TCP no order and no write is taken without one.
//!
//! TCP is loopback by default. Requests whose `Host` is not ours are refused, so that a web page that rebinds its name to
//! 127.0.0.1 reads nothing. Where a token is configured everything but the two probes wants it; a listener beyond
//! loopback always has one ([`crate::config`] refuses it otherwise).

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::config::{ApiConfig, secret};
use crate::metrics::Metrics;
use crate::platform;

use connection::BoundedListener;
use control::Control;

mod connection;
mod control;
pub mod crashes;
pub mod letters;
mod logs;
pub mod operator;
mod orders;
mod records;
mod routes;
pub mod status;
#[cfg(test)]
mod tests;
pub mod tree;

pub use control::CONTROL_SOCKET;
pub use logs::{LINES_MAX, parse_item};
pub use operator::{Following, LogItem, Operator};
pub use orders::{GRACE_MAX, parse_grace};
pub use status::{
    BooksStatus, DEATHS_KEPT, Death, EngineState, EngineStatus, FoldingStatus, LettersStatus,
    QuotaLevel, RegistryStatus, RemovedSink, SessionStatus, SinkStatus, StandbyState,
    StandbyStatus, Status, StoreState, StoreStatus, Totals, UploadStatus,
};

/// The file in the runtime directory that tells the API's actual address.
pub const ADDRESS_FILE: &str = "api";
/// How many ports after the configured one are tried.
const PORTS_TRIED_MAX: u16 = 100;
/// How long open requests may take once the watchdog ends.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// The ports that were tried besides the configured one, in words.
fn further(tried: u16) -> String {
    match tried {
        0 => String::new(),
        1 => " (nor on the port after it)".to_owned(),
        tried => format!(" (nor on the {tried} ports after it)"),
    }
}

/// Why there is no API.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nothing could be listened on.
    #[error(
        "the API cannot listen on {listen}{}: {why}; change [api] listen",
        further(*tried)
    )]
    Listen {
        /// The configured address.
        listen: SocketAddr,
        /// How many further ports were tried.
        tried: u16,
        /// The system's words for the last try.
        why: io::Error,
    },
    /// The control socket cannot be made.
    #[error("the control socket cannot be made in {dir:?}: {}", control_words(why))]
    Control {
        /// The runtime directory.
        dir: PathBuf,
        /// The system's words.
        why: io::Error,
    },
    /// The token's file was readable when checked and is not now.
    #[error("[api] token_file {0}")]
    Token(String),
    /// The address cannot be written down.
    #[error("the API's address cannot be written to {path:?}: {why}")]
    Record {
        /// The file.
        path: PathBuf,
        /// The system's words.
        why: io::Error,
    },
}

/// What a refused control socket means, and what to do.
fn control_words(why: &io::Error) -> String {
    match why.kind() {
        io::ErrorKind::AddrInUse => {
            "another watchdog answers there; two data directories must not share one \
                                     runtime directory: change runtime_dir"
                .to_owned()
        }
        _ => format!("{why}; {}", platform::remedy(why)),
    }
}

/// The API with its port, before it answers.
#[derive(Debug)]
pub struct Api {
    listener: TcpListener,
    control: Option<Control>,
    address: SocketAddr,
    token: Option<String>,
}

impl Api {
    /// Takes the configured port, or the next free one of the hundred after it.
    ///
    /// # Errors
    /// [`ApiError::Listen`] when none is free or the address is not this machine's, [`ApiError::Token`].
    pub async fn bind(config: &ApiConfig) -> Result<Self, ApiError> {
        let token = match &config.token_file {
            Some(path) => Some(secret::read_file(path).map_err(ApiError::Token)?),
            None => None,
        };
        let mut listen = config.listen;
        let mut tried = 0;
        let listener = loop {
            match TcpListener::bind(listen).await {
                Ok(listener) => break listener,
                Err(why) => {
                    let next = listen.port().checked_add(1);
                    match next {
                        Some(port)
                            if why.kind() == io::ErrorKind::AddrInUse
                                && tried < PORTS_TRIED_MAX =>
                        {
                            tried += 1;
                            listen.set_port(port);
                        }
                        _ => {
                            let listen = config.listen;
                            return Err(ApiError::Listen { listen, tried, why });
                        }
                    }
                }
            }
        };
        let address = listener.local_addr().unwrap_or(listen);
        if tried > 0 {
            warn!(configured = %config.listen, %address, "API port taken; using the next free one");
        }
        info!(%address, "API listens");
        Ok(Self {
            listener,
            control: None,
            address,
            token,
        })
    }

    /// The address in use.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes the control socket in the runtime directory (mode 0600), in the place of a dead watchdog's.
    ///
    /// # Errors
    /// [`ApiError::Control`], also when somebody answers there already.
    pub fn open_control(&mut self, runtime_dir: &Path) -> Result<(), ApiError> {
        let control = Control::bind(runtime_dir).map_err(|why| ApiError::Control {
            dir: runtime_dir.to_owned(),
            why,
        })?;
        self.control = Some(control);
        Ok(())
    }

    /// Writes the address into the runtime directory (mode 0600, atomically), where `status` finds it.
    ///
    /// # Errors
    /// [`ApiError::Record`] with the file.
    pub fn record_address(&self, runtime_dir: &Path) -> Result<(), ApiError> {
        let path = runtime_dir.join(ADDRESS_FILE);
        let write = || {
            let new = runtime_dir.join(format!("{ADDRESS_FILE}.new"));
            match std::fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create_new(true);
            writeln!(
                platform::set_private(&mut options).open(&new)?,
                "{}",
                self.address
            )?;
            std::fs::rename(&new, &path)
        };
        write().map_err(|why| ApiError::Record { path, why })
    }

    /// Answers until `shutdown` completes, then gives open requests a second. Without an operator no order is taken.
    ///
    /// # Errors
    /// What a listener reports; single connections' errors end only themselves.
    pub async fn serve(
        self,
        status: watch::Receiver<Status>,
        metrics: Metrics,
        operator: Option<Arc<dyn Operator>>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let app = routes::App {
            status,
            metrics,
            operator,
        };
        let guard = routes::Guard {
            // Beyond loopback the token guards, and a server has more names than we can know.
            hosts: self.address.ip().is_loopback().then(|| self.address.ip()),
            orders: match self.token.is_some() {
                true => routes::Orders::Taken,
                false => routes::Orders::WantToken,
            },
            token: self.token,
        };
        let socket_path = self
            .control
            .as_ref()
            .map(|control| control.path().to_owned());
        let (ending, ended) = watch::channel(false);
        let over_tcp = serve_on(
            BoundedListener::over_tcp(self.listener),
            routes::router(app.clone(), Arc::new(guard)),
            ended.clone(),
        );
        let over_socket = async {
            match self.control {
                Some(control) => {
                    let router = routes::router(app, Arc::new(routes::Guard::default()));
                    serve_on(control.into_listener(), router, ended.clone()).await
                }
                None => Ok(()),
            }
        };
        let told = async {
            shutdown.await;
            ending.send_replace(true);
        };
        let (tcp, socket, ()) = tokio::join!(over_tcp, over_socket, told);
        // One that stays behind is a dead watchdog's. We still hold the data directory, so that it is ours.
        if let Some(path) = socket_path {
            let _ = std::fs::remove_file(path);
        }
        tcp.and(socket)
    }
}

/// Serves one listener until `ended`, and at most a second longer.
async fn serve_on(
    listener: BoundedListener,
    router: Router,
    ended: watch::Receiver<bool>,
) -> io::Result<()> {
    let (mut stop, mut seen) = (ended.clone(), ended);
    let serve = axum::serve(listener, router).with_graceful_shutdown(async move {
        let _ = stop.wait_for(|ended| *ended).await;
    });
    tokio::select! {
        result = serve => result,
        // A connection that neither asks nor goes must not hold the watchdog up.
        () = async {
            let _ = seen.wait_for(|ended| *ended).await;
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        } => Ok(()),
    }
}
