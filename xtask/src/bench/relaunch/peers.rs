//! The supervisors that Sidekick is measured beside: how each is told to keep one program alive. A table and what reads it.
//!
//! Each is set up as its users do, with three exceptions: where a supervisor stops after some restarts in so many seconds
//! (OTP, systemd, PM2), that limit is lifted, as Sidekick's own is; monit looks once a second, the shortest it takes
//! (Debian's is two minutes); systemd is there twice, as it comes and without its pause before a restart.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use sidekick_tests::process::{Running, Token};

/// As many samples as are asked for.
const ALL: usize = usize::MAX;
/// Samples of a supervisor that needs a second or more for each; they differ by much more than their medians' error.
const FEW: usize = 10;

/// In files, their names and commands: the peer's name, its own folder, and the program's command line.
const NAME: &str = "{NAME}";
const DIR: &str = "{DIR}";
const PROGRAM: &str = "{PROGRAM}";

const RUN: (&str, &str) = ("service/run", "#!/bin/sh\nexec {PROGRAM}\n");
/// A user's manager, with a `/run` of its own. Needs the right to make a mount namespace. Two of them have one tree of
/// control groups, so their units must not have one name: each would kill the other's processes.
const SYSTEMD: &[&str] = &[
    "unshare",
    "-m",
    "--propagation",
    "private",
    "sh",
    "{DIR}/manager",
];
const SYSTEMD_PROGRAMS: &[&str] = &["/lib/systemd/systemd", "unshare"];
const SYSTEMD_INSTALL: &str = "apt-get install systemd util-linux";
const MANAGER: (&str, &str) = (
    "manager",
    "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system /run/user/0 && chmod 700 /run/user/0 || exit 1\n\
     export XDG_RUNTIME_DIR=/run/user/0 XDG_CONFIG_HOME={DIR} HOME={DIR} DBUS_SESSION_BUS_ADDRESS=\n\
     exec /lib/systemd/systemd --user --unit={NAME}.service --log-target=console\n",
);
const UNIT: (&str, &str) = (
    "systemd/user/{NAME}.service",
    "[Unit]\nDescription=bench\nStartLimitIntervalSec=0\n\
     [Service]\nExecStart={PROGRAM}\nRestart=always\n",
);

/// A supervisor that may be installed here.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    /// What it cannot be measured without: names in `PATH` or whole paths.
    programs: &'static [&'static str],
    /// How to get them.
    install: &'static str,
    /// The most samples that are worth their time.
    pub(super) samples_max: usize,
    /// What is written into its folder: names and texts.
    files: &'static [(&'static str, &'static str)],
    /// What starts it in the foreground.
    command: &'static [&'static str],
}

