//! `backend`: a small receiver for what the HTTP sink sends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgGroup, Args};

use crate::backend::{self, BackendError, BackendSettings, Place};
use crate::config::secret;
use crate::exit::ExitCode;
use crate::postgres::{ServerSettings, check_url};

/// How long the database may take for one batch.
const POSTGRES_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("place").required(true).args(["dir", "postgres"]))]
pub(super) struct BackendArgs {
    /// Where to listen; port 0 lets the system choose
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7118")]
    listen: SocketAddr,
    /// Store into records.ndjson of this folder
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Store into the table sidekick_records of this database: postgres://user@host/database
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// A file with the database's password
    #[arg(
        long,
        value_name = "FILE",
        requires = "postgres",
        conflicts_with = "dir"
    )]
    password_file: Option<PathBuf>,
    /// A file with the token that every request must carry
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The largest body, as "16MiB"
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    body_max: String,
}

pub(super) fn run(args: &BackendArgs) -> ExitCode {
    let settings = match settings(args) {
        Ok(settings) => settings,
        Err(why) => {
            super::complain(why);
            return ExitCode::Usage;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let served = match runtime {
        Ok(runtime) => runtime.block_on(backend::serve(settings, |address| {
            super::say(format_args!("listening on http://{address}/records"));
        })),
        Err(error) => Err(BackendError::Serve(error)),
    };
    match served {
        Ok(()) => ExitCode::Ok,
        Err(error) => {
            super::complain(&error);
            match error {
                BackendError::Open(_) => ExitCode::Usage,
                BackendError::Listen(..) => ExitCode::Listen,
                BackendError::Locked(_) => ExitCode::Locked,
                BackendError::Folder(..) | BackendError::Serve(_) => ExitCode::Internal,
            }
        }
    }
}

fn settings(args: &BackendArgs) -> Result<BackendSettings, String> {
    let body_max = bytesize::ByteSize::from_str(&args.body_max).map_err(|_| {
        format!(
            "--body-max is {:?}, not a size such as \"16MiB\"",
            args.body_max
        )
    })?;
    let token = match &args.token_file {
        Some(path) => Some(secret::read_file(path).map_err(|why| format!("--token-file {why}"))?),
        None => None,
    };
    let place = match (&args.dir, &args.postgres) {
        (Some(dir), _) => Place::Folder(dir.clone()),
        (None, Some(url)) => {
            check_url(url).map_err(|why| format!("--postgres {why}"))?;
            Place::Postgres(ServerSettings {
                url: Some(url.clone()),
                url_file: None,
                password_file: args.password_file.clone(),
                tls_ca_file: None,
                tls_client: None,
                timeout: POSTGRES_TIMEOUT,
            })
        }
        (None, None) => {
            return Err("name a folder with --dir, or a database with --postgres".into());
        }
    };
    Ok(BackendSettings {
        listen: args.listen,
        place,
        token,
        body_bytes_max: usize::try_from(body_max.as_u64()).unwrap_or(usize::MAX),
    })
}
