//! What each CPU spent its time on (`/proc/stat`), and how often it was too hot (`/sys/devices/system/cpu`).
//!
//! The kernel's figures are not quite counters: idle and iowait step back a little on tickless kernels, and start again when a CPU
//! comes back online. A step back shown as it is would be a counter reset, and `rate()` would show hundreds of seconds per second. So, as
//! node_exporter does, small steps back are held at the last value, and an idle time that fell by 3 s is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{counter, files};
use crate::sample::{Batch, Desc, Labels};
use crate::scrape::CollectError;

/// The families of this collector.
pub const METRICS: &[Desc] = &[SECONDS, GUEST_SECONDS, CORE_THROTTLES, PACKAGE_THROTTLES];

const SECONDS: Desc = counter("node_cpu_seconds_total", "seconds", "Seconds the CPUs spent in each mode.");
const GUEST_SECONDS: Desc =
    counter("node_cpu_guest_seconds_total", "seconds", "Seconds the CPUs spent in guests (VMs) for each mode.");
const CORE_THROTTLES: Desc =
    counter("node_cpu_core_throttles_total", "throttles", "Number of times this CPU core has been throttled.");
const PACKAGE_THROTTLES: Desc =
    counter("node_cpu_package_throttles_total", "throttles", "Number of times this CPU package has been throttled.");

/// The fields of a `cpuN` line in their order (proc_stat(5)); the last two are already part of `user` and `nice`.
const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
const GUEST_MODES: [&str; 2] = ["user", "nice"];
const FIELDS: usize = MODES.len() + GUEST_MODES.len();
const IDLE: usize = 3;

/// A CPU whose idle time fell by this was unplugged in between (node_exporter's figure).
const REPLUGGED_SECONDS: f64 = 3.0;

type Seconds = [f64; FIELDS];

/// The collector with the values it showed last.
pub struct Cpu {
    stat: PathBuf,
    devices: PathBuf,
    shown: BTreeMap<u32, Seconds>,
}

impl Cpu {
    /// Reads `procfs` and `sysfs`.
    pub fn new(procfs: PathBuf, sysfs: PathBuf) -> Self {
        Self { stat: procfs.join("stat"), devices: sysfs.join("devices/system/cpu"), shown: BTreeMap::new() }
    }

    /// Adds what is there now.
    pub fn read(&mut self, batch: &mut Batch) -> Result<(), CollectError> {
        let ticks = procfs::ticks_per_second() as f64;
        let now = parse(&files::text(&self.stat)?, ticks).map_err(|line| files::malformed(&self.stat, line))?;
        // CPUs that are gone are forgotten with their values.
        self.shown = now.into_iter().map(|(cpu, seconds)| (cpu, held(self.shown.get(&cpu), seconds))).collect();
        for (cpu, seconds) in &self.shown {
            let labels = |mode: &'static str| Labels::none().with("cpu", cpu.to_string()).with("mode", mode);
            for (mode, value) in MODES.into_iter().zip(seconds) {
                batch.push(&SECONDS, labels(mode), *value);
            }
            for (mode, value) in GUEST_MODES.into_iter().zip(&seconds[MODES.len()..]) {
                batch.push(&GUEST_SECONDS, labels(mode), *value);
            }
        }
        throttles(&self.devices, batch)
    }
}

/// The `cpuN` lines; an error is the line that cannot be understood. Fields that an old kernel lacks are 0.
fn parse(stat: &str, ticks: f64) -> Result<Vec<(u32, Seconds)>, String> {
    let of_line = |line: &str| {
        let mut words = line.strip_prefix("cpu")?.split_whitespace();
        let cpu = words.next()?.parse().ok()?;
        let mut seconds = Seconds::default();
        for (field, word) in seconds.iter_mut().zip(words) {
            *field = word.parse::<u64>().ok()? as f64 / ticks;
        }
        Some((cpu, seconds))
    };
    let lines = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    lines.map(|line| of_line(line).ok_or_else(|| format!("`{line}` is not a CPU's time"))).collect()
}

/// `now`, but nothing below what was shown `before`.
fn held(before: Option<&Seconds>, now: Seconds) -> Seconds {
    match before {
        Some(before) if before[IDLE] - now[IDLE] < REPLUGGED_SECONDS => {
            std::array::from_fn(|field| now[field].max(before[field]))
        }
        _ => now,
    }
}

/// One value per core and per package, read from the first CPU that belongs to it; nothing on machines without the counters (ARM, guests).
fn throttles(devices: &Path, batch: &mut Batch) -> Result<(), CollectError> {
    let (mut cores, mut packages) = (BTreeSet::new(), BTreeSet::new());
    for cpu in files::numbered(devices, "cpu")? {
        let file = |name: &str| files::sensor(&devices.join(&cpu).join(name));
        let number = |name: &str| file(name).and_then(|text| text.trim().parse::<f64>().ok());
        // Off-line CPUs have no topology.
        let (Some(package), Some(core)) = (file("topology/physical_package_id"), file("topology/core_id")) else {
            continue;
        };
        let labels = Labels::none().with("package", package.as_str());
        if !cores.contains(&(package.clone(), core.clone()))
            && let Some(count) = number("thermal_throttle/core_throttle_count")
        {
            batch.push(&CORE_THROTTLES, labels.clone().with("core", core.as_str()), count);
            cores.insert((package.clone(), core));
        }
        if !packages.contains(&package)
            && let Some(count) = number("thermal_throttle/package_throttle_count")
        {
            batch.push(&PACKAGE_THROTTLES, labels, count);
            packages.insert(package);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_keep_their_numbers() {
        let stat = "cpu  9 9 9 9\ncpu0 100 200 300 400 500 600 700 800 900 1000\ncpu2 1 2 3 4\nintr 5\n";
        let cpus = parse(stat, 100.0).expect("valid");
        assert_eq!(cpus[0], (0, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]));
        assert_eq!(cpus[1], (2, [0.01, 0.02, 0.03, 0.04, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]));
        assert!(parse("cpu0 1 x\n", 100.0).is_err());
        assert!(parse("cpux 1\n", 100.0).is_err());
    }

    #[test]
    fn small_steps_back_are_held_and_a_replugged_cpu_starts_again() {
        let before = [10.0; FIELDS];
        let mut now = [11.0; FIELDS];
        (now[IDLE], now[4]) = (9.5, 2.0);
        let shown = held(Some(&before), now);
        assert_eq!((shown[0], shown[IDLE], shown[4]), (11.0, 10.0, 10.0));
        now[IDLE] = 7.0;
        assert_eq!(held(Some(&before), now), now);
        assert_eq!(held(None, now), now);
    }
}
