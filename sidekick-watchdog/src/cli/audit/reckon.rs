//! The books of one sink, reckoned from the log: what must be at the destination, and what is there.
//!
//! Where the log still holds an entry, every number of it is looked at. What is older is in the totals only.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use uuid::Uuid;

use crate::books::DROPPED_FOR_ALL;
use crate::position::{LOST_ITEM, Position};
use crate::store::{LogView, SessionState, StoreError};
use crate::upload::encode::{Walk, What};
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
    /// Numbers that are not there, and no more than rules and operators left out.
    pub(super) left_out: u64,
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
    pending: u64,
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
    let expected = expect(view, sink)?;
    let mut account = SinkAccount {
        name: sink.to_owned(),
        accepted: books.since.map(|since| committed.saturating_sub(since)),
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
    let by_the_sink = |(reason, _): &(&String, &u64)| !DROPPED_FOR_ALL.contains(&reason.as_str());
    let left_out = books.counts.dropped.iter().filter(by_the_sink);
    let left_out: u64 = left_out.map(|(_, count)| *count).sum();
    account.dropped = books.counts.dropped;
    if let Some(arrivals) = arrivals {
        account.compare(view, ends, sink, &expected, arrivals, left_out);
    }
    Ok(account)
}

/// What of the log a sink has dealt with, number by number.
fn expect(view: &LogView, sink: &str) -> Result<Expected, StoreError> {
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
            let mut walk = Walk::new(slab);
            loop {
                let mark = walk.mark();
                let Some((_, item)) = walk.step() else {
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
        view: &LogView,
        ends: &BTreeMap<Session, u64>,
        sink: &str,
        expected: &Expected,
        arrivals: &Arrivals,
        left_out: u64,
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
        let missing = self.missing(view, sink, expected, arrivals);
        let count: u64 = missing.iter().map(|(_, numbers)| numbers.count()).sum();
        let is_readable = held.uncounted.is_empty();
        if is_readable && count > left_out {
            for (session, numbers) in &missing {
                self.differ_in("missing", session, numbers);
            }
            if left_out > 0 {
                self.differ(format!(
                    "{count} are not there, rules and operators left out {left_out}"
                ));
            }
        } else {
            self.left_out = count;
        }
        // Of what the log no longer holds only the sum is known. Records of what it holds may have come as rows of gaps.
        let short = self
            .uploaded
            .saturating_sub(held.records)
            .saturating_sub(count);
        if is_readable && short > 0 {
            self.differ(format!(
                "{short} records are missing of what the log no longer holds"
            ));
        }
        self.destination = Some(held);
    }

    /// What the log says that the destination has, and it has not.
    fn missing(
        &self,
        view: &LogView,
        sink: &str,
        expected: &Expected,
        arrivals: &Arrivals,
    ) -> Vec<(Session, Numbers)> {
        let mut dead: BTreeMap<Session, Numbers> = BTreeMap::new();
        for kept in view.letters().filter(|kept| kept.sink == sink) {
            let head = &kept.letter.head;
            let of = (head.source.clone(), head.epoch);
            dead.entry(of).or_default().insert(head.first_seq);
        }
        let nothing = Arrived::default();
        let none = Numbers::default();
        let mut missing: BTreeMap<Session, Numbers> = BTreeMap::new();
        for (session, numbers) in expected.records.iter().chain(&expected.gaps) {
            let arrived = arrivals.sessions.get(session).unwrap_or(&nothing);
            let dead = dead.get(session).unwrap_or(&none);
            for (first, last) in numbers.runs() {
                for seq in first..=last {
                    let is_there = arrived.records.contains(seq) || arrived.gaps.contains(seq);
                    if !is_there && !dead.contains(seq) {
                        missing.entry(session.clone()).or_default().insert(seq);
                    }
                }
            }
        }
        missing.into_iter().collect()
    }
}
