//! The host collectors beside the real node_exporter, live and over a made-up host, and a golden page of that host.
//!
//! `UPDATE_GOLDEN=1 cargo test --test it host::` writes the golden page anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atlas_sidecar::clock::{Clock, Timestamp};
use atlas_sidecar::sample::Batch;
use atlas_sidecar::sample::globs::Globs;
use atlas_sidecar::scrape::host::filesystem::{Filesystem, Usage};
use atlas_sidecar::scrape::host::zone::Zone;
use atlas_sidecar::scrape::host::{COLLECTORS, Settings, sources};
use atlas_sidecar::scrape::{Collector, Source};

use crate::support;

/// A page as both sides have it: kind and help per family, value per labels per family.
#[derive(Debug, Default)]
struct Page {
    families: BTreeMap<String, (String, String)>,
    series: BTreeMap<String, BTreeMap<String, f64>>,
}

impl Page {
    /// From node_exporter's text 0.0.4; only the families that our collectors cover.
    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let own =
            |name: &str| ["go_", "promhttp_", "node_exporter_", "node_scrape_"].iter().any(|p| name.starts_with(p));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
                page.families.entry(name.to_owned()).or_default().1 = help.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                page.families.entry(name.to_owned()).or_default().0 = kind.to_owned();
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                page.add(name, parse_labels(labels), value.parse().unwrap());
            }
        }
        page.families.retain(|name, _| !own(name));
        page.series.retain(|name, _| !own(name));
        page
    }

    /// From our own batch.
    fn of(batch: &Batch) -> Self {
        let mut page = Self::default();
        for family in &batch.families {
            page.families.insert(family.name.to_string(), (family.kind.to_string(), family.help.to_string()));
            for sample in &family.samples {
                let labels = sample.labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
                page.add(&family.name, labels, sample.value);
            }
        }
        page
    }

    fn add(&mut self, name: &str, labels: BTreeMap<String, String>, value: f64) {
        let labels: Vec<_> = labels.iter().filter(|(_, v)| !v.is_empty()).map(|(n, v)| format!("{n}={v:?}")).collect();
        let before = self.series.entry(name.to_owned()).or_default().insert(labels.join(","), value);
        assert_eq!(before, None, "{name}{{{}}} is there twice", labels.join(","));
    }

    fn retain(&mut self, keep: impl Fn(&str, &str) -> bool) {
        for (name, series) in &mut self.series {
            series.retain(|labels, _| keep(name, labels));
        }
        self.series.retain(|_, series| !series.is_empty());
        let left = &self.series;
        self.families.retain(|name, _| left.contains_key(name));
    }

    /// Text 0.0.4, sorted.
    fn text(&self) -> String {
        let mut text = String::new();
        for (name, (kind, help)) in &self.families {
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
            for (labels, value) in &self.series[name] {
                let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
                text.push_str(&format!("{name}{labels} {value}\n"));
            }
        }
        text
    }
}

/// The labels of `a="b",c="d"}` with their escapes.
fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let (mut value, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            match chars.next().expect("a closing quote") {
                (at, '"') => break at,
                (_, '\\') => match chars.next().expect("an escaped character").1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, c) => value.push(c),
            }
        };
        labels.insert(name.trim_start_matches(',').to_owned(), value);
        rest = &after[end + 1..];
    }
    labels
}

/// A running node_exporter; killed by its own handle when dropped.
struct NodeExporter {
    child: Child,
    address: std::net::SocketAddr,
}

impl NodeExporter {
    fn start(flags: &[String]) -> Self {
        let address = support::free_address();
        let ours = COLLECTORS.iter().filter(|name| **name != "process").map(|name| format!("--collector.{name}"));
        let child = Command::new("prometheus-node-exporter")
            .arg(format!("--web.listen-address={address}"))
            .arg("--collector.disable-defaults")
            .args(ours)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| {
                panic!("`prometheus-node-exporter` does not start ({e}): the README's test command installs it")
            });
        let exporter = Self { child, address };
        support::wait_for("node_exporter", Duration::from_secs(30), || support::get(address, "/"));
        exporter
    }

    fn page(&self) -> Page {
        let answer = support::get(self.address, "/metrics").expect("node_exporter answers");
        assert_eq!(answer.status, 200, "{}", answer.text());
        Page::parse(&answer.text())
    }
}

