//! What a tree of 100 MiB costs the writing of the state, and what that costs those who commit meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use sidekick_ipc::tree::{Path as NodePath, Put, StoreOp, TransactionOp};
use uuid::Uuid;

use super::*;
use crate::store::{Store, StoreConfig};

const TREE_BYTES: usize = 100 << 20;
/// Below the limit of a transaction.
const PER_TRANSACTION_BYTES: usize = 900 << 10;

fn put(at: &str, bytes: usize) -> Put {
    let value = sidekick_ipc::value::Value::PackedByteArray(vec![7; bytes]);
    let value = sidekick_ipc::value::encode(&value);
    Put::new(NodePath::new(at).unwrap(), Some(value))
}

fn resident_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    pages >> 8
}

/// Run by hand, optimized and on a quiet machine: how long the state is locked while it is copied, how long encoding takes, and the slowest
/// commit meanwhile, for a tree of large and one of small values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "tells times, holds none"]
async fn how_long_a_large_tree_holds_up_commits() {
    for value_bytes in [64 << 10, 1 << 10] {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(StoreConfig::new(dir.path())).await.unwrap());
        let client = Uuid::from_u128(1);
        let per_transaction = (PER_TRANSACTION_BYTES / value_bytes).min(128);
        let count = TREE_BYTES / value_bytes;
        for (number, first) in (0..count).step_by(per_transaction).enumerate() {
            let puts = first..(first + per_transaction).min(count);
            let op = StoreOp::Transaction {
                compare: Vec::new(),
                then: puts
                    .map(|node| {
                        TransactionOp::Put(put(&format!("/n{}/{node}", node % 100), value_bytes))
                    })
                    .collect(),
                otherwise: Vec::new(),
            };
            let done = store.execute(client, number as u64 + 1, &op).await.unwrap();
            assert!(
                matches!(done, sidekick_ipc::tree::StoreResult::Ok(_)),
                "{done:?}"
            );
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn({
            let (store, is_over) = (Arc::clone(&store), Arc::clone(&is_over));
            async move {
                let (mut slowest, mut number) = ([Duration::ZERO; 2], 0_usize);
                while !is_over.load(Ordering::Relaxed) || number < 200 {
                    number += 1;
                    let op = StoreOp::Put(put(&format!("/w/{}", number % 10), number % 100));
                    let begun = Instant::now();
                    let done = store.execute(Uuid::from_u128(2), number as u64, &op).await;
                    done.unwrap();
                    let phase = usize::from(number > 100);
                    slowest[phase] = slowest[phase].max(begun.elapsed());
                }
                slowest
            }
        });
        let machine = Arc::clone(&store.parts.machine);
        let saved = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(500));
            let begun = Instant::now();
            let state = machine.read(State::clone);
            let copied = begun.elapsed();
            let before = resident_mib();
            let begun = Instant::now();
            let bytes = snapshot::seal(&state).unwrap();
            (
                copied,
                begun.elapsed(),
                bytes.len() >> 20,
                before,
                resident_mib(),
            )
        });
        let (copied, sealed, mib, before, after) = saved.await.unwrap();
        is_over.store(true, Ordering::Relaxed);
        let slowest = writer.await.unwrap();
        println!(
            "{count} nodes: locked for {copied:?}, encoded {mib} MiB in {sealed:?}, resident {before} -> {after} MiB; slowest commit of the \
             first 100 {:?}, later {:?}",
            slowest[0], slowest[1]
        );
        store.shutdown().await;
    }
}
