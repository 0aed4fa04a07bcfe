//! The web configuration file at a running server: TLS, certificates of clients, users, rate, headers, and changes of all of them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atlas_sidecar::expose::web::check;
use atlas_sidecar::expose::{Server, Settings};
use base64::Engine;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use tempfile::TempDir;

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

const FAILURES: &str = "atlas_sidecar_web_config_reload_failures_total";
const SUCCESSFUL: &str = "atlas_sidecar_web_config_last_reload_successful";

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes `NAME.pem` and `NAME.key`, signed by `authority`.
fn issue(folder: &Path, name: &str, authority: &Authority, sans: Vec<SanType>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = sans;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    fs::write(folder.join(format!("{name}.pem")), params.signed_by(&key, authority).unwrap().pem()).unwrap();
    fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// A folder with `ca.pem`, `server.*` for `localhost`, `client.*` for `client.example`, and `stranger.*` of another authority with the same name.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let ours = authority("ours");
    fs::write(folder.path().join("ca.pem"), ours.pem()).unwrap();
    issue(folder.path(), "server", &ours, vec![dns("localhost"), SanType::IpAddress([127, 0, 0, 1].into())]);
    issue(
        folder.path(),
        "client",
        &ours,
        vec![dns("client.example"), SanType::URI("spiffe://x/y".try_into().unwrap())],
    );
    issue(folder.path(), "stranger", &authority("theirs"), vec![dns("client.example")]);
    folder
}

fn config(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("web.yml");
    fs::write(&path, text).unwrap();
    path
}

const TLS: &str = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";

/// `curl` over TLS to `/-/healthy` with the authority of the folder: its exit code and what it printed.
fn healthy(server: &Running, folder: &Path, arguments: &[&str]) -> (i32, String) {
    let ca = folder.join("ca.pem");
    let url = format!("https://localhost:{}/-/healthy", server.address.port());
    curl(
        &[
            &[
                "--cacert",
                ca.to_str().unwrap(),
                "--resolve",
                &format!("localhost:{}:127.0.0.1", server.address.port()),
                &url,
            ],
            arguments,
        ]
        .concat(),
    )
}

fn wait_for_handshake_failures(server: &Running, expected: f64) {
    let failures = || server.metric("atlas_sidecar_tls_handshake_failures_total", &[]);
    wait_for("handshake failures", LONG, || (failures() == expected).then_some(()));
}

/// The arguments by which `curl` shows a certificate.
fn shows(folder: &Path, name: &str) -> Vec<String> {
    let file = |end: &str| folder.join(format!("{name}.{end}")).to_str().unwrap().to_owned();
    vec!["--cert".to_owned(), file("pem"), "--key".to_owned(), file("key")]
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

fn status_of(server: &Running, user: &str, password: &str) -> u16 {
    server.get_with("/metrics", &[("Authorization", &basic(user, password))]).status
}

fn users(list: &[(&str, &str)]) -> String {
    let mut text = "basic_auth_users:\n".to_owned();
    for (user, password) in list {
        text.push_str(&format!("  {user}: {}\n", bcrypt::hash(password, 4).unwrap()));
    }
    text
}

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/web").join(kind);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn good_files_are_accepted() {
    let folder = folder();
    for file in fixtures("good") {
        let copy = config(folder.path(), &fs::read_to_string(&file).unwrap());
        assert_eq!(check(&copy), Ok(()), "{}", file.display());
    }
    assert_eq!(check(&config(folder.path(), "")), Ok(()));
}

