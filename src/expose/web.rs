//! The web configuration file: TLS, users, response headers and a rate limit, in the format of Prometheus' exporter-toolkit, so that the file
//! an operator has for node_exporter works here too.
//!
//! A first reading that fails ends the start. Later the file and every file it names are looked at twice a second, off the path of
//! requests; a change takes effect for the next request (users, headers, rate) and the next connection (TLS) without a
//! restart. Two rules keep a change from doing harm:
//!
//! - A version that is broken (or half there: a certificate replaced before its key) leaves the last good one in force. It is logged and counted
//!   once per change; `atlas_sidecar_web_config_last_reload_successful` stays at 0 until it is repaired.
//! - A change is read only when two looks in a row saw the same, and an emptied file never takes protection away. A file that an
//!   editor has truncated and not yet written would otherwise open the server for a moment. To run without TLS and users, restart.
//!
//! What differs from the toolkit: TLS is rustls, so only TLS 1.2 and 1.3, and no say in suites and curves; `client_auth_type`s that verify need a
//! client CA (Go falls back to all authorities of the system); `http2` is accepted and without effect; TLS may be switched on
//! and off while running; `/-/healthy` and `/-/ready` ask nobody for a password and have no rate limit.

mod file;
mod rate;
mod san;
mod tls;
mod users;

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hyper::header::{HeaderName, HeaderValue};
use prometheus::{IntCounter, IntGauge, Registry};
use rustls::ServerConfig;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::sample::{Desc, Kind};
use crate::telemetry;

use file::Pem;
use rate::{Bucket, Limit};
use users::{Gate, Users};

pub use users::Verdict;

/// How often the files are looked at. Twice this is the longest until a change is seen to have settled.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The largest file that is read: far above any chain of certificates, far below what would hurt.
const FILE_MAX: u64 = 1024 * 1024;

static FAILURES: Desc = Desc {
    name: "atlas_sidecar_web_config_reload_failures_total",
    kind: Kind::Counter,
    unit: "reloads",
    help: "Changed versions of the web configuration file (or of its certificates) that were broken. The version before stays in force; the log says what is wrong.",
};

static SUCCESSFUL: Desc = Desc {
    name: "atlas_sidecar_web_config_last_reload_successful",
    kind: Kind::Gauge,
    unit: "1",
    help: "1 if the web configuration file is in force as it stands, 0 if it is broken and an earlier version is. Alert on 0: the next restart will fail.",
};

/// The metrics of this module.
pub const METRICS: &[&Desc] = &[&FAILURES, &SUCCESSFUL];

/// Whether the file and everything it names can be used; the error is for people.
pub fn check(path: &Path) -> Result<(), String> {
    load(path, None).1.map(drop)
}

/// What one reading of the file gave.
pub struct Rules {
    tls: Option<Arc<ServerConfig>>,
    headers: Vec<(HeaderName, HeaderValue)>,
    users: Users,
    bucket: Option<Arc<Bucket>>,
}

impl Rules {
    /// For the handshake of a connection; `None` for plain HTTP.
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.clone()
    }

    /// Headers for every response.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// Takes a token of the rate limit, or says how long until there is one.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        self.bucket.as_ref().map_or(Ok(()), |bucket| bucket.take(now))
    }

    fn protects(&self) -> bool {
        self.tls.is_some() || !self.users.is_empty()
    }
}

/// The file in force.
pub struct Web {
    path: PathBuf,
    rules: RwLock<Arc<Rules>>,
    seen: Mutex<Seen>,
    gate: Gate,
    failures: IntCounter,
    successful: IntGauge,
}

/// The files as they were when they were last read, and as they were at the last look if that was different.
struct Seen {
    read: Files,
    settling: Option<Files>,
}

