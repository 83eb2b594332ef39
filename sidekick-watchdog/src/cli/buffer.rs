//! `buffer inspect|verify|export`: the log of a data directory, read beside a running watchdog or without one.
//!
//! Nothing is changed. What a running watchdog writes meanwhile is not seen.

mod inspect;

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::LocationArgs;
use super::destination::{Destination, DestinationError};
use super::words::{count, plain};
use crate::exit::ExitCode;
use crate::store::{LogView, StoreError};
use crate::upload::encode::{LineWriter, RowWriter, Walk, What};

#[derive(Debug, Subcommand)]
pub(super) enum BufferCommand {
    /// Show what the log holds: files, entries, sessions, and what each sink still has to send
    #[command(after_help = "Example: sidekick-watchdog buffer inspect --data-dir /var/lib/lobby-1")]
    Inspect(LookArgs),
    /// Read every frame and tell each damaged place, with what is lost there
    #[command(
        after_help = "Exit code 15 when something is damaged, also where nothing is lost by it.\n\
                      A watchdog that is started on it loses what is told here and nothing else.\n\n\
                      Example: sidekick-watchdog buffer verify --data-dir /var/lib/lobby-1 || mail -s 'log damaged' ops"
    )]
    Verify(LookArgs),
    /// Write the records that the log holds as NDJSON, as the file sink does
    #[command(
        after_help = "Lines of stream sidekick.gap stand where records are missing; damaged places are told on standard error, and exit \
                      code 15 says that there are some. What rules leave out before upload is in it.\n\n\
                      Example: sidekick-watchdog buffer export records.ndjson --data-dir /var/lib/lobby-1"
    )]
    Export(ExportArgs),
}

#[derive(Args, Debug)]
pub(super) struct LookArgs {
    #[command(flatten)]
    location: LocationArgs,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    /// The file; - is standard output
    #[arg(default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    location: LocationArgs,
    /// Only what lies behind this entry
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    after: u64,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

/// Why the log was not read, or not written elsewhere.
#[derive(Debug, thiserror::Error)]
enum BufferError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Destination(#[from] DestinationError),
}

impl BufferError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Store(error) => error.exit_code(),
            Self::Destination(error) => error.exit_code(),
        }
    }
}

