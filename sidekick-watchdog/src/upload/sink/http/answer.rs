//! What a backend said, fit to be shown: short, on one line, and without the secrets that it was sent.
//!
//! Backends and what stands before them like to repeat a request in their answer to it. What they said goes into the log,
//! the status and dead letters.

use reqwest::Response;

use crate::shown::HIDDEN;

/// How much of an answer is read: enough to keep the connection, never what a broken backend might send.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How much of a refusal is shown.
pub(super) const REASON_BYTES_MAX: usize = 300;
/// Shorter values hide nothing, and would tear words apart.
const SECRET_BYTES_MIN: usize = 4;

/// `text` without any of `secrets`.
pub(super) fn hide(text: &str, secrets: &[&str]) -> String {
    let mut secrets: Vec<&str> = secrets.to_vec();
    secrets.retain(|secret| secret.len() >= SECRET_BYTES_MIN);
    // One may be the beginning of another.
    secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
    let hide_one = |text: String, secret: &&str| text.replace(secret, HIDDEN);
    secrets.iter().fold(text.to_owned(), hide_one)
}

/// The beginning of the answer. Reads on a bit, so that the connection can be used again.
pub(super) async fn text(mut response: Response, secrets: &[&str]) -> String {
    // A secret that is cut off would not be known for one.
    let longest = secrets.iter().map(|secret| secret.len()).max();
    let kept_max = REASON_BYTES_MAX.saturating_add(longest.unwrap_or(0));
    let (mut start, mut bytes) = (Vec::new(), 0usize);
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = kept_max.saturating_sub(start.len()).min(chunk.len());
        start.extend_from_slice(chunk.get(..room).unwrap_or_default());
        bytes = bytes.saturating_add(chunk.len());
        if bytes >= ANSWER_BYTES_MAX {
            break;
        }
    }
    let text = hide(&String::from_utf8_lossy(&start), secrets);
    let end = text.floor_char_boundary(REASON_BYTES_MAX);
    let line: String = text
        .get(..end)
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line.trim().to_owned()
}
