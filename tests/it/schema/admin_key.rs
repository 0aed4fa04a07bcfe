//! Migration 001: a real key, told once, in one place.

use std::os::unix::fs::PermissionsExt;

use atlas_sidecar::engine::Settings;
use atlas_sidecar::engine::schema::{KeySink, MigrateOptions};
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::schema::apply::Work;
use atlas_sidecar::engine::sqlite::schema::{Part, Scope, migrate};

use super::{Scene, clock, contents};
use crate::support::run;

const KEYS: &str = "SELECT id, name, permissions, rate_limit_per_hour, created_at, is_active FROM api_keys";
const ADMIN: &str = "admin-key-001|Admin API Key|[\"read\", \"write\", \"admin\"]|1000|2026-11-22 19:00:00|1\n";

/// The canary: the key is in the file, its hash in the table, and the key nowhere else.
#[tokio::test]
async fn the_key_is_in_its_file_and_nowhere_else() {
    let scene = Scene::made_by_the_application("base");
    let report = scene.migrate().await;
    let path = scene.path("state/admin-key");
    assert_eq!(report.admin_key_file.as_deref(), Some(path.as_path()));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(scene.path("state").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let key = std::fs::read_to_string(&path).unwrap();
    let key = key.trim_end();

    assert_eq!(scene.sql(KEYS), ADMIN);
    let sum = run("sh", &["-c", &format!("printf %s '{key}' | sha256sum | cut -d' ' -f1")]);
    assert_eq!(scene.sql("SELECT key_hash FROM api_keys"), sum);

    for said in [format!("{report}"), format!("{report:?}"), serde_json::to_string(&report).unwrap()] {
        assert!(!said.contains(key) && !said.contains(&key[6..]), "{said}");
    }
    for (name, bytes) in contents_of_files(&scene) {
        assert!(!bytes.windows(key.len()).any(|w| w == key.as_bytes()), "the key is in {name}");
    }
    assert!(scene.migrate().await.unchanged(), "and a second one is not made");
}

fn contents_of_files(scene: &Scene) -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(scene.folder.path()).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file());
    files.map(|p| (p.display().to_string(), std::fs::read(p).unwrap())).collect()
}

/// The log at its loudest, sqlx included, which logs on threads of its own: so a process of its own, this test again, takes the whole of it.
#[tokio::test]
async fn the_loudest_log_has_neither_key_nor_hash() {
    const CHILD: &str = "ATLAS_TEST_LOUD_DATABASE";
    if let Some(folder) = std::env::var_os(CHILD) {
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(std::io::stderr).init();
        let url = format!("sqlite://{}/atlas.db", folder.display());
        let state_directory = std::path::Path::new(&folder).join("state");
        let settings = Settings { url, create: true, state_directory, ..Scene::new().settings() };
        Scene::new().try_migrate(&settings, false).await.unwrap();
        return;
    }
    let scene = Scene::new();
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "schema::admin_key::the_loudest_log_has_neither_key_nor_hash", "--nocapture"])
        .env(CHILD, scene.folder.path())
        .output()
        .unwrap();
    let log = String::from_utf8(out.stderr).unwrap() + &String::from_utf8(out.stdout).unwrap();
    let key = std::fs::read_to_string(scene.path("state/admin-key")).unwrap();
    let hash = scene.sql("SELECT key_hash FROM api_keys");
    assert!(out.status.success(), "{log}");
    // Statements are not logged at all: sqlx would show what is bound to them at this level.
    assert!(!log.contains("INSERT INTO"), "{log}");
    assert!(!log.contains(&key.trim_end()[6..]) && !log.contains(hash.trim_end()));
}

#[tokio::test]
async fn on_a_terminal_the_key_is_handed_over_and_no_file_is_made() {
    let scene = Scene::new();
    let settings = Settings { create: true, ..scene.settings() };
    let options = || MigrateOptions { dry_run: false, key_sink: KeySink::Terminal };
    let report = migrate(&settings, options(), &clock()).await.unwrap();
    let key = report.admin_key.as_ref().unwrap().reveal().to_owned();
    assert!(key.starts_with("atlas_") && report.admin_key_file.is_none());
    assert!(!format!("{report}{report:?}").contains(&key) && !scene.path("state").exists());
    assert_eq!(scene.sql(KEYS), ADMIN);
    assert!(migrate(&settings, options(), &clock()).await.unwrap().admin_key.is_none());
}

