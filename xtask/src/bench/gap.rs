//! How long players are without their server: from `kill -9` of a real engine to the first tick that goes on with the
//! restored state, as a raw UDP bot receives it, and to the moment at which a client that is connected over ENet goes on;
//! with a cold start and with a standby, beside the bare engine's own boot.
//!
//! Each sample is checked: the state is the last checkpoint's whose call had returned, or a later one's, and it is the
//! standby that took over where there is one. One that is not so fails the bench: a fast wrong server is worth nothing.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Signal, pidfd_send_signal};
use serde_json::Value;
use sidekick_tests::godot::Godot;
use sidekick_tests::ports;
use sidekick_tests::process::{self, Token};
use sidekick_tests::project::{Options, Project};
use sidekick_tests::wait;
use sidekick_tests::watchdog::{Setup, Watchdog};

use super::line::{Line, Printer, Target};
use crate::godot;
use client::Client;

mod client;

const SCRIPT: &str = include_str!("gap/server.gd");
const CONFIG: &str = "[restart]\nbackoff_first = \"1ms\"\nbackoff_max = \"1ms\"\nstable_after = \"1s\"\n\
                      [upload]\nsinks = []\n";
/// Nothing is killed before it has served this long: a watchdog's relaunch waits longer for what dies young.
const SETTLE: Duration = Duration::from_millis(1300);
/// A kill comes at a random moment of this time, the game's time between two checkpoints.
const CHECKPOINT_EVERY_MS: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(60);
const DATAGRAM_BYTES_MAX: usize = 256;

/// Above the bare engine's own boot, p95 beside p95.
const COLD_ABOVE_BOOT_MS_MAX: f64 = 50.0;
const STANDBY_P95_MS_MAX: f64 = 50.0;

pub(super) fn run(printer: Printer, samples: usize) -> Result<(), Box<dyn Error>> {
    let tools = Tools {
        godot: godot::locate()?,
        project: Project::shipped(SCRIPT),
        bare: Project::without_extension(SCRIPT),
        client: client::project(),
    };
    printer.tell("gap, with a cold start");
    let gaps = tools.measure(false, samples)?;
    let limit = boot_p95(&gaps) + COLD_ABOVE_BOOT_MS_MAX;
    print(printer, "cold", &gaps, limit);
    printer.tell("gap, with a standby");
    let gaps = tools.measure(true, samples)?;
    print(printer, "standby", &gaps, STANDBY_P95_MS_MAX);
    Ok(())
}

/// Milliseconds, one of each for every round.
#[derive(Debug, Default)]
struct Gaps {
    /// From the kill to the first tick with restored state.
    server: Vec<f64>,
    /// From the start of the bare engine to its first tick.
    boot: Vec<f64>,
    /// As the client had them.
    client: Vec<client::Gap>,
}

fn boot_p95(gaps: &Gaps) -> f64 {
    Line::median("", "", "", &gaps.boot).p95
}

fn print(printer: Printer, case: &str, gaps: &Gaps, p95_max: f64) {
    let line = |name: &str, samples: &[f64]| Line::median("gap", name, "ms", samples);
    let boot = line("", &gaps.boot);
    let server = line(case, &gaps.server);
    let p95 = server.p95;
    printer.print(
        &server
            .beside("bare_boot", boot.p50)
            .beside("bare_boot_p95", boot.p95),
    );
    let tail = line(&format!("{case}_p95"), &gaps.server).with_value(p95);
    printer.print(&tail.target(Target::AtMost(p95_max)));
    client::print(printer, case, &gaps.server, &gaps.client);
}

struct Tools {
    godot: Godot,
    project: Project,
    bare: Project,
    client: Project,
}