/// Each file says in its first line why it is refused.
#[test]
fn bad_files_are_refused_with_their_reason_and_without_their_secrets() {
    let folder = folder();
    let mut surprises = Vec::new();
    for file in fixtures("bad") {
        let text = fs::read_to_string(&file).unwrap();
        let reason = text.lines().next().unwrap().strip_prefix("# refused: ").expect("a reason");
        let reason = reason.replace("FOLDER", folder.path().to_str().unwrap());
        let error = check(&config(folder.path(), &text)).expect_err(&file.display().to_string());
        if error != reason || error.contains("canary") || error.contains("$2y") {
            surprises.push(format!("{}:\n  it says: {error}\n expected: {reason}\n", file.display()));
        }
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
    let absent = check(&folder.path().join("absent.yml")).unwrap_err();
    assert!(absent.contains("absent.yml` cannot be read: No such file"), "{absent}");
    fs::write(folder.path().join("web.yml"), vec![b'#'; 2 << 20]).unwrap();
    assert!(check(&folder.path().join("web.yml")).unwrap_err().contains("is larger than"));
    fs::write(folder.path().join("web.yml"), b"basic_auth_users: {\xff}").unwrap();
    assert_eq!(check(&folder.path().join("web.yml")).unwrap_err(), "is not UTF-8");
}

#[test]
fn a_broken_file_ends_the_start() {
    let folder = folder();
    let path = config(folder.path(), "nonsense: 1\n");
    let settings =
        Settings { listen: "127.0.0.1:0".parse().unwrap(), web_config_file: Some(path.clone()), max_requests: 1 };
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let registry = Registry::new();
    let error = Server::bind(&settings, &registry, Clock::system()).err().expect("refused").to_string();
    assert!(error.starts_with(&format!("web configuration file `{}`: ", path.display())), "{error}");
    assert!(error.contains("unknown field `nonsense`"), "{error}");
    // Repaired, it starts with the same registry.
    fs::write(&path, "").unwrap();
    assert!(Server::bind(&settings, &registry, Clock::system()).is_ok());
}

#[test]
fn tls_is_spoken_in_both_versions_and_with_clients_that_offer_http_2() {
    let folder = folder();
    let server = Running::with(Some(config(folder.path(), TLS)), 40);
    for arguments in [&[][..], &["--tls-max", "1.2"], &["--tlsv1.3"], &["--http2"], &["--http1.1"], &["--no-alpn"]] {
        assert_eq!(healthy(&server, folder.path(), arguments), (0, "healthy\n".to_owned()), "{arguments:?}");
    }
    let page = healthy(&server, folder.path(), &[&format!("https://localhost:{}/metrics", server.address.port())]);
    assert_eq!(page.1, format!("healthy\n{}", page_text(Format::DEFAULT, &Filter::default())));
}

#[test]
fn versions_can_be_narrowed() {
    let folder = folder();
    let only = |min_max: &str| Running::with(Some(config(folder.path(), &format!("{TLS}{min_max}"))), 40);
    let new = only("  min_version: TLS13\n");
    assert_ne!(healthy(&new, folder.path(), &["--tls-max", "1.2"]).0, 0);
    assert_eq!(healthy(&new, folder.path(), &["--tlsv1.3"]).0, 0);
    let old = only("  max_version: TLS12\n");
    assert_ne!(healthy(&old, folder.path(), &["--tlsv1.3"]).0, 0);
    assert_eq!(healthy(&old, folder.path(), &["--tls-max", "1.2"]).0, 0);
}

#[test]
fn certificate_and_key_may_stand_in_the_file() {
    let folder = folder();
    let pem = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap().replace('\n', "\n    ");
    let text =
        format!("tls_server_config:\n  cert: |\n    {}\n  key: |\n    {}\n", pem("server.pem"), pem("server.key"));
    let server = Running::with(Some(config(folder.path(), &text)), 40);
    assert_eq!(healthy(&server, folder.path(), &[]).0, 0);
}

#[test]
fn plain_http_on_the_tls_port_is_told_so_at_once() {
    let folder = folder();
    let server = Running::with(Some(config(folder.path(), TLS)), 40);
    let start = Instant::now();
    let answer = raw(server.address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 400 Bad Request\r\n") && answer.contains("speaks HTTPS"), "{answer}");
    assert!(!raw(server.address, b"\0\0\0\0\0\0\0\0").contains("HTTP"), "nonsense ends as well");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    wait_for_handshake_failures(&server, 2.0);
    assert_eq!(healthy(&server, folder.path(), &[]).0, 0);
}

/// Takes the ten seconds that a handshake has.
#[test]
fn a_client_that_says_nothing_is_let_go() {
    let folder = folder();
    let server = Running::with(Some(config(folder.path(), TLS)), 40);
    let mut silent = TcpStream::connect(server.address).unwrap();
    let mut halfway = TcpStream::connect(server.address).unwrap();
    halfway.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00]).unwrap();
    let start = Instant::now();
    for stream in [&mut silent, &mut halfway] {
        stream.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0);
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    wait_for_handshake_failures(&server, 2.0);
}

