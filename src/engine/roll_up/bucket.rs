//! The arithmetic of one series' bucket.
//!
//! A bucket is what its points come to, in a form that can be put together: [`Bucket::then`] of two neighbours is the bucket of all their points,
//! whatever the cut, so an hour is its twelve five minutes. A counter's growth is counted as Thanos and Prometheus do: the sum of its rises,
//! and after a fall (the counter started again at zero) the whole new value. What it grew by between two buckets belongs to the later
//! one and is not kept here, because it changes when the earlier one does: the engines add [`growth`] between `last` and the next `first`.

/// What the points of one series within one bucket come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// How many points.
    pub count: i64,
    /// Their sum (R-8: never an average alone).
    pub sum: f64,
    /// The least value.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The value of the earliest point.
    pub first: f64,
    /// When that was, in milliseconds.
    pub first_at: i64,
    /// The value of the latest point.
    pub last: f64,
    /// When that was.
    pub last_at: i64,
    /// How much a counter grew from the first point to the last; `None` for what is no counter.
    pub inside: Option<f64>,
}

/// What a counter grew by that went from `before` to `after`.
pub fn growth(before: f64, after: f64) -> f64 {
    if after >= before { bounded(after - before) } else { after }
}

/// A sum of large numbers must not become infinite, and then, less another such sum, NaN: SQLite stores that as NULL (V-3, V-10).
fn bounded(number: f64) -> f64 {
    number.clamp(f64::MIN, f64::MAX)
}

impl Bucket {
    /// The bucket of one point.
    pub fn of(at: i64, value: f64, counter: bool) -> Self {
        Self {
            count: 1,
            sum: value,
            min: value,
            max: value,
            first: value,
            first_at: at,
            last: value,
            last_at: at,
            inside: counter.then_some(0.0),
        }
    }

    /// This bucket, and `later`, whose points all come after this one's.
    #[must_use]
    pub fn then(&self, later: &Self) -> Self {
        let inside = |a: f64, b: f64| bounded(bounded(a + growth(self.last, later.first)) + b);
        Self {
            last: later.last,
            last_at: later.last_at,
            inside: self.inside.zip(later.inside).map(|(a, b)| inside(a, b)),
            first: self.first,
            first_at: self.first_at,
            ..self.pooled(later)
        }
    }

    /// This bucket, and `late`, whose points were stored after it was sealed.
    ///
    /// Exact where all of `late` lies before or behind, and where the counter did not start again between: the points that it lies
    /// among are gone. Otherwise the growth is at least what either of them saw.
    #[must_use]
    pub fn with_late(&self, late: &Self) -> Self {
        if self.last_at <= late.first_at {
            return self.then(late);
        }
        if late.last_at < self.first_at {
            return late.then(self);
        }
        // Of equal times the one stored later counts as the later (T-7).
        let (first, first_at) =
            if late.first_at < self.first_at { (late.first, late.first_at) } else { (self.first, self.first_at) };
        let (last, last_at) =
            if late.last_at >= self.last_at { (late.last, late.last_at) } else { (self.last, self.last_at) };
        // Each one's growth from the common first to the common last, as far as it can know.
        let whole = |part: &Self, inside: f64| {
            let lead = if part.first_at == first_at { 0.0 } else { growth(first, part.first) };
            let tail = if part.last_at == last_at { 0.0 } else { growth(part.last, last) };
            bounded(bounded(lead + inside) + tail)
        };
        let inside = self.inside.zip(late.inside).map(|(a, b)| whole(self, a).max(whole(late, b)));
        Self { first, first_at, last, last_at, inside, ..self.pooled(late) }
    }

    /// What does not depend on the order; the rest is this one's.
    fn pooled(&self, other: &Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            sum: bounded(self.sum + other.sum),
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(points: &[(i64, f64)]) -> Bucket {
        let mut buckets = points.iter().map(|(at, value)| Bucket::of(*at, *value, true));
        let first = buckets.next().expect("a point");
        buckets.fold(first, |a, b| a.then(&b))
    }

    fn inside(values: &[f64]) -> f64 {
        let points: Vec<(i64, f64)> = values.iter().enumerate().map(|(at, v)| (at as i64, *v)).collect();
        of(&points).inside.expect("a counter")
    }

    #[test]
    fn r7_growth_counts_rises_and_what_comes_after_a_fall() {
        assert_eq!(inside(&[5.0]), 0.0);
        assert_eq!(inside(&[5.0, 5.0, 9.0]), 4.0);
        assert_eq!(inside(&[5.0, 9.0, 2.0, 3.0]), 7.0);
        assert_eq!(inside(&[5.0, 1.0, 8.0, 0.0, 4.0]), 1.0 + 7.0 + 4.0);
    }

    #[test]
    fn r5_late_points_among_sealed_ones_of_a_counter_that_only_grew_are_exact() {
        let sealed = of(&[(10, 1.0), (30, 10.0)]);
        let late = of(&[(5, 0.5), (20, 5.0), (40, 11.0)]);
        let both = sealed.with_late(&late);
        assert_eq!((both.first, both.last, both.count), (0.5, 11.0, 5));
        assert_eq!(both.inside, Some(10.5));
        let reset = of(&[(20, 3.0), (25, 0.0), (26, 7.0)]);
        assert_eq!(sealed.with_late(&reset).inside, Some(2.0 + 7.0 + 3.0));
    }

    #[test]
    fn v10_sums_stay_finite() {
        let huge = of(&[(1, f64::MAX), (2, f64::MAX), (3, f64::MIN), (4, f64::MAX)]);
        assert!(huge.sum.is_finite() && huge.inside.unwrap().is_finite());
    }

    proptest! {
        #[test]
        fn r7_any_cut_gives_the_same_bucket(
            values in proptest::collection::vec((-40..400_i32).prop_map(|v| f64::from(v) / 4.0), 2..40),
            cut in 1..39_usize,
        ) {
            let points: Vec<(i64, f64)> = values.iter().enumerate().map(|(at, v)| (at as i64, *v)).collect();
            let cut = cut.min(points.len() - 1);
            let (before, after) = (of(&points[..cut]), of(&points[cut..]));
            prop_assert_eq!(before.then(&after), of(&points));
            prop_assert_eq!(before.with_late(&after), of(&points));
            prop_assert_eq!(after.with_late(&before), of(&points));
        }
    }
}
