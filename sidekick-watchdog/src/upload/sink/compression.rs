//! How bodies and complete files are compressed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// Compression levels are fixed: they are part of the bytes.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// How something is compressed; of a body its `Content-Encoding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// gzip, level 6, without a time in its header.
    #[default]
    Gzip,
    /// zstd, level 3.
    Zstd,
}

impl Compression {
    pub(super) const ALL: [Self; 3] = [Self::None, Self::Gzip, Self::Zstd];

    /// What a plan keeps.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }

    /// What is appended to the name of a file.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
        }
    }

    pub(super) fn compress(self, lines: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Compression::None => Ok(lines),
            Compression::Gzip => {
                let mut encoder = gzip(Vec::with_capacity(lines.len() / 4));
                encoder.write_all(&lines)?;
                encoder.finish()
            }
            Compression::Zstd => zstd::bulk::compress(&lines, ZSTD_LEVEL),
        }
    }

    /// What one of our own bodies holds.
    pub(super) fn decompress(self, body: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Compression::None => Ok(body.to_vec()),
            Compression::Gzip => {
                let mut decoder = flate2::write::GzDecoder::new(Vec::new());
                decoder.write_all(body)?;
                decoder.finish()
            }
            Compression::Zstd => zstd::stream::decode_all(body),
        }
    }

    /// Compresses `from` into `to`, as long as `goes_on` says so: `false` where it said no.
    pub(super) fn compress_file(
        self,
        from: &mut File,
        to: &mut File,
        goes_on: &dyn Fn() -> bool,
    ) -> io::Result<bool> {
        match self {
            Compression::None => copy(from, to, goes_on),
            Compression::Gzip => {
                let mut encoder = gzip(to);
                let is_whole = copy(from, &mut encoder, goes_on)?;
                encoder.finish().map(|_| is_whole)
            }
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(to, ZSTD_LEVEL)?;
                let is_whole = copy(from, &mut encoder, goes_on)?;
                encoder.finish().map(|_| is_whole)
            }
        }
    }

    /// What is in the file at `path`, compressed as its name says.
    pub(super) fn open(path: &Path) -> io::Result<Box<dyn Read>> {
        let file = File::open(path)?;
        let name = path.as_os_str().as_encoded_bytes();
        let ends_with = |compression: Self| name.ends_with(compression.suffix().as_bytes());
        Ok(match [Self::Gzip, Self::Zstd].map(ends_with) {
            [true, _] => Box::new(flate2::read::MultiGzDecoder::new(file)),
            [_, true] => Box::new(zstd::stream::read::Decoder::new(file)?),
            _ => Box::new(file),
        })
    }
}

/// The builder's defaults: no name, no time.
fn gzip<W: Write>(to: W) -> flate2::write::GzEncoder<W> {
    let level = flate2::Compression::new(GZIP_LEVEL);
    flate2::GzBuilder::new().mtime(0).write(to, level)
}

fn copy(from: &mut File, to: &mut dyn Write, goes_on: &dyn Fn() -> bool) -> io::Result<bool> {
    let mut chunk = vec![0; 128 << 10];
    while goes_on() {
        let bytes = from.read(&mut chunk)?;
        if bytes == 0 {
            return Ok(true);
        }
        to.write_all(chunk.get(..bytes).unwrap_or_default())?;
    }
    Ok(false)
}
