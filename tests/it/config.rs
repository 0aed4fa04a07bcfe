//! The configuration and the commands that need nothing else, on the real binary.
//!
//! `tests/fixtures/config/bad/NAME.toml` is refused with exactly the words of `NAME.txt`; `UPDATE_GOLDEN=1` writes them anew.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use atlas_sidecar::config::{self, DEFAULT, Loaded, Sources, redacted};
use atlas_sidecar::scrape::http::Auth;
use serde_json::Value;

use crate::support::{SIDECAR, Sidecar, free_address, wait_for};

/// What must never be seen in any output (E-11).
const CANARY: &str = "c4n4ry-of-the-test";

/// The sidecar's binary in `folder`, without variables of the machine that runs the tests.
fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(SIDECAR);
    command.args(args).current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

fn sidecar(folder: &Path, args: &[&str]) -> Output {
    command(folder, args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Loads `toml` as `sidecar.toml` of a scratch folder, which only its owner can read.
fn load(toml: &str) -> Result<Loaded, config::Problems> {
    let folder = tempfile::tempdir().unwrap();
    let file = private_file(folder.path(), "sidecar.toml", toml);
    config::load(&Sources { file: Some(file), ..Sources::default() })
}

fn private_file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config")
}

/// The names of the bad files, without their ending.
fn bad_names() -> Vec<String> {
    let files = std::fs::read_dir(fixtures().join("bad")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> =
        files.filter_map(|name| Some(name.to_str()?.strip_suffix(".toml")?.to_owned())).collect();
    names.sort();
    assert!(names.len() > 80, "the bad files are missing: {names:?}");
    names
}

#[test]
fn every_bad_file_is_refused_in_the_expected_words() {
    let folder = fixtures().join("bad");
    // Whether a secret's file can be read by others depends on the checkout; it is no problem but a warning.
    let mut wrong = Vec::new();
    for name in bad_names() {
        let out = sidecar(&folder, &["--config", &format!("{name}.toml"), "check"]);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(64), "{name}: {said}");
        assert_eq!(text(&out.stdout), "", "{name}");
        assert!(!said.contains("hidden-in") && !said.contains("hidden in"), "{name} shows a secret: {said}");
        let golden = folder.join(format!("{name}.txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &said).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != said {
            wrong.push(format!("--- {name}\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "other words than in the goldens:\n{}", wrong.join("\n"));
}

#[test]
fn every_key_has_a_bad_file() {
    let said: BTreeSet<String> = bad_names()
        .iter()
        .flat_map(|name| {
            let golden = std::fs::read_to_string(fixtures().join(format!("bad/{name}.txt"))).unwrap_or_default();
            golden.lines().filter_map(|line| line.split('`').nth(1)).map(str::to_owned).collect::<Vec<_>>()
        })
        .map(|key| key.replace("[0]", "").replace("[1]", ""))
        .collect();
    let (_folder, loaded) = uncommented_default();
    let without: Vec<String> =
        loaded.known_keys.iter().map(|key| key.replace("[]", "")).filter(|key| !said.contains(key)).collect();
    assert!(without.is_empty(), "keys that no bad file shows to be refused: {without:?}");
}

#[test]
fn no_file_and_the_reference_as_a_file_are_the_same() {
    let nothing = config::load(&Sources::default()).unwrap();
    let reference = load(DEFAULT).unwrap();
    assert_eq!(redacted(&nothing.settings).to_string(), redacted(&reference.settings).to_string());
    assert_eq!(nothing.warnings, Vec::<String>::new());
    assert_eq!(nothing.settings.scrape.interval, Duration::from_secs(60));
    assert_eq!(nothing.settings.engine.url, "sqlite://data/atlas.db");
    assert!(nothing.settings.engine.create);
}

#[test]
fn default_config_prints_the_reference_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let out = sidecar(folder.path(), &["default-config"]);
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(text(&out.stdout), include_str!("../../config/default.toml"));
    assert_eq!(out.stderr, b"");
    let out = sidecar(folder.path(), &["default-config", "--json", "--set", "scrape.interval=1h"]);
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["scrape"]["interval"], "1m");
}

/// The reference with its examples in force: lines that begin with `#` and no space.
fn uncommented_text() -> String {
    let lines = DEFAULT.lines().map(|line| match line.strip_prefix('#') {
        Some(example) if !example.is_empty() && !example.starts_with(' ') => example,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What PostgreSQL tells of itself is a hundred series and a dozen for each table: a day of them all would be more rows than everything else together.
#[test]
fn by_default_a_part_of_what_postgresql_tells_is_stored() {
    let builtin = load("").unwrap().settings.engine.builtin;
    let all: BTreeSet<&str> = atlas_sidecar::engine::metrics().iter().map(|desc| desc.name).collect();
    let (pg, ours): (Vec<&str>, Vec<&str>) = all.into_iter().partition(|name| name.starts_with("pg_"));
    assert!(ours.iter().all(|name| builtin.store.matches(name)), "all of Atlas");
    let stored = pg.iter().filter(|name| builtin.store.matches(name)).count();
    assert!((10..25).contains(&stored) && pg.len() > 70, "{stored} of {}", pg.len());
    assert!(builtin.store.matches("pg_stat_activity_count") && !builtin.store.matches("pg_settings_max_connections"));
}

fn uncommented_default() -> (tempfile::TempDir, Loaded) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("billing.token", "t0ken\n"),
        ("search.url", "https://search.internal/metrics\n"),
        ("search.password", "pass\n"),
    ] {
        private_file(folder.path(), name, content);
    }
    let text = uncommented_text().replace("/etc/atlas-sidecar", folder.path().to_str().unwrap());
    let file = private_file(folder.path(), "sidecar.toml", &text);
    let loaded = config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap_or_else(|e| panic!("{e}"));
    (folder, loaded)
}

#[test]
fn the_examples_of_the_reference_load() {
    let (_folder, loaded) = uncommented_default();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let settings = &loaded.settings;
    assert_eq!(settings.engine.full_text.len(), 1);
    assert_eq!(settings.engine.queries.len(), 1);
    let [billing, search] = settings.scrape.targets.as_slice() else { panic!("two targets") };
    assert!(matches!(&billing.auth, Some(Auth::Bearer(token)) if token.reveal() == "t0ken"));
    assert!(matches!(&search.auth, Some(Auth::Basic { password, .. }) if password.reveal() == "pass"));
    assert_eq!(search.url, "https://search.internal/metrics");
    // What the examples call the defaults of a list's element is what an element without them gets.
    assert_eq!((billing.max_body_bytes, billing.max_samples), (search.max_body_bytes, search.max_samples));
    let bare = load("[[scrape.queries]]\nname = \"a\"\nsql = \"SELECT 1 AS value\"\nvalues = [\"value\"]").unwrap();
    let (example, bare) = (&settings.engine.queries[0], &bare.settings.engine.queries[0]);
    assert_eq!((example.max_rows, example.counter, &example.store), (bare.max_rows, bare.counter, &bare.store));
}

#[test]
fn the_reference_names_every_key() {
    let mut named = BTreeSet::new();
    let mut table = String::new();
    for line in uncommented_text().lines() {
        if let Some(header) = line.strip_prefix('[') {
            table = header.split(']').next().unwrap().trim_start_matches('[').to_owned();
            named.insert(table.clone());
            continue;
        }
        let below = |key: &str| if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
        match line.strip_prefix('#') {
            Some(prose) => named.extend(prose.split('`').skip(1).step_by(2).map(below)),
            None => named.extend(line.split_once(" = ").map(|(key, _)| below(key))),
        }
    }
    let (_folder, loaded) = uncommented_default();
    let absent: Vec<String> =
        loaded.known_keys.iter().map(|key| key.replace("[]", "")).filter(|key| !named.contains(key)).collect();
    assert!(absent.is_empty(), "keys that config/default.toml does not name: {absent:?}");
}

#[test]
fn every_example_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let scratch = tempfile::tempdir().unwrap();
    for name in ["search.password", "database.password", "bucket.id", "bucket.key"] {
        private_file(scratch.path(), name, "pass\n");
    }
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert_eq!(names.len(), 6);
    for path in names {
        let toml = std::fs::read_to_string(&path).unwrap();
        let toml = toml.replace("/etc/atlas-sidecar", scratch.path().to_str().unwrap());
        let loaded = load(&toml).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(loaded.warnings, Vec::<String>::new(), "{}", path.display());
    }
}

/// What `check` prints is a configuration: it means the same when it is loaded.
#[test]
fn the_printed_configuration_loads_back() {
    let (_folder, loaded) = uncommented_default();
    let printed = redacted(&loaded.settings).to_string();
    let again = load(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
    assert_eq!(redacted(&again.settings).to_string(), printed);
    let json = redacted(&loaded.settings).json();
    assert_eq!(json["scrape"]["targets"][1]["password"], "<secret>");
    assert_eq!(json["database"]["full_text"][0]["columns"][0], "title");
    assert_eq!(json["state_directory"], "data/state");
}

#[test]
fn later_layers_win() {
    let folder = tempfile::tempdir().unwrap();
    let file = private_file(
        folder.path(),
        "sidecar.toml",
        "[scrape]\ninterval = \"20s\"\ntimeout = \"2s\"\nconcurrency = 2\n[expose]\nmax_series = 2\n",
    );
    let mut sources = Sources { file: Some(file), ..Sources::default() };
    sources.environment = pairs(&[
        ("ATLAS_SIDECAR__SCRAPE__INTERVAL", "30s"),
        ("ATLAS_SIDECAR__SCRAPE__CONCURRENCY", "3"),
        ("ATLAS_SIDECAR__EXPOSE__TIMESTAMPS", "true"),
        ("ATLAS_SIDECAR__STATE_DIRECTORY", "/from/env"),
        ("ATLAS_SIDECAR_CONFIG", "is a file, not a key"),
        ("ATLAS_SIDECAR_SCRAPE_INTERVAL", "has no double underscore"),
        ("PATH", "/bin"),
    ]);
    sources.overrides = pairs(&[("scrape.concurrency", "4"), ("scrape.host.collectors", "cpu, meminfo")]);
    let settings = config::load(&sources).unwrap_or_else(|e| panic!("{e}")).settings;
    assert_eq!(settings.scrape.timeout, Duration::from_secs(2), "the file over the default");
    assert_eq!(settings.expose.max_series, 2);
    assert_eq!(settings.scrape.interval, Duration::from_secs(30), "a variable over the file");
    assert!(settings.expose.timestamps);
    assert_eq!(settings.state_directory, Path::new("/from/env"));
    assert_eq!(settings.scrape.concurrency, 4, "a flag over all");
    assert_eq!(settings.scrape.host.collectors, ["cpu", "meminfo"]);
    assert_eq!(settings.server.max_requests, 40, "the default where nobody says anything");
}

#[test]
fn variables_and_flags_write_lists_and_tables_too() {
    let mut sources = Sources {
        environment: pairs(&[
            ("ATLAS_SIDECAR__SCRAPE__TARGETS", r#"[{name = "a", url = "http://h/metrics", username = "u"}]"#),
            ("ATLAS_SIDECAR__SCRAPE__TARGETS__0__PASSWORD", "from its own variable"),
            ("ATLAS_SIDECAR__EXPOSE__HIDDEN", r#"["a,b", "c"]"#),
            ("ATLAS_SIDECAR__SCRAPE__HOST__STORE", ""),
        ]),
        overrides: pairs(&[("scrape.targets[0].max_samples", "7")]),
        ..Sources::default()
    };
    let error = config::load(&sources).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("scrape.targets[0].name"), "an element by number replaces a list in one text: {error}");
    sources.environment.remove(0);
    let folder = tempfile::tempdir().unwrap();
    let toml = "[[scrape.targets]]\nname = \"a\"\nurl = \"http://h/metrics\"\nusername = \"u\"\n";
    sources.file = Some(private_file(folder.path(), "sidecar.toml", toml));
    let settings = config::load(&sources).unwrap_or_else(|e| panic!("{e}")).settings;
    let target = &settings.scrape.targets[0];
    assert!(matches!(&target.auth, Some(Auth::Basic { password, .. }) if password.reveal() == "from its own variable"));
    assert_eq!(target.max_samples, 7);
    assert!(settings.expose.hidden.matches("a,b") && !settings.expose.hidden.matches("a"));
    assert!(!settings.scrape.host.store.matches("node_load1"));
}

#[test]
fn problems_of_all_layers_come_at_once_with_their_places() {
    let folder = tempfile::tempdir().unwrap();
    private_file(folder.path(), "sidecar.toml", "[scrape]\n\ninterval = \"soon\"\n[log]\nlevel = \"loud\"\n");
    let out = command(folder.path(), &["check", "--set", "write.batch_rows=many", "--set", "wirte.batch_rows=1"])
        .env("ATLAS_SIDECAR_CONFIG", "sidecar.toml")
        .env("ATLAS_SIDECAR__SERVER__LISTEN", "here")
        .env("ATLAS_SIDECAR__SCRAPE__TARGETS__4000000000__NAME", "x")
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(64));
    let said = text(&out.stderr);
    for line in [
        "error: 6 problems in the configuration:",
        "  `scrape.targets[4000000000].name` (ATLAS_SIDECAR__SCRAPE__TARGETS__4000000000__NAME): must name an element by its number, from 0 to 999",
        "  `server.listen` = `here` (ATLAS_SIDECAR__SERVER__LISTEN): must be an address and a port: `127.0.0.1:9700`, or `[::]:9700` for every address",
        "  `scrape.interval` = `soon` (sidecar.toml:3): not a duration; write `60s`, `24h` or `30d`",
        "  `write.batch_rows` = `many` (--set): must be a whole number from 1 to 10000",
        "  `log.level` = `loud` (sidecar.toml:5): must be one of `off`, `error`, `warn`, `info`, `debug`, `trace`",
        "  `wirte` (--set): unknown key; did you mean `write`?",
        "hint: `atlas-sidecar default-config` prints every key with its meaning and its default",
    ] {
        assert!(said.lines().any(|l| l == line), "missing: {line}\nin: {said}");
    }
    let out = sidecar(folder.path(), &["--json", "--config", "sidecar.toml", "check"]);
    assert_eq!(out.status.code(), Some(64));
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["problems"][0]["key"], "scrape.interval");
    assert_eq!(json["problems"][0]["origin"], "sidecar.toml:3");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("latin1.toml"), b"[log]\nlevel = \"\xe4\"\n").unwrap();
    std::fs::write(folder.path().join("large.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    for (file, words) in [
        ("nowhere.toml", "the configuration file `nowhere.toml` does not exist"),
        (".", "the configuration file `.` is not a regular file"),
        ("latin1.toml", "the configuration file `latin1.toml` is not UTF-8 text"),
        ("large.toml", "the configuration file `large.toml` is larger than 1048576 bytes"),
    ] {
        let out = sidecar(folder.path(), &["--config", file, "check"]);
        assert_eq!(out.status.code(), Some(64));
        assert_eq!(text(&out.stderr).lines().next(), Some(format!("error: {words}").as_str()));
    }
    // An empty file is one that changes nothing; so is a variable that names none.
    std::fs::write(folder.path().join("empty.toml"), "\u{feff}").unwrap();
    assert_eq!(sidecar(folder.path(), &["--config", "empty.toml", "check"]).status.code(), Some(0));
    let out = command(folder.path(), &["check"]).env("ATLAS_SIDECAR_CONFIG", "").output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
}

#[test]
fn a_timeout_that_nobody_chose_follows_the_interval() {
    let target = "[[scrape.targets]]\nname = \"a\"\nurl = \"http://h/\"\n";
    let settings = load(&format!("{target}interval = \"5s\"\n")).unwrap().settings;
    assert_eq!(settings.scrape.targets[0].timeout, Duration::from_secs(4));
    let settings = load("[scrape]\ninterval = \"1s\"\n").unwrap().settings;
    assert_eq!(settings.scrape.timeout, Duration::from_millis(800));
    assert_eq!(settings.engine.builtin.timeout, Duration::from_millis(800));
    assert!(load("[scrape]\ninterval = \"1s\"\ntimeout = \"1s\"\n").is_err());
}

#[test]
fn a_metrics_database_behind_a_link_is_still_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("atlas.db"), folder.path().join("metrics.db"));
    std::fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let urls = |metrics: &Path| {
        format!("[database]\nurl = \"sqlite://{}\"\nmetrics_url = \"sqlite://{}\"\n", file.display(), metrics.display())
    };
    assert!(load(&urls(&link)).unwrap_err().to_string().contains("another database than"));
    assert!(load(&urls(&folder.path().join("other.db"))).is_ok());
}

/// A folder in which every way of giving a secret holds the canary, and the arguments and variables that complete it.
fn with_secrets(folder: &Path) -> String {
    private_file(folder, "token", &format!("{CANARY}\r\n"));
    private_file(folder, "url", &format!("https://h/metrics?key={CANARY}&{CANARY}\n"));
    let target = |name: &str, rest: &str| format!("[[scrape.targets]]\nname = \"{name}\"\n{rest}\n");
    [
        target("a", &format!("url = \"http://h/m\"\nbearer_token = \"{CANARY}\"")),
        target("b", &format!("url = \"http://h/m?key={CANARY}#{CANARY}\"")),
        target("c", "url_file = \"url\"\nbearer_token_file = \"token\""),
        target("d", "url = \"http://h/m\"\nusername = \"u\"\npassword_file = \"token\""),
        target("e", "url = \"http://h/m\"\nusername = \"u\""),
        target("f", "url = \"http://h/m\""),
    ]
    .join("")
}

/// E-11: a secret that is given in any place is in no output and in no `Debug`.
#[test]
fn no_secret_is_ever_shown() {
    let folder = tempfile::tempdir().unwrap();
    let toml = with_secrets(folder.path());
    private_file(folder.path(), "sidecar.toml", &toml);
    let bearer = format!("scrape.targets[5].bearer_token={CANARY}");
    let complete = |verb: &[&str]| {
        let mut args = vec!["--config", "sidecar.toml", "--set", &bearer];
        args.extend(verb);
        let mut command = command(folder.path(), &args);
        command.env("ATLAS_SIDECAR__SCRAPE__TARGETS__4__PASSWORD", CANARY);
        command
    };
    for verb in [&["check"][..], &["check", "--json"], &["health"], &["health", "--json"]] {
        let listen = free_address().to_string();
        let out = complete(verb).env("ATLAS_SIDECAR__SERVER__LISTEN", listen).output().unwrap();
        let (answer, said) = (text(&out.stdout), text(&out.stderr));
        assert!(!answer.contains(CANARY), "{verb:?}: {answer}");
        assert!(!said.contains(CANARY), "{verb:?}: {said}");
        if verb[0] == "check" {
            assert_eq!(out.status.code(), Some(0), "{answer}{said}");
            // Five secrets of their own, two addresses with two parts each, and what the checks say of those.
            assert!(answer.matches("<secret>").count() >= 5 + 2 + 2, "{answer}");
        }
    }
    // Every secret is there, whole.
    let sources = |toml: &str| Sources {
        file: Some(private_file(
            folder.path(),
            "absolute.toml",
            &toml.replace("_file = \"", &format!("_file = \"{}/", folder.path().display())),
        )),
        environment: pairs(&[("ATLAS_SIDECAR__SCRAPE__TARGETS__4__PASSWORD", CANARY)]),
        overrides: pairs(&[("scrape.targets[5].bearer_token", CANARY)]),
    };
    let loaded = config::load(&sources(&toml)).unwrap_or_else(|e| panic!("{e}"));
    for target in &loaded.settings.scrape.targets {
        let secret = match &target.auth {
            Some(Auth::Bearer(token)) => token.reveal(),
            Some(Auth::Basic { password, .. }) => password.reveal(),
            None => continue,
        };
        assert_eq!(secret, CANARY, "{}", target.name);
    }
    assert!(loaded.settings.scrape.targets[2].url.ends_with(&format!("&{CANARY}")));
    for shown in [format!("{loaded:?}"), format!("{:?}", loaded.settings), format!("{:?}", sources(&toml))] {
        assert!(!shown.contains(CANARY), "{shown}");
    }
}

/// E-11, where something is wrong with the secret, or beside it.
#[test]
fn no_secret_is_ever_shown_in_an_error() {
    let folder = tempfile::tempdir().unwrap();
    private_file(folder.path(), "two-lines", &format!("{CANARY}\n{CANARY}\n"));
    private_file(folder.path(), "wrong-url", &format!("postgres://u:{CANARY}@h/d?{CANARY}\n"));
    let target = "[[scrape.targets]]\nname = \"a\"\n";
    let mut files = vec![
        format!("[database]\nurl = \"postgres://u:{CANARY}@h/d?sslpassword={CANARY}\"\n"),
        format!("[database]\nurl = \"sqlite://u:{CANARY}@h/d?key={CANARY}\"\n"),
        format!("[database]\nurl = \"{CANARY}\"\n"),
        format!("[database]\nmetrics_url = \"mysql://u:{CANARY}@h/d\"\n"),
        format!("[database]\nurl = \"postgres://u:{CANARY}\"\n"),
        format!("[database]\nurl = \"postgres://u:a@{CANARY}@h/d\"\n"),
        format!("[database]\nurl = \"postgres://u:a/{CANARY}@h/d\"\n"),
        format!("[database]\nurl = \"postgres://u:{CANARY}@h/d\"\npassword = \"{CANARY}\"\n"),
        format!("[database]\nurl = \"postgres://u@h/d\"\npassword_file = \"two-lines\"\npassword = \"{CANARY}\"\n"),
        "[database]\nurl_file = \"wrong-url\"\n".to_owned(),
        format!("[database]\npasword = \"{CANARY}\"\n"),
        format!("[database]\nurl = [\"{CANARY}\"]\n"),
        format!("{target}url = \"http//u:{CANARY}@h/\"\n"),
        format!("{target}url = \"http://u:{CANARY}/x@h/\"\n"),
        format!("{target}url = \"http://u:{CANARY}@h/\"\n"),
        format!("{target}url = \"ftp://u:{CANARY}@h/?{CANARY}#{CANARY}\"\n"),
        format!("{target}url = \"http://u:{CANARY}@127.0.0.1:9700/?k={CANARY}\"\n"),
        "[[scrape.targets]]\nname = \"a\"\nurl_file = \"wrong-url\"\n".to_owned(),
        format!("{target}url = \"http://h/\"\nbearer_token = \"a {CANARY}\"\n"),
        format!("{target}url = \"http://h/\"\nbearer_token = [\"{CANARY}\"]\n"),
        format!("{target}url = \"http://h/\"\nbearer_token = {{ value = \"{CANARY}\" }}\n"),
        format!("{target}url = \"http://h/\"\nbearer_token = \"{CANARY}\"\npassword = \"{CANARY}\"\n"),
        format!("{target}url = \"http://h/\"\npassword = \"{CANARY}\"\n"),
        format!("{target}url = \"http://h/\"\nbearer_token_file = \"two-lines\"\n"),
        format!("{target}url = \"http://h/\"\nBearer_Token = \"{CANARY}\"\n"),
        format!("{target}url = \"http://h/\"\n[scrape.targets.auth]\nbearer_token = \"{CANARY}\"\n"),
        format!("{target}password = \"{CANARY}\n"),
        format!("{target}password = {CANARY}\n"),
        format!("{target}password = \"{CANARY}\" \"{CANARY}\"\n"),
        format!("{target}password = '''{CANARY}\n"),
        format!("{target}password = \"\\q{CANARY}\"\n"),
        format!("{target}password = \"{CANARY}\"\npassword = \"{CANARY}\"\n"),
        format!("[scrape]\ntargets = \"{CANARY}\"\n"),
        format!("[scrape]\ntargets = [\"{CANARY}\"]\n"),
    ];
    // Beside a problem that has nothing to do with it.
    files.push(format!("{}[log]\nlevel = \"loud\"\n", with_secrets(folder.path())));
    for toml in files {
        private_file(folder.path(), "sidecar.toml", &toml);
        for verb in [&["check"][..], &["check", "--json"], &["run"], &["health"]] {
            let mut args = vec!["--config", "sidecar.toml"];
            args.extend(verb);
            let out = sidecar(folder.path(), &args);
            let said = text(&out.stdout) + &text(&out.stderr);
            assert_eq!(out.status.code(), Some(64), "{toml}: {said}");
            assert!(!said.contains(CANARY), "{toml}: {said}");
        }
    }
    for (name, value) in [
        ("ATLAS_SIDECAR__DATABASE__URL", format!("postgres://u:{CANARY}@h/d?{CANARY}")),
        ("ATLAS_SIDECAR__DATABASE__PASSWORD", CANARY.to_owned()),
        ("ATLAS_SIDECAR__SCRAPE__TARGETS", format!("[{{ password = \"{CANARY}\" ")),
        ("ATLAS_SIDECAR__SCRAPE__TARGETS", format!("[{{ password = \"{CANARY}\" }}]")),
        ("ATLAS_SIDECAR__SCRAPE__TARGETS__0__PASSWORD", CANARY.to_owned()),
    ] {
        let out = command(folder.path(), &["check", "--json"]).env(name, &value).output().unwrap();
        let said = text(&out.stdout) + &text(&out.stderr);
        assert_eq!(out.status.code(), Some(64), "{name}: {said}");
        assert!(!said.contains(CANARY), "{name}={value}: {said}");
    }
    for flag in [
        CANARY.to_owned(),
        format!("={CANARY}"),
        format!("scrape.targets[0].password={CANARY}"),
        format!("database.url=postgres://u:{CANARY}@h:/d?sslmode={CANARY}"),
        format!("database.url=postgres://u:{CANARY}/@h/d"),
        format!("nonsense={CANARY}"),
    ] {
        let out = sidecar(folder.path(), &["check", "--set", &flag]);
        let said = text(&out.stdout) + &text(&out.stderr);
        assert_eq!(out.status.code(), Some(64), "{flag}: {said}");
        assert!(!said.contains(CANARY), "{flag}: {said}");
    }
}

#[test]
fn a_secret_that_everybody_can_read_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let token = private_file(folder.path(), "token", "t\n");
    let toml = |key: &str| format!("[[scrape.targets]]\nname = \"a\"\nurl = \"http://h/\"\n{key}\n");
    let file = private_file(folder.path(), "sidecar.toml", &toml("bearer_token_file = \"token\""));
    let checked = || {
        let out = sidecar(folder.path(), &["--config", "sidecar.toml", "check"]);
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
        text(&out.stdout)
    };
    assert!(checked().contains("# ok    secrets"));
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o644)).unwrap();
    let said = checked();
    assert!(said.contains("# warn  secrets") && said.contains("`chmod o-r token`"), "{said}");
    let out = sidecar(
        folder.path(),
        &["check", "--set", "scrape.targets=[{name = \"a\", url = \"http://h/\", bearer_token = \"t\"}]"],
    );
    assert!(text(&out.stdout).contains("in the list of processes"), "{}{}", text(&out.stdout), text(&out.stderr));
    // The same for a secret in the configuration file itself; the file of others may be open.
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).unwrap();
    assert!(checked().contains("# ok    secrets"));
    std::fs::write(&file, toml("bearer_token = \"t\"")).unwrap();
    let said = checked();
    assert!(said.contains("# warn  secrets") && said.contains("bearer_token_file"), "{said}");
}

