//! Small files of procfs and sysfs: what is missing, what is broken, and what is only a sensor that has nothing to say.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use crate::scrape::CollectError;

/// The most that is read of one file. The longest that are read here are `/proc/stat` (its line of interrupts is some 100 KiB on the largest
/// machines) and the list of mounts (some 100 bytes each).
const MAX_BYTES: u64 = 8 << 20;

/// What a sensor's file may say: node_exporter's figure; the longest are labels.
const SENSOR_BYTES: usize = 128;

/// The bytes of a file that every system has.
pub fn bytes(path: &Path) -> Result<Vec<u8>, CollectError> {
    try_bytes(path).map_err(|e| failure(path, &e))
}

/// The text of a file that every system has; bytes that are not UTF-8 are replaced.
pub fn text(path: &Path) -> Result<String, CollectError> {
    bytes(path).map(lossy)
}

/// The text of a file that some systems have: `None` where there is none.
pub fn text_if_there(path: &Path) -> Result<Option<String>, CollectError> {
    match try_bytes(path) {
        Ok(bytes) => Ok(Some(lossy(bytes))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failure(path, &e)),
    }
}

/// The same with the error as it came, for callers that know more than one harmless error.
pub fn try_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    let read = File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    if read as u64 == MAX_BYTES {
        return Err(io::Error::other(format!("longer than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

/// What a sensor says, without the end of the line. Drivers answer `EAGAIN`, `EIO`, `ENODATA` and more where a sensor sleeps or is
/// not fitted: that is a sensor without a value, not a broken machine. One `read`, as a driver that says `EAGAIN` may say so for ever.
pub fn sensor(path: &Path) -> Option<String> {
    let mut buffer = [0; SENSOR_BYTES];
    let read = File::open(path).ok()?.read(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..read]).trim_matches('\n').to_owned())
}

/// A sensor's value, where it is a number.
pub fn sensor_number(path: &Path) -> Option<f64> {
    sensor(path)?.trim().parse().ok()
}

/// The names in `folder` that are `prefix` and a number, by that number; none where there is no such folder.
pub fn numbered(folder: &Path, prefix: &str) -> Result<Vec<String>, CollectError> {
    let number = |name: &str| name.strip_prefix(prefix).and_then(|n| n.parse::<u32>().ok());
    let mut names: Vec<_> = names(folder)?.into_iter().filter_map(|name| Some((number(&name)?, name))).collect();
    names.sort_unstable();
    Ok(names.into_iter().map(|(_, name)| name).collect())
}

/// The names in `folder`, sorted; none where there is no such folder.
pub fn names(folder: &Path) -> Result<Vec<String>, CollectError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failure(folder, &e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| failure(folder, &e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// A file that cannot be read.
pub fn failure(path: &Path, error: &io::Error) -> CollectError {
    CollectError::Internal(format!("`{}` cannot be read: {error}", path.display()))
}

/// A file that says something else than it should.
pub fn malformed(path: &Path, what: impl fmt::Display) -> CollectError {
    CollectError::Malformed(format!("`{}`: {what}", path.display()))
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_is_not_broken() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        assert_eq!(text_if_there(&path), Ok(None));
        assert_eq!(names(&path), Ok(Vec::new()));
        assert_eq!(sensor(&path), None);
        let error = text(&path).expect_err("it is not there");
        assert_eq!(error.reason(), "internal");
        assert!(error.to_string().contains(path.to_str().expect("ASCII")), "{error}");
        // A folder opens and then cannot be read: broken for a file, nothing for a sensor.
        assert!(text_if_there(folder.path()).is_err());
        assert_eq!(sensor(folder.path()), None);
    }

    #[test]
    fn numbers_sort_as_numbers() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["cpu10", "cpu2", "cpufreq", "cpu", "online"] {
            std::fs::write(folder.path().join(name), "").expect("written");
        }
        assert_eq!(numbered(folder.path(), "cpu"), Ok(vec!["cpu2".to_owned(), "cpu10".to_owned()]));
    }
}
