//! `backup`: makes backups by way of the jobs, and looks at what is at the destination.
//!
//! `full` and `incremental` are the jobs of those names, run now: there is one way in which backups are made, and one place where only one is made at a time.
//! `list` and `verify` read the destination and nothing else; they work on a machine that has no database and no sidecar.

pub(super) mod bar;
mod list;
mod prune;
mod verify;

use std::sync::Arc;

use prometheus::Registry;

use super::{Backup, Exit, Invocation, complain, jobs, load, unavailable};
use crate::backup::codec::Identity;
use crate::backup::{Catalog, ship};
use crate::config::Settings;
use crate::control::Ask;
use crate::object::{self, Destination, ObjectError, ObjectStore};

/// Does what `wanted` says.
pub async fn run(invocation: &Invocation, wanted: &Backup) -> Exit {
    let settings = match load(invocation) {
        Ok(loaded) => loaded.settings,
        Err(exit) => return exit,
    };
    match wanted {
        Backup::Full { allow_empty } => make(invocation, &settings, "backup-full", *allow_empty).await,
        Backup::Incremental => make(invocation, &settings, "backup-incremental", false).await,
        Backup::List { destination } => match look(&settings, destination.as_ref()).await {
            Ok(there) => list::run(there, invocation.json).await,
            Err(exit) => exit,
        },
        Backup::Verify { deep, destination } => match look(&settings, destination.as_ref()).await {
            Ok(there) => verify::run(&there, *deep, invocation.json).await,
            Err(exit) => exit,
        },
        // By the configuration's policy, so only where the configuration says.
        Backup::Prune { yes } => match refusal(&settings).map_or_else(|| destination(&settings, None, "backup"), Err) {
            Ok((store, _)) => prune::run(store.as_ref(), &settings.backup.policy, *yes, invocation.json).await,
            Err(exit) => exit,
        },
    }
}

/// Runs the job that makes backups of a kind.
async fn make(invocation: &Invocation, settings: &Settings, job: &str, allow_empty: bool) -> Exit {
    if let Some(exit) = refusal(settings) {
        return exit;
    }
    if allow_empty && let Err(e) = ship::allow_empty(&settings.state_directory).await {
        complain(&e.to_string(), None);
        return Exit::Failed;
    }
    jobs::run(invocation, &Ask::Run { job: job.to_owned(), dry_run: false, clock_is_right: false }).await
}

/// A destination and what is there.
pub(super) struct There {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) identity: Option<Identity>,
    pub(super) catalog: Catalog,
}

/// Looks at the destination that `flag` names, or the configuration.
async fn look(settings: &Settings, flag: Option<&Destination>) -> Result<There, Exit> {
    let (store, identity) = destination(settings, flag, "backup")?;
    let catalog = Catalog::load(store.as_ref()).await.map_err(|e| out_of_reach(&e))?;
    Ok(There { store, identity, catalog })
}

/// The store that `flag` names, or the configuration, and what reads what is encrypted there.
pub(super) fn destination(
    settings: &Settings,
    flag: Option<&Destination>,
    verb: &str,
) -> Result<(Arc<dyn ObjectStore>, Option<Identity>), Exit> {
    let destination = match flag {
        Some(flag) => flag.clone(),
        None => match &settings.backup.destination {
            Some(destination) if settings.makes_backups() => destination.clone(),
            _ => return Err(none(settings, verb, true)),
        },
    };
    let identity = settings.backup.identity_file.as_deref().map(Identity::from_file).transpose().map_err(|why| {
        complain(&format!("`backup.encryption.identity_file`: {why}"), None);
        Exit::Usage
    })?;
    match object::open(&settings.backup.object(destination), &Registry::new()) {
        Ok(store) => Ok((store, identity)),
        Err(why) => {
            complain(&why, None);
            Err(Exit::Usage)
        }
    }
}

/// Why there are no jobs that make backups, where there are none.
pub(super) fn refusal(settings: &Settings) -> Option<Exit> {
    (!settings.makes_backups()).then(|| none(settings, "backup", false))
}

/// `takes_flag`: whether what was asked for can be told a destination.
fn none(settings: &Settings, verb: &str, takes_flag: bool) -> Exit {
    if settings.backup.destination.is_some() {
        return unavailable::on_postgres(verb);
    }
    let hint = match takes_flag {
        true => "set it, or name one: `--destination file:PATH` or `--destination s3://bucket/prefix`",
        false => "set it to `file:` and a folder, or to `s3://bucket/prefix`",
    };
    complain("there is no destination of backups: `backup.destination` is empty", Some(hint));
    Exit::Usage
}

/// Says why a destination did not do what it was asked.
pub(super) fn out_of_reach(error: &ObjectError) -> Exit {
    let (exit, hint) = match error {
        ObjectError::Transient(_) => (Exit::Unreachable, None),
        ObjectError::Denied(_) => (Exit::Unreachable, Some("`atlas-sidecar check` shows what the destination allows")),
        ObjectError::Missing(_) | ObjectError::Exists(_) | ObjectError::Corrupt(_) => (Exit::Failed, None),
    };
    complain(&error.to_string(), hint);
    exit
}
