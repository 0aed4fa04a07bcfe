//! What keeps the sidecar from starting: exit codes, and words that say what to do.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{Holder, QUICK, SOON, ended, page_with, sql, value};
use crate::support::{SIDECAR, Sidecar, free_address, run, sidecar, wait_for};

fn start(folder: &Path, settings: &[&str]) -> (Option<i32>, String) {
    let listen = format!("server.listen={}", free_address());
    let mut args = vec!["run", "--set", &listen];
    for setting in settings {
        args.extend(["--set", setting]);
    }
    ended(&sidecar(folder, &args))
}

#[test]
fn a_database_that_cannot_be_had_is_69() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("letter.db"), "Dear Sir or Madam, this is not a database.\n".repeat(100))
        .unwrap();
    std::fs::create_dir(scratch.path().join("folder.db")).unwrap();
    std::fs::write(scratch.path().join("file"), "").unwrap();
    for (settings, words) in [
        (
            vec!["database.create=false"],
            vec!["database `data/atlas.db` does not exist", "hint: ", "database.create = true"],
        ),
        (vec!["database.url=sqlite://letter.db"], vec!["`letter.db`", "file is not a database"]),
        (vec!["database.url=sqlite://folder.db"], vec!["`folder.db`", "unable to open"]),
        (vec!["database.url=sqlite://file/x.db"], vec!["`file/x.db`"]),
        (vec!["database.metrics_url=sqlite://letter.db"], vec!["`letter.db`", "file is not a database"]),
    ] {
        let (code, said) = start(scratch.path(), &settings);
        assert_eq!(code, Some(69), "{settings:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{settings:?}: `{word}` in {said}");
        }
    }
    assert!(std::fs::read_to_string(scratch.path().join("letter.db")).unwrap().starts_with("Dear Sir"));
}

#[test]
fn wrong_usage_and_what_is_not_built_in_is_64() {
    let scratch = tempfile::tempdir().unwrap();
    for (args, word) in [
        (vec!["run", "--set", "database.url=postgres://user@host/db"], "PostgreSQL"),
        (vec!["run", "--set", "scrape.interval=soon"], "scrape.interval"),
        (vec!["run", "--config", "nowhere.toml"], "nowhere.toml"),
        (vec!["walk"], "walk"),
        (vec!["run", "--loudly"], "--loudly"),
    ] {
        let (code, said) = ended(&sidecar(scratch.path(), &args));
        assert_eq!(code, Some(64), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?}: {said}");
    }
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn an_address_in_use_is_1_and_named() {
    let scratch = tempfile::tempdir().unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let (code, said) = start(scratch.path(), &[&format!("server.listen={address}")]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("error: cannot listen on `{address}`")) && said.contains("in use"), "{said}");
}

/// Runs the sidecar as somebody to whom permissions apply: root passes them by.
fn as_nobody(folder: &Path, args: &[&str]) -> Output {
    if run("id", &["-u"]).trim() != "0" {
        return sidecar(folder, args);
    }
    // The build folder may be out of reach for others.
    let program = folder.join("atlas-sidecar");
    if !program.exists() {
        std::fs::copy(SIDECAR, &program).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    }
    Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"])
        .arg(program)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("setpriv is part of util-linux")
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// The usual mistakes of a place beside an application: the sidecar's user may not write to the folder, or not to the file.
#[test]
fn what_may_not_be_written_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    mode(folder, 0o755);
    let locked = folder.join("locked");
    std::fs::create_dir(&locked).unwrap();
    let open = folder.join("open");
    std::fs::create_dir(&open).unwrap();
    mode(&open, 0o777);
    sql(&locked.join("atlas.db"), "CREATE TABLE content_metadata(id TEXT PRIMARY KEY)");
    sql(&open.join("atlas.db"), "CREATE TABLE content_metadata(id TEXT PRIMARY KEY)");
    mode(&locked.join("atlas.db"), 0o666);
    mode(&open.join("atlas.db"), 0o444);
    mode(&locked, 0o555);
    let listen = format!("server.listen={}", free_address());
    for (state, database, code, words) in [
        ("locked/state", "open/new.db", 1, vec!["`locked/state`", "state_directory", "Permission denied"]),
        ("open/state", "locked/new.db", 69, vec!["`locked/new.db`"]),
        // The file may be written, but SQLite needs its journal beside it.
        ("open/state", "locked/atlas.db", 69, vec!["`locked/atlas.db`", "hint: "]),
        ("open/state", "open/atlas.db", 69, vec!["`open/atlas.db`", "hint: "]),
    ] {
        let (state, url) = (format!("state_directory={state}"), format!("database.url=sqlite://{database}"));
        let out = as_nobody(folder, &["run", "--set", &listen, "--set", &state, "--set", &url]);
        let (exit, said) = ended(&out);
        assert_eq!(exit, Some(code), "{state} {url}: {said}");
        for word in words {
            assert!(said.contains(word), "{state} {url}: `{word}` in {said}");
        }
    }
    mode(&locked, 0o755);
}

/// The first start beside an application has tables to make, and waits for the lock; nobody has to wait with it.
#[test]
fn a_start_that_waits_for_the_database_can_be_stopped() {
    let scratch = tempfile::tempdir().unwrap();
    let database = scratch.path().join("app.db");
    sql(&database, "PRAGMA journal_mode = WAL; CREATE TABLE content_metadata(id TEXT PRIMARY KEY)");
    let holder = Holder::new(&database, "BEGIN IMMEDIATE");
    for signal in ["TERM", "INT"] {
        let mut waiting = Sidecar::launch::<&str>(scratch.path(), "[database]\nurl = \"sqlite://app.db\"\n", &[]);
        // Made just before the database is opened, and after the signals are listened to.
        let lock = scratch.path().join("data/state/lock");
        wait_for("the state directory", SOON, || Some(()).filter(|()| lock.exists()));
        let since = Instant::now();
        waiting.signal(signal);
        let status = wait_for("the end", SOON, || waiting.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{signal}: {}", waiting.log_text());
        assert!(since.elapsed() < Duration::from_secs(8), "{signal}: {:?}", since.elapsed());
        std::fs::remove_file(&lock).unwrap();
    }
    holder.release();
    let started = Sidecar::start(scratch.path(), "[database]\nurl = \"sqlite://app.db\"\n");
    assert_eq!(started.stop(), 0);
}

/// A restart while the application is at a long transaction is no reason to stay away: the sidecar is registered already and has nothing to write.
#[test]
fn a_database_that_is_locked_for_writing_does_not_keep_a_known_sidecar_from_starting() {
    let scratch = tempfile::tempdir().unwrap();
    let first = Sidecar::start(scratch.path(), QUICK);
    assert_eq!(first.stop(), 0);
    let holder = Holder::new(&scratch.path().join("data/atlas.db"), "BEGIN IMMEDIATE");
    let again = Sidecar::start(scratch.path(), QUICK);
    page_with(&again, "what is measured, though not stored", |page| page.contains("\nnode_load1 "));
    holder.release();
    page_with(&again, "rows", |page| value(page, "atlas_sidecar_samples_written_total") > Some(0.0));
    assert_eq!(again.stop(), 0);
}
