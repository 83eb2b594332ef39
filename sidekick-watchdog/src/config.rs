//! `sidekick.toml`, the environment and the flags: one typed struct per subsystem, one pass with all complaints.
//!
//! Order: flag > `SIDEKICK_*` > file > default. Every key can be set by environment:
//! `SIDEKICK_<SECTION>__<KEY>` (`SIDEKICK_UPLOAD__HTTP__URL`, `SIDEKICK_RING__SIZE`), and the usual ones by short
//! names: `SIDEKICK_NAME`, `SIDEKICK_DATA_DIR`, `SIDEKICK_RUNTIME_DIR`, `SIDEKICK_LOG_LEVEL`,
//! `SIDEKICK_API_LISTEN`. The file itself is named by `--config`, else `SIDEKICK_CONFIG`, else `sidekick.toml` in
//! the working directory is taken where it exists.
//!
//! A key whose feature does not exist in this version is refused, never silently ignored.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub mod api;
mod command_line;
pub mod engine;
pub mod health;
pub mod hooks;
pub mod log;
mod reader;
mod registry;
pub mod restart;
pub mod ring;
pub mod secret;
pub mod shutdown;
pub mod store;
pub mod streams;
#[cfg(test)]
mod tests;
pub mod upload;
mod value;
mod write;

pub use api::ApiConfig;
pub use command_line::CommandLine;
pub use engine::{EngineConfig, RestartPolicy};
pub use health::{HealthConfig, HeartbeatPolicy};
pub use hooks::HooksConfig;
pub use log::{LogConfig, LogFormat, LogLevel, LogRotation};
pub use reader::{Complaint, Entry, Place, Sources};
pub use restart::{RestartConfig, RestartWhen};
pub use ring::{RING_BYTES_MAX, RING_BYTES_MIN, RingConfig, WhenFull};
pub use shutdown::ShutdownConfig;
pub use store::StoreConfig;
pub use streams::{StreamRule, StreamsConfig};
pub use upload::{
    CommandSinkConfig, Compression, FileSinkConfig, HttpSinkConfig, PostgresMode,
    PostgresSinkConfig, SinkKind, UploadConfig,
};
pub use value::{HiddenMap, Size};
pub use write::{effective, template};

use reader::Pass;
pub(crate) use reader::full_key;

use crate::platform::host_name;

/// The file that is read when no other is named.
pub const FILE_NAME: &str = "sidekick.toml";
/// A configuration file beyond this size is refused: it is something else.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The longest `name`.
const NAME_BYTES_MAX: usize = 64;

/// Keys and sections of the design whose features do not exist yet, at the top of the file.
const LATER: &[(&str, &str)] = &[("cluster", "groups of several nodes")];

/// Everything that can be configured, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// This server's name, the `source` of its records: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// Where everything durable lies, absolute.
    pub data_dir: PathBuf,
    /// Where rings and locks lie, when configured (absolute); else it is chosen by the platform.
    pub runtime_dir: Option<PathBuf>,
    /// What is launched and when it is launched again.
    pub engine: EngineConfig,
    /// When the engine counts as hung, and when as ready.
    pub health: HealthConfig,
    /// How long to wait between relaunches, and when to give up.
    pub restart: RestartConfig,
    /// How long engine and uploads may take when the watchdog is asked to end.
    pub shutdown: ShutdownConfig,
    /// The operator's own commands at turns of the engine's life.
    pub hooks: HooksConfig,
    /// The shared memory between engine and watchdog.
    pub ring: RingConfig,
    /// The committed log and the state beside it.
    pub store: StoreConfig,
    /// Where records go and in which batches.
    pub upload: UploadConfig,
    /// Where the server is listed, if anywhere.
    pub registry: Option<crate::registry::Settings>,
    /// What is done to records of which streams.
    pub streams: StreamsConfig,
    /// Where operators are answered over HTTP.
    pub api: ApiConfig,
    /// What the watchdog itself tells, and where.
    pub log: LogConfig,
    /// The file it was read from.
    pub file: Option<PathBuf>,
    /// What is not wrong but probably not meant, in sentences; to be logged once.
    pub warnings: Vec<String>,
    /// Each key with its value and where that came from.
    pub entries: Vec<Entry>,
}

