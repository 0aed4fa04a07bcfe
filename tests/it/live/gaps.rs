//! Where commits cannot be kept any more, the application comes first (H11): its database is let go, its commits go on, and its log can begin anew. What is missing
//! then is told by name, and everything else comes back.

use std::path::{Path, PathBuf};
use std::process::Command;

use s3s::s3_error;

use super::scene::{FOLLOWING, Fresh, sql};
use super::{FAST, SOON, Scene, Store};
use crate::support::wait_for;

/// A small file system; gone when dropped.
struct Small(PathBuf);

impl Small {
    /// Mounted at `folder`; nothing where this machine does not let us.
    fn mounted(folder: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "tmpfs"]).arg(folder);
        let out = mount.output().ok()?;
        if !out.status.success() {
            println!(
                "`mount` does not do it here ({}): a small `spool_max` instead",
                String::from_utf8_lossy(&out.stderr).trim()
            );
            return None;
        }
        Some(Self(folder.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: whoever has files open there may still be about to end.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// More megabytes than there is room for.
const ENOUGH: u32 = 40;

/// Commits until there is no room for them, with a bucket that does not answer, and then until the application could empty its log.
fn let_go(scene: &mut Scene) {
    scene.store.server().fault(|_, _| Some(s3_error!(ServiceUnavailable, "injected")));
    let (database, mut commits) = (scene.database(), 0);
    wait_for("the database to be let go", SOON, || {
        // Random bytes: nothing makes them smaller.
        if commits < ENOUGH {
            sql(&database, "INSERT INTO app_notes(writer, noise) VALUES (1, randomblob(1000000))");
            commits += 1;
        }
        scene.metric(FOLLOWING).filter(|following| *following == 0.0)
    });
    println!("{commits} commits of 1 MB before it was let go; log:\n{}", scene.told());
    for _ in 0..5 {
        sql(&database, "INSERT INTO app_notes(writer, noise) VALUES (1, randomblob(1000000))");
    }
    wait_for("the log to be emptied", SOON, || {
        let said = sql(&database, "PRAGMA busy_timeout = 1000; PRAGMA wal_checkpoint(TRUNCATE)");
        said.lines().last().filter(|line| line.starts_with("0|")).map(|_| ())
    });
}

fn a_gap_is_told_and_everything_goes_on(mut scene: Scene) {
    scene.start();
    wait_for("commits to be followed", SOON, || scene.metric(FOLLOWING).filter(|following| *following > 0.0));
    for round in 0..3 {
        sql(&scene.database(), &format!("INSERT INTO app_notes(writer, body) VALUES ({round}, 'before the outage')"));
        scene.mark();
    }
    let_go(&mut scene);
    // So that the gap is one: it was emptied, and this begins it anew.
    sql(&scene.database(), "INSERT INTO app_notes(writer, body) VALUES (2, 'nobody follows this')");
    scene.store.server().heal();
    wait_for(&format!("the gap to be crossed; log:\n{}", scene.told()), SOON, || {
        (scene.store.gaps() > 0).then_some(())
    });
    for round in 0..3 {
        sql(&scene.database(), &format!("INSERT INTO app_notes(writer, body) VALUES ({round}, 'after the outage')"));
        scene.mark();
    }
    scene.the_tip_is_the_database();
    scene.all_come_back();
    refused_by_name(&scene);
}

/// An instant strictly within a gap cannot be had; the error tells both ends.
fn refused_by_name(scene: &Scene) {
    let fresh = Fresh::new(&scene.store);
    for (begin, end) in scene.store.gap_ends() {
        let within = begin.after(end.since(begin) / 2);
        let (out, to) = fresh.restore(&within.to_rfc3339());
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && !to.exists(), "{within:?} is in the gap: {said}");
        for end in [begin.to_rfc3339(), end.to_rfc3339()] {
            assert!(said.contains(&end[..19]), "it names {end}: {said}");
        }
        println!("{said}");
    }
}

#[test]
fn a_full_spool_lets_the_database_go() {
    a_gap_is_told_and_everything_goes_on(Scene::prepared(
        Store::s3(),
        &format!("{FAST}spool_max = \"16MiB\"\n"),
        4096,
        0,
    ));
}

/// The disk under the state directory is full (ENOSPC) long before the spool is.
#[test]
fn a_full_disk_lets_the_database_go() {
    let mut scene = Scene::prepared(Store::s3(), FAST, 4096, 0);
    match Small::mounted(&scene.folder().join("data/state"), "24m") {
        Some(small) => scene.mounted = Some(Box::new(small)),
        None => scene.config = scene.config.replace(FAST, &format!("{FAST}spool_max = \"16MiB\"\n")),
    }
    a_gap_is_told_and_everything_goes_on(scene);
}
