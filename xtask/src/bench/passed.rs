//! Benches that are cargo's own, run and passed through.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use sidekick_tests::folders::repository;

use super::line::{Line, Printer, Target};

/// Runs one of a package's benches and prints its lines; `target` gives a case its target.
pub(super) fn bench(
    printer: Printer,
    package: &str,
    bench: &str,
    target: impl Fn(&str) -> Option<Target>,
) -> Result<(), Box<dyn Error>> {
    printer.tell(&format!("building and running {package}'s bench {bench}"));
    let output = cargo()
        .args(["bench", "--quiet", "--package", package, "--bench", bench])
        .output()?;
    if !output.status.success() {
        return Err(format!("{package}'s bench {bench} ended with {}", output.status).into());
    }
    for text in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(value) = serde_json::from_str::<Value>(text) else {
            continue; // what cargo's harness says
        };
        let mut line = read(&value);
        if let Some(target) = target(&line.case) {
            line = line.target(target);
        }
        printer.print(&line);
    }
    Ok(())
}

fn read(value: &Value) -> Line {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| value[name].as_f64().unwrap_or_default();
    let peers: BTreeMap<String, f64> = value["beside"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)))
        .collect();
    let mut line = Line::median(&text("bench"), &text("case"), &text("unit"), &[])
        .with_value(number("value"))
        .with_n(value["n"].as_u64().unwrap_or_default());
    (line.p50, line.p95, line.p99) = (number("p50"), number("p95"), number("p99"));
    line.beside = peers;
    line
}

/// Builds an example of a package, optimized, and returns its path.
pub(super) fn example(package: &str, example: &str) -> Result<PathBuf, Box<dyn Error>> {
    let output = cargo()
        .args(["build", "--quiet", "--release", "--package", package])
        .args(["--example", example])
        .args(["--message-format", "json-render-diagnostics"])
        .output()?;
    if !output.status.success() {
        return Err(format!("the example {example} does not compile ({})", output.status).into());
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == example)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| format!("cargo named no file of the example {example}").into())
}

fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command
        .current_dir(repository())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    command
}
