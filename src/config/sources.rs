//! What is measured: host, built-in collectors, HTTP targets, queries.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::reader::{Refused, Section, Show};
use super::sections::{DAY, is_identifier, patterns};
use super::values;
use crate::engine::{self, Builtin, Query};
use crate::expose::encode;
use crate::sample::globs::Globs;
use crate::scrape::host;
use crate::scrape::http::{Auth, Target, check_url, is_own};
use crate::secret::{Secret, origin_of, redacted_url};

// The defaults of lists' elements, which config/default.toml can only name in its examples; a test compares them.
/// 100 000 series of Prometheus text are 11 MiB (measured).
const MAX_BODY: usize = 32 << 20;
const MAX_SAMPLES: usize = 200_000;
/// A query that gives more rows was not meant as a metric.
const MAX_ROWS: usize = 1000;

const SHORTEST: Duration = Duration::from_secs(1);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);

/// How often a source is asked and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    pub interval: Duration,
    pub timeout: Duration,
}

impl Pace {
    /// That of `[scrape]`.
    pub(super) fn first(section: &mut Section<'_>) -> Self {
        // Only where `[scrape]` itself is broken.
        Self::of(section, Self { interval: SHORTEST, timeout: SHORTEST })
    }

    /// That of a source: its own values, those of `[scrape]` for what it leaves out. A timeout that was not chosen for this interval is
    /// shortened to four fifths of it, as nobody could have meant it to be longer.
    fn of(section: &mut Section<'_>, base: Self) -> Self {
        let interval = section.get_some("interval", Show::Plain, values::duration(SHORTEST..=DAY));
        let timeout = section.get_some("timeout", Show::Plain, values::duration(SHORTEST_TIMEOUT..=DAY));
        let by_default = section.by_default("timeout");
        let (Ok(interval), Ok(timeout)) = (interval, timeout) else { return base };
        let interval = interval.unwrap_or(base.interval);
        match timeout {
            Some(timeout) if by_default && timeout >= interval => Self { interval, timeout: interval * 4 / 5 },
            Some(timeout) => {
                if timeout >= interval {
                    section.reject(
                        "timeout",
                        format!("must be below the interval, `{}`", values::show_duration(interval)),
                    );
                }
                Self { interval, timeout }
            }
            None if base.timeout >= interval => Self { interval, timeout: interval * 4 / 5 },
            None => Self { interval, timeout: base.timeout },
        }
    }
}

/// The names that sources have, each with who has it.
pub(super) type Names = BTreeMap<String, String>;

/// The names of the built-in collectors: they are sources as well, whether they run or not.
pub(super) fn taken_names() -> Names {
    let of_host = host::COLLECTORS.iter().map(|name| ((*name).to_owned(), "a collector of `scrape.host`".to_owned()));
    let of_atlas =
        engine::COLLECTORS.iter().map(|name| ((*name).to_owned(), "a collector of `scrape.atlas`".to_owned()));
    let own = (encode::OWN_SOURCE.to_owned(), "the name of the sidecar's own metrics".to_owned());
    of_host.chain(of_atlas).chain([own]).collect()
}

/// `[scrape.host]`
pub(super) fn host(mut section: Section<'_>) -> host::Settings {
    host::Settings {
        collectors: section.take("collectors", values::chosen(host::COLLECTORS, "collector")),
        store: patterns(&mut section, "store"),
        procfs: section.take("procfs", values::path),
        sysfs: section.take("sysfs", values::path),
        rootfs: section.take("rootfs", values::path),
        ignored_mount_points: patterns(&mut section, "ignored_mount_points"),
        ignored_filesystem_types: patterns(&mut section, "ignored_filesystem_types"),
        ignored_network_devices: patterns(&mut section, "ignored_network_devices"),
        ignored_block_devices: patterns(&mut section, "ignored_block_devices"),
    }
}

/// `[scrape.atlas]`
pub(super) fn builtin(mut section: Section<'_>, base: Pace) -> Builtin {
    let collectors = section.take("collectors", values::chosen(engine::COLLECTORS, "collector"));
    let store = patterns(&mut section, "store");
    let Pace { interval, timeout } = Pace::of(&mut section, base);
    Builtin { collectors, interval, timeout, store }
}

/// One of `[[scrape.targets]]`
pub(super) fn target(mut section: Section<'_>, base: Pace, listen: Option<SocketAddr>, names: &mut Names) -> Target {
    let name = source_name(&mut section, names, is_source_name, SOURCE_NAME);
    let url = target_url(&mut section, listen).unwrap_or_default();
    let Pace { interval, timeout } = Pace::of(&mut section, base);
    let metrics = section.take_or("metrics", Globs::all(), |value| values::some(value).map(Globs::new));
    let store = section.take_or("store", Globs::all(), values::globs);
    let auth = auth(&mut section).ok().flatten();
    // 1 GiB: what is read is held in memory once.
    let max_body_bytes = section.take_or("max_body", MAX_BODY, values::size(1024..=1 << 30));
    let max_samples = section.take_or("max_samples", MAX_SAMPLES, values::count(1..=10_000_000));
    let (url, shown) = url;
    Target { name, url, shown, interval, timeout, metrics, store, auth, max_body_bytes, max_samples }
}

