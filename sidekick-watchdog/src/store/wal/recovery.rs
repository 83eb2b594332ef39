//! Reads the log at start: what is whole, what is torn, what is damaged.
//!
//! What ends a log and what is damage in it: see `scan`. Damage costs the entries that lay there and nothing else
//! ([`Rot::Bridged`]): their indexes stay, so that the log has no hole and no index is used twice; what they are read as
//! is for others to say. Which entries lay there follows from the index of the first one behind. Unsafe, and refused as
//! ever: a missing segment, a header that is none, entries that are not in their order. A frame or a header of which one byte is
//! another one is none of that: it is read as what it was.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::frame::{EntryId, FRAME_HEAD_BYTES, Kind};
use super::index::Index;
use super::mend::{IsWhole, MendedByte};
use super::scan::{Damage, Piece, Scan};
use super::segment::{
    HEADER_BYTES, Header, HeaderFault, Segment, list, open_ro, open_rw, read_exact_at,
    sync_directory, write_all_at,
};
use super::{Rot, Vote, WalError};

/// What the log's files say.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) index: Index,
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<EntryId>,
    pub(crate) committed: Option<EntryId>,
    pub(crate) tail: Option<Tail>,
    pub(crate) node: u64,
    pub(crate) log: uuid::Uuid,
    /// All that is damaged.
    pub(crate) damage: Vec<Damage>,
    /// What differs from what was written, where that is known.
    pub(crate) mended: Vec<MendedByte>,
    /// The entries that lay where the damage is, and where that is.
    pub(crate) lost: BTreeMap<u64, (EntryId, Damage)>,
    /// Damage of which no entry behind has told yet what lay there.
    open: Vec<Damage>,
    /// The last entry's id.
    last: Option<EntryId>,
}

/// The end of the last segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    pub(crate) number: u64,
    pub(crate) position: u64,
    pub(crate) file_bytes: u64,
    pub(crate) previous: u32,
    pub(crate) sealed: bool,
}

/// Who reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Who is going to write to it: the tail is made durable.
    Owner(Rot),
    /// Somebody beside the owner: nothing is changed, and damage is no error.
    Guest,
}

