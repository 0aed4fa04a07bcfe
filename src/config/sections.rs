//! The sections with one table each, in the order of config/default.toml, and what must hold between their keys.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use config::Value;
use tracing::level_filters::LevelFilter;

use super::logs::Around;
use super::reader::{Refused, Section, Show};
use super::sources::{self, Pace};
use super::values::{self, Read};
use super::{Settings, backup, jobs};
use crate::engine::{self, FullText};
use crate::ingest::latest;
use crate::secret::Secret;
use crate::{expose, ingest, scrape, telemetry};

const SECOND: Duration = Duration::from_secs(1);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// All settings; `None` only where a problem was noted.
pub(super) fn read(mut root: Section<'_>) -> Option<Settings> {
    let state_directory: PathBuf = root.take("state_directory", values::path);
    let database = database(root.section("database"));
    let server = server(root.section("server"));
    let expose = exposition(root.section("expose"));
    let listen = server.as_ref().map(|s| s.listen);
    let (scrape, builtin, queries) = scraping(root.section("scrape"), listen);
    let write = writing(root.section("write"));
    let urls =
        database.iter().flat_map(|d| std::iter::once(&d.url).chain(&d.metrics_url)).map(String::as_str).collect();
    let around = Around { urls, state_directory: &state_directory };
    let jobs = jobs::read(root.section("jobs"), root.section("retention"), root.section("upkeep"), &around);
    let backup = backup::read(root.section("backup"));
    let log = logging(root.section("log"));
    let follow = backup.as_ref().and_then(backup::followed);
    let engine = engine::Settings { state_directory: state_directory.clone(), builtin, queries, follow, ..database? };
    Some(Settings {
        state_directory,
        engine,
        server: server?,
        expose,
        scrape,
        write,
        jobs: jobs?,
        backup: backup?,
        log: log?,
    })
}

/// `[database]`, with nothing yet in the places of `[scrape]`.
fn database(mut section: Section<'_>) -> Option<engine::Settings> {
    let url = database_url(&mut section, "url", "url_file");
    let metrics_url = database_url(&mut section, "metrics_url", "metrics_url_file");
    let password = password_of(&mut section, "password", "password_file", &url);
    let metrics_password = password_of(&mut section, "metrics_password", "metrics_password_file", &metrics_url);
    let create = section.take("create", values::flag);
    let widen_metric_value = section.take("widen_metric_value", values::flag);
    let mut tables = BTreeMap::new();
    let full_text = section.sections("full_text").into_iter().map(|s| full_text(s, &mut tables)).collect();
    if let Ok(None) = url {
        section.missing("url", "must not be empty; write `sqlite://` and a path");
    }
    if let (Ok(Some((key, metrics))), Ok(Some((_, url)))) = (&metrics_url, &url)
        && let Some(expected) = no_second(metrics, url)
    {
        section.reject(key, expected);
    }
    Some(engine::Settings {
        url: url.ok()??.1,
        password: password.ok()?,
        metrics_url: metrics_url.ok()?.map(|(_, url)| url),
        metrics_password: metrics_password.ok()?,
        create,
        widen_metric_value,
        full_text,
        state_directory: PathBuf::new(),
        builtin: engine::Builtin {
            collectors: Vec::new(),
            interval: SECOND,
            timeout: SECOND,
            store: crate::sample::globs::Globs::all(),
        },
        queries: Vec::new(),
        follow: None,
    })
}

/// The password for `url`, which only a server asks for.
fn password_of(
    section: &mut Section<'_>,
    name: &'static str,
    file: &'static str,
    url: &Result<Option<(&'static str, String)>, Refused>,
) -> Result<Option<Secret>, Refused> {
    let Some(held) = section.secret(name, file)? else { return Ok(None) };
    let Ok(Some((key, url))) = url else { return Ok(None) };
    match engine::kind_of(url).takes_password(url) {
        Ok(()) => Ok(Some(Secret::new(held.text))),
        Err(why) => Err(section.reject(held.key, format!("`{}` {why}", section.key(key)))),
    }
}

/// What is wrong with `metrics` beside `url`.
fn no_second(metrics: &str, url: &str) -> Option<&'static str> {
    let kind = engine::kind_of(url);
    match () {
        () if kind.accepts(metrics).is_err() => Some("must be a database of the same kind as `database.url`"),
        () if kind.is_same(metrics, url) => {
            Some("must be another database than `database.url`; leave it empty to use the same one")
        }
        () => None,
    }
}

/// The URL with the key that gave it.
fn database_url(
    section: &mut Section<'_>,
    name: &'static str,
    file: &'static str,
) -> Result<Option<(&'static str, String)>, Refused> {
    let Some(held) = section.url(name, file)? else { return Ok(None) };
    let kind = engine::kind_of(&held.text);
    if let Err(expected) = kind.accepts(&held.text) {
        return Err(section.reject(held.key, &expected));
    }
    if kind.shown(&held.text) != held.text {
        section.warn_of_open_place(&held, name);
    }
    if let Some(words) = kind.caution(&held.text) {
        section.warn(held.key, &words);
    }
    Ok(Some((held.key, held.text)))
}

