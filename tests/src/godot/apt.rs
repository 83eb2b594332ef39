//! Reads the machine's own apt sources and rewrites them to another suite.
//!
//! Both forms are understood: one-line `.list` and deb822 `.sources`. Mirrors, keyrings and every other
//! option stay as the machine has them; only archives of Debian itself are taken, since no other has the suite.

use std::fs;
use std::io;
use std::path::Path;

/// Suites under which the Debian archive is known whatever the release.
const SUITES_BY_ROLE: [&str; 6] = [
    "sid",
    "unstable",
    "testing",
    "stable",
    "oldstable",
    "oldoldstable",
];

/// Code names of Debian releases, for machines whose own release is a derivative's.
const SUITES_BY_NAME: [&str; 6] = ["buster", "bullseye", "bookworm", "trixie", "forky", "duke"];

/// Suffixes of suites that hold changes to a release: `sid` has none of them.
const SUITE_SUFFIXES: [&str; 4] = ["-updates", "-security", "-backports", "-proposed-updates"];

/// One source in deb822 form: fields in order, each with its (possibly many-line) value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Stanza {
    fields: Vec<(String, String)>,
}

impl Stanza {
    fn get(&self, name: &str) -> &str {
        self.fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map_or("", |(_, value)| value.trim())
    }

    fn words(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name).split_whitespace()
    }

    fn set(&mut self, name: &str, value: &str) {
        match self
            .fields
            .iter_mut()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
        {
            Some((_, old)) => value.clone_into(old),
            None => self.fields.push((name.to_owned(), value.to_owned())),
        }
    }

    fn write(&self, out: &mut String) {
        for (name, value) in &self.fields {
            out.push_str(name);
            out.push(':');
            if !value.starts_with('\n') {
                out.push(' ');
            }
            out.push_str(value);
            out.push('\n');
        }
        out.push('\n');
    }
}

/// The machine's sources of the Debian archive, as one deb822 text with every suite replaced by `suite`.
///
/// `folder` is apt's configuration folder (`/etc/apt`), `release` the machine's own code name. The text is
/// empty when none of the sources is a Debian archive.
///
/// # Errors
/// Only what reading a file that exists can bring.
pub fn sources_for_suite(folder: &Path, release: &str, suite: &str) -> io::Result<String> {
    let mut stanzas = Vec::new();
    let main = folder.join("sources.list");
    if main.is_file() {
        stanzas.extend(parse_list(&fs::read_to_string(main)?));
    }
    let parts = folder.join("sources.list.d");
    if parts.is_dir() {
        let mut paths: Vec<_> = fs::read_dir(parts)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<_>>()?;
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("list") => stanzas.extend(parse_list(&fs::read_to_string(&path)?)),
                Some("sources") => stanzas.extend(parse_deb822(&fs::read_to_string(&path)?)),
                _ => {}
            }
        }
    }
    Ok(rewrite(stanzas, release, suite))
}

fn rewrite(stanzas: Vec<Stanza>, release: &str, suite: &str) -> String {
    let mut kept: Vec<Stanza> = Vec::new();
    for mut stanza in stanzas {
        let enabled = !matches!(
            stanza.get("Enabled").to_ascii_lowercase().as_str(),
            "no" | "false" | "0"
        );
        let is_binary = stanza.words("Types").any(|kind| kind == "deb");
        let has_main = stanza
            .words("Components")
            .any(|component| component == "main");
        let is_debian = stanza
            .words("Suites")
            .any(|name| is_debian_suite(name, release));
        if !(enabled && is_binary && has_main && is_debian) {
            continue;
        }
        stanza.set("Types", "deb");
        stanza.set("Suites", suite);
        stanza.set("Components", "main");
        // Neither translations nor a software center's pictures are wanted.
        stanza.set("Targets", "Packages");
        let same = |other: &Stanza| other.get("URIs") == stanza.get("URIs");
        if !kept.iter().any(same) {
            kept.push(stanza);
        }
    }
    let mut text = String::new();
    for stanza in &kept {
        stanza.write(&mut text);
    }
    text
}

fn is_debian_suite(name: &str, release: &str) -> bool {
    if SUITE_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) || name.contains('/') {
        return false;
    }
    (!release.is_empty() && name == release)
        || SUITES_BY_ROLE.contains(&name)
        || SUITES_BY_NAME.contains(&name)
}

