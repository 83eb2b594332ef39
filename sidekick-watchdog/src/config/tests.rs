//! The configuration as a whole: complaints with their places, precedence, and that no text makes it panic.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn sources(text: &str) -> Sources {
    Sources {
        file: Some((PathBuf::from("sidekick.toml"), text.to_owned())),
        working_dir: PathBuf::from("/srv/game"),
        hostname: "host-1".into(),
        ..Sources::default()
    }
}

fn complaints(sources: &Sources) -> Vec<String> {
    match resolve(sources) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.complaints.iter().map(ToString::to_string).collect(),
    }
}

/// Every kind of mistake in one file: each is told, in the file's order, with its line and column.
#[test]
fn all_mistakes_are_told_in_one_pass_with_line_and_column() {
    let text = r#"name = "lobby 1"
datadir = "x"

[engine]
command = "godot --headless"
restart = "sometimes"
standby = 2
env = { SIDEKICK_LAUNCH = "7" }

[health]
hang_timeout = 5
hang_timout = "5s"

[ring]
size = "10MiB"
when_full = "spil"

[upload]
sinks = ["file", "kafka"]
retry_first = "2m"

[upload.http]
url = "ftp://user:hunter2@example.org/"
headers = { Authorization = "Bearer hunter2" }

[api]
listen = "0.0.0.0:7117"

[helth]
x = 1

[[stream]]
mtach = "chat.*"
"#;
    let expected = [
        r#"sidekick.toml:1:8: name must be 1 to 64 characters of A-Z a-z 0-9 . _ -, not "lobby 1""#,
        r#"sidekick.toml:2:1: datadir is an unknown key; did you mean "data_dir"?"#,
        r#"sidekick.toml:5:11: engine.command must be a list, each item a string, not the string "godot --headless""#,
        r#"sidekick.toml:6:11: engine.restart must be "on-failure", "always" or "never", not "sometimes""#,
        "sidekick.toml:7:11: engine.standby is 2: must be from 0 to 1",
        "sidekick.toml:8:7: engine.env sets SIDEKICK_LAUNCH: variables that start with SIDEKICK_ are set by the watchdog itself",
        r#"sidekick.toml:11:16: health.hang_timeout must be a duration such as "10s" or "250ms", not the number 5"#,
        r#"sidekick.toml:12:1: health.hang_timout is an unknown key; did you mean "hang_timeout"?"#,
        r#"sidekick.toml:15:8: ring.size is 10MiB: must be a power of two, such as 16MiB"#,
        r#"sidekick.toml:16:13: ring.when_full must be "spill", "block" or "refuse", not "spil""#,
        r#"sidekick.toml:19:9: upload.sinks item 2 must be "file", "http", "postgres" or "command", not "kafka""#,
        "sidekick.toml:20:15: upload.retry_first is 120s, longer than upload.retry_max (60s, the default)",
        r#"sidekick.toml:23:7: upload.http.url has the scheme "ftp": must be http or https"#,
        r#"sidekick.toml:24:11: upload.http.headers has "Authorization"; put the token into token_file"#,
        "sidekick.toml:27:10: api.listen is 0.0.0.0:7117, which others can reach: set api.token_file, or listen on 127.0.0.1",
        r#"sidekick.toml:29:2: helth is an unknown section; did you mean "health"?"#,
        "sidekick.toml:32:1: stream.match is missing: name the streams, such as \"chat.*\"",
        r#"sidekick.toml:33:1: stream.mtach is an unknown key; did you mean "match"?"#,
    ];
    let found = complaints(&sources(text));
    assert_eq!(found, expected, "{found:#?}");
    assert!(!found.concat().contains("hunter2"));
}

#[test]
fn a_syntax_error_does_not_hide_other_mistakes() {
    let found = complaints(&sources(
        "[health]\nhang_timeout = 5s\n[ring]\nsize = \"1B\"\n",
    ));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].starts_with("sidekick.toml:2:") && found[0].contains("strings: \"10s\""),
        "{found:#?}"
    );
    assert_eq!(
        found[1],
        r#"sidekick.toml:4:8: ring.size is "1B": must be from "64KiB" to "1GiB""#
    );
}

