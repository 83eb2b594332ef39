//! A real PostgreSQL of a test's own: found on the machine, initialized in a temporary folder, on loopback and a socket.
//!
//! Where the machine has none, tests that need it are ignored with the reason. `HARNESS_POSTGRES` names the folder of
//! another one's programs. It does not run as root, so root's tests run it as `postgres` or `nobody`.

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Trial};
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::folders::Folder;
use crate::ports;
use crate::process::Running;
use crate::wait;

/// The folder of `initdb` and `postgres`, where the usual places shall not count.
const VARIABLE: &str = "HARNESS_POSTGRES";
/// Generous: recovery after a kill on a loaded machine.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// How often a port is chosen anew that another program took first.
const START_TRIES: u32 = 5;
/// How long an orderly end may take.
const END_TIME_MAX: Duration = Duration::from_secs(10);

/// A named test that is given a server.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// What is claimed, as a name.
    pub name: &'static str,
    /// Panics when the claim does not hold.
    pub run: fn(&Postgres),
}

/// Makes a test target's `main` out of functions that take a `&Postgres`; all share one server, one after the other.
#[macro_export]
macro_rules! postgres_claims {
    ($($claim:ident),+ $(,)?) => {
        $crate::postgres::main(&[
            $($crate::postgres::Claim { name: stringify!($claim), run: $claim }),+
        ])
    };
}

/// Runs the claims as the command line asks.
pub fn main(claims: &[Claim]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    // Shared, and ended before the process ends.
    let server: std::sync::Arc<Mutex<Option<Postgres>>> = std::sync::Arc::default();
    let trial = |claim: &Claim| {
        let (run, server) = (claim.run, server.clone());
        Trial::ignorable_test(claim.name, move || {
            let Some(programs) = find() else {
                return Ok(Completion::ignored_with(
                    "no PostgreSQL found; install the package `postgresql`",
                ));
            };
            let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
            run(server.get_or_insert_with(|| Postgres::start(&programs)));
            Ok(Completion::Completed)
        })
    };
    let conclusion = libtest_mimic::run(&arguments, claims.iter().map(trial).collect());
    drop(server.lock().unwrap_or_else(PoisonError::into_inner).take());
    conclusion.exit_code()
}

/// The folder with `initdb` and `postgres`; `None` where there is none.
pub fn find() -> Option<PathBuf> {
    let has_both =
        |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    if let Some(folder) = std::env::var_os(VARIABLE) {
        return Some(PathBuf::from(folder)).filter(has_both);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Debian keeps them off the PATH, one folder for each version; the newest first.
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    versions.sort();
    folders.extend(versions.into_iter().rev());
    folders.into_iter().find(has_both)
}

/// A server; it is ended and its folder removed when this value goes.
#[derive(Debug)]
pub struct Postgres {
    running: Mutex<Option<Running>>,
    folder: Folder,
    programs: PathBuf,
    port: u16,
    /// Whom it runs as, where we are root.
    user: Option<(u32, u32)>,
}

impl Postgres {
    /// Initializes and starts a server that trusts everybody on this machine.
    ///
    /// # Panics
    /// When it does not start; the text has what it said.
    pub fn start(programs: &Path) -> Self {
        let mut server = Self {
            running: Mutex::new(None),
            folder: Folder::new(),
            programs: programs.to_owned(),
            port: 0,
            user: rustix::process::getuid().is_root().then(unprivileged_user),
        };
        if let Some((uid, gid)) = server.user {
            chown(server.folder.path(), Some(uid), Some(gid)).expect("root may give folders away");
        }
        let mut init = server.command("initdb");
        init.args([
            "-U",
            "postgres",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        ])
        .args(["--wal-segsize=1", "-D"])
        .arg(server.data());
        let output = init.output().expect("initdb to run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "initdb failed: {said}");
        for tries in 1.. {
            server.port = ports::free();
            match server.try_come_up() {
                Ok(()) => break,
                Err(said) if tries == START_TRIES => panic!("{said}"),
                Err(_) => {}
            }
        }
        server
    }

    /// Makes an empty database and returns it.
    ///
    /// # Panics
    /// When that fails.
    pub fn database(&self, name: &str) -> Database<'_> {
        // Whatever a test that failed has left.
        self.trust_all();
        self.postgres()
            .query(&format!("drop database if exists {name} with (force)"));
        self.postgres().query(&format!("create database {name}"));
        Database {
            server: self,
            name: name.to_owned(),
        }
    }

    /// The database that is there from the start.
    pub fn postgres(&self) -> Database<'_> {
        Database {
            server: self,
            name: "postgres".to_owned(),
        }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its socket.
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces `pg_hba.conf` and has it read.
    ///
    /// # Panics
    /// When that fails.
    pub fn set_access(&self, text: &str) {
        self.write("pg_hba.conf", text);
        self.postgres().query("select pg_reload_conf()");
    }

    /// Trusts everybody on this machine, as at the start.
    pub fn trust_all(&self) {
        let text = "local all all trust\nhost all all 127.0.0.1/32 trust\n";
        self.write("pg_hba.conf", text);
        self.signal(Signal::HUP);
    }

    /// Writes a file into its data folder, readable by it alone.
    ///
    /// # Panics
    /// When that fails.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        fs::write(&path, text).expect("a file of the server");
        let private = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
        fs::set_permissions(&path, private).expect("a file of the server");
        if let Some((uid, gid)) = self.user {
            chown(&path, Some(uid), Some(gid)).expect("root may give files away");
        }
    }

    /// Kills it and all that it started with SIGKILL: a crash.
    pub fn kill(&self) {
        let Some(mut running) = self.lock().take() else {
            return;
        };
        let children = children(running.pid());
        running.kill();
        for pid in children {
            // They die by themselves when they see it, a moment later; not even that moment shall be.
            let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
        }
    }

    /// Starts it again where it was killed, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn come_up(&self) {
        if self.lock().is_none() {
            let said = wait::poll(START_TIME_MAX, || self.try_come_up().ok());
            said.unwrap_or_else(|| panic!("PostgreSQL does not come up again"));
        }
    }

    fn try_come_up(&self) -> Result<(), String> {
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-k"])
            .arg(self.folder.path())
            .args([
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "dynamic_shared_memory_type=mmap",
            ])
            .args(["-c", "shared_buffers=16MB", "-c", "max_connections=40"]);
        let mut running = Running::start(&mut command).expect("postgres to run");
        let is_up = wait::poll(START_TIME_MAX, || {
            if running.status().is_some() {
                return Some(false);
            }
            self.postgres()
                .try_query("select 1")
                .is_ok()
                .then_some(true)
        });
        if is_up != Some(true) {
            return Err(running.settled_lines().join("\n"));
        }
        *self.lock() = Some(running);
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        if let Some(running) = self.lock().as_mut() {
            running.signal(signal);
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command
            .current_dir("/")
            .env("LC_ALL", "C")
            .env_remove("PGDATA");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut running) = self.lock().take() {
            // At once, but it still takes its shared memory with it.
            running.signal(Signal::QUIT);
            running.wait(END_TIME_MAX);
        }
    }
}

