//! Items as rows of PostgreSQL's COPY, in its text format, straight from the stored encoding.
//!
//! A row is two bytes that say which table it is for (its index among the sink's targets, little-endian), the columns'
//! values with a tab between each two, and a line feed. Tables and columns come from the configuration, so this form is
//! not pinned by a plan beyond its version: a batch is written as a whole or not at all, and what a try after a change of
//! the configuration writes stands alone.

use std::sync::Arc;

use sidekick_ipc::frame::hole_cause;
use sidekick_ipc::value::{self, Value as Variant};

use super::tables::{GAPS_INDEX, Tables, Value};
use crate::slab::SlabHead;
use crate::upload::encode::{
    Clock, Item, RowWriter, What, Written, gap_words, hole_words, put, realtime_ns,
};

/// The version of this form. NDJSON's are below 100.
pub const COPY_VERSION: u32 = 101;

/// How many bytes before a row's columns say where it goes.
pub(super) const INDEX_BYTES: usize = 2;

/// Floats beyond it cannot hold every whole number.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

#[derive(Debug)]
pub(super) struct CopyWriter {
    tables: Arc<Tables>,
    clock: Clock,
    /// The last record's stream and where it goes.
    known: Option<(String, u16)>,
}

impl CopyWriter {
    pub(super) fn new(tables: Arc<Tables>) -> Self {
        Self {
            tables,
            clock: Clock::default(),
            known: None,
        }
    }

    fn index(&mut self, stream: &str) -> u16 {
        match &self.known {
            Some((known, index)) if known == stream => *index,
            _ => {
                let index = self.tables.of_stream(stream);
                self.known = Some((stream.to_owned(), index));
                index
            }
        }
    }

    fn write_time(&mut self, head: &SlabHead, monotonic_ns: u64, out: &mut Vec<u8>) {
        self.clock.write(realtime_ns(head, monotonic_ns), out);
    }

    /// The columns of a record; false if its value cannot be decoded.
    fn write_record(
        &mut self,
        head: &SlabHead,
        item: &Item<'_>,
        stream: &str,
        variant: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), value::DecodeError> {
        let index = self.index(stream);
        out.extend_from_slice(&index.to_le_bytes());
        let tables = self.tables.clone();
        let columns = tables
            .targets
            .get(usize::from(index))
            .map_or(&[][..], |target| &target.columns);
        // Looked into once, and only where a column is a field of it.
        let mut decoded = None;
        for (number, (_, from)) in columns.iter().enumerate() {
            if number > 0 {
                out.push(b'\t');
            }
            match from {
                Value::Source => put_text(out, &head.source),
                Value::Epoch => put(out, format_args!("{}", head.epoch)),
                Value::Seq => put(out, format_args!("{}", item.seq)),
                Value::Stream => put_text(out, stream),
                Value::Time => self.write_time(head, item.monotonic_ns, out),
                Value::Incarnation => put(out, format_args!("{}", head.incarnation)),
                Value::Data => {
                    let start = out.len();
                    value::write_json(variant, out)?;
                    escape_from(out, start);
                }
                Value::Field(path) => {
                    let all = match &decoded {
                        Some(all) => all,
                        None => decoded.insert(value::decode(variant)?),
                    };
                    let field = path.iter().try_fold(all, |at, name| at.get(name));
                    put_field(out, field)?;
                }
            }
        }
        out.push(b'\n');
        Ok(())
    }

    /// A row of the table of gaps: `span` are the first and the last number lost, `times` the first and last refusal.
    fn write_gap(&mut self, head: &SlabHead, item: &Item<'_>, gap: &GapRow<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&GAPS_INDEX.to_le_bytes());
        put_text(out, &head.source);
        put(out, format_args!("\t{}\t{}\t", head.epoch, item.seq));
        self.write_time(head, item.monotonic_ns, out);
        put(out, format_args!("\t{}\t", head.incarnation));
        for number in [gap.count, gap.bytes, gap.first_seq, gap.last_seq] {
            match number {
                Some(number) => put(out, format_args!("{number}")),
                None => out.extend_from_slice(b"\\N"),
            }
            out.push(b'\t');
        }
        put_text(out, gap.cause);
        out.push(b'\t');
        match gap.stream {
            Some(stream) => put_text(out, stream),
            None => out.extend_from_slice(b"\\N"),
        }
        for time in gap
            .times
            .map_or([None, None], |(first, last)| [Some(first), Some(last)])
        {
            out.push(b'\t');
            match time {
                Some(time) => self.write_time(head, time, out),
                None => out.extend_from_slice(b"\\N"),
            }
        }
        out.push(b'\n');
    }
}

/// What a row of the table of gaps says.
#[derive(Debug, Default)]
struct GapRow<'a> {
    count: Option<u64>,
    bytes: Option<u64>,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
    cause: &'a str,
    stream: Option<&'a str>,
    times: Option<(u64, u64)>,
}

