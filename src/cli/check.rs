//! `check`: the effective configuration without its secrets, then one line per thing that can be looked at.

use std::fmt;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use std::sync::Arc;

use prometheus::Registry;
use rustix::fs::{Access, access};
use serde::Serialize;

use super::{Exit, Invocation, json_line, load, print};
use crate::clock::Clock;
use crate::config::{Loaded, Settings, redacted};
use crate::engine::{self, Checked};
use crate::object::Destination;
use crate::object::probe::{self, Verdict};
use crate::sample::Batch;
use crate::scrape::http;

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What: a key, or a source's name.
    pub name: String,
    /// How it is.
    pub outcome: Outcome,
    /// What was seen, and what to do about it; no secrets.
    pub detail: String,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// `run` would work, but somebody should look.
    Warn,
    /// `run` would not work, or not wholly.
    Fail,
    /// `run` would end with 69: the database.
    Unreachable,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Unreachable => "unreachable",
        })
    }
}

impl Check {
    /// What was seen of `name`.
    pub fn new(name: impl Into<String>, outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { name: name.into(), outcome, detail: detail.into() }
    }
}

/// Loads, looks, prints. 69 where the database is unreachable, 1 where anything else fails.
pub async fn run(invocation: &Invocation) -> Exit {
    let loaded = match load(invocation) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let checks = checks(&loaded).await;
    let shown = redacted(&loaded.settings);
    let text = match invocation.json {
        true => json_line(&serde_json::json!({ "configuration": shown.json(), "checks": checks })),
        false => format!("{shown}\n{}", table(&checks)),
    };
    match print(&text) {
        Exit::Done => exit_of(&checks),
        unwritten => unwritten,
    }
}

/// Everything that is looked at. Nothing is made, written or changed, but for some objects in the destination of backups, which are gone again in the end.
pub async fn checks(loaded: &Loaded) -> Vec<Check> {
    let settings = &loaded.settings;
    let mut checks = vec![
        state_directory(&settings.state_directory),
        listen(settings.server.listen, settings.server.web_config_file.is_some()),
        web_config_file(settings.server.web_config_file.as_deref()),
    ];
    checks.extend(databases(settings).await);
    checks.extend(targets(settings).await);
    checks.extend(destination(settings).await);
    checks.extend(loaded.warnings.iter().map(|warning| Check::new("secrets", Outcome::Warn, warning)));
    if loaded.warnings.is_empty() {
        checks.push(Check::new("secrets", Outcome::Ok, "no file with a secret can be read by everybody"));
    }
    checks
}

async fn databases(settings: &Settings) -> Vec<Check> {
    let line = |(name, checked)| match checked {
        Checked::Good(detail) => Check::new(name, Outcome::Ok, detail),
        Checked::Look(detail) => Check::new(name, Outcome::Warn, detail),
        Checked::Bad(e) => Check::new(name, Outcome::Unreachable, e.message),
    };
    engine::check(&settings.engine, &Clock::system()).await.into_iter().map(line).collect()
}

/// Tries what backups ask of their destination. A folder that is not there yet is left alone.
async fn destination(settings: &Settings) -> Vec<Check> {
    let name = "backup.destination";
    let Some(destination) = settings.backup.destination.clone() else {
        return vec![Check::new(name, Outcome::Warn, "is empty: no backups are made")];
    };
    if !settings.makes_backups() {
        return vec![Check::new(name, Outcome::Ok, "not used: this version makes no backups of PostgreSQL")];
    }
    if let Destination::Dir(folder) = &destination
        && !folder.exists()
    {
        return vec![Check::new(
            name,
            Outcome::Ok,
            format!("`{}` does not exist yet; the first backup makes it", folder.display()),
        )];
    }
    let lines = probe::destination(&settings.backup.object(destination), &Clock::system()).await;
    let check = |line: probe::Line| {
        let outcome = match line.verdict {
            Verdict::Good => Outcome::Ok,
            Verdict::Look => Outcome::Warn,
            Verdict::Bad => Outcome::Fail,
        };
        Check::new(format!("{name}: {}", line.name), outcome, line.words)
    };
    lines.into_iter().map(check).collect()
}

/// Scrapes each target once, as `run` would. One that fails is a warning: it may come up later, and harms nothing but itself.
async fn targets(settings: &Settings) -> Vec<Check> {
    let registry = Registry::new();
    let metrics = Arc::new(http::Metrics::new(&registry));
    let mut checks = Vec::new();
    for mut source in http::sources(&settings.scrape.targets, settings.server.listen, &metrics) {
        let mut batch = Batch::new(Clock::system().now());
        let collected = tokio::time::timeout(source.timeout, source.collector.collect(&mut batch)).await;
        let (outcome, detail) = match collected {
            Ok(Ok(())) => (Outcome::Ok, format!("{} samples", batch.len())),
            Ok(Err(e)) => (Outcome::Warn, e.to_string()),
            Err(_) => (Outcome::Warn, format!("no answer in {:?}", source.timeout)),
        };
        checks.push(Check::new(format!("scrape.targets `{}`", source.name), outcome, detail));
    }
    checks
}