/// `postgres`, else `nobody`: both are on every machine that is asked for, the second on all.
fn unprivileged_user() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |name: &str| {
        let line = users
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ids("postgres")
        .or_else(|| ids("nobody"))
        .expect("a user that is not root")
}

/// The processes that `parent` started.
fn children(parent: u32) -> Vec<i32> {
    let is_child = |pid: &i32| {
        // The fields after the name: state, parent.
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            let fields = stat.rsplit(')').next().unwrap_or_default();
            fields.split_ascii_whitespace().nth(1) == Some(&parent.to_string())
        })
    };
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(is_child)
        .collect()
}

/// One database of a server.
#[derive(Debug, Clone)]
pub struct Database<'a> {
    server: &'a Postgres,
    name: String,
}

impl Database<'_> {
    /// Its URL over TCP for the user `postgres`, without TLS.
    pub fn url(&self) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{}/{}",
            self.server.port, self.name
        )
    }

    /// Runs statements and returns the rows of them all, as text.
    ///
    /// # Panics
    /// When one fails.
    #[track_caller]
    pub fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.try_query(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The one number that a query gives.
    ///
    /// # Panics
    /// When it gives something else.
    #[track_caller]
    pub fn number(&self, sql: &str) -> u64 {
        let rows = self.query(sql);
        let first = rows
            .first()
            .and_then(|row| row.first()?.as_deref()?.parse().ok());
        first.unwrap_or_else(|| panic!("{sql} gives {rows:?}"))
    }

    /// As [`Database::query`].
    ///
    /// # Errors
    /// Why not.
    pub fn try_query(&self, sql: &str) -> io::Result<Vec<Vec<Option<String>>>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            // Through the socket, where no test sets up who may connect.
            let mut config = tokio_postgres::Config::new();
            config
                .host_path(self.server.folder.path())
                .port(self.server.port)
                .user("postgres")
                .dbname(&self.name);
            let (client, connection) = config.connect(NoTls).await.map_err(io::Error::other)?;
            tokio::select! {
                messages = client.simple_query(sql) => Ok(rows(&messages.map_err(io::Error::other)?)),
                end = connection => Err(end.map_or_else(io::Error::other, |()| io::ErrorKind::ConnectionReset.into())),
            }
        })
    }
}

fn rows(messages: &[SimpleQueryMessage]) -> Vec<Vec<Option<String>>> {
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(
            (0..row.len())
                .map(|at| row.get(at).map(str::to_owned))
                .collect(),
        ),
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}