/// What the command line says about the configuration.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--name`
    pub name: Option<String>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--runtime-dir`
    pub runtime_dir: Option<PathBuf>,
    /// What followed `--`; empty when nothing did.
    pub command: Vec<String>,
}

/// All that is wrong with a configuration, in the order of the file.
#[derive(Clone, Debug, thiserror::Error)]
pub struct ConfigErrors {
    /// One for each mistake; never empty.
    pub complaints: Vec<Complaint>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, complaint) in self.complaints.iter().enumerate() {
            let line_end = if at == 0 { "" } else { "\n" };
            write!(f, "{line_end}{complaint}")?;
        }
        Ok(())
    }
}

impl ConfigErrors {
    fn one(place: Place, message: String) -> Self {
        let key = String::new();
        Self {
            complaints: vec![Complaint {
                place,
                key,
                message,
            }],
        }
    }
}

/// Reads and checks the configuration from flags, environment and file.
///
/// `env` is the process's environment, `working_dir` its current directory.
///
/// # Errors
/// Every mistake found, see [`ConfigErrors`]; a named file that cannot be read is one of them.
pub fn load(
    flags: &Flags,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    working_dir: &Path,
) -> Result<Config, ConfigErrors> {
    let mut sources = Sources {
        working_dir: working_dir.to_owned(),
        hostname: host_name(),
        command: (!flags.command.is_empty()).then(|| flags.command.clone()),
        ..Sources::default()
    };
    let mut not_utf8 = |place| {
        sources.mistakes.push(Complaint {
            place,
            key: String::new(),
            message: "is not valid UTF-8".into(),
        });
    };
    for (name, value) in env {
        let Ok(name) = name.into_string() else {
            continue;
        };
        let is_ours = name.starts_with("SIDEKICK_");
        match value.into_string() {
            Ok(value) if is_ours => drop(sources.env.insert(name, value)),
            Ok(value) => drop(sources.variables.insert(name, value)),
            Err(_) if is_ours => not_utf8(Place::Env(name)),
            Err(_) => {}
        }
    }
    if let Some(name) = &flags.name {
        sources.flags.push(("name", "--name", name.clone()));
    }
    for (key, flag, path) in [
        ("data_dir", "--data-dir", &flags.data_dir),
        ("runtime_dir", "--runtime-dir", &flags.runtime_dir),
    ] {
        match path.as_ref().map(|path| path.to_str()) {
            Some(Some(text)) => sources.flags.push((key, flag, text.to_owned())),
            Some(None) => not_utf8(Place::Flag(flag)),
            None => {}
        }
    }
    sources.file = find_file(flags, &sources.env, working_dir)?;
    resolve(&sources)
}

/// The file that applies, and its text.
fn find_file(
    flags: &Flags,
    env: &BTreeMap<String, String>,
    working_dir: &Path,
) -> Result<Option<(PathBuf, String)>, ConfigErrors> {
    let (path, place) = match (&flags.config, env.get("SIDEKICK_CONFIG")) {
        (Some(path), _) => (path.clone(), Place::Flag("--config")),
        (None, Some(path)) => (path.into(), Place::Env("SIDEKICK_CONFIG".into())),
        (None, None) if working_dir.join(FILE_NAME).exists() => (FILE_NAME.into(), Place::Default),
        (None, None) => return Ok(None),
    };
    match read_file(&working_dir.join(&path)) {
        Ok(text) => Ok(Some((path, text))),
        Err(why) => Err(ConfigErrors::one(
            place,
            format!(
                "the configuration file {} cannot be read: {why}; name another with --config, or let `sidekick-watchdog \
                 init` write a new one",
                path.display()
            ),
        )),
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a file".into());
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(format!(
            "it has {} bytes, at most {FILE_BYTES_MAX} are read",
            metadata.len()
        ));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes)
        .map_err(|error| format!("byte {} is not UTF-8", error.utf8_error().valid_up_to()))
}

/// Checks what the sources say and makes one configuration of it. Reads nothing but the token files named.
///
/// # Errors
/// Every mistake found.
pub fn resolve(sources: &Sources) -> Result<Config, ConfigErrors> {
    let text = sources.file.as_ref().map_or("", |(_, text)| text.as_str());
    let (root, syntax_errors) = DeTable::parse_recoverable(text);
    let root = sources.file.is_some().then_some(root.get_ref());
    let mut pass = Pass::new(sources, root);
    let config = read_all(&mut pass);
    pass.finish(LATER);
    pass.add_syntax_errors(&syntax_errors);
    if !pass.complaints.is_empty() {
        pass.complaints.sort_by(|a, b| a.place.cmp(&b.place));
        return Err(ConfigErrors {
            complaints: pass.complaints,
        });
    }
    Ok(Config {
        warnings: pass.warnings,
        entries: pass.entries,
        ..config
    })
}

fn read_all(pass: &mut Pass<'_>) -> Config {
    let sources = pass.sources();
    let mut top = pass.top();
    let name = top.get(
        "name",
        valid_name(&sources.hostname),
        "This server's name in its records, unique among your servers. Default: the machine's name.",
        |name: &String| check_name(name),
    );
    let data_dir = top.path(
        "data_dir",
        "sidekick-data",
        "Where everything durable lies. Two servers must not share it.",
    );
    let runtime_dir = top.optional_path(
        "runtime_dir",
        "\"/run/sidekick/lobby-1\"",
        "Where shared memory and locks lie, best in memory. Without it: the system's runtime directory, else /dev/shm.",
    );
    top.finish();
    if runtime_dir.as_ref() == Some(&data_dir) {
        pass.complain(
            "runtime_dir",
            "is the same as data_dir; rings would then lie on the disk. Leave it out or name another folder",
        );
    }
    let engine = EngineConfig::read(pass);
    let hooks = HooksConfig::read(pass);
    let upload = UploadConfig::read(pass, &data_dir);
    let registry = registry::read(pass, &name);
    let sinks: Vec<&str> = upload.sinks.iter().map(|sink| sink.word()).collect();
    Config {
        engine,
        health: HealthConfig::read(pass),
        restart: RestartConfig::read(pass),
        shutdown: ShutdownConfig::read(pass),
        hooks,
        ring: RingConfig::read(pass),
        store: StoreConfig::read(pass),
        streams: StreamsConfig::read(pass, &sinks),
        upload,
        registry,
        api: ApiConfig::read(pass),
        log: LogConfig::read(pass),
        file: sources.file.as_ref().map(|(path, _)| path.clone()),
        warnings: Vec::new(),
        entries: Vec::new(),
        name,
        data_dir,
        runtime_dir,
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

fn check_name(name: &str) -> Result<(), String> {
    match !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(is_name_char) {
        true => Ok(()),
        false => Err(format!(
            "must be 1 to {NAME_BYTES_MAX} characters of A-Z a-z 0-9 . _ -, not {:?}",
            name.chars().take(NAME_BYTES_MAX).collect::<String>()
        )),
    }
}

/// The machine's name as a name that [`check_name`] takes.
fn valid_name(hostname: &str) -> String {
    let name: String = hostname
        .chars()
        .filter(|c| is_name_char(*c))
        .take(NAME_BYTES_MAX)
        .collect();
    match name.is_empty() {
        true => "sidekick".into(),
        false => name,
    }
}
