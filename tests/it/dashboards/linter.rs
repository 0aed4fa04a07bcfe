//! The rules of Grafana's dashboard linter (github.com/grafana/dashboard-linter, docs/index.md), under its names; it is a Go program and is not run here. Its
//! rules about LogQL do not apply, and whether a query is PromQL at all (target-promql-rule, template-label-promql-rule) Prometheus says in `scene`.
//! As the linter has it, an exception gives its reason.

use serde_json::{Value, json};

use super::Dashboard;

/// The units in use, each one of Grafana's (packages/grafana-data/src/valueFormats/categories.ts).
const UNITS: &[&str] = &["short", "percentunit", "s", "bytes", "Bps", "reqps", "celsius"];

fn each(check: impl Fn(&Dashboard)) {
    Dashboard::all().iter().for_each(check);
}

fn variable<'a>(dashboard: &'a Dashboard, name: &str) -> &'a Value {
    let all = dashboard.json["templating"]["list"].as_array().unwrap();
    all.iter().find(|variable| variable["name"] == name).unwrap_or_else(|| panic!("{}: no {name}", dashboard.name))
}

#[test]
fn template_datasource_rule() {
    each(|dashboard| {
        let source = variable(dashboard, "datasource");
        let is = [&source["type"], &source["query"], &source["label"]];
        assert_eq!(is, ["datasource", "prometheus", "Data source"], "{}", dashboard.name);
    });
}

/// template-job-rule, template-instance-rule, template-on-time-change-reload-rule
#[test]
fn template_job_and_instance_rules() {
    each(|dashboard| {
        for (name, label) in [("job", "Job"), ("instance", "Instance")] {
            let variable = variable(dashboard, name);
            assert_eq!([&variable["type"], &variable["label"]], ["query", label]);
            assert_eq!(variable["datasource"]["uid"], "${datasource}");
            assert_eq!([&variable["multi"], &variable["includeAll"]], [true, true]);
            assert_eq!(variable["refresh"], 2, "when the time range changes");
        }
        assert_eq!(variable(dashboard, "instance")["allValue"], ".+");
        // The exception: with `.+`, all jobs would be whatever Prometheus scrapes. Without it they are those that have a sidecar.
        assert_eq!(variable(dashboard, "job")["allValue"], Value::Null);
    });
}

/// panel-datasource-rule, panel-title-description-rule, panel-units-rule, panel-no-targets-rule; and our own: what is shown where nothing is there.
#[test]
fn panel_rules() {
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    each(|dashboard| {
        for panel in dashboard.panels() {
            let place = format!("{} / {}", dashboard.name, panel["title"]);
            assert_eq!(panel["datasource"], source, "{place}");
            assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{place}");
            assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{place}");
            let defaults = &panel["fieldConfig"]["defaults"];
            assert!(UNITS.contains(&defaults["unit"].as_str().unwrap()), "{place}");
            assert!(defaults["noValue"].as_str().is_some_and(|text| !text.is_empty()), "{place}");
            // Where they are out of order, Grafana takes any.
            let steps = defaults["thresholds"]["steps"].as_array().unwrap();
            assert!(
                steps[0]["value"].is_null() && steps.iter().skip(1).is_sorted_by_key(|s| s["value"].as_f64()),
                "{place}"
            );
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty() && targets.iter().all(|target| target["datasource"] == source), "{place}");
            for rule in panel["fieldConfig"]["overrides"].as_array().unwrap() {
                let unit = rule["properties"].as_array().unwrap().iter().find(|property| property["id"] == "unit");
                assert!(UNITS.contains(&unit.unwrap()["value"].as_str().unwrap()), "{place}");
            }
        }
    });
}

/// target-job-rule, target-instance-rule
#[test]
fn target_job_and_instance_rules() {
    each(|dashboard| {
        for query in dashboard.queries() {
            assert!(query.selectors().count() > 0, "{}", query.place);
            for (name, matchers, _) in query.selectors() {
                assert!(matchers.starts_with("job=~\"$job\",instance=~\"$instance\""), "{}: {name}", query.place);
            }
        }
    });
}

/// target-rate-interval-rule, target-counter-agg-rule. A query with it has a `Min step` of a minute, so that the interval has some collections in it.
#[test]
fn target_rate_interval_and_counter_rules() {
    each(|dashboard| {
        for panel in dashboard.panels() {
            for target in panel["targets"].as_array().unwrap() {
                let expr = target["expr"].as_str().unwrap();
                let told = ["(24 h)", "last day"].iter().any(|words| panel.to_string().contains(words));
                assert!(told || !expr.contains("[24h]"), "{} / {}", dashboard.name, panel["title"]);
                let ranged = expr.contains("$__rate_interval");
                assert_eq!(target["interval"] == "1m", ranged, "{} / {}", dashboard.name, panel["title"]);
            }
        }
        for query in dashboard.queries() {
            for (name, matchers, after) in query.selectors() {
                let selector = format!("{name}{{{matchers}}}[");
                let under = |function: &str| query.expr.contains(&format!("{function}({selector}"));
                let grown = ["rate", "increase", "delta"].into_iter().any(under);
                assert!(grown || !name.ends_with("_total"), "{}: {name}", query.place);
                let range = after.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(range, _)| range);
                let allowed = match range {
                    None | Some("$__rate_interval") => true,
                    // The number of a whole day, whatever range is shown; the panel says so.
                    Some("24h") => under("increase"),
                    // A slope, not a rate.
                    Some("6h") => under("predict_linear"),
                    Some(_) => false,
                };
                assert!(allowed, "{}: {range:?}", query.place);
            }
        }
    });
}

#[test]
fn uneditable_dashboard_rule() {
    each(|dashboard| assert_eq!(dashboard.json["editable"], false, "{}", dashboard.name));
}
