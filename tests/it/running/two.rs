//! Two sidecars: not on one state directory, but well on one database.

use super::{QUICK, SOON, TWICE, count, ended, page_with, sql, value};
use crate::support::{Sidecar, free_address, sidecar, wait_for};

#[test]
fn a_second_sidecar_on_the_state_directory_is_told_to_try_later() {
    let scratch = tempfile::tempdir().unwrap();
    let first = Sidecar::start(scratch.path(), QUICK);
    let listen = format!("server.listen={}", free_address());
    let args = ["run", "--set", &listen, "--set", "database.url=sqlite://other.db"];
    let (code, said) = ended(&sidecar(scratch.path(), &args));
    assert_eq!(code, Some(75), "{said}");
    assert!(
        said.contains("another sidecar is using the state directory `data/state`") && said.contains("hint: "),
        "{said}"
    );
    assert!(!scratch.path().join("other.db").exists(), "it has touched nothing");
    assert_eq!(first.stop(), 0);
    // The lock went with the process.
    let again = Sidecar::start(scratch.path(), QUICK);
    assert_eq!(again.stop(), 0);
}

#[test]
fn two_sidecars_on_one_database_write_both_and_know_each_others_rows() {
    let (scratch, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let database = scratch.path().join("data/atlas.db");
    let config = format!("{QUICK}[database]\nurl = \"sqlite://{}\"\n", database.display());
    let one = Sidecar::start(scratch.path(), &config);
    page_with(&one, "the first one's rows and its look at the table", |page| {
        value(page, "atlas_sidecar_samples_written_total") > Some(0.0)
            && value(page, "atlas_sidecar_source_up{source=\"table\"}") == Some(1.0)
    });
    // It comes when the first one has looked at the table already.
    let two = Sidecar::start(elsewhere.path(), &config);
    let instances = "SELECT count(DISTINCT substr(id, 25)) FROM system_metrics WHERE metric_name = 'node_load1'";
    wait_for("rows of both", SOON, || Some(()).filter(|()| count(&database, instances) == 2));
    sql(&database, "INSERT INTO system_metrics(id, metric_name, metric_value) VALUES ('app-1', 'jobs', 3)");
    for sidecar in [&one, &two] {
        let page = page_with(sidecar, "the application's row", |page| value(page, "atlas_jobs") == Some(3.0));
        assert_eq!(value(&page, "atlas_sidecar_table_series"), Some(1.0), "the application's is the only foreign one");
        assert_eq!(value(&page, "atlas_sidecar_source_samples{source=\"table\"}"), Some(1.0));
        assert!(!page.contains("atlas_sidecar_series_dropped_total"), "{page}");
    }
    assert_eq!((one.stop(), two.stop()), (0, 0));
    assert_eq!(sql(&database, TWICE), "0");
    assert_eq!(sql(&database, "PRAGMA integrity_check"), "ok");
}
