//! `dead-letters`: lists, shows, replays and drops records that a backend refused for good.

use std::fmt::Write;

use clap::{Args, Subcommand};
use hyper::Method;
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use super::LocationArgs;
use super::client::{Client, ClientError};
use super::words::{plain, size, span};
use crate::api::letters::{LISTED_MAX, LetterList, LetterReport, LettersChanged};
use crate::exit::ExitCode;

/// Of a reason so much is shown in the list.
const REASON_SHOWN: usize = 60;

#[derive(Debug, Subcommand)]
pub(super) enum DeadLettersCommand {
    /// List them, oldest first
    List(ListArgs),
    /// Show one, with its record
    Show(ShowArgs),
    /// Have them sent again; one that is refused again stays, with the new reason
    Replay(OrderArgs),
    /// Drop them for good, counted
    Drop(OrderArgs),
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// At most so many
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    limit: usize,
    /// Only those after this id
    #[arg(long, default_value_t = 0, value_name = "ID")]
    after: u64,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// The letter's id
    id: u64,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Args, Debug)]
pub(super) struct OrderArgs {
    /// The letters' ids
    #[arg(value_name = "ID", conflicts_with = "all")]
    ids: Vec<u64>,
    #[command(flatten)]
    which: WhichArgs,
    /// All there are
    #[arg(long, conflicts_with_all = ["sink", "stream"])]
    all: bool,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Args, Debug)]
struct WhichArgs {
    /// Only those of this sink
    #[arg(long)]
    sink: Option<String>,
    /// Only those of this stream
    #[arg(long)]
    stream: Option<String>,
}

#[derive(Args, Debug)]
struct CommonArgs {
    #[command(flatten)]
    location: LocationArgs,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &DeadLettersCommand) -> ExitCode {
    let common = match command {
        DeadLettersCommand::List(args) => &args.common,
        DeadLettersCommand::Show(args) => &args.common,
        DeadLettersCommand::Replay(args) | DeadLettersCommand::Drop(args) => &args.common,
    };
    let config = match common.location.load(Vec::new()) {
        Ok(config) => config,
        Err(errors) => return super::complain_of_config(&errors),
    };
    if let DeadLettersCommand::Replay(args) | DeadLettersCommand::Drop(args) = command
        && !args.names_some()
    {
        super::complain("say which: ids, --sink, --stream or --all");
        return ExitCode::Usage;
    }
    let said =
        Client::connect(&config).and_then(|mut client| say(&mut client, command, common.json));
    match said {
        Ok(text) => {
            super::say(text.trim_end());
            ExitCode::Ok
        }
        Err(error) => {
            super::complain(&error);
            error.exit_code()
        }
    }
}

fn say(
    client: &mut Client,
    command: &DeadLettersCommand,
    json: bool,
) -> Result<String, ClientError> {
    let body = match command {
        DeadLettersCommand::List(args) => {
            let mut query = query(&args.which);
            query.append_pair("limit", &args.limit.min(LISTED_MAX).to_string());
            query.append_pair("after", &args.after.to_string());
            let path = format!("/api/v1/dead-letters?{}", query.finish());
            client.get(&path)?.success()?
        }
        DeadLettersCommand::Show(args) => {
            let path = format!("/api/v1/dead-letters/{}", args.id);
            client.get(&path)?.success()?
        }
        DeadLettersCommand::Replay(args) => {
            let path = format!("/api/v1/dead-letters/replay?{}", args.query());
            client.send(Method::POST, &path, Vec::new())?.success()?
        }
        DeadLettersCommand::Drop(args) => {
            let path = format!("/api/v1/dead-letters?{}", args.query());
            client.send(Method::DELETE, &path, Vec::new())?.success()?
        }
    };
    if let DeadLettersCommand::Replay(args) | DeadLettersCommand::Drop(args) = command {
        args.check(&read(&body)?)?;
    }
    if json {
        return Ok(body);
    }
    Ok(match command {
        DeadLettersCommand::List(_) => table(&read(&body)?),
        DeadLettersCommand::Show(_) => text(&read(&body)?),
        DeadLettersCommand::Replay(_) => replay_words(&read(&body)?),
        DeadLettersCommand::Drop(_) => drop_words(&read(&body)?),
    })
}

