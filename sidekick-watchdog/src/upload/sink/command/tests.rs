//! The command sink with real shell scripts: how each end is judged, and that nothing it started goes on writing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::platform::{Process, nothing_is_started, spawn_other};
use crate::position::Position;
use crate::upload::UploadSettings;
use crate::upload::plan::Plan;
use crate::upload::sink::Row;
use crate::upload::testing::{FakeOutbox, Fuse, GROUP, Running, lines, small_batches, start};

const DAY: Duration = Duration::from_secs(86_400);
/// Generous: a loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// Has a child that says in a file who it is, and stays.
const LEAVE_A_GRANDCHILD: &str =
    "sh -c 'echo $$ > pid.new; mv pid.new pid; exec sleep 1000' & wait";

fn settings(dir: &TempDir, script: &str, timeout: Duration) -> CommandSettings {
    CommandSettings {
        run: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        working_dir: Some(dir.path().to_owned()),
        timeout,
        lock_path: dir.path().join("run/upload-command"),
    }
}

fn sink(dir: &TempDir, script: &str) -> CommandSink {
    CommandSink::new(settings(dir, script, DAY))
}

fn batch(body: impl Into<Bytes>) -> Batch {
    let position = Position { index: 1, item: 0 };
    let plan = Plan {
        sink: "command".into(),
        lane: 0,
        first: position,
        last: position,
        rules_version: 0,
        encoder_version: 1,
        extra: Vec::new(),
    };
    let (key, body) = (plan.key(&GROUP), body.into());
    let end = body.len();
    Batch {
        plan,
        key,
        body,
        rows: vec![Row { position, end }],
        replay: None,
    }
}

fn read(dir: &TempDir, name: &str) -> Option<String> {
    fs::read_to_string(dir.path().join(name)).ok()
}

/// The process that wrote its number down.
fn noted(dir: &TempDir) -> Option<u32> {
    read(dir, "pid")?.trim().parse().ok()
}

fn is_gone(pid: u32) -> bool {
    Process::open(pid, None).is_err()
}

async fn until<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let asked_at = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(asked_at.elapsed() < PATIENCE, "it does not come");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn each_end_has_its_outcome() {
    let dir = TempDir::new().unwrap();
    let retry = |words: &str| Outcome::Retry {
        reason: format!("[upload.command] run: {words}"),
    };
    let park = |words: &str| Outcome::Park {
        reason: format!("[upload.command] run: {words}"),
    };
    let refused = |reason: &str| Outcome::Refused {
        code: "exit 65".into(),
        reason: reason.into(),
    };
    for (script, outcome) in [
        ("cat", Outcome::Taken),
        ("exit 0", Outcome::Taken),
        ("exec <&-; echo all is well >&2", Outcome::Taken),
        ("exit 65", refused("it said nothing")),
        (
            "echo first >&2; echo no such column >&2; exit 65",
            refused("no such column"),
        ),
        (
            "echo let me in >&2; exit 77",
            park("exit code 77: let me in"),
        ),
        ("exit 78", park("exit code 78: it said nothing")),
        (
            "echo away >&2; echo >&2; exit 75",
            retry("exit code 75: away"),
        ),
        ("exit 1", retry("exit code 1: it said nothing")),
        ("exit 127", retry("exit code 127: it said nothing")),
        (
            "printf 'a\\tb\\033[1m' >&2; kill -9 $$",
            retry("signal 9: a b [1m"),
        ),
    ] {
        let outcome_of = sink(&dir, script).send(&batch("{}\n")).await;
        assert_eq!(outcome_of, outcome, "{script}");
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_started_parks() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("no_program");
    {
        // What is open for writing anywhere cannot be executed.
        let _none = nothing_is_started();
        fs::write(&file, "\0").unwrap();
    }
    for (program, mode, remedy) in [
        ("/nowhere/program", 0o700, "correct its path"),
        ("no_program", 0o700, "write \"./no_program\" for one in"),
        ("./no_program", 0o600, "make it executable (chmod +x)"),
        ("./no_program", 0o700, "it is no program for this system"),
    ] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let settings = CommandSettings {
            run: vec![program.to_owned()],
            ..settings(&dir, "", DAY)
        };
        let outcome = CommandSink::new(settings).send(&batch("{}\n")).await;
        let Outcome::Park { reason } = outcome else {
            panic!("{program} {mode:o}: {outcome:?}");
        };
        let named = format!("[upload.command] run cannot be started: {program:?}: ");
        assert!(reason.starts_with(&named), "{reason}");
        assert!(reason.contains(remedy), "{reason}");
    }
}

