//! What backups are for: a database under write load, a sidecar that ships it, and a machine that has lost everything. Each state that was backed up comes
//! back by our command and by the script, from nothing but the destination; both ways give the same bytes, and what is in them is what the application had
//! committed.

mod followed;
mod killed;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::s3::S3Server;
use crate::support::{SIDECAR, Sidecar, run, sidecar, wait_for};

/// What a wait of a loaded machine may take before the test says that it did not come.
const SOON: Duration = Duration::from_secs(60);

/// Rows of the sidecar's own come often.
const QUICK: &str = "[scrape]\ninterval = \"1s\"\ntimeout = \"900ms\"\n[write]\nbatch_age = \"200ms\"\n";

/// How many transactions of the application are there. Each makes one row here and one in the other table.
const COMMITTED: &str = "SELECT count(*) FROM processing_queue";

/// What the sqlite3 shell answers. It waits for locks as an application does.
fn sql(database: &Path, sql: &str) -> String {
    run("sqlite3", &["-bail", "-cmd", ".timeout 20000", database.to_str().unwrap(), sql]).trim_end().to_owned()
}

fn committed(database: &Path) -> u64 {
    sql(database, COMMITTED).parse().unwrap()
}

/// `tests/fixtures/python/application.py`, until it is dropped: then it dies in the middle of what it does.
struct Application(Child);

