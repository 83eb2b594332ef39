//! When an engine is restarted by plan: "04:00 daily", "05:30 monday", "after 24h".
//!
//! Pure: the clocks come in as arguments. A word that configuration and supervisor share.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use humantime_serde::re::humantime;
use jiff::civil::{Time, Weekday};
use jiff::{ToSpan, Zoned};

/// One planned restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At this time of day, on that day of the week or on every day.
    At {
        /// The time of day, in the system's time zone.
        time: Time,
        /// `None` = daily.
        day: Option<Weekday>,
    },
    /// When an engine has lived this long.
    After(Duration),
}

/// What is written instead of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be like \"04:00 daily\", \"05:30 monday\" or \"after 24h\", not {0:?}")]
pub struct ScheduleError(pub String);

/// An engine does not come to be useful in less; a shorter interval is a typing error.
const AFTER_MIN: Duration = Duration::from_secs(60);

const DAYS: [(&str, Weekday); 7] = [
    ("monday", Weekday::Monday),
    ("tuesday", Weekday::Tuesday),
    ("wednesday", Weekday::Wednesday),
    ("thursday", Weekday::Thursday),
    ("friday", Weekday::Friday),
    ("saturday", Weekday::Saturday),
    ("sunday", Weekday::Sunday),
];

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let wrong = || ScheduleError(text.chars().take(40).collect());
        let (first, rest) = text.trim().split_once(' ').ok_or_else(wrong)?;
        let rest = rest.trim();
        if first == "after" {
            let after = humantime::parse_duration(rest).map_err(|_| wrong())?;
            return if after >= AFTER_MIN {
                Ok(Self::After(after))
            } else {
                Err(wrong())
            };
        }
        let day = match rest {
            "daily" => None,
            rest => {
                let day = DAYS.iter().find(|(name, _)| *name == rest);
                Some(day.ok_or_else(wrong)?.1)
            }
        };
        let (hour, minute) = first.split_once(':').ok_or_else(wrong)?;
        let two_digits = |text: &str| (text.len() == 2).then(|| text.parse::<i8>().ok()).flatten();
        let hour = two_digits(hour).ok_or_else(wrong)?;
        let minute = two_digits(minute).ok_or_else(wrong)?;
        let time = Time::new(hour, minute, 0, 0).map_err(|_| wrong())?;
        Ok(Self::At { time, day })
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At { time, day } => {
                let day = DAYS.iter().find(|(_, weekday)| Some(*weekday) == *day);
                let day = day.map_or("daily", |(name, _)| name);
                write!(f, "{:02}:{:02} {day}", time.hour(), time.minute())
            }
            Self::After(after) => {
                let text = humantime::format_duration(*after).to_string();
                write!(f, "after {}", text.replace(' ', ""))
            }
        }
    }
}

impl Schedule {
    /// The first time by the clock on the wall after `now`; `None` for [`Self::After`]. A time that the day does not
    /// have (the clock is put forward) comes as much later, one that it has twice comes once.
    pub fn next_after(&self, now: &Zoned) -> Option<Zoned> {
        let Self::At { time, day } = self else {
            return None;
        };
        let mut date = now.date();
        // Today, and at most all days of a week.
        for _ in 0..=7 {
            let is_day = day.is_none_or(|day| date.weekday() == day);
            if is_day {
                let at = date.to_datetime(*time).to_zoned(now.time_zone().clone());
                if let Some(at) = at.ok().filter(|at| at > now) {
                    return Some(at);
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Zoned {
        text.parse().expect("a time")
    }

    #[test]
    fn what_was_written_comes_back_and_nonsense_is_refused() {
        for text in ["04:00 daily", "23:59 sunday", "after 1day", "after 90s"] {
            let schedule: Schedule = text.parse().expect("a schedule");
            let again: Schedule = schedule.to_string().parse().expect("a schedule");
            assert_eq!(schedule, again, "{text}");
        }
        for text in [
            "",
            "04:00",
            "4:00 daily",
            "24:00 daily",
            "04:60 daily",
            "04:00 someday",
            "after 5",
            "after 1s",
            "daily 04:00",
            "-1:00 daily",
            "04:00:00 daily",
        ] {
            assert!(text.parse::<Schedule>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_next_time_is_later_today_or_on_the_next_day_that_fits() {
        let daily: Schedule = "04:00 daily".parse().expect("a schedule");
        let sunday: Schedule = "04:00 sunday".parse().expect("a schedule");
        // A Sunday.
        for (now, next_daily, next_sunday) in [
            (
                "2026-11-22T03:59:59",
                "2026-11-22T04:00:00",
                "2026-11-22T04:00:00",
            ),
            (
                "2026-11-22T04:00:00",
                "2026-11-23T04:00:00",
                "2026-11-29T04:00:00",
            ),
            (
                "2026-12-31T12:00:00",
                "2027-01-01T04:00:00",
                "2027-01-03T04:00:00",
            ),
        ] {
            let zoned = |text: &str| at(&format!("{text}+00:00[UTC]"));
            assert_eq!(daily.next_after(&zoned(now)), Some(zoned(next_daily)));
            assert_eq!(sunday.next_after(&zoned(now)), Some(zoned(next_sunday)));
        }
        let after: Schedule = "after 24h".parse().expect("a schedule");
        assert_eq!(
            after.next_after(&at("2026-11-22T04:00:00+00:00[UTC]")),
            None
        );
    }
}