/// Of two keys that do not go together the one that was set is blamed, at its place.
#[test]
fn of_two_keys_the_one_that_was_set_is_blamed() {
    let remark = "; a loading engine may be silent for longer than a running one";
    for (text, expected) in [
        (
            "[health]\nstartup_timeout = \"2s\"\n",
            format!(
                "sidekick.toml:2:19: health.startup_timeout is 2s, shorter than health.hang_timeout (5s, the default){remark}"
            ),
        ),
        (
            "[health]\nstartup_timeout = \"2s\"\nhang_timeout = \"3s\"\n",
            format!(
                "sidekick.toml:3:16: health.hang_timeout is 3s, longer than health.startup_timeout (2s){remark}"
            ),
        ),
        (
            "[restart]\nbackoff_max = \"1ms\"\n",
            "sidekick.toml:2:15: restart.backoff_max is 1ms, shorter than restart.backoff_first (250ms, the default)"
                .to_owned(),
        ),
        (
            "[upload]\nretry_max = \"1ms\"\n",
            "sidekick.toml:2:13: upload.retry_max is 1ms, shorter than upload.retry_first (250ms, the default)"
                .to_owned(),
        ),
    ] {
        assert_eq!(complaints(&sources(text)), [expected]);
    }
}

#[test]
fn columns_count_characters() {
    let found = complaints(&sources(
        "[engine]\nenv = { \"ä\" = \"ö\" }\nrestart = \"ü\"\n[ü]\n",
    ));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("sidekick.toml:3:11:"), "{found:#?}");
    assert!(found[1].starts_with("sidekick.toml:4:2:"), "{found:#?}");
}

#[test]
fn a_section_written_as_a_value_is_refused() {
    let found = complaints(&sources("health = 5\nupload = { http = 3 }\n"));
    assert_eq!(
        found,
        [
            "sidekick.toml:1:10: health must be a section, written as [health]",
            "sidekick.toml:2:19: upload.http must be a section, written as [upload.http]",
        ]
    );
}

/// One key from all four sources: taking away the strongest lets the next one show.
#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let mut all = sources("name = \"from-file\"\n");
    all.env.insert("SIDEKICK_NAME".into(), "from-env".into());
    all.flags.push(("name", "--name", "from-flag".into()));
    let name = |sources: &Sources| resolve(sources).unwrap().name;
    assert_eq!(name(&all), "from-flag");
    all.flags.clear();
    assert_eq!(name(&all), "from-env");
    all.env.clear();
    assert_eq!(name(&all), "from-file");
    all.file = None;
    assert_eq!(name(&all), "host-1");
}

#[test]
fn every_key_can_be_set_by_environment() {
    let mut sources = sources("");
    for (name, value) in [
        ("SIDEKICK_RING__SIZE", "1MiB"),
        ("SIDEKICK_UPLOAD__SINKS", "http,file"),
        ("SIDEKICK_UPLOAD__HTTP__URL", "http://127.0.0.1:1/x"),
        ("SIDEKICK_UPLOAD__HTTP__HEADERS", "{ X-Shard = \"3\" }"),
        ("SIDEKICK_ENGINE__COMMAND", "[\"godot\", \"--headless\"]"),
        ("SIDEKICK_HEALTH__READY_REQUIRED", "true"),
        ("SIDEKICK_RESTART__BACKOFF_FACTOR", "1.5"),
        ("SIDEKICK_API_LISTEN", "localhost:0"),
    ] {
        sources.env.insert(name.into(), value.into());
    }
    let config = resolve(&sources).unwrap();
    assert_eq!(config.ring.bytes, 1 << 20);
    assert_eq!(config.upload.sinks, [SinkKind::Http, SinkKind::File]);
    let http = config.upload.http.unwrap();
    assert_eq!(http.url.as_str(), "http://127.0.0.1:1/x");
    assert_eq!(http.headers.0["X-Shard"], "3");
    assert_eq!(config.engine.command.0, ["godot", "--headless"]);
    assert!(config.health.ready_required);
    assert_eq!(config.restart.backoff_factor, 1.5);
    assert_eq!(config.api.listen.port(), 0);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn mistakes_in_environment_and_flags_name_them() {
    let mut sources = sources("");
    sources
        .env
        .insert("SIDEKICK_LOG_LEVEL".into(), "loud".into());
    sources
        .env
        .insert("SIDEKICK_ENGINE__STANDBY".into(), "2".into());
    sources.flags.push(("name", "--name", "a b".into()));
    let found = complaints(&sources);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].starts_with("SIDEKICK_ENGINE__STANDBY: engine.standby is 2"));
    assert!(found[1].starts_with("SIDEKICK_LOG_LEVEL: log.level must be"));
    assert!(found[2].starts_with("--name: name must be"));
}