/// The same for the database's: in the URL, beside it, in files; and the way to the server.
#[test]
fn a_database_password_that_everybody_can_read_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let warnings = |mode: u32, toml: &str| {
        let file = private_file(folder.path(), "sidecar.toml", toml);
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap_or_else(|e| panic!("{e}")).warnings
    };
    let inside = format!("[database]\nurl = \"postgres://u:{CANARY}@localhost/d\"\n");
    let beside = format!("[database]\nurl = \"postgres://u@localhost/d\"\npassword = \"{CANARY}\"\n");
    let harmless = "[database]\nurl = \"postgres://u@localhost/d?sslmode=disable\"\npassword = \"\"\n";
    for toml in [inside.as_str(), beside.as_str(), harmless] {
        assert_eq!(warnings(0o600, toml), Vec::<String>::new());
    }
    assert_eq!(warnings(0o644, harmless), Vec::<String>::new());
    for (toml, key) in [(inside, "`database.url`: "), (beside, "`database.password`: ")] {
        let said = warnings(0o644, &toml).join("\n");
        assert!(
            said.starts_with(key) && said.contains("everybody on this machine can read") && said.contains("_file`"),
            "{said}"
        );
        assert!(!said.contains(CANARY), "{said}");
    }
    let said = warnings(0o600, "[database]\nurl = \"postgres://u@db/d\"\n").join("\n");
    assert_eq!(
        said,
        "`database.url`: `sslmode=prefer` to `db:5432`: the session may not be encrypted, and another server can pass for it; write \
         `sslmode=verify-full`, and `sslrootcert=FILE` if the authority is your own"
    );
}

