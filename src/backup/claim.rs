//! Claims: who may write which timeline.
//!
//! There is no lease and no clock in it. Whoever wants to write creates the claim of the next number, and has it for good, until somebody creates
//! the one behind it; that is looked for before each segment and once more before its manifest. So of two writers it is always the one that came
//! last who goes on, and the other one stops, says who it was, and stays stopped until somebody deletes its record.
//!
//! # What is remembered
//!
//! [`Held`], in the state directory, is written before the claim is: the same bytes are created again after a crash, and a claim that is there
//! with other bytes is somebody else's, also one in the name of this installation, which a copied machine makes. The record knows as well which
//! segment it wrote last. Where the store has another one behind it, somebody else writes on this timeline with a copy of the record, or the record is
//! older than the store: the machine was put back. Either way the database here is not the one that the newest segment is of, and a new timeline begins.
//!
//! # Stores that ignore conditions
//!
//! There, a claim's key has a random word behind the number, and whoever wants the timeline waits before it looks who else does: the one that was
//! stored first has it, the smaller word between two of one instant. It is looked again before each manifest, so that a claim which the
//! listing showed late stops the loser before it commits anything.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Place;
use super::Timeline;
use super::catalog::{Catalog, Claim, Entry};
use super::layout::{CLAIMS, FORMAT, claim_key, claimed};
use super::manifest::Sum;
use super::ship::ground::{newest_place, written};
use crate::clock::Timestamp;
use crate::object::{Listed, ObjectError, ObjectKey, ObjectStore, get_small, list_all};
use crate::schedule::{JobContext, JobError};

/// How long a claim waits for others where the store ignores conditions: longer than a listing is behind anywhere that is known.
pub const WAIT: Duration = Duration::from_secs(10);

/// The longest claim that is read.
const MOST_BYTES: u64 = 64 << 10;

/// Who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// The machine.
    pub host: String,
    /// The installation.
    pub instance: String,
}

/// What an installation remembers of the timeline that it writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Where the store is, in its own words.
    pub destination: String,
    /// The key of the claim.
    pub key: String,
    /// The claim.
    pub claim: Claim,
    /// Whether the store is known to have it.
    pub settled: bool,
    /// The newest segment that was committed.
    pub tip: Option<Tip>,
}

/// A segment, as its writer remembers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tip {
    /// Where it leads to.
    pub place: Place,
    /// The SHA-256 of its manifest.
    pub sha256: Sum,
}

impl Held {
    /// The timeline.
    pub fn timeline(&self) -> Timeline {
        self.claim.timeline
    }

    /// Whether `tip`, the newest segment of the timeline in the store, was written here.
    pub fn wrote(&self, tip: Option<&Entry>) -> bool {
        self.tip.as_ref().map(|tip| &tip.sha256) == tip.map(|tip| &tip.sha256)
    }
}

/// Somebody else has this timeline, or one behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// Which one.
    pub timeline: Timeline,
    /// Whose it is, where that can be read.
    pub by: Option<Claim>,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timeline, by } = self;
        match by {
            Some(Claim { host, instance, claimed, reason, .. }) => {
                write!(f, "`{host}` (installation `{instance}`) has claimed timeline {timeline} at {claimed}: {reason}")
            }
            None => write!(f, "somebody has claimed timeline {timeline}, in words that cannot be read"),
        }
    }
}

/// Why there is no claim.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ClaimError {
    /// Somebody else has it.
    #[error("{0}")]
    Taken(Taken),
    /// The store has lost it.
    #[error("the claim `{0}` is not in the store any more")]
    Lost(String),
    /// The store did not answer as it should.
    #[error(transparent)]
    Store(#[from] ObjectError),
    /// It was asked to stop.
    #[error("stopped")]
    Stopped,
}

impl From<JobError> for ClaimError {
    fn from(_: JobError) -> Self {
        Self::Stopped
    }
}

/// Where an installation stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// It has this timeline.
    Ours(Held),
    /// It wanted this timeline, and does not know whether it has it.
    Unsettled(Held),
    /// It has none; why, for people.
    None(String),
    /// Somebody else went on.
    Taken(Taken),
}

/// Where whoever remembers `held` stands in `catalog`, which is that of `destination`.
pub fn standing(held: Option<Held>, catalog: &Catalog, destination: &str) -> Standing {
    let Some(held) = held else { return Standing::None("a new installation, or a new state directory".to_owned()) };
    let timeline = held.timeline();
    let there = catalog.claims.get(&timeline);
    let ours = there == Some(&held.claim);
    if !ours && held.destination != destination {
        return Standing::None(format!("the destination was `{}` before", held.destination));
    }
    match catalog.highest_timeline() {
        Some(newer) if newer > timeline => {
            Standing::Taken(Taken { timeline: newer, by: catalog.claims.get(&newer).cloned() })
        }
        _ if ours && held.settled => Standing::Ours(held),
        _ if there.is_some() && !ours => Standing::Taken(Taken { timeline, by: there.cloned() }),
        _ if !held.settled => Standing::Unsettled(held),
        _ => Standing::None(format!("the store has lost the claim of {timeline}")),
    }
}

