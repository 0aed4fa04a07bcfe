//! What SQLite says about its own files: the collectors `database` and `database_objects`.
//!
//! Sizes of files come from the file system's metadata: opening the file outside SQLite and closing it again would drop the locks that
//! this process holds on it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::Row as _;

use super::Database;
use super::errors::collect_error;
use crate::engine::stats::{FILE_BYTES, Named, OBJECT_BYTES, OBJECT_UNUSED, WAL_BYTES};
use crate::sample::{Batch, Desc, Kind, Labels};
use crate::scrape::{CollectError, Collector};
use crate::task::Pending;

/// The families that only SQLite has.
pub const METRICS: &[&Desc] =
    &[&PAGE_BYTES, &PAGES, &FREE_PAGES, &SCHEMA_VERSION, &USER_VERSION, &JOURNAL_MODE, &AUTO_VACUUM];

const PAGE_BYTES: Desc =
    Desc { name: "atlas_database_page_size_bytes", kind: Kind::Gauge, unit: "bytes", help: "Size of a page" };
const PAGES: Desc = Desc {
    name: "atlas_database_pages",
    kind: Kind::Gauge,
    unit: "pages",
    help: "Pages of the database, free ones included",
};
const FREE_PAGES: Desc = Desc {
    name: "atlas_database_free_pages",
    kind: Kind::Gauge,
    unit: "pages",
    help: "Unused pages that VACUUM or incremental_vacuum would give back; they are used again before the file grows",
};
const SCHEMA_VERSION: Desc = Desc {
    name: "atlas_database_schema_version",
    kind: Kind::Gauge,
    unit: "1",
    help: "SQLite's schema cookie: it changes whenever a table or index is made, altered or dropped",
};
const USER_VERSION: Desc = Desc {
    name: "atlas_database_user_version",
    kind: Kind::Gauge,
    unit: "1",
    help: "The user_version pragma, which the application may use for its own schema version",
};
const JOURNAL_MODE: Desc = Desc {
    name: "atlas_database_journal_mode_info",
    kind: Kind::Gauge,
    unit: "1",
    help: "1, with the journal mode as label; anything but wal makes readers and writers wait for each other",
};
const AUTO_VACUUM: Desc = Desc {
    name: "atlas_database_auto_vacuum_info",
    kind: Kind::Gauge,
    unit: "1",
    help: "1, with the auto_vacuum mode as label; with none the file never shrinks without a VACUUM",
};

/// `database`: sizes, versions and modes, cheap enough for every interval.
pub struct Files {
    /// Which databases.
    pub databases: Vec<Named<Database>>,
    /// What each may take.
    pub limit: Duration,
}

impl Collector for Files {
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(async move {
            for (name, database) in &self.databases {
                let labels = Labels::none().with("database", *name);
                read_sizes(database.path(), &labels, batch)
                    .map_err(|e| CollectError::Unreachable(format!("`{}`: {e}", database.path().display())))?;
                read_pragmas(database, self.limit, &labels, batch).await.map_err(collect_error)?;
            }
            Ok(())
        })
    }
}

fn read_sizes(path: &Path, labels: &Labels, batch: &mut Batch) -> io::Result<()> {
    batch.push(&FILE_BYTES, labels.clone(), std::fs::metadata(path)?.len() as f64);
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let bytes = match std::fs::metadata(PathBuf::from(wal)) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(e) => return Err(e),
    };
    batch.push(&WAL_BYTES, labels.clone(), bytes as f64);
    Ok(())
}

/// Pragmas without side effects, as the table-valued functions that SQLite makes of them.
const PRAGMAS: &str = "SELECT page_size, page_count, freelist_count, schema_version, user_version, auto_vacuum \
     FROM pragma_page_size, pragma_page_count, pragma_freelist_count, pragma_schema_version, pragma_user_version, pragma_auto_vacuum";

async fn read_pragmas(
    database: &Database,
    limit: Duration,
    labels: &Labels,
    batch: &mut Batch,
) -> Result<(), sqlx::Error> {
    let mut reader = database.read(limit).await?;
    let row = sqlx::query(PRAGMAS).fetch_one(&mut *reader).await?;
    for (column, desc) in [&PAGE_BYTES, &PAGES, &FREE_PAGES, &SCHEMA_VERSION, &USER_VERSION].into_iter().enumerate() {
        batch.push(desc, labels.clone(), row.try_get::<i64, _>(column)? as f64);
    }
    // https://www.sqlite.org/pragma.html#pragma_auto_vacuum
    let auto_vacuum = match row.try_get::<i64, _>(5)? {
        0 => "none",
        1 => "full",
        _ => "incremental",
    };
    batch.push(&AUTO_VACUUM, labels.clone().with("mode", auto_vacuum), 1.0);
    let journal_mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *reader).await?;
    batch.push(&JOURNAL_MODE, labels.clone().with("mode", journal_mode), 1.0);
    Ok(())
}

/// `database_objects`: bytes by table and index, from a walk through every page of the file.
pub struct Objects {
    /// Which databases.
    pub databases: Vec<Named<Database>>,
    /// What each may take.
    pub limit: Duration,
}

const OBJECTS: &str = "\
    WITH sizes AS MATERIALIZED (SELECT name, pgsize, unused FROM dbstat WHERE aggregate = TRUE), \
    ranked AS (SELECT sizes.name AS name, coalesce(sqlite_schema.type, 'table') AS type, \
        coalesce(sqlite_schema.tbl_name, sizes.name) AS of, pgsize, unused, \
        row_number() OVER (ORDER BY pgsize DESC, sizes.name) <= 100 AS shown \
        FROM sizes LEFT JOIN sqlite_schema ON sqlite_schema.name = sizes.name) \
    SELECT CASE WHEN shown THEN name ELSE 'other' END, CASE WHEN shown THEN of ELSE 'other' END, \
        CASE WHEN shown THEN type ELSE 'other' END, CAST(sum(pgsize) AS REAL), CAST(sum(unused) AS REAL) \
    FROM ranked GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";

impl Collector for Objects {
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(async move {
            for (name, database) in &self.databases {
                read_objects(name, database, self.limit, batch).await.map_err(collect_error)?;
            }
            Ok(())
        })
    }
}

async fn read_objects(
    name: &'static str,
    database: &Database,
    limit: Duration,
    batch: &mut Batch,
) -> Result<(), sqlx::Error> {
    let mut reader = database.read(limit).await?;
    for row in sqlx::query(OBJECTS).fetch_all(&mut *reader).await? {
        let labels = Labels::none()
            .with("database", name)
            .with("object", row.try_get::<String, _>(0)?)
            .with("table", row.try_get::<String, _>(1)?)
            .with("kind", row.try_get::<String, _>(2)?);
        batch.push(&OBJECT_BYTES, labels.clone(), row.try_get(3)?);
        batch.push(&OBJECT_UNUSED, labels, row.try_get(4)?);
    }
    Ok(())
}
