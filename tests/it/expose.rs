//! The HTTP server in this process, on a port of its own, with a page that says what it was asked for.

mod web;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use atlas_sidecar::clock::{Clock, Timestamp};
use atlas_sidecar::expose::encode::Page;
use atlas_sidecar::expose::health::Readiness;
use atlas_sidecar::expose::negotiate::{Filter, Format, Syntax};
use atlas_sidecar::expose::page::{Overview, SourceRow};
use atlas_sidecar::expose::{BindError, METRICS, Routes, Server, Settings};
use prometheus::Registry;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{Answer, get, request, wait_for};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// A door that pages of the source `slow` wait behind.
#[derive(Default)]
struct Door {
    open: Mutex<bool>,
    moved: Condvar,
    waiting: AtomicUsize,
}

impl Door {
    fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let open = self.open.lock().unwrap();
        drop(self.moved.wait_timeout_while(open, LONG, |open| !*open).unwrap());
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.moved.notify_all();
    }

    fn wait_for(&self, guests: usize) {
        wait_for("requests behind the door", LONG, || (self.waiting.load(Ordering::SeqCst) == guests).then_some(()));
    }
}

/// A running server.
struct Running {
    runtime: Runtime,
    address: SocketAddr,
    stop: CancellationToken,
    served: Option<JoinHandle<()>>,
    registry: Registry,
    ready: Readiness,
    door: Arc<Door>,
}

impl Running {
    fn start() -> Self {
        Self::with(None, 40)
    }

    fn with(web_config_file: Option<PathBuf>, max_requests: usize) -> Self {
        let settings = Settings { listen: "127.0.0.1:0".parse().unwrap(), web_config_file, max_requests };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (registry, stop, door) = (Registry::new(), CancellationToken::new(), Arc::new(Door::default()));
        let entered = runtime.enter();
        let server = Server::bind(&settings, &registry, Clock::by_hand(Timestamp::from_millis(60_000))).unwrap();
        drop(entered);
        let address = server.address();
        let ready = Readiness::new(["database", "server"]);
        let routes = routes(door.clone(), ready.clone());
        let served = runtime.spawn(server.serve(routes, stop.clone()));
        Self { runtime, address, stop, served: Some(served), registry, ready, door }
    }

    fn get(&self, path: &str) -> Answer {
        get(self.address, path).expect("an answer")
    }

    fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        request("GET", self.address, path, headers).expect("an answer")
    }

    /// The value of a series without labels, or of `{path, code}`.
    fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|f| f.name() == name);
        let values = family.map(|f| f.get_metric()).unwrap_or_default().iter();
        values
            .filter(|m| labels.iter().all(|wanted| m.get_label().iter().any(|l| l.value() == *wanted)))
            .map(|m| m.get_counter().get_value() + m.get_gauge().get_value())
            .sum()
    }

    /// Stops and gives how long that took.
    fn stop(&mut self) -> Duration {
        let start = Instant::now();
        self.stop.cancel();
        if let Some(served) = self.served.take() {
            self.runtime.block_on(served).unwrap();
        }
        start.elapsed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        self.door.open();
    }
}

/// Pages that say what they were asked for; the source `panic` panics, `slow` waits for the door, `large` fills 8 MiB, and `valid`
/// is what a Prometheus understands.
fn routes(door: Arc<Door>, ready: Readiness) -> Routes {
    let names = ["host", "slow", "large", "panic", "valid", "bad <b>name</b>"].map(str::to_owned).to_vec();
    Routes {
        pages: Arc::new(move |format, filter| {
            let has = |name: &str| filter.collect.iter().any(|n| n == name);
            assert!(!has("panic"), "the page was asked to panic");
            if has("slow") {
                door.pass();
            }
            if has("large") {
                return Arc::new(Page::new(vec![b'#'; 8 << 20]));
            }
            if has("valid") {
                let end = if format.syntax == Syntax::OpenMetrics100 { "# EOF\n" } else { "" };
                return Arc::new(Page::new(format!(
                    "# TYPE stub gauge\nstub{{syntax=\"{:?}\"}} 1\n{end}",
                    format.syntax
                )));
            }
            Arc::new(Page::new(page_text(format, filter)))
        }),
        sources: Arc::new(move || names.clone()),
        ready,
        overview: Arc::new(|| Overview {
            version: "9.9.9".to_owned(),
            started: Timestamp::from_millis(0),
            ready: false,
            series: 3,
            rows_stored: 4,
            samples_dropped: 5,
            sources: vec![SourceRow {
                name: "bad <b>name</b>".to_owned(),
                up: Some(false),
                last_success: None,
                duration: None,
                samples: 0,
                error: Some("<script>alert(1)</script>".to_owned()),
            }],
        }),
    }
}

