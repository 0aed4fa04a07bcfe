//! The restore plan: which mark an instant means, and which segments lead to it. Pure: it looks at a [`Catalog`] and touches nothing.
//!
//! `--at T` means the newest mark seen at or before `T`, on the line of timelines that leads to the newest claim (or to the one that is asked for). Three
//! rules make the answer one to rely on:
//!
//! - **Never a commit made after `T`.** Marks of a line are in the order of their positions. Where a clock went back between two timelines, a mark counts as seen no
//!   earlier than those before it, because its state holds theirs.
//! - **Never over a hole.** Each manifest carries the sum of the one before it, so that a lost one is known by the next. If something is missing between the
//!   mark and `T`, nobody can say that the mark is the newest one before `T`: that is an error which names both ends. To ask for a mark by its own
//!   time is always possible.
//! - **Never something else instead.** A mark whose chain is broken is refused with what is wrong with it and the nearest marks that can be restored; the plan does not
//!   slide to one of them by itself.
//!
//! Where commits could not be followed there is a gap, and no mark in it: an instant there is an error, too.
//!
//! A `T` behind the newest mark means the newest mark: nothing that came later is known, and the plan says how old it is, and until when its owner has said that nothing had
//! come. Times of live segments and of the marks inside fine ones are not in a listing: where the answer depends on them it is [`PlanError::Unread`], which names
//! as few as possible; [`super::restore::settle`] reads them and asks again. A full of a database that was damaged
//! when it was read is used only where no mark rests on a sound one, and with a warning.

mod between;
mod error;
mod line;
mod state;
mod step;

use std::time::Duration;

use serde::Serialize;

pub use error::{Hole, Nearest, PlanError};
pub use line::{Line, Mark};
pub use state::{State, state};
pub use step::Step;

use super::manifest::Manifest;
use super::{Catalog, Timeline};
use crate::clock::Timestamp;

/// Which mark is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The newest.
    Latest,
    /// The newest at or before this instant.
    At(Timestamp),
}

/// What a restore would do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What was asked for.
    pub asked: Moment,
    /// The mark that is reached.
    pub mark: Mark,
    /// Whether it is the newest of its line.
    pub newest: bool,
    /// Until when its owner has said that it was; nothing where that is not known.
    pub quiet_until: Option<Timestamp>,
    /// In the order of use; the first is a full.
    pub segments: Vec<Step>,
    /// What somebody should know before relying on the result.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Which engine's database it is.
    pub fn engine(&self) -> &str {
        self.last().map_or("", |manifest| &manifest.engine)
    }

    /// The database's own name.
    pub fn database(&self) -> &str {
        self.last().map_or("", |manifest| &manifest.database)
    }

    /// Bytes to fetch.
    pub fn fetched_bytes(&self) -> u64 {
        self.segments.iter().map(Step::fetched_bytes).sum()
    }

    /// The restored database's length.
    pub fn database_bytes(&self) -> u64 {
        self.last().map_or(0, length)
    }

    /// The longest that the database is on the way, as far as that is known before.
    pub fn room_bytes(&self) -> u64 {
        self.segments.iter().filter_map(Step::manifest).map(length).max().unwrap_or(0)
    }

    /// Whether an identity is needed.
    pub fn encrypted(&self) -> bool {
        self.segments.iter().any(Step::is_encrypted)
    }

    /// How much older than the instant asked for (`now` for the newest) the mark is.
    pub fn age(&self, now: Timestamp) -> Duration {
        match self.asked {
            Moment::Latest => now.since(self.mark.observed),
            Moment::At(at) => at.since(self.mark.observed),
        }
    }

    /// That of the last segment whose manifest is known: the mark's own, but where a mark inside a damaged fine segment is reached by live ones.
    fn last(&self) -> Option<&Manifest> {
        self.segments.iter().rev().find_map(Step::manifest)
    }

    /// For programs.
    pub fn to_json(&self) -> serde_json::Value {
        #[derive(Serialize)]
        struct Segment<'a> {
            kind: super::Kind,
            timeline: u32,
            position: u64,
            observed: Option<String>,
            object: Option<&'a str>,
            stored_bytes: u64,
            plain_bytes: Option<u64>,
            encrypted: bool,
        }
        let steps: Vec<Segment<'_>> = self
            .segments
            .iter()
            .map(|step| Segment {
                kind: step.kind(),
                timeline: step.place().timeline.0,
                position: step.place().position.0,
                observed: step.manifest().map(|manifest| manifest.observed.to_rfc3339()),
                object: step.key(),
                stored_bytes: step.fetched_bytes(),
                plain_bytes: step.manifest().map(|m| m.object.as_ref().map_or(0, |object| object.plain.bytes)),
                encrypted: step.is_encrypted(),
            })
            .collect();
        let at = match self.asked {
            Moment::Latest => "latest".to_owned(),
            Moment::At(at) => at.to_rfc3339(),
        };
        serde_json::json!({
            "at": at,
            "engine": self.engine(),
            "database": self.database(),
            "mark": self.mark,
            "newest": self.newest,
            "quiet_until": self.quiet_until.map(Timestamp::to_rfc3339),
            "fetched_bytes": self.fetched_bytes(),
            "database_bytes": self.database_bytes(),
            "segments": steps,
            "warnings": self.warnings,
        })
    }
}

fn length(manifest: &Manifest) -> u64 {
    u64::from(manifest.pages) * u64::from(manifest.page_size)
}

/// Which segments lead to `at` on the way to `timeline`, or to the newest one.
pub fn plan(catalog: &Catalog, timeline: Option<Timeline>, at: Moment) -> Result<Plan, PlanError> {
    let line = Line::of(catalog, timeline)?;
    let chosen = line.find(at)?;
    let needs = line.needs(chosen);
    if !needs.is_empty() {
        return Err(PlanError::Unread(needs));
    }
    let (mark, newest) = (line.mark(chosen), line.is_newest(chosen));
    let (ways, position) = (line.ways(chosen), mark.place.position);
    let nearest = || line.nearest(chosen);
    let pieces = ways.to(position).map_err(|why| PlanError::Broken { mark, why, nearest: nearest().into() })?;
    let mut warnings = Vec::new();
    if let Some(why) = ways.damage(position) {
        let others = nearest();
        if others != Nearest::default() {
            return Err(PlanError::Damaged { mark, why: why.to_owned(), nearest: others.into() });
        }
        warnings.push(format!(
            "the database was damaged when its full was read ({why}), and no mark rests on a sound one: this is what there is"
        ));
    }
    let segments = pieces.into_iter().map(|piece| Step::of(catalog, piece)).collect();
    let quiet_until = if newest { quiet_until(catalog, mark) } else { None };
    Ok(Plan { asked: at, mark, newest, quiet_until, segments, warnings })
}

/// Until when the owner of the timeline of `mark` has said that nothing came behind it.
fn quiet_until(catalog: &Catalog, mark: Mark) -> Option<Timestamp> {
    let heartbeat = catalog.heartbeats.get(&mark.place.timeline)?;
    (heartbeat.tip.place == mark.place).then_some(heartbeat.until)
}

/// From when until when the line to `timeline` can be restored, as far as the catalog knows its marks: read [`Catalog::newest_notes`] first. It reaches to where the
/// owner's last word says that nothing had come.
pub fn window(catalog: &Catalog, timeline: Timeline) -> Option<(Timestamp, Timestamp)> {
    let (first, last) = Line::of(catalog, Some(timeline)).ok()?.window()?;
    Some((first.observed, quiet_until(catalog, last).map_or(last.observed, |until| until.max(last.observed))))
}

#[cfg(test)]
mod tests;
