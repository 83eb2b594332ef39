//! The header of a ring file: whose it is, and by which version of the protocol.
//!
//! Written once, before the file has its name. Magic and version stand first in every version to come.

use uuid::Uuid;

use crate::frame::RECORD_BYTES_MAX;
use crate::layout;

/// Version of everything that both processes must agree on. A reader of another version refuses the file.
pub const PROTOCOL_VERSION: u16 = 3;
/// Bytes of the header that are in use.
pub const HEADER_BYTES: usize = 256;

const MAGIC: [u8; 8] = *b"SIDEKRNG";
const ENDIAN_MARK: u32 = 0x0102_0304;
const LIBRARY_VERSION_BYTES: usize = 47;
/// The longest version of a game that is told, in bytes: what the header has left.
pub const GAME_VERSION_BYTES: usize = 51;

/// What a ring file's header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// The session's UUID, the same in all its rotations.
    pub epoch: Uuid,
    /// Launch number of the engine process.
    pub launch: u32,
    /// Incarnation number of the engine process.
    pub incarnation: u32,
    /// 0, then one more for every further file of the session.
    pub rotation: u32,
    /// Sequence number with which this file starts.
    pub first_seq: u64,
    /// Number of the first spill file that belongs to this rotation.
    pub spill_first: u32,
    /// The engine's pid, in its own pid namespace.
    pub pid: u32,
    /// The engine's start time in clock ticks since boot; 0 if unknown.
    pub pid_start_time: u64,
    /// Id of the boot in which the file was made.
    pub boot_id: [u8; 16],
    /// CLOCK_MONOTONIC when the file was made, ns.
    pub monotonic_base_ns: u64,
    /// Nanoseconds since the Unix epoch at the same moment.
    pub realtime_base_ns: u64,
    /// Bytes of the uplink's data.
    pub ring_bytes: u64,
    /// Version of the library in the engine, cut at 47 bytes.
    pub library_version: String,
    /// Version of the game, cut at [`GAME_VERSION_BYTES`]; empty where it has none, and of libraries that tell none.
    pub game_version: String,
}

impl SessionInfo {
    /// Add this to a frame's monotonic nanoseconds to get nanoseconds since the Unix epoch.
    pub fn realtime_offset_ns(&self) -> i64 {
        self.realtime_base_ns.wrapping_sub(self.monotonic_base_ns) as i64
    }
}

/// Why a header is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a ring file.
    #[error("the file does not start as a ring file does; move it away once its game has ended")]
    Magic,
    /// Another version of the protocol.
    #[error(
        "the game's library speaks protocol {found}, this watchdog speaks {ours}; install matching versions of the two"
    )]
    Version {
        /// Version in the file.
        found: u16,
        /// Version of this build.
        ours: u16,
        /// The library's own version, if it lies where this build would have put it. For words only.
        library: Option<String>,
    },
    /// Damaged.
    #[error(
        "the header's crc is {found:#010x}, its bytes give {computed:#010x}; move the file away once its game has ended"
    )]
    Crc {
        /// Crc in the header.
        found: u32,
        /// Crc of its bytes.
        computed: u32,
    },
    /// A value that this build cannot have written.
    #[error(
        "the header's {field} is {found}, it must be {expected}; install matching versions of library and watchdog"
    )]
    Field {
        /// Which.
        field: &'static str,
        /// Value in the file.
        found: u64,
        /// Value that it must have.
        expected: u64,
    },
}

