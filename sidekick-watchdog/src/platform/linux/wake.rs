//! Sleeping until something happens, without polling.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Wakes a thread in [`wait`]. Cheap to clone, usable from any thread; wakes that nobody waits for are kept (as one).
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<OwnedFd>,
}

impl Waker {
    /// A new waker, not set.
    ///
    /// # Errors
    /// No descriptor was to be had.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            event: Arc::new(event),
        })
    }

    /// Wakes the waiting thread, or its next wait.
    pub fn wake(&self) {
        // It fails only when the counter is full, and then the thread is being woken anyway.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Takes the wakes so far back.
    pub fn clear(&self) {
        let mut count = [0_u8; 8];
        let _ = rustix::io::read(&self.event, &mut count);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// What [`wait`] can wait for beside its waker: a process's death, a file's growth.
pub trait Waitable: AsFd {}

impl Waitable for super::process::Process {}
impl Waitable for super::inotify::FileWatch {}

/// What ended a [`wait`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// The waker was set; it is cleared again.
    pub woken: bool,
    /// The other descriptor is readable (for a process: it is dead).
    pub readable: bool,
}

/// Waits until `waker` is set, `other` becomes readable or `timeout` is over (`None` = for ever).
///
/// An interrupting signal ends it early with nothing ready.
///
/// # Errors
/// What the system said.
pub fn wait(
    waker: &Waker,
    other: Option<&dyn Waitable>,
    timeout: Option<Duration>,
) -> io::Result<Ready> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let waker_fd = waker.as_fd();
    let mut fds = [
        PollFd::from_borrowed_fd(waker_fd, PollFlags::IN),
        PollFd::from_borrowed_fd(other.map_or(waker_fd, AsFd::as_fd), PollFlags::IN),
    ];
    let watched = if other.is_some() { 2 } else { 1 };
    match poll(&mut fds[..watched], timeout.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
        Err(error) => return Err(error.into()),
    }
    let ready = Ready {
        woken: !fds[0].revents().is_empty(),
        readable: watched == 2 && !fds[1].revents().is_empty(),
    };
    if ready.woken {
        waker.clear();
    }
    Ok(ready)
}