/// The address, and what people may see of it: an address that came from a file is a secret of its own.
fn target_url(section: &mut Section<'_>, listen: Option<SocketAddr>) -> Result<(String, String), Refused> {
    let Some(held) = section.url("url", "url_file")? else {
        section.missing("url", "is missing; give `url` or `url_file`");
        return Err(Refused);
    };
    check_url(&held.text).map_err(|why| section.reject(held.key, why))?;
    if listen.is_some_and(|listen| is_own(&held.text, listen)) {
        return Err(section.reject(held.key, "is the sidecar's own `server.listen`; it cannot scrape itself"));
    }
    let shown = if held.key == "url" { redacted_url(&held.text) } else { origin_of(&held.text) };
    Ok((held.text, shown))
}

fn auth(section: &mut Section<'_>) -> Result<Option<Auth>, Refused> {
    let bearer = section.secret("bearer_token", "bearer_token_file");
    let username = section.get_some("username", Show::Plain, user_name);
    let password = section.secret("password", "password_file");
    let (bearer, username, password) = (bearer?, username?, password?);
    match (bearer, username, password) {
        (None, None, None) => Ok(None),
        (Some(bearer), None, None) if bearer.text.bytes().all(|b| (0x21..0x7f).contains(&b)) => {
            Ok(Some(Auth::Bearer(Secret::new(bearer.text))))
        }
        (Some(bearer), None, None) => {
            Err(section.reject(bearer.key, "must be one line of printable ASCII characters without spaces"))
        }
        (None, Some(username), Some(password)) if !password.text.chars().any(char::is_control) => {
            Ok(Some(Auth::Basic { username, password: Secret::new(password.text) }))
        }
        (None, Some(_), Some(password)) => Err(section.reject(password.key, "must not hold control characters")),
        (Some(bearer), _, _) => Err(section.reject(bearer.key, "cannot be used beside `username` and `password`")),
        (None, Some(_), None) => Err(section.reject("username", "needs a `password` or a `password_file`")),
        (None, None, Some(password)) => Err(section.reject(password.key, "needs a `username`")),
    }
}

fn user_name(value: &config::Value) -> values::Read<String> {
    let text = values::words(value)?;
    // RFC 7617, section 2: the first colon ends the name.
    match text.contains(':') || text.chars().any(char::is_control) {
        true => Err("must not hold `:` or control characters".to_owned()),
        false => Ok(text),
    }
}

/// One of `[[scrape.queries]]`
pub(super) fn query(mut section: Section<'_>, base: Pace, names: &mut Names) -> Query {
    let name = source_name(&mut section, names, is_query_name, QUERY_NAME);
    let sql = section.need("sql", values::words);
    let values = section.need("values", columns);
    let labels = section.take_or("labels", Vec::new(), label_columns);
    if let Some(both) = labels.iter().find(|label| values.contains(label)) {
        section.reject("labels", format!("`{both}` is among `values` as well"));
    }
    let help = section.take_or("help", String::new(), values::text);
    let kind = section.take_or("kind", "gauge", values::one_of(&["gauge", "counter"]));
    let Pace { interval, timeout } = Pace::of(&mut section, base);
    let max_rows = section.take_or("max_rows", MAX_ROWS, values::count(1..=100_000));
    let store = section.take_or("store", Globs::all(), values::globs);
    Query { name, sql, values, labels, help, counter: kind == "counter", interval, timeout, max_rows, store }
}

const SOURCE_NAME: &str = "must be made of lower-case letters, digits, `_`, `-` and `.`, at most 64";

fn is_source_name(name: &str) -> bool {
    name.len() <= 64 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.".contains(&b))
}

const QUERY_NAME: &str = "must be made of lower-case letters, digits and `_`, at most 64, and not begin with a digit: metrics are named after it";

fn is_query_name(name: &str) -> bool {
    name.len() <= 64 && is_identifier(name) && !name.bytes().any(|b| b.is_ascii_uppercase())
}

fn source_name(section: &mut Section<'_>, names: &mut Names, fits: fn(&str) -> bool, expected: &'static str) -> String {
    let name: String = section.need("name", |value| {
        let name = values::words(value)?;
        if fits(&name) { Ok(name) } else { Err(expected.to_owned()) }
    });
    if !name.is_empty() {
        let whose = format!("the name of `{}`", section.key("name").trim_end_matches(".name"));
        match names.get(&name) {
            Some(other) => drop(section.reject("name", format!("is already {other}"))),
            None => drop(names.insert(name.clone(), whose)),
        }
    }
    name
}

/// Columns that become the ends of metrics' names.
fn columns(value: &config::Value) -> values::Read<Vec<String>> {
    let list = values::some(value)?;
    match list.iter().find(|name| !is_identifier(name)) {
        Some(name) => Err(format!(
            "`{}` cannot be part of a metric's name; rename the column with `AS` to letters, digits and `_`",
            super::problem::shown(name)
        )),
        None => Ok(list),
    }
}

/// Columns that become labels.
fn label_columns(value: &config::Value) -> values::Read<Vec<String>> {
    let list = values::list(value)?;
    match list.iter().find(|name| !is_identifier(name) || name.starts_with("__") || is_reserved(name)) {
        Some(name) => Err(format!(
            "`{}` cannot be a label; rename the column with `AS` to letters, digits and `_`, other than `le`, `quantile` and `__…`",
            super::problem::shown(name)
        )),
        None => Ok(list),
    }
}

/// Labels that have a meaning in histograms and summaries.
fn is_reserved(label: &str) -> bool {
    matches!(label, "le" | "quantile")
}
