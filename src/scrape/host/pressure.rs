//! Pressure stall information: how long somebody, or everybody, waited for CPU, disk or memory.

use std::path::Path;

use super::{counter, files};
use crate::sample::{Batch, Desc, Labels};
use crate::scrape::CollectError;

/// The families of this collector.
pub const METRICS: &[Desc] = &[CPU_WAITING, IO_WAITING, IO_STALLED, MEMORY_WAITING, MEMORY_STALLED];

const CPU_WAITING: Desc = counter(
    "node_pressure_cpu_waiting_seconds_total",
    "seconds",
    "Total time in seconds that processes have waited for CPU time",
);
const IO_WAITING: Desc = counter(
    "node_pressure_io_waiting_seconds_total",
    "seconds",
    "Total time in seconds that processes have waited due to IO congestion",
);
const IO_STALLED: Desc = counter(
    "node_pressure_io_stalled_seconds_total",
    "seconds",
    "Total time in seconds no process could make progress due to IO congestion",
);
const MEMORY_WAITING: Desc = counter(
    "node_pressure_memory_waiting_seconds_total",
    "seconds",
    "Total time in seconds that processes have waited for memory",
);
const MEMORY_STALLED: Desc = counter(
    "node_pressure_memory_stalled_seconds_total",
    "seconds",
    "Total time in seconds no process could make progress due to memory congestion",
);

/// File, line, family. `full` of the CPU is always 0 for a whole system and not shown.
const LINES: [(&str, &str, &Desc); 5] = [
    ("cpu", "some", &CPU_WAITING),
    ("io", "some", &IO_WAITING),
    ("io", "full", &IO_STALLED),
    ("memory", "some", &MEMORY_WAITING),
    ("memory", "full", &MEMORY_STALLED),
];

/// Adds what is there now: nothing where the kernel is older than 4.20, or was built or started without PSI.
pub fn read(procfs: &Path, batch: &mut Batch) -> Result<(), CollectError> {
    for resource in ["cpu", "io", "memory"] {
        let path = procfs.join("pressure").join(resource);
        let text = match files::try_bytes(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // `psi=0` on the kernel's command line: the files are there and answer EOPNOTSUPP.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound || is_off(&e) => return Ok(()),
            Err(e) => return Err(files::failure(&path, &e)),
        };
        for (_, word, desc) in LINES.iter().filter(|line| line.0 == resource) {
            let seconds = seconds(&text, word).ok_or_else(|| files::malformed(&path, format_args!("no `{word}`")))?;
            batch.push(desc, Labels::none(), seconds);
        }
    }
    Ok(())
}

fn is_off(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
}

/// `some avg10=0.06 avg60=0.39 avg300=0.49 total=15089275`, in microseconds.
fn seconds(text: &str, word: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.split(' ').next() == Some(word))?;
    let micros: u64 = line.split_whitespace().find_map(|pair| pair.strip_prefix("total=")?.parse().ok())?;
    Some(micros as f64 / 1_000_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_file_without_full_is_enough() {
        let text = "some avg10=0.06 avg60=0.39 avg300=0.49 total=15089275\n";
        assert_eq!(seconds(text, "some"), Some(15.089275));
        assert_eq!(seconds(text, "full"), None);
        assert_eq!(seconds("", "some"), None);
    }
}
