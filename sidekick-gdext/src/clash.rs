//! The warning of an autoload or `class_name` called `Sidekick`: it would hide the singleton, silently (autoload) or with a parse
//! error that leaves the server idle (class).

use godot::classes::ProjectSettings;
use godot::prelude::*;

/// The shipped autoload that forwards to the singleton is meant to have its name.
const STUB_FILE: &str = "sidekick_stub.gd";

/// Warns once for each autoload or global class of the project that hides the singleton.
pub(crate) fn warn_of_shadowing() {
    let project = ProjectSettings::singleton();
    if project.has_setting("autoload/Sidekick") {
        let path = project
            .get_setting("autoload/Sidekick")
            .stringify()
            .to_string();
        if !path.ends_with(STUB_FILE) {
            godot_warn!(
                "Sidekick: the autoload \"Sidekick\" ({path}) hides the extension's singleton, so scripts that say Sidekick get the \
                 autoload; give the autoload another name."
            );
        }
    }
    for class in project.get_global_class_list().iter_shared() {
        let name = class.get("class").map(|name| name.stringify().to_string());
        if name.as_deref() == Some("Sidekick") {
            let path = class.get("path").unwrap_or_default().stringify();
            godot_warn!(
                "Sidekick: the script {path} says \"class_name Sidekick\", which hides the extension's class and does not parse; \
                 give the script's class another name."
            );
        }
    }
}
