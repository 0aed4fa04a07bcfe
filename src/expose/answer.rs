//! From a request to its answer: who may ask, what there is, and in which form.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use prometheus::IntGauge;
use rustls::ServerConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::error;

use crate::clock::Clock;
use crate::task::caught;

use super::connection::Busy;
use super::health::State;
use super::negotiate::{self, Filter};
use super::web::{Rules, Verdict, Web};
use super::{Metrics, Routes, page};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const TIMEOUT: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");

/// Answers all requests of a server.
pub struct Answers {
    routes: Routes,
    scrapes: Arc<Semaphore>,
    max_requests: usize,
    web: Option<Arc<Web>>,
    metrics: Metrics,
    clock: Clock,
}

/// What there is to ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Route {
    Metrics,
    Healthy,
    Ready,
    Landing,
    Other,
}

impl Route {
    fn of(path: &str) -> Self {
        match path {
            "/metrics" => Self::Metrics,
            "/-/healthy" => Self::Healthy,
            "/-/ready" => Self::Ready,
            "/" => Self::Landing,
            _ => Self::Other,
        }
    }

    /// The label `path`: never what the client wrote, or clients would make series.
    fn label(self) -> &'static str {
        match self {
            Self::Metrics => "/metrics",
            Self::Healthy => "/-/healthy",
            Self::Ready => "/-/ready",
            Self::Landing => "/",
            Self::Other => "other",
        }
    }
}

/// A status, headers and a body, before what all answers have in common.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    permit: Option<OwnedSemaphorePermit>,
}

