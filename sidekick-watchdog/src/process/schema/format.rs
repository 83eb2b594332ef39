//! `format`, of which draft 2020-12 of JSON Schema leaves it open whether it is checked: here it is, for those formats
//! that can be checked without doubt. Any other is refused when the schema is read.

use std::net::{Ipv4Addr, Ipv6Addr};

use uuid::Uuid;

/// What a text has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Date,
    DateTime,
    Email,
    Ipv4,
    Ipv6,
    Time,
    Uri,
    Uuid,
}

impl Format {
    const WORDS: [(&'static str, Self); 8] = [
        ("date", Self::Date),
        ("date-time", Self::DateTime),
        ("email", Self::Email),
        ("ipv4", Self::Ipv4),
        ("ipv6", Self::Ipv6),
        ("time", Self::Time),
        ("uri", Self::Uri),
        ("uuid", Self::Uuid),
    ];

    /// The one that is called so.
    pub(super) fn of(word: &str) -> Option<Self> {
        let mut words = Self::WORDS.into_iter();
        words.find(|(known, _)| *known == word).map(|(_, it)| it)
    }

    pub(super) fn word(self) -> &'static str {
        let mut words = Self::WORDS.into_iter();
        words
            .find(|(_, it)| *it == self)
            .map_or("", |(word, _)| word)
    }

    /// All words, for a sentence.
    pub(super) fn words() -> String {
        Self::WORDS.map(|(word, _)| word).join(", ")
    }

    pub(super) fn fits(self, text: &str) -> bool {
        match self {
            Self::Date => is_date(text.as_bytes()),
            Self::DateTime => match text.as_bytes().split_at_checked(10) {
                Some((date, [b'T' | b't', time @ ..])) => is_date(date) && is_time(time),
                _ => false,
            },
            Self::Email => is_email(text),
            Self::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Self::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Self::Time => is_time(text.as_bytes()),
            Self::Uri => is_uri(text),
            // Of the forms that a UUID may have only the one with hyphens is as long.
            Self::Uuid => text.len() == 36 && Uuid::try_parse(text).is_ok(),
        }
    }
}

fn two(digits: [u8; 2]) -> Option<i32> {
    let are_digits = digits.iter().all(u8::is_ascii_digit);
    are_digits.then(|| i32::from(digits[0] - b'0') * 10 + i32::from(digits[1] - b'0'))
}

/// `full-date` of RFC 3339.
fn is_date(text: &[u8]) -> bool {
    let &[c0, c1, y0, y1, b'-', m0, m1, b'-', d0, d1] = text else {
        return false;
    };
    let numbers = [[c0, c1], [y0, y1], [m0, m1], [d0, d1]].map(two);
    let [Some(century), Some(year), Some(month), Some(day)] = numbers else {
        return false;
    };
    // All below 10,000 and below 100.
    jiff::civil::Date::new((century * 100 + year) as i16, month as i8, day as i8).is_ok()
}

/// `full-time` of RFC 3339; a sixtieth second is one at the end of a day in UTC.
fn is_time(text: &[u8]) -> bool {
    let &[h0, h1, b':', m0, m1, b':', s0, s1, ref rest @ ..] = text else {
        return false;
    };
    let [Some(hour), Some(minute), Some(second)] = [[h0, h1], [m0, m1], [s0, s1]].map(two) else {
        return false;
    };
    let zone = match rest {
        [b'.', fraction @ ..] => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit());
            match digits.count() {
                0 => return false,
                count => fraction.get(count..).unwrap_or_default(),
            }
        }
        zone => zone,
    };
    let east_min = match *zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h0, h1, b':', m0, m1] => match (two([h0, h1]), two([m0, m1])) {
            (Some(hours @ 0..=23), Some(minutes @ 0..=59)) => {
                let min = hours * 60 + minutes;
                if sign == b'+' { min } else { -min }
            }
            _ => return false,
        },
        _ => return false,
    };
    let is_last_of_day = (hour * 60 + minute - east_min).rem_euclid(1440) == 1439;
    hour <= 23 && minute <= 59 && (second <= 59 || second == 60 && is_last_of_day)
}

/// An address as they are given, of RFC 5321: without quotes before the `@`, and with a name behind it.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return false;
    };
    let is_atom = |atom: &str| {
        let mut bytes = atom.bytes();
        !atom.is_empty()
            && bytes
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte))
    };
    let is_label = |label: &str| {
        let mut bytes = label.bytes();
        matches!(label.len(), 1..=63)
            && !label.starts_with('-')
            && !label.ends_with('-')
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    local.len() <= 64
        && local.split('.').all(is_atom)
        && domain.len() <= 253
        && domain.split('.').all(is_label)
}

/// A `URI` of RFC 3986, which has a scheme.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    };
    is_scheme
        && is_authority(authority)
        && is_of(path, b":@/")
        && [query, fragment].iter().all(|part| is_of(part, b":@/?"))
}

