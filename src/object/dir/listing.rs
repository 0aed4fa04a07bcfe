//! The files below a folder in the order of their keys' bytes, a page at a time.

use std::fs;
use std::io;
use std::path::Path;

use super::modified;
use crate::object::{Listed, ObjectKey, Page};

/// The most objects of a page: as many as S3 gives.
const PAGE: usize = 1000;

/// What is asked for, and what was found of it.
struct Walk<'a> {
    prefix: &'a str,
    after: &'a str,
    objects: Vec<Listed>,
    more: bool,
}

/// The files whose keys begin with `prefix`, behind the key `after`. Each page reads the folders anew: what is stored or deleted meanwhile moves nothing else.
pub(super) fn page(root: &Path, prefix: &str, after: Option<&str>) -> io::Result<Page> {
    let mut walk = Walk { prefix, after: after.unwrap_or_default(), objects: Vec::new(), more: false };
    walk.folder(root, "")?;
    let next = walk.objects.last().filter(|_| walk.more).map(|last| last.key.to_string());
    Ok(Page { objects: walk.objects, next })
}

impl Walk<'_> {
    /// Lists `folder`, whose keys begin with `path`.
    fn folder(&mut self, folder: &Path, path: &str) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            // Removed since its name was read, with its last object.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !path.is_empty() => return Ok(()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // What is no key is not ours.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let key = format!("{path}{name}");
            if ObjectKey::parse(&key).is_none() {
                continue;
            }
            let kind = entry.file_type()?;
            // With its `/`, a folder stands where its keys do: `a-b` is before `a/c`, and `a/c` before `ab`.
            match kind.is_dir() {
                true if self.has_below(&format!("{key}/")) => names.push(format!("{key}/")),
                false if kind.is_file() && key.starts_with(self.prefix) && *key > *self.after => names.push(key),
                _ => {}
            }
        }
        names.sort_unstable();
        for name in names {
            if self.more {
                return Ok(());
            }
            let file = &name[path.len()..];
            match name.ends_with('/') {
                true => self.folder(&folder.join(file), &name)?,
                false => self.file(&folder.join(file), name)?,
            }
        }
        Ok(())
    }

    /// Whether keys that begin with `path` may be wanted.
    fn has_below(&self, path: &str) -> bool {
        (path.starts_with(self.prefix) || self.prefix.starts_with(path))
            && (path > self.after || self.after.starts_with(path))
    }

    fn file(&mut self, file: &Path, key: String) -> io::Result<()> {
        let about = match fs::symlink_metadata(file) {
            // Deleted since its name was read.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            about => about?,
        };
        if self.objects.len() == PAGE {
            self.more = true;
            return Ok(());
        }
        self.objects.push(Listed { key: ObjectKey::ours(key), bytes: about.len(), modified: modified(&about) });
        Ok(())
    }
}
