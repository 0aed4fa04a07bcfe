//! From four layers to one table: compiled-in default, file, environment, `--set`; the later ones win.
//!
//! Every value remembers where it came from in its [`Value::origin`]: `sidecar.toml:12`, the variable's name, `--set`. That is why the
//! TOML is walked here and not by the `config` crate, which would keep the file's name only; the merging is that crate's.

use std::path::Path;

use config::{Config, ConfigError, Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;
use super::{DEFAULT, Sources};

/// The origin of values that nobody gave.
const BY_DEFAULT: &str = "default";

/// The origin of values from the command line.
pub(super) const BY_FLAG: &str = "--set";

/// What the names of variables that are keys begin with.
pub(super) const PREFIX: &str = "ATLAS_SIDECAR__";

/// 1 MiB: a thousand targets take a tenth of it.
const FILE_BYTES: u64 = 1 << 20;

/// The most elements that a variable or a flag may reach by number (`scrape.targets[7].password`): the `config` crate fills the
/// gap below a number with empty values.
const MOST_ELEMENTS: usize = 1000;

/// Whether `value` was given by nobody.
pub(super) fn is_default(value: &Value) -> bool {
    value.origin() == Some(BY_DEFAULT)
}

/// Whether `value` is a text that stands for any kind of value: from the environment or the command line.
pub(super) fn is_textual(value: &Value) -> bool {
    value.origin().is_some_and(|origin| origin == BY_FLAG || origin.starts_with(PREFIX))
}

/// All layers, merged. A layer with problems is left out, so that the problems of the others are seen in the same run.
pub(super) fn merged(sources: &Sources, problems: &mut Vec<Problem>) -> Map<String, Value> {
    let mut layers = Config::builder().add_source(default_layer());
    if let Some(path) = &sources.file {
        match file_layer(path) {
            Ok(mut layer) => {
                problems.extend(layer.without_paths());
                layers = layers.add_source(layer);
            }
            Err(problem) => problems.push(problem),
        }
    }
    let variables = sources.environment.iter().filter_map(|(name, value)| {
        let key = key_of_variable(name.strip_prefix(PREFIX)?);
        Some((key, name.as_str(), value.as_str()))
    });
    let flags = sources.overrides.iter().map(|(key, value)| (key.clone(), BY_FLAG, value.as_str()));
    for (key, origin, text) in variables.chain(flags) {
        match reaches_too_far(&key) {
            true => problems.push(Problem::new(key, Some(origin), "must name an element by its number, from 0 to 999")),
            false => layers = layers.add_source(Layer::of_one(key, origin, text)),
        }
    }
    match layers.build().and_then(|all| all.cache.into_table()) {
        Ok(table) => table,
        Err(e) => {
            problems.push(Problem::general(format!("the layers cannot be merged: {e}")));
            Map::new()
        }
    }
}

/// `SCRAPE__TARGETS__0__PASSWORD` is `scrape.targets[0].password`; a single `_` stays.
fn key_of_variable(name: &str) -> String {
    let mut key = String::with_capacity(name.len());
    for part in name.split("__") {
        if !key.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty() {
            key.push_str(&format!("[{part}]"));
            continue;
        }
        if !key.is_empty() {
            key.push('.');
        }
        let below_jobs = key == "jobs.";
        let part = part.to_ascii_lowercase();
        // A name of a job has `-` where a variable cannot.
        key.push_str(&if below_jobs { part.replace('_', "-") } else { part });
    }
    key
}

fn reaches_too_far(key: &str) -> bool {
    key.split('[').skip(1).filter_map(|rest| rest.split(']').next()).any(|index| {
        let index = index.trim();
        // Counting from the end is for code that knows the length; here it would only make empty elements.
        index.starts_with('-') || index.parse::<usize>().map_or(true, |at| at >= MOST_ELEMENTS)
    })
}

/// One layer for the `config` crate.
#[derive(Clone, Debug)]
struct Layer(Map<String, Value>);

impl Layer {
    fn of_one(key: String, origin: &str, text: &str) -> Self {
        Self(Map::from_iter([(key, Value::new(Some(&origin.to_owned()), text))]))
    }
}

impl Layer {
    /// Takes out the keys at the top that the `config` crate would read as paths: `"scrape.targets[999999999].name" = 1` asks it for a
    /// billion empty elements.
    fn without_paths(&mut self) -> Vec<Problem> {
        let is_plain = |key: &str| key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        let (plain, paths): (Map<_, _>, Map<_, _>) = self.0.drain().partition(|(key, _)| is_plain(key));
        self.0 = plain;
        let mut problems: Vec<Problem> = paths
            .into_iter()
            .map(|(key, value)| Problem::new(key, value.origin(), "unknown key; tables are written as `[table]`"))
            .collect();
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        problems
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

fn default_layer() -> Layer {
    let table = DeTable::parse(DEFAULT).expect("config/default.toml is TOML");
    Layer(table_of(table.into_inner(), &|_| BY_DEFAULT.to_owned()))
}

fn file_layer(path: &Path) -> Result<Layer, Problem> {
    let text = read_text(path, FILE_BYTES)
        .map_err(|why| Problem::general(format!("the configuration file `{}` {why}", path.display())))?;
    // Editors of other systems put a mark in front that is no part of the text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = Lines::of(text);
    match DeTable::parse(text) {
        Ok(table) => {
            let origin = |at: usize| format!("{}:{}", path.display(), lines.number(at));
            Ok(Layer(table_of(table.into_inner(), &origin)))
        }
        // Only the message: the parser's own display quotes the line, and with it a password (E-11).
        Err(e) => {
            let line = e.span().map_or(1, |span| lines.number(span.start));
            Err(Problem::general(format!("`{}`, line {line}: {}", path.display(), e.message())))
        }
    }
}

/// A text that stands for a list or a table (`["cpu", "meminfo"]`), as the value it writes.
pub(super) fn value_of_text(text: &str, origin: &str) -> Option<Value> {
    let value = DeValue::parse(text.trim()).ok()?;
    Some(value_of(value, &|_| origin.to_owned()))
}

/// Reads a small regular file; the error is the end of a sentence that begins with the file's name.
pub(super) fn read_text(path: &Path, most: u64) -> Result<String, String> {
    let about = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        _ => format!("cannot be read: {e}"),
    })?;
    if !about.is_file() {
        // A pipe would hold up the start, and every reload after it, for as long as nobody writes.
        return Err("is not a regular file".to_owned());
    }
    if about.len() > most {
        return Err(format!("is larger than {most} bytes"));
    }
    let bytes = std::fs::read(path).map_err(|e| format!("cannot be read: {e}"))?;
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}

fn table_of(table: DeTable<'_>, origin: &dyn Fn(usize) -> String) -> Map<String, Value> {
    table.into_iter().map(|(key, value)| (key.into_inner().into_owned(), value_of(value, origin))).collect()
}

fn value_of(value: Spanned<DeValue<'_>>, origin: &dyn Fn(usize) -> String) -> Value {
    let here = origin(value.span().start);
    let kind: ValueKind = match value.into_inner() {
        DeValue::String(text) => text.into_owned().into(),
        DeValue::Boolean(yes) => yes.into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Float(number) => number.as_str().replace('_', "").parse::<f64>().unwrap_or(f64::NAN).into(),
        DeValue::Integer(number) => integer(&number.as_str().replace('_', ""), number.radix()),
        DeValue::Array(elements) => {
            elements.into_iter().map(|element| value_of(element, origin)).collect::<Vec<Value>>().into()
        }
        DeValue::Table(table) => table_of(table, origin).into(),
    };
    Value::new(Some(&here), kind)
}

/// An `i64` where it fits. What does not is too large for any key and only kept to be shown.
fn integer(digits: &str, radix: u32) -> ValueKind {
    match (i64::from_str_radix(digits, radix), i128::from_str_radix(digits, radix)) {
        (Ok(number), _) => number.into(),
        (_, Ok(number)) => number.into(),
        _ => f64::INFINITY.into(),
    }
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    /// The number of the line that holds the byte at `at`, from 1.
    fn number(&self, at: usize) -> usize {
        self.0.partition_point(|start| *start <= at).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_become_keys() {
        for (variable, key) in [
            ("SCRAPE__INTERVAL", "scrape.interval"),
            ("STATE_DIRECTORY", "state_directory"),
            ("DATABASE__METRICS_URL", "database.metrics_url"),
            ("JOBS__CACHE_EXPIRY__CATCH_UP", "jobs.cache-expiry.catch_up"),
            ("SCRAPE__TARGETS__0__PASSWORD_FILE", "scrape.targets[0].password_file"),
        ] {
            assert_eq!(key_of_variable(variable), key);
        }
    }

    #[test]
    fn a_number_cannot_make_a_billion_elements() {
        assert!(reaches_too_far("scrape.targets[999999999].name"));
        assert!(reaches_too_far("scrape.targets[-1].name"));
        assert!(!reaches_too_far("scrape.targets[7].name"));
        assert!(!reaches_too_far("scrape.interval"));
    }

    #[test]
    fn lines_are_counted_from_one() {
        let lines = Lines::of("a\nb\n\nc");
        assert_eq!([0, 1, 2, 4, 5].map(|at| lines.number(at)), [1, 1, 2, 3, 4]);
    }
}
