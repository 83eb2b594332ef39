//! Enforces who may import whom (ARCHITECTURE.md): between the crates by what cargo says, inside them by what
//! their sources name. Every rule is also tested against a snippet that breaks it.
//!
//! Sources are read as tokens, so comments and strings do not count, and what macros are given does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use serde_json::Value;
use sidekick_tests::folders::repository;

/// The crates whose sources are checked. The tests and xtask may do what they need.
const CRATES: [&str; 3] = ["sidekick-ipc", "sidekick-gdext", "sidekick-watchdog"];

/// The parts of the watchdog that know nothing of one another; `app.rs` joins them.
const PARTS: [&str; 7] = [
    "api",
    "intake",
    "process",
    "registry",
    "store",
    "supervisor",
    "upload",
];

/// Who may import `app`: the way in.
const WAY_IN: [&str; 3] = ["main", "lib", "cli"];

/// A dependency, the crate that may name it, and the modules that may; no modules means all of the crate.
const FENCED: [(&str, &str, &[&str]); 10] = [
    ("godot", "sidekick-gdext", &[]),
    ("minijinja", "sidekick-watchdog", &["process"]),
    ("openraft", "sidekick-watchdog", &["store"]),
    ("sled", "sidekick-watchdog", &["store"]),
    (
        "reqwest",
        "sidekick-watchdog",
        &["registry::client", "upload::http", "upload::sink::http"],
    ),
    // The sink's tests stand up a backend to post to.
    (
        "axum",
        "sidekick-watchdog",
        &["api", "backend", "upload::sink::http::tests"],
    ),
    (
        "tokio_postgres",
        "sidekick-watchdog",
        &["postgres", "upload::sink::postgres", "backend::rows"],
    ),
    (
        "tokio_rustls",
        "sidekick-watchdog",
        &["postgres::tls", "upload::sink::http::tests"],
    ),
    ("memmap2", "sidekick-ipc", &[]),
    ("loom", "sidekick-ipc", &[]),
];

/// Files outside `sidekick-ipc` that may say `unsafe`: the extension's entry point, and `record`'s, registered by hand.
const UNSAFE_FILES: [(&str, &str); 2] = [("sidekick-gdext", "lib"), ("sidekick-gdext", "hot_call")];

/// Crates by which the system is called; in the watchdog `platform` alone may.
const SYSTEM_CALLS: [&str; 2] = ["rustix", "libc"];

/// A test, compiled for nothing else, that kills itself.
const CRASHING_TEST: &str = "store::crash";

/// Words that make a `cfg` depend on the system.
const SYSTEM_WORDS: [&str; 7] = [
    "unix",
    "windows",
    "target_os",
    "target_family",
    "target_env",
    "target_arch",
    "target_vendor",
];

/// One source file, as tokens.
struct Source {
    krate: String,
    /// Its module's path inside the crate: `upload::http` for `src/upload/http.rs`, `lib` for the root.
    module: String,
    tokens: TokenStream,
}