pub(super) const PEERS: &[Peer] = &[
    Peer {
        name: "bash",
        programs: &["bash"],
        install: "apt-get install bash",
        samples_max: ALL,
        files: &[],
        command: &["bash", "-c", "while true; do {PROGRAM}; done"],
    },
    Peer {
        name: "runit",
        programs: &["runsv"],
        install: "apt-get install runit",
        samples_max: ALL,
        files: &[RUN],
        command: &["runsv", "{DIR}/service"],
    },
    Peer {
        name: "daemontools",
        programs: &["supervise"],
        install: "apt-get install daemontools",
        samples_max: ALL,
        files: &[RUN],
        command: &["supervise", "{DIR}/service"],
    },
    Peer {
        name: "otp",
        programs: &["erl", "erlc"],
        install: "apt-get install erlang-base",
        samples_max: ALL,
        files: &[("bench.erl", include_str!("otp.erl"))],
        command: &[
            "sh",
            "-c",
            "cd {DIR} && erlc bench.erl && exec erl -noinput -kernel logger_level none -eval 'bench:start().'",
        ],
    },
    Peer {
        name: "systemd",
        programs: SYSTEMD_PROGRAMS,
        install: SYSTEMD_INSTALL,
        samples_max: ALL,
        files: &[MANAGER, UNIT],
        command: SYSTEMD,
    },
    Peer {
        name: "systemd_at_once",
        programs: SYSTEMD_PROGRAMS,
        install: SYSTEMD_INSTALL,
        samples_max: ALL,
        files: &[
            MANAGER,
            UNIT,
            (
                "systemd/user/{NAME}.service.d/at_once.conf",
                "[Service]\nRestartSec=0\n",
            ),
        ],
        command: SYSTEMD,
    },
    Peer {
        name: "pm2",
        programs: &["pm2-runtime"],
        install: "npm install --global pm2",
        samples_max: ALL,
        files: &[
            RUN,
            (
                "pm2.json",
                r#"{"apps": [{"name": "bench", "script": "{DIR}/service/run", "interpreter": "none", "exec_mode": "fork"}]}"#,
            ),
        ],
        command: &[
            "env",
            "PM2_HOME={DIR}",
            "PM2_DISABLE_VERSION_CHECK=true",
            "HOME={DIR}",
            "pm2-runtime",
            "start",
            "{DIR}/pm2.json",
        ],
    },
    Peer {
        name: "s6",
        programs: &["s6-supervise"],
        install: "apt-get install s6",
        samples_max: FEW,
        files: &[RUN],
        command: &["s6-supervise", "{DIR}/service"],
    },
    Peer {
        name: "supervisord",
        programs: &["supervisord"],
        install: "apt-get install supervisor",
        samples_max: FEW,
        files: &[(
            "supervisord.conf",
            "[supervisord]\nnodaemon=true\nlogfile={DIR}/log\npidfile={DIR}/pid\nchildlogdir={DIR}\n\
             [program:bench]\ncommand={PROGRAM}\nautorestart=true\nstartsecs=1\n",
        )],
        command: &["supervisord", "-n", "-c", "{DIR}/supervisord.conf"],
    },
    Peer {
        name: "monit",
        programs: &["monit"],
        install: "apt-get install monit",
        samples_max: FEW,
        files: &[
            (
                "start",
                // monit starts its programs with an environment of its own making.
                "#!/bin/sh\n. {DIR}/environment\n{PROGRAM} >/dev/null 2>&1 </dev/null &\necho $! >{DIR}/pid\n",
            ),
            (
                "monitrc",
                "set daemon 1\nset pidfile {DIR}/monit.pid\nset statefile {DIR}/monit.state\n\
                 set idfile {DIR}/monit.id\nset logfile {DIR}/monit.log\n\
                 check process bench with pidfile {DIR}/pid\n\
                 start program = \"{DIR}/start\" with timeout 5 seconds\nstop program = \"/bin/true\"\n",
            ),
        ],
        command: &["monit", "-I", "-c", "{DIR}/monitrc"],
    },
    Peer {
        name: "horust",
        programs: &["horust"],
        install: "cargo install horust",
        samples_max: FEW,
        files: &[(
            "services/bench.toml",
            "command = \"{PROGRAM}\"\nworking-directory = \"{DIR}\"\n\
             [environment]\nkeep-env = true\n\
             [restart]\nstrategy = \"always\"\nbackoff = \"0s\"\nattempts = 1000\n",
        )],
        command: &[
            "horust",
            "--uds-folder-path",
            "{DIR}",
            "--services-path",
            "{DIR}/services",
        ],
    },
];

