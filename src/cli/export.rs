//! `export`: stored history to standard output, as OpenMetrics (which `promtool tsdb create-blocks-from openmetrics` reads) or CSV.
//!
//! OpenMetrics carries the names under which `/metrics` shows the series, so that backfilled history and scraped samples are one series; CSV
//! carries the names and tags as they are stored.

use std::collections::HashMap;
use std::collections::HashSet;
use std::io::{self, Write};

use super::migrate::unreachable;
use super::{Exit, Export, ExportFormat, Invocation, complain, load};
use crate::clock::{Clock, Timestamp};
use crate::engine;
use crate::expose::encode::write_value;
use crate::ingest::latest::Settings as Exposition;
use crate::ingest::latest::shown::{write_escaped, write_series};
use crate::sample::globs::Globs;
use crate::sample::names::{Of, Scheme};
use crate::sample::{Kind, Suffix, tags};
use crate::store::{History, Meta, SampleStore, StoreError, Stored};

/// Prints what `wanted` names.
pub async fn run(invocation: &Invocation, wanted: &Export) -> Exit {
    if invocation.json {
        complain("`export` does not print JSON", Some("`--format csv` has the labels as JSON"));
        return Exit::Usage;
    }
    let settings = match load(invocation) {
        Ok(loaded) => loaded.settings,
        Err(exit) => return exit,
    };
    let now = Clock::system().now();
    let (from, to) = (wanted.from.resolve(now), wanted.to.resolve(now));
    if from >= to {
        complain(&format!("`--from` ({from}) is not before `--to` ({to})"), None);
        return Exit::Usage;
    }
    let archive = match engine::Archive::open(&settings.engine).await {
        Ok(archive) => archive,
        Err(e) => return unreachable(&e),
    };
    let names = if wanted.metrics.is_empty() { Globs::all() } else { Globs::new(wanted.metrics.iter().cloned()) };
    let mut out = io::BufWriter::new(io::stdout());
    let exported =
        export(archive.samples.as_ref(), &settings.expose, (from, to), &names, wanted.format, &mut out).await;
    archive.close().await;
    let written = exported.and_then(|history| broken(out.flush()).map(|()| history));
    match written {
        Ok(history) => {
            if history.bad_rows + history.bad_times > 0 {
                complain(
                    &format!(
                        "left out: {} rows whose value or tags, {} whose time cannot be read",
                        history.bad_rows, history.bad_times
                    ),
                    None,
                );
            }
            Exit::Done
        }
        // The reader has enough (`| head`).
        Err(StoreError::Stopped(e)) if e.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(StoreError::Stopped(e)) => {
            complain(&format!("cannot write to standard output: {e}"), None);
            Exit::Failed
        }
        Err(e) => {
            complain(&e.to_string(), None);
            Exit::Failed
        }
    }
}

/// Writes the rows with `from <= time < to` whose stored name passes `names`.
pub async fn export(
    store: &dyn SampleStore,
    exposition: &Exposition,
    (from, to): (Timestamp, Timestamp),
    names: &Globs,
    format: ExportFormat,
    out: &mut (dyn Write + Send),
) -> Result<History, StoreError> {
    match format {
        ExportFormat::Csv => {
            broken(writeln!(out, "time,metric,value,labels"))?;
            let mut each = |row: Stored| csv_line(out, &row);
            store.history(from, to, names, &mut each).await
        }
        ExportFormat::OpenMetrics => {
            let metas = store.metas().await?.into_iter().map(|meta| (meta.name.clone(), meta)).collect();
            let mut page = OpenMetrics { out, exposition, metas, seen: HashSet::new(), name: String::new() };
            let history = store.history(from, to, names, &mut |row| page.sample(&row)).await?;
            broken(page.out.write_all(b"# EOF\n"))?;
            Ok(history)
        }
    }
}

fn broken(result: io::Result<()>) -> Result<(), StoreError> {
    result.map_err(StoreError::Stopped)
}

fn csv_line(out: &mut (dyn Write + Send), row: &Stored) -> io::Result<()> {
    let mut value = Vec::new();
    write_value(&mut value, row.value);
    let quoted = |text: &str| match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    };
    let (name, labels) = (quoted(&row.name), quoted(&tags::to_json(&row.labels)));
    writeln!(out, "{},{name},{},{labels}", row.at, String::from_utf8_lossy(&value))
}

struct OpenMetrics<'a> {
    out: &'a mut (dyn Write + Send),
    exposition: &'a Exposition,
    metas: HashMap<String, Meta>,
    /// Names that stand on the page: a counter may not be called like one of them.
    seen: HashSet<String>,
    /// The stored name of the family that is being written.
    name: String,
}

impl OpenMetrics<'_> {
    fn sample(&mut self, row: &Stored) -> io::Result<()> {
        let shown = self.exposition.shown_name(&row.name);
        let mut line = Vec::new();
        if self.name != row.name || self.seen.is_empty() {
            self.name.clone_from(&row.name);
            self.head(&Of::Metric.escape(&shown, Scheme::Underscores), &mut line);
        }
        write_series(&mut line, &shown, Suffix::None, &row.labels, Scheme::Underscores);
        write_value(&mut line, row.value);
        line.push(b' ');
        write_value(&mut line, row.at.seconds());
        line.push(b'\n');
        self.out.write_all(&line)
    }

    /// Histograms and summaries were stored series by series and stay so: their parts are of type `unknown`.
    fn head(&mut self, shown: &str, line: &mut Vec<u8>) {
        let meta = self.metas.get(&self.name);
        let free = |base: &&str| !["", "_total", "_created"].iter().any(|s| self.seen.contains(&format!("{base}{s}")));
        let (kind, name) = match (meta.map(|m| m.kind), shown.strip_suffix("_total").filter(free)) {
            (Some(Kind::Counter), Some(base)) => ("counter", base),
            (Some(Kind::Gauge), _) => ("gauge", shown),
            _ => ("unknown", shown),
        };
        self.seen.insert(shown.to_owned());
        if let Some(meta) = meta.filter(|meta| !meta.help.is_empty()) {
            line.extend_from_slice(format!("# HELP {name} ").as_bytes());
            write_escaped(line, &meta.help, true);
            line.push(b'\n');
        }
        line.extend_from_slice(format!("# TYPE {name} {kind}\n").as_bytes());
    }
}
