use super::*;

const GOOD: &str = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";

/// What a shell says and does in place of cargo.
fn says(script: &str, targets: usize) -> Vec<Run> {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    vec![Run::new("a run", command, targets)]
}

fn good() -> Vec<Run> {
    says(&format!("echo '{GOOD}'"), 1)
}

/// Has the run in one lane and in the other, each beside a good one.
fn in_each_lane(run: impl Fn() -> Vec<Run>) -> [Tally; 2] {
    [side_by_side(run(), good()), side_by_side(good(), run())]
}

#[test]
fn lanes_are_good_together() {
    let tally = side_by_side(good(), good());
    assert!(tally.is_good());
    let words = tally.summary(1);
    assert_eq!(words, "xtask test: ok. 4 passed; 0 failed; 0 ignored; 1 s");
}

#[test]
fn a_failing_test_in_either_lane_fails_the_run_and_is_named() {
    let bad = "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out";
    let script = format!(
        "echo 'test a::b ... FAILED'; echo 'test c ... ignored, takes long'; echo '{bad}'; exit 101"
    );
    for tally in in_each_lane(|| says(&script, 1)) {
        assert!(!tally.is_good());
        let words = tally.summary(1);
        for told in [
            "a::b: FAILED",
            "c: ignored, takes long",
            "xtask test: FAILED. 3 passed; 1 failed; 1 ignored",
        ] {
            assert!(words.contains(told), "{words}");
        }
    }
    // Also where cargo itself ends well.
    let script = script.replace("101", "0");
    for tally in in_each_lane(|| says(&script, 1)) {
        assert!(!tally.is_good());
    }
}

#[test]
fn a_lane_that_dies_fails_the_run() {
    let script = format!("echo '{GOOD}'; kill -9 $$");
    for tally in in_each_lane(|| says(&script, 1)) {
        assert!(!tally.is_good());
        let words = tally.summary(1);
        assert!(
            words.contains("a run: cargo ended with signal: 9"),
            "{words}"
        );
        assert!(words.contains("4 passed; 0 failed"), "{words}");
    }
    let nowhere = || vec![Run::new("a run", Command::new("/nowhere"), 1)];
    for tally in in_each_lane(nowhere) {
        assert!(!tally.is_good());
        let words = tally.summary(1);
        assert!(words.contains("a run: No such file"), "{words}");
        assert!(
            words.contains("2 passed; 0 failed"),
            "what the other lane said"
        );
    }
}

/// Whoever calls `exit(0)` amid its tests.
#[test]
fn a_target_that_tells_no_result_fails_the_run() {
    let script = format!("echo '{GOOD}'; echo 'running 2 tests'; echo 'test a ... ok'");
    for tally in in_each_lane(|| says(&script, 2)) {
        assert!(!tally.is_good());
        let words = tally.summary(1);
        assert!(
            words.contains("a run: 1 of 2 test targets told a result"),
            "{words}"
        );
    }
}

/// Nothing is built while lanes run beside each other.
#[test]
fn a_run_is_given_what_is_built() {
    let built = [("HARNESS_WATCHDOG", PathBuf::from("/built"))];
    let lane = |built: &[(&str, PathBuf)]| {
        let runs = says("test \"$HARNESS_WATCHDOG\" = /built", 0).into_iter();
        run_lane("one | ", runs.map(|run| run.given(None, built)).collect())
    };
    assert!(lane(&built).broken.is_empty());
    assert!(!lane(&[]).broken.is_empty());
}

/// The runs behind one that broke are not left out.
#[test]
fn a_lane_goes_on() {
    let mut runs = says("exit 1", 0);
    runs.extend(good());
    let tally = run_lane("one | ", runs);
    assert_eq!(tally.told, 1);
    assert!(!tally.is_good());
}

#[test]
fn what_starts_a_godot_is_in_a_lane_of_its_own() {
    let targets = Targets::find().unwrap();
    for name in ["kills", "exported_server", "standby"] {
        assert!(targets.godot.contains_key(name), "{name}");
    }
    for name in ["duels", "architecture", "cli", "step_crash"] {
        assert!(targets.other.contains_key(name), "{name}");
    }
    let both = targets.godot.keys();
    let both = both.filter(|name| targets.other.contains_key(*name));
    assert_eq!(both.count(), 0);
    assert!(targets.units > 3 && targets.documented > 1, "{targets:?}");
    assert_eq!(chosen(&[("a".to_owned(), 2)].into()), ["--test", "a"]);
}