fn page_text(format: Format, filter: &Filter) -> String {
    format!("# {format:?} {filter:?}\n").repeat(50)
}

/// Sends bytes as they are and reads until the other side closes.
fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is also an end.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn every_path_answers_and_every_other_method_is_refused() {
    let server = Running::start();
    server.ready.reach("database");
    server.ready.reach("server");
    for (path, body) in [
        ("/-/healthy", "healthy\n".to_owned()),
        ("/-/ready", "ready\n".to_owned()),
        ("/metrics", page_text(Format::DEFAULT, &Filter::default())),
    ] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.text()), (200, body), "{path}");
    }
    for (method, path, status) in [
        ("POST", "/metrics", 405),
        ("PUT", "/", 405),
        ("DELETE", "/-/healthy", 405),
        ("OPTIONS", "/-/ready", 405),
        ("NONSENSE", "/metrics", 405),
        ("GET", "/metrics/", 404),
        ("GET", "/favicon.ico", 404),
        ("POST", "/-/reload", 404),
        ("GET", "/%2e%2e/etc/passwd", 404),
    ] {
        let answer = request(method, server.address, path, &[]).unwrap();
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.header("allow"), (status == 405).then_some("GET, HEAD"), "{method} {path}");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    // Whatever clients write, the labels stay few.
    assert_eq!(server.metric("atlas_sidecar_http_requests_total", &["other", "404"]), 4.0);
    assert_eq!(server.metric("atlas_sidecar_http_requests_total", &["/metrics", "200"]), 1.0);
    assert_eq!(server.metric("atlas_sidecar_http_requests_total", &["/metrics", "405"]), 2.0);
    for desc in METRICS {
        assert!(
            server.registry.gather().iter().any(|f| f.name() == desc.name && f.help() == desc.help),
            "{}",
            desc.name
        );
    }
}

#[test]
fn head_has_the_headers_of_get_and_no_body() {
    let server = Running::start();
    for (path, headers) in [
        ("/metrics", &[][..]),
        ("/metrics", &[("Accept-Encoding", "gzip")][..]),
        ("/metrics?collect[]=nope", &[][..]),
        ("/-/healthy", &[][..]),
        ("/-/ready", &[][..]),
        ("/", &[][..]),
        ("/nowhere", &[][..]),
    ] {
        let [get, head] = ["GET", "HEAD"].map(|method| request(method, server.address, path, headers).unwrap());
        let without_date = |a: &Answer| a.headers.iter().filter(|(n, _)| n != "date").cloned().collect::<Vec<_>>();
        assert_eq!((get.status, without_date(&get)), (head.status, without_date(&head)), "{path}");
        assert_eq!(get.header("content-length"), Some(get.body.len().to_string().as_str()), "{path}");
        assert!(head.body.is_empty() && !get.body.is_empty(), "{path}");
    }
}

