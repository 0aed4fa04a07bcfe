//! The HTTP server.
//!
//! | path | methods | answers |
//! |---|---|---|
//! | `/metrics` | GET, HEAD | the page, in the format and coding that the client asks for ([`negotiate`]); `collect[]` and `exclude[]` name sources |
//! | `/-/healthy` | GET, HEAD | 200 as long as the process answers |
//! | `/-/ready` | GET, HEAD | 200, or 503 with what is missing, or 503 while shutting down ([`health`]) |
//! | `/` | GET, HEAD | the landing page ([`page`]) |
//!
//! Anything else is 404, another method 405. TLS, passwords, headers and a rate limit come from the web configuration file ([`web`]); the two
//! health endpoints know neither password nor limit, because whoever asks them decides whether the process may live.
//!
//! A scrape touches nothing but memory: the page comes from [`encode::Pages`], on a thread where it may compute. What clients can do to the
//! process is bounded on every side: connections, the time for a handshake, for a request's head, for a stalled write, for an
//! idle connection, for a page, for a shutdown; the size of a head; the scrapes in flight. A handler that panics is a 500
//! for its request and a line in the log.
//!
//! Shutdown: nothing new is accepted, requests that are open have [`DRAIN`] to finish.

mod answer;
mod connection;
pub mod encode;
pub mod health;
pub mod negotiate;
pub mod page;
pub mod web;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::sample::{Desc, Kind};
use crate::task::Tasks;
use crate::telemetry;

use answer::Answers;
use web::Web;

/// The `[server]` section.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the server listens.
    pub listen: SocketAddr,
    /// TLS and users, in exporter-toolkit's format; re-read when it changes.
    pub web_config_file: Option<PathBuf>,
    /// The most scrapes at once; one more is answered 503.
    pub max_requests: usize,
}

/// What the server shows of the rest of the program.
pub struct Routes {
    /// The page of `/metrics`.
    pub pages: encode::Pages,
    /// The names that `collect[]` and `exclude[]` know.
    pub sources: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// What `/-/ready` answers.
    pub ready: health::Readiness,
    /// What the landing page shows.
    pub overview: Arc<dyn Fn() -> page::Overview + Send + Sync>,
}

/// How long open requests may take to finish after the stop.
pub const DRAIN: Duration = Duration::from_secs(5);

/// Connections beyond `max_requests`: room for those that are idle and for whoever asks for health.
const CONNECTIONS_SPARE: usize = 200;

/// The pause after an `accept` that failed because something ran out (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

static REQUESTS: Desc = Desc {
    name: "atlas_sidecar_http_requests_total",
    kind: Kind::Counter,
    unit: "requests",
    help: "Requests answered by the sidecar's own server, by path (`other` for unknown ones) and status code. 503 on /metrics: too many scrapes at once or a page that was not ready in time.",
};

static IN_FLIGHT: Desc = Desc {
    name: "atlas_sidecar_http_requests_in_flight",
    kind: Kind::Gauge,
    unit: "requests",
    help: "Requests that the sidecar's own server is answering or still sending the answer to. Near server.max_requests, scrapes are about to be refused.",
};

static HANDSHAKES: Desc = Desc {
    name: "atlas_sidecar_tls_handshake_failures_total",
    kind: Kind::Counter,
    unit: "connections",
    help: "Connections that ended in the TLS handshake: no or a wrong client certificate, no common version, plain HTTP, too slow.",
};

/// The metrics of the server.
pub const METRICS: &[&Desc] = &[&REQUESTS, &IN_FLIGHT, &HANDSHAKES];

/// The server's counts of itself.
#[derive(Clone)]
struct Metrics {
    requests: IntCounterVec,
    in_flight: IntGauge,
    handshakes: IntCounter,
}

impl Metrics {
    fn new(registry: &Registry) -> Self {
        Self {
            requests: telemetry::counters(registry, &REQUESTS, &["path", "code"]),
            in_flight: telemetry::int_gauge(registry, &IN_FLIGHT),
            handshakes: telemetry::counter(registry, &HANDSHAKES),
        }
    }
}

/// A server that has its address and does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    max_requests: usize,
    web: Option<Arc<Web>>,
    metrics: Metrics,
    clock: Clock,
}

impl Server {
    /// Reads the web configuration file and takes the address. Inside of a tokio runtime only.
    pub fn bind(settings: &Settings, registry: &Registry, clock: Clock) -> Result<Self, BindError> {
        let refused = |error| BindError::Address { address: settings.listen, error };
        let listener = std::net::TcpListener::bind(settings.listen).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let listener = TcpListener::from_std(listener).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        // The registry last: after an error the caller may try again with the same one.
        let web = match &settings.web_config_file {
            Some(path) => {
                let refused = |error| BindError::Web { path: path.clone(), error };
                Some(Arc::new(Web::open(path, registry).map_err(refused)?))
            }
            None => None,
        };
        Ok(Self { listener, address, max_requests: settings.max_requests, web, metrics: Metrics::new(registry), clock })
    }

    /// Where it listens: the port that was given where the settings say 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, then finishes what is open.
    pub async fn serve(self, routes: Routes, stop: CancellationToken) {
        let tasks = Tasks::new();
        let answers =
            Arc::new(Answers::new(routes, self.max_requests, self.web.clone(), self.metrics.clone(), self.clock));
        if let Some(web) = &self.web {
            tasks.spawn("web configuration", web.clone().follow(tasks.stop_token()));
        }
        let tls = self.web.as_ref().is_some_and(|web| web.rules().tls().is_some());
        info!(address = %self.address, tls, "server listens");
        let room =
            Arc::new(Semaphore::new(self.max_requests.saturating_add(CONNECTIONS_SPARE).min(Semaphore::MAX_PERMITS)));
        // A connection beyond the limit waits in the kernel's queue.
        while let Some(Ok(permit)) = stop.run_until_cancelled(room.clone().acquire_owned()).await {
            let Some(stream) = stop.run_until_cancelled(accept(&self.listener)).await else { break };
            let (answers, end) = (answers.clone(), tasks.stop_token());
            tasks.spawn("http connection", async move {
                connection::serve(stream, answers, end).await;
                drop(permit);
            });
        }
        drop(self.listener);
        tasks.stop().await;
    }
}

/// The next connection. Failures of single connections are passed over, others after a pause.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
            Err(error) => {
                warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Why the server cannot start.
#[derive(Debug)]
pub enum BindError {
    /// The address is not to be had.
    Address {
        /// The one that was asked for.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The web configuration file cannot be used.
    Web {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, error } => {
                write!(f, "cannot listen on `{address}`: ")?;
                match error.kind() {
                    io::ErrorKind::AddrInUse => write!(
                        f,
                        "the address is in use\nhint: another sidecar may be running; `ss -ltnp 'sport = :{}'` shows who has it, `server.listen` sets another",
                        address.port()
                    ),
                    io::ErrorKind::AddrNotAvailable => f.write_str(
                        "this machine has no such address\nhint: `ip address` shows which it has; set `server.listen`",
                    ),
                    io::ErrorKind::PermissionDenied => {
                        f.write_str("permission denied\nhint: ports below 1024 need a privilege; set `server.listen`")
                    }
                    _ => write!(f, "{error}"),
                }
            }
            Self::Web { path, error } => write!(f, "web configuration file `{}`: {error}", path.display()),
        }
    }
}

impl std::error::Error for BindError {}
