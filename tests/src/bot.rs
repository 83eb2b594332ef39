//! A client of the demo's arena without a window: what it says of the server's deaths.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::godot::Godot;
use crate::process::{Running, Token};
use crate::project;
use crate::wait;

/// The client scene of the demo project.
const SCENE: &str = "res://client/client.tscn";

/// A client that runs; it is killed when this value goes.
#[derive(Debug)]
pub struct Bot {
    /// Its process and its lines.
    pub running: Running,
    _token: Token,
}

impl Bot {
    /// Starts a client of the project in `folder` that calls the server at UDP `port` on this machine. What it writes
    /// besides its lines stays in `scratch`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(
        godot: &Godot,
        folder: &Path,
        port: u16,
        arguments: &[&str],
        scratch: &Path,
    ) -> Self {
        let token = Token::new();
        let mut command = Command::new(&godot.path);
        command.args(["--headless", "--path"]).arg(folder);
        command.args([SCENE, "--", "--port", &port.to_string()]);
        command.args(arguments);
        token.mark(&mut command);
        project::confine(&mut command, scratch);
        let running =
            Running::start(&mut command).unwrap_or_else(|error| panic!("no client: {error}"));
        Self {
            running,
            _token: token,
        }
    }

    /// Everything that the client has said of `what` (`joined`, `lost`, `resumed`) so far.
    pub fn words(&self, what: &str) -> Vec<Value> {
        let prefix = format!("client: {what} ");
        let lines = self.running.lines.all();
        lines
            .iter()
            .filter_map(|line| serde_json::from_str(line.strip_prefix(&prefix)?).ok())
            .collect()
    }

    /// Waits until the client has said `what` for the `number`th time, from 1; `None` when `deadline` passes first.
    pub fn wait(&self, what: &str, number: usize, deadline: Duration) -> Option<Value> {
        wait::poll(deadline, || self.words(what).into_iter().nth(number - 1))
    }

    /// Waits until the match goes on with the next server, for the `number`th time, from 1; `None` when `deadline` passes
    /// first. A server that was silent for a while, as on a busy machine, is the same one.
    pub fn wait_for_the_next_server(&self, number: usize, deadline: Duration) -> Option<Value> {
        wait::poll(deadline, || {
            let words = self.words("resumed").into_iter();
            words.filter(is_of_another_server).nth(number - 1)
        })
    }
}

/// Whether the server with which the match `resumed` is another process than the one that was lost.
pub fn is_of_another_server(resumed: &Value) -> bool {
    resumed["incarnation"] != resumed["incarnation_before"]
}
