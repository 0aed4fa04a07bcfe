//! From text to the [`Settings`] of every part.
//!
//! Four layers, the later ones win: config/default.toml (compiled in; it is the reference that `default-config` prints), the file, variables
//! `ATLAS_SIDECAR__SECTION__KEY`, and `--set KEY=VALUE`. The merged table is read key by key, and all that is wrong is reported at once, each
//! problem with its key, its value, where that came from, and what is expected. A key that nobody asks for is a problem too: a misspelt one
//! would otherwise do nothing, silently.
//!
//! A secret may stand in the table or in a file that the key with `_file` names. It leaves this module only inside [`Settings`]; neither a
//! problem, nor a warning, nor [`redacted`], nor the `Debug` of [`Settings`] shows one.

mod layers;
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
    /// `[log]`
    pub log: telemetry::Settings,
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
        (None, true) => unreachable!("settings are missing only where a problem was noted"),
        (_, false) => Err(Problems(unreadable)),
    }
}
