//! The tree as text and back: NDJSON, one node a line, a head and a checksum around them.
//!
//! Leases are not exported: they belong to who holds them. Nodes that are only there for others come back with these.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sidekick_ipc::tree::{Path, Put, StoreOp};

use super::Tree;
use crate::store::codec;

const FORMAT: &str = "sidekick-tree";
const VERSION: u32 = 1;

/// Why a text is no exported tree. Nothing of it was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A line is not what it should be.
    #[error("line {line}: {what}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// The last line is missing or does not fit what comes before.
    #[error("the file is cut off or was changed: {what}; export it again")]
    Checksum {
        /// What does not fit.
        what: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: String,
    version: u32,
    revision: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    path: Path,
    /// Godot's encoding, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// bincode, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keep_while: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tail {
    nodes: u64,
    /// Of all bytes before this line.
    crc32: u32,
}

fn add(out: &mut String, line: &impl Serialize) -> Result<(), String> {
    let line = serde_json::to_string(line).map_err(|error| error.to_string())?;
    writeln!(out, "{line}").map_err(|error| error.to_string())
}

impl Tree {
    /// The tree as text.
    pub(crate) fn export(&self) -> Result<String, String> {
        let mut out = String::new();
        let head = Head {
            format: FORMAT.to_owned(),
            version: VERSION,
            revision: self.revision,
        };
        add(&mut out, &head)?;
        let mut nodes = 0;
        for (path, node) in self.nodes.iter().filter(|(_, node)| node.is_put) {
            let keep_while = match node.keep_while.is_empty() {
                true => None,
                false => {
                    let bytes = codec::encode("conditions", &node.keep_while)
                        .map_err(|error| error.to_string())?;
                    Some(STANDARD.encode(bytes))
                }
            };
            let line = Line {
                path: path.clone(),
                value: node.value.as_ref().map(|value| STANDARD.encode(&**value)),
                keep_while,
            };
            add(&mut out, &line)?;
            nodes += 1;
        }
        let crc32 = crc32fast::hash(out.as_bytes());
        add(&mut out, &Tail { nodes, crc32 })?;
        Ok(out)
    }
}

/// Reads what [`Tree::export`] made: ops that make its nodes, to be applied in this order. All of the text is checked
/// first. A keep-while that does not hold in the tree that it comes into is refused there; its node stays without it.
pub(crate) fn import(text: &str) -> Result<Vec<StoreOp>, ImportError> {
    let checksum = |what: &str| ImportError::Checksum {
        what: what.to_owned(),
    };
    let whole = text
        .strip_suffix('\n')
        .ok_or_else(|| checksum("the last line has no end"))?;
    let (body, tail) = whole
        .rsplit_once('\n')
        .ok_or_else(|| checksum("there is one line only"))?;
    let tail: Tail = serde_json::from_str(tail)
        .map_err(|error| checksum(&format!("the last line is no checksum: {error}")))?;
    let end = body.len() + 1;
    if text.get(..end).map(|body| crc32fast::hash(body.as_bytes())) != Some(tail.crc32) {
        return Err(checksum("the checksum is another one"));
    }
    let at = |line: usize, what: String| ImportError::Line {
        line: line + 1,
        what,
    };
    let mut lines = body.lines().enumerate();
    let head: Head = match lines.next() {
        Some((_, line)) => {
            serde_json::from_str(line).map_err(|error| at(0, format!("no head: {error}")))?
        }
        None => return Err(checksum("it is empty")),
    };
    if head.format != FORMAT || head.version != VERSION {
        let (format, version) = (head.format, head.version);
        let what =
            format!("format {format:?} version {version}, this program knows {FORMAT:?} {VERSION}");
        return Err(at(0, what));
    }
    let mut ops = Vec::new();
    let mut kept = Vec::new();
    for (number, line) in lines {
        let line: Line =
            serde_json::from_str(line).map_err(|error| at(number, error.to_string()))?;
        let decode = |text: Option<String>| {
            text.map(|text| STANDARD.decode(text))
                .transpose()
                .map_err(|error| at(number, format!("not base64: {error}")))
        };
        let value = decode(line.value)?;
        if let Some(value) = &value {
            sidekick_ipc::value::check(value).map_err(|error| at(number, error.to_string()))?;
        }
        let mut put = Put::new(line.path, value);
        if let Some(keep_while) = decode(line.keep_while)? {
            put.keep_while = codec::decode("conditions", &keep_while)
                .map_err(|error| at(number, error.to_string()))?;
        }
        let op = StoreOp::Put(put.clone());
        op.check().map_err(|error| at(number, error.to_string()))?;
        // Everything has to be there before anything asks for it.
        if !put.keep_while.is_empty() {
            put.keep_while.clear();
            kept.push(op);
        }
        ops.push(StoreOp::Put(put));
    }
    if ops.len() as u64 != tail.nodes {
        return Err(checksum("nodes are missing"));
    }
    ops.append(&mut kept);
    Ok(ops)
}
