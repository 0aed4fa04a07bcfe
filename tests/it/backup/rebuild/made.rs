//! Destinations as a sidecar leaves them, made of what stock programs wrote: images of a database that the sqlite3 shell changed, packed by gzip.

pub mod tailed;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use atlas_sidecar::backup::digest::PageHash;
use atlas_sidecar::backup::manifest::{Codec, Content, Object, Sum};
use atlas_sidecar::backup::{Digest, Kind, Manifest, Place, Position, Soundness, Timeline, by_hand, catalog, layout};
use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::engine::sqlite::wal::{WalWriter, lock_page};
use atlas_sidecar::object::{Listed, ObjectKey};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

/// What makes objects of plain bytes: nothing for gzip, or a program that ends in these.
#[derive(Clone, Debug, Default)]
pub struct Form {
    pub zstd: bool,
    pub recipient: Option<String>,
}

/// A position that was written: its manifest, and the database there.
pub struct Mark {
    pub manifest: Manifest,
    pub image: Vec<u8>,
    /// The segment before it was packed.
    pub plain: Vec<u8>,
}

/// A destination.
pub struct Destination {
    pub folder: PathBuf,
    pub marks: Vec<Mark>,
    pub form: Form,
    timeline: Timeline,
}

impl Destination {
    pub fn new(folder: PathBuf) -> Self {
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("format"), "{\"format\":1}\n").unwrap();
        let destination = Self { folder, marks: Vec::new(), form: Form::default(), timeline: Timeline(0) };
        for (key, bytes) in by_hand::objects() {
            destination.put(key.as_str(), &bytes);
        }
        destination
    }

    pub fn put(&self, key: &str, bytes: &[u8]) {
        let path = self.folder.join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Goes on on another timeline, from the newest state.
    pub fn claim(&mut self) {
        self.timeline = Timeline(self.timeline.0 + 1);
    }

    /// A full of `image`.
    pub fn full(&mut self, image: Vec<u8>) {
        let plain = image.clone();
        let pages = u32::try_from(image.len()).unwrap() / page_size(&image);
        self.add(Kind::Full, image, plain, pages);
    }

    /// An increment from the newest mark to `image`.
    pub fn increment(&mut self, image: Vec<u8>) {
        let before = self.marks.last().unwrap();
        let (plain, sent) = log(&before.image, &image, before.manifest.digest_after, before.manifest.to.next());
        self.add(Kind::Incremental, image, plain, sent);
    }

    fn add(&mut self, kind: Kind, image: Vec<u8>, plain: Vec<u8>, sent_pages: u32) {
        if self.marks.is_empty() {
            self.claim();
        }
        let before = self.marks.last().map(|mark| &mark.manifest);
        let to = before.map_or(Position(1), |before| before.to.next());
        let place = Place { timeline: self.timeline, position: to };
        let from = before.filter(|_| kind == Kind::Incremental).map(|before| before.to);
        // A mark every minute and a bit.
        let observed = Timestamp::from_millis(1_763_863_200_000 + 60_250 * i64::try_from(to.0).unwrap());
        let packed = pack(&self.form, &plain);
        let extension = match (self.form.zstd, self.form.recipient.is_some()) {
            (false, false) => "gz",
            (true, false) => "zst",
            (false, true) => "gz.age",
            (true, true) => "zst.age",
        };
        let key = layout::object_key(place, kind, from, observed, 0, extension);
        let object = (!plain.is_empty()).then(|| Object {
            key: key.to_string(),
            stored: content(&packed),
            plain: content(&plain),
            codec: if self.form.zstd { Codec::Zstd } else { Codec::Gzip },
            encrypted: self.form.recipient.is_some(),
        });
        if object.is_some() {
            self.put(key.as_str(), &packed);
        }
        let manifest = Manifest {
            format: layout::FORMAT,
            engine: "sqlite".to_owned(),
            database: "atlas.db".to_owned(),
            kind,
            timeline: self.timeline,
            from,
            to,
            observed,
            object,
            page_size: page_size(&image),
            pages: u32::try_from(image.len()).unwrap() / page_size(&image),
            sent_pages,
            digest_before: before.filter(|_| kind == Kind::Incremental).map(|before| before.digest_after),
            digest_after: digest(&image),
            previous: before.map(|before| Sum::of(&before.to_bytes())),
            soundness: (kind == Kind::Full).then_some(Soundness::Sound),
            // Names that a careless reader of manifests could take for members.
            tables: BTreeMap::from(
                ["key", "sha256", "object", "pages", "from\n\"x\": {"].map(|name| (name.to_owned(), 3)),
            ),
            engine_version: "3.51.3".to_owned(),
            sidecar_version: "0.1.0".to_owned(),
            gap_from: None,
            first_observed: None,
            index: None,
        };
        self.put(layout::manifest_key(place).as_str(), &manifest.to_bytes());
        self.marks.push(Mark { manifest, image, plain });
    }

    /// Writes `SHA256SUMS` of what there is.
    pub fn write_sums(&self) {
        let documents = self
            .marks
            .iter()
            .map(|mark| (layout::manifest_key(mark.manifest.place()), Bytes::from(mark.manifest.to_bytes())));
        let listed: Vec<Listed> = self
            .marks
            .iter()
            .filter_map(|mark| mark.manifest.object.as_ref())
            .map(|o| Listed {
                key: ObjectKey::ours(&o.key),
                bytes: o.stored.bytes,
                modified: Timestamp::from_millis(0),
            })
            .collect();
        let catalog = catalog::Catalog::of(&listed, documents);
        self.put(layout::sums_key().as_str(), &by_hand::sums(&catalog));
    }

    /// The files of the mark's segment: its object, if there is one, and its manifest.
    pub fn files(&self, mark: &Mark) -> Vec<PathBuf> {
        let object = mark.manifest.object.iter().map(|object| self.folder.join(&object.key));
        object.chain([self.folder.join(layout::manifest_key(mark.manifest.place()).as_str())]).collect()
    }
}

