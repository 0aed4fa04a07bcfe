//! The host's own numbers under node_exporter's names, types, labels and helps, so that the dashboards people have go on working.
//!
//! One file is one collector is one source. The words follow node_exporter 1.5 (what Debian 12 ships); a test runs it beside us and
//! compares. Every path hangs below `procfs`, `sysfs` and `rootfs`, so a container can look at its host and a test at a
//! made-up one.
//!
//! *What may hang.* `/proc` and the counters in `/sys` are kernel memory: reading them costs microseconds and asks no device, so it
//! happens where the collector is polled. `statfs` asks a filesystem, perhaps one whose server is gone, and `hwmon` and
//! `thermal_zone` ask drivers that talk over slow buses: these are asked from threads of [`aside`], where a question without an
//! answer costs its own series and nobody else's.
//!
//! *What is missing.* A kernel without PSI, a machine without sensors, a container without `/sys`: the collector has nothing and is
//! well, as node_exporter's is. A file that every kernel has but that cannot be read is a failure that names the path.
//!
//! *Why not every parser of the `procfs` crate.* Its types for network devices, disks and the own process are used. The others lose
//! what node_exporter shows: CPU numbers (an offline CPU shifts them) and the interrupt count of `/proc/stat`, unknown fields of
//! `/proc/meminfo`, the digits of `/proc/loadavg` (`f32`: 0.14 becomes 0.14000000059604645), and PSI before Linux 5.13, whose
//! `cpu` file has no `full` line.

pub mod aside;
pub mod cpu;
pub mod diskstats;
pub mod files;
pub mod filesystem;
pub mod hwmon;
pub mod loadavg;
pub mod meminfo;
pub mod netdev;
pub mod pressure;
pub mod process;
pub mod stat;
pub mod thermal_zone;
pub mod time;
pub mod uname;
pub mod vmstat;
pub mod zone;

use std::path::PathBuf;
use std::time::Duration;

use crate::sample::globs::Globs;
use crate::sample::{Batch, Desc, Kind};
use crate::scrape::{CollectError, Collector, Source};
use crate::task::Pending;

/// The names of all collectors, in the order in which they are documented.
pub const COLLECTORS: &[&str] = &[
    "cpu",
    "diskstats",
    "filesystem",
    "hwmon",
    "loadavg",
    "meminfo",
    "netdev",
    "pressure",
    "process",
    "stat",
    "thermal_zone",
    "time",
    "uname",
    "vmstat",
];

/// The families of all collectors, in the order of [`COLLECTORS`].
pub const METRICS: &[Desc] = &joined();

const PARTS: &[&[Desc]] = &[
    cpu::METRICS,
    diskstats::METRICS,
    filesystem::METRICS,
    hwmon::METRICS,
    loadavg::METRICS,
    meminfo::METRICS,
    netdev::METRICS,
    pressure::METRICS,
    process::METRICS,
    stat::METRICS,
    thermal_zone::METRICS,
    time::METRICS,
    uname::METRICS,
    vmstat::METRICS,
];

/// The `[scrape.host]` section.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which of [`COLLECTORS`] run.
    pub collectors: Vec<String>,
    /// Which series are written to the table.
    pub store: Globs,
    /// Where procfs is mounted (`/proc`; `/host/proc` in a container).
    pub procfs: PathBuf,
    /// Where sysfs is mounted.
    pub sysfs: PathBuf,
    /// Where the host's root is mounted: filesystems are measured below it.
    pub rootfs: PathBuf,
    /// Mount points that are left out.
    pub ignored_mount_points: Globs,
    /// Filesystem types that are left out (network filesystems by default: a hung server hangs `statfs`).
    pub ignored_filesystem_types: Globs,
    /// Network devices that are left out.
    pub ignored_network_devices: Globs,
    /// Block devices that are left out.
    pub ignored_block_devices: Globs,
}

/// One source per enabled collector, under the collector's name. Names that are not in [`COLLECTORS`] are the configuration's to
/// refuse; here they make no source.
pub fn sources(settings: &Settings, interval: Duration, timeout: Duration) -> Vec<Source> {
    COLLECTORS
        .iter()
        .filter(|name| settings.collectors.iter().any(|enabled| enabled == *name))
        .filter_map(|name| {
            let store = settings.store.clone();
            let collector = collector(name, settings, patience(timeout))?;
            Some(Source { name: (*name).to_owned(), interval, timeout, store, remote: false, collector })
        })
        .collect()
}

