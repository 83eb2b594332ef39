//! Names of nodes: paths, and patterns over them.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest segment of a path in bytes.
pub const SEGMENT_BYTES_MAX: usize = 128;
/// Most segments of a path.
pub const PATH_DEPTH_MAX: usize = 16;
/// Longest path or pattern in bytes.
pub const PATH_BYTES_MAX: usize = 1024;
/// The first segment that is kept for Sidekick's own nodes; nobody else writes there.
pub const RESERVED_SEGMENT: &str = "sidekick";

/// Why a text is no path or no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("path {path:?} does not begin with \"/\", as in \"/match/42\"")]
    NotAbsolute {
        /// The beginning of the text.
        path: String,
    },
    /// There is nothing after the slash.
    #[error("path \"/\" names no node; give at least one segment, as in \"/match\"")]
    Root,
    /// It has too many bytes.
    #[error("the path is {bytes} bytes long, the limit is {max}", max = PATH_BYTES_MAX)]
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// It has too many segments.
    #[error("path {path:?} has {depth} segments, the limit is {max}", max = PATH_DEPTH_MAX)]
    TooDeep {
        /// The beginning of the text.
        path: String,
        /// How many.
        depth: usize,
    },
    /// Two slashes stand side by side, or one at the end.
    #[error("path {path:?} has an empty segment; remove the double or the last \"/\"")]
    EmptySegment {
        /// The beginning of the text.
        path: String,
    },
    /// One segment has too many bytes.
    #[error(
        "a segment of path {path:?} is {bytes} bytes long, the limit is {max}",
        max = SEGMENT_BYTES_MAX
    )]
    SegmentTooLong {
        /// The beginning of the text.
        path: String,
        /// How many.
        bytes: usize,
    },
    /// A control character, such as a line's end.
    #[error("path {path:?} holds a control character")]
    Control {
        /// The beginning of the text.
        path: String,
    },
    /// A wildcard where one node has to be named.
    #[error("path {path:?} holds \"*\", which only patterns may; name one node")]
    Wildcard {
        /// The beginning of the text.
        path: String,
    },
    /// `**` with something beside it in the same segment.
    #[error("pattern {path:?} has \"**\" beside other characters; let it be a segment of its own")]
    MixedWildcard {
        /// The beginning of the text.
        path: String,
    },
}

/// As much of a bad text as an error shows.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The segments of a path; none for `"/"`, which is no [`Path`].
pub fn segments(path: &str) -> impl Iterator<Item = &str> + Clone {
    path.split('/').skip(1)
}

fn check(text: &str, is_pattern: bool) -> Result<(), PathError> {
    let path = || shown(text);
    if text.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong { bytes: text.len() });
    }
    if !text.starts_with('/') {
        return Err(PathError::NotAbsolute { path: path() });
    }
    if text.len() == 1 {
        return Err(PathError::Root);
    }
    if text.chars().any(char::is_control) {
        return Err(PathError::Control { path: path() });
    }
    let depth = segments(text).count();
    if depth > PATH_DEPTH_MAX {
        return Err(PathError::TooDeep {
            path: path(),
            depth,
        });
    }
    for segment in segments(text) {
        let bytes = segment.len();
        if bytes == 0 {
            return Err(PathError::EmptySegment { path: path() });
        }
        if bytes > SEGMENT_BYTES_MAX {
            return Err(PathError::SegmentTooLong {
                path: path(),
                bytes,
            });
        }
        if segment.contains('*') && !is_pattern {
            return Err(PathError::Wildcard { path: path() });
        }
        if segment.contains("**") && segment != "**" {
            return Err(PathError::MixedWildcard { path: path() });
        }
    }
    Ok(())
}

