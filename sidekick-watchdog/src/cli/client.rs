//! Finds the running watchdog of a data directory and asks it one thing over HTTP.
//!
//! HTTP/1.0 over a plain socket: the answer ends with the connection, so twenty lines replace a client library.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use crate::api;
use crate::config::{Config, secret};

/// How long the watchdog may take for each step of its answer; it answers from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A larger answer is not a watchdog's.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// The file in the data directory that names the runtime directory of its watchdog.
const RUNTIME_DIR_RECORD: &str = "runtime_dir";

/// Why nobody answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("no watchdog runs for {data_dir:?}: {why}; start one with `sidekick-watchdog run`")]
    NotRunning { data_dir: PathBuf, why: String },
    #[error("the watchdog at {address} answered {answer:?}{remedy}")]
    Refused {
        address: SocketAddr,
        answer: String,
        remedy: &'static str,
    },
    #[error("the watchdog at {address} did not answer: {why}")]
    Broken { address: SocketAddr, why: String },
    #[error("[api] token_file {0}")]
    Token(String),
}

/// The body of the answer to `GET path`.
pub(super) fn get(config: &Config, path: &str) -> Result<String, ClientError> {
    let address = find(config)?;
    let token = match &config.api.token_file {
        Some(file) => Some(secret::read_file(file).map_err(ClientError::Token)?),
        None => None,
    };
    let stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)
        .map_err(|error| not_running(config, format!("{address}: {error}")))?;
    let answer = ask(stream, address, path, token.as_deref()).map_err(|error| {
        let why = error.to_string();
        ClientError::Broken { address, why }
    })?;
    let broken = |why: &str| ClientError::Broken {
        address,
        why: why.into(),
    };
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| broken("its answer is not HTTP"))?;
    let status_line = head.lines().next().unwrap_or_default();
    match status_line.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        Some("401") => Err(ClientError::Refused {
            address,
            answer: status_line.into(),
            remedy: "; name its [api] token_file in the configuration",
        }),
        _ => Err(ClientError::Refused {
            address,
            answer: status_line.chars().take(80).collect(),
            remedy: "",
        }),
    }
}

/// An error that says that nobody is there.
pub(super) fn not_running(config: &Config, why: String) -> ClientError {
    ClientError::NotRunning {
        data_dir: config.data_dir.clone(),
        why,
    }
}

fn ask(
    mut stream: TcpStream,
    address: SocketAddr,
    path: &str,
    token: Option<&str>,
) -> io::Result<String> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let authorization = match token {
        Some(token) => format!("Authorization: Bearer {token}\r\n"),
        None => String::new(),
    };
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\n{authorization}\r\n"
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// The address that the watchdog of this data directory wrote down.
fn find(config: &Config) -> Result<SocketAddr, ClientError> {
    // The recorded one first: the configuration may have changed since the watchdog started.
    let record = config.data_dir.join(RUNTIME_DIR_RECORD);
    let recorded = std::fs::read_to_string(&record)
        .ok()
        .map(|text| PathBuf::from(text.trim_end_matches('\n')));
    let places: Vec<PathBuf> = recorded
        .into_iter()
        .chain(config.runtime_dir.clone())
        .map(|dir| dir.join(api::ADDRESS_FILE))
        .collect();
    if places.is_empty() {
        let why = format!("{} does not exist", record.display());
        return Err(not_running(config, why));
    }
    let mut why = String::new();
    for file in &places {
        match std::fs::read_to_string(file) {
            Ok(text) => match text.trim().parse::<SocketAddr>() {
                Ok(address) => return Ok(reachable(address)),
                Err(_) => why = format!("{} holds no address", file.display()),
            },
            Err(error) => why = format!("{}: {error}", file.display()),
        }
    }
    Err(not_running(config, why))
}

/// A watchdog that listens on every address is asked on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        match address {
            SocketAddr::V4(_) => address.set_ip(std::net::Ipv4Addr::LOCALHOST.into()),
            SocketAddr::V6(_) => address.set_ip(std::net::Ipv6Addr::LOCALHOST.into()),
        }
    }
    address
}