impl Peer {
    /// Starts it over `program`, with its files in `folder`; all its processes carry `token`.
    ///
    /// # Errors
    /// Why it is not measured, in words that end a sentence which begins with its name.
    pub(super) fn start(
        &self,
        folder: &Path,
        program: &[OsString],
        token: &Token,
    ) -> Result<Running, String> {
        if let Some(missing) = self.programs.iter().find(|program| !is_installed(program)) {
            return Err(format!("not installed ({missing}): {}", self.install));
        }
        let (dir, program) = (plain(folder.as_os_str())?.to_owned(), joined(program)?);
        let fill = |text: &str| {
            text.replace(NAME, self.name)
                .replace(DIR, &dir)
                .replace(PROGRAM, &program)
        };
        let mut command = Command::new(self.command[0]);
        command.args(self.command[1..].iter().map(|word| fill(word)));
        token.mark(&mut command);
        let environment: String = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)))
            .map(|(name, value)| format!("export {name}='{value}'\n"))
            .collect();
        let mut start = || {
            write(&folder.join("environment"), &environment)?;
            for (name, text) in self.files {
                write(&folder.join(fill(name)), &fill(text))?;
            }
            Running::start(&mut command)
        };
        start().map_err(|error: io::Error| format!("not started: {error}"))
    }
}

/// Writes a file that its owner alone may read and run, as monit and the run scripts want it.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

fn is_installed(program: &str) -> bool {
    // A whole path stays itself when it is joined to another.
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn joined(words: &[OsString]) -> Result<String, String> {
    let words: Result<Vec<&str>, String> = words.iter().map(|word| plain(word)).collect();
    Ok(words?.join(" "))
}

/// A word that no supervisor's file has to quote: they all do it differently.
fn plain(word: &OsStr) -> Result<&str, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    word.to_str()
        .filter(|text| text.bytes().all(is_plain))
        .ok_or_else(|| format!("not started: {word:?} would have to be quoted; set TMPDIR"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sidekick_tests::folders::Folder;
    use sidekick_tests::wait;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A peer whose text names a placeholder that nobody fills would never start its program, and be left out.
    #[test]
    fn every_placeholder_is_known_and_every_peer_names_the_program() {
        for peer in PEERS {
            let files = peer.files.iter().flat_map(|(name, text)| [name, text]);
            let all: String = files.chain(peer.command).copied().collect();
            assert!(all.contains(PROGRAM), "{} starts nothing", peer.name);
            assert!(peer.install.contains("install"), "{}", peer.name);
            let rest = [NAME, DIR, PROGRAM]
                .into_iter()
                .fold(all, |rest, known| rest.replace(known, ""));
            for wrong in ["NAME}", "DIR}", "PROGRAM}", "{NAME", "{DIR", "{PROGRAM"] {
                assert!(!rest.contains(wrong), "{} has {wrong}", peer.name);
            }
        }
    }

    #[test]
    fn what_is_not_installed_is_said_with_the_way_to_get_it() {
        let peer = Peer {
            programs: &["sh", "no-such-supervisor"],
            install: "apt-get install it",
            ..PEER_OF_TESTS
        };
        let told = peer
            .start(Path::new("/nowhere"), &[], &Token::new())
            .unwrap_err();
        assert_eq!(
            told,
            "not installed (no-such-supervisor): apt-get install it"
        );
    }

    #[test]
    fn a_peer_gets_its_files_filled_and_its_processes_marked() {
        let (folder, token) = (Folder::new(), Token::new());
        let program = ["echo", "started"].map(OsString::from);
        let running = PEER_OF_TESTS
            .start(folder.path(), &program, &token)
            .unwrap();
        wait::until("the program's word", PATIENCE, || {
            let said = |line: &String| (line == "started").then_some(());
            running.lines.find(0, said)
        });
    }

    #[test]
    fn a_word_that_needs_quotes_is_refused() {
        let told = PEER_OF_TESTS.start(Path::new("/a b"), &[], &Token::new());
        assert!(told.unwrap_err().contains("TMPDIR"));
    }

    const PEER_OF_TESTS: Peer = Peer {
        name: "test",
        programs: &["sh", "/bin/sh"],
        install: "",
        samples_max: ALL,
        files: &[RUN],
        command: &["sh", "-c", ". {DIR}/environment; exec {DIR}/service/run"],
    };
}
