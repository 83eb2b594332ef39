//! `[upload]`, `[upload.http]`, `[upload.file]` ([`postgres`] and [`command`] have their own files): where records go and
//! in which batches.

pub mod command;
pub mod postgres;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use url::Url;

use super::reader::{Pass, any, between};
use super::secret;
use super::value::{DURATION_MAX, HiddenMap, HiddenUrl, Size, keywords};
use crate::shown;

pub use command::CommandSinkConfig;
pub use postgres::{PostgresMode, PostgresSinkConfig};

keywords! {
    /// A place that records are uploaded to.
    pub enum SinkKind {
        /// NDJSON files in a folder.
        File = "file",
        /// `POST` to a backend.
        Http = "http",
        /// Rows of a table.
        Postgres = "postgres",
        /// A program's standard input.
        Command = "command",
    }
}

keywords! {
    /// How an upload's body, or a complete file, is compressed.
    pub enum Compression {
        /// gzip, understood everywhere.
        Gzip = "gzip",
        /// Zstandard: smaller and faster.
        Zstd = "zstd",
        /// Not at all.
        None = "none",
    }
}

/// The longest time for which dead letters are kept: ten years.
const DEAD_LETTERS_KEEP_MAX: Duration = Duration::from_secs(3660 * 24 * 3600);

/// Where records go and in which batches.
#[derive(Clone, Debug)]
pub struct UploadConfig {
    /// The sinks in use; empty: nothing is uploaded and records count as uploaded once committed.
    pub sinks: Vec<SinkKind>,
    /// A batch is cut at this many records,
    pub batch_records_max: u32,
    /// or at this many bytes before compression,
    pub batch_bytes_max: u64,
    /// or when its oldest record has waited this long.
    pub batch_age_max: Duration,
    /// How HTTP bodies are compressed; files are never compressed, so that they can be resumed by truncating.
    pub compression: Compression,
    /// The wait after the first failed try.
    pub retry_first: Duration,
    /// The longest wait between two tries.
    pub retry_max: Duration,
    /// Batches under way at once over all lanes of a sink.
    pub concurrency_max: u32,
    /// Bytes a second that go to backends, after compression; `None`: as fast as they go.
    pub rate_max: Option<u64>,
    /// How long dead letters are kept.
    pub dead_letters_keep: Duration,
    /// `[upload.http]`; set when `sinks` has `"http"`.
    pub http: Option<HttpSinkConfig>,
    /// `[upload.postgres]`; set when `sinks` has `"postgres"`.
    pub postgres: Option<PostgresSinkConfig>,
    /// `[upload.command]`; set when `sinks` has `"command"`.
    pub command: Option<CommandSinkConfig>,
    /// `[upload.file]`.
    pub file: FileSinkConfig,
}

/// `[upload.http]`: the backend.
#[derive(Clone)]
pub struct HttpSinkConfig {
    /// Where batches are sent by `POST`, `http` or `https`.
    pub url: Url,
    /// Headers added to each request.
    pub headers: HiddenMap,
    /// A file whose content is sent as `Authorization: Bearer …`; read at the start and again after a 401.
    pub token_file: Option<PathBuf>,
    /// The longest that one request may take.
    pub timeout: Duration,
    /// Certificate authorities to trust beside the system's, as PEM.
    pub tls_ca_file: Option<PathBuf>,
    /// The certificate that is shown to the backend, and its key, as PEM files.
    pub tls_client: Option<(PathBuf, PathBuf)>,
}

impl fmt::Debug for HttpSinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSinkConfig")
            .field("url", &shown::url(self.url.as_str()))
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// `[upload.file]`: NDJSON files.
#[derive(Clone, Debug)]
pub struct FileSinkConfig {
    /// The folder; `<data_dir>/uploads` when the file names none.
    pub dir: PathBuf,
    /// A file is finished and the next one begun at this many bytes.
    pub rotate_bytes: u64,
}