struct Writer {
    bytes: [u8; HEADER_BYTES],
    at: usize,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        if let Some(to) = self
            .bytes
            .get_mut(self.at..)
            .and_then(|b| b.get_mut(..bytes.len()))
        {
            to.copy_from_slice(bytes);
        }
        self.at = self.at.saturating_add(bytes.len());
    }

    /// A length and as much of a text as there is room for; what follows has its place whatever the text's length.
    fn put_text(&mut self, text: &str, bytes_max: usize) {
        let after = self.at.saturating_add(1).saturating_add(bytes_max);
        let end = text.floor_char_boundary(bytes_max);
        let text = text.as_bytes().get(..end).unwrap_or_default();
        self.put(&[text.len() as u8]);
        self.put(text);
        self.at = after;
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((head, rest)) = self.0.split_first_chunk::<N>() else {
            return [0; N];
        };
        self.0 = rest;
        *head
    }
    /// What [`Writer::put_text`] wrote.
    fn take_text(&mut self, bytes_max: usize) -> String {
        let [length] = self.take();
        let (room, rest) = self.0.split_at_checked(bytes_max).unwrap_or_default();
        self.0 = rest;
        let text = room.get(..usize::from(length).min(bytes_max));
        String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// Constants that both sides must share beyond the version; compared, never used as read.
fn shape() -> [(&'static str, u64); 5] {
    [
        ("producer region", layout::P as u64),
        ("consumer region", layout::C as u64),
        ("downlink bytes", layout::DOWNLINK_BYTES as u64),
        ("data region", layout::D as u64),
        ("largest payload", RECORD_BYTES_MAX as u64),
    ]
}

/// The header's bytes.
pub fn encode(info: &SessionInfo) -> [u8; HEADER_BYTES] {
    let mut w = Writer {
        bytes: [0; HEADER_BYTES],
        at: 0,
    };
    w.put(&MAGIC);
    w.put(&PROTOCOL_VERSION.to_le_bytes());
    w.put(&[0; 2]);
    w.put(&ENDIAN_MARK.to_ne_bytes());
    for (_, value) in shape() {
        w.put(&value.to_le_bytes());
    }
    w.put(&info.ring_bytes.to_le_bytes());
    w.put(info.epoch.as_bytes());
    for value in [
        info.launch,
        info.incarnation,
        info.rotation,
        info.spill_first,
        info.pid,
        0,
    ] {
        w.put(&value.to_le_bytes());
    }
    w.put(&info.first_seq.to_le_bytes());
    w.put(&info.pid_start_time.to_le_bytes());
    w.put(&info.boot_id);
    w.put(&info.monotonic_base_ns.to_le_bytes());
    w.put(&info.realtime_base_ns.to_le_bytes());
    w.put_text(&info.library_version, LIBRARY_VERSION_BYTES);
    w.put_text(&info.game_version, GAME_VERSION_BYTES);
    let mut bytes = w.bytes;
    let crc = crc32fast::hash(bytes.get(..HEADER_BYTES - 4).unwrap_or_default());
    if let Some(to) = bytes.last_chunk_mut::<4>() {
        *to = crc.to_le_bytes();
    }
    bytes
}

/// Reads a copy of a header.
///
/// # Errors
/// See [`HeaderError`]; the version is judged before everything else.
pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<SessionInfo, HeaderError> {
    let mut r = Reader(bytes);
    if r.take::<8>() != MAGIC {
        return Err(HeaderError::Magic);
    }
    let found = u16::from_le_bytes(r.take());
    if found != PROTOCOL_VERSION {
        return Err(HeaderError::Version {
            found,
            ours: PROTOCOL_VERSION,
            library: library_of_another(bytes),
        });
    }
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(HeaderError::Magic)?;
    let (found, computed) = (u32::from_le_bytes(*crc), crc32fast::hash(body));
    if found != computed {
        return Err(HeaderError::Crc { found, computed });
    }
    let _: [u8; 2] = r.take();
    let check = |field, found, expected| {
        if found == expected {
            Ok(())
        } else {
            Err(HeaderError::Field {
                field,
                found,
                expected,
            })
        }
    };
    check(
        "byte order",
        u32::from_ne_bytes(r.take()).into(),
        ENDIAN_MARK.into(),
    )?;
    for (field, expected) in shape() {
        check(field, r.u64(), expected)?;
    }
    let ring_bytes = r.u64();
    let size_ok = ring_bytes.is_power_of_two()
        && ring_bytes >= layout::RING_BYTES_MIN as u64
        && ring_bytes <= layout::RING_BYTES_MAX as u64;
    if !size_ok {
        let expected = ring_bytes
            .clamp(layout::RING_BYTES_MIN as u64, layout::RING_BYTES_MAX as u64)
            .next_power_of_two();
        return Err(HeaderError::Field {
            field: "ring size",
            found: ring_bytes,
            expected,
        });
    }
    let epoch = Uuid::from_bytes(r.take());
    let (launch, incarnation, rotation) = (r.u32(), r.u32(), r.u32());
    let (spill_first, pid, _) = (r.u32(), r.u32(), r.u32());
    let (first_seq, pid_start_time) = (r.u64(), r.u64());
    let boot_id = r.take();
    let (monotonic_base_ns, realtime_base_ns) = (r.u64(), r.u64());
    let library_version = r.take_text(LIBRARY_VERSION_BYTES);
    let game_version = r.take_text(GAME_VERSION_BYTES);
    Ok(SessionInfo {
        epoch,
        launch,
        incarnation,
        rotation,
        first_seq,
        spill_first,
        pid,
        pid_start_time,
        boot_id,
        monotonic_base_ns,
        realtime_base_ns,
        ring_bytes,
        library_version,
        game_version,
    })
}

/// Where the length of the library's version lies: the same since the first version, and nobody but a sentence for
/// people relies on it.
const LIBRARY_VERSION_AT: usize = 16 + 40 + 8 + 16 + 24 + 16 + 16 + 16;

/// The library's version in a header of another protocol version, if what lies there looks like one.
fn library_of_another(bytes: &[u8; HEADER_BYTES]) -> Option<String> {
    let length = usize::from(*bytes.get(LIBRARY_VERSION_AT)?);
    let after = bytes.get(LIBRARY_VERSION_AT..)?.get(1..)?;
    let text = after.get(..length.min(LIBRARY_VERSION_BYTES))?;
    let is_version = text.first().is_some_and(u8::is_ascii_digit)
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-+".contains(byte));
    is_version.then(|| String::from_utf8_lossy(text).into_owned())
}

// Magic, version, mark; shape; size; epoch; six u32; first_seq, start; boot; bases: up to the library's version. Then that,
// the game's version and the crc.
const _: () = assert!(
    LIBRARY_VERSION_AT + 1 + LIBRARY_VERSION_BYTES + 1 + GAME_VERSION_BYTES + 4 == HEADER_BYTES
);

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> SessionInfo {
        SessionInfo {
            epoch: Uuid::from_u128(0x1234),
            launch: 3,
            incarnation: 4,
            rotation: 5,
            first_seq: 6,
            spill_first: 7,
            pid: 8,
            pid_start_time: 9,
            boot_id: [10; 16],
            monotonic_base_ns: 11,
            realtime_base_ns: 12,
            ring_bytes: 1 << 20,
            library_version: "0.1.0".to_owned(),
            game_version: "2.7-beta".to_owned(),
        }
    }

    #[test]
    fn a_header_comes_back_as_it_was_written() {
        assert_eq!(decode(&encode(&info())), Ok(info()));
        let long = SessionInfo {
            library_version: "ä".repeat(40),
            game_version: "ö".repeat(40),
            ..info()
        };
        let read = decode(&encode(&long)).unwrap();
        assert_eq!(read.library_version, "ä".repeat(23));
        assert_eq!(read.game_version, "ö".repeat(25));
    }

    /// What a library wrote that told no version of its game: zeros.
    #[test]
    fn a_header_without_a_version_of_the_game_has_an_empty_one() {
        let mut bytes = encode(&info());
        let at = LIBRARY_VERSION_AT + 1 + LIBRARY_VERSION_BYTES;
        bytes[at..HEADER_BYTES - 4].fill(0);
        let crc = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        let without = SessionInfo {
            game_version: String::new(),
            ..info()
        };
        assert_eq!(decode(&bytes), Ok(without));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = encode(&info());
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_version_is_told_with_both_numbers() {
        let mut other = encode(&info());
        other[8] = 9;
        assert_eq!(
            decode(&other),
            Err(HeaderError::Version {
                found: 9,
                ours: PROTOCOL_VERSION,
                library: Some("0.1.0".to_owned()),
            })
        );
        other[LIBRARY_VERSION_AT + 1] = b'\n';
        let nothing_to_quote = matches!(
            decode(&other),
            Err(HeaderError::Version { library: None, .. })
        );
        assert!(nothing_to_quote);
    }
}
