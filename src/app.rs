//! The composition root: settings → parts → running tasks → orderly shutdown. Knows everyone; nobody knows it.
//!
//! Start: lock the state directory, bind the server, open the engine (69 if the database cannot be had), answer, start the sources and the jobs. Each
//! step is a latch of `/-/ready`. Shutdown goes the other way: nothing new is triggered, running jobs are cancelled and recorded, sources stop, the
//! queue drains under a deadline, the database is closed, and the server goes last, so that `/-/ready` tells the truth while draining.
//!
//! SIGHUP reads the configuration again. What can change while running does (sources, jobs, exposition, log level); a file with mistakes
//! changes nothing and is reported; settings of the database, the listener and the queue are reported as waiting for a restart.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{Gauge, IntGauge, Registry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::backup::claim::Writer;
use crate::clock::Clock;
use crate::config::{self, Settings};
use crate::control::{self, Lock, LockError};
use crate::engine::{self, Engine, EngineError};
use crate::expose::encode::{Exposer, OWN_SOURCE, Pages};
use crate::expose::health::Readiness;
use crate::expose::page::{Overview, SourceRow};
use crate::expose::{Routes, Server};
use crate::ingest::Ingest;
use crate::ingest::latest::Latest;
use crate::jobs;
use crate::jobs::back_up::{FULL, Turn};
use crate::jobs::backups::Backups;
use crate::retry::Backoff;
use crate::sample::{Desc, Kind};
use crate::schedule::runner::{self as jobs_runner, Me, Runner as Jobs};
use crate::schedule::trigger;
use crate::scrape::{self, Board, Runner, Sink, Source};
use crate::secret::redacted_url;
use crate::task::{Tasks, caught};
use crate::telemetry::{self, LogLevel};

const BUILD_INFO: Desc = Desc {
    name: "atlas_sidecar_build_info",
    kind: Kind::Gauge,
    unit: "1",
    help: "Always 1; the label `version` tells which sidecar this is.",
};
const RELOAD_OK: Desc = Desc {
    name: "atlas_sidecar_config_last_reload_successful",
    kind: Kind::Gauge,
    unit: "1",
    help: "1 if the configuration was good when it was last read; 0 means that an older one is still in force, the log says why.",
};
const RELOAD_TIME: Desc = Desc {
    name: "atlas_sidecar_config_last_reload_success_timestamp_seconds",
    kind: Kind::Gauge,
    unit: "seconds",
    help: "When the configuration in force was read.",
};

/// What this module measures of itself.
pub const METRICS: &[&Desc] = &[&BUILD_INFO, &RELOAD_OK, &RELOAD_TIME];

/// What `/-/ready` waits for.
const LATCHES: [&str; 4] = ["database", "server", "sources", "jobs"];

/// Between a panic of the writer and its next try.
const WRITER_REST: Duration = Duration::from_secs(5);

/// How long the destination of backups may take to tell what is there.
const DESTINATION_LIMIT: Duration = Duration::from_secs(120);

/// When it is asked again, where it did not.
const DESTINATION_AGAIN: Backoff = Backoff { first: Duration::from_secs(60), most: Duration::from_secs(15 * 60) };

/// How long the server may finish open requests at the end.
const SERVER_LIMIT: Duration = Duration::from_secs(7);

/// Why the sidecar did not start, or ended badly.
#[derive(Debug)]
pub enum Failure {
    /// The database cannot be had: exit code 69.
    Unreachable(EngineError),
    /// Another sidecar has the state directory: exit code 75.
    Locked(PathBuf),
    /// Anything else: exit code 1.
    Failed(String),
}

impl From<LockError> for Failure {
    fn from(e: LockError) -> Self {
        match e {
            LockError::Taken(directory) => Self::Locked(directory),
            LockError::Failed(why) => Self::Failed(why),
        }
    }
}

impl From<EngineError> for Failure {
    fn from(e: EngineError) -> Self {
        Self::Unreachable(e)
    }
}

