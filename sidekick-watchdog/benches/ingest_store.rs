//! How fast slabs are committed, beside what the disk can do with the same bytes.
//!
//! Prints one JSON object a line. `beside.fdatasync` is the rate of a loop that writes slabs of the same size to a
//! pre-zeroed file with one fdatasync for as many as the store's own batches held on average.
//! `SIDEKICK_BENCH_SECONDS` (default 3) sets the length of each case.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sidekick_ipc::frame::append_frame;
use sidekick_watchdog::slab::{RingCheckpoint, Slab, SlabHead};
use sidekick_watchdog::store::{Store, StoreConfig};
use uuid::Uuid;

/// Slabs in flight.
const WINDOW: usize = 32;

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted
        .get((sorted.len().saturating_sub(1)) * percent / 100)
        .copied()
        .unwrap_or(0)
}

/// Slabs of `frames` bytes in batches of `batch`, each batch made durable; returns slabs per second.
fn plain(dir: &Path, frames: &[u8], batch: usize, seconds: f64) -> f64 {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(dir.join("plain"))
        .unwrap();
    let bytes: Vec<u8> = (0..batch).flat_map(|_| frames).copied().collect();
    let size = (64_usize << 20) / bytes.len().max(1) * bytes.len();
    file.write_all_at(&vec![0; size.max(bytes.len())], 0)
        .unwrap();
    file.sync_all().unwrap();
    let started = Instant::now();
    let mut written = 0;
    let mut at = 0;
    while started.elapsed().as_secs_f64() < seconds {
        file.write_all_at(&bytes, at as u64).unwrap();
        file.sync_data().unwrap();
        written += batch;
        at += bytes.len();
        if at + bytes.len() > size {
            at = 0;
        }
    }
    written as f64 / started.elapsed().as_secs_f64()
}

async fn ingest(dir: &Path, records: u64, payload: usize, seconds: f64) {
    let epoch = Uuid::new_v4();
    let store = Store::open(StoreConfig::new(dir.join("store")))
        .await
        .unwrap();
    store.session_opened("bench", epoch, 1, 0).await.unwrap();
    let mut frames = Vec::new();
    for seq in 1..=records {
        let payload: Vec<u8> = (0..payload).map(|_| fastrand::u8(..)).collect();
        append_frame(&mut frames, &epoch, 1, seq, 0, &payload);
    }
    let frames = Bytes::from(frames);
    let slab = |first_seq| Slab {
        head: SlabHead {
            source: "bench".into(),
            epoch,
            incarnation: 1,
            realtime_offset_ns: 0,
            first_seq,
            count: records,
            checkpoint: RingCheckpoint::default(),
        },
        frames: frames.clone(),
    };
    let before = store.stats().log;
    let started = Instant::now();
    let mut next = 1;
    let mut flying = VecDeque::new();
    let mut latencies = Vec::new();
    while started.elapsed() < Duration::from_secs_f64(seconds) {
        while flying.len() < WINDOW {
            let submitted = Instant::now();
            flying.push_back((submitted, store.submit(slab(next)).await.unwrap()));
            next += records;
        }
        if let Some((submitted, ticket)) = flying.pop_front() {
            ticket.wait().await.unwrap();
            latencies.push(submitted.elapsed().as_micros() as u64);
        }
    }
    for (submitted, ticket) in flying {
        ticket.wait().await.unwrap();
        latencies.push(submitted.elapsed().as_micros() as u64);
    }
    let elapsed = started.elapsed().as_secs_f64();
    let log = store.stats().log;
    let slabs = latencies.len();
    let syncs = (log.syncs - before.syncs).max(1);
    let batch = (slabs as u64).div_ceil(syncs).max(1) as usize;
    store.shutdown().await;
    let limit = plain(dir, &frames, batch, seconds) * records as f64;
    latencies.sort_unstable();
    let rate = (slabs as u64 * records) as f64 / elapsed;
    println!(
        "{{\"bench\":\"ingest\",\"case\":\"slab_{records}x{payload}\",\"value\":{rate:.0},\"unit\":\"records/s\",\"n\":{slabs},\
         \"p50\":{},\"p95\":{},\"p99\":{},\"latency_unit\":\"us\",\"mb_per_s\":{:.1},\"slabs_per_sync\":{:.2},\
         \"beside\":{{\"fdatasync\":{limit:.0}}},\"of_limit\":{:.2}}}",
        percentile(&latencies, 50),
        percentile(&latencies, 95),
        percentile(&latencies, 99),
        slabs as f64 * frames.len() as f64 / elapsed / 1e6,
        slabs as f64 / syncs as f64,
        rate / limit,
    );
}

fn main() {
    let seconds = std::env::var("SIDEKICK_BENCH_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(3.0);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    for (records, payload) in [(1, 150), (16, 150), (256, 150), (1024, 150)] {
        let dir = tempfile::tempdir().unwrap();
        runtime.block_on(ingest(dir.path(), records, payload, seconds));
    }
}
