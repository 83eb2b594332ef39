//! `records tail`: records as they pass through the running watchdog.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use url::form_urlencoded::byte_serialize;

use super::LocationArgs;
use super::client::Client;
use crate::api::operator::Stage;
use crate::exit::ExitCode;

#[derive(Debug, Subcommand)]
pub(super) enum RecordsCommand {
    /// Show records as they pass, one JSON object a line, until Ctrl-C
    Tail(TailArgs),
}

#[derive(Args, Debug)]
pub(super) struct TailArgs {
    #[command(flatten)]
    location: LocationArgs,
    /// Only of streams that this fits; * stands for any run of characters
    #[arg(long, value_name = "PATTERN")]
    stream: Option<String>,
    /// Where to look: raw (from the ring, before any rule), stored (as committed), uploaded (as put into batches)
    #[arg(long, value_name = "STAGE", default_value = "stored", value_parser = parse_stage)]
    stage: Stage,
    /// End after so many records
    #[arg(short = 'n', long, value_name = "COUNT")]
    limit: Option<u64>,
}

fn parse_stage(word: &str) -> Result<Stage, String> {
    word.parse()
        .map_err(|()| "it is raw, stored or uploaded".to_owned())
}

pub(super) fn run(command: &RecordsCommand) -> ExitCode {
    let RecordsCommand::Tail(args) = command;
    let config = match args.location.load(Vec::new()) {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    let mut path = format!("/api/v1/records?stage={}", args.stage.word());
    if let Some(stream) = &args.stream {
        let stream: String = byte_serialize(stream.as_bytes()).collect();
        path.push_str(&format!("&stream={stream}"));
    }
    if let Some(limit) = args.limit {
        path.push_str(&format!("&limit={limit}"));
    }
    let mut is_closed = false;
    let shown = Client::connect(&config).and_then(|mut client| {
        let answer = client.stream(&path, |piece| {
            // A sign of life between records is no line.
            let piece = if piece == b"\n" { &[][..] } else { piece };
            let mut out = io::stdout().lock();
            is_closed = out.write_all(piece).and_then(|()| out.flush()).is_err();
            !is_closed
        })?;
        answer.success()
    });
    match shown {
        Ok(_) => ExitCode::Ok,
        // Whoever reads us has gone: `records tail | head`.
        Err(_) if is_closed => ExitCode::Ok,
        Err(error) => {
            super::complain(&error);
            error.exit_code()
        }
    }
}
