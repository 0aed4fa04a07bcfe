//! dashboards/prometheus: every alert fires where it should and keeps still where it should, names only metrics that exist and sections that are there, and a
//! healthy sidecar raises none.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use atlas_sidecar::app;
use serde_json::Value;

use crate::prometheus::Prometheus;
use crate::support::{SIDECAR, Sidecar, get, run, wait_for};

/// What a healthy sidecar has no series of, and why.
const RIGHTLY_ABSENT: &[&str] = &[
    // Where there is a web config file.
    "atlas_sidecar_web_config_last_reload_successful",
    // From the first loss on.
    "atlas_sidecar_samples_dropped_total",
];

const ALERTS: &str = "alerts.yml";
const EXAMPLE: &str = "prometheus.yml";

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder() -> PathBuf {
    project().join("dashboards/prometheus")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

/// The files of cases.
fn cases() -> Vec<String> {
    let files = std::fs::read_dir(folder()).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<_> = files.filter(|name| name.starts_with("tests_of_")).collect();
    files.sort();
    assert!(files.len() >= 2, "{files:?}");
    files
}

fn promtool(args: &[&str]) {
    let out = Command::new("promtool").args(args).current_dir(folder()).output();
    let out = out.unwrap_or_else(|e| panic!("`promtool` does not start ({e}): tests/run installs it"));
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "promtool {args:?}: {said}");
}

#[test]
fn promtool_takes_the_rules_and_the_example() {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", ALERTS, "rules.yml"]);
    promtool(&["check", "config", EXAMPLE]);
}

/// Some seconds: each case runs all rules over hours, days or weeks of made-up series.
#[test]
fn alerts_fire_where_they_should_and_keep_still_where_they_should() {
    let cases = cases();
    std::thread::scope(|scope| {
        for file in &cases {
            scope.spawn(|| promtool(&["test", "rules", file]));
        }
    });
}

/// The names after `key` in a file of ours, one to a line.
fn values<'a>(text: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| line.trim().strip_prefix(key)).map(str::trim)
}

#[test]
fn every_alert_has_a_case_that_fires_and_one_that_does_not() {
    let alerts = text(ALERTS);
    let (mut fires, mut quiet) = (BTreeSet::new(), BTreeSet::new());
    let cases: String = cases().iter().map(|file| text(file)).collect();
    let mut lines = cases.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("alertname: ") else { continue };
        match lines.next() {
            Some("exp_alerts: []") => quiet.insert(name),
            Some("exp_alerts:") => fires.insert(name),
            other => panic!("{name} is followed by {other:?}"),
        };
    }
    let alerts: BTreeSet<_> = values(&alerts, "- alert:").collect();
    assert_eq!(alerts, fires);
    assert_eq!(alerts, quiet);
}

/// The rules as a Prometheus has read them.
fn rules(prometheus: &Prometheus) -> Option<Vec<Value>> {
    let answer: Value = serde_json::from_str(&get(prometheus.address, "/api/v1/rules")?.text()).ok()?;
    let groups = answer["data"]["groups"].as_array()?;
    Some(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
        .filter(|rules: &Vec<_>| !rules.is_empty())
}

fn word<'a>(rule: &'a Value, key: &str) -> &'a str {
    rule[key].as_str().unwrap_or_else(|| panic!("no `{key}` in {rule}"))
}

/// The example with its files at their place, its target at `address`, and every second for every minute.
fn example(scratch: &Path, address: &str) -> PathBuf {
    let mut config = text(EXAMPLE);
    let mut put = |from: &str, to: &str| {
        assert!(config.contains(from), "the example has no `{from}`");
        config = config.replace(from, to);
    };
    put("scrape_interval: 1m", "scrape_interval: 1s");
    put("evaluation_interval: 1m", "evaluation_interval: 1s");
    put("127.0.0.1:9700", address);
    put("- alerts.yml", &format!("- {}", folder().join(ALERTS).display()));
    put("- rules.yml", &format!("- {}", folder().join("rules.yml").display()));
    let file = scratch.join("example.yml");
    std::fs::write(&file, config).unwrap();
    file
}

/// The metrics that a query asks for: what looks like a name outside of quotes, and has one of our beginnings.
fn metrics_of(query: &str) -> BTreeSet<String> {
    let outside: String = query.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    let words = outside.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let ours = |word: &&str| {
        *word == "up" || word.contains(':') || ["atlas_", "node_", "process_"].iter().any(|with| word.starts_with(with))
    };
    words.filter(|word| word.len() > 1).filter(ours).map(str::to_owned).collect()
}

/// As Git's web servers make anchors of headings that are one word.
fn sections() -> BTreeSet<String> {
    let page = std::fs::read_to_string(project().join("docs/OPERATIONS.md")).unwrap();
    let (_, alerts) = page.split_once("\n## Alerts\n").expect("docs/OPERATIONS.md has a heading `Alerts`");
    let alerts = alerts.split("\n## ").next().unwrap();
    values(alerts, "### ").map(str::to_owned).collect()
}

