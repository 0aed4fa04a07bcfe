//! What PostgreSQL says about itself: the collectors `database` and `database_objects`.
//!
//! Names, types, labels and units are postgres_exporter's where it has one, so that its dashboards work; a test runs both against one server. What is
//! different, and why:
//!
//! - Every series has the label `database` (`application` or `metrics`), as on SQLite. `pg_replication_slots_*` therefore do not have the slot's database under that name.
//! - `pg_stat_replication_*` have no `slot_name`: what the exporter writes there is the process id of the sender, a new series with each connection.
//! - One database is measured: the one we are connected to. The exporter shows its neighbours on the server as well; a guest does not.
//! - What is not known is absent, not 0 and not NaN. So is `pg_up`: a series of a source that failed is gone, and `atlas_sidecar_source_up` tells.
//! - `stats_reset` is left out: whoever reads a counter sees that it began again. So are `reply_time` (a standby that is silent is disconnected, `wal_sender_timeout`), what
//!   conflicts on a standby were about, and how long sessions lasted. `pg_settings_*` are the few that other numbers are compared with.
//! - `pg_stat_user_tables_*` are those of the [largest](SHOWN) tables; their sizes are in `atlas_database_object_bytes`, with those of their indexes.
//! - Ages of transaction ids are `atlas_database_*_age`: the exporter calls their unit seconds. It calls counters that it does not know untyped; here they are counters.
//!
//! Statements differ by the version of the server (`View::versions`); 13 is the oldest that still got fixes when this was written.
//!
//! | since | |
//! |---|---|
//! | 14 | [`pg_stat_wal`](https://www.postgresql.org/docs/14/monitoring-stats.html) |
//! | 17 | checkpoints move from [`pg_stat_bgwriter`](https://www.postgresql.org/docs/16/monitoring-stats.html) to [`pg_stat_checkpointer`](https://www.postgresql.org/docs/17/monitoring-stats.html), writes by backends to `pg_stat_io` |
//!
//! A role that is not a member of `pg_monitor` sees of other roles' sessions that they are there, and nothing more. Then the numbers that the hidden ones could change are
//! absent ([`About`]). `database_objects` takes the lock that every SELECT takes; a table that somebody has for himself, or waits to have, is left out.

mod activity;
mod database;
mod objects;
mod replication;
mod wal;

use std::ops::Range;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

pub(in crate::engine::postgres) use self::objects::SIZES;
use super::errors::collect_error;
use super::{Database, Reader};
use crate::engine::schema::names::{quoted, shown};
use crate::engine::stats::Named;
use crate::sample::{Batch, Desc, Kind, Labels};
use crate::scrape::{CollectError, Collector};
use crate::task::Pending;

/// How many tables, and how many tables and indexes, are shown one by one.
pub const SHOWN: usize = 100;

/// The views of `database`, in the order in which they are read.
const VIEWS: &[&[View]] = &[database::VIEWS, activity::VIEWS, wal::VIEWS, replication::VIEWS];

/// All families of both collectors, those that other engines have as well among them.
pub fn metrics() -> impl Iterator<Item = &'static Desc> {
    VIEWS.iter().copied().chain([objects::VIEWS]).flatten().flat_map(|view| view.values.iter().copied())
}

const fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Desc {
    Desc { name, kind: Kind::Gauge, unit, help }
}

const fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Desc {
    Desc { name, kind: Kind::Counter, unit, help }
}

/// A statement whose columns are labels, as text, and behind them values, as double precision. NULL is an absent label, or an absent value.
struct View {
    sql: &'static str,
    labels: &'static [&'static str],
    values: &'static [&'static Desc],
    /// Of the server, as in `server_version_num`.
    versions: Range<i32>,
    /// Whether it tells of the whole server: then of two databases on one server the first is enough.
    server: bool,
    /// Whether it can be read at all.
    readable: fn(&About) -> bool,
}

