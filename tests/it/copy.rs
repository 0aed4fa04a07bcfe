//! `copy` from a real SQLite file to a real PostgreSQL: what arrives is asked of `psql`, what was there of the `sqlite3` shell or Python.

mod checked;
mod killed;
mod large;
mod random;
mod refused;
mod whole;

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::support::postgres::{Cluster, PASSWORD, ROLE};
use crate::support::{run, sidecar};

/// The seed's schema as the application makes it on SQLite, with a column of its own.
const SQLITE: &str = "
CREATE TABLE content_metadata (id VARCHAR(36) PRIMARY KEY, title TEXT, url VARCHAR(2048), created_at TIMESTAMP, author TEXT,
  search_indexed_at TIMESTAMP, last_accessed_at TIMESTAMP, access_count INTEGER DEFAULT 0, cognitive_score DECIMAL(5,2), vector_embedding JSON);
CREATE TABLE processing_queue (id VARCHAR(36) PRIMARY KEY, content_id VARCHAR(36), status VARCHAR(20) DEFAULT 'pending', created_at TIMESTAMP,
  updated_at TIMESTAMP, priority INTEGER DEFAULT 5, estimated_duration INTEGER, actual_duration INTEGER, worker_id VARCHAR(255));
CREATE TABLE api_keys (id VARCHAR(36) PRIMARY KEY, name VARCHAR(255) NOT NULL, key_hash VARCHAR(255) NOT NULL UNIQUE, permissions JSON,
  rate_limit_per_hour INTEGER DEFAULT 1000, created_at TIMESTAMP, last_used_at TIMESTAMP, is_active BOOLEAN DEFAULT TRUE);
CREATE TABLE webhooks (id VARCHAR(36) PRIMARY KEY, url VARCHAR(2048) NOT NULL, events JSON NOT NULL, secret VARCHAR(255), is_active BOOLEAN DEFAULT TRUE,
  created_at TIMESTAMP, last_triggered_at TIMESTAMP, failure_count INTEGER DEFAULT 0);
CREATE TABLE search_cache (id VARCHAR(36) PRIMARY KEY, query_hash VARCHAR(64) NOT NULL UNIQUE, query_text TEXT NOT NULL, results JSON NOT NULL,
  created_at TIMESTAMP, expires_at TIMESTAMP NOT NULL);