impl Web {
    /// Reads the file for the first time.
    pub fn open(path: &Path, registry: &Registry) -> Result<Self, String> {
        let (read, rules) = load(path, None);
        let rules = rules?;
        let gate = Gate::new()?;
        let successful = telemetry::int_gauge(registry, &SUCCESSFUL);
        successful.set(1);
        Ok(Self {
            path: path.to_owned(),
            rules: RwLock::new(Arc::new(rules)),
            seen: Mutex::new(Seen { read, settling: None }),
            gate,
            failures: telemetry::counter(registry, &FAILURES),
            successful,
        })
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a request with this `Authorization` header may pass.
    pub async fn verdict(&self, rules: &Rules, authorization: Option<&[u8]>) -> Verdict {
        match rules.users.is_empty() {
            true => Verdict::Allowed,
            false => self.gate.verdict(&rules.users, authorization).await,
        }
    }

    /// Follows the files until `stop`.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let web = self.clone();
            // Not waited for at the stop: a network file system may hang. A look that panics has its words on standard
            // error, and the next one tries again.
            let _ = stop.run_until_cancelled(spawn_blocking(move || web.look())).await;
        }
    }

    /// One look: reads the files again if they changed and have settled.
    fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now: Files = seen.read.keys().map(|path| (path.clone(), Stamp::of(path))).collect();
        if now == seen.read {
            seen.settling = None;
        } else if seen.settling.as_ref() != Some(&now) {
            seen.settling = Some(now);
        } else {
            let before = self.rules();
            let (read, rules) = load(&self.path, Some(&before));
            let broken = rules.is_err();
            self.take_over(rules);
            // Of a broken version perhaps not all files are known: those of the version in force are followed as well.
            let known = if broken { now } else { Files::new() };
            *seen = Seen { read: known.into_iter().chain(read).collect(), settling: None };
        }
    }

    fn take_over(&self, rules: Result<Rules, String>) {
        let file = self.path.display();
        match rules {
            Ok(rules) => {
                info!(%file, tls = rules.tls.is_some(), users = !rules.users.is_empty(), "web configuration changed");
                *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
                self.successful.set(1);
            }
            Err(error) => {
                warn!(%file, error, "web configuration is broken, the earlier one stays in force");
                self.failures.inc();
                self.successful.set(0);
            }
        }
    }
}

/// Files and how they were just before they were read.
type Files = BTreeMap<PathBuf, Stamp>;

/// What changes when a file does. The inode is there for replaced files (and for the symlinks by which Kubernetes swaps secrets).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp(Option<(u64, u64, u64, i64, i64)>);

impl Stamp {
    fn of(path: &Path) -> Self {
        let stamp = |m: Metadata| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec());
        Self(std::fs::metadata(path).ok().map(stamp))
    }
}

/// Reads everything. The files are told also where something is wrong, so that a repair is noticed.
fn load(path: &Path, before: Option<&Rules>) -> (Files, Result<Rules, String>) {
    let mut files = Files::new();
    let rules = rules(path, before, &mut files);
    (files, rules)
}

fn rules(path: &Path, before: Option<&Rules>, files: &mut Files) -> Result<Rules, String> {
    let bytes = read(path, files)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| "is not UTF-8".to_owned())?;
    if text.trim().is_empty() && before.is_some_and(Rules::protects) {
        return Err("is empty; TLS and users stay as they were until a restart".to_owned());
    }
    let parsed = file::parse(text, path.parent().unwrap_or(Path::new("")))?;
    let tls = parsed.tls.map(|tls| settings(tls, files).and_then(tls::configuration)).transpose()?.map(Arc::new);
    Ok(Rules {
        tls,
        headers: parsed.headers,
        users: Users::new(parsed.users)?,
        bucket: parsed.rate.map(|limit| bucket(limit, before)),
    })
}

/// The bucket as it stands where its limit is still the same: a changed password does not fill it up.
fn bucket(limit: Limit, before: Option<&Rules>) -> Arc<Bucket> {
    let kept = before.and_then(|before| before.bucket.clone()).filter(|bucket| bucket.limit() == limit);
    kept.unwrap_or_else(|| Arc::new(Bucket::new(limit, Instant::now())))
}

/// Reads the files of the section, all of them even if one fails: each is to be followed.
fn settings(tls: file::Tls, files: &mut Files) -> Result<tls::Settings, String> {
    let mut bytes = |pem: Pem| match pem {
        Pem::Inline(text) => Ok(text.into_bytes()),
        Pem::File(path) => read(&path, files),
    };
    let (certificates, key) = (bytes(tls.certificate), bytes(tls.key));
    let authorities = tls.authorities.map(bytes).transpose();
    Ok(tls::Settings {
        certificates: certificates?,
        key: key?,
        clients: tls.clients,
        authorities: authorities?,
        sans: tls.sans,
        versions: tls.versions,
    })
}

fn read(path: &Path, files: &mut Files) -> Result<Vec<u8>, String> {
    // The stamp first: a change in between is then seen at the next look.
    files.insert(path.to_owned(), Stamp::of(path));
    let failed = |e: io::Error| format!("`{}` cannot be read: {e}", path.display());
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!("`{}` is not a file", path.display()));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > FILE_MAX {
        true => Err(format!("`{}` is larger than {FILE_MAX} bytes", path.display())),
        false => Ok(bytes),
    }
}