#[test]
fn an_unknown_variable_is_only_a_warning() {
    let mut sources = sources("");
    sources.env.insert("SIDEKICK_NAM".into(), "x".into());
    let config = resolve(&sources).unwrap();
    assert_eq!(
        config.warnings,
        [
            "environment variable SIDEKICK_NAM means nothing to the watchdog; did you mean \"SIDEKICK_NAME\"?"
        ]
    );
}

#[test]
fn the_command_line_replaces_the_engine_command() {
    let mut sources = sources("[engine]\ncommand = [\"a\"]\n");
    sources.command = Some(vec!["b".into(), "-x, y".into()]);
    assert_eq!(resolve(&sources).unwrap().engine.command.0, ["b", "-x, y"]);
}

#[test]
fn relative_paths_count_from_the_file_or_the_working_directory() {
    let mut sources = sources("data_dir = \"d\"\nruntime_dir = \"/run/x\"\n");
    sources.file.as_mut().unwrap().0 = "conf/sidekick.toml".into();
    let config = resolve(&sources).unwrap();
    assert_eq!(config.data_dir, Path::new("/srv/game/conf/d"));
    assert_eq!(config.runtime_dir.as_deref(), Some(Path::new("/run/x")));
    assert_eq!(
        config.upload.file.dir,
        Path::new("/srv/game/conf/d/uploads")
    );
    sources.flags.push(("data_dir", "--data-dir", "d".into()));
    assert_eq!(
        resolve(&sources).unwrap().data_dir,
        Path::new("/srv/game/d")
    );
}

#[test]
fn http_without_a_url_is_refused_and_an_unused_section_is_told() {
    let found = complaints(&sources("[upload]\nsinks = [\"http\"]\n"));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with("sidekick.toml:2:9: upload.sinks has \"http\", but"));
    let config = resolve(&sources("[upload.http]\nurl = \"https://x.example/\"\n")).unwrap();
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = resolve(&sources("")).unwrap();
    assert_eq!(config.name, "host-1");
    assert_eq!(config.data_dir, Path::new("/srv/game/sidekick-data"));
    assert_eq!(config.health.hang_timeout, Duration::from_secs(5));
    assert_eq!(config.ring.bytes, 16 << 20);
    assert_eq!(config.ring.block_max, Duration::from_millis(2));
    assert_eq!(config.restart.give_up_after, None);
    assert_eq!(config.store.disk_quota_bytes, 4 << 30);
    assert_eq!(config.upload.sinks, [SinkKind::File]);
    assert_eq!(config.api.listen.to_string(), "127.0.0.1:7117");
}

