//! From text to the [`Settings`] of every part.
//!
//! Four layers, the later ones win: config/default.toml (compiled in; it is the reference that `default-config` prints), the file, variables
//! `ATLAS_SIDECAR__SECTION__KEY`, and `--set KEY=VALUE`. The merged table is read key by key, and all that is wrong is reported at once, each
//! problem with its key, its value, where that came from, and what is expected. A key that nobody asks for is a problem too: a misspelt one
//! would otherwise do nothing, silently.
//!
//! A secret may stand in the table or in a file that the key with `_file` names. It leaves this module only inside [`Settings`]; neither a
//! problem, nor a warning, nor [`redacted()`], nor the `Debug` of [`Settings`] shows one.

mod backup;
mod jobs;
mod layers;
mod logs;
mod problem;
mod reader;
mod redacted;
mod sections;
mod sources;
mod values;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

pub use problem::{Problem, Problems};
pub use redacted::{Redacted, redacted};
pub(crate) use values::parse_duration;

use crate::backup as backups;
use crate::jobs as chores;
use crate::{engine, expose, ingest, scrape, telemetry};

/// The reference configuration, as `default-config` prints it.
pub const DEFAULT: &str = include_str!("../config/default.toml");

/// What the whole program is told.
#[derive(Clone)]
pub struct Settings {
    /// Where the sidecar keeps what it must remember beside the database; mode 0700.
    pub state_directory: PathBuf,
    /// `[database]`, and of `[scrape]` what the database answers.
    pub engine: engine::Settings,
    /// `[server]`
    pub server: expose::Settings,
    /// `[expose]`
    pub expose: ingest::latest::Settings,
    /// `[scrape]`
    pub scrape: scrape::Settings,
    /// `[write]`
    pub write: ingest::Settings,
    /// `[retention]` and `[jobs]`
    pub jobs: chores::Settings,
    /// `[backup]`
    pub backup: backups::Settings,
    /// `[log]`
    pub log: telemetry::Settings,
}

impl Settings {
    /// Whether backups are made: there is a destination, and databases of this kind can be backed up.
    pub fn makes_backups(&self) -> bool {
        self.backup.destination.is_some() && engine::kind_of(&self.engine.url).rebuild().is_some()
    }
}

impl fmt::Debug for Settings {
    /// The redacted configuration: the parts' own `Debug` would show addresses as they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", redacted(self))
    }
}

/// Where a configuration comes from, besides the compiled-in default.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// Variables; those that do not begin with `ATLAS_SIDECAR__` are ignored.
    pub environment: Vec<(String, String)>,
    /// Keys and values of `--set`.
    pub overrides: Vec<(String, String)>,
}

impl fmt::Debug for Sources {
    /// Without values: any of them may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.overrides.iter().map(|(key, _)| key).collect();
        f.debug_struct("Sources").field("file", &self.file).field("overrides", &keys).finish_non_exhaustive()
    }
}

/// A configuration without problems.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub settings: Settings,
    /// What is allowed but unwise; one line each, without secrets.
    pub warnings: Vec<String>,
    /// Every key that was asked for; elements of lists as `[]` (`scrape.targets[].url`).
    pub known_keys: BTreeSet<String>,
}

/// Reads all layers and all files that they name.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let mut unreadable = Vec::new();
    let table = layers::merged(sources, &mut unreadable);
    let found = reader::Found::default();
    let settings = sections::read(reader::Section::root(table, &found));
    let (problems, warnings, known_keys) = found.finish();
    unreadable.extend(problems);
    match (settings, unreadable.is_empty()) {
        (Some(settings), true) => Ok(Loaded { settings, warnings, known_keys }),
        (None, true) => unreachable!("a key without a value is noted as a problem"),
        (_, false) => Err(Problems(unreadable)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A piece of a key: known ones, so that keys meet tables, lists and values; and others.
    fn piece() -> impl Strategy<Value = String> {
        let known = "state_directory|database|url|url_file|full_text|server|listen|expose|hidden|scrape|host|atlas|collectors|targets|queries|interval|log|level";
        prop_oneof![6 => known, 1 => "[a-z]{0,3}", 1 => "[ -~]{0,4}"]
    }

    fn key() -> impl Strategy<Value = String> {
        (
            proptest::collection::vec(piece(), 1..4),
            prop_oneof![3 => "", 1 => r"\[[0-9]{1,2}\]", 1 => r"\[[0-9]{1,2}\]\.[a-z]{1,4}"],
        )
            .prop_map(|(pieces, end)| pieces.join(".") + &end)
    }

    fn value() -> impl Strategy<Value = String> {
        prop_oneof!["[ -~]{0,12}", r"\[\]", r#"\["a", 1\]"#, r#"\[\{name = "a"\}\]"#, "[0-9]{1,20}(ms|s|h|d)?"]
    }

    proptest! {
        /// Whatever the layers do to each other's tables and lists, there is an answer, and an error names something.
        #[test]
        fn any_overrides_are_answered(pairs in proptest::collection::vec((key(), value()), 0..4)) {
            let (overrides, environment) = (pairs.clone(), pairs.into_iter().map(|(key, value)| {
                (format!("ATLAS_SIDECAR__{}", key.to_uppercase().replace('.', "__")), value)
            }));
            for sources in [
                Sources { overrides, ..Sources::default() },
                Sources { environment: environment.collect(), ..Sources::default() },
            ] {
                match load(&sources) {
                    Ok(loaded) => prop_assert!(!redacted(&loaded.settings).to_string().is_empty()),
                    Err(problems) => prop_assert!(!problems.0.is_empty()),
                }
            }
        }
    }
}
