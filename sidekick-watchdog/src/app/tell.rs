//! The log lines of what happens to the engine.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::event::{DeathCause, EngineEvent};
use crate::intake::SessionProgress;

const SIGABRT: i32 = 6;

/// One line of log for one thing that happened to the engine.
pub(super) fn tell(event: &EngineEvent) {
    match event {
        EngineEvent::Started {
            incarnation,
            pid,
            gap,
            log,
            standby,
        } => {
            let gap_ms = gap.map(ms);
            let what = if *standby {
                "standby promoted: it is the engine"
            } else {
                "engine started"
            };
            info!(incarnation, pid, gap_ms, log = %log.display(), "{what}");
        }
        EngineEvent::StandbyStarted {
            incarnation,
            pid,
            adopted,
        } => info!(incarnation, pid, adopted, "standby boots"),
        EngineEvent::StandbyParked { incarnation, after } => {
            info!(incarnation, after_ms = ms(*after), "standby parked");
        }
        EngineEvent::StandbyEnded {
            incarnation,
            pid,
            retry: None,
            ..
        } => info!(incarnation, pid, "standby ended"),
        EngineEvent::StandbyEnded {
            incarnation,
            pid,
            cause,
            retry: Some(retry),
        } => {
            let retry_ms = ms(*retry);
            warn!(incarnation, pid, %cause, retry_ms, "standby died; another follows");
        }
        EngineEvent::Adopted {
            incarnation,
            pid,
            uptime,
            ring_lost,
        } => {
            let uptime_s = seconds(*uptime);
            if *ring_lost {
                warn!(
                    incarnation,
                    pid,
                    "the runtime directory was cleaned up under this engine: what it records is lost, and it cannot be \
                     watched. `sidekick-watchdog restart` starts another when it suits you; where [health] heartbeat is \
                     \"required\" it is ended after startup_timeout. Name a runtime_dir that nobody else cleans up"
                );
            }
            info!(incarnation, pid, uptime_s, "running engine adopted");
        }
        EngineEvent::Connected { incarnation, .. } => info!(incarnation, "engine connected"),
        EngineEvent::Running { incarnation, after } => {
            info!(
                incarnation,
                after_ms = ms(*after),
                "engine in its main loop"
            );
        }
        EngineEvent::Ready { incarnation, after } => {
            info!(incarnation, after_ms = ms(*after), "game ready");
        }
        EngineEvent::Hung {
            incarnation,
            silent,
            how,
        } => {
            let how = how.words();
            warn!(incarnation, silent_ms = ms(*silent), how, "engine hung");
        }
        EngineEvent::MemoryHigh {
            incarnation,
            rss_bytes,
            limit_bytes,
        } => {
            warn!(
                incarnation,
                rss_bytes, limit_bytes, "the engine uses more memory than it should"
            );
        }
        EngineEvent::Ending { incarnation, why } => {
            warn!(incarnation, %why, "the engine is asked to quit, another follows");
        }
        EngineEvent::Planned { incarnation, why } => {
            info!(incarnation, %why, "planned restart");
        }
        EngineEvent::SafeStart { deaths } => {
            warn!(
                deaths,
                "the engine dies again and again; the next start is a safe one (SIDEKICK_SAFE_START)"
            );
        }
        EngineEvent::Died {
            incarnation,
            pid,
            cause: cause @ DeathCause::Clean { .. },
            uptime,
            frame,
            ..
        } => {
            let uptime_s = uptime.map(seconds);
            info!(incarnation, pid, %cause, uptime_s, frame, "engine quit");
        }
        // One without the extension is asked by a signal, which is what ends it.
        EngineEvent::Died {
            incarnation,
            pid,
            cause,
            uptime,
            frame,
            as_asked: true,
            ..
        } => {
            let uptime_s = uptime.map(seconds);
            info!(incarnation, pid, %cause, uptime_s, frame, "engine ended as asked");
        }
        // One without the extension, whose code is all that there is to go by.
        EngineEvent::Died {
            incarnation,
            pid,
            cause: cause @ DeathCause::Exited { .. },
            uptime,
            success: true,
            ..
        } => {
            let uptime_s = uptime.map(seconds);
            info!(
                incarnation,
                pid,
                %cause,
                uptime_s,
                "engine ended by itself with one of [engine] success_exit_codes; only restart = \"always\" starts another"
            );
        }
        EngineEvent::Died {
            incarnation,
            pid,
            cause,
            uptime,
            frame,
            ..
        } => {
            let uptime_s = uptime.map(seconds);
            if matches!(
                cause,
                DeathCause::Signaled {
                    signal: SIGABRT,
                    ..
                }
            ) {
                warn!(
                    incarnation,
                    pid,
                    %cause,
                    uptime_s,
                    frame,
                    "engine died; Godot ends with SIGABRT whatever signal it caught, its report has the true one"
                );
            } else {
                warn!(incarnation, pid, %cause, uptime_s, frame, "engine died");
            }
        }
        EngineEvent::Reported {
            incarnation,
            cause,
            report_id,
            path,
        } => {
            warn!(incarnation, %cause, %report_id, report = %path.display(), "crash report written");
        }
        EngineEvent::Backoff { delay, .. } => {
            info!(delay_ms = ms(*delay), "next start waits");
        }
        EngineEvent::Unconnected { incarnation, after } => warn!(
            incarnation,
            after_s = seconds(*after),
            "the engine has not loaded the Sidekick extension; is addons/sidekick in the project, is it listed in \
             .godot/extension_list.cfg, and is its library there for this platform? For a program that does without, set \
             [health] heartbeat = \"optional\""
        ),
        // What the watchdog ends with says it.
        EngineEvent::Unfit { .. } => {}
        EngineEvent::StartFailed { incarnation, error } => {
            error!(incarnation, %error, "engine not started");
        }
        EngineEvent::CrashLoop { deaths, every } => {
            warn!(
                deaths,
                every_s = every.as_secs_f64(),
                "the engine dies again and again; trying on, slowly"
            );
        }
        EngineEvent::GaveUp { deaths } => error!(deaths, "the engine died too often"),
        EngineEvent::Stopping { incarnation, grace } => {
            info!(
                incarnation,
                grace_s = grace.as_secs_f64(),
                "engine asked to quit"
            );
        }
        EngineEvent::Stopped { .. } => info!("no engine runs"),
    }
}

/// Tells how a session ended: whether everything is there, and if not, what is missing.
pub(super) fn session_ended(incarnation: u32, progress: &SessionProgress) {
    let epoch = progress.epoch;
    let recorded = progress.recorded.load(Ordering::Relaxed);
    let requests = progress.requests.load(Ordering::Relaxed);
    let committed = progress.committed.load(Ordering::Acquire);
    let missing = progress.holes.load(Ordering::Relaxed);
    let refused = progress.refused_untold.load(Ordering::Relaxed);
    if progress.tail_unknown.load(Ordering::Relaxed) {
        warn!(
            incarnation,
            %epoch,
            committed,
            "session ended, what its ring still held is unknown; a gap is uploaded for it"
        );
    } else if missing > 0 {
        warn!(
            incarnation,
            %epoch,
            recorded,
            requests,
            committed,
            missing,
            "session ended, what could be read of its records is committed; gaps are uploaded for the others"
        );
    } else {
        info!(
            incarnation,
            %epoch,
            recorded,
            requests,
            committed,
            refused,
            "session ended, everything that it recorded is committed"
        );
    }
}

/// Seconds with three digits after the point.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

/// Milliseconds with three digits after the point: more is noise.
fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
