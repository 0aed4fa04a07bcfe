//! Takes keys out of the merged table by name and kind. What is wrong is collected, and what nobody took is an unknown key.
//!
//! serde would stop at its first error and could not say where a value came from; here one run of `check` tells everything.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use config::{Map, Value, ValueKind};

use super::layers::{BY_FLAG, is_default, is_textual, read_text, value_of_text};
use super::problem::{Problem, shown};
use super::values::{self, Read};
use crate::nearest::nearest;
use crate::secret::redacted_url;

/// 64 KiB: a secret is a line; a larger file is the wrong file.
const SECRET_BYTES: u64 = 64 << 10;

/// What one reading of the configuration finds out.
#[derive(Default)]
pub(super) struct Found {
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<String>>,
    /// Every key that was asked for, elements of lists as `[]`.
    known: RefCell<BTreeSet<String>>,
}

impl Found {
    pub(super) fn add(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    fn warn(&self, warning: String) {
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    pub(super) fn finish(self) -> (Vec<Problem>, Vec<String>, BTreeSet<String>) {
        (self.problems.into_inner(), self.warnings.into_inner(), self.known.into_inner())
    }
}

/// How much of a key's value a problem may show.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// All of it.
    Plain,
    /// What [`redacted_url`] leaves, if it is a URL at all: half of one may be mostly password.
    Url,
    /// Nothing.
    Never,
}

/// The value was refused, and the problem is noted.
#[derive(Debug)]
pub(super) struct Refused;

/// Where a secret or an address was found.
pub(super) struct Held {
    /// The key that gave it: the plain one or the one with `_file`.
    pub key: &'static str,
    /// What it is.
    pub text: String,
}

/// One table of the configuration. When it is dropped, the keys that nobody took are reported.
pub(super) struct Section<'f> {
    path: String,
    /// Where the table begins, if it was not merged from several.
    origin: Option<String>,
    entries: Map<String, Value>,
    /// Whether something else than a table stands here; then nothing in it is missed.
    broken: bool,
    /// The keys that were taken, with what a later problem says about them.
    taken: Vec<(&'static str, Problem)>,
    found: &'f Found,
}

impl<'f> Section<'f> {
    /// The whole configuration.
    pub(super) fn root(entries: Map<String, Value>, found: &'f Found) -> Self {
        Self { path: String::new(), origin: None, entries, broken: false, taken: Vec::new(), found }
    }

    /// The table at `name`; an empty one where it is absent or something else.
    pub(super) fn section(&mut self, name: &'static str) -> Self {
        let path = self.key(name);
        match self.remove(name, Show::Never) {
            Some(value) => {
                let written = format!("[{path}]");
                self.below(value, path, &written)
            }
            // Each has a default, so this one's parent is broken.
            None => {
                Self { path, origin: None, entries: Map::new(), broken: true, taken: Vec::new(), found: self.found }
            }
        }
    }

    /// The tables of the list at `name`.
    pub(super) fn sections(&mut self, name: &'static str) -> Vec<Self> {
        const EXPECTED: &str = "must be a list of tables";
        let Some(mut value) = self.remove(name, Show::Never) else { return Vec::new() };
        if let (true, ValueKind::String(text)) = (is_textual(&value), &value.kind) {
            match value_of_text(text, value.origin().unwrap_or_default()) {
                Some(parsed) => value = parsed,
                None => {
                    self.reject(name, format!("{EXPECTED}: `[{{ name = \"…\" }}]`"));
                    return Vec::new();
                }
            }
        }
        let written = format!("[[{}]]", self.key(name));
        let ValueKind::Array(elements) = value.kind else {
            self.reject(name, format!("{EXPECTED}: write `{written}`"));
            return Vec::new();
        };
        let table = |(at, element)| self.below(element, format!("{}[{at}]", self.key(name)), &written);
        elements.into_iter().enumerate().map(table).collect()
    }

    /// The table `value` at `path`, whose header is `written`.
    fn below(&self, value: Value, path: String, written: &str) -> Self {
        let origin = value.origin().map(str::to_owned);
        let (entries, broken) = match value.kind {
            ValueKind::Table(entries) => (entries, false),
            _ => {
                let message = format!("must be a table: write `{written}`");
                self.found.add(Problem::new(path.as_str(), origin.as_deref(), message));
                (Map::new(), true)
            }
        };
        Self { path, origin, entries, broken, taken: Vec::new(), found: self.found }
    }

    /// The full key of `name`.
    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The value of `name`, read by `read`; `None` where it is absent.
    pub(super) fn get<T>(
        &mut self,
        name: &'static str,
        show: Show,
        read: impl FnOnce(&Value) -> Read<T>,
    ) -> Result<Option<T>, Refused> {
        let Some(value) = self.remove(name, show) else { return Ok(None) };
        read(&value).map(Some).map_err(|expected| self.reject(name, expected))
    }

