//! `buffer inspect`: what the log holds, as a table for people or JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use uuid::Uuid;

use super::super::words::{plain, size};
use crate::slab::Slab;
use crate::store::{LogView, StoreError};

/// What a log holds.
#[derive(Debug, Default, Serialize)]
pub(super) struct Contents {
    directory: PathBuf,
    bytes: u64,
    /// Entries up to this one are no longer there.
    purged: u64,
    /// The last entry.
    last: u64,
    segments: Vec<SegmentContents>,
    /// How many commands of each kind.
    commands: BTreeMap<&'static str, u64>,
    sessions: Vec<SessionContents>,
    sinks: Vec<SinkContents>,
    damage: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SegmentContents {
    file: String,
    bytes: u64,
    first: Option<u64>,
    last: Option<u64>,
}

#[derive(Debug, Default, Serialize)]
struct SessionContents {
    source: String,
    epoch: String,
    incarnation: u32,
    /// The numbers that the log holds, from the first slab of the session to the last.
    first_seq: u64,
    last_seq: u64,
    slabs: u64,
    bytes: u64,
    /// Whether it has ended; `None` where nobody remembers.
    ended: Option<bool>,
}

#[derive(Debug, Serialize)]
struct SinkContents {
    name: String,
    /// Numbers that it has not dealt with; `None` until it has caught up for the first time.
    pending: Option<u64>,
    /// It still reads what lies behind this entry.
    after: u64,
    dead: u64,
}

pub(super) fn contents(view: &LogView) -> Result<Contents, StoreError> {
    let (purged, last) = view.bounds();
    let mut contents = Contents {
        purged,
        last,
        damage: super::damage_words(view),
        ..Contents::default()
    };
    for segment in view.segments() {
        contents.bytes += segment.bytes;
        let folder = segment.path.parent().unwrap_or(&segment.path);
        contents.directory = folder.to_owned();
        let file = segment.path.file_name().unwrap_or_default();
        contents.segments.push(SegmentContents {
            file: file.to_string_lossy().into_owned(),
            bytes: segment.bytes,
            first: segment.entries.map(|(first, _)| first),
            last: segment.entries.map(|(_, last)| last),
        });
    }
    let mut sessions: BTreeMap<(String, Uuid), SessionContents> = BTreeMap::new();
    for entry in view.entries() {
        let entry = entry?;
        if entry.kind != "commands" {
            *contents.commands.entry(entry.kind).or_default() += 1;
        }
        for word in entry.commands {
            *contents.commands.entry(word).or_default() += 1;
        }
        for Slab { head, frames } in entry.slabs {
            let of = (head.source.clone(), head.epoch);
            let session = sessions.entry(of).or_insert_with(|| SessionContents {
                source: head.source.clone(),
                epoch: head.epoch.to_string(),
                incarnation: head.incarnation,
                first_seq: head.first_seq,
                ..SessionContents::default()
            });
            session.last_seq = session.last_seq.max(head.next_seq() - 1);
            session.slabs += 1;
            session.bytes += frames.len() as u64;
        }
    }
    for (source, epoch, state) in view.sessions() {
        if let Some(session) = sessions.get_mut(&(source.to_owned(), epoch)) {
            session.ended = Some(state.end.is_some());
        }
    }
    contents.sessions = sessions.into_values().collect();
    contents.sessions.sort_by(|a, b| {
        let order = |of: &SessionContents| (of.source.clone(), of.incarnation);
        order(a).cmp(&order(b))
    });
    for (name, lanes) in view.sinks() {
        let (books, committed) = view.books(name);
        let watermarks = lanes.iter().map(|lane| lane.watermark);
        contents.sinks.push(SinkContents {
            name: name.to_owned(),
            pending: books.pending(committed),
            after: watermarks.min().unwrap_or_default().index,
            dead: books.letters_now,
        });
    }
    Ok(contents)
}

pub(super) fn table(contents: &Contents) -> String {
    let mut text = String::new();
    let count = contents.segments.len();
    let files = if count == 1 { "file" } else { "files" };
    let _ = writeln!(
        text,
        "log       {}, {count} {files}, {}",
        contents.directory.display(),
        size(contents.bytes)
    );
    for segment in &contents.segments {
        let entries = match (segment.first, segment.last) {
            (Some(first), Some(last)) => format!("entries {first} to {last}"),
            _ => "no entry that is still needed".to_owned(),
        };
        let (file, bytes) = (&segment.file, size(segment.bytes));
        let _ = writeln!(text, "          {file}  {bytes:>10}  {entries}");
    }
    let _ = writeln!(
        text,
        "entries   up to {}; removed up to {}",
        contents.last, contents.purged
    );
    for (word, count) in &contents.commands {
        let _ = writeln!(text, "          {count:>8}  {word}");
    }
    for session in &contents.sessions {
        let end = match session.ended {
            Some(true) => ", ended",
            Some(false) => ", open",
            None => "",
        };
        let _ = writeln!(
            text,
            "session   {} of {}, incarnation {}{end}: {} to {} in {} slabs, {}",
            session.epoch,
            plain(&session.source),
            session.incarnation,
            session.first_seq,
            session.last_seq,
            session.slabs,
            size(session.bytes)
        );
    }
    for sink in &contents.sinks {
        let pending = match sink.pending {
            Some(pending) => format!("{pending} to send"),
            None => "it has not caught up yet".to_owned(),
        };
        let dead = match sink.dead {
            0 => String::new(),
            dead => format!(", {dead} dead"),
        };
        let (name, after) = (plain(&sink.name), sink.after);
        let _ = writeln!(
            text,
            "sink      {name}: {pending}, done up to entry {after}{dead}"
        );
    }
    for words in &contents.damage {
        let _ = writeln!(text, "damage    {}", plain(words));
    }
    if contents.damage.is_empty() {
        text.push_str("damage    none");
    }
    text.truncate(text.trim_end().len());
    text
}
