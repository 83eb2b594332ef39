//! `doctor`: checks what `run` will need on this machine, without changing anything that matters.
//!
//! Each finding says what was looked at, what was found and what to do. The exit code is that of the first failure,
//! the same that `run` would end with.

use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ConfigArgs;
use crate::config::{Config, PostgresSinkConfig, SinkKind, Size};
use crate::exit::ExitCode;
use crate::platform::{is_executable, kernel_release};
use crate::upload::sink::PostgresSink;

mod filesystem;
mod project;

/// How long the backend may take to accept a connection.
const BACKEND_TIMEOUT: Duration = Duration::from_secs(3);
/// The oldest kernel with all that is used of pidfds.
const KERNEL_MIN: (u32, u32) = (5, 10);

/// How a check went.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Warning,
    Failure(ExitCode),
}

/// What one check found.
#[derive(Clone, Debug)]
struct Finding {
    verdict: Verdict,
    what: &'static str,
    words: String,
}

fn fine(what: &'static str, words: impl Into<String>) -> Finding {
    finding(Verdict::Fine, what, words)
}

fn warning(what: &'static str, words: impl Into<String>) -> Finding {
    finding(Verdict::Warning, what, words)
}

fn failure(code: ExitCode, what: &'static str, words: impl Into<String>) -> Finding {
    finding(Verdict::Failure(code), what, words)
}

fn finding(verdict: Verdict, what: &'static str, words: impl Into<String>) -> Finding {
    Finding {
        verdict,
        what,
        words: words.into(),
    }
}

pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    let config = match args.load() {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    let findings = examine(&config);
    for Finding {
        verdict,
        what,
        words,
    } in &findings
    {
        let mark = match verdict {
            Verdict::Fine => "ok  ",
            Verdict::Warning => "warn",
            Verdict::Failure(_) => "FAIL",
        };
        super::say(format_args!("{mark}  {what:<13} {words}"));
    }
    let code = findings.iter().find_map(|finding| match finding.verdict {
        Verdict::Failure(code) => Some(code),
        _ => None,
    });
    code.unwrap_or(ExitCode::Ok)
}

fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![match &config.file {
        Some(file) => fine("configuration", file.display().to_string()),
        None => fine("configuration", "no file; defaults, environment and flags"),
    }];
    findings.extend(
        config
            .warnings
            .iter()
            .map(|text| warning("configuration", text)),
    );
    findings.push(kernel());
    findings.push(engine(config));
    findings.extend(project::examine(config));
    findings.extend(filesystem::data_dir(config));
    findings.extend(filesystem::runtime_dir(config));
    findings.push(port(config));
    findings.extend(sinks(config));
    let leaving = super::sinks::leaving(config).into_iter();
    findings.extend(leaving.map(|leaving| match leaving.is_left_behind {
        true => warning("upload", leaving.words),
        false => fine("upload", leaving.words),
    }));
    findings
}

fn kernel() -> Finding {
    let release = kernel_release();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < KERNEL_MIN => failure(
            ExitCode::Internal,
            "kernel",
            format!(
                "Linux {release} is too old: {}.{} or later is needed (pidfd)",
                KERNEL_MIN.0, KERNEL_MIN.1
            ),
        ),
        _ => fine("kernel", format!("Linux {release}")),
    }
}

fn engine(config: &Config) -> Finding {
    let Some(program) = config.engine.command.0.first() else {
        return warning(
            "engine",
            "[engine] command is not set: right when the server is started by addons/sidekick/sidekick.sh, which names \
             the engine itself, or by `run -- COMMAND`",
        );
    };
    let folder = config
        .engine
        .working_dir
        .clone()
        .unwrap_or_else(super::working_dir);
    if !folder.is_dir() {
        return failure(
            ExitCode::CannotSpawn,
            "engine",
            format!("[engine] working_dir {folder:?} is not a folder"),
        );
    }
    match find_program(program, &folder, "[engine] command") {
        Ok(path) => fine("engine", path.display().to_string()),
        Err(why) => failure(ExitCode::CannotSpawn, "engine", why),
    }
}