/// All values of `client_auth_type`, each with no certificate, a good one and one of a stranger; TLS 1.2 and 1.3.
#[test]
fn clients_show_what_is_asked_of_them() {
    let folder = folder();
    let ca = "  client_ca_file: ca.pem\n";
    for (word, ca, [none, good, stranger]) in [
        ("NoClientCert", "", [true, true, true]),
        ("RequestClientCert", "", [true, true, true]),
        ("RequireAnyClientCert", "", [false, true, true]),
        ("RequireClientCert", "", [false, true, true]),
        ("VerifyClientCertIfGiven", ca, [true, true, false]),
        ("RequireAndVerifyClientCert", ca, [false, true, false]),
    ] {
        let text = format!("{TLS}  client_auth_type: {word}\n{ca}");
        let server = Running::with(Some(config(folder.path(), &text)), 40);
        for (who, shown, expected) in [
            ("nobody", Vec::new(), none),
            ("client", shows(folder.path(), "client"), good),
            ("stranger", shows(folder.path(), "stranger"), stranger),
        ] {
            for version in [&["--tls-max", "1.2"][..], &["--tlsv1.3"]] {
                let arguments: Vec<&str> = shown.iter().map(String::as_str).chain(version.iter().copied()).collect();
                let (code, body) = healthy(&server, folder.path(), &arguments);
                assert_eq!((code == 0, body == "healthy\n"), (expected, expected), "{word} {who} {version:?}: {code}");
            }
        }
    }
}

#[test]
fn only_allowed_names_pass() {
    let folder = folder();
    let any = "  client_auth_type: RequireAnyClientCert\n";
    let verified = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";
    for (clients, sans, who, expected) in [
        (verified, "[other.example, client.example]", "client", true),
        (verified, "[spiffe://x/y]", "client", true),
        (verified, "[other.example]", "client", false),
        (verified, "['*.example']", "client", false),
        (verified, "[client.example]", "stranger", false),
        (any, "[client.example]", "stranger", true),
        (any, "[other.example]", "stranger", false),
    ] {
        let text = format!("{TLS}{clients}  client_allowed_sans: {sans}\n");
        let server = Running::with(Some(config(folder.path(), &text)), 40);
        let shown = shows(folder.path(), who);
        let arguments: Vec<&str> = shown.iter().map(String::as_str).collect();
        assert_eq!(healthy(&server, folder.path(), &arguments).0 == 0, expected, "{clients}{sans} {who}");
        if !expected {
            wait_for_handshake_failures(&server, 1.0);
        }
    }
}

#[test]
fn a_password_is_needed_for_all_but_health() {
    let folder = folder();
    let server = Running::with(Some(config(folder.path(), &users(&[("ann", "right")]))), 40);
    for path in ["/metrics", "/", "/nowhere"] {
        let answer = server.get(path);
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"atlas-sidecar\", charset=\"UTF-8\""));
        assert!(!answer.text().contains("openmetrics"), "{path}");
    }
    assert_eq!(server.get("/-/healthy").status, 200);
    assert_eq!(server.get("/-/ready").status, 503);
    for (user, password, status) in [("ann", "right", 200), ("ann", "wrong", 401), ("eve", "right", 401), ("", "", 401)]
    {
        assert_eq!(status_of(&server, user, password), status, "{user} {password}");
    }
    assert_eq!(server.get_with("/metrics", &[("Authorization", "Basic %%%")]).status, 401);
    assert_eq!(request("POST", server.address, "/metrics", &[]).unwrap().status, 401, "first who, then how");
    let url = format!("http://{}/metrics", server.address);
    assert_eq!(curl(&["--user", "ann:right", "--fail", &url]).0, 0);
}

/// A real hash costs its time once per password, and an unknown user as much as a known one.
#[test]
fn a_verdict_is_remembered_and_unknown_users_take_as_long() {
    let folder = folder();
    let text = format!("basic_auth_users:\n  ann: {}\n", bcrypt::hash("right", 10).unwrap());
    let server = Running::with(Some(config(folder.path(), &text)), 40);
    let timed = |user: &str, password: &str, status: u16| {
        let start = Instant::now();
        assert_eq!(status_of(&server, user, password), status);
        start.elapsed()
    };
    let first = timed("ann", "right", 200);
    let again = (0..5).map(|_| timed("ann", "right", 200)).min().unwrap();
    assert!(again < first / 4, "first {first:?}, then {again:?}");
    // The least of several: other tests share the machine.
    let known = (0..4).map(|n| timed("ann", &format!("wrong {n}"), 401)).min().unwrap();
    let unknown = (0..4).map(|n| timed("eve", &format!("wrong {n}"), 401)).min().unwrap();
    assert!(unknown > known / 2 && unknown < known * 2, "known {known:?}, unknown {unknown:?}");
    // Whoever is known does not wait behind those who guess.
    std::thread::scope(|scope| {
        for n in 0..8 {
            let server = &server;
            scope.spawn(move || status_of(server, "ann", &format!("guess {n}")));
        }
        let known = (0..5).map(|_| timed("ann", "right", 200)).min().unwrap();
        assert!(known < first / 2, "first {first:?}, beside guesses {known:?}");
    });
}

