//! The real binary: what each command prints and which exit code it ends with.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sidekick_watchdog::api::operator::{Order, OrderError, Verb};
use sidekick_watchdog::api::{Api, Death, EngineState, Following, LogItem, Operator, Status};
use sidekick_watchdog::config::ApiConfig;
use sidekick_watchdog::crash::CrashReport;
use sidekick_watchdog::crash::keep::CrashFolder;
use sidekick_watchdog::exit::ExitCode;
use sidekick_watchdog::log_line::{LogLine, LogPosition};
use sidekick_watchdog::metrics::Metrics;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

/// The binary in this folder, without anything of Sidekick in its environment.
fn watchdog(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidekick-watchdog"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SIDEKICK_") {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).args(args);
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    watchdog(folder, args).output().expect("the binary runs")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_code(output: &Output, code: ExitCode) {
    let (out, err) = (out(output), err(output));
    assert_eq!(output.status.code(), Some(code as i32), "{out}\n{err}");
}

#[test]
fn a_wrong_command_line_is_usage_and_help_is_not() {
    let folder = folder();
    for args in [
        &[][..],
        &["fly"],
        &["run", "--nam", "x"],
        &["status", "--", "x"],
    ] {
        assert_code(&run(folder.path(), args), ExitCode::Usage);
    }
    for args in [
        &["--help"][..],
        &["-h"],
        &["--version"],
        &["version"],
        &["run", "--help"],
    ] {
        let output = run(folder.path(), args);
        assert_code(&output, ExitCode::Ok);
        assert!(!output.stdout.is_empty());
    }
    let help = out(&run(folder.path(), &["--help"]));
    for word in [
        "run",
        "check",
        "init",
        "doctor",
        "status",
        "config",
        "version",
        "Exit codes",
    ] {
        assert!(help.contains(word), "{word}\n{help}");
    }
}

