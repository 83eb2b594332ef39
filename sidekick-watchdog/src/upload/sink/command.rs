//! A program of the operator's, which is handed each batch as NDJSON on its standard input.
//!
//! | how it ends | what follows |
//! |---|---|
//! | exit code 0 | taken, whether it read all of it or not |
//! | 65 (`EX_DATAERR`) | a record of the batch is bad: the lane looks for it and keeps it as a dead letter |
//! | 77 (`EX_NOPERM`), 78 (`EX_CONFIG`); it cannot be started | parked: shown, tried rarely, nothing dropped |
//! | any other code, a signal, its time is over | tried again without end |
//!
//! `SIDEKICK_BATCH_KEY` is the same at every try, also after a restart: who stored a batch and was killed before it could
//! say so gets it again under that key. Standard input is a file in memory that holds the whole batch before the program
//! begins. A pipe would be closed by the watchdog's death, and a part would pass for the whole batch under its key.
//!
//! One runs at a time. It ends, with its process group, when its time is over or nobody waits for it any more, and the
//! next one begins only then. One that a killed watchdog left running is ended before the next watchdog runs any.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::{Batch, BoxFuture, Outcome, Sink};
use crate::platform::{
    HelperEnd, NO_EXECUTABLE_FORMAT, RunLock, Waker, keep_own_variables, memory_file,
    run_helper_heard,
};

/// How much is shown of what it said.
const REASON_BYTES_MAX: usize = 300;
const EX_DATAERR: i32 = 65;
const EX_NOPERM: i32 = 77;
const EX_CONFIG: i32 = 78;

/// The program. The app fills it from `[upload.command]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandSettings {
    /// The program and its arguments.
    pub run: Vec<String>,
    /// Where it is run; `None`: where the watchdog is.
    pub working_dir: Option<PathBuf>,
    /// It is killed after this time. Default 30 s.
    pub timeout: Duration,
    /// Is locked by each run; the same file for every watchdog of the data directory.
    pub lock_path: PathBuf,
}

/// Runs a program for each batch. One lane: it gets all streams in the order of their commits.
#[derive(Debug)]
pub struct CommandSink {
    settings: CommandSettings,
    /// Held by the run that goes on, also by one that nobody waits for any more.
    turn: Arc<Mutex<()>>,
}

/// Ends a run when nobody waits for it any more.
struct CancelOnDrop(Waker);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.wake();
    }
}

impl CommandSink {
    /// A sink for these settings. Runs nothing yet.
    pub fn new(settings: CommandSettings) -> Self {
        let turn = Arc::default();
        Self { settings, turn }
    }

    fn command(&self, batch: &Batch) -> io::Result<Command> {
        let mut words = self.settings.run.iter();
        let mut command = Command::new(words.next().map_or("", String::as_str));
        keep_own_variables(&mut command);
        command.args(words).envs([
            ("SIDEKICK_BATCH_KEY", batch.key.clone()),
            ("SIDEKICK_BATCH_RECORDS", batch.records().to_string()),
        ]);
        if let Some(dir) = &self.settings.working_dir {
            command.current_dir(dir);
        }
        command.stdin(memory_file(&batch.body)?);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Ok(command)
    }

    /// How the program ended, and the end of what it said.
    async fn run(&self, batch: &Batch) -> io::Result<(HelperEnd, Vec<u8>)> {
        let turn = self.turn.clone().lock_owned().await;
        let cancel = Waker::new()?;
        let mut command = self.command(batch)?;
        let (limit, path) = (self.settings.timeout, self.settings.lock_path.clone());
        let _nobody_waits = CancelOnDrop(cancel.clone());
        let run = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let lock = RunLock::take(&path, "[upload.command] run")?;
            let ended = run_helper_heard(&mut command, limit, Some(&cancel), Some(lock.inherited));
            lock.file.note_end();
            ended.map_err(|error| explain(&command, &error))
        });
        run.await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

impl Sink for CommandSink {
    fn name(&self) -> &str {
        "command"
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome> {
        Box::pin(async { judge(self.run(batch).await) })
    }
}

/// Why it could not be started, with its name and what to do.
fn explain(command: &Command, error: &io::Error) -> io::Error {
    let program = command.get_program().to_string_lossy();
    let has_folder = command.get_current_dir().is_none_or(Path::is_dir);
    let remedy = match error.kind() {
        _ if !has_folder => "set [engine] working_dir to an existing folder".to_owned(),
        io::ErrorKind::NotFound if program.contains('/') => {
            "correct its path (a relative one begins in the engine's folder), or install the interpreter it names".to_owned()
        }
        io::ErrorKind::NotFound => {
            format!("no folder of PATH has it: write \"./{program}\" for one in the engine's folder, or a whole path")
        }
        io::ErrorKind::PermissionDenied => "make it executable (chmod +x)".to_owned(),
        _ if error.raw_os_error() == Some(NO_EXECUTABLE_FORMAT) => {
            "it is no program for this system; a script begins with a line like #!/bin/sh".to_owned()
        }
        _ => "check the system's limits".to_owned(),
    };
    io::Error::new(error.kind(), format!("{program:?}: {error}; {remedy}"))
}

fn judge(ended: io::Result<(HelperEnd, Vec<u8>)>) -> Outcome {
    let (end, said) = match ended {
        Ok(ended) => ended,
        Err(error) => {
            let reason = format!("[upload.command] run cannot be started: {error}");
            return Outcome::Park { reason };
        }
    };
    let line = last_line(&said);
    let reason = format!("[upload.command] run: {end}: {line}");
    match end {
        HelperEnd::Code(0) => Outcome::Taken,
        HelperEnd::Code(EX_DATAERR) => Outcome::Refused {
            code: format!("exit {EX_DATAERR}"),
            reason: line,
        },
        HelperEnd::Code(EX_NOPERM | EX_CONFIG) => Outcome::Park { reason },
        _ => Outcome::Retry { reason },
    }
}

/// The last line that holds something, fit to be shown.
fn last_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.trim_end().lines().next_back();
    let mut line = line.map_or_else(|| "it said nothing".into(), str::to_owned);
    line.truncate(line.floor_char_boundary(REASON_BYTES_MAX));
    line.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests;
