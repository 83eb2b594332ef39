//! A Godot project made for one test, and the engine that runs it.
//!
//! The project has the repository's addon with the library just built, the extension list that an engine
//! needs to load it without an import, and one script as the whole game.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use crate::build::{self, Profile};
use crate::folders::{Folder, repository};
use crate::godot::Godot;
use crate::process::{Running, Token};
use crate::wait;

/// Lines that no healthy run prints. The engine itself exits with 0 after most of them.
pub const COMPLAINTS: [&str; 7] = [
    "SCRIPT ERROR",
    "Parse Error",
    "Can't open dynamic library",
    "Error loading extension",
    "[panic ",
    "ObjectDB instances leaked",
    "handle_crash",
];

/// After one of these the engine idles for ever, so waiting for its end is waiting for the deadline.
const HOPELESS: [&str; 2] = ["Parse Error", "Failed to load script"];

/// The addon's path inside a project.
const ADDON: &str = "addons/sidekick";

/// A project in a temporary folder.
#[derive(Debug)]
pub struct Project {
    folder: Folder,
}

impl Project {
    /// Makes a project whose main scene is one node with this script (GDScript, `extends Node`), with the
    /// extension loaded.
    ///
    /// # Panics
    /// When the extension does not compile or the folder cannot be written.
    pub fn new(script: &str) -> Self {
        Self::with_library(script, Some(&build::extension(Profile::Debug)))
    }

    /// As [`Project::new`] with the optimized library, for what is measured.
    ///
    /// # Panics
    /// As [`Project::new`].
    pub fn optimized(script: &str) -> Self {
        Self::with_library(script, Some(&build::extension(Profile::Release)))
    }

    /// As [`Project::new`] with the library as it ships for the editor and debug builds.
    ///
    /// # Panics
    /// As [`Project::new`].
    pub fn shipped(script: &str) -> Self {
        Self::with_library(script, Some(&build::extension_with_help(Profile::Dist)))
    }

    /// As [`Project::new`] without the extension: the addon is not there at all.
    ///
    /// # Panics
    /// As [`Project::new`].
    pub fn without_extension(script: &str) -> Self {
        Self::with_library(script, None)
    }

    /// The demo's own scenes and scripts, with the library just built; the server is the main scene.
    ///
    /// # Panics
    /// As [`Project::new`].
    pub fn demo() -> Self {
        let project = Self::new("extends Node\n");
        for folder in ["server", "client", "shared"] {
            project.copy_scripts(&repository().join("demo_project").join(folder), folder);
        }
        project.write(
            "override.cfg",
            "[application]\n\nrun/main_scene=\"res://server/main.tscn\"\n",
        );
        project
    }

