//! `kill -9` and a lost server in the middle: the target stays as it was.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Scene, text};
use crate::support::postgres::Stop;
use crate::support::{SIDECAR, wait_for};

/// A copy of some seconds, in the middle of its second table.
fn begun() -> (Scene, Child) {
    let scene = Scene::new();
    scene.sqlite(
        "INSERT INTO webhooks (id, url, events) VALUES ('w', 'u', '[]');
         WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO system_metrics SELECT 'm' || i, 'name', i, printf('\"%.200c\"', 'x'), NULL FROM n",
    );
    scene.psql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.005); RETURN NEW; END $$;
         CREATE TRIGGER slow BEFORE INSERT ON system_metrics FOR EACH ROW EXECUTE FUNCTION slow()",
    );
    let child = Command::new(SIDECAR)
        .args(["copy", "--from", "sqlite://atlas.db", "--to", &scene.url])
        .current_dir(scene.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Rows of the second table are on the server's disk or in its memory.
    wait_for("rows in the target's file", Duration::from_secs(30), || {
        let progress = scene.psql("SELECT count(*) FROM pg_stat_progress_copy WHERE relid = 'system_metrics'::regclass AND tuples_processed > 20");
        (progress == "1").then_some(())
    });
    (scene, child)
}

fn sessions_end(scene: &Scene) {
    wait_for("the session's end", Duration::from_secs(60), || {
        let sessions = scene.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'atlas-sidecar'");
        (sessions == "0").then_some(())
    });
}

#[test]
fn killed_in_the_middle_it_leaves_nothing() {
    let (scene, mut child) = begun();
    child.kill().unwrap();
    child.wait().unwrap();
    sessions_end(&scene);
    assert_eq!(scene.rows(), "0");
    // And it can be done again.
    scene.psql("DROP TRIGGER slow ON system_metrics");
    scene.copied(&[]);
    assert_eq!(scene.rows(), "5001");
}

#[test]
fn a_server_that_dies_leaves_nothing() {
    let (mut scene, child) = begun();
    scene.cluster.stop(Stop::Immediate);
    let out = child.wait_with_output().unwrap();
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(69), "{said}");
    assert!(said.contains("system_metrics"), "{said}");
    scene.cluster.restart();
    assert_eq!(scene.rows(), "0");
    assert_eq!(super::names(scene.folder.path()), ["atlas.db"]);
}

#[test]
fn a_session_that_is_ended_leaves_nothing() {
    let (scene, child) = begun();
    scene.cluster.psql(
        "atlas",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'atlas-sidecar'",
    );
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(69), "{}", text(&out.stderr));
    sessions_end(&scene);
    assert_eq!(scene.rows(), "0");
}