fn parse_deb822(text: &str) -> Vec<Stanza> {
    let mut stanzas = Vec::new();
    let mut stanza = Stanza::default();
    for line in text.lines() {
        if line.trim().is_empty() {
            stanzas.push(std::mem::take(&mut stanza));
        } else if line.starts_with('#') {
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            stanza
                .fields
                .push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    stanzas.push(stanza);
    stanzas.retain(|stanza| !stanza.fields.is_empty());
    stanzas
}

/// `deb [option=value option=value] URI SUITE COMPONENT…` line by line.
fn parse_list(text: &str) -> Vec<Stanza> {
    text.lines().filter_map(parse_list_line).collect()
}

fn parse_list_line(line: &str) -> Option<Stanza> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None; // deb-src
    }
    let mut rest = rest.trim_start();
    let mut stanza = Stanza::default();
    stanza.set("Types", "deb");
    if let Some(inner) = rest.strip_prefix('[') {
        let (options, after) = inner.split_once(']')?;
        rest = after.trim_start();
        for option in options.split_whitespace() {
            let (name, value) = option.split_once('=')?;
            stanza.set(
                deb822_name(name.trim_end_matches(['+', '-'])),
                &value.replace(',', " "),
            );
        }
    }
    let mut words = rest.split_whitespace();
    stanza.set("URIs", words.next()?);
    stanza.set("Suites", words.next()?);
    stanza.set("Components", &words.collect::<Vec<_>>().join(" "));
    Some(stanza)
}

/// What a one-line option is called in the other form (sources.list(5)).
fn deb822_name(option: &str) -> &str {
    match option {
        "arch" => "Architectures",
        "lang" => "Languages",
        "target" => "Targets",
        other => other, // the same word, and field names do not care for case
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(files: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        sources_for_suite(folder.path(), "bookworm", "sid").unwrap()
    }

    #[test]
    fn a_deb822_file_keeps_its_mirror_and_its_keyring() {
        let text = rewritten(&[(
            "sources.list.d/debian.sources",
            "Types: deb deb-src\n# a remark\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
             Components: main contrib\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ\n\n\
             Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\n",
        )]);
        assert_eq!(
            text,
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: sid\nComponents: main\n\
             Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ\nTargets: Packages\n\n"
        );
    }

    #[test]
    fn a_one_line_file_keeps_its_options() {
        let text = rewritten(&[(
            "sources.list",
            "# deb http://commented.example/debian bookworm main\n\
             deb [arch=amd64,arm64 signed-by=/usr/share/keyrings/d.gpg] https://mirror.example/debian bookworm main non-free\n\
             deb-src https://mirror.example/debian bookworm main\n\
             deb https://mirror.example/debian bookworm-updates main\n",
        )]);
        assert_eq!(
            text,
            "Types: deb\nArchitectures: amd64 arm64\nsigned-by: /usr/share/keyrings/d.gpg\n\
             URIs: https://mirror.example/debian\nSuites: sid\nComponents: main\nTargets: Packages\n\n"
        );
    }

    #[test]
    fn archives_of_others_and_disabled_ones_are_left_out() {
        let text = rewritten(&[
            (
                "sources.list.d/docker.list",
                "deb https://docker.example/linux/debian bookworm stable\n",
            ),
            (
                "sources.list.d/pg.list",
                "deb https://pg.example/apt bookworm-pgdg main\n",
            ),
            (
                "sources.list.d/flat.list",
                "deb https://flat.example/repo ./\n",
            ),
            (
                "sources.list.d/off.sources",
                "Enabled: no\nTypes: deb\nURIs: http://off.example/\nSuites: bookworm\nComponents: main\n",
            ),
            (
                "sources.list.d/old.sources.save",
                "Types: deb\nURIs: http://x/\nSuites: sid\nComponents: main\n",
            ),
        ]);
        assert_eq!(text, "");
    }

    #[test]
    fn the_same_mirror_is_taken_once() {
        let line = "deb http://mirror.example/debian bookworm main\n";
        let text = rewritten(&[("sources.list", line), ("sources.list.d/again.list", line)]);
        assert_eq!(text.matches("URIs:").count(), 1);
    }
}
