//! `dashboards/grafana/*.json`, as a user imports them: they are what their source makes, Grafana's own types and linter have nothing against them, and each
//! of their queries says something about a sidecar that is at work. What no test here sees is Grafana itself: how it looks.

mod linter;
mod scene;
mod types;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use atlas_sidecar::app;
use atlas_sidecar::sample::globs::Globs;
use atlas_sidecar::sample::{Desc, Kind};
use serde_json::Value;

use crate::pages::pattern;
use crate::support::run;

const NAMES: [&str; 5] = ["overview", "backups", "jobs", "atlas", "host"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards/grafana")
}

struct Dashboard {
    name: &'static str,
    json: Value,
}

impl Dashboard {
    fn all() -> Vec<Self> {
        let read = |name| std::fs::read(folder().join(format!("{name}.json"))).unwrap();
        NAMES.map(|name| Self { name, json: serde_json::from_slice(&read(name)).unwrap() }).into()
    }

    /// Panels that show something: not the headings of rows.
    fn panels(&self) -> impl Iterator<Item = &Value> {
        self.json["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
    }

    fn queries(&self) -> impl Iterator<Item = Query<'_>> {
        self.panels().flat_map(move |panel| {
            let letter = |target: &Value| target["refId"].as_str().unwrap().to_owned();
            let title = panel["title"].as_str().unwrap();
            panel["targets"].as_array().unwrap().iter().map(move |target| Query {
                place: format!("{} / {title} / {}", self.name, letter(target)),
                expr: target["expr"].as_str().unwrap(),
                labels: labels(panel, target),
            })
        })
    }
}

/// A panel's query, where it stands (dashboard, panel, letter), and the labels that its answer must have, because they are shown.
struct Query<'a> {
    place: String,
    expr: &'a str,
    labels: Vec<String>,
}

/// What a legend or the columns of a table are made of.
fn labels(panel: &Value, target: &Value) -> Vec<String> {
    let legend = target["legendFormat"].as_str().unwrap_or_default().split("{{").skip(1);
    let mut labels: Vec<_> = legend.map(|part| part.split_once("}}").unwrap().0.to_owned()).collect();
    for step in panel["transformations"].as_array().into_iter().flatten() {
        let columns = step["options"]["renameByName"].as_object().into_iter().flatten();
        labels.extend(columns.map(|(name, _)| name.clone()).filter(|name| !name.starts_with("Value")));
    }
    labels
}

impl<'a> Query<'a> {
    /// Each selector: the metric, what is between its braces, and what follows.
    fn selectors(&self) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
        self.expr.match_indices('{').map(|(at, _)| {
            let before = &self.expr[..at];
            let name = before.trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len();
            let (matchers, after) = self.expr[at + 1..].split_once('}').expect("braces are closed");
            (&before[name..], matchers, after)
        })
    }
}

/// The description of a metric, which may be that of a whole group, or of the histogram whose sum it is.
fn described<'a>(all: &'a [&'static Desc], name: &str) -> Option<&'a &'static Desc> {
    let name = name.strip_suffix("_seconds_sum").map_or_else(|| name.to_owned(), |base| format!("{base}_seconds"));
    all.iter().find(|desc| Globs::new([pattern(desc.name)]).matches(&name))
}

#[test]
fn the_dashboards_are_what_their_source_makes() {
    let made = tempfile::tempdir().unwrap();
    let source = folder().join("source/make.py");
    run("python3", &[source.to_str().unwrap(), made.path().to_str().unwrap()]);
    for name in NAMES.map(|name| format!("{name}.json")) {
        let read = |folder: &Path| std::fs::read_to_string(folder.join(&name)).unwrap();
        let hint = "python3 dashboards/grafana/source/make.py dashboards/grafana";
        assert!(read(made.path()) == read(&folder()), "{name} is not what its source makes: run `{hint}`");
    }
}

/// Every name is the program's, or Prometheus' own `up`; what only grows is looked at by how much it grows, and what does not is not.
#[test]
fn every_metric_is_described_and_used_as_its_kind_wants() {
    let all: Vec<_> = app::metrics();
    for dashboard in Dashboard::all() {
        for query in dashboard.queries() {
            for (name, _, after) in query.selectors().filter(|(name, ..)| *name != "up") {
                let desc = described(&all, name).unwrap_or_else(|| panic!("{}: nobody makes `{name}`", query.place));
                let ranged = after.starts_with('[') && !after.starts_with("[6h]");
                // Two gauges in name only: a sum that grows, and node_exporter's untyped number of killed processes.
                let grows = matches!(desc.kind, Kind::Counter | Kind::Histogram)
                    || ["atlas_content_accesses", "node_vmstat_oom_kill"].contains(&name);
                assert_eq!(ranged, grows, "{}: `{name}` is a {}", query.place, desc.kind.word());
            }
            // Nothing is named without the braces that say whose it is.
            let bare = |word: &str| ["atlas_", "node_", "process_", "pg_"].iter().any(|start| word.starts_with(start));
            let words = query.expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let named: BTreeSet<_> = query.selectors().map(|(name, ..)| name).collect();
            let stray: Vec<_> = words.filter(|word| bare(word) && !named.contains(word)).collect();
            assert!(stray.is_empty(), "{}: {stray:?}", query.place);
        }
    }
}

/// A colour is explained where it is: what is orange, what is red, and why.
#[test]
fn descriptions_tell_what_the_colours_mean() {
    for dashboard in Dashboard::all() {
        for panel in dashboard.panels() {
            let description = panel["description"].as_str().unwrap().to_lowercase();
            let config = panel["fieldConfig"].to_string();
            for colour in ["orange", "red"] {
                let used = config.contains(&format!("\"color\":\"{colour}\""));
                assert!(!used || description.contains(colour), "{}: {}: {colour}", dashboard.name, panel["title"]);
            }
        }
    }
}

/// 24 columns, nothing above anything else, and at most three panels beside each other where there is more than a number in them.
#[test]
fn panels_have_room() {
    for dashboard in Dashboard::all() {
        let mut taken = BTreeSet::new();
        let all = dashboard.json["panels"].as_array().unwrap();
        for panel in all {
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
            assert!(x + w <= 24 && w >= if panel["type"] == "stat" { 4 } else { 8 }, "{}", panel["title"]);
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(taken.insert(cell), "{}: {} covers something", dashboard.name, panel["title"]);
            }
        }
        let ids: BTreeSet<_> = all.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), all.len());
        assert!(
            all.iter().take(6).all(|panel| panel["type"] == "stat"),
            "the first row tells whether something is wrong"
        );
    }
}

/// The dashboards find each other by a tag, and their panels by the name in the address.
#[test]
fn links_lead_somewhere() {
    let all = Dashboard::all();
    let known: Vec<_> = all.iter().map(|dashboard| dashboard.json["uid"].as_str().unwrap()).collect();
    for dashboard in &all {
        // More than forty characters are refused.
        assert!(dashboard.json["uid"].as_str().unwrap().len() <= 40);
        assert_eq!(dashboard.json["tags"], dashboard.json["links"][0]["tags"]);
        for link in dashboard.panels().filter_map(|panel| panel["links"].as_array()).flatten() {
            let url = link["url"].as_str().unwrap();
            let (uid, variables) = url.strip_prefix("/d/").and_then(|rest| rest.split_once('?')).unwrap();
            assert!(known.contains(&uid), "{url}");
            assert_eq!(variables, "${__url_time_range}&${__all_variables}");
        }
    }
}
