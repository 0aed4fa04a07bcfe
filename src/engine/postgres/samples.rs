//! What of our own tables the collectors look at.

use std::time::Duration;

use super::Database;
use super::errors::is_missing_table;
use crate::engine::ids::Registered;
use crate::sample::Kind;
use crate::store::Meta;

/// What a look at our own small tables may take.
const SMALL: Duration = Duration::from_secs(10);

/// The instances registered in `database`; none where our tables do not exist.
pub async fn registered(database: &Database) -> Result<Registered, sqlx::Error> {
    let mut reader = database.read(SMALL).await?;
    let rows = sqlx::query_scalar::<_, String>("SELECT substr(key, 10) FROM sidecar_state WHERE key LIKE 'instance/%'")
        .fetch_all(&mut *reader)
        .await;
    match rows {
        Ok(numbers) => Ok(Registered::new(numbers)),
        Err(e) if is_missing_table(&e) => Ok(Registered::default()),
        Err(e) => Err(e),
    }
}

/// All metas in `database`; none where our tables do not exist.
pub async fn metas(database: &Database) -> Result<Vec<Meta>, sqlx::Error> {
    let mut reader = database.read(SMALL).await?;
    let rows: Result<Vec<(String, String, String)>, _> =
        sqlx::query_as("SELECT name, kind, help FROM sidecar_metric_meta ORDER BY name").fetch_all(&mut *reader).await;
    match rows {
        Ok(rows) => Ok(rows.into_iter().map(|(name, kind, help)| Meta { name, kind: kind_of(&kind), help }).collect()),
        Err(e) if is_missing_table(&e) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn kind_of(word: &str) -> Kind {
    [Kind::Counter, Kind::Gauge, Kind::Histogram, Kind::Summary]
        .into_iter()
        .find(|kind| kind.word() == word)
        .unwrap_or(Kind::Unknown)
}
