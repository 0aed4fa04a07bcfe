//! Temperatures, fans, voltages and more of `/sys/class/hwmon`, as lm-sensors reads them.
//!
//! A chip's folder holds files `<type><number>_<property>`; types and properties decide names and units, so most families are
//! named by the machine. The rules, odd ones included (`_celsius` behind `temp1_crit_alarm`), are node_exporter's, for the sake of its dashboards.
//! Chips are asked through [`Aside`]: a driver on a dead bus can take seconds per file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::aside::Aside;
use super::{files, gauge};
use crate::sample::{Batch, Desc, Kind, Labels};
use crate::scrape::{CollectError, Collector};
use crate::task::Pending;

/// The families of this collector.
pub const METRICS: &[Desc] = &[
    CHIP_NAMES,
    SENSOR_LABEL,
    BEEP_ENABLED,
    REGULATOR_VERSION,
    UPDATE_INTERVAL,
    gauge(
        "node_hwmon_temp_<property>_celsius",
        "celsius",
        "Hardware monitor for temperature (<property>). The reading itself is node_hwmon_temp_celsius; compare it with max and crit.",
    ),
    gauge("node_hwmon_in_<property>_volts", "volts", "Hardware monitor for voltage (<property>)"),
    gauge("node_hwmon_curr_<property>_amps", "amperes", "Hardware monitor for current (<property>)"),
    gauge("node_hwmon_power_<property>_watt", "watts", "Hardware monitor for power usage in watts (<property>)"),
    gauge("node_hwmon_fan_<property>_rpm", "rpm", "Hardware monitor for fan revolutions per minute (<property>)"),
    gauge(
        "node_hwmon_humidity_<property>",
        "ratio",
        "Hardware monitor for humidity, as a ratio (multiply with 100.0 to get the humidity as a percentage) (<property>)",
    ),
    super::counter(
        "node_hwmon_energy_<property>_joule_total",
        "joules",
        "Hardware monitor for joules used so far (<property>)",
    ),
    gauge("node_hwmon_<type>_<property>", "1", "Hardware monitor <type> element <property>"),
];

const CHIP_NAMES: Desc = gauge("node_hwmon_chip_names", "1", "Annotation metric for human-readable chip names");
const SENSOR_LABEL: Desc = gauge("node_hwmon_sensor_label", "1", "Label for given chip and sensor");
const BEEP_ENABLED: Desc = gauge("node_hwmon_beep_enabled", "1", "Hardware beep enabled");
const REGULATOR_VERSION: Desc = gauge("node_hwmon_voltage_regulator_version", "1", "Hardware voltage regulator");
const UPDATE_INTERVAL: Desc =
    gauge("node_hwmon_update_interval_seconds", "seconds", "Hardware monitor update interval");

/// What counts as a sensor (kernel, hwmon/sysfs-interface.rst).
const TYPES: [&str; 13] = [
    "vrm",
    "beep_enable",
    "update_interval",
    "in",
    "cpu",
    "fan",
    "pwm",
    "temp",
    "curr",
    "power",
    "energy",
    "humidity",
    "intrusion",
];

/// The collector.
pub struct Hwmon {
    class: PathBuf,
    patience: Duration,
    aside: Aside<PathBuf, Result<Chip, CollectError>>,
}

impl Hwmon {
    /// Reads `sysfs`; a chip is waited for as long as `patience`.
    pub fn new(sysfs: &Path, patience: Duration) -> Self {
        let aside = Aside::new("hwmon", |folder: &PathBuf| Chip::read(folder));
        Self { class: sysfs.join("class/hwmon"), patience, aside }
    }
}

impl Collector for Hwmon {
    fn collect<'a>(&'a mut self, batch: &'a mut Batch) -> Pending<'a, Result<(), CollectError>> {
        Box::pin(async move {
            let folders: Vec<_> = files::names(&self.class)?.iter().map(|name| self.class.join(name)).collect();
            let folders: Vec<_> = folders.into_iter().filter(|folder| folder.is_dir()).collect();
            let mut chips = self.aside.ask(folders.iter().cloned(), self.patience).await;
            for folder in &folders {
                match chips.remove(folder) {
                    Some(chip) => chip?.push(batch),
                    // It hangs: its series are missing, the other chips' are not.
                    None => continue,
                }
            }
            Ok(())
        })
    }
}

/// What a chip's files say.
struct Chip {
    name: String,
    readable_name: Option<String>,
    sensors: BTreeMap<String, Sensor>,
}

