//! What checks the frames of a segment.
//!
//! A crc of another kind than the one that commands and records have: damage that the one does not see is none that the other
//! does not. So a frame that was put right by its crc is proved by theirs (`mend`).

/// Which crc the frames of a segment have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crc {
    /// CRC-32, as commands and records have; that of segments of version 1.
    Ieee,
    /// CRC-32C.
    Castagnoli,
}

/// A segment's crc, which begins with the segment's salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) crc: Crc,
    pub(crate) salt: u64,
}

/// A crc while bytes are added.
#[derive(Clone, Debug)]
pub(super) enum Sum {
    Ieee(crc32fast::Hasher),
    Castagnoli(u32),
}

impl Check {
    /// The sum of the salt alone.
    pub(super) fn begin(self) -> Sum {
        let mut sum = match self.crc {
            Crc::Ieee => Sum::Ieee(crc32fast::Hasher::new()),
            Crc::Castagnoli => Sum::Castagnoli(0),
        };
        sum.add(&self.salt.to_le_bytes());
        sum
    }
}

impl Sum {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Ieee(hasher) => hasher.update(bytes),
            Self::Castagnoli(sum) => *sum = crc32c::crc32c_append(*sum, bytes),
        }
    }

    pub(super) fn value(&self) -> u32 {
        match self {
            Self::Ieee(hasher) => hasher.clone().finalize(),
            Self::Castagnoli(sum) => *sum,
        }
    }
}

impl Crc {
    /// The changes of one of `len` bytes that make up for `difference` in a crc of all of them, from the last byte on.
    ///
    /// A change is undone backwards: the upper byte of a crc tells which entry of the table went in last.
    pub(super) fn changes(self, len: usize, difference: u32) -> impl Iterator<Item = (usize, u8)> {
        let Table { added, upper } = match self {
            Self::Ieee => &IEEE,
            Self::Castagnoli => &CASTAGNOLI,
        };
        let mut state = difference;
        let places = if difference == 0 { 0 } else { len };
        (0..places).rev().filter_map(move |place| {
            let last = upper[(state >> 24) as usize];
            let before = state ^ added[usize::from(last)];
            state = before << 8 | u32::from(last);
            (before == 0).then_some((place, last))
        })
    }
}

/// The change of a crc's own byte that makes up for `difference`.
pub(super) fn change_of_crc(difference: u32) -> Option<(usize, u8)> {
    let bytes = difference.to_le_bytes();
    let place = bytes.iter().position(|byte| *byte != 0)?;
    let change = bytes[place];
    (difference == u32::from(change) << (8 * place)).then_some((place, change))
}

struct Table {
    /// What each byte adds to a crc.
    added: [u32; 256],
    /// Which byte adds something with this upper byte; each has one of its own.
    upper: [u8; 256],
}

const IEEE: Table = table(0xEDB8_8320);
const CASTAGNOLI: Table = table(0x82F6_3B78);

const fn table(polynomial: u32) -> Table {
    let mut table = Table {
        added: [0; 256],
        upper: [0; 256],
    };
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            let is_odd = crc & 1 == 1;
            crc >>= 1;
            if is_odd {
                crc ^= polynomial;
            }
            bit += 1;
        }
        table.added[byte] = crc;
        table.upper[(crc >> 24) as usize] = byte as u8;
        byte += 1;
    }
    table
}
