//! Random rows of every type, and Python's opinion of what each has to be on PostgreSQL.

use serde_json::Value;

use super::Scene;
use crate::support::python;

#[test]
fn python_agrees_about_every_value() {
    let seed = std::env::var("COPY_SEED").unwrap_or_else(|_| "1".to_owned());
    let scene = Scene::bare();
    scene.psql(
        "CREATE TABLE webhooks (id BIGINT PRIMARY KEY, flag BOOLEAN, small SMALLINT, medium INTEGER, large BIGINT, any NUMERIC, money NUMERIC(15,4), coarse NUMERIC(3,-2),
           double DOUBLE PRECISION, words TEXT, few VARCHAR(12), padded CHAR(6), at TIMESTAMP, at_zone TIMESTAMPTZ, day DATE, clock TIME, plain JSON, tree JSONB,
           number UUID, bytes BYTEA)"
            .replace("any NUMERIC", "\"any\" NUMERIC")
            .as_str(),
    );
    // Every case runs through one copy: rows that Python says cannot be copied are left out by `--skip-bad`.
    let expected = python::script("python/copy_rows.py", &[scene.file().to_str().unwrap(), &seed, "3000"]);
    let report = scene.copied(&["--skip-bad"]);
    let expected: Vec<Vec<Option<String>>> = expected.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let columns = "id flag small medium large any money coarse double words few padded at at_zone day clock plain tree number bytes";
    let texts: Vec<String> = columns.split(' ').map(|name| format!("\"{name}\"::text")).collect();
    let arrived = scene.psql(&format!(
        "SET TimeZone = 'UTC'; SELECT json_build_array({}) FROM webhooks ORDER BY id",
        texts.join(", ")
    ));
    let arrived: Vec<Vec<Option<String>>> = arrived.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(report["tables"][0]["left_out"], 3000 - expected.len());
    assert_eq!(arrived.len(), expected.len(), "seed {seed}");
    let at = |wanted: &str| columns.split(' ').position(|name| name == wanted).unwrap();
    let (tree, double) = (at("tree"), at("double"));
    for (mut there, mut wanted) in arrived.into_iter().zip(expected) {
        // What `jsonb` means, and which double is meant: neither has one spelling (PostgreSQL's shortest digits are not always the closest).
        let meaning = |cells: &mut Vec<Option<String>>| {
            let json = cells[tree].take().map(|t| serde_json::from_str::<Value>(&t).unwrap());
            (json, cells[double].take().map(|t| t.parse::<f64>().unwrap().to_bits()))
        };
        assert_eq!(meaning(&mut there), meaning(&mut wanted), "seed {seed}: {wanted:?}");
        assert_eq!(there, wanted, "seed {seed}");
    }
}
