//! Restores that end before their end: killed, stopped, given up; and objects that are gone in between.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use atlas_sidecar::backup::plan::Moment;
use atlas_sidecar::backup::restore::{OrderError, RestoreError};
use atlas_sidecar::object::{Download, ObjectError, ObjectKey, ObjectStore, Page, Part, Upload};
use atlas_sidecar::task::Pending;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{claim, left_in, restore, small, store};
use crate::backup::rebuild::made::{Destination, images};
use crate::support::SIDECAR;

/// Large enough to be caught in the middle.
fn large(folder: &Path) -> Destination {
    let mut made = Destination::new(folder.join("backups"));
    let grow = "CREATE TABLE t(b); WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 48) INSERT INTO t SELECT randomblob(1000000) FROM n";
    made.full(images(folder, 4096, 0, &[grow]).remove(0));
    claim(&made, 1, None);
    made
}

fn begin(folder: &Path) -> Child {
    Command::new(SIDECAR)
        .args(["restore", "--destination", "file:backups", "--at", "latest", "--to", "new.db"])
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Begins restores until one is caught after its file was begun, and gives it a signal there. A machine may be too fast for the first try.
fn caught(folder: &Path, signal: &str) -> Option<i32> {
    let (file, to) = (folder.join(".new.db.restoring/database"), folder.join("new.db"));
    for _ in 0..50 {
        let mut child = begin(folder);
        while !file.exists() && child.try_wait().unwrap().is_none() {
            std::hint::spin_loop();
        }
        let id = child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &id]).output().unwrap().status.success());
        let status = child.wait().unwrap();
        if !to.exists() {
            assert!(!status.success());
            return status.code();
        }
        std::fs::remove_file(&to).unwrap();
        let _ = std::fs::remove_dir_all(folder.join(".new.db.restoring"));
    }
    panic!("no restore was slow enough to be caught");
}

/// R-15 in spirit: whatever a kill leaves, there is no target, and the next restore neither trips over it nor leaves it.
#[test]
fn kill_9_leaves_no_target_and_the_next_restore_works() {
    let folder = tempfile::tempdir().unwrap();
    let made = large(folder.path());
    assert_eq!(caught(folder.path(), "KILL"), None);
    assert_eq!(left_in(folder.path()), [".new.db.restoring"]);
    assert!(begin(folder.path()).wait().unwrap().success());
    assert_eq!(left_in(folder.path()), ["new.db"]);
    assert!(std::fs::read(folder.path().join("new.db")).unwrap() == made.marks[0].image);
}

#[test]
fn sigterm_and_ctrl_c_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    large(folder.path());
    for signal in ["TERM", "INT"] {
        assert_eq!(caught(folder.path(), signal), Some(1), "{signal}");
        assert_eq!(left_in(folder.path()), [""; 0], "{signal}");
    }
}

/// A store in which one kind of request goes wrong.
struct Hindered {
    inner: Arc<dyn ObjectStore>,
    how: How,
    fetched: AtomicUsize,
    listed: AtomicUsize,
}

/// What goes wrong.
enum How {
    /// The bytes of databases stop coming after the first piece.
    Stalled,
    /// The first so many requests for an object of a database find nothing.
    Gone(usize),
    /// The bytes end too early, with an error.
    Broken,
}

impl Hindered {
    fn new(inner: Arc<dyn ObjectStore>, how: How) -> Arc<Self> {
        Arc::new(Self { inner, how, fetched: AtomicUsize::new(0), listed: AtomicUsize::new(0) })
    }

    async fn fetch(&self, key: &ObjectKey, part: Part) -> Result<Download, ObjectError> {
        let mut download = self.inner.get(key, part).await?;
        if !key.as_str().contains(".db.") {
            return Ok(download);
        }
        let nth = self.fetched.fetch_add(1, Ordering::SeqCst);
        match self.how {
            How::Gone(first) if nth < first => return Err(ObjectError::Missing(key.to_string())),
            How::Gone(_) => {}
            How::Stalled => {
                download.body = download.body.take(1).map(half).chain(stream::pending()).boxed();
            }
            How::Broken => {
                let error = ObjectError::Transient("the connection was reset".to_owned());
                download.body = download.body.take(1).map(half).chain(stream::iter([Err(error)])).boxed();
            }
        }
        Ok(download)
    }
}

