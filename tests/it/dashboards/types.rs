//! The compiler of TypeScript reads the dashboards as values of the types that Grafana publishes, of its last two lines of versions.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{NAMES, folder};
use crate::support::run;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/grafana");

/// A folder with the compiler and the schemas, as the lock file pins them. The first caller makes it (27 MB); others, also in other processes, wait.
fn packages() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("grafana");
    std::fs::create_dir_all(&folder).unwrap();
    let lock = std::fs::File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let wanted = std::fs::read(Path::new(FIXTURES).join("package-lock.json")).unwrap();
    // Written last: packages of another lock file, or half of them, are fetched anew.
    let complete = folder.join("complete");
    if std::fs::read(&complete).ok().as_ref() != Some(&wanted) {
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(Path::new(FIXTURES).join(file), folder.join(file)).unwrap();
        }
        let args = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder.to_str().unwrap()];
        run("npm", &args);
        std::fs::write(complete, wanted).unwrap();
    }
    folder
}

#[test]
fn grafana_11_and_12_know_every_key() {
    let packages = packages();
    let scratch = tempfile::tempdir_in(&packages).unwrap();
    let shape = std::fs::read_to_string(Path::new(FIXTURES).join("shape.ts")).unwrap();
    std::fs::copy(Path::new(FIXTURES).join("tsconfig.json"), scratch.path().join("tsconfig.json")).unwrap();
    for version in ["grafana-11", "grafana-12"] {
        let mut shape = shape.replace("@grafana/schema", version);
        if version == "grafana-11" {
            // Its package names files in full.
            shape = shape.replace("_types.gen\"", "_types.gen.d.ts\"");
        }
        for name in NAMES {
            let json = std::fs::read_to_string(folder().join(format!("{name}.json"))).unwrap();
            let text = format!("{shape}\nexport const made: Made = {json};\n");
            std::fs::write(scratch.path().join(format!("{name}-on-{version}.ts")), text).unwrap();
        }
    }
    let compiler = packages.join("node_modules/typescript/bin/tsc");
    let out = Command::new("node").arg(compiler).arg("--project").arg(scratch.path()).output();
    let out = out.unwrap_or_else(|e| panic!("`node` does not start ({e}): tests/run installs it"));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
}