CREATE TABLE system_metrics (id VARCHAR(36) PRIMARY KEY, metric_name VARCHAR(255) NOT NULL, metric_value DECIMAL(15,4) NOT NULL, tags JSON,
  recorded_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE sidecar_state (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE TABLE sidecar_metric_meta (name TEXT NOT NULL PRIMARY KEY, kind TEXT NOT NULL, help TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE TABLE sidecar_migrations (track TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (track, version));
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);";

/// The same on PostgreSQL.
const POSTGRES: &str = "
CREATE TABLE content_metadata (id VARCHAR(36) PRIMARY KEY, title TEXT, url VARCHAR(2048), created_at TIMESTAMP, author TEXT,
  search_indexed_at TIMESTAMP, last_accessed_at TIMESTAMP, access_count INTEGER DEFAULT 0, cognitive_score DECIMAL(5,2), vector_embedding JSON);
CREATE TABLE processing_queue (id VARCHAR(36) PRIMARY KEY, content_id VARCHAR(36) REFERENCES content_metadata, status VARCHAR(20) DEFAULT 'pending',
  created_at TIMESTAMP, updated_at TIMESTAMP, priority INTEGER DEFAULT 5, estimated_duration INTEGER, actual_duration INTEGER, worker_id VARCHAR(255));
CREATE TABLE api_keys (id VARCHAR(36) PRIMARY KEY, name VARCHAR(255) NOT NULL, key_hash VARCHAR(255) NOT NULL UNIQUE, permissions JSON,
  rate_limit_per_hour INTEGER DEFAULT 1000, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, last_used_at TIMESTAMP, is_active BOOLEAN DEFAULT TRUE);
CREATE TABLE webhooks (id VARCHAR(36) PRIMARY KEY, url VARCHAR(2048) NOT NULL, events JSON NOT NULL, secret VARCHAR(255), is_active BOOLEAN DEFAULT TRUE,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, last_triggered_at TIMESTAMP, failure_count INTEGER DEFAULT 0);
CREATE TABLE search_cache (id VARCHAR(36) PRIMARY KEY, query_hash VARCHAR(64) NOT NULL UNIQUE, query_text TEXT NOT NULL, results JSON NOT NULL,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, expires_at TIMESTAMP NOT NULL);
CREATE TABLE system_metrics (id VARCHAR(36) PRIMARY KEY, metric_name VARCHAR(255) NOT NULL, metric_value NUMERIC NOT NULL, tags JSON,
  recorded_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE sidecar_state (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL, updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE sidecar_metric_meta (name TEXT NOT NULL PRIMARY KEY, kind TEXT NOT NULL, help TEXT NOT NULL, updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);
INSERT INTO sidecar_state VALUES ('job/cache-expiry', 'the target''s own');";

/// A server with the schema, and a file with the schema.
struct Scene {
    cluster: Cluster,
    folder: tempfile::TempDir,
    url: String,
}

impl Scene {
    fn new() -> Self {
        let scene = Self::bare();
        scene.sqlite(SQLITE);
        scene.psql(POSTGRES);
        scene
    }

    /// Without tables.
    fn bare() -> Self {
        let cluster = Cluster::start();
        let url = cluster.database("atlas");
        Self { cluster, folder: tempfile::tempdir().unwrap(), url }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("atlas.db")
    }

    /// Begins again with empty tables, on the server that runs.
    fn afresh(&self) {
        std::fs::remove_file(self.file()).unwrap();
        self.cluster.psql("atlas", &format!("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION {ROLE}"));
        self.sqlite(SQLITE);
        self.psql(POSTGRES);
    }

    /// What the sqlite3 shell answers.
    fn sqlite(&self, sql: &str) -> String {
        run("sqlite3", &["-bail", self.file().to_str().unwrap(), sql]).trim_end().to_owned()
    }

    /// What `psql` answers, as the role that owns the tables.
    fn psql(&self, sql: &str) -> String {
        self.cluster.psql("atlas", &format!("SET ROLE {ROLE}; {sql}"))
    }

    /// Runs `copy` with `options`.
    fn copy(&self, options: &[&str]) -> Output {
        let mut args = vec!["copy", "--from", "sqlite://atlas.db", "--to", &self.url];
        args.extend(options);
        let out = sidecar(self.folder.path(), &args);
        let said = text(&out.stdout) + &text(&out.stderr);
        assert!(!said.contains(PASSWORD), "the password is shown: {said}");
        out
    }

    /// Runs it and expects that it copies.
    fn copied(&self, options: &[&str]) -> Value {
        let out = self.copy(&[options, &["--json"]].concat());
        assert_eq!(out.status.code(), Some(0), "{}{}", text(&out.stdout), text(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// Runs it and expects that it copies nothing and ends with `code`; gives all that it said.
    fn refused(&self, code: i32, options: &[&str]) -> String {
        let out = self.copy(options);
        let said = text(&out.stdout) + &text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{said}");
        said
    }

    /// Rows of all tables of the target.
    fn rows(&self) -> String {
        self.psql(
            "SELECT (SELECT count(*) FROM content_metadata) + (SELECT count(*) FROM processing_queue) + (SELECT count(*) FROM api_keys)
             + (SELECT count(*) FROM webhooks) + (SELECT count(*) FROM search_cache) + (SELECT count(*) FROM system_metrics)
             + (SELECT count(*) FROM sidecar_metric_meta) + (SELECT count(*) FROM sidecar_state WHERE key LIKE 'instance/%')",
        )
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Some rows of every table, in the forms in which SQLAlchemy, sqlite3 and sqlx write them.
const ROWS: &str = r#"
INSERT INTO content_metadata VALUES
  ('c1', 'Eins	"zwei"' || char(10) || '\N \. drei', 'https://a/é?x=1', '2026-11-22 17:09:20.427222', 'Änne', NULL, '2026-11-22T19:09:20+02:00', 3, 87.5, '[0.1, -2e-3]'),
  ('c2', '', NULL, 1795367360, NULL, 1795367360427, NULL, NULL, NULL, NULL),
  ('c3', NULL, NULL, '2026-11-22T17:09:20Z', NULL, NULL, NULL, 0, '1.25', '5');
INSERT INTO processing_queue (id, content_id, created_at) VALUES ('q1', 'c2', '2026-11-22 17:09:20.427222386+00:00'), ('q2', NULL, NULL);
INSERT INTO api_keys VALUES ('k1', 'one', 'hash-1', '["read", "write"]', 1000, '2026-11-22 17:09:20', NULL, 1), ('k2', 'two', 'hash-2', NULL, NULL, NULL, NULL, 'false');
INSERT INTO webhooks VALUES ('w1', 'https://h/x', '["a"]', 'canary-secret', 0, '2026-11-22 17:09', NULL, 2);
INSERT INTO search_cache VALUES ('s1', 'q-hash', 'what?', '{"b": 1, "a": [true, null]}', '2026-11-22 17:09:20', '2026-11-23 17:09:20');
INSERT INTO system_metrics VALUES ('m1', 'big', 9007199254740993, '{"host":"h"}', '2026-11-22 17:09:20.123'), ('m2', 'small', 3.2e-5, NULL, '2026-11-22 17:09:20.124'),
  ('m3', 'huge', 5e11, '{}', NULL), ('m4', 'exact', 0.1, '{}', '2026-11-22 17:09:20'), ('m5', 'zero', -0.0, '{}', '2026-11-22 17:09:20');
INSERT INTO sidecar_state VALUES ('instance/0123456789ab', '{"host":"h"}', '2026-11-22 17:09:20.123'), ('job/cache-expiry', 'the source''s', '2026-11-22 17:09:20.123');
INSERT INTO sidecar_metric_meta VALUES ('big', 'gauge', 'A help.', '2026-11-22 17:09:20.123');
INSERT INTO sidecar_migrations VALUES ('own', 1);
INSERT INTO users VALUES (1, 'not ours');"#;

/// V-1, V-5, V-6, T-1, T-2, T-4: every value arrives, exactly.
#[test]
fn rows_of_every_form_arrive() {
    let scene = Scene::new();
    scene.sqlite(&format!("PRAGMA journal_mode = WAL;{ROWS}"));
    assert_eq!(names(scene.folder.path()), ["atlas.db"], "the shell has taken its log away");
    let before = (std::fs::read(scene.file()).unwrap(), scene.file().metadata().unwrap().modified().unwrap());

    let dry: Value = serde_json::from_slice(&scene.copy(&["--dry-run", "--json"]).stdout).unwrap();
    assert_eq!((&dry["copied"], scene.rows().as_str()), (&Value::Bool(false), "0"));
    let report = scene.copied(&[]);

    assert_eq!(names(scene.folder.path()), ["atlas.db"], "no file is left behind");
    let after = (std::fs::read(scene.file()).unwrap(), scene.file().metadata().unwrap().modified().unwrap());
    assert!(before == after, "the source has changed");
    assert_eq!(report["not_copied"], serde_json::json!(["users"]));

    for (sql, rows) in [
        (
            "SELECT id, created_at, search_indexed_at, last_accessed_at FROM content_metadata ORDER BY id",
            "c1|2026-11-22 17:09:20.427222||2026-11-22 17:09:20\nc2|2026-11-22 17:09:20|2026-11-22 17:09:20.427|\nc3|2026-11-22 17:09:20||",
        ),
        (
            "SELECT id, author, access_count, cognitive_score, vector_embedding FROM content_metadata ORDER BY id",
            "c1|Änne|3|87.50|[0.1, -2e-3]\nc2||||\nc3||0|1.25|5",
        ),
        (
            "SELECT title IS NULL, encode(convert_to(title, 'UTF8'), 'escape') FROM content_metadata ORDER BY id",
            "f|Eins\t\"zwei\"\n\\\\N \\\\. drei\nf|\nt|",
        ),
        (
            "SELECT id, content_id, status, created_at, priority FROM processing_queue ORDER BY id",
            "q1|c2|pending|2026-11-22 17:09:20.427222|5\nq2||pending||5",
        ),
        (
            "SELECT id, permissions, rate_limit_per_hour, created_at, is_active FROM api_keys ORDER BY id",
            "k1|[\"read\", \"write\"]|1000|2026-11-22 17:09:20|t\nk2||||f",
        ),
        (
            "SELECT events, secret, is_active, created_at, failure_count FROM webhooks",
            "[\"a\"]|canary-secret|f|2026-11-22 17:09:00|2",
        ),
        ("SELECT results, expires_at FROM search_cache", "{\"b\": 1, \"a\": [true, null]}|2026-11-23 17:09:20"),
        (
            "SELECT id, metric_value, tags, recorded_at FROM system_metrics ORDER BY id",
            "m1|9007199254740993|{\"host\":\"h\"}|2026-11-22 17:09:20.123\nm2|0.000032||2026-11-22 17:09:20.124\nm3|500000000000|{}|\n\
          m4|0.1|{}|2026-11-22 17:09:20\nm5|0|{}|2026-11-22 17:09:20",
        ),
        (
            "SELECT key, value FROM sidecar_state ORDER BY key",
            "instance/0123456789ab|{\"host\":\"h\"}\njob/cache-expiry|the target's own",
        ),
        ("SELECT name, kind, help, updated_at FROM sidecar_metric_meta", "big|gauge|A help.|2026-11-22 17:09:20.123"),
    ] {
        assert_eq!(scene.psql(sql), rows, "{sql}");
    }

    let metrics = report["tables"].as_array().unwrap().iter().find(|t| t["table"] == "system_metrics").unwrap();
    assert_eq!(metrics["columns"][2]["in_target"]["sum"], "9007699254740993.100032");
    assert_eq!((&metrics["equal"], &metrics["digest"]), (&Value::Bool(true), &metrics["digest_in_target"]));
    // What was foreseen is what was done.
    let conversions = |report: &Value| -> Vec<Value> {
        report["tables"].as_array().unwrap().iter().map(|t| t["conversions"].clone()).collect()
    };
    assert_eq!(conversions(&dry), conversions(&report));
}

#[test]
fn the_report_is_for_people_too() {
    let scene = Scene::new();
    scene.sqlite(ROWS);
    let said = scene.refused(0, &["--dry-run"]);
    assert!(
        said.contains("would be copied") && said.contains("seconds or milliseconds since 1970 to timestamp"),
        "{said}"
    );
    let said = scene.refused(0, &[]);
    for line in [
        "copied and found equal",
        "system_metrics: 5 rows, equal, digest ",
        "sum 9007699254740993.100032",
        "not copied, the application's own: `users`",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("canary-secret"), "{said}");
}

/// The key that `migrate` makes in a new database would be in the way of the keys that come.
#[test]
fn a_made_admin_key_makes_way_only_for_keys() {
    const MADE: &str =
        "INSERT INTO api_keys (id, name, key_hash) VALUES ('admin-key-001', 'Admin API Key', repeat('0a', 32))";
    let scene = Scene::new();
    scene.psql(MADE);
    scene.sqlite("INSERT INTO webhooks (id, url, events) VALUES ('w', 'u', '[]')");
    scene.copied(&[]);
    assert_eq!(scene.psql("SELECT id FROM api_keys"), "admin-key-001", "the source has none: it stays");

    let scene = Scene::new();
    scene.psql(MADE);
    scene.sqlite(ROWS);
    let report = scene.copied(&[]);
    assert!(report["notes"].to_string().contains("admin key"), "{report}");
    assert_eq!(scene.psql("SELECT id FROM api_keys ORDER BY id"), "k1\nk2");

    // One that was used is somebody's.
    let scene = Scene::new();
    scene.psql(&format!("{MADE}; UPDATE api_keys SET last_used_at = now()"));
    scene.sqlite(ROWS);
    assert!(scene.refused(1, &[]).contains("`api_keys` has rows in the target"));
    assert_eq!(scene.psql("SELECT id FROM api_keys"), "admin-key-001");
}

#[test]
fn only_the_tables_that_are_named() {
    let scene = Scene::new();
    scene.sqlite(ROWS);
    scene.copied(&["--table", "webhooks", "--table", "search_cache"]);
    assert_eq!(scene.rows(), "2");
    scene.copied(&["--table", "system_metrics"]);
    assert_eq!(scene.rows(), "7");
}

/// Without `--to` it goes where the configuration says, with the password from there.
#[test]
fn the_configuration_is_the_target() {
    let scene = Scene::new();
    scene.sqlite(ROWS);
    let bare = scene.url.replace(&format!(":{PASSWORD}"), "");
    let config = format!("[database]\nurl = \"{bare}\"\npassword_file = \"pw\"\n");
    std::fs::write(scene.folder.path().join("sidecar.toml"), config).unwrap();
    std::fs::write(scene.folder.path().join("pw"), format!("{PASSWORD}\n")).unwrap();
    for (more, code) in [(&["--dry-run"][..], 0), (&["--to", &bare, "--dry-run"], 0), (&[], 0)] {
        let mut args = vec!["--config", "sidecar.toml", "copy", "--from", "sqlite:atlas.db"];
        args.extend(more);
        let out = sidecar(scene.folder.path(), &args);
        let said = text(&out.stdout) + &text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{said}");
        assert!(!said.contains(PASSWORD));
    }
    assert_eq!(scene.rows(), "16");
}

/// Numbers that the server gives out go on behind those that came (serial, identity, a sequence of its own).
#[test]
fn sequences_go_on_behind_the_rows() {
    let scene = Scene::bare();
    scene.sqlite(
        "CREATE TABLE content_metadata (id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT, n INTEGER, shout TEXT AS (upper(title)));
         CREATE TABLE processing_queue (id INTEGER PRIMARY KEY, content_id INTEGER);
         CREATE TABLE webhooks (id INTEGER PRIMARY KEY, parent INTEGER);
         INSERT INTO content_metadata VALUES (1, 'a', 40), (70, 'b', 41);
         INSERT INTO processing_queue VALUES (12, 70); INSERT INTO webhooks VALUES (1, 2), (2, NULL)",
    );
    scene.psql(
        "CREATE SEQUENCE \"Own\"; CREATE TABLE content_metadata (id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title TEXT, n INTEGER DEFAULT nextval('\"Own\"'),
           shout TEXT GENERATED ALWAYS AS (upper(title)) STORED);
         CREATE TABLE processing_queue (id SERIAL PRIMARY KEY, content_id INTEGER REFERENCES content_metadata);
         CREATE TABLE webhooks (id BIGINT PRIMARY KEY, parent BIGINT REFERENCES webhooks)",
    );
    let report = scene.copied(&[]);
    assert!(report["notes"].to_string().contains("`shout` of `content_metadata` is computed"), "{report}");
    scene.psql(
        "INSERT INTO content_metadata (title) VALUES ('c'); INSERT INTO processing_queue (content_id) VALUES (71)",
    );
    assert_eq!(scene.psql("SELECT id, n, shout FROM content_metadata ORDER BY id"), "1|40|A\n70|41|B\n71|42|C");
    assert_eq!(scene.psql("SELECT max(id) FROM processing_queue"), "13");
}

/// A database whose text is UTF-16, a table without rowids, names in other spellings.
#[test]
fn sources_of_other_kinds() {
    let scene = Scene::bare();
    scene.sqlite(
        "PRAGMA encoding = 'UTF-16le';
         CREATE TABLE \"Webhooks\" (\"ID\" TEXT PRIMARY KEY, \"ev\"\"ents\" TEXT, empty TEXT) WITHOUT ROWID;
         INSERT INTO webhooks VALUES ('ä😀', 'Ω', ''), ('b', NULL, NULL)",
    );
    scene.psql("CREATE TABLE webhooks (id TEXT PRIMARY KEY, \"ev\"\"ents\" TEXT, empty TEXT)");
    scene.copied(&[]);
    assert_eq!(
        scene.psql("SELECT id, \"ev\"\"ents\", empty IS NULL FROM webhooks ORDER BY id COLLATE \"C\""),
        "b||t\nä😀|Ω|f"
    );
}