impl Tools {
    /// Kills the active engine again and again, and boots a bare one before each kill.
    fn measure(&self, has_standby: bool, samples: usize) -> Result<Gaps, Box<dyn Error>> {
        let bot = Bot::new()?;
        let (port, its) = (ports::free_udp().to_string(), bot.port.to_string());
        let door = ports::free_udp().to_string();
        let mut setup = Setup::with_profile(sidekick_tests::build::Profile::Dist);
        let standby = u8::from(has_standby);
        setup.set_config(&format!(
            "[engine]\nrestart = \"always\"\nstandby = {standby}\n{CONFIG}"
        ));
        setup.set_engine(
            self.project
                .command_line(&self.godot, &[&port, &its, &door]),
        );
        let watchdog = setup.start();
        let (mut gaps, mut serves_since) = (Gaps::default(), Instant::now());
        bot.receive()?.ok_or_else(|| silent(&watchdog))?;
        let client = Client::start(&self.client, &self.godot, &door)?;
        for _ in 0..samples {
            gaps.boot.push(self.boot()?);
            let active = bot.latest()?.ok_or_else(|| silent(&watchdog))?;
            let parked = match has_standby {
                true => Some(wait_for_parked(&watchdog, active.pid)?),
                false => None,
            };
            let settled = SETTLE.saturating_sub(serves_since.elapsed());
            thread::sleep(settled + Duration::from_millis(fastrand::u64(..CHECKPOINT_EVERY_MS)));
            let killed = bot.kill(&setup.token)?.ok_or_else(|| silent(&watchdog))?;
            let Killed { at, gap, next } = killed;
            serves_since = Instant::now();
            if parked.is_some_and(|pid| pid != next.pid) {
                let text = format!("{} serves, not the standby {parked:?}", next.pid);
                return Err(text.into());
            }
            gaps.server.push(gap.as_secs_f64() * 1e3);
            gaps.client.push(client.resumed(at, gap)?);
        }
        watchdog.stop(PATIENCE);
        Ok(gaps)
    }

    /// Milliseconds from the start of the engine alone to its first tick.
    fn boot(&self) -> Result<f64, Box<dyn Error>> {
        let bot = Bot::new()?;
        let (port, its) = (ports::free_udp().to_string(), bot.port.to_string());
        let door = ports::free_udp().to_string();
        let options = Options {
            user_arguments: vec![&port, &its, &door],
            ..Options::default()
        };
        let started = Instant::now();
        let engine = self.bare.start(&self.godot, &options);
        bot.receive()?.ok_or("the bare engine never played")?;
        let took = started.elapsed();
        drop(engine);
        Ok(took.as_secs_f64() * 1e3)
    }
}

fn silent(watchdog: &Watchdog<'_>) -> String {
    let lines = watchdog.running.lines.all();
    format!(
        "no server was heard of for {} s; the watchdog says:\n{}",
        PATIENCE.as_secs(),
        lines.join("\n")
    )
}

/// Waits until another engine than the active one is parked, and returns its process id.
fn wait_for_parked(watchdog: &Watchdog<'_>, active: u32) -> Result<u32, String> {
    wait::poll(PATIENCE, || {
        let (_, text) = watchdog.get("/api/v1/status")?;
        parked(&serde_json::from_str(&text).ok()?, active)
    })
    .ok_or_else(|| format!("no standby was parked beside the engine {active}"))
}

/// The parked standby of a status; a status from before a promotion still calls the `active` one a standby.
fn parked(status: &Value, active: u32) -> Option<u32> {
    let standby = &status["standby"];
    let pid = u32::try_from(standby["pid"].as_u64()?).ok()?;
    (standby["state"] == "parked" && pid != active).then_some(pid)
}

/// What a server says each tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tick {
    pid: u32,
    counter: u64,
    /// The tick that its process began with.
    restored: u64,
    /// The tick of the last checkpoint whose call had returned.
    saved: u64,
}

impl Tick {
    fn parse(datagram: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(datagram).ok()?.split(' ');
        let tick = Self {
            pid: words.next()?.parse().ok()?,
            counter: words.next()?.parse().ok()?,
            restored: words.next()?.parse().ok()?,
            saved: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(tick)
    }

    /// Whether this, a server's first, goes on after `last`, the last that was heard of the one before.
    fn check_after(&self, last: &Self) -> Result<(), String> {
        // The dead one may have saved one tick more, and died before it told of it.
        let possible = last.saved..=last.counter + 1;
        if !possible.contains(&self.restored) {
            return Err(format!(
                "{} restored tick {}; {} had saved {} and played up to {}",
                self.pid, self.restored, last.pid, last.saved, last.counter
            ));
        }
        if self.counter != self.restored + 1 {
            return Err(format!(
                "the first tick heard of {} is {}, though it restored {}",
                self.pid, self.counter, self.restored
            ));
        }
        Ok(())
    }
}

/// One kill.
struct Killed {
    at: SystemTime,
    /// Until the first tick of who serves next.
    gap: Duration,
    /// That tick.
    next: Tick,
}

/// A client without an engine, which hears of each tick.
struct Bot {
    socket: UdpSocket,
    port: u16,
}

impl Bot {
    fn new() -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let port = socket.local_addr()?.port();
        Ok(Self { socket, port })
    }

