//! Numbers as a column of PostgreSQL holds them: integers, `NUMERIC` and floats.

/// The SQL expression of `$column`'s number as a double; NULL where it is none or does not fit one.
///
/// NaN is greater than all numbers here, and `NUMERIC` has infinities (since PostgreSQL 14): `BETWEEN` leaves all of them out (V-3, V-4). A `NUMERIC`
/// reaches further than a double at both ends, and a cast that does not fit would fail the whole statement (V-2): what is greater is no number, what
/// is closer to zero is zero.
macro_rules! number {
    ($column:literal) => {
        concat!(
            "(CASE WHEN ",
            $column,
            " BETWEEN -1.797e308 AND 1.797e308 THEN CASE WHEN ",
            $column,
            " BETWEEN -4.94e-324 AND 4.94e-324 THEN 0 ELSE ",
            $column,
            "::float8 END END)"
        )
    };
}
pub(crate) use number;
