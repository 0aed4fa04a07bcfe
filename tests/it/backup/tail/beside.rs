//! Beside an application that writes, rolls back, vacuums and makes checkpoints of every kind, in processes of its own.

use super::super::source::Writers;
use super::*;

/// Cells all of the same generation after each commit; `history` has a row for each commit with a sum that goes on from row to row.
const SCHEMA: &str = "PRAGMA page_size = 4096; PRAGMA auto_vacuum = 2; PRAGMA journal_mode = WAL;
     CREATE TABLE cells (id INTEGER PRIMARY KEY, generation INT, pad BLOB);
     WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 40)
     INSERT INTO cells SELECT n, 0, zeroblob(3000) FROM n;
     CREATE TABLE filler (id INTEGER PRIMARY KEY, body BLOB);
     WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 50)
     INSERT INTO filler SELECT n, randomblob(20000) FROM n;
     CREATE TABLE history (id INTEGER PRIMARY KEY, sum INT);
     INSERT INTO history VALUES (0, 1);";

/// What holds after each commit.
const RULES: &str = "SELECT (SELECT count(DISTINCT generation) FROM cells) = 1
     AND (SELECT max(generation) FROM cells) = (SELECT max(id) FROM history)
     AND (SELECT count(*) FROM history) = (SELECT max(id) + 1 FROM history)
     AND NOT EXISTS (SELECT 1 FROM history a JOIN history b ON b.id = a.id + 1 WHERE b.sum <> (a.sum * 31 + b.id) % 1000003);
     PRAGMA integrity_check";

/// Commits for ever and prints a line for each.
const WRITER: &str = "
import random, sqlite3, sys, time
path, seed = sys.argv[1], int(sys.argv[2])
dice = random.Random(seed)
def connect():
    db = sqlite3.connect(path, isolation_level=None, timeout=60)
    db.execute('PRAGMA synchronous = OFF')
    db.execute('PRAGMA wal_autocheckpoint = %d' % dice.choice([0, 10, 1000]))
    return db
db = connect()
while True:
    what = dice.random()
    if what < 0.1:
        db.execute('PRAGMA cache_size = 4')
        db.execute('BEGIN IMMEDIATE')
        db.execute('UPDATE cells SET generation = -1')
        db.execute('UPDATE filler SET body = randomblob(20000) WHERE id % 9 = 1')
        db.execute('ROLLBACK')
        db.execute('PRAGMA cache_size = -2000')
    elif what < 0.3:
        db.execute('PRAGMA busy_timeout = %d' % dice.choice([0, 0, 0, 500]))
        try:
            db.execute('PRAGMA wal_checkpoint(%s)' % dice.choice(['PASSIVE', 'FULL', 'RESTART', 'TRUNCATE'])).fetchall()
        except sqlite3.OperationalError:
            pass
        db.execute('PRAGMA busy_timeout = 60000')
    elif what < 0.33:
        db.close()
        db = connect()
    elif what < 0.34:
        try:
            db.execute('VACUUM')
        except sqlite3.OperationalError:
            pass
    elif what < 0.5:
        time.sleep(0.005)
    db.execute('BEGIN IMMEDIATE')
    db.execute('UPDATE cells SET generation = generation + 1')
    db.execute('INSERT INTO history SELECT id + 1, (sum * 31 + id + 1) % 1000003 FROM history ORDER BY id DESC LIMIT 1')
    if dice.random() < 0.2:
        db.execute('DELETE FROM filler WHERE id = abs(random()) % 50')
        db.execute('INSERT OR REPLACE INTO filler VALUES (abs(random()) % 50, randomblob(abs(random()) % 60000))')
    if dice.random() < 0.1:
        db.execute('PRAGMA incremental_vacuum(5)').fetchall()
    db.execute('COMMIT')
    print('.', flush=True)
";

/// H2, H3, H5, H6, H9, H25: no commit is lost and none is made up, whatever is committed, rolled back, vacuumed and checkpointed meanwhile. A full that is read beside is the same to the byte.
#[tokio::test(flavor = "multi_thread")]
async fn h5_every_mark_is_a_state_beside_writers_and_checkpoints() {
    let mut scene = Scene::new(SCHEMA).await;
    let mut writers = Writers::start(WRITER, &scene.path(), 3);
    let (mut logs, mut cuts) = (std::collections::BTreeSet::new(), 0);
    let mut rounds = 0;
    while cuts < 150 || logs.len() < 10 || writers.commits() < 500 {
        rounds += 1;
        scene.tend().await;
        if rounds % 3 == 0
            && let Some(cut) = scene.cut().await
        {
            cuts += 1;
            logs.insert(cut.resume.split(" frame").next().unwrap().to_owned());
            if cuts % 10 == 0 {
                assert_eq!(asked(&scene.image, RULES), "1\nok", "{}", scene.tip.place);
            }
        }
        if rounds % 60 == 0 {
            scene.fix().await;
        }
        if rounds % 90 == 0 {
            scene.source.settle().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    writers.kill();
    // Whoever was killed in a commit is cleaned up after.
    let last = scene.sql("SELECT max(id) FROM history");
    scene.cut().await;
    assert!(scene.image == scene.expected());
    assert_eq!(asked(&scene.image, "SELECT max(id) FROM history"), last);
    assert_eq!(asked(&scene.image, RULES), "1\nok");
}
