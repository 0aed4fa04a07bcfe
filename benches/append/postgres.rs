//! PostgreSQL: the peer is a bare COPY of text that was made beforehand, on a server of our own with the settings it comes with.
//!
//! Beside it stands the other way to append (INSERT from UNNEST with ON CONFLICT, as binary arrays), which was not taken, and one COPY of all rows in
//! a single transaction, which no store that acknowledges batches can do. Ours writes the text, checks the rows, and commits each batch.

use std::time::{Duration, Instant};

use atlas_sidecar::engine::ids::Instance;
use atlas_sidecar::engine::postgres::Database;
use atlas_sidecar::engine::postgres::samples::Samples;
use atlas_sidecar::store::Row;
use sqlx::{Connection, PgConnection};
use tokio::runtime::Runtime;

use super::{Contest, ROWS, TRANSACTION, append_all};
use crate::support::postgres::Cluster;

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
    let cluster = Cluster::start_with(&[("fsync", "on"), ("shared_buffers", "128MB"), ("max_wal_size", "4GB")]);
    let url = cluster.database("bench");
    let empty = || {
        cluster.psql("bench", "DROP TABLE IF EXISTS system_metrics");
        cluster.psql("bench", &format!("SET ROLE atlas; {SCHEMA}"));
        cluster.psql("bench", "CHECKPOINT");
    };
    let texts: Vec<String> = rows.chunks(TRANSACTION).map(text_of).collect();
    let whole = texts.concat();
    Contest::new("postgres")
        .between("bare COPY", || {
            empty();
            runtime.block_on(copy(&url, &texts))
        })
        .and("one COPY of all", || {
            empty();
            runtime.block_on(copy(&url, std::slice::from_ref(&whole)))
        })
        .and("UNNEST", || {
            empty();
            runtime.block_on(unnest(&url, rows))
        })
        .and("append", || {
            empty();
            runtime.block_on(append(&url, rows))
        })
        .run();
}

async fn append(url: &str, rows: &[Row]) -> Duration {
    let database = Database::open(url, None).await.unwrap();
    let store = Samples::new(database.clone(), Instance::parse("000000000001").unwrap());
    let took = append_all(&store, rows).await;
    database.close().await;
    took
}

async fn copy(url: &str, texts: &[String]) -> Duration {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let start = Instant::now();
    let mut written = 0;
    for text in texts {
        let mut copy = connection.copy_in_raw(COPY).await.unwrap();
        copy.send(text.as_bytes()).await.unwrap();
        written += copy.finish().await.unwrap();
    }
    let took = start.elapsed();
    assert_eq!(written, ROWS as u64);
    connection.close().await.unwrap();
    took
}

async fn unnest(url: &str, rows: &[Row]) -> Duration {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let start = Instant::now();
    for batch in rows.chunks(TRANSACTION) {
        let texts = |of: fn(&Row) -> &str| batch.iter().map(of).collect::<Vec<_>>();
        let done = sqlx::query(UNNEST)
            .bind(texts(|row| &row.id))
            .bind(texts(|row| &row.name))
            .bind(batch.iter().map(|row| zmij::Buffer::new().format_finite(row.value).to_owned()).collect::<Vec<_>>())
            .bind(texts(|row| &row.tags))
            .bind(batch.iter().map(|row| row.at.to_sql()).collect::<Vec<_>>())
            .execute(&mut connection)
            .await
            .unwrap();
        assert_eq!(done.rows_affected(), batch.len() as u64);
    }
    let took = start.elapsed();
    connection.close().await.unwrap();
    took
}

/// A batch as COPY reads it; these rows have nothing that needs an escape.
fn text_of(rows: &[Row]) -> String {
    rows.iter()
        .map(|Row { id, name, tags, value, at }| format!("{id}\t{name}\t{value}\t{tags}\t{}\n", at.to_sql()))
        .collect()
}