/// What `init` writes is right, as it is and with every commented key put in force.
#[test]
fn the_template_passes_its_own_check_with_every_key_uncommented() {
    let text = template();
    let config = resolve(&sources(&text)).unwrap();
    assert_eq!(config.engine.command.0[0], "godot");
    let mut uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    // The examples name token files, which have to exist.
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "secret").unwrap();
    for example in [
        "/run/secrets/sidekick-token",
        "/run/secrets/sidekick-api-token",
        "/run/secrets/database-url",
        "/run/secrets/database-password",
        "/run/secrets/registry-password",
        "/etc/sidekick/client.pem",
        "/etc/sidekick/client.key",
    ] {
        uncommented = uncommented.replace(example, token.path().to_str().unwrap());
    }
    // And an authority and a folder.
    let authority = tempfile::NamedTempFile::new().unwrap();
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(authority.path(), pem).unwrap();
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), pem.replace("CERTIFICATE", "PRIVATE KEY")).unwrap();
    uncommented = uncommented
        .replace("/etc/sidekick/ca.pem", authority.path().to_str().unwrap())
        .replace(
            "/etc/sidekick/http-client.pem",
            authority.path().to_str().unwrap(),
        )
        .replace(
            "/run/secrets/sidekick-client.key",
            key.path().to_str().unwrap(),
        )
        .replace("working_dir = \".\"", "working_dir = \"/\"");
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "0123456789abcdef").unwrap();
    uncommented = uncommented.replace("\"hash.key\"", &format!("{:?}", key.path()));
    let config = resolve(&sources(&uncommented)).unwrap_or_else(|e| panic!("{e}\n{uncommented}"));
    let in_file = config
        .entries
        .iter()
        .filter(|entry| matches!(entry.origin, Place::File { .. }))
        .count();
    assert_eq!(
        in_file,
        config.entries.len(),
        "every key is in the template"
    );
}

/// Tables are read in full, mistakes are named, and no password gets into the configuration.
#[test]
fn a_database_is_read_with_its_tables_and_without_a_password() {
    let text = "[upload]\nsinks = [\"postgres\"]\n[upload.postgres]\nurl = \"postgres://game@db/game\"\n\
                table = \"game.records\"\nmode = \"insert\"\ncreate_tables = true\n\
                [[upload.postgres.tables]]\nmatch = \"damage.*\"\ntable = \"damage\"\n\
                columns = { amount = \"amount\", n = \"$seq\", who = \"attacker.name\" }\n";
    let config = resolve(&sources(text)).unwrap_or_else(|e| panic!("{e}"));
    let postgres = config.upload.postgres.clone().unwrap();
    assert_eq!(postgres.table.to_string(), "\"game\".\"records\"");
    assert_eq!(postgres.tables.len(), 1);
    assert_eq!(postgres.tables[0].columns.len(), 3);
    let printed = effective(&config, Path::new("/"));
    assert!(printed.contains("who = \"attacker.name\""), "{printed}");
    resolve(&sources(&printed)).unwrap_or_else(|e| panic!("{e}\n{printed}"));
    for (line, said) in [
        (
            "url = \"postgres://u:hunter2@h/d\"",
            "put it into password_file",
        ),
        (
            "url = \"mysql://h/hunter2\"",
            "is not of the form postgres://",
        ),
        ("table = \"a b\"", "must be 1 to 63"),
        ("tables = [{ match = \"a\" }]", "lacks match or table"),
        (
            "tables = [{ match = \"a\", table = \"t\", colums = {} }]",
            "unknown key \"colums\"",
        ),
        (
            "tables = [{ match = \"a\", table = \"t\", columns = { c = \"$sequence\" } }]",
            "is none of $source",
        ),
        (
            "tables = [{ match = \"a\", table = \"t\", columns = { \"c;\" = \"x\" } }]",
            "\"c;\" must be",
        ),
        ("tls_cert_file = \"c.pem\"", "without tls_key_file"),
        ("password_file = \"/no/such/file\"", "cannot be used"),
    ] {
        let text = format!("[upload]\nsinks = [\"postgres\"]\n[upload.postgres]\n{line}\n");
        let said_all = resolve(&sources(&text)).unwrap_err().to_string();
        assert!(
            said_all.contains(said) && !said_all.contains("hunter2"),
            "{line}: {said_all}"
        );
    }
    let none = resolve(&sources("[upload]\nsinks = [\"postgres\"]\n")).unwrap_err();
    assert!(
        none.to_string().contains("upload.postgres.url is not set"),
        "{none}"
    );
}

