//! What becomes of the files of a directory: decided before anything is done, from what was seen of them.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::Files;
use super::directory::{Directory, Identity, Seen};
use super::written::written;
use crate::clock::Timestamp;

/// Files of one directory and run: a listing is held in memory, and what is left is the next run's.
const MOST: usize = 100_000;

/// How far in the future a file may have been written: the log in use is written while we look, and servers' clocks differ.
const SKEW: Duration = Duration::from_secs(300);

/// Endings of files that do not become smaller.
const PACKED: [&[u8]; 6] = [b".gz", b".xz", b".zst", b".bz2", b".lz4", b".zip"];

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Files past their age, the oldest first.
    pub go: Vec<Seen>,
    /// Files to be compressed, the oldest first.
    pub pack: Vec<Seen>,
    /// Files that would be among them, by why they are not.
    pub kept: BTreeMap<&'static str, u64>,
}

/// What a file's age says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Go,
    Pack,
}

/// Whether a rule is about a file of this name. As in a shell, `*` stands for no dot at a name's beginning. What we compressed has `.gz` behind a
/// name of the rule.
pub(super) fn is_meant(rule: &Files, name: &[u8]) -> bool {
    let shown = |name: &[u8]| {
        let hidden = name.starts_with(b".") && !rule.glob.patterns().all(|pattern| pattern.starts_with('.'));
        !name.is_empty() && !hidden && rule.glob.matches_bytes(name)
    };
    shown(name) || (rule.compress_after.is_some() && name.strip_suffix(b".gz").is_some_and(shown))
}

/// Looks at `directory` and decides.
pub(super) fn plan(directory: &Directory, rule: &Files, now: Timestamp) -> io::Result<Plan> {
    let mut plan = Plan::default();
    let mut old: Vec<(Wish, Seen)> = Vec::new();
    let mut newest: Option<(Timestamp, Identity)> = None;
    directory.list(
        |name| is_meant(rule, name),
        |seen| {
            if seen.modified > now.after(SKEW) {
                plan.keep("future");
                return;
            }
            if seen.regular {
                newest = newest.max(Some((seen.modified, seen.identity)));
            }
            match wish(rule, &seen, now) {
                Some(wish) if old.len() < MOST => old.push((wish, seen)),
                Some(_) => plan.keep("next_run"),
                None => {}
            }
        },
    )?;
    let open = written(&old.iter().map(|(_, seen)| seen.name.clone()).collect());
    old.sort_by(|(_, a), (_, b)| (a.modified, &a.name).cmp(&(b.modified, &b.name)));
    for (wish, seen) in old {
        match (reason_to_keep(directory, &seen, newest, &open), wish) {
            (Some(reason), _) => plan.keep(reason),
            (None, Wish::Go) => plan.go.push(seen),
            (None, Wish::Pack) => plan.pack.push(seen),
        }
    }
    Ok(plan)
}

impl Plan {
    fn keep(&mut self, reason: &'static str) {
        *self.kept.entry(reason).or_default() += 1;
    }
}

/// What a file's age and name say.
fn wish(rule: &Files, seen: &Seen, now: Timestamp) -> Option<Wish> {
    let age = now.since(seen.modified);
    if age > rule.keep {
        return Some(Wish::Go);
    }
    let packs = rule.compress_after.is_some_and(|after| age > after) && seen.size > 0;
    (packs && !is_packed(&seen.name)).then_some(Wish::Pack)
}

fn is_packed(name: &OsStr) -> bool {
    PACKED.iter().any(|end| name.as_bytes().ends_with(end))
}

/// Why a file stays whatever its age.
fn reason_to_keep(
    directory: &Directory,
    seen: &Seen,
    newest: Option<(Timestamp, Identity)>,
    open: &HashSet<Identity>,
) -> Option<&'static str> {
    match () {
        () if !seen.regular => Some("not_regular"),
        () if !directory.holds(seen) => Some("other_mount"),
        () if directory.guards(seen) => Some("guarded"),
        // Another name keeps its bytes, and may be anybody's.
        () if seen.links > 1 => Some("linked"),
        () if newest.is_some_and(|(_, newest)| newest == seen.identity) => Some("newest"),
        () if open.contains(&seen.identity) => Some("open"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsString;
    use std::fs;
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;
    use crate::jobs::prune_logs::Guarded;
    use crate::sample::globs::Globs;

    /// The shell's rule, written as it is told.
    fn means(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => means(rest, name) || name.split_first().is_some_and(|(_, n)| means(pattern, n)),
            (Some((b'?', rest)), Some((_, n))) => means(rest, n),
            (Some((p, rest)), Some((c, n))) => p == c && means(rest, n),
            _ => false,
        }
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![4 => Just(b'a'), 4 => Just(b'.'), 2 => Just(b'g'), 2 => Just(b'z'), 1 => Just(b'\n'), 1 => Just(0xff), 1 => Just(b'*')];
        let stem = proptest::collection::vec(byte, 1..6);
        (stem, prop_oneof![3 => "", 1 => "\\.gz", 1 => "\\.gz\\.gz"])
            .prop_map(|(stem, end)| [stem, end.into_bytes()].concat())
            .prop_filter("no file", |name| name != b"." && name != b"..")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]
        /// whatever the names and the pattern, nothing goes that the pattern does not mean, and all but the newest that it does.
        #[test]
        fn nothing_outside_the_pattern_ever_goes(
            names in proptest::collection::btree_set(name(), 1..12),
            pattern in "[a.g*?z]{1,5}",
            packs: bool,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().canonicalize().unwrap();
            for name in &names {
                fs::write(path.join(OsString::from_vec(name.clone())), "x").unwrap();
            }
            let hour = Duration::from_secs(3600);
            let rule = Files {
                directory: path.clone(),
                glob: Globs::new([pattern.clone()]),
                keep: 2 * hour,
                compress_after: packs.then_some(hour),
            };
            let directory = Directory::open(&path, &Guarded::default()).unwrap();
            let now = directory.look(path.join(OsString::from_vec(names.first().unwrap().clone())).as_os_str()).unwrap();
            let plan = plan(&directory, &rule, now.modified.after(3 * hour)).unwrap();
            prop_assert!(plan.pack.is_empty());
            for seen in &plan.go {
                prop_assert!(directory.unlink(seen).unwrap());
            }
            let meant = |name: &[u8]| {
                (!name.starts_with(b".") || pattern.starts_with('.')) && means(pattern.as_bytes(), name)
            };
            let is_rules = |name: &Vec<u8>| {
                meant(name) || (packs && name.strip_suffix(b".gz").is_some_and(|stem| !stem.is_empty() && meant(stem)))
            };
            let left: BTreeSet<Vec<u8>> =
                fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_vec()).collect();
            let (mine, others): (BTreeSet<_>, BTreeSet<_>) = names.into_iter().partition(is_rules);
            prop_assert!(others.is_subset(&left));
            let mine_left = mine.intersection(&left).count();
            prop_assert_eq!(mine_left, usize::from(!mine.is_empty()), "the newest");
        }
    }
}
