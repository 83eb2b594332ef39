//! Events in, status out.

use std::time::Duration;

use super::*;
use crate::api::Status;
use crate::event::DeathCause;
use crate::metrics::Metrics;

fn died(incarnation: u32) -> EngineEvent {
    EngineEvent::Died {
        incarnation,
        pid: 1,
        cause: DeathCause::Unknown,
        log: None,
        uptime: None,
        frame: None,
        as_asked: false,
        success: false,
    }
}

fn started(incarnation: u32, gap_ms: u64) -> EngineEvent {
    EngineEvent::Started {
        incarnation,
        pid: 1,
        gap: Some(Duration::from_millis(gap_ms)),
        log: std::path::PathBuf::new(),
        standby: false,
    }
}

#[test]
fn a_standby_is_counted_from_its_boot_to_its_promotion() {
    let mut board = Board::new(Status::default(), Metrics::new());
    let mut look = |event: Option<EngineEvent>| {
        if let Some(event) = event {
            board.engine(&event);
        }
        board.refresh_standby();
        let metrics = &board.metrics;
        let is_big = metrics.standby_resident_bytes.get() > 100_000;
        let (up, parked) = (metrics.standby_up.get(), metrics.standby_parked.get());
        (up, parked, is_big, metrics.standby_promotions.get())
    };
    assert_eq!(look(None), (0, 0, false, 0));
    let boots = EngineEvent::StandbyStarted {
        incarnation: 2,
        pid: std::process::id(),
        adopted: false,
    };
    assert_eq!(look(Some(boots)), (1, 0, true, 0));
    let parked = EngineEvent::StandbyParked {
        incarnation: 2,
        after: Duration::ZERO,
    };
    assert_eq!(look(Some(parked)), (1, 1, true, 0));
    let promoted = EngineEvent::Started {
        incarnation: 2,
        pid: 1,
        gap: None,
        log: PathBuf::new(),
        standby: true,
    };
    assert_eq!(look(Some(promoted)), (0, 0, false, 1));
}

/// Also where it is told after the next start, or after the next death.
#[test]
fn each_death_has_its_own_gap() {
    let mut board = Board::new(Status::default(), Metrics::new());
    board.engine(&EngineEvent::Adopted {
        incarnation: 22,
        pid: 1,
        uptime: Duration::ZERO,
        ring_lost: false,
    });
    for event in [started(23, 5), died(23), started(24, 7), died(22), died(24)] {
        board.engine(&event);
    }
    let deaths = board.status.engine.last_deaths.iter();
    let gaps: Vec<_> = deaths
        .map(|death| (death.incarnation, death.gap_ms))
        .collect();
    assert_eq!(gaps, [(22, Some(5.0)), (23, Some(7.0)), (24, None)]);
}

/// Whichever comes first: the status says what the report says, once.
#[test]
fn the_status_has_the_reports_cause() {
    let reported = || EngineEvent::Reported {
        incarnation: 7,
        cause: "segmentation fault (SIGSEGV)".to_owned(),
        report_id: "x".to_owned(),
        path: PathBuf::from("/x.json"),
    };
    for events in [
        vec![died(6), died(7), reported()],
        vec![died(6), reported(), died(7)],
        // Told by the watchdog before us, which was killed in it, and by us.
        vec![died(6), died(7), reported(), died(7), reported()],
        vec![died(6), died(7), died(7), reported()],
    ] {
        let mut board = Board::new(Status::default(), Metrics::new());
        for event in &events {
            board.engine(event);
        }
        let deaths = board.status.engine.last_deaths.iter();
        let causes: Vec<_> = deaths
            .map(|death| (death.incarnation, death.cause.as_str()))
            .collect();
        let unknown = DeathCause::Unknown.to_string();
        assert_eq!(
            causes,
            [(6, &*unknown), (7, "segmentation fault (SIGSEGV)")],
            "{events:?}"
        );
    }
}

#[test]
fn a_program_that_may_do_without_the_extension_runs_once_its_startup_time_is_over() {
    let unconnected = EngineEvent::Unconnected {
        incarnation: 2,
        after: Duration::from_secs(60),
    };
    for heartbeat_required in [false, true] {
        let mut board = Board::new(Status::default(), Metrics::new());
        board.status.engine.heartbeat_required = heartbeat_required;
        board.engine(&started(2, 5));
        assert!(board.status.unready_reason().is_some());
        board.engine(&unconnected);
        let is_ready = board.status.unready_reason().is_none();
        assert_eq!(is_ready, !heartbeat_required);
        board.engine(&died(2));
        board.engine(&EngineEvent::Stopped { asked: true });
        board.engine(&unconnected);
        assert_eq!(board.status.engine.state, EngineState::Stopped);
    }
}

/// Its ring is there long before its first frame, while it loads; an adopted one is taken for running until its ring
/// says otherwise; who was asked to end does not run again.
#[test]
fn it_runs_from_its_first_frame_on() {
    let connected = |in_main_loop| EngineEvent::Connected {
        incarnation: 2,
        in_main_loop,
    };
    let adopted = EngineEvent::Adopted {
        incarnation: 2,
        pid: 1,
        uptime: Duration::ZERO,
        ring_lost: false,
    };
    let running = EngineEvent::Running {
        incarnation: 2,
        after: Duration::from_secs(9),
    };
    let stopping = EngineEvent::Stopping {
        incarnation: 2,
        grace: Duration::ZERO,
    };
    let table = [
        (vec![started(2, 5)], EngineState::Starting),
        (vec![started(2, 5), connected(false)], EngineState::Starting),
        (
            vec![started(2, 5), connected(false), running.clone()],
            EngineState::Running,
        ),
        (vec![started(2, 5), connected(true)], EngineState::Running),
        (vec![adopted.clone()], EngineState::Running),
        (vec![adopted.clone(), connected(true)], EngineState::Running),
        (vec![adopted, connected(false)], EngineState::Starting),
        (
            vec![started(2, 5), stopping, connected(false), running],
            EngineState::Stopping,
        ),
    ];
    for (events, state) in table {
        let mut board = Board::new(Status::default(), Metrics::new());
        board.status.engine.heartbeat_required = true;
        for event in &events {
            board.engine(event);
        }
        assert_eq!(board.status.engine.state, state, "{events:?}");
        let is_ready = board.status.unready_reason().is_none();
        let is_up = state == EngineState::Running && board.status.engine.connected;
        assert!(!is_ready || is_up, "{events:?}");
    }
}

#[test]
fn a_crash_loop_is_told_until_the_next_try() {
    let mut board = Board::new(Status::default(), Metrics::new());
    let delay = Duration::from_secs(60);
    for event in [
        EngineEvent::CrashLoop {
            deaths: 11,
            every: delay,
        },
        EngineEvent::Backoff {
            delay,
            crash_loop: true,
        },
        died(11),
    ] {
        board.engine(&event);
    }
    board.refresh_engine();
    let engine = &board.status.engine;
    assert_eq!(engine.state, EngineState::CrashLoop);
    assert!(engine.next_try_s.is_some_and(|left| left > 1.0));
    assert_eq!(board.metrics.engine_crash_loop.get(), 1);
    board.engine(&started(12, 60_000));
    board.refresh_engine();
    assert_eq!(board.status.engine.next_try_s, None);
    assert_eq!(board.metrics.engine_crash_loop.get(), 0);
}
