//! The books of one sink, reckoned from the log: what must be at the destination, and what is there.
//!
//! Where the log still holds an entry, every number of it is looked at. What is older is in the totals only.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use uuid::Uuid;

use super::rules::Rules;
use crate::books::{DROPPED_BY_OPERATOR, DROPPED_EXPIRED, DROPPED_FOR_ALL};
use crate::position::{LOST_ITEM, Position};
use crate::store::{LogView, SessionState, StoreError};
use crate::upload::encode::{Walk, What};
use crate::upload::shape::Stored;
use crate::upload::sink::arrivals::{Arrivals, Arrived, Numbers};

/// A session: source and epoch.
type Session = (String, Uuid);

/// The books of a sink, and what does not fit them.
#[derive(Debug, Default, Serialize)]
pub(super) struct SinkAccount {
    pub(super) name: String,
    /// Numbers committed since the sink began.
    pub(super) accepted: Option<u64>,
    pub(super) uploaded: u64,
    pub(super) notes: u64,
    pub(super) requests: u64,
    /// By reason.
    pub(super) dropped: BTreeMap<String, u64>,
    pub(super) lost: u64,
    pub(super) dead: u64,
    /// Counted in the log, number by number.
    pub(super) pending: u64,
    /// What is at the destination; `None` where it cannot be read back.
    pub(super) destination: Option<Held>,
    /// Why its destination, which can be read back, could not be asked.
    pub(super) unread: Option<String>,
    /// Numbers that are not there, and no more than rules and operators left out.
    pub(super) left_out: u64,
    /// Numbers that are in none of the tables that can be compared: in others, or left out.
    pub(super) not_compared: u64,
    pub(super) differences: Vec<Difference>,
}

/// What a destination holds of the sources of this log.
#[derive(Debug, Default, Serialize)]
pub(super) struct Held {
    pub(super) records: u64,
    pub(super) gaps: u64,
    /// Tables whose rows cannot be told apart, and how many these are.
    pub(super) uncounted: BTreeMap<String, u64>,
}

/// What is not as it has to be.
#[derive(Debug, Serialize)]
pub(super) struct Difference {
    pub(super) what: String,
    #[serde(flatten)]
    pub(super) numbers: Option<Run>,
}

/// Consecutive numbers of a session.
#[derive(Debug, Serialize)]
pub(super) struct Run {
    pub(super) source: String,
    pub(super) epoch: Uuid,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
}

/// What the log holds for a sink.
#[derive(Debug, Default)]
struct Expected {
    /// Numbers of rows that the destination has to have: of records, and of gaps.
    records: BTreeMap<Session, Numbers>,
    gaps: BTreeMap<Session, Numbers>,
    /// Numbers of records that may as well be missing there: a rule that was in force at some time leaves them out.
    left_out: BTreeMap<Session, Numbers>,
    pending: u64,
}

/// What a sink has left out of what reached it, by the books.
#[derive(Clone, Copy, Debug)]
struct LeftOut {
    /// Dead letters that somebody dropped, or that expired.
    letters: u64,
    /// By its rules.
    rules: u64,
}

/// The sources whose records the log holds or its state remembers.
pub(super) fn sources(view: &LogView) -> Result<BTreeSet<String>, StoreError> {
    let mut sources: BTreeSet<String> = view
        .sessions()
        .map(|(source, ..)| source.to_owned())
        .collect();
    for entry in view.entries() {
        let slabs = entry?.slabs.into_iter();
        sources.extend(slabs.map(|slab| slab.head.source));
    }
    Ok(sources)
}

/// The number after the last one that was accepted, session by session.
pub(super) fn ends(view: &LogView) -> BTreeMap<Session, u64> {
    let sessions = view.sessions();
    let end = |(source, epoch, state): (&str, Uuid, &SessionState)| {
        ((source.to_owned(), epoch), state.next_seq)
    };
    sessions.map(end).collect()
}

/// Whether something arrived that was not accepted, as far as `ends` tells.
pub(super) fn is_ahead(arrivals: &Arrivals, ends: &BTreeMap<Session, u64>) -> bool {
    let mut sessions = arrivals.sessions.iter();
    sessions.any(|(session, arrived)| {
        let end = ends.get(session).copied();
        end.is_some_and(|end| !beyond(arrived, end).is_empty())
    })
}