#[test]
fn every_mistake_is_printed_with_its_place() {
    let folder = folder();
    std::fs::write(
        folder.path().join("sidekick.toml"),
        "[health]\nhang_timout = \"5s\"\n[ring]\nsize = \"3MiB\"\n",
    )
    .unwrap();
    for args in [
        &["check"][..],
        &["run", "--", "true"],
        &["config", "print"],
        &["doctor"],
        &["status"],
    ] {
        let output = run(folder.path(), args);
        assert_code(&output, ExitCode::BadConfig);
        let text = err(&output);
        assert!(text.contains("2 mistakes in the configuration\n"), "{text}");
        assert!(
            text.contains("\nsidekick.toml:2:1: health.hang_timout is an unknown key"),
            "{text}"
        );
        assert!(
            text.contains("\nsidekick.toml:4:8: ring.size is 3MiB"),
            "{text}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_missing_file_and_a_missing_engine_are_told_with_the_remedy() {
    let folder = folder();
    let output = run(folder.path(), &["check", "--config", "none.toml"]);
    assert_code(&output, ExitCode::BadConfig);
    assert!(err(&output).contains("--config: the configuration file none.toml cannot be read"));
    let output = run(folder.path(), &["run"]);
    assert_code(&output, ExitCode::BadConfig);
    assert!(err(&output).contains("there is no engine to launch"));
}

/// Before the log is looked at, which is not there.
#[test]
fn an_export_replaces_no_file_that_it_was_not_told_to() {
    let folder = folder();
    let file = folder.path().join("all.ndjson");
    std::fs::write(&file, "mine\n").unwrap();
    let export = |words: &[&str]| run(folder.path(), &[&["buffer", "export"], words].concat());
    let output = export(&["all.ndjson"]);
    assert_code(&output, ExitCode::Usage);
    assert!(err(&output).contains("\"all.ndjson\" exists already; --force replaces it"));
    let output = export(&[".", "--force"]);
    assert_code(&output, ExitCode::Usage);
    assert!(err(&output).contains("is no file"), "{}", err(&output));
    for words in [&["all.ndjson", "--force"][..], &["new.ndjson"], &["-"]] {
        assert_code(&export(words), ExitCode::StoreUnusable);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine\n");
    let left = std::fs::read_dir(folder.path()).unwrap();
    assert_eq!(left.count(), 1, "nothing half-written is left");
}

#[test]
fn a_backend_without_a_place_is_told_of_both() {
    let folder = folder();
    let both = ["--dir", "a", "--postgres", "postgres://u@h/d"];
    for (words, told) in [
        (&[][..], "<--dir <DIR>|--postgres <URL>>"),
        (&both, "cannot be used with"),
        (&["--password-file", "p"], "--postgres <URL>"),
        (
            &["--dir", "a", "--password-file", "p"],
            "cannot be used with",
        ),
    ] {
        let output = run(folder.path(), &[&["backend"], words].concat());
        assert_code(&output, ExitCode::Usage);
        assert!(err(&output).contains(told), "{}", err(&output));
    }
}

#[test]
fn init_writes_a_file_that_passes_check_and_replaces_none() {
    let folder = folder();
    assert_code(&run(folder.path(), &["init"]), ExitCode::Ok);
    let output = run(folder.path(), &["check"]);
    assert_code(&output, ExitCode::Ok);
    assert_eq!(out(&output), "ok: sidekick.toml\n");
    assert_eq!(err(&output), "");
    let file = folder.path().join("sidekick.toml");
    std::fs::write(&file, "name = \"mine\"\n").unwrap();
    let output = run(folder.path(), &["init"]);
    assert_code(&output, ExitCode::Usage);
    assert!(err(&output).contains("--force"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "name = \"mine\"\n");
    assert_code(&run(folder.path(), &["init", "--force"]), ExitCode::Ok);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("[engine]"));
    let output = run(folder.path(), &["init", "-"]);
    assert_code(&output, ExitCode::Ok);
    assert_eq!(out(&output), text);
}

#[test]
fn config_print_tells_values_and_origins() {
    let folder = folder();
    std::fs::write(folder.path().join("a.toml"), "[ring]\nsize = \"1MiB\"\n").unwrap();
    let output = watchdog(folder.path(), &["config", "print", "--name", "lobby-1"])
        .env("SIDEKICK_CONFIG", "a.toml")
        .env("SIDEKICK_LOG_LEVEL", "debug")
        .env("SIDEKICK_RIGN__SIZE", "1MiB")
        .output()
        .unwrap();
    assert_code(&output, ExitCode::Ok);
    let text = out(&output);
    for line in [
        "name = \"lobby-1\"  # --name",
        "size = \"1MiB\"  # a.toml:2",
        "level = \"debug\"  # SIDEKICK_LOG_LEVEL",
        "hang_timeout = \"5s\"  # default",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(
        err(&output).contains("SIDEKICK_RIGN__SIZE means nothing to the watchdog; did you mean")
    );
}

#[test]
fn doctor_names_what_run_would_fail_at() {
    let folder = folder();
    let output = run(folder.path(), &["doctor", "--", "no-such-engine-anywhere"]);
    assert_code(&output, ExitCode::CannotSpawn);
    assert!(out(&output).contains("FAIL  engine"), "{}", out(&output));
    assert!(
        !folder.path().join("sidekick-data").exists(),
        "doctor changes nothing"
    );
    std::fs::write(folder.path().join("file"), "").unwrap();
    let output = run(
        folder.path(),
        &["doctor", "--data-dir", "file/data", "--", "true"],
    );
    assert_code(&output, ExitCode::StoreUnusable);
    assert!(out(&output).contains("is not a folder"), "{}", out(&output));
}

#[test]
fn doctor_warns_of_a_data_directory_that_others_can_enter() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    for (mode, warns) in [(0o755, true), (0o700, false)] {
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(mode)).unwrap();
        let output = run(
            folder.path(),
            &["doctor", "--data-dir", "data", "--", "true"],
        );
        assert_eq!(
            out(&output).contains("chmod 700"),
            warns,
            "{}",
            out(&output)
        );
    }
}

#[test]
fn status_without_a_watchdog_says_so() {
    let folder = folder();
    let output = run(folder.path(), &["status"]);
    assert_code(&output, ExitCode::NotRunning);
    assert!(
        err(&output).contains("no watchdog runs for"),
        "{}",
        err(&output)
    );
    assert!(err(&output).contains("start one with"));
}

/// A live API in this process, found by the binary through the data directory, as an operator would.
#[tokio::test(flavor = "multi_thread")]
async fn commands_find_the_watchdog_of_their_data_directory() {
    let folder = folder();
    let (data, runtime) = (folder.path().join("data"), folder.path().join("runtime"));
    std::fs::create_dir_all(&data).unwrap();
    std::fs::create_dir_all(&runtime).unwrap();
    std::fs::write(data.join("runtime_dir"), format!("{}\n", runtime.display())).unwrap();
    let mut api = Api::bind(&ApiConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        token_file: None,
    })
    .await
    .unwrap();
    api.open_control(&runtime).unwrap();
    let mut first = Status {
        name: "lobby-1".into(),
        data_dir: data.clone(),
        ..Status::default()
    };
    first.engine.state = EngineState::Running;
    first.engine.incarnation = 7;
    let (sender, receiver) = watch::channel(first);
    let orders = Arc::new(Orders {
        status: sender,
        crashes: CrashFolder::new(&data),
        fails: AtomicBool::new(false),
        holds: Arc::default(),
    });
    let operator: Arc<dyn Operator> = orders.clone();
    let server = tokio::spawn(api.serve(
        receiver,
        Metrics::new(),
        Some(operator),
        std::future::pending(),
    ));

    let path = folder.path().to_owned();
    let ask = |args: &'static [&'static str]| {
        let mut command = watchdog(&path, args);
        command.args(["--data-dir", "data"]);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let output = ask(&["status"]).await.unwrap();
    assert_code(&output, ExitCode::Ok);
    assert!(
        out(&output).contains("running, incarnation 7"),
        "{}",
        out(&output)
    );
    let output = ask(&["status", "--json"]).await.unwrap();
    assert_code(&output, ExitCode::Ok);
    let status: Status = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status.name, "lobby-1");

    // The engine ends once the command has said what it waits for.
    orders.holds.store(true, Ordering::Relaxed);
    let holds = Arc::clone(&orders.holds);
    let mut command = watchdog(&path, &["stop", "--grace", "90s", "--data-dir", "data"]);
    let said = tokio::task::spawn_blocking(move || {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        reader.read_line(&mut said).unwrap();
        holds.store(false, Ordering::Relaxed);
        reader.read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
        said
    });
    assert_eq!(
        said.await.unwrap(),
        "stop: incarnation 7: stopping, 90 s left\nstop: incarnation 7 has ended: quit\n"
    );
    let output = ask(&["start"]).await.unwrap();
    assert_code(&output, ExitCode::Ok);
    assert!(
        out(&output).ends_with("start: incarnation 8 runs\n"),
        "{}",
        out(&output)
    );
    let output = ask(&["restart", "--no-wait"]).await.unwrap();
    assert_code(&output, ExitCode::Ok);
    assert!(out(&output).starts_with("restart: taken"));
    // Nobody waited for it; the next order is to be one of its own.
    let mut told = orders.status.subscribe();
    let runs = |status: &Status| {
        status.engine.incarnation == 9 && status.engine.state == EngineState::Running
    };
    told.wait_for(runs).await.unwrap();
    orders.fails.store(true, Ordering::Relaxed);
    let output = ask(&["restart"]).await.unwrap();
    assert_code(&output, ExitCode::NotDone);
    assert!(
        err(&output).contains("died before it ran: aborted"),
        "{}",
        err(&output)
    );
    let output = ask(&["drain", "--grace", "2 weeks"]).await.unwrap();
    assert_code(&output, ExitCode::Usage);

    let output = ask(&["logs", "-n", "2"]).await.unwrap();
    assert_code(&output, ExitCode::Ok);
    assert_eq!(out(&output), "7 | two\n7 | three\n");
    let output = ask(&["logs", "-n", "1", "--incarnation", "3", "--json"])
        .await
        .unwrap();
    let read: LogLine = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read, line(3, "three"));
    let output = ask(&["logs", "-f", "-n", "1", "--reconnect", "0s"])
        .await
        .unwrap();
    assert_eq!(
        out(&output),
        "7 | three\n-- 5 bytes are not kept any more --\n8 | four\n"
    );

    let output = ask(&["crashes"]).await.unwrap();
    assert_code(&output, ExitCode::Ok);
    assert!(out(&output).starts_with("no crash reports"));
    let report = CrashReport {
        report_id: "01930000-0000-7000-8000-00000001bbbb".parse().unwrap(),
        incarnation: 7,
        cause: "segmentation fault in frame 3".into(),
        ..CrashReport::default()
    };
    orders.crashes.keep(&report).unwrap();
    let output = ask(&["crashes"]).await.unwrap();
    assert!(out(&output).contains("0001bbbb"), "{}", out(&output));
    let output = ask(&["crashes", "0001bbbb", "--json"]).await.unwrap();
    assert_code(&output, ExitCode::Ok);
    let read: CrashReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read, report);
    for id in ["0001cccc", "../../etc"] {
        let output = watchdog(&path, &["crashes", id, "--data-dir", "data"]);
        let output = { output }.output().unwrap();
        assert_code(&output, ExitCode::Internal);
        let words = format!("there is no crash report {id:?}; ");
        assert!(err(&output).contains(&words), "{}", err(&output));
        assert!(err(&output).contains("0001bbbb"), "{}", err(&output));
    }

    // The watchdog died without taking its socket away.
    server.abort();
    let _ = server.await;
    for command in [&["status"][..], &["stop"], &["start"]] {
        let output = ask(command).await.unwrap();
        assert_code(&output, ExitCode::NotRunning);
        let text = err(&output);
        assert!(
            text.contains("no watchdog runs for") && text.contains("has died"),
            "{text}"
        );
    }
    let output = ask(&["crashes", "0001cccc"]).await.unwrap();
    assert_code(&output, ExitCode::Internal);
    let text = err(&output);
    assert!(
        text.contains("0001bbbb") && !text.contains("watchdog refused"),
        "{text}"
    );
    let output = ask(&["crashes", "last"]).await.unwrap();
    assert_code(&output, ExitCode::Ok);
    assert!(out(&output).starts_with("cause        segmentation fault in frame 3\n"));
}

