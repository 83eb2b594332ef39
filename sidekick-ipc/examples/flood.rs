//! A game without a game: launched by a watchdog, it records as fast as the watchdog commits, and writes down how fast
//! that was. `cargo xtask bench ingest` is made of it.
//!
//! `flood OUT RECORDS WARM_UP VALUE_BYTES [PER_S]`: `OUT` gets one JSON object once everything is committed; then it beats on
//! until the watchdog asks it to quit. It never overfills the ring, so nothing is refused and nothing spills. With `PER_S` it
//! records no more than so many a second, a frame's worth at a time, as a busy game does.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sidekick_ipc::frame::frame_bytes;
use sidekick_ipc::{Phase, Session, SessionOptions, WhenFull};

const STREAM: &str = "bench";
/// A game's frame, in which it wakes the watchdog once.
const FRAME: Duration = Duration::from_micros(16_667);
/// Records between two looks at clock and ring.
const BURST: u64 = 64;
/// How often the committed number is looked at.
const WINDOW: Duration = Duration::from_millis(100);
/// The longest that the watchdog may take for what is in the ring, and to say goodbye.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [out, records, warm_up, value_bytes, rate @ ..] = &arguments[..] else {
        return Err("usage: flood OUT RECORDS WARM_UP VALUE_BYTES [PER_S]".into());
    };
    let rate: Option<f64> = rate.first().map(|text| text.parse()).transpose()?;
    let (records, warm_up): (u64, u64) = (records.parse()?, warm_up.parse()?);
    let value = string_value(value_bytes.parse()?);

    let session = Arc::new(Session::create(options()?)?);
    session.set_ready();
    flood(&session, warm_up, &value, None)?;
    let started = Instant::now();
    let sampler = thread::spawn({
        let session = Arc::clone(&session);
        move || sample(&session, warm_up, warm_up + records)
    });
    let recorded = flood(&session, records, &value, rate)?;
    let committed = started.elapsed();
    let windows = sampler.join().map_err(|_| "the sampling thread panicked")?;
    write(
        Path::new(out),
        &serde_json::json!({
            "records": records,
            "frame_bytes": frame_bytes(1 + STREAM.len() + value.len()),
            "recorded_s": recorded.as_secs_f64(),
            "committed_s": committed.as_secs_f64(),
            "windows": windows,
            "refused": session.refused(),
        }),
    )?;

    let goodbye = Instant::now();
    while session.control().quit.is_none() && goodbye.elapsed() < PATIENCE {
        session.on_frame(Phase::Running);
        thread::sleep(FRAME);
    }
    session.set_clean_exit(0);
    session.close();
    Ok(())
}

fn options() -> Result<SessionOptions, Box<dyn Error>> {
    let text = |name: &str| {
        std::env::var(name).map_err(|_| format!("{name} is not set: a watchdog launches this"))
    };
    Ok(SessionOptions {
        runtime_dir: PathBuf::from(text("SIDEKICK_RUNTIME_DIR")?),
        launch: text("SIDEKICK_LAUNCH")?.parse()?,
        incarnation: text("SIDEKICK_INCARNATION")?.parse()?,
        ring_bytes: text("SIDEKICK_RING_SIZE")?.parse()?,
        when_full: WhenFull::Refuse,
        block_max: Duration::ZERO,
        spill_bytes_max: 0,
        keep: Vec::new(),
        library_version: env!("CARGO_PKG_VERSION").to_owned(),
        game_version: String::new(),
    })
}

/// A text in Godot's encoding that takes `bytes` altogether, rounded up to whole words.
fn string_value(bytes: usize) -> Vec<u8> {
    const STRING: u32 = 4;
    let length = bytes.next_multiple_of(4).saturating_sub(8);
    let mut value = STRING.to_le_bytes().to_vec();
    value.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    value.extend((0..length).map(|at| b'a' + (at % 26) as u8));
    value
}

/// Records `count` times and waits until the last one is committed. Returns how long the recording alone took.
fn flood(
    session: &Session,
    count: u64,
    value: &[u8],
    rate: Option<f64>,
) -> Result<Duration, Box<dyn Error>> {
    let room = session.ring_bytes() / 4 * 3;
    let started = Instant::now();
    let mut beat = started;
    for number in 0..count {
        session.record(STREAM, value)?;
        if number % BURST == 0 {
            while session.ring_used() > room {
                thread::sleep(Duration::from_micros(200));
                within_patience(started)?;
            }
            if let Some(rate) = rate {
                let due = Duration::from_secs_f64(number as f64 / rate);
                let early = due.saturating_sub(started.elapsed());
                if early > FRAME {
                    session.kick();
                    thread::sleep(early);
                }
            }
            if beat.elapsed() >= FRAME {
                session.on_frame(Phase::Running);
                beat = Instant::now();
            }
        }
    }
    let recorded = started.elapsed();
    session.kick();
    while session.committed_seq() < session.last_seq() {
        thread::sleep(Duration::from_micros(100));
        if beat.elapsed() >= FRAME {
            session.on_frame(Phase::Running);
            beat = Instant::now();
        }
        within_patience(started)?;
    }
    Ok(recorded)
}

fn within_patience(started: Instant) -> Result<(), Box<dyn Error>> {
    if started.elapsed() > PATIENCE {
        return Err(format!("not committed within {PATIENCE:?}").into());
    }
    Ok(())
}

/// Records committed per second, one number for each window until `last` is committed.
fn sample(session: &Session, first: u64, last: u64) -> Vec<f64> {
    let mut windows = Vec::new();
    let (mut then, mut before) = (Instant::now(), first);
    while before < last && windows.len() < 10_000 {
        thread::sleep(WINDOW);
        let now = Instant::now();
        let committed = session.committed_seq();
        windows.push((committed - before) as f64 / now.duration_since(then).as_secs_f64());
        (then, before) = (now, committed);
    }
    windows.pop(); // the last one ended somewhere within
    windows
}

/// The reader sees the whole file or none.
fn write(path: &Path, json: &serde_json::Value) -> std::io::Result<()> {
    let partial = path.with_extension("tmp");
    std::fs::write(&partial, json.to_string())?;
    std::fs::rename(partial, path)
}