    /// Copies the scripts and scenes of a folder into the project's folder `inside` (empty: its root).
    ///
    /// # Panics
    /// When one cannot be read or written.
    pub fn copy_scripts(&self, folder: &Path, inside: &str) {
        let entries =
            fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot read {folder:?}: {error}"));
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let is_one = path
                .extension()
                .is_some_and(|it| it == "gd" || it == "tscn");
            let Some(name) = path.file_name().filter(|_| is_one) else {
                continue;
            };
            let text = fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("cannot read {path:?}: {error}"));
            self.write(&format!("{inside}/{}", name.display()), &text);
        }
    }

    fn with_library(script: &str, library: Option<&Path>) -> Self {
        let project = Self {
            folder: Folder::new(),
        };
        project.write(
            "project.godot",
            "config_version=5\n\n[application]\n\nconfig/name=\"Sidekick test\"\n\
             config/version=\"1.2.3-test\"\nrun/main_scene=\"res://main.tscn\"\nconfig/features=PackedStringArray(\"4.5\")\n",
        );
        project.write(
            "main.tscn",
            "[gd_scene load_steps=2 format=3]\n\n\
             [ext_resource type=\"Script\" path=\"res://main.gd\" id=\"1\"]\n\n\
             [node name=\"Main\" type=\"Node\"]\nscript = ExtResource(\"1\")\n",
        );
        project.write("main.gd", script);
        if let Some(library) = library {
            project.add_addon(library);
        }
        project
    }

    /// The addon's files are the repository's own; its `bin` is ours, so that what somebody installed there
    /// (or is installing at this moment) is not what is tested.
    fn add_addon(&self, library: &Path) {
        self.link_files(&repository().join(ADDON), ADDON);
        let name = build::library_name(Profile::Debug);
        self.link(
            library,
            &format!("{ADDON}/bin/{}/{name}", build::platform()),
        );
        self.write(
            ".godot/extension_list.cfg",
            "res://addons/sidekick/sidekick.gdextension\n",
        );
    }

    /// Links each file, not the folders: an editor writes beside what it finds.
    fn link_files(&self, from: &Path, inside: &str) {
        let entries =
            fs::read_dir(from).unwrap_or_else(|error| panic!("cannot read {from:?}: {error}"));
        for entry in entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name() != "bin")
        {
            let inside = format!("{inside}/{}", entry.file_name().display());
            if entry.path().is_dir() {
                self.link_files(&entry.path(), &inside);
            } else {
                self.link(&entry.path(), &inside);
            }
        }
    }

    /// The project's folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file of the project; folders are made as needed.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.make_parent(inside);
        fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {path:?}: {error}"));
    }

    fn link(&self, target: &Path, inside: &str) {
        let path = self.make_parent(inside);
        symlink(target, &path)
            .unwrap_or_else(|error| panic!("cannot make the link {path:?}: {error}"));
    }

    fn make_parent(&self, inside: &str) -> PathBuf {
        let path = self.folder.join(inside);
        let parent = path.parent().unwrap_or_else(|| self.folder.path());
        fs::create_dir_all(parent)
            .unwrap_or_else(|error| panic!("cannot make {parent:?}: {error}"));
        path
    }

    /// What to execute to run the project without a window: the engine and its arguments, `user_arguments`
    /// after `--`. For a watchdog's `[engine] command` as well as for [`Project::start`].
    pub fn command_line(&self, godot: &Godot, user_arguments: &[&str]) -> Vec<OsString> {
        let mut words = vec![
            godot.path.clone().into_os_string(),
            "--headless".into(),
            "--path".into(),
        ];
        words.push(self.path().into());
        if !user_arguments.is_empty() {
            words.push("--".into());
            words.extend(user_arguments.iter().map(OsString::from));
        }
        words
    }

    /// Keeps what the engine writes (`user://`, caches, editor settings) inside the project's folder.
    pub fn confine(&self, command: &mut Command) {
        confine(command, self.folder.path());
    }

    /// Starts the engine on its own, without a watchdog.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&self, godot: &Godot, options: &Options) -> Engine {
        let token = Token::new();
        let words = self.command_line(godot, &options.user_arguments);
        let (program, arguments) = words.split_first().expect("a command line has a program");
        let mut command = Command::new(program);
        command.args(arguments);
        token.mark(&mut command);
        self.confine(&mut command);
        command.envs(
            options
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        );
        let running = Running::start(&mut command)
            .unwrap_or_else(|error| panic!("cannot start {program:?}: {error}"));
        Engine {
            running,
            token,
            started: Instant::now(),
        }
    }

    /// Runs the engine to its end.
    ///
    /// # Panics
    /// When it does not end within `deadline`, or will never end since its main script does not parse; the
    /// text says all that it wrote.
    #[track_caller]
    pub fn run(&self, godot: &Godot, options: &Options, deadline: Duration) -> Output {
        self.start(godot, options).finish(deadline)
    }
}

/// Sets the folders of the XDG convention so that a program writes nothing outside `folder`.
pub fn confine(command: &mut Command, folder: &Path) {
    for (name, inside) in [
        ("XDG_DATA_HOME", "data"),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_CACHE_HOME", "cache"),
    ] {
        command.env(name, folder.join(".xdg").join(inside));
    }
}