/// The claim of the next free timeline, which goes on from the newest state there is.
pub fn next(catalog: &Catalog, held: Option<&Held>, writer: &Writer, about: About) -> Claim {
    // Also where the store has forgotten it, a number that was ours is not used again.
    let used = catalog.highest_timeline().into_iter().chain(held.map(Held::timeline)).max();
    let newest = catalog.newest_timeline().and_then(|newest| {
        let own = newest_place(catalog, newest).and_then(|place| written(catalog, place));
        own.or_else(|| catalog.ancestry(newest).first().copied())
    });
    let parent = newest.or_else(|| catalog.entries.values().next_back());
    Claim {
        format: FORMAT,
        timeline: Timeline(used.map_or(1, |used| used.0 + 1)),
        parent: parent.map(|entry| entry.manifest.base()),
        host: writer.host.clone(),
        instance: writer.instance.clone(),
        identity: about.identity,
        reason: about.reason,
        claimed: about.at,
    }
}

/// What a claim says beside its number.
#[derive(Clone, Debug, PartialEq)]
pub struct About {
    /// Which file it is about ([`super::Look::identity`]).
    pub identity: String,
    /// Why, for people.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// The key under which `timeline` is claimed; a `word` where the store ignores conditions.
pub fn key(timeline: Timeline, word: Option<u32>) -> ObjectKey {
    match word {
        None => claim_key(timeline),
        Some(word) => ObjectKey::ours(format!("{CLAIMS}{timeline}-{word:08x}.json")),
    }
}

/// The claim that counts of each timeline, of all that are listed: the one stored first.
pub fn winners(listed: &[Listed]) -> BTreeMap<Timeline, &ObjectKey> {
    let mut winners: BTreeMap<Timeline, &Listed> = BTreeMap::new();
    for object in listed {
        if let Some(timeline) = claimed(&object.key) {
            let winner = winners.entry(timeline).or_insert(object);
            if (object.modified, &object.key) < (winner.modified, &winner.key) {
                *winner = object;
            }
        }
    }
    winners.into_iter().map(|(timeline, object)| (timeline, &object.key)).collect()
}

/// Creates the claim that `held` tells, or finds that it was created already.
pub async fn settle(
    store: &dyn ObjectStore,
    cx: &JobContext,
    held: &Held,
    conditional: bool,
    wait: Duration,
) -> Result<(), ClaimError> {
    let key = ObjectKey::ours(&held.key);
    let mut bytes = serde_json::to_vec_pretty(&held.claim).expect("a claim is JSON");
    bytes.push(b'\n');
    let bytes = Bytes::from(bytes);
    if conditional {
        if !create_or_same(store, &key, bytes).await? {
            return Err(ClaimError::Taken(taken(store, held.timeline(), &key).await?));
        }
    } else {
        store.put(&key, bytes).await?;
        cx.rest(wait).await?;
    }
    still_ours(store, held).await
}

/// Looks whether the claim that `held` tells is the newest one.
pub async fn still_ours(store: &dyn ObjectStore, held: &Held) -> Result<(), ClaimError> {
    let listed = list_all(store, CLAIMS).await?;
    match winners(&listed).last_key_value() {
        Some((timeline, key)) if *timeline == held.timeline() && key.as_str() == held.key => Ok(()),
        Some((timeline, key)) if *timeline >= held.timeline() => {
            Err(ClaimError::Taken(taken(store, *timeline, key).await?))
        }
        _ => Err(ClaimError::Lost(held.key.clone())),
    }
}

/// What the claim at `key` says; nothing inside where that cannot be read, nothing where there is none.
pub(super) async fn claim_of(store: &dyn ObjectStore, key: &ObjectKey) -> Result<Option<Option<Claim>>, ObjectError> {
    match get_small(store, key, MOST_BYTES).await {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).ok())),
        Err(ObjectError::Missing(_)) => Ok(None),
        Err(ObjectError::Corrupt(_)) => Ok(Some(None)),
        Err(e) => Err(e),
    }
}

async fn taken(store: &dyn ObjectStore, timeline: Timeline, key: &ObjectKey) -> Result<Taken, ObjectError> {
    let bytes = get_small(store, key, MOST_BYTES).await?;
    Ok(Taken { timeline, by: serde_json::from_slice(&bytes).ok() })
}