impl<'a> GapRow<'a> {
    fn lost(first_seq: u64, count: u64, cause: &'a str) -> Self {
        Self {
            count: Some(count),
            first_seq: Some(first_seq),
            last_seq: Some(first_seq.saturating_add(count.saturating_sub(1))),
            cause,
            ..Self::default()
        }
    }
}

impl RowWriter for CopyWriter {
    fn version(&self) -> u32 {
        COPY_VERSION
    }

    fn write(&mut self, head: &SlabHead, item: &Item<'_>, out: &mut Vec<u8>) -> Written {
        match &item.what {
            What::Record(record) => {
                let start = out.len();
                let written = self.write_record(head, item, record.stream, record.variant, out);
                let Err(error) = written else {
                    return Written::Record;
                };
                out.truncate(start);
                let cause = format!("undecodable: {error}");
                let gap = GapRow {
                    stream: Some(record.stream),
                    ..GapRow::lost(item.seq, 1, &cause)
                };
                self.write_gap(head, item, &gap, out);
                Written::Undecodable
            }
            What::Refused(gap) => {
                let cause = gap_words(gap.cause);
                let row = GapRow {
                    count: Some(gap.count),
                    bytes: Some(gap.bytes),
                    cause: &cause,
                    times: Some((gap.first_monotonic_ns, gap.last_monotonic_ns)),
                    ..GapRow::default()
                };
                self.write_gap(head, item, &row, out);
                Written::Gap
            }
            What::Lost {
                count,
                cause,
                stream,
            } => {
                let gap = GapRow {
                    stream: *stream,
                    ..GapRow::lost(item.seq, *count, cause)
                };
                self.write_gap(head, item, &gap, out);
                Written::Gap
            }
            // Never asked for: it has no row.
            What::Dropped { count, .. } => {
                let cause = hole_words(hole_cause::RULE);
                self.write_gap(head, item, &GapRow::lost(item.seq, *count, &cause), out);
                Written::Gap
            }
            What::TailUnknown => {
                let row = GapRow {
                    first_seq: Some(item.seq),
                    cause: "tail unknown",
                    ..GapRow::default()
                };
                self.write_gap(head, item, &row, out);
                Written::Gap
            }
        }
    }
}

/// A field as the text that a column of its type takes: a whole float without its fraction, so that a column of whole
/// numbers takes it too; what has parts as JSON.
fn put_field(out: &mut Vec<u8>, field: Option<&Variant>) -> Result<(), value::DecodeError> {
    match field {
        None | Some(Variant::Nil) => out.extend_from_slice(b"\\N"),
        Some(Variant::Bool(yes)) => put(out, format_args!("{yes}")),
        Some(Variant::Int(number)) => put(out, format_args!("{number}")),
        Some(Variant::Float(number)) if number.fract() == 0.0 && number.abs() < WHOLE_MAX => {
            put(out, format_args!("{number:.0}"));
        }
        Some(Variant::Float(number)) => put(out, format_args!("{number}")),
        Some(Variant::String(text) | Variant::StringName(text)) => put_text(out, text),
        Some(other) => {
            let start = out.len();
            value::write_json(&value::encode(other), out)?;
            escape_from(out, start);
        }
    }
    Ok(())
}

/// A text, escaped for COPY. A NUL, which PostgreSQL has no place for, becomes U+FFFD as in Godot's own strings.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let is_plain = |b: u8| b > 0x1f && b != b'\\';
    if text.bytes().all(is_plain) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for c in text.chars() {
        match c {
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\0' => out.extend_from_slice("\u{fffd}".as_bytes()),
            c => {
                let mut bytes = [0; 4];
                out.extend_from_slice(c.encode_utf8(&mut bytes).as_bytes());
            }
        }
    }
}

/// Doubles the backslashes from `start` on. JSON has nothing else that COPY would take for more than it is.
fn escape_from(out: &mut Vec<u8>, start: usize) {
    let added = out
        .get(start..)
        .map_or(0, |json| json.iter().filter(|b| **b == b'\\').count());
    if added == 0 {
        return;
    }
    let mut from = out.len();
    let mut to = from + added;
    out.resize(to, 0);
    // From the end on, so that nothing is overwritten before it is moved.
    while from < to {
        from -= 1;
        to -= 1;
        let byte = out[from];
        out[to] = byte;
        if byte == b'\\' {
            to -= 1;
            out[to] = byte;
        }
    }
}

/// The columns of a row without its index and its line feed; `None` is NULL. What COPY would make of it.
pub(super) fn columns(row: &str) -> impl Iterator<Item = Option<String>> {
    row.split('\t').map(|column| {
        if column == "\\N" {
            return None;
        }
        let mut text = String::with_capacity(column.len());
        let mut chars = column.chars();
        while let Some(c) = chars.next() {
            text.push(match c {
                '\\' => match chars.next() {
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some(other) => other,
                    None => '\\',
                },
                c => c,
            });
        }
        Some(text)
    })
}

#[cfg(test)]
mod tests;