/// How to start an engine.
#[derive(Debug, Clone, Default)]
pub struct Options<'a> {
    /// What the game finds in `OS.get_cmdline_user_args()`.
    pub user_arguments: Vec<&'a str>,
    /// Added to the environment.
    pub environment: Vec<(String, OsString)>,
}

/// An engine that runs; it and what it started are killed when this value goes.
#[derive(Debug)]
pub struct Engine {
    /// The engine's process and its lines.
    pub running: Running,
    /// Of everything that it starts.
    pub token: Token,
    started: Instant,
}

impl Engine {
    /// Waits for a line that contains `text` and returns it.
    ///
    /// # Panics
    /// When `deadline` passes first, or the engine ends first.
    #[track_caller]
    pub fn wait_for_line(&mut self, text: &str, deadline: Duration) -> String {
        let found = wait::poll(deadline, || {
            let has_said_all = self.running.has_said_all();
            let line = self
                .running
                .lines
                .find(0, |line| line.contains(text).then(|| line.clone()));
            line.map(Some).or_else(|| has_said_all.then_some(None))
        });
        match found.flatten() {
            Some(line) => line,
            None => panic!(
                "the engine wrote no {text:?}; it wrote:\n{}",
                self.running.lines.all().join("\n")
            ),
        }
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// As [`Project::run`].
    #[track_caller]
    pub fn finish(self, deadline: Duration) -> Output {
        self.try_finish(deadline)
            .unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// A sentence and all that the engine wrote, when it does not end within `deadline` or never will.
    pub fn try_finish(mut self, deadline: Duration) -> Result<Output, String> {
        let ended = wait::poll(deadline, || {
            let status = self.running.status().map(Some);
            let is_hopeless = |line: &String| {
                HOPELESS
                    .iter()
                    .any(|text| line.contains(text))
                    .then_some(None)
            };
            status.or_else(|| self.running.lines.find(0, is_hopeless))
        });
        let took = self.started.elapsed();
        let wrote = || format!("it wrote:\n{}", self.running.lines.all().join("\n"));
        let status = match ended {
            Some(Some(status)) => status,
            Some(None) => return Err(format!("the engine will never end; {}", wrote())),
            None => {
                let seconds = deadline.as_secs_f64();
                return Err(format!(
                    "the engine did not end within {seconds:.1} s; {}",
                    wrote()
                ));
            }
        };
        // A child that the game left behind would hold the pipes open.
        self.token.kill_all();
        Ok(Output {
            status,
            lines: self.running.settled_lines(),
            took,
        })
    }
}

/// What an engine did.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything that it wrote, both outputs in order of arrival.
    pub lines: Vec<String>,
    /// From its start to its end.
    pub took: Duration,
}

impl Output {
    /// The lines that no healthy run prints.
    pub fn complaints(&self) -> Vec<&str> {
        let is_complaint = |line: &&String| COMPLAINTS.iter().any(|text| line.contains(text));
        self.lines
            .iter()
            .filter(is_complaint)
            .map(String::as_str)
            .collect()
    }

    /// The rest of the first line that begins with `prefix`: how a script answers a test.
    pub fn answer(&self, prefix: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| line.strip_prefix(prefix))
    }

    /// Asserts an exit code and that the engine complained of nothing.
    ///
    /// # Panics
    /// When it is not so; the text says all that the engine wrote.
    #[track_caller]
    pub fn assert_clean_exit(&self, code: i32) {
        let all = self.lines.join("\n");
        assert_eq!(
            self.status.code(),
            Some(code),
            "the engine ended with {}; it wrote:\n{all}",
            self.status
        );
        let complaints = self.complaints();
        assert!(
            complaints.is_empty(),
            "the engine complained: {complaints:#?}; it wrote:\n{all}"
        );
    }
}
