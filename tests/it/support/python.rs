//! A Python with the packages of `tests/fixtures/atlas/requirements.txt`, in a virtual environment under `target/`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/atlas/requirements.txt");

/// The interpreter. The first caller makes the environment (some seconds and a download); a lock keeps others, also in other processes,
/// waiting until it is whole.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
        std::fs::create_dir_all(&folder).unwrap();
        let lock = std::fs::File::create(folder.join("lock")).unwrap();
        lock.lock().unwrap();
        let environment = folder.join("venv");
        let python = environment.join("bin/python");
        // Written last: an environment of other requirements, or half of one, is made anew.
        let complete = environment.join("requirements");
        let wanted = std::fs::read_to_string(REQUIREMENTS).unwrap();
        if std::fs::read_to_string(&complete).ok().as_ref() != Some(&wanted) {
            let text = |path: &Path| path.to_str().unwrap().to_owned();
            super::run("python3", &["-m", "venv", "--clear", &text(&environment)]);
            let pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "-r", REQUIREMENTS];
            super::run(&text(&python), &pip);
            std::fs::write(&complete, wanted).unwrap();
        }
        python
    })
}

/// Runs `tests/fixtures/<script>` with `args` and gives what it printed.
pub fn script(script: &str, args: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(script);
    let out = Command::new(python()).arg(&path).args(args).output().unwrap();
    assert!(out.status.success(), "{script} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}
