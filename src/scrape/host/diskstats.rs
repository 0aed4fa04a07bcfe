//! What each block device read, wrote and discarded (`/proc/diskstats`), and what udev knows about it (`/run/udev/data`).

use std::collections::HashMap;
use std::path::Path;

use procfs::{DiskStat, DiskStats, FromBufRead};

use super::{counter, files, gauge};
use crate::sample::globs::Globs;
use crate::sample::{Batch, Desc, Labels};
use crate::scrape::CollectError;

/// The families of this collector: first the file's columns in their order, then what udev knows.
pub const METRICS: &[Desc] = &[
    counter("node_disk_reads_completed_total", "reads", "The total number of reads completed successfully."),
    counter("node_disk_reads_merged_total", "reads", "The total number of reads merged."),
    counter("node_disk_read_bytes_total", "bytes", "The total number of bytes read successfully."),
    counter("node_disk_read_time_seconds_total", "seconds", "The total number of seconds spent by all reads."),
    counter("node_disk_writes_completed_total", "writes", "The total number of writes completed successfully."),
    counter("node_disk_writes_merged_total", "writes", "The number of writes merged."),
    counter("node_disk_written_bytes_total", "bytes", "The total number of bytes written successfully."),
    counter(
        "node_disk_write_time_seconds_total",
        "seconds",
        "This is the total number of seconds spent by all writes.",
    ),
    gauge("node_disk_io_now", "requests", "The number of I/Os currently in progress."),
    counter("node_disk_io_time_seconds_total", "seconds", "Total seconds spent doing I/Os."),
    counter("node_disk_io_time_weighted_seconds_total", "seconds", "The weighted # of seconds spent doing I/Os."),
    counter("node_disk_discards_completed_total", "discards", "The total number of discards completed successfully."),
    counter("node_disk_discards_merged_total", "discards", "The total number of discards merged."),
    counter("node_disk_discarded_sectors_total", "sectors", "The total number of sectors discarded successfully."),
    counter(
        "node_disk_discard_time_seconds_total",
        "seconds",
        "This is the total number of seconds spent by all discards.",
    ),
    counter("node_disk_flush_requests_total", "flushes", "The total number of flush requests completed successfully"),
    counter(
        "node_disk_flush_requests_time_seconds_total",
        "seconds",
        "This is the total number of seconds spent by all flush requests.",
    ),
    INFO,
    FILESYSTEM_INFO,
    MAPPER_INFO,
    ATA_WRITE_CACHE,
    ATA_WRITE_CACHE_ENABLED,
    ATA_ROTATION_RATE,
];

const INFO: Desc = gauge("node_disk_info", "1", "Info of /sys/block/<block_device>.");
const FILESYSTEM_INFO: Desc = gauge("node_disk_filesystem_info", "1", "Info about disk filesystem.");
const MAPPER_INFO: Desc = gauge("node_disk_device_mapper_info", "1", "Info about disk device mapper.");
const ATA_WRITE_CACHE: Desc = gauge("node_disk_ata_write_cache", "1", "ATA disk has a write cache.");
const ATA_WRITE_CACHE_ENABLED: Desc =
    gauge("node_disk_ata_write_cache_enabled", "1", "ATA disk has its write cache enabled.");
const ATA_ROTATION_RATE: Desc =
    gauge("node_disk_ata_rotation_rate_rpm", "rpm", "ATA disk rotation rate in RPMs (0 for SSDs).");

/// A sector of `/proc/diskstats` is 512 bytes on every device (kernel, block/stat.rst).
const SECTOR_BYTES: f64 = 512.0;

/// Adds what is there now.
pub fn read(procfs: &Path, rootfs: &Path, ignored: &Globs, batch: &mut Batch) -> Result<(), CollectError> {
    let path = procfs.join("diskstats");
    let disks = DiskStats::from_buf_read(files::bytes(&path)?.as_slice()).map_err(|e| files::malformed(&path, e))?;
    let udev = rootfs.join("run/udev/data");
    for disk in disks.0.iter().filter(|disk| !ignored.matches(&disk.name)) {
        for (desc, value) in METRICS.iter().zip(values(disk)) {
            // Discards came with Linux 4.18, flushes with 5.5.
            if let Some(value) = value {
                batch.push(desc, device(disk), value);
            }
        }
        let said = files::text_if_there(&udev.join(format!("b{}:{}", disk.major, disk.minor))).unwrap_or_default();
        infos(disk, &Properties::of(said.as_deref().unwrap_or_default()), batch);
    }
    Ok(())
}

