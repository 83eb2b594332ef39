//! The gap as a real client has it: an engine with the addon's `SidekickReconnect`, connected over ENet, that notices the
//! death of its server, connects again and is greeted.

use std::error::Error;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sidekick_tests::godot::Godot;
use sidekick_tests::project::{Engine, Options, Project};

use super::super::line::{Line, Printer, median};
use super::{DATAGRAM_BYTES_MAX, PATIENCE};

const SCRIPT: &str = include_str!("client.gd");
const RECONNECT: &str = include_str!("../../../../addons/sidekick/client/sidekick_reconnect.gd");
/// `SidekickReconnect.lost_after_s` as it is by default.
const DETECTION_MS: f64 = 300.0;

/// The project of the client: the helper alone, as a game without the extension has it.
pub(super) fn project() -> Project {
    let project = Project::without_extension(SCRIPT);
    project.write("sidekick_reconnect.gd", RECONNECT);
    project
}

/// A client that is connected.
pub(super) struct Client {
    words: UdpSocket,
    engine: Engine,
}

/// One gap as the client had it, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Gap {
    /// From the kill until it was noticed.
    pub(super) detection: f64,
    /// From then, or from the next server's first tick if that came later, until the session goes on.
    pub(super) handshake: f64,
    /// From the kill until the session goes on.
    pub(super) whole: f64,
}

impl Gap {
    /// From the kill to the next server's first tick it took `server` milliseconds.
    fn new(server: f64, lost: f64, resumed: f64) -> Self {
        Self {
            detection: lost,
            handshake: resumed - lost.max(server),
            whole: resumed,
        }
    }
}

impl Client {
    /// Starts it and waits until its session is open.
    pub(super) fn start(
        project: &Project,
        godot: &Godot,
        server: &str,
    ) -> Result<Self, Box<dyn Error>> {
        let words = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        words.set_read_timeout(Some(PATIENCE))?;
        let ours = words.local_addr()?.port().to_string();
        let options = Options {
            user_arguments: vec![server, &ours],
            ..Options::default()
        };
        let engine = project.start(godot, &options);
        let client = Self { words, engine };
        client.wait_for("opened")?;
        Ok(client)
    }

    /// Waits until the session goes on; the server was killed at `killed`, and the next one's first tick came `server` later.
    pub(super) fn resumed(
        &self,
        killed: SystemTime,
        server: Duration,
    ) -> Result<Gap, Box<dyn Error>> {
        let since_kill = |at: Duration| {
            let killed = killed.duration_since(UNIX_EPOCH).unwrap_or_default();
            (at.as_secs_f64() - killed.as_secs_f64()) * 1e3
        };
        let lost = since_kill(self.wait_for("lost")?);
        let resumed = since_kill(self.wait_for("resumed")?);
        Ok(Gap::new(server.as_secs_f64() * 1e3, lost, resumed))
    }

    /// The next word, which must be this one: since the epoch.
    fn wait_for(&self, expected: &str) -> Result<Duration, Box<dyn Error>> {
        let mut datagram = [0; DATAGRAM_BYTES_MAX];
        let bytes = self.words.recv(&mut datagram).map_err(|error| {
            let lines = self.engine.running.lines.all().join("\n");
            format!("the client never said {expected:?} ({error}); it wrote:\n{lines}")
        })?;
        parse(&datagram[..bytes], expected).map_err(Into::into)
    }
}

fn parse(datagram: &[u8], expected: &str) -> Result<Duration, String> {
    let text = String::from_utf8_lossy(datagram);
    let at = text.strip_prefix(expected).and_then(|rest| {
        let seconds = rest.strip_prefix(' ')?.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    });
    at.ok_or_else(|| format!("the client was to say {expected:?} and said {text:?}"))
}

/// Prints what the client had, beside its parts and beside `server`, the medians of the same rounds.
pub(super) fn print(printer: Printer, case: &str, server: &[f64], gaps: &[Gap]) {
    let part = |part: fn(&Gap) -> f64| -> Vec<f64> { gaps.iter().map(part).collect() };
    let (detection, handshake) = (part(|gap| gap.detection), part(|gap| gap.handshake));
    let (server, handshakes) = (median(server), median(&handshake));
    let name = format!("{case}_enet_client");
    // Server and client go their ways at the same time: the whole is less than its parts together.
    printer.print(
        &Line::median("gap", &name, "ms", &part(|gap| gap.whole))
            .beside("server", server)
            .beside("detection", median(&detection))
            .beside("handshake", handshakes)
            .beside("chosen_detection", DETECTION_MS)
            .beside("parts_added_up", server + DETECTION_MS + handshakes),
    );
    let name = format!("{case}_enet_handshake");
    printer.print(&Line::median("gap", &name, "ms", &handshake));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_begins_when_both_sides_are_there() {
        let whole = 400.0;
        let gap = |server| Gap::new(server, 310.0, whole);
        assert_eq!(gap(20.0).handshake, 90.0);
        assert_eq!(gap(350.0).handshake, 50.0);
        assert_eq!((gap(20.0).detection, gap(20.0).whole), (310.0, whole));
    }

    #[test]
    fn only_the_word_that_is_due_counts() {
        let at = parse(b"lost 12.500000", "lost").unwrap();
        assert_eq!(at, Duration::from_millis(12_500));
        for text in ["resumed 12.5", "lost", "lost -1", "lost x", "losty 1"] {
            assert!(parse(text.as_bytes(), "lost").is_err(), "{text}");
        }
    }
}
