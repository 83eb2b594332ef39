//! File systems that are small or read-only, for tests of disks that are full or refuse. Only root can mount.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// What a file system in memory gives out at least.
const PAGE_BYTES: u64 = 4096;

/// A file system of its own in memory; it is unmounted when this value goes.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
}

impl Mount {
    /// Mounts an empty file system of `bytes` at `path`, which is made if it is missing.
    ///
    /// # Errors
    /// Why not, in a sentence; usually for want of permission.
    pub fn new(path: &Path, bytes: u64) -> Result<Self, String> {
        fs::create_dir_all(path).map_err(|error| format!("cannot make {path:?}: {error}"))?;
        let options = format!("size={bytes},mode=0700");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(path))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Mounts an empty file system of `bytes` that lies in a file beside `path` and can be stalled, see [`Mount::stall`].
    ///
    /// # Errors
    /// As [`Mount::new`].
    pub fn disk(path: &Path, bytes: u64) -> Result<Self, String> {
        fs::create_dir_all(path).map_err(|error| format!("cannot make {path:?}: {error}"))?;
        let image = path.with_extension("image");
        fs::File::create(&image)
            .and_then(|file| file.set_len(bytes))
            .map_err(|error| format!("cannot make {image:?}: {error}"))?;
        run(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(path))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Lets every write to it wait for `duration`, counted from the moment of return, or until the stall is ended. Only
    /// for [`Mount::disk`].
    ///
    /// It comes to life again by itself, at once when this process is killed meanwhile.
    ///
    /// # Errors
    /// Why not, in a sentence.
    pub fn stall(&self, duration: Duration) -> Result<Stall, String> {
        let mut child = Command::new("sh")
            .args([
                "-c",
                "fsfreeze -f \"$0\" && echo && timeout \"$1\" cat; fsfreeze -u \"$0\"",
            ])
            .arg(&self.path)
            .arg(duration.as_secs_f64().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot run sh: {error}"))?;
        let mut byte = [0];
        let is_frozen = child
            .stdout
            .take()
            .is_some_and(|mut stdout| stdout.read_exact(&mut byte).is_ok());
        // As long as it is open, `cat` waits.
        let hold = child.stdin.take();
        let mut stall = Stall { child, hold };
        if is_frozen {
            return Ok(stall);
        }
        stall.hold = None;
        stall.wait()?;
        Err(format!("{:?} cannot be frozen", self.path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it read-only.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn make_read_only(&self) {
        run(Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(&self.path))
        .unwrap_or_else(|problem| panic!("{problem}"));
    }

    /// Fills what is left of it with a file, at once, and returns the file's path.
    ///
    /// # Panics
    /// When something else than the end of the space stops it.
    pub fn fill(&self) -> PathBuf {
        let path = self.path.join("filler");
        let file = fs::File::create(&path).unwrap_or_else(|error| panic!("no {path:?}: {error}"));
        let (mut end, mut step) = (0, 1 << 30);
        while step >= PAGE_BYTES {
            match fallocate(&file, FallocateFlags::empty(), end, step) {
                Ok(()) => end += step,
                Err(Errno::NOSPC) => step /= 2,
                Err(error) => panic!("filling {path:?}: {error}"),
            }
        }
        path
    }
}

/// A disk that stands still; it goes on when this value goes.
#[derive(Debug)]
pub struct Stall {
    child: Child,
    hold: Option<ChildStdin>,
}

impl Stall {
    /// Waits until it goes on.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn wait(mut self) -> Result<(), String> {
        let ended = self.child.wait();
        ended
            .map(drop)
            .map_err(|error| format!("cannot wait for the thaw: {error}"))
    }

    /// Lets it go on now.
    ///
    /// # Errors
    /// When it went on before: what was seen meanwhile was not seen of a disk that stands still.
    pub fn end(mut self) -> Result<(), String> {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return Err("the disk came to life too early".to_owned());
        }
        self.hold = None;
        self.wait()
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.hold = None;
        let _ = self.child.wait();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a process that is about to be killed may still have files open.
        let unmounted = run(Command::new("umount").arg("-l").arg(&self.path));
        if let Err(problem) = unmounted {
            eprintln!("harness: {problem}");
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("cannot run {:?}: {error}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{:?} failed: {}",
        command.get_program(),
        said.trim()
    ))
}
