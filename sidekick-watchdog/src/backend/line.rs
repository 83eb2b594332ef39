//! A line of NDJSON as a record: what must be in it.

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// What tells a record from every other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) source: String,
    pub(super) epoch: Uuid,
    pub(super) seq: u64,
}

/// A record, and the line it came in.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) key: Key,
    pub(super) stream: String,
    pub(super) time: String,
    pub(super) incarnation: u32,
    pub(super) data: Box<RawValue>,
    pub(super) line: String,
}

#[derive(Deserialize)]
struct Fields {
    source: String,
    epoch: Uuid,
    seq: u64,
    stream: String,
    time: String,
    incarnation: u32,
    data: Box<RawValue>,
}

impl Record {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        let fields: Fields = serde_json::from_str(line).map_err(|error| error.to_string())?;
        if fields.source.is_empty() || fields.stream.is_empty() {
            return Err("source or stream is empty".into());
        }
        if fields.seq == 0 || i64::try_from(fields.seq).is_err() {
            return Err(format!("seq is {}: it begins with 1", fields.seq));
        }
        if let Err(error) = fields.time.parse::<jiff::Timestamp>() {
            return Err(format!("time is no instant: {error}"));
        }
        Ok(Self {
            key: Key {
                source: fields.source,
                epoch: fields.epoch,
                seq: fields.seq,
            },
            stream: fields.stream,
            time: fields.time,
            incarnation: fields.incarnation,
            data: fields.data,
            line: line.to_owned(),
        })
    }
}
