//! Beside an application that writes and makes checkpoints of every kind, in processes of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use atlas_sidecar::task::Tasks;

use super::*;
use crate::support::wait_for;

/// Cells that lie all over the file, each on a page of its own, all of the same generation after each commit. `history` has a row for each commit: its number, and a
/// sum that goes on from row to row.
fn schema() -> String {
    "PRAGMA page_size = 4096; PRAGMA auto_vacuum = 2; PRAGMA journal_mode = WAL;
     CREATE TABLE cells (id INTEGER PRIMARY KEY, generation INT, pad BLOB, filler BLOB);
     WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100)
     INSERT INTO cells SELECT n, 0, zeroblob(3000), NULL FROM n;
     CREATE TABLE filler (id INTEGER PRIMARY KEY, body BLOB);
     WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100)
     INSERT INTO filler SELECT n, randomblob(40000) FROM n;
     CREATE TABLE more (id INTEGER PRIMARY KEY, generation INT, pad BLOB);
     WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100)
     INSERT INTO more SELECT n, 0, zeroblob(3000) FROM n;
     CREATE TABLE history (id INTEGER PRIMARY KEY, sum INT);
     INSERT INTO history VALUES (0, 1);"
        .to_owned()
}

/// What holds after each commit.
const RULES: &str = "SELECT (SELECT count(DISTINCT generation) FROM (SELECT generation FROM cells UNION ALL SELECT generation FROM more)) = 1
     AND (SELECT max(generation) FROM cells) = (SELECT max(id) FROM history)
     AND (SELECT count(*) FROM history) = (SELECT max(id) + 1 FROM history)
     AND NOT EXISTS (SELECT 1 FROM history a JOIN history b ON b.id = a.id + 1 WHERE b.sum <> (a.sum * 31 + b.id) % 1000003);
     PRAGMA integrity_check";

/// Commits for ever and prints a line for each. Checkpoints that would wait for readers do not (H9), as an application beside a backup should have it.
const WRITER: &str = "
import random, sqlite3, sys
path, seed = sys.argv[1], int(sys.argv[2])
dice = random.Random(seed)
def connect():
    db = sqlite3.connect(path, isolation_level=None, timeout=60)
    db.execute('PRAGMA synchronous = OFF')
    db.execute('PRAGMA wal_autocheckpoint = %d' % dice.choice([0, 50, 1000]))
    return db
db = connect()
while True:
    dice_now = dice.random()
    if dice_now < 0.1:
        db.execute('PRAGMA cache_size = 4')
        db.execute('BEGIN IMMEDIATE')
        db.execute('UPDATE cells SET generation = -1')
        db.execute('UPDATE filler SET body = randomblob(30000) WHERE id % 9 = 1')
        db.execute('ROLLBACK')
        db.execute('PRAGMA cache_size = -2000')
    elif dice_now < 0.3:
        db.execute('PRAGMA busy_timeout = 0')
        try:
            db.execute('PRAGMA wal_checkpoint(%s)' % dice.choice(['PASSIVE', 'FULL', 'RESTART', 'TRUNCATE'])).fetchall()
        except sqlite3.OperationalError:
            pass
        db.execute('PRAGMA busy_timeout = 60000')
    elif dice_now < 0.33:
        db.close()
        db = connect()
    db.execute('BEGIN IMMEDIATE')
    db.execute('UPDATE cells SET generation = generation + 1')
    db.execute('UPDATE more SET generation = generation + 1')
    db.execute('INSERT INTO history SELECT id + 1, (sum * 31 + id + 1) % 1000003 FROM history ORDER BY id DESC LIMIT 1')
    if dice.random() < 0.2:
        db.execute('DELETE FROM filler WHERE id = abs(random()) % 100')
        db.execute('INSERT OR REPLACE INTO filler VALUES (abs(random()) % 100, randomblob(abs(random()) % 60000))')
    if dice.random() < 0.1:
        db.execute('PRAGMA incremental_vacuum(5)').fetchall()
    db.execute('COMMIT')
    print('.', flush=True)
";

/// Processes that write, each by a script for `python3` that is given the database and a number, and says a line for each commit.
pub struct Writers {
    children: Vec<Child>,
    counters: Vec<JoinHandle<()>>,
    commits: Arc<AtomicU64>,
}

