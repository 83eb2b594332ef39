//! Instants as a backend reads them.

use super::put;
use crate::slab::SlabHead;

/// Nanoseconds since 1970 of an instant on the engine's monotonic clock.
pub(in crate::upload) fn realtime_ns(head: &SlabHead, monotonic_ns: u64) -> i128 {
    i128::from(monotonic_ns) + i128::from(head.realtime_offset_ns)
}

/// Writes instants as RFC 3339 in UTC with microseconds, and keeps the last second's text.
#[derive(Debug, Default)]
pub(in crate::upload) struct Clock {
    second: Option<i64>,
    /// `2026-11-22T12:00:00.`
    text: Vec<u8>,
}

impl Clock {
    /// 9999-12-31T23:59:59Z. What lies beyond it, or before 1970, is clamped: the numbers come from the engine.
    pub(super) const SECOND_MAX: i64 = 253_402_300_799;

    pub(in crate::upload) fn write(&mut self, realtime_ns: i128, out: &mut Vec<u8>) {
        let micros = realtime_ns
            .div_euclid(1000)
            .clamp(0, i128::from(Self::SECOND_MAX) * 1_000_000);
        let micros = i64::try_from(micros).unwrap_or(0);
        let (second, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
        if self.second != Some(second) {
            let (year, month, day) = civil_from_days(second.div_euclid(86_400));
            let of_day = second.rem_euclid(86_400);
            let (hour, minute, sec) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
            self.text.clear();
            put(
                &mut self.text,
                format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{sec:02}."),
            );
            self.second = Some(second);
        }
        out.extend_from_slice(&self.text);
        put(out, format_args!("{fraction:06}Z"));
    }
}

/// Year, month and day of a number of days since 1970-01-01, not before it (Hinnant's `civil_from_days`).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}
