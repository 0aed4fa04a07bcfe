//! What is not copied, and how that is said: by table, column and the row's key.

use serde_json::Value;

use super::{Scene, text};
use crate::support::{run, sidecar};

/// V-7, V-8, V-9, T-2: rows that PostgreSQL cannot hold are named before anything is written; `--skip-bad` leaves them out.
#[test]
fn rows_that_do_not_fit_are_named() {
    let scene = Scene::new();
    scene.sqlite(
        "INSERT INTO system_metrics VALUES ('good', 'n', 1, '{}', '2026-11-22 17:09:20'), ('v7', 'n', 'abc', '{}', NULL), (NULL, 'n', 1, '{}', NULL),
           ('v9', printf('%.300c', 'x'), 1, '{}', NULL), ('t2', 'n', 1, '{}', 20261122), ('json', 'n', 1, '{''a'':1}', NULL),
           ('nul', 'a' || char(0) || 'b', 1, '{}', NULL), ('utf8', CAST(x'ff' AS TEXT), 1, '{}', NULL), ('blob', x'00', 1, '{}', NULL), ('inf', 'n', 9e999, '{}', NULL);
         INSERT INTO webhooks VALUES ('bool', 'u', '[]', 'canary-secret', 2, NULL, NULL, 0), ('int', 'u', '[]', NULL, 1, NULL, NULL, 3000000000)",
    );
    let out = scene.copy(&["--json"]);
    assert_eq!(out.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let mut bad = Vec::new();
    for table in report["tables"].as_array().unwrap() {
        for found in table["bad"].as_array().unwrap() {
            bad.push(format!(
                "{} {}: {}",
                found["column"].as_str().unwrap(),
                found["why"].as_str().unwrap(),
                found["examples"]
            ));
        }
    }
    bad.sort();
    assert_eq!(
        bad,
        [
            r#"failure_count is too large: ["int"]"#,
            r#"id is NULL, which the target does not take: ["rowid 3"]"#,
            r#"is_active is neither true nor false: ["bool"]"#,
            r#"metric_name has a NUL character, which PostgreSQL cannot hold: ["nul"]"#,
            r#"metric_name is a blob and no text: ["blob"]"#,
            r#"metric_name is longer than 255 characters: ["v9"]"#,
            r#"metric_name is text that is not UTF-8: ["utf8"]"#,
            r#"metric_value is not finite: ["inf"]"#,
            r#"metric_value is text that is no number: ["v7"]"#,
            r#"recorded_at is no time that can be read: ["t2"]"#,
            r#"tags is not JSON: ["json"]"#,
        ]
    );
    assert!(!text(&out.stdout).contains("canary-secret"));
    assert_eq!(scene.rows(), "0");

    let report = scene.copied(&["--skip-bad"]);
    assert_eq!(scene.psql("SELECT id FROM system_metrics"), "good");
    let left_out: Vec<_> =
        report["tables"].as_array().unwrap().iter().map(|t| t["left_out"].as_u64().unwrap()).collect();
    assert_eq!(left_out, [2, 9]);
}

/// V-1, V-5: the seed's own type for values is too small for some of them; nothing is rounded unasked.
#[test]
fn nothing_is_rounded_unasked() {
    let scene = Scene::new();
    scene.psql("ALTER TABLE system_metrics ALTER metric_value TYPE DECIMAL(15,4); ALTER TABLE content_metadata ALTER created_at TYPE TIMESTAMP(0)");
    scene.sqlite(
        "INSERT INTO content_metadata (id, cognitive_score, created_at) VALUES ('half', 0.875, '2026-11-22 17:09:20.5'), ('fine', 0.25, '2026-11-22 17:09:20');
         INSERT INTO system_metrics VALUES ('small', 'n', 0.00004, NULL, NULL)",
    );
    let said = scene.refused(1, &[]);
    for why in
        ["digits of `numeric(5,2)` behind its point: 1 rows (`half`)", "0 digits of its column", "`numeric(15,4)`"]
    {
        assert!(said.contains(why), "{why}: {said}");
    }
    scene.copied(&["--round"]);
    assert_eq!(
        scene.psql("SELECT cognitive_score, created_at FROM content_metadata ORDER BY id"),
        "0.25|2026-11-22 17:09:20\n0.88|2026-11-22 17:09:21"
    );
    assert_eq!(scene.psql("SELECT metric_value FROM system_metrics"), "0.0000");

    let scene = Scene::new();
    scene.psql("ALTER TABLE system_metrics ALTER metric_value TYPE DECIMAL(15,4)");
    scene.sqlite("INSERT INTO system_metrics VALUES ('big', 'n', 100000000000, NULL, NULL)");
    assert!(scene.refused(1, &["--round"]).contains("too large for `numeric(15,4)`"));
}

/// A column that the target lacks may hold nothing.
#[test]
fn no_column_is_forgotten() {
    let scene = Scene::new();
    scene.sqlite(
        "ALTER TABLE webhooks ADD COLUMN note TEXT; INSERT INTO webhooks (id, url, events) VALUES ('w1', 'u', '[]')",
    );
    scene.psql("ALTER TABLE search_cache ADD COLUMN address INET; ALTER TABLE api_keys ADD COLUMN owner TEXT NOT NULL");
    scene.copied(&[]);
    let scene = Scene::new();
    scene.sqlite(
        "ALTER TABLE webhooks ADD COLUMN note TEXT; INSERT INTO webhooks (id, url, events, note) VALUES ('w1', 'u', '[]', 'n');
         ALTER TABLE search_cache ADD COLUMN address TEXT; INSERT INTO search_cache VALUES ('s1', 'h', 'q', '1', NULL, '2026-11-22 17:09:20', '::1');
         INSERT INTO api_keys (id, name, key_hash) VALUES ('k', 'n', 'h')",
    );
    scene.psql("ALTER TABLE search_cache ADD COLUMN address INET; ALTER TABLE api_keys ADD COLUMN owner TEXT NOT NULL");
    for options in [&[][..], &["--skip-bad"]] {
        let said = scene.refused(1, options);
        for problem in [
            "`note` of `webhooks` has values in 1 rows, and the target has no such column (rows `w1`)",
            "`address` of `search_cache` has values in 1 rows, and `copy` does not know its type `inet`",
            "`owner` of `api_keys` may not be NULL in the target, and the source has no such column",
        ] {
            assert!(said.contains(problem), "{problem}: {said}");
        }
    }
    assert_eq!(scene.rows(), "0");
}

#[test]
fn tables_have_to_be_there_empty_and_ours() {
    let scene = Scene::new();
    scene.sqlite(super::ROWS);
    scene.psql(
        "DROP TABLE search_cache; DROP TABLE sidecar_metric_meta; CREATE VIEW sidecar_metric_meta AS SELECT 1 AS name;
         INSERT INTO webhooks (id, url, events) VALUES ('w', 'u', '[]')",
    );
    scene.cluster.psql("atlas", "ALTER TABLE api_keys OWNER TO postgres; GRANT SELECT ON api_keys TO atlas");
    let said = scene.refused(1, &[]);
    for problem in [
        "the target has no table `search_cache`: `atlas-sidecar migrate` makes it",
        "`webhooks` has rows in the target",
        "`api_keys` may not be read and written by this role",
        "`sidecar_metric_meta` is no table in the target",
    ] {
        assert!(said.contains(problem), "{problem}: {said}");
    }
    assert_eq!(scene.psql("SELECT count(*) FROM content_metadata"), "0");
}

/// The server's own rules are found while copying: the row is named, and nothing stays.
#[test]
fn the_servers_refusal_names_the_row() {
    let scene = Scene::new();
    for (rule, insert, said) in [
        (
            "CREATE UNIQUE INDEX once ON webhooks (url)",
            "('w1', 'u', '[]'), ('w2', 'v', '[]'), ('w3', 'u', '[]')",
            "the target refuses row `w3`",
        ),
        (
            "ALTER TABLE webhooks ADD CONSTRAINT short CHECK (length(url) < 5)",
            "('w1', 'u', '[]'), ('w2', 'long-url', '[]')",
            "row `w2`",
        ),
        (
            "CREATE DOMAIN few AS INTEGER CHECK (VALUE < 3); ALTER TABLE webhooks ALTER failure_count DROP DEFAULT, ALTER failure_count TYPE few",
            "('w1', 'u', '[]'), ('w2', 'u', '[]'); UPDATE webhooks SET failure_count = 5 WHERE id = 'w2'",
            "row `w2`",
        ),
        (
            "CREATE TYPE kind AS ENUM ('u'); ALTER TABLE webhooks ALTER url TYPE kind USING 'u'",
            "('w1', 'u', '[]'), ('w2', 'v', '[]')",
            "column `url` of `webhooks`",
        ),
    ] {
        scene.afresh();
        scene.psql(rule);
        scene.sqlite(&format!(
            "INSERT INTO content_metadata (id) VALUES ('c'); INSERT INTO webhooks (id, url, events) VALUES {insert}"
        ));
        let words = scene.refused(1, &[]);
        assert!(words.contains(said) && words.contains("hint: nothing was copied"), "{rule}: {words}");
        assert_eq!(scene.rows(), "0");
    }
    // A row that leads nowhere.
    scene.afresh();
    scene.sqlite("INSERT INTO processing_queue (id, content_id) VALUES ('q', 'nobody')");
    let words = scene.refused(1, &[]);
    assert!(words.contains("processing_queue_content_id_fkey") && words.contains("(content_id)=(nobody)"), "{words}");
    assert_eq!(scene.rows(), "0");
}

#[test]
fn usage_and_reachability_have_their_codes() {
    let scene = Scene::new();
    let ended = |args: &[&str]| {
        let out = sidecar(scene.folder.path(), &[&["copy"], args].concat());
        (out.status.code().unwrap(), text(&out.stderr))
    };
    let nobody = "postgres://u:canary-x@127.0.0.1:1/d";
    for (args, code, word) in [
        (&["--from", "sqlite://atlas.db"][..], 64, "no PostgreSQL"),
        (&["--from", "atlas.db", "--to", &scene.url], 64, "no SQLite file"),
        (&["--from", &scene.url, "--to", &scene.url], 64, "no SQLite file"),
        (&["--from", "sqlite://atlas.db", "--to", &scene.url, "--table", "users"], 64, "`users`"),
        (&["--from", "sqlite://atlas.db", "--to", "postgres://[/"], 64, "--to"),
        (&["--from", "sqlite://atlas.db", "--to", nobody], 69, "cannot connect"),
        (&["--from", "sqlite://missing.db", "--to", &scene.url], 69, "missing.db"),
        (&["--from", "sqlite://text.db", "--to", &scene.url], 69, "text.db"),
    ] {
        std::fs::write(scene.folder.path().join("text.db"), "no database, but long enough to be looked at".repeat(20))
            .unwrap();
        let (exit, said) = ended(args);
        assert_eq!(exit, code, "{args:?}: {said}");
        assert!(said.contains(word) && !said.contains("canary"), "{args:?}: {said}");
    }
    assert!(!scene.folder.path().join("missing.db").exists());
}

/// Locks of others are a matter of trying again.
#[test]
fn locks_of_others_are_waited_for_and_then_told() {
    let scene = Scene::new();
    scene.sqlite(super::ROWS);
    let mut holder = scene.cluster.psql_command("atlas");
    holder.args(["-c", "BEGIN; LOCK TABLE webhooks IN ROW EXCLUSIVE MODE; SELECT 'held'; SELECT pg_sleep(60)"]);
    let mut holder = holder.stdout(std::process::Stdio::null()).spawn().unwrap();
    crate::support::wait_for("the lock", std::time::Duration::from_secs(20), || {
        let held = scene
            .psql("SELECT count(*) FROM pg_locks WHERE relation = 'webhooks'::regclass AND mode = 'RowExclusiveLock'");
        (held == "1").then_some(())
    });
    let said = scene.refused(75, &[]);
    assert!(said.contains("`webhooks`") && said.contains("holds a lock"), "{said}");
    assert_eq!(scene.rows(), "0");
    run("kill", &[&holder.id().to_string()]);
    holder.wait().unwrap();
    scene.cluster.psql("atlas", "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE relation = 'webhooks'::regclass AND pid <> pg_backend_pid()");

    // SQLite, in rollback mode: somebody in the middle of writing.
    let program = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.isolation_level = None; db.execute('BEGIN EXCLUSIVE'); print('held', flush=True); sys.stdin.readline()";
    let mut writer = std::process::Command::new("python3")
        .args(["-c", program, scene.file().to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(writer.stdout.as_mut().unwrap()), &mut line).unwrap();
    assert!(scene.refused(75, &[]).contains("another process writes"));
    drop(writer.stdin.take());
    writer.wait().unwrap();
    scene.copied(&[]);
}
