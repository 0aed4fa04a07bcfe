//! From a configuration to the sources of a database: what is the same on every engine.

use std::time::Duration;

use super::queries::{self, Asked};
use super::{Builtin, COLLECTORS, Settings};
use crate::scrape::{Collector, Source};

/// The sources that `settings` ask for and `database` can serve, and a line about each that is off or will fail, with the reason. `built_in` makes the collector of a
/// name in [`COLLECTORS`], or says what it lacks.
pub async fn sources<D: Asked>(
    database: &D,
    settings: &Settings,
    own: &queries::Own,
    built_in: impl Fn(&str) -> Result<Source, String>,
) -> (Vec<Source>, Vec<String>) {
    let (mut sources, mut notes) = (Vec::new(), Vec::new());
    let wanted = &settings.builtin.collectors;
    for name in COLLECTORS.iter().filter(|name| wanted.iter().any(|wanted| wanted == *name)) {
        match built_in(name) {
            Ok(source) => sources.push(source),
            Err(missing) => notes.push(format!(
                "collector `{name}` is off: {missing}; `atlas-sidecar migrate --dry-run` tells what it would add"
            )),
        }
    }
    for unknown in wanted.iter().filter(|wanted| !COLLECTORS.contains(&wanted.as_str())) {
        notes.push(format!("there is no collector `{unknown}`"));
    }
    for query in &settings.queries {
        // It starts all the same: its table may come, and until then its own health says that it fails.
        if let Err(why) = queries::prepare_query(database, query).await {
            notes.push(format!("query `{}` fails: {why}", query.name));
        }
        sources.push(queries::source(database, query, own));
    }
    (sources, notes)
}

/// A built-in source at the pace of `[scrape.atlas]`.
pub fn source(name: &str, settings: &Builtin, collector: Box<dyn Collector>) -> Source {
    Source {
        remote: false,
        name: name.to_owned(),
        interval: settings.interval,
        timeout: settings.timeout,
        store: settings.store.clone(),
        collector,
    }
}

/// A built-in source that is not worth its price more often than every `interval`, and gets at least `timeout` for it.
pub fn slow_source(
    name: &str,
    settings: &Builtin,
    (interval, timeout): (Duration, Duration),
    collector: impl FnOnce(Duration) -> Box<dyn Collector>,
) -> Source {
    let timeout = settings.timeout.max(timeout);
    let interval = settings.interval.max(interval);
    Source { interval, timeout, ..source(name, settings, collector(timeout)) }
}
