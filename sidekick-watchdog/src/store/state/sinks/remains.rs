//! What is left of sinks that were taken out of the configuration: their dead letters, and what they had not taken.

use std::collections::BTreeMap;

use super::super::State;
use super::Retired;

/// What is left of a sink that was taken out of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Its dead letters.
    pub letters: u64,
    /// The log may still hold records that it had not taken, and that no other sink took over.
    pub has_records: bool,
    /// How many sequence numbers these were, where that is known.
    pub records: Option<u64>,
}

impl State {
    /// What is left of sinks that are not configured, if anything is; the log holds nothing up to and with `purged`.
    pub(crate) fn remains(&self, purged: u64) -> BTreeMap<String, Remains> {
        let mut remains: BTreeMap<String, Remains> = BTreeMap::new();
        for (sink, letters) in self.stray_letters() {
            remains.entry(sink.to_owned()).or_default().letters = letters;
        }
        for (sink, records) in &self.left_behind {
            // It had not taken something before the entry that took it out.
            let is_held = |retired: &Retired| retired.at > purged.saturating_add(1);
            if self.retired.get(sink).is_some_and(is_held) {
                let of = remains.entry(sink.clone()).or_default();
                (of.has_records, of.records) = (true, *records);
            }
        }
        remains
    }

    /// How many letters there are of sinks that are not configured, by sink.
    fn stray_letters(&self) -> BTreeMap<&str, u64> {
        let mut stray = BTreeMap::new();
        let at_home = |sink| self.books.get(sink).map_or(0, |books| books.letters_now);
        let at_home: u64 = self.sinks.keys().map(at_home).sum();
        // This is asked once a second, and there may be many.
        if at_home == self.letters.count() {
            return stray;
        }
        for (_, kept) in self.letters.iter() {
            if !self.sinks.contains_key(&kept.sink) {
                *stray.entry(kept.sink.as_str()).or_default() += 1;
            }
        }
        stray
    }
}
