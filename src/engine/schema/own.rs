//! The sidecar's own tables: files under `migrations/`, applied in order and recorded in `sidecar_migrations`. Each engine has its list of
//! them, with the same numbers and names.
//!
//! A file that has been released is never edited: its checksum is in every database that it was applied to. A change is a new file.

use sha2::{Digest, Sha256};

use crate::engine::EngineError;
use crate::engine::schema::inventory::Inventory;

/// The track of these files in `sidecar_migrations`.
pub const OWN: &str = "own";
/// The track of the migrations that the application's specification numbers.
pub const ATLAS: &str = "atlas";
/// Migration 001 of the specification: the first admin key.
pub const API_INFRASTRUCTURE: (i64, &str) = (1, "API infrastructure");
/// Migration 002 of the specification: `access_count` is 0 where it was NULL.
pub const SEARCH_ENHANCEMENT: (i64, &str) = (2, "search enhancement");

/// One file.
#[derive(Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its number.
    pub version: i64,
    /// Its name without number.
    pub name: &'static str,
    /// Its text.
    pub sql: &'static str,
    /// The tables that it makes.
    pub tables: &'static [&'static str],
}

impl Migration {
    /// SHA-256 of the text in hex.
    pub fn checksum(&self) -> String {
        Sha256::digest(self.sql).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Refuses a database that another sidecar has taken further, or elsewhere, than this one knows, with its list of `migrations`.
pub fn check(inventory: &Inventory, migrations: &[Migration]) -> Result<(), EngineError> {
    if let Some(relation) = inventory.relation("sidecar_migrations") {
        inventory.has(&relation.name, &["track", "version", "name", "checksum", "applied_at", "applied_by"]).map_err(
            |missing| {
                EngineError::new(format!("`sidecar_migrations` is not the sidecar's: {missing}"))
                    .hint("names that begin with `sidecar_` are the sidecar's; rename that table")
            },
        )?;
    }
    for applied in &inventory.applied {
        let (track, version) = (&applied.track, applied.version);
        let newest = match track.as_str() {
            OWN => migrations.iter().map(|m| m.version).max().unwrap_or(0),
            ATLAS => SEARCH_ENHANCEMENT.0,
            _ => 0,
        };
        if !(1..=newest).contains(&version) {
            return Err(EngineError::new(format!(
                "migration {version} of `{track}` has been applied, and this sidecar knows none above {newest}"
            ))
            .hint("a newer sidecar was here: use that version, or a later one"));
        }
        let known = migrations.iter().find(|m| track == OWN && m.version == version);
        if let Some(known) = known.filter(|m| m.checksum() != applied.checksum) {
            return Err(EngineError::new(format!(
                "migration {version} (`{}`) was applied with another text than this sidecar's",
                known.name
            ))
            .hint("another build of the sidecar was here: use that one, or a release"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::schema::inventory::Applied;
    use crate::engine::{postgres, sqlite};

    const LISTS: [&[Migration]; 2] = [sqlite::schema::own::MIGRATIONS, postgres::schema::own::MIGRATIONS];

    fn with(track: &str, version: i64, checksum: &str) -> Result<(), EngineError> {
        let applied = vec![Applied { track: track.into(), version, checksum: checksum.into() }];
        check(&Inventory { applied, ..Inventory::default() }, LISTS[0])
    }

    #[test]
    fn both_engines_have_the_same_numbers_names_and_tables() {
        let facts = |list: &[Migration]| list.iter().map(|m| (m.version, m.name, m.tables)).collect::<Vec<_>>();
        assert_eq!(facts(LISTS[0]), facts(LISTS[1]));
        for list in LISTS {
            for (at, migration) in list.iter().enumerate() {
                assert_eq!(migration.version, at as i64 + 1);
                for table in migration.tables {
                    assert!(migration.sql.contains(&format!("CREATE TABLE {table} (")), "{table}");
                }
            }
        }
    }

    /// The same columns in the same order: what one engine's table has, `copy` finds in the other's.
    #[test]
    fn both_engines_have_the_same_columns() {
        let columns = |sql: &str| {
            let words = sql.lines().filter(|l| l.starts_with("    ") && !l.trim_start().starts_with("--"));
            let names = words.filter_map(|l| l.split_whitespace().next().map(str::to_owned));
            // `UNIQUE (…)`, `PRIMARY KEY (…)`: a rule, which the other engine may have as an index.
            names.filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase())).collect::<Vec<_>>()
        };
        for (one, other) in LISTS[0].iter().zip(LISTS[1]) {
            assert_eq!(columns(one.sql), columns(other.sql), "{}", one.name);
        }
    }

    #[test]
    fn newer_or_other_migrations_are_refused() {
        assert!(with(OWN, 1, &LISTS[0][0].checksum()).is_ok());
        assert!(with(ATLAS, 2, "").is_ok());
        for (track, version, checksum, word) in [
            (OWN, 1, "00", "another text"),
            (OWN, 99, "", "none above"),
            (ATLAS, 3, "", "none above"),
            ("x", 1, "", "none above"),
        ] {
            let error = with(track, version, checksum).unwrap_err();
            assert!(error.message.contains(word) && error.hint.is_some(), "{error}");
        }
    }
}
