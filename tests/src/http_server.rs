//! A server over HTTP on loopback, on a thread of its own, that stops when its value goes.
//!
//! What it answers is its owner's matter: [`crate::receiver`], [`crate::shards`].

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;

use axum::Router;
use tokio::sync::oneshot;

use crate::ports;

/// It listens until this value goes, which drops all connections: requests under way are not answered.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl HttpServer {
    /// Listens on a port of loopback, 0 = a free one to which it may come back; it is bound when this returns.
    ///
    /// # Errors
    /// What the system said: the port is taken.
    pub fn start(port: u16, router: Router) -> io::Result<Self> {
        let listener = match port {
            0 => ports::listen()?,
            port => TcpListener::bind((Ipv4Addr::LOCALHOST, port))?,
        };
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    _ = axum::serve(listener, router) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use axum::routing::get;

    use super::*;

    /// A request that is never answered holds up no end.
    #[test]
    fn the_port_is_free_and_connections_are_cut_when_it_goes() {
        let (asked, was_asked) = std::sync::mpsc::channel();
        let never = move || {
            asked.send(()).unwrap();
            std::future::pending::<&'static str>()
        };
        let router = Router::new()
            .route("/never", get(never))
            .route("/", get(|| async { "here" }));
        let server = HttpServer::start(0, router.clone()).unwrap();
        let address = server.address();
        let taken = HttpServer::start(address.port(), Router::new());
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let ask = |path: &str| {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
            stream
        };
        let mut unanswered = ask("/never");
        was_asked.recv().unwrap();
        drop(server);
        let mut answer = String::new();
        let _ = unanswered.read_to_string(&mut answer);
        assert_eq!(answer, "");
        assert!(TcpStream::connect(address).is_err());
        let _again = HttpServer::start(address.port(), router).unwrap();
        ask("/").read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("here"), "{answer}");
    }
}