/// Runs the sidecar until SIGTERM or SIGINT.
pub async fn run(loaded: config::Loaded, sources: &config::Sources, level: LogLevel) -> Result<(), Failure> {
    let settings = loaded.settings;
    let clock = Clock::system();
    let registry = Registry::new();
    let mut signals = Signals::new().map_err(|e| Failure::Failed(format!("cannot listen to signals: {e}")))?;
    let _lock = Lock::take(&settings.state_directory)?;

    let ready = Readiness::new(LATCHES);
    // Bound before the database is touched: an address that is taken must not leave a new database behind.
    let server =
        Server::bind(&settings.server, &registry, clock.clone()).map_err(|e| Failure::Failed(e.to_string()))?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // Its first step waits half a minute for somebody who holds the database; what a dropped one leaves is what a crash leaves.
    let engine = tokio::select! {
        opened = Engine::open(&settings.engine, &host, &clock, &registry) => opened?,
        () = signals.end() => {
            info!("stopped while the database was being opened");
            return Ok(());
        }
    };
    tell(engine.report());
    ready.reach("database");
    let jobs = Jobs::new(
        engine.runs(),
        Me { owner: engine.instance().to_string(), host: host.clone() },
        clock.clone(),
        &registry,
    );
    let writer = Writer { host: host.clone(), instance: engine.instance().to_string() };
    let source = engine.source(&settings.engine).map(|source| {
        let weave = engine::weave(source.engine());
        (source, weave)
    });
    let backups = Backups::open(&settings.backup, source, &settings.state_directory, writer, &clock, &registry)
        .map_err(Failure::Failed)?;
    let mut parts = Parts::new(&settings, &engine, host, &clock, &registry);
    parts.backups = backups.map(Arc::new);
    let server_stop = CancellationToken::new();
    let (server_tasks, writer_tasks, trigger_tasks) = (Tasks::new(), Tasks::new(), Tasks::new());
    let address = server.address();
    info!(database = %redacted_url(&settings.engine.url), "database opened");
    let serving = server.serve(parts.routes(ready.clone(), clock.clone()), server_stop.clone());
    server_tasks.spawn("server", serving);
    ready.reach("server");
    let (ingest, stop) = (Arc::clone(&parts.ingest), writer_tasks.stop_token());
    writer_tasks.spawn("writer", async move {
        // What a panic interrupted is back in the queue; a sidecar that is ready and stores nothing would be worse than one that tries again.
        while let Err(panic) = caught(ingest.run(stop.clone())).await {
            error!(panic, "the writer panicked");
            if stop.run_until_cancelled(tokio::time::sleep(WRITER_REST)).await.is_none() {
                break;
            }
        }
    });

    let mut app = App {
        address,
        parts,
        engine,
        at_start: settings.clone(),
        settings,
        level,
        clock,
        gauges: Gauges::new(&registry),
        running: Tasks::new(),
        jobs,
    };
    app.start_sources().await?;
    ready.reach("sources");
    trigger_tasks.spawn("scheduler", trigger::run(app.jobs.clone(), trigger_tasks.stop_token()));
    app.listen_to_commands(&trigger_tasks);
    app.begin_backups(&trigger_tasks);
    let follow_tasks = Tasks::new();
    app.follow(&follow_tasks, &trigger_tasks);
    ready.reach("jobs");

    while let Signal::Reload = signals.next().await {
        app.reload(sources).await;
    }
    info!("shutting down");
    ready.drain();
    // In this order: who follows a run at the socket hears how it was cancelled.
    let drained = app.jobs.drain();
    tokio::join!(trigger_tasks.stop(), drained);
    app.running.stop().await;
    writer_tasks.stop().await;
    // After everybody who writes: what they have committed last is shipped, too.
    follow_tasks.stop().await;
    app.engine.close().await;
    server_stop.cancel();
    if tokio::time::timeout(SERVER_LIMIT, server_tasks.stop()).await.is_err() {
        warn!("open requests were cut off");
    }
    info!(rows = app.parts.ingest.written(), "stopped");
    Ok(())
}