/// The numbers from `end` on.
fn beyond(arrived: &Arrived, end: u64) -> Numbers {
    let mut beyond = Numbers::default();
    let runs = arrived.records.runs().chain(arrived.gaps.runs());
    for (first, last) in runs.filter(|(_, last)| *last >= end) {
        for seq in first.max(end)..=last {
            beyond.insert(seq);
        }
    }
    beyond
}

pub(super) fn account(
    view: &LogView,
    ends: &BTreeMap<Session, u64>,
    sink: &str,
    arrivals: Option<&Arrivals>,
) -> Result<SinkAccount, StoreError> {
    let (books, committed) = view.books(sink);
    let rules = Rules::of(view);
    let expected = expect(view, sink, &rules)?;
    let mut account = SinkAccount {
        name: sink.to_owned(),
        accepted: books.accepted(committed),
        uploaded: books.counts.records,
        notes: books.counts.notes,
        requests: books.counts.requests,
        lost: books.counts.lost,
        dead: books.dead,
        pending: expected.pending,
        ..SinkAccount::default()
    };
    let accounted = books.numbers().saturating_add(expected.pending);
    if let Some(accepted) = account.accepted.filter(|accepted| *accepted != accounted) {
        account.differ(format!(
            "{accepted} numbers were accepted, {accounted} are accounted for"
        ));
    }
    if account.accepted.is_none() && accounted > committed {
        account.differ(format!(
            "{accounted} numbers are accounted for, and no more than {committed} were committed"
        ));
    }
    let of_letters = [DROPPED_BY_OPERATOR, DROPPED_EXPIRED];
    let mut left_out = LeftOut {
        letters: 0,
        rules: 0,
    };
    for (reason, count) in &books.counts.dropped {
        match reason.as_str() {
            reason if DROPPED_FOR_ALL.contains(&reason) => {}
            reason if of_letters.contains(&reason) => left_out.letters += count,
            _ => left_out.rules += count,
        }
    }
    account.dropped = books.counts.dropped;
    if let Some(arrivals) = arrivals {
        let missing = missing(view, sink, &expected, arrivals);
        account.compare(ends, &missing, arrivals, left_out, rules.are_all());
    }
    Ok(account)
}

/// What of the log a sink has dealt with, number by number.
fn expect(view: &LogView, sink: &str, rules: &Rules) -> Result<Expected, StoreError> {
    let lanes = view.sinks().find(|(name, _)| *name == sink);
    let lanes = lanes.map(|(_, lanes)| lanes).unwrap_or_default();
    let count = u32::try_from(lanes.len()).unwrap_or(1).max(1);
    let is_done = |lane: u32, position: Position| {
        let lane = lanes.get(lane as usize);
        lane.is_some_and(|lane| position <= lane.watermark)
    };
    let begun = view.begun(sink);
    let mut expected = Expected::default();
    for entry in view.entries() {
        let entry = entry?;
        let mut position = Position {
            index: entry.index,
            item: entry.first_item,
        };
        let is_lost = entry.first_item == LOST_ITEM;
        let mut requests = 0;
        for slab in entry.slabs {
            let session = (slab.head.source.clone(), slab.head.epoch);
            let game_version = view.game_version(&slab.head).to_owned();
            let mut walk = Walk::new(slab);
            loop {
                let mark = walk.mark();
                let Some((head, item)) = walk.step() else {
                    requests += walk.requests_since(&mark);
                    break;
                };
                requests += Walk::requests_between(&mark, item.seq);
                if position > begun {
                    // Requests belong to the first lane, at the place of what follows them.
                    if !is_done(0, position) {
                        expected.pending += requests;
                    }
                    // Of a lost entry the lane tells that passes it last.
                    let is_dealt_with = match is_lost {
                        true => (0..count).all(|lane| is_done(lane, position)),
                        false => is_done(item.lane(count), position),
                    };
                    if !is_dealt_with {
                        expected.pending += item.numbers();
                    } else if item.has_row() {
                        let of = match item.what {
                            What::Record(_) => &mut expected.records,
                            _ => &mut expected.gaps,
                        };
                        of.entry(session.clone()).or_default().insert(item.seq);
                        if let What::Record(record) = item.what
                            && rules.may_leave_out(
                                sink,
                                &Stored {
                                    head,
                                    game_version: &game_version,
                                    seq: item.seq,
                                    monotonic_ns: item.monotonic_ns,
                                    record,
                                },
                            )
                        {
                            let of = expected.left_out.entry(session.clone()).or_default();
                            of.insert(item.seq);
                        }
                    }
                }
                requests = 0;
                position.item = position.item.saturating_add(1);
            }
        }
        position.item = u32::MAX;
        if position > begun && !is_done(0, position) {
            expected.pending += requests;
        }
    }
    Ok(expected)
}

