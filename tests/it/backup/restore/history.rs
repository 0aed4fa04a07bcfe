//! Histories of a database whose commits were followed, as sidecars would leave them in a bucket: fulls, increments with gaps and without, live segments, what was folded of
//! them, heartbeats, timelines. Whoever made one knows each state that there was, to the byte.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use atlas_sidecar::backup::catalog::{Claim, Heartbeat};
use atlas_sidecar::backup::index::Line;
use atlas_sidecar::backup::layout::{FORMAT, claim_key, fold_key, heartbeat_key, live_key, manifest_key, object_key};
use atlas_sidecar::backup::manifest::{Codec, Content, Object, Sum};
use atlas_sidecar::backup::{Digest, Kind, Manifest, Place, Position, Soundness, Timeline};
use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::engine::sqlite::wal::WalWriter;

use crate::backup::rebuild::made::{digest, feed, gzip};
use crate::support::memory_store::MemoryStore;

const PAGE: usize = 512;

/// Numbers, and what stands in these pages.
type Pages = Vec<(u32, Vec<u8>)>;

/// A state that there was.
#[derive(Clone)]
pub struct Seen {
    pub place: Place,
    pub observed: Timestamp,
    pub image: Vec<u8>,
    /// Commits before it could not be followed since then.
    pub gap_from: Option<Timestamp>,
    /// Of the manifest or the note that tells of it.
    sum: Option<Sum>,
}

/// A live segment, and the pages in it.
#[derive(Clone)]
struct Live {
    manifest: Manifest,
    frames: Pages,
}

/// A bucket, and the database that is backed up there.
pub struct History {
    pub store: Arc<MemoryStore>,
    /// Who can read it; everybody where nothing is said.
    pub recipient: Option<String>,
    /// All states, in the order in which they were.
    pub seen: Vec<Seen>,
    pub claims: Vec<Claim>,
    live: BTreeMap<Place, Live>,
    /// The newest fold of each kind.
    folds: BTreeMap<Kind, Manifest>,
    image: Vec<u8>,
    now: i64,
    /// What `previous` is of the next manifest.
    previous: Option<Sum>,
    random: u64,
}

impl History {
    pub fn new(seed: u64) -> Self {
        let mut history = Self {
            store: MemoryStore::new(),
            recipient: None,
            seen: Vec::new(),
            claims: Vec::new(),
            live: BTreeMap::new(),
            folds: BTreeMap::new(),
            image: image(&[1, 2, 3, 4]),
            now: 1_795_392_000_000,
            previous: None,
            random: seed * 2 + 1,
        };
        history.store.set("format", "{\"format\":1}");
        history.claim(None);
        history
    }

    pub fn random(&mut self, below: u64) -> u64 {
        // Marsaglia's xorshift.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % below
    }

    pub fn timeline(&self) -> Timeline {
        self.claims.last().unwrap().timeline
    }

    fn claim(&mut self, parent: Option<usize>) {
        let timeline = Timeline(u32::try_from(self.claims.len() + 1).unwrap());
        let parent = parent.map(|index| &self.seen[index]);
        let claim = Claim {
            format: FORMAT,
            timeline,
            parent: parent.map(|seen| atlas_sidecar::backup::Base { place: seen.place, digest: digest(&seen.image) }),
            host: "h".to_owned(),
            instance: "i".to_owned(),
            identity: "1:2".to_owned(),
            reason: "a test".to_owned(),
            claimed: Timestamp::from_millis(self.now),
        };
        self.store.set(claim_key(timeline).as_str(), serde_json::to_vec(&claim).unwrap());
        self.claims.push(claim);
    }

    /// Another installation goes on from a state that there was.
    pub fn switch(&mut self, from: usize) {
        self.claim(Some(from));
        self.image = self.seen[from].image.clone();
        self.folds.clear();
        self.previous = self.seen[from].sum.clone();
        self.full();
    }

    /// Whether the newest state is one of the newest timeline: a full comes first there.
    fn place(&self) -> Place {
        let last = self.seen.last().map_or(0, |seen| seen.place.position.0);
        Place { timeline: self.timeline(), position: Position(last + 1) }
    }

    fn last(&self) -> &Seen {
        self.seen.last().unwrap()
    }

