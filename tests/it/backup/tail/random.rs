//! Random statements, on every page size and every kind of vacuum, with looks at the log in between.

use proptest::prelude::*;

use super::super::source::random::{Step, step};
use super::*;

/// Whatever happens between two cuts, the second leads to what SQLite has; the log begins anew in some of them.
async fn whole_life(page_size: u32, vacuum: u8, rounds: Vec<Vec<(Step, bool)>>) -> u32 {
    let mut scene = Scene::new(&format!(
        "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {vacuum}; PRAGMA journal_mode = WAL;
         CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB, tag INT); CREATE INDEX t_tag ON t (tag); INSERT INTO t VALUES (1, 'one', 1)"
    ))
    .await;
    let (mut log, mut begun_anew) = (String::new(), 0);
    for (round, steps) in rounds.into_iter().enumerate() {
        for (seed, (step, tends)) in (1..).zip(&steps) {
            // An application's checkpoint is let through, or comes to nothing.
            match tends {
                true => scene.sql_tended(&step.sql(seed)).await,
                false => scene.sql(&format!("PRAGMA busy_timeout = 0; {}", step.sql(seed))),
            };
        }
        if round > 0 {
            scene.sql_tended("PRAGMA wal_checkpoint(RESTART); UPDATE t SET tag = random() WHERE id = 1").await;
        }
        if let Some(cut) = scene.cut().await {
            let now = cut.resume.split(" frame").next().unwrap().to_owned();
            begun_anew += u32::from(!log.is_empty() && now != log);
            log = now;
        }
        assert!(scene.image == scene.expected(), "{}: the bytes are others after {steps:?}", scene.tip.place);
        assert_eq!(scene.cut().await, None);
    }
    scene.fix().await;
    scene.source.release().await;
    scene.database.close().await;
    begun_anew
}

#[test]
fn every_cut_leads_to_what_sqlite_has() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let seen = std::cell::Cell::new(0);
    let rounds = prop::collection::vec(prop::collection::vec((step(), any::<bool>()), 1..5), 1..6);
    proptest!(ProptestConfig::with_cases(16), |(size in 9..17u32, vacuum in 0..3u8, rounds in rounds)| {
        seen.set(seen.get() + runtime.block_on(whole_life(1 << size, vacuum, rounds)));
    });
    assert!(seen.get() > 8, "logs began anew in {} rounds only", seen.get());
}