fn replay_words(done: &LettersChanged) -> String {
    let changed = done.changed;
    let mut words = format!(
        "{changed} marked; their sinks send them again, `dead-letters list` shows what is left"
    );
    match done.without_sink {
        0 => {}
        1 => words.push_str("; 1 stays as it is, since its sink is not configured"),
        stay => {
            let _ = write!(
                words,
                "; {stay} stay as they are, since their sinks are not configured"
            );
        }
    }
    words
}

fn drop_words(done: &LettersChanged) -> String {
    let changed = done.changed;
    match done.on_their_way {
        0 => format!("{changed} dropped"),
        1 => format!("{changed} dropped; 1 is on its way and stays"),
        stay => format!("{changed} dropped; {stay} are on their way and stay"),
    }
}

fn query(which: &WhichArgs) -> form_urlencoded::Serializer<'static, String> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let named = [("sink", &which.sink), ("stream", &which.stream)];
    for (name, value) in named {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query
}

impl OrderArgs {
    /// Who names letters wants to know when none of them is there.
    fn check(&self, done: &LettersChanged) -> Result<(), ClientError> {
        if done.changed > 0 || self.ids.is_empty() {
            return Ok(());
        }
        let text = match done.on_their_way {
            0 => "nothing was changed: there is no such dead letter, or it is on its way already; `dead-letters list` shows them".to_owned(),
            _ => format!("nothing was changed: {}", drop_words(done)),
        };
        Err(ClientError::Missing(text))
    }

    fn names_some(&self) -> bool {
        let which = &self.which;
        self.all || !self.ids.is_empty() || which.sink.is_some() || which.stream.is_some()
    }

    fn query(&self) -> String {
        let mut query = query(&self.which);
        if self.all {
            query.append_pair("all", "true");
        }
        if !self.ids.is_empty() {
            let ids: Vec<String> = self.ids.iter().map(u64::to_string).collect();
            query.append_pair("ids", &ids.join(","));
        }
        query.finish()
    }
}

fn read<T: DeserializeOwned>(body: &str) -> Result<T, ClientError> {
    serde_json::from_str(body)
        .map_err(|error| ClientError::Broken(format!("its answer is not JSON ({error})")))
}

fn table(list: &LetterList) -> String {
    if list.letters.is_empty() {
        return match list.count {
            0 => "no dead letters".to_owned(),
            count => format!("none of the {count} dead letters"),
        };
    }
    let mut text = format!(
        "{:>6}  {:<10}  {:<20}  {:>10}  {:<10}  reason\n",
        "id", "sink", "stream", "age", "code"
    );
    for letter in &list.letters {
        let reason = plain(&letter.reason);
        let reason: String = reason.chars().take(REASON_SHOWN).collect();
        let mark = match (letter.sink_removed, letter.marked) {
            (true, _) => "sink not configured: ",
            (false, true) => "replaying: ",
            (false, false) => "",
        };
        let _ = writeln!(
            text,
            "{:>6}  {:<10}  {:<20}  {:>10}  {:<10}  {mark}{reason}",
            letter.id,
            plain(&letter.sink),
            plain(&letter.stream),
            span(letter.age_s),
            plain(&letter.code),
        );
    }
    let last = list.letters.last().map_or(0, |letter| letter.id);
    if list.more {
        let _ = writeln!(text, "more: --after {last}");
    }
    // Only who asked for some of them has fewer than all.
    if list.wanted < list.count {
        let _ = write!(text, "{} of these, ", list.wanted);
    }
    let _ = write!(
        text,
        "{} in all, {}; `sidekick-watchdog dead-letters show ID` shows one",
        list.count,
        size(list.bytes)
    );
    text
}