impl Answer {
    fn new(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Self {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type)]);
        Self { status, headers, body: body.into(), permit: None }
    }

    /// A line of text.
    fn line(status: StatusCode, line: &str) -> Self {
        Self::new(status, TEXT, format!("{line}\n"))
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

impl Answers {
    pub fn new(routes: Routes, max_requests: usize, web: Option<Arc<Web>>, metrics: Metrics, clock: Clock) -> Self {
        let scrapes = Arc::new(Semaphore::new(max_requests.min(Semaphore::MAX_PERMITS)));
        Self { routes, scrapes, max_requests, web, metrics, clock }
    }

    /// For the handshake of a new connection.
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.web.as_ref().and_then(|web| web.rules().tls())
    }

    pub fn count_handshake_failure(&self) {
        self.metrics.handshakes.inc();
    }

    /// The answer to `request`; `busy` lives as long as its body.
    pub async fn answer(&self, request: Request<Incoming>, busy: Busy) -> Response<Sending> {
        let open = Open::new(&self.metrics.in_flight, busy);
        let route = Route::of(request.uri().path());
        let rules = self.web.as_ref().map(|web| web.rules());
        let answer = caught(self.guarded(&request, route, rules.as_deref())).await.unwrap_or_else(|panic| {
            error!(path = route.label(), panic, "handler panicked");
            broken()
        });
        self.metrics.requests.with_label_values(&[route.label(), answer.status.as_str()]).inc();
        dressed(answer, rules.as_deref(), open)
    }

    /// Asks for the rate and the password where they apply, then answers.
    async fn guarded(&self, request: &Request<Incoming>, route: Route, rules: Option<&Rules>) -> Answer {
        let free = matches!(route, Route::Healthy | Route::Ready);
        if let (Some(web), Some(rules), false) = (&self.web, rules, free) {
            if let Err(wait) = rules.take(Instant::now()) {
                // Rounded up: a client that comes back too early is refused again.
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                return Answer::line(StatusCode::TOO_MANY_REQUESTS, "too many requests, see `rate_limit`")
                    .with(RETRY_AFTER, seconds.into());
            }
            let authorization = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
            match web.verdict(rules, authorization).await {
                Verdict::Allowed => {}
                Verdict::Refused => {
                    return Answer::line(StatusCode::UNAUTHORIZED, "user and password are needed").with(
                        WWW_AUTHENTICATE,
                        HeaderValue::from_static("Basic realm=\"atlas-sidecar\", charset=\"UTF-8\""),
                    );
                }
                Verdict::Busy => return unavailable("too many passwords are being checked"),
            }
        }
        self.routed(request, route).await
    }

    async fn routed(&self, request: &Request<Incoming>, route: Route) -> Answer {
        if route == Route::Other {
            return Answer::line(StatusCode::NOT_FOUND, "not found; there are /metrics, /-/healthy, /-/ready and /");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Answer::line(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD")
                .with(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        match route {
            Route::Metrics => self.scrape(request).await,
            Route::Healthy => Answer::line(StatusCode::OK, "healthy"),
            Route::Ready => match self.routes.ready.state() {
                State::Ready => Answer::line(StatusCode::OK, "ready"),
                other => Answer::line(StatusCode::SERVICE_UNAVAILABLE, &other.to_string()),
            },
            Route::Landing | Route::Other => {
                Answer::new(StatusCode::OK, HTML, page::render(&(self.routes.overview)(), self.clock.now()))
                    .with(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY))
            }
        }
    }

    async fn scrape(&self, request: &Request<Incoming>) -> Answer {
        let filter = match Filter::from_query(request.uri().query(), || (self.routes.sources)()) {
            Ok(filter) => filter,
            Err(refused) => return Answer::line(StatusCode::BAD_REQUEST, &refused.to_string()),
        };
        let Ok(permit) = self.scrapes.clone().try_acquire_owned() else {
            return unavailable(&format!(
                "{} scrapes are in flight, the most that `server.max_requests` allows",
                self.max_requests
            ));
        };
        let headers = request.headers();
        let format = negotiate::format(all(headers, &ACCEPT).as_deref());
        let gzip = negotiate::gzip(all(headers, &ACCEPT_ENCODING).as_deref());
        let limit = negotiate::timeout(headers.get(TIMEOUT).and_then(|value| value.to_str().ok()));

        let pages = self.routes.pages.clone();
        // The permit goes along: a page that nobody waits for any more still counts until its thread is free.
        let work = spawn_blocking(move || {
            let page = pages(format, &filter);
            (if gzip { page.gzip() } else { page.text() }, permit)
        });
        let (body, permit) = match timeout(limit, work).await {
            Ok(Ok(done)) => done,
            // A panic; or the runtime is ending, and then nobody reads the answer.
            Ok(Err(error)) => {
                error!(path = Route::Metrics.label(), %error, "page panicked");
                return broken();
            }
            Err(_) => return unavailable(&format!("the page was not ready within {} s", limit.as_secs_f64())),
        };
        let mut answer = Answer::new(StatusCode::OK, HeaderValue::from_static(format.content_type()), body)
            .with(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if gzip {
            answer = answer.with(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer.permit = Some(permit);
        answer
    }
}

fn broken() -> Answer {
    Answer::line(StatusCode::INTERNAL_SERVER_ERROR, "internal error; the log says more")
}

fn unavailable(why: &str) -> Answer {
    Answer::line(StatusCode::SERVICE_UNAVAILABLE, why).with(RETRY_AFTER, HeaderValue::from_static("1"))
}

/// All values of a header as one list; `None` where there is none or one that is not text.
fn all(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Option<Vec<&str>> = headers.get_all(name).iter().map(|value| value.to_str().ok()).collect();
    values.filter(|v| !v.is_empty()).map(|v| v.join(","))
}

/// The response with what every response has. The operator's headers come last and win.
fn dressed(answer: Answer, rules: Option<&Rules>, open: Open) -> Response<Sending> {
    let mut headers = answer.headers;
    // Named here, so that HEAD has it too.
    headers.insert(CONTENT_LENGTH, answer.body.len().into());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in rules.map_or(&[][..], Rules::headers) {
        headers.insert(name, value.clone());
    }
    let mut response = Response::new(Sending { rest: answer.body, _permit: answer.permit, _open: open });
    *response.status_mut() = answer.status;
    *response.headers_mut() = headers;
    response
}

/// A request that is not yet answered to the end.
struct Open {
    in_flight: IntGauge,
    _busy: Busy,
}

impl Open {
    fn new(in_flight: &IntGauge, busy: Busy) -> Self {
        in_flight.inc();
        Self { in_flight: in_flight.clone(), _busy: busy }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.in_flight.dec();
    }
}

/// How much of a body hyper gets at once.
const PIECE: usize = 64 * 1024;

/// A body that leaves piece by piece: hyper asks for the next one when the last ones are on their way, so the scrape's permit is held
/// until the client has read nearly everything, and slow readers cannot pile up old pages.
pub struct Sending {
    rest: Bytes,
    _permit: Option<OwnedSemaphorePermit>,
    _open: Open,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let size = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
