//! Server, role and rights: what a plan on PostgreSQL needs to know beside the inventory.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use super::plan::Plan;
use crate::engine::EngineError;
use crate::engine::schema::inventory::Inventory;
use crate::engine::schema::names::{quoted, shown, shown_list};
use crate::engine::schema::plan::Action;
use crate::engine::schema::{Part, seed};

/// The oldest version whose catalogs and statements are used here (`attgenerated`, `pg_stat_progress_create_index` came with 12; 12 has no more updates).
const OLDEST: i32 = 13;
/// The newest version that was looked at.
const NEWEST: i32 = 17;

/// The facts.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// `server_version_num`: 150004 is 15.4.
    pub version: i32,
    /// The role.
    pub role: String,
    /// Where what is made goes; nothing where no schema of the path exists.
    pub schema: Option<String>,
    /// The setting `search_path`.
    pub path: String,
    /// Whether tables can be made in `schema`.
    pub may_create: bool,
    /// Schemas of the path in which everybody may make something.
    pub open: Vec<String>,
    /// Of the tables that concern us.
    pub rights: BTreeMap<String, Rights>,
    /// What would keep the type of `system_metrics.metric_value` from changing.
    pub blocking: Vec<String>,
    /// The columns in the expressions of full-text indexes, by the index's name.
    pub texts: BTreeMap<String, BTreeSet<String>>,
}

/// What the role may do with a table.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    /// Who owns it.
    pub owner: String,
    /// Whether the role is its owner, or has the owner's rights.
    pub owned: bool,
    /// SELECT, INSERT, UPDATE.
    pub may: [bool; 3],
    /// The schema it is in, and whether something can be made there: an index needs that.
    pub schema: String,
    /// See `schema`.
    pub may_create: bool,
}

const SERVER: &str = "
    SELECT current_setting('server_version_num')::int4, current_user::text, current_schema()::text,
        current_setting('search_path'), coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),
        ARRAY(SELECT s::text FROM unnest(current_schemas(false)) AS s WHERE has_schema_privilege('public', s, 'CREATE'))";

const RIGHTS: &str = "
    SELECT c.relname::text, pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE'),
        has_table_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'INSERT'), has_table_privilege(c.oid, 'UPDATE'),
        c.relnamespace::regnamespace::text, has_schema_privilege(c.relnamespace, 'CREATE')
    FROM pg_class AS c
    WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) AND c.relnamespace <> 'pg_catalog'::regnamespace";

/// Views and rules by what they belong to, everything else in the server's words. A default of the column itself, an index or a constraint goes along.
const BLOCKING: &str = "
    SELECT DISTINCT CASE
        WHEN v.relkind = 'v' THEN 'view ' || quote_ident(v.relname)
        WHEN v.relkind = 'm' THEN 'materialized view ' || quote_ident(v.relname)
        ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END
    FROM pg_class AS c
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'metric_value'
    JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid = a.attnum
    LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    LEFT JOIN pg_class AS v ON v.oid = r.ev_class
    LEFT JOIN pg_attrdef AS f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
    WHERE c.relname = 'system_metrics' AND pg_table_is_visible(c.oid)
        AND (d.classid IN ('pg_rewrite'::regclass, 'pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_proc'::regclass,
                'pg_publication_rel'::regclass)
            OR f.adnum <> a.attnum OR (d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid <> a.attnum))
    ORDER BY 1";

const TEXTS: &str = "
    SELECT c.relname::text, a.attname::text
    FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS am ON am.oid = c.relam
    JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = d.refobjsubid
    WHERE c.relname LIKE 'sidecar\\_fts\\_%' AND pg_table_is_visible(c.oid) AND am.amname = 'gin' AND i.indnatts = 1 AND i.indpred IS NULL";

type ServerRow = (i32, String, Option<String>, String, bool, Vec<String>);
type RightsRow = (String, String, bool, bool, bool, bool, String, bool);

