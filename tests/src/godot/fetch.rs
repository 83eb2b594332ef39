//! Unpacks the distribution's own Godot 4 into the cache folder, without touching the system.
//!
//! A private apt resolves the package's whole closure of the suite `sid` against an empty dpkg status, so the
//! C library and all others come too; the engine then runs through that closure's own dynamic linker. Nothing
//! half-made is left by a kill: the folder gets its name when it is complete, and one process works at a time.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use super::{Godot, GodotError, VERSION_MIN, apt, cache_folder, newest_in, version_of};

/// Where apt keeps its configuration.
const APT_FOLDER: &str = "/etc/apt";

/// The suite that has Godot 4.5 or newer, and goes on having the newest.
const SUITE: &str = "sid";

const PACKAGE: &str = "godot";

/// A release build of the engine, as exported games have it: for what only such a build does.
const TEMPLATE_PACKAGE: &str = "godot-template-release";

/// Unpacks Godot into the cache folder and returns it; returns the one that is there when another process
/// was quicker. Takes about half a minute and 180 MB of downloads.
///
/// # Errors
/// [`GodotError`], each telling what to install instead.
pub fn fetch(progress: &mut dyn FnMut(&str)) -> Result<Godot, GodotError> {
    for program in ["apt-get", "dpkg", "dpkg-deb"] {
        if !is_on_path(program) {
            return Err(GodotError::NoApt { missing: program });
        }
    }
    let release = os_release("VERSION_CODENAME").unwrap_or_default();
    let sources = apt::sources_for_suite(Path::new(APT_FOLDER), &release, SUITE)
        .map_err(|error| step("reading apt's sources", error.to_string()))?;
    if sources.is_empty() {
        return Err(GodotError::NoSources {
            folder: PathBuf::from(APT_FOLDER),
        });
    }

    let cache = cache_folder().ok_or_else(|| {
        step(
            "choosing a cache folder",
            "neither XDG_CACHE_HOME nor HOME is set".to_owned(),
        )
    })?;
    make_folder(&cache)?;
    let lock_path = cache.join("godot.lock");
    let lock = File::create(&lock_path).map_err(|source| GodotError::Cache {
        path: lock_path.clone(),
        source,
    })?;
    if lock.try_lock().is_err() {
        progress("another process is unpacking Godot; waiting for it");
        lock.lock().map_err(|source| GodotError::Cache {
            path: lock_path,
            source,
        })?;
    }
    if let Some(godot) = newest_in(&cache) {
        return Ok(godot);
    }

    // Held under the lock, so what is here is the rest of a killed run.
    let partial = cache.join("godot.partial");
    remove_folder(&partial)?;
    make_folder(&partial)?;
    let private = PrivateApt::create(&partial.join("apt"), &sources)?;
    private.download(progress)?;
    let prefix = partial.join("prefix");
    make_folder(&prefix)?;
    private.unpack(&prefix, progress)?;
    remove_folder(&partial.join("apt"))?;

    // The script finds its prefix by its own place, so the folder may be renamed afterwards.
    let script = partial.join("godot");
    write_script(&script, &prefix)?;
    let version =
        version_of(&script).map_err(|problem| step("asking it for its version", problem))?;
    if version < VERSION_MIN {
        return Err(step(
            "checking its version",
            format!("the archive has Godot {version}, needed is {VERSION_MIN} or newer"),
        ));
    }
    let home = cache.join(format!("godot-{version}"));
    remove_folder(&home)?;
    fs::rename(&partial, &home).map_err(|source| GodotError::Cache {
        path: home.clone(),
        source,
    })?;
    Ok(Godot {
        path: home.join("godot"),
        version,
    })
}

/// A release template with what it needs to run.
#[derive(Debug, Clone)]
pub struct Template {
    /// The dynamic linker that must run it.
    pub linker: PathBuf,
    /// The folder of its libraries.
    pub libraries: PathBuf,
    /// The engine.
    pub engine: PathBuf,
}

/// An apt whose state, lists, cache and installed packages are its own.
struct PrivateApt {
    folder: PathBuf,
    config: PathBuf,
}

