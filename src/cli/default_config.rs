//! `default-config`: the reference configuration, byte for byte as it was compiled in.

use super::{Exit, print};
use crate::config::DEFAULT;

/// Prints it.
pub fn run() -> Exit {
    print(DEFAULT)
}