macro_rules! text {
    ($name:ident, $is_pattern:literal, $what:literal) => {
        impl $name {
            /// Takes a text that is one.
            ///
            /// # Errors
            /// [`PathError`] says what is wrong with it.
            pub fn new(text: &str) -> Result<Self, PathError> {
                check(text, $is_pattern)?;
                Ok(Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether it begins with the segment that is kept for Sidekick ([`RESERVED_SEGMENT`]).
            pub fn is_reserved(&self) -> bool {
                segments(&self.0).next() == Some(RESERVED_SEGMENT)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

/// Names one node, as `"/match/42/player/7"`. Cheap to clone. Ordered as text, so a subtree lies together but for
/// siblings such as `/a-b`, which stands between `/a` and `/a/b`.
///
/// Begins with `/`; 1 to [`PATH_DEPTH_MAX`] segments of 1 to [`SEGMENT_BYTES_MAX`] bytes each, [`PATH_BYTES_MAX`] bytes
/// in all; no control characters and no `*`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Arc<str>);

/// Names any number of nodes, as `"/match/*/player/**"`: a path in whose segments `*` stands for any characters (`a*b`),
/// and in which a segment `**` stands for any number of segments. At a pattern's end `**` is at least one segment:
/// `/match/**` is all that lies below `/match`, not `/match` itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Arc<str>);

text!(Path, false, "path");
text!(Pattern, true, "pattern");

impl Path {
    /// The node above; `None` for a path of one segment.
    pub fn parent(&self) -> Option<Path> {
        let (above, _) = self.0.rsplit_once('/')?;
        (!above.is_empty()).then(|| Path(above.into()))
    }

    /// The last segment.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(_, name)| name)
    }

    /// Whether `self` lies below `above`, at any depth.
    pub fn is_below(&self, above: &Path) -> bool {
        self.0
            .strip_prefix(&*above.0)
            .is_some_and(|rest| rest.starts_with('/'))
    }
}

impl From<Path> for Pattern {
    fn from(path: Path) -> Self {
        Pattern(path.0)
    }
}

impl Pattern {
    /// The path, if the pattern has no wildcard and so names one node.
    pub fn to_path(&self) -> Option<Path> {
        (!self.0.contains('*')).then(|| Path(Arc::clone(&self.0)))
    }

    /// What every path that matches begins with: the segments before the first wildcard, and what stands before the
    /// `*` in that segment.
    pub fn literal_prefix(&self) -> &str {
        self.0.split('*').next().unwrap_or_default()
    }

    /// Whether `path` is one of those that it names. Takes time in proportion to both lengths multiplied at worst.
    pub fn matches(&self, path: &Path) -> bool {
        let pattern: Vec<&str> = segments(&self.0).collect();
        let names: Vec<&str> = segments(&path.0).collect();
        // `**` at the end takes at least one segment.
        let (pattern, at_least_one) = match pattern.split_last() {
            Some((&"**", before)) => (before, true),
            _ => (&*pattern, false),
        };
        if !at_least_one {
            return glob(pattern, &names, |of| *of == "**", |of, name| one(of, name));
        }
        // Some beginning of the path matches the rest of the pattern, and something follows it.
        (0..names.len()).any(|end| {
            names
                .get(..end)
                .is_some_and(|head| glob(pattern, head, |of| *of == "**", |of, name| one(of, name)))
        })
    }
}

/// One segment against one segment of a pattern.
fn one(pattern: &str, name: &str) -> bool {
    if !pattern.contains('*') {
        return pattern == name;
    }
    glob(
        pattern.as_bytes(),
        name.as_bytes(),
        |of| *of == b'*',
        |of, byte| of == byte,
    )
}

/// Whether `items` match `pattern`, in which some elements stand for any number of items. Goes back to the last of
/// these only, so that no pattern takes exponential time.
fn glob<P, T>(
    pattern: &[P],
    items: &[T],
    is_any: impl Fn(&P) -> bool,
    is_match: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut p, mut i) = (0_usize, 0_usize);
    let mut back: Option<(usize, usize)> = None;
    while let Some(item) = items.get(i) {
        match pattern.get(p) {
            Some(of) if is_any(of) => {
                back = Some((p, i));
                p = p.saturating_add(1);
            }
            Some(of) if is_match(of, item) => {
                p = p.saturating_add(1);
                i = i.saturating_add(1);
            }
            _ => {
                let Some((star, from)) = back else {
                    return false;
                };
                let next = from.saturating_add(1);
                back = Some((star, next));
                p = star.saturating_add(1);
                i = next;
            }
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(is_any)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Pattern::new(pattern)
            .unwrap()
            .matches(&Path::new(path).unwrap())
    }

    #[test]
    fn wildcards_stand_for_what_they_say() {
        assert!(matches("/a/b", "/a/b"));
        assert!(!matches("/a/b", "/a/c"));
        assert!(!matches("/a", "/a/b"));
        assert!(matches("/*", "/a"));
        assert!(!matches("/*", "/a/b"));
        assert!(matches("/a*c", "/abc"));
        assert!(matches("/a*c", "/ac"));
        assert!(!matches("/a*c", "/ab"));
        assert!(matches("/user_*/name", "/user_7/name"));
        assert!(matches("/**", "/a"));
        assert!(matches("/**", "/a/b/c"));
        assert!(!matches("/a/**", "/a"));
        assert!(matches("/a/**", "/a/b"));
        assert!(matches("/a/**", "/a/b/c"));
        assert!(!matches("/a/**", "/ab/c"));
        assert!(matches("/a/**/z", "/a/z"));
        assert!(matches("/a/**/z", "/a/b/c/z"));
        assert!(!matches("/a/**/z", "/a/b/c"));
        assert!(matches("/**/x/**", "/x/y"));
        assert!(matches("/**/x/**", "/a/x/x/y"));
        assert!(!matches("/**/x/**", "/a/x"));
        assert!(matches("/*/*/c", "/a/b/c"));
        assert!(matches("/ö*", "/öä"));
    }

    #[test]
    fn bad_paths_are_refused_with_a_reason() {
        let long = format!("/{}", "a".repeat(SEGMENT_BYTES_MAX + 1));
        let deep = "/a".repeat(PATH_DEPTH_MAX + 1);
        let huge = "/a".repeat(PATH_BYTES_MAX);
        for (bad, word) in [
            ("", "begin"),
            ("a", "begin"),
            ("/", "at least one"),
            ("//", "empty"),
            ("/a/", "empty"),
            ("/a//b", "empty"),
            ("/a\n", "control"),
            ("/a*", "only patterns"),
            (long.as_str(), "129 bytes"),
            (deep.as_str(), "17 segments"),
            (huge.as_str(), "2048 bytes"),
        ] {
            let error = Path::new(bad).unwrap_err().to_string();
            assert!(error.contains(word), "{bad:?}: {error}");
        }
        assert!(Pattern::new("/a**b").is_err());
        assert!(Pattern::new("/a/**/b*").is_ok());
    }

    #[test]
    fn a_path_knows_its_parent() {
        let path = Path::new("/a/b/c").unwrap();
        assert_eq!(path.parent().unwrap().as_str(), "/a/b");
        assert_eq!(path.name(), "c");
        assert!(Path::new("/a").unwrap().parent().is_none());
        assert!(path.is_below(&Path::new("/a").unwrap()));
        assert!(
            !Path::new("/ab")
                .unwrap()
                .is_below(&Path::new("/a").unwrap())
        );
        assert!(Path::new("/sidekick/x").unwrap().is_reserved());
    }
}
