//! The state in sled, by way of this process and of a helper.

use super::super::machine::SnapshotEvery;
use super::super::raft::log_id;
use super::super::snapshot::Snapshots;
use super::super::wal::EntryId;
use super::*;

fn machine(dir: &Path, index: u64) -> Arc<Machine> {
    let (term, node) = (1, 1);
    let mut state = State::default();
    state.last_applied = Some(log_id(EntryId { term, node, index }));
    let every = SnapshotEvery {
        entries: u64::MAX,
        bytes: u64::MAX,
    };
    Machine::new(state, (0, 0), Snapshots::open(dir).unwrap(), every)
}

/// A helper that is no helper: what it does with the database is not the database's fault, unless it says so.
#[test]
fn helpers_that_fail_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let machine = machine(dir.path(), 3);
    let state = dir.path().join("state");
    let script = dir.path().join("helper");
    let with = |text: &str| {
        let file = dir.path().join("new");
        // What is open for writing anywhere cannot be executed.
        let _none = crate::platform::nothing_is_started();
        std::fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&file, mode).unwrap();
        std::fs::rename(file, &script).unwrap();
        let mut persist = Persist::new(state.clone(), Some(script.clone()));
        persist.time_limit = Duration::from_secs(30);
        persist
    };
    let fault = |persist: Persist| persist.save(&machine).unwrap_err();
    assert_eq!(
        fault(with("cat > /dev/null; printf 'disk full'; exit 6")),
        Fault::DiskFull
    );
    // Renaming fails because there is nothing to rename: each says first what the helper said.
    let said = |persist| fault(persist).to_string();
    assert!(
        said(with("cat > /dev/null; echo its tail is torn; exit 6"))
            .starts_with("its tail is torn")
    );
    assert!(said(with("exit 101")).starts_with("it ended with code 101"));
    assert!(said(with("kill -SEGV $$")).starts_with("signal 11 ended it"));
    let mut hanging = with("sleep 1000 & wait");
    hanging.time_limit = Duration::from_millis(50);
    assert!(said(hanging).starts_with("it took longer than 50ms"));
    let nobody = Persist::new(state.clone(), Some(dir.path().join("nobody")));
    assert!(matches!(fault(nobody), Fault::NotTried(_)));
    // An unusable database goes aside once, and the second try counts.
    std::fs::create_dir(&state).unwrap();
    let twice = with(&format!(
        "cat > /dev/null; test -e {0} || {{ touch {0}; echo no; exit 6; }}",
        dir.path().join("tried").display()
    ));
    twice.save(&machine).unwrap();
    assert!(!state.exists(), "it was not set aside");
    // What is saved is not saved again.
    std::fs::remove_file(&script).unwrap();
    twice.save(&machine).unwrap();
    assert!(!dir.path().join("state.handover").exists());
}
