//! Takes away what a fine segment covers.
//!
//! Not what the catalog says counts here but a new listing: the fine segment's object and its index must be there, as long as its manifest says, when its sources go. How old it is, two of the store's own
//! times tell: when its manifest was stored, and when the newest object was. No clock of a machine has a say in it (T-5), and where nothing is written any more, nothing is swept.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tracing::info;

use super::super::Manifest;
use super::super::layout::{fold_key, heartbeat_of, live_place};
use super::waiting::{Covering, fines};
use super::{Fold, FoldError, Swept};
use crate::object::{Listed, ObjectError, list_all};
use crate::schedule::JobContext;

/// How long after a fine segment was committed its sources go: a restore that was planned before may be reading them.
const GRACE: Duration = Duration::from_secs(2 * 3600);

/// How many heartbeats stay: the newest, and the one that a reader may have in its listing.
const HEARTBEATS: usize = 2;

/// The most objects that one run deletes: an hour's at ten a second. What is beyond waits for the next run.
const MOST: usize = 40_000;

/// Objects deleted at a time.
const AT_A_TIME: usize = 4;

impl Fold<'_> {
    /// Deletes live segments that a fine one has covered for two hours, and heartbeats but the newest two. Where the store does not let us, that is told and no failure.
    pub async fn sweep(&self, cx: &JobContext) -> Result<Swept, FoldError> {
        let listed = list_all(self.store.as_ref(), &format!("{}/", self.timeline)).await?;
        let covering: Vec<&Manifest> = fines(self.catalog, self.timeline).map(|entry| &entry.manifest).collect();
        let doomed = doomed(&listed, covering);
        let mut swept = Swept { left: doomed.len() as u64, ..Swept::default() };
        let mut deleting = stream::iter(doomed.into_iter().take(MOST).cloned())
            .map(|object| async move {
                // Between two deletions: what has begun is not broken off.
                cx.check()?;
                let deleted = self.store.delete(&object.key).await;
                Ok::<_, FoldError>((object, deleted))
            })
            .buffer_unordered(AT_A_TIME)
            .boxed();
        while let Some(done) = deleting.next().await {
            let (object, deleted) = done?;
            match deleted {
                Ok(()) | Err(ObjectError::Missing(_)) => swept.add(&object),
                Err(ObjectError::Denied(why)) => {
                    info!(
                        left = swept.left,
                        why, "what was folded stays beside what it was folded into: the store does not let us delete"
                    );
                    swept.refused = Some(why);
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(swept)
    }
}

impl Swept {
    fn add(&mut self, object: &Listed) {
        self.left -= 1;
        self.bytes += object.bytes;
        match heartbeat_of(&object.key) {
            Some(_) => self.heartbeats += 1,
            None => self.live += 1,
        }
    }
}

/// What of `listed` may go, with `covering` the fine segments there are, in the order of their ends.
fn doomed<'a>(listed: &'a [Listed], covering: Vec<&Manifest>) -> Vec<&'a Listed> {
    let there: BTreeMap<&str, &Listed> = listed.iter().map(|object| (object.key.as_str(), object)).collect();
    let Some(now) = listed.iter().map(|object| object.modified).max() else { return Vec::new() };
    let ripe = covering.into_iter().filter(|fine| {
        let whole = fine.objects().all(|o| there.get(o.key.as_str()).is_some_and(|l| l.bytes == o.stored.bytes));
        let key = fold_key(fine.place(), fine.kind);
        whole && there.get(key.as_str()).is_some_and(|manifest| now.since(manifest.modified) >= GRACE)
    });
    let ripe = Covering(ripe.collect());
    let live = listed.iter().filter(|object| live_place(&object.key).is_some_and(|place| ripe.covers(place.position)));
    // In the order of keys, which is that of time.
    let heartbeats: Vec<&Listed> = listed.iter().filter(|object| heartbeat_of(&object.key).is_some()).collect();
    let old = heartbeats.len().saturating_sub(HEARTBEATS);
    live.chain(heartbeats.into_iter().take(old)).collect()
}