/// E-11: the configuration of a PostgreSQL database, printed and loaded again.
#[test]
fn a_database_password_is_never_shown() {
    let url = |user: &str| format!("postgres://{user}@/d?host=/run/postgresql&connect_timeout=9");
    let toml = |user: &str| {
        format!(
            "[database]\nurl = \"{}\"\nmetrics_url = \"{}\"\nmetrics_password = \"{CANARY}\"\n",
            url(user),
            url("v").replace("/d", "/e")
        )
    };
    let loaded = load(&toml(&format!("u:{CANARY}"))).unwrap_or_else(|e| panic!("{e}"));
    let printed = redacted(&loaded.settings).to_string();
    assert!(printed.contains(&format!("url = \"{}\"", url("u:<secret>"))), "{printed}");
    assert!(printed.contains("metrics_password = \"<secret>\""), "{printed}");
    for shown in [printed, format!("{loaded:?}"), format!("{:?}", loaded.settings)] {
        assert!(!shown.contains(CANARY), "{shown}");
    }
}

#[test]
fn check_says_what_would_not_work() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    private_file(folder.path(), "state", "a file");
    let listen = format!("server.listen={}", taken.local_addr().unwrap());
    let args = [
        "check",
        "--json",
        "--set",
        "state_directory=state",
        "--set",
        "server.web_config_file=web.yml",
        "--set",
        &listen,
    ];
    let out = sidecar(folder.path(), &args);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    let outcome = |name: &str| {
        let check = json["checks"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap();
        check["outcome"].as_str().unwrap().to_owned()
    };
    assert_eq!(outcome("state_directory"), "fail");
    assert_eq!(outcome("server.listen"), "warn");
    assert_eq!(outcome("server.web_config_file"), "fail");
    assert_eq!(json["configuration"]["server"]["web_config_file"], "web.yml");
}

