//! The last value of every series, with staleness: all that `/metrics` knows.