impl Drop for NodeExporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn settings(procfs: &Path, sysfs: &Path, rootfs: &Path) -> Settings {
    Settings {
        collectors: COLLECTORS.iter().map(|&name| name.to_owned()).collect(),
        store: Globs::all(),
        procfs: procfs.to_owned(),
        sysfs: sysfs.to_owned(),
        rootfs: rootfs.to_owned(),
        ignored_mount_points: Globs::new(["/dev", "/dev/*", "/proc", "/proc/*", "/sys", "/sys/*", "/var/lib/docker/*"]),
        ignored_filesystem_types: Globs::new(["proc", "sysfs", "devpts", "cgroup*", "overlay", "squashfs", "nsfs"]),
        ignored_network_devices: Globs::new(["lo"]),
        ignored_block_devices: Globs::new(["loop*", "ram*"]),
    }
}

/// The same exclusions for node_exporter.
fn exclusions() -> Vec<String> {
    [
        "--collector.filesystem.mount-points-exclude=^(/dev|/dev/.*|/proc|/proc/.*|/sys|/sys/.*|/var/lib/docker/.*)$",
        "--collector.filesystem.fs-types-exclude=^(proc|sysfs|devpts|cgroup.*|overlay|squashfs|nsfs)$",
        "--collector.netdev.device-exclude=^lo$",
        "--collector.diskstats.device-exclude=^(loop|ram).*$",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn host() -> Vec<Source> {
    let settings = settings("/proc".as_ref(), "/sys".as_ref(), "/".as_ref());
    sources(&settings, Duration::from_secs(60), Duration::from_secs(10))
}

fn fixture(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/host").join(part)
}

fn made_up() -> Settings {
    settings(&fixture("proc"), &fixture("sys"), &fixture("root"))
}

async fn collect(sources: &mut [Source], at: Timestamp) -> Page {
    let mut batch = Batch::new(at);
    for source in sources {
        source.collector.collect(&mut batch).await.unwrap_or_else(|e| panic!("{}: {e}", source.name));
    }
    Page::of(&batch)
}

/// Where we differ from node_exporter 1.5 on purpose: name or prefix of the family, part of the labels, why.
const INTENDED: [(&str, &str, &str); 5] = [
    ("node_cpu_", "cpu=\"2\"", "it shows an offline CPU between others as one that never did anything, we show none"),
    ("node_time_zone_offset_seconds", "", "over the fixture root ours is that root's zone, its own is this machine's"),
    (
        "node_disk_info",
        "device=\"sda\"",
        "the serial printed on the disk (SCSI_IDENT_SERIAL), as node_exporter from 1.6 on",
    ),
    ("node_network_receive_nohandler_total", "", "it has it only from netlink, which no fixture can stand for"),
    ("node_filesystem_", "fstype=\"fuse", "it multiplies by f_bsize what is counted in f_frsize"),
];

fn without_intended(mut page: Page, differences: &[&str]) -> Page {
    page.retain(|name, labels| {
        !INTENDED
            .iter()
            .any(|(family, part, _)| differences.contains(family) && name.starts_with(family) && labels.contains(part))
    });
    page
}

fn assert_same_shape(ours: &Page, theirs: &Page) {
    let names = |page: &Page| page.families.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(ours), names(theirs));
    for (name, family) in &theirs.families {
        assert_eq!(&ours.families[name], family, "kind and help of {name}");
        let labels = |page: &Page| page.series[name].keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(labels(ours), labels(theirs), "labels of {name}");
    }
}

/// The figures are about two different processes.
fn is_own_process(name: &str) -> bool {
    name.starts_with("process_")
}

/// How much a gauge may differ between two looks a second apart, on a machine that compiles meanwhile.
fn slack(name: &str, value: f64) -> f64 {
    match name {
        "node_load1" | "node_load5" | "node_load15" => 2.0,
        "node_procs_running" | "node_procs_blocked" | "node_disk_io_now" => 100.0,
        "node_boot_time_seconds" => 1.0,
        "node_time_seconds" => 0.1,
        "node_filesystem_files_free" => 100_000.0,
        // Read at another instant than ours; iowait may also step back, which both sides hold at their own last value.
        "node_cpu_seconds_total" => 0.1,
        "node_filesystem_avail_bytes" | "node_filesystem_free_bytes" => value.abs() * 0.25 + f64::from(1 << 30),
        name if name.starts_with("node_memory_HugePages") => 0.0,
        name if name.starts_with("node_memory_") => value.abs() * 0.25 + f64::from(1 << 30),
        name if name.starts_with("node_hwmon_") || name.starts_with("node_thermal_") => value.abs() * 0.5 + 5.0,
        _ => 0.0,
    }
}

#[tokio::test]
async fn we_show_what_node_exporter_shows() {
    let exporter = NodeExporter::start(&exclusions());
    let clock = Clock::system();
    let mut sources = host();
    let differences = ["node_filesystem_"];
    let before = without_intended(collect(&mut sources, clock.now()).await, &differences);
    let theirs = without_intended(exporter.page(), &differences);
    let after = without_intended(collect(&mut sources, clock.now()).await, &differences);
    assert_same_shape(&after, &theirs);
    assert!(after.families.len() > 100, "{}", after.families.len());
    for (name, series) in theirs.series.iter().filter(|(name, _)| !is_own_process(name)) {
        for (labels, value) in series {
            let (a, b) = (before.series[name][labels], after.series[name][labels]);
            let (low, high) = (a.min(b) - slack(name, a), a.max(b) + slack(name, b));
            // One side divides by a thousand where the other multiplies by 0.001.
            let rounding = value.abs() * 1e-9;
            assert!(
                (low - rounding..=high + rounding).contains(value),
                "{name}{{{labels}}}: theirs {value}, ours {a} before and {b} after"
            );
        }
    }
    let own = |name: &str| after.series[name][""];
    assert!((1e6..1e10).contains(&own("process_resident_memory_bytes")), "{}", own("process_resident_memory_bytes"));
    assert!((3.0..=own("process_max_fds")).contains(&own("process_open_fds")));
    let age = clock.now().seconds() - own("process_start_time_seconds");
    assert!((-2.0..3600.0).contains(&age), "this test runs for {age} s");
}

/// What this machine lacks (sensors, odd disks, an offline CPU) is compared over a made-up host that has it.
#[tokio::test]
async fn we_show_what_node_exporter_shows_of_the_fixture_host() {
    let mut flags = exclusions();
    flags.extend(["proc", "sys", "root"].map(|part| format!("--path.{part}fs={}", fixture(part).display())));
    flags.push(format!("--path.udev.data={}", fixture("root/run/udev/data").display()));
    flags.push("--no-collector.netdev.netlink".to_owned());
    let exporter = NodeExporter::start(&flags);
    let mut sources = sources(&made_up(), Duration::from_secs(60), Duration::from_secs(10));
    let differences: Vec<_> = INTENDED.iter().map(|(family, ..)| *family).collect();
    let ours = without_intended(collect(&mut sources, Clock::system().now()).await, &differences);
    let theirs = without_intended(exporter.page(), &differences);
    assert_same_shape(&ours, &theirs);
    for (name, series) in theirs.series.iter().filter(|(name, _)| !is_own_process(name)) {
        // What is asked of the running kernel moves; everything else stands in a file.
        let moves = name == "node_time_seconds"
            || name.ends_with("_free")
            || name.ends_with("_free_bytes")
            || name.ends_with("_avail_bytes");
        let slack = if moves && !name.starts_with("node_memory_") { slack(name, 1.0).max(2.0) } else { 0.0 };
        for (labels, value) in series {
            let own = ours.series[name][labels];
            assert!((own - value).abs() <= slack + value.abs() * 1e-12, "{name}{{{labels}}}: {own}, theirs {value}");
        }
    }
}

/// The whole page of the fixture host, byte for byte.
#[tokio::test]
async fn the_fixture_host_gives_the_golden_page() {
    let settings = made_up();
    let mut sources = sources(&settings, Duration::from_secs(60), Duration::from_secs(10));
    // Figures of the running kernel: what it is called, and how full its disks are.
    sources.retain(|source| source.name != "uname" && source.name != "filesystem");
    let missing = |path: &Path| match path.ends_with("srv/nas") {
        true => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
        false => Ok(Usage { size: 31e9, free: 21.5e9, available: 20e9, files: 1.9e6, files_free: 1.8e6 }),
    };
    let mut filesystem = Filesystem::new(&settings, Duration::from_secs(5), missing);
    let at = Timestamp::from_rfc3339("2026-07-01T12:00:00.250Z").unwrap();
    let mut batch = Batch::new(at);
    filesystem.collect(&mut batch).await.unwrap();
    for source in &mut sources {
        source.collector.collect(&mut batch).await.unwrap();
    }
    let mut page = Page::of(&batch);
    // In pages, whose size is the machine's.
    page.retain(|name, _| name != "process_resident_memory_bytes");
    let golden = fixture("golden.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, page.text()).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap();
    for (ours, golden) in page.text().lines().zip(expected.lines()) {
        assert_eq!(ours, golden);
    }
    assert_eq!(page.text(), expected);
}

/// An empty root: whatever a kernel may lack gives nothing, whatever every kernel has is a failure that names its path.
#[tokio::test]
async fn what_a_system_may_lack_is_no_failure() {
    let empty = tempfile::tempdir().unwrap();
    let settings = settings(&empty.path().join("proc"), &empty.path().join("sys"), empty.path());
    for mut source in sources(&settings, Duration::from_secs(60), Duration::from_secs(10)) {
        let mut batch = Batch::new(Timestamp::from_millis(0));
        let result = source.collector.collect(&mut batch).await;
        match source.name.as_str() {
            "hwmon" | "pressure" | "thermal_zone" => {
                assert_eq!((result, batch.len()), (Ok(()), 0), "{}", source.name);
            }
            "time" | "uname" => assert_eq!(result, Ok(()), "{}", source.name),
            _ => {
                let error = result.expect_err(&source.name);
                assert_eq!(error.reason(), "internal");
                assert!(error.to_string().contains(empty.path().to_str().unwrap()), "{}: {error}", source.name);
            }
        }
    }
}

/// Files that say something else than the kernel does: an error, never a panic or a wrong figure.
#[tokio::test]
async fn nonsense_in_procfs_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for nonsense in ["", "x", "cpu0 x\nintr x\n", "1 2\n3 4\n5 6\n", "\u{0}\u{ff}\n \n"] {
        for file in ["stat", "loadavg", "meminfo", "vmstat", "diskstats", "net/dev", "pressure/cpu", "1/mounts"] {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, nonsense).unwrap();
        }
        let settings = settings(folder.path(), folder.path(), folder.path());
        for mut source in sources(&settings, Duration::from_secs(60), Duration::from_secs(10)) {
            let mut batch = Batch::new(Timestamp::from_millis(0));
            if source.collector.collect(&mut batch).await.is_ok() && source.name != "uname" && source.name != "time" {
                assert!(batch.is_empty(), "{} made {:?} of {nonsense:?}", source.name, batch.families);
            }
        }
    }
}

