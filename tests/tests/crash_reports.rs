//! What is told of a real server's deaths: each leaves a report with the true cause, where it happened and what was
//! printed last; the report is a file, a record at the backend, and the next incarnation's `get_last_death()`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::Value;
use sidekick_tests::godot::Godot;
use sidekick_tests::project::Project;
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

const PATIENCE: Duration = Duration::from_secs(60);
/// Twelve deaths in a row are no crash loop here.
const CONFIG: &str = "[restart]\nbackoff_first = \"10ms\"\nbackoff_max = \"50ms\"\ncrash_loop_deaths = 100\n\
                      [health]\nhang_timeout = \"500ms\"\n[upload]\nbatch_max_age = \"100ms\"\n\
                      [engine]\nenv = { ADMIN_PASSWORD = \"hunter2\" }\n";

fn setup(godot: &Godot, project: &Project, acts: &[&str]) -> Setup {
    let mut setup = Setup::new();
    setup.set_engine(project.command_line(godot, acts));
    setup.set_config(CONFIG);
    setup
}

fn project() -> Project {
    Project::new(include_str!("../gd/crash_reports/main.gd"))
}

/// The reports that are kept, by incarnation.
fn reports(setup: &Setup) -> BTreeMap<u64, Value> {
    let mut reports = BTreeMap::new();
    let Ok(entries) = fs::read_dir(setup.data_dir().join("crashes")) else {
        return reports;
    };
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            // A report that is being written has another name.
            let text = fs::read(&path).expect("a report");
            let report: Value = serde_json::from_slice(&text).expect("a whole report");
            let incarnation = report["incarnation"].as_u64().expect("a number");
            assert!(
                reports.insert(incarnation, report).is_none(),
                "two reports of one death"
            );
        }
    }
    reports
}

#[track_caller]
fn wait_for_reports(watchdog: &Watchdog<'_>, setup: &Setup, count: usize) -> BTreeMap<u64, Value> {
    let found = wait::poll(PATIENCE, || {
        Some(reports(setup)).filter(|reports| reports.len() >= count)
    });
    found.unwrap_or_else(|| {
        let log = watchdog.running.lines.all().join("\n");
        panic!(
            "{} reports of {count}; the log says:\n{log}",
            reports(setup).len()
        )
    })
}

/// Twelve deaths of one server, one after the other; each gets its verdict, and all are records at the backend.
fn twelve_deaths_get_their_reports(godot: &Godot) {
    // Act; kind, signal, exit code, a part of the cause's words, whether there is a C++ backtrace.
    type Expected = (&'static str, Option<i64>, Option<i64>, &'static str, bool);
    let table: [(&str, Expected); 12] = [
        ("SEGV", ("segv", Some(11), None, "segmentation fault", true)),
        ("crash", ("ill", Some(4), None, "illegal instruction", true)),
        ("FPE", ("fpe", Some(8), None, "arithmetic error", true)),
        ("ILL", ("ill", Some(4), None, "illegal instruction", true)),
        ("ABRT", ("abort", Some(6), None, "aborted", false)),
        ("BUS", ("bus", Some(7), None, "bus error", false)),
        ("KILL", ("killed", Some(9), None, "SIGKILL", false)),
        ("quit", ("exit", None, Some(3), "exit code 3", false)),
        ("banner", ("exit", None, Some(4), "exit code 4", false)),
        (
            "errors",
            ("segv", Some(11), None, "segmentation fault", true),
        ),
        ("loop", ("hang", None, None, "hung for", true)),
        ("STOP", ("hang", None, None, "hung for", false)),
    ];
    let acts: Vec<&str> = table.iter().map(|(act, _)| *act).collect();
    let project = project();
    let setup = setup(godot, &project, &acts);
    let watchdog = setup.start();
    let reports = wait_for_reports(&watchdog, &setup, table.len());
    for ((act, (kind, signal, exit_code, words, has_backtrace)), incarnation) in
        table.into_iter().zip(1..)
    {
        let report = &reports[&incarnation];
        let told = format!("{act}: {report:#}");
        assert_eq!(report["kind"], kind, "{told}");
        assert_eq!(report["signal"].as_i64(), signal, "{told}");
        assert_eq!(report["exit_code"].as_i64(), exit_code, "{told}");
        let cause = report["cause"].as_str().expect("words");
        assert!(
            cause.contains(words) && cause.contains(" in frame "),
            "{told}"
        );
        assert!(cause.contains(" after "), "{told}");
        let backtrace = report["backtrace"].as_array().expect("frames");
        if has_backtrace {
            assert!(backtrace.len() > 3, "{told}");
            let script = report["script_backtrace"].to_string();
            assert!(script.contains("_process (res://main.gd:"), "{told}");
        } else if kind != "hang" {
            assert!(backtrace.is_empty(), "{told}");
        }
        let lines = report["log_lines"].to_string();
        assert!(lines.contains(&format!("act: {act}")), "{told}");
        assert!(report["uptime_s"].as_f64() > Some(0.0), "{told}");
        assert_eq!(report["game_version"], "1.2.3-test", "{told}");
        assert!(
            report["engine_version"]
                .as_str()
                .is_some_and(|version| version.starts_with("Godot Engine v4")),
            "{told}"
        );
        assert!(report["environment"].get("PATH").is_none(), "{told}");
        assert_eq!(
            report["environment"]["ADMIN_PASSWORD"], "(hidden)",
            "{told}"
        );
    }
    let errors = reports[&10]["script_errors"].as_array().expect("errors");
    let messages: Vec<_> = errors
        .iter()
        .filter_map(|error| error["message"].as_str())
        .collect();
    assert!(
        messages
            .iter()
            .any(|message| message.contains("Nonexistent function")),
        "{messages:?}"
    );
    assert!(messages.contains(&"about to die"), "{messages:?}");
    let finished = watchdog.stop(PATIENCE);
    assert_eq!(finished.status.code(), Some(0), "{:#?}", finished.lines);
    assert_eq!(
        reports.len(),
        self::reports(&setup).len(),
        "none for the end that was asked for"
    );
    let mut uploaded: Vec<Value> = Vec::new();
    for line in fs::read_dir(setup.data_dir().join("uploads"))
        .expect("uploads")
        .flat_map(|entry| {
            let text = fs::read_to_string(entry.expect("an entry").path()).unwrap_or_default();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        })
    {
        if let Ok(record) = serde_json::from_str::<Value>(&line)
            && record["stream"] == "sidekick.crash"
        {
            uploaded.push(record);
        }
    }
    assert_eq!(uploaded.len(), acts.len(), "each death once at the backend");
    for record in &uploaded {
        let report = &reports[&record["incarnation"].as_u64().expect("a number")];
        assert_eq!(record["data"]["cause"], report["cause"]);
        assert_eq!(record["data"]["report_id"], report["report_id"]);
        assert_eq!(record["data"]["backtrace"], report["backtrace"]);
    }
}

