//! How full each mounted filesystem is.
//!
//! `statfs` is the one call here that can hang for ever (a mount whose server is gone, a stuck disk), so mounts are asked through
//! [`Aside`]: one that does not answer shows `node_filesystem_device_error` 1 and nothing else, and is left alone until its thread is back
//! (node_exporter#244). The list of mounts is that of process 1, as the sidecar may live in a mount namespace of its own.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::aside::Aside;
use super::{Settings, files, gauge};
use crate::sample::globs::Globs;
use crate::sample::{Batch, Desc, Labels};
use crate::scrape::{CollectError, Collector};
use crate::task::Pending;

/// The families of this collector.
pub const METRICS: &[Desc] = &[DEVICE_ERROR, SIZE, FREE, AVAILABLE, FILES, FILES_FREE, READ_ONLY];

const DEVICE_ERROR: Desc = gauge(
    "node_filesystem_device_error",
    "1",
    "Whether an error occurred while getting statistics for the given device.",
);
const SIZE: Desc = gauge("node_filesystem_size_bytes", "bytes", "Filesystem size in bytes.");
const FREE: Desc = gauge("node_filesystem_free_bytes", "bytes", "Filesystem free space in bytes.");
const AVAILABLE: Desc =
    gauge("node_filesystem_avail_bytes", "bytes", "Filesystem space available to non-root users in bytes.");
const FILES: Desc = gauge("node_filesystem_files", "inodes", "Filesystem total file nodes.");
const FILES_FREE: Desc = gauge("node_filesystem_files_free", "inodes", "Filesystem total free file nodes.");
const READ_ONLY: Desc = gauge("node_filesystem_readonly", "1", "Filesystem read-only status.");

/// What a filesystem says about itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// All of it, in bytes.
    pub size: f64,
    /// What root could still write, in bytes.
    pub free: f64,
    /// What others could still write, in bytes.
    pub available: f64,
    /// All inodes; 0 where the filesystem has no fixed number.
    pub files: f64,
    /// Inodes left.
    pub files_free: f64,
}

/// Asks the kernel. Blocks are counted in `f_frsize` units: on FUSE that differs from the `f_bsize` that node_exporter takes.
pub fn statfs(path: &Path) -> io::Result<Usage> {
    let said = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks as f64 * said.f_frsize as f64;
    Ok(Usage {
        size: bytes(said.f_blocks),
        free: bytes(said.f_bfree),
        available: bytes(said.f_bavail),
        files: said.f_files as f64,
        files_free: said.f_ffree as f64,
    })
}

/// The collector.
pub struct Filesystem {
    procfs: PathBuf,
    rootfs: PathBuf,
    ignored_mount_points: Globs,
    ignored_types: Globs,
    patience: Duration,
    aside: Aside<PathBuf, io::Result<Usage>>,
}

impl Filesystem {
    /// Filesystems below the settings' `rootfs`, asked with `statfs`, which may hang; its answers are waited for as long as `patience`.
    pub fn new(
        settings: &Settings,
        patience: Duration,
        statfs: impl Fn(&Path) -> io::Result<Usage> + Send + Sync + 'static,
    ) -> Self {
        Self {
            procfs: settings.procfs.clone(),
            rootfs: settings.rootfs.clone(),
            ignored_mount_points: settings.ignored_mount_points.clone(),
            ignored_types: settings.ignored_filesystem_types.clone(),
            patience,
            aside: Aside::new("filesystem", move |path: &PathBuf| statfs(path)),
        }
    }

    fn mounts(&self) -> Result<Vec<Mount>, CollectError> {
        let mut mounts: Vec<Mount> = Vec::new();
        for mount in parse(&list(&self.procfs)?, &self.rootfs) {
            let ignored = self.ignored_mount_points.matches(&mount.point) || self.ignored_types.matches(&mount.kind);
            // Binding a directory to itself gives the same line again: one series.
            if !ignored && !mounts.iter().any(|known| known.labels() == mount.labels()) {
                mounts.push(mount);
            }
        }
        Ok(mounts)
    }
}

impl Collector for Filesystem {
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(async move {
            let mounts = self.mounts()?;
            let answers = self.aside.ask(mounts.iter().map(|mount| mount.path.clone()), self.patience).await;
            for mount in &mounts {
                let usage = answers.get(&mount.path).and_then(|answer| answer.as_ref().ok());
                mount.push(usage, batch);
            }
            Ok(())
        })
    }
}

