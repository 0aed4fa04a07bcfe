//! Full text: a GIN index that the server keeps up, used by the documented expression.

use atlas_sidecar::engine::Settings;
use atlas_sidecar::engine::postgres::schema::full_text::expression;

use super::super::full_text;
use super::Place;

fn found(place: &Place, table: &str, columns: &[&str], key: &str, words: &str) -> String {
    let columns: Vec<String> = columns.iter().map(|c| (*c).to_owned()).collect();
    let search = format!(
        "SELECT {key} FROM {table} WHERE {} @@ websearch_to_tsquery('simple', '{words}') ORDER BY 1",
        expression(&columns)
    );
    // The key's index gives the order as well: here it is asked for the other one.
    let plan = place.sql(&format!("SET enable_seqscan = off; SET enable_indexscan = off; EXPLAIN {search}"));
    assert!(plan.contains("sidecar_fts_"), "{plan}");
    place.sql(&search)
}

#[tokio::test]
async fn the_index_finds_what_was_there_and_what_comes_later() {
    let place = Place::made_by_the_application("base");
    let settings =
        Settings { full_text: vec![full_text("content_metadata", "id", &["title", "url"])], ..place.settings() };
    let triggers = place.sql("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal");
    let report = place.try_migrate(&settings, false).await.unwrap();
    let what = "create full-text index `sidecar_fts_content_metadata` over `title`, `url` of `content_metadata`";
    assert!(report.files[0].steps.iter().any(|s| s == what), "{report}");
    assert_eq!(
        found(&place, "content_metadata", &["title", "url"], "title", "ÜBER title 117"),
        "Title 117 über sidecars"
    );
    assert_eq!(place.sql("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"), triggers);
    place.sql("INSERT INTO content_metadata (id, title) VALUES ('zzz', 'late')");
    assert_eq!(found(&place, "content_metadata", &["title", "url"], "id", "late"), "zzz");
    assert!(place.try_migrate(&settings, false).await.unwrap().unchanged());

    let other = Settings { full_text: vec![full_text("content_metadata", "id", &["title"])], ..place.settings() };
    let report = place.try_migrate(&other, false).await.unwrap();
    assert!(
        report.unchanged() && report.files[0].notes.iter().any(|n| n.contains("drop it, and `migrate` makes it anew"))
    );
    // The application may drop and change its columns as if we were not there.
    place.sql_as_owner("ALTER TABLE content_metadata ALTER title TYPE text; ALTER TABLE content_metadata DROP url");
}

/// An application's INSERT must not fail by our index, whatever the text.
#[tokio::test]
async fn no_text_is_too_long_for_the_application() {
    let place = Place::made_by_sql("CREATE TABLE notes (id int PRIMARY KEY, body text)");
    let settings = Settings { full_text: vec![full_text("notes", "id", &["body"])], ..place.settings() };
    place.try_migrate(&settings, false).await.unwrap();
    // Words that differ; of four bytes a character; compounds, which count twice; URLs; one endless word.
    place.sql(
        "INSERT INTO notes SELECT 1, string_agg(md5(i::text), ' ') FROM generate_series(1, 100000) i;
         INSERT INTO notes SELECT 2, string_agg(chr(131072 + i % 40000) || chr(131072 + i / 7), ' ') FROM generate_series(1, 100000) i;
         INSERT INTO notes SELECT 3, string_agg(chr(131072 + i % 40000) || '-' || chr(140000 + i % 30000) || '-x' || i, ' ') FROM generate_series(1, 100000) i;
         INSERT INTO notes SELECT 4, string_agg('http://h' || i || '.example.org/' || i, ' ') FROM generate_series(1, 100000) i;
         INSERT INTO notes SELECT 5, repeat('a', 3000000);
         INSERT INTO notes SELECT 6, string_agg(chr(97 + i % 26) || chr(97 + i / 26 % 26) || chr(97 + i / 676), ' ') FROM generate_series(1, 17575) i;
         INSERT INTO notes SELECT 7, string_agg(chr(131072 + i), '-') FROM generate_series(1, 40000) i",
    );
    assert_eq!(place.sql("SELECT count(*) FROM notes"), "7");
}

#[tokio::test]
async fn any_name_is_safe() {
    let place = Place::made_by_sql(
        r#"CREATE TABLE victim (a int); CREATE TABLE "Order" ("Select" int PRIMARY KEY, "group" text);
        INSERT INTO "Order" VALUES (7, 'seven'), (8, 'eight');
        CREATE TABLE "it's ""x""; DROP TABLE victim; --" ("k'e""y" text PRIMARY KEY, "a, b" varchar(9), "c]=[`" text);
        INSERT INTO "it's ""x""; DROP TABLE victim; --" VALUES ('k', 'alpha', 'beta');
        CREATE TABLE a_table_whose_name_is_so_long_that_ours_does_not_fit_any_more (id int PRIMARY KEY, t text);
        CREATE TABLE numbers (id int PRIMARY KEY, n int); CREATE VIEW seen AS SELECT * FROM numbers"#,
    );
    let hostile = "it's \"x\"; DROP TABLE victim; --";
    let wanted = vec![
        full_text("Order", "Select", &["group"]),
        full_text(hostile, "k'e\"y", &["a, b", "c]=[`"]),
        full_text("order", "id", &["group"]),
        full_text("nowhere\u{1b}[2J", "id", &["x"]),
        full_text("a_table_whose_name_is_so_long_that_ours_does_not_fit_any_more", "id", &["t"]),
        full_text("numbers", "id", &["n"]),
        full_text("seen", "id", &["n"]),
    ];
    let settings = Settings { full_text: wanted, ..place.settings() };
    let report = place.try_migrate(&settings, false).await.unwrap();
    assert!(!report.to_string().contains('\u{1b}'));
    let notes = report.files[0].notes.join("\n");
    for why in [
        "`order`: the table does not exist",
        "longer than 63 bytes",
        "its column `n` is no text, but `integer`",
        "it is a view",
    ] {
        assert!(notes.contains(why), "{why}\n{notes}");
    }
    assert_eq!(found(&place, "\"Order\"", &["group"], "\"Select\"", "eight"), "8");
    let table = format!("\"{}\"", hostile.replace('"', "\"\""));
    assert_eq!(found(&place, &table, &["a, b", "c]=[`"], "\"k'e\"\"y\"", "alpha beta"), "k");
    assert_eq!(place.sql("SELECT count(*) FROM victim"), "0");
    assert!(place.try_migrate(&settings, false).await.unwrap().unchanged());
}
