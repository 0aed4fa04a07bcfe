//! The pages of a state, one after another.

use std::io;
use std::os::unix::fs::FileExt;

use super::overlay::Overlay;
use super::snapshot::State;
use crate::backup::SourceError;

/// Bytes of the file that are read at once.
const PIECE: usize = 1 << 20;

/// The page in which SQLite's locks lie: the one that begins 1 GiB into the file. It is never used (<https://www.sqlite.org/fileformat2.html#the_lock_byte_page>).
pub fn lock_page(page_size: u32) -> u32 {
    (1 << 30) / page_size + 1
}

/// Gives `each` page of `state` with its number, in order. The lock page is zeros, whatever is there. Page 1 is given as it is: what SQLite has put into its header
/// belongs to the state (H17).
pub fn pages(
    state: &State,
    overlay: &Overlay,
    mut each: impl FnMut(u32, &[u8]) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let size = state.page_size as usize;
    let mut piece = vec![0; PIECE.max(size)];
    let most = piece.len() / size;
    let mut next = 1;
    while next <= state.pages {
        let count = most.min((state.pages - next) as usize + 1);
        let offset = u64::from(next - 1) * size as u64;
        let came = read_up_to(state, &mut piece[..count * size], offset).map_err(unreadable)?;
        for (number, (at, page)) in (next..).zip(piece[..count * size].chunks_exact_mut(size).enumerate()) {
            if number == lock_page(state.page_size) {
                page.fill(0);
            } else if !overlay.page(number, page).map_err(unreadable)? && (at + 1) * size > came {
                return Err(SourceError::Broken(format!(
                    "page {number} of {} is missing in the database file",
                    state.pages
                )));
            }
            each(number, page)?;
        }
        next += count as u32;
    }
    Ok(())
}

/// Reads until `into` is full or the file ends, and says how much came: what a log has may lie behind the end.
fn read_up_to(state: &State, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut came = 0;
    while came < into.len() {
        match state.files.database.read_at(&mut into[came..], offset + came as u64) {
            Ok(0) => break,
            Ok(more) => came += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(came)
}

fn unreadable(error: io::Error) -> SourceError {
    SourceError::Broken(format!("cannot read the database: {error}"))
}
