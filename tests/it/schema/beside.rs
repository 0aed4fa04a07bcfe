//! What `run` does at its start, and where things go with `metrics_url`.

use std::path::Path;
use std::time::Duration;

use atlas_sidecar::engine::Settings;
use atlas_sidecar::engine::schema::Report;
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::schema::{inventory, prepare};

use super::{Scene, clock, shell};

const TABLES: &str = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY 1";

async fn run_starts(settings: &Settings, app: &Path, metrics: Option<&Path>) -> Report {
    let app = Database::open(app, settings.create).await.unwrap();
    let metrics = match metrics {
        Some(path) => Some(Database::open(path, settings.create).await.unwrap()),
        None => None,
    };
    let report = prepare(&app, metrics.as_ref(), settings, &clock()).await.unwrap();
    app.close().await;
    if let Some(metrics) = metrics {
        metrics.close().await;
    }
    report
}

#[tokio::test]
async fn beside_the_application_run_adds_only_its_own_and_says_what_is_missing() {
    let scene = Scene::made_by_the_application("older");
    let (tables, rows) = (scene.sql(TABLES), scene.rows());
    let schema = "SELECT sql FROM sqlite_schema WHERE tbl_name NOT LIKE 'sidecar%'";
    let before = (scene.dump(&rows), scene.sql(schema));
    let report = run_starts(&scene.settings(), &scene.path("atlas.db"), None).await;
    assert_eq!(
        report.files[0].steps,
        [
            "create `sidecar_migrations`",
            "create `sidecar_state`, `sidecar_metric_meta`",
            "create `sidecar_job_runs`",
            "create `sidecar_metrics_series`, `sidecar_metrics_rollup`"
        ]
    );
    let pending = report.files[0].pending.join("\n");
    for missing in
        ["create table `webhooks`", "add column `processing_queue`.`worker_id`", "`idx_queue_pending`", "migration 002"]
    {
        assert!(pending.contains(missing), "{pending}");
    }
    assert_eq!(report.files[0].warnings.len(), 1, "the placeholder");
    assert_eq!((scene.dump(&rows), scene.sql(schema)), before);
    assert_eq!(
        scene.sql(TABLES),
        sorted(&format!(
            "{tables}sidecar_job_runs\nsidecar_metric_meta\nsidecar_metrics_rollup\nsidecar_metrics_series\nsidecar_migrations\nsidecar_state\n"
        ))
    );

    let mut pending = report.files[0].pending.clone();
    let mut migrated = scene.migrate().await.files.remove(0).steps;
    pending.sort();
    migrated.sort();
    assert_eq!(migrated, pending, "`migrate` adds what `run` said");
    let report = run_starts(&scene.settings(), &scene.path("atlas.db"), None).await;
    assert!(report.unchanged() && report.files[0].pending.is_empty(), "{report}");
}

fn sorted(lines: &str) -> String {
    let mut lines: Vec<&str> = lines.lines().collect();
    lines.sort_unstable();
    lines.iter().map(|l| format!("{l}\n")).collect()
}

#[tokio::test]
async fn in_a_file_that_run_makes_it_does_everything() {
    let scene = Scene::new();
    let settings = Settings { create: true, ..scene.settings() };
    let report = run_starts(&settings, &scene.path("atlas.db"), None).await;
    assert!(report.files[0].made && report.files[0].pending.is_empty());
    assert_eq!(report.admin_key_file, Some(scene.path("state/admin-key")));
    let schema = scene.objects();
    assert!(run_starts(&settings, &scene.path("atlas.db"), None).await.unchanged());
    assert!(scene.migrate().await.unchanged());
    assert_eq!(scene.objects(), schema);
}

#[tokio::test]
async fn with_metrics_url_the_applications_database_stays_as_it_is() {
    let scene = Scene::made_by_the_application("base");
    let metrics = scene.path("metrics.db");
    let metrics_url = Some(format!("sqlite://{}", scene.text("metrics.db")));
    let settings = Settings { create: true, metrics_url, ..scene.settings() };
    let before = std::fs::read(scene.path("atlas.db")).unwrap();
    let report = run_starts(&settings, &scene.path("atlas.db"), Some(&metrics)).await;
    assert_eq!(std::fs::read(scene.path("atlas.db")).unwrap(), before);
    assert_eq!(
        shell(&metrics, TABLES),
        "sidecar_job_runs\nsidecar_metric_meta\nsidecar_metrics_rollup\nsidecar_metrics_series\nsidecar_migrations\nsidecar_state\nsystem_metrics\n"
    );
    assert!(report.files[0].database.ends_with("metrics.db") && report.files[1].steps.is_empty(), "{report}");
    assert!(run_starts(&settings, &scene.path("atlas.db"), Some(&metrics)).await.unchanged());

    let report = scene.try_migrate(&settings, false).await.unwrap();
    let text = report.to_string();
    assert!(text.contains("metrics.db: up to date") && text.contains("atlas.db: "), "{text}");
    let own = scene.sql("SELECT name FROM sqlite_schema WHERE name LIKE 'sidecar%' AND type = 'table'");
    assert_eq!(own, "sidecar_migrations\n", "the record of what was done to this file, and nothing for samples");
    assert_eq!(scene.sql("SELECT count(*) FROM api_keys"), "1\n");
    assert!(scene.try_migrate(&settings, false).await.unwrap().unchanged());
}

#[tokio::test]
async fn a_start_with_nothing_to_do_does_not_wait_for_a_writer() {
    let scene = Scene::made_by_the_application("base");
    scene.migrate().await;
    let app = Database::open(&scene.path("atlas.db"), false).await.unwrap();
    let application = Database::open(&scene.path("atlas.db"), false).await.unwrap();
    let writing = application.write().await.unwrap();
    let start = std::time::Instant::now();
    assert!(prepare(&app, None, &scene.settings(), &clock()).await.unwrap().unchanged());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    drop(writing);
    application.close().await;
    app.close().await;
}

/// What a collector asks before it promises anything.
#[tokio::test]
async fn the_inventory_says_what_is_missing() {
    let scene = Scene::made_by_the_application("base");
    scene.sql("CREATE VIEW search_cache AS SELECT id AS Query_Hash FROM authors");
    let database = Database::open(&scene.path("atlas.db"), false).await.unwrap();
    let mut reader = database.read(Duration::from_secs(10)).await.unwrap();
    let inventory = inventory::read(&mut reader).await.unwrap();
    drop(reader);
    database.close().await;
    assert_eq!(inventory.has("Processing_Queue", &["STATUS"]), Ok(()));
    assert_eq!(inventory.has("search_cache", &["query_hash"]), Ok(()), "a view will do");
    for (table, columns, missing) in [
        ("webhooks", &["id"] as &[&str], "table `webhooks` is missing"),
        ("processing_queue", &["id", "worker_id"], "column `worker_id` of `processing_queue` is missing"),
        (
            "processing_queue",
            &["worker_id", "priority"],
            "columns `worker_id`, `priority` of `processing_queue` are missing",
        ),
    ] {
        assert_eq!(inventory.has(table, columns).unwrap_err(), missing);
    }
}