/// Where the program that `setting` names lies, found as the system would find it.
fn find_program(program: &str, folder: &Path, setting: &str) -> Result<PathBuf, String> {
    if program.contains('/') {
        // Without the `.` of `./engine.sh`.
        let path: PathBuf = folder.join(program).components().collect();
        return match (path.is_file(), is_executable(&path)) {
            (true, true) => Ok(path),
            (true, false) => Err(format!(
                "{path:?} is not executable; run: chmod +x {path:?}"
            )),
            (false, _) => Err(format!("{path:?} does not exist; correct {setting}")),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| folder.join(dir).join(program))
        .find(|path| is_executable(path))
        .ok_or_else(|| match folder.join(program).is_file() {
            true => format!(
                "{program:?} is in no folder of PATH; for the one in {folder:?} write \"./{program}\" in {setting}"
            ),
            false => format!(
                "{program:?} is in no folder of PATH; install it, or give its whole path in {setting}"
            ),
        })
}

/// Where the program of `[upload.command]` lies, where there is one. Only looks; also for `check`.
pub(super) fn find_uploader(config: &Config) -> Option<Result<PathBuf, String>> {
    let command = config.upload.command.as_ref()?;
    let folder = config.engine.working_dir.clone();
    let folder = folder.unwrap_or_else(super::working_dir);
    let program = command.run.0.first().map_or("", String::as_str);
    let found = find_program(program, &folder, "[upload.command] run");
    Some(found.map_err(|why| format!("{why}; records would wait until then")))
}

fn port(config: &Config) -> Finding {
    let listen = config.api.listen;
    match TcpListener::bind(listen) {
        Ok(_) => fine("API", format!("{listen} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => warning(
            "API",
            format!(
                "{listen} is taken (perhaps by a running watchdog); the next free port would be used"
            ),
        ),
        Err(error) => failure(
            ExitCode::Listen,
            "API",
            format!("{listen} cannot be listened on: {error}; change [api] listen"),
        ),
    }
}

fn sinks(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.upload.sinks.contains(&SinkKind::File) {
        let dir = &config.upload.file.dir;
        findings.push(match filesystem::check_writable(dir) {
            Ok(()) => fine("upload.file", dir.display().to_string()),
            Err(why) => failure(ExitCode::StoreUnusable, "upload.file", why),
        });
    }
    if let Some(http) = &config.upload.http {
        let host = http.url.host_str().unwrap_or_default();
        let place = (
            host.trim_matches(['[', ']']),
            http.url.port_or_known_default().unwrap_or(443),
        );
        // A backend that is away is no failure: records wait for it.
        let reached = place
            .to_socket_addrs()
            .map_err(|error| format!("{host} has no address: {error}"))
            .and_then(|mut addresses| {
                addresses
                    .next()
                    .ok_or_else(|| format!("{host} has no address"))
            })
            .and_then(|address| {
                TcpStream::connect_timeout(&address, BACKEND_TIMEOUT)
                    .map_err(|error| format!("{address} does not answer: {error}"))
            });
        findings.push(match reached {
            Ok(_) => fine("upload.http", format!("{host} accepts connections")),
            Err(why) => warning(
                "upload.http",
                format!("{why}; records would wait until it does"),
            ),
        });
    }
    if let Some(postgres) = &config.upload.postgres {
        findings.push(database(postgres));
    }
    // What is wrong with it is no failure: records wait for it.
    findings.extend(find_uploader(config).map(|found| match found {
        Ok(path) => fine("upload.command", path.display().to_string()),
        Err(why) => warning("upload.command", why),
    }));
    if config.upload.sinks.is_empty() {
        findings.push(warning(
            "upload",
            "[upload] sinks is empty: nothing is uploaded",
        ));
    }
    findings
}

/// Can the database be connected to, and are the tables there?
fn database(config: &PostgresSinkConfig) -> Finding {
    let mut settings = crate::app::postgres_sink(config, 1);
    settings.server.timeout = settings.server.timeout.min(BACKEND_TIMEOUT);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return warning("upload.postgres", error.to_string()),
    };
    // What is wrong with it is no failure: records wait for it.
    match runtime.block_on(PostgresSink::new(settings).examine()) {
        Ok(missing) if missing.is_empty() => {
            fine("upload.postgres", "connects, the tables are there")
        }
        Ok(missing) if config.create_tables => fine(
            "upload.postgres",
            format!("connects; {} would be made", missing.join(", ")),
        ),
        Ok(missing) => warning(
            "upload.postgres",
            format!(
                "connects, but {} is missing; create it, or set [upload.postgres] create_tables = true. Records would \
                 wait until then",
                missing.join(", ")
            ),
        ),
        Err(trouble) => warning(
            "upload.postgres",
            format!("{trouble}; records would wait until it does"),
        ),
    }
}

/// A size in words for a finding.
fn gib(bytes: u64) -> String {
    match bytes >> 30 {
        0 => Size(bytes >> 20 << 20).to_string(),
        gib => format!("{gib}GiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn programs_are_found_as_the_system_finds_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("game");
        assert!(
            find_program("./game", folder.path(), "[engine] command")
                .unwrap_err()
                .contains("does not exist")
        );
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(
            find_program("./game", folder.path(), "[engine] command")
                .unwrap_err()
                .contains("chmod +x")
        );
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(find_program("./game", folder.path(), "[engine] command").is_ok());
        assert!(find_program("sh", folder.path(), "[engine] command").is_ok());
        let error = find_program(
            "no-such-program-anywhere",
            folder.path(),
            "[engine] command",
        )
        .unwrap_err();
        assert!(error.contains("PATH"), "{error}");
        std::fs::rename(&file, folder.path().join("no-such-program")).unwrap();
        let error = find_program("no-such-program", folder.path(), "x").unwrap_err();
        assert!(error.contains("write \"./no-such-program\""), "{error}");
    }
}
