//! `check` on PostgreSQL: what is reached, as whom, over what, and what would be missing.

use super::sources::about;
use super::{Database, Postgres};
use crate::clock::Clock;
use crate::engine::schema::{KeySink, MigrateOptions};
use crate::engine::{Checked, EngineError, Kind, Settings, queries};
use crate::secret::Secret;

/// Looks at the databases and tries the queries; a line each.
pub(super) async fn check(settings: &Settings, clock: &Clock) -> Vec<(String, Checked)> {
    let (mut lines, mut app) = (Vec::new(), None);
    let named = [
        ("database.url", Some(&settings.url), &settings.password),
        ("database.metrics_url", settings.metrics_url.as_ref(), &settings.metrics_password),
    ];
    for (key, url, password) in named.into_iter().filter_map(|(key, url, password)| Some((key, url?, password))) {
        match look(url, password.as_ref(), settings, clock).await {
            Ok((database, seen)) => {
                lines.extend(seen.into_iter().map(|line| (key.to_owned(), line)));
                match app {
                    None => app = Some(database),
                    Some(_) => database.close().await,
                }
            }
            Err(e) => lines.push((key.to_owned(), Checked::Bad(e))),
        }
    }
    let Some(app) = app else { return lines };
    if !lines.iter().any(|(_, line)| matches!(line, Checked::Bad(_))) {
        lines.extend(queries::check(&app, &settings.queries).await);
    }
    app.close().await;
    lines
}

/// The database, what is there and what `migrate` would add, and what the role may not see.
async fn look(
    url: &str,
    password: Option<&Secret>,
    settings: &Settings,
    clock: &Clock,
) -> Result<(Database, Vec<Checked>), EngineError> {
    let database = Database::open(url, password).await?;
    let seen = look_at(&database, settings, clock).await;
    match seen {
        Ok(seen) => Ok((database, seen)),
        Err(e) => {
            database.close().await;
            Err(e)
        }
    }
}

async fn look_at(database: &Database, settings: &Settings, clock: &Clock) -> Result<Vec<Checked>, EngineError> {
    let server = about(database).await?;
    let tls = database.home().and_then(|home| home.tls).unwrap_or_else(|| "without TLS".to_owned());
    let words = format!("`{}`, PostgreSQL {}, role `{}`, {tls}", database.shown(), server.shown_version, server.role);
    let options = MigrateOptions { dry_run: true, key_sink: KeySink::File(settings.state_directory.clone()) };
    let mut lines = vec![match Postgres.migrate(settings, options, clock).await {
        Ok(foreseen) => foreseen.checked(database.shown(), words),
        Err(e) => Checked::Look(format!("{words}; what `migrate` would add cannot be told: {}", e.message)),
    }];
    lines.extend(server.missing_rights().map(Checked::Look));
    Ok(lines)
}
