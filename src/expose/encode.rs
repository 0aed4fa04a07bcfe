//! The snapshot encoder.
