//! What a watchdog refuses to map, what each side may write, and a file that is cut off under the mapping.

mod support;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use sidekick_ipc::region::{Mapping, Side};
use sidekick_ipc::*;
use support::*;

fn only_ring(dir: &Path) -> RingFileName {
    scan(dir).unwrap().remove(0)
}

#[test]
fn another_protocol_version_is_told_with_both_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let _session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let name = only_ring(dir.path());
    scribble(&name.path, 8, &77u16.to_le_bytes());
    let error = Attachment::open(&name).unwrap_err();
    assert_eq!(error.version_mismatch(), Some((77, PROTOCOL_VERSION)));
    assert!(error.to_string().contains("protocol 77"), "{error}");
}

#[test]
fn only_a_plain_file_with_one_name_and_the_right_size_is_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let name = only_ring(dir.path());
    Attachment::open(&name).unwrap();

    // Another rotation's name for the same content.
    let alias = RingFileName::new(dir.path(), name.launch, session.epoch(), 1);
    symlink(&name.path, &alias.path).unwrap();
    assert!(matches!(
        Attachment::open(&alias),
        Err(AttachError::Io { .. })
    ));
    std::fs::remove_file(&alias.path).unwrap();
    std::fs::hard_link(&name.path, &alias.path).unwrap();
    assert!(matches!(
        Attachment::open(&alias),
        Err(AttachError::Io { .. })
    ));
    assert!(matches!(
        Attachment::open(&name),
        Err(AttachError::Io { .. })
    ));
    std::fs::remove_file(&alias.path).unwrap();
    std::fs::copy(&name.path, &alias.path).unwrap();
    assert!(matches!(
        Attachment::open(&alias),
        Err(AttachError::Name { .. })
    ));
    std::fs::remove_file(&alias.path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &alias.path, rustix::fs::Mode::RWXU).unwrap();
    assert!(
        matches!(Attachment::open(&alias), Err(AttachError::Io { .. })),
        "and does not hang"
    );
    std::fs::remove_file(&alias.path).unwrap();

    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&name.path)
        .unwrap();
    let bytes = file.metadata().unwrap().len();
    file.set_len(bytes + 4096).unwrap();
    assert!(matches!(
        Attachment::open(&name),
        Err(AttachError::Size { .. })
    ));
    file.set_len(100).unwrap();
    assert!(matches!(
        Attachment::open(&name),
        Err(AttachError::Header { .. })
    ));
    // The session's mapping is cut off now; nothing of it may be touched any more.
    std::mem::forget(session);
}

#[test]
fn a_directory_that_others_can_write_is_refused_by_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let _session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let mode = |mode| {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o777);
    let error = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap_err();
    assert_eq!(error.source.kind(), std::io::ErrorKind::PermissionDenied);
    assert!(Attachment::open(&only_ring(dir.path())).is_err());
    mode(0o700);
    Attachment::open(&only_ring(dir.path())).unwrap();
}

#[test]
fn a_ring_file_is_private_and_leaves_no_other_name() {
    let dir = tempfile::tempdir().unwrap();
    let _session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let all: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap())
        .collect();
    assert_eq!(all.len(), 1);
    let metadata = all[0].metadata().unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    use std::os::unix::fs::MetadataExt;
    assert!(
        metadata.blocks() * 512 >= metadata.len(),
        "every block is allocated"
    );
}

#[test]
fn unfinished_files_of_dead_engines_are_removed_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let _session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let unfinished = |n: u128| {
        dir.path()
            .join(name::temporary_name(&uuid::Uuid::from_u128(n), 0))
    };
    std::fs::write(unfinished(1), "dead").unwrap();
    let alive = std::fs::File::create(unfinished(2)).unwrap();
    sys::lock_exclusive(&alive).unwrap();
    std::fs::write(dir.path().join(".other.tmp"), "not ours").unwrap();
    let minute = std::time::Duration::from_secs(60);
    assert_eq!(remove_unfinished(dir.path(), minute).unwrap(), 0);
    assert_eq!(
        remove_unfinished(dir.path(), std::time::Duration::ZERO).unwrap(),
        1
    );
    assert!(!unfinished(1).exists() && unfinished(2).exists());
    assert_eq!(scan(dir.path()).unwrap().len(), 1);
}

