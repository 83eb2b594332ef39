//! One measurement, as a line of JSON or of a table.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

/// Prints lines in the form that was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Printer {
    pub(super) json: bool,
}

/// What a value should be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Line {
    pub(super) bench: String,
    pub(super) case: String,
    pub(super) value: f64,
    pub(super) unit: String,
    /// How many samples are behind it.
    pub(super) n: u64,
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    /// Peers and limits of the same run, in the same unit.
    pub(super) beside: BTreeMap<String, f64>,
    /// Whether the target among them was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reached: Option<bool>,
    /// Processes that were running or waiting to run, over the last minute.
    pub(super) load: f64,
}

impl Line {
    /// The median of samples.
    pub(super) fn median(bench: &str, case: &str, unit: &str, samples: &[f64]) -> Self {
        let sorted = sorted(samples);
        Self {
            bench: bench.to_owned(),
            case: case.to_owned(),
            value: round(at(&sorted, 0.5)),
            unit: unit.to_owned(),
            n: sorted.len() as u64,
            p50: round(at(&sorted, 0.5)),
            p95: round(at(&sorted, 0.95)),
            p99: round(at(&sorted, 0.99)),
            beside: BTreeMap::new(),
            reached: None,
            load: load(),
        }
    }

    /// Another value than the samples' median.
    pub(super) fn with_value(mut self, value: f64) -> Self {
        self.value = round(value);
        self
    }

    /// How many single measurements the samples were made of.
    pub(super) fn with_n(mut self, n: u64) -> Self {
        self.n = n;
        self
    }

    pub(super) fn beside(mut self, peer: &str, value: f64) -> Self {
        self.beside.insert(peer.to_owned(), round(value));
        self
    }

    pub(super) fn target(mut self, target: Target) -> Self {
        let (name, limit, reached) = match target {
            Target::AtLeast(limit) => ("target_min", limit, self.value >= limit),
            Target::AtMost(limit) => ("target_max", limit, self.value <= limit),
        };
        self.beside.insert(name.to_owned(), limit);
        self.reached = Some(reached);
        self
    }
}

impl Printer {
    pub(super) fn print(self, line: &Line) {
        if self.json {
            match serde_json::to_string(line) {
                Ok(text) => println!("{text}"),
                Err(error) => eprintln!("bench: {error}"),
            }
            return;
        }
        let reached = match line.reached {
            Some(true) => "reached",
            Some(false) => "MISSED",
            None => "",
        };
        let beside: Vec<String> = line
            .beside
            .iter()
            .map(|(name, value)| format!("{name} {}", short(*value)))
            .collect();
        println!(
            "{:<8} {:<34} {:>12} {:<11} {:<7}  p50 {} p95 {} p99 {} n {}  {}",
            line.bench,
            line.case,
            short(line.value),
            line.unit,
            reached,
            short(line.p50),
            short(line.p95),
            short(line.p99),
            line.n,
            beside.join(", ")
        );
    }

    /// Says of something that would be a line that it was not measured.
    pub(super) fn skip(self, bench: &str, case: &str, why: &str) {
        if self.json {
            println!(
                "{}",
                serde_json::json!({ "bench": bench, "case": case, "skipped": why })
            );
        } else {
            println!("{bench:<8} {case:<34} not measured: {why}");
        }
    }

    /// Says what is going on without disturbing the output.
    pub(super) fn tell(self, what: &str) {
        eprintln!("bench: {what} (load {:.1})", load());
    }
}

/// The sample below which `share` of them lie; 0 of none.
pub(super) fn at(sorted: &[f64], share: f64) -> f64 {
    let index = (sorted.len() as f64 * share) as usize;
    sorted
        .get(index.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

pub(super) fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

pub(super) fn median(samples: &[f64]) -> f64 {
    at(&sorted(samples), 0.5)
}

/// Three digits are what such measurements have.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100_000.0 => format!("{:.0}k", value / 1000.0),
        middle if middle >= 100.0 => format!("{value:.0}"),
        small if small >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// The load average of the last minute: a measurement on a busy machine should say so. 0 where there is none.
fn load() -> f64 {
    fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_percentiles_and_knows_its_target() {
        let samples: Vec<f64> = (0..100).map(f64::from).rev().collect();
        let line = Line::median("b", "c", "ns", &samples).target(Target::AtMost(50.0));
        assert_eq!((line.p50, line.p95, line.p99), (50.0, 95.0, 99.0));
        assert_eq!(line.reached, Some(true));
        assert_eq!(
            line.clone().target(Target::AtLeast(50.1)).reached,
            Some(false)
        );
        let json = serde_json::to_value(&line).unwrap();
        for key in [
            "bench", "case", "value", "unit", "n", "p50", "p95", "p99", "beside",
        ] {
            assert!(json.get(key).is_some(), "{key} is missing");
        }
        assert_eq!(json["beside"]["target_max"], 50.0);
    }

    #[test]
    fn no_samples_are_zero_and_no_panic() {
        assert_eq!(Line::median("b", "c", "ns", &[]).value, 0.0);
    }
}
