//! The control socket: a unix socket for this user alone, in the runtime directory.
//!
//! Its path may be longer than the 107 bytes that a socket's address holds; then the folder is named by an open
//! descriptor (`/proc/self/fd/…`), for both sides.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tokio::net::{UnixListener, UnixStream};

/// What a socket's address holds, without its closing zero.
const PATH_BYTES_MAX: usize = 107;

/// One connection over the control socket.
pub type ControlStream = UnixStream;

/// The watchdog's end of the control socket.
#[derive(Debug)]
pub struct ControlListener(UnixListener);

impl ControlListener {
    /// Makes the socket `name` in `dir` with mode 0600, in the place of one whose watchdog is dead. Must be called on
    /// a tokio runtime.
    ///
    /// # Errors
    /// - `AddrInUse`: somebody answers there; it is left alone.
    /// - What the system said.
    pub fn bind(dir: &Path, name: &str) -> io::Result<Self> {
        match connect_now(dir, name) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            // Alive and too busy to answer.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            Err(_) => {}
        }
        // Made under another name and moved there, so that nobody ever finds a socket with a wider mode, or none.
        let new = format!("{name}.new");
        let place = dir.join(&new);
        match fs::remove_file(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = with_short_path(dir, &new, |path| net::UnixListener::bind(path))?;
        fs::set_permissions(&place, Permissions::from_mode(0o600))?;
        fs::rename(&place, dir.join(name))?;
        listener.set_nonblocking(true)?;
        Ok(Self(UnixListener::from_std(listener)?))
    }

    /// The next connection of this user's, or of root's. Others cannot reach the folder; those who do are let go.
    ///
    /// # Errors
    /// What the system said, such as that no file descriptors are left. Cancel safe.
    pub async fn accept(&self) -> io::Result<ControlStream> {
        let own = rustix::process::geteuid().as_raw();
        loop {
            let (stream, _) = self.0.accept().await?;
            if stream
                .peer_cred()
                .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
            {
                return Ok(stream);
            }
        }
    }
}

/// Connects to the socket `name` in `dir`. Must be called on a tokio runtime.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when nobody is there, `PermissionDenied` when it is another user's.
pub async fn connect_control(dir: &Path, name: &str) -> io::Result<ControlStream> {
    let short = short_path(dir, name)?;
    UnixStream::connect(&short.path).await
}

/// Connects at once or not at all, so that a socket whose queue is full holds nobody up.
fn connect_now(dir: &Path, name: &str) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let short = short_path(dir, name)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(&short.path)?)?;
    Ok(())
}

/// A path that fits, as long as this value lives.
struct ShortPath {
    path: PathBuf,
    _dir: Option<fs::File>,
}

fn short_path(dir: &Path, name: &str) -> io::Result<ShortPath> {
    let path = dir.join(name);
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return Ok(ShortPath { path, _dir: None });
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let dir = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()));
    Ok(ShortPath {
        path,
        _dir: Some(dir),
    })
}

fn with_short_path<T>(
    dir: &Path,
    name: &str,
    act: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let short = short_path(dir, name)?;
    act(&short.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "control.sock";

    /// In a folder whose path no socket's address holds, too.
    #[tokio::test]
    async fn the_socket_is_private_and_reached_however_long_its_folder() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let deep = folder.path().join("d".repeat(120)).join("e".repeat(120));
        fs::create_dir_all(&deep).expect("made");
        for dir in [folder.path(), &deep] {
            let listener = ControlListener::bind(dir, NAME).expect("bound");
            let mode = fs::metadata(dir.join(NAME)).expect("there").permissions();
            assert_eq!(mode.mode() & 0o777, 0o600);
            let (served, asked) = tokio::join!(listener.accept(), connect_control(dir, NAME));
            served.expect("accepted");
            asked.expect("connected");
        }
    }

    #[tokio::test]
    async fn a_dead_watchdogs_socket_is_replaced_and_a_living_ones_is_not() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let dir = folder.path();
        let first = ControlListener::bind(dir, NAME).expect("bound");
        let error = ControlListener::bind(dir, NAME).expect_err("it answers");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let error = connect_control(dir, NAME).await.expect_err("it is dead");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let second = ControlListener::bind(dir, NAME).expect("replaced");
        let (served, asked) = tokio::join!(second.accept(), connect_control(dir, NAME));
        served.expect("accepted");
        asked.expect("connected");
    }

    #[tokio::test]
    async fn a_missing_folder_is_told_as_such() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let nowhere = folder.path().join("nowhere");
        for error in [
            ControlListener::bind(&nowhere, NAME).expect_err("no folder"),
            connect_control(&nowhere, NAME)
                .await
                .expect_err("no folder"),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }
}