/// A full and increments, one to each of `images`.
pub fn destination(folder: &Path, images: Vec<Vec<u8>>) -> Destination {
    let mut made = Destination::new(folder.join("backups"));
    for (at, image) in images.into_iter().enumerate() {
        if at == 0 { made.full(image) } else { made.increment(image) }
    }
    made
}

/// The database after each of `steps`, which the sqlite3 shell runs on a new database in WAL mode.
pub fn images(folder: &Path, page_size: u32, auto_vacuum: u32, steps: &[&str]) -> Vec<Vec<u8>> {
    let (database, image) = (folder.join("live.db"), |at: usize| folder.join(format!("image-{at}")));
    let mut script = format!(
        "PRAGMA page_size = {page_size};\nPRAGMA auto_vacuum = {auto_vacuum};\nPRAGMA journal_mode = wal;\n.bail on\n"
    );
    for (at, step) in steps.iter().enumerate() {
        let (from, to) = (database.display(), image(at));
        script += &format!("{step};\nPRAGMA wal_checkpoint(TRUNCATE);\n.shell cp {from} {}\n", to.display());
    }
    let mut shell = Command::new("sqlite3");
    feed(shell.args(["-batch", "-init", "/dev/null"]).arg(&database), script.as_bytes());
    let read = |at| {
        let bytes = std::fs::read(image(at)).unwrap();
        std::fs::remove_file(image(at)).unwrap();
        bytes
    };
    let images: Vec<Vec<u8>> = (0..steps.len()).map(read).collect();
    assert_eq!(self::page_size(&images[0]), page_size);
    std::fs::remove_file(database).unwrap();
    images
}

/// Gives a program its input, and what it wrote back.
pub fn feed(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?} does not start ({e}): tests/run installs it"));
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        let mut output = Vec::new();
        stdout.read_to_end(&mut output).unwrap();
        output
    });
    assert!(child.wait().unwrap().success(), "{command:?}: {}", String::from_utf8_lossy(&output));
    output
}

fn pack(form: &Form, plain: &[u8]) -> Vec<u8> {
    let packed = if form.zstd {
        feed(Command::new("zstd").args(["-1", "-q", "-c"]), plain)
    } else {
        // A member for each MiB.
        plain.chunks(1 << 20).flat_map(gzip).collect()
    };
    match &form.recipient {
        Some(recipient) => feed(Command::new("age").args(["-r", recipient]), &packed),
        None => packed,
    }
}

/// A member.
pub fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut member = GzEncoder::new(Vec::new(), Compression::fast());
    member.write_all(plain).unwrap();
    member.finish().unwrap()
}

fn content(bytes: &[u8]) -> Content {
    Content { bytes: bytes.len() as u64, sha256: Sum::of(bytes) }
}

/// As the database's header has it.
pub fn page_size(image: &[u8]) -> u32 {
    match u16::from_be_bytes([image[16], image[17]]) {
        1 => 65_536,
        size => u32::from(size),
    }
}

/// By its definition in docs/BACKUP_FORMAT.md.
pub fn digest(image: &[u8]) -> Digest {
    let size = page_size(image);
    (1..)
        .zip(image.chunks_exact(size as usize))
        .filter(|(number, _)| *number != lock_page(size))
        .fold(Digest::default(), |digest, (number, page)| digest.plus(PageHash::of(number, page)))
}

/// The log that makes `after` of `before`, and how many pages are in it; no bytes where nothing changed.
fn log(before: &[u8], after: &[u8], digest: Digest, position: Position) -> (Vec<u8>, u32) {
    let size = page_size(after) as usize;
    let changed: Vec<(u32, &[u8])> = (1..)
        .zip(after.chunks_exact(size))
        .filter(|(number, page)| {
            let at = (*number as usize - 1) * size;
            *number != lock_page(size as u32) && before.get(at..at + size) != Some(*page)
        })
        .collect();
    let Some((last, _)) = changed.last() else {
        assert_eq!(before.len(), after.len());
        return (Vec::new(), 0);
    };
    let salts = [(digest.high() >> 32) as u32, digest.high() as u32];
    let mut log = WalWriter::new(Vec::new(), size as u32, position.0 as u32, salts).unwrap();
    for (number, page) in &changed {
        log.frame(*number, page, (number == last).then_some((after.len() / size) as u32)).unwrap();
    }
    (log.finish().unwrap(), changed.len() as u32)
}
