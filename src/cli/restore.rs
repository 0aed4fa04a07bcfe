//! `restore`: makes the database of an instant in a new file. Needs the destination and nothing else: no database, no sidecar, no state directory.
//!
//! The plan is printed first, and the mark that was reached last. Whatever ends it early, Ctrl-C and SIGTERM as well, leaves no file.

use std::sync::Mutex;
use std::sync::PoisonError;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::backup::bar::Bar;
use super::backup::{destination, out_of_reach};
use super::shown::{columns, instant, size, span};
use super::{Exit, Invocation, Restore, complain, json_line, load, print};
use crate::backup::codec::Identity;
use crate::backup::plan::{Moment, Plan, PlanError, Step};
use crate::backup::restore::{Order, OrderError, Reached, RestoreError, carry_out, settle};
use crate::backup::{Catalog, Kind};
use crate::clock::{Clock, Timestamp};
use crate::engine;
use crate::object::{ObjectError, ObjectStore};

/// Does what `wanted` says.
pub async fn run(invocation: &Invocation, wanted: &Restore) -> Exit {
    let settings = match load(invocation) {
        Ok(loaded) => loaded.settings,
        Err(exit) => return exit,
    };
    let (store, identity) = match destination(&settings, wanted.destination.as_ref(), "restore") {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    let Some(to) = wanted.to.as_deref().filter(|_| !wanted.plan) else {
        let planned = look(store.as_ref(), identity.as_ref(), wanted).await;
        return show(planned, &store.place(), invocation.json);
    };
    let (bar, plans) = (Bar::new("restore"), Mutex::new(None));
    let planned = |plan: &Plan| {
        if !invocation.json {
            print(&text(plan, Clock::system().now()));
        }
        *plans.lock().unwrap_or_else(PoisonError::into_inner) = Some(plan.to_json());
    };
    let order = Order {
        store: &store,
        timeline: wanted.timeline,
        at: wanted.at,
        rebuild: engine::rebuild,
        identity: identity.as_ref(),
        to,
        planned: &planned,
        progress: &|progress| bar.show(progress),
    };
    let ended = tokio::select! {
        ended = carry_out(&order) => Some(ended),
        () = stopped() => None,
    };
    drop(bar);
    match ended {
        Some(Ok(reached)) if invocation.json => {
            let plan = plans.into_inner().unwrap_or_else(PoisonError::into_inner);
            print(&json_line(&json!({ "plan": plan, "restored": document(&reached) })))
        }
        Some(Ok(reached)) => print(&words(&reached)),
        Some(Err(error)) => failed(&error, &store.place()),
        None => {
            complain("the restore was stopped", Some("nothing of it is left"));
            Exit::Failed
        }
    }
}

/// The plan of what is at `store`.
async fn look(store: &dyn ObjectStore, identity: Option<&Identity>, wanted: &Restore) -> Result<Plan, OrderError> {
    let mut catalog = Catalog::load(store).await?;
    settle(&mut catalog, store, identity, wanted.timeline, wanted.at).await
}

/// SIGINT or SIGTERM. Where they cannot be heard, they end the process, and the next restore removes what is left.
async fn stopped() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn show(plan: Result<Plan, OrderError>, place: &str, json: bool) -> Exit {
    match plan {
        Ok(plan) if json => print(&json_line(&json!({ "plan": plan.to_json() }))),
        Ok(plan) => print(&text(&plan, Clock::system().now())),
        Err(error) => failed(&error, place),
    }
}

/// Says why nothing was restored from `place`.
fn failed(error: &OrderError, place: &str) -> Exit {
    let (exit, hint) = match error {
        OrderError::Store(error) => return out_of_reach(error),
        OrderError::Plan(error) => (Exit::Failed, error.hint()),
        OrderError::Engine(_) => (Exit::Failed, None),
        OrderError::Restore(error) => of_restore(error),
    };
    let said = match error {
        // The destination may be another one than was meant.
        OrderError::Plan(PlanError::Empty) => format!("{error} at {place}"),
        _ => error.to_string(),
    };
    complain(&said, hint.as_deref());
    exit
}

fn of_restore(error: &RestoreError) -> (Exit, Option<String>) {
    match error {
        RestoreError::Busy(_) => (Exit::TryLater, None),
        RestoreError::Fetch { error: ObjectError::Transient(_) | ObjectError::Denied(_), .. } => {
            (Exit::Unreachable, None)
        }
        RestoreError::Stray(_) => (Exit::Failed, Some("move it away, or restore to another path".to_owned())),
        RestoreError::Identity { .. } => {
            (Exit::Failed, Some("name a file with one: `backup.encryption.identity_file`".to_owned()))
        }
        RestoreError::Damaged { .. } | RestoreError::Missing(_) => {
            (Exit::Failed, Some("`atlas-sidecar backup verify --deep` shows what else is wrong".to_owned()))
        }
        _ => (Exit::Failed, None),
    }
}

/// The plan as a table.
fn text(plan: &Plan, now: Timestamp) -> String {
    let mut lines = vec![["SEGMENT", "KIND", "OBSERVED", "FETCHED", "OBJECT"].map(str::to_owned)];
    let is_live = |step: &Step| step.kind() == Kind::Live;
    lines.extend(plan.segments.chunk_by(|one, next| is_live(one) && is_live(next)).flat_map(lines_of));
    let mut text = columns(&lines);
    let than = match plan.asked {
        Moment::Latest => "now".to_owned(),
        Moment::At(at) => instant(at),
    };
    text.push_str(&format!(
        "\n`{}` ({}) as it was at {}, {} before {than}: {}{}\n",
        plan.database(),
        plan.engine(),
        instant(plan.mark.observed),
        span(plan.age(now)),
        plan.mark.place,
        if plan.newest { ", the newest mark" } else { "" },
    ));
    if let Some(until) = plan.quiet_until {
        text.push_str(&format!("nothing was committed behind it until {}\n", instant(until)));
    }
    text.push_str(&format!("{} to fetch, {} on disk\n", size(plan.fetched_bytes()), size(plan.database_bytes())));
    for warning in &plan.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}

/// A line, or two for live segments that follow one another: the first and the last, with what lies between.
fn lines_of(steps: &[Step]) -> Vec<[String; 5]> {
    match steps {
        [] => Vec::new(),
        [step] => vec![line(step)],
        [first, between @ .., last] => {
            let mut end = line(last);
            end[3] = size(between.iter().chain([last]).map(Step::fetched_bytes).sum());
            if !between.is_empty() {
                end[4] = format!("{} (and {} before it)", end[4], between.len());
            }
            vec![line(first), end]
        }
    }
}

fn line(step: &Step) -> [String; 5] {
    let dash = || "-".to_owned();
    let beginning = matches!(step, Step::Beginning { .. });
    [
        step.place().to_string(),
        step.kind().to_string(),
        step.manifest().map_or_else(dash, |manifest| instant(manifest.observed)),
        size(step.fetched_bytes()),
        step.key().map_or_else(dash, |key| format!("{key}{}", if beginning { " (its beginning)" } else { "" })),
    ]
}

fn words(reached: &Reached) -> String {
    let seconds = reached.took.as_secs_f64();
    let rate = size((reached.bytes as f64 / seconds.max(0.001)) as u64);
    format!(
        "restored `{}`: {} of {}, digest {}, {} in {seconds:.1} s ({rate}/s)\n",
        reached.to.display(),
        reached.place,
        instant(reached.observed),
        reached.digest,
        size(reached.bytes),
    )
}

fn document(reached: &Reached) -> serde_json::Value {
    json!({
        "to": reached.to,
        "timeline": reached.place.timeline,
        "position": reached.place.position,
        "observed": reached.observed.to_rfc3339(),
        "digest": reached.digest,
        "bytes": reached.bytes,
        "fetched_bytes": reached.fetched_bytes,
        "segments": reached.segments,
        "seconds": reached.took.as_secs_f64(),
    })
}
