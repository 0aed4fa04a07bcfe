//! On SQLite.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::engine::FullText;
use atlas_sidecar::engine::sqlite::Database;
use atlas_sidecar::engine::sqlite::runs::Runs;
use atlas_sidecar::engine::sqlite::upkeep::Keeper;
use atlas_sidecar::store::{Ended, Load, StoreError, Task, Tended, Tending, Upkeep, Wear};
use atlas_sidecar::task::{Pending, Tasks};
use proptest::prelude::*;
use tempfile::TempDir;

use super::{DAY, Desk, NIGHT};
use crate::support::{SIDECAR, run};

const OURS: &str = concat!(
    include_str!("../../../migrations/sqlite/0002_state.sql"),
    include_str!("../../../migrations/sqlite/0003_job_runs.sql")
);

struct File {
    folder: TempDir,
    database: Database,
    keeper: Arc<dyn Upkeep>,
}

impl File {
    /// A file in WAL mode that `sql` fills, with our tables; where there is full text, `migrate` makes them.
    async fn new(sql: &str, full_text: Vec<FullText>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("atlas.db");
        let ours = if full_text.is_empty() { OURS } else { "" };
        run("sqlite3", &["-bail", path.to_str().unwrap(), &format!("{sql}; PRAGMA journal_mode = WAL; {ours}")]);
        let database = Database::open(&path, false).await.unwrap();
        let keeper = Arc::new(Keeper::new(database.clone(), full_text));
        Self { folder, database, keeper }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("atlas.db")
    }

    fn sql(&self, sql: &str) -> String {
        run("sqlite3", &["-bail", "-cmd", ".timeout 10000", self.path().to_str().unwrap(), sql]).trim_end().to_owned()
    }

    fn wal(&self) -> u64 {
        std::fs::metadata(self.path().with_extension("db-wal")).map_or(0, |about| about.len())
    }

    fn desk(&self) -> Desk {
        Desk::new(Arc::new(Runs::new(self.database.clone())), Arc::clone(&self.keeper), Duration::from_secs(300))
    }
}

/// A disk so slow that each piece of work takes a tenth of a second more: whatever the machine, a run of seconds does not give 10,000 pages back.
struct Slow(Arc<dyn Upkeep>);

impl Upkeep for Slow {
    fn database(&self) -> String {
        self.0.database()
    }

    fn load(&self, span: Duration) -> Pending<'_, Result<Load, StoreError>> {
        self.0.load(span)
    }

    fn plan(&self, wear: Wear) -> Pending<'_, Result<Vec<Task<'_>>, StoreError>> {
        Box::pin(async move {
            let slow = |work| Box::new(SlowWork(work)) as Box<dyn Tending>;
            let tasks = self.0.plan(wear).await?.into_iter();
            Ok(tasks.map(|task| Task { work: task.work.map(slow), ..task }).collect())
        })
    }
}

struct SlowWork<'a>(Box<dyn Tending + 'a>);

impl Tending for SlowWork<'_> {
    fn next(&mut self, left: Duration) -> Pending<'_, Result<Option<Tended>, StoreError>> {
        Box::pin(async move {
            let done = self.0.next(left).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            done
        })
    }
}

/// A row fills a page; every second page is then unused, all over the file.
fn half_empty(rows: u32) -> String {
    format!(
        "PRAGMA auto_vacuum = INCREMENTAL; CREATE TABLE notes (id INTEGER PRIMARY KEY, body BLOB, tag TEXT); CREATE INDEX notes_tag ON notes (tag);
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
         INSERT INTO notes SELECT n, randomblob(3900), 'tag ' || (n % 10) FROM n;
         DELETE FROM notes WHERE id % 2 = 1"
    )
}

