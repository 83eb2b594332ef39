//! What one `Sidekick.record()` costs a game, whatever the watchdog does, beside what games do without it.
//!
//! The game (`record.gd`) runs in a real engine with the optimized extension and says what each round took; here the
//! watchdog is left running, stopped with SIGSTOP, killed, and killed with the ring full, so that records spill.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;
use sidekick_tests::build::Profile;
use sidekick_tests::project::Project;
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

use super::line::{Line, Printer, Target, median};
use super::{metrics, passed};
use crate::godot;

const PATIENCE: Duration = Duration::from_secs(120);

/// GODOT.md, section 11, says where the time goes.
const OF_VAR_TO_BYTES_MAX: f64 = 1.5;
const OF_JSON_LINE_MAX: f64 = 0.3;
const ONE_CALL_P99_US_MAX: f64 = 5.0;
/// In Rust, of 150 bytes.
const PUBLISH_NS_MAX: f64 = 120.0;
/// What Sidekick costs each frame of a game that records nothing: the read of a clock is 60 of it.
const HEARTBEAT_NS_MAX: f64 = 150.0;

/// What the game writes down about one state of the watchdog.
#[derive(Debug, Deserialize)]
struct Measured {
    /// Calls in each batch.
    batch: f64,
    /// Nanoseconds per call, one number for each round.
    batches: BTreeMap<String, Vec<f64>>,
    /// Microseconds of single calls.
    singles: BTreeMap<String, Vec<f64>>,
    stats: Value,
}

pub(super) fn run(printer: Printer) -> Result<(), Box<dyn Error>> {
    let godot = godot::locate()?;
    let project = Project::optimized(include_str!("record.gd"));
    let mut setup = Setup::with_profile(Profile::Release);
    let out = setup.scratch().join("out");
    fs::create_dir(&out)?;
    let receiver = Receiver::start()?;
    let words = [
        "--out",
        out.to_str()
            .ok_or("the temporary folder's path is not UTF-8")?,
        "--port",
        &receiver.port.to_string(),
    ];
    setup.set_engine(project.command_line(&godot, &words));
    let mut watchdog = setup.start();
    watchdog.wait_for_status("a ready game", PATIENCE, |status| {
        status["engine"]["ready"].as_bool().filter(|yes| *yes)
    });

    measure(printer, &out, "running", || has_ended(&watchdog))?;
    watchdog.running.signal(Signal::STOP);
    let stopped = measure(printer, &out, "stopped", || None);
    watchdog.running.signal(Signal::CONT);
    // The next state begins with an empty ring, or it would spill.
    let recorded = stopped?.stats["recorded"].as_f64().unwrap_or_default();
    metrics::wait_for_committed(&watchdog, recorded, PATIENCE)?;
    watchdog.kill();
    for state in ["killed", "spilling"] {
        measure(printer, &out, state, || {
            let is_gone = setup.descendants(None).is_empty();
            is_gone.then(|| "the game ended".to_owned())
        })?;
    }
    drop(setup);
    passed::bench(printer, "sidekick-ipc", "publish", |case| match case {
        "publish_150B" => Some(Target::AtMost(PUBLISH_NS_MAX)),
        "on_frame" => Some(Target::AtMost(HEARTBEAT_NS_MAX)),
        _ => None,
    })
}

fn has_ended(watchdog: &Watchdog<'_>) -> Option<String> {
    (!watchdog.running.is_alive()).then(|| watchdog.running.lines.all().join("\n"))
}

/// Lets the game measure in this state, and prints what it found.
fn measure(
    printer: Printer,
    out: &Path,
    state: &str,
    mut trouble: impl FnMut() -> Option<String>,
) -> Result<Measured, Box<dyn Error>> {
    printer.tell(&format!("record, watchdog {state}"));
    fs::write(out.join(format!("go-{state}")), "")?;
    let found = wait::poll(PATIENCE, || {
        let text = fs::read_to_string(out.join(format!("{state}.json")))
            .ok()
            .map(Ok);
        text.or_else(|| trouble().map(Err))
    });
    let text = found.ok_or_else(|| format!("the game did not end measuring ({state})"))??;
    let measured: Measured = serde_json::from_str(&text)?;
    let refused = measured.stats["refused"].as_f64().unwrap_or(1.0);
    if refused > 0.0 {
        return Err(format!("{refused} records were refused ({state})").into());
    }
    print(printer, state, &measured);
    Ok(measured)
}

fn print(printer: Printer, state: &str, measured: &Measured) {
    let batches = |case: &str| measured.batches.get(case).cloned().unwrap_or_default();
    let singles = |case: &str| measured.singles.get(case).cloned().unwrap_or_default();
    let empty = batches("empty_loop");
    // Per round, so that what disturbed a round is taken off with that round's own loop.
    let net = |case: &str| -> Vec<f64> {
        let pairs = batches(case).into_iter().zip(&empty);
        pairs.map(|(ns, empty)| ns - empty).collect()
    };
    let record = net("record");
    let mut line = Line::median("record", state, "ns", &record)
        .with_n((record.len() as f64 * measured.batch) as u64)
        .beside("empty_loop", median(&empty));
    for peer in [
        "empty_call",
        "dictionary",
        "var_to_bytes",
        "json_line",
        "udp_send",
    ] {
        line = line.beside(peer, median(&net(peer)));
    }
    printer.print(&line);

    for (peer, limit) in [
        ("var_to_bytes", Some(OF_VAR_TO_BYTES_MAX)),
        ("json_line", Some(OF_JSON_LINE_MAX)),
        ("udp_send", None),
    ] {
        let pairs = record.iter().zip(net(peer));
        let ratios: Vec<f64> = pairs
            .filter(|(_, peer)| *peer > 0.0)
            .map(|(ns, peer)| ns / peer)
            .collect();
        let mut line = Line::median("record", &format!("{state}_of_{peer}"), "ratio", &ratios);
        // Spilling is the way out of a full ring, a system call each: it has no target.
        if let Some(limit) = limit.filter(|_| state != "spilling") {
            line = line.target(Target::AtMost(limit));
        }
        printer.print(&line);
    }

    let line = Line::median(
        "record",
        &format!("{state}_one_call_p99"),
        "us",
        &singles("record"),
    );
    let p99 = line.p99;
    let mut line = line.with_value(p99);
    for peer in ["nothing", "json_line", "udp_send"] {
        let peers = Line::median("", "", "", &singles(peer));
        line = line.beside(&format!("{peer}_p99"), peers.p99);
    }
    if state != "spilling" {
        line = line.target(Target::AtMost(ONE_CALL_P99_US_MAX));
    }
    printer.print(&line);
}

/// Takes the datagrams that the game sends, as the peer of a real sender would.
struct Receiver {
    port: u16,
    stopping: Arc<AtomicBool>,
}

impl Receiver {
    fn start() -> std::io::Result<Self> {
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let port = socket.local_addr()?.port();
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        thread::spawn(move || {
            let mut datagram = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let _ = socket.recv(&mut datagram); // time-outs are for the look at `stop`
            }
        });
        Ok(Self { port, stopping })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}
