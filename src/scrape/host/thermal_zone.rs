//! The kernel's own view of temperatures and of what cools them (`/sys/class/thermal`).
//!
//! Zones are asked through [`Aside`]: some firmware answers slowly, some never. Those without a value now are left out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::aside::Aside;
use super::{files, gauge};
use crate::sample::{Batch, Desc, Labels};
use crate::scrape::{CollectError, Collector};
use crate::task::Pending;

/// The families of this collector.
pub const METRICS: &[Desc] = &[TEMPERATURE, CURRENT_STATE, MAX_STATE];

const TEMPERATURE: Desc = gauge("node_thermal_zone_temp", "celsius", "Zone temperature in Celsius");
const CURRENT_STATE: Desc = gauge("node_cooling_device_cur_state", "1", "Current throttle state of the cooling device");
const MAX_STATE: Desc = gauge("node_cooling_device_max_state", "1", "Maximum throttle state of the cooling device");

const ZONE: &str = "thermal_zone";
const DEVICE: &str = "cooling_device";

/// The collector.
pub struct ThermalZone {
    class: PathBuf,
    patience: Duration,
    aside: Aside<PathBuf, Vec<Reading>>,
}

type Reading = (&'static Desc, Labels, f64);

impl ThermalZone {
    /// Reads `sysfs`; a zone is waited for as long as `patience`.
    pub fn new(sysfs: &Path, patience: Duration) -> Self {
        let aside = Aside::new("thermal_zone", |folder: &PathBuf| readings(folder));
        Self { class: sysfs.join("class/thermal"), patience, aside }
    }
}

impl Collector for ThermalZone {
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(async move {
            let mut names = files::numbered(&self.class, ZONE)?;
            names.extend(files::numbered(&self.class, DEVICE)?);
            let folders: Vec<_> = names.iter().map(|name| self.class.join(name)).collect();
            let mut said = self.aside.ask(folders.iter().cloned(), self.patience).await;
            for (desc, labels, value) in folders.iter().filter_map(|folder| said.remove(folder)).flatten() {
                batch.push(desc, labels, value);
            }
            Ok(())
        })
    }
}

/// What the folder of a zone or of a cooling device says.
fn readings(folder: &Path) -> Vec<Reading> {
    let name = folder.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let kind = files::sensor(&folder.join("type")).unwrap_or_default();
    let number = |file: &str| files::sensor_number(&folder.join(file));
    if let Some(zone) = name.strip_prefix(ZONE) {
        let labels = Labels::none().with("zone", zone).with("type", kind);
        return number("temp").map(|millis| (&TEMPERATURE, labels, millis / 1000.0)).into_iter().collect();
    }
    let labels = Labels::none().with("name", name.trim_start_matches(DEVICE)).with("type", kind);
    match (number("cur_state"), number("max_state")) {
        (Some(current), Some(max)) => {
            vec![(&CURRENT_STATE, labels.clone(), current), (&MAX_STATE, labels, max)]
        }
        _ => Vec::new(),
    }
}
