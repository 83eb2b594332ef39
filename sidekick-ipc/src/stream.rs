//! Patterns of stream names, as `[[stream]] match` has them. Both sides need them: the engine to know what it goes on
//! recording when the watchdog's disk runs short, the watchdog to know which rules are a record's.

use std::fmt;
use std::str::FromStr;

use crate::frame::STREAM_NAME_BYTES_MAX;

/// Stream names, with `*` for any run of characters (none included): `"chat.*"`, `"*.bought"`, `"*"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPattern(String);

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamPatternError {
    /// It has no characters.
    #[error("a stream pattern cannot be empty; \"*\" means every stream")]
    Empty,
    /// No stream's name is so long.
    #[error("the stream pattern has {bytes} bytes, the limit is {STREAM_NAME_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// No stream's name has such characters.
    #[error("the stream pattern holds control characters, which no stream's name has")]
    Control,
}

impl StreamPattern {
    /// Whether `stream` is one of those meant. Takes time linear in both lengths for a pattern with one `*`, and never
    /// more than their product.
    pub fn matches(&self, stream: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| stream.strip_prefix(first)) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return rest.is_empty();
        };
        for part in parts {
            let Some((_, after)) = rest.split_once(part) else {
                return false;
            };
            rest = after;
        }
        rest.ends_with(last)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StreamPattern {
    type Err = StreamPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(StreamPatternError::Empty);
        }
        if text.len() > STREAM_NAME_BYTES_MAX {
            return Err(StreamPatternError::TooLong { bytes: text.len() });
        }
        if text.chars().any(char::is_control) {
            return Err(StreamPatternError::Control);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for StreamPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, stream: &str) -> bool {
        pattern.parse::<StreamPattern>().unwrap().matches(stream)
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, yes, no) in [
            ("chat", vec!["chat"], vec!["chat.say", "cha", "xchat"]),
            (
                "chat.*",
                vec!["chat.", "chat.say", "chat.a.b"],
                vec!["chat", "xchat.say"],
            ),
            (
                "*.bought",
                vec![".bought", "sword.bought"],
                vec!["bought", "x.bought.y"],
            ),
            ("*", vec!["a", "a.b"], vec![]),
            (
                "a*b*c",
                vec!["abc", "axbxc", "abbcc", "abcbc"],
                vec!["ab", "acb", "abcx"],
            ),
            ("a*a", vec!["aa", "aba"], vec!["a"]),
            ("**", vec!["a"], vec![]),
        ] {
            for stream in yes {
                assert!(matches(pattern, stream), "{pattern} {stream}");
            }
            for stream in no {
                assert!(!matches(pattern, stream), "{pattern} {stream}");
            }
        }
    }

    #[test]
    fn what_no_stream_can_be_called_is_no_pattern() {
        assert_eq!("".parse::<StreamPattern>(), Err(StreamPatternError::Empty));
        assert_eq!(
            "a\nb".parse::<StreamPattern>(),
            Err(StreamPatternError::Control)
        );
        let long = "x".repeat(256);
        let error = StreamPatternError::TooLong { bytes: 256 };
        assert_eq!(long.parse::<StreamPattern>(), Err(error));
    }

    /// The obvious way, character by character.
    fn by_the_book(pattern: &[u8], stream: &[u8]) -> bool {
        match pattern.split_first() {
            None => stream.is_empty(),
            Some((b'*', rest)) => (0..=stream.len()).any(|at| by_the_book(rest, &stream[at..])),
            Some((first, rest)) => stream.first() == Some(first) && by_the_book(rest, &stream[1..]),
        }
    }

    proptest! {
        #[test]
        fn it_matches_as_the_obvious_way_does(pattern in "[ab*]{1,7}", stream in "[ab]{0,9}") {
            prop_assert_eq!(
                matches(&pattern, &stream),
                by_the_book(pattern.as_bytes(), stream.as_bytes())
            );
        }
    }
}
