//! The effective configuration for people and programs, without its secrets.
//!
//! It is TOML that loads back: without secrets in it, to the same settings.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Settings;
use super::backup::{checksum_word, codec_word};
use super::values::{show_duration, show_size};
use crate::backup;
use crate::engine::{Builtin, Query, kind_of};
use crate::jobs::prune_logs::Files;
use crate::sample::globs::Globs;
use crate::schedule::runner::Plan;
use crate::scrape::host;
use crate::scrape::http::{Auth, Target};
use crate::secret::Secret;
use crate::store::Rule;

/// What stands in the place of a secret.
const HIDDEN: &str = "<secret>";

/// A configuration that may be shown to anybody. `Display` gives TOML.
#[derive(Clone, Debug)]
pub struct Redacted(Vec<Table>);

#[derive(Clone, Debug)]
struct Table {
    /// `scrape.targets`; empty for the keys in front of all tables.
    path: Cow<'static, str>,
    /// Whether it is an element of a list of tables.
    element: bool,
    keys: Vec<(&'static str, Value)>,
}

/// `settings` without secrets.
pub fn redacted(settings: &Settings) -> Redacted {
    let Settings { state_directory, engine, server, expose, scrape, write, jobs, backup, log } = settings;
    let mut tables = vec![
        table("", vec![("state_directory", json!(state_directory))]),
        table(
            "database",
            vec![
                ("url", json!(shown(&engine.url))),
                ("password", hidden(engine.password.as_ref())),
                ("metrics_url", json!(engine.metrics_url.as_deref().map(shown).unwrap_or_default())),
                ("metrics_password", hidden(engine.metrics_password.as_ref())),
                ("create", json!(engine.create)),
                ("widen_metric_value", json!(engine.widen_metric_value)),
            ],
        ),
    ];
    tables.extend(engine.full_text.iter().map(|index| {
        let keys = vec![("table", json!(index.table)), ("key", json!(index.key)), ("columns", json!(index.columns))];
        element("database.full_text", keys)
    }));
    tables.extend([
        table(
            "server",
            vec![
                ("listen", json!(server.listen)),
                ("web_config_file", json!(server.web_config_file.as_deref().unwrap_or("".as_ref()))),
                ("max_requests", json!(server.max_requests)),
            ],
        ),
        table(
            "expose",
            vec![
                ("keep_prefixes", json!(expose.keep_prefixes)),
                ("max_series", json!(expose.max_series)),
                ("timestamps", json!(expose.timestamps)),
                ("counters_stale_after", span(expose.counters_stale_after)),
                ("hidden", patterns(&expose.hidden)),
            ],
        ),
        table(
            "scrape",
            vec![
                ("interval", span(scrape.interval)),
                ("timeout", span(scrape.timeout)),
                ("concurrency", json!(scrape.concurrency)),
            ],
        ),
        of_host(&scrape.host),
        of_builtin(&engine.builtin),
    ]);
    tables.extend(scrape.targets.iter().map(of_target));
    tables.extend(engine.queries.iter().map(of_query));
    tables.extend([table(
        "write",
        vec![
            ("queue_batches", json!(write.queue_batches)),
            ("batch_rows", json!(write.batch_rows)),
            ("batch_age", span(write.batch_age)),
            ("rows_per_day", json!(write.rows_per_day)),
        ],
    )]);
    let keep = jobs.retention.metrics;
    tables.push(table(
        "retention",
        vec![
            ("cache", span(jobs.retention.cache)),
            ("metrics", span(keep.rows)),
            ("rollup_5m", span(keep.five_minutes)),
            ("rollup_1h", span(keep.hours)),
        ],
    ));
    tables.extend(jobs.retention.logs.tables.iter().map(of_rule));
    tables.extend(jobs.retention.logs.files.iter().map(of_files));
    let upkeep = &jobs.upkeep;
    tables.push(table(
        "upkeep",
        vec![
            ("window", json!(upkeep.window.to_string())),
            ("quiet_transactions", json!(upkeep.quiet_transactions)),
            ("quiet_host_percent", json!(upkeep.quiet_host_percent)),
            ("unused_percent", json!(upkeep.wear.unused_percent)),
        ],
    ));
    tables.extend(of_backup(backup));
    tables.extend(jobs.plans.iter().map(of_job));
    tables.extend([table(
        "log",
        vec![("level", json!(log.level.to_string())), ("format", json!(log.format.to_string()))],
    )]);
    Redacted(tables)
}

fn shown(url: &str) -> String {
    kind_of(url).shown(url)
}

fn hidden(secret: Option<&Secret>) -> Value {
    json!(if secret.is_some() { HIDDEN } else { "" })
}

fn of_host(host: &host::Settings) -> Table {
    table(
        "scrape.host",
        vec![
            ("collectors", json!(host.collectors)),
            ("store", patterns(&host.store)),
            ("procfs", json!(host.procfs)),
            ("sysfs", json!(host.sysfs)),
            ("rootfs", json!(host.rootfs)),
            ("ignored_mount_points", patterns(&host.ignored_mount_points)),
            ("ignored_filesystem_types", patterns(&host.ignored_filesystem_types)),
            ("ignored_network_devices", patterns(&host.ignored_network_devices)),
            ("ignored_block_devices", patterns(&host.ignored_block_devices)),
        ],
    )
}

fn of_builtin(builtin: &Builtin) -> Table {
    table(
        "scrape.atlas",
        vec![
            ("collectors", json!(builtin.collectors)),
            ("store", patterns(&builtin.store)),
            ("interval", span(builtin.interval)),
            ("timeout", span(builtin.timeout)),
        ],
    )
}

fn of_target(target: &Target) -> Table {
    let mut keys = vec![
        ("name", json!(target.name)),
        ("url", json!(target.shown)),
        ("interval", span(target.interval)),
        ("timeout", span(target.timeout)),
        ("metrics", patterns(&target.metrics)),
        ("store", patterns(&target.store)),
    ];
    match &target.auth {
        None => {}
        Some(Auth::Bearer(_)) => keys.push(("bearer_token", json!(HIDDEN))),
        Some(Auth::Basic { username, .. }) => {
            keys.extend([("username", json!(username)), ("password", json!(HIDDEN))]);
        }
    }
    keys.push(("max_body", json!(show_size(target.max_body_bytes as u64))));
    keys.push(("max_samples", json!(target.max_samples)));
    element("scrape.targets", keys)
}

fn of_query(query: &Query) -> Table {
    let keys = vec![
        ("name", json!(query.name)),
        ("sql", json!(query.sql)),
        ("values", json!(query.values)),
        ("labels", json!(query.labels)),
        ("help", json!(query.help)),
        ("kind", json!(if query.counter { "counter" } else { "gauge" })),
        ("interval", span(query.interval)),
        ("timeout", span(query.timeout)),
        ("max_rows", json!(query.max_rows)),
        ("store", patterns(&query.store)),
    ];
    element("scrape.queries", keys)
}

fn of_rule(rule: &Rule) -> Table {
    let mut keys = vec![("table", json!(rule.table))];
    // A rule of the configuration has one.
    keys.extend(rule.ages.iter().flat_map(|aged| [("time_column", json!(aged.column)), ("keep", span(aged.keep))]));
    keys.push(("where", json!(rule.only.as_deref().unwrap_or_default())));
    element("retention.tables", keys)
}

fn of_files(files: &Files) -> Table {
    let keys = vec![
        ("directory", json!(files.directory)),
        ("glob", json!(files.glob.patterns().next())),
        ("keep", span(files.keep)),
        ("compress_after", json!(files.compress_after.map(show_duration).unwrap_or_default())),
    ];
    element("retention.files", keys)
}

fn of_backup(backup: &backup::Settings) -> [Table; 4] {
    let text = |path: Option<&Path>| json!(path.unwrap_or("".as_ref()));
    let (s3, sqlite) = (&backup.s3, &backup.sqlite);
    // Of an access key, the id is half.
    let id = Some(Secret::new(s3.access_key_id.as_str())).filter(|id| !id.reveal().is_empty());
    let key = Some(&s3.secret_access_key).filter(|key| !key.reveal().is_empty());
    [
        table(
            "backup",
            vec![
                ("destination", json!(backup.destination.as_ref().map(ToString::to_string).unwrap_or_default())),
                ("window", span(backup.policy.window)),
                ("keep_weekly", json!(backup.policy.weeks)),
                ("keep_monthly", json!(backup.policy.months)),
                ("codec", json!(codec_word(backup.form.codec))),
                ("checksum", json!(checksum_word(s3.checksum))),
            ],
        ),
        table(
            "backup.s3",
            vec![
                ("endpoint", json!(s3.endpoint.as_deref().unwrap_or_default())),
                ("region", json!(s3.region)),
                ("path_style", json!(s3.path_style)),
                ("ca_file", text(s3.ca_file.as_deref())),
                ("access_key_id", hidden(id.as_ref())),
                ("secret_access_key", hidden(key)),
            ],
        ),
        table(
            "backup.sqlite",
            vec![
                ("interval", json!(sqlite.interval.map(show_duration).unwrap_or_default())),
                ("convert_to_wal", json!(sqlite.convert_to_wal)),
                ("log_max", json!(show_size(sqlite.log_max))),
                ("spool_max", json!(show_size(sqlite.spool_max))),
            ],
        ),
        table(
            "backup.encryption",
            vec![
                ("recipients", json!(backup.form.recipients.iter().map(ToString::to_string).collect::<Vec<_>>())),
                ("identity_file", text(backup.identity_file.as_deref())),
            ],
        ),
    ]
}

fn of_job((name, plan): (&&str, &Plan)) -> Table {
    let keys = vec![
        ("schedule", json!(plan.schedule.pattern())),
        ("timezone", json!(plan.schedule.zone())),
        ("enabled", json!(plan.enabled)),
        ("timeout", span(plan.timeout)),
        ("catch_up", json!(super::jobs::word(plan.catch_up))),
    ];
    Table { path: format!("jobs.{name}").into(), element: false, keys }
}

fn table(path: &'static str, keys: Vec<(&'static str, Value)>) -> Table {
    Table { path: path.into(), element: false, keys }
}