/// The checks as lines of three columns. They are comments of TOML, so that the whole output loads as a configuration.
pub fn table(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let word = checks.iter().map(|check| check.outcome.to_string().len()).max().unwrap_or(0).max(4);
    let line = |check: &Check| format!("# {:<word$}  {:<width$}  {}\n", check.outcome, check.name, check.detail);
    checks.iter().map(line).collect()
}

fn exit_of(checks: &[Check]) -> Exit {
    let any = |outcome| checks.iter().any(|check| check.outcome == outcome);
    if any(Outcome::Unreachable) {
        Exit::Unreachable
    } else if any(Outcome::Fail) {
        Exit::Failed
    } else {
        Exit::Done
    }
}

fn state_directory(path: &Path) -> Check {
    let check = |outcome, detail: String| Check::new("state_directory", outcome, detail);
    let name = path.display();
    match std::fs::metadata(path) {
        Ok(about) if !about.is_dir() => check(Outcome::Fail, format!("`{name}` is not a folder")),
        Ok(_) if access(path, Access::WRITE_OK | Access::EXEC_OK).is_err() => {
            check(Outcome::Fail, format!("`{name}` cannot be written to by this user"))
        }
        Ok(about) => match about.permissions().mode() & 0o7777 {
            mode if mode & 0o077 == 0 => check(Outcome::Ok, format!("`{name}`, mode {mode:04o}")),
            mode => check(Outcome::Warn, format!("`{name}` has mode {mode:04o}; `chmod 700 {name}`")),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => {
            // The nearest folder above that exists decides; `` is the working directory.
            let mut above = path.ancestors().skip(1).map(|p| if p == Path::new("") { Path::new(".") } else { p });
            match above.find(|p| p.exists()) {
                Some(folder) if folder.is_dir() && access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok() => {
                    check(Outcome::Ok, format!("`{name}` does not exist yet; it will be made"))
                }
                folder => {
                    let folder = folder.unwrap_or(path).display();
                    check(Outcome::Fail, format!("`{name}` does not exist and cannot be made in `{folder}`"))
                }
            }
        }
        Err(e) => check(Outcome::Fail, format!("`{name}`: {e}")),
    }
}

fn listen(address: SocketAddr, has_web_config: bool) -> Check {
    let check = |outcome, detail: String| Check::new("server.listen", outcome, detail);
    match TcpListener::bind(address) {
        Ok(_) if !has_web_config && !address.ip().is_loopback() => check(
            Outcome::Warn,
            format!("`{address}` is free; other machines reach it without TLS and users: see `server.web_config_file`"),
        ),
        Ok(_) => check(Outcome::Ok, format!("`{address}` is free")),
        // Usually the sidecar itself, which `check` is asked about while it runs.
        Err(e) if e.kind() == ErrorKind::AddrInUse => {
            check(Outcome::Warn, format!("`{address}` is in use: by a running sidecar, or by another program"))
        }
        Err(e) => check(Outcome::Fail, format!("`{address}`: {e}")),
    }
}

fn web_config_file(path: Option<&Path>) -> Check {
    let check = |outcome, detail: String| Check::new("server.web_config_file", outcome, detail);
    let Some(path) = path else { return check(Outcome::Ok, "none: no TLS and no users".to_owned()) };
    let name = path.display();
    match std::fs::read(path).and_then(|_| std::fs::metadata(path)) {
        // It holds hashes of passwords, which can be guessed at leisure.
        Ok(about) if about.permissions().mode() & 0o004 != 0 => {
            check(Outcome::Warn, format!("everybody on this machine can read `{name}`; `chmod o-r {name}`"))
        }
        Ok(_) => check(Outcome::Ok, format!("`{name}` can be read")),
        Err(e) => check(Outcome::Fail, format!("`{name}`: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_outcome_decides() {
        let checks = |outcomes: &[Outcome]| -> Vec<Check> {
            outcomes.iter().map(|outcome| Check::new("x", *outcome, "")).collect()
        };
        for (outcomes, exit) in [
            (&[Outcome::Ok, Outcome::Warn][..], Exit::Done),
            (&[Outcome::Fail, Outcome::Ok], Exit::Failed),
            (&[Outcome::Fail, Outcome::Unreachable], Exit::Unreachable),
        ] {
            assert_eq!(exit_of(&checks(outcomes)), exit);
        }
    }

    #[test]
    fn a_state_directory_is_judged_without_being_made() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("a/b/state");
        assert_eq!(state_directory(&new).outcome, Outcome::Ok);
        assert!(!folder.path().join("a").exists());
        std::fs::create_dir_all(&new).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(state_directory(&new).outcome, Outcome::Warn);
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o700)).unwrap();
        assert_eq!(state_directory(&new).outcome, Outcome::Ok);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(state_directory(&file).outcome, Outcome::Fail);
        assert_eq!(state_directory(&file.join("state")).outcome, Outcome::Fail);
    }
}
