//! `[[stream]]` and `[[test]]`: rules for records by their streams' names, and what should come of them.
//!
//! Read from the file only: a list has no place in the environment. Each key's mistakes are told at its own line.

mod expression;
mod fold;
mod item;
mod json;
mod rule;
mod set;
mod trial;

use std::sync::Arc;

use sidekick_ipc::stream::StreamPattern;
use toml::de::DeTable;

use super::reader::{Pass, Place};
use crate::process::{
    AggregateSpec, DedupeSpec, FoldRules, Screen, ScreenSpec, Shape, ShapeSpec, Trial, TrialRules,
};
use json::to_toml;

/// Rules beyond this number are refused: each record is held against all of them.
const RULES_MAX: usize = 256;

/// What `init` shows of this.
pub(super) const TEMPLATE: &str = r##"
# Rules for records by their streams' names; * stands for any run of characters. All that match apply, in this order.
# Before anything is stored: drop, sample, drop_fields, hash_fields, truncate. Then: dedupe, aggregate. Before upload: filter, rename,
# set, schema, sink.
#[[stream]]
#match = "chat.*"
#drop_fields = ["ip", "player.email"]
#hash_fields = ["player.id"]
#hash_key_file = "hash.key"
#truncate = { text = 500 }
#set = { region = { env = "REGION", default = "eu" }, server = { expr = "source" } }

#[[stream]]
#match = "debug.*"
#drop = "level is defined and level < 2"
#sample = 0.1
#sample_by = "player"

#[[stream]]
#match = "damage"
#dedupe = { by = ["hit_id"], within = "10m", keys_max = 10000 }
#aggregate = { into = "damage.minute", every = "1m", by = ["weapon"], values = ["amount"], histogram = { amount = [10, 100] } }

# What should come of a record; `sidekick-watchdog check` tries it.
#[[test]]
#name = "no addresses"
#stream = "chat.say"
#input = { text = "hello", ip = "10.0.0.1" }
#expect = { text = "hello", region = "eu", server = "lobby-1" }

# The same of several, with the times at which they are recorded: all that should be sent.
#[[test]]
#name = "hits are counted"
#stream = "damage"
#inputs = [
#	{ at = "1s", data = { hit_id = 1, weapon = "bow", amount = 5 } },
#	{ at = "2s", data = { hit_id = 1, weapon = "bow", amount = 5 } },
#]
#[[test.outputs]]
#stream = "damage.minute"
#at = "0s"
#data.window_s = 60
#data.by = { weapon = "bow" }
#data.count = 1
#data.values.amount = { count = 1, sum = 5, min = 5, max = 5, bounds = [10, 100], buckets = [1, 0, 0] }
"##;

/// One `[[stream]]`.
#[derive(Clone, Debug)]
pub struct StreamRule {
    /// Which streams.
    pub pattern: StreamPattern,
    /// They are still recorded when the disk runs short.
    pub keep: bool,
    /// What is done before anything is stored.
    pub screen: ScreenSpec,
    /// Records like one that was there before go no further.
    pub dedupe: Option<DedupeSpec>,
    /// One record stands for many.
    pub aggregate: Option<AggregateSpec>,
    /// What is done before upload.
    pub shape: ShapeSpec,
}

/// `[[stream]]` and `[[test]]`.
#[derive(Clone, Debug, Default)]
pub struct StreamsConfig {
    /// The rules, in the order of the file.
    pub rules: Vec<StreamRule>,
    /// What should come of them.
    pub trials: Vec<Trial>,
    /// Both as they were written, for `config print`.
    pub(super) shown: String,
}

impl StreamsConfig {
    /// The first halves of the rules.
    ///
    /// # Errors
    /// None for rules that were read from a configuration: what could be wrong was looked at there.
    pub fn screen(&self) -> Result<Screen, crate::process::RuleError> {
        Screen::compile(self.rules.iter().map(|rule| &rule.screen))
    }

    /// What looks at more than one record.
    ///
    /// # Errors
    /// As [`Self::screen`].
    pub fn fold_rules(&self) -> Result<FoldRules, crate::process::RuleError> {
        let dedupes = self.rules.iter().filter_map(|rule| rule.dedupe.as_ref());
        let aggregates = self.rules.iter().filter_map(|rule| rule.aggregate.as_ref());
        FoldRules::compile(dedupes, aggregates)
    }

    /// Tries what should come of records, as a server called `source` would. Gives the tests that fail, by name, with a
    /// line for each difference.
    ///
    /// # Errors
    /// As [`Self::screen`].
    pub fn failing_trials(
        &self,
        source: &str,
    ) -> Result<Vec<(&str, Vec<String>)>, crate::process::RuleError> {
        let rules = TrialRules {
            screen: &self.screen()?,
            folds: &Arc::new(self.fold_rules()?),
            shape: &Shape::parse(&self.shape_text())?,
            source,
        };
        let trials = self.trials.iter();
        let run = trials.map(|trial| (trial.name.as_str(), trial.run(&rules)));
        Ok(run
            .filter_map(|(name, run)| Some((name, run.err()?)))
            .collect())
    }

    /// The text of the second halves.
    pub fn shape_text(&self) -> String {
        Shape::text(self.rules.iter().map(|rule| &rule.shape))
    }

    /// The patterns of streams that are still recorded when the disk runs short.
    pub fn kept(&self) -> Vec<&str> {
        let kept = self.rules.iter().filter(|rule| rule.keep);
        kept.map(|rule| rule.pattern.as_str()).collect()
    }

    pub(super) fn read(pass: &mut Pass<'_>, sinks: &[&str]) -> Self {
        let mut config = Self::default();
        let tables = pass.tables("stream");
        if tables.len() > RULES_MAX {
            pass.complain_at(
                Place::Default,
                "stream".into(),
                format!("there are {} rules, at most {RULES_MAX}", tables.len()),
            );
        }
        for (place, table) in tables {
            config.show("stream", table);
            config.rules.extend(rule::read(pass, place, table, sinks));
        }
        for (place, table) in pass.tables("test") {
            config.show("test", table);
            config.trials.extend(trial::read(pass, place, table));
        }
        config
    }

    fn show(&mut self, name: &str, table: &DeTable<'_>) {
        use std::fmt::Write;
        let _ = write!(self.shown, "\n[[{name}]]\n");
        for (key, value) in table {
            let _ = writeln!(
                self.shown,
                "{} = {}",
                key.get_ref(),
                to_toml(value.get_ref())
            );
        }
    }
}

#[cfg(test)]
mod tests;