fn full_text(mut section: Section<'_>, tables: &mut BTreeMap<String, String>) -> FullText {
    let table = section.need("table", identifier);
    if let Some(other) = tables.insert(table.clone(), section.key("table")).filter(|_| !table.is_empty()) {
        section.reject("table", format!("is also that of `{other}`; name all columns of a table in one place"));
    }
    FullText { table, key: section.need("key", identifier), columns: section.need("columns", identifiers) }
}

/// A name that SQL takes as it is: these become part of statements and of the index's own name.
pub(super) fn identifier(value: &Value) -> Read<String> {
    let text = values::words(value)?;
    if is_identifier(&text) { Ok(text) } else { Err(IDENTIFIER.to_owned()) }
}

fn identifiers(value: &Value) -> Read<Vec<String>> {
    let list = values::some(value)?;
    if list.iter().all(|name| is_identifier(name)) { Ok(list) } else { Err(IDENTIFIER.to_owned()) }
}

const IDENTIFIER: &str = "must be made of letters, digits and `_`, and not begin with a digit";

pub(super) fn is_identifier(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn server(mut section: Section<'_>) -> Option<expose::Settings> {
    let listen = section.get("listen", Show::Plain, address);
    let web_config_file = section.get_some("web_config_file", Show::Plain, values::path);
    let max_requests = section.take("max_requests", values::count(1..=10_000));
    Some(expose::Settings { listen: listen.ok()??, web_config_file: web_config_file.ok()?, max_requests })
}

fn address(value: &Value) -> Read<SocketAddr> {
    const EXPECTED: &str = "must be an address and a port: `127.0.0.1:9700`, or `[::]:9700` for every address";
    let address: SocketAddr = values::words(value)?.parse().map_err(|_| EXPECTED.to_owned())?;
    match address.port() {
        0 => Err("must name a port; 0 would be another one after each start".to_owned()),
        _ => Ok(address),
    }
}

fn exposition(mut section: Section<'_>) -> latest::Settings {
    latest::Settings {
        keep_prefixes: section.take("keep_prefixes", values::list),
        // A million series are a page of 112 MiB (measured); a page of ten is the end of what Prometheus should be asked to read.
        max_series: section.take("max_series", values::count(1..=10_000_000)),
        timestamps: section.take("timestamps", values::flag),
        counters_stale_after: section.take("counters_stale_after", values::duration(SECOND..=30 * DAY)),
        hidden: patterns(&mut section, "hidden"),
    }
}

/// Patterns with a default in config/default.toml.
pub(super) fn patterns(section: &mut Section<'_>, name: &'static str) -> crate::sample::globs::Globs {
    section.take_or(name, crate::sample::globs::Globs::new(Vec::<String>::new()), values::globs)
}

fn scraping(
    mut section: Section<'_>,
    listen: Option<SocketAddr>,
) -> (scrape::Settings, engine::Builtin, Vec<engine::Query>) {
    let pace = Pace::first(&mut section);
    let concurrency = section.take("concurrency", values::count(1..=256));
    let host = sources::host(section.section("host"));
    let builtin = sources::builtin(section.section("atlas"), pace);
    let mut names = sources::taken_names();
    let targets =
        section.sections("targets").into_iter().map(|s| sources::target(s, pace, listen, &mut names)).collect();
    let queries = section.sections("queries").into_iter().map(|s| sources::query(s, pace, &mut names)).collect();
    let Pace { interval, timeout } = pace;
    (scrape::Settings { interval, timeout, concurrency, host, targets }, builtin, queries)
}

fn writing(mut section: Section<'_>) -> ingest::Settings {
    ingest::Settings {
        queue_batches: section.take("queue_batches", values::count(1..=1_000_000)),
        // A transaction of more rows would hold SQLite's write lock, and with it the application, for too long.
        batch_rows: section.take("batch_rows", values::count(1..=10_000)),
        batch_age: section.take("batch_age", values::duration(Duration::from_millis(100)..=Duration::from_secs(300))),
        rows_per_day: section.take("rows_per_day", values::whole(0..=u64::MAX)),
    }
}

fn logging(mut section: Section<'_>) -> Option<telemetry::Settings> {
    let level = section.get("level", Show::Plain, values::one_of(&["off", "error", "warn", "info", "debug", "trace"]));
    let format = section.get("format", Show::Plain, values::one_of(&["text", "json"]));
    let level: LevelFilter = level.ok()??.parse().ok()?;
    Some(telemetry::Settings { level, format: format.ok()??.parse().ok()? })
}
