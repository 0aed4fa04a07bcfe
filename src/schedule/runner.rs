//! Claims what is due, runs it, records it. See the module above for what that promises.
//!
//! A job has a place here that outlives reloads of the configuration: whether it runs, and what was last seen of it in the run log. The log is read
//! for a job only when one of its slots may have come up, so an idle minute costs the database nothing.
//!
//! In the log a job is known by its name; one that each sidecar does for itself ([`Job::is_own`]) by its name and who that is ([`known_as`]), so that
//! the slots of two sidecars are two.

mod flight;
mod metrics;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::Registry;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use self::flight::Begun;
pub use self::metrics::METRICS;
use self::metrics::Metrics;
use super::cron::{CatchUp, Due, MOST_COUNTED, ON_TIME, Schedule, due_slots};
use super::trigger::Beat;
use super::watch::ClockWatch;
use super::{Flow, Job, Progress};
use crate::clock::{Clock, Timestamp};
use crate::store::{Claim, Claimed, Open, Reason, RunLog, Standing, StoreError};
use crate::task::Tasks;

/// How long an owner answers for its run without moving the lease on.
pub const LEASE: Duration = Duration::from_secs(45);

/// The longest that a slot waits so that not all sidecars and jobs begin in the same second.
const JITTER: Duration = Duration::from_secs(10);

/// When to look again where nothing says when: later than the next beat, which therefore comes first.
const NEXT_BEAT: Duration = Duration::from_secs(120);

/// When and for how long a job runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// When.
    pub schedule: Schedule,
    /// Whether its schedule counts; it can be run by hand either way.
    pub enabled: bool,
    /// What a run may take.
    pub timeout: Duration,
    /// What becomes of slots at which nobody was there.
    pub catch_up: CatchUp,
}

/// A job and its plan.
pub struct Planned {
    /// The job.
    pub job: Arc<dyn Job>,
    /// Its plan.
    pub plan: Plan,
}

/// Who runs jobs here.
#[derive(Clone, Debug)]
pub struct Me {
    /// What stands in the run log: this installation, of which one process at a time has the state directory.
    pub owner: String,
    /// What parts this host from others.
    pub host: String,
}

/// Why a run does not begin.
#[derive(Debug)]
pub enum Refused {
    /// There is no such job.
    Unknown,
    /// It runs already, here or elsewhere.
    Running(String),
    /// The sidecar is on its way out.
    Ending,
    /// The run log cannot be reached.
    Log(StoreError),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("there is no such job"),
            Self::Running(who) => write!(f, "it is running already, {who}"),
            Self::Ending => f.write_str("the sidecar is shutting down"),
            Self::Log(e) => write!(f, "the run log cannot be reached: {e}"),
        }
    }
}

/// The name of job `name` in the run log; where it `is_own`, that of the sidecar `owner`.
pub fn known_as(name: &str, is_own: bool, owner: &str) -> String {
    if is_own { format!("{name}@{owner}") } else { name.to_owned() }
}

/// A job as `jobs list` shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub name: &'static str,
    /// Its plan.
    pub plan: Plan,
    /// Whether it runs, here or elsewhere.
    pub running: bool,
    /// Its next slot; none while it is paused or not enabled.
    pub next: Option<Timestamp>,
    /// What the log knows.
    pub standing: Standing,
}

/// A job as the log sees it, where it is `known` by that name: it runs where somebody's lease says so.
pub async fn look(
    log: &dyn RunLog,
    name: &'static str,
    known: &str,
    plan: &Plan,
    now: Timestamp,
) -> Result<Listed, StoreError> {
    let standing = log.standing(known, &plan.schedule.to_string(), now).await?;
    let active = plan.enabled && standing.paused.is_none();
    let next = if active { plan.schedule.next_after(now) } else { None };
    let running = standing.open.as_ref().is_some_and(|open| open.lease_until > now);
    Ok(Listed { name, plan: plan.clone(), running, next, standing })
}