/// Reads all segments in `directory` and, for the owner, makes the tail durable (rewritten and fsynced) before returning.
/// `progress` hears of each segment that was read: how many of how many.
pub(crate) fn recover(
    directory: &Path,
    reading: Reading,
    is_whole: IsWhole,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Recovered, WalError> {
    let io = |error| WalError::io("cannot read the log", directory, error);
    let (files, _) = list(directory).map_err(io)?;
    let mut out = Recovered::default();
    let count = files.len();
    let is_owner = reading != Reading::Guest;
    if count > 0 && is_owner {
        // A segment whose name came just before a kill: what it holds counts only once the name is durable, too.
        sync_directory(directory).map_err(io)?;
    }
    let first_number = files.first().map_or(0, |(number, _)| *number);
    for (at, (number, path)) in files.into_iter().enumerate() {
        let damaged = |offset: u64, what: &str| WalError::Damaged {
            path: path.clone(),
            offset,
            what: what.to_owned(),
        };
        let io = |error| WalError::io("cannot read the log", &path, error);
        if number != first_number + at as u64 {
            return Err(damaged(
                0,
                &format!("segment {} before it is missing", first_number + at as u64),
            ));
        }
        let file = match is_owner {
            true => open_rw(&path, false).map_err(io)?,
            false => open_ro(&path).map_err(io)?,
        };
        let file_bytes = file.metadata().map_err(io)?.len();
        let mut page = vec![0; HEADER_BYTES.min(file_bytes) as usize];
        read_exact_at(&file, &mut page, 0).map_err(io)?;
        let (header, mended) = Header::read(&page).map_err(|fault| match fault {
            HeaderFault::Newer(found) => WalError::Newer {
                path: path.clone(),
                found,
            },
            HeaderFault::Damaged => damaged(0, "its header is not one"),
        })?;
        let in_header = mended.map(|at| MendedByte {
            segment: number,
            at,
        });
        out.mended.extend(in_header);
        if header.number != number {
            return Err(damaged(
                0,
                &format!("its header says segment {}", header.number),
            ));
        }
        if at == 0 {
            out.node = header.node;
            out.log = header.log;
        } else if header.log != out.log || header.node != out.node {
            return Err(damaged(0, "it belongs to another log"));
        }
        let is_last = at + 1 == count;
        let mut scan = Scan::new(&file, file_bytes, number, header.salt, is_whole, is_last);
        while let Some(piece) = scan.next().map_err(io)? {
            match piece {
                Piece::Damage(damage) if reading == Reading::Owner(Rot::Refused) => {
                    let what = format!("a bad frame, and the log goes on at byte {}", damage.to);
                    return Err(damaged(damage.from, &what));
                }
                Piece::Damage(damage) => out.take_damage(damage),
                Piece::Frame(at, head) if head.kind == Kind::Vote => {
                    let committed = head.len > 0 && scan.first_byte(at).map_err(io)? == 1;
                    out.vote = Some(Vote {
                        term: head.id.term,
                        node: head.id.node,
                        committed,
                    });
                }
                Piece::Frame(at, head) => out
                    .take(number, at, head.kind, head.id)
                    .map_err(|what| damaged(at, &what))?,
            }
        }
        if is_last && is_owner {
            rewrite(&file, scan.batch_start, scan.position, &io)?;
        }
        out.mended.append(&mut scan.mended);
        out.tail = Some(Tail {
            number,
            position: scan.position,
            file_bytes,
            previous: scan.previous,
            sealed: scan.sealed,
        });
        out.segments.insert(
            number,
            Arc::new(Segment {
                number,
                salt: header.salt,
                file,
                is_whole,
            }),
        );
        progress(at + 1, count);
    }
    out.finish()?;
    Ok(out)
}

impl Recovered {
    fn take_damage(&mut self, damage: Damage) {
        self.damage.push(damage);
        self.open.push(damage);
    }

    fn take(&mut self, segment: u64, at: u64, kind: Kind, id: EntryId) -> Result<(), String> {
        match kind {
            Kind::Blank | Kind::Normal | Kind::Membership => {
                self.fill_before(id);
                self.index
                    .push(id.index, segment, at)
                    .map_err(|expected| format!("entry {} where {expected} was to be", id.index))?;
                self.last = Some(id);
            }
            Kind::Truncate if !self.open.is_empty() => {
                return Err("the log is cut here, and what lies before it is damaged".to_owned());
            }
            Kind::Truncate => {
                self.index.truncate(id.index);
                self.lost.retain(|index, _| *index < id.index);
                self.last = None;
            }
            Kind::Purge => {
                self.purged = self.purged.max(Some(id));
                self.index.purge(id.index);
            }
            Kind::Committed => self.committed = self.committed.max(Some(id)),
            Kind::Vote | Kind::Seal | Kind::Lost => {}
        }
        Ok(())
    }

    /// The entries between the last one and `next`: the damage took them.
    fn fill_before(&mut self, next: EntryId) {
        let open = std::mem::take(&mut self.open);
        let Some(first) = open.first() else { return };
        let from = match self.index.bounds() {
            Some((_, last)) => last + 1,
            // What lay at the front: no more than there were frames, where that is known.
            None if open.iter().all(|damage| damage.is_one) => {
                next.index.saturating_sub(open.len() as u64)
            }
            None => self.purged.map_or(0, |id| id.index + 1),
        };
        for index in from..next.index {
            // Where it says so itself, in its own place.
            let claims = |damage: &&Damage| {
                let claim = damage.claim.filter(|claim| claim.kind.is_entry());
                claim.is_some_and(|claim| claim.id.index == index)
            };
            let own = open.iter().find(claims);
            self.lose(index, own.unwrap_or(first), Some(next));
        }
    }

    fn lose(&mut self, index: u64, damage: &Damage, next: Option<EntryId>) {
        let leader = |id: EntryId| (id.term, id.node);
        let vote = self.vote.map(|vote| (vote.term, vote.node));
        let previous = self.last.map(leader);
        // Whoever led last may have led then; with nothing behind it, no id may be below the true one.
        let known = [previous, next.map(leader).or(vote)];
        let claimed = damage
            .claim
            .filter(|claim| claim.id.index == index)
            .map(|claim| leader(claim.id));
        let likely = match next {
            Some(next) => previous.unwrap_or_else(|| leader(next)),
            None => previous.max(vote).unwrap_or_default(),
        };
        let (term, node) = claimed
            .filter(|claimed| known.contains(&Some(*claimed)))
            .unwrap_or(likely);
        let id = EntryId { term, node, index };
        if self.index.push(index, damage.segment, damage.from).is_ok() {
            self.lost.insert(index, (id, *damage));
            self.last = Some(id);
        }
    }

    /// The log's end was reached: what damage at the end took, and what else it may have taken.
    fn finish(&mut self) -> Result<(), WalError> {
        for damage in std::mem::take(&mut self.open) {
            let next = match self.index.bounds() {
                Some((_, last)) => last + 1,
                None => self.purged.map_or(0, |id| id.index + 1),
            };
            // An index too many does no harm, one too few would be given to another entry.
            let most = match damage.is_one {
                true => 1,
                false => (damage.to - damage.from) / FRAME_HEAD_BYTES as u64,
            };
            let committed = self.committed.map_or(0, |id| id.index);
            let end = committed.saturating_add(1).max(next.saturating_add(most));
            for index in next..end {
                self.lose(index, &damage, None);
            }
        }
        if !self.damage.is_empty() {
            self.mend();
        }
        if let (Some((first, _)), purged) = (self.index.bounds(), self.purged) {
            let expected = purged.map_or_else(|| first.min(1), |id| id.index + 1);
            if first != expected && first > expected {
                return Err(WalError::Hole { expected, first });
            }
        }
        let first = self.index.bounds().map_or(u64::MAX, |(first, _)| first);
        self.lost.retain(|index, _| *index >= first);
        Ok(())
    }

    /// Of what is no entry, the log itself tells: whoever led, had been voted for; what is not there, had been purged
    /// (a state that reaches so far has to prove it).
    fn mend(&mut self) {
        if let Some(last) = self.last
            && self.vote.is_none_or(|vote| vote.term < last.term)
        {
            self.vote = Some(Vote {
                term: last.term,
                node: last.node,
                committed: true,
            });
        }
        if let Some((first, _)) = self.index.bounds()
            && self
                .segments
                .keys()
                .next()
                .is_some_and(|number| *number > 1)
            && self.purged.map_or(1, |id| id.index + 1) < first
        {
            let leader = self.purged.or(self.last).unwrap_or_default();
            self.purged = Some(EntryId {
                index: first - 1,
                ..leader
            });
        }
    }
}

/// Writes the last batch again and fsyncs it: after a failed fsync the page cache may show what the disk never got.
fn rewrite(
    file: &std::fs::File,
    from: u64,
    to: u64,
    io: &dyn Fn(std::io::Error) -> WalError,
) -> Result<(), WalError> {
    let mut at = from;
    let mut bytes = Vec::new();
    while at < to {
        let len = (to - at).min(1 << 20);
        bytes.resize(len as usize, 0);
        read_exact_at(file, &mut bytes, at).map_err(io)?;
        write_all_at(file, &bytes, at).map_err(io)?;
        at += len;
    }
    file.sync_all().map_err(io)
}