/// What the README does not list, nobody finds; what it lists and we do not know, nobody can use.
#[test]
fn the_readme_lists_every_key_once() {
    let readme = include_str!("../../../README.md");
    let (_, text) = readme.split_once("## Configuration").unwrap();
    let (text, _) = text.split_once("### Exit codes").unwrap();
    let mut listed = Vec::new();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let column = row.split('|').nth(1).unwrap();
        let mut section = "";
        for name in column.split('`').skip(1).step_by(2) {
            let name = match name
                .strip_prefix('[')
                .and_then(|name| name.split_once("] "))
            {
                Some((first, name)) => {
                    section = first;
                    name
                }
                None => name,
            };
            listed.push(format!("[{section}] {name}"));
        }
    }
    let entries = resolve(&sources(""))
        .unwrap_or_else(|e| panic!("{e}"))
        .entries;
    let known = entries
        .iter()
        .map(|entry| format!("[{}] {}", entry.section, entry.name));
    let mut known: Vec<String> = known.collect();
    listed.sort();
    known.sort();
    assert_eq!(listed, known);
}

#[test]
fn what_is_printed_reads_back_and_hides_secrets() {
    let text = "[engine]\nenv = { DB_PASSWORD = \"hunter2\" }\ncommand = [\"godot\", \"--token\", \"hunter2\", \"--map=a\"]\n\
                [hooks]\npost_mortem = [\"tell\", \"--api-key=hunter2\"]\n[upload]\nsinks = [\"http\"]\n\
                [upload.http]\nurl = \"https://x.example/?token=hunter2\"\nheaders = { X-Key = \"hunter2\" }\n";
    let config = resolve(&sources(text)).unwrap();
    let printed = effective(&config, Path::new("/srv/game"));
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(
        printed.contains("env = { DB_PASSWORD = \"(hidden)\" }  # sidekick.toml:2"),
        "{printed}"
    );
    assert!(
        printed.contains("url = \"https://x.example/?token=(hidden)\"  # sidekick.toml:9"),
        "{printed}"
    );
    for line in [
        "command = [\"godot\", \"--token\", \"(hidden)\", \"--map=a\"]  # sidekick.toml:3",
        "post_mortem = [\"tell\", \"--api-key=(hidden)\"]  # sidekick.toml:5",
    ] {
        assert!(printed.contains(line), "{printed}");
    }
    assert!(
        printed.contains("dir = \"/srv/game/sidekick-data/uploads\"  # default"),
        "{printed}"
    );
    let again = resolve(&sources(&printed)).unwrap();
    assert_eq!(again.ring.bytes, config.ring.bytes);
    assert_eq!(again.data_dir, config.data_dir);
}

/// Who writes a command line where a list is wanted is told so without what is secret in it.
#[test]
fn a_mistake_in_a_command_line_tells_no_secret() {
    for (text, told) in [
        (
            "[engine]\ncommand = \"godot --map a --token hunter2\"\n",
            "engine.command must be a list, each item a string, not the string \"godot --map a --token (hidden)\"",
        ),
        (
            "[hooks]\npre_start = [\"tell\", \"--pin\", 4711]\n",
            "hooks.pre_start item 3 must be a string, not integer",
        ),
        (
            "[hooks]\npre_start = 4711\n",
            "hooks.pre_start must be a list, each item a string, not the number 4711",
        ),
    ] {
        let errors = resolve(&sources(text)).unwrap_err().to_string();
        assert!(errors.contains(told), "{errors}");
    }
    let mut wrong = sources("");
    let variable = "[\"godot\", \"--token\", \"hunter2\"".to_owned();
    wrong
        .env
        .insert("SIDEKICK_ENGINE__COMMAND".into(), variable);
    let errors = resolve(&wrong).unwrap_err().to_string();
    assert!(errors.contains("engine.command must be a list"), "{errors}");
    assert!(!errors.contains("hunter2"), "{errors}");
}

