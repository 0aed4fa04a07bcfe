//! A PostgreSQL server of the test's own: made by `initdb` in a scratch folder, on a free port, run by an unprivileged user, gone with the test.
//!
//! `initdb` takes seconds, so its result is made once per machine and copied; the copy and the start take some 300 ms.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::FlockOperation;
use tempfile::TempDir;

use super::{free_address, run, wait_for};

/// The application's role, which owns what [`Cluster::database`] makes; and a password that nothing may show.
pub const ROLE: &str = "atlas";
pub const PASSWORD: &str = "canary-pg-5e1f";

/// A running server.
pub struct Cluster {
    folder: TempDir,
    pub port: u16,
    settings: Vec<(String, String)>,
    server: Option<Child>,
}

/// The way in which a server is ended (pg_ctl's words).
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// SIGINT: sessions are ended, the state is written.
    Fast,
    /// SIGQUIT: as a crash, and recovery at the next start.
    Immediate,
}

impl Cluster {
    /// Starts a server with nothing in it but the role [`ROLE`].
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with lines of `postgresql.conf`.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        run("cp", &["-a", template().to_str().unwrap(), folder.path().join("data").to_str().unwrap()]);
        let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut cluster = Self { folder, port: free_address().port(), settings, server: None };
        cluster.restart();
        cluster
    }

    /// Starts a standby of it that follows it by streaming.
    pub fn standby(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(&data, PermissionsExt::from_mode(0o700)).unwrap();
        let owner = self.data().metadata().unwrap();
        std::os::unix::fs::chown(&data, Some(owner.uid()), Some(owner.gid())).unwrap();
        let mut copy = as_server_user("pg_basebackup");
        copy.args(["-R", "--no-sync", "-c", "fast", "-U", "postgres", "-p", &self.port.to_string(), "-h"])
            .arg(self.data());
        let out = copy.arg("-D").arg(&data).output().unwrap();
        assert!(out.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&out.stderr));
        let mut standby = Self { folder, port: free_address().port(), settings: self.settings.clone(), server: None };
        standby.restart();
        standby
    }

    /// Makes a standby a server that can be written to.
    pub fn promote(&self) {
        assert_eq!(self.psql("postgres", "SELECT pg_promote(true, 30)"), "t");
    }

    /// Where the server's files are.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A folder beside them that the server's user may write to.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let owner = self.data().metadata().unwrap();
        std::os::unix::fs::chown(&folder, Some(owner.uid()), Some(owner.gid())).unwrap();
        folder
    }

    /// Starts it again, at the same port, and waits until it answers.
    pub fn restart(&mut self) {
        self.stop(Stop::Fast);
        let log = OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut command = as_server_user("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        for (key, value) in [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", self.data().to_str().unwrap()),
            ("fsync", "off"),
            ("shared_buffers", "16MB"),
            ("max_connections", "40"),
            ("log_min_messages", "info"),
        ] {
            command.args(["-c", &format!("{key}={value}")]);
        }
        for (key, value) in &self.settings {
            command.args(["-c", &format!("{key}={value}")]);
        }
        let server = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.server = Some(server);
        wait_for(&format!("the server; log: {}", self.log().display()), Duration::from_secs(60), || {
            self.try_psql("postgres", "SELECT 1").ok()
        });
    }

    /// Ends it and waits for that.
    pub fn stop(&mut self, how: Stop) {
        let Some(mut server) = self.server.take() else { return };
        // `setpriv` has become the server, so this pid is the postmaster's.
        let signal = match how {
            Stop::Fast => rustix::process::Signal::INT,
            Stop::Immediate => rustix::process::Signal::QUIT,
        };
        let pid = rustix::process::Pid::from_child(&server);
        let _ = rustix::process::kill_process(pid, signal);
        wait_for("the server to end", Duration::from_secs(60), || server.try_wait().unwrap());
    }

    /// Sends the postmaster `signal`, by its name for `kill`.
    pub fn signal(&self, signal: &str) {
        let pid = self.server.as_ref().expect("the server runs").id().to_string();
        run("kill", &[&format!("-{signal}"), &pid]);
    }

    /// The largest file that new sessions may write; nothing for no limit.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let pid = self.server.as_ref().expect("the server runs").id().to_string();
        let soft = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
        // As the server's user: that of another user may be changed with a capability only, which root of a container may not have.
        let mut prlimit = as_server_user_run("prlimit".as_ref());
        let out = prlimit.args(["--pid", &pid, &format!("--fsize={soft}:")]).output().unwrap();
        assert!(out.status.success(), "prlimit: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    /// What the server logged.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Runs `sql` in `database` as the superuser and gives its rows: columns by `|`, one row per line. Panics where it fails.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// The same; the error is what `psql` said.
    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = self.psql_command(database);
        let out = psql.args(["-c", sql]).output().expect("`psql` starts: the README's test command installs it");
        match out.status.success() {
            true => Ok(String::from_utf8(out.stdout).unwrap().trim_end().to_owned()),
            false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    }

    /// `psql` as the superuser, over the server's socket.
    pub fn psql_command(&self, database: &str) -> Command {
        let mut psql = Command::new(program("psql"));
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-h"]);
        psql.arg(self.data()).args(["-p", &self.port.to_string()]).stdin(Stdio::null());
        psql
    }

    /// Makes the database `name`, owned by [`ROLE`], and gives its URL with the password.
    pub fn database(&self, name: &str) -> String {
        self.psql("postgres", &format!("CREATE DATABASE {name} OWNER {ROLE}"));
        self.url(name)
    }

    /// The URL of database `name` for [`ROLE`].
    pub fn url(&self, name: &str) -> String {
        format!("postgres://{ROLE}:{PASSWORD}@127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop(Stop::Immediate);
    }
}

/// The newest installed server's `name`.
pub fn program(name: &str) -> PathBuf {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.map(|e| e.unwrap().path()).collect())
        .unwrap_or_default();
    versions.sort();
    let newest = versions.pop().expect("PostgreSQL is installed: the README's test command does it");
    newest.join("bin").join(name)
}

