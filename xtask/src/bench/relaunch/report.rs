//! What the rounds found, as lines.

use sidekick_tests::watchdog::Watchdog;

use super::super::line::{Line, Printer, Target, median};
use super::subject::Subject;

const P95_MS_MAX: f64 = 10.0;
/// Whose times ours are judged by, and how many times theirs ours may be.
const JUDGES: [(&str, f64); 2] = [("floor", 2.0), ("runit", 1.0)];

/// What the measurement `case` is called where a peer did the relaunching.
pub(super) fn by(case: &str, peer: &str) -> String {
    format!("{case}_by_{peer}")
}

/// Prints the watchdog's times, the last of the subjects, beside the judges' and with the targets that these set; then
/// the other subjects', each on a line of its own.
pub(super) fn print(printer: Printer, case: &str, subjects: &[Subject<'_>], has_targets: bool) {
    let Some((ours, others)) = subjects.split_last() else {
        return;
    };
    let limit = |peer: &Subject<'_>| {
        let judge = JUDGES.iter().find(|(name, _)| *name == peer.name)?;
        Some(judge.1)
    };
    let mut line = Line::median("relaunch", case, "ms", &ours.samples);
    for judge in others.iter().filter(|peer| limit(peer).is_some()) {
        let its = Line::median("", "", "", &judge.samples);
        line = line
            .beside(judge.name, its.p50)
            .beside(&format!("{}_p95", judge.name), its.p95);
    }
    printer.print(&line);
    if has_targets {
        let tail = Line::median("relaunch", &format!("{case}_p95"), "ms", &ours.samples);
        printer.print(&tail.with_value(line.p95).target(Target::AtMost(P95_MS_MAX)));
    }
    for peer in others {
        match limit(peer) {
            Some(limit) if has_targets => {
                let ratio = median(&ours.samples) / median(&peer.samples);
                let case = format!("{case}_of_{}", peer.name);
                let line = Line::median("relaunch", &case, "ratio", &[ratio])
                    .with_n(ours.samples.len() as u64);
                printer.print(&line.target(Target::AtMost(limit)));
            }
            Some(_) => {}
            None => printer.print(
                &Line::median("relaunch", &by(case, peer.name), "ms", &peer.samples)
                    .beside("sidekick", line.p50),
            ),
        }
        if let Some(why) = &peer.gave_up {
            printer.skip("relaunch", &by(case, peer.name), why);
        }
    }
}

/// From the proof of a death to the return of the next start, by the watchdog's own account: its own part of the way.
pub(super) fn print_gaps(printer: Printer, case: &str, watchdog: &Watchdog<'_>) {
    let lines = watchdog.log();
    let gaps: Vec<f64> = lines
        .iter()
        .filter(|line| line.message == "engine started")
        .filter_map(|line| line.fields.get("gap_ms")?.as_f64())
        .collect();
    printer.print(&Line::median(
        "relaunch",
        &format!("{case}_proof_to_started"),
        "ms",
        &gaps,
    ));
}
