//! Roll-ups and retention of `system_metrics` on real files, against a model that shares no code with them.

mod clocks;
mod crashes;
mod hazards;
mod manners;
mod model;
mod postgres;
mod random;

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::roll_up::Buckets;
use atlas_sidecar::store::{Chore, Done, RollUps, StoreError};
use sqlx::{Row as _, SqliteConnection};
use tempfile::TempDir;

use model::{Bucket, Key, Model};

pub const MINUTE: i64 = 60_000;
pub const SLICE: i64 = 5 * MINUTE;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

/// The application's table with the index that `migrate` adds, and our tables.
pub const SCHEMA: &str = concat!(
    "CREATE TABLE system_metrics (id VARCHAR(36) PRIMARY KEY, metric_name VARCHAR(255) NOT NULL,
        metric_value DECIMAL(15,4) NOT NULL, tags JSON, recorded_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
    CREATE INDEX idx_system_metrics_name_time ON system_metrics(metric_name, recorded_at);
    CREATE INDEX idx_system_metrics_recorded ON system_metrics(recorded_at);",
    include_str!("../../migrations/sqlite/0002_state.sql"),
    include_str!("../../migrations/sqlite/0004_rollup.sql")
);

/// 2026-11-22 00:00 UTC.
pub const START: i64 = 1_795_305_600_000;

pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// A file with [`SCHEMA`], and the model of what was put into it.
pub struct Bench {
    pub folder: TempDir,
    pub database: Database,
    pub buckets: Buckets,
    pub model: Model,
}

/// How a time is written.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    Canonical,
    T,
    Z,
    Offset(i64),
    Seconds,
    Millis,
    Real,
    /// 24:00 of the day before, where it is midnight.
    TwentyFour,
}

pub const FORMS: [Form; 9] = [
    Form::Canonical,
    Form::Canonical,
    Form::T,
    Form::Z,
    Form::Offset(0),
    Form::Offset(120),
    Form::Offset(-330),
    Form::Seconds,
    Form::Millis,
];

impl Form {
    /// `at` as an SQL literal.
    pub fn literal(self, millis: i64) -> String {
        let text = |millis: i64| at(millis).to_sql();
        match self {
            Self::Canonical => format!("'{}'", text(millis)),
            Self::T => format!("'{}'", text(millis).replace(' ', "T")),
            Self::Z => format!("'{}'", at(millis).to_rfc3339()),
            Self::Offset(minutes) => {
                let sign = if minutes < 0 { '-' } else { '+' };
                let offset = format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60);
                format!("'{}{offset}'", text(millis + minutes * MINUTE).replace(' ', "T"))
            }
            Self::Seconds if millis % 1000 == 0 => (millis / 1000).to_string(),
            Self::Seconds | Self::Real => format!("{:?}", millis as f64 / 1000.0),
            Self::Millis => millis.to_string(),
            Self::TwentyFour if millis.rem_euclid(DAY) == 0 => {
                format!("'{} 24:00:00'", &text(millis - 1)[..10])
            }
            Self::TwentyFour => format!("'{}'", text(millis)),
        }
    }
}

impl Bench {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("atlas.db"), true).await.unwrap();
        let bench = Self { buckets: Buckets::new(database.clone()), database, folder, model: Model::default() };
        bench.sql(SCHEMA).await;
        bench
    }

    pub fn file(&self) -> &Path {
        self.database.path()
    }

    /// Another sidecar at the same file.
    pub async fn other(&self) -> Buckets {
        Buckets::new(Database::open(self.file(), false).await.unwrap())
    }

    pub async fn sql(&self, sql: &str) {
        let mut tx = self.database.write().await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *tx).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        tx.commit().await.unwrap();
    }

    pub async fn number(&self, sql: &str) -> i64 {
        let mut tx = self.database.write().await.unwrap();
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *tx).await.unwrap()
    }

    /// Inserts a row and tells the model; `tags` is any text that means `canonical`.
    pub async fn insert(&mut self, name: &str, tags: Option<&str>, canonical: &str, form: Form, at: i64, value: f64) {
        self.sql(&row(name, tags, form, at, value)).await;
        self.model.insert(name, canonical, at, value);
    }

    /// A plain row.
    pub async fn point(&mut self, name: &str, at: i64, value: f64) {
        self.insert(name, None, "{}", Form::Canonical, at, value).await;
    }

    pub async fn roll_up(&self, now: i64) -> Done {
        all(self.buckets.roll_up(at(0), at(now))).await.unwrap()
    }

    pub async fn prune(&self, before: i64) -> Done {
        all(self.buckets.prune(at(before))).await.unwrap()
    }

    /// The table's buckets of `step`, sealed or not.
    pub async fn held(&self, step: i64) -> BTreeMap<Key, (Bucket, bool)> {
        let mut tx = self.database.write().await.unwrap();
        held(&mut tx, step).await
    }

    /// After rolling up and pruning up to `before`: the buckets are the model's, column by column, and no row of that time is left.
    pub async fn is_exact(&self, before: i64, left: i64) {
        for step in [SLICE, HOUR] {
            let held: BTreeMap<Key, Bucket> = self
                .held(step)
                .await
                .into_iter()
                .filter(|((_, _, start), _)| start + step <= before)
                .map(|(key, (bucket, _))| (key, bucket))
                .collect();
            let wanted = self.model.buckets(step, before);
            for (key, bucket) in &wanted {
                assert_eq!(held.get(key), Some(bucket), "{key:?} of {step}");
            }
            assert_eq!(held.len(), wanted.len(), "buckets that nothing asked for");
        }
        assert_eq!(self.left(before).await, left, "rows before {before}");
    }

    pub async fn left(&self, before: i64) -> i64 {
        i64::try_from(self.buckets.due(at(before)).await.unwrap()).unwrap()
    }

    /// At any moment: what is in sealed buckets and what is in the table are together all rows, each once.
    pub async fn nothing_is_lost_or_doubled(&self) {
        let mut sums: BTreeMap<Key, (i64, f64)> = BTreeMap::new();
        // One transaction: others may be at work.
        let mut tx = self.database.write().await.unwrap();
        for (key, (bucket, sealed)) in held(&mut tx, SLICE).await {
            if sealed {
                sums.insert(key, (bucket.count, bucket.sum));
            }
        }
        for (key, bucket) in raw(&mut tx).await.buckets(SLICE, i64::MAX) {
            let held = sums.entry(key).or_insert((0, 0.0));
            held.0 += bucket.count;
            held.1 += bucket.sum;
        }
        drop(tx);
        let wanted: BTreeMap<Key, (i64, f64)> =
            self.model.buckets(SLICE, i64::MAX).into_iter().map(|(key, b)| (key, (b.count, b.sum))).collect();
        for (key, wanted) in &wanted {
            assert_eq!(sums.get(key), Some(wanted), "{key:?}");
        }
        assert_eq!(sums.len(), wanted.len());
    }
}

