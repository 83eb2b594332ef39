//! Command lines as they may be shown: who starts a program with a password among its arguments does not want to read it in a
//! ticket.
//!
//! What hides a value is the name before it. So a secret that stands alone (`-p`, `hunter2`) is not known for one.

use super::{HIDDEN, url};

/// A name with one of these in it names a secret, whatever else is in it.
const SECRET_WORDS: [&str; 17] = [
    "KEY", "TOKEN", "SECRET", "PASS", "PWD", "AUTH", "CRED", "COOKIE", "SESSION", "PRIVATE",
    "CERT", "SALT", "SIGN", "DSN", "URL", "URI", "WEBHOOK",
];
/// A name that ends with one of these names the place of a secret, which is none itself.
const PLACES: [&str; 3] = ["FILE", "PATH", "DIR"];

/// Whether a variable or an option of this name has a value that is not to be shown.
pub fn is_secret(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    SECRET_WORDS.iter().any(|word| upper.contains(word))
}

/// A program and its arguments, without the values of those that are secrets by their names: `--token=…`, `--token …`,
/// `TOKEN=…`, `"Authorization: …"`, also within an argument of several words.
pub fn command(command: &[String]) -> Vec<String> {
    let mut shown = Vec::with_capacity(command.len());
    let mut is_value = false;
    for (at, text) in command.iter().enumerate() {
        if at == 0 {
            shown.push(text.clone());
            continue;
        }
        if is_value && !is_surely_an_option(text) {
            shown.push(HIDDEN.to_owned());
            is_value = false;
            continue;
        }
        shown.push(argument(text));
        is_value = !text.contains('=') && looks_like_an_option(text) && names_a_secret(text);
    }
    shown
}

/// One argument, or several words that may be a whole command line, as they may be shown. What follows a secret's name is hidden to
/// the end: where it ends is the program's to know.
pub fn argument(text: &str) -> String {
    let text = words(text).map(url_in_word).collect::<String>();
    let is_before_value = |(at, found): &(usize, char)| match found {
        '=' | ':' => names_a_secret(word_before(&text, last_of_name(&text, *at))),
        found if found.is_whitespace() => {
            let word = word_before(&text, *at);
            looks_like_an_option(word) && names_a_secret(word)
        }
        _ => false,
    };
    match text.char_indices().find(is_before_value) {
        Some((at, found)) => format!("{}{HIDDEN}", &text[..at + found.len_utf8()]),
        None => text,
    }
}

/// The pieces of a text between spaces, each with the space behind it.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(char::is_whitespace)
}

fn url_in_word(word: &str) -> String {
    let bare = word.trim_end();
    match bare.contains("://") {
        // There may be several: `amqp://a@x,amqp://b@y`.
        true => {
            let urls: Vec<String> = bare.split(',').map(url).collect();
            format!("{}{}", urls.join(","), &word[bare.len()..])
        }
        false => word.to_owned(),
    }
}

/// Where the name ends that stands before a `=` or `:`, perhaps with spaces between: `password = x`.
fn last_of_name(text: &str, at: usize) -> usize {
    text[..at].trim_end().len()
}

/// What stands before a separator, without quotes: `token` of `{"token": …`.
fn word_before(text: &str, at: usize) -> &str {
    let before = text[..at].trim_end_matches(['"', '\'']);
    let is_of_word = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let begin = before.char_indices().rev();
    let begin = begin.take_while(|(_, c)| is_of_word(*c)).last();
    begin.map_or("", |(at, _)| &before[at..])
}

/// `-p`, `--password`, `-password`, `+password`.
fn looks_like_an_option(text: &str) -> bool {
    text.trim_start_matches(['-', '+']).len() < text.len()
}

/// `-p`, `--password`, `--`; a secret may begin with a dash, too.
fn is_surely_an_option(text: &str) -> bool {
    let Some(name) = text.strip_prefix("--") else {
        return text.starts_with('-') && text.chars().count() == 2;
    };
    let name = name.split('=').next().unwrap_or_default();
    let mut characters = name.chars();
    characters.all(|c| c.is_ascii_alphabetic() || matches!(c, '-' | '_' | '.'))
}

