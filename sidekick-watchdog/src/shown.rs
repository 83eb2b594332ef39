//! URLs and command lines (`shown/arguments.rs`) as they may be shown: a token is often part of one, and what is shown gets into
//! logs and tickets.

mod arguments;

use url::{Url, form_urlencoded};

pub use arguments::{argument, command, is_secret};

/// What is shown in a secret's place.
pub const HIDDEN: &str = "(hidden)";
/// Values of a query that hide nothing and that whoever reads a configuration wants to see.
const HARMLESS: &[&str] = &["application_name", "connect_timeout", "sslmode"];

/// `text` as it was written, but for a password or who logs in, and for what the query's values and the fragment are.
///
/// Works on the text: what is no URL that can be used is shown in complaints, too.
pub fn url(text: &str) -> String {
    let (rest, fragment) = split(text, '#');
    let (place, query) = split(rest, '?');
    let mut shown = place_without_login(place);
    if let Some(query) = query {
        let pairs: Vec<String> = query.split('&').map(pair).collect();
        shown = format!("{shown}?{}", pairs.join("&"));
    }
    match fragment {
        Some(_) => format!("{shown}#{HIDDEN}"),
        None => shown,
    }
}

/// What of a URL must be shown nowhere, in the forms in which it is sent and meant.
pub fn secrets(url: &Url) -> Vec<String> {
    let query = url.query().unwrap_or_default();
    let mut secrets = Vec::new();
    for pair in query.split('&').filter(|pair| !is_harmless(pair)) {
        let value = pair.split_once('=').map_or(pair, |(_, value)| value);
        secrets.push(value.to_owned());
        // Read as a name without a value.
        let meant = form_urlencoded::parse(value.as_bytes());
        secrets.extend(meant.map(|(meant, _)| meant.into_owned()));
    }
    secrets.extend(url.password().map(str::to_owned));
    secrets.retain(|secret| !secret.is_empty());
    secrets
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

fn is_harmless(pair: &str) -> bool {
    let name = pair.split_once('=').map(|(name, _)| name);
    name.is_some_and(|name| HARMLESS.contains(&name))
}

fn pair(pair: &str) -> String {
    match pair.split_once('=') {
        Some(_) if is_harmless(pair) => pair.to_owned(),
        Some((name, _)) => format!("{name}={HIDDEN}"),
        // `?token` itself may be one.
        None if pair.is_empty() => String::new(),
        None => HIDDEN.to_owned(),
    }
}

/// The user of a database is no secret and tells who was refused; over HTTP a token may stand there.
fn place_without_login(place: &str) -> String {
    let (scheme, rest) = match place.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), place),
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let login_end = match scheme.is_empty() {
        true => rest.rfind('@'),
        false => authority.rfind('@'),
    };
    let Some((login, host)) = login_end.map(|at| rest.split_at(at)) else {
        return place.to_owned();
    };
    let login = match (scheme.starts_with("postgres"), login.split_once(':')) {
        (true, None) => login.to_owned(),
        (true, Some((user, _))) => format!("{user}:{HIDDEN}"),
        (false, _) => HIDDEN.to_owned(),
    };
    format!("{scheme}{login}{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_left_of_a_url_and_the_rest_is() {
        for (text, shown) in [
            ("https://x.example/a", "https://x.example/a"),
            (
                "https://x.example/a@b?token=hunter2&b=%68unter2",
                "https://x.example/a@b?token=(hidden)&b=(hidden)",
            ),
            ("https://x.example?hunter2", "https://x.example?(hidden)"),
            (
                "https://x.example/?a=1?hunter2=3#hunter2",
                "https://x.example/?a=(hidden)#(hidden)",
            ),
            (
                "https://me:hunter2@x.example/a",
                "https://(hidden)@x.example/a",
            ),
            ("https://hunter2@x.example", "https://(hidden)@x.example"),
            ("https://a@hunter2@x.example", "https://(hidden)@x.example"),
            ("https:me:hunter2@x.example/a", "(hidden)@x.example/a"),
            (
                "postgres://game@db/d?sslmode=disable&password=hunter2",
                "postgres://game@db/d?sslmode=disable&password=(hidden)",
            ),
            (
                "postgresql://game:hunter2@db/d",
                "postgresql://game:(hidden)@db/d",
            ),
            ("nonsense", "nonsense"),
            ("", ""),
        ] {
            assert_eq!(url(text), shown, "{text}");
        }
    }

    #[test]
    fn what_is_secret_is_known_as_sent_and_as_meant() {
        let url = Url::parse("https://x/?a=hunter%202&hunter3&b=&sslmode=require").unwrap();
        assert_eq!(
            secrets(&url),
            ["hunter%202", "hunter 2", "hunter3", "hunter3"]
        );
        assert!(secrets(&Url::parse("https://x/a").unwrap()).is_empty());
    }
}