    /// The same, with an empty text standing for an absent value.
    pub(super) fn get_some<T>(
        &mut self,
        name: &'static str,
        show: Show,
        read: impl FnOnce(&Value) -> Read<T>,
    ) -> Result<Option<T>, Refused> {
        self.get(name, show, |value| match &value.kind {
            ValueKind::String(text) if text.is_empty() => Ok(None),
            _ => read(value).map(Some),
        })
        .map(Option::flatten)
    }

    /// A key that has a default in config/default.toml. A refused one gives the kind's own default: the load has failed by then.
    pub(super) fn take<T: Default>(&mut self, name: &'static str, read: impl FnOnce(&Value) -> Read<T>) -> T {
        self.get(name, Show::Plain, read).ok().flatten().unwrap_or_default()
    }

    /// A key of a list's element that is left to `default` where it is absent.
    pub(super) fn take_or<T>(&mut self, name: &'static str, default: T, read: impl FnOnce(&Value) -> Read<T>) -> T {
        self.get(name, Show::Plain, read).ok().flatten().unwrap_or(default)
    }

    /// A key that must be there.
    pub(super) fn need<T: Default>(&mut self, name: &'static str, read: impl FnOnce(&Value) -> Read<T>) -> T {
        if !self.entries.contains_key(name) {
            self.missing(name, "is missing");
        }
        self.take(name, read)
    }

    /// The secret at `name`, or in the file at `file`; neither is ever shown.
    pub(super) fn secret(&mut self, name: &'static str, file: &'static str) -> Result<Option<Held>, Refused> {
        let held = self.hidden(name, file, Show::Never)?;
        if let Some(held) = &held {
            self.warn_of_open_place(held, name);
        }
        Ok(held)
    }

    /// The address at `name`, or in the file at `file`; shown without what may be secret in it.
    pub(super) fn url(&mut self, name: &'static str, file: &'static str) -> Result<Option<Held>, Refused> {
        self.hidden(name, file, Show::Url)
    }

    fn hidden(&mut self, name: &'static str, file: &'static str, show: Show) -> Result<Option<Held>, Refused> {
        let by_default = self.entries.get(name).is_some_and(is_default);
        let plain = self.get_some(name, show, values::words);
        let path = self.get_some(file, Show::Plain, values::path);
        match (plain?, path?) {
            (Some(_), Some(_)) if !by_default => {
                Err(self.reject(file, format!("`{}` is given as well; keep one of them", self.key(name))))
            }
            (_, Some(path)) => {
                let text = self.secret_of_file(file, &path)?;
                Ok(Some(Held { key: file, text }))
            }
            (Some(text), None) => Ok(Some(Held { key: name, text })),
            (None, None) => Ok(None),
        }
    }

    fn secret_of_file(&self, key: &'static str, path: &Path) -> Result<String, Refused> {
        let text = read_text(path, SECRET_BYTES).map_err(|why| self.reject(key, format!("the file {why}")))?;
        // An editor's or `echo`'s line end is no part of a secret.
        let text = text.trim_end_matches(['\n', '\r']);
        if text.trim().is_empty() {
            return Err(self.reject(key, "the file is empty"));
        }
        if open_to_others(path) {
            let (key, path) = (self.key(key), path.display());
            self.found.warn(format!("`{key}`: everybody on this machine can read `{path}`; `chmod o-r {path}`"));
        }
        Ok(text.to_owned())
    }

    /// A secret in a configuration file that everybody can read, or in the list of processes, is no secret. Of one that has a file of its own
    /// (`held` at another key than `name`), that file was looked at.
    pub(super) fn warn_of_open_place(&self, held: &Held, name: &str) {
        let taken = self.taken.iter().find(|(n, _)| *n == name && held.key == name);
        let Some(origin) = taken.and_then(|(_, place)| place.origin.as_deref()) else { return };
        let key = self.key(name);
        if origin == BY_FLAG {
            let words = "everybody on this machine can read it in the list of processes";
            self.found.warn(format!("`{key}`: {words}; use a variable, or `{key}_file`"));
        }
        let path = origin.rsplit_once(':').map(|(path, _)| PathBuf::from(path));
        if let Some(path) = path.filter(|p| p.is_file() && open_to_others(p)) {
            let path = path.display();
            let words = format!("everybody on this machine can read `{path}`");
            self.found.warn(format!("`{key}`: {words}; `chmod o-r {path}`, or use `{key}_file`"));
        }
    }

    /// Notes what is allowed but unwise about the value of `name`.
    pub(super) fn warn(&self, name: &str, words: &str) {
        self.found.warn(format!("`{}`: {words}", self.key(name)));
    }