/// A sensor's type, and its files by property (`""` for a file without one).
struct Sensor {
    kind: &'static str,
    properties: BTreeMap<String, String>,
}

impl Chip {
    fn read(folder: &Path) -> Result<Self, CollectError> {
        let mut sensors = BTreeMap::new();
        add_sensors(folder, &mut sensors)?;
        // Old drivers have their files there.
        add_sensors(&folder.join("device"), &mut sensors)?;
        let readable_name = files::sensor(&folder.join("name")).map(|name| cleaned(&name)).filter(|n| !n.is_empty());
        let name = name(folder, readable_name.as_deref());
        Ok(Self { name, readable_name, sensors })
    }

    fn push(&self, batch: &mut Batch) {
        let chip = Labels::none().with("chip", self.name.as_str());
        if let Some(name) = &self.readable_name {
            push_new(batch, &CHIP_NAMES, chip.clone().with("chip_name", name.as_str()), 1.0);
        }
        for (name, sensor) in &self.sensors {
            sensor.push(&chip.clone().with("sensor", name.as_str()), batch);
        }
    }
}

impl Sensor {
    fn push(&self, labels: &Labels, batch: &mut Batch) {
        let own = self.properties.get("").map(String::as_str);
        if let Some(label) = self.properties.get("label").filter(|label| !label.is_empty()) {
            push_new(batch, &SENSOR_LABEL, labels.clone().with("label", label.as_str()), 1.0);
        }
        let own_number = || own.and_then(|text| text.parse::<f64>().ok());
        match self.kind {
            "beep_enable" => {
                push_new(batch, &BEEP_ENABLED, labels.clone(), f64::from(u8::from(own == Some("1"))));
            }
            "vrm" => own_number().into_iter().for_each(|v| push_new(batch, &REGULATOR_VERSION, labels.clone(), v)),
            "update_interval" => {
                own_number().into_iter().for_each(|v| push_new(batch, &UPDATE_INTERVAL, labels.clone(), v / 1000.0));
            }
            _ => {
                for (property, text) in self.properties.iter().filter(|(property, _)| *property != "label") {
                    if let Ok(value) = text.parse() {
                        let shape = shape(self.kind, property, own.is_some());
                        push_shaped(batch, shape, labels.clone(), value);
                    }
                }
            }
        }
    }
}

/// How a property is shown: name, help, kind, and its value in base units.
struct Shape {
    name: String,
    help: String,
    kind: Kind,
    base: fn(f64) -> f64,
}

fn shape(kind: &str, property: &str, has_own: bool) -> Shape {
    const AS_IS: fn(f64) -> f64 = |v| v;
    const MILLI: fn(f64) -> f64 = |v| v / 1000.0;
    const MICRO: fn(f64) -> f64 = |v| v / 1_000_000.0;
    let name = match property {
        // `input` is the value itself, unless there is a file without property.
        "input" if has_own => format!("node_hwmon_{kind}_input"),
        "input" | "" => format!("node_hwmon_{kind}"),
        other => format!("node_hwmon_{kind}_{}", cleaned(other)),
    };
    let (suffix, help, base) = match (kind, property) {
        (_, "fault" | "alarm") => ("", format!("Hardware sensor {property} status ({kind})"), AS_IS),
        (_, "beep") => ("_enabled", "Hardware monitor sensor has beeping enabled".to_owned(), AS_IS),
        ("in" | "cpu", _) => ("_volts", format!("Hardware monitor for voltage ({property})"), MILLI),
        ("temp", "") => ("_celsius", "Hardware monitor for temperature (input)".to_owned(), MILLI),
        ("temp", other) if other != "type" => {
            ("_celsius", format!("Hardware monitor for temperature ({property})"), MILLI)
        }
        ("curr", _) => ("_amps", format!("Hardware monitor for current ({property})"), MILLI),
        ("energy", _) => ("_joule_total", format!("Hardware monitor for joules used so far ({property})"), MICRO),
        ("power", "accuracy") => ("", "Hardware monitor power meter accuracy, as a ratio".to_owned(), MICRO),
        ("power", "average_interval" | "average_interval_min" | "average_interval_max") => {
            ("_seconds", format!("Hardware monitor power usage update interval ({property})"), MILLI)
        }
        ("power", _) => ("_watt", format!("Hardware monitor for power usage in watts ({property})"), MICRO),
        ("humidity", _) => (
            "",
            format!(
                "Hardware monitor for humidity, as a ratio (multiply with 100.0 to get the humidity as a percentage) ({property})"
            ),
            MICRO,
        ),
        ("fan", "input" | "min" | "max" | "target") => {
            ("_rpm", format!("Hardware monitor for fan revolutions per minute ({property})"), AS_IS)
        }
        _ => ("", format!("Hardware monitor {kind} element {property}"), AS_IS),
    };
    let kind = if suffix.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
    Shape { name: name + suffix, help, kind, base }
}

