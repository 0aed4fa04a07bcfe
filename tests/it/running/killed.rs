//! `kill -9` during the first start: whatever it leaves, the next start works and leaves nothing lying about.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::{QUICK, count, sql};
use crate::support::{Sidecar, run};

const RECORDS: &str = "SELECT count(*) FROM sidecar_migrations";

/// The start that comes after: it works, the database is whole and in WAL mode, and the key in the file is the one in the table.
fn the_next_start_works(folder: &Path, told: &str) {
    let sidecar = Sidecar::start(folder, QUICK);
    assert_eq!(sidecar.stop(), 0, "{told}");
    let database = folder.join("data/atlas.db");
    assert_eq!(sql(&database, "PRAGMA integrity_check; PRAGMA journal_mode"), "ok\nwal", "{told}");
    let mut files: BTreeSet<String> = std::fs::read_dir(folder.join("data/state"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        // The first backup is made soon after the start, or has begun.
        .filter(|name| name != "backup")
        .collect();
    // There if the first backup came before the end.
    files.remove("backup");
    let wanted = ["admin-key", "instance", "lock"].map(str::to_owned);
    assert_eq!(files, BTreeSet::from(wanted), "{told}: stray files");
    let key = folder.join("data/state/admin-key");
    let sum = run("sh", &["-c", &format!("tr -d '\\n' < '{}' | sha256sum | cut -d' ' -f1", key.display())]);
    assert_eq!(sql(&database, "SELECT key_hash FROM api_keys"), sum.trim(), "{told}");
    assert_eq!(count(&database, RECORDS), 6, "{told}");
}

/// Twenty moments from before the first line of the program to some time after its last step, the closer together the earlier; what each meets
/// depends on the machine.
#[test]
fn a_first_start_killed_at_any_moment_is_made_good_by_the_next() {
    let mut half_way = 0;
    for round in 0..20 {
        let scratch = tempfile::tempdir().unwrap();
        let mut sidecar = Sidecar::launch::<&str>(scratch.path(), QUICK, &[]);
        // Not a wait for something: the moment of the kill is what the test is about.
        let moment = Duration::from_micros(round * round * 750);
        std::thread::sleep(moment);
        sidecar.child.kill().unwrap();
        sidecar.child.wait().unwrap();
        let state = scratch.path().join("data/state");
        half_way += usize::from(state.exists() && !state.join("instance").exists());
        the_next_start_works(scratch.path(), &format!("killed after {moment:?}"));
    }
    println!("{half_way} of 20 were killed between the first file and the last");
}

/// The states that lie between two system calls, and those that a power cut adds: made by hand, because no kill meets them reliably.
#[test]
fn every_state_in_between_is_made_good() {
    for (told, leave) in STATES {
        let scratch = tempfile::tempdir().unwrap();
        let sidecar = Sidecar::start(scratch.path(), QUICK);
        assert_eq!(sidecar.stop(), 0);
        let (data, key) = (scratch.path().join("data"), scratch.path().join("data/state/admin-key"));
        let before = std::fs::read(&key).unwrap();
        leave(&data);
        let kept = key.exists();
        the_next_start_works(scratch.path(), told);
        // A key that somebody may have taken from the file already must not change behind their back.
        assert_eq!(std::fs::read(&key).unwrap() == before, kept, "{told}");
    }
}

type State = (&'static str, fn(&Path));

const STATES: &[State] = &[
    ("the file was opened, nothing is in it", |data| {
        forget_the_database(data);
        std::fs::remove_file(data.join("state/admin-key")).unwrap();
        std::fs::write(data.join("atlas.db"), "").unwrap();
    }),
    ("half of the key was written", |data| {
        forget_the_database(data);
        let state = data.join("state");
        std::fs::remove_file(state.join("admin-key")).unwrap();
        std::fs::write(state.join("admin-key.tmp"), "atlas_0123").unwrap();
    }),
    ("the key has its name and its draft", |data| {
        forget_the_database(data);
        let state = data.join("state");
        std::fs::hard_link(state.join("admin-key"), state.join("admin-key.tmp")).unwrap();
    }),
    ("the key is there, its row did not commit, or was lost with the power", forget_the_database),
    ("the number of the installation was being written", |data| {
        let state = data.join("state");
        std::fs::remove_file(state.join("instance")).unwrap();
        std::fs::write(state.join("instance.tmp"), "0123").unwrap();
    }),
];

fn forget_the_database(data: &Path) {
    for file in ["atlas.db", "atlas.db-wal", "atlas.db-shm"] {
        let _ = std::fs::remove_file(data.join(file));
    }
}
