//! `logs`: what the engines print, from the running watchdog. With `-f` it goes on with the next watchdog where the last
//! one ended: each line tells its place.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;

use super::LocationArgs;
use super::client::{Client, ClientError};
use super::words::{plain, span};
use crate::api::{LogItem, parse_grace, parse_item};
use crate::config::Config;
use crate::exit::ExitCode;
use crate::log_line::LogPosition;

/// How often another watchdog is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Args, Debug)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    location: LocationArgs,
    /// Go on with what is printed from now on, over relaunches, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// With -f: how long to wait for a watchdog when none lives, at first and when one ends; what the game prints meanwhile is shown then
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_grace)]
    reconnect: Duration,
    /// So many of the last lines
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
    lines: usize,
    /// Of this incarnation only, also one that has ended
    #[arg(short, long, value_name = "NUMBER")]
    incarnation: Option<u32>,
    /// One JSON object a line: incarnation, level, text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &LogsArgs) -> ExitCode {
    let config = match args.location.load(Vec::new()) {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    let mut printer = Printer::new(args.json);
    let printed = match args.follow {
        true => follow(args.reconnect, &mut printer, |printer| {
            ask(args, &config, printer)
        }),
        false => ask(args, &config, &mut printer),
    };
    match printed {
        Ok(()) => ExitCode::Ok,
        // Whoever reads us has gone: `logs -f | head`.
        Err(_) if printer.is_closed => ExitCode::Ok,
        Err(error) => {
            super::complain(&error);
            if let ClientError::NotRunning { data_dir, .. } = &error {
                super::complain(where_kept(&data_dir.join("engine")));
            }
            error.exit_code()
        }
    }
}

/// What there is to read without a watchdog.
fn where_kept(folder: &Path) -> String {
    let folder_shown = folder.display();
    match folder.is_dir() {
        true => format!("what the engines printed is kept in {folder_shown}"),
        false => format!(
            "nothing that an engine printed is kept there ({folder_shown} does not exist); --data-dir names another data \
             directory"
        ),
    }
}

/// Shows what comes, from one watchdog after the other, until none comes any more. The first one is waited for, too.
fn follow(
    within: Duration,
    printer: &mut Printer,
    mut ask: impl FnMut(&mut Printer) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    let mut lost_at: Option<Instant> = None;
    loop {
        printer.is_answered = false;
        printer.was_lost = lost_at.is_some();
        let asked = ask(printer);
        let is_none_there = matches!(asked, Err(ClientError::NotRunning { .. }));
        if printer.is_closed || (printer.position.is_none() && !is_none_there) {
            return asked;
        }
        if printer.is_answered {
            lost_at = None;
        }
        let since = *lost_at.get_or_insert_with(|| {
            if !within.is_zero() {
                let within = span(within.as_secs_f64());
                let why = match printer.position {
                    Some(_) => format!("the watchdog has ended; waiting {within} for another"),
                    None => format!("no watchdog runs; waiting {within} for one"),
                };
                super::complain(format_args!("{why}, Ctrl-C ends that"));
            }
            Instant::now()
        });
        if since.elapsed() >= within {
            let error = match asked {
                Ok(()) => ClientError::Broken("it has ended".to_owned()),
                Err(error) => error,
            };
            return Err(error);
        }
        std::thread::sleep(LOOK_EVERY.min(within));
    }
}

fn ask(args: &LogsArgs, config: &Config, printer: &mut Printer) -> Result<(), ClientError> {
    let mut path = format!("/api/v1/logs?lines={}&follow={}", args.lines, args.follow);
    if let Some(incarnation) = args.incarnation {
        path.push_str(&format!("&incarnation={incarnation}"));
    }
    if let Some(position) = printer.position {
        path.push_str(&format!("&after={position}"));
    }
    printer.partial.clear();
    let answer = Client::connect(config)?.stream(&path, |piece| printer.take(piece))?;
    answer.success().map(drop)
}

/// Puts pieces together to lines and prints them.
struct Printer {
    json: bool,
    partial: Vec<u8>,
    is_closed: bool,
    /// The place after what was printed.
    position: Option<LogPosition>,
    /// The one that is asked now has answered.
    is_answered: bool,
    /// The one before it has ended.
    was_lost: bool,
}

impl Printer {
    fn new(json: bool) -> Self {
        Self {
            json,
            partial: Vec::new(),
            is_closed: false,
            position: None,
            is_answered: false,
            was_lost: false,
        }
    }

    /// Returns whether anybody still reads.
    fn take(&mut self, piece: &[u8]) -> bool {
        if !std::mem::replace(&mut self.is_answered, true) && self.was_lost {
            super::complain(match self.position {
                Some(_) => "another watchdog is there, going on",
                None => "a watchdog is there",
            });
        }
        self.partial.extend_from_slice(piece);
        let whole = match self.partial.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => self.partial.drain(..=end).collect::<Vec<u8>>(),
            None => return true,
        };
        let mut text = String::new();
        let mut position = self.position;
        for line in whole.split(|&byte| byte == b'\n') {
            match parse_item(line) {
                Ok(None) => {}
                Ok(Some(LogItem::At(place))) => position = Some(place),
                Ok(Some(item)) => {
                    if let LogItem::Line(line) = &item {
                        position = Some(line.position());
                    }
                    match self.json {
                        true => {
                            text.push_str(&String::from_utf8_lossy(line));
                            text.push('\n');
                        }
                        false => text.push_str(&words(&item)),
                    }
                }
                // Of a later version: what it says is not lost on who can read it.
                Err(_) => text.push_str(&format!("{}\n", plain(&String::from_utf8_lossy(line)))),
            }
        }
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        self.is_closed = written.is_err();
        if !self.is_closed {
            self.position = position;
        }
        !self.is_closed
    }
}

fn words(item: &LogItem) -> String {
    match item {
        LogItem::Line(line) => {
            let cut = if line.cut { " […]" } else { "" };
            format!("{} | {}{cut}\n", line.incarnation, plain(&line.text))
        }
        LogItem::Skipped(bytes) => format!("-- {bytes} bytes are not kept any more --\n"),
        LogItem::At(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_folder_that_is_there_is_named_as_the_place_of_the_output() {
        let dir = tempfile::tempdir().unwrap();
        assert!(where_kept(dir.path()).contains("is kept in"));
        let none = where_kept(&dir.path().join("engine"));
        assert!(none.contains("does not exist") && none.contains("--data-dir"));
    }

    #[test]
    fn the_first_watchdog_is_waited_for_unless_nobody_wants_to() {
        let not_running = || ClientError::NotRunning {
            data_dir: "/nowhere".into(),
            why: "test".to_owned(),
        };
        for (within, wanted) in [(Duration::from_secs(3600), 3), (Duration::ZERO, 1)] {
            let mut asked = 0;
            let mut printer = Printer::new(false);
            let followed = follow(within, &mut printer, |printer| {
                asked += 1;
                // The third look finds one, and then the reader goes.
                printer.is_closed = asked == 3;
                match printer.is_closed {
                    true => Ok(()),
                    false => Err(not_running()),
                }
            });
            assert_eq!(asked, wanted);
            assert_eq!(followed.is_ok(), wanted == 3, "{followed:?}");
        }
        // What a watchdog refuses is no reason to wait for another.
        let mut printer = Printer::new(false);
        let refused = follow(Duration::from_secs(3600), &mut printer, |_| {
            Err(ClientError::Refused("no such incarnation".to_owned()))
        });
        assert!(matches!(refused, Err(ClientError::Refused(_))));
    }
}
