//! The admin key: made from 32 random bytes, told once, stored as its SHA-256.
//!
//! The specification's migration 001 inserts a placeholder where the hash belongs; whoever knew the placeholder's text would have had a
//! way in, or nobody would. Here the row gets the hash of a real key, and the key goes to exactly one place: the operator's terminal, or a file that only
//! the owner can read. The file is complete and on the disk before the row commits, so no committed row has a key that nobody ever saw; and it is taken
//! away again when the commit fails, so no file promises a way in that does not exist. A crash between the two leaves the file without its row:
//! the next try refuses to overwrite it and says so.
//!
//! A hash of this kind needs no salt and no slow function: 256 random bits cannot be guessed, with or without the hash.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::engine::EngineError;
use crate::secret::Secret;

/// The row's id, from the specification's migration 001.
pub const ID: &str = "admin-key-001";
/// The row's name, from there too.
pub const NAME: &str = "Admin API Key";
/// The row's permissions, from there too, as text.
pub const PERMISSIONS: &str = r#"["read", "write", "admin"]"#;
/// The file's name in the state directory.
pub const FILE: &str = "admin-key";

/// A key of 256 random bits: `atlas_` and 64 hex digits.
pub fn generate() -> Result<Secret, EngineError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|e| EngineError::new(format!("the system gives no random bytes for the admin key: {e}")))?;
    Ok(Secret::new(format!("atlas_{}", hex(&bytes))))
}

/// What `api_keys.key_hash` holds for `key`: the SHA-256 of its text, 64 lower-case hex digits.
pub fn hash(key: &Secret) -> String {
    hex(&Sha256::digest(key.reveal()))
}

/// Whether `directory` already has a key file.
pub fn exists(directory: &Path) -> bool {
    directory.join(FILE).symlink_metadata().is_ok()
}

/// Writes `key` to the file [`FILE`] in `directory`, which must not have one yet.
pub fn place(directory: &Path, key: &Secret) -> Result<PathBuf, EngineError> {
    let path = directory.join(FILE);
    write_new(directory, &path, key).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => taken(directory),
        _ => EngineError::new(format!("cannot write the admin key to `{}`: {e}", path.display()))
            .hint("`state_directory` must be a folder that the sidecar can write to"),
    })?;
    Ok(path)
}

/// Takes a file made by [`place`] away again, because its row did not commit.
pub fn withdraw(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::error!(path = %path.display(), %error, "cannot remove the file of an admin key that was not stored; it opens nothing");
    }
}

/// The error where `directory` has a key file already.
pub fn taken(directory: &Path) -> EngineError {
    let path = directory.join(FILE);
    EngineError::new(format!("the database has no API key, but `{}` exists and is not overwritten", path.display())).hint(
        "it belongs to another database, or an interrupted run left it: move it away and run the same command again",
    )
}

/// tmp, fsync, link, fsync dir. A link instead of a rename, because a rename replaces what is there.
fn write_new(directory: &Path, path: &Path, key: &Secret) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let tmp = directory.join(format!("{FILE}.tmp"));
    // One that a crash left: its key was never in force.
    match std::fs::remove_file(&tmp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let linked = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&tmp)?;
        writeln!(file, "{}", key.reveal())?;
        file.sync_all()?;
        std::fs::hard_link(&tmp, path)
    })();
    // A write that failed half-way must not leave a part of the key behind; if it cannot be removed, the next try does it.
    let _ = std::fs::remove_file(&tmp);
    linked?;
    let synced = File::open(directory).and_then(|d| d.sync_all());
    if synced.is_err() {
        withdraw(path);
    }
    synced
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a `String` does not fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_differ_and_hash_like_sha256sum() {
        let (a, b) = (generate().unwrap(), generate().unwrap());
        assert_ne!(a.reveal(), b.reveal());
        assert_eq!(a.reveal().len(), "atlas_".len() + 64);
        // From FIPS 180-2, appendix B.1.
        assert_eq!(hash(&Secret::new("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_file_is_private_and_never_overwritten() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("a/state");
        std::fs::create_dir_all(scratch.path().join("a")).unwrap();
        let path = place(&directory, &Secret::new("canary-1")).unwrap();
        let mode = |p: &Path| p.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&directory)), (0o600, 0o700));

        let error = place(&directory, &Secret::new("canary-2")).unwrap_err();
        assert!(error.hint.is_some() && !format!("{error} {error:?}").contains("canary"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "canary-1\n");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "no temporary file is left");

        std::fs::write(directory.join("admin-key.tmp"), "half a k").unwrap();
        withdraw(&path);
        place(&directory, &Secret::new("canary-3")).unwrap();
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn a_dangling_link_is_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(scratch.path().join("elsewhere"), scratch.path().join(FILE)).unwrap();
        assert!(exists(scratch.path()));
        assert!(place(scratch.path(), &Secret::new("canary")).is_err());
        assert!(!scratch.path().join("elsewhere").exists());
    }
}
