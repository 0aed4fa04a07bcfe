//! The admin key: made from 32 random bytes, told once, stored as its SHA-256.
//!
//! The specification's migration 001 inserts a placeholder where the hash belongs; whoever knew the placeholder's text would have had a
//! way in, or nobody would. Here the row gets the hash of a real key, and the key goes to exactly one place: the operator's terminal, or a file that only
//! the owner can read. The file is complete and on the disk before the row commits, so no committed row has a key that nobody ever saw; and it is taken
//! away again when the commit fails, so no file promises a way in that does not exist.
//!
//! A crash between the two, or a power cut that takes the last commits, leaves the file without its row. A sidecar that then refused to start would wait
//! for somebody who has no idea of any of this, and a new key in the file's place would make worthless what somebody may have copied from it already. So a database
//! that never had a key made takes the one in the file: the row is what was missing. Whoever can put a file of ours into the private
//! directory can read and write the database as well, so nobody gains a way in. In a database that had a key before, its rows were deleted on
//! purpose: there the old key does not come back, and a file in the way is an error that says so.
//!
//! A hash of this kind needs no salt and no slow function: 256 random bits cannot be guessed, with or without the hash.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::engine::EngineError;
use crate::secret::{Secret, private_folder};

/// The row's id, from the specification's migration 001.
pub const ID: &str = "admin-key-001";
/// The row's name, from there too.
pub const NAME: &str = "Admin API Key";
/// The row's permissions, from there too, as text.
pub const PERMISSIONS: &str = r#"["read", "write", "admin"]"#;
/// The file's name in the state directory.
pub const FILE: &str = "admin-key";

/// What keys begin with, so that one that got somewhere is known for what it is.
const PREFIX: &str = "atlas_";

/// A key of 256 random bits: `atlas_` and 64 hex digits.
pub fn generate() -> Result<Secret, EngineError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|e| EngineError::new(format!("the system gives no random bytes for the admin key: {e}")))?;
    Ok(Secret::new(format!("{PREFIX}{}", hex(&bytes))))
}

/// What `api_keys.key_hash` holds for `key`: the SHA-256 of its text, 64 lower-case hex digits.
pub fn hash(key: &Secret) -> String {
    hex(&Sha256::digest(key.reveal()))
}

/// The row of `key` in `columns` of `api_keys`. Everything in it is ours: constants, hex digits, a time; so it is text, which every type takes
/// that can hold it. Every value is given: the defaults of a table that an ORM made are often in the ORM only.
pub fn insert_sql(columns: &[&str], key: &Secret, now: Timestamp) -> String {
    // The time is cut to seconds, as CURRENT_TIMESTAMP writes it.
    let now = now.to_sql();
    let now = now.split('.').next().unwrap_or_default();
    let values = columns.iter().map(|column| match *column {
        "id" => format!("'{ID}'"),
        "name" => format!("'{NAME}'"),
        "key_hash" => format!("'{}'", hash(key)),
        "permissions" => format!("'{PERMISSIONS}'"),
        "created_at" => format!("'{now}'"),
        // The seed's default.
        "rate_limit_per_hour" => "1000".to_owned(),
        "is_active" => "TRUE".to_owned(),
        other => unreachable!("`{other}` is none of plan::KEY_COLUMNS"),
    });
    let values: Vec<String> = values.collect();
    format!("INSERT INTO api_keys ({}) VALUES ({})", columns.join(", "), values.join(", "))
}

/// Whether `directory` already has a key file.
pub fn exists(directory: &Path) -> bool {
    directory.join(FILE).symlink_metadata().is_ok()
}

/// The key in the file that `directory` has already, if it is one of ours that nobody else could read.
pub fn left_behind(directory: &Path) -> Option<Secret> {
    // Neither through a link, nor for ever from a pipe; and a key has 71 bytes.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(directory.join(FILE), flags, Mode::empty()).ok()?);
    let about = file.metadata().ok()?;
    if !about.is_file() || about.mode() & 0o077 != 0 || about.uid() != rustix::process::geteuid().as_raw() {
        return None;
    }
    let mut text = String::new();
    file.take(128).read_to_string(&mut text).ok()?;
    let key = text.strip_suffix('\n')?;
    let digits = key.strip_prefix(PREFIX).filter(|digits| digits.len() == 64)?;
    digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then(|| Secret::new(key))
}

/// Writes `key` to the file [`FILE`] in `directory`, which must have none yet, or one with this key.
pub fn place(directory: &Path, key: &Secret) -> Result<PathBuf, EngineError> {
    let path = directory.join(FILE);
    match write_new(directory, &path, key) {
        Ok(()) => Ok(path),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match left_behind(directory) {
            Some(there) if there == *key => Ok(path),
            _ => Err(taken(directory)),
        },
        Err(e) => Err(EngineError::new(format!("cannot write the admin key to `{}`: {e}", path.display()))
            .hint("`state_directory` must be a folder that the sidecar can write to")),
    }
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
    EngineError::new(format!("the database has no API key, but `{}` exists and is not overwritten", path.display()))
        .hint("it belongs to another database, or its key was deleted: move it away and run the same command again")
}

/// tmp, fsync, link, fsync dir. A link instead of a rename, because a rename replaces what is there.
fn write_new(directory: &Path, path: &Path, key: &Secret) -> io::Result<()> {
    private_folder(directory)?;
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

    /// Only what `place` makes is taken for a key that a crash left.
    #[test]
    fn what_is_left_behind_is_known_by_form_mode_and_kind() {
        let scratch = tempfile::tempdir().unwrap();
        let (directory, path) = (scratch.path(), scratch.path().join(FILE));
        assert!(left_behind(directory).is_none());
        let key = generate().unwrap();
        place(directory, &key).unwrap();
        assert!(left_behind(directory) == Some(key.clone()) && place(directory, &key).is_ok());
        assert!(place(directory, &generate().unwrap()).is_err());

        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(left_behind(directory).is_none(), "others could read it");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for bad in [
            "",
            "somebody's",
            text.trim_end(),
            &text.replace("atlas_", "atlas-"),
            &text.to_uppercase(),
            &format!("{text}\n"),
        ] {
            std::fs::write(&path, bad).unwrap();
            assert!(left_behind(directory).is_none(), "{bad}");
        }
        std::fs::rename(&path, directory.join("elsewhere")).unwrap();
        std::fs::write(directory.join("elsewhere"), &text).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(left_behind(directory).is_none(), "a link");
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
