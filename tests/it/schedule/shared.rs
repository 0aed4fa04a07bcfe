//! A database that real sidecars share, on either engine: what the tests ask of it and do to it is the same.

use std::path::{Path, PathBuf};

use super::sql;
use crate::support::Sidecar;
use crate::support::postgres::{Cluster, ROLE};

/// Rows that take some seconds to delete, slowed down as they are.
pub(super) const MANY: u32 = 5_000;

/// Where it is.
pub(super) enum Shared {
    Sqlite(PathBuf),
    Postgres(Box<Cluster>),
}

impl Shared {
    /// A file in `folder`, with the tables that a first start makes.
    pub fn sqlite(folder: &Path) -> Self {
        Self::Sqlite(folder.join("data/atlas.db")).made(folder)
    }

    /// The same on `cluster`.
    pub fn postgres(folder: &Path, cluster: Cluster) -> Self {
        cluster.database("one");
        Self::Postgres(Box::new(cluster)).made(folder)
    }

    /// Each of them in a folder of its own.
    pub fn both() -> [(tempfile::TempDir, Self); 2] {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [a, b] = folders;
        let (sqlite, postgres) = (Self::sqlite(a.path()), Self::postgres(b.path(), Cluster::start()));
        [(a, sqlite), (b, postgres)]
    }

    fn made(self, folder: &Path) -> Self {
        let first = Sidecar::start(folder, &format!("{}[scrape]\ninterval = \"1h\"\n", self.config()));
        assert_eq!(first.stop(), 0);
        self
    }

    /// The section `[database]`.
    pub fn config(&self) -> String {
        match self {
            Self::Sqlite(file) => format!("[database]\nurl = \"sqlite://{}\"\n", file.display()),
            Self::Postgres(cluster) => format!("[database]\nurl = \"{}\"\n", cluster.url("one")),
        }
    }

    /// What the engine's own shell answers, as the application: columns by `|`.
    pub fn sql(&self, text: &str) -> String {
        match self {
            Self::Sqlite(file) => sql(file, text),
            Self::Postgres(cluster) => cluster.psql("one", &format!("SET ROLE {ROLE};{text}")).replacen("SET", "", 1),
        }
        .trim()
        .to_owned()
    }

    pub fn count(&self, table: &str) -> u32 {
        self.sql(&format!("SELECT count(*) FROM {table}")).parse().unwrap()
    }

    /// Runs `text` for each of `n` from 1 to `rows`.
    pub fn insert(&self, into: &str, rows: u32, columns: &str) {
        let numbers = match self {
            Self::Sqlite(_) => format!(
                "(WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows}) SELECT n FROM n)"
            ),
            Self::Postgres(_) => format!("(SELECT generate_series AS n FROM generate_series(1, {rows})) AS n"),
        };
        self.sql(&format!("INSERT INTO {into} SELECT {columns} FROM {numbers}"));
    }

    /// Rows of the cache whose time is over, and how many: some seconds of work.
    pub fn fill_cache(&self) -> u32 {
        self.slow_down("search_cache");
        let columns =
            format!("'row-' || n, n, '{}', '{{}}', '2020-01-01 00:00:00', '2020-01-02 00:00:00'", Self::wide());
        self.insert("search_cache", MANY, &columns);
        MANY
    }

    /// A text that lets few rows lie on a page, which is what PostgreSQL takes at a time.
    pub fn wide() -> String {
        "x".repeat(900)
    }

    /// Lets each deletion from `table` take a while: on a fast machine thousands would be gone before anybody has looked.
    pub fn slow_down(&self, table: &str) {
        self.sql(&match self {
            Self::Sqlite(_) => format!(
                "CREATE TRIGGER slowly_{table} BEFORE DELETE ON {table} BEGIN SELECT length(hex(randomblob(50000))); END"
            ),
            Self::Postgres(_) => format!(
                "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.001); RETURN OLD; END $$;
                CREATE TRIGGER slowly BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION slowly()"
            ),
        });
    }

    /// Runs of `job`: attempt, owner, outcome; the oldest first.
    pub fn runs(&self, job: &str) -> String {
        self.sql(&format!(
            "SELECT attempt, owner, coalesce(outcome, 'open') FROM sidecar_job_runs WHERE job = '{job}' AND reason IN ('schedule', 'catch-up') ORDER BY id"
        ))
    }

    /// What the engine itself says about its files and indexes.
    pub fn is_whole(&self) {
        match self {
            Self::Sqlite(_) => assert_eq!(self.sql("PRAGMA integrity_check"), "ok"),
            Self::Postgres(cluster) => {
                cluster.psql("one", "CREATE EXTENSION IF NOT EXISTS amcheck");
                let check = "SELECT count(bt_index_check(i.indexrelid, true)) > 0, count(*) FILTER (WHERE NOT indisvalid) FROM pg_index AS i \
                     JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS a ON a.oid = c.relam \
                     WHERE a.amname = 'btree' AND c.relnamespace = 'public'::regnamespace";
                let said = cluster.psql("one", &format!("{check} AND i.indisvalid"));
                assert_eq!(said, "t|0");
                assert_eq!(
                    cluster.psql("one", "SELECT count(*) FROM pg_index WHERE NOT indisvalid"),
                    "0",
                    "INVALID indexes"
                );
            }
        }
    }
}

/// The number of the sidecar whose folder it is.
pub(super) fn instance(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("data/state/instance")).unwrap().trim().to_owned()
}