/// Says what was done to the schema and what somebody should look at.
fn tell(report: &engine::schema::Report) {
    for file in &report.files {
        let database = &file.database;
        if !file.steps.is_empty() {
            info!(database, steps = file.steps.len(), "schema brought up to date");
        }
        if !file.pending.is_empty() {
            let missing = file.pending.join("; ");
            warn!(database, missing, "`atlas-sidecar migrate` would add to the application's tables");
        }
        for warning in &file.warnings {
            warn!(database, "{warning}");
        }
    }
    if let Some(path) = &report.admin_key_file {
        warn!(file = %path.display(), "a new admin key was written; keep it and delete the file");
    }
}

/// What lives as long as the process.
struct Parts {
    latest: Arc<Latest>,
    ingest: Arc<Ingest>,
    runner: Runner,
    exposer: Arc<Exposer>,
    targets: Arc<scrape::http::Metrics>,
    /// Known sources, for `collect[]`.
    names: Arc<Mutex<Vec<String>>>,
    job_metrics: Arc<jobs::Metrics>,
    backups: Option<Arc<Backups>>,
    turn: Turn,
}

impl Parts {
    fn new(settings: &Settings, engine: &Engine, host: String, clock: &Clock, registry: &Registry) -> Self {
        let latest = Arc::new(Latest::new(settings.expose.clone(), registry));
        let new_id = {
            let ids = engine.ids();
            Arc::new(move |at| ids.next(at))
        };
        let ingest = Arc::new(Ingest::new(
            settings.write.clone(),
            engine.samples(),
            host,
            new_id,
            clock.clone(),
            engine.rows_today(),
            registry,
        ));
        let sink: Sink = {
            let (latest, ingest) = (Arc::clone(&latest), Arc::clone(&ingest));
            Arc::new(move |source: &Source, failed, batch| {
                latest.put(&source.name, source.interval, failed, &batch);
                ingest.offer(&|series| scrape::is_stored(source, series), batch);
            })
        };
        let runner = Runner::new(sink, clock.clone(), settings.scrape.concurrency, registry);
        let exposer = Arc::new(Exposer::new(Arc::clone(&latest), registry.clone(), clock.clone()));
        let targets = Arc::new(scrape::http::Metrics::new(registry));
        let job_metrics = Arc::new(jobs::Metrics::new(registry));
        Self {
            latest,
            ingest,
            runner,
            exposer,
            targets,
            names: Arc::default(),
            job_metrics,
            backups: None,
            turn: Turn::default(),
        }
    }

    fn jobs(&self, engine: &Engine, settings: &Settings) -> jobs::Parts {
        jobs::Parts {
            expiry: engine.expiry(),
            roll_ups: engine.roll_ups(),
            upkeep: engine.upkeep(&settings.engine),
            backups: self.backups.clone(),
            turn: self.turn.clone(),
            metrics: Arc::clone(&self.job_metrics),
        }
    }

    fn routes(&self, ready: Readiness, clock: Clock) -> Routes {
        let pages: Pages = {
            let exposer = Arc::clone(&self.exposer);
            Arc::new(move |format, filter| exposer.page(format, filter))
        };
        let names = Arc::clone(&self.names);
        let overview = {
            let (board, latest, ingest) =
                (self.runner.board.clone(), Arc::clone(&self.latest), Arc::clone(&self.ingest));
            let (started, ready) = (clock.now(), ready.clone());
            Arc::new(move || Overview {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started,
                ready: ready.state() == crate::expose::health::State::Ready,
                series: latest.len() as u64,
                rows_stored: ingest.written(),
                samples_dropped: ingest.dropped(),
                sources: rows_of(&board),
            })
        };
        Routes {
            pages,
            sources: Arc::new(move || names.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            ready,
            overview,
        }
    }
}

fn rows_of(board: &Board) -> Vec<SourceRow> {
    let row = |(name, status): (String, scrape::Status)| SourceRow {
        name,
        up: status.up,
        last_success: status.last_success,
        duration: status.up.map(|_| status.took),
        samples: status.samples as u64,
        error: status.error,
    };
    board.all().into_iter().map(row).collect()
}

struct App {
    parts: Parts,
    engine: Engine,
    /// What the parts that cannot change were made of.
    at_start: Settings,
    settings: Settings,
    level: LogLevel,
    clock: Clock,
    gauges: Gauges,
    /// Where the server listens: no target may be there.
    address: SocketAddr,
    running: Tasks,
    jobs: Jobs,
}

impl App {
    /// Lets commands on this machine reach the sidecar. Without the socket everything else works.
    fn listen_to_commands(&self, tasks: &Tasks) {
        let directory = &self.at_start.state_directory;
        match control::Server::bind(directory) {
            Ok(server) => tasks.spawn("control", server.serve(self.jobs.clone(), tasks.stop_token())),
            Err(e) => {
                warn!(error = %e, directory = %directory.display(), "no control socket, `jobs run` cannot reach this sidecar");
            }
        }
    }

