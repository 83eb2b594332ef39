//! What another list of sinks would mean to a running watchdog: who takes whose place, and what is left behind.

use super::client::Client;
use super::words::count;
use crate::api::{SinkStatus, Status};
use crate::config::Config;

/// A sink of the running watchdog that the configuration does not name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    /// What the next start would do with it.
    pub(super) words: String,
    /// Something of it would be sent to nobody.
    pub(super) is_left_behind: bool,
}

/// Those of the watchdog that runs for this configuration; none where none answers.
pub(super) fn leaving(config: &Config) -> Vec<Leaving> {
    let status = Client::connect(config).and_then(|mut client| client.status());
    let Ok((status, _)) = status else {
        return Vec::new();
    };
    let named: Vec<&str> = config.upload.sinks.iter().map(|sink| sink.word()).collect();
    compare(&status, &named)
}

fn compare(status: &Status, named: &[&str]) -> Vec<Leaving> {
    let running = &status.upload.sinks;
    let runs = |name: &str| running.iter().any(|sink| sink.name == name);
    let successor = named.iter().copied().find(|name| !runs(name));
    let gone = running.iter().filter(|sink| !named.contains(&&*sink.name));
    gone.map(|sink| leave(sink, successor)).collect()
}

fn leave(sink: &SinkStatus, successor: Option<&str>) -> Leaving {
    let name = &sink.name;
    let (pending, letters) = (sink.books.pending, sink.books.dead_letters);
    let waiting = match pending {
        Some(pending) => format!("{} that wait for it", count(pending, "record", "records")),
        None => "what it has not taken by then".to_owned(),
    };
    let mut words = match (pending, successor) {
        (Some(0), _) => format!("{name} goes at the next start, and has taken everything"),
        (_, Some(successor)) => {
            format!("{name} goes at the next start, and {successor} takes its place with {waiting}")
        }
        (_, None) => format!(
            "{name} goes at the next start, and nobody sends {waiting}, unless it is put back while the log still holds them"
        ),
    };
    if letters > 0 {
        let letters = count(letters, "dead letter", "dead letters");
        words.push_str(&format!(
            "; its {letters} can be dropped then, and not be replayed"
        ));
    }
    Leaving {
        words,
        is_left_behind: letters > 0 || (pending != Some(0) && successor.is_none()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::BooksStatus;

    fn running(pending: Option<u64>, dead_letters: u64) -> Status {
        let mut status = Status::default();
        for name in ["http", "file"] {
            status.upload.sinks.push(SinkStatus {
                name: name.to_owned(),
                books: BooksStatus {
                    pending,
                    dead_letters,
                    ..BooksStatus::default()
                },
                ..SinkStatus::default()
            });
        }
        status
    }

    #[test]
    fn who_leaves_something_behind_is_told_before_the_start() {
        let told = |pending, letters, named: &[&str]| {
            let leaving = compare(&running(pending, letters), named);
            leaving
                .into_iter()
                .map(|it| (it.words, it.is_left_behind))
                .collect::<Vec<_>>()
        };
        assert_eq!(told(Some(61), 2, &["file", "http"]), []);
        let quiet = told(Some(0), 0, &["file"]);
        let words = "http goes at the next start, and has taken everything";
        assert_eq!(quiet, [(words.to_owned(), false)]);
        for (pending, letters, named, part, is_left_behind) in [
            (
                Some(61),
                0,
                vec!["file"],
                "nobody sends 61 records that wait",
                true,
            ),
            (
                Some(61),
                0,
                vec!["postgres", "file"],
                "postgres takes its place with 61 records",
                false,
            ),
            (
                None,
                0,
                vec!["file"],
                "nobody sends what it has not taken",
                true,
            ),
            (
                Some(0),
                1,
                vec!["file"],
                "everything; its 1 dead letter can be dropped",
                true,
            ),
        ] {
            let told = told(pending, letters, &named);
            assert_eq!(told.len(), 1);
            assert!(told[0].0.contains(part), "{part}: {told:?}");
            assert_eq!(told[0].1, is_left_behind, "{part}");
        }
    }
}
