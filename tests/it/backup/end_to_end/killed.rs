//! `kill -9` of the program at each request by which a backup changes something at its destination: before the store heard of it, and after the store did it.
//! The next start goes on, and what can be restored is what was committed.

use super::*;
use crate::support::proxy::{Fault, Proxy, Request};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A machine whose way to the bucket goes through a proxy.
struct Scene {
    machine: TempDir,
    store: Store,
    proxy: Proxy,
}

impl Scene {
    fn new() -> Self {
        let (machine, server) = (tempfile::tempdir().unwrap(), S3Server::start());
        let proxy = Proxy::start(&server.endpoint);
        let section = s3_section(&server, &proxy.endpoint, machine.path());
        let store = Store::S3(server);
        let config =
            format!("[backup]\ndestination = \"{}\"\n{section}[backup.sqlite]\ninterval = \"\"\n", store.url());
        std::fs::write(machine.path().join("sidecar.toml"), config).unwrap();
        let scene = Self { machine, store, proxy };
        must(scene.folder(), &["migrate"]);
        scene
    }

    fn folder(&self) -> &Path {
        self.machine.path()
    }

    fn database(&self) -> PathBuf {
        self.folder().join("data/atlas.db")
    }

    /// A commit of the application.
    fn commit(&self, note: &str) {
        let insert = format!(
            "INSERT INTO processing_queue(id, content_id, status, priority) VALUES('{note}', 'c', 'pending', 1)"
        );
        sql(&self.database(), &insert);
    }

    /// Runs `args` until it asks for the change of this `number` (from 0), and kills it there; whether it came so far.
    fn kills(&self, args: &[&str], number: usize, fault: Fault) -> bool {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        self.proxy.rule(move |request| {
            let this = changes(request).then(|| counted.fetch_add(1, Ordering::SeqCst));
            (this == Some(number)).then_some(fault)
        });
        let mut child = Command::new(SIDECAR)
            .args(["--config", "sidecar.toml"])
            .args(args)
            .current_dir(self.folder())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let ended = wait_for("the change, or the end", SOON, || match child.try_wait().unwrap() {
            Some(status) => Some(Some(status)),
            // With `Withhold` the store does it a moment later than it is counted; the kill is then a little early, which is as good.
            None => (asked.load(Ordering::SeqCst) > number).then_some(None),
        });
        let Some(status) = ended else {
            child.kill().unwrap();
            child.wait().unwrap();
            return true;
        };
        assert!(status.success(), "{args:?} ended before change {number}, with {status}");
        false
    }

    /// The next start: it goes on without help.
    fn goes_on(&self, told: &str) {
        self.proxy.rule(|_| None);
        must(self.folder(), &["backup", "incremental"]);
        let out = sidecar(self.folder(), &["--config", "sidecar.toml", "backup", "verify", "--deep"]);
        assert_eq!(out.status.code(), Some(0), "{told}: {}{}", text(&out.stdout), text(&out.stderr));
        let newest = self.folder().join("newest.db");
        must(self.folder(), &["restore", "--at", "latest", "--to", "newest.db"]);
        let ids = "SELECT id FROM processing_queue ORDER BY rowid";
        assert_eq!(sql(&newest, ids), sql(&self.database(), ids), "{told}");
        std::fs::remove_file(newest).unwrap();
    }
}

/// Whether a request changes something at the store.
fn changes(request: &Request) -> bool {
    ["PUT", "POST", "DELETE"].contains(&request.method.as_str())
}

fn killed_at_each_change(kind: &str) {
    let scene = Scene::new();
    let mut rounds = 0;
    for fault in [Fault::Hang, Fault::Withhold] {
        for number in 0.. {
            let told = format!("{kind}: {fault:?} at change {number}");
            scene.commit(&told);
            // Without a state directory, as after a first start: the first full changes the most.
            if kind == "full" && number % 3 == 2 {
                let _ = std::fs::remove_dir_all(scene.folder().join("data/state/backup"));
            }
            let killed = scene.kills(&["backup", kind], number, fault);
            if !killed {
                break;
            }
            rounds += 1;
            scene.commit(&format!("after {told}"));
            scene.goes_on(&told);
        }
    }
    assert!(rounds >= 6, "there were {rounds} changes only");
    // Not only the newest state, and not only by our command.
    let fresh = FreshMachine::new(&scene.store, None);
    let marks = fresh.marks();
    assert!(marks.len() >= rounds / 2);
    let mut later = committed(&scene.database());
    for mark in marks.iter().rev().step_by(5) {
        let count = committed(&fresh.restored(mark));
        assert!(count <= later, "{count} before {later}");
        later = count;
    }
}

#[test]
fn a_full_that_is_killed_at_any_change_leaves_the_old_state_or_the_new_one() {
    killed_at_each_change("full");
}

#[test]
fn an_increment_that_is_killed_at_any_change_leaves_the_old_state_or_the_new_one() {
    killed_at_each_change("incremental");
}