    /// Tells how old the backups are, and makes the first one soon.
    fn begin_backups(&self, tasks: &Tasks) {
        let Some(backups) = self.parts.backups.clone() else { return };
        let wanted = self.settings.jobs.plans.get(FULL).is_some_and(|plan| plan.enabled);
        let (jobs, stop) = (self.jobs.clone(), tasks.stop_token());
        tasks.spawn("first backup", async move {
            let begun = async {
                for failures in 1.. {
                    match backups.has_none(DESTINATION_LIMIT).await {
                        // What follows commits asks for it by itself.
                        Ok(true) if wanted && backups.follower().is_none() => {
                            info!("there is no backup yet, the first one is made");
                            if let Err(e) = jobs.run_now(FULL, false).await {
                                warn!(error = %e, "the first backup was not begun, its schedule will");
                            }
                            return;
                        }
                        Ok(_) => return,
                        // A network that comes up after us.
                        Err(e) => warn!(error = %e, "the destination of backups could not be read, it is tried again"),
                    }
                    tokio::time::sleep(DESTINATION_AGAIN.wait(failures, 0)).await;
                }
            };
            stop.run_until_cancelled(begun).await;
        });
    }

    /// Ships commits as they come, and sees to it that there is a full at which that can begin.
    fn follow(&self, follow: &Tasks, trigger: &Tasks) {
        let Some(follower) = self.parts.backups.as_ref().and_then(|backups| backups.follower()).cloned() else {
            return;
        };
        let mut wanted = follower.wants_full();
        let enabled = self.settings.jobs.plans.get(FULL).is_some_and(|plan| plan.enabled);
        let (jobs, stop) = (self.jobs.clone(), trigger.stop_token());
        trigger.spawn("full for the live tail", async move {
            let asked = async {
                while wanted.changed().await.is_ok() {
                    let Some(why) = wanted.borrow_and_update().clone() else { continue };
                    if !enabled {
                        warn!("commits cannot be followed before there is a full, and `backup-full` is not enabled: `atlas-sidecar backup full` makes one");
                        continue;
                    }
                    match jobs.run_now(FULL, false).await {
                        Ok(_) => info!(why, "a full is made, so that commits can be followed"),
                        // One that was asked for at the same time, the first of all, will do.
                        Err(e) => info!(error = %e, "the full that commits can be followed from was not begun"),
                    }
                }
            };
            stop.run_until_cancelled(asked).await;
        });
        let stop = follow.stop_token();
        follow.spawn("live tail", async move { follower.run(stop).await });
    }

    async fn start_sources(&mut self) -> Result<(), EngineError> {
        let sources = self.sources(&self.settings).await?;
        self.start(sources);
        Ok(())
    }

    async fn sources(&self, settings: &Settings) -> Result<Vec<Source>, EngineError> {
        let (mut sources, notes) = self.engine.sources(&settings.engine).await?;
        for note in notes {
            warn!("{note}");
        }
        sources.extend(scrape::host::sources(&settings.scrape.host, settings.scrape.interval, settings.scrape.timeout));
        sources.extend(scrape::http::sources(&settings.scrape.targets, self.address, &self.parts.targets));
        #[cfg(feature = "test-panic")]
        sources.push(scrape::panicking());
        Ok(sources)
    }