    /// Changes some pages, and perhaps the size; which pages a log of it has.
    fn change(&mut self) -> Pages {
        let before = self.image.clone();
        let pages = before.len() / PAGE;
        let wanted = match self.random(4) {
            0 => pages + self.random(4) as usize,
            1 => (pages - self.random(3).min(pages as u64 - 2) as usize).max(2),
            _ => pages,
        };
        self.image.resize(wanted * PAGE, 0);
        for _ in 0..1 + self.random(3) {
            let (page, byte) = (1 + self.random(wanted as u64 - 1) as usize, self.random(256) as u8);
            self.image[page * PAGE..][..PAGE].fill(byte);
        }
        // A counter, as a database's header has one: no two states are the same.
        let counter = self.seen.len() as u32 + 1;
        self.image[24..28].copy_from_slice(&counter.to_be_bytes());
        changed(&before, &self.image)
    }

    fn tick(&mut self) -> Timestamp {
        self.now += 1 + self.random(40) as i64;
        Timestamp::from_millis(self.now)
    }

    fn see(&mut self, place: Place, observed: Timestamp, gap_from: Option<Timestamp>) {
        self.seen.push(Seen { place, observed, image: self.image.clone(), gap_from, sum: self.previous.clone() });
    }

    fn manifest(
        &self,
        place: Place,
        kind: Kind,
        from: Option<Position>,
        observed: Timestamp,
        image: &[u8],
    ) -> Manifest {
        let before = from.map(|from| self.seen.iter().rfind(|seen| seen.place.position == from).unwrap());
        Manifest {
            format: FORMAT,
            engine: "sqlite".to_owned(),
            database: "atlas.db".to_owned(),
            kind,
            timeline: place.timeline,
            from,
            to: place.position,
            observed,
            object: None,
            page_size: PAGE as u32,
            pages: (image.len() / PAGE) as u32,
            sent_pages: (image.len() / PAGE) as u32,
            digest_before: before.map(|before| digest(&before.image)),
            digest_after: digest(image),
            previous: self.previous.clone(),
            soundness: (kind == Kind::Full).then_some(Soundness::Sound),
            tables: BTreeMap::new(),
            engine_version: "3.51.3".to_owned(),
            sidecar_version: "0.1.0".to_owned(),
            gap_from: None,
            first_observed: None,
            index: None,
        }
    }