impl PrivateApt {
    fn create(folder: &Path, sources: &str) -> Result<Self, GodotError> {
        for part in [
            "lists/partial",
            "cache/archives/partial",
            "log",
            "preferences.d",
            "sources.list.d",
        ] {
            make_folder(&folder.join(part))?;
        }
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|source| GodotError::Cache {
                path: path.clone(),
                source,
            })?;
            Ok(path)
        };
        write("status", "")?;
        write("sources.list.d/debian.sources", sources)?;
        let architecture = said(Command::new("dpkg").arg("--print-architecture"))?;
        let machine_config = Path::new(APT_FOLDER).join("apt.conf");
        let included = if machine_config.is_file() {
            format!("#include {machine_config:?};\n")
        } else {
            String::new()
        };
        let main = write(
            "main.conf",
            &format!(
                "{included}\
                 // The machine's hooks clean and index the machine's own folders: not ours to trigger.\n\
                 #clear APT::Update::Pre-Invoke;\n\
                 #clear APT::Update::Post-Invoke;\n\
                 #clear APT::Update::Post-Invoke-Success;\n\
                 #clear DPkg::Pre-Invoke;\n\
                 #clear DPkg::Post-Invoke;\n\
                 #clear DPkg::Pre-Install-Pkgs;\n\
                 #clear APT::Architectures;\n\
                 APT::Architectures {{ {architecture:?}; }};\n\
                 APT::Sandbox::User \"root\";\n\
                 APT::Install-Recommends \"false\";\n\
                 Acquire::Languages \"none\";\n\
                 Acquire::Retries \"3\";\n\
                 Dir::State {folder:?};\n\
                 Dir::State::status \"{status}\";\n\
                 Dir::State::lists \"{lists}\";\n\
                 Dir::Cache \"{cache}\";\n\
                 Dir::Cache::archives \"{cache}/archives\";\n\
                 Dir::Log \"{log}\";\n\
                 Dir::Etc::sourcelist \"/dev/null\";\n\
                 Dir::Etc::sourceparts \"{parts}\";\n\
                 Dir::Etc::preferences \"/dev/null\";\n\
                 Dir::Etc::preferencesparts \"{preferences}\";\n",
                status = folder.join("status").display(),
                lists = folder.join("lists").display(),
                cache = folder.join("cache").display(),
                log = folder.join("log").display(),
                parts = folder.join("sources.list.d").display(),
                preferences = folder.join("preferences.d").display(),
            ),
        )?;
        // Read first; it moves the file that is read last, so that ours wins over the machine's parts
        // (proxies and certificates among them, which stay in force).
        let config = write("first.conf", &format!("Dir::Etc::main {main:?};\n"))?;
        Ok(Self {
            folder: folder.to_owned(),
            config,
        })
    }

    fn download(&self, progress: &mut dyn FnMut(&str)) -> Result<(), GodotError> {
        progress("reading the list of packages");
        // A source that lacks the suite fails the update and need not stop the rest; if it was needed, the
        // next step fails and both are told.
        let update = self.run(&["update"], &mut |_| {});
        let mut total = 0_usize;
        let mut begun = 0_usize;
        let mut told = 0_usize;
        let mut install = |packages: &[&str]| {
            let mut arguments = vec![
                "install",
                "--no-install-recommends",
                "--download-only",
                "--yes",
            ];
            arguments.extend(packages);
            self.run(&arguments, &mut |line| {
                if let Some(count) = newly_installed(line) {
                    total = count;
                } else if let Some(size) = line.strip_prefix("Need to get ") {
                    progress(&format!(
                        "{total} packages, {}",
                        size.trim_end_matches(" of archives.")
                    ));
                } else if line.starts_with("Get:") {
                    begun += 1;
                    if begun * 10 >= (told + 1) * total.max(1) {
                        told = begun * 10 / total.max(1);
                        progress(&format!("downloading package {begun} of {total}"));
                    }
                }
            })
        };
        // An archive without a template has an engine all the same.
        let install = install(&[PACKAGE, TEMPLATE_PACKAGE]).or_else(|_| install(&[PACKAGE]));
        match (update, install) {
            (_, Ok(())) => Ok(()),
            (Ok(()), Err(error)) => Err(error),
            (Err(first), Err(second)) => Err(step(
                "apt-get update and install",
                format!("{first}; {second}"),
            )),
        }
    }

    fn unpack(&self, prefix: &Path, progress: &mut dyn FnMut(&str)) -> Result<(), GodotError> {
        let archives = self.folder.join("cache/archives");
        let entries = fs::read_dir(&archives).map_err(|source| GodotError::Cache {
            path: archives.clone(),
            source,
        })?;
        let mut packages: Vec<PathBuf> = entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| path.extension() == Some(OsStr::new("deb")))
            .collect();
        packages.sort();
        progress(&format!("unpacking {} packages", packages.len()));
        for package in packages {
            said(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .arg(&package)
                    .arg(prefix),
            )?;
            // The space is wanted back at once: archives and prefix together are 700 MB.
            let _ = fs::remove_file(&package);
        }
        Ok(())
    }

    /// Runs apt-get, gives each line that it says to `on_line`, and keeps the last for an error.
    fn run(&self, arguments: &[&str], on_line: &mut dyn FnMut(&str)) -> Result<(), GodotError> {
        let name = format!("apt-get {}", arguments.join(" "));
        let wrong = |error: io::Error| step(&name, error.to_string());
        let mut child = Command::new("apt-get")
            .args(arguments)
            .env("APT_CONFIG", &self.config)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(wrong)?;
        let complaints = child.stderr.take().map(|stderr| {
            thread::spawn(move || {
                let lines = BufReader::new(stderr).lines().map_while(Result::ok);
                lines
                    .filter(|line| line.starts_with("E:"))
                    .collect::<Vec<_>>()
            })
        });
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                on_line(&line);
            }
        }
        let status = child.wait().map_err(wrong)?;
        let complaints = complaints
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        if status.success() {
            Ok(())
        } else {
            Err(step(&name, format!("{status}: {}", complaints.join(" "))))
        }
    }
}

