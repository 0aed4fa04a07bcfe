//! `api_keys`: which keys there are and when they were used, by id and name. The hash of a key is never read into a label.

use super::{Needs, push_active};
use crate::sample::{Batch, Desc, Kind, Labels};

/// What it reads.
pub const NEEDS: Needs = Needs {
    table: "api_keys",
    columns: &["id", "name", "key_hash", "rate_limit_per_hour", "last_used_at", "is_active"],
    times: &["last_used_at"],
    numbers: &["rate_limit_per_hour"],
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

/// What was read.
pub struct Keys {
    /// Keys that may be used.
    pub active: f64,
    /// Keys that may not.
    pub inactive: f64,
    /// Keys whose hash is none.
    pub placeholders: f64,
    /// The hundred that were used last.
    pub each: Vec<Key>,
}

/// A key: its id, its name, 1 if it is active, when it was used last (milliseconds since 1970), and its limit.
pub type Key = (String, String, f64, Option<i64>, Option<f64>);

impl Keys {
    /// Adds its samples.
    pub fn show(self, batch: &mut Batch) {
        let Self { active, inactive, placeholders, each } = self;
        push_active(batch, &KEYS, active, inactive);
        batch.push(&PLACEHOLDERS, Labels::none(), placeholders);
        // A key may come between the count and the list.
        batch.push(&NOT_SHOWN, Labels::none(), (active + inactive - each.len() as f64).max(0.0));
        for (id, name, active, used, limit) in each {
            let labels = Labels::none().with("id", id).with("name", name);
            batch.push(&ACTIVE, labels.clone(), active);
            if let Some(used) = used {
                batch.push(&LAST_USED, labels.clone(), used as f64 / 1000.0);
            }
            if let Some(limit) = limit {
                batch.push(&RATE_LIMIT, labels, limit);
            }
        }
    }
}