#[test]
fn check_changes_nothing_and_prints_what_loads_back() {
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("server.listen={}", free_address());
    let out = sidecar(folder.path(), &["check", "--set", &listen]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    private_file(folder.path(), "printed.toml", &text(&out.stdout));
    let again = sidecar(folder.path(), &["--config", "printed.toml", "check"]);
    assert_eq!(text(&again.stdout), text(&out.stdout));
}

/// `atlas-sidecar … | head`: a reader that has enough ends the command without a word.
#[test]
fn a_closed_standard_output_ends_quietly() {
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("server.listen={}", free_address());
    for args in [&["default-config"][..], &["check", "--set", &listen]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = command(folder.path(), args).stdout(writer).output().unwrap();
        assert_eq!((out.status.code(), text(&out.stderr)), (Some(0), String::new()), "{args:?}");
    }
}

#[test]
fn wrong_usage_ends_with_64() {
    let folder = tempfile::tempdir().unwrap();
    for (args, code) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["migrate", "--help"], 0),
        (&["frobnicate"], 64),
        (&["check", "--frobnicate"], 64),
        (&["export", "--from", "yesterday", "--to", "now", "--format", "csv"], 64),
        (&["health", "--set", "server.listen=nowhere"], 64),
        (&["backup", "full", "--frobnicate"], 64),
        (&["restore", "--help"], 0),
        (&["drill", "--json"], 1),
    ] {
        assert_eq!(sidecar(folder.path(), args).status.code(), Some(code), "{args:?}");
    }
}