#[tokio::test]
async fn a_placeholder_is_reported_and_left_as_it_is() {
    let scene = Scene::made_by_the_application("full");
    let before = scene.sql("SELECT * FROM api_keys ORDER BY id");
    for report in [scene.migrate().await, scene.migrate().await] {
        let warnings = report.files[0].warnings.join("\n");
        assert!(warnings.contains("not accepted: `admin-key-001`"), "{warnings}");
        assert!(report.admin_key_file.is_none());
    }
    assert_eq!(scene.sql("SELECT * FROM api_keys ORDER BY id"), before);
    // The seed's own is named even when it is switched off, others only while they are in force.
    scene.sql("UPDATE api_keys SET is_active = 0; UPDATE api_keys SET key_hash = 'x' WHERE name = 'Key 5'");
    assert!(scene.migrate().await.files[0].warnings[0].ends_with("not accepted: `admin-key-001`"));
}

#[tokio::test]
async fn a_file_that_is_there_is_never_overwritten() {
    let scene = Scene::made_by_the_application("base");
    std::fs::create_dir(scene.path("state")).unwrap();
    std::fs::write(scene.path("state/admin-key"), "somebody's").unwrap();
    let dry = scene.try_migrate(&scene.settings(), true).await.unwrap();
    assert!(dry.files[0].warnings[0].contains("is not overwritten"), "{dry}");
    let error = scene.try_migrate(&scene.settings(), false).await.unwrap_err();
    assert!(error.hint.as_ref().unwrap().contains("move it away"), "{error}");
    assert_eq!(std::fs::read_to_string(scene.path("state/admin-key")).unwrap(), "somebody's");
    assert_eq!(scene.sql("SELECT count(*) FROM api_keys"), "0\n");

    std::fs::rename(scene.path("state/admin-key"), scene.path("old-key")).unwrap();
    assert_eq!(scene.migrate().await.files[0].steps.len(), 1, "only the key was left to do");
}

/// A commit that fails takes the file away again. In rollback-journal mode a reader is enough to make it fail.
#[tokio::test]
async fn a_key_whose_row_does_not_commit_leaves_no_file() {
    let scene = Scene::made_by_the_application("base");
    scene.migrate().await;
    scene.sql("DELETE FROM api_keys");
    std::fs::remove_file(scene.path("state/admin-key")).unwrap();
    let before = contents(&state(&scene));

    let reader = Database::open(&scene.path("atlas.db"), false).await.unwrap();
    let other = Database::open(&scene.path("atlas.db"), false).await.unwrap();
    let sink = KeySink::File(scene.path("state"));
    let clock = clock();
    {
        // A cursor that stays open holds the shared lock.
        let mut reading = reader.read(std::time::Duration::from_secs(60)).await.unwrap();
        sqlx::raw_sql("BEGIN; SELECT count(*) FROM authors").execute(&mut *reading).await.unwrap();
        let mut work = Work::new(&other, (Part::Whole, Scope::All), &[], &sink, &clock);
        work.patience = std::time::Duration::ZERO;
        let error = work.step().await.unwrap_err();
        assert!(error.message.contains("locked by another process"), "{error}");
        assert_eq!(contents(&state(&scene)), before, "no file without its row");
        assert_eq!(scene.sql("SELECT count(*) FROM api_keys"), "0\n");
        sqlx::raw_sql("ROLLBACK").execute(&mut *reading).await.unwrap();
    }
    Work::new(&other, (Part::Whole, Scope::All), &[], &sink, &clock).step().await.unwrap();
    assert!(scene.path("state/admin-key").exists());
    assert_eq!(scene.sql(KEYS), ADMIN);
    reader.close().await;
    other.close().await;
}

fn state(scene: &Scene) -> std::path::PathBuf {
    scene.path("state")
}

/// An application's table that the row does not fit in is told, not broken.
#[tokio::test]
async fn a_table_that_wants_more_than_we_know_gets_no_key() {
    for (column, why) in [("owner INTEGER NOT NULL", "wants a value for `owner`"), ("x INTEGER", "holds numbers")] {
        let id = if why.contains("numbers") { "INTEGER" } else { "TEXT" };
        let scene = Scene::made_by_sql(&format!(
            "CREATE TABLE api_keys(id {id} PRIMARY KEY, name TEXT NOT NULL, key_hash TEXT NOT NULL, permissions JSON, {column})"
        ));
        let report = scene.migrate().await;
        assert!(report.files[0].notes.iter().any(|n| n.contains(why)), "{report}");
        assert!(scene.migrate().await.unchanged());
    }
}
