//! The destination, seen from outside: what is in it, and what the newest of it is.

use std::path::{Path, PathBuf};

use atlas_sidecar::clock::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::run;
use crate::support::s3::S3Server;

/// Where the tail goes.
pub enum Store {
    S3(S3Server),
    Folder(TempDir),
}

/// What is written down with a state of the database.
pub struct Stated {
    /// The name of its object.
    pub key: String,
    pub position: u64,
    pub manifest: Value,
}

impl Stated {
    pub fn digest(&self) -> &str {
        self.manifest["digest_after"].as_str().unwrap()
    }

    pub fn observed_at(&self) -> Timestamp {
        Timestamp::from_rfc3339(self.observed()).unwrap()
    }

    pub fn observed(&self) -> &str {
        self.manifest["observed"].as_str().unwrap()
    }
}

/// The prefix of everything in the bucket.
const PREFIX: &str = "atlas/";

impl Store {
    pub fn s3() -> Self {
        Self::S3(S3Server::start())
    }

    pub fn folder() -> Self {
        Self::Folder(tempfile::tempdir().unwrap())
    }

    /// The server, of a store that is one.
    pub fn server(&self) -> &S3Server {
        let Self::S3(server) = self else { panic!("no bucket") };
        server
    }

    pub fn url(&self) -> String {
        match self {
            Self::S3(server) => format!("s3://{}/{}", server.bucket, PREFIX.trim_end_matches('/')),
            Self::Folder(folder) => format!("file:{}", folder.path().join("backups").display()),
        }
    }

    /// `[backup.s3]` for a machine in `folder`, where the credentials are put.
    pub fn section(&self, folder: &Path) -> String {
        let Self::S3(server) = self else { return String::new() };
        for (file, text) in [("s3-id", &server.access_key), ("s3-secret", &server.secret)] {
            std::fs::write(folder.join(file), text).unwrap();
            run("chmod", &["600", folder.join(file).to_str().unwrap()]);
        }
        format!(
            "[backup.s3]\nendpoint = \"{}\"\npath_style = true\naccess_key_id_file = \"s3-id\"\nsecret_access_key_file = \"s3-secret\"\n",
            server.endpoint
        )
    }

    /// All keys, without the prefix, in order.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = match self {
            Self::S3(server) => server
                .keys()
                .iter()
                .map(|key| key.strip_prefix(PREFIX).expect("nothing beside the prefix").to_owned())
                .collect(),
            Self::Folder(folder) => {
                let root = folder.path().join("backups");
                files(&root).iter().map(|file| file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned()).collect()
            }
        };
        keys.sort();
        keys
    }

    pub fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        match self {
            Self::S3(server) => server.bytes(&format!("{PREFIX}{key}")).map(|bytes| bytes.to_vec()),
            Self::Folder(folder) => std::fs::read(folder.path().join("backups").join(key)).ok(),
        }
    }

    /// What was noted with a live segment.
    pub fn note(&self, key: &str) -> Option<String> {
        match self {
            Self::S3(server) => server.metadata(&format!("{PREFIX}{key}")).remove("atlas-note"),
            Self::Folder(folder) => std::fs::read_to_string(note_file(&folder.path().join("backups").join(key))).ok(),
        }
    }

    pub fn remove(&self, key: &str) {
        match self {
            Self::S3(server) => server.remove(&format!("{PREFIX}{key}")),
            Self::Folder(folder) => std::fs::remove_file(folder.path().join("backups").join(key)).unwrap(),
        }
    }

    /// Other bytes under `key`; the note stays.
    pub fn alter(&self, key: &str, bytes: Vec<u8>) {
        match self {
            Self::S3(server) => server.alter(&format!("{PREFIX}{key}"), bytes),
            Self::Folder(folder) => std::fs::write(folder.path().join("backups").join(key), bytes).unwrap(),
        }
    }

    /// The states in it in order: fulls, increments, live segments. Folds lead to none of their own.
    pub fn states(&self) -> Vec<Stated> {
        let mut states: Vec<Stated> = self.keys().iter().filter_map(|key| self.stated(key)).collect();
        states.sort_by_key(|state| state.position);
        states
    }

    /// The newest state.
    pub fn tip(&self) -> Option<Stated> {
        let mut keys: Vec<(u64, String)> =
            self.keys().into_iter().filter_map(|key| Some((position(&key)?, key))).collect();
        keys.sort();
        keys.iter().rev().find_map(|(_, key)| self.stated(key))
    }

    /// How often commits could not be followed.
    pub fn gaps(&self) -> usize {
        self.gap_ends().len()
    }

    /// Between which instants commits could not be followed.
    pub fn gap_ends(&self) -> Vec<(Timestamp, Timestamp)> {
        let states = self.states();
        let gaps =
            states.iter().filter_map(|state| Some((state.manifest.get("gap_from")?.as_str()?, state.observed_at())));
        gaps.map(|(from, to)| (Timestamp::from_rfc3339(from).unwrap(), to)).collect()
    }

    fn stated(&self, key: &str) -> Option<Stated> {
        let position = position(key)?;
        let bytes = if key.contains(".wal.") { self.note(key)?.into_bytes() } else { self.bytes(key)? };
        let manifest = serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{key}: {e}"));
        Some(Stated { key: key.to_owned(), position, manifest })
    }

    /// A copy, with the notes of live segments where a folder has them.
    pub fn downloaded(&self, to: &Path) {
        for key in self.keys() {
            let file = to.join(&key);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, self.bytes(&key).unwrap()).unwrap();
            if let Some(note) = self.note(&key) {
                std::fs::write(note_file(&file), note).unwrap();
            }
        }
    }
}

/// The position that the manifest or the live segment of this name leads to: `t000001/0000000012.json`, `t000001/0000000012.wal.gz`.
fn position(key: &str) -> Option<u64> {
    let (number, rest) = key.rsplit('/').next()?.split_once('.')?;
    let primary = rest == "json" || rest.starts_with("wal.");
    (primary && number.len() == 10).then(|| number.parse().ok()).flatten()
}

/// Where a folder keeps the note of `file`.
fn note_file(file: &Path) -> PathBuf {
    file.with_file_name(format!(".{}.note", file.file_name().unwrap().to_str().unwrap()))
}

/// The files below `folder`, without hidden ones.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let entries = entries.map_while(Result::ok).filter(|entry| !entry.file_name().to_str().unwrap().starts_with('.'));
    entries.flat_map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { vec![entry.path()] }).collect()
}
