//! A client of the demo's arena sees its server killed, and goes on with the next one.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sidekick_tests::godot::Godot;
use sidekick_tests::ports;
use sidekick_tests::process::{self, Running, Token};
use sidekick_tests::project::{Engine, Options, Project};
use sidekick_tests::wait;

const DEADLINE: Duration = Duration::from_secs(60);

/// A client without a window, and its port. It is killed when this value goes.
struct Bot {
    running: Running,
    _token: Token,
}

impl Bot {
    fn start(godot: &Godot, project: &Project, port: &str, arguments: &[&str]) -> Self {
        let token = Token::new();
        let mut command = Command::new(&godot.path);
        command.args(["--headless", "--path"]).arg(project.path());
        command.args(["res://client/client.tscn", "--", "--port", port]);
        command.args(arguments);
        token.mark(&mut command);
        project.confine(&mut command);
        Self {
            running: Running::start(&mut command).expect("a client"),
            _token: token,
        }
    }

    /// The `number`th time, from 1, that the client said this.
    #[track_caller]
    fn said(&self, what: &str, number: usize) -> Value {
        let prefix = format!("client: {what} ");
        wait::poll(DEADLINE, || {
            let lines = self.running.lines.all();
            let mut told = lines.iter().filter_map(|line| line.strip_prefix(&prefix));
            told.nth(number - 1)
                .and_then(|json| serde_json::from_str(json).ok())
        })
        .unwrap_or_else(|| panic!("no {what} {number}: {:#?}", self.running.lines.all()))
    }

    fn count(&self, what: &str) -> usize {
        let lines = self.running.lines.all();
        lines
            .iter()
            .filter(|line| line.starts_with(&format!("client: {what} ")))
            .count()
    }
}

fn serve(godot: &Godot, project: &Project, port: &str) -> Engine {
    let options = Options {
        user_arguments: vec!["--players", "20", "--port", port],
        ..Options::default()
    };
    let mut server = project.start(godot, &options);
    server.wait_for_line("arena: open on UDP port", DEADLINE);
    server
}

/// The client notices the death long before ENet would, and tries until there is a server. (Without a watchdog that one knows
/// nothing of the match before.)
fn a_client_goes_on_with_the_next_server(godot: &Godot) {
    let project = Project::demo();
    let port = ports::free_udp().to_string();
    let mut server = serve(godot, &project, &port);
    let bot = Bot::start(godot, &project, &port, &["--token", "one"]);
    let other = Bot::start(godot, &project, &port, &[]);
    let joined = bot.said("joined", 1);
    assert_ne!(joined["player"], other.said("joined", 1)["player"]);
    for number in 1..=2 {
        process::signal(&server.token, server.running.pid(), Signal::KILL);
        let lost = bot.said("lost", number);
        assert!(
            lost["gap_ms"].as_f64() >= Some(150.0),
            "not before its time: {lost}"
        );
        server = serve(godot, &project, &port);
        let resumed = bot.said("resumed", number);
        assert!(
            resumed["gap_ms"].as_f64() >= lost["gap_ms"].as_f64(),
            "{resumed}"
        );
        other.said("resumed", number);
    }
}

/// A server that only stands still is lost as well; once it goes on, the client is let in again, and its old connection is no
/// second player.
fn a_client_comes_back_to_a_server_that_stood_still(godot: &Godot) {
    let project = Project::demo();
    let port = ports::free_udp().to_string();
    let server = serve(godot, &project, &port);
    let bot = Bot::start(godot, &project, &port, &[]);
    let joined = bot.said("joined", 1);
    process::signal(&server.token, server.running.pid(), Signal::STOP);
    bot.said("lost", 1);
    process::signal(&server.token, server.running.pid(), Signal::CONT);
    let resumed = bot.said("resumed", 1);
    assert_eq!(resumed["player"], joined["player"], "{resumed}");
    assert!(
        resumed["tick"].as_u64() >= resumed["tick_before"].as_u64(),
        "{resumed}"
    );
    assert_eq!(bot.count("joined"), 1);
}

sidekick_tests::godot_claims!(
    a_client_goes_on_with_the_next_server,
    a_client_comes_back_to_a_server_that_stood_still,
);