async fn held(connection: &mut SqliteConnection, step: i64) -> BTreeMap<Key, (Bucket, bool)> {
    let rows = sqlx::query(
        "SELECT name, tags, start_ms, count, sum, min, max, first_ms, first, last_ms, last, increase, sealed \
             FROM sidecar_metrics_rollup JOIN sidecar_metrics_series ON id = series WHERE step_secs = ?",
    )
    .bind(step / 1000)
    .fetch_all(connection)
    .await
    .unwrap();
    rows.iter()
        .map(|row| {
            let bucket = Bucket {
                count: row.get(3),
                sum: row.get(4),
                min: row.get(5),
                max: row.get(6),
                first: (row.get(7), row.get(8)),
                last: (row.get(9), row.get(10)),
                increase: row.get(11),
            };
            ((row.get(0), row.get(1), row.get(2)), (bucket, row.get::<i64, _>(12) != 0))
        })
        .collect()
}

/// The table's sound rows, as a model; times and tags read by code that is not the sidecar's.
async fn raw(connection: &mut SqliteConnection) -> Model {
    let rows = sqlx::query(
            "SELECT metric_name, coalesce(tags, '{}'), CAST(metric_value AS REAL), CASE typeof(recorded_at) \
             WHEN 'text' THEN CAST(round(unixepoch(recorded_at, 'subsec') * 1000) AS INTEGER) \
             ELSE CAST(round(CASE WHEN recorded_at <= 1e11 THEN recorded_at * 1000 ELSE recorded_at END) AS INTEGER) END \
             FROM system_metrics WHERE typeof(metric_value) IN ('integer', 'real') AND abs(metric_value) < 9e999 \
             AND (tags IS NULL OR json_type(tags) = 'object') AND typeof(recorded_at) <> 'null' \
             AND NOT (typeof(recorded_at) = 'text' AND unixepoch(recorded_at) IS NULL)",
        )
        .fetch_all(connection)
        .await
        .unwrap();
    let mut model = Model::default();
    for row in rows {
        let tags: BTreeMap<String, serde_json::Value> = serde_json::from_str(row.get(1)).unwrap();
        let tags: BTreeMap<String, String> =
            tags.into_iter().map(|(k, v)| (k, v.as_str().map_or_else(|| v.to_string(), str::to_owned))).collect();
        model.insert(row.get(0), &serde_json::to_string(&tags).unwrap(), row.get(3), row.get(2));
    }
    model
}

/// The INSERT of one row.
pub fn row(name: &str, tags: Option<&str>, form: Form, at: i64, value: f64) -> String {
    let tags = tags.map_or("NULL".to_owned(), |tags| format!("'{tags}'"));
    format!(
        "INSERT INTO system_metrics VALUES (hex(randomblob(16)), '{name}', {value:?}, {tags}, {});",
        form.literal(at)
    )
}

/// Does all of a chore.
pub async fn all(mut chore: Box<dyn Chore + '_>) -> Result<Done, StoreError> {
    let mut sum = Done::default();
    while let Some(done) = chore.next().await? {
        sum.rows += done.rows;
        sum.late_rows += done.late_rows;
        sum.bad_rows += done.bad_rows;
        sum.buckets += done.buckets;
        sum.held = sum.held.max(done.held);
    }
    Ok(sum)
}

/// Polls `future` at most `polls` times and then drops it where it is: what a crash leaves between any two statements.
pub struct Polls<F> {
    pub future: Pin<Box<F>>,
    pub polls: usize,
}

impl<F: Future> Future for Polls<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(left) = self.polls.checked_sub(1) else { return Poll::Ready(None) };
        self.polls = left;
        self.future.as_mut().poll(cx).map(Some)
    }
}
