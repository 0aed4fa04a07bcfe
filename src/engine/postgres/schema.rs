//! The schema on PostgreSQL.
//!
//! Names are not qualified: what counts is what a name without a schema reaches, and what is made goes to the first schema of the role's
//! `search_path`. So sidecar and application see the same tables where they have the same path. A database is empty only if no schema has a table.
//!
//! Short locks, because who waits for a strong lock keeps everybody waiting who comes later: a step waits a second at most, lets the application go on, and
//! tries again. An index over rows is built `CONCURRENTLY`, beside the application's writes and outside of a transaction.
//!
//! What a crash leaves: each step is one transaction (in a database without tables all of them together), so the schema is always between two steps. The one
//! exception is a concurrent build that was cut off: it leaves an index that no query uses and every write keeps up. The next run drops it and builds it again.
//!
//! Rights are read with the schema. Which one is missing is said before anything is done, with the statement that gives it.

pub mod about;
pub mod apply;
pub mod filter;
pub mod full_text;
pub mod inventory;
pub mod own;
pub mod plan;

use self::apply::Target;
use super::Database;
use crate::clock::Clock;
use crate::engine::schema::apply::{Asked, Site, Work};
use crate::engine::schema::{self, FileReport, KeySink, MigrateOptions, Part, Report, Scope, complete, foreseen};
use crate::engine::{Checked, EngineError, Kind, Settings};

/// What the operator asks for: creates and adds what is missing, in both databases where there are two.
pub async fn migrate(settings: &Settings, options: MigrateOptions, clock: &Clock) -> Result<Report, EngineError> {
    let mut report = Report::new(options.dry_run);
    // The application's last, because its admin key is the one thing that must not be lost in a later failure.
    if let Some(url) = samples_url(settings) {
        let metrics = Database::open(url, settings.metrics_password.as_ref()).await?;
        bring_up(&metrics, Part::Metrics, settings, &options, clock, &mut report).await?;
    }
    let part = part_of_app(settings);
    let app = Database::open(&settings.url, settings.password.as_ref()).await?;
    bring_up(&app, part, settings, &options, clock, &mut report).await?;
    Ok(report)
}

/// `database.metrics_url`, where it is another database.
pub fn samples_url(settings: &Settings) -> Option<&str> {
    settings.metrics_url.as_deref().filter(|url| !super::Postgres.is_same(url, &settings.url))
}

/// What of the schema belongs into the application's database.
pub fn part_of_app(settings: &Settings) -> Part {
    if samples_url(settings).is_some() { Part::Application } else { Part::Whole }
}

/// What `run` does at its start with the databases that it has opened. The admin key of an empty database goes to the state directory.
pub async fn prepare(
    app: &Database,
    metrics: Option<&Database>,
    settings: &Settings,
    clock: &Clock,
) -> Result<Report, EngineError> {
    let target = |database| Target { database, widen: settings.widen_metric_value };
    let metrics = metrics.map(target);
    schema::prepare(&target(app), metrics.as_ref(), settings, clock).await
}

/// What `check` says of a database that `about` describes: what `migrate` would add to it, what would keep `run` from starting, and what it would warn of.
pub async fn foresee(database: &Database, part: Part, settings: &Settings, about: String) -> Vec<Checked> {
    let target = Target { database, widen: settings.widen_metric_value };
    let full_text = part.full_text(settings);
    let glance = async |scope| {
        let plan = target.glance(Asked { part, scope, full_text }).await;
        plan.map_err(|failure| failure.told(&target.name()))
    };
    let mut lines = vec![match glance(Scope::All).await {
        Ok(plan) => {
            let sink = KeySink::File(settings.state_directory.clone());
            let mut report = Report::new(true);
            report.files.push(foreseen(plan, FileReport::new(target.name()), &sink));
            report.checked(database.shown(), about)
        }
        Err(e) => Checked::Look(format!("{about}; what `migrate` would add cannot be told: {}", e.message)),
    }];
    match glance(if part == Part::Metrics { Scope::All } else { Scope::Guest }).await {
        Ok(plan) => {
            lines.extend(plan.obstacles.into_iter().map(|e| Checked::Bad(EngineError::new(about::in_a_line(e)))));
            lines.extend(plan.warnings.into_iter().map(Checked::Look));
        }
        Err(e) => lines.push(Checked::Bad(EngineError::new(about::in_a_line(e)))),
    }
    lines
}

async fn bring_up(
    database: &Database,
    part: Part,
    settings: &Settings,
    options: &MigrateOptions,
    clock: &Clock,
    report: &mut Report,
) -> Result<(), EngineError> {
    let target = Target { database, widen: settings.widen_metric_value };
    let full_text = part.full_text(settings);
    let done = match options.dry_run {
        true => {
            let plan = target.glance(Asked { part, scope: Scope::All, full_text }).await;
            plan.map_err(|failure| failure.told(&target.name())).map(|plan| {
                report.files.push(foreseen(plan, FileReport::new(target.name()), &options.key_sink));
            })
        }
        false => {
            let mut work = Work::new(&target, (part, Scope::All), full_text, &options.key_sink, clock);
            complete(&mut work, report).await
        }
    };
    database.close().await;
    done
}