fn device(disk: &DiskStat) -> Labels {
    Labels::none().with("device", disk.name.as_str())
}

fn values(d: &DiskStat) -> [Option<f64>; 17] {
    let count = |n: u64| Some(n as f64);
    let bytes = |sectors: u64| Some(sectors as f64 * SECTOR_BYTES);
    let seconds = |millis: u64| Some(millis as f64 / 1000.0);
    [
        count(d.reads),
        count(d.merged),
        bytes(d.sectors_read),
        seconds(d.time_reading),
        count(d.writes),
        count(d.writes_merged),
        bytes(d.sectors_written),
        seconds(d.time_writing),
        count(d.in_progress),
        seconds(d.time_in_progress),
        seconds(d.weighted_time_in_progress),
        d.discards.and_then(count),
        d.discards_merged.and_then(count),
        d.sectors_discarded.and_then(count),
        d.time_discarding.and_then(seconds),
        d.flushes.and_then(count),
        d.time_flushing.and_then(seconds),
    ]
}

/// What does not change while the device is there: the labels that dashboards join on.
fn infos(disk: &DiskStat, udev: &Properties, batch: &mut Batch) {
    // What is printed on the disk, if it says so (node_exporter since 1.6); virtio disks know only `ID_SERIAL`.
    let serial = udev.first(&["SCSI_IDENT_SERIAL", "ID_SERIAL_SHORT", "ID_SERIAL"]);
    let labels = device(disk)
        .with("major", disk.major.to_string())
        .with("minor", disk.minor.to_string())
        .with("path", udev.get("ID_PATH"))
        .with("wwn", udev.get("ID_WWN"))
        .with("model", udev.get("ID_MODEL"))
        .with("serial", serial)
        .with("revision", udev.get("ID_REVISION"));
    batch.push(&INFO, labels, 1.0);

    if !udev.get("ID_FS_TYPE").is_empty() {
        let labels = device(disk)
            .with("type", udev.get("ID_FS_TYPE"))
            .with("usage", udev.get("ID_FS_USAGE"))
            .with("uuid", udev.get("ID_FS_UUID"))
            .with("version", udev.get("ID_FS_VERSION"));
        batch.push(&FILESYSTEM_INFO, labels, 1.0);
    }
    if !udev.get("DM_NAME").is_empty() {
        let labels = device(disk)
            .with("name", udev.get("DM_NAME"))
            .with("uuid", udev.get("DM_UUID"))
            .with("vg_name", udev.get("DM_VG_NAME"))
            .with("lv_name", udev.get("DM_LV_NAME"))
            .with("lv_layer", udev.get("DM_LV_LAYER"));
        batch.push(&MAPPER_INFO, labels, 1.0);
    }
    if !udev.get("ID_ATA").is_empty() {
        for (desc, property) in [
            (&ATA_WRITE_CACHE, "ID_ATA_WRITE_CACHE"),
            (&ATA_WRITE_CACHE_ENABLED, "ID_ATA_WRITE_CACHE_ENABLED"),
            (&ATA_ROTATION_RATE, "ID_ATA_ROTATION_RATE_RPM"),
        ] {
            if let Ok(value) = udev.get(property).parse() {
                batch.push(desc, device(disk), value);
            }
        }
    }
}

/// The `E:NAME=value` lines of a device's udev record (udevadm(8)); none where there is no udev.
struct Properties<'a>(HashMap<&'a str, &'a str>);

impl<'a> Properties<'a> {
    fn of(record: &'a str) -> Self {
        Self(record.lines().filter_map(|line| line.strip_prefix("E:")?.split_once('=')).collect())
    }

    fn get(&self, name: &str) -> &'a str {
        self.0.get(name).copied().unwrap_or_default()
    }

    fn first(&self, names: &[&str]) -> &'a str {
        names.iter().map(|name| self.get(name)).find(|value| !value.is_empty()).unwrap_or_default()
    }
}