    /// The next tick; `None` when none comes.
    fn receive(&self) -> Result<Option<Tick>, Box<dyn Error>> {
        let mut datagram = [0; DATAGRAM_BYTES_MAX];
        match self.socket.recv(&mut datagram) {
            Ok(bytes) => {
                let datagram = &datagram[..bytes];
                let tick = Tick::parse(datagram);
                let text = || format!("no tick: {:?}", String::from_utf8_lossy(datagram));
                Ok(Some(tick.ok_or_else(text)?))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A tick that comes from now on. What waits is thrown away: there may be as much as the socket holds, and newer ones
    /// lost.
    fn latest(&self) -> Result<Option<Tick>, Box<dyn Error>> {
        self.socket.set_nonblocking(true)?;
        while self.receive()?.is_some() {}
        self.socket.set_nonblocking(false)?;
        self.receive()
    }

    /// Kills who serves; `None` when nobody serves next.
    fn kill(&self, token: &Token) -> Result<Option<Killed>, Box<dyn Error>> {
        let Some(mut last) = self.latest()? else {
            return Ok(None);
        };
        let handle = process::open(token, last.pid)
            .ok_or_else(|| format!("the server {} died by itself", last.pid))?;
        // Not always right after a tick.
        thread::sleep(Duration::from_micros(fastrand::u64(..20_000)));
        let (at, killed) = (SystemTime::now(), Instant::now());
        pidfd_send_signal(&handle, Signal::KILL)?;
        while let Some(tick) = self.receive()? {
            let gap = killed.elapsed();
            if tick.pid != last.pid {
                tick.check_after(&last)?;
                let next = tick;
                return Ok(Some(Killed { at, gap, next }));
            }
            last = tick;
            if gap > PATIENCE {
                return Err(format!("the server {} lives on after its kill", last.pid).into());
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tick(text: &str) -> Tick {
        Tick::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_tick_is_four_numbers() {
        let expected = Tick {
            pid: 7,
            counter: 13,
            restored: 3,
            saved: 12,
        };
        assert_eq!(tick("7 13 3 12"), expected);
        for text in ["", "7 13 3", "7 13 3 12 1", "7 13 3 -1", "7 13 3 x"] {
            assert_eq!(Tick::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Tick::parse(b"7 13 3 \xff"), None);
    }

    #[test]
    fn the_next_server_goes_on_with_the_last_checkpoint_or_a_later_one() {
        let last = tick("7 17 3 12");
        assert_eq!(tick("8 13 12 12").check_after(&last), Ok(()));
        assert_eq!(tick("8 19 18 18").check_after(&last), Ok(()));
    }

    #[test]
    fn a_lost_or_invented_state_is_caught() {
        let last = tick("7 17 3 12");
        for text in ["8 1 0 0", "8 12 11 11", "8 20 19 19"] {
            assert!(tick(text).check_after(&last).is_err(), "{text}");
        }
        // Its first tick was not what was heard first.
        assert!(tick("8 15 12 12").check_after(&last).is_err());
    }

    #[test]
    fn only_a_parked_engine_beside_the_active_one_counts() {
        let status = |state: &str| json!({"standby": {"state": state, "pid": 9}});
        assert_eq!(parked(&status("parked"), 8), Some(9));
        assert_eq!(parked(&status("parked"), 9), None);
        assert_eq!(parked(&status("booting"), 8), None);
        assert_eq!(parked(&json!({"standby": null}), 8), None);
    }

    #[test]
    fn the_bot_hears_ticks_and_forgets_old_ones() {
        let bot = Bot::new().unwrap();
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let send = |text: &str| {
            let to = (Ipv4Addr::LOCALHOST, bot.port);
            server.send_to(text.as_bytes(), to).unwrap();
        };
        send("7 1 0 0");
        assert_eq!(bot.receive().unwrap(), Some(tick("7 1 0 0")));
        send("7 2 0");
        assert!(bot.receive().is_err());
        bot.socket
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        send("7 3 0 0");
        assert_eq!(bot.latest().unwrap(), None);
    }
}