/// The N of `0 upgraded, N newly installed, 0 to remove …`.
fn newly_installed(line: &str) -> Option<usize> {
    line.strip_suffix(" not upgraded.")?;
    line.split(", ")
        .find_map(|part| part.strip_suffix(" newly installed"))
        .and_then(|count| count.parse().ok())
}

/// Writes the script that runs the engine through its own dynamic linker. It `exec`s, so the process that
/// the caller started is the engine.
fn write_script(script: &Path, prefix: &Path) -> Result<(), GodotError> {
    let inside = |path: &Path| {
        let path = path.strip_prefix(prefix).unwrap_or(path);
        format!("\"$home\"/prefix/{}", path.display())
    };
    let text = format!(
        "#!/bin/sh\n\
         # Runs the Godot that lies beside this script with the libraries that lie beside it.\n\
         home=$(dirname \"$(readlink -f \"$0\")\")\n\
         exec {linker} --library-path {libraries}:{libraries}/pulseaudio {engine} \"$@\"\n",
        linker = inside(&linker(prefix)?),
        libraries = inside(&libraries(prefix)?),
        engine = inside(&prefix.join("usr/bin").join(PACKAGE)),
    );
    let result = fs::write(script, text)
        .and_then(|()| fs::set_permissions(script, fs::Permissions::from_mode(0o755)));
    result.map_err(|source| GodotError::Cache {
        path: script.to_owned(),
        source,
    })
}

/// The release template that was unpacked together with this engine; `None` where there is none.
pub fn template(godot: &Godot) -> Option<Template> {
    let prefix = godot.path.parent()?.join("prefix");
    let engine = prefix.join("usr/bin").join(TEMPLATE_PACKAGE);
    engine.is_file().then_some(())?;
    Some(Template {
        linker: linker(&prefix).ok()?,
        libraries: libraries(&prefix).ok()?,
        engine,
    })
}

fn linker(prefix: &Path) -> Result<PathBuf, GodotError> {
    let linker = ["usr/lib64", "lib64", "usr/lib", "lib"]
        .iter()
        .find_map(|folder| first_named(&prefix.join(folder), |name| name.starts_with("ld-linux")));
    linker.ok_or_else(|| {
        step(
            "finding the dynamic linker",
            format!("none is in {prefix:?}"),
        )
    })
}

fn libraries(prefix: &Path) -> Result<PathBuf, GodotError> {
    first_named(&prefix.join("usr/lib"), |name| name.contains("-linux-gnu"))
        .ok_or_else(|| step("finding the libraries", format!("none are in {prefix:?}")))
}

fn first_named(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    paths.into_iter().find(|path| {
        path.file_name()
            .and_then(OsStr::to_str)
            .is_some_and(&is_wanted)
    })
}

/// Runs a command to its end and returns what it said, trimmed.
fn said(command: &mut Command) -> Result<String, GodotError> {
    let name = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| step(&name, error.to_string()))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(step(
            &name,
            format!("{}: {}", output.status, complaint.trim()),
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn is_on_path(program: &str) -> bool {
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

fn os_release(key: &str) -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

fn make_folder(path: &Path) -> Result<(), GodotError> {
    fs::create_dir_all(path).map_err(|source| GodotError::Cache {
        path: path.to_owned(),
        source,
    })
}

fn remove_folder(path: &Path) -> Result<(), GodotError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(GodotError::Cache {
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

fn step(step: &str, problem: String) -> GodotError {
    GodotError::Step {
        step: step.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_packages_is_read_from_apts_summary() {
        let line = "0 upgraded, 121 newly installed, 0 to remove and 0 not upgraded.";
        assert_eq!(newly_installed(line), Some(121));
        assert_eq!(newly_installed("Need to get 158 MB of archives."), None);
    }
}