fn is_authority(authority: &str) -> bool {
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (is_host, port) = match host.strip_prefix('[').map(|host| host.split_once(']')) {
        Some(Some((address, port))) => {
            let is_port = port.is_empty() || port.starts_with(':');
            (
                is_port && address.parse::<Ipv6Addr>().is_ok(),
                port.trim_start_matches(':'),
            )
        }
        Some(None) => return false,
        None => {
            let (name, port) = host.split_once(':').unwrap_or((host, ""));
            (is_of(name, b""), port)
        }
    };
    is_of(user, b":") && is_host && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether it is made of unreserved characters, delimiters inside of parts, escapes, and these.
fn is_of(text: &str, more: &[u8]) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let is_right = match byte {
            b'%' => [bytes.next(), bytes.next()]
                .iter()
                .all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit())),
            byte => {
                byte.is_ascii_alphanumeric()
                    || b"-._~!$&'()*+,;=".contains(&byte)
                    || more.contains(&byte)
            }
        };
        if !is_right {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Valid ones, then others; most are of the draft's own test suite.
    #[test]
    fn formats_are_what_their_documents_say() {
        for (word, right, wrong) in [
            (
                "date",
                &["1963-06-19", "2020-02-29", "0000-01-01"][..],
                &[
                    "1963-6-19",
                    "2021-02-29",
                    "2020-13-01",
                    "2020-01-00",
                    "1963-06-1\u{9ea}",
                    "2020-01-01Z",
                    "",
                ][..],
            ),
            (
                "time",
                &[
                    "08:30:06Z",
                    "23:59:60Z",
                    "01:29:60+01:30",
                    "15:59:60-08:00",
                    "08:30:06.283185z",
                    "00:00:00+23:59",
                ],
                &[
                    "08:30:06",
                    "24:00:00Z",
                    "00:60:00Z",
                    "00:00:61Z",
                    "22:59:60Z",
                    "23:59:60+01:00",
                    "8:30:06Z",
                    "08:30:06.Z",
                    "08:30:06+24:00",
                    "08:30:06+00:60",
                    "08:30:06 Z",
                    "08:30:06PST",
                    "12:00:00Zx",
                ],
            ),
            (
                "date-time",
                &[
                    "1963-06-19T08:30:06.283185Z",
                    "1937-01-01T12:00:27.87+00:20",
                    "1990-12-31t15:59:60-08:00",
                ],
                &[
                    "1990-02-31T15:59:59Z",
                    "1963-06-19 08:30:06Z",
                    "2013-350T01:01:01Z",
                    "1963-06-19T08:30:06",
                    "1963-06-19T",
                    "1963-06-19",
                    "06/19/1963 08:30:06 PST",
                    "+11963-06-19T08:30:06Z",
                ],
            ),
            (
                "email",
                &[
                    "joe.bloggs@example.com",
                    "te~st@example.com",
                    "a@b",
                    "x+y@1.2",
                ],
                &[
                    "2962",
                    "@",
                    "a@",
                    "@b",
                    ".test@example.com",
                    "te..st@example.com",
                    "joe bloggs@example.com",
                    "\"joe\"@example.com",
                    "a@-b",
                    "a@b..c",
                    "jo\u{e9}@example.com",
                ],
            ),
            (
                "ipv4",
                &["192.168.0.1", "0.0.0.0"],
                &[
                    "127.0.0.0.1",
                    "256.0.0.1",
                    "127.0.1",
                    "0x7f000001",
                    "087.10.0.1",
                    "192.168.1.0/24",
                    " 1.2.3.4",
                ],
            ),
            (
                "ipv6",
                &["::1", "::abef", "::ffff:192.168.0.1", "1:2:3:4:5:6:7:8"],
                &[
                    "12345::",
                    "1::2::3",
                    "fe80::a%eth1",
                    "::1/64",
                    "1:2:3:4:5:6:7",
                    "::laptop",
                    " ::1",
                ],
            ),
            (
                "uri",
                &[
                    "http://foo.bar/?baz=qux#quux",
                    "http://foo.com/blah_(wikipedia)_blah#cite-1",
                    "urn:oasis:names:x",
                    "tel:+1-816",
                    "ldap://[2001:db8::7]/c=GB?objectClass?one",
                    "http://-.~_!$&'()*+,;=:%40:80%2f::::::@example.com",
                    "http://a:8080/%20",
                    "file:///etc/fstab",
                    "http://[::1]:80/",
                ],
                &[
                    "//foo.bar/",
                    "/abc",
                    "\\\\WINDOWS\\share",
                    "abc",
                    "http:// a",
                    "http://a b",
                    "bar,baz:x",
                    "http://a/%2",
                    "http://a:b/",
                    "http://[::1",
                    "http://[::1]x",
                    "http://[x]/",
                    "http://a/[b]",
                    "1a:b",
                    ":b",
                    "http://\u{e9}/",
                    "a:b#c#d",
                ],
            ),
            (
                "uuid",
                &[
                    "2EB8AA08-AA98-11EA-B4AA-73B441D16380",
                    "00000000-0000-0000-0000-000000000000",
                ],
                &[
                    "2eb8aa08-aa98-11ea-b4aa-73b441d1638",
                    "2eb8aa08aa9811eab4aa73b441d16380",
                    "{2eb8aa08-aa98-11ea-b4aa-73b441d16380}",
                    "2eb8aa08-aa98-11ea-b4aa73b441d16380-",
                    "2eb8-aa08-aa98-11ea-b4aa73b44-1d16380",
                    "ggb8aa08-aa98-11ea-b4aa-73b441d16380",
                ],
            ),
        ] {
            let format = Format::of(word).unwrap();
            assert_eq!(format.word(), word);
            for text in right {
                assert!(format.fits(text), "{word}: {text}");
            }
            for text in wrong {
                assert!(!format.fits(text), "{word}: {text}");
            }
        }
        assert_eq!(Format::of("hostname"), None);
    }
}
