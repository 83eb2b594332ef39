//! `watch`: changes as they come.

use std::io::{self, Write};

use clap::Args;
use serde_json::Value as Json;
use url::form_urlencoded::Serializer;

use super::{StoreError, check, with_query};
use crate::cli::LocationArgs;
use crate::cli::client::Client;

#[derive(Args, Debug)]
pub(in crate::cli) struct WatchArgs {
    /// Which nodes
    #[arg(default_value = "/**")]
    pattern: String,
    /// Begin after this revision instead of now
    #[arg(long, value_name = "REVISION")]
    from: Option<u64>,
    #[command(flatten)]
    pub(super) location: LocationArgs,
}

pub(super) fn watch(client: &mut Client, args: &WatchArgs) -> Result<(), StoreError> {
    let mut query = Serializer::new(String::new());
    query.append_pair("pattern", &args.pattern);
    if let Some(from) = args.from {
        query.append_pair("from", &from.to_string());
    }
    let mut events = Events::default();
    let mut is_closed = false;
    let answer = client.stream(&with_query("/api/v1/watch", query), |piece| {
        let text = events.take(piece);
        let mut out = io::stdout().lock();
        is_closed = out
            .write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .is_err();
        !is_closed
    })?;
    check(&answer)?;
    match is_closed {
        true => Ok(()),
        false => Err(StoreError::NotOpen("it has been closed".to_owned())),
    }
}

/// Puts pieces of server-sent events together and makes a line of JSON of each.
#[derive(Debug, Default)]
struct Events {
    partial: Vec<u8>,
    name: String,
}

impl Events {
    fn take(&mut self, piece: &[u8]) -> String {
        self.partial.extend_from_slice(piece);
        let mut lines = String::new();
        let Some(end) = self.partial.iter().rposition(|&byte| byte == b'\n') else {
            return lines;
        };
        let whole: Vec<u8> = self.partial.drain(..=end).collect();
        for line in String::from_utf8_lossy(&whole).lines() {
            if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut self.name);
            }
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            if let Ok(Json::Object(mut data)) = serde_json::from_str(data) {
                data.insert("event".to_owned(), self.name.as_str().into());
                lines.push_str(&format!("{}\n", Json::Object(data)));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_become_lines_however_they_are_cut() {
        let text = b"event: ready\ndata: {\"revision\":4}\nid: 4\n\n:\n\nevent: put\ndata: {\"path\":\"/a\"}\nid: 5\n\n";
        for size in [1, 7, text.len()] {
            let mut events = Events::default();
            let lines: String = text.chunks(size).map(|piece| events.take(piece)).collect();
            assert_eq!(
                lines,
                "{\"event\":\"ready\",\"revision\":4}\n{\"event\":\"put\",\"path\":\"/a\"}\n"
            );
        }
    }
}
