//! Patience with stores that are made for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atlas_sidecar::object::patient::{Metrics, Patient};
use atlas_sidecar::object::{Download, ObjectError, ObjectKey, ObjectStore, Page, Part, Upload};
use atlas_sidecar::task::Pending;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use prometheus::Registry;

use super::contract::read;
use super::{QUICK, key};

/// Deletes slowly, and notes how many do at once.
pub struct Slow {
    pub now: Arc<AtomicUsize>,
    pub most: Arc<AtomicUsize>,
}

/// What a store of a test does not do.
fn no<'a, T>() -> Pending<'a, Result<T, ObjectError>> {
    Box::pin(async { Err(ObjectError::Denied("not in this test".to_owned())) })
}

macro_rules! the_rest_is_refused {
    () => {
        fn place(&self) -> String {
            "test:".to_owned()
        }
        fn put<'a>(&'a self, _: &'a ObjectKey, _: Bytes) -> Pending<'a, Result<(), ObjectError>> {
            no()
        }
        fn create<'a>(&'a self, _: &'a ObjectKey, _: Bytes) -> Pending<'a, Result<(), ObjectError>> {
            no()
        }
        fn create_noted<'a>(&'a self, _: &'a ObjectKey, _: Bytes, _: &'a str) -> Pending<'a, Result<(), ObjectError>> {
            no()
        }
        fn upload<'a>(&'a self, _: &'a ObjectKey) -> Pending<'a, Result<Box<dyn Upload>, ObjectError>> {
            no()
        }
        fn list<'a>(&'a self, _: &'a str, _: Option<&'a str>) -> Pending<'a, Result<Page, ObjectError>> {
            no()
        }
    };
}

impl ObjectStore for Slow {
    the_rest_is_refused!();

    fn get<'a>(&'a self, _: &'a ObjectKey, _: Part) -> Pending<'a, Result<Download, ObjectError>> {
        no()
    }

    fn delete<'a>(&'a self, _: &'a ObjectKey) -> Pending<'a, Result<(), ObjectError>> {
        Box::pin(async {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            self.now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        })
    }
}

/// Gives ten bytes in some way, whatever it is asked for.
struct Strange {
    asked: AtomicUsize,
    version: Option<String>,
    chunks: fn(usize) -> Vec<Result<Bytes, ObjectError>>,
}

impl ObjectStore for Strange {
    the_rest_is_refused!();

    fn get<'a>(&'a self, _: &'a ObjectKey, _: Part) -> Pending<'a, Result<Download, ObjectError>> {
        Box::pin(async {
            let chunks = (self.chunks)(self.asked.fetch_add(1, Ordering::SeqCst));
            Ok(Download { bytes: 10, version: self.version.clone(), note: None, body: stream::iter(chunks).boxed() })
        })
    }

    fn delete<'a>(&'a self, _: &'a ObjectKey) -> Pending<'a, Result<(), ObjectError>> {
        no()
    }
}

fn broken() -> Result<Bytes, ObjectError> {
    Err(ObjectError::Transient("broke".to_owned()))
}

async fn download(
    version: Option<&str>,
    chunks: fn(usize) -> Vec<Result<Bytes, ObjectError>>,
) -> (Result<Vec<u8>, ObjectError>, usize) {
    let strange = Arc::new(Strange { asked: AtomicUsize::new(0), version: version.map(str::to_owned), chunks });
    let store = Patient::new(Arc::clone(&strange) as _, QUICK, Metrics::new(&Registry::new()));
    let download = store.get(&key("k"), Part::default()).await.unwrap();
    (read(download).await, strange.asked.load(Ordering::SeqCst))
}

#[tokio::test]
async fn without_a_version_a_download_that_breaks_is_over() {
    let half = |_| vec![Ok(Bytes::from_static(b"01234")), broken()];
    assert!(
        matches!(download(None, half).await, (Err(ObjectError::Transient(words)), 1) if words == "`k` at byte 5: broke")
    );
    assert_eq!(download(Some("v"), half).await, (Ok(b"0123401234".to_vec()), 2));
}

#[tokio::test]
async fn a_body_of_another_length_is_noticed() {
    let short = |_| vec![Ok(Bytes::from_static(b"01234"))];
    assert_eq!(download(Some("v"), short).await, (Ok(b"0123401234".to_vec()), 2));
    let long = |_| vec![Ok(Bytes::from_static(b"0123456789x"))];
    assert!(
        matches!(download(Some("v"), long).await, (Err(ObjectError::Corrupt(words)), 1) if words.contains("more bytes"))
    );
}

#[tokio::test]
async fn what_is_damaged_is_not_asked_for_again() {
    let damaged = |_| vec![Err(ObjectError::Corrupt("shorter".to_owned()))];
    assert!(matches!(download(Some("v"), damaged).await, (Err(ObjectError::Corrupt(_)), 1)));
}