    fn form(&self) -> &'static str {
        if self.recipient.is_some() { "gz.age" } else { "gz" }
    }

    /// As it is stored: `packed`, encrypted where that is wanted.
    fn seal(&self, packed: Vec<u8>) -> Vec<u8> {
        match &self.recipient {
            Some(recipient) => feed(Command::new("age").args(["-r", recipient]), &packed),
            None => packed,
        }
    }

    fn object(&self, key: &str, packed: Vec<u8>, plain: &[u8]) -> (Object, Vec<u8>) {
        let stored = self.seal(packed);
        let object = Object {
            key: key.to_owned(),
            stored: content(&stored),
            plain: content(plain),
            codec: Codec::Gzip,
            encrypted: self.recipient.is_some(),
        };
        (object, stored)
    }

    /// Stores a segment's object and manifest.
    fn put(&mut self, mut manifest: Manifest, plain: &[u8]) {
        let (kind, place) = (manifest.kind, manifest.place());
        let word = self.random(1 << 32) as u32;
        let key = object_key(place, kind, manifest.from, manifest.observed, word, self.form());
        let (object, stored) = self.object(key.as_str(), gzip(plain), plain);
        self.store.set(key.as_str(), stored);
        manifest.object = Some(object);
        let bytes = manifest.to_bytes();
        self.previous = Some(Sum::of(&bytes));
        self.store.set(manifest_key(place).as_str(), bytes);
    }

    /// A full, of a state of its own.
    pub fn full(&mut self) {
        if !self.seen.is_empty() {
            self.change();
        }
        let (place, observed) = (self.place(), self.tick());
        let manifest = self.manifest(place, Kind::Full, None, observed, &self.image);
        self.put(manifest, &self.image.clone());
        self.see(place, observed, None);
    }

    /// A full of the state that the newest live segment leads to.
    pub fn full_beside(&mut self) {
        let last = self.last().clone();
        if self.live.contains_key(&last.place) {
            let previous = self.previous.clone();
            let manifest = self.manifest(last.place, Kind::Full, None, last.observed, &last.image);
            self.put(manifest, &last.image);
            // The tail goes on from its own segment.
            self.previous = previous;
        }
    }

    /// An increment of the schedule, or one over a gap.
    pub fn increment(&mut self, gap: bool) {
        let from = self.last().clone();
        let since = gap.then(|| self.tick());
        let frames = self.change();
        let (place, observed) = (self.place(), self.tick());
        let mut manifest = self.manifest(place, Kind::Incremental, Some(from.place.position), observed, &self.image);
        manifest.gap_from = since;
        manifest.sent_pages = frames.len() as u32;
        let plain = log(&[(frames, manifest.pages)], place.position, manifest.digest_before.unwrap()).0;
        self.put(manifest, &plain);
        self.see(place, observed, since);
    }

    /// A live segment.
    pub fn commit(&mut self) {
        let from = self.last().place;
        let frames = self.change();
        let (place, observed) = (self.place(), self.tick());
        let mut manifest = self.manifest(place, Kind::Live, Some(from.position), observed, &self.image);
        manifest.sent_pages = frames.len() as u32;
        let plain = log(&[(frames.clone(), manifest.pages)], place.position, manifest.digest_before.unwrap()).0;
        let key = live_key(place, self.form());
        let (object, stored) = self.object(key.as_str(), gzip(&plain), &plain);
        manifest.object = Some(object);
        let note = manifest.to_note();
        self.store.set_noted(key.as_str(), stored, &note);
        self.previous = Some(Sum::of(note.as_bytes()));
        self.live.insert(place, Live { manifest, frames });
        self.see(place, observed, None);
    }

    /// Live segments of the newest timeline that follow one another, from behind `from` on.
    fn row(&self, from: Position) -> Vec<Live> {
        let mut row: Vec<Live> = Vec::new();
        let first = Place { timeline: self.timeline(), position: from.next() };
        for (place, live) in self.live.range(first..) {
            if row.last().is_some_and(|last| last.manifest.to.next() != place.position) {
                break;
            }
            row.push(live.clone());
        }
        row
    }

    /// Folds some of the live segments behind the last fold of that kind; what it led to.
    pub fn fold(&mut self, kind: Kind) -> Option<Place> {
        let behind = self.folds.get(&kind).map_or(Position(0), |fold| fold.to);
        let mut row = self.row(behind);
        row.truncate(1 + self.random(8) as usize);
        let (first, last) = (&row.first()?.manifest, &row.last()?.manifest);
        let from = first.from.unwrap();
        let place = last.place();
        let mut manifest = Manifest { kind, from: Some(from), ..last.clone() };
        manifest.digest_before = first.digest_before;
        manifest.previous = self.folds.get(&kind).filter(|fold| fold.to == from).map(|fold| Sum::of(&fold.to_bytes()));
        let key = object_key(place, kind, Some(from), last.observed, 0, self.form());
        let transactions: Vec<(Pages, u32)> = match kind {
            Kind::Fine => row.iter().map(|live| (live.frames.clone(), live.manifest.pages)).collect(),
            _ => vec![(newest(&row), last.pages)],
        };
        let (plain, ends) = log(&transactions, place.position, first.digest_before.unwrap());
        manifest.sent_pages = transactions.iter().map(|(frames, _)| frames.len() as u32).sum();
        let mut packed = Vec::new();
        let (mut begin, mut frames) = (0, 0);
        let mut lines = String::new();
        if kind == Kind::Fine {
            for ((live, end), (transaction, _)) in row.iter().zip(&ends).zip(&transactions) {
                packed.extend(gzip(&plain[begin..*end]));
                begin = *end;
                frames += transaction.len() as u32;
                let line = Line {
                    position: live.manifest.to,
                    observed: live.manifest.observed,
                    pages: live.manifest.pages,
                    frames,
                    plain_bytes: *end as u64,
                    stored: content(&packed),
                    digest: live.manifest.digest_after,
                };
                lines += &serde_json::to_string(&line).unwrap();
                lines.push('\n');
            }
            manifest.first_observed = Some(first.observed);
            let index_key = format!("{}.index.{}", key.as_str().split(".wal.").next().unwrap(), self.form());
            let (index, stored) = self.object(&index_key, gzip(lines.as_bytes()), lines.as_bytes());
            self.store.set(&index_key, stored);
            manifest.index = Some(index);
        } else {
            packed = gzip(&plain);
        }
        let (object, stored) = self.object(key.as_str(), packed, &plain);
        self.store.set(key.as_str(), stored);
        manifest.object = Some(object);
        self.store.set(fold_key(place, kind).as_str(), manifest.to_bytes());
        self.folds.insert(kind, manifest);
        Some(place)
    }

    /// Removes live segments that the newest fine one has, or some of them.
    pub fn sweep(&mut self) {
        let Some(to) = self.folds.get(&Kind::Fine).map(|fine| fine.place()) else { return };
        let most = self.random(20) as usize;
        let own = |place: &Place| place.timeline == to.timeline && *place <= to;
        let gone: Vec<Place> = self.live.keys().copied().filter(own).take(most).collect();
        for place in gone {
            self.store.remove(live_key(place, self.form()).as_str());
        }
    }

    pub fn heartbeat(&mut self) -> Timestamp {
        let (until, last) = (self.tick(), self.last().clone());
        let tip = atlas_sidecar::backup::Base { place: last.place, digest: digest(&last.image) };
        let heartbeat = Heartbeat { format: FORMAT, tip, until };
        self.store.set(heartbeat_key(self.timeline(), until).as_str(), serde_json::to_vec(&heartbeat).unwrap());
        until
    }

    /// The line to the newest timeline, the oldest first.
    pub fn line(&self) -> Vec<&Seen> {
        let mut line: Vec<&Seen> = Vec::new();
        let (mut timeline, mut bound) = (self.timeline(), Position(u64::MAX));
        loop {
            let own = |seen: &&Seen| seen.place.timeline == timeline && seen.place.position <= bound;
            line.extend(self.seen.iter().rev().filter(own));
            let Some(parent) = self.claims[timeline.0 as usize - 1].parent else { break };
            (timeline, bound) = (parent.place.timeline, parent.place.position);
        }
        line.reverse();
        line
    }

    /// The key of what was folded to `place`, and of its index.
    pub fn keys_of_fine(&self, place: Place) -> (String, String) {
        let bytes = self.store.bytes(fold_key(place, Kind::Fine).as_str()).unwrap();
        let manifest = Manifest::from_bytes(&bytes).unwrap();
        (manifest.object.unwrap().key, manifest.index.unwrap().key)
    }
}