/// The program sees the whole batch at its first look, whatever becomes of the watchdog, and nothing else of it: its key, its
/// records, and no descriptor but its lock's.
#[tokio::test]
async fn the_program_gets_the_batch_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let script = "stat -L -c %s /dev/stdin > size; cat > body; env | grep ^SIDEKICK_ | sort > environment; \
                  ls -l /proc/$$/fd | grep -v -e pipe: -e /dev/null -e memfd: -e ' total' > descriptors";
    let batch = batch("{\"n\":1}\n".repeat(200_000));
    assert_eq!(sink(&dir, script).send(&batch).await, Outcome::Taken);
    assert_eq!(
        read(&dir, "size").unwrap().trim(),
        batch.body.len().to_string()
    );
    assert!(read(&dir, "body").unwrap().as_bytes() == batch.body);
    let told = format!(
        "SIDEKICK_BATCH_KEY={}\nSIDEKICK_BATCH_RECORDS=1\n",
        batch.key
    );
    let environment = read(&dir, "environment").unwrap();
    assert_eq!(environment, told);
    let descriptors = read(&dir, "descriptors").unwrap();
    let strange = descriptors.lines().filter(|line| line.contains("->"));
    let strange: Vec<_> = strange
        .filter(|line| !line.ends_with("/run/upload-command"))
        .collect();
    assert!(strange.is_empty(), "{descriptors}");
}

#[tokio::test]
async fn what_it_says_is_bounded_and_never_keeps_it_waiting() {
    let dir = TempDir::new().unwrap();
    let script =
        "head -c 10000000 /dev/zero | tr '\\0' 'x' >&2; echo >&2; echo the end >&2; exit 1";
    let (end, said) = sink(&dir, script).run(&batch("")).await.unwrap();
    assert_eq!(end, HelperEnd::Code(1));
    assert_eq!(said.len(), 64 << 10);
    assert_eq!(last_line(&said), "the end");
    let endless = settings(
        &dir,
        "while :; do echo on and on >&2; done",
        Duration::from_millis(50),
    );
    let (end, said) = CommandSink::new(endless).run(&batch("")).await.unwrap();
    assert_eq!(end, HelperEnd::TimedOut);
    assert!(said.len() <= 64 << 10);
    assert_eq!(last_line(&b"\xff".repeat(1000)).len(), 300);
}

/// When the time is over everything that the program started is dead by the time the outcome is there. Where the program alone
/// is killed (the broken variant) it is not.
#[tokio::test]
async fn its_time_ends_it_with_its_children() {
    let dir = TempDir::new().unwrap();
    let mut timeout = Duration::from_millis(100);
    let pid = loop {
        let settings = settings(&dir, LEAVE_A_GRANDCHILD, timeout);
        let outcome = CommandSink::new(settings).send(&batch("")).await;
        let over = "[upload.command] run: killed when its time was over: it said nothing";
        assert_eq!(
            outcome,
            Outcome::Retry {
                reason: over.into()
            }
        );
        match noted(&dir) {
            Some(pid) => break pid,
            // A loaded machine: it had not come so far.
            None => timeout *= 2,
        }
    };
    assert!(is_gone(pid));

    fs::remove_file(dir.path().join("pid")).unwrap();
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", LEAVE_A_GRANDCHILD])
        .current_dir(dir.path());
    let mut child = spawn_other(&mut command).unwrap();
    let pid = until(|| noted(&dir)).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let left = Process::open(pid, None).expect("the check does not see what is left");
    left.kill();
}

/// The first time it stays; then it fails while what it left at that time lives.
const FIRST_STAYS: &str = "if mkdir once; then sh -c 'echo $$ > pid.new; mv pid.new pid; exec sleep 1000' & wait; \
     else ! grep -q -v ' Z ' /proc/$(cat pid)/stat 2> /dev/null; fi";

/// Nobody waits for the first one any more: it ends, and the next one begins only then.
#[tokio::test]
async fn a_dropped_send_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let sink = sink(&dir, FIRST_STAYS);
    let batch = batch("{}\n");
    let send = sink.send(&batch);
    let pid = tokio::select! {
        outcome = send => panic!("{outcome:?}"),
        pid = until(|| noted(&dir)) => pid,
    };
    assert_eq!(sink.send(&batch).await, Outcome::Taken);
    assert!(is_gone(pid));
    // Without a next one it ends as well.
    fs::remove_dir(dir.path().join("once")).unwrap();
    fs::remove_file(dir.path().join("pid")).unwrap();
    let pid = tokio::select! {
        outcome = sink.send(&batch) => panic!("{outcome:?}"),
        pid = until(|| noted(&dir)) => pid,
    };
    until(|| is_gone(pid).then_some(())).await;
}

/// A send that is dropped before its program runs, or just when it does, keeps no other from running.
#[tokio::test]
async fn a_send_that_is_dropped_early_is_in_nobodys_way() {
    let dir = TempDir::new().unwrap();
    let sink = sink(&dir, "echo ran >> runs");
    let batch = batch("{}\n");
    for polls in 1..20 {
        let mut send = sink.send(&batch);
        for _ in 0..polls {
            if futures_util::poll!(&mut send).is_ready() {
                break;
            }
        }
        drop(send);
        let before = read(&dir, "runs").unwrap_or_default().len();
        assert_eq!(sink.send(&batch).await, Outcome::Taken);
        let after = read(&dir, "runs").unwrap_or_default().len();
        assert!(after > before, "it ran");
    }
}