    fn start(&mut self, sources: Vec<Source>) {
        let names: Vec<String> = sources.iter().map(|s| s.name.clone()).collect();
        self.parts.latest.retain(&names, self.settings.expose.clone());
        self.parts.runner.board.retain(&names);
        let known = names.iter().cloned().chain([OWN_SOURCE.to_owned()]).collect();
        *self.parts.names.lock().unwrap_or_else(PoisonError::into_inner) = known;
        info!(sources = names.len(), interval = ?self.settings.scrape.interval, "collecting");
        if self.engine.samples().is_none() {
            warn!(
                "nothing is stored: the database had no table `system_metrics` at the start; `atlas-sidecar migrate` makes it, then start again"
            );
        }
        self.jobs.set_jobs(jobs::planned(&self.settings.jobs, &self.parts.jobs(&self.engine, &self.settings)));
        self.running = Tasks::new();
        for source in sources {
            let (runner, stop) = (self.parts.runner.clone(), self.running.stop_token());
            self.running.spawn("source", async move { runner.run(source, stop).await });
        }
        self.level.set(self.settings.log.level);
        self.gauges.ok.set(1);
        self.gauges.time.set(self.clock.now().seconds());
    }

    /// Takes over a changed configuration, or keeps the one in force.
    async fn reload(&mut self, sources: &config::Sources) {
        let loaded = match config::load(sources) {
            Ok(loaded) => loaded,
            Err(problems) => {
                self.gauges.ok.set(0);
                return error!("configuration not taken over: {problems}");
            }
        };
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        let settings = loaded.settings;
        let started = match self.sources(&settings).await {
            Ok(sources) => sources,
            Err(e) => {
                self.gauges.ok.set(0);
                return error!("configuration not taken over: {e}");
            }
        };
        for section in needs_restart(&self.at_start, &settings) {
            warn!(section, "changed settings of this section wait for a restart");
        }
        self.running.stop().await;
        self.settings = settings;
        self.start(started);
        info!("configuration taken over");
    }
}

/// The sections in which `then` differs from what is in force, and of which a running sidecar cannot take anything over.
fn needs_restart(now: &Settings, then: &Settings) -> Vec<&'static str> {
    let changed = [
        ("state_directory", now.state_directory != then.state_directory),
        ("database", now.engine.url != then.engine.url || now.engine.metrics_url != then.engine.metrics_url),
        ("server", format!("{:?}", now.server) != format!("{:?}", then.server)),
        ("write", now.write != then.write),
        ("scrape.concurrency", now.scrape.concurrency != then.scrape.concurrency),
        ("backup", now.backup != then.backup),
        ("log.format", now.log.format != then.log.format),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(section, _)| section).collect()
}

struct Gauges {
    ok: IntGauge,
    time: Gauge,
}

impl Gauges {
    fn new(registry: &Registry) -> Self {
        telemetry::gauges(registry, &BUILD_INFO, &["version"]).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        Self { ok: telemetry::int_gauge(registry, &RELOAD_OK), time: telemetry::gauge(registry, &RELOAD_TIME) }
    }
}

enum Signal {
    Reload,
    End,
}

struct Signals {
    hangup: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the end; a SIGHUP stays where it is.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.terminate.recv() => Signal::End,
            _ = self.interrupt.recv() => Signal::End,
        }
    }
}

/// All families that this program describes itself, for docs/METRICS.md.
pub fn metrics() -> Vec<&'static Desc> {
    let mut all: Vec<&'static Desc> = Vec::new();
    all.extend(METRICS);
    all.extend(scrape::METRICS);
    all.extend(scrape::host::METRICS);
    all.extend(scrape::http::METRICS);
    all.extend(crate::ingest::METRICS);
    all.extend(crate::ingest::latest::METRICS);
    all.extend(crate::expose::METRICS);
    all.extend(crate::expose::web::METRICS);
    all.extend(jobs_runner::METRICS);
    all.extend(jobs::metrics());
    all.extend(engine::metrics());
    all.sort_by_key(|desc| desc.name);
    all
}
