//! `check` against a server: what it says of the database, of the role and of the queries, and that it says no password.

use crate::support::postgres::{Cluster, PASSWORD};
use crate::support::sidecar;

fn check(folder: &std::path::Path, config: &str) -> (i32, String) {
    std::fs::write(folder.join("sidecar.toml"), config).unwrap();
    let out = sidecar(folder, &["--config", "sidecar.toml", "check"]);
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr))
}

/// E-7, E-11
#[test]
fn check_tells_version_role_rights_and_tries_each_query() {
    let cluster = Cluster::start();
    let (app, metrics) = (cluster.database("app"), cluster.database("metrics"));
    let scratch = tempfile::tempdir().unwrap();
    let config = format!(
        "[database]\nurl = \"{app}\"\nmetrics_url = \"{metrics}\"\n\
         [[scrape.queries]]\nname = \"one\"\nsql = \"SELECT 1 AS value\"\nvalues = [\"value\"]\n\
         [[scrape.queries]]\nname = \"two\"\nsql = \"SELECT 1 AS value FROM nowhere\"\nvalues = [\"value\"]\n"
    );
    let (_, said) = check(scratch.path(), &config);
    let line = |key: &str, words: &str| {
        let found = said.lines().any(|l| l.contains(key) && l.contains(words));
        assert!(found, "no line with `{key}` and `{words}` in:\n{said}");
    };
    line("database.url", "PostgreSQL 1");
    line("database.url", "role `atlas`, without TLS");
    line("database.metrics_url", "/metrics`, PostgreSQL 1");
    line("warn  database.url", "`GRANT pg_monitor TO atlas` lets it");
    line("ok    scrape.queries `one`", "runs");
    line("warn  scrape.queries `two`", "relation \"nowhere\" does not exist");
    assert!(!said.contains(PASSWORD), "{said}");
    cluster.psql("app", "GRANT CREATE ON SCHEMA public TO PUBLIC");
    let (_, said) = check(scratch.path(), &config);
    assert!(said.contains("`REVOKE CREATE ON SCHEMA \"public\" FROM PUBLIC`"), "{said}");
    cluster.psql("app", "REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    cluster.psql("postgres", "GRANT pg_monitor TO atlas");
    let (_, said) = check(scratch.path(), &config);
    assert!(!said.contains("GRANT"), "{said}");
}

/// `check` says beforehand what `run` would end with or warn of, with the statement that gives the right, and of which database.
#[test]
fn a_role_without_rights_is_told_which_ones_it_lacks() {
    let cluster = Cluster::start();
    let (url, metrics) = (cluster.database("app"), cluster.database("metrics"));
    cluster.psql(
        "app",
        "ALTER DATABASE app OWNER TO postgres; CREATE TABLE system_metrics (id VARCHAR(36) PRIMARY KEY, metric_name VARCHAR(255) NOT NULL,
            metric_value DECIMAL(15,4) NOT NULL, tags JSON, recorded_at TIMESTAMP)",
    );
    let scratch = tempfile::tempdir().unwrap();
    let config = format!("[database]\nurl = \"{url}\"\n");
    let (code, said) = check(scratch.path(), &config);
    assert_eq!(code, 69, "{said}");
    assert!(
        said.contains("has no right to CREATE in schema `public`; `GRANT CREATE ON SCHEMA \"public\" TO \"atlas\"`"),
        "{said}"
    );
    cluster.psql("app", "GRANT CREATE ON SCHEMA public TO atlas");
    let (code, said) = check(scratch.path(), &config);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("no right to SELECT, INSERT on `system_metrics`; `GRANT SELECT, INSERT ON"), "{said}");
    assert!(
        said.contains("warn  database.url            `system_metrics`.`metric_value` is `numeric(15,4)`"),
        "{said}"
    );
    // Where the samples go elsewhere it is only read.
    cluster.psql("app", "GRANT SELECT ON system_metrics TO atlas; CREATE TABLE sidecar_migrations (track text)");
    let (code, said) = check(scratch.path(), &format!("{config}metrics_url = \"{metrics}\"\n"));
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("/app`: role `atlas` has no right to SELECT on `sidecar_migrations`"), "{said}");
    let line = said.lines().find(|line| line.contains("database.metrics_url")).unwrap();
    assert!(line.contains("`migrate --dry-run` names"), "{line}");
    cluster.psql("app", "DROP TABLE sidecar_migrations");
    let (code, said) = check(scratch.path(), &format!("{config}metrics_url = \"{metrics}\"\n"));
    assert!(code == 0 && !said.contains("has no right"), "{said}");
}

#[test]
fn a_server_that_is_not_there_is_69() {
    let scratch = tempfile::tempdir().unwrap();
    let nobody = crate::support::free_address();
    let config = format!("[database]\nurl = \"postgres://atlas:{PASSWORD}@{nobody}/app\"\n");
    let (code, said) = check(scratch.path(), &config);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("unreachable") && !said.contains(PASSWORD), "{said}");
}