impl SinkAccount {
    fn differ(&mut self, what: String) {
        let numbers = None;
        self.differences.push(Difference { what, numbers });
    }

    fn differ_in(&mut self, what: &str, (source, epoch): &Session, numbers: &Numbers) {
        for (first_seq, last_seq) in numbers.runs() {
            self.differences.push(Difference {
                what: what.to_owned(),
                numbers: Some(Run {
                    source: source.clone(),
                    epoch: *epoch,
                    first_seq,
                    last_seq,
                }),
            });
        }
    }

    fn compare(
        &mut self,
        ends: &BTreeMap<Session, u64>,
        missing: &Missing,
        arrivals: &Arrivals,
        left_out: LeftOut,
        knows_all_rules: bool,
    ) {
        let mut held = Held {
            uncounted: arrivals.uncounted.clone(),
            ..Held::default()
        };
        for arrived in arrivals.sessions.values() {
            held.records += arrived.records.count();
            held.gaps += arrived.gaps.count();
        }
        for words in &arrivals.unreadable {
            self.differ(format!("what is there cannot be read: {words}"));
        }
        for (session, arrived) in &arrivals.sessions {
            self.differ_in("doubled", session, &arrived.doubled);
        }
        for (session, end) in ends {
            if let Some(arrived) = arrivals.sessions.get(session) {
                self.differ_in("there, and never accepted", session, &beyond(arrived, *end));
            }
        }
        if held.uncounted.is_empty() {
            let named = self.name_missing(missing, left_out, knows_all_rules);
            let short = self
                .uploaded
                .saturating_sub(held.records)
                .saturating_sub(named);
            if short > 0 {
                self.differ(format!(
                    "{short} records are missing that cannot be named: of what the log no longer holds, or among those \
                     that rules may have left out"
                ));
            }
        } else {
            self.not_compared = missing
                .unexplained
                .count()
                .saturating_add(missing.explained);
        }
        self.destination = Some(held);
    }

    /// Tells what is missing of what the log holds; how many records that are.
    fn name_missing(&mut self, missing: &Missing, left_out: LeftOut, knows_all_rules: bool) -> u64 {
        let Missing {
            unexplained,
            explained,
        } = missing;
        if *explained > left_out.rules {
            let rules = left_out.rules;
            self.differ(format!(
                "{explained} records are not there that rules may have left out, and they left out {rules}"
            ));
        }
        // Rules that nobody remembers may have left out any.
        let forgotten = match knows_all_rules {
            true => 0,
            false => left_out.rules.saturating_sub(*explained),
        };
        let allowed = left_out.letters.saturating_add(forgotten);
        let count = unexplained.count();
        if count <= allowed {
            self.left_out = count.saturating_add(*explained);
            return 0;
        }
        for (session, numbers) in unexplained.records.iter().chain(&unexplained.gaps) {
            self.differ_in("missing", session, numbers);
        }
        if allowed > 0 {
            self.differ(format!(
                "{count} are not there; operators, and rules that are no longer known, left out {allowed}"
            ));
        }
        self.left_out = *explained;
        count_of(&unexplained.records)
    }
}

/// Numbers that the log says a destination has, and it has not.
#[derive(Debug, Default)]
struct Missing {
    /// Those that no rule leaves out that is remembered.
    unexplained: Unexplained,
    /// How many records one may have left out.
    explained: u64,
}

#[derive(Debug, Default)]
struct Unexplained {
    records: BTreeMap<Session, Numbers>,
    gaps: BTreeMap<Session, Numbers>,
}

impl Unexplained {
    fn count(&self) -> u64 {
        count_of(&self.records).saturating_add(count_of(&self.gaps))
    }
}

fn count_of(numbers: &BTreeMap<Session, Numbers>) -> u64 {
    numbers.values().map(Numbers::count).sum()
}

