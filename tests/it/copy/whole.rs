//! The whole way, as docs/OPERATIONS.md tells it: a database that was used, `migrate` on the server, `copy`.

use std::path::Path;
use std::time::Duration;

use super::{Scene, names, text};
use crate::support::{Sidecar, python, run, sidecar, wait_for};

/// The target's configuration, in a folder of its own so that the admin key of `migrate` has a place.
fn migrated(scene: &Scene) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("sidecar.toml"), format!("[database]\nurl = \"{}\"\n", scene.url)).unwrap();
    migrate(folder.path());
    folder
}

fn migrate(folder: &Path) -> String {
    let out = sidecar(folder, &["--config", "sidecar.toml", "migrate"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    text(&out.stdout)
}

/// Runs `copy` of `file` as the configuration in `folder` says.
fn copy(folder: &Path, file: &Path) -> String {
    let out = sidecar(folder, &["--config", "sidecar.toml", "copy", "--from", &format!("sqlite://{}", file.display())]);
    let said = text(&out.stdout) + &text(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{said}");
    said
}

/// What a sidecar has written arrives, its own rows known as its own.
#[test]
fn a_sidecars_own_database_moves() {
    let scene = Scene::bare();
    let old = tempfile::tempdir().unwrap();
    let quick = "[scrape]\ninterval = \"1s\"\ntimeout = \"900ms\"\n[write]\nbatch_age = \"200ms\"\n[backup]\ndestination = \"\"\n";
    let running = Sidecar::start(old.path(), quick);
    let file = old.path().join("data/atlas.db");
    let here =
        |sql: &str| run("sqlite3", &["-cmd", ".timeout 5000", file.to_str().unwrap(), sql]).trim_end().to_owned();
    wait_for("rows", Duration::from_secs(30), || {
        (here("SELECT count(*) > 200 FROM system_metrics") == "1").then_some(())
    });
    assert_eq!(running.stop(), 0);
    let rolled_up = sidecar(old.path(), &["--config", "sidecar.toml", "jobs", "run", "metric-rollup"]);
    assert!(rolled_up.status.success(), "{}", String::from_utf8_lossy(&rolled_up.stderr));
    assert_eq!(names(&old.path().join("data")), ["atlas.db", "state"]);

    let new = migrated(&scene);
    let said = copy(new.path(), &file);
    // The key that `run` made here replaces the one that `migrate` made there.
    assert!(said.contains("makes way"), "{said}");
    assert_eq!(names(&old.path().join("data")), ["atlas.db", "state"]);
    for (table, columns) in [
        ("system_metrics", "id, metric_name, {time}, tags"),
        ("api_keys", "id, name, key_hash, permissions, rate_limit_per_hour, is_active"),
        ("sidecar_metric_meta", "name, kind, help"),
        ("sidecar_metrics_series", "id, name, tags"),
        ("sidecar_metrics_rollup", "series, step_secs, start_ms, count, first_ms, last_ms"),
    ] {
        let rows = |time: &str, yes: &str| {
            format!(
                "SELECT {} FROM {table} ORDER BY 1, 2, 3",
                columns.replace("{time}", time).replace("is_active", yes)
            )
        };
        let there = scene.psql(&rows("to_char(recorded_at, 'YYYY-MM-DD HH24:MI:SS.MS')", "is_active::int"));
        // Ids and keys are plain ASCII without capitals; the database's locale is C.
        assert_eq!(there, here(&rows("recorded_at", "is_active")), "{table}");
        assert!(!there.is_empty());
    }
    // Other keys of it are about the old database and its jobs.
    let instances = "SELECT key, value FROM sidecar_state WHERE key LIKE 'instance/%'";
    assert_eq!(scene.psql(instances), here(instances));
    let values = |text: String| -> Vec<f64> { text.lines().map(|line| line.parse().unwrap()).collect() };
    let there = values(scene.psql("SELECT metric_value::float8 FROM system_metrics ORDER BY id"));
    assert_eq!(there, values(here("SELECT printf('%!.17g', metric_value) FROM system_metrics ORDER BY id")));
    assert!(migrate(new.path()).contains("up to date"));
}

/// A database of SQLAlchemy's, with columns of the application's own and rows that lead to a table that is the application's to move.
#[test]
fn an_applications_database_moves() {
    let scene = Scene::bare();
    python::script("atlas/atlas.py", &["create", scene.file().to_str().unwrap(), "full"]);
    // As SQLAlchemy makes them on PostgreSQL.
    scene.psql(
        "CREATE TABLE authors (id SERIAL PRIMARY KEY, name VARCHAR(200) NOT NULL);
         CREATE TABLE content_metadata (id VARCHAR(36) NOT NULL PRIMARY KEY, title VARCHAR(500), url VARCHAR(2048) UNIQUE, author_id INTEGER REFERENCES authors (id),
           metadata JSON, created_at TIMESTAMP WITHOUT TIME ZONE, search_indexed_at TIMESTAMP WITHOUT TIME ZONE, access_count INTEGER,
           last_accessed_at TIMESTAMP WITHOUT TIME ZONE, cognitive_score NUMERIC(5, 2), vector_embedding JSON);
         CREATE TABLE processing_queue (id VARCHAR(36) NOT NULL PRIMARY KEY, content_id VARCHAR(36) REFERENCES content_metadata (id), status VARCHAR(20),
           created_at TIMESTAMP WITHOUT TIME ZONE, updated_at TIMESTAMP WITHOUT TIME ZONE, priority INTEGER, estimated_duration INTEGER, actual_duration INTEGER,
           worker_id VARCHAR(255))",
    );
    scene.sqlite("UPDATE content_metadata SET author_id = 7 WHERE url LIKE '%/1_'");
    let new = migrated(&scene);
    let out = sidecar(
        new.path(),
        &["--config", "sidecar.toml", "copy", "--from", &format!("sqlite://{}", scene.file().display())],
    );
    let said = text(&out.stdout) + &text(&out.stderr);
    assert!(
        out.status.code() == Some(1) && said.contains("(author_id)=(7) is not present in table \"authors\""),
        "{said}"
    );
    scene.psql("INSERT INTO authors VALUES (7, 'moved by the application')");

    let said = copy(new.path(), &scene.file());
    assert!(
        said.contains("content_metadata: 200 rows, equal")
            && said.contains("not copied, the application's own: `authors`"),
        "{said}"
    );
    for (sql, here, there) in [
        (
            "SELECT id, title, url, author_id, metadata, {}, access_count, vector_embedding FROM content_metadata ORDER BY id",
            "created_at",
            "to_char(created_at, 'YYYY-MM-DD HH24:MI:SS.US')",
        ),
        (
            "SELECT id, {}, vector_embedding FROM content_metadata ORDER BY id",
            "printf('%.2f', cognitive_score)",
            "cognitive_score",
        ),
        (
            "SELECT id, status, priority, worker_id, {} FROM processing_queue ORDER BY id",
            "created_at",
            "to_char(created_at, 'YYYY-MM-DD HH24:MI:SS.US')",
        ),
        ("SELECT id, name, key_hash, permissions, {} FROM api_keys ORDER BY id", "is_active", "is_active::int"),
        (
            "SELECT id, metric_name, tags, {} FROM system_metrics ORDER BY id",
            "printf('%.4f', metric_value)",
            "round(metric_value, 4)",
        ),
        (
            "SELECT id, query_hash, query_text, results, {} FROM search_cache ORDER BY id",
            "expires_at",
            "to_char(expires_at, 'YYYY-MM-DD HH24:MI:SS.US')",
        ),
    ] {
        assert_eq!(scene.psql(&sql.replace("{}", there)), scene.sqlite(&sql.replace("{}", here)), "{sql}");
    }
}

/// A log that a crashed application left is read, and left as it is; so is a log that somebody uses.
#[test]
fn a_log_of_somebody_else_is_left_alone() {
    let scene = Scene::new();
    let program = "import sqlite3, sys, os\ndb = sqlite3.connect(sys.argv[1])\ndb.execute('PRAGMA journal_mode = WAL')\ndb.execute(\"INSERT INTO webhooks (id, url, events) VALUES ('w', 'u', '[]')\")\ndb.commit()\nos.kill(os.getpid(), 9)\n";
    let ended =
        std::process::Command::new("python3").args(["-c", program, scene.file().to_str().unwrap()]).status().unwrap();
    assert!(!ended.success());
    let files = ["atlas.db", "atlas.db-shm", "atlas.db-wal"];
    assert_eq!(names(scene.folder.path()), files);
    let bytes = |name: &str| std::fs::read(scene.folder.path().join(name)).unwrap();
    let before = (bytes("atlas.db"), bytes("atlas.db-wal"));
    assert!(!before.1.is_empty());
    scene.copied(&[]);
    assert_eq!(scene.psql("SELECT id FROM webhooks"), "w");
    assert!(before == (bytes("atlas.db"), bytes("atlas.db-wal")), "the source has changed");
    assert_eq!(names(scene.folder.path()), files);
}

/// A journal that waits to be rolled back is the application's: rolling it back would change the source.
#[test]
fn a_journal_of_a_crash_is_told_and_left() {
    let scene = Scene::new();
    scene.sqlite("INSERT INTO webhooks (id, url, events) VALUES ('w', 'u', '[]')");
    let program = "import sqlite3, sys, os\ndb = sqlite3.connect(sys.argv[1], isolation_level=None)\ndb.execute('PRAGMA cache_size = 2')\ndb.execute('BEGIN')\ndb.execute(\"UPDATE webhooks SET url = 'half'\")\nfor i in range(5000): db.execute('INSERT INTO users VALUES (?, ?)', (i, 'x' * 100))\nos.kill(os.getpid(), 9)\n";
    std::process::Command::new("python3").args(["-c", program, scene.file().to_str().unwrap()]).status().unwrap();
    assert_eq!(names(scene.folder.path()), ["atlas.db", "atlas.db-journal"]);
    let before = std::fs::read(scene.file()).unwrap();
    let said = scene.refused(69, &[]);
    assert!(said.contains("a crash left a transaction in its journal"), "{said}");
    assert!(before == std::fs::read(scene.file()).unwrap());
    assert_eq!(scene.sqlite("SELECT url FROM webhooks"), "u");
    scene.copied(&[]);
}

/// On a terminal a line says how far it is; `script` gives a terminal.
#[test]
fn a_terminal_shows_how_far_it_is() {
    let scene = Scene::new();
    scene.sqlite(
        "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO system_metrics SELECT 'm' || i, 'name', i, '{}', NULL FROM n",
    );
    let command = format!("'{}' copy --from sqlite://atlas.db --to '{}'", crate::support::SIDECAR, scene.url);
    let out = std::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .current_dir(scene.folder.path())
        .stdin(std::process::Stdio::null())
        .output()
        .expect("the README's test command installs script");
    let said = text(&out.stdout);
    assert!(out.status.success() && said.contains("\rreading system_metrics: 1000 rows\x1b[K"), "{said}");
    assert!(said.contains("\r\x1b[K`atlas.db` to"), "the line is gone before the answer: {said}");
}
