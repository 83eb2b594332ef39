//! Items as lines of NDJSON.

use sidekick_ipc::frame::hole_cause;

use super::cause::{gap_words, hole_words};
use super::clock::{Clock, realtime_ns};
use super::{ENCODER_VERSION, GAP_STREAM, Item, RowWriter, What, Written, put};
use crate::slab::SlabHead;

/// Writes items as lines. Keeps what successive lines have in common.
#[derive(Debug, Default)]
pub struct LineWriter {
    clock: Clock,
    head: Option<SlabHead>,
    /// `{"source":…,"epoch":…,"seq":`
    before_seq: Vec<u8>,
    /// `,"incarnation":…,"data":`
    before_data: Vec<u8>,
}

impl RowWriter for LineWriter {
    fn version(&self) -> u32 {
        ENCODER_VERSION
    }

    /// One line, with its line feed.
    fn write(&mut self, head: &SlabHead, item: &Item<'_>, out: &mut Vec<u8>) -> Written {
        self.prepare(head);
        let start = out.len();
        let written = match &item.what {
            What::Record(record) => {
                self.write_until_data(head, item, record.stream, out);
                match sidekick_ipc::value::write_json(record.variant, out) {
                    Ok(()) => Written::Record,
                    Err(error) => {
                        out.truncate(start);
                        self.write_until_data(head, item, GAP_STREAM, out);
                        write_lost(
                            out,
                            item.seq,
                            1,
                            &format!("undecodable: {error}"),
                            Some(record.stream),
                        );
                        Written::Undecodable
                    }
                }
            }
            What::Refused(gap) => {
                self.write_until_data(head, item, GAP_STREAM, out);
                put(
                    out,
                    format_args!(
                        "{{\"count\":{},\"bytes\":{},\"cause\":",
                        gap.count, gap.bytes
                    ),
                );
                put_string(out, &gap_words(gap.cause));
                out.extend_from_slice(b",\"first_time\":\"");
                self.clock
                    .write(realtime_ns(head, gap.first_monotonic_ns), out);
                out.extend_from_slice(b"\",\"last_time\":\"");
                self.clock
                    .write(realtime_ns(head, gap.last_monotonic_ns), out);
                out.extend_from_slice(b"\"}");
                Written::Gap
            }
            What::Lost {
                count,
                cause,
                stream,
            } => {
                self.write_until_data(head, item, GAP_STREAM, out);
                write_lost(out, item.seq, *count, cause, *stream);
                Written::Gap
            }
            // Never asked for: it has no row.
            What::Dropped { count, .. } => {
                self.write_until_data(head, item, GAP_STREAM, out);
                write_lost(out, item.seq, *count, &hole_words(hole_cause::RULE), None);
                Written::Gap
            }
            What::TailUnknown => {
                self.write_until_data(head, item, GAP_STREAM, out);
                put(
                    out,
                    format_args!(
                        "{{\"count\":null,\"first_seq\":{},\"last_seq\":null,\"cause\":\"tail unknown\"}}",
                        item.seq
                    ),
                );
                Written::Gap
            }
        };
        out.extend_from_slice(b"}\n");
        written
    }
}

impl LineWriter {
    fn prepare(&mut self, head: &SlabHead) {
        let same = self.head.as_ref().is_some_and(|known| {
            known.epoch == head.epoch
                && known.incarnation == head.incarnation
                && known.source == head.source
        });
        if same {
            return;
        }
        self.before_seq.clear();
        self.before_seq.extend_from_slice(b"{\"source\":");
        put_string(&mut self.before_seq, &head.source);
        put(
            &mut self.before_seq,
            format_args!(",\"epoch\":\"{}\",\"seq\":", head.epoch),
        );
        self.before_data.clear();
        put(
            &mut self.before_data,
            format_args!("\",\"incarnation\":{},\"data\":", head.incarnation),
        );
        self.head = Some(head.clone());
    }

    fn write_until_data(
        &mut self,
        head: &SlabHead,
        item: &Item<'_>,
        stream: &str,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(&self.before_seq);
        put(out, format_args!("{}", item.seq));
        out.extend_from_slice(b",\"stream\":");
        put_string(out, stream);
        out.extend_from_slice(b",\"time\":\"");
        self.clock.write(realtime_ns(head, item.monotonic_ns), out);
        out.extend_from_slice(&self.before_data);
    }
}

fn write_lost(out: &mut Vec<u8>, first_seq: u64, count: u64, cause: &str, stream: Option<&str>) {
    let last_seq = first_seq.saturating_add(count.saturating_sub(1));
    put(
        out,
        format_args!(
            "{{\"count\":{count},\"first_seq\":{first_seq},\"last_seq\":{last_seq},\"cause\":"
        ),
    );
    put_string(out, cause);
    if let Some(stream) = stream {
        out.extend_from_slice(b",\"stream\":");
        put_string(out, stream);
    }
    out.push(b'}');
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    let plain = text
        .bytes()
        .all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\');
    if plain {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing a str to a Vec cannot fail.
        let _ = serde_json::to_writer(out, text);
    }
}
