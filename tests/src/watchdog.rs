//! A watchdog with its own folders, and everything that it started.
//!
//! A [`Setup`] is what outlives a watchdog: folders, configuration, the engine's command, and the engines
//! that are still running. Each [`Setup::start`] is one watchdog over it, so a test may kill one and start
//! the next. When the setup goes, engines are killed and folders removed.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::build::{self, Profile};
use crate::folders::Folder;
use crate::ledger::Ledger;
use crate::process::{self, Running, Token};
use crate::project;
use crate::wait;

/// Whether a process is the watchdog's own executable, started for its state (`sidekick-watchdog state load DIR`), or
/// has no command line any more because it is ending.
fn is_state_helper_or_ending(pid: u32) -> bool {
    let words = process::words(pid);
    words.is_empty() || words.split(|byte| *byte == 0).nth(1) == Some(b"state")
}

/// How long one answer may take, over HTTP or of a command: more than the command itself waits.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// How long an audit may take.
const AUDIT_TIME_MAX: Duration = Duration::from_secs(120);

/// How long a watchdog that ends may upload into its files, where the configuration does not say: on a busy machine the default is not
/// enough for what the engine recorded last.
const UPLOAD_GRACE: &str = "60s";

/// What is set up for one or more watchdogs, one after the other.
#[derive(Debug)]
pub struct Setup {
    /// Of the watchdogs and all that they start. First, so that processes end before their folders go.
    pub token: Token,
    folder: Folder,
    runtime: Folder,
    executable: PathBuf,
    engine: Vec<OsString>,
    wrapper: Option<String>,
    environment: Vec<(String, OsString)>,
}

impl Setup {
    /// Folders for a watchdog called `test`, whose API listens on a port of its own choice, whose log is
    /// JSON, and whose other settings are the defaults.
    ///
    /// # Panics
    /// When the watchdog does not compile.
    pub fn new() -> Self {
        Self::with_profile(Profile::Debug)
    }

    /// As [`Setup::new`] with the optimized watchdog.
    ///
    /// # Panics
    /// As [`Setup::new`].
    pub fn with_profile(profile: Profile) -> Self {
        let setup = Self {
            token: Token::new(),
            folder: Folder::new(),
            runtime: Folder::in_memory(),
            executable: build::watchdog(profile),
            engine: Vec::new(),
            wrapper: None,
            environment: Vec::new(),
        };
        setup.set_config("");
        setup
    }

