//! The schema of the application's specification, as data, and what we add to it.
//!
//! The application may own these tables already; then only what is missing is added. `content_metadata` and `processing_queue` are the
//! application's own: their `base` columns are what an empty database gets, so that the rest has something to stand on, and are never
//! added to a table that exists.
//!
//! Declarations are words that both engines take; what an engine says otherwise is its dialect's. `JSON` stays `JSON` on PostgreSQL as well, not `JSONB`:
//! the text comes back as it was written, as it does on SQLite, and `\u0000`, which `JSONB` refuses, is stored (V-11).

/// A table of the seed schema.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Columns that belong to the application: name and declaration. Empty where the whole table is the seed's.
    pub base: &'static [(&'static str, &'static str)],
    /// Columns of the seed: name and declaration.
    pub columns: &'static [(&'static str, &'static str)],
    /// Its indexes.
    pub indexes: &'static [Index],
}

/// An index of the seed schema, or one that the specification asks for without naming it.
#[derive(Debug)]
pub struct Index {
    /// Its name, unique in the database.
    pub name: &'static str,
    /// Its columns.
    pub columns: &'static [&'static str],
    /// The condition of a partial index.
    pub filter: Option<&'static str>,
    /// Whether rows come in the order of its column: then an engine may keep ranges of pages instead of every row.
    pub in_order: bool,
}

impl Index {
    /// What it is over: table, columns, condition.
    pub fn on(&self, table: &str) -> String {
        let condition = self.filter.map(|f| format!(" WHERE {f}")).unwrap_or_default();
        format!("{table}({}){condition}", self.columns.join(", "))
    }
}