fn half(piece: Result<Bytes, ObjectError>) -> Result<Bytes, ObjectError> {
    piece.map(|bytes| bytes.slice(..bytes.len() / 2))
}

impl ObjectStore for Hindered {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Result<(), ObjectError>> {
        self.inner.put(key, bytes)
    }

    fn create<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Result<(), ObjectError>> {
        self.inner.create(key, bytes)
    }

    fn create_noted<'a>(
        &'a self,
        key: &'a ObjectKey,
        bytes: Bytes,
        note: &'a str,
    ) -> Pending<'a, Result<(), ObjectError>> {
        self.inner.create_noted(key, bytes, note)
    }

    fn upload<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<Box<dyn Upload>, ObjectError>> {
        self.inner.upload(key)
    }

    fn get<'a>(&'a self, key: &'a ObjectKey, part: Part) -> Pending<'a, Result<Download, ObjectError>> {
        Box::pin(self.fetch(key, part))
    }

    fn list<'a>(&'a self, prefix: &'a str, from: Option<&'a str>) -> Pending<'a, Result<Page, ObjectError>> {
        self.listed.fetch_add(1, Ordering::SeqCst);
        self.inner.list(prefix, from)
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<(), ObjectError>> {
        self.inner.delete(key)
    }
}

#[tokio::test]
async fn a_restore_that_is_given_up_leaves_nothing_and_keeps_others_off_while_it_lasts() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    let to = folder.path().join("new.db");
    let stalled: Arc<dyn ObjectStore> = Hindered::new(store(&made), How::Stalled);
    let mut first = Box::pin(restore(&stalled, Moment::Latest, &to, None));
    let begun = folder.path().join(".new.db.restoring/database");
    while !begun.exists() {
        let soon = tokio::time::timeout(Duration::from_millis(20), &mut first).await;
        assert!(soon.is_err(), "it cannot end: {soon:?}");
    }
    let second = restore(&store(&made), Moment::Latest, &to, None).await.unwrap_err();
    assert!(matches!(second, OrderError::Restore(RestoreError::Busy(_))), "{second}");
    drop(first);
    assert_eq!(left_in(folder.path()), [""; 0]);
    // The first builder's thread may still be there: it neither holds the target nor sweeps what is not its own.
    restore(&store(&made), Moment::Latest, &to, None).await.unwrap();
    assert!(std::fs::read(&to).unwrap() == made.marks[5].image);
}

#[tokio::test]
async fn a_download_that_breaks_is_the_stores_failure() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    let broken: Arc<dyn ObjectStore> = Hindered::new(store(&made), How::Broken);
    let error = restore(&broken, Moment::Latest, &folder.path().join("new.db"), None).await.unwrap_err();
    assert!(
        matches!(&error, OrderError::Restore(RestoreError::Fetch { error: ObjectError::Transient(_), .. })),
        "{error}"
    );
    assert_eq!(left_in(folder.path()), [""; 0]);
}

/// H32: retention took an object between the plan and the download.
#[tokio::test]
async fn h32_an_object_that_is_gone_is_planned_around_once() {
    let folder = tempfile::tempdir().unwrap();
    let made = small(folder.path());
    let to = folder.path().join("new.db");
    let once = Hindered::new(store(&made), How::Gone(1));
    let asked: Arc<dyn ObjectStore> = once.clone();
    restore(&asked, Moment::Latest, &to, None).await.unwrap();
    assert_eq!(once.listed.load(Ordering::SeqCst), 2, "planned twice");
    assert!(std::fs::read(&to).unwrap() == made.marks[5].image);
    std::fs::remove_file(&to).unwrap();

    let always = Hindered::new(store(&made), How::Gone(usize::MAX));
    let asked: Arc<dyn ObjectStore> = always.clone();
    let error = restore(&asked, Moment::Latest, &to, None).await.unwrap_err();
    let key = &made.marks[3].manifest.object.as_ref().unwrap().key;
    assert_eq!(error.to_string(), format!("`{key}` is not there any more"));
    assert_eq!(always.listed.load(Ordering::SeqCst), 2, "and not a third time");
    assert_eq!(left_in(folder.path()), [""; 0]);
}