impl Writers {
    pub fn start(script: &str, path: &Path, count: u32) -> Self {
        let commits = Arc::new(AtomicU64::new(0));
        let (mut children, mut counters) = (Vec::new(), Vec::new());
        for seed in 0..count {
            let mut child = Command::new("python3")
                .args(["-c", script, path.to_str().unwrap(), &seed.to_string()])
                .stdout(Stdio::piped())
                .spawn()
                .expect("`python3` starts: the README's test command installs it");
            let (lines, commits) = (BufReader::new(child.stdout.take().unwrap()).lines(), Arc::clone(&commits));
            counters.push(std::thread::spawn(move || {
                lines.map_while(Result::ok).for_each(|_| {
                    commits.fetch_add(1, Ordering::SeqCst);
                })
            }));
            children.push(child);
        }
        Self { children, counters, commits }
    }

    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// Waits for some commits more.
    fn wait(&self, more: u64) {
        let wanted = self.commits() + more;
        wait_for("commits", MINUTE, || (self.commits() >= wanted).then_some(()));
    }

    /// Ends them, as a power cut would.
    pub fn kill(&mut self) {
        for mut child in self.children.drain(..) {
            drop(child.kill());
            drop(child.wait());
        }
        self.counters.drain(..).for_each(|counter| drop(counter.join()));
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.kill();
    }
}

/// H2, H5, H6: what is read is one state, whatever is committed, rolled back and checkpointed meanwhile; each state follows from the one before.
#[tokio::test(flavor = "multi_thread")]
async fn h5_a_state_is_one_state_beside_writers_and_checkpoints() {
    let scene = Scene::new(&schema()).await;
    let mut writers = Writers::start(WRITER, &scene.path(), 3);
    writers.wait(3);
    let (mut image, mut naive_broke) = (Vec::new(), false);
    for position in 1..14 {
        let want = if position == 1 { Want::Full } else { Want::Changes };
        // The pieces are taken slowly: there are commits between them.
        let (segment, bytes) = read(&*scene.source, want, position, |_| writers.wait(2)).await.unwrap();
        image = if want == Want::Full { bytes } else { applied(&image, &bytes, 4096) };
        assert_eq!(segment.digest_after, digest_of(&image, 4096), "position {position}");
        assert_eq!(segment.soundness.is_none(), want == Want::Changes);
        assert_eq!(asked(&image, RULES), "1\nok", "position {position}");
        assert_eq!(scene.adopt(position, segment.digest_after).await, Adopted::Known);
        // Sensitivity: the file alone, which is what a reading without the log would be, breaks the rules sooner or later.
        naive_broke = naive_broke || !breaks_nothing(&scene.naive());
        writers.wait(2);
    }
    wait_for("the file alone to be no state", MINUTE, || {
        naive_broke = naive_broke || !breaks_nothing(&scene.naive());
        naive_broke.then_some(())
    });
    writers.kill();
    let (_, log) = scene.read(Want::Changes, 14).await.unwrap();
    let last = applied(&image, &log, 4096);
    assert_eq!(asked(&last, RULES), "1\nok");
    let (_, full) = scene.read(Want::Full, 15).await.unwrap();
    assert!(last == full, "the increments lead to where the full is");
    // What SQLite gives to who reads now.
    assert_eq!(asked(&last, "SELECT max(id) FROM history"), scene.sql("SELECT max(id) FROM history"));
}

fn breaks_nothing(image: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.db");
    std::fs::write(&path, image).unwrap();
    let out = Command::new("sqlite3").args([&format!("file:{}?immutable=1", path.display()), RULES]).output().unwrap();
    out.stdout == b"1\nok\n"
}

/// Commits without a pause: no attempt meets one, and the write lock is held for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_found_beside_commits_without_a_pause() {
    let scene = Scene::new("PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (0)").await;
    let stop = Arc::new(AtomicBool::new(false));
    let tasks = Tasks::new();
    {
        let (path, stop) = (scene.path(), Arc::clone(&stop));
        tasks.spawn("application", async move {
            let application = Database::open(&path, false).await.unwrap();
            while !stop.load(Ordering::SeqCst) {
                let mut tx = application.write().await.expect("nobody holds the lock for long");
                sqlx::raw_sql("UPDATE t SET a = a + 1").execute(&mut *tx).await.unwrap();
                tx.commit().await.unwrap();
            }
            application.close().await;
        });
    }
    let mut last = 0;
    for position in 1..40 {
        let (segment, bytes) = scene.read(Want::Full, position).await.unwrap();
        assert_eq!(segment.digest_after, digest_of(&bytes, 4096));
        let now: u64 = asked(&bytes, "SELECT a FROM t").parse().unwrap();
        assert!(now >= last, "{now} came after {last}");
        last = now;
    }
    stop.store(true, Ordering::SeqCst);
    tasks.stop().await;
}
