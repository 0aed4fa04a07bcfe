//! Python environments with the packages of a `requirements.txt` under `tests/fixtures`, below `target/`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// The interpreter with what stands in for the application, and a reader of pages.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| environment("python", "atlas").join("python"))
}

/// The folder of programs of an environment called `name`, with the packages of `tests/fixtures/<fixture>/requirements.txt`. The first caller makes it
/// (some seconds and a download); a lock keeps others, also in other processes, waiting until it is whole.
pub fn environment(name: &str, fixture: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let lock = std::fs::File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let environment = folder.join("venv");
    let python = environment.join("bin/python");
    // Written last: an environment of other requirements, or half of one, is made anew.
    let complete = environment.join("requirements");
    let requirements = Path::new(FIXTURES).join(fixture).join("requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).unwrap();
    if std::fs::read_to_string(&complete).ok().as_ref() != Some(&wanted) {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        super::run("python3", &["-m", "venv", "--clear", &text(&environment)]);
        let pip =
            ["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "-r", &text(&requirements)];
        super::run(&text(&python), &pip);
        std::fs::write(&complete, wanted).unwrap();
    }
    environment.join("bin")
}

/// Runs `tests/fixtures/<script>` with `args` and gives what it printed.
pub fn script(script: &str, args: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(script);
    let out = Command::new(python()).arg(&path).args(args).output().unwrap();
    assert!(out.status.success(), "{script} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// What the Python client read of a page: types of families by name, and values by series: its name and its labels as JSON.
#[derive(Debug, Default, PartialEq)]
pub struct ReadPage {
    pub families: BTreeMap<String, String>,
    pub samples: BTreeMap<(String, String), String>,
}

/// Reads `pages` (`text` or `openmetrics`, and the page) with Prometheus' Python client in one process; `Err` is what it complains about.
pub fn read_pages(pages: &[(&str, &str)]) -> Vec<Result<ReadPage, String>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/python/parse_page.py");
    let input = serde_json::json!(pages).to_string();
    let mut child = Command::new(python()).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let out = child.wait_with_output().unwrap();
    feeding.join().unwrap().unwrap();
    assert!(out.status.success(), "the Python client fails; its words are on standard error");
    let answers: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(answers.len(), pages.len());
    answers.iter().map(read_page).collect()
}

fn read_page(answer: &Value) -> Result<ReadPage, String> {
    if let Some(error) = answer["error"].as_str() {
        return Err(error.to_owned());
    }
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let families = answer["families"].as_object().unwrap().iter();
    let mut page =
        ReadPage { families: families.map(|(name, kind)| (name.clone(), text(kind))).collect(), ..Default::default() };
    for sample in answer["samples"].as_array().unwrap() {
        // One parser says 5 where the other says 5.0; the shortest text of a double is the double.
        let value = sample[2].as_f64().map_or_else(|| text(&sample[2]), |value| format!("{value:?}"));
        let series = (text(&sample[0]), sample[1].to_string());
        let before = page.samples.insert(series, value);
        assert_eq!(before, None, "{sample} is there twice");
    }
    Ok(page)
}
