//! The host's clock: what it says, in which zone, and what it counts by.

use std::path::Path;

use super::{files, gauge, zone};
use crate::sample::{Batch, Desc, Labels};
use crate::scrape::CollectError;

/// The families of this collector.
pub const METRICS: &[Desc] = &[SECONDS, ZONE_OFFSET, AVAILABLE, CURRENT];

const SECONDS: Desc = gauge("node_time_seconds", "seconds", "System time in seconds since epoch (1970).");
const ZONE_OFFSET: Desc = gauge("node_time_zone_offset_seconds", "seconds", "System time zone offset in seconds.");
const AVAILABLE: Desc = gauge(
    "node_time_clocksource_available_info",
    "1",
    "Available clocksources read from '/sys/devices/system/clocksource'.",
);
const CURRENT: Desc = gauge(
    "node_time_clocksource_current_info",
    "1",
    "Current clocksource read from '/sys/devices/system/clocksource'.",
);

/// Adds what is there now; the time is the batch's own.
pub fn read(sysfs: &Path, rootfs: &Path, batch: &mut Batch) -> Result<(), CollectError> {
    let now = batch.at;
    batch.push(&SECONDS, Labels::none(), now.seconds());
    let (offset, name) = zone::local(rootfs, now.millis().div_euclid(1000));
    batch.push(&ZONE_OFFSET, Labels::none().with("time_zone", name), f64::from(offset));

    let folder = sysfs.join("devices/system/clocksource");
    for (at, device) in files::numbered(&folder, "clocksource")?.iter().enumerate() {
        let labels = |source: &str| Labels::none().with("device", at.to_string()).with("clocksource", source);
        let said = |name: &str| files::text(&folder.join(device).join(name));
        for source in said("available_clocksource")?.split_whitespace() {
            batch.push(&AVAILABLE, labels(source), 1.0);
        }
        batch.push(&CURRENT, labels(said("current_clocksource")?.trim()), 1.0);
    }
    Ok(())
}
