//! The check is not there for show: a target that loses, changes or doubles one row is found out, whatever the server says of the COPY.

use super::Scene;

/// Five hundred rows, and a trigger in front of each that does nothing yet.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.sqlite(
        "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO system_metrics SELECT 'm' || i, 'name', i / 10.0, '{\"a\":\"b\"}', '2026-11-22 17:09:20' FROM n",
    );
    meddle(&scene, "");
    scene.psql("CREATE TRIGGER meddle BEFORE INSERT ON system_metrics FOR EACH ROW EXECUTE FUNCTION meddle()");
    scene
}

fn meddle(scene: &Scene, body: &str) {
    scene.psql(&format!(
        "CREATE OR REPLACE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$"
    ));
}

#[test]
fn a_target_that_is_not_the_same_is_found_out() {
    let scene = scene();
    let one = |what: &str| format!("IF NEW.id = 'm77' THEN {what}; END IF;");
    for (body, said) in [
        (one("RETURN NULL"), "500 rows were sent, 499 are there"),
        (
            one("NEW.metric_value := NEW.metric_value + 1e-30"),
            "the sum of `metric_value` was 12525, now 12525.000000000000000000000000000001",
        ),
        (one("NEW.tags := NULL"), "`tags` had 500 values, now 499"),
        // Nothing that can be counted.
        (one("NEW.metric_name := 'namf'"), "the digest was"),
        (one("NEW.tags := '{\"a\": \"b\"}'"), "the digest was"),
        (one("NEW.recorded_at := NEW.recorded_at + interval '1 microsecond'"), "the digest was"),
        // Two rows that exchange something.
        (
            "IF NEW.id IN ('m1', 'm2') THEN NEW.metric_value := 0.3 - NEW.metric_value; END IF;".to_owned(),
            "the digest was",
        ),
        // A row that nobody sent.
        (
            "IF NEW.id = 'm1' THEN INSERT INTO system_metrics VALUES ('x', 'name', 0, NULL, NULL); END IF;".to_owned(),
            "500 rows were sent, 501 are there",
        ),
        // What no row that was sent can look like.
        (one("NEW.metric_value := 'NaN'"), "came back as none that was sent"),
    ] {
        meddle(&scene, &body);
        let words = scene.refused(1, &[]);
        assert!(words.contains(said), "{body}: {words}");
        assert!(!words.contains("copied and found equal"), "{words}");
        assert_eq!(scene.rows(), "0", "{body}");
    }
    // The same scene without meddling is copied.
    meddle(&scene, "");
    assert_eq!(scene.copied(&[])["tables"][0]["rows_in_target"], 500);
}

/// `jsonb` and `char(n)` come back in other words and are the same.
#[test]
fn what_the_server_rewrites_is_equal() {
    let scene = Scene::new();
    scene.psql("ALTER TABLE system_metrics ALTER tags TYPE JSONB, ALTER metric_name TYPE CHAR(20), ALTER metric_value TYPE DOUBLE PRECISION; ALTER DATABASE atlas SET extra_float_digits = -5; ALTER DATABASE atlas SET DateStyle = 'German'; ALTER DATABASE atlas SET bytea_output = 'escape'");
    scene.sqlite(
        "INSERT INTO system_metrics VALUES ('1', 'n  ', 0.1, '{\"b\": 1.50, \"a\": [1e2, \"\\u00e9\"], \"b\": 2}', '2026-11-22 17:09:20.5'), ('2', 'n', 1e300, '\"x\"', NULL)",
    );
    scene.copied(&[]);
    assert_eq!(
        scene.psql("SET extra_float_digits = 1; SELECT metric_value, tags FROM system_metrics ORDER BY id"),
        "0.1|{\"a\": [100, \"é\"], \"b\": 2}\n1e+300|\"x\""
    );
}

/// Every row that is copied was there at one moment, whatever an application writes meanwhile.
#[test]
fn a_copy_beside_a_writer_is_of_one_moment() {
    let scene = Scene::new();
    scene.sqlite(
        "PRAGMA journal_mode = WAL; WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
         INSERT INTO system_metrics SELECT 'm' || i, 'name', 1, '{}', NULL FROM n;
         INSERT INTO webhooks (id, url, events, failure_count) VALUES ('w', 'u', '[]', 3000)",
    );
    // One transaction: a row more here, a count more there.
    let program = "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\ni = 0\nwhile True:\n  i += 1\n  db.execute('BEGIN IMMEDIATE')\n  db.execute(\"INSERT INTO system_metrics VALUES (?, 'name', 1, '{}', NULL)\", (f'n{i}',))\n  db.execute('UPDATE webhooks SET failure_count = failure_count + 1')\n  db.execute('COMMIT')\n  if i == 50: print('running', flush=True)\n";
    let mut writer = std::process::Command::new("python3")
        .args(["-c", program, scene.file().to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(writer.stdout.as_mut().unwrap()), &mut line).unwrap();
    let report = scene.copied(&[]);
    let still = writer.try_wait().unwrap().is_none();
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert!(still, "the writer was not disturbed");
    let (rows, counted) =
        (scene.psql("SELECT count(*) FROM system_metrics"), scene.psql("SELECT failure_count FROM webhooks"));
    assert_eq!(rows, counted, "{report}");
    assert!(rows.parse::<u64>().unwrap() >= 3050);
    assert_eq!(scene.sqlite("PRAGMA integrity_check"), "ok");
}
