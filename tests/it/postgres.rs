//! PostgreSQL, as a server of our own.

mod check;
mod connect;
mod faults;
mod queries;
mod stats;

use atlas_sidecar::engine::postgres::Database;

use crate::support::postgres::Cluster;

/// T-3, E-5, E-7: what every session is told, and what a reader cannot do.
#[tokio::test]
async fn sessions_live_in_utc_and_readers_only_read() {
    let cluster = Cluster::start();
    let database = Database::open(&cluster.database("one"), None).await.unwrap();
    let mut reader = database.read(std::time::Duration::from_millis(300)).await.unwrap();
    let zone: String = sqlx::query_scalar("SHOW TimeZone").fetch_one(&mut *reader).await.unwrap();
    assert_eq!(zone, "UTC");
    let slept = sqlx::query("SELECT pg_sleep(5)").execute(&mut *reader).await.unwrap_err();
    assert_eq!(slept.as_database_error().unwrap().code().unwrap(), "57014");
    drop(reader);
    let mut reader = database.read(std::time::Duration::from_secs(1)).await.unwrap();
    let refused = sqlx::query("CREATE TABLE t (a int)").execute(&mut *reader).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "25006");
}
