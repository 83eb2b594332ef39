//! Bounds what who connects can hold: how many connections, and, where it may be a stranger, how long one may say nothing.
//!
//! Connections over TCP and over the control socket are of one type, so that the program has the server of axum and hyper once.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tracing::warn;

use crate::platform::ControlListener;

/// Connections over TCP at once; the next ones wait in the system's queue.
const CONNECTIONS_MAX: usize = 64;
/// Connections over the control socket at once.
const CONTROL_CONNECTIONS_MAX: usize = 32;
/// A connection over TCP that has not been answered for this long is closed (a scraper comes every 15 to 60 s).
const IDLE_MAX: Duration = Duration::from_secs(90);
/// The wait after a failed accept, which otherwise repeats at once (no file descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Where connections come from.
enum Source {
    Tcp(TcpListener),
    /// Who may connect is this user already and may hold a connection as long as they like (`logs -f`).
    Control(ControlListener),
}

impl Source {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Control(listener) => Box::new(listener.accept().await?),
        })
    }
}

/// A listener that takes at most so many connections at once.
pub(super) struct BoundedListener {
    source: Source,
    permits: Arc<Semaphore>,
}

impl BoundedListener {
    pub(super) fn over_tcp(listener: TcpListener) -> Self {
        Self {
            source: Source::Tcp(listener),
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }

    pub(super) fn over_control(listener: ControlListener) -> Self {
        Self {
            source: Source::Control(listener),
            permits: Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX)),
        }
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = ();

    async fn accept(&mut self) -> (Connection, ()) {
        // The semaphore is never closed; without a permit there would merely be no bound.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        loop {
            match self.source.accept().await {
                Ok(stream) => {
                    let is_bounded = matches!(self.source, Source::Tcp(_));
                    let connection = Connection {
                        stream,
                        idle: is_bounded.then(|| Box::pin(sleep(IDLE_MAX))),
                        _permit: permit,
                    };
                    return (connection, ());
                }
                Err(error) => {
                    warn!(%error, "API connection not accepted");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// What a connection is made of.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One connection with its permit and its deadline, if it has one.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    idle: Option<Pin<Box<Sleep>>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn answered(&mut self) {
        if let Some(idle) = &mut self.idle {
            idle.as_mut().reset(Instant::now() + IDLE_MAX);
        }
    }

    /// # Errors
    /// The deadline has passed.
    fn check_idle(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let idle = self.idle.as_mut();
        if idle.is_some_and(|idle| idle.as_mut().poll(cx).is_ready()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Only answers push the deadline out: a request sent byte by byte does not.
        self.check_idle(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_idle(cx)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.answered();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// A client that connects and says nothing is let go after the deadline, on a paused clock.
    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_closed_after_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut bounded = BoundedListener::over_tcp(listener);
        let _client = TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = bounded.accept().await;
        let begun = Instant::now();
        let error = connection.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= IDLE_MAX);
        assert_eq!(bounded.permits.available_permits(), CONNECTIONS_MAX - 1);
        drop(connection);
        assert_eq!(bounded.permits.available_permits(), CONNECTIONS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_pushes_the_deadline_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut bounded = BoundedListener::over_tcp(listener);
        let _client = TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = bounded.accept().await;
        let begun = Instant::now();
        tokio::time::advance(IDLE_MAX / 2).await;
        connection.write_all(b"x").await.unwrap();
        let _ = connection.read_u8().await.unwrap_err();
        assert!(begun.elapsed() >= IDLE_MAX + IDLE_MAX / 2);
    }
}
