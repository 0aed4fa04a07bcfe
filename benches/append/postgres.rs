//! PostgreSQL: the peer is a bare COPY of text that was made beforehand, on a server of our own with the settings it comes with.
//!
//! Beside it stands the other way to append (INSERT from UNNEST with ON CONFLICT), which was not taken. Ours checks the rows and writes the text.

use std::time::{Duration, Instant};

use atlas_sidecar::engine::ids::Instance;
use atlas_sidecar::engine::postgres::Database;
use atlas_sidecar::engine::postgres::samples::Samples;
use atlas_sidecar::store::Row;
use sqlx::{Connection, PgConnection};
use tokio::runtime::Runtime;

use super::{Contest, TRANSACTION, append};
use crate::support::postgres::{Cluster, ROLE};

/// The table as we make it, and the specification's index.
const SCHEMA: &str = "CREATE TABLE system_metrics (id VARCHAR(36) PRIMARY KEY, metric_name VARCHAR(255) NOT NULL,
    metric_value NUMERIC NOT NULL, tags JSON, recorded_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
    CREATE INDEX idx_system_metrics_name_time ON system_metrics(metric_name, recorded_at);";

const COPY: &str = "COPY system_metrics (id, metric_name, metric_value, tags, recorded_at) FROM STDIN";

/// The values as texts: as `float8[]` the cast would keep 15 digits of them.
const UNNEST: &str = "INSERT INTO system_metrics (id, metric_name, metric_value, tags, recorded_at) \
     SELECT id, name, value::numeric, tags::json, at::timestamp \
     FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS new (id, name, value, tags, at) \
     ON CONFLICT (id) DO NOTHING";

/// Runs it.
pub fn run(runtime: &Runtime, rows: &[Row]) {
    // The tests' server does not wait for its disk; a real one does.
    let cluster = Cluster::start_with(&[("fsync", "on"), ("shared_buffers", "128MB")]);
    let table = |name: &str| {
        let url = cluster.database(name);
        cluster.psql(name, &format!("SET ROLE {ROLE}; {SCHEMA}"));
        url
    };
    let connect = |name: &str| runtime.block_on(PgConnection::connect(&table(name))).unwrap();
    let texts: Vec<String> = rows.chunks(TRANSACTION).map(text_of).collect();
    let (mut bare, mut other) = (connect("bare"), connect("other"));
    let database = runtime.block_on(Database::open(&table("ours"), None)).unwrap();
    let store = Samples::new(database.clone(), Instance::parse("000000000001").unwrap());
    Contest::on("postgres")
        .of("bare COPY", |batch| runtime.block_on(copy(&mut bare, &texts[batch])))
        .of("UNNEST", |batch| runtime.block_on(unnest(&mut other, &rows[batch * TRANSACTION..][..TRANSACTION])))
        .of("append", |batch| runtime.block_on(append(&store, rows, batch)))
        .run();
    runtime.block_on(database.close());
}

async fn copy(connection: &mut PgConnection, text: &str) -> Duration {
    let start = Instant::now();
    let mut copy = connection.copy_in_raw(COPY).await.unwrap();
    copy.send(text.as_bytes()).await.unwrap();
    let written = copy.finish().await.unwrap();
    let took = start.elapsed();
    assert_eq!(written, TRANSACTION as u64);
    took
}

async fn unnest(connection: &mut PgConnection, rows: &[Row]) -> Duration {
    let start = Instant::now();
    let texts = |of: fn(&Row) -> &str| rows.iter().map(of).collect::<Vec<_>>();
    let done = sqlx::query(UNNEST)
        .bind(texts(|row| &row.id))
        .bind(texts(|row| &row.name))
        .bind(rows.iter().map(|row| zmij::Buffer::new().format_finite(row.value).to_owned()).collect::<Vec<_>>())
        .bind(texts(|row| &row.tags))
        .bind(rows.iter().map(|row| row.at.to_sql()).collect::<Vec<_>>())
        .execute(connection)
        .await
        .unwrap();
    let took = start.elapsed();
    assert_eq!(done.rows_affected(), rows.len() as u64);
    took
}

/// A batch as COPY reads it; these rows have nothing that needs an escape.
fn text_of(rows: &[Row]) -> String {
    rows.iter()
        .map(|Row { id, name, tags, value, at }| format!("{id}\t{name}\t{value}\t{tags}\t{}\n", at.to_sql()))
        .collect()
}
