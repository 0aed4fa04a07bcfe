//! `log-pruning` on files, in scratch folders with everything that a folder of logs may hold.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::jobs::prune_logs::{Files, Guarded, Settings};
use atlas_sidecar::sample::globs::Globs;
use atlas_sidecar::store::{End, Ended};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};
use tempfile::TempDir;

use super::pruning::{NOW, pruned, pruned_within};
use super::{OnSqlite, SOON, at, value};
use crate::support::run;

const DAY: Duration = Duration::from_secs(86_400);

/// A folder of logs, with the runs of the job in it.
struct Logs {
    folder: TempDir,
    on: OnSqlite,
    rule: Files,
    guarded: Guarded,
}

impl Logs {
    /// Seven days, and no compression.
    async fn new(glob: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("logs");
        fs::create_dir(&directory).unwrap();
        let rule = Files { directory, glob: Globs::new([glob]), keep: 7 * DAY, compress_after: None };
        Self { folder, on: OnSqlite::new().await, rule, guarded: Guarded::default() }
    }

    fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.rule.directory.join(Path::new(name.as_ref()))
    }

    /// A file last written `age` ago.
    fn file(&self, name: impl AsRef<OsStr>, age: Duration) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, format!("{}\n", "a line of a log ".repeat(100))).unwrap();
        touch(&path, at(NOW).before(age));
        path
    }

    /// What is there, sorted.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.rule.directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().escape_debug().to_string()).collect();
        names.sort();
        names
    }

    async fn run_with(&self, dry_run: bool) -> (End, String) {
        let settings =
            Settings { files: vec![self.rule.clone()], guarded: self.guarded.clone(), ..Settings::default() };
        pruned(&self.on.log, &self.on.expiry, settings, at(NOW), dry_run).await
    }

    async fn run(&self) -> (End, String) {
        self.run_with(false).await
    }

    fn kept(&self, page: &str, reason: &str) -> f64 {
        let directory = self.rule.directory.display();
        let series = format!("atlas_sidecar_retention_files_kept{{directory=\"{directory}\",reason=\"{reason}\"}}");
        value(page, &series).unwrap_or(0.0)
    }
}

