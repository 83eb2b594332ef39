//! Messages of the downlink: replies and events from the watchdog to the engine.

use crate::frame::FrameError;

/// Largest body of a downlink message in bytes.
pub const MESSAGE_BODY_BYTES_MAX: usize = crate::frame::RECORD_BYTES_MAX - HEAD_BYTES;
const HEAD_BYTES: usize = 12;

/// One message to the engine. Delivered at most once: what must survive belongs into a control level or the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DownlinkMessage {
    /// What it is; the engine ignores kinds that it does not know.
    pub kind: u32,
    /// Number of the request that it answers; 0 for an event.
    pub request: u64,
    /// What it says, as its kind defines; at most [`MESSAGE_BODY_BYTES_MAX`] bytes.
    pub body: Vec<u8>,
}

impl DownlinkMessage {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&self.request.to_le_bytes());
        out.extend_from_slice(&self.body);
    }

    pub(crate) fn parse(payload: &[u8]) -> Result<DownlinkMessage, FrameError> {
        let error = FrameError::Payload {
            what: "message",
            bytes: payload.len(),
        };
        let (kind, rest) = payload.split_first_chunk::<4>().ok_or(error)?;
        let (request, body) = rest.split_first_chunk::<8>().ok_or(error)?;
        Ok(DownlinkMessage {
            kind: u32::from_le_bytes(*kind),
            request: u64::from_le_bytes(*request),
            body: body.to_vec(),
        })
    }
}
