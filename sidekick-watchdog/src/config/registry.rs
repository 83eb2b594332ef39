//! `[registry]`: a backend's list of game servers.

use std::time::Duration;

use super::reader::{Pass, any, between};
use super::secret;
use super::upload::{check_authorities, parse_url};
use super::value::HiddenUrl;
use crate::registry::Settings;

/// Uro hides what has not beaten for 30 s: a beat may be late, and a restart must not show.
const BEAT_EVERY_MAX: Duration = Duration::from_secs(25);

/// Where the server is listed, and as what; `None` without a url.
pub(super) fn read(pass: &mut Pass<'_>, server: &str) -> Option<Settings> {
    let mut section = pass.section("registry");
    let url: Option<HiddenUrl> = section.optional(
        "url",
        "\"https://uro.example/api/v1\"",
        "Where the API of a registry of game servers (as V-Sekai's Uro) begins; the server is listed there while it serves.",
        |url: &HiddenUrl| check_url(&url.0),
    );
    let address: Option<String> = section.optional(
        "address",
        "\"game.example\"",
        "What clients connect to. Without it: the address that the registry sees requests come from.",
        any,
    );
    let port: Option<u32> = section.optional(
        "port",
        "7711",
        "The port that clients connect to; required with a url.",
        |port: &u32| between(1, u32::from(u16::MAX))(port),
    );
    let map = section.get("map", String::new(), "The map that is shown.", any);
    let name: Option<String> = section.optional(
        "name",
        "\"Lobby 1\"",
        "The name that is shown. Without it: the server's name.",
        any,
    );
    let is_public = section.get("public", true, "Show the server to everybody.", any);
    let cert_hash: Option<String> = section.optional(
        "cert_hash",
        "\"sha-256:…\"",
        "The hash of the game's certificate, for clients that check it.",
        any,
    );
    let user: Option<String> = section.optional(
        "user",
        "\"lobby-1\"",
        "Who lists the server. Without one it can be changed from its own address alone.",
        any,
    );
    let password_file = section.optional_path(
        "password_file",
        "\"/run/secrets/registry-password\"",
        "File with that user's password.",
    );
    let beat_every = section.get(
        "beat_every",
        Duration::from_secs(10),
        "Time between two signs of life, given while the engine's own heart beats. Uro hides what is silent for 30 s.",
        between(Duration::from_secs(1), BEAT_EVERY_MAX),
    );
    let unlist_after = section.get(
        "unlist_after",
        Duration::from_secs(15),
        "An engine that is away for longer is taken off the list; a shorter restart does not show.",
        between(Duration::ZERO, Duration::from_secs(3600)),
    );
    let tls_ca_file = section.optional_path(
        "tls_ca_file",
        "\"/etc/sidekick/ca.pem\"",
        "PEM file of certificate authorities to trust beside the system's.",
    );
    section.finish();
    if let Some(Err(why)) = tls_ca_file.as_deref().map(check_authorities) {
        pass.complain("registry.tls_ca_file", format!("cannot be used: {why}"));
    }
    if let Some(path) = &password_file {
        match std::fs::metadata(path) {
            Ok(_) => secret::warn_of_readers(pass, "registry.password_file", path),
            Err(why) => {
                pass.complain("registry.password_file", format!("cannot be used: {why}"));
            }
        }
    }
    let HiddenUrl(url) = url?;
    let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else {
        pass.complain(
            "registry.port",
            "is missing: clients have to know where to connect".to_owned(),
        );
        return None;
    };
    let login = match (user, password_file) {
        (Some(user), Some(file)) => Some((user, file)),
        (None, None) => None,
        _ => {
            pass.complain(
                "registry.user",
                "and password_file are set together or not at all".to_owned(),
            );
            None
        }
    };
    Some(Settings {
        url,
        address,
        port,
        map,
        name: name.unwrap_or_else(|| server.to_owned()),
        is_public,
        cert_hash,
        login,
        beat_every,
        unlist_after,
        tls_ca_file,
    })
}

/// Paths are joined to it, so that a query would be sent to nobody.
fn check_url(text: &str) -> Result<(), String> {
    let url = parse_url(text, "password_file")?;
    match url.query().or_else(|| url.fragment()) {
        None => Ok(()),
        Some(_) => Err(
            "goes on after its path (?…), which is not sent; a secret goes into password_file"
                .into(),
        ),
    }
}
