//! `[[retention.tables]]` and `[[retention.files]]`.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use config::Value;

use super::reader::{Section, Show};
use super::sections::identifier;
use super::values::{self, Read};
use crate::engine::kind_of;
use crate::engine::schema::seed;
use crate::jobs::prune_logs::{Files, Guarded, Settings};
use crate::sample::globs::Globs;
use crate::store::{Aged, Rule};

/// How long logs are kept where nobody says: what the application's specification wants of access logs.
const KEEP: Duration = Duration::from_secs(7 * 86_400);

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const EVER: Duration = Duration::from_secs(36_500 * 86_400);

/// What the rules must keep their hands off, or are written for.
pub(super) struct Around<'a> {
    /// The addresses of the databases, the application's first; none where one is missing.
    pub urls: Vec<&'a str>,
    /// The sidecar's own directory.
    pub state_directory: &'a Path,
}

/// Both lists.
pub(super) fn read(retention: &mut Section<'_>, around: &Around<'_>) -> Settings {
    let tables = retention.sections("tables").into_iter().map(|s| table(s, around)).collect();
    let files = retention.sections("files").into_iter().map(|s| files(s, around)).collect();
    let guarded = Guarded {
        state_directory: around.state_directory.to_owned(),
        files: around.urls.iter().flat_map(|url| kind_of(url).files(url)).collect(),
    };
    Settings { tables, files, guarded }
}

fn table(mut section: Section<'_>, around: &Around<'_>) -> Rule {
    let table = section.need("table", identifier);
    match kept_elsewhere(&table) {
        Some(Elsewhere::Own(words)) => drop(section.reject("table", words)),
        Some(Elsewhere::Seed) => {
            section.warn("table", &format!("`{table}` is one of the application's own tables, and no log"))
        }
        None => {}
    }
    let column = section.need("time_column", identifier);
    let keep = section.take_or("keep", KEEP, values::duration(MINUTE..=EVER));
    let condition = |value: &Value| {
        let text = values::words(value)?;
        match around.urls.first().map(|url| kind_of(url).takes_condition(&text)) {
            Some(Err(why)) => Err(format!("must be one SQL condition: {why}")),
            _ => Ok(text.trim().to_owned()),
        }
    };
    let only = section.get_some("where", Show::Plain, condition).ok().flatten();
    Rule { table, ages: vec![Aged { column, keep }], only }
}

enum Elsewhere {
    /// Not for rules, and why.
    Own(&'static str),
    /// The application's.
    Seed,
}

fn kept_elsewhere(table: &str) -> Option<Elsewhere> {
    let table = table.to_ascii_lowercase();
    match table.as_str() {
        "system_metrics" => Some(Elsewhere::Own("has its own job, `metric-retention`; see `retention.metrics`")),
        "search_cache" => Some(Elsewhere::Own("has its own job, `cache-expiry`; see `retention.cache`")),
        t if t.starts_with("sidecar_") => Some(Elsewhere::Own("is one of the sidecar's own tables")),
        t if t.starts_with("sqlite_") || t.starts_with("pg_") => {
            Some(Elsewhere::Own("is one of the database's own tables"))
        }
        t if seed::TABLES.iter().any(|known| known.name == t) => Some(Elsewhere::Seed),
        _ => None,
    }
}

fn files(mut section: Section<'_>, around: &Around<'_>) -> Files {
    let directory = section.need("directory", |value| directory(value, around.state_directory));
    let glob = section.need("glob", glob);
    let keep = section.take_or("keep", KEEP, values::duration(HOUR..=EVER));
    let compress_after = section.get_some("compress_after", Show::Plain, values::duration(HOUR..=EVER)).ok().flatten();
    if compress_after.is_some_and(|after| after >= keep) {
        let keep = values::show_duration(keep);
        section.reject("compress_after", format!("must be below `keep`, `{keep}`"));
    }
    Files { directory, glob: Globs::new([glob]), keep, compress_after }
}

/// What can be seen of the text; the rest, links and owners among it, is looked at when the directory is opened.
fn directory(value: &Value, state_directory: &Path) -> Read<PathBuf> {
    let path = values::path(value)?;
    let plain = |c: Component<'_>| matches!(c, Component::RootDir | Component::Normal(_));
    match () {
        () if !path.is_absolute() || !path.components().all(plain) => {
            Err("must be an absolute path without `..`".to_owned())
        }
        () if path.parent().is_none() => Err("must not be the root of the file system".to_owned()),
        () if std::env::home_dir().is_some_and(|home| home == path) => Err("must not be a home directory".to_owned()),
        () if path.starts_with(state_directory) => Err("must not be, or lie in, `state_directory`".to_owned()),
        () => Ok(path),
    }
}

fn glob(value: &Value) -> Read<String> {
    let text = values::words(value)?;
    match () {
        () if text.contains(['/', '\0']) => {
            Err("must be a name without `/`; only the directory itself is looked at".to_owned())
        }
        () if text.bytes().all(|b| matches!(b, b'*' | b'?' | b'.')) => {
            Err("would mean every file; name the logs, as in `access.log*`".to_owned())
        }
        () => Ok(text),
    }
}
