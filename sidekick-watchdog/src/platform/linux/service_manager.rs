//! Telling a service manager how we do: systemd's notification protocol, one datagram a message.
//!
//! The socket's name comes in `NOTIFY_SOCKET`; without it nobody wants to know and everything here does nothing.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// The manager's end, if there is one.
#[derive(Debug, Default)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    alive_within: Option<Duration>,
}

/// What the environment says of a service manager.
#[derive(Clone, Debug, Default)]
pub struct ServiceHints {
    /// `$NOTIFY_SOCKET`: a path, or `@` and an abstract name.
    pub socket: Option<OsString>,
    /// `$WATCHDOG_USEC`: a sign of life is wanted within so many microseconds.
    pub watchdog_usec: Option<String>,
    /// `$WATCHDOG_PID`: from this process.
    pub watchdog_pid: Option<String>,
}

impl ServiceHints {
    /// What this process's environment says.
    pub fn from_environment() -> Self {
        Self {
            socket: std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()),
            watchdog_usec: std::env::var("WATCHDOG_USEC").ok(),
            watchdog_pid: std::env::var("WATCHDOG_PID").ok(),
        }
    }
}

impl ServiceManager {
    /// The manager that the hints name; one that does nothing where they name none.
    ///
    /// # Errors
    /// The name is no socket's.
    pub fn new(hints: &ServiceHints) -> io::Result<Self> {
        let Some(name) = &hints.socket else {
            return Ok(Self::default());
        };
        let address = address(name)?;
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not stop us.
        socket.set_nonblocking(true)?;
        let own = std::process::id().to_string();
        let is_for_us = hints.watchdog_pid.as_ref().is_none_or(|pid| *pid == own);
        let alive_within = hints
            .watchdog_usec
            .as_ref()
            .filter(|_| is_for_us)
            .and_then(|usec| usec.parse().ok())
            .filter(|usec| *usec > 0)
            .map(Duration::from_micros);
        Ok(Self {
            socket: Some((socket, address)),
            alive_within,
        })
    }

    /// Within what time the manager wants a sign of life again and again; `None` = it does not.
    pub fn alive_within(&self) -> Option<Duration> {
        self.alive_within
    }

    /// Sends one message of lines `NAME=value`. Never blocks; what the manager does not take is lost.
    ///
    /// # Errors
    /// What the system said.
    pub fn tell(&self, message: &str) -> io::Result<()> {
        if let Some((socket, address)) = &self.socket {
            socket.send_to_addr(message.as_bytes(), address)?;
        }
        Ok(())
    }
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(Path::new(name)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is neither a path nor an abstract name",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(socket: impl Into<OsString>) -> ServiceHints {
        ServiceHints {
            socket: Some(socket.into()),
            watchdog_usec: Some("2000000".into()),
            watchdog_pid: None,
        }
    }

    #[test]
    fn a_message_arrives_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("notify");
        let name = format!("sidekick-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).expect("bound");
        let abstract_address = SocketAddr::from_abstract_name(&name).expect("a name");
        let by_name = UnixDatagram::bind_addr(&abstract_address).expect("bound");
        for (socket, named) in [
            (by_path, path.into_os_string()),
            (by_name, OsString::from(format!("@{name}"))),
        ] {
            let manager = ServiceManager::new(&hints(named)).expect("a socket");
            manager.tell("READY=1").expect("sent");
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).expect("received");
            assert_eq!(&buffer[..length], b"READY=1");
        }
    }

    #[test]
    fn signs_of_life_are_wanted_from_this_process_only() {
        let within =
            |hints: &ServiceHints| ServiceManager::new(hints).expect("a name").alive_within();
        let mut hints = hints("/nowhere");
        assert_eq!(within(&hints), Some(Duration::from_secs(2)));
        hints.watchdog_pid = Some("1".into());
        assert_eq!(within(&hints), None);
        hints.watchdog_pid = Some(std::process::id().to_string());
        assert_eq!(within(&hints), Some(Duration::from_secs(2)));
        hints.watchdog_usec = Some("soon".into());
        assert_eq!(within(&hints), None);
        hints.socket = Some("vsock:2:1".into());
        assert!(ServiceManager::new(&hints).is_err());
        hints.socket = None;
        let nobody = ServiceManager::new(&hints).expect("nothing");
        nobody.tell("READY=1").expect("nobody listens");
    }
}
