//! The `atlas-sidecar` program.

use std::process::ExitCode;

use atlas_sidecar::cli::{self, Exit, Invocation, Verb};

fn main() -> ExitCode {
    cli::parse().map_or_else(|exit| exit, |invocation| run(&invocation)).into()
}

fn run(invocation: &Invocation) -> Exit {
    if invocation.verb == Verb::DefaultConfig {
        return cli::default_config::run(invocation);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            cli::complain(&format!("cannot start: {e}"), None);
            return Exit::Failed;
        }
    };
    runtime.block_on(async {
        match &invocation.verb {
            Verb::Check => cli::check::run(invocation).await,
            Verb::Health => cli::health::run(invocation).await,
            // The composition root takes these over.
            Verb::Run | Verb::Migrate { .. } | Verb::Export(_) | Verb::DefaultConfig => match cli::load(invocation) {
                Ok(_) => {
                    cli::complain("this build has no `run`, `migrate` and `export`", None);
                    Exit::Failed
                }
                Err(exit) => exit,
            },
        }
    })
}