/// E-9
#[test]
fn formats_and_codings_are_negotiated() {
    let server = Running::start();
    for (accept, content_type, syntax) in [
        (None, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", Syntax::Text004),
        (Some("nonsense;;q=x"), "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", Syntax::Text004),
        (
            Some("text/plain;version=1.0.0;escaping=values"),
            "text/plain; version=1.0.0; charset=utf-8; escaping=values",
            Syntax::Text100,
        ),
        (
            Some("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,*/*;q=0.1"),
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
            Syntax::OpenMetrics100,
        ),
    ] {
        let mut headers: Vec<(&str, &str)> = accept.map(|a| ("Accept", a)).into_iter().collect();
        let plain = server.get_with("/metrics", &headers);
        headers.push(("Accept-Encoding", "deflate, gzip;q=0.9"));
        let zipped = server.get_with("/metrics", &headers);
        for answer in [&plain, &zipped] {
            assert_eq!(answer.header("content-type"), Some(content_type));
            assert_eq!(answer.header("vary"), Some("Accept, Accept-Encoding"));
        }
        assert_eq!((plain.header("content-encoding"), zipped.header("content-encoding")), (None, Some("gzip")));
        assert!(plain.text().contains(&format!("{syntax:?}")));
        let mut unzipped = Vec::new();
        flate2::read::GzDecoder::new(&zipped.body[..]).read_to_end(&mut unzipped).unwrap();
        assert_eq!(unzipped, plain.body);
        assert!(zipped.body.len() < plain.body.len());
    }
    // Two headers are one list, and bytes that are not text are no header at all.
    let two = server.get_with("/metrics", &[("Accept", "image/png"), ("Accept", "text/plain;version=1.0.0")]);
    assert!(two.text().contains("Text100"));
    let odd = raw(server.address, b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: \xff\xfe\r\nConnection: close\r\n\r\n");
    assert!(odd.starts_with("HTTP/1.1 200 OK\r\n") && odd.contains("version=0.0.4"), "{odd}");
}

#[test]
fn http_1_0_is_spoken() {
    let server = Running::start();
    let answer = raw(server.address, b"GET /-/healthy HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nhealthy\n"), "{answer}");
    let kept = raw(
        server.address,
        b"GET /-/healthy HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /-/healthy HTTP/1.0\r\n\r\n",
    );
    assert_eq!(kept.matches("200 OK").count(), 2, "{kept}");
    assert!(raw(server.address, b"\x16\x03\x01 this is no HTTP\r\n\r\n").starts_with("HTTP/1.1 400 Bad Request\r\n"));
}

#[test]
fn filters_reach_the_page_or_are_refused() {
    let server = Running::start();
    let one = server.get("/metrics?x=y&collect%5B%5D=host&collect[]=bad+%3Cb%3Ename%3C/b%3E&collect[]=host");
    let filter = Filter { collect: vec!["bad <b>name</b>".to_owned(), "host".to_owned()], exclude: Vec::new() };
    assert_eq!((one.status, one.text()), (200, page_text(Format::DEFAULT, &filter)));
    let other = server.get("/metrics?exclude[]=host");
    let filter = Filter { collect: Vec::new(), exclude: vec!["host".to_owned()] };
    assert_eq!(other.text(), page_text(Format::DEFAULT, &filter));
    let both = server.get("/metrics?collect[]=host&exclude[]=slow");
    assert_eq!((both.status, both.text().as_str()), (400, "`collect[]` and `exclude[]` cannot be combined\n"));
    let unknown = server.get("/metrics?collect[]=nope");
    assert_eq!(unknown.status, 400);
    assert_eq!(
        unknown.text(),
        "no source is named `nope`; known: host, slow, large, panic, valid, bad <b>name</b>\n",
        "the answer is text that no browser takes for anything else"
    );
}

#[test]
fn readiness_says_what_is_missing() {
    let server = Running::start();
    let state = || {
        let answer = server.get("/-/ready");
        (answer.status, answer.text())
    };
    assert_eq!(state(), (503, "not ready, waiting for: database, server\n".to_owned()));
    assert_eq!(server.get("/-/healthy").status, 200);
    server.ready.reach("database");
    assert_eq!(state(), (503, "not ready, waiting for: server\n".to_owned()));
    server.ready.reach("server");
    assert_eq!(state(), (200, "ready\n".to_owned()));
    server.ready.drain();
    assert_eq!(state(), (503, "shutting down\n".to_owned()));
}

#[test]
fn the_landing_page_shows_hostile_names_as_text() {
    let server = Running::start();
    let page = server.get("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'unsafe-inline'"), "{policy}");
    let text = page.text();
    assert!(text.contains("bad &lt;b&gt;name&lt;/b&gt;") && text.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(
        !text.contains("<script") && !text.contains("<b>") && text.contains("9.9.9") && text.contains("1 min 0 s ago")
    );
}

/// E-10
#[test]
fn a_page_that_is_late_is_503_and_not_a_hanging_scrape() {
    let server = Running::start();
    let start = Instant::now();
    let late = server.get_with("/metrics?collect[]=slow", &[("X-Prometheus-Scrape-Timeout-Seconds", "0.8")]);
    assert_eq!((late.status, late.text().as_str()), (503, "the page was not ready within 0.4 s\n"));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    for odd in ["", "0", "-1", "abc", "1e9", "nan"] {
        let answer = server.get_with("/metrics", &[("X-Prometheus-Scrape-Timeout-Seconds", odd)]);
        assert_eq!(answer.status, 200, "{odd}");
    }
}

/// A page that nobody waits for any more still occupies its place: abandoned work cannot pile up.
#[test]
fn an_abandoned_page_counts_until_it_is_done() {
    let server = Running::with(None, 1);
    let hurry = [("X-Prometheus-Scrape-Timeout-Seconds", "0.1")];
    assert_eq!(server.get_with("/metrics?collect[]=slow", &hurry).status, 503);
    let refused = server.get("/metrics");
    assert_eq!(
        (refused.status, refused.text().as_str()),
        (503, "1 scrapes are in flight, the most that `server.max_requests` allows\n")
    );
    server.door.open();
    wait_for("a place", LONG, || (server.get("/metrics").status == 200).then_some(()));
}

/// E-8
#[test]
fn sixty_scrapes_at_once_are_forty_answers_and_twenty_refusals() {
    let server = Running::start();
    let path = "/metrics?collect[]=slow";
    let (address, in_flight) = (server.address, "atlas_sidecar_http_requests_in_flight");
    let scrapes: Vec<_> = (0..60).map(|_| std::thread::spawn(move || get(address, path).unwrap().status)).collect();
    wait_for("refusals", LONG, || {
        (server.metric("atlas_sidecar_http_requests_total", &["/metrics", "503"]) == 20.0).then_some(())
    });
    server.door.wait_for(40);
    wait_for("the gauge", LONG, || (server.metric(in_flight, &[]) == 40.0).then_some(()));
    assert_eq!(server.get("/-/healthy").status, 200, "health is never refused");
    assert_eq!(server.get("/-/ready").status, 503);
    server.door.open();
    let statuses: Vec<u16> = scrapes.into_iter().map(|s| s.join().unwrap()).collect();
    assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 40);
    assert_eq!(statuses.iter().filter(|s| **s == 503).count(), 20);
    wait_for("the gauge to fall", LONG, || (server.metric(in_flight, &[]) == 0.0).then_some(()));
    assert_eq!(server.get("/metrics").status, 200);
}

