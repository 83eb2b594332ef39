//! The session's file: made under a name that nobody looks at, and complete when it gets its own.

use std::fs::File;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use uuid::Uuid;

use super::{SessionError, SessionOptions};
use crate::frame::{FrameKind, crc_seed};
use crate::header::{self, SessionInfo};
use crate::layout::{self, RingLayout};
use crate::name::{ring_name, temporary_name};
use crate::region::{Mapping, Region, Side};
use crate::ring::Consumer;
use crate::sys::{self, Dir};

/// 64 pages of 4 KiB, about 0.1 ms.
const PREFAULT_BYTES_PER_FRAME: usize = 256 << 10;

/// The ring file in use.
pub(super) struct Current {
    pub(super) mapping: Arc<Mapping>,
    /// Holds the lock that proves this process alive.
    _file: File,
    pub(super) rotation: u32,
    pub(super) downlink: Mutex<Consumer<Arc<Mapping>>>,
    /// Up to where the file's pages were touched.
    prefaulted: AtomicUsize,
}

impl Current {
    /// Touches some more of the ring's pages, until all were. All at once takes some milliseconds, in which a server that was started again
    /// would not serve yet.
    #[inline]
    pub(super) fn prefault_some(&self) {
        if self.prefaulted.load(Relaxed) < self.mapping.bytes() {
            self.prefault_next();
        }
    }

    #[cold]
    fn prefault_next(&self) {
        let start = self.prefaulted.fetch_add(PREFAULT_BYTES_PER_FRAME, Relaxed);
        let end = start.saturating_add(PREFAULT_BYTES_PER_FRAME);
        self.mapping.prefault(start, end);
    }
}

/// Where and how the files of a session are made.
pub(super) struct Place<'a> {
    pub(super) dir: &'a Dir,
    pub(super) options: &'a SessionOptions,
    pub(super) epoch: Uuid,
    pub(super) ring_bytes: usize,
}

impl Place<'_> {
    /// Makes the file, locked, mapped and with its final name; `fill` runs before it has that. Leaves nothing behind on
    /// an error.
    pub(super) fn make(
        &self,
        rotation: u32,
        first_seq: u64,
        spill_first: u32,
        fill: impl FnOnce(&Mapping),
    ) -> Result<Current, SessionError> {
        let temporary = temporary_name(&self.epoch, rotation);
        let result = self.make_named(&temporary, rotation, first_seq, spill_first, fill);
        if result.is_err() {
            let _ = self.dir.remove(&temporary);
        }
        result
    }

    fn make_named(
        &self,
        temporary: &str,
        rotation: u32,
        first_seq: u64,
        spill_first: u32,
        fill: impl FnOnce(&Mapping),
    ) -> Result<Current, SessionError> {
        let path = self.dir.path().join(temporary);
        let failed = |action| {
            let path = path.clone();
            move |source| SessionError {
                action,
                path,
                source,
            }
        };
        let bytes = layout::file_bytes(self.ring_bytes);
        let file = self
            .dir
            .create_new(temporary)
            .map_err(failed("create the ring file"))?;
        sys::lock_exclusive(&file).map_err(failed("lock the ring file"))?;
        sys::allocate(&file, bytes as u64).map_err(failed("allocate the ring file"))?;
        let mapping = Mapping::create(&file, bytes).map_err(failed("map the ring file"))?;
        mapping.keep_from_children();
        mapping.prefault(0, layout::D);
        let pid = std::process::id();
        let info = SessionInfo {
            epoch: self.epoch,
            launch: self.options.launch,
            incarnation: self.options.incarnation,
            rotation,
            first_seq,
            spill_first,
            pid,
            pid_start_time: sys::process_start_time(pid).unwrap_or(0),
            boot_id: sys::boot_id(),
            monotonic_base_ns: sys::monotonic_ns(),
            realtime_base_ns: sys::realtime_ns(),
            ring_bytes: self.ring_bytes as u64,
            library_version: self.options.library_version.clone(),
            game_version: self.options.game_version.clone(),
        };
        mapping.copy_in(layout::H, &header::encode(&info));
        let offset_ns = info.realtime_offset_ns().cast_unsigned();
        mapping.store(layout::P_REALTIME_OFFSET_NS, offset_ns, Relaxed);
        mapping.store(layout::P_BEGUN_NS, info.monotonic_base_ns, Relaxed);
        fill(&mapping);
        mapping
            .protect(Side::Engine)
            .map_err(failed("protect the ring file's regions"))?;
        let name = ring_name(self.options.launch, &self.epoch, rotation);
        self.dir
            .rename_new(temporary, &name)
            .map_err(failed("rename the ring file"))?;
        let mapping = Arc::new(mapping);
        let downlink = Consumer::new(
            Arc::clone(&mapping),
            RingLayout::downlink(),
            crc_seed(&self.epoch),
            0,
            FrameKind::is_downlink,
        );
        Ok(Current {
            mapping,
            _file: file,
            rotation,
            downlink: Mutex::new(downlink),
            prefaulted: AtomicUsize::new(layout::D),
        })
    }
}
