//! One connection: the handshake if there is TLS, then requests until somebody has enough.
//!
//! Every wait has an end. [`HANDSHAKE`] for TLS, [`HEAD`] from the first byte of a request to the end of its head (so nobody holds a connection
//! by sending a byte a minute), [`STALL`] for a client that stops reading its answer, [`IDLE`] for a connection on which
//! nothing comes. hyper knows one timeout for the last and the second of these together; [`Patient`] tells them apart, so
//! that a scraper with an interval of a minute keeps its connection while a slow head is cut off soon.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::DRAIN;
use super::answer::Answers;

/// From the connection to the end of the TLS handshake: Go's servers have 10 s by default for a request's head, and this is less work.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// From the first byte of a request to the last of its head.
const HEAD: Duration = Duration::from_secs(10);

/// Without progress in sending an answer.
const STALL: Duration = Duration::from_secs(30);

/// Without a request: above the usual scrape intervals of up to a minute, so that those keep their connection.
const IDLE: Duration = Duration::from_secs(150);

/// The longest head (request line and headers). Prometheus sends below 1 KiB; browsers with cookies some KiB.
const HEAD_BYTES: usize = 16 * 1024;

/// The most headers.
const HEADERS: usize = 64;

/// What Go's servers answer to plain HTTP where TLS is spoken; Prometheus' users know the line.
const PLAIN_ON_TLS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n\
    this port speaks HTTPS: use https:// in the address, or `scheme: https` in the scrape configuration\n";

/// Serves `stream` to its end, or until `stop` and what is open is finished.
pub async fn serve(stream: TcpStream, answers: Arc<Answers>, stop: CancellationToken) {
    // Answers are written whole; without this the last segment may wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let Some(config) = answers.tls() else { return requests(stream, answers, stop).await };
    match stop.run_until_cancelled(timeout(HANDSHAKE, handshake(stream, config))).await {
        Some(Ok(Ok(stream))) => requests(stream, answers, stop).await,
        Some(Ok(Err(error))) => {
            answers.count_handshake_failure();
            debug!(%error, "tls handshake failed");
        }
        Some(Err(_)) => answers.count_handshake_failure(),
        None => {}
    }
}

async fn handshake(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
        // A method, and no record of TLS: those begin with 22.
        stream.writable().await?;
        let _ = stream.try_write(PLAIN_ON_TLS);
        // What is left unread when a socket closes makes the kernel send a reset, and that can overtake the answer.
        let _ = stream.try_read(&mut [0; HEAD_BYTES]);
        return Err(io::Error::other("plain HTTP"));
    }
    TlsAcceptor::from(config).accept(stream).await
}

