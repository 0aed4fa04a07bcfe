//! `api_keys`: which keys there are and when they were used, by id and name. The hash of a key is never read into a label.

use sqlx::{Row as _, SqliteConnection};

use super::{Needs, number, text};
use crate::engine::sqlite::times::millis;
use crate::sample::{Batch, Desc, Kind, Labels};
use crate::task::Pending;

/// What it reads.
pub const NEEDS: Needs = Needs {
    table: "api_keys",
    columns: &["id", "name", "key_hash", "rate_limit_per_hour", "last_used_at", "is_active"],
    rowid: false,
};

/// The families of this collector.
pub const METRICS: &[&Desc] = &[&KEYS, &PLACEHOLDERS, &ACTIVE, &LAST_USED, &RATE_LIMIT, &NOT_SHOWN];

const KEYS: Desc = Desc {
    name: "atlas_api_keys",
    kind: Kind::Gauge,
    unit: "keys",
    help: "Rows of api_keys by whether they are active; a jump in active ones is worth a look",
};
const PLACEHOLDERS: Desc = Desc {
    name: "atlas_api_keys_placeholder_hashes",
    kind: Kind::Gauge,
    unit: "keys",
    help: "Keys whose hash is a placeholder and not a hash; replace or delete them, 0 is right",
};
const ACTIVE: Desc = Desc {
    name: "atlas_api_key_active",
    kind: Kind::Gauge,
    unit: "1",
    help: "1 if the key may be used, by id and name; the 100 used last",
};
const LAST_USED: Desc = Desc {
    name: "atlas_api_key_last_used_timestamp_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "When the key was used last, absent if never; revoke active keys that nobody uses",
};
const RATE_LIMIT: Desc = Desc {
    name: "atlas_api_key_rate_limit_requests_per_hour",
    kind: Kind::Gauge,
    unit: "requests per hour",
    help: "Requests that the key may make in an hour",
};
const NOT_SHOWN: Desc = Desc {
    name: "atlas_api_keys_not_shown",
    kind: Kind::Gauge,
    unit: "keys",
    help: "Keys beyond the 100 that have series of their own",
};

/// `is_active` as writers of booleans leave it: 1 (which is TRUE) or the words; NULL is not active.
macro_rules! active {
    () => {
        "(coalesce(lower(CAST(is_active AS TEXT)), '') IN ('1', 'true', 't', 'yes'))"
    };
}
pub(super) use active;

/// A hash of at least 128 bits has 32 hexadecimal digits; what is shorter, or says so itself, is a placeholder.
const SUMS: &str = concat!(
    "SELECT CAST(count(*) FILTER (WHERE ",
    active!(),
    ") AS REAL), CAST(count(*) FILTER (WHERE NOT ",
    active!(),
    ") AS REAL),",
    " CAST(count(*) FILTER (WHERE length(key_hash) < 32 OR lower(key_hash) LIKE '%placeholder%') AS REAL) FROM api_keys"
);

/// SQLite's primary key admits many NULLs (V-8): such rows have no series of their own, they would all be the same.
const EACH: &str = concat!(
    "SELECT id, coalesce(substr(CAST(name AS TEXT), 1, 255), ''),",
    " CAST(",
    active!(),
    " AS REAL), ",
    millis!("last_used_at"),
    " AS used,",
    " CASE WHEN typeof(rate_limit_per_hour) IN ('integer', 'real') THEN CAST(rate_limit_per_hour AS REAL) END",
    " FROM api_keys WHERE typeof(id) = 'text' AND length(id) <= 255 ORDER BY used DESC, id LIMIT 100"
);

/// Reads the keys.
pub fn read<'a>(connection: &'a mut SqliteConnection, batch: &'a mut Batch) -> Pending<'a, Result<(), sqlx::Error>> {
    Box::pin(async move {
        let row = sqlx::query(SUMS).fetch_one(&mut *connection).await?;
        let (active, inactive) = (number(&row, 0)?, number(&row, 1)?);
        batch.push(&KEYS, Labels::none().with("active", "true"), active);
        batch.push(&KEYS, Labels::none().with("active", "false"), inactive);
        batch.push(&PLACEHOLDERS, Labels::none(), number(&row, 2)?);
        let keys = sqlx::query(EACH).fetch_all(&mut *connection).await?;
        for key in &keys {
            let labels = Labels::none().with("id", text(key, 0)?).with("name", text(key, 1)?);
            batch.push(&ACTIVE, labels.clone(), number(key, 2)?);
            if let Some(used) = key.try_get::<Option<i64>, _>(3)? {
                batch.push(&LAST_USED, labels.clone(), used as f64 / 1000.0);
            }
            if let Some(limit) = key.try_get::<Option<f64>, _>(4)? {
                batch.push(&RATE_LIMIT, labels, limit);
            }
        }
        batch.push(&NOT_SHOWN, Labels::none(), active + inactive - keys.len() as f64);
        Ok(())
    })
}
