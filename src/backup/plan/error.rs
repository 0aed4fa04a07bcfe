//! Why there is no plan, in words that say what can be restored instead.

use std::fmt;

use super::super::Timeline;
use super::super::catalog::Need;
use super::Mark;
use crate::clock::Timestamp;
use crate::object::ObjectKey;

/// Marks that can be restored, next to one that cannot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nearest {
    /// At or before it.
    pub before: Option<Mark>,
    /// Behind it.
    pub after: Option<Mark>,
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = [self.before, self.after].into_iter().flatten().map(by_its_time).collect();
        match shown.as_slice() {
            [] => f.write_str("no mark of this line can be restored"),
            [one] => write!(f, "the nearest mark that can be restored: {one}"),
            many => write!(f, "the nearest marks that can be restored: {}", many.join(", ")),
        }
    }
}

/// How a mark is asked for.
fn by_its_time(mark: Mark) -> String {
    format!("`--at {}` ({})", mark.observed, mark.place)
}

/// What shows that a mark is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hole {
    /// Manifests that cannot be read, with the reason.
    Unreadable(Vec<(ObjectKey, String)>),
    /// Positions that no manifest leads to.
    Missing,
    /// The next manifest was written after another one than this.
    Changed,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nothing was ever backed up there.
    #[error("there is no backup")]
    Empty,
    /// The timeline has no mark.
    #[error("there is no mark on {timeline}; there are some on {}", known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Timeline {
        /// The one asked for.
        timeline: Timeline,
        /// Those that have some.
        known: Vec<Timeline>,
    },
    /// It is not clear which timeline is the newest.
    #[error("`{key}` cannot be read, so that it is not clear which line of backups is the newest: {why}")]
    Claim {
        /// The claim.
        key: ObjectKey,
        /// What is wrong with it.
        why: String,
    },
    /// The destination holds more than one database.
    #[error("the destination holds several databases: {} and {}, the latter on {timeline}", names[0], names[1])]
    Several {
        /// Two of them.
        names: [String; 2],
        /// Where the second one is.
        timeline: Timeline,
    },
    /// The instant lies before the first mark.
    #[error("{at} lies before the first mark; {}", within(window.as_deref()))]
    Before {
        /// The instant.
        at: Timestamp,
        /// The first and the last mark that can be restored.
        window: Option<Box<(Mark, Mark)>>,
    },
    /// The instant lies where commits could not be followed.
    #[error("{at} lies in a gap: what was committed between {from} and {} of {} could not be followed, so that only its end is known; before it there is {} of {}", between.1.place, between.1.observed, between.0.place, between.0.observed)]
    Gap {
        /// The instant.
        at: Timestamp,
        /// The marks at its ends.
        between: Box<(Mark, Mark)>,
        /// The last instant at which the first of them was known to be the newest.
        from: Timestamp,
        /// What can be restored.
        nearest: Box<Nearest>,
    },
    /// It must be read first, whether there are marks that are nearer; only [`super::super::restore::settle`] deals with this.
    #[error("{} notes and indexes have to be read before that can be said", .0.len())]
    Unread(Vec<Need>),
    /// Something is missing between a mark and the instant.
    #[error("{}", hole_words(&between.0, between.1.as_ref(), hole))]
    Hole {
        /// The last mark before the instant, and the next one.
        between: Box<(Mark, Option<Mark>)>,
        /// What shows it.
        hole: Hole,
        /// What can be restored.
        nearest: Box<Nearest>,
    },
    /// The mark's chain cannot be used.
    #[error("{} of {} cannot be restored: {why}", mark.place, mark.observed)]
    Broken {
        /// The mark that the instant means.
        mark: Mark,
        /// What is wrong; names the object.
        why: String,
        /// What can be restored.
        nearest: Box<Nearest>,
    },
    /// The database was damaged.
    #[error("the database of {} of {} was damaged when its full was read: {why}", mark.place, mark.observed)]
    Damaged {
        /// The mark that the instant means.
        mark: Mark,
        /// What its engine said.
        why: String,
        /// What can be restored.
        nearest: Box<Nearest>,
    },
}

impl PlanError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Empty | Self::Timeline { .. } | Self::Unread(_) => None,
            Self::Before { window, .. } => {
                window.as_deref().map(|(first, _)| format!("the nearest mark: {}", by_its_time(*first)))
            }
            Self::Claim { .. } => {
                Some("choose a timeline: `--timeline N`; `atlas-sidecar backup list` shows them".to_owned())
            }
            Self::Several { .. } => {
                Some("choose one by its timeline: `--timeline N`; `atlas-sidecar backup list` shows them".to_owned())
            }
            Self::Gap { nearest, .. }
            | Self::Hole { nearest, .. }
            | Self::Broken { nearest, .. }
            | Self::Damaged { nearest, .. } => Some(nearest.to_string()),
        }
    }
}

fn within(window: Option<&(Mark, Mark)>) -> String {
    match window {
        Some((first, last)) => format!("what can be restored lies from {} until {}", first.observed, last.observed),
        None => "and no mark can be restored".to_owned(),
    }
}

fn hole_words(after: &Mark, before: Option<&Mark>, hole: &Hole) -> String {
    let what = match hole {
        Hole::Unreadable(objects) => {
            let each: Vec<String> = objects.iter().map(|(key, why)| format!("`{key}` ({why})")).collect();
            format!("cannot be read: {}", each.join(", "))
        }
        Hole::Missing => "is missing".to_owned(),
        Hole::Changed => "is another one than it was: a manifest was changed or replaced".to_owned(),
    };
    let behind = before.map_or_else(String::new, |mark| format!(" and {} of {}", mark.place, mark.observed));
    match before {
        Some(_) => format!("what lies between {} of {}{behind} {what}", after.place, after.observed),
        None => format!("what comes behind {} of {} {what}", after.place, after.observed),
    }
}