/// Nobody may believe that anything was proven.
#[test]
fn drills_say_that_they_are_not_there() {
    let folder = tempfile::tempdir().unwrap();
    // Also with a configuration that is none.
    let out = sidecar(folder.path(), &["--config", "nowhere.toml", "drill", "--to", "x"]);
    let said = text(&out.stderr);
    assert_eq!((out.status.code(), text(&out.stdout)), (Some(1), String::new()), "{said}");
    assert!(said.starts_with("error: `drill` is not available: this version makes no drills"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Nobody may believe that there is a copy of a PostgreSQL database.
#[test]
fn backups_of_postgresql_say_that_they_are_not_there() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["backup", "full"][..],
        &["backup", "incremental"],
        &["backup", "list"],
        &["restore", "--at", "latest", "--to", "x"],
    ] {
        let out = sidecar(folder.path(), &[&["--set", "database.url=postgres://u@h/d"], args].concat());
        let said = text(&out.stderr);
        assert_eq!((out.status.code(), text(&out.stdout)), (Some(1), String::new()), "{said}");
        assert!(said.contains("is not available: this version makes no backups of PostgreSQL"), "{said}");
        assert!(said.contains("pg_basebackup"), "{said}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Answers every connection with what `answer` makes of it, until the test ends.
fn serve(answer: impl Fn(std::net::TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    address
}

fn reply(mut stream: impl Read + Write, status: &str, body: &str) {
    let mut request = [0; 1024];
    let Ok(read) = stream.read(&mut request) else { return };
    if request[..read].starts_with(b"GET /-/ready HTTP/1.1\r\n") {
        let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    }
}

fn health(address: SocketAddr) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let out = sidecar(folder.path(), &["health", "--set", &format!("server.listen={address}")]);
    (out.status.code(), text(&out.stdout) + &text(&out.stderr))
}

#[test]
fn health_is_what_the_sidecar_answers() {
    assert_eq!(health(serve(|stream| reply(stream, "200 OK", "ready\n"))), (Some(0), "ready\n".to_owned()));
    let draining = serve(|stream| reply(stream, "503 Service Unavailable", "draining\n"));
    let (code, said) = health(draining);
    assert_eq!(code, Some(1));
    assert_eq!(said, format!("error: the sidecar at `{draining}` is not ready: status 503: draining\n"));
    let (code, said) = health(free_address());
    assert!(code == Some(1) && said.contains("cannot connect"), "{said}");
    let (code, said) = health(serve(|mut stream| drop(stream.write_all(b"220 mail.example.org ESMTP\r\n"))));
    assert!(code == Some(1) && said.contains("neither HTTP nor HTTPS"), "{said}");
}

#[test]
fn health_gives_up_after_three_seconds() {
    // It takes the three seconds because that is the limit that is tested.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, said) = health(silent.local_addr().unwrap());
    assert!(code == Some(1) && said.contains("no answer in 3 s"), "{said}");
}

#[test]
fn health_speaks_tls_and_needs_no_trust() {
    for (wants_client_certificate, words) in [(false, "ready"), (true, "only to clients with a certificate")] {
        let config = tls(wants_client_certificate);
        let address = serve(move |stream| {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            reply(rustls::StreamOwned::new(connection, stream), "200 OK", "ready\n");
        });
        let (code, said) = health(address);
        assert!(code == Some(0) && said.contains(words), "{code:?} {said}");
    }
}

/// The whole way: the real server with a web config file, asked by the real command.
#[test]
fn health_of_a_real_sidecar_behind_tls() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).unwrap();
    private_file(folder.path(), "cert.pem", &made.cert.pem());
    private_file(folder.path(), "key.pem", &made.signing_key.serialize_pem());
    let web = "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n";
    let web = private_file(folder.path(), "web.yml", web);
    let environment = [("ATLAS_SIDECAR__SERVER__WEB_CONFIG_FILE", web.to_str().unwrap())];
    let running = Sidecar::launch(folder.path(), "", &environment);
    let said = wait_for("health over TLS", Duration::from_secs(20), || {
        let out = sidecar(folder.path(), &["health", "--config", "sidecar.toml"]);
        Some(text(&out.stdout)).filter(|_| out.status.code() == Some(0))
    });
    assert_eq!(said, "ready\n");
    assert_eq!(running.stop(), 0);
    let out = sidecar(folder.path(), &["health", "--config", "sidecar.toml"]);
    assert_eq!(out.status.code(), Some(1));
}

fn tls(wants_client_certificate: bool) -> Arc<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let made = rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let builder =
        rustls::ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = if wants_client_certificate {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    Arc::new(builder.with_single_cert(vec![certificate], key).unwrap())
}

#[test]
fn rows_of_the_applications_own_tables_are_no_logs() {
    let rule = |table: &str| format!("[[retention.tables]]\ntable = \"{table}\"\ntime_column = \"created_at\"\n");
    let loaded = load(&(rule("Webhooks") + &rule("access_log"))).unwrap_or_else(|e| panic!("{e}"));
    let words = "`retention.tables[0].table`: `Webhooks` is one of the application's own tables, and no log";
    assert_eq!(loaded.warnings, [words]);
    let logs = &loaded.settings.jobs.retention.logs;
    assert_eq!(logs.tables[1].ages[0].keep, Duration::from_secs(7 * 86_400), "as the reference says");
    assert_eq!(logs.guarded.files.len(), 4, "a SQLite database and what comes beside it");
}