impl UploadConfig {
    pub(super) fn read(pass: &mut Pass<'_>, data_dir: &std::path::Path) -> Self {
        let mut section = pass.section("upload");
        section.subsection("http");
        section.subsection("file");
        section.subsection("postgres");
        section.subsection("command");
        let sinks = section.get(
            "sinks",
            vec![SinkKind::File],
            "Where records go: any of \"file\", \"http\", \"postgres\" and \"command\"; [] keeps nothing to upload.",
            |sinks: &Vec<SinkKind>| check_sinks(sinks),
        );
        let batch_records_max = section.get(
            "batch_max_records",
            5000,
            "A batch is cut at this many records,",
            between(1, 100_000),
        );
        let batch_bytes_max = section.get(
            "batch_max_bytes",
            Size(1 << 20),
            "or at this size before compression (one record is always sent, however large),",
            between(Size(4 << 10), Size(64 << 20)),
        );
        let batch_age_max = section.get(
            "batch_max_age",
            Duration::from_secs(1),
            "or when its oldest record has waited this long.",
            between(Duration::ZERO, Duration::from_secs(3600)),
        );
        let compression = section.get(
            "compression",
            Compression::Gzip,
            "Compression of HTTP bodies and of complete files: \"gzip\", \"zstd\" or \"none\".",
            any,
        );
        let retry_first = section.get(
            "retry_first",
            Duration::from_millis(250),
            "Wait after the first failed try; it doubles, with jitter, up to retry_max.",
            between(Duration::from_millis(1), DURATION_MAX),
        );
        let retry_max = section.get(
            "retry_max",
            Duration::from_secs(60),
            "The longest wait between two tries; trying never ends.",
            between(Duration::from_millis(1), DURATION_MAX),
        );
        let concurrency_max = section.get(
            "concurrency_max",
            4,
            "Batches under way at once; fewer while the backend is in trouble.",
            between(1, 64),
        );
        let rate_max: Option<Size> = section.optional(
            "rate_max",
            "\"2 MiB\"",
            "The most that goes to backends in a second, after compression, all sinks together.",
            between(Size(1 << 10), Size(1 << 40)),
        );
        let dead_letters_keep = section.get(
            "dead_letters_keep",
            Duration::from_secs(30 * 24 * 3600),
            "How long records that a backend refused for good are kept, while the watchdog runs.",
            between(Duration::from_secs(60), DEAD_LETTERS_KEEP_MAX),
        );
        section.finish();
        if retry_first > retry_max {
            pass.complain_of_two(
                [
                    (
                        "upload.retry_first",
                        format!("{retry_first:?}"),
                        "longer than",
                    ),
                    ("upload.retry_max", format!("{retry_max:?}"), "shorter than"),
                ],
                "",
            );
        }
        Self {
            http: HttpSinkConfig::read(pass, &sinks),
            postgres: PostgresSinkConfig::read(pass, &sinks),
            command: CommandSinkConfig::read(pass, &sinks),
            file: FileSinkConfig::read(pass, data_dir),
            sinks,
            batch_records_max,
            batch_bytes_max: batch_bytes_max.0,
            batch_age_max,
            compression,
            retry_first,
            retry_max,
            concurrency_max,
            rate_max: rate_max.map(|rate| rate.0),
            dead_letters_keep,
        }
    }
}

impl HttpSinkConfig {
    fn read(pass: &mut Pass<'_>, sinks: &[SinkKind]) -> Option<Self> {
        let mut section = pass.section("upload.http");
        let url: Option<HiddenUrl> = section.optional(
            "url",
            "\"https://backend.example/ingest\"",
            "Where batches are sent by POST.",
            |url: &HiddenUrl| parse_url(&url.0, "token_file").map(drop),
        );
        let headers = section.get(
            "headers",
            HiddenMap::default(),
            "Headers added to each request.",
            |headers: &HiddenMap| check_headers(headers),
        );
        let token_file = section.optional_path(
            "token_file",
            "\"/run/secrets/sidekick-token\"",
            "File with the token sent as \"Authorization: Bearer ...\".",
        );
        let timeout = section.get(
            "timeout",
            Duration::from_secs(30),
            "The longest that one request may take.",
            between(Duration::from_millis(100), Duration::from_secs(3600)),
        );
        let tls_ca_file = section.optional_path(
            "tls_ca_file",
            "\"/etc/sidekick/ca.pem\"",
            "PEM file of certificate authorities to trust beside the system's.",
        );
        let tls_client_cert_file = section.optional_path(
            "tls_client_cert_file",
            "\"/etc/sidekick/http-client.pem\"",
            "PEM file of the certificate shown to the backend, with those between it and its authority.",
        );
        let tls_client_key_file = section.optional_path(
            "tls_client_key_file",
            "\"/run/secrets/sidekick-client.key\"",
            "PEM file of that certificate's key.",
        );
        section.finish();
        let wanted = sinks.contains(&SinkKind::Http);
        let tls_client = check_client(pass, tls_client_cert_file, tls_client_key_file);
        secret::check(pass, "upload.http.token_file", token_file.as_deref());
        if let Some(Err(why)) = tls_ca_file.as_deref().map(check_authorities) {
            pass.complain("upload.http.tls_ca_file", format!("cannot be used: {why}"));
        }
        let url = url.and_then(|url| parse_url(&url.0, "token_file").ok());
        match url {
            Some(url) if wanted => Some(Self {
                url,
                headers,
                token_file,
                timeout,
                tls_ca_file,
                tls_client,
            }),
            None if wanted => {
                let given = pass.complaints.iter().any(|c| c.key == "upload.http.url");
                if !given {
                    pass.complain(
                        "upload.sinks",
                        "has \"http\", but upload.http.url is not set; add [upload.http] url = \"https://…\"",
                    );
                }
                None
            }
            unused => {
                if unused.is_some() {
                    pass.warnings.push(
                        "[upload.http] is set but not used: upload.sinks does not have \"http\""
                            .into(),
                    );
                }
                None
            }
        }
    }
}