fn element(path: &'static str, keys: Vec<(&'static str, Value)>) -> Table {
    Table { path: path.into(), element: true, keys }
}

fn span(span: Duration) -> Value {
    json!(show_duration(span))
}

fn patterns(globs: &Globs) -> Value {
    globs.patterns().collect()
}

impl Redacted {
    /// The same as JSON, nested as the tables are.
    pub fn json(&self) -> Value {
        let mut root = Map::new();
        for table in &self.0 {
            let mut at = &mut root;
            let parts: Vec<&str> = table.path.split('.').filter(|part| !part.is_empty()).collect();
            let (parents, last) = parts.split_at(parts.len().saturating_sub(usize::from(table.element)));
            for part in parents {
                at = object(at.entry(*part).or_insert_with(|| json!({})));
            }
            let keys = table.keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
            match last {
                [list] => list_in(at, list).push(Value::Object(keys.collect())),
                _ => at.extend(keys),
            }
        }
        Value::Object(root)
    }
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    value.as_object_mut().expect("a table's place holds a table")
}

fn list_in<'a>(map: &'a mut Map<String, Value>, name: &str) -> &'a mut Vec<Value> {
    map.entry(name).or_insert_with(|| json!([])).as_array_mut().expect("a list's place holds a list")
}

impl fmt::Display for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.0 {
            match (table.path.as_ref(), table.element) {
                ("", _) => {}
                (path, false) => writeln!(f, "\n[{path}]")?,
                (path, true) => writeln!(f, "\n[[{path}]]")?,
            }
            for (key, value) in &table.keys {
                writeln!(f, "{key} = {}", toml(value))?;
            }
        }
        Ok(())
    }
}

/// Texts, numbers and booleans are written in JSON as in TOML, except for DEL, which TOML wants escaped.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(elements) => format!("[{}]", elements.iter().map(toml).collect::<Vec<_>>().join(", ")),
        _ => value.to_string().replace('\u{7f}', "\\u007f"),
    }
}
