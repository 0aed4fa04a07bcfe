//! The sidecar itself, under the names that every Prometheus client uses for its own process.

use std::path::Path;

use procfs::process::{LimitValue, Limits, Stat};
use procfs::{FromBufRead, FromRead};

use super::{counter, files, gauge, stat};
use crate::sample::{Batch, Desc, Labels};
use crate::scrape::CollectError;

/// The families of this collector.
pub const METRICS: &[Desc] =
    &[CPU_SECONDS, OPEN_FDS, MAX_FDS, VIRTUAL_MEMORY, VIRTUAL_MEMORY_MAX, RESIDENT_MEMORY, START_TIME];

const CPU_SECONDS: Desc =
    counter("process_cpu_seconds_total", "seconds", "Total user and system CPU time spent in seconds.");
const OPEN_FDS: Desc = gauge("process_open_fds", "descriptors", "Number of open file descriptors.");
const MAX_FDS: Desc = gauge("process_max_fds", "descriptors", "Maximum number of open file descriptors.");
const VIRTUAL_MEMORY: Desc = gauge("process_virtual_memory_bytes", "bytes", "Virtual memory size in bytes.");
const VIRTUAL_MEMORY_MAX: Desc =
    gauge("process_virtual_memory_max_bytes", "bytes", "Maximum amount of virtual memory available in bytes.");
const RESIDENT_MEMORY: Desc = gauge("process_resident_memory_bytes", "bytes", "Resident memory size in bytes.");
const START_TIME: Desc =
    gauge("process_start_time_seconds", "seconds", "Start time of the process since unix epoch in seconds.");

/// Adds what is there now. `self` names the reader in whichever procfs it looks, also the host's from within a container.
pub fn read(procfs: &Path, batch: &mut Batch) -> Result<(), CollectError> {
    let own = procfs.join("self");
    let (path, ticks) = (own.join("stat"), procfs::ticks_per_second() as f64);
    let now = Stat::from_read(files::bytes(&path)?.as_slice()).map_err(|e| files::malformed(&path, e))?;
    let mut push = |desc, value| batch.push(desc, Labels::none(), value);
    push(&CPU_SECONDS, (now.utime + now.stime) as f64 / ticks);
    push(&VIRTUAL_MEMORY, now.vsize as f64);
    push(&RESIDENT_MEMORY, (now.rss * procfs::page_size()) as f64);
    push(&START_TIME, stat::boot_time(procfs)? + now.starttime as f64 / ticks);

    push(&OPEN_FDS, files::names(&own.join("fd"))?.len() as f64);
    let path = own.join("limits");
    let limits = Limits::from_buf_read(files::bytes(&path)?.as_slice()).map_err(|e| files::malformed(&path, e))?;
    push(&MAX_FDS, soft(limits.max_open_files.soft_limit));
    push(&VIRTUAL_MEMORY_MAX, soft(limits.max_address_space.soft_limit));
    Ok(())
}

/// No limit is the largest number, as in the other clients.
fn soft(limit: LimitValue) -> f64 {
    match limit {
        LimitValue::Unlimited => u64::MAX as f64,
        LimitValue::Value(value) => value as f64,
    }
}
