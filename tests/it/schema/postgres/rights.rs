//! Roles with less than everything: which right is missing, for whom, on what, and the statement that gives it.

use atlas_sidecar::engine::Settings;

use super::Place;
use crate::support::postgres::{PASSWORD, Stop};

/// The application's role owns everything; `guest` is somebody else.
fn beside(shape: &str) -> (Place, Settings) {
    let place = if shape == "empty" { Place::new() } else { Place::made_by_the_application(shape) };
    place.sql(&format!("CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'"));
    let url = place.url().replace("postgres://atlas:", "postgres://guest:");
    let settings = Settings { url, ..place.settings() };
    (place, settings)
}

/// Does what a hint says, line by line.
fn grant(place: &Place, hint: &str) {
    for statement in hint.split("; ").filter(|s| s.starts_with("GRANT")) {
        place.sql(statement);
    }
}

#[tokio::test]
async fn a_role_that_may_not_create_is_told_so_before_anything_is_done() {
    let (place, settings) = beside("empty");
    let before = place.dump(&[]);
    let dry = place.try_migrate(&settings, true).await.unwrap();
    assert!(dry.files[0].warnings.iter().any(|w| w.contains("no right to CREATE in schema `public`")), "{dry}");
    for error in
        [place.try_migrate(&settings, false).await.unwrap_err(), place.run_starts(&settings).await.unwrap_err()]
    {
        assert_eq!(error.message, "role `guest` has no right to CREATE in schema `public`");
        assert_eq!(error.hint.as_deref(), Some("GRANT CREATE ON SCHEMA \"public\" TO \"guest\";"));
    }
    assert_eq!(place.dump(&[]), before);
    grant(&place, "GRANT CREATE ON SCHEMA \"public\" TO \"guest\";");
    place.try_migrate(&settings, false).await.unwrap();
    assert!(place.try_migrate(&settings, false).await.unwrap().unchanged());
}

#[tokio::test]
async fn a_role_that_does_not_own_the_applications_tables_cannot_add_to_them() {
    let (place, settings) = beside("base");
    place.sql("GRANT CREATE ON SCHEMA public TO guest");
    let before = place.dump(&[]);
    let error = place.try_migrate(&settings, false).await.unwrap_err();
    for table in ["content_metadata", "processing_queue"] {
        let line = format!("role `guest` does not own table `{table}`; its owner is `atlas`");
        assert!(error.message.contains(&line), "{error}");
    }
    assert!(error.hint.as_ref().unwrap().contains("GRANT \"atlas\" TO \"guest\";"), "{error}");
    assert_eq!(place.dump(&[]), before, "nothing is done in part");

    // `run` needs none of that for its own tables, and says what it cannot read.
    let report = place.run_starts(&settings).await.unwrap();
    let warnings = report.files[0].warnings.join("\n");
    let line = "role `guest` has no right to SELECT on `processing_queue`; `GRANT SELECT ON \"processing_queue\" TO \"guest\"`";
    assert!(warnings.contains(line), "{warnings}");
    place.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest");
    assert!(place.run_starts(&settings).await.unwrap().files[0].warnings.is_empty());

    place.sql("GRANT atlas TO guest");
    place.try_migrate(&settings, false).await.unwrap();
    assert!(place.try_migrate(&settings, false).await.unwrap().unchanged());
}

/// The usual division: one role migrates, another runs.
#[tokio::test]
async fn a_role_without_create_runs_where_its_tables_are_there_already() {
    let (place, settings) = beside("base");
    place.migrate().await;
    let error = place.run_starts(&settings).await.unwrap_err();
    assert!(
        error.message.ends_with("/atlas_db`: role `guest` has no right to SELECT on `sidecar_migrations`"),
        "{error}"
    );
    grant(&place, error.hint.as_ref().unwrap());

    let report = place.run_starts(&settings).await.unwrap();
    assert!(report.unchanged() && report.files[0].pending.is_empty(), "{report}");
    let warnings = report.files[0].warnings.join("\n");
    for (rights, table) in
        [("SELECT, INSERT, UPDATE", "sidecar_state"), ("SELECT, INSERT", "system_metrics"), ("SELECT", "api_keys")]
    {
        let line = format!("`GRANT {rights} ON \"{table}\" TO \"guest\"`");
        assert!(warnings.contains(&line), "{line}\n{warnings}");
    }
    for statement in warnings.split('`').filter(|part| part.starts_with("GRANT ")) {
        place.sql(statement);
    }
    let report = place.run_starts(&settings).await.unwrap();
    assert!(report.unchanged() && report.files[0].warnings.is_empty(), "{report}");
}

/// A table whose rows are hidden may have keys: no second one is made.
#[tokio::test]
async fn keys_that_cannot_be_seen_are_keys() {
    let (place, settings) = beside("base");
    place.migrate().await;
    place.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO guest; ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY");
    assert!(place.run_starts(&settings).await.unwrap().files[0].pending.is_empty());
}

#[tokio::test]
async fn a_server_that_only_reads_is_a_clear_error() {
    let mut place = Place::made_by_the_application("base");
    place.sql("ALTER ROLE atlas SET default_transaction_read_only = on");
    let error = place.try_migrate(&place.settings(), false).await.unwrap_err();
    assert!(error.message.contains("cannot be written to: `default_transaction_read_only` is on"), "{error}");
    place.sql("ALTER ROLE atlas RESET default_transaction_read_only");

    place.cluster.stop(Stop::Fast);
    std::fs::write(place.cluster.data().join("standby.signal"), "").unwrap();
    place.cluster.restart();
    for error in [
        place.try_migrate(&place.settings(), true).await.unwrap_err(),
        place.try_migrate(&place.settings(), false).await.unwrap_err(),
        place.run_starts(&place.settings()).await.unwrap_err(),
    ] {
        assert!(error.message.contains("a standby, which cannot be written to"), "{error}");
    }
}