/// pages are given back in small steps, beside an application that writes and reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r15_pages_are_given_back_and_nobody_waits() {
    let file = File::new(&half_empty(30_000), Vec::new()).await;
    let before = file.path().metadata().unwrap().len();
    let tasks = Tasks::new();
    let (stop, worst, writes) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    {
        let (path, stop, worst, writes) = (file.path(), stop.clone(), worst.clone(), writes.clone());
        tasks.spawn("application", async move {
            // Connections of its own, as an application has them.
            let application = Database::open(&path, false).await.unwrap();
            while !stop.load(Ordering::SeqCst) {
                let since = Instant::now();
                let mut tx = application.write().await.expect("nobody waits for as long as the busy timeout");
                worst.fetch_max(since.elapsed().as_millis() as u64, Ordering::SeqCst);
                sqlx::query("UPDATE notes SET tag = 'new' WHERE id = 2").execute(&mut *tx).await.unwrap();
                tx.commit().await.unwrap();
                writes.fetch_add(1, Ordering::SeqCst);
                let mut reader = application.read(Duration::from_secs(5)).await.unwrap();
                let _: i64 = sqlx::query_scalar("SELECT count(*) FROM notes").fetch_one(&mut *reader).await.unwrap();
                drop(reader);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    let desk = file.desk();
    let end = desk.by_hand(false).await;
    stop.store(true, Ordering::SeqCst);
    tasks.stop().await;
    let (worst, writes) = (worst.load(Ordering::SeqCst), writes.load(Ordering::SeqCst));
    println!(
        "{} in {:?}; {writes} writes, the longest waited {worst} ms, WAL {} bytes",
        end.words,
        end.took,
        file.wal()
    );
    assert_eq!(end.ended, Ended::Success, "{}", end.words);
    assert!(end.words.contains(", incremental_vacuum 15"), "{}", end.words);
    assert!(writes > 1, "{writes}");
    assert!(worst < 250 || cfg!(debug_assertions), "somebody waited {worst} ms");
    assert!(file.wal() < 64 << 20, "WAL of {} bytes", file.wal());
    assert_eq!(file.sql("PRAGMA freelist_count; PRAGMA integrity_check; SELECT count(*) FROM notes"), "0\nok\n15000");
    assert_eq!(file.sql("SELECT count(*) FROM sqlite_stat1 WHERE tbl = 'notes'"), "1");
    file.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    let after = file.path().metadata().unwrap().len();
    assert!(after < before * 6 / 10, "{before} -> {after}");
    assert!(end.bytes > before * 4 / 10, "{}", end.bytes);
    assert_eq!(desk.counted("atlas_sidecar_upkeep_freed_bytes_total", &[]), end.bytes as f64);
    assert_eq!(desk.counted("atlas_sidecar_upkeep_steps_total", &["incremental_vacuum", "done"]), 1.0);
    // The run log has grown by its first runs, which is worth an ANALYZE.
    let end = desk.by_hand(false).await;
    assert_eq!(end.ended, Ended::Success);
    assert!(!end.words.contains("incremental_vacuum"), "{}", end.words);
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done() {
    let file = File::new(&half_empty(2_000), Vec::new()).await;
    let before = file.sql("PRAGMA freelist_count; SELECT count(*) FROM sqlite_schema");
    let end = file.desk().by_hand(true).await;
    assert_eq!(end.ended, Ended::Success);
    assert!(end.words.contains(", incremental_vacuum 9"), "{}", end.words);
    assert!(end.words.ends_with("pages that lie unused"), "{}", end.words);
    assert_eq!(file.sql("PRAGMA freelist_count; SELECT count(*) FROM sqlite_schema"), before);
}

/// A run stops between two pieces, before its timeout, and says so; what it has done stays done.
#[tokio::test]
async fn at_its_deadline_it_stops_and_says_what_it_did_not_do() {
    let file = File::new(&half_empty(20_000), Vec::new()).await;
    let slow = Arc::new(Slow(Arc::clone(&file.keeper)));
    let desk = Desk::new(Arc::new(Runs::new(file.database.clone())), slow, Duration::from_secs(3));
    let end = desk.by_hand(false).await;
    assert_eq!(end.ended, Ended::Success, "{}", end.words);
    assert!(end.words.ends_with("pages that lie unused: no time was left"), "{}", end.words);
    let left: u32 = file.sql("PRAGMA freelist_count").parse().unwrap();
    assert!(left > 0, "{left}");
    assert_eq!(file.sql("PRAGMA integrity_check"), "ok");
    // How far it came is the machine's affair; what is left is the next run's, unless it is too little to be worth one.
    let pages: u32 = file.sql("PRAGMA page_count").parse().unwrap();
    let worth = left * 100 >= pages * 30;
    let desk = file.desk();
    desk.clock.set(Timestamp::from_rfc3339(NIGHT).unwrap());
    desk.by_hand(false).await;
    assert_eq!(file.sql("PRAGMA freelist_count") == "0", worth, "{left} of {pages}");
}

/// Turning it on is a VACUUM, and that is for a person to decide.
#[tokio::test]
async fn unused_pages_are_reported_where_auto_vacuum_is_off() {
    let file = File::new(&half_empty(2_000).replace("INCREMENTAL", "NONE"), Vec::new()).await;
    let free = file.sql("PRAGMA freelist_count");
    let end = file.desk().by_hand(false).await;
    assert_eq!(end.ended, Ended::Success);
    assert!(end.words.contains("pages that lie unused: `auto_vacuum` is off"), "{}", end.words);
    assert!(end.words.contains("`PRAGMA auto_vacuum = INCREMENTAL; VACUUM;`"), "{}", end.words);
    let left: u32 = file.sql("PRAGMA freelist_count").parse().unwrap();
    // But for what the run log took.
    assert!(left + 10 > free.parse().unwrap(), "{free} -> {left}");
}

/// a reader that stays keeps the log from being used anew; the work stops long before it has 64 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_a_reader_that_stays_stops_the_work_and_not_the_disk() {
    let file = File::new(&half_empty(60_000), Vec::new()).await;
    let others = Database::open(&file.path(), false).await.unwrap();
    let mut reader = others.read(Duration::from_secs(300)).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM notes").execute(&mut *reader).await.unwrap();
    let desk = file.desk();
    let end = desk.by_hand(false).await;
    assert_eq!(end.ended, Ended::Failed, "{}", end.words);
    assert!(end.words.contains("a reader keeps 3"), "{}", end.words);
    assert!(file.wal() < 64 << 20, "WAL of {} bytes", file.wal());
    sqlx::raw_sql("COMMIT").execute(&mut *reader).await.unwrap();
    let end = desk.by_hand(false).await;
    assert_eq!(end.ended, Ended::Success, "{}", end.words);
    assert_eq!(file.sql("PRAGMA freelist_count; PRAGMA integrity_check"), "0\nok");
}

/// a disk that is full undoes the piece and leaves the file whole. Here it is the file that may not grow.
#[tokio::test]
async fn r20_no_space_ends_the_run_and_leaves_the_file_whole() {
    let sql = format!("{}; CREATE TRIGGER no AFTER UPDATE ON notes BEGIN SELECT 1; END", half_empty(2_000));
    let notes = FullText { table: "notes".into(), key: "id".into(), columns: vec!["tag".into()] };
    let file = File::new(&sql, vec![notes]).await;
    migrate(&file, "id", "tag");
    file.sql("DELETE FROM sidecar_fts_notes");
    {
        let mut writer = file.database.alone(Duration::from_secs(5)).await.unwrap();
        // The least that there can be: what is there. SQLite then says that it is full.
        sqlx::query("PRAGMA max_page_count = 1").fetch_all(&mut *writer).await.unwrap();
        let filled = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 3000) INSERT INTO notes SELECT 100000 + n, randomblob(3900), 'x' FROM n";
        let full = sqlx::query(filled).execute(&mut *writer).await;
        assert!(full.is_err());
        for size in [1000, 100, 10, 1] {
            let filled = filled.replace("3000", &size.to_string()).replace("100000 +", "NULL +");
            while sqlx::query(sqlx::AssertSqlSafe(filled.clone())).execute(&mut *writer).await.is_ok() {}
        }
    }
    let desk = file.desk();
    let end = desk.by_hand(false).await;
    // The run's own record still fits into the page that it has.
    assert_eq!(end.ended, Ended::Failed, "{}", end.words);
    assert!(end.words.contains("no space left"), "{}", end.words);
    assert_eq!(file.sql("PRAGMA integrity_check"), "ok");
    sqlx::query("PRAGMA max_page_count = 4294967294")
        .fetch_all(&mut *file.database.alone(Duration::from_secs(5)).await.unwrap())
        .await
        .unwrap();
    let end = desk.by_hand(false).await;
    assert_eq!(end.ended, Ended::Success, "{}", end.words);
    let end = desk.by_hand(true).await;
    assert_eq!(end.ended, Ended::Success, "{}", end.words);
    assert_eq!(missing(&file, "notes", "id", "tag"), "0");
}

#[tokio::test]
async fn outside_of_the_window_only_somebody_who_asks_is_heard() {
    let file = File::new(&half_empty(1_000), Vec::new()).await;
    let desk = file.desk();
    let end = desk.scheduled(DAY).await;
    assert_eq!((end.ended, end.words.as_str()), (Ended::Skipped, "it is outside of `upkeep.window`, 02:00-05:00"));
    assert_eq!(desk.counted("atlas_sidecar_upkeep_put_off_total", &["window"]), 1.0);
    assert_ne!(file.sql("PRAGMA freelist_count"), "0");
    desk.by_hand(false).await;
    assert_eq!(file.sql("PRAGMA freelist_count"), "0");
}

/// The window is quiet only if nobody is there: an application that writes some hundred times in a second is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_at_work_puts_it_off_and_our_own_writes_do_not() {
    let file = File::new(&half_empty(1_000), Vec::new()).await;
    let desk = file.desk();
    let tasks = Tasks::new();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = |name: &'static str, database: Database| {
        let stop = stop.clone();
        tasks.spawn(name, async move {
            while !stop.load(Ordering::SeqCst) {
                let mut tx = database.write().await.unwrap();
                sqlx::query("UPDATE notes SET tag = 'new' WHERE id = 2").execute(&mut *tx).await.unwrap();
                tx.commit().await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    };
    writer("application", Database::open(&file.path(), false).await.unwrap());
    let end = desk.scheduled(NIGHT).await;
    assert_eq!(end.ended, Ended::Skipped, "{}", end.words);
    assert!(end.words.contains("others are at work, with "), "{}", end.words);
    assert_eq!(desk.counted("atlas_sidecar_upkeep_put_off_total", &["load"]), 1.0);
    stop.store(true, Ordering::SeqCst);
    tasks.stop().await;

    // What this process itself writes is no application's.
    let tasks = Tasks::new();
    let stop = Arc::new(AtomicBool::new(false));
    let (database, stopped) = (file.database.clone(), stop.clone());
    tasks.spawn("ingest", async move {
        while !stopped.load(Ordering::SeqCst) {
            let mut tx = database.write().await.unwrap();
            sqlx::query("UPDATE notes SET tag = 'new' WHERE id = 4").execute(&mut *tx).await.unwrap();
            tx.commit().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let end = desk.scheduled("2026-11-22T04:00:00Z").await;
    stop.store(true, Ordering::SeqCst);
    tasks.stop().await;
    assert_eq!(end.ended, Ended::Success, "{}", end.words);
    assert_eq!(file.sql("PRAGMA freelist_count"), "0");
}

/// The configuration's index over `columns` of `notes`, made by the program.
fn migrate(file: &File, key: &str, columns: &str) {
    let columns: Vec<String> = columns.split(',').map(|column| format!("\"{column}\"")).collect();
    let toml = format!(
        "state_directory = \"state\"\n[database]\nurl = \"sqlite://{}\"\ncreate = false\n[[database.full_text]]\ntable = \"notes\"\nkey = \"{key}\"\ncolumns = [{}]\n",
        file.path().display(),
        columns.join(", ")
    );
    std::fs::write(file.folder.path().join("sidecar.toml"), toml).unwrap();
    let out = std::process::Command::new(SIDECAR)
        .args(["--config", "sidecar.toml", "migrate"])
        .current_dir(file.folder.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// How many rows differ, either way.
fn missing(file: &File, table: &str, key: &str, columns: &str) -> String {
    let ours = format!("SELECT key, typeof(key), {columns} FROM sidecar_fts_{table}");
    let theirs = format!("SELECT {key}, typeof({key}), {columns} FROM {table} WHERE {key} IS NOT NULL");
    file.sql(&format!(
        "SELECT (SELECT count(*) FROM ({ours} EXCEPT {theirs})) + (SELECT count(*) FROM ({theirs} EXCEPT {ours})) \
         + abs((SELECT count(*) FROM ({ours})) - (SELECT count(*) FROM ({theirs})))"
    ))
}

/// Does all that is planned, without the job around it.
async fn tended(keeper: &dyn Upkeep) {
    for task in keeper.plan(Wear { unused_percent: 99 }).await.unwrap() {
        let mut work = task.work.unwrap();
        loop {
            match work.next(Duration::from_secs(10)).await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(StoreError::Busy(why)) => panic!("{}: {why}", task.step),
                Err(e) => panic!("{}: {e}", task.step),
            }
        }
    }
}

/// Kinds of keys: how the table declares them, and the `n`th.
const KEYS: [(&str, &str); 5] = [
    ("id INTEGER PRIMARY KEY, a TEXT, b", "@"),
    ("id VARCHAR(36) PRIMARY KEY, a TEXT, b", "'key-' || @"),
    // Of one and the same key 'K1' and 'k1'.
    ("id TEXT PRIMARY KEY COLLATE NOCASE, a TEXT COLLATE NOCASE, b", "iif(abs(random()) % 2, 'k', 'K') || @"),
    ("id TEXT NOT NULL PRIMARY KEY, a TEXT, b) WITHOUT ROWID; CREATE TABLE other (x", "'key-' || @"),
    (
        "id PRIMARY KEY, a TEXT, b",
        "CASE @ % 4 WHEN 0 THEN @ WHEN 1 THEN @ + 0.5 WHEN 2 THEN 'k' || @ ELSE CAST('b' || @ AS BLOB) END",
    ),
];

const WORDS: &str = "substr('alpha betas gamma delta Alpha ALPHA omega ', 1 + 6 * (abs(random()) % 7), 5)";

/// What an application does to its table between two nights.
#[derive(Clone, Debug)]
enum Act {
    Insert(u32, u32),
    Update(u32),
    Rekey(u32, u32),
    Delete(u32),
    Clear,
    Vacuum,
    Upkeep,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..300u32, 1..200u32).prop_map(|(from, rows)| Act::Insert(from, rows)),
        3 => (1..7u32).prop_map(Act::Update),
        2 => (1..300u32, 1..300u32).prop_map(|(from, to)| Act::Rekey(from, to)),
        3 => (2..7u32).prop_map(Act::Delete),
        1 => Just(Act::Clear),
        1 => Just(Act::Vacuum),
        2 => Just(Act::Upkeep),
    ]
}

impl Act {
    fn sql(&self, key: &str) -> Option<String> {
        let key_of = |n: &str| key.replace('@', n);
        Some(match self {
            Self::Insert(from, rows) => format!(
                "WITH RECURSIVE n(n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM n WHERE n < {}) \
                 INSERT OR REPLACE INTO notes SELECT {}, {WORDS} || ' ' || {WORDS}, iif(n % 5, {WORDS}, NULL) FROM n",
                from + rows,
                key_of("n")
            ),
            Self::Update(part) => format!("UPDATE notes SET a = {WORDS}, b = {WORDS} WHERE abs(random()) % {part} = 0"),
            Self::Rekey(from, to) => format!(
                "UPDATE OR REPLACE notes SET id = {} WHERE id = {}",
                key_of(&to.to_string()),
                key_of(&from.to_string())
            ),
            Self::Delete(part) => format!("DELETE FROM notes WHERE abs(random()) % {part} = 0"),
            Self::Clear => "DELETE FROM notes".to_owned(),
            Self::Vacuum => "VACUUM".to_owned(),
            Self::Upkeep => return None,
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the application did, after upkeep a search finds what an index made anew finds.
    #[test]
    fn after_upkeep_a_search_gives_what_a_fresh_index_gives(kind in 0..KEYS.len(), acts in proptest::collection::vec(act(), 1..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (declared, key) = KEYS[kind];
            let first = Act::Insert(0, 150).sql(key).unwrap();
            let file = File::new(&format!("CREATE TABLE notes ({declared}); {first}"), vec![FullText {
                table: "notes".into(), key: "id".into(), columns: vec!["a".into(), "b".into()],
            }]).await;
            migrate(&file, "id", "a,b");
            for act in acts.iter().chain([&Act::Upkeep]) {
                match act.sql(key) {
                    Some(sql) => drop(file.sql(&sql)),
                    None => tended(file.keeper.as_ref()).await,
                }
            }
            assert_eq!(missing(&file, "notes", "id", "a, b"), "0", "{declared}");
            file.sql("INSERT INTO sidecar_fts_notes(sidecar_fts_notes) VALUES('integrity-check');
                CREATE VIRTUAL TABLE fresh USING fts5(key UNINDEXED, a, b); INSERT INTO fresh SELECT id, a, b FROM notes WHERE id IS NOT NULL");
            for word in ["alpha", "a: gamma", "b: delta", "alpha AND omega", "bet*"] {
                let found = |index: &str| file.sql(&format!("SELECT quote(key) FROM {index} WHERE {index} MATCH '{word}' ORDER BY 1"));
                assert_eq!(found("sidecar_fts_notes"), found("fresh"), "{word}");
            }
            assert_eq!(file.sql("PRAGMA integrity_check"), "ok");
            // Again there is nothing to do.
            let before = file.sql("SELECT count(*), max(rowid) FROM sidecar_fts_notes");
            tended(file.keeper.as_ref()).await;
            assert_eq!(file.sql("SELECT count(*), max(rowid) FROM sidecar_fts_notes"), before);
        });
    }
}

/// an index of many rows is made true in pieces, each key found by an index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_index_is_refreshed_beside_an_application() {
    let rows = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100000) \
        INSERT INTO notes SELECT format('%08x', (n * 2654435761) & 0xffffffff), 'some words of row ' || n, 'tag' || (n % 100) FROM n";
    let notes = FullText { table: "notes".into(), key: "id".into(), columns: vec!["a".into(), "b".into()] };
    let file =
        File::new(&format!("CREATE TABLE notes (id VARCHAR(36) PRIMARY KEY, a TEXT, b TEXT); {rows}"), vec![notes])
            .await;
    migrate(&file, "id", "a,b");
    file.sql("DELETE FROM notes WHERE b = 'tag7'; UPDATE notes SET a = 'other' WHERE b = 'tag8'; UPDATE notes SET id = 'x' || id WHERE b < 'tag2'");
    let application = Database::open(&file.path(), false).await.unwrap();
    let (tasks, stop, worst) = (Tasks::new(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    {
        let (stop, worst) = (stop.clone(), worst.clone());
        tasks.spawn("application", async move {
            while !stop.load(Ordering::SeqCst) {
                let since = Instant::now();
                let tx = application.write().await.expect("nobody waits for as long as the busy timeout");
                worst.fetch_max(since.elapsed().as_millis() as u64, Ordering::SeqCst);
                tx.commit().await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    let end = file.desk().by_hand(false).await;
    stop.store(true, Ordering::SeqCst);
    tasks.stop().await;
    let worst = worst.load(Ordering::SeqCst);
    println!("{} in {:?}, {} rows; the longest waited {worst} ms, WAL {}", end.words, end.took, end.rows, file.wal());
    assert_eq!(end.ended, Ended::Success, "{}", end.words);
    assert!(end.words.contains("full_text `sidecar_fts_notes`"), "{}", end.words);
    assert!(worst < 250 || cfg!(debug_assertions), "somebody waited {worst} ms");
    assert!(file.wal() < 64 << 20);
    assert_eq!(missing(&file, "notes", "id", "a, b"), "0");
}