/// The mounts of process 1, or ours where that one's cannot be seen (`hidepid`, a container without the host's procfs).
fn list(procfs: &Path) -> Result<Vec<u8>, CollectError> {
    match files::try_bytes(&procfs.join("1/mounts")) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            files::bytes(&procfs.join("self/mounts"))
        }
        other => other.map_err(|e| files::failure(&procfs.join("1/mounts"), &e)),
    }
}

/// One line of the list.
#[derive(Debug, PartialEq)]
struct Mount {
    device: String,
    point: String,
    kind: String,
    read_only: bool,
    /// Where it is for us; bytes, as a name need not be UTF-8.
    path: PathBuf,
}

impl Mount {
    fn labels(&self) -> (&str, &str, &str) {
        (&self.device, &self.point, &self.kind)
    }

    fn push(&self, usage: Option<&Usage>, batch: &mut Batch) {
        let (device, point, kind) = self.labels();
        let labels = || Labels::none().with("device", device).with("mountpoint", point).with("fstype", kind);
        batch.push(&DEVICE_ERROR, labels(), f64::from(u8::from(usage.is_none())));
        let Some(usage) = usage else { return };
        batch.push(&SIZE, labels(), usage.size);
        batch.push(&FREE, labels(), usage.free);
        batch.push(&AVAILABLE, labels(), usage.available);
        batch.push(&FILES, labels(), usage.files);
        batch.push(&FILES_FREE, labels(), usage.files_free);
        batch.push(&READ_ONLY, labels(), f64::from(u8::from(self.read_only)));
    }
}

