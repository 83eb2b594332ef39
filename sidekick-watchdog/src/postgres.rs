//! How a PostgreSQL server is reached: its address, the secrets in files, TLS, one connection; and what its errors mean
//! ([`verdict`]). Knows nothing of records.
//!
//! A connection has no task of its own: [`Link::run`] drives it while somebody waits for an answer, and only then. What
//! the server sends meanwhile (its farewell) is read at the next use.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, Error};

pub mod tls;
pub mod verdict;

pub use verdict::Trouble;

/// The longest wait for a TCP connection; the rest of the way is bounded by whoever connects.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// A file with a URL or a password beyond this size is something else.
const SECRET_BYTES_MAX: u64 = 8 << 10;

/// What every session is set to, where the server knows the setting: a commit is durable when it is answered, and a
/// client whose machine went away without a word does not hold its locks for hours.
const SESSION: &str = "select set_config(s.name, w.value, false) from pg_settings s \
     join (values ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'), \
     ('idle_in_transaction_session_timeout', '60000'), ('synchronous_commit', 'on')) w(name, value) on s.name = w.name \
     where s.name <> 'synchronous_commit' or s.setting in ('off', 'local')";

/// Where a server is and who we are there. A password comes from a file, never from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// `postgres://user@host/database`, without a password.
    pub url: Option<String>,
    /// A file that holds the whole URL, with the password. Read again after the server refused us.
    pub url_file: Option<PathBuf>,
    /// A file that holds the password. Read again after the server refused us.
    pub password_file: Option<PathBuf>,
    /// PEM file of certificate authorities to trust beside the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// PEM files with our certificate and its key, for a server that wants to see one.
    pub tls_client: Option<(PathBuf, PathBuf)>,
    /// For one try as a whole. Default 30 s.
    pub timeout: Duration,
}

/// A server, connected to by nobody yet.
#[derive(Debug)]
pub struct Server {
    settings: ServerSettings,
    /// As it was read last.
    known: Mutex<Option<Access>>,
}

#[derive(Clone)]
struct Access {
    config: Config,
    tls: tls::Connector,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its password is not shown.
        f.debug_tuple("Access").field(&self.config).finish()
    }
}

/// Checks a URL as the configuration has it.
///
/// # Errors
/// A sentence that goes on after the key's name, without the URL itself, which may hold a password.
pub fn check_url(text: &str) -> Result<(), String> {
    let config = parse(text)?;
    match config.get_password() {
        None => Ok(()),
        Some(_) => Err(
            "holds a password; put it into password_file, or the whole URL into url_file".into(),
        ),
    }
}

/// Where a URL leads, without its secrets: `user@host:port/database`.
pub fn place(text: &str) -> String {
    parse(text).map_or_else(|why| why, |config| place_of(&config))
}

fn place_of(config: &Config) -> String {
    let hosts = config.get_hosts().iter().enumerate().map(|(at, host)| {
        let ports = config.get_ports();
        let port = ports.get(at).or_else(|| ports.first()).unwrap_or(&5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            #[allow(
                unreachable_patterns,
                reason = "there are sockets on some systems only"
            )]
            socket => format!("{socket:?}:{port}"),
        }
    });
    let hosts: Vec<String> = hosts.collect();
    let user = config.get_user().unwrap_or("?");
    let database = config.get_dbname().unwrap_or(user);
    format!("{user}@{}/{database}", hosts.join(","))
}

/// Reads a URL. TLS is on where it does not say, except to this very machine; and a certificate is always checked, so
/// the three stricter words of libpq are one.
fn parse(text: &str) -> Result<Config, String> {
    let says_mode = text.contains("sslmode=");
    let text = text
        .replace("sslmode=verify-full", "sslmode=require")
        .replace("sslmode=verify-ca", "sslmode=require");
    if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
        return Err("is not of the form postgres://user@host/database".into());
    }
    let mut config: Config =
        text.parse()
            .map_err(|error: Error| match std::error::Error::source(&error) {
                Some(source) => format!("is not a URL of PostgreSQL ({source})"),
                None => "is not a URL of PostgreSQL".into(),
            })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err("names no host; write postgres://user@host/database".into());
    }
    if config.get_user().is_none() {
        return Err("names no user; write postgres://user@host/database".into());
    }
    if !says_mode {
        let is_here = config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
            #[allow(
                unreachable_patterns,
                reason = "there are sockets on some systems only"
            )]
            _ => true,
        });
        config.ssl_mode(match is_here {
            true => SslMode::Disable,
            false => SslMode::Require,
        });
    }
    if config.get_application_name().is_none() {
        config.application_name("sidekick-watchdog");
    }
    Ok(config)
}