/// Reads them.
pub async fn read(connection: &mut PgConnection) -> Result<About, sqlx::Error> {
    let (version, role, schema, path, may_create, open): ServerRow =
        sqlx::query_as(SERVER).fetch_one(&mut *connection).await?;
    let mut about = About { version, role, schema, path, may_create, open, ..About::default() };
    if version / 10_000 < OLDEST {
        // What follows might not be understood there.
        return Ok(about);
    }
    let rows: Vec<RightsRow> = sqlx::query_as(RIGHTS).fetch_all(&mut *connection).await?;
    for (table, owner, owned, select, insert, update, schema, may_create) in rows {
        about.rights.insert(table, Rights { owner, owned, may: [select, insert, update], schema, may_create });
    }
    about.blocking = sqlx::query_scalar(BLOCKING).fetch_all(&mut *connection).await?;
    let texts: Vec<(String, String)> = sqlx::query_as(TEXTS).fetch_all(connection).await?;
    for (index, column) in texts {
        about.texts.entry(index).or_default().insert(column);
    }
    Ok(about)
}

/// The rights by which a running sidecar uses its tables.
const USES: &[(&str, &[usize])] = &[
    ("sidecar_migrations", &[SELECT]),
    ("sidecar_state", &[SELECT, INSERT, UPDATE]),
    ("sidecar_metric_meta", &[SELECT, INSERT, UPDATE]),
    (seed::SYSTEM_METRICS, &[SELECT, INSERT]),
    ("content_metadata", &[SELECT]),
    ("processing_queue", &[SELECT]),
    ("api_keys", &[SELECT]),
    ("webhooks", &[SELECT]),
    ("search_cache", &[SELECT]),
];
const SELECT: usize = 0;
const INSERT: usize = 1;
const UPDATE: usize = 2;
const WORDS: [&str; 3] = ["SELECT", "INSERT", "UPDATE"];

impl About {
    /// Refuses a server that is too old.
    pub fn supported(&self) -> Result<(), EngineError> {
        match self.version / 10_000 {
            major if major < OLDEST => Err(EngineError::new(format!(
                "the server is PostgreSQL {major}, and this sidecar needs {OLDEST} or later"
            ))
            .hint(format!("tested are {OLDEST} to {NEWEST}"))),
            _ => Ok(()),
        }
    }

    /// Adds to `plan` what stands in its way and what does not look right.
    pub fn judge(&self, inventory: &Inventory, part: Part, plan: &mut Plan) {
        let major = self.version / 10_000;
        if major > NEWEST {
            plan.warnings.push(format!("the server is PostgreSQL {major}; tested are {OLDEST} to {NEWEST}"));
        }
        if !inventory.elsewhere.is_empty() && inventory.relations.keys().all(|name| name.starts_with("sidecar_")) {
            let (path, schemas) = (&self.path, shown_list(&inventory.elsewhere));
            plan.warnings.push(format!(
                "no table is on the `search_path` ({path}) of role {}, but {schemas} has tables: if they are the application's, \
                 `ALTER ROLE … SET search_path` leads there",
                shown(&self.role)
            ));
        }
        // A function or an operator that fits the type of a column better than the server's own takes its place, and runs with our rights (CVE-2018-1058).
        plan.warnings.extend(self.open.iter().map(|schema| {
            format!(
                "every role may make functions in schema {}, and such a function can act as role {}; `REVOKE CREATE ON SCHEMA {} FROM PUBLIC`",
                shown(schema),
                shown(&self.role),
                quoted(schema)
            )
        }));
        plan.warnings.extend(self.lacking_uses(part).map(in_a_line));
        let mut obstacles = Vec::new();
        for step in &plan.steps {
            match (&step.action, step.table.as_deref()) {
                (Action::Own(_), _) | (_, None) => obstacles.extend(self.cannot_make()),
                (Action::Sql(_) | Action::Outside(_), Some(table)) => obstacles.extend(self.cannot_change(table)),
                (Action::FillAccessCount, Some(table)) => obstacles.extend(self.lacks(table, &[SELECT, UPDATE])),
                (Action::AdminKey { .. }, Some(table)) => obstacles.extend(self.lacks(table, &[INSERT])),
                (Action::Fill(never), _) => match *never {},
            }
            if matches!(step.action, Action::FillAccessCount | Action::AdminKey { .. } | Action::Own(_)) {
                obstacles.extend(self.lacks("sidecar_migrations", &[INSERT]));
            }
        }
        for obstacle in obstacles {
            if !plan.obstacles.iter().any(|known| known.message == obstacle.message) {
                plan.obstacles.push(obstacle);
            }
        }
    }