const fn index(name: &'static str, columns: &'static [&'static str]) -> Index {
    Index { name, columns, filter: None, in_order: false }
}

const fn partial(name: &'static str, columns: &'static [&'static str], filter: &'static str) -> Index {
    Index { name, columns, filter: Some(filter), in_order: false }
}

/// All of it. The base tables come first, because the application's would.
pub const TABLES: &[Table] = &[
    Table {
        name: "content_metadata",
        base: &[
            ("id", "VARCHAR(36) PRIMARY KEY"),
            ("title", "TEXT"),
            ("url", "VARCHAR(2048)"),
            ("created_at", "TIMESTAMP DEFAULT CURRENT_TIMESTAMP"),
        ],
        columns: &[
            ("search_indexed_at", "TIMESTAMP"),
            ("last_accessed_at", "TIMESTAMP"),
            ("access_count", "INTEGER DEFAULT 0"),
            ("cognitive_score", "DECIMAL(5,2)"),
            ("vector_embedding", "JSON"),
        ],
        indexes: &[
            index("idx_content_search_indexed", &["search_indexed_at"]),
            index("idx_content_last_accessed", &["last_accessed_at"]),
            index("idx_content_cognitive_score", &["cognitive_score"]),
        ],
    },
    Table {
        name: "processing_queue",
        base: &[
            ("id", "VARCHAR(36) PRIMARY KEY"),
            ("content_id", "VARCHAR(36)"),
            ("status", "VARCHAR(32) DEFAULT 'pending'"),
            ("created_at", "TIMESTAMP DEFAULT CURRENT_TIMESTAMP"),
            ("updated_at", "TIMESTAMP"),
        ],
        columns: &[
            ("priority", "INTEGER DEFAULT 5"),
            ("estimated_duration", "INTEGER"),
            ("actual_duration", "INTEGER"),
            ("worker_id", "VARCHAR(255)"),
        ],
        indexes: &[
            index("idx_queue_priority_status", &["priority", "status"]),
            index("idx_queue_worker", &["worker_id"]),
            // The next job to be taken, without reading the finished ones.
            partial("idx_queue_pending", &["priority", "created_at"], "status = 'pending'"),
        ],
    },
    Table {
        name: "api_keys",
        base: &[],
        columns: &[
            ("id", "VARCHAR(36) PRIMARY KEY"),
            ("name", "VARCHAR(255) NOT NULL"),
            ("key_hash", "VARCHAR(255) NOT NULL UNIQUE"),
            ("permissions", "JSON"),
            ("rate_limit_per_hour", "INTEGER DEFAULT 1000"),
            ("created_at", "TIMESTAMP DEFAULT CURRENT_TIMESTAMP"),
            ("last_used_at", "TIMESTAMP"),
            ("is_active", "BOOLEAN DEFAULT TRUE"),
        ],
        indexes: &[
            index("idx_api_keys_hash", &["key_hash"]),
            index("idx_api_keys_active", &["is_active"]),
            partial("idx_api_keys_active_hash", &["key_hash"], "is_active"),
        ],
    },
    Table {
        name: "webhooks",
        base: &[],
        columns: &[
            ("id", "VARCHAR(36) PRIMARY KEY"),
            ("url", "VARCHAR(2048) NOT NULL"),
            ("events", "JSON NOT NULL"),
            ("secret", "VARCHAR(255)"),
            ("is_active", "BOOLEAN DEFAULT TRUE"),
            ("created_at", "TIMESTAMP DEFAULT CURRENT_TIMESTAMP"),
            ("last_triggered_at", "TIMESTAMP"),
            ("failure_count", "INTEGER DEFAULT 0"),
        ],
        indexes: &[
            index("idx_webhooks_active", &["is_active"]),
            partial("idx_webhooks_active_url", &["url"], "is_active"),
        ],
    },
    Table {
        name: "search_cache",
        base: &[],
        columns: &[
            ("id", "VARCHAR(36) PRIMARY KEY"),
            ("query_hash", "VARCHAR(64) NOT NULL UNIQUE"),
            ("query_text", "TEXT NOT NULL"),
            ("results", "JSON NOT NULL"),
            ("created_at", "TIMESTAMP DEFAULT CURRENT_TIMESTAMP"),
            ("expires_at", "TIMESTAMP NOT NULL"),
        ],
        indexes: &[index("idx_search_cache_hash", &["query_hash"]), index("idx_search_cache_expires", &["expires_at"])],
    },
    Table {
        name: SYSTEM_METRICS,
        base: &[],
        columns: &[
            ("id", "VARCHAR(36) PRIMARY KEY"),
            ("metric_name", "VARCHAR(255) NOT NULL"),
            // The seed's DECIMAL(15,4) ends below 93.1 GiB in bytes on PostgreSQL (V-1) and cuts 0.00004 to 0 there (V-5).
            ("metric_value", "NUMERIC NOT NULL"),
            ("tags", "JSON"),
            ("recorded_at", "TIMESTAMP DEFAULT CURRENT_TIMESTAMP"),
        ],
        indexes: &[
            index("idx_system_metrics_name_time", &["metric_name", "recorded_at"]),
            // Retention takes slices of time over all series: without this index a batch touches pages all over the table.
            Index { in_order: true, ..index("idx_system_metrics_recorded", &["recorded_at"]) },
        ],
    },
];

/// The one table of the seed that follows `database.metrics_url`.
pub const SYSTEM_METRICS: &str = "system_metrics";

/// What a row gets where nobody gives a time.
pub const NOW: &str = "DEFAULT CURRENT_TIMESTAMP";

/// How a column of the seed can be added to a table with rows: its declaration, and the default that those rows must not get, because it is the time of
/// the migration. `None` where it cannot be added: a key, something unique, or a value that every row would need.
pub fn addable(declaration: &'static str) -> Option<(&'static str, Option<&'static str>)> {
    if ["PRIMARY KEY", "UNIQUE", "NOT NULL"].iter().any(|word| declaration.contains(word)) {
        return None;
    }
    Some(match declaration.strip_suffix(NOW) {
        Some(without) => (without.trim_end(), Some(NOW)),
        None => (declaration, None),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_indexes_have_their_columns() {
        let mut names = BTreeSet::new();
        for table in TABLES {
            assert!(names.insert(table.name));
            for index in table.indexes {
                assert!(names.insert(index.name), "{}", index.name);
                for column in index.columns {
                    assert!(table.base.iter().chain(table.columns).any(|(name, _)| name == column), "{column}");
                }
            }
            for (_, declaration) in table.columns.iter().filter(|_| !table.base.is_empty()) {
                assert_eq!(
                    addable(declaration),
                    Some((*declaration, None)),
                    "columns of base tables are there to be added"
                );
            }
        }
    }

    #[test]
    fn what_cannot_be_added_is_known_before_it_is_tried() {
        assert_eq!(addable("JSON NOT NULL"), None);
        assert_eq!(addable("INTEGER DEFAULT 0"), Some(("INTEGER DEFAULT 0", None)));
        assert_eq!(
            addable("TIMESTAMP DEFAULT CURRENT_TIMESTAMP"),
            Some(("TIMESTAMP", Some("DEFAULT CURRENT_TIMESTAMP")))
        );
    }
}
