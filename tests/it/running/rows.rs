//! Rows that the application writes to `system_metrics`: each form of time is read, and what cannot be shown is counted (T-2, T-3, T-4).

use super::{QUICK, page_with, sql, value};
use crate::support::Sidecar;

/// Forms of one instant, made by SQLite itself, as a column's expression.
const FORMS: [(&str, &str); 8] = [
    ("space", "strftime('%Y-%m-%d %H:%M:%S', 'now')"),
    ("letter_t", "strftime('%Y-%m-%dT%H:%M:%S', 'now')"),
    ("zulu", "strftime('%Y-%m-%dT%H:%M:%SZ', 'now')"),
    ("offset", "strftime('%Y-%m-%dT%H:%M:%S+02:00', 'now', '+2 hours')"),
    ("fraction", "strftime('%Y-%m-%d %H:%M:%S', 'now') || '.123456'"),
    ("seconds", "CAST(strftime('%s', 'now') AS INTEGER)"),
    ("milliseconds", "CAST(strftime('%s', 'now') AS INTEGER) * 1000"),
    ("float", "strftime('%s', 'now') + 0.25"),
];

#[test]
fn rows_are_shown_whatever_form_their_time_has_and_counted_where_it_has_none() {
    let scratch = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(scratch.path(), QUICK);
    let database = scratch.path().join("data/atlas.db");
    page_with(&sidecar, "a first look at the table", |page| {
        value(page, "atlas_sidecar_source_up{source=\"table\"}") == Some(1.0)
    });
    let insert = |name: &str, number: usize, time: &str| {
        format!(
            "INSERT INTO system_metrics(id, metric_name, metric_value, tags, recorded_at)
             VALUES ('{name}', 'form', {number}, '{{\"as\": \"{name}\"}}', {time});"
        )
    };
    let good: String = FORMS.iter().enumerate().map(|(n, (name, time))| insert(name, n, time)).collect();
    let bad = [
        ("nothing", "NULL"),
        ("words", "'yesterday'"),
        ("julian", "julianday('now')"),
        ("ahead", "datetime('now', '+1 hour')"),
        ("another_zone", "datetime('now', '+5 hours')"),
    ];
    let bad: String = bad.iter().map(|(name, time)| insert(name, 1, time)).collect();
    // A clock that is a little ahead is no mistake.
    let close = insert("close", 7, "datetime('now', '+2 minutes')");
    sql(&database, &format!("BEGIN; {good} {bad} {close} COMMIT"));
    let page =
        page_with(&sidecar, "the last of the good rows", |page| value(page, "atlas_form{as=\"close\"}") == Some(7.0));
    for (number, (name, _)) in FORMS.iter().enumerate() {
        assert_eq!(value(&page, &format!("atlas_form{{as=\"{name}\"}}")), Some(number as f64), "{name}");
    }
    assert_eq!(page.matches("\natlas_form{").count(), FORMS.len() + 1, "{page}");
    // Own metrics are encoded with the next page.
    page_with(&sidecar, "the counts of what is not shown", |page| {
        value(page, "atlas_sidecar_table_bad_rows{reason=\"time\"}") == Some(3.0)
            && value(page, "atlas_sidecar_table_future_rows") == Some(2.0)
    });
    assert_eq!(sidecar.stop(), 0);
}
