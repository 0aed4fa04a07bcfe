//! The host's own numbers under node_exporter's names, types and labels.

use std::path::PathBuf;

use crate::sample::globs::Globs;

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