/// Names exist, annotations are there, runbooks are sections and each section is of an alert.
#[test]
fn rules_name_what_there_is() {
    let scratch = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start_with(scratch.path(), &example(scratch.path(), "127.0.0.1:1"));
    let rules = wait_for("the rules", Duration::from_secs(30), || rules(&prometheus));
    let recorded: BTreeSet<_> =
        rules.iter().filter(|rule| rule["type"] == "recording").map(|rule| word(rule, "name")).collect();
    let known: BTreeSet<_> = app::metrics().iter().map(|desc| desc.name).collect();
    let mut alerts = BTreeSet::new();
    for rule in &rules {
        for metric in metrics_of(word(rule, "query")) {
            let base = ["_sum", "_count", "_bucket"].iter().find_map(|end| metric.strip_suffix(end)).unwrap_or(&metric);
            let there = metric == "up"
                || recorded.contains(metric.as_str())
                || [metric.as_str(), base].iter().any(|name| known.contains(name));
            assert!(there, "`{}` asks for `{metric}`, which nobody makes", word(rule, "name"));
        }
        if rule["type"] == "recording" {
            continue;
        }
        let name = word(rule, "name");
        alerts.insert(name.to_owned());
        let annotations = &rule["annotations"];
        assert!(!word(annotations, "summary").is_empty(), "{name}");
        assert!(word(annotations, "description").len() > 40, "{name}");
        assert_eq!(word(annotations, "runbook_url"), format!("docs/OPERATIONS.md#{}", name.to_lowercase()));
        let severity = word(&rule["labels"], "severity");
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
    }
    assert_eq!(alerts, sections());
}

/// Every command in the sections is one that the program has.
#[test]
fn commands_of_the_runbooks_exist() {
    let page = std::fs::read_to_string(project().join("docs/OPERATIONS.md")).unwrap();
    let (_, alerts) = page.split_once("\n## Alerts\n").unwrap();
    let commands: BTreeSet<_> =
        alerts.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix("atlas-sidecar ")).collect();
    assert!(commands.len() > 8, "{commands:?}");
    for command in commands {
        let args: Vec<_> = command.split(' ').chain(["--help"]).collect();
        assert!(run(SIDECAR, &args).contains("Usage:"), "{command}");
    }
}

/// The README's way to put an address in front of the runbooks.
#[test]
fn runbooks_get_an_address_as_the_readme_tells() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join(ALERTS);
    std::fs::copy(folder().join(ALERTS), &file).unwrap();
    let readme = text("README.md");
    let command = readme.split('`').find(|code| code.starts_with("sed ")).unwrap();
    run("sh", &["-c", &format!("cd '{}' && {command}", scratch.path().display())]);
    let changed = std::fs::read_to_string(&file).unwrap();
    let begins = "https://git.example.org/atlas-sidecar/blob/main/docs/OPERATIONS.md#";
    assert!(values(&changed, "runbook_url:").count() > 15);
    assert!(values(&changed, "runbook_url:").all(|url| url.starts_with(begins)), "{changed}");
    promtool(&["check", "rules", file.to_str().unwrap()]);
}

/// The example scrapes a real sidecar that makes backups: every rule is evaluated without an error, what it asks for has series, and no alert is even
/// pending; until the sidecar ends.
#[test]
fn a_healthy_sidecar_raises_no_alert() {
    let scratch = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(
        scratch.path(),
        "[scrape]\ninterval = \"1s\"\ntimeout = \"900ms\"\n[backup]\ndestination = \"file:data/backups\"\n",
    );
    let prometheus = Prometheus::start_with(scratch.path(), &example(scratch.path(), &sidecar.address.to_string()));
    let evaluated = wait_for("every rule", Duration::from_secs(60), || {
        let rules = rules(&prometheus)?;
        let done = rules.iter().all(|rule| word(rule, "health") != "unknown");
        Some(rules).filter(|_| done)
    });
    for rule in &evaluated {
        assert_eq!(word(rule, "health"), "ok", "{rule}");
    }
    for metric in evaluated.iter().flat_map(|rule| metrics_of(word(rule, "query"))).collect::<BTreeSet<_>>() {
        let base = metric.strip_suffix("_sum").unwrap_or(&metric);
        if !RIGHTLY_ABSENT.contains(&base) {
            wait_for(&format!("`{metric}` in Prometheus"), Duration::from_secs(30), || {
                prometheus.query(&metric)?.pop()
            });
        }
    }
    // The name of a job is no longer called `job`, and matching by it works: a rule that asks by it sees this series.
    let full = "atlas_sidecar_job_running{job=\"atlas-sidecar\",exported_job=\"backup-full\"}";
    wait_for("the job", Duration::from_secs(30), || prometheus.query(full)?.pop());
    // An evaluation that has seen all of these series: each rule was evaluated twice from here on.
    let mut seen = BTreeSet::new();
    wait_for("two evaluations without an alert", Duration::from_secs(60), || {
        let rules = rules(&prometheus)?;
        let raised = |rule: &&Value| rule["alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
        // The disk of this machine is not the sidecar's matter.
        let raised = rules.iter().filter(raised).filter(|rule| word(rule, "name") != "AtlasSidecarDiskFilling").count();
        seen.insert(rules.iter().map(|rule| word(rule, "lastEvaluation").to_owned()).min()?);
        Some(()).filter(|()| raised == 0 && seen.len() > 2)
    });
    assert_eq!(sidecar.stop(), 0);
    wait_for("the alert about a sidecar that is away", Duration::from_secs(60), || {
        let rules = rules(&prometheus)?;
        let down = rules.iter().find(|rule| word(rule, "name") == "AtlasSidecarDown")?;
        Some(()).filter(|()| down["alerts"][0]["labels"]["instance"].is_string())
    });
}
