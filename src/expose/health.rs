//! Liveness and readiness.
//!
//! Alive is whoever answers. Ready is whoever has reached everything that was named at the start, and is not yet on the way out. Each
//! step of the start is a named latch, so that `/-/ready` says what is missing and not only that something is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What has been reached of what the start needs; clones share one state.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    latches: Vec<(&'static str, AtomicBool)>,
    draining: AtomicBool,
}

/// What `/-/ready` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything is reached.
    Ready,
    /// These are not.
    Waiting(Vec<&'static str>),
    /// The sidecar is on its way out.
    Draining,
}

impl Readiness {
    /// Ready once each of `latches` is reached.
    pub fn new(latches: impl IntoIterator<Item = &'static str>) -> Self {
        let latches = latches.into_iter().map(|name| (name, AtomicBool::new(false))).collect();
        Self(Arc::new(Shared { latches, draining: AtomicBool::new(false) }))
    }

    /// Marks `latch` as reached, for good.
    pub fn reach(&self, latch: &str) {
        let found = self.0.latches.iter().find(|(name, _)| *name == latch);
        let (_, reached) = found.unwrap_or_else(|| panic!("`{latch}` is not a latch of this readiness"));
        reached.store(true, Ordering::SeqCst);
    }

    /// From now on not ready: the shutdown has begun.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
    }

    /// What holds now.
    pub fn state(&self) -> State {
        if self.0.draining.load(Ordering::SeqCst) {
            return State::Draining;
        }
        let missing = self.0.latches.iter().filter(|(_, reached)| !reached.load(Ordering::SeqCst));
        match missing.map(|(name, _)| *name).collect::<Vec<_>>() {
            missing if missing.is_empty() => State::Ready,
            missing => State::Waiting(missing),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Waiting(missing) => write!(f, "not ready, waiting for: {}", missing.join(", ")),
            Self::Draining => f.write_str("shutting down"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_latch_is_reached_and_until_draining() {
        let readiness = Readiness::new(["database", "server"]);
        assert_eq!(readiness.state().to_string(), "not ready, waiting for: database, server");
        readiness.reach("server");
        readiness.reach("server");
        assert_eq!(readiness.state(), State::Waiting(vec!["database"]));
        readiness.clone().reach("database");
        assert_eq!(readiness.state(), State::Ready);
        readiness.drain();
        assert_eq!(readiness.state(), State::Draining);
    }
}