/// Whoever does not read its page keeps its place, and only its place.
#[test]
fn a_client_that_does_not_read_holds_its_own_place_only() {
    let server = Running::with(None, 2);
    let mut reader = TcpStream::connect(server.address).unwrap();
    reader.write_all(b"GET /metrics?collect[]=large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut first = [0; 1];
    reader.read_exact(&mut first).unwrap();
    assert_eq!(server.metric("atlas_sidecar_http_requests_in_flight", &[]), 1.0);
    assert_eq!(server.get("/metrics").status, 200, "there is a second place");
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert!(rest.len() > 8 << 20 && rest.ends_with(b"####"));
    wait_for("the place", LONG, || (server.metric("atlas_sidecar_http_requests_in_flight", &[]) == 0.0).then_some(()));
}

#[test]
fn a_panic_is_a_500_for_its_request_only() {
    let server = Running::with(None, 3);
    for _ in 0..5 {
        // More often than there are places: a panic gives its place back.
        let answer = server.get("/metrics?collect[]=panic");
        assert_eq!((answer.status, answer.text().as_str()), (500, "internal error; the log says more\n"));
    }
    let both = raw(
        server.address,
        b"GET /metrics?collect[]=panic HTTP/1.1\r\nHost: x\r\n\r\nGET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert!(both.contains("500 Internal") && both.ends_with("healthy\n"), "the connection lives on: {both}");
    assert_eq!(server.get("/metrics").status, 200);
    assert_eq!(server.metric("atlas_sidecar_http_requests_total", &["/metrics", "500"]), 6.0);
}

#[test]
fn a_panic_outside_of_the_page_is_a_500_too() {
    let (registry, stop) = (Registry::new(), CancellationToken::new());
    let runtime = Runtime::new().unwrap();
    let entered = runtime.enter();
    let settings = Settings { listen: "127.0.0.1:0".parse().unwrap(), web_config_file: None, max_requests: 1 };
    let server = Server::bind(&settings, &registry, Clock::system()).unwrap();
    let address = server.address();
    let mut routes = routes(Arc::default(), Readiness::new([]));
    routes.overview = Arc::new(|| panic!("no overview"));
    routes.sources = Arc::new(|| panic!("no sources"));
    let served = runtime.spawn(server.serve(routes, stop.clone()));
    drop(entered);
    for (path, status) in [("/", 500), ("/metrics?collect[]=host", 500), ("/metrics", 200), ("/-/ready", 200)] {
        assert_eq!(get(address, path).unwrap().status, status, "{path}");
    }
    stop.cancel();
    runtime.block_on(served).unwrap();
}

#[test]
fn heads_are_limited() {
    let server = Running::start();
    let long = format!("GET /-/healthy HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    let many = format!("GET /-/healthy HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(80));
    let uri = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(70_000));
    for (bytes, status) in [(long, "431"), (many, "431"), (uri, "4")] {
        let answer = raw(server.address, bytes.as_bytes());
        // A reset may overtake the answer where the client is still sending; then there is none.
        assert!(answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    assert_eq!(server.get("/-/healthy").status, 200);
}

#[test]
fn connections_are_limited_and_the_next_one_waits() {
    let server = Running::with(None, 1);
    let mut idle: Vec<TcpStream> = (0..201).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    for stream in &mut idle {
        // An answer says that the connection has its place.
        stream.write_all(b"HEAD /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
    }
    let mut next = TcpStream::connect(server.address).unwrap();
    next.write_all(b"HEAD /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    next.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(next.read(&mut [0; 1024]).is_err(), "there is no place yet");
    idle.pop();
    next.set_read_timeout(Some(LONG)).unwrap();
    assert!(next.read(&mut [0; 1024]).unwrap() > 0);
}

#[test]
fn a_stop_lets_open_requests_finish_and_idle_connections_go() {
    let mut server = Running::start();
    let address = server.address;
    let mut idle = TcpStream::connect(address).unwrap();
    idle.write_all(b"HEAD /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(idle.read(&mut [0; 1024]).unwrap() > 0);
    let mut silent = TcpStream::connect(address).unwrap();
    let open = std::thread::spawn(move || get(address, "/metrics?collect[]=slow").unwrap());
    server.door.wait_for(1);
    server.stop.cancel();
    // Both idle ones are closed while the open one is still being answered.
    for stream in [&mut idle, &mut silent] {
        stream.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(stream.read(&mut [0; 1024]).unwrap_or(0), 0);
    }
    wait_for("the port to close", LONG, || TcpStream::connect(address).is_err().then_some(()));
    server.door.open();
    let answer = open.join().unwrap();
    assert_eq!(answer.status, 200);
    assert!(server.stop() < Duration::from_secs(5));
}

/// Takes the five seconds that an open request has.
#[test]
fn a_stop_waits_no_longer_than_its_limit() {
    let mut server = Running::start();
    let address = server.address;
    let stuck = std::thread::spawn(move || get(address, "/metrics?collect[]=slow"));
    server.door.wait_for(1);
    let took = server.stop();
    assert!((Duration::from_secs(4)..Duration::from_secs(12)).contains(&took), "{took:?}");
    assert!(stuck.join().unwrap().is_none(), "the stuck request is cut off");
}

#[test]
fn an_address_in_use_is_named() {
    let server = Running::start();
    let settings = Settings { listen: server.address, web_config_file: None, max_requests: 1 };
    let _entered = server.runtime.enter();
    let error = Server::bind(&settings, &Registry::new(), Clock::system()).err().expect("the address is taken");
    assert!(matches!(error, BindError::Address { .. }));
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("cannot listen on `{}`: the address is in use\nhint: ", server.address)),
        "{text}"
    );
    let settings = Settings { listen: "192.0.2.1:0".parse().unwrap(), ..settings };
    let text = Server::bind(&settings, &Registry::new(), Clock::system()).err().expect("not ours").to_string();
    assert!(text.starts_with("cannot listen on `192.0.2.1:0`: this machine has no such address\nhint: "), "{text}");
}

/// Whatever `curl` says with `arguments`: its exit code, and its standard output.
fn curl(arguments: &[&str]) -> (i32, String) {
    let output = std::process::Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30"])
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("`curl` does not start ({e}): the README's test command installs it"));
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}