/// The next incarnation learns from GDScript what the last one died of; a hook has been run with the report's path.
fn the_next_incarnation_and_the_hook_are_told(godot: &Godot) {
    let project = Project::new(
        "extends Node\n\nfunc _process(_delta: float) -> void:\n\tif Sidekick.get_incarnation() == 1:\n\t\tif Engine.get_process_frames() == 20:\n\t\t\tOS.crash(\"on purpose\")\n\t\treturn\n\tvar death: Dictionary = Sidekick.get_last_death()\n\tif not death.is_empty():\n\t\tprint(\"last death: \", death.cause, \"|\", int(death.signal), \"|\", death.report_id)\n\t\tSidekick.record(&\"told\", {\"signal\": int(death.signal), \"report_id\": death.report_id})\n\t\tset_process(false)\n",
    );
    let setup = setup(godot, &project, &[]);
    let hooked = setup.scratch().join("hooked");
    let hook = format!(
        "{CONFIG}[hooks]\npost_mortem = [\"/bin/sh\", \"-c\", \"cp $SIDEKICK_REPORT {0}.new && mv {0}.new {0}\"]\n",
        hooked.display()
    );
    setup.set_config(&hook);
    let watchdog = setup.start();
    let reports = wait_for_reports(&watchdog, &setup, 1);
    let copied = wait::poll(PATIENCE, || fs::read(&hooked).ok()).expect("the hook to have run");
    let copied: Value = serde_json::from_slice(&copied).expect("a report");
    assert_eq!(copied["report_id"], reports[&1]["report_id"]);
    let told = wait::poll(PATIENCE, || {
        let ledger = fs::read_dir(setup.data_dir().join("uploads")).ok()?;
        ledger.filter_map(Result::ok).find_map(|entry| {
            let text = fs::read_to_string(entry.path()).ok()?;
            text.lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|record| record["stream"] == "told")
        })
    });
    let told = told.unwrap_or_else(|| panic!("never told: {:#?}", watchdog.running.lines.all()));
    assert_eq!(told["data"]["signal"], 4);
    assert_eq!(told["data"]["report_id"], reports[&1]["report_id"]);
    let death = watchdog.status().expect("a status")["engine"]["last_deaths"][0].clone();
    assert_eq!(death["report_id"], reports[&1]["report_id"]);
    assert!(
        death["cause"]
            .as_str()
            .is_some_and(|cause| cause.contains("SIGILL")),
        "{death:#}"
    );
    let finished = watchdog.stop(PATIENCE);
    assert_eq!(finished.status.code(), Some(0), "{:#?}", finished.lines);
    // The line that comes first names the signal that Godot caught, or says that it need not be the true one.
    let is_death = |line: &&String| line.contains("engine died");
    let died = finished.lines.iter().find(is_death).expect("the line");
    assert!(
        died.contains("SIGILL") || died.contains("its report has the true one"),
        "{died}"
    );
}

