//! A fresh project with the addon copied into it, as unpacking a release leaves it. `cargo xtask dist` does the same with
//! the zip that ships, which takes minutes to build; here are the debug builds.

use std::fs;
use std::path::Path;

use sidekick_tests::build::{self, Profile};
use sidekick_tests::folders::{Folder, repository};
use sidekick_tests::godot::Godot;
use sidekick_tests::installed::try_out;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("inside a folder")).expect("writable");
    fs::copy(from, to).unwrap_or_else(|error| panic!("cannot copy {from:?} to {to:?}: {error}"));
}

fn install(to: &Path) {
    let source = repository().join("addons/sidekick");
    copy_folder(&source, to);
    let bin = to.join("bin").join(build::platform());
    let library = build::library_name(Profile::Debug);
    copy(&build::extension(Profile::Debug), &bin.join(library));
    copy(
        &build::watchdog(Profile::Debug),
        &bin.join("sidekick-watchdog"),
    );
}

/// Everything but what somebody installed into `bin`.
fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("part of the repository") {
        let entry = entry.expect("readable");
        let to = to.join(entry.file_name());
        if !entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else if entry.file_name() != "bin" {
            copy_folder(&entry.path(), &to);
        }
    }
}

/// Unpack, start, and a record of the game arrives; asked to end, everything ends.
fn a_fresh_installation_works(godot: &Godot) {
    let folder = Folder::new();
    install(&folder.join("addons/sidekick"));
    try_out(folder.path(), godot).unwrap_or_else(|problem| panic!("{problem}"));
}

/// The same without the library: the test above can fail.
fn an_installation_without_its_library_is_found_out(godot: &Godot) {
    let folder = Folder::new();
    let addon = folder.join("addons/sidekick");
    install(&addon);
    let library = addon.join("bin").join(build::platform());
    fs::remove_file(library.join(build::library_name(Profile::Debug))).expect("there");
    fs::write(
        folder.join("sidekick.toml"),
        "[health]\nstartup_timeout = \"2s\"\nhang_timeout = \"1s\"\n[restart]\ngive_up_after = 1\n",
    )
    .expect("writable");
    let problem = try_out(folder.path(), godot).expect_err("no extension, no record");
    assert!(problem.contains("did not arrive"), "{problem}");
}

sidekick_tests::godot_claims!(
    a_fresh_installation_works,
    an_installation_without_its_library_is_found_out,
);
