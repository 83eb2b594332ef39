//! `cargo xtask dist`: builds what ships and packs it as the addon's zip, whose root is `addons/`.
//!
//! The zip keeps the execute bits; an installer that loses them is repaired by the addon itself.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use sidekick_tests::build::{self, Profile};
use sidekick_tests::folders::{Folder, repository};
use sidekick_tests::installed;
use zip::write::SimpleFileOptions;

use crate::godot;

/// The largest watchdog that ships: it stands beside every game server, so what would make it larger needs a reason.
const WATCHDOG_BYTES_MAX: u64 = 12 << 20;

/// What to do.
#[derive(Debug, Args)]
pub struct Options {
    /// Build nothing, only try this zip out in a fresh project.
    #[arg(long, value_name = "ZIP")]
    try_out: Option<PathBuf>,
}

/// Builds, packs, prints each built file's size and the zip's path, and tries the zip out in a fresh project.
///
/// # Errors
/// When the zip could not be made, the watchdog is larger than [`WATCHDOG_BYTES_MAX`], or what was unpacked from the zip does
/// not work. Without a Godot it is not tried out, which is said.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    if let Some(zip) = &options.try_out {
        return try_out(zip);
    }
    eprintln!("dist: building (link-time optimization takes minutes)");
    let bin = format!("addons/sidekick/bin/{}", build::platform());
    let built = [
        (
            build::extension_with_help(Profile::Dist),
            build::library_name(Profile::Debug),
        ),
        (
            build::extension(Profile::Dist),
            build::library_name(Profile::Dist),
        ),
        (
            build::watchdog(Profile::Dist),
            "sidekick-watchdog".to_owned(),
        ),
    ];
    let (watchdog, _) = &built[2];
    if names_kill_points(&fs::read(watchdog)?) {
        return Err(format!("{watchdog:?} has the kill points of a debug build").into());
    }
    check_size(watchdog, WATCHDOG_BYTES_MAX)?;
    let mut files = Vec::new();
    collect(&repository().join("addons"), &mut files)?;
    files.sort();
    let mut entries: Vec<(PathBuf, String)> = Vec::new();
    for path in files {
        let inside = path.strip_prefix(repository())?.display().to_string();
        entries.push((path, inside));
    }
    for (path, name) in built {
        println!("{:>12}  {name}", size(fs::metadata(&path)?.len()));
        entries.push((path, format!("{bin}/{name}")));
    }

    let name = format!(
        "sidekick-{}-{}.zip",
        env!("CARGO_PKG_VERSION"),
        build::platform()
    );
    let folder = repository().join("target/dist-zip");
    fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    let partial = path.with_extension("tmp");
    pack(&entries, &partial)?;
    fs::rename(&partial, &path)?;
    println!(
        "{:>12}  {}",
        size(fs::metadata(&path)?.len()),
        path.display()
    );
    try_out(&path)
}

/// # Errors
/// The file is larger than `bytes_max`, or is not there.
fn check_size(program: &Path, bytes_max: u64) -> Result<(), Box<dyn Error>> {
    let bytes = fs::metadata(program)?.len();
    if bytes > bytes_max {
        return Err(format!("{program:?} has {bytes} bytes, the limit is {bytes_max}").into());
    }
    Ok(())
}

/// Whether a program would end itself where a test tells it to: see the watchdog's `platform/kill_point.rs`.
fn names_kill_points(program: &[u8]) -> bool {
    let variable = b"HARNESS_WATCHDOG_KILL_AT";
    program
        .windows(variable.len())
        .any(|window| window == variable)
}

/// As a user: unpacks into a fresh project, starts the launch script, waits for a record.
fn try_out(zip: &Path) -> Result<(), Box<dyn Error>> {
    let godot = match godot::locate() {
        Ok(godot) => godot,
        Err(error) => {
            eprintln!("dist: not tried out: {error}");
            return Ok(());
        }
    };
    let folder = Folder::new();
    zip::ZipArchive::new(File::open(zip)?)?.extract(folder.path())?;
    installed::try_out(folder.path(), &godot)?;
    eprintln!("dist: unpacked into a fresh project it starts, and a record of its game arrives");
    Ok(())
}

/// The addon's own files; what somebody installed into its `bin` is not among them.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if !path.is_dir() {
            files.push(path);
        } else if entry.file_name() != "bin" {
            collect(&path, files)?;
        }
    }
    Ok(())
}

fn pack(entries: &[(PathBuf, String)], to: &Path) -> Result<(), Box<dyn Error>> {
    let mut writer = zip::ZipWriter::new(File::create(to)?);
    for (path, name) in entries {
        let mode = fs::metadata(path)?.permissions().mode();
        let mode = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
        // No time stamps: the same files make the same zip.
        let options = SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .compression_level(Some(9))
            .unix_permissions(mode);
        writer.start_file(name.as_str(), options)?;
        io::copy(&mut File::open(path)?, &mut writer)?;
    }
    writer.finish()?;
    Ok(())
}

/// A size as a person reads it, in units of 1,000,000 bytes.
fn size(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ships is looked through; what is tested has what is looked for.
    #[test]
    fn the_kill_points_of_a_debug_build_are_found() {
        let debug = fs::read(build::watchdog(Profile::Debug)).unwrap();
        assert!(names_kill_points(&debug));
        assert!(!names_kill_points(b"HARNESS_WATCHDOG_KILL_A"));
    }

    #[test]
    fn one_byte_too_many_does_not_ship() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "1234").unwrap();
        check_size(&program, 4).unwrap();
        let error = check_size(&program, 3).unwrap_err().to_string();
        assert!(error.contains("has 4 bytes, the limit is 3"), "{error}");
    }

    #[test]
    fn the_zip_keeps_names_and_execute_bits() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, mode| {
            let path = folder.path().join(name);
            fs::write(&path, name).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            (path, format!("addons/sidekick/{name}"))
        };
        let entries = [file("plugin.cfg", 0o600), file("sidekick.sh", 0o700)];
        let to = folder.path().join("addon.zip");
        pack(&entries, &to).unwrap();
        let mut archive = zip::ZipArchive::new(File::open(&to).unwrap()).unwrap();
        for (name, mode) in [
            ("addons/sidekick/plugin.cfg", 0o644),
            ("addons/sidekick/sidekick.sh", 0o755),
        ] {
            let file = archive.by_name(name).unwrap();
            assert_eq!(
                file.unix_mode().map(|mode| mode & 0o777),
                Some(mode),
                "{name}"
            );
        }
    }
}