impl View {
    /// One that tells of this database, in all versions and to everybody.
    const fn new(sql: &'static str, labels: &'static [&'static str], values: &'static [&'static Desc]) -> Self {
        Self { sql, labels, values, versions: 0..i32::MAX, server: false, readable: |_| true }
    }

    const fn of_server(mut self) -> Self {
        self.server = true;
        self
    }

    const fn since(mut self, version: i32) -> Self {
        self.versions.start = version;
        self
    }

    const fn before(mut self, version: i32) -> Self {
        self.versions.end = version;
        self
    }

    const fn where_readable(mut self, readable: fn(&About) -> bool) -> Self {
        self.readable = readable;
        self
    }

    fn concerns(&self, about: &About, seen: &[Server]) -> bool {
        let new = !self.server || !seen.contains(&about.server);
        self.versions.contains(&about.version) && (self.readable)(about) && new
    }

    async fn read(&self, connection: &mut PgConnection, base: &Labels, batch: &mut Batch) -> Result<(), sqlx::Error> {
        for row in sqlx::query(self.sql).fetch_all(connection).await? {
            let labels = self.labels_of(&row, base)?;
            for (place, desc) in self.values.iter().enumerate() {
                if let Some(value) = row.try_get::<Option<f64>, _>(self.labels.len() + place)? {
                    batch.push(desc, labels.clone(), value);
                }
            }
        }
        Ok(())
    }

    fn labels_of(&self, row: &PgRow, base: &Labels) -> Result<Labels, sqlx::Error> {
        let mut labels = base.clone();
        for (place, name) in self.labels.iter().enumerate() {
            labels.set(*name, row.try_get::<Option<String>, _>(place)?.unwrap_or_default());
        }
        Ok(labels)
    }
}

/// A running server: since when, to the microsecond, and at which port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server(String);

/// What decides which statements are asked, read anew each time: rights come and go.
#[derive(Clone, Debug)]
pub struct About {
    /// `server_version_num`
    pub version: i32,
    /// The version for people.
    pub shown_version: String,
    /// The role that we are.
    pub role: String,
    /// Whether it sees other roles' sessions and standbys.
    pub sees_sessions: bool,
    /// Whether it may list the files of the write-ahead log.
    pub sees_wal_files: bool,
    server: Server,
}

const ABOUT: &str = "SELECT current_setting('server_version_num')::int4, current_setting('server_version'), current_user::text, \
     pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), has_function_privilege('pg_ls_waldir()', 'EXECUTE'), \
     concat_ws(' ', pg_postmaster_start_time(), current_setting('port'))";

impl About {
    /// Asks the server.
    pub async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let row = sqlx::query(ABOUT).fetch_one(connection).await?;
        Ok(Self {
            version: row.try_get(0)?,
            shown_version: row.try_get(1)?,
            role: row.try_get(2)?,
            sees_sessions: row.try_get(3)?,
            sees_wal_files: row.try_get(4)?,
            server: Server(row.try_get(5)?),
        })
    }

    /// What the role may not see, and how to let it; nothing where it sees all.
    pub fn missing_rights(&self) -> Option<String> {
        let missing: Vec<&str> = [
            (self.sees_sessions, "sessions and standbys of other roles"),
            (self.sees_wal_files, "the files of the write-ahead log"),
        ]
        .into_iter()
        .filter_map(|(seen, what)| (!seen).then_some(what))
        .collect();
        let missing = (!missing.is_empty()).then(|| missing.join(" and "))?;
        let plain = self.role.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let role = if plain { self.role.clone() } else { quoted(&self.role) };
        Some(format!("role {} does not see {missing}; `GRANT pg_monitor TO {role}` lets it", shown(&self.role)))
    }
}

/// `database`: the server's own statistics, none of which takes a lock that anybody waits for.
pub struct Statistics {
    /// Which databases.
    pub databases: Vec<Named<Database>>,
    /// What a statement may take.
    pub limit: Duration,
}

impl Collector for Statistics {
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(async move {
            let mut seen = Vec::new();
            for (name, database) in &self.databases {
                let mut reader = database.read(self.limit).await.map_err(collect_error)?;
                let about = read_views(&mut reader, name, &seen, batch).await.map_err(collect_error)?;
                seen.push(about.server);
            }
            Ok(())
        })
    }
}

async fn read_views(
    reader: &mut Reader,
    name: &'static str,
    seen: &[Server],
    batch: &mut Batch,
) -> Result<About, sqlx::Error> {
    let base = Labels::none().with("database", name);
    let about = About::read(reader).await?;
    for views in VIEWS {
        for view in *views {
            if view.concerns(&about, seen) {
                view.read(reader, &base, batch).await?;
            }
        }
    }
    Ok(about)
}

/// `database_objects`: sizes and statistics of tables and indexes.
pub struct Objects {
    /// Which databases.
    pub databases: Vec<Named<Database>>,
    /// What a statement may take.
    pub limit: Duration,
}

impl Collector for Objects {
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(async move {
            for (name, database) in &self.databases {
                let base = Labels::none().with("database", *name);
                let mut reader = database.read(self.limit).await.map_err(collect_error)?;
                for view in objects::VIEWS {
                    view.read(&mut reader, &base, batch).await.map_err(collect_error)?;
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(version: i32) -> About {
        About {
            version,
            shown_version: String::new(),
            role: "atlas".to_owned(),
            sees_sessions: true,
            sees_wal_files: true,
            server: Server(version.to_string()),
        }
    }

    fn names(about: &About, seen: &[Server]) -> Vec<&'static str> {
        let views = VIEWS.iter().copied().flatten().filter(|view| view.concerns(about, seen));
        views.flat_map(|view| view.values.iter().map(|desc| desc.name)).collect()
    }

    #[test]
    fn statements_are_those_of_the_servers_version() {
        for (version, wal, bgwriter, checkpointer) in [
            (13_0023, false, true, false),
            (14_0000, true, true, false),
            (16_0011, true, true, false),
            (17_0000, true, false, true),
        ] {
            let names = names(&about(version), &[]);
            let has = |name: &str| names.contains(&name);
            assert_eq!(has("pg_stat_wal_wal_bytes"), wal, "{version}");
            assert_eq!(has("pg_stat_bgwriter_checkpoints_req_total"), bgwriter, "{version}");
            assert_eq!(has("pg_stat_checkpointer_num_requested_total"), checkpointer, "{version}");
            assert!(has("pg_stat_bgwriter_buffers_clean_total") && has("pg_stat_database_blks_hit"), "{version}");
        }
    }

    #[test]
    fn a_server_is_told_of_once_and_each_of_its_databases() {
        let about = about(15_0000);
        let again = names(&about, std::slice::from_ref(&about.server));
        assert!(again.contains(&"pg_stat_database_blks_hit") && again.contains(&"pg_stat_activity_count"));
        assert!(!again.contains(&"pg_stat_archiver_failed_count") && !again.contains(&"pg_replication_slots_active"));
        assert_eq!(names(&about, &[Server("another".to_owned())]), names(&about, &[]));
    }

    #[test]
    fn missing_rights_are_named_with_what_gives_them() {
        assert_eq!(about(15_0000).missing_rights(), None);
        let poor = About { sees_sessions: false, sees_wal_files: false, role: "a\"b".to_owned(), ..about(15_0000) };
        assert_eq!(
            poor.missing_rights().unwrap(),
            "role `a\"b` does not see sessions and standbys of other roles and the files of the write-ahead log; \
             `GRANT pg_monitor TO \"a\"\"b\"` lets it"
        );
    }
}
