//! The sidecar's own tables: the files of `migrations/postgres/`.

use crate::engine::schema::own::Migration;

/// All files. The first one is the record itself and goes wherever something is recorded; the others follow the samples.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "migrations",
        sql: include_str!("../../../../migrations/postgres/0001_migrations.sql"),
        tables: &["sidecar_migrations"],
    },
    Migration {
        version: 2,
        name: "state",
        sql: include_str!("../../../../migrations/postgres/0002_state.sql"),
        tables: &["sidecar_state", "sidecar_metric_meta"],
    },
    Migration {
        version: 3,
        name: "job runs",
        sql: include_str!("../../../../migrations/postgres/0003_job_runs.sql"),
        tables: &["sidecar_job_runs"],
    },
    Migration {
        version: 4,
        name: "rollup",
        sql: include_str!("../../../../migrations/postgres/0004_rollup.sql"),
        tables: &["sidecar_metrics_series", "sidecar_metrics_rollup"],
    },
];