/// The sink needs its program, and a program that nobody asked for is told.
#[test]
fn a_command_sink_names_its_program() {
    let upload = |sinks: &str, rest: &str| {
        format!("[engine]\ncommand = [\"x\"]\n[upload]\nsinks = [{sinks}]\n{rest}")
    };
    let run = "[upload.command]\nrun = [\"./upload.sh\", \"a b\"]\ntimeout = \"5s\"\n";
    let config = resolve(&sources(&upload("\"command\"", run))).unwrap();
    let command = config.upload.command.unwrap();
    assert_eq!(command.run.0, ["./upload.sh", "a b"]);
    assert_eq!(command.timeout, Duration::from_secs(5));
    let unused = resolve(&sources(&upload("\"file\"", run))).unwrap();
    assert!(unused.upload.command.is_none());
    assert!(unused.warnings[0].contains("[upload.command] is set but not used"));
    for (rest, expected) in [
        (
            "",
            "sidekick.toml:4:9: upload.sinks has \"command\", but upload.command.run is not set",
        ),
        (
            "[upload.command]\nrun = []\n",
            "sidekick.toml:6:7: upload.command.run must name a program first",
        ),
    ] {
        let found = complaints(&sources(&upload("\"command\"", rest)));
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{found:#?}"
        );
    }
}

/// Requests to a registry have no query: a secret in one would be sent to nobody, and is not repeated.
#[test]
fn a_registry_with_a_query_is_refused() {
    for url in [
        "https://uro.example/api?key=hunter2",
        "https://uro.example/#hunter2",
    ] {
        let text = format!("[registry]\nurl = \"{url}\"\nport = 7711\n");
        let found = complaints(&sources(&text)).join("\n");
        assert!(
            found.contains("sidekick.toml:2:7: registry.url goes on"),
            "{found}"
        );
        assert!(!found.contains("hunter2"), "{found}");
    }
}

/// A certificate and its key go together, and what is in the key's file is never shown.
#[test]
fn a_client_certificate_needs_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    let pem = |kind: &str| format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n");
    std::fs::write(&cert, pem("CERTIFICATE")).unwrap();
    std::fs::write(&key, pem("PRIVATE KEY")).unwrap();
    let text = |rest: String| {
        format!(
            "[engine]\ncommand = [\"x\"]\n[upload]\nsinks = [\"http\"]\n[upload.http]\n\
             url = \"https://x.example/\"\n{rest}"
        )
    };
    let both = text(format!(
        "tls_client_cert_file = {cert:?}\ntls_client_key_file = {key:?}\n"
    ));
    let config = resolve(&sources(&both)).unwrap();
    let http = config.upload.http.unwrap();
    assert_eq!(http.tls_client, Some((cert.clone(), key.clone())));
    for (one, path) in [("cert", &cert), ("key", &key)] {
        let found = complaints(&sources(&text(format!(
            "tls_client_{one}_file = {path:?}\n"
        ))));
        assert!(found[0].contains("is set, but"), "{found:?}");
    }
    std::fs::write(&key, "hunter2").unwrap();
    let found = complaints(&sources(&both));
    assert!(
        found[0].contains("tls_client_key_file cannot be used"),
        "{found:?}"
    );
    assert!(!found[0].contains("hunter2"), "{found:?}");
}

/// What `run` would stumble over is told by `check`, all at once and with its place.
#[test]
fn files_and_folders_that_are_named_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let (authorities, token) = (folder.path().join("ca.pem"), folder.path().join("token"));
    let text = format!(
        "[engine]\nworking_dir = {:?}\n[upload]\nsinks = [\"http\"]\n[upload.http]\nurl = \"https://x.example/\"\n\
         token_file = {token:?}\ntls_ca_file = {authorities:?}\n",
        folder.path().join("none")
    );
    let found = complaints(&sources(&text));
    for (found, begin) in found.iter().zip([
        "sidekick.toml:2:15: engine.working_dir is ",
        "sidekick.toml:7:14: upload.http.token_file cannot be used: ",
        "sidekick.toml:8:15: upload.http.tls_ca_file cannot be used: ",
    ]) {
        assert!(found.starts_with(begin), "{found}");
    }
    assert_eq!(found.len(), 3, "{found:#?}");
    for bad in ["", "no certificate", "-----BEGIN CERTIFICATE-----\n%%\n"] {
        std::fs::write(&authorities, bad).unwrap();
        let found = complaints(&sources(&text));
        assert_eq!(found.len(), 3, "{bad:?}: {found:#?}");
        assert!(
            found[2].ends_with("name a PEM file of certificates"),
            "{found:#?}"
        );
    }
}