fn names_a_secret(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    is_secret(name) && !PLACES.iter().any(|place| upper.ends_with(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &[&str]) -> Vec<String> {
        let line: Vec<String> = line.iter().map(|&word| word.to_owned()).collect();
        command(&line)
    }

    #[test]
    fn no_value_behind_a_secrets_name_is_shown() {
        for (line, expected) in [
            (
                &["godot", "--headless", "--", "--admin-password=hunter2"][..],
                &["godot", "--headless", "--", "--admin-password=(hidden)"][..],
            ),
            (
                &["game", "--token", "hunter2", "--map", "arena"],
                &["game", "--token", "(hidden)", "--map", "arena"],
            ),
            // It begins like an option, and is none.
            (
                &["game", "--token", "-hunter", "--token", "--hunter2"],
                &["game", "--token", "(hidden)", "--token", "(hidden)"],
            ),
            (
                &["game", "--token=hunter2", "arena"],
                &["game", "--token=(hidden)", "arena"],
            ),
            (
                &["godot", "--main-pack=/srv/keys/game.pck", "level1"],
                &["godot", "--main-pack=/srv/keys/game.pck", "level1"],
            ),
            (
                &["psql", "host=db password = hunter2"],
                &["psql", "host=db password =(hidden)"],
            ),
            (
                &["game", "{\"token\" : \"hunter2\"}"],
                &["game", "{\"token\" :(hidden)"],
            ),
            (
                &["game", "--brokers=amqp://u:hunter2@h1,amqp://u:hunter2@h2"],
                &["game", "--brokers=amqp://(hidden)@h1,amqp://(hidden)@h2"],
            ),
            (
                &["game", "+rcon_passwd", "hunter2"],
                &["game", "+rcon_passwd", "(hidden)"],
            ),
            (
                &["env", "DB_PASSWORD=hunter2", "game"],
                &["env", "DB_PASSWORD=(hidden)", "game"],
            ),
            (
                &["sh", "-c", "TOKEN='hunter 2' ./game --map arena"],
                &["sh", "-c", "TOKEN=(hidden)"],
            ),
            (
                &["sh", "-c", "./game --map arena --api-key hunter2"],
                &["sh", "-c", "./game --map arena --api-key (hidden)"],
            ),
            (
                &["curl", "-H", "Authorization: Bearer hunter2"],
                &["curl", "-H", "Authorization:(hidden)"],
            ),
            (
                &["curl", "-d", "{\"a\":1,\"token\":\"hunter2\"}"],
                &["curl", "-d", "{\"a\":1,\"token\":(hidden)"],
            ),
            (
                &["game", "--db=postgres://game:hunter2@db/d"],
                &["game", "--db=postgres://(hidden)@db/d"],
            ),
            (
                &["curl", "https://me:hunter2@x.example/a?b=hunter2"],
                &["curl", "https://(hidden)@x.example/a?b=(hidden)"],
            ),
            (
                &["game", "--webhook=https://x/hunter2"],
                &["game", "--webhook=(hidden)"],
            ),
            (&["game", "--password="], &["game", "--password=(hidden)"]),
        ] {
            let shown = shown(line);
            assert_eq!(shown, expected, "{line:?}");
            assert!(!shown.iter().any(|word| word.contains("hunter")));
        }
    }

    #[test]
    fn all_else_is_shown_as_it_is() {
        for line in [
            &[
                "godot",
                "--headless",
                "--path",
                "/srv/keys/game",
                "--",
                "--map=arena",
            ][..],
            &["./token", "a=b", "c:d", "res://keys.tscn"],
            // The next option is no value.
            &["game", "--no-auth", "--map", "arena"],
            &["game", "--no-auth", "-x", "--no-auth", "--", "arena"],
            &[
                "game",
                "--token-file",
                "/run/token",
                "--password-file=/run/password",
            ],
            &["game", "--port", "7000", "-x", "", "ä ö"],
            &["game", "--token"],
            &["sh", "-c", "exec ./game --map 'a b'"],
        ] {
            assert_eq!(shown(line), line);
        }
        assert!(shown(&[]).is_empty());
    }
}