/// How long filesystems and sensors may think. Half of the source's time, so that the others are still shown when one
/// does not answer; 5 s is node_exporter's `mount-timeout`.
fn patience(timeout: Duration) -> Duration {
    (timeout / 2).min(Duration::from_secs(5))
}

fn collector(name: &str, settings: &Settings, patience: Duration) -> Option<Box<dyn Collector>> {
    let (proc, sys) = (settings.procfs.clone(), settings.sysfs.clone());
    Some(match name {
        "cpu" => {
            let mut cpu = cpu::Cpu::new(proc, sys);
            inline(move |batch| cpu.read(batch))
        }
        "diskstats" => {
            let (root, ignored) = (settings.rootfs.clone(), settings.ignored_block_devices.clone());
            inline(move |batch| diskstats::read(&proc, &root, &ignored, batch))
        }
        "filesystem" => Box::new(filesystem::Filesystem::new(settings, patience, filesystem::statfs)),
        "hwmon" => Box::new(hwmon::Hwmon::new(&sys, patience)),
        "loadavg" => inline(move |batch| loadavg::read(&proc, batch)),
        "meminfo" => inline(move |batch| meminfo::read(&proc, batch)),
        "netdev" => {
            let ignored = settings.ignored_network_devices.clone();
            inline(move |batch| netdev::read(&proc, &sys, &ignored, batch))
        }
        "pressure" => inline(move |batch| pressure::read(&proc, batch)),
        "process" => inline(move |batch| process::read(&proc, batch)),
        "stat" => inline(move |batch| stat::read(&proc, batch)),
        "thermal_zone" => Box::new(thermal_zone::ThermalZone::new(&sys, patience)),
        "time" => {
            let root = settings.rootfs.clone();
            inline(move |batch| time::read(&sys, &root, batch))
        }
        "uname" => inline(uname::read),
        "vmstat" => inline(move |batch| vmstat::read(&proc, batch)),
        _ => return None,
    })
}

/// A collector that never waits: it runs where it is polled.
struct Inline<F>(F);

fn inline<F>(read: F) -> Box<dyn Collector>
where
    F: FnMut(&mut Batch) -> Result<(), CollectError> + Send + 'static,
{
    Box::new(Inline(read))
}

impl<F> Collector for Inline<F>
where
    F: FnMut(&mut Batch) -> Result<(), CollectError> + Send,
{
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(async move { (self.0)(batch) })
    }
}

const fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Desc {
    Desc { name, kind: Kind::Counter, unit, help }
}

const fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Desc {
    Desc { name, kind: Kind::Gauge, unit, help }
}

const fn joined() -> [Desc; count()] {
    let mut all = [cpu::METRICS[0]; count()];
    let (mut part, mut at) = (0, 0);
    while part < PARTS.len() {
        let mut one = 0;
        while one < PARTS[part].len() {
            all[at] = PARTS[part][one];
            (at, one) = (at + 1, one + 1);
        }
        part += 1;
    }
    all
}

const fn count() -> usize {
    let (mut sum, mut part) = (0, 0);
    while part < PARTS.len() {
        sum += PARTS[part].len();
        part += 1;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(collectors: &[&str]) -> Settings {
        Settings {
            collectors: collectors.iter().map(|&c| c.to_owned()).collect(),
            store: Globs::all(),
            procfs: "/proc".into(),
            sysfs: "/sys".into(),
            rootfs: "/".into(),
            ignored_mount_points: Globs::new(["/proc/*"]),
            ignored_filesystem_types: Globs::new(["nfs*"]),
            ignored_network_devices: Globs::new(["lo"]),
            ignored_block_devices: Globs::new(["loop*"]),
        }
    }

    #[test]
    fn every_documented_collector_exists_and_no_other() {
        let timeout = Duration::from_secs(10);
        let all = sources(&settings(COLLECTORS), Duration::from_secs(60), timeout);
        assert_eq!(all.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), COLLECTORS);
        assert_eq!(PARTS.len(), COLLECTORS.len());
        assert!(sources(&settings(&["nonsense"]), Duration::from_secs(60), timeout).is_empty());
    }

    #[test]
    fn a_family_is_described_once() {
        let mut names: Vec<_> = METRICS.iter().map(|d| d.name).collect();
        names.sort_unstable();
        let before = names.len();
        names.dedup();
        assert_eq!(names.len(), before);
        for desc in METRICS {
            assert_eq!(desc.kind == Kind::Counter, desc.name.ends_with("_total"), "{}", desc.name);
            assert!(!desc.help.is_empty() && !desc.unit.is_empty(), "{}", desc.name);
        }
    }
}
