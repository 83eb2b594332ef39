//! `[api]`: where operators are answered over HTTP.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::reader::{Pass, any};
use super::secret;

/// Where operators are answered over HTTP.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// The address; when its port is taken the next free one is used. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// File with the token that requests must carry (all but `/healthz` and `/readyz`).
    pub token_file: Option<PathBuf>,
}

impl ApiConfig {
    pub(super) fn read(pass: &mut Pass<'_>) -> Self {
        let mut section = pass.section("api");
        let config = Self {
            listen: section.get(
                "listen",
                SocketAddr::from(([127, 0, 0, 1], 7117)),
                "Address of the HTTP API. A port that is taken: the next free one, told in log and `status`.",
                any,
            ),
            token_file: section.optional_path(
                "token_file",
                "\"/run/secrets/sidekick-api-token\"",
                "File with the token that requests must carry; required to listen beyond loopback.",
            ),
        };
        section.later("tls", "TLS for the API; put a proxy before it");
        section.finish();
        secret::check(pass, "api.token_file", config.token_file.as_deref());
        if !config.listen.ip().is_loopback() && config.token_file.is_none() {
            pass.complain(
                "api.listen",
                format!(
                    "is {}, which others can reach: set api.token_file, or listen on 127.0.0.1",
                    config.listen
                ),
            );
        }
        config
    }
}
