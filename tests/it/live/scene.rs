//! A machine: a database, applications that write to it, a sidecar that follows it; and images of it at moments that must come back.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use atlas_sidecar::backup::Digest;
use atlas_sidecar::backup::digest::PageHash;
use atlas_sidecar::clock::{Clock, Timestamp};
use tempfile::TempDir;

use super::SOON;
use super::store::{Stated, Store};
use crate::support::{Sidecar, free_address, run, sidecar, wait_for};

/// The sidecar's own rows come now and then, so that it is a writer, too.
const SETTINGS: &str = "[scrape]\ninterval = \"5s\"\ntimeout = \"4s\"\n";

/// What is made before anybody is there: the application's part. `{}` are the page's size and auto_vacuum.
const APPLICATION: &str = "CREATE TABLE app_notes (id INTEGER PRIMARY KEY, writer INTEGER, body TEXT, noise BLOB);
    CREATE INDEX app_notes_noise ON app_notes(noise);";

/// Whether commits are followed.
pub const FOLLOWING: &str = "atlas_sidecar_backup_following";

/// A file of the tests.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// What the sqlite3 shell answers. It waits for locks as an application does.
pub fn sql(database: &Path, sql: &str) -> String {
    run("sqlite3", &["-bail", "-cmd", ".timeout 20000", database.to_str().unwrap(), sql]).trim_end().to_owned()
}

