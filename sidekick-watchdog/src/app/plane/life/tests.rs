//! The rule by every sequence of events, and a real plane whose store dies while its log's thread hangs.

use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;
use uuid::Uuid;

use super::*;
use crate::app::plane::Setup;
use crate::app::rules::LiveRules;
use crate::app::tree::OpenTree;
use crate::config::{self, Flags};
use crate::slab::{RingCheckpoint, Slab, SlabHead};
use crate::store::StoreConfig;

const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for a plane that waits for nothing to be closed.
const WAITS: Duration = Duration::from_secs(1);

type Rule = fn(Phase, Event) -> Phase;

/// Drives a rule with every sequence of `steps` events; a store that is opened while another may still write is told.
fn two_writers(rule: Rule, phase: Phase, writers: u32, steps: u32) -> Option<String> {
    if steps == 0 {
        return None;
    }
    let events = [
        Event::Opened,
        Event::Failed,
        Event::Died,
        Event::Closed,
        Event::Due,
    ];
    events.into_iter().find_map(|event| {
        // A store that fails or is closed writes no more. A clock may strike whenever it likes.
        let writers_now = match (phase, event) {
            (Phase::Opening, Event::Failed) | (Phase::Closing, Event::Closed) => writers - 1,
            (Phase::Opening, Event::Opened) | (Phase::Open, Event::Died) | (_, Event::Due) => {
                writers
            }
            _ => return None,
        };
        let then = rule(phase, event);
        let begins = then == Phase::Opening && phase != Phase::Opening;
        if begins && writers_now > 0 {
            return Some(format!("{event:?} in {phase:?} opens a second store"));
        }
        two_writers(rule, then, writers_now + u32::from(begins), steps - 1)
    })
}

#[test]
fn no_store_is_opened_while_another_may_still_write() {
    let found = two_writers(next, Phase::Opening, 1, 8);
    assert_eq!(found, None);
}

/// The rules that would be easy to write, too.
#[test]
fn a_rule_that_does_not_wait_for_the_dead_store_is_caught() {
    let impatient: Rule = |phase, event| match (phase, event) {
        (Phase::Open, Event::Died) => Phase::Opening,
        _ => next(phase, event),
    };
    assert!(two_writers(impatient, Phase::Opening, 1, 8).is_some());
    let timed: Rule = |phase, event| match (phase, event) {
        (Phase::Closing, Event::Due) => Phase::Opening,
        _ => next(phase, event),
    };
    assert!(two_writers(timed, Phase::Opening, 1, 8).is_some());
}

/// A plane in folders of its own, whose life closes it with `closer`.
fn life(folder: &std::path::Path, closer: Closer) -> Life {
    let (data_dir, runtime_dir) = (folder.join("data"), folder.join("runtime"));
    std::fs::create_dir(&runtime_dir).unwrap();
    let flags = Flags {
        name: Some("s".to_owned()),
        data_dir: Some(data_dir.clone()),
        command: vec!["engine".to_owned()],
        ..Flags::default()
    };
    let (events, mut told) = mpsc::channel(64);
    // As the main loop does.
    tokio::spawn(async move { while told.recv().await.is_some() {} });
    let config = Arc::new(config::load(&flags, [], folder).unwrap());
    let setup = Setup {
        rules: LiveRules::none(&config),
        config,
        store: StoreConfig {
            segment_bytes: 1 << 20,
            zero_step_bytes: 64 << 10,
            ..StoreConfig::new(&data_dir)
        },
        data_dir,
        runtime_dir,
        events,
        letters: Arc::new(crate::app::letters::OpenLetters::new()),
        tree: Arc::new(OpenTree::new()),
        metrics: crate::metrics::Metrics::new(),
    };
    let opener: Opener = Box::new(move || Box::pin(Plane::open(setup.clone(), Vec::new())));
    let mut life = Life::begin(opener);
    life.closer = closer;
    life
}

/// The next change but for news of uploads.
async fn change(life: &mut Life) -> Change {
    loop {
        match timeout(PATIENCE, life.changed()).await.expect("a change") {
            Change::Uploads => {}
            change => return change,
        }
    }
}

/// An empty slab of session 1: an entry like any other.
fn slab() -> Slab {
    Slab {
        head: SlabHead {
            source: "s".to_owned(),
            epoch: Uuid::from_u128(1),
            incarnation: 1,
            realtime_offset_ns: 0,
            first_seq: 1,
            count: 0,
            checkpoint: RingCheckpoint::default(),
        },
        frames: Bytes::new(),
    }
}

/// Lets a store die whose log's thread hangs, and looks at what its life tells meanwhile; then the thread goes on, and
/// so must the life, to another open plane.
async fn hangs_while_its_store_dies(closer: Closer) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let mut life = life(folder.path(), closer);
    assert!(matches!(change(&mut life).await, Change::Opened));
    let store = Arc::clone(life.plane().unwrap().store());
    store
        .session_opened("s", Uuid::from_u128(1), 1, 0)
        .await
        .unwrap();
    store.panic_in_apply(true);
    store.append(slab()).await.unwrap_err();
    store.panic_in_apply(false);
    let (goes_on, waits): (Sender<()>, Receiver<()>) = channel();
    let (hangs, hung) = tokio::sync::oneshot::channel();
    store.hang_log(move || {
        hangs.send(()).unwrap();
        let _ = waits.recv();
    });
    timeout(PATIENCE, hung).await.unwrap().unwrap();
    drop(store);

    assert!(matches!(change(&mut life).await, Change::Died));
    let early = timeout(WAITS, change(&mut life)).await;
    // Whoever asks for the status is answered meanwhile.
    let told = life.condition();
    drop(goes_on);
    if let Ok(change) = early {
        return Err(format!("{change:?} while the log's thread hung"));
    }
    assert_eq!(told.state, StoreState::Closing);
    assert!(told.reason.is_some_and(|reason| !reason.is_empty()));
    assert!(matches!(change(&mut life).await, Change::Closed));
    assert_eq!(life.condition().state, StoreState::Failed);
    assert!(matches!(change(&mut life).await, Change::Opened));
    life.end().unwrap().end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_thread_that_hangs_keeps_the_plane_closing_until_it_goes_on() {
    let kept = hangs_while_its_store_dies(|plane| tokio::spawn(plane.close())).await;
    assert_eq!(kept, Ok(()));
}

/// To end the plane's tasks and leave the threads behind is what a bound on the waiting would come to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_that_leaves_a_hanging_thread_behind_is_caught() {
    let impatient: Closer = |plane| {
        drop(tokio::spawn(plane.close()));
        tokio::spawn(async {})
    };
    let told = hangs_while_its_store_dies(impatient).await.unwrap_err();
    assert!(told.contains("Closed while"), "{told}");
}
