//! Where each entry lies: runs of offsets, four bytes an entry.

use std::collections::VecDeque;

/// Consecutive entries of one segment.
#[derive(Debug)]
struct Run {
    first: u64,
    segment: u64,
    /// Offsets of the frames in units of 8 bytes.
    offsets: VecDeque<u32>,
}

impl Run {
    fn next(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }
}

/// Maps an entry's index to its segment and offset. Entries are consecutive.
#[derive(Debug, Default)]
pub(crate) struct Index {
    runs: VecDeque<Run>,
}

impl Index {
    /// First and last index held, if any.
    pub(crate) fn bounds(&self) -> Option<(u64, u64)> {
        let first = self.runs.front()?.first;
        let next = self.runs.back()?.next();
        Some((first, next - 1))
    }

    /// Adds the next entry; `Err` with the index expected when `index` does not continue the log.
    pub(crate) fn push(&mut self, index: u64, segment: u64, offset: u64) -> Result<(), u64> {
        let offset = u32::try_from(offset / 8).unwrap_or(u32::MAX);
        if let Some(run) = self.runs.back_mut() {
            if run.next() != index {
                return Err(run.next());
            }
            if run.segment == segment {
                run.offsets.push_back(offset);
                return Ok(());
            }
        }
        self.runs.push_back(Run {
            first: index,
            segment,
            offsets: VecDeque::from([offset]),
        });
        Ok(())
    }

    /// Forgets the entries from `index` on.
    pub(crate) fn truncate(&mut self, index: u64) {
        while let Some(run) = self.runs.back_mut() {
            if run.first >= index {
                self.runs.pop_back();
                continue;
            }
            run.offsets.truncate((index - run.first) as usize);
            break;
        }
    }

    /// Forgets the entries up to and with `index`.
    pub(crate) fn purge(&mut self, index: u64) {
        while let Some(run) = self.runs.front_mut() {
            if run.next() <= index + 1 {
                self.runs.pop_front();
                continue;
            }
            if run.first <= index {
                let gone = (index + 1 - run.first) as usize;
                run.offsets.drain(..gone);
                run.offsets.shrink_to(run.offsets.len() * 2);
                run.first = index + 1;
            }
            break;
        }
    }

    /// Segment and offset of an entry.
    pub(crate) fn get(&self, index: u64) -> Option<(u64, u64)> {
        let at = self
            .runs
            .partition_point(|run| run.first <= index)
            .checked_sub(1)?;
        let run = &self.runs[at];
        let offset = *run.offsets.get((index - run.first) as usize)?;
        Some((run.segment, u64::from(offset) * 8))
    }

    /// The lowest segment that still holds a needed entry.
    pub(crate) fn lowest_segment(&self) -> Option<u64> {
        self.runs.iter().map(|run| run.segment).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_after_truncation_and_purge() {
        let mut index = Index::default();
        for i in 1..=10 {
            index.push(i, 1 + i / 6, i * 64).unwrap();
        }
        assert_eq!(index.push(12, 3, 0), Err(11));
        assert_eq!(index.get(7), Some((2, 448)));
        index.truncate(5);
        index.push(5, 3, 8).unwrap();
        assert_eq!(index.bounds(), Some((1, 5)));
        assert_eq!(index.get(5), Some((3, 8)));
        assert_eq!(index.get(6), None);
        index.purge(2);
        assert_eq!(index.bounds(), Some((3, 5)));
        assert_eq!(index.get(2), None);
        assert_eq!(index.get(3), Some((1, 192)));
        assert_eq!(index.lowest_segment(), Some(1));
        index.purge(4);
        assert_eq!(index.lowest_segment(), Some(3));
        index.purge(50);
        assert_eq!(index.bounds(), None);
        index.push(51, 4, 0).unwrap();
        assert_eq!(index.bounds(), Some((51, 51)));
    }
}
