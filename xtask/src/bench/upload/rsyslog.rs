//! rsyslog as a peer: records come over a unix socket, lie in its disk queue, and go to Elasticsearch's bulk interface or into a
//! PostgreSQL.

use std::env;
use std::error::Error;
use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use sidekick_tests::folders::Folder;
use sidekick_tests::process::{Running, Token};
use sidekick_tests::wait;

use super::usage;

const PATIENCE: Duration = Duration::from_secs(180);
const INSTALL: &str = "apt-get install rsyslog rsyslog-pgsql rsyslog-elasticsearch";
/// Where distributions put its modules.
const MODULES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/rsyslog",
    "/usr/lib/aarch64-linux-gnu/rsyslog",
    "/usr/lib64/rsyslog",
];

/// How sure it is of what it has taken.
#[derive(Debug, Clone, Copy)]
pub(super) enum Queue {
    /// An fsync for each record, as ours has one for each commit.
    Synced,
    /// As it is by default.
    Unsynced,
}

/// What it sends to.
pub(super) enum Sink<'a> {
    Elasticsearch { port: u16 },
    Postgres { port: u16, database: &'a str },
}

/// How one run went.
pub(super) struct Run {
    pub(super) seconds: f64,
    pub(super) cpu_s: f64,
}

/// Sends `records` of about as many bytes as ours through it, until `arrived` says when the last one has come.
pub(super) fn run(
    sink: &Sink<'_>,
    queue: Queue,
    records: u64,
    arrived: impl Fn() -> Option<SystemTime>,
) -> Result<Run, Box<dyn Error>> {
    let program =
        find("rsyslogd").ok_or_else(|| format!("rsyslogd is not installed (`{INSTALL}`)"))?;
    let modules = MODULES.map(PathBuf::from).into_iter();
    let modules = modules
        .filter(|folder| folder.join("omelasticsearch.so").is_file())
        .find(|folder| folder.join("ompgsql.so").is_file())
        .ok_or_else(|| format!("rsyslog's modules are not installed (`{INSTALL}`)"))?;
    let folder = Folder::new();
    fs::create_dir(folder.join("spool"))?;
    let config = folder.join("rsyslog.conf");
    fs::write(&config, text(folder.path(), sink, queue))?;

    let token = Token::new();
    let mut command = Command::new(program);
    command.arg("-n").arg("-f").arg(&config);
    command.arg("-i").arg(folder.join("pid"));
    command.arg("-M").arg(modules);
    token.mark(&mut command);
    let running = Running::start(&mut command)?;
    let socket = folder.join("in.sock");
    let mut stream = wait::poll(PATIENCE, || UnixStream::connect(&socket).ok())
        .ok_or_else(|| format!("rsyslog opened no socket: {:?}", running.lines.all()))?;

    let before = usage::cpu_s(running.pid())?;
    let (started, began) = (SystemTime::now(), Instant::now());
    // Its queue is full as long as its sink is in trouble.
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&lines(records))?;
    stream.shutdown(Shutdown::Write)?;
    let last = wait::poll(PATIENCE.saturating_sub(began.elapsed()), &arrived);
    let last = last.ok_or_else(|| format!("rsyslog did not bring {records} records home"))?;
    let cpu_s = usage::cpu_s(running.pid())? - before;
    token.kill_all();
    let seconds = last.duration_since(started)?.as_secs_f64();
    Ok(Run { seconds, cpu_s })
}

fn text(folder: &Path, sink: &Sink<'_>, queue: Queue) -> String {
    let folder = folder.display();
    let (synced, checkpoint) = match queue {
        Queue::Synced => ("on", 1),
        Queue::Unsynced => ("off", 0),
    };
    let queue = format!(
        "queue.type=\"Disk\" queue.filename=\"q\" queue.maxdiskspace=\"4g\" queue.maxfilesize=\"16m\" \
         queue.syncqueuefiles=\"{synced}\" queue.checkpointinterval=\"{checkpoint}\" queue.saveonshutdown=\"on\" \
         queue.dequeuebatchsize=\"1000\" queue.workerthreads=\"1\" queue.timeoutenqueue=\"600000\""
    );
    let (module, action) = match sink {
        Sink::Elasticsearch { port } => (
            "omelasticsearch",
            format!(
                "type=\"omelasticsearch\" server=\"127.0.0.1\" serverport=\"{port}\" bulkmode=\"on\" maxbytes=\"1m\" \
                 template=\"raw\" errorfile=\"{folder}/errors\""
            ),
        ),
        Sink::Postgres { port, database } => (
            "ompgsql",
            format!(
                "type=\"ompgsql\" conninfo=\"postgresql://postgres@127.0.0.1:{port}/{database}\" template=\"sql\""
            ),
        ),
    };
    format!(
        "global(workDirectory=\"{folder}/spool\" maxMessageSize=\"64k\")\n\
         module(load=\"imptcp\")\nmodule(load=\"{module}\")\n\
         template(name=\"raw\" type=\"string\" string=\"%rawmsg%\")\n\
         template(name=\"sql\" type=\"string\" option.stdsql=\"on\" \
         string=\"insert into peer (seq, body) select (b->>'seq')::bigint, b from (select '%rawmsg%'::jsonb b) z\")\n\
         ruleset(name=\"out\" {queue}) {{\n\
         action({action} action.resumeretrycount=\"-1\" action.resumeinterval=\"1\")\n}}\n\
         input(type=\"imptcp\" path=\"{folder}/in.sock\" ruleset=\"out\")\n"
    )
}

/// About 150 bytes each, as those of the flood.
fn lines(records: u64) -> Vec<u8> {
    let text = "abcdefghijklmnopqrstuvwxyz".repeat(4);
    let lines = (1..=records)
        .map(|seq| format!("{{\"seq\":{seq},\"stream\":\"bench\",\"data\":\"{text}\"}}\n"));
    lines.collect::<String>().into_bytes()
}

/// A program on the path, or where administrators' programs lie.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    folders.push(PathBuf::from("/usr/sbin"));
    let mut programs = folders.into_iter().map(|folder| folder.join(program));
    programs.find(|path| path.is_file())
}