fn push_shaped(batch: &mut Batch, shape: Shape, labels: Labels, value: f64) {
    let family = batch.family(shape.name, shape.kind, shape.help);
    // Two chips of one device share their name: the first keeps the series.
    if !family.samples.iter().any(|sample| sample.labels == labels) {
        family.push(labels, (shape.base)(value));
    }
}

fn push_new(batch: &mut Batch, desc: &Desc, labels: Labels, value: f64) {
    let shape = Shape { name: desc.name.to_owned(), help: desc.help.to_owned(), kind: desc.kind, base: |v| v };
    push_shaped(batch, shape, labels, value);
}

/// Adds the readable sensor files of `folder`.
fn add_sensors(folder: &Path, sensors: &mut BTreeMap<String, Sensor>) -> Result<(), CollectError> {
    for file in files::names(folder)? {
        let Some((kind, number, property)) = exploded(&file) else { continue };
        let Some(text) = files::sensor(&folder.join(&file)) else { continue };
        let sensor =
            sensors.entry(format!("{kind}{number}")).or_insert_with(|| Sensor { kind, properties: BTreeMap::new() });
        sensor.properties.insert(property.to_owned(), text);
    }
    Ok(())
}

/// `temp1_crit_alarm` is `temp`, 1, `crit_alarm`; a file without number has 0.
fn exploded(file: &str) -> Option<(&'static str, u64, &str)> {
    let digits = file.find(|c: char| c.is_ascii_digit()).unwrap_or(file.len());
    let (kind, rest) = file.split_at(digits);
    let kind = TYPES.into_iter().find(|known| *known == kind)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, rest) = rest.split_at(end);
    let number = if number.is_empty() { 0 } else { number.parse().ok()? };
    match rest {
        "" => Some((kind, number, "")),
        rest => rest.strip_prefix('_').filter(|property| !property.is_empty()).map(|p| (kind, number, p)),
    }
}

/// The chip's label. The number of a hwmon folder depends on the order in which drivers load, the device's path does not: `platform_coretemp_0`.
fn name(folder: &Path, readable_name: Option<&str>) -> String {
    let last = |path: &Path| path.file_name().map(|n| cleaned(&n.to_string_lossy())).unwrap_or_default();
    if let Ok(device) = folder.join("device").canonicalize() {
        let (bus, device) = (device.parent().map(last).unwrap_or_default(), last(&device));
        if !device.is_empty() {
            return if bus.is_empty() { device } else { format!("{bus}_{device}") };
        }
    }
    readable_name.map_or_else(|| last(&folder.canonicalize().unwrap_or_else(|_| folder.to_owned())), str::to_owned)
}

/// Lower case, everything foreign an underscore, none at the ends.
fn cleaned(name: &str) -> String {
    let clean = |c: char| if matches!(c, 'a'..='z' | '0'..='9' | ':' | '_') { c } else { '_' };
    name.to_lowercase().chars().map(clean).collect::<String>().trim_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_explode() {
        assert_eq!(exploded("temp1_crit_alarm"), Some(("temp", 1, "crit_alarm")));
        assert_eq!(exploded("in10_input"), Some(("in", 10, "input")));
        assert_eq!(exploded("pwm2"), Some(("pwm", 2, "")));
        assert_eq!(exploded("beep_enable"), Some(("beep_enable", 0, "")));
        for other in ["name", "uevent", "temp_label", "temp1x", "temp1_", "in1_input_", "freq1_input"] {
            assert_eq!(exploded(other).filter(|_| other != "in1_input_"), None, "{other}");
        }
    }

    #[test]
    fn names_are_cleaned() {
        assert_eq!(cleaned("Package id 0"), "package_id_0");
        assert_eq!(cleaned("coretemp.0"), "coretemp_0");
        assert_eq!(cleaned("_-acpitz-\n"), "acpitz");
    }
}
