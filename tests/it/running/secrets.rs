//! E-11: a canary in every place where a running sidecar holds a secret, the log at its loudest, and a look into everything it says.

use std::sync::atomic::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{QUICK, SOON, Target, page_with, text, value};
use crate::support::{Sidecar, free_address, request, sidecar, wait_for};

const CANARY: &str = "canary-7e3f9a";

/// The formats of `/metrics`, and none.
const ACCEPTED: [&str; 4] = [
    "*/*",
    "text/plain; version=0.0.4",
    "text/plain; version=1.0.0; escaping=allow-utf-8",
    "application/openmetrics-text; version=1.0.0",
];

#[test]
fn no_secret_is_in_any_output_of_a_running_sidecar() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let (bearer, basic, query) = (Target::new("bearer"), Target::new("basic"), Target::new("query"));
    let nobody = free_address();
    std::fs::write(folder.join("token"), format!("{CANARY}-bearer\n")).unwrap();
    std::fs::write(folder.join("url"), format!("http://{}/metrics?token={CANARY}-url\n", query.address)).unwrap();
    let config = format!(
        "{QUICK}[log]\nlevel = \"trace\"\n\
         {}bearer_token_file = \"token\"\n\
         {}username = \"ann\"\n\
         [[scrape.targets]]\nname = \"query\"\nurl_file = \"url\"\n\
         [[scrape.targets]]\nname = \"down\"\nurl = \"http://{nobody}/metrics?token={CANARY}-down\"\nbearer_token = \"{CANARY}-down\"\n",
        bearer.toml("bearer"),
        basic.toml("basic"),
    );
    let password = [("ATLAS_SIDECAR__SCRAPE__TARGETS__1__PASSWORD", "canary-7e3f9a-password")];
    let running = Sidecar::launch(folder, &config, &password);
    running.wait_ready();
    let all_up = |page: &str| {
        let up = |source| value(page, &format!("atlas_sidecar_source_up{{source=\"{source}\"}}"));
        (up("bearer"), up("basic"), up("query"), up("down")) == (Some(1.0), Some(1.0), Some(1.0), Some(0.0))
    };
    page_with(&running, "three targets that answer, and one that does not", all_up);
    // The secrets are where they belong: the test would be worth nothing if nobody had used them.
    let sent = |target: &Target| target.heads.lock().unwrap().clone();
    let basic_header = STANDARD.encode(format!("ann:{CANARY}-password"));
    assert!(sent(&bearer).contains(&format!("Bearer {CANARY}-bearer")));
    assert!(sent(&basic).contains(&format!("Basic {basic_header}")));
    assert!(sent(&query).contains(&format!("?token={CANARY}-url")));

    let mut said = pages(&running);
    for target in [&bearer, &basic, &query] {
        target.status.store(401, Ordering::SeqCst);
    }
    page_with(&running, "targets that refuse", |page| {
        ["bearer", "basic", "query"]
            .iter()
            .all(|source| value(page, &format!("atlas_sidecar_source_up{{source=\"{source}\"}}")) == Some(0.0))
    });
    said.extend(pages(&running));
    for args in [["check", "--config", "sidecar.toml"].as_slice(), &["check", "--json", "--config", "sidecar.toml"]] {
        let out = std::process::Command::new(crate::support::SIDECAR)
            .args(args)
            .envs(password)
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(text(&out.stdout).contains("401"), "{out:?}");
        said.extend([text(&out.stdout), text(&out.stderr)]);
    }

    // A reload that fails quotes what it does not like, but not this.
    let file = folder.join("sidecar.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    for broken in [
        good.replace(
            "bearer_token_file = \"token\"",
            &format!("bearer_token_file = \"token\"\nbearer_token = \"{CANARY}\""),
        ),
        good.replace("username = \"ann\"", &format!("user = \"ann\"\npasswort = \"{CANARY}\"")),
        good.replace(&format!("\"{CANARY}-down\""), &format!("{CANARY}-down")),
    ] {
        assert_ne!(broken, good);
        let before = running.log_text().matches("configuration not taken over").count();
        std::fs::write(&file, &broken).unwrap();
        running.signal("HUP");
        wait_for("the refusal", SOON, || {
            Some(()).filter(|()| running.log_text().matches("configuration not taken over").count() > before)
        });
        let out = sidecar(folder, &["check", "--config", "sidecar.toml"]);
        assert_eq!(out.status.code(), Some(64));
        said.extend([text(&out.stdout), text(&out.stderr)]);
    }
    let log = running.log.clone();
    assert_eq!(running.stop(), 0);
    said.push(std::fs::read_to_string(log).unwrap());
    assert!(said.iter().any(|said| said.contains("TRACE")), "the log is at its loudest");

    let key = std::fs::read_to_string(folder.join("data/state/admin-key")).unwrap();
    for said in said {
        for secret in [CANARY, &basic_header, key.trim(), &key.trim()["atlas_".len()..]] {
            let place = said.lines().find(|line| line.contains(secret));
            assert!(place.is_none(), "{place:?}");
        }
    }
}

/// Everything that the server answers.
fn pages(running: &Sidecar) -> Vec<String> {
    let mut said: Vec<String> =
        ["/", "/-/healthy", "/-/ready", "/nowhere", "/metrics?collect[]=down", "/metrics?collect[]=x"]
            .iter()
            .map(|path| answer(running, path, "*/*"))
            .collect();
    said.extend(ACCEPTED.iter().map(|accept| answer(running, "/metrics", accept)));
    said
}

fn answer(running: &Sidecar, path: &str, accept: &str) -> String {
    let answer = request("GET", running.address, path, &[("Accept", accept)]).expect("an answer");
    format!("{:?}\n{}", answer.headers, answer.text())
}
