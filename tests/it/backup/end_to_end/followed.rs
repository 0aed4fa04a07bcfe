//! The live tail in the real process: what an application commits is in the bucket without anybody asking for a backup, and comes back from there.

use super::{Application, QUICK, SOON, committed, holds_whole_transactions, must, rows, s3_section, sql};
use crate::support::s3::S3Server;
use crate::support::{Sidecar, wait_for};

fn live(server: &S3Server) -> usize {
    server.keys().iter().filter(|key| key.ends_with(".wal.gz") && !key.contains("-from-")).count()
}

#[test]
fn commits_are_in_the_bucket_and_come_back() {
    let server = S3Server::start();
    let machine = tempfile::tempdir().unwrap();
    let folder = machine.path();
    let section = s3_section(&server, &server.endpoint, folder);
    let destination = format!("s3://{}/atlas", server.bucket);
    let config =
        format!("{QUICK}[backup]\ndestination = \"{destination}\"\n{section}[backup.sqlite]\ninterval = \"100ms\"\n");
    let database = folder.join("data/atlas.db");
    let running = Sidecar::start(folder, &config);
    let application = Application::start(&database);
    wait_for("some live segments", SOON, || Some(()).filter(|()| live(&server) >= 5));
    let at = committed(&database);
    // A full and whatever is merged, beside the tail.
    must(folder, &["backup", "full"]);
    must(folder, &["backup", "incremental"]);
    must(folder, &["jobs", "run", "backup-compact"]);
    let then = live(&server);
    wait_for("more of them", SOON, || Some(()).filter(|()| live(&server) >= then + 5));
    drop(application);
    let all = committed(&database);
    assert!(!running.log_text().contains("a gap"), "{}", running.log_text());
    assert_eq!(running.stop(), 0, "the last commits go up at the end");

    let fresh = tempfile::tempdir().unwrap();
    std::fs::write(fresh.path().join("sidecar.toml"), s3_section(&server, &server.endpoint, fresh.path())).unwrap();
    must(fresh.path(), &["restore", "--destination", &destination, "--to", "newest.db"]);
    let restored = fresh.path().join("newest.db");
    assert_eq!(sql(&restored, "PRAGMA integrity_check"), "ok");
    assert_eq!(holds_whole_transactions(&restored), all, "every commit, {at} of them before the full");
    assert_eq!(rows(&restored, all), rows(&database, all));
    must(fresh.path(), &["backup", "verify", "--deep", "--destination", &destination]);

    // Another process goes on where this one ended.
    let again = Sidecar::start(folder, &config);
    let before = live(&server);
    wait_for("a segment of the next process", SOON, || Some(()).filter(|()| live(&server) > before));
    assert_eq!(again.stop(), 0);
    assert_eq!(server.keys().iter().filter(|key| key.contains("timelines/")).count(), 1, "on the same timeline");
}