/// The lines of a mounts file (fstab(5)) as seen below `rootfs`. A line with fewer than four fields is not one of the kernel's.
fn parse(list: &[u8], rootfs: &Path) -> Vec<Mount> {
    let of_line = |line: &[u8]| {
        let mut fields = line.split(|&b| b == b' ').map(unescaped);
        let (device, point, kind, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let point = below(rootfs, PathBuf::from(OsString::from_vec(point)));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Some(Mount {
            device: text(device),
            kind: text(kind),
            read_only: options.split(|&b| b == b',').any(|option| option == b"ro"),
            path: rootfs.join(point.strip_prefix("/").unwrap_or(&point)),
            point: point.to_string_lossy().into_owned(),
        })
    };
    list.split(|&b| b == b'\n').filter_map(of_line).collect()
}

/// The mount point without the prefix that the host's root has in a container.
fn below(rootfs: &Path, point: PathBuf) -> PathBuf {
    match point.strip_prefix(rootfs) {
        Ok(rest) => Path::new("/").join(rest),
        Err(_) => point,
    }
}

/// The kernel writes blank, tab, newline, backslash and hash as `\040`, `\011`, `\012`, `\134`, `\043`.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let octal = |digits: &[u8]| {
        let all = digits.len() == 3 && digits.iter().all(|d| (b'0'..=b'7').contains(d));
        all.then(|| digits.iter().fold(0_u32, |n, d| n * 8 + u32::from(d - b'0'))).and_then(|n| u8::try_from(n).ok())
    };
    let (mut out, mut at) = (Vec::with_capacity(field.len()), 0);
    while let Some(&byte) = field.get(at) {
        let escaped = if byte == b'\\' { field.get(at + 1..at + 4).and_then(octal) } else { None };
        out.push(escaped.unwrap_or(byte));
        at += if escaped.is_some() { 4 } else { 1 };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Condvar, Mutex};
    use std::time::Instant;

    const PATIENCE: Duration = Duration::from_millis(800);

    const MOUNTS: &str = "\
/dev/sda1 / ext4 rw,relatime 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /mnt/with\\040blank\\011tab ext4 ro,nosuid 0 0
/dev/sda1 / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
broken
";

    fn settings(folder: &Path) -> Settings {
        std::fs::create_dir_all(folder.join("1")).expect("a folder");
        std::fs::write(folder.join("1/mounts"), MOUNTS).expect("written");
        Settings {
            collectors: Vec::new(),
            store: Globs::all(),
            procfs: folder.to_owned(),
            sysfs: "/nowhere".into(),
            rootfs: "/".into(),
            ignored_mount_points: Globs::new(["/proc"]),
            ignored_filesystem_types: Globs::new(["tmpfs"]),
            ignored_network_devices: Globs::all(),
            ignored_block_devices: Globs::all(),
        }
    }

    fn usage() -> Usage {
        Usage { size: 100.0, free: 50.0, available: 40.0, files: 10.0, files_free: 5.0 }
    }

    async fn shown(collector: &mut Filesystem) -> Vec<String> {
        let mut batch = Batch::new(Timestamp::from_millis(0));
        collector.collect(&mut batch).await.expect("mounts");
        let family = |f: &crate::sample::Family| {
            let name = f.name.trim_start_matches("node_filesystem_").to_owned();
            let line = move |s: &crate::sample::Sample| {
                format!("{name} {} {}", s.labels.get("mountpoint").unwrap_or_default(), s.value)
            };
            f.samples.iter().map(line).collect::<Vec<_>>()
        };
        batch.families.iter().flat_map(family).collect()
    }

    /// node_exporter#244, #475, #868: a hung mount costs its own series; it is never asked by two threads.
    #[tokio::test]
    async fn a_hung_mount_harms_only_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let door = Arc::new((Mutex::new(false), Condvar::new()));
        let asked = Arc::new(AtomicUsize::new(0));
        let (held, count) = (door.clone(), asked.clone());
        let mut collector = Filesystem::new(&settings(folder.path()), PATIENCE, move |path| {
            if path == Path::new("/home") {
                count.fetch_add(1, Ordering::SeqCst);
                drop(held.1.wait_while(held.0.lock().expect("lock"), |open| !*open).expect("lock"));
            }
            Ok(usage())
        });
        let before = Instant::now();
        let first = shown(&mut collector).await;
        assert!(before.elapsed() < PATIENCE * 2, "{:?}", before.elapsed());
        assert_eq!(first.iter().filter(|line| line.contains(" /home ")).collect::<Vec<_>>(), ["device_error /home 1"]);
        for line in ["device_error / 0", "size_bytes / 100", "readonly / 0", "readonly /mnt/with blank\ttab 1"] {
            assert!(first.iter().any(|l| l == line), "{line} in {first:#?}");
        }
        for _ in 0..3 {
            let before = Instant::now();
            assert_eq!(shown(&mut collector).await, first);
            assert!(before.elapsed() < PATIENCE, "a mount known to hang is not waited for");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);

        *door.0.lock().expect("lock") = true;
        door.1.notify_all();
        let limit = Instant::now() + Duration::from_secs(10);
        while !shown(&mut collector).await.iter().any(|line| line == "avail_bytes /home 40") {
            assert!(Instant::now() < limit, "the mount is asked again once it answers");
        }
    }

    #[tokio::test]
    async fn a_mount_that_refuses_shows_an_error_and_no_figures() {
        let folder = tempfile::tempdir().expect("a folder");
        let refuse = |path: &Path| match path.to_str() {
            Some("/home") => Err(io::Error::from_raw_os_error(116)),
            _ => Ok(usage()),
        };
        let lines = shown(&mut Filesystem::new(&settings(folder.path()), PATIENCE, refuse)).await;
        assert_eq!(lines.iter().filter(|line| line.contains(" /home ")).collect::<Vec<_>>(), ["device_error /home 1"]);
        assert_eq!(lines.len(), 1 + 7 + 7, "duplicates, ignored and broken lines are out: {lines:#?}");
    }

    #[tokio::test]
    async fn own_mounts_stand_in_and_no_mounts_are_a_failure() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut collector = Filesystem::new(&settings(folder.path()), PATIENCE, |_| Ok(usage()));
        std::fs::rename(folder.path().join("1"), folder.path().join("self")).expect("renamed");
        assert_eq!(shown(&mut collector).await.len(), 21);
        std::fs::remove_file(folder.path().join("self/mounts")).expect("removed");
        let error = collector.collect(&mut Batch::new(Timestamp::from_millis(0))).await.expect_err("no list");
        assert!(error.to_string().contains("self/mounts"), "{error}");
    }

    #[test]
    fn escapes_and_prefixes() {
        assert_eq!(unescaped(b"a\\040b\\134\\043\\999\\04"), b"a b\\#\\999\\04");
        let points = |rootfs: &str| {
            let list = b"d /host ext4 rw 0 0\nd /host/var ext4 rw 0 0\nd /hostage ext4 rw 0 0\nd / ext4 rw 0 0\n";
            let of = |m: Mount| format!("{} {}", m.point, m.path.display());
            parse(list, Path::new(rootfs)).into_iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(points("/host"), ["/ /host/", "/var /host/var", "/hostage /host/hostage", "/ /host/"]);
        assert_eq!(points("/"), ["/host /host", "/host/var /host/var", "/hostage /hostage", "/ /"]);
    }
}