/// Every zone that this machine knows, at instants over 150 years, as `date` reads them.
#[test]
fn zones_agree_with_the_c_library() {
    let folder = Path::new("/usr/share/zoneinfo");
    // Rules north and south of the equator, without summer time, with odd offsets, with winter time as the exception, with a changed mind.
    let zones = [
        "Europe/Berlin",
        "Europe/Dublin",
        "America/New_York",
        "America/Santiago",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "Africa/Casablanca",
        "Pacific/Apia",
        "Pacific/Chatham",
        "Asia/Gaza",
        "America/Nuuk",
        "Etc/UTC",
        "Asia/Tehran",
    ];
    for name in zones {
        let bytes = std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("zone {name}: {e}; package tzdata"));
        let zone = Zone::parse(&bytes).unwrap();
        // Every 97 days and some: all seasons, weekdays and hours come by. To 2100, so beyond any table.
        let instants: Vec<i64> = (-1_500_000_000..4_100_000_000).step_by(8_391_337).collect();
        let said = date(name, &instants);
        for (unix, said) in instants.iter().zip(said.lines()) {
            let (offset, abbreviation) = zone.at(*unix);
            let sign = if offset < 0 { '-' } else { '+' };
            let (h, m, s) = (offset.abs() / 3600, offset.abs() / 60 % 60, offset.abs() % 60);
            assert_eq!(format!("{sign}{h:02}:{m:02}:{s:02} {abbreviation}"), said, "{name} at {unix}");
        }
    }
}

fn date(zone: &str, instants: &[i64]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines: String = instants.iter().map(|unix| format!("@{unix}\n")).collect();
    std::fs::write(file.path(), lines).unwrap();
    let out = Command::new("date").arg("-f").arg(file.path()).arg("+%::z %Z").env("TZ", zone).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The same families every time; and what a whole collection takes is printed, without a limit, as this machine may be busy.
#[tokio::test]
async fn collections_are_alike_and_their_time_is_printed() {
    let mut sources = host();
    let first = collect(&mut sources, Timestamp::from_millis(0)).await;
    let mut spans = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        let page = collect(&mut sources, Timestamp::from_millis(0)).await;
        spans.push(start.elapsed());
        assert_eq!(page.families, first.families);
    }
    spans.sort_unstable();
    println!("a whole host collection took {:?} (median), {:?} (longest)", spans[10], spans[19]);
}