/// A command of the server, run by somebody who is not root, which PostgreSQL refuses; it ends with the test.
fn as_server_user(name: &str) -> Command {
    as_server_user_run(&program(name))
}

fn as_server_user_run(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg("--").arg(program).env_remove("PGHOST").env_remove("PGPORT").current_dir("/");
    command
}

/// A cluster as `initdb` makes it, made once.
fn template() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    let version = program("postgres").metadata().unwrap().mtime();
    let name = format!("atlas-sidecar-tests-postgresql-{user}-{version}");
    let folder = std::env::temp_dir().join(&name);
    // Tests are processes: the first one makes it, the others wait.
    let lock = File::create(std::env::temp_dir().join(format!("{name}.lock"))).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    let done = folder.join("template-is-complete");
    if !done.exists() {
        let _ = std::fs::remove_dir_all(&folder);
        make_template(&folder);
        File::create(done).unwrap();
    }
    folder
}

fn make_template(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700)).unwrap();
    if rustix::process::geteuid().is_root() {
        run("chown", &["postgres:", folder.to_str().unwrap()]);
    }
    // Small WAL segments make the copy small.
    let made = as_server_user("initdb")
        .args(["--no-sync", "-E", "UTF8", "--locale=C.UTF-8", "--wal-segsize=1", "-U", "postgres", "-A", "trust", "-D"])
        .arg(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let hba = "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(folder.join("pg_hba.conf"), hba).unwrap();
    let mut single = as_server_user("postgres");
    single.args(["--single", "-D"]).arg(folder).arg("postgres");
    let mut single = single.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let role = format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'\n");
    std::io::Write::write_all(&mut single.stdin.take().unwrap(), role.as_bytes()).unwrap();
    assert!(single.wait().unwrap().success());
}