#[test]
fn the_rate_is_limited_but_not_that_of_health() {
    let folder = folder();
    let server = Running::with(Some(config(folder.path(), "rate_limit:\n  interval: 1h\n  burst: 2\n")), 40);
    assert_eq!([server.get("/metrics").status, server.get("/").status], [200, 200]);
    let refused = server.get("/metrics");
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((3_500..=3_600).contains(&wait), "{wait}");
    for _ in 0..5 {
        assert_eq!(server.get("/-/healthy").status, 200);
    }
}

#[test]
fn headers_of_the_file_are_on_every_answer_and_win() {
    let folder = folder();
    let text = "http_server_config:\n  http2: true\n  headers:\n    Strict-Transport-Security: max-age=1\n    Content-Security-Policy: default-src 'self'\n    X-Frame-Options: deny\n    X-XSS-Protection: 0\n";
    let server = Running::with(Some(config(folder.path(), text)), 40);
    for path in ["/", "/metrics", "/-/healthy", "/nowhere"] {
        let answer = server.get(path);
        for (name, value) in [
            ("strict-transport-security", "max-age=1"),
            ("content-security-policy", "default-src 'self'"),
            ("x-frame-options", "deny"),
            ("x-xss-protection", "0"),
        ] {
            let values: Vec<_> = answer.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
            assert_eq!(values, [value], "{path}");
        }
    }
}

#[test]
fn changed_users_count_without_a_restart_and_a_broken_file_changes_nothing() {
    let folder = folder();
    let path = config(folder.path(), &users(&[("ann", "old")]));
    let server = Running::with(Some(path.clone()), 40);
    assert_eq!(status_of(&server, "ann", "old"), 200);

    fs::write(&path, users(&[("ann", "new")])).unwrap();
    wait_for("the new password", LONG, || (status_of(&server, "ann", "new") == 200).then_some(()));
    assert_eq!(status_of(&server, "ann", "old"), 401);
    assert_eq!((server.metric(FAILURES, &[]), server.metric(SUCCESSFUL, &[])), (0.0, 1.0));

    fs::write(&path, "basic_auth_users: [broken\n").unwrap();
    wait_for("the failure", LONG, || (server.metric(FAILURES, &[]) == 1.0).then_some(()));
    assert_eq!(server.metric(SUCCESSFUL, &[]), 0.0);
    assert_eq!([status_of(&server, "ann", "new"), status_of(&server, "ann", "")], [200, 401]);

    // Neither an emptied file nor a missing one opens the door.
    fs::write(&path, "").unwrap();
    wait_for("the second failure", LONG, || (server.metric(FAILURES, &[]) == 2.0).then_some(()));
    assert_eq!([server.get("/metrics").status, status_of(&server, "ann", "new")], [401, 200]);
    fs::remove_file(&path).unwrap();
    wait_for("the third failure", LONG, || (server.metric(FAILURES, &[]) == 3.0).then_some(()));
    assert_eq!([server.get("/metrics").status, status_of(&server, "ann", "new")], [401, 200]);

    fs::write(&path, users(&[("bob", "third")])).unwrap();
    wait_for("the repair", LONG, || (status_of(&server, "bob", "third") == 200).then_some(()));
    assert_eq!(status_of(&server, "ann", "new"), 401);
    // Each broken version counted once, however often it was looked at.
    assert_eq!((server.metric(FAILURES, &[]), server.metric(SUCCESSFUL, &[])), (3.0, 1.0));
}

#[test]
fn a_changed_certificate_is_shown_without_a_restart() {
    let folder = folder();
    let server = Running::with(Some(config(folder.path(), TLS)), 40);
    assert_eq!(healthy(&server, folder.path(), &[]).0, 0);

    // A new authority: first the certificate comes, and with the old key it is not taken.
    let new = authority("new");
    let place = tempfile::tempdir_in(folder.path()).unwrap();
    issue(place.path(), "server", &new, vec![dns("localhost")]);
    fs::write(place.path().join("ca.pem"), new.pem()).unwrap();
    fs::rename(place.path().join("server.pem"), folder.path().join("server.pem")).unwrap();
    wait_for("the failure", LONG, || (server.metric(FAILURES, &[]) == 1.0).then_some(()));
    assert_eq!(healthy(&server, folder.path(), &[]).0, 0, "the old pair is still shown");

    fs::rename(place.path().join("server.key"), folder.path().join("server.key")).unwrap();
    wait_for("the new certificate", LONG, || (healthy(&server, place.path(), &[]).0 == 0).then_some(()));
    assert_ne!(healthy(&server, folder.path(), &[]).0, 0, "the old authority no longer vouches for it");
    assert_eq!((server.metric(FAILURES, &[]), server.metric(SUCCESSFUL, &[])), (1.0, 1.0));
}