impl Source {
    fn read(krate: &str, root: &Path, path: &Path) -> Self {
        let inside = path
            .strip_prefix(root)
            .expect("a file of the crate")
            .with_extension("");
        let module: Vec<_> = inside.iter().map(|part| part.to_string_lossy()).collect();
        let text = fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("cannot read {path:?}: {error}"));
        Self::parse(krate, &module.join("::"), &text)
    }

    fn parse(krate: &str, module: &str, text: &str) -> Self {
        let tokens = text
            .parse()
            .unwrap_or_else(|error| panic!("{krate}::{module} is no Rust: {error}"));
        Self {
            krate: krate.to_owned(),
            module: module.to_owned(),
            tokens,
        }
    }

    /// The part of the watchdog that it belongs to: the first word of its module's path.
    fn part(&self) -> &str {
        self.module.split("::").next().unwrap_or_default()
    }

    fn is_in(&self, module: &str) -> bool {
        self.module
            .strip_prefix(module)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    }

    /// Everything that is wrong with it.
    fn violations(&self) -> Vec<String> {
        let mut paths = Paths::default();
        paths.walk(self.tokens.clone());
        let mut said = BTreeSet::new();
        for path in &paths.found {
            let Some(problem) = self.path_problem(path) else {
                continue;
            };
            said.insert(format!("{}::{}: {problem}", self.krate, self.module));
        }
        if self.krate != "sidekick-ipc" {
            let may_be_unsafe = UNSAFE_FILES.contains(&(self.krate.as_str(), self.module.as_str()));
            if paths.is_unsafe && !may_be_unsafe {
                said.insert(format!(
                    "{}::{}: `unsafe` is for sidekick-ipc and the extension's entry points",
                    self.krate, self.module
                ));
            }
            if paths.asks_for_system && self.part() != "platform" {
                said.insert(format!(
                    "{}::{}: what depends on the system is for sidekick-ipc and platform/",
                    self.krate, self.module
                ));
            }
        }
        said.into_iter().collect()
    }

    fn path_problem(&self, path: &[String]) -> Option<String> {
        let first = path.first()?;
        let fence = FENCED.iter().find(|(dependency, ..)| dependency == first);
        if let Some((dependency, krate, modules)) = fence {
            let is_allowed = self.krate == *krate
                && (modules.is_empty() || modules.iter().any(|module| self.is_in(module)));
            return (!is_allowed)
                .then(|| format!("names {dependency}, which is for {krate} {modules:?} only"));
        }
        if self.krate != "sidekick-watchdog" {
            return None;
        }
        let may_call_system = self.part() == "platform" || self.module == CRASHING_TEST;
        if SYSTEM_CALLS.contains(&first.as_str()) && !may_call_system {
            return Some(format!("names {first}; system calls are for platform/"));
        }
        let target = self.target(path)?;
        if target == self.part() {
            return None;
        }
        if target == "app" && !WAY_IN.contains(&self.part()) {
            return Some("imports app, which joins the parts and is imported by none".to_owned());
        }
        (PARTS.contains(&self.part()) && PARTS.contains(&target.as_str())).then(|| {
            format!("imports {target}; the parts know nothing of one another, app.rs joins them")
        })
    }

    /// The top module of this crate that a path leads to, where it begins with `crate` or `super`.
    fn target(&self, path: &[String]) -> Option<String> {
        match path.first()?.as_str() {
            "crate" | "sidekick_watchdog" => path.get(1).cloned(),
            "super" => {
                let ups = path.iter().take_while(|word| *word == "super").count();
                let depth = self.module.split("::").count();
                // A module inside the file (`mod tests`) needs one more `super`, so this can only see too much
                // of the path, never too little.
                if ups >= depth {
                    path.get(ups).cloned()
                } else {
                    None
                }
            }
            _ => None,
        }
    }
}

/// What a file's tokens name.
#[derive(Default)]
struct Paths {
    found: Vec<Vec<String>>,
    is_unsafe: bool,
    asks_for_system: bool,
}

impl Paths {
    fn walk(&mut self, tokens: TokenStream) {
        let trees: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(tree) = trees.get(at) {
            match tree {
                TokenTree::Group(group) => {
                    self.walk(group.stream());
                    at += 1;
                }
                TokenTree::Ident(ident) => {
                    let word = ident.to_string();
                    self.is_unsafe |= word == "unsafe";
                    if matches!(word.as_str(), "cfg" | "cfg_attr" | "cfg_select") {
                        self.asks_for_system |= trees[at + 1..].iter().take(2).any(names_system);
                    }
                    // `use name;` and `extern crate name;` name a crate without a path.
                    let is_import = at > 0 && is_word(&trees[at - 1], &["use", "crate"]);
                    let is_path = is_joined(&trees, at + 1);
                    let begins = !is_joined_before(&trees, at);
                    at = if begins && (is_path || is_import) {
                        self.path(&trees, at, Vec::new())
                    } else {
                        at + 1
                    };
                }
                _ => at += 1,
            }
        }
    }

    /// Reads the path that begins at `at`, with the tree of a `use` in braces; returns where it ends.
    fn path(&mut self, trees: &[TokenTree], mut at: usize, mut prefix: Vec<String>) -> usize {
        loop {
            match trees.get(at) {
                Some(TokenTree::Ident(ident)) => {
                    prefix.push(ident.to_string().trim_start_matches("r#").to_owned());
                    at += 1;
                }
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    let mut begin = 0;
                    while begin < inner.len() {
                        let end = self.path(&inner, begin, prefix.clone());
                        begin = inner[end.min(inner.len())..]
                            .iter()
                            .position(|tree| matches!(tree, TokenTree::Punct(punct) if punct.as_char() == ','))
                            .map_or(inner.len(), |comma| end + comma + 1);
                    }
                    return at + 1;
                }
                _ => break,
            }
            if !is_joined(trees, at) {
                break;
            }
            at += 2;
        }
        self.found.push(prefix);
        at.max(1)
    }
}

