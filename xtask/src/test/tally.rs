//! What test runs say, and what comes of them together.

/// What all test runs said together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Test targets that told a result.
    pub(super) told: usize,
    passed: u64,
    failed: u64,
    ignored: u64,
    /// The lines of the tests that failed.
    failures: Vec<String>,
    /// The lines of the tests that were ignored, each with its reason.
    reasons: Vec<String>,
    /// Runs that ended badly, which a compile error does without a failed test.
    pub(super) broken: Vec<String>,
}

impl Tally {
    /// Takes in what another lane said.
    pub(super) fn add(&mut self, other: Self) {
        self.told += other.told;
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.failures.extend(other.failures);
        self.reasons.extend(other.reasons);
        self.broken.extend(other.broken);
    }

    /// Counts one line of a test run's output.
    pub(super) fn count(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            let number = |what: &str| {
                let count = result
                    .split([';', '.'])
                    .find_map(|part| part.trim().strip_suffix(what));
                count
                    .and_then(|count| count.trim().parse::<u64>().ok())
                    .unwrap_or(0)
            };
            self.told += 1;
            self.passed += number("passed");
            self.failed += number("failed");
            self.ignored += number("ignored");
        } else if let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|line| line.split_once(" ... "))
        {
            let line = format!("{}: {outcome}", name.trim());
            if outcome.starts_with("FAILED") {
                self.failures.push(line);
            } else if outcome.starts_with("ignored") {
                self.reasons.push(line);
            }
        }
    }

    /// Nothing that passed proves nothing: a filter that fits no test, or a summary that we no longer understand.
    pub(super) fn is_good(&self) -> bool {
        self.passed > 0 && self.failed == 0 && self.broken.is_empty()
    }

    /// The names of what was ignored, failed and broke, then all in one line.
    pub(super) fn summary(&self, seconds: u64) -> String {
        let mut lines = self.reasons.clone();
        lines.extend_from_slice(&self.failures);
        lines.extend_from_slice(&self.broken);
        let verdict = if self.is_good() { "ok" } else { "FAILED" };
        lines.push(format!(
            "xtask test: {verdict}. {} passed; {} failed; {} ignored; {seconds} s",
            self.passed, self.failed, self.ignored
        ));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up_over_all_runs() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a::b ... ok",
            "test needs_godot   ... ignored (no Godot found)",
            "test long ... ignored, takes an hour",
            "test c ... FAILED",
            "test result: FAILED. 7 passed; 1 failed; 2 ignored; 0 measured; 4 filtered out; finished in 0.10s",
            "test result: ok. 30 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 12.00s",
        ] {
            tally.count(line);
        }
        assert_eq!((tally.passed, tally.failed, tally.ignored), (37, 1, 2));
        assert_eq!(tally.told, 2);
        assert_eq!(tally.failures, ["c: FAILED"]);
        assert_eq!(
            tally.reasons,
            [
                "needs_godot: ignored (no Godot found)",
                "long: ignored, takes an hour"
            ]
        );
        assert!(!tally.is_good());
        assert_eq!(
            tally.summary(3),
            "needs_godot: ignored (no Godot found)\nlong: ignored, takes an hour\nc: FAILED\n\
             xtask test: FAILED. 37 passed; 1 failed; 2 ignored; 3 s"
        );
    }

    #[test]
    fn a_run_without_a_test_is_not_good() {
        let mut tally = Tally::default();
        tally.count("test result: ok. 0 passed; 0 failed; 3 ignored; 0 measured; 9 filtered out");
        assert!(!tally.is_good());
        tally.count("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out");
        assert!(tally.is_good());
    }
}