#[test]
fn tls_can_be_switched_on_while_running() {
    let folder = folder();
    let path = config(folder.path(), "# plain for now\n");
    let server = Running::with(Some(path.clone()), 40);
    assert_eq!(server.get("/-/healthy").status, 200);
    fs::write(&path, TLS).unwrap();
    wait_for("TLS", LONG, || (healthy(&server, folder.path(), &[]).0 == 0).then_some(()));
}

/// An editor truncates and writes again: what is there in between is never in force.
#[test]
fn a_file_that_is_being_written_is_not_read() {
    let folder = folder();
    let path = config(folder.path(), &users(&[("ann", "one")]));
    let server = Running::with(Some(path.clone()), 40);
    let until = Instant::now() + Duration::from_secs(3);
    let mut n = 0;
    while Instant::now() < until {
        // Valid YAML that asks nobody for anything, of another length each time.
        fs::write(&path, format!("#{}\n", "x".repeat(n % 400))).unwrap();
        assert_eq!(server.get("/metrics").status, 401, "after {n} writes");
        n += 1;
    }
    assert!(n > 10);
    fs::write(&path, users(&[("bob", "two")])).unwrap();
    wait_for("the end of writing", LONG, || (status_of(&server, "bob", "two") == 200).then_some(()));
    assert_eq!(server.metric(FAILURES, &[]), 0.0);
}

/// Kubernetes swaps a symlink, and the new file may have the size and the time of the old one.
#[test]
fn a_swapped_file_of_the_same_size_and_time_is_noticed() {
    let folder = folder();
    let versions = ["old", "new"].map(|password| {
        let path = folder.path().join(password);
        fs::write(&path, users(&[("ann", password)])).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        path
    });
    let (path, other) = (folder.path().join("web.yml"), folder.path().join("swap"));
    std::os::unix::fs::symlink(&versions[0], &path).unwrap();
    let server = Running::with(Some(path.clone()), 40);
    assert_eq!([status_of(&server, "ann", "old"), status_of(&server, "ann", "new")], [200, 401]);
    std::os::unix::fs::symlink(&versions[1], &other).unwrap();
    fs::rename(&other, &path).unwrap();
    wait_for("the new password", LONG, || (status_of(&server, "ann", "new") == 200).then_some(()));
}

/// A program that ends with the test.
struct Program(std::process::Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The real client: it negotiates OpenMetrics and gzip, shows a certificate and a password, and keeps its connection.
#[test]
fn prometheus_scrapes_with_certificate_and_password() {
    let folder = folder();
    let text = format!(
        "{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n  client_allowed_sans: [client.example]\n{}",
        users(&[("prometheus", "secret")])
    );
    let server = Running::with(Some(config(folder.path(), &text)), 40);
    let scrape = format!(
        "scrape_configs:\n- job_name: sidecar\n  scrape_interval: 1s\n  scheme: https\n  params: {{'collect[]': [valid]}}\n  \
         basic_auth: {{username: prometheus, password: secret}}\n  \
         tls_config: {{ca_file: ca.pem, cert_file: client.pem, key_file: client.key}}\n  \
         static_configs: [{{targets: ['{}']}}]\n",
        server.address
    );
    fs::write(folder.path().join("prometheus.yml"), scrape).unwrap();
    let own = crate::support::free_address();
    let _prometheus = Program(
        std::process::Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=tsdb", "--log.level=error"])
            .arg(format!("--web.listen-address={own}"))
            .current_dir(folder.path())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("`prometheus` does not start ({e}): the README's test command installs it")),
    );
    let stub = wait_for("a sample", LONG, || {
        get(own, "/api/v1/query?query=stub").map(|a| a.text()).filter(|text| text.contains("\"stub\""))
    });
    assert!(stub.contains("OpenMetrics100") && stub.contains("\"1\""), "{stub}");
    wait_for("some scrapes", LONG, || {
        (server.metric("atlas_sidecar_http_requests_total", &["/metrics", "200"]) >= 3.0).then_some(())
    });
    assert_eq!(server.metric("atlas_sidecar_http_requests_total", &["/metrics", "401"]), 0.0);
    assert_eq!(server.metric("atlas_sidecar_tls_handshake_failures_total", &[]), 0.0);
}
