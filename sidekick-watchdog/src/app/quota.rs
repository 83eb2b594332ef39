//! When the log nears `[store] disk_quota`: a warning well before, then only what is to be kept is recorded on.
//!
//! Owns the rule, and what is said of it. Does not own the refusals: the engine makes them, at the call, by the control
//! word; and beyond the whole quota the store takes no slab at all, so that records wait in ring and spill files
//! (CORRECTNESS rule 14: a quota refuses, it never purges what was accepted).

use crate::api::QuotaLevel;

/// From this share of the quota on it is warned, in percent.
const HIGH_PERCENT: u64 = 75;
/// From this share on only streams with `keep = true` are recorded, in percent. The rest is their reserve, and what the
/// rings hold by then.
const LOW_PERCENT: u64 = 90;
/// A level is left when the log has shrunk so far below where it began, in percent of the quota: an upload or two make
/// no difference worth telling.
const BACK_PERCENT: u64 = 5;

/// The level that `log_bytes` of a log with this `quota` (bytes) make of `before`.
pub(super) fn level(before: QuotaLevel, log_bytes: u64, quota: u64) -> QuotaLevel {
    let is_beyond = |percent: u64| {
        let share = u128::from(quota) * u128::from(percent) / 100;
        u128::from(log_bytes) > share
    };
    let stays = |level, percent: u64| before >= level && is_beyond(percent - BACK_PERCENT);
    if is_beyond(LOW_PERCENT) || stays(QuotaLevel::Low, LOW_PERCENT) {
        QuotaLevel::Low
    } else if is_beyond(HIGH_PERCENT) || stays(QuotaLevel::High, HIGH_PERCENT) {
        QuotaLevel::High
    } else {
        QuotaLevel::Fine
    }
}

/// What the developer and the operator are told when the level has gone from `before` to `now`. A log that grows fast,
/// or is found full at a start, leaps over the warning: that is told as well, since it says what to do.
pub(super) fn sentences(before: QuotaLevel, now: QuotaLevel) -> Vec<String> {
    use QuotaLevel::{Fine, High, Low};
    let warning = format!(
        "the log takes more than {HIGH_PERCENT} % of [store] disk_quota, since uploads do not keep up; from \
         {LOW_PERCENT} % on only streams with keep = true are recorded. See `sidekick-watchdog status`; bring the \
         backend back or raise the quota"
    );
    let refusal = format!(
        "the log takes more than {LOW_PERCENT} % of [store] disk_quota: only streams with keep = true are recorded, \
         everything else is refused and counted until uploads have made room"
    );
    match (before, now) {
        (Fine, Fine) | (High, High) | (Low, Low) => vec![],
        (Fine, High) => vec![warning],
        (Fine, Low) => vec![warning, refusal],
        (High, Low) => vec![refusal],
        (Low, High) => {
            vec![
                "there is room below [store] disk_quota again; every stream is recorded".to_owned(),
            ]
        }
        (High, Fine) => vec!["the log is well below [store] disk_quota again".to_owned()],
        (Low, Fine) => {
            vec![
                "the log is well below [store] disk_quota again; every stream is recorded"
                    .to_owned(),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use QuotaLevel::{Fine, High, Low};

    use super::*;

    #[test]
    fn levels_come_at_their_share_and_go_a_little_below_it() {
        let (quota, mut now) = (1000, Fine);
        for (log_bytes, then) in [
            (0, Fine),
            (750, Fine),
            (751, High),
            (710, High),
            (900, High),
            (901, Low),
            (860, Low),
            (850, High),
            (701, High),
            (700, Fine),
            (2000, Low),
            (0, Fine),
        ] {
            now = level(now, log_bytes, quota);
            assert_eq!(now, then, "{log_bytes}");
        }
    }

    #[test]
    fn the_largest_numbers_are_no_trouble() {
        assert_eq!(level(Fine, u64::MAX, u64::MAX), Low);
        assert_eq!(level(Fine, 1, u64::MAX), Fine);
    }

    #[test]
    fn each_change_is_told_and_nothing_else() {
        for before in [Fine, High, Low] {
            for now in [Fine, High, Low] {
                assert_eq!(sentences(before, now).is_empty(), before == now);
            }
        }
        for now in [High, Fine] {
            let told = sentences(Low, now).concat();
            assert!(told.contains("every stream is recorded"), "{told}");
        }
    }

    /// The level is looked at once a second: a fast log is never seen near its quota.
    #[test]
    fn a_log_that_leaps_over_the_warning_is_warned_of_too() {
        let step_by_step = [sentences(Fine, High), sentences(High, Low)].concat();
        let at_once = sentences(Fine, Low);
        assert_eq!(at_once, step_by_step);
        assert!(at_once[0].contains("raise the quota"), "{at_once:?}");
    }
}
