//! `restart`, `start`, `stop`, `drain`: gives the running watchdog an order and shows how it is carried out.

use std::time::Duration;

use clap::Args;

use super::LocationArgs;
use super::client::{Client, ClientError};
use crate::api::operator::{Accepted, Progress, Verb};
use crate::api::parse_grace;
use crate::exit::ExitCode;

/// How often the status is asked for meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// For orders that end an engine.
#[derive(Args, Debug)]
pub(super) struct EndArgs {
    /// How long the game has to save and quit before it is killed, such as 30s [default: as configured in [shutdown]]
    #[arg(long, value_name = "TIME", value_parser = parse_grace)]
    grace: Option<Duration>,
    #[command(flatten)]
    order: OrderArgs,
}

/// For every order.
#[derive(Args, Debug)]
pub(super) struct OrderArgs {
    #[command(flatten)]
    location: LocationArgs,
    /// Return as soon as the order is taken
    #[arg(long)]
    no_wait: bool,
}

pub(super) fn end(verb: Verb, args: &EndArgs) -> ExitCode {
    run(verb, args.grace, &args.order)
}

pub(super) fn start(args: &OrderArgs) -> ExitCode {
    run(Verb::Start, None, args)
}

fn run(verb: Verb, grace: Option<Duration>, args: &OrderArgs) -> ExitCode {
    let config = match args.location.load(Vec::new()) {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    let carried_out = Client::connect(&config).and_then(|mut client| {
        let accepted = give(&mut client, verb, grace)?;
        match args.no_wait {
            true => {
                super::say(format_args!("{verb}: taken; {}", accepted.words));
                Ok(ExitCode::Ok)
            }
            false => follow(&mut client, &accepted),
        }
    });
    carried_out.unwrap_or_else(|error| {
        super::complain(&error);
        error.exit_code()
    })
}

fn give(client: &mut Client, verb: Verb, grace: Option<Duration>) -> Result<Accepted, ClientError> {
    let query = match grace {
        Some(grace) => format!("?grace={}", grace.as_secs_f64()),
        None => String::new(),
    };
    let body = client
        .post(&format!("/api/v1/engine/{verb}{query}"))?
        .success()?;
    serde_json::from_str(&body)
        .map_err(|error| ClientError::Broken(format!("its answer is not JSON ({error})")))
}

/// Shows each step until the order is carried out. Interrupted (Ctrl-C), the order stands.
fn follow(client: &mut Client, accepted: &Accepted) -> Result<ExitCode, ClientError> {
    let verb = accepted.order;
    let mut shown = String::new();
    let mut step = |words: &str| {
        // The seconds that are left change all the time; what goes on does not.
        let kind = words.split(',').next().unwrap_or_default();
        if kind != shown {
            super::say(format_args!("{verb}: {words}"));
            shown = kind.to_owned();
        }
    };
    step(&accepted.words);
    loop {
        let status = match client.status() {
            Ok((status, _)) => status,
            // Its last answer was that it took the order: it has ended since, which `restart = "never"` may lead to.
            Err(ClientError::Broken(_)) => {
                return Err(client.gone("it took the order and has ended since"));
            }
            Err(error) => return Err(error),
        };
        match accepted.goal.judge(&status) {
            Progress::Underway(words) => step(&words),
            Progress::Done(words) => {
                step(&words);
                return Ok(ExitCode::Ok);
            }
            Progress::Failed(words) => {
                super::complain(format_args!(
                    "{verb}: {words}; the watchdog goes on trying, `sidekick-watchdog status` and `crashes` tell more"
                ));
                return Ok(ExitCode::NotDone);
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