impl FileSinkConfig {
    fn read(pass: &mut Pass<'_>, data_dir: &std::path::Path) -> Self {
        let mut section = pass.section("upload.file");
        let dir = section.optional_path(
            "dir",
            "\"sidekick-data/uploads\"",
            "Folder of the NDJSON files; without it, \"uploads\" in data_dir.",
        );
        let rotate = section.get(
            "rotate_bytes",
            Size(64 << 20),
            "A file is finished and the next one begun at this size.",
            between(Size(64 << 10), Size(1 << 40)),
        );
        section.finish();
        let dir = dir.unwrap_or_else(|| data_dir.join("uploads"));
        pass.derive("upload.file.dir", &dir);
        Self {
            dir,
            rotate_bytes: rotate.0,
        }
    }
}

fn check_sinks(sinks: &[SinkKind]) -> Result<(), String> {
    for (at, sink) in sinks.iter().enumerate() {
        if sinks[..at].contains(sink) {
            return Err(format!("has {:?} twice", sink.word()));
        }
    }
    Ok(())
}

/// A file of certificate authorities that can be read, with one in it at least.
pub(super) fn check_authorities(path: &Path) -> Result<(), String> {
    let problem = |why: &str| format!("{}: {why}; name a PEM file of certificates", path.display());
    let mut count = 0;
    for certificate in
        CertificateDer::pem_file_iter(path).map_err(|error| problem(&in_words(&error)))?
    {
        certificate.map_err(|error| problem(&in_words(&error)))?;
        count += 1;
    }
    if count == 0 {
        return Err(problem("holds no certificate"));
    }
    Ok(())
}

/// Certificate and key, both or neither, that can be read.
fn check_client(
    pass: &mut Pass<'_>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Option<(PathBuf, PathBuf)> {
    const CERT: &str = "upload.http.tls_client_cert_file";
    const KEY: &str = "upload.http.tls_client_key_file";
    let (cert, key) = match (cert, key) {
        (Some(cert), Some(key)) => (cert, key),
        (None, None) => return None,
        (Some(_), None) => {
            pass.complain(
                CERT,
                "is set, but tls_client_key_file is not; a certificate needs its key",
            );
            return None;
        }
        (None, Some(_)) => {
            pass.complain(
                KEY,
                "is set, but tls_client_cert_file is not; a key needs its certificate",
            );
            return None;
        }
    };
    if let Err(why) = check_authorities(&cert) {
        pass.complain(CERT, format!("cannot be used: {why}"));
    }
    match PrivateKeyDer::from_pem_file(&key) {
        Ok(_) => secret::warn_of_readers(pass, KEY, &key),
        Err(error) => {
            let why = match error {
                pem::Error::NoItemsFound => "holds no private key".to_owned(),
                other => in_words(&other),
            };
            let key = key.display();
            pass.complain(
                KEY,
                format!("cannot be used: {key}: {why}; name a PEM file of a key"),
            );
        }
    }
    Some((cert, key))
}

fn in_words(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        // Its own words quote the file, byte by byte.
        _ => "is not in PEM format".to_owned(),
    }
}

pub(super) fn parse_url(text: &str, secrets: &str) -> Result<Url, String> {
    // The text itself may hold a password: it is never repeated in a complaint.
    let url = Url::parse(text)
        .map_err(|error| format!("is not a URL ({error}); write \"https://host/path\""))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!(
            "has the scheme {:?}: must be http or https",
            url.scheme()
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!(
            "holds a user name or password; put the secret into {secrets}"
        ));
    }
    Ok(url)
}

fn check_headers(headers: &HiddenMap) -> Result<(), String> {
    /// Headers that the sink sets itself.
    const OURS: &[&str] = &[
        "content-type",
        "content-encoding",
        "content-length",
        "idempotency-key",
        "host",
        "transfer-encoding",
    ];
    for (name, value) in &headers.0 {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(is_token) {
            return Err(format!("has {name:?}, which cannot be a header's name"));
        }
        if !value.bytes().all(|b| b == b'\t' || (32..127).contains(&b)) {
            return Err(format!(
                "has characters in {name:?} that a header cannot carry"
            ));
        }
        if name.eq_ignore_ascii_case("authorization") {
            return Err("has \"Authorization\"; put the token into token_file".into());
        }
        if OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
            return Err(format!("has {name:?}, which Sidekick sets itself"));
        }
    }
    Ok(())
}
