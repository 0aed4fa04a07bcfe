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
//! A `T` behind the newest mark means the newest mark: nothing that came later is known, and the plan says how old it is. A full of a database that was damaged
//! when it was read is used only where no mark rests on a sound one, and with a warning.

mod error;
mod line;
mod state;

use std::time::Duration;

use serde::Serialize;

pub use error::{Nearest, PlanError};
pub use line::{Line, Mark};
pub use state::{State, state};

use super::catalog::Piece;
use super::manifest::Manifest;
use super::{Catalog, Soundness, Timeline};
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
    /// The manifests of the segments, in the order of use; the first is a full.
    pub segments: Vec<Manifest>,
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
        self.segments.iter().filter_map(|m| m.object.as_ref()).map(|object| object.stored.bytes).sum()
    }

    /// The restored database's length.
    pub fn database_bytes(&self) -> u64 {
        self.last().map_or(0, length)
    }

    /// The longest that the database is on the way.
    pub fn room_bytes(&self) -> u64 {
        self.segments.iter().map(length).max().unwrap_or(0)
    }

    /// Whether an identity is needed.
    pub fn encrypted(&self) -> bool {
        self.segments.iter().filter_map(|m| m.object.as_ref()).any(|object| object.encrypted)
    }

    /// How much older than the instant asked for (`now` for the newest) the mark is.
    pub fn age(&self, now: Timestamp) -> Duration {
        match self.asked {
            Moment::Latest => now.since(self.mark.observed),
            Moment::At(at) => at.since(self.mark.observed),
        }
    }

    fn last(&self) -> Option<&Manifest> {
        self.segments.last()
    }

    /// For programs.
    pub fn to_json(&self) -> serde_json::Value {
        #[derive(Serialize)]
        struct Step<'a> {
            kind: super::Kind,
            timeline: u32,
            position: u64,
            observed: String,
            object: Option<&'a str>,
            stored_bytes: u64,
            plain_bytes: u64,
            encrypted: bool,
        }
        let steps: Vec<Step<'_>> = self
            .segments
            .iter()
            .map(|m| Step {
                kind: m.kind,
                timeline: m.timeline.0,
                position: m.to.0,
                observed: m.observed.to_rfc3339(),
                object: m.object.as_ref().map(|o| o.key.as_str()),
                stored_bytes: m.object.as_ref().map_or(0, |o| o.stored.bytes),
                plain_bytes: m.object.as_ref().map_or(0, |o| o.plain.bytes),
                encrypted: m.object.as_ref().is_some_and(|o| o.encrypted),
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
    let chosen = line.find(catalog, at)?;
    let mark = line.mark(chosen);
    let nearest = || line.nearest(catalog, chosen);
    let chain = catalog.cover(mark.place.timeline, mark.place.position).map_err(|why| PlanError::Broken {
        mark,
        why,
        nearest: nearest().into(),
    })?;
    let mut warnings = Vec::new();
    if let Some(Soundness::Damaged(why)) = chain.first().and_then(|full| match full {
        Piece::Whole(e) => e.manifest.soundness.as_ref(),
        _ => None,
    }) {
        let others = nearest();
        if others != Nearest::default() {
            return Err(PlanError::Damaged { mark, why: why.clone(), nearest: others.into() });
        }
        warnings.push(format!(
            "the database was damaged when its full was read ({why}), and no mark rests on a sound one: this is what there is"
        ));
    }
    let segments = chain
        .into_iter()
        .filter_map(|piece| match piece {
            Piece::Whole(e) => Some(e.manifest.clone()),
            _ => None,
        })
        .collect();
    Ok(Plan { asked: at, mark, newest: line.is_newest(chosen), segments, warnings })
}

/// From when until when the line to `timeline` can be restored, as far as the catalog knows its marks: read [`Catalog::newest_notes`] first. It reaches to where the
/// owner's last word says that nothing had come.
pub fn window(catalog: &Catalog, timeline: Timeline) -> Option<(Timestamp, Timestamp)> {
    let (first, last) = Line::of(catalog, Some(timeline)).ok()?.window(catalog)?;
    let quiet = catalog.heartbeats.get(&timeline).filter(|heartbeat| heartbeat.tip.place == last.place);
    Some((first.observed, quiet.map_or(last.observed, |heartbeat| heartbeat.until.max(last.observed))))
}

#[cfg(test)]
mod tests;
