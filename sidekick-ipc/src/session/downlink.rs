//! The watchdog's messages, read by the game's thread once per frame.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::file::Current;
use super::{Session, lock};
use crate::frame::FRAME_HEADER_BYTES;
use crate::message::DownlinkMessage;
use crate::region::Mapping;
use crate::ring::Consumer;

impl Session {
    /// The next message of the watchdog, if there is one. `out` is scratch space that saves allocations.
    ///
    /// A damaged downlink is skipped to its end.
    pub fn poll_downlink(&self, out: &mut Vec<u8>) -> Option<DownlinkMessage> {
        if self.has_leftover.load(Relaxed) {
            let mut leftover = lock(&self.leftover);
            if let Some(message) = leftover.pop_front() {
                return Some(message);
            }
            self.has_leftover.store(false, Relaxed);
        }
        read_downlink(&self.current(), out)
    }
}

/// The next message in a file's downlink.
pub(super) fn read_downlink(current: &Current, out: &mut Vec<u8>) -> Option<DownlinkMessage> {
    let mut consumer = lock(&current.downlink);
    loop {
        let position = consumer.position();
        let header = match consumer.peek() {
            Ok(header) => header?,
            Err(_) => {
                skip_damage(&mut consumer);
                return None;
            }
        };
        out.clear();
        if header.seq != position || consumer.take(header, out).is_err() {
            skip_damage(&mut consumer);
            return None;
        }
        consumer.release(consumer.position());
        let end = FRAME_HEADER_BYTES.saturating_add(header.len as usize);
        let payload = out.get(FRAME_HEADER_BYTES..end).unwrap_or_default();
        if let Ok(message) = DownlinkMessage::parse(payload) {
            return Some(message);
        }
    }
}

fn skip_damage(consumer: &mut Consumer<Arc<Mapping>>) {
    consumer.skip_to_tail();
    consumer.release(consumer.position());
}
