//! What `run` does at its start, and where things go with `metrics_url`.

use atlas_sidecar::engine::Settings;
use atlas_sidecar::engine::postgres::Database;
use atlas_sidecar::engine::postgres::schema::{inventory, prepare};

use super::{Place, clock};

#[tokio::test]
async fn beside_the_application_run_adds_only_its_own_and_says_what_is_missing() {
    let place = Place::made_by_the_application("older");
    let report = place.run_starts(&place.settings()).await.unwrap();
    assert_eq!(
        report.files[0].steps,
        [
            "create `sidecar_migrations`",
            "create `sidecar_state`, `sidecar_metric_meta`",
            "create `sidecar_job_runs`",
            "create `sidecar_metrics_series`, `sidecar_metrics_rollup`"
        ]
    );
    let pending = report.files[0].pending.clone();
    assert!(pending.iter().any(|p| p.contains("`idx_queue_pending`")), "{report}");
    assert_eq!(report.files[0].warnings.len(), 2, "the placeholder, and what metric_value cannot hold: {report}");
    assert_eq!(place.sql("SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'idx_%'"), "0");

    let mut migrated = place.migrate().await.files.remove(0).steps;
    let mut wanted = pending;
    wanted.sort();
    migrated.sort();
    assert_eq!(migrated, wanted, "`migrate` adds what `run` said");
    let report = place.run_starts(&place.settings()).await.unwrap();
    assert!(report.unchanged() && report.files[0].pending.is_empty(), "{report}");
}

/// `database.create` has no meaning here: an empty database gets everything.
#[tokio::test]
async fn in_an_empty_database_run_does_everything() {
    let place = Place::new();
    let report = place.run_starts(&Settings { create: false, ..place.settings() }).await.unwrap();
    assert!(report.files[0].pending.is_empty() && !report.files[0].made, "{report}");
    assert_eq!(report.admin_key_file, Some(place.scene.path("state/admin-key")));
    let schema = place.schema();
    assert!(place.run_starts(&place.settings()).await.unwrap().unchanged());
    assert!(place.migrate().await.unchanged());
    assert_eq!(place.schema(), schema);
}

#[tokio::test]
async fn with_metrics_url_the_applications_database_stays_as_it_is() {
    let place = Place::made_by_the_application("base");
    let settings = Settings { metrics_url: Some(place.cluster.database("samples")), ..place.settings() };
    let before = place.dump(&[]);
    let app = place.open().await;
    let samples = Database::open(settings.metrics_url.as_ref().unwrap(), None).await.unwrap();
    let report = prepare(&app, Some(&samples), &settings, &clock()).await.unwrap();
    app.close().await;
    samples.close().await;
    assert_eq!(place.dump(&[]), before);
    assert!(report.files[0].database.ends_with("/samples") && report.files[1].steps.is_empty(), "{report}");
    let tables = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    let own = "sidecar_job_runs sidecar_metric_meta sidecar_metrics_rollup sidecar_metrics_series sidecar_migrations sidecar_state system_metrics";
    assert_eq!(place.cluster.psql("samples", tables), own);

    let report = place.try_migrate(&settings, false).await.unwrap();
    assert!(report.files[0].steps.is_empty() && !report.files[1].steps.is_empty(), "{report}");
    let own = "SELECT relname FROM pg_class WHERE relname LIKE 'sidecar%' AND relkind = 'r'";
    assert_eq!(place.sql(own), "sidecar_migrations", "the record of what was done to this database");
    assert!(place.try_migrate(&settings, false).await.unwrap().unchanged());
    // The same database under both keys is one database.
    let settings = Settings { metrics_url: Some(place.url()), ..place.settings() };
    assert_eq!(place.try_migrate(&settings, true).await.unwrap().files.len(), 1);
}

/// What a collector asks before it promises anything.
#[tokio::test]
async fn the_inventory_says_what_is_missing() {
    let place = Place::made_by_the_application("base");
    place.sql_as_owner(
        "CREATE VIEW search_cache AS SELECT id AS query_hash FROM authors; CREATE TABLE \"Webhooks\" (id int)",
    );
    let database = place.open().await;
    let mut reader = database.read(super::LIMIT).await.unwrap();
    let inventory = inventory::read(&mut reader).await.unwrap();
    drop(reader);
    database.close().await;
    assert_eq!(inventory.has("processing_queue", &["status"]), Ok(()));
    assert_eq!(inventory.has("search_cache", &["query_hash"]), Ok(()), "a view will do");
    assert_eq!(inventory.has("webhooks", &["id"]), Err("table `webhooks` is missing".into()), "nobody reaches it so");
    let missing = inventory.has("processing_queue", &["id", "worker_id"]).unwrap_err();
    assert_eq!(missing, "column `worker_id` of `processing_queue` is missing");
    let content = inventory.relation("content_metadata").unwrap();
    assert!(content.is_unique("id") && content.is_unique("url") && !content.is_unique("title"));
    assert_eq!(content.column("id").unwrap().declared, "character varying(36)");
}
