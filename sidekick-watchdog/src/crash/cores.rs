//! Where a core dump lies.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::parse::shorten;

/// A core may look so much older than its process: the system stamps files by a clock that moves in steps, and the start
/// is reckoned back from when the death was noticed.
const CLOCK_SLACK: Duration = Duration::from_secs(1);
/// Entries looked at in a folder of cores.
const ENTRIES_MAX: usize = 10_000;

/// The core dump of process `pid`, which the system says was dumped: its path, or what to ask for it. `pattern` is the
/// system's `core_pattern`, `cwd` the engine's working directory, `since` its start.
pub fn find(pattern: &str, pid: u32, cwd: &Path, since: Option<SystemTime>) -> Option<String> {
    let pattern = pattern.trim();
    if pattern.is_empty() {
        return None;
    }
    if let Some(program) = pattern.strip_prefix('|') {
        let program = program.split_ascii_whitespace().next()?;
        let name = Path::new(program)
            .file_name()?
            .to_string_lossy()
            .into_owned();
        return Some(if name == "systemd-coredump" {
            format!("coredumpctl info {pid}")
        } else {
            shorten(&format!("given to {program}"))
        });
    }
    let since = since.and_then(|since| since.checked_sub(CLOCK_SLACK));
    let path = cwd.join(pattern);
    let (folder, name) = (path.parent()?, path.file_name()?.to_str()?);
    let mut newest: Option<(SystemTime, PathBuf)> = None;
    for entry in fs::read_dir(folder).ok()?.take(ENTRIES_MAX).flatten() {
        let file = entry.file_name();
        let Some(file) = file.to_str().filter(|file| fits(name, file, pid)) else {
            continue;
        };
        let Some(changed) = entry
            .metadata()
            .ok()
            .filter(fs::Metadata::is_file)
            .and_then(|metadata| metadata.modified().ok())
        else {
            continue;
        };
        let is_fresh = since.is_none_or(|since| changed >= since);
        if is_fresh && newest.as_ref().is_none_or(|(best, _)| changed > *best) {
            newest = Some((changed, folder.join(file)));
        }
    }
    newest.map(|(_, path)| path.display().to_string())
}

/// Whether a file's name is of this pattern and process. Specifiers other than the process's number stand for anything.
fn fits(pattern: &str, file: &str, pid: u32) -> bool {
    // With core_uses_pid, a pattern without %p gets `.<pid>` at its end.
    if !pattern.contains("%p")
        && let Some(file) = file.strip_suffix(&format!(".{pid}"))
        && fits_parts(&parts(pattern, pid), file)
    {
        return true;
    }
    fits_parts(&parts(pattern, pid), file)
}

/// The texts between the specifiers that stand for anything.
fn parts(pattern: &str, pid: u32) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        let text = match letter {
            '%' => match letters.next() {
                Some('%') => "%".to_owned(),
                Some('p' | 'P') => pid.to_string(),
                Some(_) => {
                    parts.push(String::new());
                    continue;
                }
                None => break,
            },
            letter => letter.to_string(),
        };
        if let Some(part) = parts.last_mut() {
            part.push_str(&text);
        }
    }
    parts
}

fn fits_parts(parts: &[String], file: &str) -> bool {
    let Some((first, rest)) = parts.split_first() else {
        return false;
    };
    let Some(mut left) = file.strip_prefix(first.as_str()) else {
        return false;
    };
    let Some((last, middle)) = rest.split_last() else {
        return left.is_empty();
    };
    for part in middle {
        let Some(at) = left.find(part.as_str()) else {
            return false;
        };
        left = &left[at + part.len()..];
    }
    left.ends_with(last.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_by_their_pattern() {
        for (pattern, file, fit) in [
            ("core", "core", true),
            ("core", "core.42", true),
            ("core", "core.43", false),
            ("core.%p", "core.42", true),
            ("core.%p", "core.421", false),
            ("%e-%p-%t.core", "godot-42-1700000000.core", true),
            ("%e-%p-%t.core", "godot-43-1700000000.core", false),
            ("100%%.%s", "100%.11", true),
            ("core.%", "core.", true),
        ] {
            assert_eq!(fits(pattern, file, 42), fit, "{pattern} {file}");
        }
    }

    #[test]
    fn the_newest_fresh_core_is_found_and_a_pipe_is_named() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let started = SystemTime::now();
        fs::write(dir.path().join("core.42"), "x").expect("written");
        fs::write(dir.path().join("core.7"), "x").expect("written");
        let found = find("core.%p\n", 42, dir.path(), None).expect("found");
        assert!(found.ends_with("/core.42"));
        // Of an engine that died at once, as far as its clock tells.
        let at_once = started + CLOCK_SLACK / 2;
        assert!(find("core.%p", 42, dir.path(), Some(at_once)).is_some());
        let later = started + Duration::from_secs(3600);
        assert_eq!(find("core.%p", 42, dir.path(), Some(later)), None);
        assert_eq!(find("", 42, dir.path(), None), None);
        assert_eq!(
            find(
                "|/usr/lib/systemd/systemd-coredump %P %u",
                42,
                dir.path(),
                None
            )
            .as_deref(),
            Some("coredumpctl info 42")
        );
        assert_eq!(
            find("|/usr/share/apport/apport %p", 42, dir.path(), None).as_deref(),
            Some("given to /usr/share/apport/apport")
        );
    }
}
