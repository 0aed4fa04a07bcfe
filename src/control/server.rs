//! The sidecar's end of the socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Answer, Ask, Reply, Request, SOCKET, VERSION};
use crate::schedule::Flow;
use crate::schedule::runner::{Refused, Runner};
use crate::task::Tasks;

/// The longest request: a name and a few words.
const REQUEST_BYTES: u64 = 4 << 10;

/// What a client may take to send one, or to take an answer.
const LIMIT: Duration = Duration::from_secs(10);

/// The most clients at once; one more waits until another is done.
const CLIENTS: usize = 8;

/// How often a client hears how far a run is.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// The socket, while the lock of the state directory is held.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Makes the socket in `directory`. One that is there was left by a sidecar that is gone: the caller holds the lock.
    pub fn bind(directory: &Path) -> io::Result<Self> {
        let path = directory.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Answers until `stop`.
    pub async fn serve(self, runner: Runner, stop: CancellationToken) {
        let (clients, places) = (Tasks::new(), Arc::new(Semaphore::new(CLIENTS)));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (runner, stop) = (runner.clone(), stop.clone());
                    clients.spawn("control", async move {
                        if let Err(e) = answer(stream, &runner, &stop).await {
                            debug!(error = %e, "a client of the control socket went away");
                        }
                        drop(place);
                    });
                }
                Err(e) => {
                    warn!(error = %e, "the control socket cannot take a client");
                    // Out of descriptors, mostly: not as fast as it can.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        clients.stop().await;
        // One that stays says as well that nobody is there; this is for whoever looks into the directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes one request and answers it.
async fn answer(stream: UnixStream, runner: &Runner, stop: &CancellationToken) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let (read, mut write) = stream.into_split();
    let Ok(asked) = tokio::time::timeout(LIMIT, request(read)).await else { return Ok(()) };
    // Only now: a client that is refused before it has asked sees a broken pipe and no words.
    let ours = rustix::process::geteuid().as_raw();
    if peer != ours && peer != 0 {
        warn!(uid = peer, "somebody else asked at the control socket");
        return send(&mut write, refused("request", "only the sidecar's own user may ask")).await;
    }
    let ask = match asked {
        Ok(ask) => ask,
        Err(why) => return send(&mut write, refused("request", &why)).await,
    };
    match ask {
        Ask::List => {
            let listed = runner.list().await;
            let answer = match listed {
                Ok(jobs) => Answer::Listed(jobs.iter().map(Into::into).collect()),
                Err(e) => of_refusal(&Refused::Log(e)),
            };
            send(&mut write, answer).await
        }
        Ask::Pause { job, pause } => {
            let done = runner.pause(&job, pause).await;
            send(&mut write, done.map_or_else(|e| of_refusal(&e), |()| Answer::Done)).await
        }
        Ask::Run { job, dry_run, clock_is_right } => match runner.run_asked(&job, dry_run, clock_is_right).await {
            Ok(flow) => follow(&mut write, flow, stop).await,
            Err(e) => send(&mut write, of_refusal(&e)).await,
        },
    }
}

async fn request(read: OwnedReadHalf) -> Result<Ask, String> {
    let mut line = String::new();
    let mut read = BufReader::new(read.take(REQUEST_BYTES));
    read.read_line(&mut line).await.map_err(|e| format!("the request cannot be read: {e}"))?;
    // The version first: a later one may ask for what this one does not know.
    let version = serde_json::from_str::<serde_json::Value>(&line).map_err(|e| format!("no request: {e}"))?;
    match version["version"].as_u64() {
        Some(version) if version == u64::from(VERSION) => {}
        _ => return Err(format!("this sidecar ({}) understands version {VERSION}", env!("CARGO_PKG_VERSION"))),
    }
    serde_json::from_str::<Request>(&line).map(|r| r.ask).map_err(|e| format!("no request: {e}"))
}

/// Tells how a run goes until it is over. At the sidecar's end the run is cancelled and recorded first, so this ends by itself.
async fn follow(
    write: &mut OwnedWriteHalf,
    mut flow: tokio::sync::watch::Receiver<Flow>,
    stop: &CancellationToken,
) -> io::Result<()> {
    loop {
        let now = flow.borrow_and_update().clone();
        match now {
            Flow::Running(progress) => send(write, progress.into()).await?,
            Flow::Over(end) => return send(write, Answer::Over((&end).into())).await,
        }
        tokio::time::sleep(PROGRESS_EVERY).await;
        tokio::select! {
            changed = flow.changed() => if changed.is_err() {
                return send(write, refused("ending", "the run ended without a word")).await;
            },
            () = stop.cancelled() => {
                let over = async { flow.wait_for(|flow| matches!(flow, Flow::Over(_))).await.is_ok() };
                if !tokio::time::timeout(LIMIT, over).await.unwrap_or(false) {
                    return send(write, refused("ending", "the sidecar is shutting down")).await;
                }
            }
        }
    }
}

async fn send(write: &mut OwnedWriteHalf, answer: Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Reply { version: VERSION, answer })?;
    line.push(b'\n');
    tokio::time::timeout(LIMIT, write.write_all(&line)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

fn of_refusal(refusal: &Refused) -> Answer {
    let code = match refusal {
        Refused::Unknown => "unknown",
        Refused::Running(_) => "running",
        Refused::Ending => "ending",
        Refused::Log(_) => "log",
    };
    refused(code, &refusal.to_string())
}

fn refused(code: &str, message: &str) -> Answer {
    Answer::Refused { code: code.to_owned(), message: message.to_owned() }
}
