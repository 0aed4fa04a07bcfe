//! Full-text indexes: filled in pieces, found by key, made for any name.

use atlas_sidecar::engine::Settings;
use atlas_sidecar::engine::schema::KeySink;
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::schema::apply::{Stepped, Work};
use atlas_sidecar::engine::sqlite::schema::{Part, Scope};

use super::{Scene, clock, full_text};

#[tokio::test]
async fn rows_are_found_by_their_key_and_the_application_has_no_triggers() {
    let scene = Scene::made_by_the_application("base");
    let triggers = scene.sql("SELECT * FROM sqlite_schema WHERE type = 'trigger'");
    let settings =
        Settings { full_text: vec![full_text("content_metadata", "id", &["title", "url"])], ..scene.settings() };
    let report = scene.try_migrate(&settings, false).await.unwrap();
    assert!(
        report.to_string().contains("fill full-text index `sidecar_fts_content_metadata` over `title`, `url`"),
        "{report}"
    );
    assert_eq!(scene.sql("SELECT count(*) FROM sidecar_fts_content_metadata"), "200\n");
    assert_eq!(
        scene.sql(
            "SELECT c.title FROM sidecar_fts_content_metadata f JOIN content_metadata c ON c.id = f.key
             WHERE sidecar_fts_content_metadata MATCH 'uber AND title AND 117'"
        ),
        "Title 117 über sidecars\n"
    );
    scene.sql("INSERT INTO sidecar_fts_content_metadata(sidecar_fts_content_metadata) VALUES('integrity-check')");
    assert_eq!(scene.sql("SELECT * FROM sqlite_schema WHERE type = 'trigger'"), triggers);
    // Rows that come later are the upkeep's, so there is nothing to migrate.
    scene.sql("INSERT INTO content_metadata(id, title) VALUES('zzz', 'late')");
    assert!(scene.try_migrate(&settings, false).await.unwrap().unchanged());
}

/// Implicit rowids move at VACUUM: in the middle of filling, that must neither lose nor double a row. Nobody sees half an index.
#[tokio::test]
async fn an_interrupted_filling_goes_on_after_the_last_key_even_after_a_vacuum() {
    let scene = Scene::made_by_sql(
        "CREATE TABLE notes(id VARCHAR(36) PRIMARY KEY, body TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
         INSERT INTO notes SELECT format('%08x', (i * 2654435761) & 0xffffffff), 'word' || i FROM n;
         DELETE FROM notes WHERE rowid % 3 = 0; INSERT INTO notes VALUES(NULL, 'nobody'), (NULL, 'either');",
    );
    let wanted = [full_text("notes", "id", &["body"])];
    let (sink, clock) = (KeySink::File(scene.path("state")), clock());
    let mut batches = 0;
    for _ in 0..1000 {
        let database = Database::open(&scene.path("atlas.db"), false).await.unwrap();
        let mut work = Work::new(&database, (Part::Whole, Scope::All), &wanted, &sink, &clock);
        let stepped = work.step().await.unwrap();
        database.close().await;
        match stepped {
            Stepped::Nothing(_) => break,
            Stepped::Rows => {
                batches += 1;
                assert_eq!(scene.sql("SELECT count(*) FROM sqlite_schema WHERE name = 'sidecar_fts_notes'"), "0\n");
                scene.sql("VACUUM");
            }
            Stepped::Done { .. } => {}
        }
    }
    // A new connection each time begins with 64 rows.
    assert_eq!(batches, 2000 / 64);
    let missing = "SELECT count(*) FROM (SELECT id, body FROM notes WHERE id IS NOT NULL EXCEPT SELECT key, body FROM sidecar_fts_notes)";
    assert_eq!(scene.sql(missing), "0\n");
    assert_eq!(scene.sql("SELECT count(*), count(DISTINCT key) FROM sidecar_fts_notes"), "2000|2000\n");
    assert_eq!(scene.sql("SELECT count(*) FROM sqlite_schema WHERE name LIKE '%filling%'"), "0\n");
}

#[tokio::test]
async fn any_name_is_safe() {
    let scene = Scene::made_by_sql(
        r#"CREATE TABLE victim(a);
        CREATE TABLE "order"("select" INTEGER PRIMARY KEY, "group" TEXT);
        INSERT INTO "order" VALUES(7, 'seven'), (8, 'eight');
        CREATE TABLE "it's ""x""; DROP TABLE victim; --"("k'e""y" TEXT PRIMARY KEY, "a, b UNINDEXED" TEXT, "c]=[`" TEXT);
        INSERT INTO "it's ""x""; DROP TABLE victim; --" VALUES('k', 'alpha', 'beta');
        CREATE TABLE "%s %w"("é" TEXT UNIQUE, "日本" TEXT); INSERT INTO "%s %w" VALUES('k', 'gamma');"#,
    );
    let hostile = "it's \"x\"; DROP TABLE victim; --";
    let wanted = vec![
        full_text("order", "select", &["group"]),
        full_text(hostile, "k'e\"y", &["a, b UNINDEXED", "c]=[`"]),
        full_text("%s %w", "é", &["日本"]),
        full_text("nowhere\u{0}\u{1b}[2J", "id", &["x"]),
        full_text("victim", "a", &["a"]),
    ];
    let settings = Settings { full_text: wanted, ..scene.settings() };
    let report = scene.try_migrate(&settings, false).await.unwrap();
    assert!(!report.to_string().contains('\u{1b}'));
    assert!(
        report.files[0].notes.iter().any(|n| n.contains("full text of `victim`: its key `a` is not unique")),
        "{report}"
    );
    for (table, word, key) in [("order", "eight", "8"), (hostile, "alpha AND beta", "k"), ("%s %w", "gamma", "k")] {
        let name = format!("\"sidecar_fts_{}\"", table.replace('"', "\"\""));
        assert_eq!(
            scene.sql(&format!("SELECT key FROM {name} WHERE {name} MATCH '{word}'")),
            format!("{key}\n"),
            "{table}"
        );
    }
    assert_eq!(scene.sql("SELECT count(*) FROM victim"), "0\n");
    assert_eq!(scene.sql("PRAGMA integrity_check"), "ok\n");
    assert!(scene.try_migrate(&settings, false).await.unwrap().unchanged());
}

#[tokio::test]
async fn names_that_want_each_others_shadows_are_told_apart() {
    let scene = Scene::new();
    let wanted =
        vec![full_text("content_metadata", "id", &["title"]), full_text("content_metadata_data", "id", &["x"])];
    let settings = Settings { create: true, full_text: wanted, ..scene.settings() };
    let report = scene.try_migrate(&settings, false).await.unwrap();
    assert!(report.files[0].notes[0].contains("`content_metadata_data`: the table does not exist"), "{report}");
    scene.sql("CREATE TABLE content_metadata_data(id TEXT PRIMARY KEY, x)");
    let report = scene.try_migrate(&settings, false).await.unwrap();
    assert!(report.unchanged() && report.files[0].notes[0].contains("sidecar_fts_content_metadata_data"), "{report}");
}