/// Runs jobs. Clones share one runner.
#[derive(Clone)]
pub struct Runner(Arc<Shared>);

struct Shared {
    log: Arc<dyn RunLog>,
    clock: Clock,
    me: Me,
    /// The runs that go on; nothing else.
    tasks: Tasks,
    wake: Notify,
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    places: BTreeMap<&'static str, Place>,
    /// When the last tick was, by the wall clock.
    ticked: Option<Timestamp>,
    clock: ClockWatch,
    /// Whether the log could not be read at the last try: said once.
    unreachable: bool,
}

/// What is kept of a job.
struct Place {
    job: Arc<dyn Job>,
    plan: Plan,
    /// Its name in the log.
    known: String,
    /// The run that goes on here, for whoever wants to follow it.
    flight: Option<watch::Receiver<Flow>>,
    /// The first slot that is not settled, as far as is known; the log is not asked before it.
    next: Option<Timestamp>,
    /// Somebody else's run, and since when it has looked like that.
    seen: Option<(Open, Instant)>,
}

/// A job's place in the air: given back when it is dropped.
struct Reserved {
    runner: Runner,
    name: &'static str,
    flow: watch::Sender<Flow>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(place) = self.runner.state().places.get_mut(self.name) {
            place.flight = None;
        }
        self.runner.0.metrics.running(self.name, false);
        // More slots may have come up meanwhile.
        self.runner.0.wake.notify_one();
    }
}

impl Runner {
    /// A runner without jobs.
    pub fn new(log: Arc<dyn RunLog>, me: Me, clock: Clock, registry: &Registry) -> Self {
        let metrics = Metrics::new(registry);
        let (tasks, wake, state) = (Tasks::new(), Notify::new(), Mutex::default());
        Self(Arc::new(Shared { log, clock, me, tasks, wake, metrics, state }))
    }

