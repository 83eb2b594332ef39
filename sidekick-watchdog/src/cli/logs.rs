//! `logs`: what the engines print, from the running watchdog.

use std::io::{self, Write};

use clap::Args;

use super::LocationArgs;
use super::client::{Client, ClientError};
use super::words::plain;
use crate::api::{LogItem, parse_item};
use crate::exit::ExitCode;

#[derive(Args, Debug)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    location: LocationArgs,
    /// Go on with what is printed from now on, over relaunches, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
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
    let mut path = format!("/api/v1/logs?lines={}&follow={}", args.lines, args.follow);
    if let Some(incarnation) = args.incarnation {
        path.push_str(&format!("&incarnation={incarnation}"));
    }
    let mut printer = Printer {
        json: args.json,
        partial: Vec::new(),
        is_closed: false,
    };
    let printed = Client::connect(&config)
        .and_then(|mut client| client.stream(&path, |piece| printer.take(piece)));
    match printed {
        Ok(()) => ExitCode::Ok,
        // Whoever reads us has gone: `logs -f | head`.
        Err(_) if printer.is_closed => ExitCode::Ok,
        Err(ClientError::Broken(_)) if args.follow => {
            super::complain("the watchdog has ended");
            ExitCode::NotRunning
        }
        Err(error) => {
            super::complain(&error);
            error.exit_code()
        }
    }
}

/// Puts pieces together to lines and prints them.
struct Printer {
    json: bool,
    partial: Vec<u8>,
    is_closed: bool,
}

impl Printer {
    /// Returns whether anybody still reads.
    fn take(&mut self, piece: &[u8]) -> bool {
        self.partial.extend_from_slice(piece);
        let whole = match self.partial.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => self.partial.drain(..=end).collect::<Vec<u8>>(),
            None => return true,
        };
        let mut text = String::new();
        for line in whole.split(|&byte| byte == b'\n') {
            match parse_item(line) {
                Ok(None) => {}
                Ok(Some(_)) if self.json => {
                    text.push_str(&String::from_utf8_lossy(line));
                    text.push('\n');
                }
                Ok(Some(item)) => text.push_str(&words(&item)),
                // Of a later version: what it says is not lost on who can read it.
                Err(_) => text.push_str(&format!("{}\n", plain(&String::from_utf8_lossy(line)))),
            }
        }
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        self.is_closed = written.is_err();
        !self.is_closed
    }
}

fn words(item: &LogItem) -> String {
    match item {
        LogItem::Line(line) => {
            let cut = if line.cut { " […]" } else { "" };
            format!("{} | {}{cut}\n", line.incarnation, plain(&line.text))
        }
        LogItem::Skipped(lines) => {
            format!("-- {lines} lines skipped, this terminal was too slow --\n")
        }
    }
}