/// The records of stream `sidekick.crash` that the backend has.
fn uploaded_reports(setup: &Setup) -> Vec<Value> {
    let folder = setup.data_dir().join("uploads");
    let files = fs::read_dir(folder).into_iter().flatten();
    let texts = files.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let records: Vec<Value> = texts
        .flat_map(|text| {
            let records = text.lines().map(serde_json::from_str::<Value>);
            records.filter_map(Result::ok).collect::<Vec<_>>()
        })
        .collect();
    let is_report = |record: &Value| record["stream"] == "sidekick.crash";
    records.into_iter().filter(is_report).collect()
}

/// The watchdog is killed, then the server crashes; the next watchdog tells why, as if it had been there.
fn a_crash_while_no_watchdog_lives_gets_its_report(godot: &Godot) {
    let project = Project::new(include_str!("../gd/crash_reports/unwatched.gd"));
    let mut setup = Setup::new();
    let go = setup.scratch().join("go");
    setup.set_engine(project.command_line(godot, &[&go.display().to_string()]));
    setup.set_config(CONFIG);
    let watchdog = setup.start();
    let engine = watchdog.wait_for_status("a game that is ready", PATIENCE, |status| {
        let engine = &status["engine"];
        let is_watched = engine["ready"] == true && engine["connected"] == true;
        is_watched.then(|| engine["pid"].as_u64())?
    });
    watchdog.kill();
    fs::write(&go, "").expect("written");
    wait::until("its death", PATIENCE, || {
        setup.engines(None).is_empty().then_some(())
    });
    assert!(reports(&setup).is_empty(), "nobody was there to make one");

    let watchdog = setup.start();
    let report = wait_for_reports(&watchdog, &setup, 1)[&1].clone();
    let told = format!("{report:#}");
    assert_eq!(report["kind"], "ill", "{told}");
    assert_eq!(report["signal"], 4, "{told}");
    assert_eq!(report["pid"].as_u64(), Some(engine), "{told}");
    let cause = report["cause"].as_str().expect("words");
    assert!(
        cause.starts_with("illegal instruction (SIGILL), while no watchdog ran, in frame "),
        "{told}"
    );
    assert!(cause.contains(" after "), "{told}");
    assert!(report["frame"].as_u64() > Some(0), "{told}");
    assert!(report["uptime_s"].as_f64() > Some(0.0), "{told}");
    assert_eq!(report["ready"], true, "{told}");
    let backtrace = report["backtrace"].as_array().expect("frames");
    assert!(backtrace.len() > 3, "{told}");
    let script = report["script_backtrace"].to_string();
    assert!(script.contains("_process (res://main.gd:"), "{told}");
    let errors = report["script_errors"].to_string();
    assert!(errors.contains("about to die unseen"), "{told}");
    let lines = report["log_lines"].to_string();
    assert!(lines.contains("nobody watches"), "{told}");

    // What the next game knows of it, with whole numbers where there are any.
    let known = wait::until("what the next game knows", PATIENCE, || {
        let files = fs::read_dir(setup.data_dir().join("uploads")).ok()?;
        files.filter_map(Result::ok).find_map(|entry| {
            let text = fs::read_to_string(entry.path()).ok()?;
            let records = text.lines().map(serde_json::from_str::<Value>);
            records
                .filter_map(Result::ok)
                .find(|record| record["stream"] == "known")
        })
    });
    assert_eq!(known["incarnation"], 2, "{known:#}");
    assert_eq!(known["data"]["relaunch"], true, "{known:#}");
    assert_eq!(known["data"]["report_id"], report["report_id"], "{known:#}");
    assert_eq!(known["data"]["floats"], serde_json::json!([]), "{known:#}");
    assert_eq!(known["data"]["line_is_int"], true, "{known:#}");
    let deaths = watchdog.status().expect("a status")["engine"]["last_deaths"].clone();
    assert_eq!(deaths.as_array().map(Vec::len), Some(1), "{deaths:#}");
    assert_eq!(deaths[0]["cause"], report["cause"], "{deaths:#}");
    assert_eq!(deaths[0]["report_id"], report["report_id"], "{deaths:#}");
    let finished = watchdog.stop(PATIENCE);
    assert_eq!(finished.status.code(), Some(0), "{:#?}", finished.lines);

    // A third watchdog has nothing to add.
    let watchdog = setup.start();
    watchdog.wait_for_status("another game", PATIENCE, |status| {
        (status["engine"]["ready"] == true).then_some(())
    });
    let finished = watchdog.stop(PATIENCE);
    assert_eq!(finished.status.code(), Some(0), "{:#?}", finished.lines);
    assert_eq!(reports(&setup).len(), 1);
    let uploaded = uploaded_reports(&setup);
    let [record] = &uploaded[..] else {
        panic!("{} records of one death", uploaded.len());
    };
    assert_eq!(record["incarnation"], 1);
    assert_eq!(record["data"]["report_id"], report["report_id"]);
}

sidekick_tests::godot_claims!(
    a_crash_while_no_watchdog_lives_gets_its_report,
    twelve_deaths_get_their_reports,
    the_next_incarnation_and_the_hook_are_told,
);
