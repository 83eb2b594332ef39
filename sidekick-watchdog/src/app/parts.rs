//! Translates the configuration into what each part wants to know.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::AppError;
use crate::config::Config;
use crate::config::HeartbeatPolicy;
use crate::config::{Compression, PostgresMode, PostgresSinkConfig, SinkKind};
use crate::config::{RestartPolicy, RestartWhen};
use crate::crash::reporter::PostMortem;
use crate::store::StoreConfig;
use crate::supervisor::machine::{self, Policy};
use crate::supervisor::memory::MemoryLimits;
use crate::supervisor::output::OutputSettings;
use crate::supervisor::planned::RestartPlan;
use crate::supervisor::pre_start::PreStart;
use crate::supervisor::spawn::{EngineCommand, RingEnvironment};
use crate::supervisor::{NoMoreStarts, SupervisorConfig};
use crate::upload::pace::Pacer;
use crate::upload::sink::postgres::{Mode, PostgresSettings, PostgresSink};
use crate::upload::sink::{
    self, CommandSettings, CommandSink, FileSettings, FileSink, HttpSettings, HttpSink,
};
use crate::upload::{Sink, UploadSettings};

/// Lines of output kept in memory for status and crash reports.
const LOG_LINES_KEPT: usize = 1000;
/// Most bytes of frames in one slab: enough that its own costs do not count, little enough that the first slabs of a
/// flood are on their way to the disk while the next ones are copied.
const SLAB_BYTES_MAX: u64 = 256 << 10;
/// Slabs that fill a batch, at least: what waits for the disk goes to it with one fdatasync.
const SLABS_OF_BATCH: u64 = 4;
/// Batches that one ring may have on their way: one is made durable while the next one gathers.
const BATCHES_IN_FLIGHT: u64 = 2;

pub(super) fn store(config: &Config, data_dir: &Path) -> StoreConfig {
    StoreConfig {
        cache_size: usize_of(config.store.cache_bytes),
        batch_max_bytes: usize_of(config.store.batch_bytes_max),
        snapshot_every: u64::from(config.store.snapshot_every_entries),
        disk_quota: config.store.disk_quota_bytes,
        // Nobody's path means that sled runs here, which costs memory and nothing else.
        state_helper: std::env::current_exe().ok(),
        ..StoreConfig::new(data_dir)
    }
}

pub(super) fn slab_bytes_max(config: &Config) -> usize {
    usize_of((config.store.batch_bytes_max / SLABS_OF_BATCH).clamp(64 << 10, SLAB_BYTES_MAX))
}

/// What one ring may have on its way to the disk, in bytes.
pub(super) fn in_flight_bytes_max(config: &Config) -> usize {
    usize_of(
        config
            .store
            .batch_bytes_max
            .saturating_mul(BATCHES_IN_FLIGHT),
    )
}

pub(super) fn upload(config: &Config) -> UploadSettings {
    UploadSettings {
        batch_max_records: config.upload.batch_records_max as usize,
        batch_max_bytes: usize_of(config.upload.batch_bytes_max),
        batch_max_age: config.upload.batch_age_max,
        retry_first: config.upload.retry_first,
        retry_max: config.upload.retry_max,
    }
}

fn compression(config: &Config) -> sink::Compression {
    match config.upload.compression {
        Compression::Gzip => sink::Compression::Gzip,
        Compression::Zstd => sink::Compression::Zstd,
        Compression::None => sink::Compression::None,
    }
}

pub(super) fn sinks(config: &Config, runtime_dir: &Path) -> Result<Vec<Arc<dyn Sink>>, AppError> {
    let mut sinks: Vec<Arc<dyn Sink>> = Vec::new();
    // One for all sinks but files, which stay on this machine.
    let pacer = config
        .upload
        .rate_max
        .map(|rate| Arc::new(Pacer::new(rate)));
    for kind in &config.upload.sinks {
        match (kind, &config.upload.http) {
            (SinkKind::File, _) => sinks.push(Arc::new(FileSink::new(FileSettings {
                dir: config.upload.file.dir.clone(),
                rotate_bytes: config.upload.file.rotate_bytes,
                compression: compression(config),
            }))),
            (SinkKind::Http, Some(http)) => {
                let settings = HttpSettings {
                    url: http.url.to_string(),
                    headers: http.headers.0.clone().into_iter().collect(),
                    token_file: http.token_file.clone(),
                    timeout: http.timeout,
                    compression: compression(config),
                    concurrency_max: config.upload.concurrency_max,
                    tls_ca_file: http.tls_ca_file.clone(),
                    tls_client: http.tls_client.clone(),
                    pacer: pacer.clone(),
                };
                let sink = HttpSink::new(settings).map_err(|error| AppError::Sink {
                    sink: "http",
                    reason: error.to_string(),
                })?;
                sinks.push(Arc::new(sink));
            }
            // This one, PostgreSQL without a URL and no program are refused when the configuration is read.
            (SinkKind::Http, None) => {
                return Err(AppError::Sink {
                    sink: "http",
                    reason: "is missing".into(),
                });
            }
            (SinkKind::Postgres, _) => {
                let postgres = config.upload.postgres.as_ref();
                let postgres = postgres.ok_or_else(|| AppError::Sink {
                    sink: "postgres",
                    reason: "is missing".into(),
                })?;
                let settings = postgres_sink(postgres, config.upload.concurrency_max);
                let sink = Arc::new(PostgresSink::new(settings));
                sinks.push(paced(sink, pacer.as_ref()));
            }
            (SinkKind::Command, _) => {
                let command = config.upload.command.as_ref();
                let command = command.ok_or_else(|| AppError::Sink {
                    sink: "command",
                    reason: "is missing".into(),
                })?;
                let sink = Arc::new(CommandSink::new(CommandSettings {
                    run: command.run.0.clone(),
                    working_dir: config.engine.working_dir.clone(),
                    timeout: command.timeout,
                    lock_path: runtime_dir.join("upload-command"),
                }));
                sinks.push(paced(sink, pacer.as_ref()));
            }
        }
    }
    Ok(sinks)
}