    /// Whether the record of what has been applied can be read: without it nothing can be planned.
    pub fn may_read_record(&self) -> Result<(), EngineError> {
        self.lacks("sidecar_migrations", &[SELECT]).map_or(Ok(()), Err)
    }

    /// Where the samples go elsewhere, the application's database is only read.
    fn lacking_uses(&self, part: Part) -> impl Iterator<Item = EngineError> {
        let only_read = part == Part::Application;
        let used = USES.iter().filter(move |(table, _)| !(only_read && table.starts_with("sidecar_")));
        used.filter_map(move |(table, rights)| self.lacks(table, if only_read { &[SELECT] } else { rights }))
    }

    fn lacks(&self, table: &str, rights: &[usize]) -> Option<EngineError> {
        let has = self.rights.get(table)?;
        let missing: Vec<&str> = rights.iter().filter(|r| !has.may[**r]).map(|r| WORDS[*r]).collect();
        if missing.is_empty() {
            return None;
        }
        let missing = missing.join(", ");
        let error =
            EngineError::new(format!("role {} has no right to {missing} on {}", shown(&self.role), shown(table)));
        Some(error.hint(format!("GRANT {missing} ON {} TO {};", quoted(table), quoted(&self.role))))
    }

    fn cannot_make(&self) -> Option<EngineError> {
        let Some(schema) = &self.schema else {
            let error = format!("none of the schemas in `search_path` ({}) exists", self.path);
            return Some(EngineError::new(error).hint("make one, or set the path: `ALTER ROLE … SET search_path = …`"));
        };
        (!self.may_create).then(|| self.no_create(schema))
    }

    fn no_create(&self, schema: &str) -> EngineError {
        let role = &self.role;
        EngineError::new(format!("role {} has no right to CREATE in schema {}", shown(role), shown(schema)))
            .hint(format!("GRANT CREATE ON SCHEMA {} TO {};", quoted(schema), quoted(role)))
    }

    fn cannot_change(&self, table: &str) -> Option<EngineError> {
        // A table that is not there yet is made by an earlier step, and then our own.
        let rights = self.rights.get(table)?;
        let (role, owner) = (&self.role, &rights.owner);
        if !rights.owned {
            let error =
                format!("role {} does not own table {}; its owner is {}", shown(role), shown(table), shown(owner));
            return Some(EngineError::new(error).hint(format!(
                "only an owner adds columns and indexes: run `migrate` as {}, or GRANT {} TO {};",
                shown(owner),
                quoted(owner),
                quoted(role)
            )));
        }
        (!rights.may_create).then(|| self.no_create(&rights.schema))
    }
}

/// An error and what to do about it, as a warning.
pub fn in_a_line(error: EngineError) -> String {
    match error.hint {
        Some(hint) => format!("{}; `{}`", error.message, hint.trim_end_matches(';')),
        None => error.message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_is_refused_and_a_new_one_only_mentioned() {
        let about = |version| About { version, may_create: true, schema: Some("public".into()), ..About::default() };
        assert!(about(120_022).supported().unwrap_err().message.contains("PostgreSQL 12"));
        for version in [130_000, 150_004, 180_001] {
            assert!(about(version).supported().is_ok());
        }
        let warnings = |version| {
            let mut plan = Plan::default();
            about(version).judge(&Inventory::default(), Part::Whole, &mut plan);
            plan.warnings
        };
        assert!(warnings(170_002).is_empty() && warnings(180_001)[0].contains("PostgreSQL 18"));
    }
}