/// Permission ("rw" or "r-") of each 64 KiB unit of a file's mapping in this process, from the kernel's own list.
fn protections(path: &Path, first_address_above: usize) -> Vec<(usize, String)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut found = Vec::new();
    for line in maps
        .lines()
        .filter(|line| line.ends_with(path.to_str().unwrap()))
    {
        let mut fields = line.split_ascii_whitespace();
        let range = fields.next().unwrap();
        let permissions = fields.next().unwrap()[..2].to_owned();
        let offset = usize::from_str_radix(fields.next().unwrap(), 16).unwrap();
        let address = usize::from_str_radix(range.split('-').next().unwrap(), 16).unwrap();
        if address >= first_address_above {
            found.push((offset, permissions));
        }
    }
    found
}

#[test]
fn each_side_can_write_its_own_regions_only() {
    let dir = tempfile::tempdir().unwrap();
    let expect = |found: Vec<(usize, String)>, expected: &[(usize, &str)]| {
        let expected: Vec<_> = expected
            .iter()
            .map(|(at, p)| (*at, (*p).to_owned()))
            .collect();
        assert_eq!(found, expected);
    };
    let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
    let name = only_ring(dir.path());
    let engine = [
        (0, "r-"),
        (layout::P, "rw"),
        (layout::C, "r-"),
        (layout::D, "rw"),
    ];
    expect(protections(&name.path, 0), &engine);
    drop(session);
    let attachment = Attachment::open(&name).unwrap();
    expect(
        protections(&name.path, 0),
        &[(0, "r-"), (layout::C, "rw"), (layout::D, "r-")],
    );
    drop(attachment);
    let file = std::fs::File::open(&name.path).unwrap();
    let _reader = Mapping::open(&file, layout::file_bytes(256 << 10), Side::Reader).unwrap();
    expect(protections(&name.path, 0), &[(0, "r-")]);
}

#[test]
fn a_file_cut_off_under_the_mapping_does_not_kill_the_watchdog() {
    for keep in [0u64, 8192, layout::D as u64 + 4096] {
        let dir = tempfile::tempdir().unwrap();
        let session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
        let mut attachment = attach(dir.path());
        for seq in 1..=100 {
            session.record("test", &big_body(seq, 1000)).unwrap();
        }
        let mut out = Vec::new();
        attachment.drain(&mut out, 2000).unwrap();
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(only_ring(dir.path()).path)
            .unwrap();
        file.set_len(keep).unwrap();
        // Numbers up to 2 are out; whatever is still given out is whole, and then comes the error.
        let error = loop {
            let mut out = Vec::new();
            match attachment.drain(&mut out, 10_000) {
                Ok(drained) => {
                    let got = items(&out, &session.epoch());
                    check_dense(&got, drained.first_seq);
                    assert!(drained.more, "an end without an error");
                }
                Err(error) => break error,
            }
        };
        assert!(matches!(error, DrainError::Truncated { .. }), "{error}");
        // Everything else still answers.
        attachment.release(2, &attachment.checkpoint());
        attachment.controls().beat();
        attachment.heartbeat();
        attachment.wait(std::time::Duration::from_millis(1));
        attachment.finish().unwrap();
        std::mem::forget(session);
    }
}

/// Without the guard the same access kills: the guard is what the test above tests.
#[test]
fn without_the_guard_a_cut_off_file_kills() {
    if std::env::var_os("SIDEKICK_TEST_CUT_OFF").is_some() {
        let dir = tempfile::tempdir().unwrap();
        let _session = Session::create(options(dir.path(), WhenFull::Refuse)).unwrap();
        let name = only_ring(dir.path());
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&name.path)
            .unwrap();
        // `create` maps without a guard.
        let mapping = Mapping::create(&file, layout::file_bytes(256 << 10)).unwrap();
        file.set_len(0).unwrap();
        std::fs::remove_dir_all(dir.path()).unwrap();
        use sidekick_ipc::region::Region;
        mapping.load(layout::P_TAIL, std::sync::atomic::Ordering::Relaxed);
        return;
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "without_the_guard_a_cut_off_file_kills"])
        .env("SIDEKICK_TEST_CUT_OFF", "1")
        .output()
        .unwrap()
        .status;
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
}
