//! Generated pages and what they promise: docs/METRICS.md lists every family that the program describes, and nothing is shown that it
//! does not list.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use atlas_sidecar::app;
use atlas_sidecar::sample::globs::Globs;

use crate::support::{Sidecar, wait_for};

fn page() -> String {
    let mut text = String::from(
        "# Metrics\n\nEvery family that the sidecar makes itself. Generated from the program (`UPDATE_GOLDEN=1 tests/run metrics_page`); a test \
         compares this page with what a running sidecar shows. Families of HTTP targets, configured queries and rows that others write to \
         `system_metrics` come on top, under `atlas_<name>` unless the name begins with `node_`, `process_`, `pg_`, `atlas_` or one of \
         `expose.keep_prefixes`.\n\nSources are collected on their own schedule (`scrape.interval`, 60 s by default), so a value is as old as its \
         source's last collection: `atlas_sidecar_source_last_success_timestamp_seconds` tells. In a name, `<part>` stands for what \
         the system decides.\n",
    );
    let mut groups: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for desc in app::metrics() {
        let group = match desc.name {
            name if name.starts_with("atlas_sidecar_") => "The sidecar itself",
            name if name.starts_with("atlas_") => "Atlas and its database",
            name if name.starts_with("pg_") => "PostgreSQL",
            _ => "The host and this process",
        };
        groups.entry(group).or_default().push(desc);
    }
    for (group, descs) in groups {
        let _ = write!(text, "\n## {group}\n\n| name | type | unit | meaning |\n|---|---|---|---|\n");
        for desc in descs {
            let help = desc.help.replace('|', "\\|");
            let _ = writeln!(text, "| `{}` | {} | {} | {} |", desc.name, desc.kind, desc.unit, help);
        }
    }
    text
}

#[test]
fn the_metrics_page_is_what_the_program_describes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/METRICS.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        page(),
        "run it once with UPDATE_GOLDEN=1 and read the difference"
    );
    for desc in app::metrics() {
        assert!(!desc.help.is_empty() && !desc.unit.is_empty(), "{} has no help or unit", desc.name);
    }
    let mut names: Vec<_> = app::metrics().iter().map(|d| d.name).collect();
    names.dedup();
    assert_eq!(names.len(), app::metrics().len(), "a family is described twice");
}

/// A described name as a pattern: `<part>` stands for what the system decides.
pub(crate) fn pattern(name: &str) -> String {
    let mut out = String::new();
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('<') {
        out.push_str(before);
        out.push('*');
        rest = after.split_once('>').map_or("", |(_, rest)| rest);
    }
    out + rest
}

#[test]
fn every_family_that_is_shown_is_described() {
    let scratch = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(scratch.path(), "");
    let shown = wait_for("all sources", Duration::from_secs(20), || {
        let page = sidecar.metrics();
        let up = page.lines().filter(|l| l.starts_with("atlas_sidecar_source_up{")).count();
        Some(page).filter(|_| up >= 20)
    });
    let described: Vec<_> = app::metrics();
    for line in shown.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let known = described.iter().any(|d| Globs::new([pattern(d.name)]).matches(name) && d.kind.word() == kind);
        assert!(known, "`{name}` ({kind}) is shown but not described: docs/METRICS.md would lie");
    }
    assert_eq!(sidecar.stop(), 0);
}
