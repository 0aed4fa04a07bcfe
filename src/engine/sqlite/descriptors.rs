//! The only place that opens the files of a database itself; everything else leaves them to SQLite.
//!
//! A process that closes *any* descriptor of a file loses *all* its POSIX locks on it, those of SQLite's own descriptors too
//! (<https://www.sqlite.org/howtocorrupt.html>, 2.2). Nobody is told: the next checkpoint of the application goes on over pages that a reader of ours still
//! reads, and two may write at once. `std::fs::read` of a database file is enough for it (H4).
//!
//! So a file is opened once for each inode, the descriptor is shared, and it is not closed while this process lives. A database that is replaced therefore
//! costs three descriptors; these are closed when no name leads to the old file any more and none of our readings goes on with it: whoever still has that
//! file open writes what nobody will see again, and its space on the disk must come back.
//!
//! What is read here is read by `pread`: a map of a file that somebody makes shorter ends the process with SIGBUS (H16).

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::FileId;

/// All that are open. Locks belong to the process, and so does this.
static HELD: Mutex<Vec<Held>> = Mutex::new(Vec::new());

/// An open file, and the database that it is a part of.
struct Held {
    id: FileId,
    database: FileId,
    file: Arc<File>,
}

/// The files of a database, for reading at a place.
#[derive(Clone, Debug)]
pub struct Files {
    /// Which one it is.
    pub id: FileId,
    /// The database.
    pub database: Arc<File>,
    /// Its write-ahead log, where there is one.
    pub log: Option<Arc<File>>,
    /// The index of the log, where there is one.
    pub index: Option<Arc<File>>,
}

impl Files {
    /// Those of the database at `path`. The log lies beside the file that a link leads to.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        close_nameless(&mut held)?;
        let (id, database) = open(&mut held, &path, None)?;
        let mut beside = |end: &str| match open(&mut held, &with_end(&path, end), Some(id)) {
            Ok((_, file)) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
        Ok(Self { id, log: beside("-wal")?, index: beside("-shm")?, database })
    }

    /// The inode whose locks a reading holds: the log's index has them, where there is one.
    pub fn locked(&self) -> io::Result<u64> {
        self.index.as_ref().unwrap_or(&self.database).metadata().map(|about| about.ino())
    }
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// The file at `path`, from those that are open where it is among them.
fn open(held: &mut Vec<Held>, path: &Path, database: Option<FileId>) -> io::Result<(FileId, Arc<File>)> {
    let wanted = FileId::of(path)?;
    if let Some(known) = held.iter_mut().find(|known| known.id == wanted) {
        // A database that was moved to where another one was goes on with the log and the index that lie there.
        known.database = database.unwrap_or(known.database);
        return Ok((wanted, Arc::clone(&known.file)));
    }
    let file = Arc::new(File::open(path)?);
    let about = file.metadata().inspect_err(|_| std::mem::forget(Arc::clone(&file)))?;
    // Another one, where it was replaced just now. It may even be one that is open already: two of one file are no harm, closing one is.
    let id = FileId(about.dev(), about.ino());
    held.push(Held { id, database: database.unwrap_or(id), file: Arc::clone(&file) });
    Ok((id, file))
}

/// Closes the files of databases that no name leads to and nobody of us reads.
fn close_nameless(held: &mut Vec<Held>) -> io::Result<()> {
    let mut nameless = Vec::new();
    for one in held.iter().filter(|one| one.id == one.database) {
        let of_it = || held.iter().filter(|other| other.database == one.id);
        if one.file.metadata()?.nlink() == 0 && of_it().all(|other| Arc::strong_count(&other.file) == 1) {
            nameless.push(one.id);
        }
    }
    held.retain(|one| !nameless.contains(&one.database));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_held(id: FileId) -> bool {
        HELD.lock().unwrap().iter().any(|held| held.id == id)
    }

    #[test]
    fn h4_a_file_is_opened_once_and_stays_open_until_it_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        for end in ["", "-wal"] {
            std::fs::write(with_end(&path, end), "one").unwrap();
        }
        let first = Files::of(&path).unwrap();
        assert!(first.log.is_some() && first.index.is_none());
        let again = Files::of(&path).unwrap();
        assert!(Arc::ptr_eq(&first.database, &again.database));
        let log = FileId::of(&with_end(&path, "-wal")).unwrap();
        drop((first.clone(), again));
        assert!(is_held(first.id) && is_held(log), "nothing is closed when nobody reads");
        // Replaced: the old one stays for who reads it, and goes then.
        std::fs::write(folder.path().join("new"), "two").unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        let new = Files::of(&path).unwrap();
        assert_ne!(new.id, first.id);
        assert!(is_held(first.id));
        let old = first.id;
        drop(first);
        Files::of(&path).unwrap();
        assert!(!is_held(old) && is_held(new.id) && is_held(log), "the log is the new one's now");
    }
}