    /// Writes the configuration file. Name, folders, the API's address and the log's format come from the
    /// environment and need not be in it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn set_config(&self, toml: &str) {
        let path = self.config_path();
        fs::write(&path, toml).unwrap_or_else(|error| panic!("cannot write {path:?}: {error}"));
    }

    /// Sets what the watchdog launches: the words after `--`.
    pub fn set_engine<Word: Into<OsString>>(&mut self, command: impl IntoIterator<Item = Word>) {
        self.engine = command.into_iter().map(Into::into).collect();
    }

    /// Starts watchdogs by this shell script, which finds the program and its words in `"$0" "$@"` and has to `exec` it.
    pub fn wrap(&mut self, script: &str) {
        self.wrapper = Some(script.to_owned());
    }

    /// Sets a variable of the watchdog's environment; it wins over those that the setup sets itself.
    pub fn set_variable(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.folder.join("sidekick.toml")
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The runtime directory: rings, locks, the API's address.
    pub fn runtime_dir(&self) -> &Path {
        self.runtime.path()
    }

    /// A folder for what a test's game writes.
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// A command of the watchdog's executable in these surroundings, for a test to run itself.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.surround(Command::new(&self.executable));
        command.args(arguments);
        command
    }

    fn surround(&self, mut command: Command) -> Command {
        command
            .current_dir(self.folder.path())
            .env("SIDEKICK_CONFIG", self.config_path())
            .env("SIDEKICK_NAME", "test")
            .env("SIDEKICK_DATA_DIR", self.data_dir())
            .env("SIDEKICK_RUNTIME_DIR", self.runtime_dir())
            .env("SIDEKICK_API_LISTEN", "127.0.0.1:0")
            .env("SIDEKICK_LOG__FORMAT", "json");
        self.token.mark(&mut command);
        project::confine(&mut command, self.folder.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs one of the watchdog's commands (`status --json`, `check`) to its end.
    ///
    /// # Panics
    /// When it cannot be started or does not end within `deadline`.
    #[track_caller]
    pub fn run(&self, arguments: &[&str], deadline: Duration) -> Finished {
        let mut running = Running::start(&mut self.command(arguments))
            .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", self.executable));
        let status = running.wait(deadline);
        let status =
            status.unwrap_or_else(|| panic!("{arguments:?} did not end within {deadline:?}"));
        Finished::of(status, &running)
    }

    /// Starts a watchdog: `run`, with the engine's command after `--` where one is set.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&self) -> Watchdog<'_> {
        self.start_with(&[])
    }

    /// As [`Setup::start`], with more variables in this one watchdog's environment.
    ///
    /// # Panics
    /// As [`Setup::start`].
    pub fn start_with(&self, variables: &[(&str, &OsStr)]) -> Watchdog<'_> {
        let mut command = match &self.wrapper {
            Some(script) => {
                let mut shell = self.surround(Command::new("sh"));
                shell.args(["-c", script]).arg(&self.executable);
                shell
            }
            None => self.surround(Command::new(&self.executable)),
        };
        if self.uploads_by_default() {
            command.env("SIDEKICK_SHUTDOWN__UPLOAD_GRACE", UPLOAD_GRACE);
        }
        command.arg("run").envs(variables.iter().copied());
        if !self.engine.is_empty() {
            command.arg("--").args(&self.engine);
        }
        let running = Running::start(&mut command)
            .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", self.executable));
        Watchdog {
            setup: self,
            running,
        }
    }

    /// Whether the configuration leaves to the defaults where to upload to, and how long at the end.
    fn uploads_by_default(&self) -> bool {
        let config = fs::read_to_string(self.config_path()).unwrap_or_default();
        !["sinks", "upload_grace"]
            .iter()
            .any(|name| config.contains(name))
    }

    /// The living processes that any watchdog of this setup started, in no order; wrappers and helpers of
    /// the engine are among them, the watchdog itself and the process that reads or writes its state are not.
    pub fn descendants(&self, watchdog: Option<&Watchdog<'_>>) -> Vec<u32> {
        let own = watchdog.map(|watchdog| watchdog.running.pid());
        self.token
            .processes()
            .into_iter()
            .filter(|pid| Some(*pid) != own && !is_state_helper_or_ending(*pid))
            .collect()
    }

    /// The living engines among [`Setup::descendants`]: each leads its process group and runs another program than the
    /// watchdog's. The second holds for no helper of the watchdog's either, which leads its group before it has become
    /// `sidekick-watchdog state`, and when it ends has no command line any more to be known by.
    pub fn engines(&self, watchdog: Option<&Watchdog<'_>>) -> Vec<u32> {
        let own_program = fs::canonicalize(&self.executable).ok();
        let mut engines = self.descendants(watchdog);
        engines.retain(|pid| {
            // A process that is ending runs no program.
            let program = fs::read_link(format!("/proc/{pid}/exe"));
            process::leads_its_group(*pid)
                && program.is_ok_and(|program| Some(program) != own_program)
        });
        engines
    }

    /// Sends a signal to an engine of this setup; nothing happens when it is gone.
    ///
    /// # Panics
    /// When the process is not one of this setup's.
    #[track_caller]
    pub fn signal(&self, pid: u32, signal: Signal) {
        process::signal(&self.token, pid, signal);
    }

    /// Takes away all that would lead the next watchdog to the engine of this launch but its ring.
    ///
    /// # Panics
    /// When it is not there.
    pub fn hide_engine(&self, launch: u32) {
        let lock = self.runtime_dir().join(format!("launch/{launch:010}"));
        for path in [lock, self.data_dir().join("engine_process")] {
            fs::remove_file(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        }
    }

    /// What the file sink has written into its default folder.
    ///
    /// # Panics
    /// When a file cannot be read.
    pub fn uploaded_files(&self) -> Ledger {
        let folder = self.data_dir().join("uploads");
        Ledger::read_folder(&folder)
            .unwrap_or_else(|error| panic!("cannot read {folder:?}: {error}"))
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

/// A command of the watchdog's that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// What it wrote on both outputs.
    pub lines: Vec<String>,
    /// What it wrote on its standard output alone.
    pub stdout: Vec<String>,
}

impl Finished {
    fn of(status: ExitStatus, running: &Running) -> Self {
        let lines = running.settled_lines();
        Self {
            status,
            lines,
            stdout: running.stdout.all(),
        }
    }
}

/// A watchdog that runs. It is killed when this value goes; what it started is not.
#[derive(Debug)]
pub struct Watchdog<'a> {
    setup: &'a Setup,
    /// Its process and its lines.
    pub running: Running,
}

