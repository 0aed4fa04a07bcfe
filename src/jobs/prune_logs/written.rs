//! Which files somebody has open for writing, as far as `/proc` lets us see: everybody's as root, otherwise those of our own user. Where another user's
//! process keeps a log open, its age and being the newest are what protects it.
//!
//! Only links whose text ends in a name that we ask about are followed: a look at what a dead server holds would hang.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::directory::Identity;

/// The files with one of `names` that are open for writing somewhere.
pub(super) fn written(names: &HashSet<OsString>) -> HashSet<Identity> {
    let mut found = HashSet::new();
    if names.is_empty() {
        return found;
    }
    // What cannot be read belongs to others, or ended meanwhile.
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for process in processes.flatten().filter(|p| p.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit)) {
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        for file in files.flatten() {
            let path = file.path();
            let leads_to = fs::read_link(&path).unwrap_or_default();
            if !leads_to.file_name().is_some_and(|name| names.contains(name)) {
                continue;
            }
            let number = file.file_name();
            if let Ok(about) = fs::metadata(&path)
                && for_writing(&process.path().join("fdinfo").join(number))
            {
                found.insert(Identity::new(about.dev(), about.ino()));
            }
        }
    }
    found
}

/// By the octal `flags:` of proc(5): the last two bits are O_WRONLY or O_RDWR. What cannot be read counts as written.
fn for_writing(info: &Path) -> bool {
    let text = fs::read_to_string(info).unwrap_or_default();
    let flags = text.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_none_or(|flags| flags & 0o3 != 0)
}
