//! The command `migrate`: what it prints, in text and in JSON, and where the admin key goes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{sql, text};
use crate::support::{SIDECAR, run, sidecar};

/// A database of an application without keys.
const APPLICATION: &str = "CREATE TABLE content_metadata(id TEXT PRIMARY KEY, title TEXT, url TEXT, created_at TIMESTAMP);
                           CREATE TABLE processing_queue(id TEXT PRIMARY KEY, content_id TEXT, status TEXT, created_at TIMESTAMP, updated_at TIMESTAMP);
                           INSERT INTO content_metadata(id, title) VALUES ('1', 'One');";

fn scene() -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    sql(&scratch.path().join("app.db"), APPLICATION);
    std::fs::write(scratch.path().join("sidecar.toml"), "[database]\nurl = \"sqlite://app.db\"\ncreate = false\n")
        .unwrap();
    scratch
}

fn migrate(folder: &Path, flags: &[&str]) -> String {
    let out = sidecar(folder, &[&["--config", "sidecar.toml", "migrate"], flags].concat());
    assert_eq!((out.status.code(), text(&out.stderr).as_str()), (Some(0), ""));
    text(&out.stdout)
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let scene = scene();
    let before = std::fs::read(scene.path().join("app.db")).unwrap();
    let said = migrate(scene.path(), &["--dry-run"]);
    assert!(said.starts_with("app.db: ") && said.lines().next().unwrap().ends_with(" to do"), "{said}");
    let json: Value = serde_json::from_str(&migrate(scene.path(), &["--dry-run", "--json"])).unwrap();
    assert_eq!((&json["dry_run"], &json["admin_key_file"]), (&Value::Bool(true), &Value::Null));
    let steps = steps(&json);
    assert!(!steps.is_empty() && steps.iter().all(|step| said.contains(step)), "{json}");
    assert!(std::fs::read(scene.path().join("app.db")).unwrap() == before, "the file has changed");
    let mut names: Vec<_> = std::fs::read_dir(scene.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["app.db", "sidecar.toml"]);

    // What was foreseen is what is done.
    let done: Value = serde_json::from_str(&migrate(scene.path(), &["--json"])).unwrap();
    assert_eq!(self::steps(&done), steps);
    assert_eq!(done["admin_key_file"], "data/state/admin-key");
    assert_eq!(sql(&scene.path().join("app.db"), "SELECT title FROM content_metadata"), "One");
    let json: Value = serde_json::from_str(&migrate(scene.path(), &["--json"])).unwrap();
    assert!(self::steps(&json).is_empty());
    assert_eq!(migrate(scene.path(), &[]), "app.db: up to date\n");
    assert_eq!(migrate(scene.path(), &["--dry-run"]), "app.db: up to date\n");
}

fn steps(report: &Value) -> Vec<String> {
    let steps = report["files"][0]["steps"].as_array().unwrap();
    steps.iter().map(|step| step.as_str().unwrap().to_owned()).collect()
}

#[test]
fn without_a_terminal_the_key_is_in_a_private_file_only() {
    let scene = scene();
    let said = migrate(scene.path(), &[]);
    assert!(said.ends_with("the admin key is in `data/state/admin-key`\n"), "{said}");
    let file = scene.path().join("data/state/admin-key");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let key = std::fs::read_to_string(&file).unwrap();
    assert!(!said.contains(key.trim()) && key.starts_with("atlas_"));
    assert_eq!(sql(&scene.path().join("app.db"), "SELECT key_hash FROM api_keys"), sha256(key.trim()));
}

fn sha256(text: &str) -> String {
    run("sh", &["-c", &format!("printf %s '{text}' | sha256sum | cut -d' ' -f1")]).trim().to_owned()
}

/// `script` gives a command a terminal.
#[test]
fn on_a_terminal_the_key_is_shown_once_and_no_file_is_written() {
    let scene = scene();
    let command = format!("'{SIDECAR}' --config sidecar.toml migrate");
    let on_a_terminal = |command: &str| {
        let out = Command::new("script")
            .args(["--quiet", "--return", "--command", command, "/dev/null"])
            .current_dir(scene.path())
            .stdin(Stdio::null())
            .output()
            .expect("the README's test command installs script");
        assert!(out.status.success(), "{out:?}");
        text(&out.stdout)
    };
    let said = on_a_terminal(&command);
    let key = said.split_whitespace().find(|word| word.starts_with("atlas_") && word.len() == 70).expect(&said);
    assert_eq!(said.matches(key).count(), 1, "{said}");
    assert!(said.contains("shown this once"), "{said}");
    assert!(!scene.path().join("data").exists(), "no file, no folder");
    assert_eq!(sql(&scene.path().join("app.db"), "SELECT key_hash FROM api_keys"), sha256(key));
    assert_eq!(on_a_terminal(&command), "app.db: up to date\r\n");

    // JSON is for programs, which keep what they read: not even on a terminal.
    sql(&scene.path().join("app.db"), "DELETE FROM api_keys");
    let said = on_a_terminal(&format!("{command} --json"));
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(json["admin_key_file"], "data/state/admin-key");
    assert!(!said.contains(std::fs::read_to_string(scene.path().join("data/state/admin-key")).unwrap().trim()));
}

/// Somebody who deletes all keys wants them gone: the old one does not come back from a file that was left lying.
#[test]
fn a_deleted_key_does_not_come_back() {
    let scene = scene();
    migrate(scene.path(), &[]);
    let database = scene.path().join("app.db");
    sql(&database, "DELETE FROM api_keys");
    let out = sidecar(scene.path(), &["--config", "sidecar.toml", "migrate"]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(69), "{said}");
    assert!(said.contains("is not overwritten") && said.contains("hint: ") && said.contains("move it away"), "{said}");
    assert_eq!(sql(&database, "SELECT count(*) FROM api_keys"), "0");
    let (file, old) = (scene.path().join("data/state/admin-key"), scene.path().join("old-key"));
    std::fs::rename(&file, &old).unwrap();
    migrate(scene.path(), &[]);
    assert_ne!(std::fs::read(&file).unwrap(), std::fs::read(&old).unwrap());
    assert_eq!(sql(&database, "SELECT count(*) FROM api_keys"), "1");
}
