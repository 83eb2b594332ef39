//! Which engine is active, where there may be two (CORRECTNESS rule 6).

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{RECORD_BYTES_MAX, Survivor};
use crate::platform::{create_private_file, kill_point, read_at};

/// The word that decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// The launch that is the engine.
    pub launch: u32,
    /// Whether it took the place of one whose end was not asked for: a standby was started before anybody knew.
    pub is_relaunch: bool,
    /// Where the report of the death before it is, or will be.
    pub last_death: Option<PathBuf>,
}

/// `<runtime_dir>/active`: written before anybody is told that an engine is active, so that a watchdog that finds two
/// engines knows which of them it is. It is there only while a standby is configured.
#[derive(Clone, Debug)]
pub struct ActiveFile {
    path: PathBuf,
}

impl ActiveFile {
    /// The file of this runtime directory.
    pub fn new(runtime_dir: &Path) -> Self {
        Self {
            path: runtime_dir.join("active"),
        }
    }

    /// Says which engine is active, at one stroke. It is not synced: after a power cut no engine runs.
    ///
    /// # Errors
    /// What the system said; the file is as it was.
    pub fn write(&self, active: &Active) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = create_private_file(&new)?;
        file.set_len(0)?;
        let mut text = format!(
            "launch={}\nrelaunch={}\nlast_death=",
            active.launch,
            u8::from(active.is_relaunch)
        )
        .into_bytes();
        if let Some(path) = &active.last_death {
            text.extend_from_slice(path.as_os_str().as_encoded_bytes());
        }
        text.extend_from_slice(b"\nend\n");
        file.write_all(&text)?;
        kill_point("amid_active_word");
        fs::rename(&new, &self.path)
    }

    /// What it says; `None` if there is none, or none that is whole.
    pub fn read(&self) -> Option<Active> {
        let file = fs::File::open(&self.path).ok()?;
        let mut text = vec![0; usize::try_from(RECORD_BYTES_MAX).unwrap_or(0)];
        let bytes = read_at(&file, &mut text, 0).ok()?;
        text.truncate(bytes);
        let text = String::from_utf8(text).ok()?;
        let mut lines = text.strip_suffix("\nend\n")?.lines();
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix('=');
        Some(Active {
            launch: field("launch")?.parse().ok()?,
            is_relaunch: field("relaunch")? == "1",
            last_death: Some(field("last_death")?)
                .filter(|path| !path.is_empty())
                .map(|path| PathBuf::from(OsString::from(path))),
        })
    }

    /// Takes the word back: there is no standby any more.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a file of an earlier standby cannot be removed");
        }
    }
}

/// Engines that outlived their watchdog, by what they are.
#[derive(Debug, Default)]
pub struct Sorted<T = Survivor> {
    /// The engine.
    pub engine: Option<T>,
    /// The one that waits to take its place.
    pub standby: Option<T>,
    /// To be ended.
    pub surplus: Vec<T>,
}

/// Sorts engines that run (oldest launch first) by the launch that is active: an older one is stale, of the newer ones the
/// newest is the standby. Without that word the newest is the engine.
pub fn sort_out<T>(
    mut running: Vec<T>,
    launch: impl Fn(&T) -> u32,
    active: Option<u32>,
) -> Sorted<T> {
    let mut sorted = Sorted {
        engine: None,
        standby: None,
        surplus: Vec::new(),
    };
    if let Some(active) = active {
        sorted.standby = running.pop_if(|last| launch(last) > active);
        let at = running.iter().position(|one| launch(one) == active);
        sorted.engine = at.map(|at| running.remove(at));
    } else {
        sorted.engine = running.pop();
    }
    sorted.surplus = running;
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_survives_its_text_and_a_torn_one_is_none() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = ActiveFile::new(dir.path());
        assert_eq!(file.read(), None);
        for last_death in [None, Some(PathBuf::from("/run/x y/deaths/6.json"))] {
            let active = Active {
                launch: 7,
                is_relaunch: last_death.is_some(),
                last_death,
            };
            file.write(&active).expect("written");
            assert_eq!(file.read(), Some(active));
        }
        let whole = fs::read(&file.path).expect("there");
        for cut in 0..whole.len() {
            fs::write(&file.path, &whole[..cut]).expect("written");
            assert_eq!(file.read(), None, "cut at {cut}");
        }
        file.remove();
        assert!(!file.path.exists());
        file.remove();
    }

    #[test]
    fn survivors_are_told_apart_by_that_word_alone() {
        for (running, active, engine, standby, surplus) in [
            (vec![4, 5], Some(4), Some(4), Some(5), vec![]),
            // The watchdog was killed after it had decided for the standby.
            (vec![5], Some(5), Some(5), None, vec![]),
            (vec![4, 5], Some(5), Some(5), None, vec![4]),
            // The engine died while no watchdog was there.
            (vec![5], Some(4), None, Some(5), vec![]),
            (vec![3, 4, 5, 6], Some(4), Some(4), Some(6), vec![3, 5]),
            (vec![3], Some(4), None, None, vec![3]),
            (vec![4, 5], None, Some(5), None, vec![4]),
            (vec![], Some(4), None, None, vec![]),
        ] {
            let sorted = sort_out(running.clone(), |launch| *launch, active);
            assert_eq!(
                (sorted.engine, sorted.standby, sorted.surplus),
                (engine, standby, surplus),
                "{running:?} {active:?}"
            );
        }
    }
}