/// An engine of words: it does what is asked for in two steps.
struct Orders {
    status: watch::Sender<Status>,
    crashes: CrashFolder,
    fails: AtomicBool,
    /// What is asked for is not done yet.
    holds: Arc<AtomicBool>,
}

impl Operator for Orders {
    fn order(&self, order: Order) -> Result<Duration, OrderError> {
        let grace = order.grace.unwrap_or(Duration::from_secs(10));
        self.status.send_modify(|status| {
            status.engine.state = EngineState::Stopping;
            status.engine.grace_left_s = Some(grace.as_secs_f64());
        });
        let (status, fails) = (self.status.clone(), self.fails.load(Ordering::Relaxed));
        let holds = Arc::clone(&self.holds);
        std::thread::spawn(move || {
            while holds.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            status.send_modify(|status| {
                let engine = &mut status.engine;
                let mut died = |incarnation, cause: &str| {
                    engine.last_deaths.push(Death {
                        incarnation,
                        cause: cause.into(),
                        ..Death::default()
                    });
                };
                died(engine.incarnation, "quit");
                engine.grace_left_s = None;
                engine.state = match order.verb {
                    Verb::Stop | Verb::Drain => EngineState::Stopped,
                    Verb::Start | Verb::Restart => {
                        engine.incarnation += 1;
                        match fails {
                            true => {
                                died(engine.incarnation, "aborted");
                                EngineState::Backoff
                            }
                            false => EngineState::Running,
                        }
                    }
                };
            });
        });
        Ok(grace)
    }

