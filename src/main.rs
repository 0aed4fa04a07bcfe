//! The `atlas-sidecar` program.

use std::process::ExitCode;
use std::time::Duration;

use atlas_sidecar::app::{self, Failure};
use atlas_sidecar::cli::{self, Exit, Invocation, Verb};
use atlas_sidecar::telemetry;
use tracing::warn;

/// How long the runtime's blocking calls may take to end.
const RUNTIME_LIMIT: Duration = Duration::from_secs(1);

/// Does what the command line says.
pub fn main() -> ExitCode {
    cli::parse().map_or_else(|exit| exit, |invocation| start(&invocation)).into()
}

fn start(invocation: &Invocation) -> Exit {
    let runtime = match &invocation.verb {
        Verb::DefaultConfig => return cli::default_config::run(invocation),
        // Two workers: one may encode a page while the other keeps the sources going; the machine is the application's.
        Verb::Run => tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
    };
    match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(obey(invocation));
            // Not dropped: that would wait for a blocking call that hangs (a page nobody waits for any more).
            runtime.shutdown_timeout(RUNTIME_LIMIT);
            exit
        }
        Err(e) => {
            cli::complain(&format!("cannot start: {e}"), None);
            Exit::Failed
        }
    }
}

async fn obey(invocation: &Invocation) -> Exit {
    match &invocation.verb {
        Verb::Run => run(invocation).await,
        Verb::Check => cli::check::run(invocation).await,
        Verb::DefaultConfig => cli::default_config::run(invocation),
        Verb::Migrate { dry_run } => cli::migrate::run(invocation, *dry_run).await,
        Verb::Export(wanted) => cli::export::run(invocation, wanted).await,
        Verb::Copy(wanted) => cli::copy::run(invocation, wanted).await,
        Verb::Health => cli::health::run(invocation).await,
        Verb::Jobs(jobs) => cli::jobs::run(invocation, jobs).await,
        Verb::Backup(wanted) => cli::backup::run(invocation, wanted).await,
        Verb::Restore(wanted) => cli::restore::run(invocation, wanted).await,
        Verb::Unavailable(verb) => cli::unavailable::run(verb),
    }
}

async fn run(invocation: &Invocation) -> Exit {
    let loaded = match cli::load(invocation) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let level = telemetry::start(loaded.settings.log);
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    match app::run(loaded, &invocation.sources, level).await {
        Ok(()) => Exit::Done,
        Err(Failure::Unreachable(e)) => cli::migrate::unreachable(&e),
        Err(Failure::Locked(directory)) => {
            cli::complain(
                &format!("another sidecar is using the state directory `{}`", directory.display()),
                Some("stop it, or give this one a `state_directory` of its own"),
            );
            Exit::TryLater
        }
        Err(Failure::Failed(why)) => {
            cli::complain(&why, None);
            Exit::Failed
        }
    }
}
