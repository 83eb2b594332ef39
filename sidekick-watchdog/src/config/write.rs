//! Writes the configuration down: the commented file of `init`, the effective values of `config print`.

use std::fmt::Write;
use std::path::Path;

use super::reader::{Entry, Place, Sources};
use super::{Config, resolve};

/// The file that `init` writes: each key with its explanation and default, commented out; only the engine's
/// command stands, since nobody can guess it.
pub fn template() -> String {
    let mut text = String::from(
        "# Configuration of the Sidekick watchdog. A line that starts with `#name =` shows a default (or an example\n\
         # where it says so); remove the `#` to set it. Order: flag > SIDEKICK_* > this file > default.\n\
         # `sidekick-watchdog check` tells of every mistake, `sidekick-watchdog config print` what is in force.\n",
    );
    // The declarations are the same whatever the sources say; without sources nothing can be wrong.
    let entries = resolve(&Sources::default()).map_or_else(|_| Vec::new(), |config| config.entries);
    let mut section = "";
    for entry in &entries {
        if entry.section != section {
            section = entry.section;
            let _ = write!(text, "\n[{section}]\n");
        } else {
            text.push('\n');
        }
        let _ = writeln!(text, "# {}", entry.doc);
        let _ = match (&entry.default, entry.example) {
            _ if entry.section.is_empty() && entry.name == "name" => {
                writeln!(text, "# Example:\n#name = \"lobby-1\"")
            }
            (Some(default), _) => writeln!(text, "#{} = {default}", entry.name),
            (None, Some(example)) if entry.name == "command" => {
                writeln!(text, "{} = {example}", entry.name)
            }
            (None, example) => writeln!(
                text,
                "# Example:\n#{} = {}",
                entry.name,
                example.unwrap_or("\"\"")
            ),
        };
    }
    text.push_str(super::streams::TEMPLATE);
    text
}

/// The values in force as TOML, each with its origin behind it. Secret values are not shown.
pub fn effective(config: &Config, working_dir: &Path) -> String {
    let mut text = String::new();
    let mut section = "";
    for Entry {
        section: entry_section,
        name,
        value,
        origin,
        ..
    } in &config.entries
    {
        if *entry_section != section {
            section = entry_section;
            let _ = write!(text, "\n[{section}]\n");
        }
        let origin = match origin {
            Place::File { path, line, .. } => format!("{}:{line}", path.display()),
            other => other.to_string(),
        };
        let _ = match value {
            Some(value) => writeln!(text, "{name} = {value}  # {origin}"),
            None => writeln!(text, "#{name}: not set"),
        };
    }
    let file = match &config.file {
        Some(file) => working_dir.join(file).display().to_string(),
        None => "none".into(),
    };
    format!(
        "# configuration file: {file}\n{text}{}",
        config.streams.shown
    )
}
