//! What two sides must agree on: rows, values that are not NULL, exact sums, and a digest of everything.
//!
//! The digest is the sum, modulo 2^256, of the SHA-256 of every row in its one form ([`Kind::canonical`]). Such a sum needs no order, and orders are what two engines do
//! not share: collations differ, ids may be NULL or not unique (V-8). A row that is missing, changed or there twice changes it.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::decimal::{Decimal, Sum};
use super::kind::Kind;
use super::wire::Line;

/// Counts of one side of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Rows.
    pub rows: u64,
    /// By column, in the order of the plan.
    pub columns: Vec<ColumnTotals>,
}

/// Counts of one side of a column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ColumnTotals {
    /// Values that are not NULL.
    pub present: u64,
    /// The exact sum of a column of numbers.
    #[serde(serialize_with = "shown")]
    pub sum: Option<Decimal>,
}

fn shown<S: serde::Serializer>(sum: &Option<Decimal>, to: S) -> Result<S::Ok, S::Error> {
    // As text: JSON's readers make doubles of numbers.
    sum.as_ref().map(ToString::to_string).serialize(to)
}

/// A table being counted.
pub struct Tally<'a> {
    kinds: Vec<&'a Kind>,
    rows: u64,
    digest: Digest,
    present: Vec<u64>,
    sums: Vec<Option<Sum>>,
    form: String,
}

impl<'a> Tally<'a> {
    /// Of columns of `kinds`.
    pub fn new(kinds: impl IntoIterator<Item = &'a Kind>) -> Self {
        let kinds: Vec<&Kind> = kinds.into_iter().collect();
        let sums = kinds.iter().map(|kind| kind.has_sum().then(Sum::default)).collect();
        Self { rows: 0, digest: Digest::default(), present: vec![0; kinds.len()], sums, form: String::new(), kinds }
    }

    /// Adds a row; false where it is not one of such columns.
    pub fn add(&mut self, line: &Line) -> bool {
        let mut row = Sha256::new();
        let mut count = 0;
        for (at, cell) in line.cells().enumerate() {
            let Some(kind) = self.kinds.get(at) else { return false };
            count += 1;
            let Some(text) = cell else {
                row.update([0]);
                continue;
            };
            self.form.clear();
            if kind.canonical(text, &mut self.form).is_none() {
                return false;
            }
            row.update([1]);
            row.update((self.form.len() as u64).to_be_bytes());
            row.update(&self.form);
            self.present[at] += 1;
            if let Some(sum) = &mut self.sums[at] {
                match Decimal::parse(&self.form) {
                    Some(number) => sum.add(&number),
                    None => return false,
                }
            }
        }
        self.rows += 1;
        self.digest.add(&row.finalize().into());
        count == self.kinds.len()
    }

    /// What has been counted.
    pub fn totals(&self) -> Totals {
        let columns = self.present.iter().zip(&self.sums);
        let columns =
            columns.map(|(present, sum)| ColumnTotals { present: *present, sum: sum.as_ref().map(Sum::total) });
        Totals { rows: self.rows, columns: columns.collect() }
    }

    /// The digest of what has been counted.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// A number of 256 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    fn add(&mut self, row: &[u8; 32]) {
        let mut carry = 0;
        for (mine, its) in self.0.iter_mut().zip(row).rev() {
            let sum = u16::from(*mine) + u16::from(*its) + carry;
            *mine = (sum & 0xff) as u8;
            carry = sum >> 8;
        }
    }
}

/// 64 hexadecimal digits.
impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 2] = [Kind::Text(None), Kind::Numeric(None)];

    fn tally(rows: &[[Option<&str>; 2]]) -> (Totals, Digest) {
        let mut tally = Tally::new(&KINDS);
        for row in rows {
            let mut line = Line::default();
            for cell in row {
                match cell {
                    Some(text) => line.push_text().push_str(text),
                    None => line.push_null(),
                }
            }
            assert!(tally.add(&line));
        }
        (tally.totals(), tally.digest())
    }

    #[test]
    fn order_does_not_matter_everything_else_does() {
        let (a, b) = ([Some("a"), Some("1.50")], [Some("b"), None]);
        let (totals, digest) = tally(&[a, b]);
        assert_eq!((totals.rows, totals.columns[1].present), (2, 1));
        assert_eq!(totals.columns[1].sum.as_ref().map(ToString::to_string).as_deref(), Some("1.5"));
        assert_eq!(tally(&[b, [Some("a"), Some("1.5")]]), (totals, digest));
        for other in [
            vec![a],
            vec![a, b, b],
            vec![a, [Some("b"), Some("0")]],
            vec![a, [Some(""), None]],
            vec![a, [None, None]],
            vec![[Some("a"), Some("1.51")], b],
            vec![[Some("a1.5"), None], b],
        ] {
            assert_ne!(tally(&other).1, digest, "{other:?}");
        }
        assert_eq!(digest.to_string().len(), 64);
    }

    #[test]
    fn what_the_server_never_prints_is_no_row() {
        let mut line = Line::default();
        line.push_text().push('a');
        let mut short = Tally::new(&KINDS);
        assert!(!short.add(&line));
        line.push_text().push_str("NaN");
        assert!(!Tally::new(&KINDS).add(&line));
    }
}
