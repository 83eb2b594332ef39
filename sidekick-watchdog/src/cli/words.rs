//! How figures and foreign texts read on a terminal.

use std::time::Duration;

use humantime_serde::re::humantime::format_duration;

use crate::config::Size;

/// A number of things: `1 record`, `2 records`.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        number => format!("{number} {many}"),
    }
}

/// A duration to the tenth of a second, or to the second beyond a minute.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() || s < 0.0 => "?".into(),
        s if s < 60.0 => format!("{s:.1} s"),
        s => match Duration::try_from_secs_f64(s.floor()) {
            Ok(duration) => format_duration(duration).to_string(),
            Err(_) => "?".into(),
        },
    }
}

/// Bytes, rounded to what a person reads.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => Size(bytes).to_string(),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// A time as RFC 3339 tells it, to the second.
pub(super) fn second(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => plain(time),
    }
}

/// Text from elsewhere (a game's output, a backend's reasons) without what a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // A sequence of ESC [ goes to its letter.
            '\u{1b}' if chars.peek() == Some(&'[') => {
                chars.next();
                while chars.next_if(|c| !c.is_ascii_alphabetic()).is_some() {}
                chars.next();
            }
            '\t' => out.push(c),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_seconds_is_too_strange_to_show() {
        for seconds in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
            assert_eq!(span(seconds), "?");
        }
        assert_eq!(span(3723.4), "1h 2m 3s");
    }

    #[test]
    fn a_terminal_gets_nothing_to_obey() {
        for (text, shown) in [
            ("\u{1b}[1;31mERROR:\u{1b}[0m no\tyes", "ERROR: no\tyes"),
            ("a\u{1b}]0;title\u{7}b\r\n", "a]0;titleb"),
            ("\u{1b}[", ""),
            ("\u{9b}31m", "31m"),
        ] {
            assert_eq!(plain(text), shown);
        }
        assert_eq!(
            second("2026-11-22T12:00:00.123Z"),
            "2026-11-22 12:00:00 UTC"
        );
    }
}