pub(super) fn run(command: &BufferCommand) -> ExitCode {
    let location = match command {
        BufferCommand::Inspect(args) | BufferCommand::Verify(args) => &args.location,
        BufferCommand::Export(args) => &args.location,
    };
    let config = match location.load(Vec::new()) {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    let done = match command {
        BufferCommand::Inspect(args) => show(&config.data_dir, args),
        BufferCommand::Verify(args) => verify(&config.data_dir, args),
        BufferCommand::Export(args) => export(&config.data_dir, args),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            super::complain(&error);
            error.exit_code()
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Reads the log; a long one with a line of progress for whoever sits there.
fn open(data_dir: &Path) -> Result<LogView, BufferError> {
    let shows = io::stderr().is_terminal();
    let mut is_begun = false;
    let view = LogView::open(data_dir, &mut |done, count| {
        if shows && count > 1 {
            is_begun = true;
            let mut out = io::stderr().lock();
            let _ = write!(out, "\rread {done} of {count} files").and_then(|()| out.flush());
        }
    });
    if is_begun {
        let _ = writeln!(io::stderr().lock());
    }
    Ok(view?)
}

fn show(data_dir: &Path, args: &LookArgs) -> Result<ExitCode, BufferError> {
    let contents = inspect::contents(&open(data_dir)?)?;
    super::say(match args.json {
        true => json(&contents),
        false => inspect::table(&contents),
    });
    Ok(ExitCode::Ok)
}

fn verify(data_dir: &Path, args: &LookArgs) -> Result<ExitCode, BufferError> {
    let found = find(&open(data_dir)?)?;
    super::say(match args.json {
        true => json(&found),
        false => found.words(),
    });
    Ok(found.exit_code())
}

/// Every damaged place in a sentence.
fn damage_words(view: &LogView) -> Vec<String> {
    let mut words = Vec::new();
    for place in view.damage() {
        let (path, from, to) = (place.path.display(), place.from, place.to);
        let mut text = format!("{path}, bytes {from} to {to}: ");
        match place.entries {
            None => text.push_str("no entry that is still needed"),
            Some((first, last)) if first == last => {
                let _ = write!(text, "entry {first}");
            }
            Some((first, last)) => {
                let _ = write!(text, "entries {first} to {last}");
            }
        }
        let (first, last) = place.entries.unwrap_or((1, 0));
        let here = view.rotten().iter();
        let here = here.filter(|entry| (first..=last).contains(&entry.index));
        for gap in here.flat_map(|entry| &entry.gaps) {
            let _ = write!(
                text,
                "; lost: {} to {} of session {} of {}",
                gap.first_seq, gap.last_seq, gap.epoch, gap.source
            );
        }
        words.push(text);
    }
    if let (false, Some(why)) = (words.is_empty(), view.untold()) {
        words.push(format!(
            "the log alone does not tell all that is lost: {why}"
        ));
    }
    for (path, at) in view.mended() {
        let path = path.display();
        words.push(format!(
            "{path}, byte {at}: not what was written, which is known; nothing is lost"
        ));
    }
    words
}

/// What `verify` found.
#[derive(Debug, Serialize)]
struct Found {
    entries: u64,
    /// Sequence numbers in intact entries.
    numbers: u64,
    damage: Vec<String>,
    /// Records whose own frame is damaged in an entry that is not.
    frames: Vec<String>,
}

impl Found {
    fn words(&self) -> String {
        let mut text = String::new();
        for words in self.damage.iter().chain(&self.frames) {
            let _ = writeln!(text, "{}", plain(words));
        }
        let places = match self.damage.len() + self.frames.len() {
            0 => "nothing is damaged".to_owned(),
            places => count(places as u64, "damaged place", "damaged places"),
        };
        let entries = count(self.entries, "entry", "entries");
        let numbers = count(self.numbers, "number", "numbers");
        let _ = write!(text, "{entries} with {numbers}: {places}");
        text
    }

    fn exit_code(&self) -> ExitCode {
        match self.damage.is_empty() && self.frames.is_empty() {
            true => ExitCode::Ok,
            false => ExitCode::Damaged,
        }
    }
}

fn find(view: &LogView) -> Result<Found, BufferError> {
    let mut found = Found {
        entries: 0,
        numbers: 0,
        damage: damage_words(view),
        frames: Vec::new(),
    };
    for entry in view.entries() {
        let entry = entry?;
        found.entries += 1;
        if entry.kind == "damaged" {
            continue;
        }
        for slab in entry.slabs {
            found.numbers += slab.head.count;
            let mut walk = Walk::new(slab);
            while let Some((head, item)) = walk.step() {
                let What::Lost { count, cause, .. } = &item.what else {
                    continue;
                };
                // A hole that came from the ring is whole itself, and is what was written.
                if cause.starts_with("damaged in the store") {
                    found.frames.push(format!(
                        "entry {}: {} to {} of session {} of {} {cause}",
                        entry.index,
                        item.seq,
                        item.seq + count - 1,
                        head.epoch,
                        head.source
                    ));
                }
            }
        }
    }
    Ok(found)
}

fn export(data_dir: &Path, args: &ExportArgs) -> Result<ExitCode, BufferError> {
    let mut destination = Destination::open(&args.file, args.force)?;
    let view = open(data_dir)?;
    let damage = damage_words(&view);
    for words in &damage {
        super::complain(plain(words));
    }
    let written = write_records(&view, args.after, io::BufWriter::new(&mut destination))?;
    destination.finish(written)?;
    Ok(match damage.is_empty() {
        true => ExitCode::Ok,
        false => ExitCode::Damaged,
    })
}

/// What became of the writing, unless the log cannot be read.
fn write_records(
    view: &LogView,
    after: u64,
    mut out: impl Write,
) -> Result<io::Result<()>, StoreError> {
    let mut writer = LineWriter::default();
    let mut lines = Vec::new();
    for entry in view.entries() {
        let entry = entry?;
        if entry.index <= after {
            continue;
        }
        for slab in entry.slabs {
            let mut walk = Walk::new(slab);
            while let Some((head, item)) = walk.step() {
                if item.has_row() {
                    writer.write(head, &item, &mut lines);
                }
            }
        }
        if let Err(error) = out.write_all(&lines) {
            return Ok(Err(error));
        }
        lines.clear();
    }
    Ok(out.flush())
}
