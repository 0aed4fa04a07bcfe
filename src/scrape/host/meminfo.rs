//! Every field of `/proc/meminfo`, whatever the kernel calls it.

use std::path::Path;

use super::{files, gauge};
use crate::sample::{Batch, Desc, Kind, Labels};
use crate::scrape::CollectError;

/// The families of this collector.
pub const METRICS: &[Desc] = &[
    gauge(
        "node_memory_<field>_bytes",
        "bytes",
        "Memory information field <field>_bytes. MemAvailable is what programs can still get; MemFree is not.",
    ),
    gauge(
        "node_memory_HugePages_<field>",
        "pages",
        "Memory information field HugePages_<field>: pages of the default huge page size.",
    ),
];

/// Adds what is there now.
pub fn read(procfs: &Path, batch: &mut Batch) -> Result<(), CollectError> {
    let path = procfs.join("meminfo");
    for line in files::text(&path)?.lines().filter(|line| !line.is_empty()) {
        let (field, value) = parse(line).ok_or_else(|| files::malformed(&path, format_args!("`{line}`")))?;
        let help = format!("Memory information field {field}.");
        batch.family(format!("node_memory_{field}"), Kind::Gauge, help).push(Labels::none(), value);
    }
    Ok(())
}

/// `Active(anon):  12 kB` is `Active_anon_bytes`, 12288. A field without unit keeps its bare name.
fn parse(line: &str) -> Option<(String, f64)> {
    let (name, rest) = line.split_once(':')?;
    let mut field = match name.split_once('(') {
        Some((name, part)) => format!("{name}_{}", part.strip_suffix(')')?),
        None => name.to_owned(),
    };
    let mut words = rest.split_whitespace();
    let mut value: f64 = words.next()?.parse().ok()?;
    if words.next().is_some() {
        // The unit says kB and means KiB.
        value *= 1024.0;
        field.push_str("_bytes");
    }
    Some((field, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_as_node_exporter_names_them() {
        let parsed = |line| parse(line).map(|(field, value)| format!("{field} {value}"));
        assert_eq!(parsed("Active(anon):       1544 kB").as_deref(), Some("Active_anon_bytes 1581056"));
        assert_eq!(parsed("HugePages_Total:       3").as_deref(), Some("HugePages_Total 3"));
        assert_eq!(parsed("Balloon:   0 kB").as_deref(), Some("Balloon_bytes 0"));
        assert_eq!(parsed("MemFree: many kB"), None);
        assert_eq!(parsed("MemFree"), None);
    }
}
