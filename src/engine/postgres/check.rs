//! `check` on PostgreSQL: what is reached, as whom, over what, and what would be missing.

use super::sources::about;
use super::{Database, schema};
use crate::engine::schema::Part;
use crate::engine::{Checked, EngineError, Settings, queries};
use crate::secret::Secret;

/// Looks at the databases and tries the queries; a line each.
pub(super) async fn check(settings: &Settings) -> Vec<(String, Checked)> {
    let (mut lines, mut app) = (Vec::new(), None);
    let named = [
        ("database.url", Some(settings.url.as_str()), &settings.password, schema::part_of_app(settings)),
        ("database.metrics_url", schema::samples_url(settings), &settings.metrics_password, Part::Metrics),
    ];
    for (key, url, password, part) in named {
        let Some(url) = url else { continue };
        match look((url, password.as_ref()), part, settings).await {
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
    (url, password): (&str, Option<&Secret>),
    part: Part,
    settings: &Settings,
) -> Result<(Database, Vec<Checked>), EngineError> {
    let database = Database::open(url, password).await?;
    let seen = look_at(&database, part, settings).await;
    match seen {
        Ok(seen) => Ok((database, seen)),
        Err(e) => {
            database.close().await;
            Err(e)
        }
    }
}

async fn look_at(database: &Database, part: Part, settings: &Settings) -> Result<Vec<Checked>, EngineError> {
    let server = about(database).await?;
    let tls = database.home().and_then(|home| home.tls).unwrap_or_else(|| "without TLS".to_owned());
    let words = format!("`{}`, PostgreSQL {}, role `{}`, {tls}", database.shown(), server.shown_version, server.role);
    let mut lines = schema::foresee(database, part, settings, words).await;
    lines.extend(server.missing_rights().map(Checked::Look));
    Ok(lines)
}
