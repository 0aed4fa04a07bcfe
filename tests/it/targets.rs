//! HTTP targets: the collector against servers that answer well, badly, slowly, endlessly, and against a real `node_exporter`.
//!
//! The servers are plain sockets, so that each can break the protocol exactly where its test wants it broken.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::sample::globs::Globs;
use atlas_sidecar::sample::{Batch, Kind, Labels};
use atlas_sidecar::scrape::http::{Auth, Client, Metrics, Target, collector};
use atlas_sidecar::scrape::{CollectError, Collector};
use atlas_sidecar::secret::{Secret, redacted_url};
use flate2::Compression;
use flate2::write::GzEncoder;
use prometheus::Registry;

use crate::support::{free_address, wait_for};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const GOOD: &str = "# HELP a_total Some.\n# TYPE a_total counter\na_total{x=\"y\"} 3\nb 2.5\n";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A server on a free port that hands each connection with a request to `answer`, which says whether the connection goes on. Keeps the
/// requests' heads.
struct Server {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

impl Server {
    fn start(answer: impl Fn(&mut dyn Stream) -> bool + Send + Sync + 'static) -> Self {
        Self::start_with(|tcp| Some(Box::new(tcp)), answer)
    }

    /// `wrap` is what happens to a connection first: nothing, or TLS.
    fn start_with(
        wrap: impl Fn(TcpStream) -> Option<Box<dyn Stream>> + Send + Sync + 'static,
        answer: impl Fn(&mut dyn Stream) -> bool + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (heads, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, stopped, work) = (Arc::clone(&heads), Arc::clone(&stop), Arc::new((wrap, answer)));
        std::thread::spawn(move || {
            for tcp in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (kept, work, tcp) = (Arc::clone(&kept), Arc::clone(&work), tcp.unwrap());
                std::thread::spawn(move || {
                    let Some(mut stream) = work.0(tcp) else { return };
                    while let Some(head) = read_head(&mut stream) {
                        kept.lock().unwrap().push(head);
                        if !work.1(&mut stream) {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, heads, stop }
    }

    /// A server that answers every request with these bytes.
    fn saying(answer: Vec<u8>) -> Self {
        Self::start(move |stream| stream.write_all(&answer).is_ok())
    }

    fn url(&self) -> String {
        format!("http://{}/metrics", self.address)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// A request's head; `None` where the client has gone.
fn read_head(stream: &mut dyn Stream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

fn answer(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

fn ok(content_type: &str, body: &[u8]) -> Vec<u8> {
    answer("200 OK", &[("Content-Type", content_type)], body)
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn target(url: &str) -> Target {
    Target {
        name: "shop".to_owned(),
        url: url.to_owned(),
        shown: redacted_url(url),
        interval: Duration::from_secs(60),
        timeout: Duration::from_secs(10),
        metrics: Globs::all(),
        store: Globs::all(),
        auth: None,
        max_body_bytes: 1 << 20,
        max_samples: 1_000,
    }
}

/// Collects once; a test that hangs fails after 20 s.
async fn scrape_with(target: Target, client: Client, registry: &Registry) -> Result<Batch, CollectError> {
    let own = "127.0.0.1:1".parse().unwrap();
    let mut collector = collector(target, own, client, Arc::new(Metrics::new(registry)));
    collect(&mut collector).await
}

async fn collect(collector: &mut impl Collector) -> Result<Batch, CollectError> {
    let mut batch = Batch::new(NOW);
    tokio::time::timeout(Duration::from_secs(20), collector.collect(&mut batch)).await.expect("an end within 20 s")?;
    Ok(batch)
}

async fn scrape(target: Target) -> Result<Batch, CollectError> {
    scrape_with(target, plain_client(), &Registry::new()).await
}

/// Without the machine's certificates, which take long to read in a debug build.
fn plain_client() -> Client {
    Client::trusting(rustls::RootCertStore::empty())
}

async fn refusal(bytes: Vec<u8>) -> CollectError {
    let server = Server::saying(bytes);
    scrape(target(&server.url())).await.expect_err("the answer is refused")
}

fn value(batch: &Batch, family: &str, labels: &[(&'static str, &str)]) -> Option<f64> {
    let labels: Labels = labels.iter().map(|(n, v)| (*n, *v)).chain([("source", "shop")]).collect();
    let family = batch.families.iter().find(|f| f.name == family)?;
    family.samples.iter().find(|s| s.labels == labels).map(|s| s.value)
}

#[tokio::test]
async fn good_pages_of_each_syntax_become_families() {
    let open_metrics =
        "# HELP a Some.\n# TYPE a counter\na_total{x=\"y\"} 3 # {t=\"1\"} 1\n# TYPE b unknown\nb 2.5\n# EOF\n";
    const NO_HELP: &str = "From the target `shop`, which gives no help.";
    let quoted = GOOD.replace("b 2.5", "{\"b.c\"} 2.5");
    for (content_type, page, second) in [
        (TEXT, GOOD, "b"),
        ("text/plain", GOOD, "b"),
        ("text/plain; version=1.0.0; escaping=allow-utf-8", quoted.as_str(), "b.c"),
        (OPEN_METRICS, open_metrics, "b"),
    ] {
        let server = Server::saying(ok(content_type, page.as_bytes()));
        let batch = scrape(target(&server.url())).await.unwrap();
        let kinds: Vec<(&str, Kind, &str)> =
            batch.families.iter().map(|f| (f.name.as_ref(), f.kind, f.help.as_ref())).collect();
        assert_eq!(kinds, [("a_total", Kind::Counter, "Some."), (second, Kind::Unknown, NO_HELP)], "{content_type}");
        assert_eq!(value(&batch, "a_total", &[("x", "y")]), Some(3.0));
        assert_eq!(value(&batch, second, &[]), Some(2.5));
    }
}

#[tokio::test]
async fn a_request_says_what_prometheus_says() {
    let server = Server::saying(ok(TEXT, GOOD.as_bytes()));
    let bearer = Auth::Bearer(Secret::new("t0ken"));
    let basic = Auth::Basic { username: "user".to_owned(), password: Secret::new("pass") };
    for auth in [None, Some(bearer), Some(basic)] {
        scrape(Target { auth, ..target(&format!("{}?name=x", server.url())) }).await.unwrap();
    }
    let heads: Vec<String> = server.heads().iter().map(|h| h.to_ascii_lowercase()).collect();
    for head in &heads {
        assert!(head.starts_with("get /metrics?name=x http/1.1\r\n"), "{head}");
        for line in [
            &format!("host: {}", server.address),
            "accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;\
             version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "accept-encoding: gzip",
            "x-prometheus-scrape-timeout-seconds: 10",
            concat!("user-agent: atlas-sidecar/", env!("CARGO_PKG_VERSION")),
        ] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
        }
    }
    assert!(!heads[0].contains("authorization"));
    assert!(heads[1].contains("\r\nauthorization: bearer t0ken\r\n"));
    assert!(server.heads()[2].to_ascii_lowercase().contains("\r\nauthorization: basic dxnlcjpwyxnz\r\n"));
}

#[tokio::test]
async fn gzip_is_decoded() {
    let headers = [("Content-Type", TEXT), ("Content-Encoding", "gzip")];
    let server = Server::saying(answer("200 OK", &headers, &gzip(GOOD.as_bytes())));
    assert_eq!(scrape(target(&server.url())).await.unwrap().len(), 2);
    let cut = gzip(GOOD.as_bytes());
    match refusal(answer("200 OK", &headers, &cut[..cut.len() - 9])).await {
        CollectError::Malformed(why) => assert!(why.contains("gzip"), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// E-3: 10 MiB in 50 KiB harm only their own source, and cost it only its limit.
#[tokio::test]
async fn e3_a_gzip_bomb_is_refused() {
    let headers = [("Content-Type", TEXT), ("Content-Encoding", "gzip")];
    let bomb = gzip(&b"a 1\n".repeat((10 << 20) / 4));
    assert!(bomb.len() < 1 << 20);
    assert_eq!(
        refusal(answer("200 OK", &headers, &bomb)).await,
        CollectError::TooLarge("more than 1048576 bytes".to_owned())
    );
}

/// E-3 without compression: a body without an end is cut off at the limit, and the connection with it.
#[tokio::test]
async fn e3_an_endless_body_is_refused() {
    let ended = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ended);
    let server = Server::start(move |stream| {
        let _ = stream
            .write_all(format!("HTTP/1.1 200 OK\r\nContent-Type: {TEXT}\r\nConnection: close\r\n\r\n").as_bytes());
        while stream.write_all(&b"a 1\n".repeat(1000)).is_ok() {}
        seen.store(true, Ordering::SeqCst);
        false
    });
    let error = scrape(target(&server.url())).await.expect_err("refused");
    assert_eq!(error, CollectError::TooLarge("more than 1048576 bytes".to_owned()));
    let ended = tokio::task::spawn_blocking(move || {
        wait_for("the connection to end", Duration::from_secs(10), || ended.load(Ordering::SeqCst).then_some(()));
    });
    ended.await.unwrap();
}

/// E-4: the caller's timeout ends a scrape that drips, and nothing of it is left behind.
#[tokio::test]
async fn e4_a_slow_drip_ends_with_the_callers_timeout() {
    let (drops, gone) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (dripped, seen) = (Arc::clone(&drops), Arc::clone(&gone));
    let server = Server::start(move |stream| {
        let _ = stream.write_all(&format!("HTTP/1.1 200 OK\r\nContent-Type: {TEXT}\r\n\r\n").into_bytes());
        while stream.write_all(b"a 1\n").is_ok() {
            dripped.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(10));
        }
        seen.store(true, Ordering::SeqCst);
        false
    });
    let own = "127.0.0.1:1".parse().unwrap();
    let metrics = Arc::new(Metrics::new(&Registry::new()));
    let mut collector = collector(target(&server.url()), own, plain_client(), metrics);
    let mut batch = Batch::new(NOW);
    let start = Instant::now();
    let ended = tokio::time::timeout(Duration::from_millis(300), collector.collect(&mut batch)).await;
    assert!(ended.is_err() && start.elapsed() < Duration::from_secs(5));
    assert!(batch.is_empty() && drops.load(Ordering::SeqCst) > 0);
    let gone = tokio::task::spawn_blocking(move || {
        wait_for("the connection to end", Duration::from_secs(10), || gone.load(Ordering::SeqCst).then_some(()));
    });
    gone.await.unwrap();
}

/// E-1: an error page with status 200 is a failure that names the type.
#[tokio::test]
async fn e1_html_and_other_types_are_refused() {
    let page = include_bytes!("../fixtures/exposition/error_page.html");
    for (content_type, body) in
        [("text/html; charset=utf-8", &page[..]), ("application/json", b"{}"), ("text/plain; version=9", b"a 1\n")]
    {
        match refusal(ok(content_type, body)).await {
            CollectError::Malformed(why) => assert!(why.contains(&format!("`{content_type}`")), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        refusal(answer("200 OK", &[], GOOD.as_bytes())).await,
        CollectError::Malformed("the answer has no Content-Type".to_owned())
    );
    let lying = refusal(ok(TEXT, page)).await.to_string();
    assert!(lying.contains("HTML"), "{lying}");
    let encoded = answer("200 OK", &[("Content-Type", TEXT), ("Content-Encoding", "zstd")], b"x");
    assert!(refusal(encoded).await.to_string().contains("`zstd`"));
}

/// E-1: 200 without a sample is a failure.
#[tokio::test]
async fn e1_a_page_without_samples_is_refused() {
    for body in ["", "\n", "# TYPE a counter\n", "Internal Server Error"] {
        match refusal(ok(TEXT, body.as_bytes())).await {
            CollectError::Malformed(why) => assert!(why.contains("no samples"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    let server = Server::saying(ok(TEXT, GOOD.as_bytes()));
    let nothing = scrape(Target { metrics: Globs::new(["x_*"]), ..target(&server.url()) }).await.expect_err("refused");
    assert!(nothing.to_string().contains("`metrics`"), "{nothing}");
    let some = scrape(Target { metrics: Globs::new(["a_*"]), ..target(&server.url()) }).await.unwrap();
    assert_eq!(some.len(), 1);
}

#[tokio::test]
async fn other_statuses_are_unreachable() {
    for (status, says) in [
        ("500 Internal Server Error", "answered 500 Internal Server Error"),
        ("503 Service Unavailable", "answered 503"),
        ("401 Unauthorized", "other credentials"),
        ("204 No Content", "answered 204"),
        ("304 Not Modified", "answered 304"),
    ] {
        let body: &[u8] = if status.starts_with('2') || status.starts_with('3') { b"" } else { GOOD.as_bytes() };
        match refusal(answer(status, &[("Content-Type", TEXT)], body)).await {
            CollectError::Unreachable(why) => assert!(why.contains(says), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn redirects_are_named_and_not_followed() {
    let elsewhere = Server::saying(ok(TEXT, GOOD.as_bytes()));
    let to = format!("{}?token=canary", elsewhere.url());
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let error = refusal(answer(status, &[("Location", &to)], b"")).await.to_string();
        assert!(error.contains(&elsewhere.url()) && error.contains("not followed"), "{error}");
        assert!(!error.contains("canary"), "{error}");
    }
    assert!(elsewhere.heads().is_empty());
}

#[tokio::test]
async fn a_cut_answer_is_malformed() {
    let short = format!("HTTP/1.1 200 OK\r\nContent-Type: {TEXT}\r\nContent-Length: 1000\r\n\r\n{GOOD}");
    let chunked =
        format!("HTTP/1.1 200 OK\r\nContent-Type: {TEXT}\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n");
    for bytes in [short, chunked] {
        let server = Server::start(move |stream| {
            let _ = stream.write_all(bytes.as_bytes());
            false
        });
        match scrape(target(&server.url())).await.expect_err("refused") {
            CollectError::Malformed(why) => assert!(why.contains("broke off"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    // Cut where HTTP does not notice, OpenMetrics does.
    let open_metrics = refusal(ok(OPEN_METRICS, b"# TYPE a gauge\na 1\n")).await.to_string();
    assert!(open_metrics.contains("# EOF"), "{open_metrics}");
}

/// E-1: what is too large in any direction, and a line without an end.
#[tokio::test]
async fn e1_limits_hold() {
    let endless = format!("a{{x=\"{}\"}} 1\n", "y".repeat(20_000));
    for (page, says) in
        [(endless, "label's value"), ("a 1\n".repeat(1_001), "1000 samples"), ("x".repeat(2_000), "name")]
    {
        match refusal(ok(TEXT, page.as_bytes())).await {
            CollectError::TooLarge(why) => assert!(why.contains(says), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    let line = ok(TEXT, &vec![b'#'; (1 << 20) + 1]);
    assert_eq!(refusal(line).await, CollectError::TooLarge("more than 1048576 bytes".to_owned()));
    let server = Server::start(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(&b"X-Header: x\r\n".repeat(100)).is_ok() {}
        false
    });
    match scrape(target(&server.url())).await.expect_err("refused") {
        CollectError::Unreachable(_) => {}
        other => panic!("{other:?}"),
    }
}

/// E-1: what is skipped is counted, per source, and the rest is taken.
#[tokio::test]
async fn what_is_left_out_is_counted() {
    let old = NOW.millis() - 3_600_000;
    let page = format!("{GOOD}b 7\nnot a line\nold 1 {old}\nnow 1 {}\n", NOW.millis());
    let server = Server::saying(ok(TEXT, page.as_bytes()));
    let registry = Registry::new();
    let batch = scrape_with(target(&server.url()), plain_client(), &registry).await.unwrap();
    let names: Vec<&str> = batch.families.iter().map(|f| f.name.as_ref()).collect();
    assert_eq!(names, ["a_total", "b", "now"]);
    assert_eq!(value(&batch, "b", &[]), Some(2.5));
    assert_eq!(batch.families[2].samples[0].at, Some(NOW));
    for family in registry.gather() {
        assert_eq!(family.get_metric()[0].get_label()[0].value(), "shop");
        assert_eq!(family.get_metric()[0].get_counter().get_value(), 1.0, "{}", family.name());
    }
    assert_eq!(registry.gather().len(), 3);
}

#[tokio::test]
async fn labels_of_the_target_do_not_hide_the_source() {
    let server = Server::saying(ok(TEXT, b"a{source=\"theirs\"} 1\n"));
    let batch = scrape(target(&server.url())).await.unwrap();
    assert_eq!(value(&batch, "a", &[("exported_source", "theirs")]), Some(1.0));
}

/// E-2: whatever name our own address goes by, its answer is refused.
#[tokio::test]
async fn e2_our_own_answer_is_refused() {
    let server = Server::saying(ok(TEXT, GOOD.as_bytes()));
    let own: [SocketAddr; 2] = [server.address, SocketAddr::from(([0, 0, 0, 0], server.address.port()))];
    let elsewhere = SocketAddr::from(([10, 0, 0, 1], server.address.port()));
    for listen in own {
        let metrics = Arc::new(Metrics::new(&Registry::new()));
        let url = format!("http://localhost:{}/metrics", server.address.port());
        let mut collector = collector(target(&url), listen, plain_client(), metrics);
        match collect(&mut collector).await {
            Err(CollectError::Internal(why)) => assert!(why.contains("our own listen address"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    let metrics = Arc::new(Metrics::new(&Registry::new()));
    let mut other = collector(target(&server.url()), elsewhere, plain_client(), metrics);
    assert_eq!(collect(&mut other).await.unwrap().len(), 2);
}

/// E-11: no way to fail shows a secret of the address or of the credentials.
#[tokio::test]
async fn e11_no_failure_shows_a_secret() {
    let nobody = free_address();
    let mut errors = Vec::new();
    for url in [
        format!("http://{nobody}/metrics?token=canary"),
        "http://no-such-host.invalid/metrics?token=canary".to_owned(),
        format!("http://canary:canary@{nobody}/metrics"),
        "http://a b/canary".to_owned(),
    ] {
        let auth = Some(Auth::Bearer(Secret::new("canary")));
        errors.push(scrape(Target { auth, ..target(&url) }).await.expect_err("refused"));
    }
    let auth = Some(Auth::Bearer(Secret::new("canary\r\nX: y")));
    errors.push(scrape(Target { auth, ..target("http://localhost/") }).await.expect_err("refused"));
    for error in &errors {
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    }
    let refused = errors[0].to_string();
    assert!(refused.contains(&format!("http://{nobody}/metrics")) && refused.contains("refused"), "{refused}");
    assert!(errors[1].to_string().contains("dns"), "{}", errors[1]);
}

/// A kept connection that the server closes at the moment of a request would look like a failed target.
#[tokio::test]
async fn every_scrape_has_a_connection_of_its_own() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let server = Server::start_with(
        move |tcp| {
            counted.fetch_add(1, Ordering::SeqCst);
            Some(Box::new(tcp))
        },
        // Every other connection is closed after its answer, the others wait for one more request.
        {
            let asked = AtomicUsize::new(0);
            move |stream| {
                stream.write_all(&ok(TEXT, GOOD.as_bytes())).is_ok()
                    && asked.fetch_add(1, Ordering::SeqCst).is_multiple_of(2)
            }
        },
    );
    let metrics = Arc::new(Metrics::new(&Registry::new()));
    let mut collector = collector(target(&server.url()), free_address(), plain_client(), metrics);
    for _ in 0..20 {
        assert_eq!(collect(&mut collector).await.unwrap().len(), 2);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 20);
}

/// A server with a certificate of an authority of its own, and that authority's certificate.
fn tls_server() -> (Server, rustls::pki_types::CertificateDer<'static>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(authority, key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned()];
    let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    let config = Arc::new(config);
    let server = Server::start_with(
        move |tcp| {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).ok()?;
            Some(Box::new(rustls::StreamOwned::new(session, tcp)))
        },
        |stream| stream.write_all(&ok(TEXT, GOOD.as_bytes())).is_ok(),
    );
    (server, authority.der().clone())
}

#[tokio::test]
async fn https_works_for_trusted_authorities_only() {
    let (server, authority) = tls_server();
    let https = |host: &str| target(&format!("https://{host}:{}/metrics", server.address.port()));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority).unwrap();
    let trusting = Client::trusting(roots);
    let registry = Registry::new();
    assert_eq!(scrape_with(https("localhost"), trusting.clone(), &registry).await.unwrap().len(), 2);
    match scrape_with(https("127.0.0.1"), trusting, &Registry::new()).await {
        Err(CollectError::Unreachable(why)) => assert!(why.contains("certificate is refused"), "{why}"),
        other => panic!("{other:?}"),
    }
    match scrape_with(https("localhost"), Client::new(), &Registry::new()).await {
        Err(CollectError::Unreachable(why)) => {
            assert!(why.contains("not from an authority that this machine trusts"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    // Plain HTTP to a TLS port, and TLS to a plain one, which takes the handshake for a broken request.
    assert!(matches!(scrape(target(&server.url())).await, Err(CollectError::Unreachable(_))));
    let plain = Server::start_with(
        |mut tcp| {
            let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            None
        },
        |_| false,
    );
    match scrape(target(&plain.url().replace("http:", "https:"))).await {
        Err(CollectError::Unreachable(why)) => assert!(why.contains("TLS failed"), "{why}"),
        other => panic!("{other:?}"),
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The real thing: every line of a running node_exporter is understood, and its page has the families that it declares.
#[tokio::test]
async fn a_real_node_exporter_is_read_without_a_bad_line() {
    let address = free_address();
    let started = Command::new("prometheus-node-exporter")
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _exporter =
        Killed(started.expect("`prometheus-node-exporter` does not start: the README's test command installs it"));
    wait_for("node_exporter", Duration::from_secs(20), || TcpStream::connect(address).ok());
    let registry = Registry::new();
    let wanted = Target { max_samples: 100_000, ..target(&format!("http://{address}/metrics")) };
    let batch = scrape_with(wanted, plain_client(), &registry).await.unwrap();
    for family in registry.gather() {
        assert_eq!(family.get_metric()[0].get_counter().get_value(), 0.0, "{}", family.name());
    }
    let kind = |name: &str| batch.families.iter().find(|f| f.name == name).map(|f| f.kind);
    assert_eq!(kind("node_cpu_seconds_total"), Some(Kind::Counter));
    assert_eq!(kind("node_load1"), Some(Kind::Gauge));
    assert_eq!(kind("go_gc_duration_seconds"), Some(Kind::Summary));
    assert!(batch.len() > 200 && batch.families.iter().all(|f| !f.samples.is_empty()));
}
