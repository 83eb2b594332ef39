//! A project as a game is shipped: packed, beside a release build of the engine, which loads nothing else.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use crate::build::{self, Profile};
use crate::folders::Folder;
use crate::godot::Godot;
use crate::godot::fetch::Template;
use crate::process::Running;
use crate::project::{Project, confine};

const PACKING_TIME_MAX: Duration = Duration::from_secs(60);
/// What is packed of a project with one script.
const FILES: [&str; 6] = [
    "project.godot",
    "main.tscn",
    "main.gd",
    ".godot/extension_list.cfg",
    "addons/sidekick/sidekick.gdextension",
    "addons/sidekick/icon.svg",
];
/// Packs the files that the user arguments name into the pack that the first of them names.
const PACKER: &str = r#"extends SceneTree


func _init() -> void:
	var words := OS.get_cmdline_user_args()
	var packer := PCKPacker.new()
	var error := packer.pck_start(words[0])
	for file: String in words.slice(1):
		error = error if error else packer.add_file("res://" + file, ProjectSettings.globalize_path("res://" + file))
	quit(error if error else packer.flush())
"#;

/// An exported server in a folder of its own.
#[derive(Debug)]
pub struct Exported {
    folder: Folder,
    template: Template,
}

impl Exported {
    /// Packs `project`. The library is the unoptimized one, under the name that release builds load.
    ///
    /// # Panics
    /// When something cannot be packed or written.
    pub fn new(godot: &Godot, template: Template, project: &Project) -> Self {
        let folder = Folder::new();
        project.write("packer.gd", PACKER);
        let mut command = Command::new(&godot.path);
        command
            .args(["--headless", "--script", "res://packer.gd", "--path"])
            .arg(project.path())
            .arg("--")
            .arg(folder.join("server.pck"))
            .args(FILES);
        confine(&mut command, folder.path());
        let mut packing = Running::start(&mut command).expect("the engine");
        let status = packing.wait(PACKING_TIME_MAX);
        assert!(
            status.is_some_and(|status| status.success()),
            "not packed ({status:?}): {:#?}",
            packing.settled_lines()
        );
        // The engine looks for its pack beside its executable, which is the linker as the system sees it.
        fs::copy(&template.linker, folder.join("server")).expect("a copy of the linker");
        let library = folder.join(build::library_name(Profile::Release));
        symlink(build::extension(Profile::Debug), library).expect("a link");
        Self { folder, template }
    }

    /// The words that start it.
    pub fn command_line(&self) -> Vec<OsString> {
        let mut libraries = self.template.libraries.clone().into_os_string();
        libraries.push(":");
        libraries.push(self.template.libraries.join("pulseaudio"));
        vec![
            self.folder.join("server").into(),
            "--library-path".into(),
            libraries,
            self.template.engine.clone().into(),
            "--headless".into(),
        ]
    }
}
