//! What is in the log and was never committed for all to see, and processes that are killed.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::super::source::hostile::Application;
use super::*;

/// Kills the process when it flushes a write-ahead log for the `KILL_AT`th time.
const KILLS_AT_FLUSH: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int flush(int fd, const char *name) {
    static int count;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    if (strstr(path, "-wal") && ++count == atoi(getenv("KILL_AT"))) kill(getpid(), SIGKILL);
    return ((int (*)(int))dlsym(RTLD_NEXT, name))(fd);
}
int fdatasync(int fd) { return flush(fd, "fdatasync"); }
int fsync(int fd) { return flush(fd, "fsync"); }
"#;

/// H1: a process that is killed while it flushes a commit leaves it in the log, whole and valid, and nobody was told of it: the next one is written over it. Who trusts the log alone takes the one that
/// never was, and misses the one that is.
#[tokio::test(flavor = "multi_thread")]
async fn h1_a_commit_that_was_never_published_is_not_cut() {
    let mut scene = Scene::new(&rows(50)).await;
    let library = scene.folder.path().join("kills.so");
    let source = scene.folder.path().join("kills.c");
    std::fs::write(&source, KILLS_AT_FLUSH).unwrap();
    run("cc", &["-shared", "-fPIC", "-o", library.to_str().unwrap(), source.to_str().unwrap(), "-ldl"]);
    scene.sql("UPDATE t SET body = 'one' WHERE id = 3");
    scene.cut().await.unwrap();
    let before = scene.log_length();
    let killed = Command::new("python3")
        .args(["-c", "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], isolation_level=None)\ndb.execute('PRAGMA synchronous = FULL')\ndb.execute('UPDATE t SET body = randomblob(3900) WHERE id < 9')"])
        .arg(scene.path())
        .env("LD_PRELOAD", &library)
        .env("KILL_AT", "1")
        .status()
        .unwrap();
    assert_eq!(killed.signal(), Some(9));
    assert!(scene.log_length() > before, "its frames are in the log");
    assert_eq!(scene.cut().await, None, "and it is no commit");
    scene.tend().await;
    // Shorter than what it is written over.
    scene.sql("UPDATE t SET body = 'two' WHERE id = 20");
    let cut = scene.cut().await.unwrap();
    assert_eq!(cut.segment.sent_pages, 1);
    assert_eq!(asked(&scene.image, "SELECT body FROM t WHERE id IN (3, 20)"), "one\ntwo");
    scene.fix().await;
    assert_eq!(scene.cut().await, None);
}

/// The writer was killed while it replaced the index's header: whoever comes next cleans up, and where nobody does, we do.
#[tokio::test(flavor = "multi_thread")]
async fn h15_a_torn_header_is_cleaned_up_after() {
    let mut scene = Scene::new(&rows(50)).await;
    scene.sql("UPDATE t SET body = 'one' WHERE id = 3");
    let index = beside(&scene.path(), "-shm");
    run(
        "python3",
        &[
            "-c",
            "import sys; f = open(sys.argv[1], 'r+b'); f.seek(60); f.write(b'torn'); f.flush()",
            index.to_str().unwrap(),
        ],
    );
    assert_eq!(scene.try_cut().await, Ok(None), "not now");
    for _ in 0..2 {
        scene.tend().await;
    }
    scene.cut().await.unwrap();
    scene.sql("UPDATE t SET body = 'two' WHERE id = 4");
    scene.cut().await.unwrap();
    assert!(scene.image == scene.expected());
}

/// H2: what was rolled back has been in the log, and what comes next is put over it.
#[tokio::test(flavor = "multi_thread")]
async fn h2_what_was_rolled_back_is_not_cut() {
    let mut scene = Scene::new(&rows(200)).await;
    let spills = "PRAGMA cache_size = 4; BEGIN; UPDATE t SET body = randomblob(3900); ROLLBACK";
    for id in 1..4 {
        let before = scene.log_length();
        scene.sql(spills);
        assert!(scene.log_length() > before || id > 1, "it was in the log");
        assert_eq!(scene.cut().await, None);
        scene.sql(&format!("UPDATE t SET body = randomblob(3900) WHERE id = {id}"));
        scene.sql(spills);
        assert_eq!(scene.cut().await.unwrap().segment.sent_pages, 1);
        assert!(scene.image == scene.expected());
    }
}

/// H4: the files are never opened by anything of ours but SQLite and `descriptors.rs`: the lock is there after everything that a tail does.
#[tokio::test(flavor = "multi_thread")]
async fn h4_the_lock_is_there_whatever_was_done() {
    let mut scene = Scene::new(&rows(50)).await;
    for round in 0..3 {
        scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 3");
        scene.cut().await.unwrap();
        scene.tend().await;
        scene.fix().await;
        scene.source.settle().await.unwrap();
        assert_eq!(scene.begin().await, Begun::Going, "round {round}");
        scene.sql("UPDATE t SET body = randomblob(3900) WHERE id = 4");
        let busy = scene.sql("PRAGMA busy_timeout = 0; PRAGMA wal_checkpoint(TRUNCATE)");
        assert!(busy.contains("1|"), "{busy}");
    }
}

/// H6: on slot 0 the log begins anew under us, and what it gets then follows what we have; empty ones come and go.
#[tokio::test(flavor = "multi_thread")]
async fn h6_logs_that_begin_anew_under_us_are_followed() {
    let mut scene = Scene::new(&rows(50)).await;
    let application =
        Application::start(&scene.path(), "db = sqlite3.connect(path)\ndb.execute('SELECT * FROM t').fetchone()");
    scene.sql("UPDATE t SET body = 'one' WHERE id = 3");
    scene.cut().await.unwrap();
    for _ in 0..3 {
        assert_eq!(scene.sql_tended("PRAGMA wal_checkpoint(TRUNCATE)").await, "0|0|0");
        assert_eq!(scene.try_cut().await, Ok(None));
    }
    for body in ["two", "three"] {
        scene.sql(&format!("UPDATE t SET body = '{body}' WHERE id = 3"));
        scene.cut().await.unwrap();
        assert!(scene.image == scene.expected());
    }
    application.kill();
}

/// H4, H6: a lock that something of this process has dropped is noticed before the log that began anew is believed.
#[tokio::test(flavor = "multi_thread")]
async fn h4_a_lock_that_was_dropped_is_noticed() {
    for on_slot_0 in [true, false] {
        let mut scene = Scene::new(&rows(50)).await;
        scene.sql("UPDATE t SET body = 'one' WHERE id = 3");
        scene.cut().await.unwrap();
        if on_slot_0 {
            assert_eq!(scene.sql_tended("PRAGMA wal_checkpoint(TRUNCATE)").await, "0|0|0");
        }
        assert_eq!(scene.try_cut().await, Ok(None));
        // What must never be done.
        drop(std::fs::read(beside(&scene.path(), "-shm")).unwrap());
        let application =
            Application::start(&scene.path(), "db = sqlite3.connect(path)\ndb.execute('SELECT * FROM t').fetchone()");
        scene.sql("UPDATE t SET body = 'lost' WHERE id = 3");
        assert_eq!(scene.sql("PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0", "nobody is in its way");
        scene.sql("UPDATE t SET body = 'two' WHERE id = 4");
        let answer = scene.try_cut().await;
        assert!(
            matches!(&answer, Err(SourceError::Broken(why)) if why.contains("lock") || why.contains("anew")),
            "{answer:?}"
        );
        application.kill();
        // And the difference has it.
        assert!(matches!(scene.begin().await, Begun::Gap(_)));
        scene.cross().await;
        assert!(scene.image == scene.expected());
    }
}