    /// Takes over the jobs of a configuration. What runs goes on; a job that is not among them any more ends with its run.
    pub fn set_jobs(&self, jobs: Vec<Planned>) {
        let mut state = self.state();
        let mut before = std::mem::take(&mut state.places);
        for Planned { job, plan } in jobs {
            let name = job.name();
            if !plan.enabled {
                self.0.metrics.next(name, None);
            }
            let known = known_as(name, job.is_own(), &self.0.me.owner);
            let place = match before.remove(name) {
                // The same plan: what is known of the log stays known.
                Some(old) if old.plan == plan && old.known == known => Place { job, ..old },
                Some(old) => Place { job, plan, known, next: None, seen: None, flight: old.flight },
                None => Place { job, plan, known, next: None, seen: None, flight: None },
            };
            assert!(state.places.insert(name, place).is_none(), "two jobs are called `{name}`");
        }
        for name in before.into_keys() {
            self.0.metrics.forget(name);
        }
        drop(state);
        self.0.wake.notify_one();
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Waits until something has happened that a tick should see.
    pub async fn woken(&self) {
        self.0.wake.notified().await;
    }

    /// Begins what is due now; tells when to look again at the latest.
    pub async fn tick(&self, beat: Beat) -> Duration {
        let (now, at) = (self.now(), Instant::now());
        self.0.metrics.tick(beat, now);
        let mut wake = NEXT_BEAT;
        if let Err(e) = self.look_at_the_clock(now, at).await {
            self.unreachable(&e);
            return wake;
        }
        let names: Vec<_> = self.state().places.keys().copied().collect();
        for name in names {
            match self.reconcile(name, now, at).await {
                Ok(next) => {
                    self.reachable();
                    wake = wake.min(next);
                }
                Err(e) => self.unreachable(&e),
            }
        }
        wake
    }

    async fn look_at_the_clock(&self, now: Timestamp, at: Instant) -> Result<(), StoreError> {
        let (first, jumped) = {
            let clock = &self.state().clock;
            (!clock.is_started(), clock.has_jumped())
        };
        let known = if first || jumped { self.0.log.believed().await? } else { None };
        self.watch_clock(|clock| {
            clock.look(now, at, known);
            if jumped {
                clock.learn(known);
            }
        });
        let mut state = self.state();
        if state.ticked.is_some_and(|before| now < before) {
            // Slots lie ahead again; the log tells which of them are settled.
            for place in state.places.values_mut() {
                place.next = None;
            }
        }
        state.ticked = Some(now);
        Ok(())
    }

    /// Does `watch` with what is known about the clock; a new doubt is said once, and shown as long as it lasts.
    fn watch_clock(&self, watch: impl FnOnce(&mut ClockWatch)) {
        let clock = &mut self.state().clock;
        let before = clock.doubt().is_some();
        watch(clock);
        let doubt = clock.doubt();
        self.0.metrics.doubt(doubt.is_some());
        match doubt {
            Some(doubt) if !before => error!(doubt, "the clock is not believed, nothing is deleted by age"),
            None if before => info!("the clock is believed again"),
            _ => {}
        }
    }

    fn reachable(&self) {
        if std::mem::take(&mut self.state().unreachable) {
            info!("the run log can be reached again");
        }
    }

    fn unreachable(&self, error: &StoreError) {
        if !std::mem::replace(&mut self.state().unreachable, true) {
            warn!(%error, "the run log cannot be reached, jobs wait");
        }
    }

    /// Begins what is due of one job; tells when it may be due next.
    async fn reconcile(&self, name: &'static str, now: Timestamp, at: Instant) -> Result<Duration, StoreError> {
        let target = now.before(self.jitter(name));
        let Some((plan, known)) = self.may_be_due(name, target) else { return Ok(self.until_next(name, target)) };
        let schedule = plan.schedule.to_string();
        let standing = self.standing(&known, &schedule, now).await?;
        let since = match standing.since {
            Some(since) if since <= now => since,
            // New, or remembered by a clock that was wrong.
            _ => {
                self.0.log.adopt(&known, &schedule, now).await?;
                now
            }
        };
        self.0.metrics.standing(name, &standing);
        let base = standing.settled.map_or(since, |settled| settled.max(since));
        if standing.paused.is_some() {
            self.expect(name, plan.schedule.next_after(target.max(base)));
            return Ok(NEXT_BEAT);
        }
        let due = due_slots(&plan.schedule, base, target, plan.catch_up);
        let Some(slot) = due.run.first().copied() else {
            self.note_missed(name, &known, &due, now).await?;
            let next = plan.schedule.next_after(target.max(base));
            self.expect(name, next);
            self.0.metrics.next(name, next);
            return Ok(self.until_next(name, target));
        };
        if let Some(open) = &standing.open
            && let Some(wait) = self.wait_for(name, open, at)
        {
            return Ok(wait);
        }
        let reason = if now.since(slot) <= ON_TIME { Reason::Schedule } else { Reason::CatchUp };
        let Some(reserved) = self.reserve(name) else { return Ok(NEXT_BEAT) };
        match self.claim(&known, slot, reason, standing.open.as_ref()).await? {
            Claimed::Yours(id) => {
                self.0.metrics.missed(name, due.missed);
                self.fly(reserved, Begun { id, slot, reason, vouched: false });
            }
            // Somebody else was quicker, or is at it: the next tick sees what became of it.
            Claimed::Settled | Claimed::Held(_) => {}
        }
        Ok(NEXT_BEAT)
    }

    /// What the log knows of a job, and what the database's server says the time is.
    async fn standing(&self, known: &str, schedule: &str, now: Timestamp) -> Result<Standing, StoreError> {
        let standing = self.0.log.standing(known, schedule, now).await?;
        self.watch_clock(|clock| clock.hear(standing.server_time));
        Ok(standing)
    }

    /// The plan, where a slot of the job may have come up by `target` and nothing stands against it here; and its name in the log.
    fn may_be_due(&self, name: &str, target: Timestamp) -> Option<(Plan, String)> {
        let state = self.state();
        let place = state.places.get(name)?;
        let due = place.plan.enabled && place.flight.is_none() && place.next.is_none_or(|next| next <= target);
        due.then(|| (place.plan.clone(), place.known.clone()))
    }

    /// Remembers when the job may be due next.
    fn expect(&self, name: &str, next: Option<Timestamp>) {
        if let Some(place) = self.state().places.get_mut(name) {
            (place.next, place.seen) = (next, None);
        }
    }

    fn until_next(&self, name: &str, target: Timestamp) -> Duration {
        let next = self.state().places.get(name).and_then(|place| place.next);
        next.map_or(NEXT_BEAT, |next| next.since(target).max(Duration::from_millis(10)).min(NEXT_BEAT))
    }

    /// How long to wait for the owner of `open`; nothing once it is dead. What this installation left behind is dead: it is not running here, and the
    /// state directory has one process at a time.
    fn wait_for(&self, name: &str, open: &Open, at: Instant) -> Option<Duration> {
        if open.owner == self.0.me.owner {
            return None;
        }
        let mut state = self.state();
        let place = state.places.get_mut(name)?;
        let since = match &place.seen {
            Some((seen, since)) if seen == open => *since,
            _ => {
                place.seen = Some((open.clone(), at));
                at
            }
        };
        let left = LEASE.saturating_sub(at.saturating_duration_since(since));
        (!left.is_zero()).then_some(left)
    }

    async fn claim(
        &self,
        known: &str,
        slot: Timestamp,
        reason: Reason,
        dead: Option<&Open>,
    ) -> Result<Claimed, StoreError> {
        let now = self.now();
        let owner = &self.0.me.owner;
        let claim = Claim { job: known, slot, reason, owner, now, lease_until: now.after(LEASE), dead };
        self.0.log.claim(claim).await
    }

    /// Writes down that slots are not caught up, so that they are missed once and for all.
    async fn note_missed(&self, name: &str, known: &str, due: &Due, now: Timestamp) -> Result<(), StoreError> {
        let Some(newest) = due.newest else { return Ok(()) };
        let count = match due.missed {
            MOST_COUNTED.. => format!("{MOST_COUNTED} or more slots"),
            1 => "1 slot".to_owned(),
            more => format!("{more} slots"),
        };
        if self.0.log.miss(known, newest, &format!("{count} while nobody was there"), now).await? {
            self.0.metrics.missed(name, due.missed);
            warn!(job = name, missed = due.missed, newest = %newest, "slots were missed and are not caught up");
        }
        Ok(())
    }

    /// Runs `name` now; whoever wants to see how it goes gets a receiver. A clock that is doubted is doubted here as well: who asks for a run
    /// because nothing has been deleted for weeks has not thought of the clock.
    pub async fn run_now(&self, name: &str, dry_run: bool) -> Result<watch::Receiver<Flow>, Refused> {
        self.run_asked(name, dry_run, false).await
    }

    /// The same; with `clock_is_right` by somebody who has looked at the clock, which then is believed: it is written down, for all sidecars of the
    /// database.
    pub async fn run_asked(
        &self,
        name: &str,
        dry_run: bool,
        clock_is_right: bool,
    ) -> Result<watch::Receiver<Flow>, Refused> {
        let reason = if dry_run { Reason::DryRun } else { Reason::Manual };
        let vouched = clock_is_right && !dry_run;
        let Some(name) = self.state().places.keys().copied().find(|known| *known == name) else {
            return Err(Refused::Unknown);
        };
        if self.0.tasks.stop_token().is_cancelled() {
            return Err(Refused::Ending);
        }
        let Some(reserved) = self.reserve(name) else { return Err(Refused::Running("in this sidecar".to_owned())) };
        let (now, at) = (self.now(), Instant::now());
        let known = self.known(name).unwrap_or_default();
        self.look_at_the_clock(now, at).await.map_err(Refused::Log)?;
        let standing = self.standing(&known, "", now).await.map_err(Refused::Log)?;
        // Nobody waits a minute at a terminal to see whether a lease moves: here the wall clock has to do.
        let dead =
            standing.open.as_ref().filter(|open| open.lease_until <= now || self.wait_for(name, open, at).is_none());
        // Slots of a schedule are whole minutes, so these are none of them; a second try is for who was asked twice in a millisecond.
        let first = if now.millis() % 1000 == 0 { 1 } else { 0 };
        for millis in first..first + 10 {
            let slot = now.after(Duration::from_millis(millis));
            match self.claim(&known, slot, reason, dead).await.map_err(Refused::Log)? {
                Claimed::Yours(id) => {
                    if vouched {
                        self.watch_clock(ClockWatch::believe);
                        self.0.log.believe(now).await.map_err(Refused::Log)?;
                    }
                    let flow = reserved.flow.subscribe();
                    self.fly(reserved, Begun { id, slot, reason, vouched });
                    return Ok(flow);
                }
                Claimed::Held(open) => {
                    let who = format!("in sidecar `{}`, since {}", open.owner, open.slot);
                    return Err(Refused::Running(who));
                }
                Claimed::Settled => {}
            }
        }
        Err(Refused::Running("as others ask for it all the time".to_owned()))
    }

    /// Keeps a job from running by its schedule, or lets it; slots of a pause are not caught up.
    pub async fn pause(&self, name: &str, pause: bool) -> Result<(), Refused> {
        let place = self.state().places.get(name).map(|place| (place.plan.schedule.to_string(), place.known.clone()));
        let (schedule, known) = place.ok_or(Refused::Unknown)?;
        let now = self.now();
        let done = async {
            self.0.log.pause(&known, pause.then_some(now)).await?;
            if !pause {
                self.0.log.adopt(&known, &schedule, now).await?;
            }
            Ok(())
        };
        done.await.map_err(Refused::Log)?;
        self.0.metrics.paused(name, pause);
        info!(job = name, paused = pause, "a job was {}", if pause { "paused" } else { "resumed" });
        self.expect(name, None);
        self.0.wake.notify_one();
        Ok(())
    }

    /// All jobs.
    pub async fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let now = self.now();
        let places: Vec<_> = {
            let state = self.state();
            let of = |(name, place): (&&'static str, &Place)| {
                (*name, place.known.clone(), place.plan.clone(), place.flight.is_some())
            };
            state.places.iter().map(of).collect()
        };
        let mut listed = Vec::with_capacity(places.len());
        for (name, known, plan, running) in places {
            let seen = look(self.0.log.as_ref(), name, &known, &plan, now).await?;
            listed.push(Listed { running: running || seen.running, ..seen });
        }
        Ok(listed)
    }

    /// Asks all runs to stop and waits until they are recorded.
    pub async fn drain(&self) {
        self.0.tasks.stop().await;
    }

    fn known(&self, name: &str) -> Option<String> {
        self.state().places.get(name).map(|place| place.known.clone())
    }

    fn reserve(&self, name: &'static str) -> Option<Reserved> {
        let mut state = self.state();
        let place = state.places.get_mut(name)?;
        if place.flight.is_some() {
            return None;
        }
        let (flow, follow) = watch::channel(Flow::Running(Progress::default()));
        place.flight = Some(follow);
        Some(Reserved { runner: self.clone(), name, flow })
    }

    /// Stable, so that a job is late by the same span every day, and another one on another host.
    fn jitter(&self, name: &str) -> Duration {
        let digest = Sha256::digest(format!("{}/{name}", self.0.me.host));
        let number = u64::from_be_bytes([
            digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7],
        ]);
        Duration::from_millis(number % JITTER.as_millis() as u64)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a panic or an error of a job says, on one line that fits a table.
fn first_line(text: &str) -> String {
    // Longer than any sentence, shorter than a stack trace.
    const MOST: usize = 600;
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(MOST).collect()
}