/// Creates a small object. Whether it has these bytes now: where there was one already, or the answer was lost, it is looked at.
pub(super) async fn create_or_same(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    bytes: Bytes,
) -> Result<bool, ObjectError> {
    let most = bytes.len() as u64;
    let failure = match store.create(key, bytes.clone()).await {
        Ok(()) => return Ok(true),
        Err(ObjectError::Exists(_)) => None,
        Err(e @ ObjectError::Transient(_)) => Some(e),
        Err(e) => return Err(e),
    };
    match (get_small(store, key, most).await, failure) {
        (Ok(there), _) => Ok(there == bytes),
        // Another length is another object.
        (Err(ObjectError::Corrupt(_)), None) => Ok(false),
        (Err(_), Some(failure)) => Err(failure),
        (Err(e), None) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(timeline: u32, instance: &str) -> Claim {
        Claim {
            format: FORMAT,
            timeline: Timeline(timeline),
            parent: None,
            host: "h".to_owned(),
            instance: instance.to_owned(),
            identity: "1:2".to_owned(),
            reason: "a test".to_owned(),
            claimed: Timestamp::from_millis(0),
        }
    }

    fn held(timeline: u32, settled: bool) -> Held {
        let key = key(Timeline(timeline), None).to_string();
        Held { destination: "here".to_owned(), key, claim: claim(timeline, "me"), settled, tip: None }
    }

    fn catalog(claims: &[Claim]) -> Catalog {
        Catalog { claims: claims.iter().map(|claim| (claim.timeline, claim.clone())).collect(), ..Catalog::default() }
    }

    #[test]
    fn a_claim_is_ours_until_somebody_claims_the_next_h29() {
        let mine = catalog(&[claim(1, "me")]);
        assert_eq!(standing(Some(held(1, true)), &mine, "here"), Standing::Ours(held(1, true)));
        assert_eq!(standing(Some(held(1, false)), &mine, "here"), Standing::Unsettled(held(1, false)));
        assert!(matches!(standing(Some(held(1, true)), &mine, "by another name"), Standing::Ours(_)));
        let theirs = catalog(&[claim(1, "me"), claim(2, "them")]);
        let Standing::Taken(taken) = standing(Some(held(1, true)), &theirs, "here") else { panic!("not taken") };
        assert!(taken.to_string().contains("installation `them`"), "{taken}");
        assert!(matches!(standing(Some(held(2, true)), &theirs, "here"), Standing::Taken(_)), "the same number");
        assert!(matches!(standing(Some(held(2, false)), &theirs, "here"), Standing::Taken(_)), "a race that was lost");
    }

    #[test]
    fn who_has_no_claim_begins_a_timeline() {
        let theirs = catalog(&[claim(1, "them"), claim(2, "them")]);
        assert!(matches!(standing(None, &theirs, "here"), Standing::None(_)));
        assert!(matches!(standing(Some(held(1, true)), &theirs, "elsewhere"), Standing::None(_)));
        assert!(matches!(standing(Some(held(3, true)), &theirs, "here"), Standing::None(_)), "lost by the store");
        let about = || About { identity: String::new(), reason: String::new(), at: Timestamp::from_millis(0) };
        let writer = Writer { host: "h".to_owned(), instance: "me".to_owned() };
        assert_eq!(next(&theirs, None, &writer, about()).timeline, Timeline(3));
        assert_eq!(next(&theirs, Some(&held(7, true)), &writer, about()).timeline, Timeline(8), "never used again");
        assert_eq!(next(&Catalog::default(), None, &writer, about()).timeline, Timeline(1));
    }

    #[test]
    fn an_unreadable_claim_is_one_all_the_same() {
        let mut broken = catalog(&[claim(1, "me")]);
        broken.unreadable.push((claim_key(Timeline(2)), "no claim".to_owned()));
        let Standing::Taken(taken) = standing(Some(held(1, true)), &broken, "here") else { panic!("not taken") };
        assert_eq!(taken, Taken { timeline: Timeline(2), by: None });
    }

    #[test]
    fn of_several_claims_the_one_stored_first_counts() {
        let listed = |timeline, word, modified| Listed {
            key: key(Timeline(timeline), Some(word)),
            bytes: 1,
            modified: Timestamp::from_millis(modified),
        };
        let all = [listed(1, 1, 20), listed(1, 2, 10), listed(2, 8, 5), listed(2, 7, 5)];
        let winners = winners(&all);
        assert_eq!(winners[&Timeline(1)], &all[1].key);
        assert_eq!(winners[&Timeline(2)], &all[3].key, "of two of one instant, the smaller word");
    }
}