/// What another watchdog left running is ended before anything is run.
#[tokio::test]
async fn what_a_killed_watchdog_left_is_ended_first() {
    let dir = TempDir::new().unwrap();
    // Neither shares anything with the other but the lock's path, as two watchdogs would.
    let (before, now) = (sink(&dir, FIRST_STAYS), sink(&dir, FIRST_STAYS));
    let left = tokio::spawn(async move { before.send(&batch("{}\n")).await });
    let pid = until(|| noted(&dir)).await;
    assert_eq!(now.send(&batch("{}\n")).await, Outcome::Taken);
    assert!(is_gone(pid));
    let killed = left.await.unwrap();
    assert!(
        matches!(&killed, Outcome::Retry { reason } if reason.contains("signal 9")),
        "{killed:?}"
    );
}

/// A sink that takes every end for a good one.
#[derive(Debug)]
struct Gullible(CommandSink);

impl Sink for Gullible {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            self.0.send(batch).await;
            Outcome::Taken
        })
    }
}

/// What the operator's program would be: it stores a batch under its key, whole or not at all. Each second batch is not stored
/// at the first try, and of each third one the answer is lost.
const STORE: &str = "mkdir -p tries stored; name=$(echo $SIDEKICK_BATCH_KEY | tr / _); echo x >> tries/$name; \
     cat > new; cmp -s new tries/$name.body || cp new tries/$name.body; echo x >> calls; \
     tries=$(wc -l < tries/$name); calls=$(wc -l < calls); \
     if [ $tries = 1 ] && [ $((calls % 2)) = 0 ]; then exit 75; fi; \
     mv new stored/$name; \
     if [ $tries = 1 ] && [ $((calls % 3)) = 0 ]; then exit 1; fi; exit 0";

fn quick_batches() -> UploadSettings {
    UploadSettings {
        batch_max_age: Duration::from_millis(5),
        retry_first: Duration::from_millis(1),
        retry_max: Duration::from_millis(10),
        ..small_batches()
    }
}

async fn upload(sink: Arc<dyn Sink>) -> (Arc<FakeOutbox>, Running) {
    let outbox = Arc::new(FakeOutbox::new(Fuse::new(), &[("command", 1)]));
    for _ in 0..3 {
        outbox.append(&[&["a", "b", "c"], &["b", "a"], &["c"]]);
    }
    let mut running = start(outbox.clone(), vec![sink], quick_batches()).await;
    running.through(outbox.index()).await;
    (outbox, running)
}

/// Numbers of the records in a folder.
fn stored(folder: &Path) -> Vec<u64> {
    let files = fs::read_dir(folder).into_iter().flatten();
    let bodies = files.map(|file| fs::read(file.unwrap().path()).unwrap());
    let mut numbers: Vec<u64> = bodies
        .flat_map(|body| lines(&body))
        .map(|(_, seq)| seq)
        .collect();
    numbers.sort_unstable();
    numbers
}

/// A program that fails now and then, before it stored a batch and after: each record is there once. With the exit code
/// ignored (the broken variant) some are not.
#[tokio::test]
async fn a_program_that_fails_now_and_then_gets_all_of_it() {
    for gullible in [false, true] {
        let dir = TempDir::new().unwrap();
        let sink = sink(&dir, STORE);
        let sink: Arc<dyn Sink> = match gullible {
            false => Arc::new(sink),
            true => Arc::new(Gullible(sink)),
        };
        let (outbox, _running) = upload(sink).await;
        let recorded: Vec<u64> = (1..outbox.state.lock().unwrap().next_seq).collect();
        let stored = stored(&dir.path().join("stored"));
        assert_eq!(stored == recorded, !gullible, "{stored:?} of {recorded:?}");
        let tries = fs::read_dir(dir.path().join("tries")).unwrap();
        let again =
            tries.filter(|file| fs::read(file.as_ref().unwrap().path()).unwrap() == b"x\nx\n");
        assert_eq!(
            again.count() > 1,
            !gullible,
            "a batch comes again under its key"
        );
    }
}

#[tokio::test]
async fn a_bad_record_becomes_a_dead_letter_and_the_others_arrive() {
    let dir = TempDir::new().unwrap();
    let script = "mkdir -p stored; if grep -q '\"seq\":8,'; then echo number 8 is bad >&2; exit 65; fi; \
                  cat /proc/self/fd/0 > stored/$(echo $SIDEKICK_BATCH_KEY | tr / _)";
    let (outbox, _running) = upload(Arc::new(sink(&dir, script))).await;
    let state = outbox.state.lock().unwrap();
    let numbers: Vec<u64> = (1..state.next_seq).filter(|seq| *seq != 8).collect();
    assert_eq!(stored(&dir.path().join("stored")), numbers);
    let [dead] = &state.letters[..] else {
        panic!("{:?}", state.letters);
    };
    assert_eq!(dead.letter.head.first_seq, 8);
    assert_eq!(
        (&*dead.letter.code, &*dead.letter.reason),
        ("exit 65", "number 8 is bad")
    );
}
