//! Names in OpenMetrics: there, a family owns its name with every suffix that its type may have, and no two families may own the same.
//!
//! Families come by name, so what could claim a longer name (`x` with `x_count`) comes before what has that name.

use std::collections::HashSet;

use super::{Member, is_sound};
use crate::sample::Kind;

/// Which names a page has given away.
pub(super) struct Claims<'a> {
    /// Counters by their names without `_total`: they claim their `_created` later than the family of that name would.
    counters: HashSet<&'a str>,
    taken: HashSet<String>,
}

impl<'a> Claims<'a> {
    /// None yet, for a page of `members`, which are sorted by name.
    pub(super) fn new(members: &'a [Member<'_>]) -> Self {
        let counters = members.chunk_by(|a, b| a.name == b.name);
        let counters = counters.filter(|group| group[0].family.kind == Kind::Counter && is_sound(group));
        let counters = counters.filter_map(|group| group[0].name.strip_suffix("_total")).collect();
        Self { counters, taken: HashSet::new() }
    }

    /// Whether the name is that of a counter's times of creation.
    pub(super) fn is_created(&self, name: &str) -> bool {
        let base = name.strip_suffix("_created");
        base.is_some_and(|base| self.counters.contains(base) && !self.taken.contains(base))
    }

    /// Gives a family of `kind` the name `base` with all that belongs to it, if all of it is free.
    pub(super) fn claim(&mut self, kind: Kind, base: &str) -> bool {
        let suffixes: &[&str] = match kind {
            Kind::Counter => &["", "_total", "_created"],
            Kind::Histogram => &["", "_bucket", "_sum", "_count", "_created"],
            Kind::Summary => &["", "_sum", "_count", "_created"],
            Kind::Gauge | Kind::Unknown => &[""],
        };
        let names: Vec<String> = suffixes.iter().map(|suffix| format!("{base}{suffix}")).collect();
        let free = names.iter().all(|name| !self.taken.contains(name));
        if free {
            self.taken.extend(names);
        }
        free
    }
}