    fn log(&self, incarnation: Option<u32>, lines_max: usize) -> std::io::Result<Vec<LogLine>> {
        let number = incarnation.unwrap_or(7);
        let texts = ["one", "\u{1b}[31mtwo\u{1b}[0m", "three"].into_iter();
        Ok(texts
            .map(|text| line(number, text))
            .skip(3 - lines_max.min(3))
            .collect())
    }

    fn follow_log(
        &self,
        _incarnation: Option<u32>,
        lines_max: usize,
        _after: Option<LogPosition>,
    ) -> Option<Following> {
        let (sender, items) = mpsc::channel(8);
        for item in [LogItem::Skipped(5), LogItem::Line(line(8, "four"))] {
            sender.try_send(item).unwrap();
        }
        Some(Following {
            lines: self.log(None, lines_max).unwrap(),
            position: LogPosition::default(),
            items,
        })
    }

    fn crashes(&self) -> CrashFolder {
        self.crashes.clone()
    }
}

fn line(incarnation: u32, text: &str) -> LogLine {
    LogLine {
        incarnation,
        text: text.to_owned(),
        ..LogLine::default()
    }
}

/// The machine that checks may be another one than that which serves: a warning, and no more.
#[test]
fn check_warns_of_an_uploader_that_is_not_there() {
    let folder = TempDir::new().unwrap();
    let config = "[engine]\ncommand = [\"sh\"]\n[upload]\nsinks = [\"command\"]\n[upload.command]\nrun = [\"up.sh\"]\n";
    std::fs::write(folder.path().join("sidekick.toml"), config).unwrap();
    std::fs::write(folder.path().join("up.sh"), "").unwrap();
    let output = run(folder.path(), &["check"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains(
            "warning: [upload.command] \"up.sh\" is in no folder of PATH; for the one in"
        ),
        "{said}"
    );
    assert!(said.contains("write \"./up.sh\""), "{said}");
}
