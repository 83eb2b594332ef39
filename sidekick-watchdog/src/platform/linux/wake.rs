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
    let (woken, [readable, _]) = wait_for_either(waker, [other, None], timeout)?;
    Ok(Ready { woken, readable })
}

/// What to poll for `other`; where there is none, nothing of `instead`.
fn poll_fd<'a>(other: Option<&'a dyn Waitable>, instead: BorrowedFd<'a>) -> PollFd<'a> {
    match other {
        Some(other) => PollFd::from_borrowed_fd(other.as_fd(), PollFlags::IN),
        None => PollFd::from_borrowed_fd(instead, PollFlags::empty()),
    }
}

/// As [`wait`], for two others: whether the waker was set, and which of the two are readable.
///
/// # Errors
/// What the system said.
pub fn wait_for_either(
    waker: &Waker,
    others: [Option<&dyn Waitable>; 2],
    timeout: Option<Duration>,
) -> io::Result<(bool, [bool; 2])> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let waker_fd = waker.as_fd();
    let mut fds = [
        PollFd::from_borrowed_fd(waker_fd, PollFlags::IN),
        poll_fd(others[0], waker_fd),
        poll_fd(others[1], waker_fd),
    ];
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok((false, [false; 2])),
        Err(error) => return Err(error.into()),
    }
    let [woken, first, second] = fds.map(|fd| !fd.revents().is_empty());
    if woken {
        waker.clear();
    }
    Ok((
        woken,
        [first && others[0].is_some(), second && others[1].is_some()],
    ))
}