impl Application {
    fn start(database: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/python/application.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(database).arg("600").stdout(Stdio::null());
        Self(command.spawn().expect("the README's test command installs python3"))
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where backups go, seen from any machine.
enum Store {
    S3(S3Server),
    Folder(TempDir),
}

impl Store {
    fn url(&self) -> String {
        match self {
            Self::S3(server) => format!("s3://{}/atlas", server.bucket),
            Self::Folder(folder) => format!("file:{}", folder.path().join("backups").display()),
        }
    }

    /// `[backup.s3]` for a machine in `folder`, where the credentials are put.
    fn section(&self, folder: &Path) -> String {
        match self {
            Self::S3(server) => s3_section(server, &server.endpoint, folder),
            Self::Folder(_) => String::new(),
        }
    }

    /// A copy of the destination, as `aws s3 sync` or `cp -r` would make it.
    fn downloaded(&self, to: &Path) {
        match self {
            Self::S3(server) => download(server, to),
            Self::Folder(folder) => {
                run("cp", &["-r", folder.path().join("backups").to_str().unwrap(), to.to_str().unwrap()]);
            }
        }
    }
}

/// `[backup.s3]` with the credentials of `server` in files of `folder`.
fn s3_section(server: &S3Server, endpoint: &str, folder: &Path) -> String {
    for (file, text) in [("s3-id", &server.access_key), ("s3-secret", &server.secret)] {
        std::fs::write(folder.join(file), text).unwrap();
        run("chmod", &["600", folder.join(file).to_str().unwrap()]);
    }
    format!(
        "[backup.s3]\nendpoint = \"{endpoint}\"\npath_style = true\naccess_key_id_file = \"s3-id\"\nsecret_access_key_file = \"s3-secret\"\n"
    )
}

fn download(server: &S3Server, to: &Path) {
    for key in server.keys() {
        let file = to.join(key.strip_prefix("atlas/").expect("nothing is written beside the prefix"));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, server.bytes(&key).unwrap()).unwrap();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must do what it is asked.
fn must(folder: &Path, args: &[&str]) -> Output {
    let out = sidecar(folder, &[&["--config", "sidecar.toml"], args].concat());
    assert_eq!(out.status.code(), Some(0), "{args:?}: {}{}", text(&out.stdout), text(&out.stderr));
    out
}

fn list(folder: &Path, destination: &str) -> Value {
    serde_json::from_slice(&must(folder, &["backup", "list", "--destination", destination, "--json"]).stdout).unwrap()
}

/// A mark as `backup list` tells it.
struct Mark {
    observed: String,
    position: String,
}

fn marks(list: &Value) -> Vec<Mark> {
    let segments = list["segments"].as_array().unwrap();
    let mark = |segment: &Value| {
        assert_eq!(segment["state"], "restorable", "{segment:#}");
        let manifest = &segment["manifest"];
        Mark { observed: manifest["observed"].as_str().unwrap().to_owned(), position: manifest["to"].to_string() }
    };
    segments.iter().map(mark).collect()
}

/// A machine that has a file with credentials, a copy of the destination, and nothing else.
struct FreshMachine {
    folder: TempDir,
    destination: String,
    identity: Option<PathBuf>,
}

impl FreshMachine {
    fn new(store: &Store, identity: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = store.section(folder.path());
        let identity = identity.map(|from| {
            let to = folder.path().join("identity.txt");
            run("cp", &["-p", from.to_str().unwrap(), to.to_str().unwrap()]);
            config.push_str("[backup.encryption]\nidentity_file = \"identity.txt\"\n");
            to
        });
        std::fs::write(folder.path().join("sidecar.toml"), config).unwrap();
        store.downloaded(&folder.path().join("copy"));
        Self { folder, destination: store.url(), identity }
    }

    fn marks(&self) -> Vec<Mark> {
        marks(&list(self.folder.path(), &self.destination))
    }

    /// The database of a mark, by both ways; they give the same bytes.
    fn restored(&self, mark: &Mark) -> PathBuf {
        let name = format!("ours-{}.db", mark.position);
        let (ours, by_hand) = (self.folder.path().join(&name), self.folder.path().join("by-hand.db"));
        let args = ["restore", "--destination", &self.destination, "--at", &mark.observed, "--to", &name];
        must(self.folder.path(), &args);
        let mut script = Command::new("sh");
        script.arg("copy/restore.sh").args(["copy", "by-hand.db", &mark.position]).current_dir(self.folder.path());
        if let Some(identity) = &self.identity {
            script.env("IDENTITY", identity);
        }
        let out = script.output().unwrap();
        assert!(out.status.success(), "restore.sh: {}{}", text(&out.stdout), text(&out.stderr));
        assert!(std::fs::read(&ours).unwrap() == std::fs::read(&by_hand).unwrap(), "position {}", mark.position);
        std::fs::remove_file(by_hand).unwrap();
        assert_eq!(sql(&ours, "PRAGMA integrity_check; PRAGMA foreign_key_check"), "ok");
        ours
    }
}

/// Half a transaction of the application would tell the two tables apart, and a lost one would leave a hole in its numbers.
fn holds_whole_transactions(database: &Path) -> u64 {
    let count = committed(database);
    let theirs = sql(
        database,
        "SELECT count(*), coalesce(min(metric_value), 0), coalesce(max(metric_value), -2) FROM system_metrics WHERE metric_name = 'app.jobs_done_total'",
    );
    assert_eq!(theirs, format!("{count}|0|{}", count as i64 * 2 - 2));
    count
}

/// The application's rows in the order in which they came, up to `count`.
fn rows(database: &Path, count: u64) -> String {
    sql(database, &format!("SELECT rowid, * FROM processing_queue WHERE rowid <= {count} ORDER BY rowid"))
}

/// Lives on one machine, and comes back on another, by backups that are asked for. `more` is what stands in `[backup]`.
fn comes_back(store: &Store, more: &str, encryption: &str, identity: Option<&Path>) {
    let machine = tempfile::tempdir().unwrap();
    let folder = machine.path();
    let config = format!(
        "{QUICK}[backup]\ndestination = \"{}\"\n{more}{}{encryption}[backup.sqlite]\ninterval = \"\"\n",
        store.url(),
        store.section(folder)
    );
    let database = folder.join("data/atlas.db");
    let running = Sidecar::start(folder, &config);
    wait_for("the first full, which nobody asked for", SOON, || {
        Some(()).filter(|()| running.log_text().matches("backup committed").count() == 1)
    });
    let application = Application::start(&database);
    // What the application had committed before and after each backup: the backup holds something between.
    let mut known = vec![(0, 0)];
    let mut back_up = |kind: &str| {
        let before = wait_for("the application to go on", SOON, || {
            Some(committed(&database)).filter(|now| *now >= known.last().unwrap().1 + 20)
        });
        must(folder, &["backup", kind]);
        known.push((before, committed(&database)));
    };
    for kind in ["incremental", "incremental", "full", "incremental", "incremental"] {
        back_up(kind);
    }
    assert_eq!(running.stop(), 0);
    // Another process goes on where the first one was; this one is the command's own.
    back_up("incremental");
    drop(application);
    back_up_the_rest(folder, &mut known, &database);
    let kept = tempfile::tempdir().unwrap();
    for file in ["atlas.db", "atlas.db-wal", "atlas.db-shm"] {
        let _ = std::fs::copy(folder.join("data").join(file), kept.path().join(file));
    }
    machine.close().unwrap();

    let fresh = FreshMachine::new(store, identity);
    let marks = fresh.marks();
    assert_eq!(marks.len(), known.len());
    must(fresh.folder.path(), &["backup", "verify", "--deep", "--destination", &fresh.destination]);
    for (mark, (before, after)) in marks.iter().zip(&known) {
        let restored = fresh.restored(mark);
        let count = holds_whole_transactions(&restored);
        assert!((*before..=*after).contains(&count), "{}: {before} <= {count} <= {after}", mark.position);
        assert_eq!(rows(&restored, count), rows(&kept.path().join("atlas.db"), count));
    }
}

/// Nobody writes any more: the last backup holds all there is.
fn back_up_the_rest(folder: &Path, known: &mut Vec<(u64, u64)>, database: &Path) {
    must(folder, &["backup", "incremental"]);
    let all = committed(database);
    known.push((all, all));
}

#[test]
fn from_s3_with_the_settings_of_the_start() {
    comes_back(&Store::S3(S3Server::start()), "", "", None);
}

#[test]
fn from_s3_with_zstd_and_encrypted_for_a_key_that_is_elsewhere() {
    let keys = tempfile::tempdir().unwrap();
    let identity = keys.path().join("identity.txt");
    run("age-keygen", &["-o", identity.to_str().unwrap()]);
    let recipient = run("age-keygen", &["-y", identity.to_str().unwrap()]);
    let encryption = format!("[backup.encryption]\nrecipients = [\"{}\"]\n", recipient.trim());
    comes_back(&Store::S3(S3Server::start()), "codec = \"zstd\"\n", &encryption, Some(&identity));
}

#[test]
fn from_a_folder() {
    comes_back(&Store::Folder(tempfile::tempdir().unwrap()), "", "", None);
}