/// Reads a file with a secret: its content without the line end.
///
/// # Errors
/// A sentence with the file's name, never with what is in it.
pub fn read_secret(path: &Path) -> Result<String, String> {
    let problem = |why: String| format!("{}: {why}", path.display());
    let bytes = std::fs::metadata(path)
        .map_err(|error| problem(error.to_string()))?
        .len();
    if bytes > SECRET_BYTES_MAX {
        return Err(problem(format!("is over {SECRET_BYTES_MAX} bytes long")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(problem("is empty".into()));
    }
    Ok(text.to_owned())
}

impl Server {
    /// A server of these settings. Reads nothing and connects to nobody yet.
    pub fn new(settings: ServerSettings) -> Self {
        Self {
            settings,
            known: Mutex::new(None),
        }
    }

    /// How long one try may take.
    pub fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Connects and sets the session up. What files hold is read again once if the server does not take it.
    ///
    /// # Errors
    /// What kept it from that.
    pub async fn connect(&self) -> Result<Link, Trouble> {
        let mut access = self.access(false).await?;
        let mut link = match access.connect().await {
            Err(error) if verdict::is_of_access(&error) => {
                let fresh = self.access(true).await?;
                if fresh.config == access.config {
                    return Err(verdict::trouble(&error));
                }
                access = fresh;
                access.connect().await
            }
            other => other,
        }
        .map_err(|error| verdict::trouble(&error))?;
        link.run(async |client| client.batch_execute(SESSION).await)
            .await?;
        Ok(link)
    }

    /// What is needed to connect, as it was read last or, when `again`, anew.
    async fn access(&self, again: bool) -> Result<Access, Trouble> {
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(known) = known.filter(|_| !again) {
            return Ok(known);
        }
        let settings = self.settings.clone();
        let read = tokio::task::spawn_blocking(move || Access::read(&settings)).await;
        let access = read
            .unwrap_or_else(|error| Err(error.to_string()))
            .map_err(|reason| Trouble::repair(format!("[upload.postgres] {reason}")))?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(access.clone());
        Ok(access)
    }
}

impl Access {
    fn read(settings: &ServerSettings) -> Result<Self, String> {
        let mut config = match (&settings.url_file, &settings.url) {
            (Some(path), _) => {
                let text = read_secret(path).map_err(|why| format!("url_file {why}"))?;
                parse(&text).map_err(|why| format!("url_file {}: {why}", path.display()))?
            }
            (None, Some(url)) => parse(url).map_err(|why| format!("url {why}"))?,
            (None, None) => return Err("url is not set".into()),
        };
        if let Some(path) = &settings.password_file {
            let password = read_secret(path).map_err(|why| format!("password_file {why}"))?;
            config.password(password);
        }
        config.connect_timeout(settings.timeout.min(CONNECT_TIMEOUT_MAX));
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => tls::Connector::none(),
            _ => tls::Connector::new(
                settings.tls_ca_file.as_deref(),
                settings.tls_client.as_ref(),
            )?,
        };
        Ok(Self { config, tls })
    }

    async fn connect(&self) -> Result<Link, Error> {
        let (client, connection) = self.config.connect(self.tls.clone()).await?;
        Ok(Link {
            client,
            connection: Box::pin(connection),
        })
    }
}

/// One connection. Dropping it at any moment is safe: the server rolls back what is open.
pub struct Link {
    client: Client,
    connection: Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    /// Drives the connection while `work` talks to the server.
    ///
    /// # Errors
    /// What `work` ended with, or how the connection ended before it.
    pub async fn run<T, W>(&mut self, work: W) -> Result<T, Trouble>
    where
        W: AsyncFnOnce(&Client) -> Result<T, Error>,
    {
        let Self { client, connection } = self;
        tokio::select! {
            biased;
            done = work(client) => done.map_err(|error| verdict::trouble(&error)),
            end = connection => Err(match end {
                // Its farewell says why.
                Err(error) => verdict::trouble(&error).of_lost_connection(),
                Ok(()) => Trouble::lost(io::Error::from(io::ErrorKind::ConnectionReset).to_string()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_and_told_without_their_secrets() {
        for (url, said) in [
            ("http://u@h/d", "is not of the form"),
            ("postgres://h/d", "names no user"),
            ("postgres:///d?user=u", "names no host"),
            ("postgres://u@h:port/d", "is not a URL of PostgreSQL"),
            ("postgres://u:hunter2@h/d", "holds a password"),
            ("postgres://u@h/d?password=hunter2", "holds a password"),
            (
                "postgres://u:hunter2@h/d?sslmode=never",
                "is not a URL of PostgreSQL",
            ),
        ] {
            let why = check_url(url).unwrap_err();
            assert!(
                why.contains(said) && !why.contains("hunter2"),
                "{url}: {why}"
            );
        }
        check_url("postgres://u@h/d?sslmode=verify-full").unwrap();
        assert_eq!(place("postgresql://u:hunter2@h,i:9/d"), "u@h:5432,i:9/d");
        assert_eq!(
            place("postgres://u@%2Frun%2Fpg/d"),
            "u@Unix(\"/run/pg\"):5432/d"
        );
        let access = Access {
            config: parse("postgres://u:hunter2@h/d").unwrap(),
            tls: tls::Connector::none(),
        };
        assert!(!format!("{access:?}").contains("hunter2"));
    }

    #[test]
    fn tls_is_on_but_to_this_machine_where_the_url_does_not_say() {
        for (url, mode) in [
            ("postgres://u@db.example/d", SslMode::Require),
            ("postgres://u@127.0.0.1,db.example/d", SslMode::Require),
            (
                "postgres://u@db.example/d?sslmode=disable",
                SslMode::Disable,
            ),
            (
                "postgres://u@db.example/d?sslmode=verify-ca",
                SslMode::Require,
            ),
            ("postgres://u@localhost/d", SslMode::Disable),
            ("postgres://u@%2Frun%2Fpg/d", SslMode::Disable),
            (
                "postgres://u@localhost/d?sslmode=verify-full",
                SslMode::Require,
            ),
        ] {
            assert_eq!(parse(url).unwrap().get_ssl_mode(), mode, "{url}");
        }
    }
}