fn missing(view: &LogView, sink: &str, expected: &Expected, arrivals: &Arrivals) -> Missing {
    let mut dead: BTreeMap<Session, Numbers> = BTreeMap::new();
    for kept in view.letters().filter(|kept| kept.sink == sink) {
        let head = &kept.letter.head;
        let of = (head.source.clone(), head.epoch);
        dead.entry(of).or_default().insert(head.first_seq);
    }
    let nothing = Arrived::default();
    let none = Numbers::default();
    let mut missing = Missing::default();
    for (numbers, are_records) in [(&expected.records, true), (&expected.gaps, false)] {
        for (session, numbers) in numbers {
            let arrived = arrivals.sessions.get(session).unwrap_or(&nothing);
            let dead = dead.get(session).unwrap_or(&none);
            let left_out = expected.left_out.get(session).unwrap_or(&none);
            for seq in numbers.runs().flat_map(|(first, last)| first..=last) {
                let is_there = arrived.records.contains(seq) || arrived.gaps.contains(seq);
                let Unexplained { records, gaps } = &mut missing.unexplained;
                match (is_there || dead.contains(seq), are_records) {
                    (true, _) => {}
                    (false, true) if left_out.contains(seq) => missing.explained += 1,
                    (false, true) => drop(records.entry(session.clone()).or_default().insert(seq)),
                    (false, false) => drop(gaps.entry(session.clone()).or_default().insert(seq)),
                }
            }
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(seqs: std::ops::RangeInclusive<u64>) -> Arrivals {
        let mut arrivals = Arrivals::default();
        for seq in seqs {
            arrivals.take("s", Uuid::nil(), seq, false);
        }
        arrivals
    }

    fn numbers(seqs: &[u64]) -> BTreeMap<Session, Numbers> {
        let mut of = Numbers::default();
        for seq in seqs {
            of.insert(*seq);
        }
        BTreeMap::from([(("s".to_owned(), Uuid::nil()), of)])
    }

    /// What differs, where so many are uploaded, these are there and those are not.
    fn differences(uploaded: u64, there: u64, missing: &Missing, knows_all: bool) -> Vec<String> {
        let mut account = SinkAccount {
            uploaded,
            ..SinkAccount::default()
        };
        let left_out = LeftOut {
            letters: 1,
            rules: 50,
        };
        let ends = BTreeMap::new();
        account.compare(&ends, missing, &arrivals(1..=there), left_out, knows_all);
        let differences = account.differences.iter();
        differences.map(ToString::to_string).collect()
    }

    fn missing(unexplained: &[u64], explained: u64) -> Missing {
        let records = numbers(unexplained);
        let gaps = BTreeMap::new();
        Missing {
            unexplained: Unexplained { records, gaps },
            explained,
        }
    }

    /// Rows of a table without our columns may be any of those that are looked for: none of these was left out for sure.
    #[test]
    fn what_may_be_in_a_table_that_cannot_be_compared_is_not_told_as_left_out() {
        let mut account = SinkAccount::default();
        let mut arrivals = arrivals(1..=5);
        arrivals.uncounted.insert("\"damage\"".to_owned(), 15);
        let nothing = LeftOut {
            letters: 0,
            rules: 0,
        };
        let missing = missing(&[6, 7, 8], 2);
        account.compare(&BTreeMap::new(), &missing, &arrivals, nothing, true);
        assert_eq!((account.left_out, account.not_compared), (0, 5));
        assert!(account.differences.is_empty());
    }

    #[test]
    fn what_rules_left_out_excuses_nothing_else() {
        assert!(differences(100, 100, &missing(&[], 50), true).is_empty());
        // Rules leave out none of these, and one may have been a letter that somebody dropped.
        assert!(differences(100, 100, &missing(&[7], 50), true).is_empty());
        let told = differences(100, 98, &missing(&[7, 8], 50), true);
        assert!(told[0].starts_with("missing: 7 to 8 "), "{told:?}");
        assert_eq!(told.len(), 2, "{told:?}");
        // Rules that nobody remembers may have left them out.
        assert!(differences(100, 100, &missing(&[7, 8], 40), false).is_empty());
        // What the log no longer holds, or what a rule would leave out now.
        for knows_all in [true, false] {
            let told = differences(100, 97, &missing(&[], 50), knows_all);
            assert!(told[0].starts_with("3 records are missing"), "{told:?}");
        }
        let told = differences(100, 100, &missing(&[], 51), true);
        assert!(told[0].starts_with("51 records are not there"), "{told:?}");
    }
}