/// Sets the time of last writing of what is at `path` itself, whatever it is.
fn touch(path: &Path, time: Timestamp) {
    let time = Timespec { tv_sec: time.millis().div_euclid(1000), tv_nsec: time.millis().rem_euclid(1000) * 1_000_000 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Another process that holds a file open; it ends with the test.
struct Holder(Child);

impl Holder {
    fn of(path: &Path, how: &str) -> Self {
        let script = format!("exec 3{how}\"$0\"; echo ready; exec sleep 600");
        let mut child = Command::new("sh").arg("-c").arg(script).arg(path).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn r21_old_logs_go_and_everything_else_stays() {
    let logs = Logs::new("*.log*").await;
    let outside = logs.folder.path().join("outside.log");
    fs::write(&outside, "not a log").unwrap();
    touch(&outside, at(NOW).before(30 * DAY));
    for name in ["gone.log", "gone.log.1", "gone two.log", "gone\nline.log"] {
        logs.file(name, 8 * DAY);
    }
    logs.file(OsStr::from_bytes(b"gone-\xff.log"), 8 * DAY);
    logs.file("young.log", 6 * DAY);
    logs.file("newest.log", DAY);
    logs.file("other.txt", 30 * DAY);
    logs.file(".hidden.log", 30 * DAY);
    logs.file("future.log", Duration::ZERO);
    touch(&logs.path("future.log"), at(NOW).after(DAY));
    symlink(&outside, logs.path("link.log")).unwrap();
    symlink(logs.folder.path(), logs.path("link-to-folder.log")).unwrap();
    symlink("nowhere", logs.path("dangling.log")).unwrap();
    fs::create_dir(logs.path("folder.log")).unwrap();
    fs::write(logs.path("folder.log/inner.log"), "x").unwrap();
    fs::hard_link(&outside, logs.path("hard.log")).unwrap();
    rustix::fs::mknodat(CWD, logs.path("fifo.log"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(logs.path("socket.log")).unwrap();
    for name in ["link.log", "link-to-folder.log", "dangling.log", "folder.log", "fifo.log", "socket.log"] {
        touch(&logs.path(name), at(NOW).before(30 * DAY));
    }
    touch(&logs.path("folder.log/inner.log"), at(NOW).before(30 * DAY));
    let before = logs.names();

    let (end, _) = logs.run_with(true).await;
    assert_eq!(end.ended, Ended::Success);
    assert!(end.words.starts_with("5 files (8005 bytes, first \"gone"), "{}", end.words);
    assert_eq!(logs.names(), before, "a dry run changes nothing");

    let (end, page) = logs.run().await;
    assert_eq!((end.ended, end.bytes), (Ended::Success, 8005), "{}", end.words);
    let stay: Vec<_> = before.into_iter().filter(|name| !name.starts_with("gone")).collect();
    assert_eq!(logs.names(), stay);
    assert_eq!(fs::read_to_string(&outside).unwrap(), "not a log");
    assert!(logs.path("folder.log/inner.log").exists());
    assert_eq!(logs.kept(&page, "not_regular"), 6.0, "{page}");
    assert_eq!(logs.kept(&page, "linked"), 1.0);
    assert_eq!(logs.kept(&page, "future"), 1.0);
    let directory = logs.rule.directory.display();
    let done = |family: &str| value(&page, &format!("{family}{{action=\"deleted\",directory=\"{directory}\"}}"));
    assert_eq!(done("atlas_sidecar_retention_files_total"), Some(5.0));
    assert_eq!(done("atlas_sidecar_retention_file_bytes_total"), Some(8005.0));
}

#[tokio::test]
async fn r21_the_log_in_use_stays_whoever_holds_it() {
    let logs = Logs::new("*.log*").await;
    let written = logs.file("written.log", 30 * DAY);
    let read = logs.file("read.log", 29 * DAY);
    logs.file("gone.log", 28 * DAY);
    logs.file("newest.log", 27 * DAY);
    let _writer = Holder::of(&written, ">>");
    let _reader = Holder::of(&read, "<");
    // As log rotation does it: the name changes, the process goes on writing.
    fs::rename(&written, logs.path("written.log.1")).unwrap();
    let (end, page) = logs.run().await;
    assert_eq!(end.ended, Ended::Success, "{}", end.words);
    assert_eq!(logs.names(), ["newest.log", "written.log.1"], "who only reads keeps nothing");
    assert_eq!((logs.kept(&page, "open"), logs.kept(&page, "newest")), (1.0, 1.0));
}

#[tokio::test]
async fn r21_directories_that_must_not_be_are_refused() {
    let mut logs = Logs::new("*.log").await;
    logs.file("old.log", 30 * DAY);
    logs.file("newest.log", DAY);
    let real = logs.rule.directory.clone();
    let folder = logs.folder.path().to_owned();
    symlink(&real, folder.join("link")).unwrap();
    fs::create_dir(real.join("sub")).unwrap();
    symlink(&folder, folder.join("detour")).unwrap();
    let home = std::env::home_dir().unwrap();
    for (path, words) in [
        (PathBuf::from("/"), "the root of the file system"),
        (home.canonicalize().unwrap(), "home directory"),
        (folder.join("link"), "`link` on its path is a link"),
        (folder.join("detour/logs"), "`detour` on its path is a link"),
        (real.join("old.log"), "not a directory"),
        (real.join("sub/.."), "`..`"),
        (PathBuf::from("logs"), "`..`"),
    ] {
        logs.rule.directory = path.clone();
        let (end, _) = logs.run().await;
        // A relative path is walked from the root: there is none.
        let refused = end.ended == Ended::Failed && end.words.contains(words);
        assert!(refused || (path.is_relative() && end.ended == Ended::Skipped), "{path:?}: {}", end.words);
    }
    logs.rule.directory = folder.join("nothing/here");
    let (end, _) = logs.run().await;
    assert_eq!(end.ended, Ended::Skipped, "R-22: {}", end.words);
    // Whatever it is called by.
    logs.rule.directory = real.clone();
    for state_directory in [real.clone(), folder.clone(), folder.join("link")] {
        logs.guarded.state_directory = state_directory;
        let (end, _) = logs.run().await;
        assert!(end.words.contains("`state_directory`"), "{}", end.words);
    }
    logs.guarded = Guarded::default();
    fs::set_permissions(&real, Permissions::from_mode(0o1777)).unwrap();
    let (end, _) = logs.run().await;
    assert!(end.ended == Ended::Failed && end.words.contains("everybody may write"), "{}", end.words);
    assert!(real.join("old.log").exists());
    fs::set_permissions(&real, Permissions::from_mode(0o775)).unwrap();
    // The database, under any name.
    logs.guarded.files = vec![folder.join("link/old.log")];
    let (end, page) = logs.run().await;
    assert_eq!((end.ended, logs.kept(&page, "guarded")), (Ended::Success, 1.0), "{}", end.words);
    assert!(real.join("old.log").exists());
    logs.guarded = Guarded::default();
    assert_eq!(logs.run().await.0.ended, Ended::Success);
    assert_eq!(logs.names(), ["newest.log", "sub"]);
}

#[tokio::test]
async fn ten_thousand_files_go_in_one_run() {
    let logs = Logs::new("access.log.*").await;
    for n in 0..10_000 {
        let path = logs.path(format!("access.log.{n}"));
        fs::write(&path, "x").unwrap();
        touch(&path, at(NOW).before(8 * DAY));
    }
    let newest = logs.file("access.log.0", DAY);
    let (end, _) = logs.run().await;
    assert_eq!((end.ended, end.bytes), (Ended::Success, 9999), "{}", end.words);
    assert_eq!(fs::read_dir(&logs.rule.directory).unwrap().count(), 1);
    assert!(newest.exists());
    println!("{:?}", end.took);
}

#[tokio::test]
async fn what_is_compressed_is_the_same_and_goes_in_its_time() {
    let mut logs = Logs::new("*.log").await;
    logs.rule.compress_after = Some(DAY);
    let path = logs.file("a.log", 2 * DAY);
    // Larger than any block, and not all of it compressible.
    let mut content = vec![0u8; 300_000];
    File::open("/dev/urandom").and_then(|mut f| std::io::Read::read_exact(&mut f, &mut content)).unwrap();
    content.extend(std::iter::repeat_n(b"line\n", 200_000).flatten());
    fs::write(&path, &content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    touch(&path, at(NOW).before(2 * DAY));
    let before = fs::metadata(&path).unwrap();
    logs.file("packed.log.gz", 2 * DAY);
    logs.file("newest.log", DAY / 2);
    fs::write(logs.path("empty.log"), "").unwrap();
    touch(&logs.path("empty.log"), at(NOW).before(2 * DAY));
    // Compressed already, by somebody else, into something else.
    logs.file("taken.log", 2 * DAY);
    fs::write(logs.path("taken.log.gz"), "not ours").unwrap();
    touch(&logs.path("taken.log.gz"), at(NOW).before(2 * DAY));

    let (end, page) = logs.run().await;
    assert_eq!(end.ended, Ended::Success, "{}", end.words);
    assert_eq!(
        logs.names(),
        ["a.log.gz", "empty.log", "newest.log", "packed.log.gz", "taken.log", "taken.log.gz"],
        "{}",
        end.words
    );
    assert_eq!(fs::read(logs.path("taken.log.gz")).unwrap(), b"not ours");
    assert_eq!(logs.kept(&page, "other_gz"), 1.0);
    let packed = logs.path("a.log.gz");
    let out = Command::new("gzip").arg("-dc").arg(&packed).output().unwrap();
    assert!(out.status.success());
    assert!(out.stdout == content, "the same bytes");
    let after = fs::metadata(&packed).unwrap();
    let of = |about: &fs::Metadata| (about.mode(), about.uid(), about.gid(), about.modified().unwrap());
    assert_eq!(of(&after), of(&before));
    assert_eq!(end.bytes, before.len() - after.len());
    run("gzip", &["-t", packed.to_str().unwrap()]);

    // Five days later by its time, which it has kept.
    touch(&packed, at(NOW).before(8 * DAY));
    logs.run().await;
    assert!(!packed.exists());
    assert!(!logs.names().iter().any(|name| name.contains("tmp")));
}

/// A crash after each effect of the compression: the state that it leaves, and what the next run makes of it.
#[tokio::test]
async fn what_a_crash_leaves_is_finished_by_the_next_run() {
    let mut logs = Logs::new("*.log").await;
    logs.rule.compress_after = Some(DAY);
    logs.file("newest.log", Duration::ZERO);
    let content = fs::read(logs.path("newest.log")).unwrap();
    let unpacked = |name: &str| Command::new("gzip").arg("-dc").arg(logs.path(name)).output().unwrap().stdout;
    // Half written.
    logs.file("a.log", 2 * DAY);
    fs::write(logs.path(".atlas-sidecar.gz.tmp"), "half of a gzip").unwrap();
    logs.run().await;
    assert_eq!(logs.names(), ["a.log.gz", "newest.log"]);
    assert_eq!(unpacked("a.log.gz"), content);
    // Renamed, and the source still there.
    logs.file("a.log", 2 * DAY);
    let (end, _) = logs.run().await;
    assert_eq!(logs.names(), ["a.log.gz", "newest.log"], "{}", end.words);
    assert_eq!(unpacked("a.log.gz"), content);
    // The same name, but a file that is not what was compressed: both stay.
    let path = logs.file("a.log", 2 * DAY);
    fs::write(&path, "another log").unwrap();
    touch(&path, at(NOW).before(2 * DAY));
    let (_, page) = logs.run().await;
    assert_eq!(logs.names(), ["a.log", "a.log.gz", "newest.log"]);
    assert_eq!(logs.kept(&page, "other_gz"), 1.0);
    // A torn one.
    logs.file("a.log", 2 * DAY);
    let torn = fs::read(logs.path("a.log.gz")).unwrap();
    fs::write(logs.path("a.log.gz"), &torn[..torn.len() - 4]).unwrap();
    touch(&logs.path("a.log.gz"), at(NOW).before(2 * DAY));
    logs.run().await;
    assert_eq!(logs.names(), ["a.log", "a.log.gz", "newest.log"]);
    assert_eq!(fs::read(logs.path("a.log")).unwrap(), content);
}

/// What is at our own temporary name and is not ours is neither followed nor written to.
#[tokio::test]
async fn a_trap_at_the_temporary_name_catches_nothing() {
    let mut logs = Logs::new("*.log").await;
    logs.rule.compress_after = Some(DAY);
    logs.file("newest.log", Duration::ZERO);
    logs.file("a.log", 2 * DAY);
    let precious = logs.folder.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    let trap = logs.path(".atlas-sidecar.gz.tmp");
    symlink(&precious, &trap).unwrap();
    let (end, _) = logs.run().await;
    assert_eq!(end.ended, Ended::Failed, "{}", end.words);
    fs::remove_file(&trap).unwrap();
    fs::hard_link(&precious, &trap).unwrap();
    let (_, page) = logs.run().await;
    assert_eq!(logs.kept(&page, "busy"), 1.0);
    fs::remove_file(&trap).unwrap();
    rustix::fs::mknodat(CWD, &trap, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let (_, page) = logs.run().await;
    assert_eq!(logs.kept(&page, "busy"), 1.0);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert!(logs.path("a.log").exists());
}

/// A file that would take minutes: the timeout reaches it, and nothing is left behind.
#[tokio::test]
async fn a_compression_that_is_stopped_stops() {
    let mut logs = Logs::new("*.log").await;
    logs.rule.compress_after = Some(DAY);
    logs.file("newest.log", Duration::ZERO);
    let path = logs.path("huge.log");
    // A hole, which takes no space.
    File::create(&path).unwrap().set_len(64 << 30).unwrap();
    touch(&path, at(NOW).before(2 * DAY));
    let settings = Settings { files: vec![logs.rule.clone()], ..Settings::default() };
    let since = Instant::now();
    let limit = Duration::from_secs(1);
    let (end, page) = pruned_within(&logs.on.log, &logs.on.expiry, settings, at(NOW), false, limit).await;
    // Where the disk has less than 64 GiB, it is not begun.
    let no_room = logs.kept(&page, "no_space") == 1.0;
    assert!(end.ended == Ended::TimedOut || no_room, "{:?} {}", end.ended, end.words);
    // 64 GiB take minutes, and its grace is five seconds.
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    assert_eq!(logs.names(), ["huge.log", "newest.log"]);
}

/// As a user who may neither read one directory nor delete in the other: said, and no harm done. Only root can become such a user; others are one.
#[test]
fn what_is_not_allowed_is_a_failure_that_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    let old = |directory: &str| {
        let path = root.join(directory);
        fs::create_dir(&path).unwrap();
        for (name, age) in [("old.log", 30), ("new.log", 1)] {
            let file = File::create(path.join(name)).unwrap();
            file.set_modified(fs::metadata("/proc/self").unwrap().modified().unwrap() - age * DAY).unwrap();
        }
        path
    };
    let (closed, fixed) = (old("closed"), old("fixed"));
    fs::set_permissions(&closed, Permissions::from_mode(0o311)).unwrap();
    fs::set_permissions(&fixed, Permissions::from_mode(0o555)).unwrap();
    let files = [&closed, &fixed]
        .map(|path| format!("[[retention.files]]\ndirectory = \"{}\"\nglob = \"*.log\"\n", path.display()));
    let toml = format!(
        "state_directory = \"{0}/own/state\"\n[database]\nurl = \"sqlite://{0}/own/atlas.db\"\n{1}",
        root.display(),
        files.concat()
    );
    fs::write(root.join("sidecar.toml"), toml).unwrap();
    fs::create_dir(root.join("own")).unwrap();
    for (path, mode) in [(root.join("own"), 0o777), (root.clone(), 0o755), (root.join("sidecar.toml"), 0o644)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    // Where the tests live need not be open to others.
    let copy = root.join("sidecar");
    fs::copy(crate::support::SIDECAR, &copy).unwrap();
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut command = match rustix::process::geteuid().is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(nobody).arg(&copy);
            command
        }
        false => Command::new(&copy),
    };
    command.args(["--config", "sidecar.toml", "jobs", "run", "log-pruning"]).current_dir(&root);
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "{said}");
    for words in
        ["/closed`: `", "cannot be opened: Permission denied", "1 failed, first \"old.log\": Permission denied"]
    {
        assert!(said.contains(words), "{words} in {said}");
    }
    fs::set_permissions(&closed, Permissions::from_mode(0o755)).unwrap();
    assert!(closed.join("old.log").exists() && fixed.join("old.log").exists());
    fs::set_permissions(&fixed, Permissions::from_mode(0o755)).unwrap();
}

/// `kill -9` at any instant: the log is there, whole, as it was or compressed.
#[test]
fn a_killed_compression_loses_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("logs");
    fs::create_dir(&directory).unwrap();
    let mut content = Vec::new();
    for n in 0..50_000u32 {
        writeln!(content, "{} GET /page/{n} 200", n.wrapping_mul(2_654_435_761)).unwrap();
    }
    let toml = format!(
        "state_directory = \"{0}/state\"\n[database]\nurl = \"sqlite://{0}/atlas.db\"\n[[retention.files]]\ndirectory = \"{0}/logs\"\nglob = \"*.log\"\ncompress_after = \"1d\"\n",
        scratch.path().canonicalize().unwrap().display()
    );
    fs::write(scratch.path().join("sidecar.toml"), toml).unwrap();
    let command = || {
        let mut command = Command::new(crate::support::SIDECAR);
        command.args(["--config", "sidecar.toml", "jobs", "run", "log-pruning"]).current_dir(scratch.path());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let (log, packed) = (directory.join("a.log"), directory.join("a.log.gz"));
    fs::write(directory.join("newest.log"), "x").unwrap();
    assert!(command().status().unwrap().success(), "makes the database");
    let prepare = || {
        fs::write(&log, &content).unwrap();
        let _ = fs::remove_file(&packed);
        let newest = fs::metadata(directory.join("newest.log")).unwrap().modified().unwrap();
        File::open(&log).unwrap().set_modified(newest - 2 * DAY).unwrap();
    };
    prepare();
    let since = Instant::now();
    assert!(command().status().unwrap().success());
    let whole = since.elapsed();
    assert!(!log.exists() && packed.exists());
    let mut outcomes = [0, 0, 0];
    for round in 0..14 {
        prepare();
        let mut child = command().spawn().unwrap();
        // Spread over what a run takes, most of them where it ends.
        let part = if round < 4 { 0.2 * f64::from(round + 1) } else { 0.85 + 0.02 * f64::from(round - 4) };
        std::thread::sleep(whole.mul_f64(part));
        let _ = child.kill();
        child.wait().unwrap();
        if log.exists() {
            assert!(fs::read(&log).unwrap() == content, "round {round}");
        }
        if packed.exists() {
            let out = Command::new("gzip").arg("-dc").arg(&packed).output().unwrap();
            assert!(out.status.success() && out.stdout == content, "round {round}");
        }
        assert!(log.exists() || packed.exists(), "round {round}");
        outcomes[usize::from(packed.exists()) + usize::from(packed.exists() && !log.exists())] += 1;
    }
    println!("as it was {}, both {}, compressed {}", outcomes[0], outcomes[1], outcomes[2]);
    assert!(command().status().unwrap().success());
    assert!(!log.exists() && packed.exists());
    let names = fs::read_dir(&directory).unwrap().count();
    assert_eq!(names, 2, "nothing is left behind");
}