/// The value of a series without labels.
pub fn value(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A moment between two transactions, when the newest commit was durable, and what the database was.
pub struct Mark {
    pub at: Timestamp,
    /// When the sidecar saw this state.
    pub observed: Timestamp,
    pub position: u64,
    pub image: PathBuf,
}

/// The gate through which each operation of a writer goes, closed until it is dropped.
pub struct Closed {
    _gate: File,
}

/// A writing application in a process of its own.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// See the head of this file.
pub struct Scene {
    // In the order in which they go: first who works in the folder, last the folder.
    pub running: Option<Sidecar>,
    writers: Vec<Writer>,
    /// What else is to go before the folder does, such as a file system in it.
    pub mounted: Option<Box<dyn std::any::Any>>,
    machine: TempDir,
    pub store: Store,
    pub config: String,
    /// Where it listens, so that a restart can be told from another machine.
    address: std::net::SocketAddr,
    pub marks: Vec<Mark>,
    taken: usize,
    begun: u64,
}

impl Scene {
    /// A database of pages of 4096 bytes, and a sidecar that follows it; `tail` is what stands in `[backup.sqlite]`.
    pub fn new(store: Store, tail: &str) -> Self {
        Self::on(store, tail, 4096, 2)
    }

    /// The same with other pages and another `auto_vacuum`.
    pub fn on(store: Store, tail: &str, page_size: u64, auto_vacuum: u64) -> Self {
        let mut scene = Self::prepared(store, tail, page_size, auto_vacuum);
        scene.start();
        // Between the first full and this moment, commits make a gap.
        wait_for("commits to be followed", SOON, || scene.metric(FOLLOWING).filter(|following| *following > 0.0));
        scene
    }

    /// Everything but the sidecar.
    pub fn prepared(store: Store, tail: &str, page_size: u64, auto_vacuum: u64) -> Self {
        let machine = tempfile::tempdir().unwrap();
        let config = format!(
            "{SETTINGS}[backup]\ndestination = \"{}\"\n[backup.sqlite]\n{tail}{}",
            store.url(),
            store.section(machine.path())
        );
        let scene = Self {
            running: None,
            writers: Vec::new(),
            mounted: None,
            machine,
            store,
            config,
            address: free_address(),
            marks: Vec::new(),
            taken: 0,
            begun: 0,
        };
        std::fs::create_dir_all(scene.database().parent().unwrap()).unwrap();
        let made = format!(
            "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {auto_vacuum}; PRAGMA journal_mode = WAL; {APPLICATION}"
        );
        sql(&scene.database(), &made);
        // With tables for its rows, the sidecar is a writer, too.
        let out = sidecar(scene.folder(), &["migrate"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        scene
    }

    pub fn folder(&self) -> &Path {
        self.machine.path()
    }

    pub fn database(&self) -> PathBuf {
        self.folder().join("data/atlas.db")
    }

    pub fn log(&self) -> PathBuf {
        self.folder().join("data/atlas.db-wal")
    }

    /// Starts the sidecar and waits until it is ready.
    pub fn start(&mut self) {
        self.running = Some(Sidecar::start_at(self.address, self.folder(), &self.config));
    }

    /// The same with an environment, without waiting.
    pub fn launch(&mut self, environment: &[(&str, String)]) {
        self.running = Some(Sidecar::launch(self.folder(), &self.config, environment));
    }

    pub fn sidecar(&self) -> &Sidecar {
        self.running.as_ref().expect("it runs")
    }

    /// `kill -9`.
    pub fn kill_sidecar(&mut self) {
        drop(self.running.take());
    }

    /// What the sidecar tells of itself; nothing where it is not there.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let page = crate::support::get(self.running.as_ref()?.address, "/metrics")?;
        value(&page.text(), name)
    }

    /// The end of the sidecar's log, for messages.
    pub fn told(&self) -> String {
        let log = std::fs::read_to_string(self.folder().join("sidecar.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Starts `count` writers that do everything; what they do begins with `seed`.
    pub fn write(&mut self, count: u64, seed: u64) {
        self.write_as(count, seed, &[]);
    }

    /// The same with further words to the writers.
    pub fn write_as(&mut self, count: u64, seed: u64, words: &[&str]) {
        for _ in 0..count {
            self.begun += 1;
            let seed = seed.wrapping_mul(1000) % 1_000_000_000 + self.begun;
            let child = Command::new("python3")
                .arg(fixture("python/writer.py"))
                .args([self.database(), self.gate_file()])
                .arg(seed.to_string())
                .args(words)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("the README's test command installs python3");
            self.writers.push(Writer(child));
        }
    }

    /// `kill -9` of one of the writers.
    pub fn kill_writer(&mut self, index: usize) {
        drop(self.writers.remove(index));
    }

    pub fn writers(&self) -> usize {
        self.writers.len()
    }

    /// Ends the writers between two operations. That none found the database broken is what their end tells.
    pub fn rest(&mut self) {
        for mut writer in self.writers.drain(..) {
            drop(writer.0.stdin.take());
            let status = wait_for("a writer to end", SOON, || writer.0.try_wait().unwrap());
            let mut said = String::new();
            writer.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
            print!("{said}");
            assert!(status.success(), "a writer found what it should not: {status}");
        }
    }

    fn gate_file(&self) -> PathBuf {
        self.folder().join("gate")
    }

    /// Waits until all writers are between two operations, and keeps them there.
    pub fn close(&self) -> Closed {
        let open = |path: &Path| File::options().create(true).append(true).open(path).unwrap();
        let turnstile = open(&self.folder().join("gate.turnstile"));
        turnstile.lock().unwrap();
        let gate = open(&self.gate_file());
        gate.lock().unwrap();
        Closed { _gate: gate }
    }

    /// The database's image now, as `tests/fixtures/python/image.py` makes it.
    pub fn image(&mut self) -> PathBuf {
        self.taken += 1;
        let out = self.folder().join(format!("image-{}.db", self.taken));
        run(
            "python3",
            &[fixture("python/image.py").to_str().unwrap(), self.database().to_str().unwrap(), out.to_str().unwrap()],
        );
        out
    }

    /// Keeps the writers between two operations until the newest commit is durable, and notes the moment and the image.
    pub fn mark(&mut self) -> &Mark {
        let closed = self.close();
        self.mark_behind(closed)
    }

    /// The same with a gate that is closed already.
    pub fn mark_behind(&mut self, _closed: Closed) -> &Mark {
        let begin = Instant::now();
        let (position, observed, image, at) = loop {
            // The sidecar itself may write at any time: then it is another state that is waited for.
            let image = self.image();
            let digest = digest(&image);
            let waited = Instant::now();
            let tip = loop {
                let tip = self.store.tip();
                if tip.as_ref().is_some_and(|tip| tip.digest() == digest) || waited.elapsed() > Duration::from_secs(3) {
                    break tip;
                }
                std::thread::sleep(Duration::from_millis(20));
            };
            let durable = tip.as_ref().filter(|tip| tip.digest() == digest);
            if let Some((position, observed)) = durable.map(|tip| (tip.position, tip.observed_at())) {
                let at = Clock::system().now();
                let again = self.image();
                let same = std::fs::read(&image).unwrap() == std::fs::read(&again).unwrap();
                std::fs::remove_file(again).unwrap();
                if same {
                    break (position, observed, image, at);
                }
            }
            std::fs::remove_file(&image).unwrap();
            let tip = tip.map(|tip| format!("{} with {}", tip.key, tip.digest()));
            assert!(
                begin.elapsed() < SOON,
                "the newest commit, with {digest}, never became durable; the newest state is {tip:?}; log:\n{}",
                self.told()
            );
        };
        after(at);
        self.marks.push(Mark { at, observed, position, image });
        self.marks.last().unwrap()
    }

    /// Each mark comes back by the command, and every fifth by the script as well, on a machine that has nothing but the destination.
    pub fn all_come_back(&self) {
        assert!(!self.marks.is_empty());
        let fresh = Fresh::new(&self.store);
        let gaps = self.store.gap_ends();
        for (index, mark) in self.marks.iter().enumerate() {
            // Where the sidecar was killed behind a mark and the log began anew before it was back, nobody can tell for how long the mark was the newest state.
            let within = gaps.iter().any(|(from, to)| *from < mark.at && mark.at < *to);
            fresh.equals(&if within { mark.observed } else { mark.at }.to_rfc3339(), &mark.image);
            if index % 5 == 0 {
                fresh.comes_back_by_hand(mark);
            }
        }
        println!("{} marks came back", self.marks.len());
    }

    /// The newest state is what the database is, and nobody has found it broken.
    pub fn the_tip_is_the_database(&mut self) {
        wait_for("the newest state to stay the newest", SOON, || {
            let mark = self.mark();
            let (position, image) = (mark.position, mark.image.clone());
            assert_eq!(sql(&image, "PRAGMA integrity_check"), "ok", "what the applications made");
            let fresh = Fresh::new(&self.store);
            let (out, restored) = fresh.restore("latest");
            // The sidecar's own rows may have come in between.
            let newest = self.store.tip().unwrap().position == position;
            newest.then(|| restored_is(&out, &restored, "latest", &image))
        });
    }

    /// The states of the store by time, which never goes back.
    pub fn states_in_order(&self) -> Vec<Stated> {
        let states = self.store.states();
        assert!(states.is_sorted_by_key(|state| state.observed().to_owned()), "marks never go back");
        states
    }
}

/// Lets `at` pass: what is committed next is of another instant.
fn after(at: Timestamp) {
    wait_for("the next millisecond", SOON, || (Clock::system().now() > at).then_some(()));
}

/// The digest of an image.
pub fn digest(image: &Path) -> String {
    let bytes = std::fs::read(image).unwrap();
    let size = page_size(&bytes);
    let pages = bytes.chunks(size).zip(1..);
    let sum = pages.fold(Digest::default(), |sum, (page, number)| sum.plus(PageHash::of(number, page)));
    sum.to_string()
}

fn page_size(image: &[u8]) -> usize {
    match u16::from_be_bytes([image[16], image[17]]) {
        1 => 65_536,
        size => size.into(),
    }
}

/// A machine that has the credentials, a copy of the destination where it is needed, and nothing else.
pub struct Fresh<'a> {
    folder: TempDir,
    store: &'a Store,
}

impl<'a> Fresh<'a> {
    pub fn new(store: &'a Store) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("sidecar.toml"), store.section(folder.path())).unwrap();
        Self { folder, store }
    }

    /// What `restore --at` ends with, and the file that it was to make.
    pub fn restore(&self, at: &str) -> (Output, PathBuf) {
        let to = self.folder.path().join("restored.db");
        let _ = std::fs::remove_file(&to);
        let args = [
            "restore",
            "--config",
            "sidecar.toml",
            "--destination",
            &self.store.url(),
            "--at",
            at,
            "--to",
            "restored.db",
        ];
        (sidecar(self.folder.path(), &args), to)
    }

    pub fn comes_back(&self, mark: &Mark) {
        self.equals(&mark.at.to_rfc3339(), &mark.image);
    }

    /// What is restored at `at` is `image`, byte for byte.
    pub fn equals(&self, at: &str, image: &Path) {
        let (out, to) = self.restore(at);
        restored_is(&out, &to, at, image);
    }

    /// The same by the script that lies in the destination.
    pub fn comes_back_by_hand(&self, mark: &Mark) {
        let by_hand = self.folder.path().join("by-hand.db");
        let _ = std::fs::remove_file(&by_hand);
        let (position, copy) = (mark.position.to_string(), self.folder.path().join("copy"));
        if !copy.exists() {
            self.store.downloaded(&copy);
        }
        let out = Command::new("sh")
            .arg("copy/restore.sh")
            .args(["copy", "by-hand.db", &position])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "restore.sh {position}: {said}");
        same(&by_hand, &mark.image, &format!("restore.sh {position}"));
    }
}

fn restored_is(out: &Output, restored: &Path, at: &str, image: &Path) {
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "restore --at {at}: {said}");
    same(restored, image, &format!("restore --at {at}: {said}"));
}

/// Compares two databases and tells which pages differ.
fn same(restored: &Path, image: &Path, told: &str) {
    let (restored, image) = (std::fs::read(restored).unwrap(), std::fs::read(image).unwrap());
    if restored == image {
        return;
    }
    let size = page_size(&image);
    let pages = restored.chunks(size).zip(image.chunks(size)).zip(1..);
    let other: Vec<u32> = pages.filter(|((a, b), _)| a != b).map(|(_, number)| number).collect();
    panic!("{told}: {} pages for {}; of another content: {other:?}", restored.len() / size, image.len() / size);
}
