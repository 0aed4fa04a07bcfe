//! Random statements, on every page size and every kind of vacuum.

use proptest::prelude::*;

use super::*;

/// What an application does.
#[derive(Clone, Debug)]
pub(in crate::backup) enum Step {
    Insert {
        rows: u32,
        bytes: u32,
    },
    Update {
        every: u32,
    },
    Delete {
        every: u32,
    },
    /// With a cache so small that pages of it get into the log.
    RolledBack {
        rows: u32,
    },
    DropTable,
    IncrementalVacuum,
    Vacuum,
    Checkpoint(&'static str),
}

impl Step {
    pub(in crate::backup) fn sql(&self, seed: u32) -> String {
        match self {
            Self::Insert { rows, bytes } => format!(
                "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
                 INSERT INTO t (body, tag) SELECT randomblob({bytes}), n * {seed} % 1009 FROM n;"
            ),
            Self::Update { every } => format!("UPDATE t SET body = randomblob(length(body)) WHERE id % {every} = 0;"),
            Self::Delete { every } => format!("DELETE FROM t WHERE id % {every} = 0;"),
            Self::RolledBack { rows } => format!(
                "PRAGMA cache_size = 4; BEGIN; UPDATE t SET tag = tag + 1;
                 WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
                 INSERT INTO t (body, tag) SELECT randomblob(700), n FROM n; ROLLBACK; PRAGMA cache_size = -2000;"
            ),
            Self::DropTable => {
                "CREATE TABLE IF NOT EXISTS gone AS SELECT * FROM t; DROP TABLE gone; CREATE TABLE gone (a);".to_owned()
            }
            Self::IncrementalVacuum => "PRAGMA incremental_vacuum;".to_owned(),
            Self::Vacuum => "VACUUM;".to_owned(),
            Self::Checkpoint(kind) => format!("PRAGMA wal_checkpoint({kind});"),
        }
    }
}

pub(in crate::backup) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..60u32, 0..3000u32).prop_map(|(rows, bytes)| Step::Insert { rows, bytes }),
        3 => (1..9u32).prop_map(|every| Step::Update { every }),
        2 => (1..4u32).prop_map(|every| Step::Delete { every }),
        2 => (50..200u32).prop_map(|rows| Step::RolledBack { rows }),
        1 => Just(Step::DropTable),
        2 => Just(Step::IncrementalVacuum),
        1 => Just(Step::Vacuum),
        2 => prop::sample::select(vec!["PASSIVE", "FULL", "RESTART", "TRUNCATE"]).prop_map(Step::Checkpoint),
    ]
}

/// Goes through `rounds`; says whether the file alone was another than the state, so that forgetting the log would have been seen.
async fn whole_life(page_size: u32, vacuum: u8, rounds: Vec<Vec<Step>>) -> bool {
    let scene = Scene::new(&format!(
        "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {vacuum}; PRAGMA journal_mode = WAL;
         CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB, tag INT); CREATE INDEX t_tag ON t (tag);"
    ))
    .await;
    scene.sql(&Step::Insert { rows: 40, bytes: 900 }.sql(1));
    let mut image = scene.full().await;
    assert_eq!(image, scene.expected());
    let mut log_matters = scene.naive() != image;
    for (position, steps) in (2..).zip(rounds) {
        let sql: String = (1..).zip(&steps).map(|(seed, step)| step.sql(seed)).collect();
        scene.sql(&sql);
        let before = digest_of(&image, page_size);
        let (segment, log) = scene.read(Want::Changes, position).await.unwrap();
        image = applied(&image, &log, page_size);
        assert!(image == scene.expected(), "position {position}: the bytes are others after {steps:?}");
        assert_eq!((segment.digest_before, segment.digest_after), (Some(before), digest_of(&image, page_size)));
        assert_eq!(segment.pages as usize, image.len() / page_size as usize);
        log_matters |= scene.naive() != image;
        assert_eq!(scene.adopt(position, segment.digest_after).await, Adopted::Known);
        let (full, bytes) = scene.read(Want::Full, position + 100).await.unwrap();
        assert!(bytes == image, "position {position}: a full is what the increments lead to");
        assert_eq!(full.digest_after, segment.digest_after);
    }
    scene.database.close().await;
    log_matters
}

/// Every state is SQLite's to the byte, as a full and by increments that the stock shell applies.
#[test]
fn every_state_is_sqlites_to_the_byte() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let seen = std::cell::Cell::new(0);
    let rounds = prop::collection::vec(prop::collection::vec(step(), 1..5), 1..5);
    proptest!(ProptestConfig::with_cases(24), |(size in 9..17u32, vacuum in 0..3u8, rounds in rounds)| {
        let log_matters = runtime.block_on(whole_life(1 << size, vacuum, rounds));
        seen.set(seen.get() + u32::from(log_matters));
    });
    assert!(seen.get() > 5, "the log mattered in {} lives only: this would not see that it is forgotten", seen.get());
}

/// A database that only gets shorter, and none of whose pages is another one: a frame carries the length all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_shrinking_database_shrinks_and_a_growing_one_grows() {
    for vacuum in ["FULL", "INCREMENTAL"] {
        let scene = Scene::new(&format!("PRAGMA auto_vacuum = {vacuum}; {}", rows(300))).await;
        let mut image = scene.full().await;
        for (position, sql) in (2..).zip([
            "DELETE FROM t WHERE id > 100; PRAGMA incremental_vacuum",
            "VACUUM",
            "DROP TABLE t; PRAGMA incremental_vacuum",
            "PRAGMA wal_checkpoint(TRUNCATE)",
            "CREATE TABLE u AS WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 300) SELECT randomblob(3000) FROM n",
        ]) {
            scene.sql(sql);
            let (segment, log) = scene.read(Want::Changes, position).await.unwrap();
            image = applied(&image, &log, 4096);
            assert!(image == scene.expected(), "{vacuum}: {sql}");
            assert_eq!(scene.adopt(position, segment.digest_after).await, Adopted::Known);
        }
    }
}