fn is_word(tree: &TokenTree, words: &[&str]) -> bool {
    matches!(tree, TokenTree::Ident(ident) if words.iter().any(|word| ident == word))
}

fn is_colon(tree: Option<&TokenTree>) -> bool {
    matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == ':')
}

/// Whether `::` stands at `at`.
fn is_joined(trees: &[TokenTree], at: usize) -> bool {
    is_colon(trees.get(at)) && is_colon(trees.get(at + 1))
}

/// Whether the word at `at` goes on with a path that another word began. A leading `::` begins one.
fn is_joined_before(trees: &[TokenTree], at: usize) -> bool {
    at >= 3 && is_joined(trees, at - 2) && matches!(trees[at - 3], TokenTree::Ident(_))
}

fn names_system(tree: &TokenTree) -> bool {
    match tree {
        TokenTree::Ident(ident) => SYSTEM_WORDS.iter().any(|word| ident == word),
        TokenTree::Group(group) => group.stream().into_iter().any(|tree| names_system(&tree)),
        _ => false,
    }
}

fn collect_sources(krate: &str, root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot read {folder:?}: {error}"));
    for entry in entries {
        let path: PathBuf = entry.expect("an entry of a folder").path();
        if path.is_dir() {
            collect_sources(krate, root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(Source::read(krate, root, &path));
        }
    }
}

/// What cargo says each crate of the workspace depends on, development and build included.
fn dependencies() -> Vec<(String, Vec<String>)> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(repository())
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata writes JSON");
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            (name(package), dependencies.iter().map(name).collect())
        })
        .collect()
}

/// What is wrong with one crate's dependencies.
fn dependency_violations(krate: &str, dependencies: &[String]) -> Vec<String> {
    let mut said = Vec::new();
    if !CRATES.contains(&krate) {
        return said;
    }
    for dependency in dependencies {
        let is_ours = CRATES.contains(&dependency.as_str()) || dependency == "sidekick-tests";
        if is_ours && dependency != "sidekick-ipc" {
            said.push(format!(
                "{krate} depends on {dependency}; the two meet in sidekick-ipc only"
            ));
        }
        if let Some((_, owner, _)) = FENCED.iter().find(|(name, ..)| name == dependency)
            && owner != &krate
        {
            said.push(format!(
                "{krate} depends on {dependency}, which is for {owner} only"
            ));
        }
        if krate == "sidekick-ipc" && ["tokio", "tracing", "clap"].contains(&dependency.as_str()) {
            said.push(format!(
                "sidekick-ipc depends on {dependency}; it runs inside the engine and stays small"
            ));
        }
    }
    said
}

#[test]
fn the_crates_depend_on_one_another_as_drawn() {
    let crates = dependencies();
    for krate in CRATES {
        assert!(
            crates.iter().any(|(name, _)| name == krate),
            "{krate} is not in the workspace"
        );
    }
    let said: Vec<_> = crates
        .iter()
        .flat_map(|(krate, dependencies)| dependency_violations(krate, dependencies))
        .collect();
    assert!(said.is_empty(), "{}", said.join("\n"));
}

#[test]
fn the_sources_import_one_another_as_drawn() {
    let mut sources = Vec::new();
    for krate in CRATES {
        let root = repository().join(krate).join("src");
        collect_sources(krate, &root, &root, &mut sources);
    }
    assert!(
        sources.len() > 20,
        "only {} files were found",
        sources.len()
    );
    let said: Vec<_> = sources.iter().flat_map(Source::violations).collect();
    assert!(said.is_empty(), "{}", said.join("\n"));
}

