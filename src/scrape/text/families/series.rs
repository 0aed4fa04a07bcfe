//! Which samples are of the same series. Exact, and quick on a page of a million: equal hashes are always compared in full.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

use crate::sample::{Labels, Sample};

/// Positions of label sets in a list that its owner keeps.
#[derive(Default)]
pub(super) struct Index {
    /// Seeded per process: a page cannot be made that puts everything into one slot.
    seed: RandomState,
    slots: HashMap<u64, usize, BuildHasherDefault<AsIs>>,
}

impl Index {
    /// The position at which `labels` were put; if they are new, they are put at `next`. `same` compares with those at a position.
    pub(super) fn find(&mut self, labels: &Labels, next: usize, same: impl Fn(usize) -> bool) -> Option<usize> {
        let mut hash = self.seed.hash_one(labels);
        loop {
            match self.slots.entry(hash) {
                Entry::Vacant(slot) => {
                    slot.insert(next);
                    return None;
                }
                Entry::Occupied(slot) if same(*slot.get()) => return Some(*slot.get()),
                Entry::Occupied(_) => hash = hash.wrapping_add(1),
            }
        }
    }
}

/// The keys are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Keeps the first sample of every series (the samples are of one full name) and gives how many were dropped.
pub(super) fn drop_repeated(samples: &mut Vec<Sample>) -> usize {
    // Most exporters sort by labels; then nothing can repeat unseen, and no index is needed.
    if samples.is_sorted_by(|a, b| a.labels < b.labels) {
        return 0;
    }
    let mut index = Index::default();
    let repeated: Vec<bool> = samples
        .iter()
        .enumerate()
        .map(|(at, sample)| index.find(&sample.labels, at, |other| samples[other].labels == sample.labels).is_some())
        .collect();
    let before = samples.len();
    let mut repeated = repeated.into_iter();
    samples.retain(|_| !repeated.next().unwrap_or(false));
    before - samples.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Suffix;

    fn sample(label: &str, value: f64) -> Sample {
        Sample { suffix: Suffix::None, labels: Labels::none().with("l", label), value, at: None }
    }

    #[test]
    fn the_first_of_a_series_stays() {
        let mut samples =
            vec![sample("b", 1.0), sample("a", 2.0), sample("b", 3.0), sample("a", 4.0), sample("c", 5.0)];
        assert_eq!(drop_repeated(&mut samples), 2);
        assert_eq!(samples, [sample("b", 1.0), sample("a", 2.0), sample("c", 5.0)]);
        assert_eq!(drop_repeated(&mut samples), 0);
        let mut twins = vec![sample("a", 1.0), sample("a", 1.0)];
        assert_eq!(drop_repeated(&mut twins), 1);
    }

    #[test]
    fn equal_hashes_are_told_apart() {
        let mut index = Index::default();
        let (a, b) = (Labels::none().with("l", "a"), Labels::none().with("l", "b"));
        assert_eq!(index.find(&a, 0, |_| false), None);
        // As if `b` had the same hash: it is compared, found different, and put elsewhere.
        let collided = Index { seed: index.seed.clone(), slots: index.slots.clone() };
        let mut collided = collided;
        assert_eq!(collided.find(&a, 1, |_| false), None);
        assert_eq!(collided.find(&a, 2, |at| at == 1), Some(1));
        assert_eq!(index.find(&b, 1, |at| at == 1), None);
    }
}
