//! The control socket's listener: the same answers as over TCP, for this user alone.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tracing::warn;

use crate::platform::{ControlListener, ControlStream};

/// The socket in the runtime directory.
pub const CONTROL_SOCKET: &str = "control.sock";
/// Connections at once; the next ones wait in the system's queue.
const CONNECTIONS_MAX: usize = 32;
/// The wait after a failed accept, which otherwise repeats at once (no file descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A listener that takes at most [`CONNECTIONS_MAX`] connections at once. Who may connect is this user already and may
/// hold a connection as long as they like (`logs -f`).
#[derive(Debug)]
pub(super) struct Control {
    listener: ControlListener,
    path: PathBuf,
    permits: Arc<Semaphore>,
}

impl Control {
    pub(super) fn bind(runtime_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            listener: ControlListener::bind(runtime_dir, CONTROL_SOCKET)?,
            path: runtime_dir.join(CONTROL_SOCKET),
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        })
    }
}

impl Control {
    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Listener for Control {
    type Io = Connection;
    type Addr = ();

    async fn accept(&mut self) -> (Connection, ()) {
        // The semaphore is never closed; without a permit there would merely be no bound.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok(stream) => {
                    let connection = Connection {
                        stream,
                        _permit: permit,
                    };
                    return (connection, ());
                }
                Err(error) => {
                    warn!(%error, "control connection not accepted");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// One connection with its permit.
pub(super) struct Connection {
    stream: ControlStream,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
