//! V-1, V-5: a `metric_value` of limited precision is told, and widened on request.

use atlas_sidecar::engine::Settings;

use super::Place;

const TYPE: &str = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = 'system_metrics'::regclass AND attname = 'metric_value'";

fn asked(place: &Place) -> Settings {
    Settings { widen_metric_value: true, ..place.settings() }
}

#[tokio::test]
async fn it_is_widened_only_on_request() {
    let place = Place::made_by_the_application("full");
    for dry_run in [true, false, false] {
        let report = place.try_migrate(&place.settings(), dry_run).await.unwrap();
        let warnings = report.files[0].warnings.join("\n");
        assert!(
            warnings.contains("`numeric(15,4)`: it holds values below 1e11 only and rounds to 4 digits"),
            "{warnings}"
        );
        assert!(warnings.contains("`database.widen_metric_value = true`"), "{warnings}");
        assert_eq!(place.sql(TYPE), "numeric(15,4)");
    }
    assert!(place.cluster.try_psql("atlas_db", "UPDATE system_metrics SET metric_value = 1e11").is_err());
    let rows = place.sql("SELECT * FROM system_metrics ORDER BY id");
    let file = place.sql("SELECT relfilenode FROM pg_class WHERE relname = 'system_metrics'");
    let what = "change the type of `system_metrics`.`metric_value` from `numeric(15,4)` to `numeric`";
    assert_eq!(place.run_starts(&asked(&place)).await.unwrap().files[0].pending, [what]);
    for dry_run in [true, false] {
        assert_eq!(place.try_migrate(&asked(&place), dry_run).await.unwrap().files[0].steps, [what]);
    }
    assert_eq!(place.sql(TYPE), "numeric");
    assert_eq!(place.sql("SELECT * FROM system_metrics ORDER BY id"), rows);
    assert_eq!(
        place.sql("SELECT relfilenode FROM pg_class WHERE relname = 'system_metrics'"),
        file,
        "no row is rewritten"
    );
    place.sql("UPDATE system_metrics SET metric_value = 1e15");
    let report = place.try_migrate(&asked(&place), false).await.unwrap();
    assert!(report.unchanged() && report.files[0].warnings.len() == 1, "the placeholder key: {report}");
}

/// What would make the server refuse is named, all of it, and nothing is tried.
#[tokio::test]
async fn what_is_in_the_way_is_named() {
    let place = Place::made_by_sql(
        "CREATE TABLE system_metrics (id varchar(36) PRIMARY KEY, metric_name varchar(255) NOT NULL, metric_value decimal(15,4) NOT NULL,
            tags json, recorded_at timestamp, doubled numeric GENERATED ALWAYS AS (metric_value * 2) STORED);
         CREATE INDEX by_value ON system_metrics (metric_value);
         ALTER TABLE system_metrics ADD CHECK (metric_value > -1e9), ALTER metric_value SET DEFAULT 0;
         CREATE VIEW latest AS SELECT metric_name, metric_value FROM system_metrics;
         CREATE VIEW names AS SELECT metric_name FROM system_metrics;
         CREATE MATERIALIZED VIEW \"Daily sums\" AS SELECT sum(metric_value) FROM system_metrics;
         CREATE RULE noisy AS ON INSERT TO system_metrics WHERE new.metric_value > 5 DO INSTEAD NOTHING;
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER watch AFTER UPDATE OF metric_value ON system_metrics FOR EACH ROW EXECUTE FUNCTION f()",
    );
    let report = place.try_migrate(&asked(&place), false).await.unwrap();
    let warning = report.files[0].warnings.iter().find(|w| w.contains("metric_value")).unwrap();
    for blocker in ["`view latest`", "`materialized view \"Daily sums\"`", "rule noisy", "doubled", "trigger watch"] {
        assert!(warning.contains(blocker), "{blocker}\n{warning}");
    }
    assert!(!warning.contains("names") && !warning.contains("by_value") && !warning.contains("check"), "{warning}");
    assert_eq!(place.sql(TYPE), "numeric(15,4)");
    assert!(place.try_migrate(&asked(&place), false).await.unwrap().unchanged());

    place.sql(
        "DROP VIEW latest; DROP MATERIALIZED VIEW \"Daily sums\"; DROP RULE noisy ON system_metrics;
               DROP TRIGGER watch ON system_metrics; ALTER TABLE system_metrics DROP doubled",
    );
    assert_eq!(place.try_migrate(&asked(&place), false).await.unwrap().files[0].steps.len(), 1);
    assert_eq!(place.sql(TYPE), "numeric");
}
