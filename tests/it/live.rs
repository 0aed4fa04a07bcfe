//! The live tail, proved on the real process: the built binary beside applications that write through another SQLite, in processes of their own, and do to the
//! database what applications do. At moments between two transactions the database's image is taken by means that share nothing with the program; every one
//! of these moments must come back from the destination to the byte.
//!
//! These tests take longer than others, up to half a minute each: what they look for happens when several processes meet at one moment, and such moments need
//! time to come. Nothing in them depends on how fast the machine is.
//!
//! `SOAK_SECONDS` makes the stress as long as one likes, with a drill each minute; `SEED` repeats what the writers did, not how they met.

mod altered;
mod faults;
mod gaps;
mod killed;
mod preload;
mod scene;
mod steps;
mod store;
mod stress;

use std::time::Duration;

use scene::Scene;
use store::Store;

/// What a wait on a loaded machine may take before the test says that it did not come.
const SOON: Duration = Duration::from_secs(90);

/// Ten cuts a second.
const FAST: &str = "interval = \"100ms\"\n";

/// A number from the environment.
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What chance begins with: printed, so that it can be given again.
fn seed() -> u64 {
    let seed = asked("SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("SEED={seed}");
    seed
}

/// Chance that a seed repeats (xorshift64*, Vigna 2016).
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    /// One of `from`.
    fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}
