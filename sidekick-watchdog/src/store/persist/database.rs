//! One look into the database: opened, read or written, closed.
//!
//! sled's own `flush` is not durable on Linux, its large values go to files that are never fsynced. Hence: 8 MiB
//! segments and chunks of at most 64 KiB (no such files), and an fdatasync of its `db` file after each flush.

use std::path::Path;

use super::Fault;
use crate::platform;

/// Larger values would go to files of their own, which are never fsynced.
const CHUNK_BYTES: usize = 64 << 10;
const CACHE_BYTES: u64 = 2 << 20;
const SEGMENT_BYTES: usize = 8 << 20;
const COUNT: &[u8] = b"count";
/// The file that sled keeps everything in.
const DB: &str = "db";

fn fault(error: sled::Error) -> Fault {
    match error {
        sled::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            Fault::DiskFull
        }
        error => Fault::Unusable(error.to_string()),
    }
}

fn unusable(why: &str) -> Fault {
    Fault::Unusable(why.to_owned())
}

fn open(directory: &Path) -> Result<sled::Db, Fault> {
    // It locks its file, of which a program that another test starts may have a copy for a moment.
    #[cfg(test)]
    drop(crate::platform::nothing_is_started());
    sled::Config::default()
        .path(directory)
        .cache_capacity(CACHE_BYTES)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(None)
        .open()
        .map_err(fault)
}

/// The bytes that were saved last; none if there is no database.
pub(super) fn load(directory: &Path) -> Result<Vec<u8>, Fault> {
    match std::fs::metadata(directory) {
        Ok(data) if !data.is_dir() => return Err(unusable("it is not a directory")),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Fault::NotTried(error.to_string())),
    }
    let db = open(directory)?;
    let Some(count) = db.get(COUNT).map_err(fault)? else {
        return Ok(Vec::new());
    };
    let count: [u8; 4] = count
        .as_ref()
        .try_into()
        .map_err(|_| unusable("its count is not one"))?;
    let mut bytes = Vec::new();
    for chunk in 0..u32::from_le_bytes(count) {
        let part = db.get(chunk.to_be_bytes()).map_err(fault)?;
        bytes.extend_from_slice(&part.ok_or_else(|| unusable("a chunk is missing"))?);
    }
    Ok(bytes)
}

/// Saves `bytes`; durable when this returns.
pub(super) fn save(directory: &Path, bytes: &[u8]) -> Result<(), Fault> {
    // sled would let everybody in; what is in the way is sled's to complain of.
    let _ = platform::create_private_dir(directory);
    let db = open(directory)?;
    let mut batch = sled::Batch::default();
    let mut count = 0_u32;
    for chunk in bytes.chunks(CHUNK_BYTES) {
        batch.insert(&count.to_be_bytes(), chunk);
        count += 1;
    }
    batch.insert(COUNT, &count.to_le_bytes());
    db.apply_batch(batch).map_err(fault)?;
    db.flush().map_err(fault)?;
    std::fs::File::open(directory.join(DB))
        .and_then(|file| file.sync_data())
        .map_err(|error| fault(error.into()))
}
