//! Rules that change under a plan, and what intake lets through meanwhile.

use std::path::Path;

use sidekick_ipc::value::{Value, decode, encode};
use uuid::Uuid;

use super::*;
use crate::config::{self, Sources};
use crate::slab::{RingCheckpoint, SlabHead};
use crate::store::{Plan, StoreConfig};

/// The configuration of a file with this text.
pub(in crate::app) fn config_of(text: &str, folder: &Path) -> Result<Config, ConfigErrors> {
    config::resolve(&Sources {
        file: Some(("sidekick.toml".into(), text.to_owned())),
        working_dir: folder.to_owned(),
        hostname: "s".into(),
        ..Sources::default()
    })
}

/// Rules whose configuration file is `folder/sidekick.toml`.
fn live(folder: &Path) -> LiveRules {
    let folder = folder.to_owned();
    let read = move || {
        let text = std::fs::read_to_string(folder.join("sidekick.toml")).unwrap();
        config_of(&text, &folder)
    };
    LiveRules::new(&read().unwrap(), Box::new(read)).unwrap()
}

fn write(folder: &Path, text: &str) {
    std::fs::write(folder.join("sidekick.toml"), text).unwrap();
}

fn data(region: &str) -> Vec<u8> {
    encode(&Value::Dictionary(vec![(
        Value::String("region".into()),
        Value::String(region.into()),
    )]))
}

/// What is sent of one record of the stream `chat`, under rules of this version; `None` where it is not sent.
fn sent(shaper: &dyn Shaper, version: u32) -> Option<Vec<u8>> {
    let head = SlabHead {
        source: "s".into(),
        epoch: Uuid::from_u128(7),
        incarnation: 1,
        realtime_offset_ns: 0,
        first_seq: 1,
        count: 1,
        checkpoint: RingCheckpoint::default(),
    };
    let variant = data("none");
    let stored = Stored {
        head: &head,
        game_version: "1.2",
        seq: 1,
        monotonic_ns: 0,
        record: Record {
            stream: "chat",
            variant: &variant,
        },
    };
    let mut out = Vec::new();
    match shaper.shape(version, "file", &stored, &mut out) {
        upload::Shaped::Keep => Some(variant),
        upload::Shaped::Changed => Some(Record::parse(&out).unwrap().variant.to_vec()),
        upload::Shaped::Dropped { .. } | upload::Shaped::Refused { .. } => None,
    }
}

/// A broken variant: whatever a plan names, the rules in force now are applied.
#[derive(Debug)]
struct NotPinned(Arc<LiveRules>);

impl Shaper for NotPinned {
    fn version(&self) -> u32 {
        self.0.version()
    }
    fn knows(&self, _: u32) -> bool {
        true
    }
    fn shape(&self, _: u32, sink: &str, stored: &Stored<'_>, out: &mut Vec<u8>) -> upload::Shaped {
        self.0.shape(self.0.version(), sink, stored, out)
    }
}

fn region(region: &str) -> String {
    format!("[[stream]]\nmatch = \"chat\"\nset = {{ region = \"{region}\" }}\n")
}

/// A batch is planned, its first try fails, rules are reloaded, the watchdog starts anew: each try has the same bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_batch_keeps_its_rules_over_reload_and_restart() {
    let dir = tempfile::tempdir().unwrap();
    let open = || async {
        Arc::new(
            Store::open(StoreConfig::new(dir.path().join("data")))
                .await
                .unwrap(),
        )
    };
    let store = open().await;
    store.set_sinks(vec![("file".into(), 1)]).await.unwrap();
    write(dir.path(), &region("eu"));
    let rules = Arc::new(live(dir.path()));
    rules.join(&store).await.unwrap();
    let planned = rules.version();
    let first_try = sent(&*rules, planned);
    assert_eq!(first_try, Some(data("eu")));
    let position = crate::position::Position {
        index: 1000,
        item: 0,
    };
    let plan = Plan {
        first: position,
        last: position,
        rules_version: planned,
        encoder_version: 1,
        extra: Vec::new(),
    };
    store.plan("file", 0, plan).await.unwrap();

    let reload = |rules: &Arc<LiveRules>| {
        let rules = Arc::clone(rules);
        tokio::task::spawn_blocking(move || rules.reload())
    };
    for number in 0..20 {
        write(dir.path(), &region(&format!("us-{number}")));
        let reloaded = reload(&rules).await.unwrap().unwrap();
        assert_eq!(reloaded.version, rules.version());
    }
    assert_eq!(sent(&*rules, rules.version()), Some(data("us-19")));
    assert_eq!(sent(&*rules, planned), first_try);
    let broken = NotPinned(Arc::clone(&rules));
    assert_ne!(
        sent(&broken, planned),
        first_try,
        "the broken variant must be caught"
    );
    rules.leave();
    store.shutdown().await;
    drop((rules, broken, store));

    let store = open().await;
    let rules = Arc::new(live(dir.path()));
    rules.join(&store).await.unwrap();
    assert!(rules.knows(planned));
    assert_eq!(sent(&*rules, planned), first_try);
    assert_eq!(sent(&*rules, rules.version()), Some(data("us-19")));

    // Mistakes change nothing, and are all told; so does a test that fails.
    let version = rules.version();
    for bad in [
        "[[stream]]\nmatch = \"chat\"\nfilter = \"1 +\"\n".to_owned(),
        "[[stream]]\nmatch = \"chat\"\nfilter = \"region | lenght\"\n".to_owned(),
        region("x") + "[[test]]\nname = \"t\"\nstream = \"chat\"\ninput = {}\nexpect = {}\n",
        "[[stream]\n".to_owned(),
    ] {
        write(dir.path(), &bad);
        let refused = reload(&rules).await.unwrap();
        assert!(
            matches!(refused, Err(ReloadError::Refused { .. })),
            "{refused:?}"
        );
        assert_eq!(rules.version(), version);
    }
    // What else has changed waits for the next start, and is told.
    write(
        dir.path(),
        &format!(
            "[restart]\nbackoff_max = \"7s\"\n{}keep = true\n",
            region("eu")
        ),
    );
    let reloaded = reload(&rules).await.unwrap().unwrap();
    assert_eq!(
        reloaded.needs_restart,
        ["restart.backoff_max", "stream.keep"]
    );
    assert_eq!(sent(&*rules, rules.version()), Some(data("eu")));
    rules.leave();
    store.shutdown().await;
}