#[test]
fn each_rule_catches_its_violation() {
    for (krate, module, text) in [
        ("sidekick-watchdog", "upload", "use crate::store::Store;"),
        (
            "sidekick-watchdog",
            "upload",
            "use crate::{event, store::{self, Store}};",
        ),
        ("sidekick-watchdog", "upload", "use super::store;"),
        (
            "sidekick-watchdog",
            "upload::retry",
            "use super::super::intake::Intake;",
        ),
        (
            "sidekick-watchdog",
            "intake",
            "fn f() { let _ = crate::supervisor::spawn(); }",
        ),
        (
            "sidekick-watchdog",
            "intake",
            "fn f() { tokio::select! { _ = crate::api::serve() => {} } }",
        ),
        (
            "sidekick-watchdog",
            "store::raft",
            "#[cfg(test)] mod tests { use crate::upload::Outbox; }",
        ),
        ("sidekick-watchdog", "supervisor", "use crate::app::Wiring;"),
        ("sidekick-watchdog", "upload", "use sled::Db;"),
        ("sidekick-watchdog", "app", "fn f(db: &::sled::Db) {}"),
        ("sidekick-watchdog", "position", "use openraft as raft;"),
        (
            "sidekick-watchdog",
            "upload::plan",
            "type C = reqwest::Client;",
        ),
        (
            "sidekick-watchdog",
            "metrics",
            "use {axum::Router, std::fmt};",
        ),
        ("sidekick-watchdog", "app", "use godot::prelude::*;"),
        (
            "sidekick-watchdog",
            "cli::doctor",
            "fn f() { rustix::system::uname(); }",
        ),
        ("sidekick-ipc", "value", "extern crate godot;"),
        ("sidekick-watchdog", "platform", "fn f() { unsafe { g() } }"),
        (
            "sidekick-gdext",
            "recorder",
            "unsafe impl Send for Recorder {}",
        ),
        ("sidekick-watchdog", "app", "#[cfg(unix)] fn f() {}"),
        (
            "sidekick-watchdog",
            "upload",
            "fn f() { if cfg!(any(test, target_os = \"linux\")) {} }",
        ),
        (
            "sidekick-gdext",
            "quit",
            "#[cfg_attr(not(windows), allow(dead_code))] fn f() {}",
        ),
    ] {
        let said = Source::parse(krate, module, text).violations();
        assert_eq!(said.len(), 1, "{krate}::{module}: {text} gave {said:?}");
    }
    for (krate, dependency) in [
        ("sidekick-gdext", "sidekick-watchdog"),
        ("sidekick-watchdog", "sidekick-gdext"),
        ("sidekick-watchdog", "godot"),
        ("sidekick-ipc", "sidekick-watchdog"),
        ("sidekick-ipc", "tokio"),
        ("sidekick-gdext", "openraft"),
    ] {
        let said = dependency_violations(krate, &[dependency.to_owned()]);
        assert_eq!(said.len(), 1, "{krate} -> {dependency} gave {said:?}");
    }
}

#[test]
fn what_is_allowed_is_not_caught() {
    for (krate, module, text) in [
        (
            "sidekick-watchdog",
            "upload",
            "use crate::{event::Event, position::Position, slab::Slab};",
        ),
        (
            "sidekick-watchdog",
            "upload::http",
            "use reqwest::Client; use super::super::upload::plan;",
        ),
        (
            "sidekick-watchdog",
            "upload::sink::http",
            "use reqwest::Client;",
        ),
        (
            "sidekick-watchdog",
            "store::state",
            "use sled::Db; use super::raft::Raft; use crate::store::log;",
        ),
        (
            "sidekick-watchdog",
            "app",
            "use crate::{api, intake, store::Store, supervisor, upload};",
        ),
        (
            "sidekick-watchdog",
            "main",
            "use sidekick_watchdog::{app, cli};",
        ),
        (
            "sidekick-watchdog",
            "upload",
            "// use crate::store;\n/// As `crate::store` does.\nfn f() {}",
        ),
        (
            "sidekick-watchdog",
            "upload",
            "fn f() -> &'static str { \"crate::store::x sled::Db unsafe\" }",
        ),
        (
            "sidekick-watchdog",
            "upload",
            "struct S { store: u8 } fn f(s: S) -> u8 { s.store }",
        ),
        ("sidekick-watchdog", "platform::linux", "use rustix::fs;"),
        (
            "sidekick-watchdog",
            "platform::linux",
            "#[cfg(target_os = \"linux\")] fn f() {}",
        ),
        (
            "sidekick-watchdog",
            "config",
            "use super::config::store::StoreConfig;",
        ),
        (
            "sidekick-watchdog",
            "config",
            "mod store; use self::store::StoreConfig; use store::Other;",
        ),
        (
            "sidekick-gdext",
            "lib",
            "unsafe impl ExtensionLibrary for X {} use godot::prelude::*;",
        ),
        (
            "sidekick-ipc",
            "region",
            "#[cfg(unix)] fn f() { unsafe { g() } }",
        ),
    ] {
        let said = Source::parse(krate, module, text).violations();
        assert!(said.is_empty(), "{krate}::{module}: {text} gave {said:?}");
    }
}
