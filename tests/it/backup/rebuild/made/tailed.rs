//! What a live tail leaves: live segments with their notes, fulls beside them, gaps, and what was folded of them.

use atlas_sidecar::backup::index::Line;
use atlas_sidecar::backup::manifest::{Codec, Object, Sum};
use atlas_sidecar::backup::{Kind, Manifest, Place, Position, layout};
use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::engine::sqlite::wal::{FRAME_HEADER_BYTES, HEADER_BYTES, WalWriter};
use atlas_sidecar::object::{Listed, ObjectKey};
use bytes::Bytes;

use super::{Destination, Mark, content, log, pack};

/// The words that `previous` of what comes behind has.
pub fn sum(manifest: &Manifest) -> Sum {
    match manifest.kind {
        Kind::Live => Sum::of(manifest.to_note().as_bytes()),
        _ => Sum::of(&manifest.to_bytes()),
    }
}

fn be(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

/// The frames of a log: number, pages after the commit or 0, page.
fn frames(plain: &[u8]) -> impl Iterator<Item = (u32, u32, &[u8])> {
    let page_size = be(&plain[8..12]) as usize;
    plain[HEADER_BYTES..]
        .chunks_exact(FRAME_HEADER_BYTES + page_size)
        .map(|frame| (be(&frame[..4]), be(&frame[4..8]), &frame[FRAME_HEADER_BYTES..]))
}

impl Destination {
    fn extension(&self) -> &'static str {
        match (self.form.zstd, self.form.recipient.is_some()) {
            (false, false) => "gz",
            (true, false) => "zst",
            (false, true) => "gz.age",
            (true, true) => "zst.age",
        }
    }

    fn object(&self, key: &ObjectKey, packed: &[u8], plain: &[u8]) -> Object {
        self.put(key.as_str(), packed);
        Object {
            key: key.to_string(),
            stored: content(packed),
            plain: content(plain),
            codec: if self.form.zstd { Codec::Zstd } else { Codec::Gzip },
            encrypted: self.form.recipient.is_some(),
        }
    }

    /// The name of the note of the live segment of a mark.
    pub fn note(&self, manifest: &Manifest) -> std::path::PathBuf {
        let key = &manifest.object.as_ref().unwrap().key;
        let (timeline, name) = key.split_once('/').unwrap();
        self.folder.join(format!("{timeline}/.{name}.note"))
    }

    /// A live segment from the newest mark to `image`; of page 1 again where nothing changed.
    pub fn live(&mut self, image: Vec<u8>) {
        let before = &self.marks.last().unwrap().manifest;
        let (to, digest) = (before.to.next(), before.digest_after);
        let before_image = &self.marks.last().unwrap().image;
        let (mut plain, mut sent) = log(before_image, &image, digest, to);
        if plain.is_empty() {
            let salts = [(digest.high() >> 32) as u32, digest.high() as u32];
            let mut again = WalWriter::new(Vec::new(), before.page_size, to.0 as u32, salts).unwrap();
            again.frame(1, &image[..before.page_size as usize], Some(before.pages)).unwrap();
            (plain, sent) = (again.finish().unwrap(), 1);
        }
        let place = Place { timeline: before.timeline, position: to };
        let key = layout::live_key(place, self.extension());
        let object = self.object(&key, &pack(&self.form, &plain), &plain);
        let manifest = Manifest {
            kind: Kind::Live,
            from: Some(before.to),
            to,
            observed: before.observed.after(std::time::Duration::from_secs(1)),
            object: Some(object),
            pages: (image.len() / before.page_size as usize) as u32,
            sent_pages: sent,
            digest_before: Some(digest),
            digest_after: super::digest(&image),
            previous: Some(sum(before)),
            soundness: None,
            tables: Default::default(),
            // What a careless reader of notes could take for members.
            database: "a \",\"to\":9,{\"from\":8} ü\\.db,".to_owned(),
            gap_from: None,
            ..before.clone()
        };
        std::fs::write(self.note(&manifest), manifest.to_note()).unwrap();
        self.marks.push(Mark { manifest, image, plain });
    }

    /// An increment over a gap, from the newest mark to `image`.
    pub fn gap(&mut self, image: Vec<u8>) {
        let before = self.marks.last().unwrap().manifest.clone();
        self.increment(image);
        let mark = self.marks.last_mut().unwrap();
        mark.manifest.previous = Some(sum(&before));
        mark.manifest.gap_from = Some(before.observed);
        mark.manifest.observed = before.observed.after(std::time::Duration::from_secs(90));
        let manifest = mark.manifest.clone();
        self.put(layout::manifest_key(manifest.place()).as_str(), &manifest.to_bytes());
    }

    /// A full of the newest mark, which has a live segment too.
    pub fn full_beside(&mut self) -> Manifest {
        let mark = self.marks.last().unwrap();
        let live = mark.manifest.clone();
        let image = mark.image.clone();
        let key = layout::object_key(live.place(), Kind::Full, None, live.observed, 0, self.extension());
        let object = self.object(&key, &pack(&self.form, &image), &image);
        let manifest = Manifest {
            kind: Kind::Full,
            from: None,
            object: Some(object),
            sent_pages: live.pages,
            digest_before: None,
            ..live
        };
        self.put(layout::manifest_key(manifest.place()).as_str(), &manifest.to_bytes());
        manifest
    }

    /// The live segments behind mark `from` up to mark `to` (counted from 0), in one object.
    pub fn fold(&self, kind: Kind, from: usize, to: usize, previous: Option<&Manifest>) -> Manifest {
        let (first, last) = (&self.marks[from].manifest, &self.marks[to].manifest);
        let folded: Vec<&Mark> = self.marks[from + 1..=to].iter().collect();
        assert!(folded.iter().all(|mark| mark.manifest.kind == Kind::Live));
        let high = first.digest_after.high();
        let salts = [(high >> 32) as u32, high as u32];
        let mut writer = WalWriter::new(Vec::new(), first.page_size, last.to.0 as u32, salts).unwrap();
        let mut sent = 0;
        let mut ends = Vec::new();
        let frame_bytes = FRAME_HEADER_BYTES + first.page_size as usize;
        if kind == Kind::Fine {
            for mark in &folded {
                for (number, commit, page) in frames(&mark.plain) {
                    writer.frame(number, page, (commit > 0).then_some(commit)).unwrap();
                    sent += 1;
                }
                ends.push(sent);
            }
        } else {
            let mut newest = std::collections::BTreeMap::new();
            for (number, _, page) in folded.iter().flat_map(|mark| frames(&mark.plain)) {
                newest.insert(number, page);
            }
            newest.retain(|number, _| *number <= last.pages);
            // In any order.
            let mut left = newest.len() as u32;
            for (number, page) in newest.into_iter().rev() {
                left -= 1;
                writer.frame(number, page, (left == 0).then_some(last.pages)).unwrap();
                sent += 1;
            }
            ends.push(sent);
        }
        let plain = writer.finish().unwrap();
        let (mut packed, mut lines, mut at) = (Vec::new(), Vec::new(), 0);
        let unencrypted = super::Form { recipient: None, ..self.form.clone() };
        for (i, frames) in ends.iter().enumerate() {
            let end = HEADER_BYTES + *frames as usize * frame_bytes;
            packed.extend(pack(&unencrypted, &plain[at..end]));
            at = end;
            let mark = &folded[i].manifest;
            let line = Line {
                position: mark.to,
                observed: mark.observed,
                pages: mark.pages,
                frames: *frames,
                plain_bytes: end as u64,
                stored: content(&packed),
                digest: mark.digest_after,
            };
            lines.extend(serde_json::to_vec(&line).unwrap());
            lines.push(b'\n');
        }
        assert_eq!(at, plain.len());
        let sealed = |bytes: Vec<u8>| match &self.form.recipient {
            Some(recipient) => super::feed(std::process::Command::new("age").args(["-r", recipient]), &bytes),
            None => bytes,
        };
        let place = last.place();
        let key = layout::object_key(place, kind, Some(first.to), last.observed, 7, self.extension());
        let object = self.object(&key, &sealed(packed), &plain);
        let index = (kind == Kind::Fine).then(|| {
            // It tells nothing but times and lengths, and is not encrypted.
            let key = key.as_str().split_once(".wal.").unwrap().0.to_owned() + ".index.gz";
            let packed = pack(&super::Form::default(), &lines);
            let object = self.object(&ObjectKey::ours(key), &packed, &lines);
            Object { codec: Codec::Gzip, encrypted: false, ..object }
        });
        let manifest = Manifest {
            kind,
            from: Some(first.to),
            object: Some(object),
            index,
            sent_pages: sent,
            digest_before: Some(first.digest_after),
            previous: previous.map(|previous| Sum::of(&previous.to_bytes())),
            first_observed: (kind == Kind::Fine).then_some(folded[0].manifest.observed),
            ..last.clone()
        };
        self.put(layout::fold_key(place, kind).as_str(), &manifest.to_bytes());
        manifest
    }

    /// Takes the live segments of marks away, as sweeping does.
    pub fn sweep(&self, marks: std::ops::RangeInclusive<usize>) {
        for mark in &self.marks[marks] {
            std::fs::remove_file(self.folder.join(&mark.manifest.object.as_ref().unwrap().key)).unwrap();
            std::fs::remove_file(self.note(&mark.manifest)).unwrap();
        }
    }

    /// Writes `SHA256SUMS` of everything that has a manifest in a file of its own, as the sidecar does.
    pub fn write_all_sums(&self) {
        let mut documents = Vec::new();
        let mut listed = Vec::new();
        for timeline in std::fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap()) {
            if !timeline.file_type().unwrap().is_dir() {
                continue;
            }
            for file in std::fs::read_dir(timeline.path()).unwrap().map(|entry| entry.unwrap()) {
                let name = format!("{}/{}", timeline.file_name().to_str().unwrap(), file.file_name().to_str().unwrap());
                let Some(key) = ObjectKey::parse(&name) else { continue };
                let bytes = std::fs::read(file.path()).unwrap();
                let modified = Timestamp::from_millis(0);
                listed.push(Listed { key: key.clone(), bytes: bytes.len() as u64, modified });
                if name.ends_with(".json") {
                    documents.push((key, Bytes::from(bytes)));
                }
            }
        }
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        let catalog = super::catalog::Catalog::of(&listed, documents);
        assert_eq!(catalog.unreadable, []);
        self.put(layout::sums_key().as_str(), &super::by_hand::sums(&catalog));
    }
}

/// Eleven positions: a full, live segments, a full beside one of them, an increment over a gap, live segments again.
///
/// ```text
/// 1   2  3  4  5  6  7   8    9  10  11
/// F   l  l  l  l  l  l  gap   l   l   l
///              F
/// ```
pub fn tailed(made: &mut Destination, images: Vec<Vec<u8>>) {
    for (at, image) in images.into_iter().enumerate() {
        match at {
            0 => made.full(image),
            7 => made.gap(image),
            _ => made.live(image),
        }
        if at == 4 {
            made.full_beside();
        }
    }
    assert_eq!(made.marks.last().unwrap().manifest.to, Position(11));
}