/// Secrets are shown nowhere, and a change of one is named all the same.
#[test]
fn a_changed_secret_waits_for_the_next_start_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = |token: &str, tag: &str, log_level: &str| {
        format!(
            "[upload]\nsinks = [\"http\"]\n[upload.http]\nurl = \"https://b.example/r?token={token}\"\n\
             headers = {{ X-Key = \"{token}\" }}\n\
             [engine]\ncommand = [\"game\", \"--token={token}\"]\nenv = {{ KEY = \"{token}\", TAG = \"{tag}\" }}\n[log]\nlevel = \"{log_level}\"\n"
        )
    };
    write(dir.path(), &config("one", "a", "info"));
    let rules = live(dir.path());
    assert_eq!(rules.reload().unwrap().needs_restart, [""; 0]);
    write(dir.path(), &config("two", "a", "info"));
    let changed = [
        "engine.command",
        "engine.env",
        "upload.http.headers",
        "upload.http.url",
    ];
    // As long as the old ones are in force.
    for _ in 0..2 {
        assert_eq!(rules.reload().unwrap().needs_restart, changed);
    }
    write(dir.path(), &config("one", "b", "debug"));
    let changed = ["engine.env", "log.level"];
    assert_eq!(rules.reload().unwrap().needs_restart, changed);
    let entries = &config_of(&config("s3cret", "a", "info"), dir.path())
        .unwrap()
        .entries;
    assert!(!format!("{entries:?}").contains("s3cret"));
}

/// What intake asks is the rules of now; without any it is not asked to look at records at all.
#[test]
fn intake_gets_the_rules_of_now() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "");
    let rules = live(dir.path());
    assert!(rules.filter().is_none());
    let chat = "[[stream]]\nmatch = \"chat\"\ndrop_fields = [\"region\"]\n";
    write(dir.path(), chat);
    rules.reload().unwrap();
    let judge = |stream: &str, variant: &[u8]| {
        let filter = rules.filter().unwrap();
        let origin = FilterOrigin {
            source: "s",
            epoch: Uuid::from_u128(7),
            incarnation: 1,
            game_version: "",
            realtime_offset_ns: 0,
        };
        let header = FrameHeader {
            kind: 1,
            len: 0,
            seq: 1,
            monotonic_ns: 0,
            flags: 0,
            crc: 0,
        };
        let mut out = Vec::new();
        let record = Record { stream, variant };
        (filter.judge(&origin, &record, &header, &mut out), out)
    };
    let (verdict, out) = judge("chat", &data("eu"));
    assert_eq!(verdict, Filtered::Changed);
    assert_eq!(decode(&out).unwrap(), Value::Dictionary(Vec::new()));
    assert_eq!(judge("chats", &data("eu")).0, Filtered::Keep);
    assert_eq!(judge("chat", b"not a value").0, Filtered::Unreadable);
    write(dir.path(), "");
    rules.reload().unwrap();
    assert!(rules.filter().is_none());
}

/// A plane closes on one of the runtime's threads: it must not wait there for a reload that waits for the store.
#[test]
fn a_plane_leaves_while_a_reload_waits_for_its_store() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "");
    let rules = Arc::new(live(dir.path()));
    // Nothing of this store goes on but while this thread drives it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let store = runtime.block_on(async {
        let config = StoreConfig::new(dir.path().join("data"));
        let store = Arc::new(Store::open(config).await.unwrap());
        rules.join(&store).await.unwrap();
        store
    });
    let holders = Arc::strong_count(&store);
    let reloading = {
        let rules = Arc::clone(&rules);
        std::thread::spawn(move || rules.reload())
    };
    while Arc::strong_count(&store) == holders && !reloading.is_finished() {
        std::thread::yield_now();
    }
    let (sender, left) = std::sync::mpsc::channel();
    let leaving = {
        let rules = Arc::clone(&rules);
        std::thread::spawn(move || {
            rules.leave();
            let _ = sender.send(());
        })
    };
    let has_left = left.recv_timeout(std::time::Duration::from_secs(60));
    runtime.block_on(async {
        while !reloading.is_finished() {
            tokio::task::yield_now().await;
        }
        store.shutdown().await;
    });
    leaving.join().unwrap();
    reloading.join().unwrap().unwrap();
    assert_eq!(has_left, Ok(()));
}
