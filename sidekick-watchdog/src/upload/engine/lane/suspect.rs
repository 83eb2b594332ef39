//! The search for a bad record in a batch that was refused: which part is sent next.
//!
//! A refused batch is halved, its first half goes first. Was it taken, the bad record is in the rest, of which half goes
//! next, never the whole. So a bad record among `n` costs `log2(n) + 1` requests more or less, and all others keep their
//! order. In memory only: after a restart the open plan begins it anew.

use crate::position::Position;

/// A run of records of which at least one is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    /// A bad record is at or before it.
    pub(super) end: Position,
    /// How many records of the run follow the batch at hand.
    pub(super) left: usize,
}

impl Suspect {
    /// The batch that begins at `first` is at hand now, with so many records. `None` when the run went through whole: what
    /// was bad is taken now, or was left out.
    pub(super) fn after_batch(self, first: Position, records: usize) -> Option<Self> {
        if first > self.end || self.left == 0 {
            return None;
        }
        let left = self.left.saturating_sub(records);
        Some(Self { left, ..self })
    }

    /// How many records of the run go next.
    pub(super) fn next_records(&self) -> usize {
        (self.left / 2).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many batches it takes to single out number `bad` of `n`; `None` if it is never alone.
    fn requests(n: usize, bad: usize) -> Option<u32> {
        let at = |item: usize| Position {
            index: 1,
            item: u32::try_from(item).unwrap(),
        };
        // The batch at hand, and what is known.
        let (mut first, mut records) = (0, n);
        let mut suspect: Option<Suspect> = None;
        for request in 1..1000 {
            let is_refused = (first..first + records).contains(&bad);
            if is_refused && records == 1 {
                return Some(request);
            }
            if is_refused {
                let half = records / 2;
                suspect = Some(Suspect {
                    end: at(first + records - 1),
                    left: records - half,
                });
                records = half;
                continue;
            }
            first += records;
            let known = suspect?;
            records = known.next_records();
            suspect = known.after_batch(at(first), records);
        }
        None
    }

    #[test]
    fn a_bad_record_is_found_within_the_bound_wherever_it_is() {
        for n in [2_usize, 3, 7, 10, 64, 100, 1000] {
            for bad in 0..n {
                let bound = 2 * n.ilog2() + 3;
                let requests = requests(n, bad);
                assert!(
                    requests.is_some_and(|r| r <= bound),
                    "{bad} of {n}: {requests:?}"
                );
            }
        }
        assert!(requests(10_000, 9_999).is_some_and(|r| r <= 2 * 14 + 2));
    }
}
