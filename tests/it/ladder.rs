//! The ladder: a module may use only modules of a lower rank, and some crates have one place only (docs/ARCHITECTURE.md).

use std::path::{Path, PathBuf};

/// Modules at the top of `src` and their ranks. `ingest` → `expose` is the one edge inside a rank.
const RANKS: &[(&str, u8)] = &[
    ("sample", 0),
    ("clock", 0),
    ("retry", 0),
    ("secret", 0),
    ("task", 0),
    ("telemetry", 0),
    ("store", 1),
    ("scrape", 2),
    ("ingest", 2),
    ("expose", 2),
    ("engine", 3),
    ("config", 4),
    ("app", 5),
    ("cli", 5),
    ("main", 6),
];

/// Rank 0 builds on rank 0: these are the edges inside it.
const WITHIN: &[(&str, &str)] =
    &[("sample", "clock"), ("telemetry", "sample"), ("telemetry", "clock"), ("expose", "ingest")];

/// Crates that only these files or folders may name.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("sqlx::", &["engine.rs", "engine/"]),
    ("procfs::", &["scrape/host.rs", "scrape/host/"]),
    ("clap::", &["cli.rs", "cli/"]),
    ("config::Config", &["config.rs", "config/"]),
    ("SystemTime::now", &["clock.rs"]),
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

/// The modules that a line names by `crate::` (also in a group: `use crate::{a, b::c}`), or by our name in `main.rs`.
fn named(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for start in ["crate::", "atlas_sidecar::"] {
        for (at, _) in line.match_indices(start) {
            let rest = &line[at + start.len()..];
            let items = match rest.strip_prefix('{') {
                Some(group) => group.split(',').map(str::trim).collect(),
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
        for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            for used in named(line) {
                // A group that spans lines, or a macro of ours, starts with no module's name.
                if !RANKS.iter().any(|(name, _)| *name == used) || used == module {
                    continue;
                }
                let allowed = rank(&used) < rank(&module) || WITHIN.contains(&(module.as_str(), used.as_str()));
                if !allowed {
                    offences.push(format!("src/{relative}:{}: `{module}` uses `{used}`", number + 1));
                }
            }
            for (name, places) in ONLY_IN {
                if line.contains(name) && !places.iter().any(|place| relative.starts_with(place)) {
                    offences.push(format!("src/{relative}:{}: `{name}` belongs in {places:?}", number + 1));
                }
            }
        }
    }
    assert!(offences.is_empty(), "the ladder is broken:\n{}", offences.join("\n"));
}

#[test]
fn the_ladder_sees_groups_and_paths() {
    assert_eq!(named("use crate::{clock::Clock, sample};"), ["clock", "sample"]);
    assert_eq!(named("    let x = crate::engine::open(y);"), ["engine"]);
    assert_eq!(named("use std::fmt;"), Vec::<String>::new());
}
