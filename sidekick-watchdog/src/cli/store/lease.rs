//! `store lease take|renew|release`: a lease from a script. It is handed on as the line of JSON that `take` and `renew` print.

use std::time::Instant;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value as Json, json};

use super::{StoreError, address_below, success};
use crate::api::tree::parse_ttl;
use crate::cli::client::Client;
use crate::cli::{LocationArgs, say};

/// Takes, renews or releases a lease.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum LeaseCommand {
    /// Take the lease at a path and print it, as JSON
    #[command(
        after_help = "Prints {\"path\", \"token\", \"seconds\", \"use_for_s\", \"use_until\"}. Use the lease for no longer than \
                      use_for_s seconds from then on, unless you renew it. A later holder has a higher token.\n\
                      Exit code 14 when another holds it.\n\n\
                      Example: lease=$(sidekick-watchdog store lease take /jobs/backup --ttl 30s)"
    )]
    Take(TakeArgs),
    /// Begin a lease's time anew and print it, as JSON
    #[command(
        after_help = "Exit code 14 when it has ended: stop what it was for.\n\n\
                      Example: lease=$(sidekick-watchdog store lease renew \"$lease\")"
    )]
    Renew(NamedArgs),
    /// Give a lease back, and print which nodes went with it
    #[command(
        after_help = "Exit code 14 when it has ended before.\n\nExample: sidekick-watchdog store lease release \"$lease\""
    )]
    Release(NamedArgs),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct TakeArgs {
    /// The node, such as /jobs/backup; it is made if it is not there
    path: String,
    /// How long it lives unless it is renewed, as 30s: 100ms to 24h
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    ttl: u64,
    #[command(flatten)]
    location: LocationArgs,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct NamedArgs {
    /// What `take` has printed; {"path": "/jobs/backup", "token": 7} is enough
    lease: String,
    #[command(flatten)]
    location: LocationArgs,
}

impl LeaseCommand {
    pub(super) fn location(&self) -> &LocationArgs {
        match self {
            Self::Take(args) => &args.location,
            Self::Renew(args) | Self::Release(args) => &args.location,
        }
    }
}

pub(super) fn run(client: &mut Client, command: &LeaseCommand) -> Result<(), StoreError> {
    match command {
        LeaseCommand::Take(args) => {
            let address = address_below("/api/v1/leases", &args.path)?;
            let ttl_s = args.ttl as f64 / 1000.0;
            hold(client, Method::POST, &format!("{address}?ttl={ttl_s}"))
        }
        LeaseCommand::Renew(args) => hold(client, Method::PUT, &named(&args.lease)?),
        LeaseCommand::Release(args) => {
            let told = client.send(Method::DELETE, &named(&args.lease)?, Vec::new())?;
            say(released(&success(&told)?));
            Ok(())
        }
    }
}

/// The address of a lease as it was printed.
fn named(lease: &str) -> Result<String, StoreError> {
    let json: Json = serde_json::from_str(lease).unwrap_or_default();
    let (Some(path), Some(token)) = (json["path"].as_str(), json["token"].as_u64()) else {
        let text = format!(
            "{lease:?} is no lease; give what `store lease take` has printed, or \
             '{{\"path\": \"/jobs/backup\", \"token\": 7}}'"
        );
        return Err(StoreError::Usage(text));
    };
    let address = address_below("/api/v1/leases", path)?;
    Ok(format!("{address}?token={token}"))
}

fn hold(client: &mut Client, method: Method, address: &str) -> Result<(), StoreError> {
    let asked = Instant::now();
    let told = success(&client.send(method, address, Vec::new())?)?;
    say(from_now(&told["lease"], asked.elapsed().as_secs_f64()));
    Ok(())
}

/// The lease, with the time for which it may be used counted from now on, which is `waited_s` after the request was sent.
fn from_now(lease: &Json, waited_s: f64) -> Json {
    let mut lease = lease.clone();
    let use_for_s = lease["use_for_s"].as_f64().unwrap_or(0.0) - waited_s;
    lease["use_for_s"] = json!((use_for_s.max(0.0) * 1000.0).floor() / 1000.0);
    lease
}

/// What went with a lease, a line for each node.
fn released(told: &Json) -> String {
    let mut text = format!("{} nodes deleted", told["count"]);
    for gone in told["deleted"].as_array().into_iter().flatten() {
        text.push('\n');
        text.push_str(gone["path"].as_str().unwrap_or_default());
    }
    if told["deleted_cut"] == true {
        text.push_str("\n…");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_named_by_what_was_printed() {
        let printed =
            r#"{"path":"/jobs/a b","seconds":30.0,"token":7,"use_for_s":23.9,"use_until":""}"#;
        assert_eq!(named(printed).unwrap(), "/api/v1/leases/jobs/a%20b?token=7");
        for wrong in [
            "",
            "/jobs/a",
            "[]",
            r#"{"path": "/a"}"#,
            r#"{"path": 1, "token": 2}"#,
        ] {
            let error = named(wrong).unwrap_err();
            assert!(matches!(error, StoreError::Usage(_)), "{wrong}");
            assert!(error.to_string().contains("take"), "{error}");
        }
    }

    #[test]
    fn time_that_was_waited_is_no_time_to_use_it() {
        let lease = json!({"token": 7, "use_for_s": 8.0});
        assert_eq!(
            from_now(&lease, 0.5004),
            json!({"token": 7, "use_for_s": 7.499})
        );
        assert_eq!(from_now(&lease, 9.0)["use_for_s"], 0.0);
    }

    #[test]
    fn what_went_is_named_and_a_list_that_was_cut_shows_it() {
        let told = json!({"count": 2, "deleted": [{"path": "/a/b"}, {"path": "/a"}], "deleted_cut": false});
        assert_eq!(released(&told), "2 nodes deleted\n/a/b\n/a");
        let told = json!({"count": 2000, "deleted": [{"path": "/a"}], "deleted_cut": true});
        assert_eq!(released(&told), "2000 nodes deleted\n/a\n…");
    }
}