/// A random history.
pub fn random(seed: u64, steps: usize) -> History {
    let mut history = History::new(seed);
    history.full();
    for _ in 0..steps {
        match history.random(24) {
            0 => history.full(),
            1 | 2 => history.full_beside(),
            3 => history.increment(false),
            4 => history.increment(true),
            5..=7 => drop(history.fold(Kind::Fine)),
            8 => drop(history.fold(Kind::Merged)),
            9 | 10 => history.sweep(),
            11 => drop(history.heartbeat()),
            12 if history.random(2) == 0 => {
                let from = history.random(history.seen.len() as u64) as usize;
                history.switch(from);
            }
            _ => history.commit(),
        }
    }
    history
}

/// A beginning of a database: what a full has to look like.
fn image(pages: &[u8]) -> Vec<u8> {
    let mut image: Vec<u8> = pages.iter().flat_map(|byte| vec![*byte; PAGE]).collect();
    image[..16].copy_from_slice(b"SQLite format 3\0");
    image[16..18].copy_from_slice(&(PAGE as u16).to_be_bytes());
    image
}

/// Pages of `after` that are others in `before`, and the first one.
fn changed(before: &[u8], after: &[u8]) -> Pages {
    (1..)
        .zip(after.chunks_exact(PAGE))
        .filter(|(number, page)| before.get((*number as usize - 1) * PAGE..*number as usize * PAGE) != Some(*page))
        .map(|(number, page)| (number, page.to_vec()))
        .collect()
}

/// The newest version of each page.
fn newest(row: &[Live]) -> Pages {
    let mut newest = BTreeMap::new();
    for live in row {
        newest.retain(|number, _| *number <= live.manifest.pages);
        newest.extend(live.frames.iter().cloned());
    }
    // In any order.
    newest.into_iter().rev().collect()
}

/// A log with a transaction for each of these, and where in it each ends.
fn log(transactions: &[(Pages, u32)], to: Position, before: Digest) -> (Vec<u8>, Vec<usize>) {
    let salts = [(before.high() >> 32) as u32, before.high() as u32];
    let mut log = WalWriter::new(Vec::new(), PAGE as u32, to.0 as u32, salts).unwrap();
    let (mut ends, mut bytes) = (Vec::new(), 32);
    for (frames, pages) in transactions {
        let last = frames.len() - 1;
        for (at, (number, page)) in frames.iter().enumerate() {
            log.frame(*number, page, (at == last).then_some(*pages)).unwrap();
        }
        bytes += frames.len() * (24 + PAGE);
        ends.push(bytes);
    }
    (log.finish().unwrap(), ends)
}

fn content(bytes: &[u8]) -> Content {
    Content { bytes: bytes.len() as u64, sha256: Sum::of(bytes) }
}
