//! Being asked to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::procfs::ignores_signal;

/// The signals that ask the watchdog to end, as a future.
///
/// Installing them matters for the engine too: a handled signal is back at its default after an exec, while one that
/// a shell's `&` set to be ignored would stay ignored in the engine for ever.
#[derive(Debug)]
pub struct ShutdownSignals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    /// Started by `nohup`: the terminal's end is not ours.
    ignores_hangup: bool,
    /// Held only so that SIGCHLD is not ignored: the kernel would reap our engines before we learn how they ended.
    _child: Signal,
}

impl ShutdownSignals {
    /// Takes the signals over for the rest of the process's life. Call it on the runtime, before any engine starts.
    ///
    /// # Errors
    /// What the system said.
    pub fn install() -> io::Result<Self> {
        let ignores_hangup = ignores_signal(SignalKind::hangup().as_raw_value());
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            ignores_hangup,
            _child: signal(SignalKind::child())?,
        })
    }

    /// Waits for the next of them and names it. The first one asks for an orderly end, the second for an immediate one.
    ///
    /// Cancel safe.
    pub async fn recv(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.quit.recv() => return "SIGQUIT",
                _ = self.hangup.recv() => {
                    if !self.ignores_hangup && has_terminal() {
                        return "SIGHUP";
                    }
                }
            }
        }
    }
}

/// SIGHUP where no terminal hangs up: read the configuration anew.
#[derive(Debug)]
pub struct ReloadSignal {
    hangup: Signal,
}

impl ReloadSignal {
    /// Listens for it. Call it on the runtime.
    ///
    /// # Errors
    /// What the system said.
    pub fn install() -> io::Result<Self> {
        let hangup = signal(SignalKind::hangup())?;
        Ok(Self { hangup })
    }

    /// Waits for the next one.
    ///
    /// Cancel safe.
    pub async fn recv(&mut self) {
        loop {
            match self.hangup.recv().await {
                Some(()) if !has_terminal() => return,
                Some(()) => {}
                None => std::future::pending::<()>().await,
            }
        }
    }
}

/// Whether this process has a controlling terminal, whose end SIGHUP would tell.
fn has_terminal() -> bool {
    // One that has just hung up is still ours, and cannot be opened: that is another error.
    match std::fs::File::open("/dev/tty") {
        Ok(_) => true,
        Err(error) => error.raw_os_error() != Some(rustix::io::Errno::NXIO.raw_os_error()),
    }
}