/// A sink that does not pace itself.
fn paced(sink: Arc<dyn Sink>, pacer: Option<&Arc<Pacer>>) -> Arc<dyn Sink> {
    match pacer {
        Some(pacer) => Arc::new(sink::Paced::new(sink, pacer.clone())),
        None => sink,
    }
}

/// What the PostgreSQL sink wants to know; also for `doctor`.
pub fn postgres_sink(config: &PostgresSinkConfig, concurrency_max: u32) -> PostgresSettings {
    PostgresSettings {
        server: config.server.clone(),
        table: config.table.clone(),
        tables: config.tables.clone(),
        mode: match config.mode {
            PostgresMode::Copy => Mode::Copy,
            PostgresMode::Insert => Mode::Insert,
        },
        create_tables: config.create_tables,
        concurrency_max,
    }
}

pub(super) fn supervisor(
    config: &Config,
    data_dir: &Path,
    runtime_dir: &Path,
    launch_last: u32,
    hold: Option<Duration>,
    no_more_starts: NoMoreStarts,
) -> SupervisorConfig {
    let defaults = Policy::default();
    SupervisorConfig {
        engine: EngineCommand {
            command: config.engine.command.0.clone(),
            working_dir: config.engine.working_dir.clone(),
            env: config.engine.env.0.clone().into_iter().collect(),
            source: config.name.clone(),
            runtime_dir: runtime_dir.to_owned(),
            ring: RingEnvironment {
                ring_bytes: config.ring.bytes,
                when_full: config.ring.when_full.word().to_owned(),
                block_max: config.ring.block_max,
                spill_bytes_max: config.ring.spill_bytes_max,
                keep: config
                    .streams
                    .kept()
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
            },
            quit_without_watchdog: config.engine.quit_without_watchdog,
        },
        memory: MemoryLimits {
            soft_bytes: config.health.memory_soft,
            max_bytes: config.health.memory_max,
        },
        plan: RestartPlan {
            schedule: config.restart.schedule.clone(),
            when_idle: config.restart.when == RestartWhen::Idle,
        },
        pre_start: config.hooks.pre_start.clone().map(|command| PreStart {
            command: command.0,
            timeout: config.hooks.pre_start_timeout,
        }),
        data_dir: data_dir.to_owned(),
        policy: Policy {
            restart: match config.engine.restart {
                RestartPolicy::OnFailure => machine::RestartPolicy::OnFailure,
                RestartPolicy::Always => machine::RestartPolicy::Always,
                RestartPolicy::Never => machine::RestartPolicy::Never,
            },
            backoff_first: config.restart.backoff_first,
            backoff_max: config.restart.backoff_max,
            backoff_factor: config.restart.backoff_factor,
            stable_after: config.restart.stable_after,
            give_up_after: config.restart.give_up_after,
            give_up_window: config.restart.give_up_window,
            breaker_deaths: config.restart.crash_loop_deaths,
            breaker_window: config.restart.crash_loop_window,
            half_open_every: config.restart.half_open_every,
            safe_start: config.restart.safe_start,
            ready_timeout: (config.health.ready_required).then_some(config.health.ready_timeout),
            drain_grace: config.shutdown.engine_grace,
            heartbeat_required: config.health.heartbeat == HeartbeatPolicy::Required,
            startup_timeout: config.health.startup_timeout,
            hang_timeout: config.health.hang_timeout,
            ..defaults
        },
        success_exit_codes: config.engine.success_exit_codes.clone(),
        output: OutputSettings {
            report_lines: usize_of(config.engine.log_lines_kept.into()),
            rotate_bytes: config.engine.log_rotate_bytes,
            disk_bytes_max: config.engine.log_disk_bytes_max,
            lines_kept: LOG_LINES_KEPT.max(usize_of(config.engine.log_lines_kept.into())),
            post_mortem: config.hooks.post_mortem.clone().map(|command| PostMortem {
                command: command.0,
                timeout: config.hooks.post_mortem_timeout,
            }),
            ..OutputSettings::default()
        },
        launch_last,
        subreaper: true,
        hold,
        no_more_starts,
        standby: config.engine.standby > 0,
    }
}

/// Sizes beyond what this machine can address mean "as much as there is".
fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
