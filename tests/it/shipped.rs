//! What must hold of the shipped profile, not only of the one that tests are built in.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{free_address, get, wait_for};

/// Builds the program with a source that panics, in the release profile. Takes a minute or two where nothing is built yet: it links with
/// link-time optimisation, as the shipped binary does.
fn panicking_binary() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--release", "--features", "test-panic", "--bin", "atlas-sidecar-panics"])
        .args(["--message-format", "json"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let said = String::from_utf8(out.stdout).unwrap();
    said.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the executable")
}

#[test]
fn a_panicking_collector_is_that_collectors_failure_in_the_shipped_profile() {
    let binary = panicking_binary();
    let scratch = tempfile::tempdir().unwrap();
    let address = free_address();
    let mut child = Command::new(binary)
        .args([
            "--set",
            &format!("server.listen={address}"),
            "--set",
            "scrape.interval=1s",
            "--set",
            "scrape.timeout=500ms",
        ])
        .current_dir(scratch.path())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let page = wait_for("three panics", Duration::from_secs(30), || {
        let page = get(address, "/metrics")?.text();
        let failures = "atlas_sidecar_source_failures_total{reason=\"internal\",source=\"panicking\"} ";
        let count: f64 = page.lines().find_map(|l| l.strip_prefix(failures))?.parse().ok()?;
        Some(page).filter(|_| count >= 3.0)
    });
    let _ = child.kill();
    let _ = child.wait();
    assert!(page.contains("atlas_sidecar_source_up{source=\"panicking\"} 0\n"));
    assert!(page.contains("atlas_sidecar_source_up{source=\"loadavg\"} 1\n"));
    assert!(page.contains("\nnode_load1 "));
}