impl Watchdog<'_> {
    /// The log lines so far, parsed; lines that are no JSON are left out.
    pub fn log(&self) -> Vec<LogLine> {
        self.running
            .lines
            .all()
            .iter()
            .filter_map(LogLine::parse)
            .collect()
    }

    /// Waits for a log line for which `pick` gives something.
    ///
    /// # Panics
    /// When `deadline` passes or the watchdog ends first; the text has the whole log.
    #[track_caller]
    pub fn wait_for_log<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut pick: impl FnMut(&LogLine) -> Option<T>,
    ) -> T {
        let mut seen = 0;
        let found = wait::poll(deadline, || {
            let has_said_all = self.running.has_said_all();
            let lines = self.running.lines.all();
            let found = lines[seen..]
                .iter()
                .find_map(|line| pick(&LogLine::parse(line)?));
            seen = lines.len();
            found.map(Some).or_else(|| has_said_all.then_some(None))
        });
        match found.flatten() {
            Some(value) => value,
            None => panic!(
                "the log never told of {what}; it says:\n{}",
                self.running.lines.all().join("\n")
            ),
        }
    }

    /// `status --json`, parsed; `None` while nobody answers.
    pub fn status(&self) -> Option<Value> {
        let finished = self.setup.run(&["status", "--json"], ANSWER_TIME_MAX);
        if !finished.status.success() {
            return None;
        }
        serde_json::from_str(&finished.stdout.join("\n")).ok()
    }

    /// Asks `status --json` until `pick` gives something.
    ///
    /// # Panics
    /// When `deadline` passes first; the text has the last status and the whole log.
    #[track_caller]
    pub fn wait_for_status<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut pick: impl FnMut(&Value) -> Option<T>,
    ) -> T {
        let mut last = None;
        let found = wait::poll(deadline, || {
            let has_ended = !self.running.is_alive();
            last = self.status();
            let found = last.as_ref().and_then(&mut pick);
            found.map(Some).or_else(|| has_ended.then_some(None))
        });
        found.flatten().unwrap_or_else(|| {
            let log = self.running.lines.all().join("\n");
            panic!("the status never told of {what}; it is {last:#?}; the log says:\n{log}")
        })
    }

    /// Where its API really listens; `None` before it does.
    pub fn api_address(&self) -> Option<String> {
        let text = fs::read_to_string(self.setup.runtime_dir().join("api")).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// Asks its API with GET; the answer's status code and body, `None` when nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let address = self.api_address()?;
        let mut stream = TcpStream::connect(&address).ok()?;
        stream.set_read_timeout(Some(ANSWER_TIME_MAX)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let code = head.split_whitespace().nth(1)?.parse().ok()?;
        Some((code, body.to_owned()))
    }

    /// Asks it to end with SIGTERM and waits for that. Where it ended well, an audit of what it leaves has to find that the
    /// books balance: accepted = uploaded + dead + dropped + lost + pending, and number by number what the destinations hold.
    ///
    /// # Panics
    /// When it does not end within `deadline`, or the books do not balance; the text has the whole log.
    #[track_caller]
    pub fn stop(self, deadline: Duration) -> Finished {
        let setup = self.setup;
        let finished = self.stop_unaudited(deadline);
        if finished.status.success() {
            let audit = setup.run(&["audit"], AUDIT_TIME_MAX);
            let told = [audit.lines.as_slice(), &finished.lines]
                .concat()
                .join("\n");
            assert_eq!(audit.status.code(), Some(0), "the books: {told}");
        }
        finished
    }

    /// As [`Watchdog::stop`], where the test took away or damaged what an audit would read.
    ///
    /// # Panics
    /// When it does not end within `deadline`; the text has the whole log.
    #[track_caller]
    pub fn stop_unaudited(mut self, deadline: Duration) -> Finished {
        self.running.signal(Signal::TERM);
        self.wait(deadline)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end within `deadline`; the text has the whole log.
    #[track_caller]
    pub fn wait(mut self, deadline: Duration) -> Finished {
        match self.running.wait(deadline) {
            Some(status) => Finished::of(status, &self.running),
            None => panic!(
                "the watchdog did not end within {deadline:?}; the log says:\n{}",
                self.running.lines.all().join("\n")
            ),
        }
    }

    /// Kills it with SIGKILL; its engine goes on.
    pub fn kill(mut self) {
        self.running.kill();
    }
}

/// One line of the watchdog's JSON log.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// `INFO`, `WARN`…
    pub level: String,
    /// The constant message.
    pub message: String,
    /// What it says besides.
    pub fields: Value,
}

impl LogLine {
    /// Reads a line, with its fields in an object of their own or beside the message.
    pub fn parse(line: impl AsRef<str>) -> Option<Self> {
        let mut value: Value = serde_json::from_str(line.as_ref()).ok()?;
        let level = value.get("level")?.as_str()?.to_owned();
        let fields = if value["fields"].is_object() {
            value["fields"].take()
        } else {
            value
        };
        let message = fields.get("message")?.as_str()?.to_owned();
        Some(Self {
            level,
            message,
            fields,
        })
    }

    /// A field that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.fields.get(name)?.as_u64()
    }

    /// A field that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_is_read_nested_and_flat() {
        for line in [
            r#"{"timestamp":"t","level":"INFO","fields":{"message":"engine started","pid":7},"target":"x"}"#,
            r#"{"level":"INFO","message":"engine started","pid":7}"#,
        ] {
            let line = LogLine::parse(line).unwrap();
            assert_eq!(
                (line.message.as_str(), line.number("pid")),
                ("engine started", Some(7))
            );
        }
        assert!(LogLine::parse("engine started").is_none());
    }
}
