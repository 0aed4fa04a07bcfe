//! The ladder: a module may use only modules of a lower rank, and some crates have one place only (docs/ARCHITECTURE.md).

use std::path::{Path, PathBuf};

/// Modules at the top of `src` and their ranks. `ingest` → `expose` is the one edge inside a rank.
const RANKS: &[(&str, u8)] = &[
    ("sample", 0),
    ("clock", 0),
    ("nearest", 0),
    ("retry", 0),
    ("secret", 0),
    ("task", 0),
    ("telemetry", 0),
    ("store", 1),
    ("object", 1),
    ("schedule", 1),
    ("scrape", 2),
    ("ingest", 2),
    ("expose", 2),
    ("control", 2),
    ("backup", 2),
    ("jobs", 3),
    ("engine", 3),
    ("config", 4),
    ("app", 5),
    ("cli", 5),
    ("main", 6),
];

/// Edges inside a rank: rank 0 builds on rank 0, and the scheduler on the port to its run log.
const WITHIN: &[(&str, &str)] = &[
    ("sample", "clock"),
    ("telemetry", "sample"),
    ("telemetry", "clock"),
    ("expose", "ingest"),
    ("schedule", "store"),
];

/// Crates that only these files or folders may name.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("sqlx::", &["engine.rs", "engine/"]),
    ("procfs::", &["scrape/host.rs", "scrape/host/"]),
    ("clap::", &["cli.rs", "cli/"]),
    ("config::Config", &["config.rs", "config/"]),
    ("SystemTime::now", &["clock.rs"]),
    // A metronome only (S-1 to S-13); and croner 4 beside the croner 3 that it brings.
    ("tokio_cron_scheduler::", &["schedule/trigger.rs"]),
    ("croner::", &["schedule/cron.rs"]),
    ("aws_sdk_s3::", &["object/s3.rs", "object/s3/"]),
    ("chrono_tz::", &["schedule/cron.rs", "schedule/window.rs"]),
];

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn rank(module: &str) -> u8 {
    RANKS
        .iter()
        .find(|(name, _)| *name == module)
        .unwrap_or_else(|| panic!("module `{module}` has no rank: add it to the ladder"))
        .1
}

/// The modules that a text names by `crate::` (also in a group: `use crate::{a, b::{c, d}}`, over lines too), or by our name in `main.rs`.
fn named(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for start in ["crate::", "atlas_sidecar::"] {
        for (at, _) in text.match_indices(start) {
            let rest = &text[at + start.len()..];
            let items = match rest.strip_prefix('{') {
                Some(group) => members(group),
                None => vec![rest],
            };
            found.extend(
                items.iter().map(|item| {
                    item.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>()
                }),
            );
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// The members of a group whose opening brace has been read, without what stands in groups of their own.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.push(group[start..at].trim());
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

#[test]
fn modules_use_only_what_is_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20, "the sources are where this test looks");
    let mut offences = Vec::new();
    for file in &files {
        let relative = file.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        let module = relative.split(['/', '.']).next().unwrap().to_owned();
        if module == "lib" {
            continue;
        }
        let text = std::fs::read_to_string(file).unwrap();
        let code: String =
            text.lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect();
        for used in named(&code) {
            // A macro of ours, or a type that the crate's root shows again, is no module.
            if !RANKS.iter().any(|(name, _)| *name == used) || used == module {
                continue;
            }
            let allowed = rank(&used) < rank(&module) || WITHIN.contains(&(module.as_str(), used.as_str()));
            if !allowed {
                offences.push(format!("src/{relative}: `{module}` uses `{used}`"));
            }
        }
        for (name, places) in ONLY_IN {
            if code.contains(name) && !places.iter().any(|place| relative.starts_with(place)) {
                offences.push(format!("src/{relative}: `{name}` belongs in {places:?}"));
            }
        }
    }
    assert!(offences.is_empty(), "the ladder is broken:\n{}", offences.join("\n"));
}

/// Files of the SQLite twin that open files, none of which is a database that is in use.
const OPENS: &[&str] = &["descriptors.rs", "source/page_map.rs", "rebuild.rs", "rebuild/"];

/// H4: whoever opens a file of a database and closes it again drops all locks of this process on it. One module may, and never closes one.
#[test]
fn h4_only_one_module_opens_the_files_of_a_database() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/sqlite");
    let mut files = vec![root.with_extension("rs")];
    sources(&root, &mut files);
    let mut offences = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap_or(&file).to_string_lossy().into_owned();
        if relative.ends_with("tests.rs") || OPENS.iter().any(|place| relative.starts_with(place)) {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for opens in ["File::", "OpenOptions", "fs::read(", "fs::read_to_string(", "fs::copy(", "fs::write(", "open("] {
            let found =
                code.lines().filter(|line| !line.trim_start().starts_with("//")).filter(|line| line.contains(opens));
            let of_system = |line: &str| line.contains("\"/proc/");
            // Those of the engine's own types are SQLite's.
            let of_sqlite = |line: &str| {
                ["Database::open(", "Pools::open(", "fn open", "maps.open("].iter().any(|own| line.contains(own))
            };
            offences.extend(
                found
                    .filter(|line| !of_system(line) && !of_sqlite(line))
                    .map(|line| format!("{relative}: {}", line.trim())),
            );
        }
    }
    assert!(offences.is_empty(), "files are opened in:\n{}", offences.join("\n"));
}

#[test]
fn the_ladder_sees_groups_and_paths() {
    assert_eq!(named("use crate::{clock::Clock, sample};"), ["clock", "sample"]);
    assert_eq!(named("    let x = crate::engine::open(y);"), ["engine"]);
    assert_eq!(
        named("use crate::{\n    clock::{Clock, Timestamp},\n    sample,\n};\nlet x = {a, b};"),
        ["clock", "sample"]
    );
    assert_eq!(named("use std::fmt;"), Vec::<String>::new());
}
