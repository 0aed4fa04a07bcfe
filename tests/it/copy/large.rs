//! Many rows in little memory. By hand with a million of them, which prints the rate:
//! `COPY_ROWS=1000000 cargo test --test it copy::large -- --nocapture`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Scene, text};
use crate::support::SIDECAR;

/// What the process may have held in memory at its peak, in KiB: a debug build with SQLite, a runtime and TLS takes some 30 MiB before the first row.
const MOST_KIB: u64 = 64 << 10;

#[test]
fn memory_does_not_grow_with_the_table() {
    let rows: u64 = std::env::var("COPY_ROWS").map_or(30_000, |rows| rows.parse().unwrap());
    let scene = Scene::new();
    scene.sqlite(&format!(
        "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO system_metrics
         SELECT printf('0192f0c1-2b3c-7abc-8def-%012d', i), 'atlas_some_metric_' || (i % 50), i * 0.37, '{{\"host\":\"vm\",\"worker\":\"w' || (i % 9) || '\"}}',
                strftime('%Y-%m-%d %H:%M:%f', 1795367360 + i / 10.0, 'unixepoch') FROM n"
    ));
    let begun = Instant::now();
    let mut child = Command::new(SIDECAR)
        .args(["copy", "--from", "sqlite://atlas.db", "--to", &scene.url])
        .current_dir(scene.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let held = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(held.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(10));
    }
    let took = begun.elapsed();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    assert_eq!(scene.psql("SELECT count(*) FROM system_metrics"), rows.to_string());
    println!("{rows} rows in {took:?}: {:.0} rows/s, peak {} MiB", rows as f64 / took.as_secs_f64(), peak >> 10);
    assert!(peak > 0 && peak < MOST_KIB, "{peak} KiB");
}