    /// Whether `name`'s value is the compiled-in one.
    pub(super) fn by_default(&self, name: &str) -> bool {
        self.taken.iter().any(|(n, place)| *n == name && place.origin.as_deref() == Some("default"))
    }

    /// Notes a problem with the value of `name`.
    pub(super) fn reject(&self, name: &'static str, message: impl Into<String>) -> Refused {
        let message = message.into();
        match self.taken.iter().find(|(n, _)| *n == name) {
            Some((_, place)) => self.found.add(Problem { message, ..place.clone() }),
            None => self.found.add(Problem::new(self.key(name), None, message)),
        }
        Refused
    }

    /// Notes that `name` is not there.
    pub(super) fn missing(&self, name: &'static str, message: &str) {
        if !self.broken {
            self.found.add(Problem::new(self.key(name), self.origin.as_deref(), message));
        }
    }

    fn remove(&mut self, name: &'static str, show: Show) -> Option<Value> {
        self.found.known.borrow_mut().insert(without_numbers(&self.key(name)));
        let value = self.entries.remove(name)?;
        let place = Problem {
            key: Some(self.key(name)),
            value: show_value(&value, show),
            origin: origin_of(&value),
            message: String::new(),
        };
        self.taken.push((name, place));
        Some(value)
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let mut left: Vec<_> = self.entries.drain().collect();
        left.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (name, value) in left {
            let key = if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
            let origin = origin_of(&value);
            // The value is not shown: a mistyped `pasword` holds a password.
            let message = format!("unknown key; {}", meant(&self.path, &name, &self.found.known.borrow()));
            self.found.add(Problem::new(key, origin.as_deref(), message));
        }
    }
}

/// What may have been meant by the unknown `name` in the table `here`: a near name of the same table, the same name in another one, or else
/// all there is.
fn meant(here: &str, name: &str, known: &BTreeSet<String>) -> String {
    let table = without_numbers(here);
    let siblings: Vec<&str> = known.iter().filter_map(|key| child_of(&table, key)).collect();
    if let Some(near) = nearest(name, siblings.iter().copied()) {
        let near = if here.is_empty() { near.to_owned() } else { format!("{here}.{near}") };
        return format!("did you mean `{near}`?");
    }
    if let Some(elsewhere) = known.iter().find(|key| key.rsplit('.').next() == Some(name)) {
        return format!("did you mean `{elsewhere}`?");
    }
    format!("known here: {}", siblings.iter().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", "))
}

fn child_of<'k>(table: &str, key: &'k str) -> Option<&'k str> {
    let rest = if table.is_empty() { key } else { key.strip_prefix(table)?.strip_prefix('.')? };
    (!rest.contains('.')).then_some(rest)
}

/// `scrape.targets[3].url` as `scrape.targets[].url`.
fn without_numbers(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    let mut inside = false;
    for c in key.chars() {
        inside &= c != ']';
        if !inside {
            out.push(c);
        }
        inside |= c == '[';
    }
    out
}

/// Where a value came from; of a merged table, which has no origin of its own, where its first key did.
fn origin_of(value: &Value) -> Option<String> {
    match (&value.kind, value.origin()) {
        (_, Some(origin)) => Some(origin.to_owned()),
        (ValueKind::Table(entries), None) => {
            entries.iter().filter_map(|(key, value)| Some((key, origin_of(value)?))).min().map(|(_, origin)| origin)
        }
        _ => None,
    }
}

fn show_value(value: &Value, show: Show) -> Option<String> {
    let text = match &value.kind {
        ValueKind::String(text) => text.clone(),
        ValueKind::Boolean(yes) => yes.to_string(),
        ValueKind::I64(number) => number.to_string(),
        ValueKind::I128(number) => number.to_string(),
        ValueKind::Float(number) => number.to_string(),
        _ => return None,
    };
    match show {
        Show::Plain => Some(shown(&text)),
        Show::Url if text.contains("://") => Some(shown(&redacted_url(&text))),
        Show::Url | Show::Never => None,
    }
}

fn open_to_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_named_with_what_was_meant() {
        let known: BTreeSet<String> =
            ["scrape", "scrape.interval", "scrape.targets", "scrape.targets[].url", "server", "server.listen"]
                .map(str::to_owned)
                .into();
        for (here, name, message) in [
            ("scrape", "intervall", "did you mean `scrape.interval`?"),
            ("scrape.targets[3]", "urll", "did you mean `scrape.targets[3].url`?"),
            ("scrape", "listen", "did you mean `server.listen`?"),
            ("", "sever", "did you mean `server`?"),
            ("", "backup", "known here: `scrape`, `server`"),
        ] {
            assert_eq!(meant(here, name, &known), message);
        }
        assert_eq!(without_numbers("a[12].b[3].c"), "a[].b[].c");
    }
}
