//! The kernel's other totals in `/proc/stat`.

use std::path::Path;

use super::{counter, files, gauge};
use crate::sample::{Batch, Desc, Labels};
use crate::scrape::CollectError;

/// The families of this collector.
pub const METRICS: &[Desc] = &[INTERRUPTS, CONTEXT_SWITCHES, FORKS, BOOT_TIME, RUNNING, BLOCKED];

const INTERRUPTS: Desc = counter("node_intr_total", "interrupts", "Total number of interrupts serviced.");
const CONTEXT_SWITCHES: Desc = counter("node_context_switches_total", "switches", "Total number of context switches.");
const FORKS: Desc = counter("node_forks_total", "forks", "Total number of forks.");
const BOOT_TIME: Desc = gauge("node_boot_time_seconds", "seconds", "Node boot time, in unixtime.");
const RUNNING: Desc = gauge("node_procs_running", "processes", "Number of processes in runnable state.");
const BLOCKED: Desc =
    gauge("node_procs_blocked", "processes", "Number of processes blocked waiting for I/O to complete.");

/// Adds what is there now.
pub fn read(procfs: &Path, batch: &mut Batch) -> Result<(), CollectError> {
    let path = procfs.join("stat");
    for line in files::text(&path)?.lines() {
        let mut words = line.split_whitespace();
        let desc = match words.next() {
            Some("intr") => &INTERRUPTS,
            Some("ctxt") => &CONTEXT_SWITCHES,
            Some("processes") => &FORKS,
            Some("btime") => &BOOT_TIME,
            Some("procs_running") => &RUNNING,
            Some("procs_blocked") => &BLOCKED,
            _ => continue,
        };
        let value = words.next().and_then(|word| word.parse::<u64>().ok());
        let value = value.ok_or_else(|| files::malformed(&path, format_args!("no number for `{}`", desc.name)))?;
        batch.push(desc, Labels::none(), value as f64);
    }
    Ok(())
}

/// When the system was booted, in seconds since 1970.
pub fn boot_time(procfs: &Path) -> Result<f64, CollectError> {
    let path = procfs.join("stat");
    let text = files::text(&path)?;
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
    seconds.ok_or_else(|| files::malformed(&path, "no `btime`"))
}
