//! The load averages of `/proc/loadavg`.

use std::path::Path;

use super::{files, gauge};
use crate::sample::{Batch, Desc, Labels};
use crate::scrape::CollectError;

/// The families of this collector, in the order of the file's fields.
pub const METRICS: &[Desc] = &[
    gauge("node_load1", "1", "1m load average."),
    gauge("node_load5", "1", "5m load average."),
    gauge("node_load15", "1", "15m load average."),
];

/// Adds what is there now.
pub fn read(procfs: &Path, batch: &mut Batch) -> Result<(), CollectError> {
    let path = procfs.join("loadavg");
    let text = files::text(&path)?;
    let mut words = text.lines().next().unwrap_or_default().split_whitespace();
    for desc in METRICS {
        let value = words.next().and_then(|word| word.parse::<f64>().ok());
        let value = value.ok_or_else(|| files::malformed(&path, "fewer than three numbers"))?;
        batch.push(desc, Labels::none(), value);
    }
    Ok(())
}