async fn requests(stream: impl AsyncRead + AsyncWrite + Unpin + Send, answers: Arc<Answers>, stop: CancellationToken) {
    let phase = Phase::default();
    let service = service_fn(|request| {
        let (answers, phase) = (answers.clone(), phase.clone());
        async move { Ok::<_, Infallible>(answers.answer(request, Busy::new(phase)).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_headers(HEADERS)
        .max_header_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream, phase.clone())), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(DRAIN, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended early");
    }
}

/// Counts beginnings and ends of requests: odd while one is being answered.
type Phase = Arc<AtomicUsize>;

/// Says that a request is being answered, until it is dropped with the answer's body.
pub struct Busy(Phase);

impl Busy {
    fn new(phase: Phase) -> Self {
        phase.fetch_add(1, Ordering::Relaxed);
        Self(phase)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A stream that ends when a head takes longer than [`HEAD`] or a write stalls for [`STALL`].
struct Patient<S> {
    stream: S,
    phase: Phase,
    /// The end of the time for a head, and the phase in which its first byte came.
    head: Option<(usize, Pin<Box<Sleep>>)>,
    write: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S, phase: Phase) -> Self {
        Self { stream, phase, head: None, write: None }
    }

    /// Whether a head has been coming in for too long; `came` says that bytes just did.
    fn head_overdue(&mut self, cx: &mut Context<'_>, came: bool) -> bool {
        let phase = self.phase.load(Ordering::Relaxed);
        if self.head.as_ref().is_some_and(|(began, _)| *began != phase) {
            self.head = None;
        }
        if phase % 2 == 1 {
            return false;
        }
        if came && self.head.is_none() {
            self.head = Some((phase, Box::pin(sleep(HEAD))));
        }
        // Asked also where bytes came: a byte now and then must not keep the time from being looked at.
        self.head.as_mut().is_some_and(|(_, end)| end.as_mut().poll(cx).is_ready())
    }

    /// Lets `poll` pass if it is ready; otherwise fails once it was not for [`STALL`].
    fn writing<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.write = None;
            return poll;
        }
        ready!(self.write.get_or_insert_with(|| Box::pin(sleep(STALL))).as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        let came = buf.filled().len() > before;
        match self.head_overdue(cx, came) {
            true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            false => poll,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.writing(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.writing(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        self.writing(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.writing(cx, poll)
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode::Page;
    use super::super::health::Readiness;
    use super::super::page::Overview;
    use super::super::{Metrics, Routes};
    use super::*;
    use crate::clock::{Clock, Timestamp};
    use prometheus::Registry;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::Instant;

    const REQUEST: &[u8] = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A connection of which both ends are in this process, so that time can be driven.
    fn connect() -> DuplexStream {
        let routes = Routes {
            pages: Arc::new(|_, _| Arc::new(Page::new(vec![b'#'; 1 << 20]))),
            sources: Arc::new(Vec::new),
            ready: Readiness::new([]),
            overview: Arc::new(|| Overview {
                version: String::new(),
                started: Timestamp::from_millis(0),
                ready: true,
                series: 0,
                rows_stored: 0,
                samples_dropped: 0,
                sources: Vec::new(),
            }),
        };
        let metrics = Metrics::new(&Registry::new());
        let answers = Arc::new(Answers::new(routes, 1, None, metrics, Clock::system()));
        let (client, server) = duplex(4096);
        let tasks = crate::task::Tasks::new();
        tasks.spawn("connection", requests(server, answers, CancellationToken::new()));
        client
    }

    async fn answered(client: &mut DuplexStream) {
        let mut answer = Vec::new();
        while !answer.ends_with(b"healthy\n") {
            assert!(client.read_buf(&mut answer).await.expect("open") > 0, "closed after {answer:?}");
        }
    }

    /// How long until the other side closes.
    async fn closed(client: &mut DuplexStream) -> Duration {
        let start = Instant::now();
        let _ = client.read_to_end(&mut Vec::new()).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_is_cut_off() {
        assert!(REQUEST.len() as u64 > HEAD.as_secs() * 2, "a byte per second takes too long");
        let mut client = connect();
        let (mut read, mut write) = tokio::io::split(&mut client);
        let start = Instant::now();
        let trickle = async {
            for byte in REQUEST {
                if write.write_all(&[*byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = trickle => {}
            _ = async { read.read_to_end(&mut Vec::new()).await } => {}
        }
        assert!((HEAD..HEAD + Duration::from_secs(2)).contains(&start.elapsed()), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_stops_halfway_is_cut_off() {
        let mut client = connect();
        client.write_all(&REQUEST[..10]).await.expect("open");
        assert_eq!(closed(&mut client).await.as_secs(), HEAD.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_scraper_keeps_its_connection_between_scrapes() {
        let mut client = connect();
        for _ in 0..5 {
            client.write_all(REQUEST).await.expect("open");
            answered(&mut client).await;
            sleep(Duration::from_secs(120)).await;
        }
        client.write_all(REQUEST).await.expect("open");
        answered(&mut client).await;
        assert_eq!(closed(&mut client).await.as_secs(), IDLE.as_secs());
        assert_eq!(closed(&mut connect()).await.as_secs(), IDLE.as_secs(), "nor does one last that never asks");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_one_head_is_not_the_next_ones() {
        let mut client = connect();
        for _ in 0..3 {
            client.write_all(&REQUEST[..10]).await.expect("open");
            sleep(HEAD - Duration::from_secs(1)).await;
            client.write_all(&REQUEST[10..]).await.expect("open");
            answered(&mut client).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_is_let_go() {
        let mut client = connect();
        client.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("open");
        let mut some = [0; 100];
        client.read_exact(&mut some).await.expect("the beginning");
        // The buffer between both ends is full; the rest is never sent.
        sleep(STALL + Duration::from_secs(5)).await;
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        assert!(rest.len() < 1 << 19, "{}", rest.len());
    }
}