fn text(report: &LetterReport) -> String {
    let letter = &report.letter;
    let record = serde_json::to_string_pretty(&report.record).unwrap_or_default();
    let mut text = String::new();
    for (name, value) in [
        ("id", letter.id.to_string()),
        ("sink", plain(&letter.sink)),
        ("stream", plain(&letter.stream)),
        (
            "record",
            format!(
                "{} of session {} of {}",
                letter.seq,
                plain(&letter.epoch),
                plain(&letter.source)
            ),
        ),
        ("code", plain(&letter.code)),
        ("reason", plain(&letter.reason)),
        ("rules", format!("version {}", letter.rules_version)),
        ("age", span(letter.age_s)),
        ("replays", letter.replays.to_string()),
    ] {
        let _ = writeln!(text, "{name:<8} {value}");
    }
    match (letter.sink_removed, letter.marked) {
        (true, true) => text.push_str("to be sent again once its sink is configured again\n"),
        (true, false) => text.push_str("its sink is not configured\n"),
        (false, true) => text.push_str("to be sent again\n"),
        (false, false) => {}
    }
    text.push_str(&record.lines().map(plain).collect::<Vec<_>>().join("\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::letters::LetterSummary;
    use clap::Parser;

    #[test]
    fn who_names_a_letter_that_is_not_there_is_told() {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            order: OrderArgs,
        }
        let order = |words: &[&str]| Line::parse_from([&["x"], words].concat()).order;
        let done = |changed, on_their_way| LettersChanged {
            changed,
            on_their_way,
            without_sink: 0,
        };
        assert!(order(&["5", "7"]).check(&done(1, 1)).is_ok());
        assert!(order(&["--all"]).check(&done(0, 1)).is_ok());
        for (stay, told) in [
            (0, "no such dead letter"),
            (2, "2 are on their way and stay"),
        ] {
            let error = order(&["5", "7"]).check(&done(0, stay)).unwrap_err();
            assert_ne!(error.exit_code(), ExitCode::Ok);
            assert!(error.to_string().contains(told), "{error}");
        }
    }

    #[test]
    fn what_an_order_could_not_do_is_said() {
        let done = |on_their_way, without_sink| LettersChanged {
            changed: 3,
            on_their_way,
            without_sink,
        };
        assert_eq!(drop_words(&done(0, 0)), "3 dropped");
        assert!(drop_words(&done(1, 0)).ends_with("; 1 is on its way and stays"));
        assert!(!replay_words(&done(0, 0)).contains("configured"));
        assert!(
            replay_words(&done(0, 1))
                .ends_with("; 1 stays as it is, since its sink is not configured")
        );
    }

    #[test]
    fn letters_are_shown_without_what_a_terminal_obeys() {
        let letter = LetterSummary {
            id: 7,
            sink: "http".into(),
            stream: "chat\x1b[2Jsay".into(),
            code: "HTTP 400".into(),
            reason: "no \x1b[31msuch column".into(),
            age_s: 61.0,
            ..LetterSummary::default()
        };
        let mut list = LetterList {
            letters: vec![letter.clone()],
            wanted: 3,
            count: 3,
            bytes: 2048,
            more: true,
        };
        let all = table(&list);
        assert!(!all.contains("of these"), "{all}");
        list.wanted = 2;
        let table = table(&list);
        for part in [
            "     7  http",
            "HTTP 400",
            "no such column",
            "1m 1s",
            "--after 7",
            "\n2 of these, 3 in all, 2.0 KiB;",
        ] {
            assert!(table.contains(part), "{part}\n{table}");
        }
        let record = serde_json::json!({"data": {"a": "\u{1b}[2J"}});
        let shown = text(&LetterReport { letter, record });
        assert!(
            shown.contains("\"data\"") && shown.contains("HTTP 400"),
            "{shown}"
        );
        assert!(!shown.contains('\x1b') && !table.contains('\x1b'));
    }
}
