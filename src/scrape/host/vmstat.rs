//! The few of `/proc/vmstat`'s hundreds of fields that node_exporter shows: out-of-memory kills, paging, swapping, faults.

use std::path::Path;

use super::files;
use crate::sample::{Batch, Desc, Kind, Labels};
use crate::scrape::CollectError;

/// The families of this collector.
pub const METRICS: &[Desc] = &[Desc {
    name: "node_vmstat_<field>",
    kind: Kind::Unknown,
    unit: "1",
    help: "/proc/vmstat information field <field>. All of them only grow; a growing oom_kill means that the kernel ended a process for want of memory.",
}];

/// Adds what is there now.
pub fn read(procfs: &Path, batch: &mut Batch) -> Result<(), CollectError> {
    let path = procfs.join("vmstat");
    for line in files::text(&path)?.lines() {
        let (field, value) = line.split_once(' ').unwrap_or((line, ""));
        if !is_shown(field) {
            continue;
        }
        let value = value.trim().parse::<f64>().map_err(|e| files::malformed(&path, format_args!("`{line}`: {e}")))?;
        let help = format!("/proc/vmstat information field {field}.");
        batch.family(format!("node_vmstat_{field}"), Kind::Unknown, help).push(Labels::none(), value);
    }
    Ok(())
}

/// node_exporter's default: `^(oom_kill|pgpg|pswp|pg.*fault).*`.
fn is_shown(field: &str) -> bool {
    ["oom_kill", "pgpg", "pswp"].iter().any(|start| field.starts_with(start))
        || field.strip_prefix("pg").is_some_and(|rest| rest.contains("fault"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_fields_and_no_others() {
        for shown in ["oom_kill", "pgpgin", "pgpgout", "pswpin", "pswpout", "pgfault", "pgmajfault"] {
            assert!(is_shown(shown), "{shown}");
        }
        for hidden in ["pgalloc_dma", "thp_fault_alloc", "nr_free_pages", "numa_pages_migrated", "drop_pagecache"] {
            assert!(!is_shown(hidden), "{hidden}");
        }
    }
}
