//! TLS to a PostgreSQL server, by rustls: its certificate is always checked, with the server's name.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls_platform_verifier::Verifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

/// What PostgreSQL 17 wants to hear where it speaks TLS from the first byte on.
const PROTOCOL: &[u8] = b"postgresql";

/// Makes connections secure.
#[derive(Clone, Debug)]
pub struct Connector {
    /// `None` where the URL asks for none.
    config: Option<Arc<ClientConfig>>,
}

impl Connector {
    /// For a URL that asks for no TLS.
    pub fn none() -> Self {
        Self { config: None }
    }

    /// Trusts the system's authorities and those of the file; shows `client`'s certificate where the server wants one.
    ///
    /// # Errors
    /// A sentence that goes on after `[upload.postgres] `.
    pub fn new(
        ca_file: Option<&Path>,
        client: Option<&(PathBuf, PathBuf)>,
    ) -> Result<Self, String> {
        let authorities = match ca_file {
            Some(path) => certificates(path).map_err(|why| format!("tls_ca_file {why}"))?,
            None => Vec::new(),
        };
        let provider = Arc::new(ring::default_provider());
        let verifier =
            Verifier::new_with_extra_roots(authorities, provider.clone()).map_err(|error| {
                format!(
                    "cannot be used with TLS: {error}; install ca-certificates, or set tls_ca_file"
                )
            })?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("cannot be used with TLS: {error}"))?
            .dangerous()
            // The same checks as the default's, with the system's authorities.
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain =
                    certificates(certificate).map_err(|why| format!("tls_cert_file {why}"))?;
                let key_der = PrivateKeyDer::from_pem_file(key)
                    // Its own words may quote the file.
                    .map_err(|_| format!("tls_key_file {}: holds no key in PEM", key.display()))?;
                builder
                    .with_client_auth_cert(chain, key_der)
                    .map_err(|error| {
                        format!("tls_cert_file and tls_key_file cannot be used together: {error}")
                    })?
            }
        };
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self {
            config: Some(Arc::new(config)),
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let problem = |why: &str| format!("{}: {why}", path.display());
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|_| problem("cannot be read as PEM"))
        .and_then(|found| match found.is_empty() {
            true => Err(problem("holds no certificate")),
            false => Ok(found),
        })
}

/// A [`Connector`] for one host.
#[derive(Debug)]
pub struct ToHost {
    config: Option<Arc<ClientConfig>>,
    host: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Connector {
    type Stream = Stream<S>;
    type TlsConnect = ToHost;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<ToHost> {
        Ok(ToHost {
            config: self.config.clone(),
            host: host.to_owned(),
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for ToHost {
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let config = self
                .config
                .ok_or_else(|| io::Error::other("TLS was not asked for"))?;
            let name = ServerName::try_from(self.host).map_err(io::Error::other)?;
            let stream = tokio_rustls::TlsConnector::from(config)
                .connect(name, stream)
                .await?;
            Ok(Stream(Box::new(stream)))
        })
    }
}

/// A secured connection.
#[derive(Debug)]
pub struct Stream<S>(Box<tokio_rustls::client::TlsStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        // The certificate was checked, so nobody stands between.
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}