#[test]
fn token_files_must_be_readable_and_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    let text = format!("[api]\nlisten = \"0.0.0.0:1\"\ntoken_file = {token:?}\n");
    let found = complaints(&sources(&text));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with("sidekick.toml:3:14: api.token_file cannot be used: "));
    for bad in ["", " \n", "two words", "ä"] {
        std::fs::write(&token, bad).unwrap();
        let found = complaints(&sources(&text));
        assert_eq!(found.len(), 1, "{bad:?}: {found:#?}");
    }
    std::fs::write(&token, "s3cret\n").unwrap();
    let mode =
        |mode| std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(mode));
    mode(0o644).unwrap();
    let config = resolve(&sources(&text)).unwrap();
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    mode(0o600).unwrap();
    let config = resolve(&sources(&text)).unwrap();
    assert_eq!(config.warnings.len(), 0, "{:?}", config.warnings);
    assert_eq!(secret::read_file(&token).unwrap(), "s3cret");
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn a_named_file_that_is_missing_or_strange_is_one_clear_complaint() {
    let folder = tempfile::tempdir().unwrap();
    let flags = |name: &str| Flags {
        config: Some(name.into()),
        ..Flags::default()
    };
    let told = |flags: &Flags| load(flags, [], folder.path()).unwrap_err().to_string();
    assert!(
        told(&flags("no.toml"))
            .starts_with("--config: the configuration file no.toml cannot be read")
    );
    assert!(told(&flags(".")).contains("it is not a file"));
    std::fs::write(folder.path().join("b.toml"), b"name = \"\xff\"").unwrap();
    assert!(told(&flags("b.toml")).contains("byte 8 is not UTF-8"));
    let not_utf8: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
    let env = [
        ("SIDEKICK_NAME".into(), not_utf8),
        ("SIDEKICK_LOG_LEVEL".into(), "loud".into()),
    ];
    let errors = load(&Flags::default(), env, folder.path()).unwrap_err();
    let both: Vec<_> = errors
        .complaints
        .iter()
        .map(|c| c.place.to_string())
        .collect();
    assert_eq!(both, ["SIDEKICK_LOG_LEVEL", "SIDEKICK_NAME"]);
    assert!(
        load(&Flags::default(), [], folder.path())
            .unwrap()
            .file
            .is_none()
    );
}

/// Text that is made of the configuration's own words, so that it gets further than the TOML parser.
fn likely_text() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "[engine]",
        "[health]",
        "[upload]",
        "[upload.http]",
        "[[stream]]",
        "upload",
        "command",
        "hang_timeout",
        "size",
        "sinks",
        "url",
        "headers",
        "token_file",
        "=",
        ".",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        "\n",
        "\n",
        ",",
        "\"10s\"",
        "\"16MiB\"",
        "[\"http\"]",
        "5",
        "-1",
        "1e999",
        "0x10",
        "true",
        "nan",
        "1979-05-27",
        "\u{e4}",
        "\"99999999999999999999TiB\"",
        "\"9999999999999999999s\"",
        "#",
        "\"http://\\u0000\"",
        "\"\"\"",
    ]);
    prop::collection::vec(word, 0..40).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in prop_oneof![likely_text(), "\\PC{0,80}"]) {
        for complaint in complaints(&sources(&text)) {
            prop_assert!(complaint.starts_with("sidekick.toml:"), "{complaint}");
        }
    }

    #[test]
    fn no_variable_makes_it_panic(text in "\\PC{0,40}") {
        let names = resolve(&sources("")).unwrap().entries;
        let env: BTreeMap<String, String> = names
            .iter()
            .map(|e| format!("SIDEKICK_{}__{}", e.section.replace('.', "__"), e.name).to_uppercase())
            .map(|name| (name, text.clone()))
            .collect();
        let _ = complaints(&Sources { env, ..sources("") });
    }
}

#[test]
fn deep_nesting_is_refused_not_overflowed() {
    let text = format!("name = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(!complaints(&sources(&text)).is_empty());
}
