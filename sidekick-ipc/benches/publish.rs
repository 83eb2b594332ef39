//! What one record, and one frame of the main loop, costs the engine: in this process, the ring being drained in
//! between.
//!
//! `cargo bench -p sidekick-ipc --bench publish`. One JSON object a line; `value` is the median of the batches' means.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidekick_ipc::frame::{FRAME_HEADER_BYTES, crc_seed, frame_bytes, seal};
use sidekick_ipc::layout::RingLayout;
use sidekick_ipc::region::HeapRegion;
use sidekick_ipc::ring::{Consumer, Producer};
use sidekick_ipc::*;

const BATCH: u64 = 1000;
const BATCHES: usize = 2000;

/// Nanoseconds per call, sorted, one value per batch. `between` runs unmeasured.
fn measure(mut call: impl FnMut(u64), mut between: impl FnMut()) -> Vec<f64> {
    let mut samples = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        let started = Instant::now();
        (0..BATCH).for_each(&mut call);
        samples.push(started.elapsed().as_nanos() as f64 / BATCH as f64);
        between();
    }
    samples.sort_by(f64::total_cmp);
    samples
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() as f64 * share) as usize).min(sorted.len() - 1)]
}

fn report(case: &str, samples: &[f64], beside: &[(&str, f64)]) {
    let beside: serde_json::Map<_, _> = beside
        .iter()
        .map(|(name, ns)| ((*name).to_owned(), round(*ns)))
        .collect();
    let line = serde_json::json!({
        "bench": "record", "case": case, "value": round(at(samples, 0.5)), "unit": "ns",
        "n": samples.len() as u64 * BATCH, "min": round(samples[0]), "p50": round(at(samples, 0.5)),
        "p95": round(at(samples, 0.95)), "p99": round(at(samples, 0.99)), "beside": beside,
    });
    println!("{line}");
}

fn round(ns: f64) -> serde_json::Value {
    ((ns * 10.0).round() / 10.0).into()
}

fn main() {
    let dir = tempfile::tempdir_in(if std::path::Path::new("/dev/shm").is_dir() {
        "/dev/shm".into()
    } else {
        std::env::temp_dir()
    })
    .expect("a directory for the ring");
    let session = Session::create(SessionOptions {
        runtime_dir: dir.path().to_owned(),
        launch: 1,
        incarnation: 1,
        ring_bytes: 16 << 20,
        when_full: WhenFull::Refuse,
        block_max: Duration::ZERO,
        spill_bytes_max: 0,
        keep: Vec::new(),
        library_version: "bench".to_owned(),
        game_version: String::new(),
    })
    .expect("a session");
    let name = scan(dir.path()).expect("a list").remove(0);
    let mut attachment = Attachment::open(&name).expect("an attachment");
    attachment.resume(1, ReaderCheckpoint::default());

    let mut target = vec![0u8; 16 << 20];
    let source = [7u8; 150];
    let copied = measure(
        |i| {
            let start = (i as usize * 184) % ((16 << 20) - 200);
            target[start..start + 150].copy_from_slice(black_box(&source));
            black_box(&mut target);
        },
        || {},
    );
    let clock = measure(
        |_| {
            black_box(sys::monotonic_ns());
        },
        || {},
    );
    let beside = [("memcpy", at(&copied, 0.5)), ("clock", at(&clock, 0.5))];

    for bytes in [50usize, 150, 1000, 10_000] {
        let value = vec![7u8; bytes];
        let mut out = Vec::new();
        let samples = measure(
            |_| {
                let taken = session.record("bench", black_box(&value)).is_ok();
                assert!(taken, "the ring is full");
            },
            || {
                out.clear();
                let drained = attachment.drain(&mut out, usize::MAX).expect("frames");
                attachment.release(drained.first_seq + drained.count - 1, &drained.checkpoint);
            },
        );
        report(&format!("session_record_{bytes}B"), &samples, &beside);
    }

    let samples = measure(|_| session.on_frame(Phase::Running), || {});
    report("on_frame", &samples, &beside);
    // All that the extension does in a frame in which nothing happened but the engine's call and its own branches.
    let samples = measure(
        |_| {
            let look = session.look();
            if look.has_message || look.is_fenced {
                std::hint::black_box(&look);
            }
            session.on_frame_at(Phase::Running, look.monotonic_ns);
        },
        || {},
    );
    report("frame_hook", &samples, &beside);

    // The ring alone: checksum, words, commit; no lock, no clock.
    let layout = RingLayout {
        tail: 0,
        head: 128,
        data: 256,
        capacity: 1 << 20,
    };
    let region = Arc::new(HeapRegion::new(256 + (1 << 20)));
    let seed = crc_seed(&session.epoch());
    let mut producer = Producer::attach(Arc::clone(&region), layout);
    let consumer = Consumer::new(region, layout, seed, 0, FrameKind::is_uplink);
    let mut frame = vec![7u8; frame_bytes(150)];
    let mut seq = 0;
    let tail = std::cell::Cell::new(0);
    let samples = measure(
        |_| {
            seq += 1;
            frame[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + 150].copy_from_slice(black_box(&source));
            seal(&mut frame, seed, 1, 150, seq, seq);
            assert!(producer.publish(&frame).is_ok(), "the ring is full");
            tail.set(producer.tail());
        },
        || consumer.release(tail.get()),
    );
    report("publish_150B", &samples, &beside);

    let mut out = Vec::with_capacity(1 << 20);
    let value = vec![7u8; 150];
    let mut samples = Vec::new();
    for _ in 0..BATCHES {
        for _ in 0..BATCH {
            assert!(session.record("bench", &value).is_ok(), "the ring is full");
        }
        out.clear();
        let started = Instant::now();
        let drained = attachment.drain(&mut out, usize::MAX).expect("frames");
        samples.push(started.elapsed().as_nanos() as f64 / BATCH as f64);
        attachment.release(drained.first_seq + drained.count - 1, &drained.checkpoint);
    }
    samples.sort_by(f64::total_cmp);
    report("drain_150B", &samples, &beside);
}
