//! What is to be done to a database, decided from its [`Inventory`] alone: printable, testable, and without a connection.
//!
//! Nothing here drops, rewrites or renames anything of the application's. What stands in the way becomes a note and stays.

use super::full_text::{self, Need};
use super::own::{self, ATLAS, MIGRATIONS, Migration, OWN};
use super::seed;
use super::{Part, Scope};
use crate::engine::schema::inventory::{Column, Index, Inventory, Kind, Relation};
use crate::engine::schema::names::{canonical, shown, shown_list};
use crate::engine::{EngineError, FullText};

/// Ordered steps, and what is left alone.
#[derive(Debug, Default)]
pub struct Plan {
    /// What is to be done, in order.
    pub steps: Vec<Step>,
    /// Whether all steps are one transaction: in a database without tables, where they are short and half a schema would look like somebody's.
    pub together: bool,
    /// What this scope does not do and `migrate` would.
    pub pending: Vec<String>,
    /// What is left alone and why.
    pub notes: Vec<String>,
    /// What somebody should look at.
    pub warnings: Vec<String>,
}

/// One step: one transaction, or for the filling ones a row of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// For people.
    pub what: String,
    /// For the database.
    pub action: Action,
}

/// What a step does.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// One statement that changes the schema.
    Sql(String),
    /// One file of `migrations/sqlite/`, and its record.
    Own(&'static Migration),
    /// Migration 002: `access_count` 0 where it is NULL, and its record.
    FillAccessCount,
    /// Copies the text and publishes the index.
    FillFullText(full_text::Index),
    /// Migration 001: the first admin key, and its record. The columns are those of the row that the table has.
    AdminKey {
        /// The columns that get a value.
        columns: Vec<&'static str>,
        /// Whether this database never had one made: then a key that a start left behind that was killed here may be taken.
        first: bool,
    },
}

/// The columns of the admin key's row; without the first four it makes no sense.
pub const KEY_COLUMNS: &[&str] =
    &["id", "name", "key_hash", "permissions", "rate_limit_per_hour", "created_at", "is_active"];

/// What `scope` has to do to the `part` of the schema that belongs in this database. The error: another sidecar was here.
pub fn plan(inventory: &Inventory, part: Part, scope: Scope, full_text: &[FullText]) -> Result<Plan, EngineError> {
    own::check(inventory)?;
    let mut planner = Planner {
        empty: inventory.is_empty(),
        all: scope == Scope::All || inventory.is_empty(),
        then: inventory.clone(),
        plan: Plan::default(),
    };
    planner.plan.together = planner.empty;
    planner.own_tables(part);
    for table in seed::TABLES.iter().filter(|t| part != Part::Metrics || t.name == seed::SYSTEM_METRICS) {
        planner.table(table);
    }
    if part != Part::Metrics {
        full_text.iter().for_each(|wanted| planner.full_text(wanted));
        planner.access_count();
        planner.placeholders();
        // Last of all: a key that is told once must not be lost in the failure of a later step.
        planner.admin_key();
    }
    Ok(planner.plan)
}

struct Planner {
    empty: bool,
    all: bool,
    /// The database as it will be after the steps so far.
    then: Inventory,
    plan: Plan,
}

impl Planner {
    fn step(&mut self, what: String, action: Action) {
        match self.all {
            true => self.plan.steps.push(Step { what, action }),
            false => self.plan.pending.push(what),
        }
    }

    fn note(&mut self, note: String) {
        self.plan.notes.push(note);
    }

    fn own_tables(&mut self, part: Part) {
        for migration in MIGRATIONS {
            let here = part != Part::Application || migration.version == 1;
            if !here || self.then.applied(OWN, migration.version) {
                continue;
            }
            let step =
                Step { what: format!("create {}", shown_list(migration.tables)), action: Action::Own(migration) };
            match part {
                // With `metrics_url` the application's database gets a record only where `migrate` has something to record.
                Part::Application => self.step(step.what, step.action),
                Part::Whole | Part::Metrics => self.plan.steps.push(step),
            }
        }
    }

    fn table(&mut self, table: &'static seed::Table) {
        match self.then.relation(table.name).map(|r| r.kind) {
            None if table.base.is_empty() || self.empty => self.create(table),
            None => self.note(format!("{} is the application's and does not exist: not made", shown(table.name))),
            Some(Kind::Table) => {
                self.add_columns(table);
                table.indexes.iter().for_each(|index| self.index(table.name, index));
            }
            Some(other) => self.note(format!("{} is {}: left as it is", shown(table.name), other.words())),
        }
    }

    fn create(&mut self, table: &'static seed::Table) {
        let columns: Vec<String> =
            table.base.iter().chain(table.columns).map(|(name, declaration)| format!("{name} {declaration}")).collect();
        let sql = format!("CREATE TABLE {} (\n    {}\n)", table.name, columns.join(",\n    "));
        self.step(format!("create table {}", shown(table.name)), Action::Sql(sql));
        let columns = table.base.iter().chain(table.columns).map(|(n, d)| future_column(n, d)).collect();
        let relation = Relation { name: table.name.into(), kind: Kind::Table, columns, indexes: Vec::new() };
        self.then.relations.insert(table.name.into(), relation);
        table.indexes.iter().for_each(|index| self.index(table.name, index));
    }

    fn add_columns(&mut self, table: &'static seed::Table) {
        for (name, declaration) in table.columns {
            if self.then.has(table.name, &[name]).is_ok() {
                continue;
            }
            let target = format!("{}.{}", shown(table.name), shown(name));
            let Some((declaration, without)) = seed::addable(declaration) else {
                self.note(format!("column {target} is missing, and SQLite cannot add it as `{declaration}`"));
                continue;
            };
            let lacks = without.map(|w| format!(" (without `{w}`, which SQLite cannot add)")).unwrap_or_default();
            let sql = format!("ALTER TABLE {} ADD COLUMN {name} {declaration}", table.name);
            self.step(format!("add column {target}{lacks}"), Action::Sql(sql));
            if let Some(relation) = self.then.relations.get_mut(table.name) {
                relation.columns.push(future_column(name, declaration));
            }
        }
    }

    fn index(&mut self, table: &'static str, wanted: &'static seed::Index) {
        let filter = wanted.filter.map(canonical);
        let matches = |index: &Index| index.is_over(wanted.columns) && index.filter == filter;
        let name = shown(wanted.name);
        match self.then.index(wanted.name) {
            Some((relation, index)) if relation.name.eq_ignore_ascii_case(table) && matches(index) => return,
            Some((relation, _)) => {
                let other = format!("index {name} is another one, on {}: left as it is", shown(&relation.name));
                return self.note(other);
            }
            None => {}
        }
        if let Some(relation) = self.then.relation(wanted.name) {
            let taken = format!("index {name} is not made: the name is taken by {}", relation.kind.words());
            return self.note(taken);
        }
        if let Err(missing) = self.then.has(table, wanted.columns) {
            return self.note(format!("index {name} is not made: {missing}"));
        }
        // The index of a UNIQUE constraint would serve as well, but the specification names its own beside it.
        let twin = |index: &&Index| index.explicit && index.plain && matches(index);
        let Some(relation) = self.then.relations.get_mut(table) else { return };
        if relation.indexes.iter().any(|i| twin(&i)) {
            return;
        }
        relation.indexes.push(Index {
            name: wanted.name.into(),
            columns: wanted.columns.iter().map(|c| Some((*c).into())).collect(),
            plain: true,
            unique: false,
            explicit: true,
            filter,
        });
        let condition = wanted.filter.map(|f| format!(" WHERE {f}")).unwrap_or_default();
        let on = format!("{table}({}){condition}", wanted.columns.join(", "));
        self.step(
            format!("create index {name} on `{on}`"),
            Action::Sql(format!("CREATE INDEX {} ON {on}", wanted.name)),
        );
    }

    fn full_text(&mut self, wanted: &FullText) {
        match full_text::need(wanted, &self.then) {
            Need::Nothing => {}
            Need::Impossible(why) => self.note(why),
            Need::Fill(index) => self.step(format!("fill {}", index.shown()), Action::FillFullText(index)),
            Need::Make(index) => {
                self.step(format!("create {}", index.shown()), Action::Sql(index.create_sql()));
                self.then.relations.extend(future_full_text(&index));
                self.step(format!("fill {}", index.shown()), Action::FillFullText(index));
            }
        }
    }

    fn access_count(&mut self) {
        let (version, name) = own::SEARCH_ENHANCEMENT;
        let Some(column) = self.ordinary("content_metadata").and_then(|r| r.column("access_count")) else { return };
        if self.then.applied(ATLAS, version) {
            return;
        }
        if column.generated {
            return self.note("`content_metadata`.`access_count` is computed: left as it is".into());
        }
        let what =
            format!("migration {version:03} ({name}): set `content_metadata`.`access_count` to 0 where it is NULL");
        self.step(what, Action::FillAccessCount);
    }

    fn admin_key(&mut self) {
        let Some(table) = self.ordinary("api_keys") else { return };
        if self.then.keys.any {
            return;
        }
        let (version, name) = own::API_INFRASTRUCTURE;
        let present: Vec<&'static str> = KEY_COLUMNS.iter().copied().filter(|c| table.column(c).is_some()).collect();
        let unknown: Vec<&str> = table
            .columns
            .iter()
            .filter(|c| c.required && !KEY_COLUMNS.iter().any(|k| k.eq_ignore_ascii_case(&c.name)))
            .map(|c| c.name.as_str())
            .collect();
        let why = if let Err(missing) = self.then.has("api_keys", &KEY_COLUMNS[..4]) {
            Some(missing)
        } else if table.column("id").is_some_and(|c| c.declared.to_ascii_uppercase().contains("INT")) {
            Some(format!("its column `id` holds numbers, not `{}`", crate::engine::sqlite::admin_key::ID))
        } else if !unknown.is_empty() {
            Some(format!("it wants a value for {}", shown_list(&unknown)))
        } else {
            None
        };
        match why {
            Some(why) => self.note(format!("no admin key is made in `api_keys`: {why}")),
            None => {
                let action = Action::AdminKey { columns: present, first: !self.then.applied(ATLAS, version) };
                self.step(format!("migration {version:03} ({name}): make an admin key"), action);
            }
        }
    }

    fn placeholders(&mut self) {
        if !self.then.keys.placeholders.is_empty() {
            let ids = shown_list(&self.then.keys.placeholders);
            self.plan.warnings.push(format!(
                "`api_keys` has active keys or the seed's own whose hash is no SHA-256 in hex; they are not accepted: {ids}"
            ));
        }
    }

    fn ordinary(&self, table: &str) -> Option<&Relation> {
        self.then.relation(table).filter(|r| r.kind == Kind::Table)
    }
}

/// What the inventory would say of a column that a step adds.
fn future_column(name: &str, declaration: &str) -> Column {
    Column {
        name: name.into(),
        declared: declaration.split_ascii_whitespace().next().unwrap_or_default().into(),
        required: declaration.contains("NOT NULL"),
        primary: declaration.contains("PRIMARY KEY"),
        generated: false,
    }
}

/// The names that a full-text index takes, before and after it is published, so that a later one does not want them.
fn future_full_text(index: &full_text::Index) -> impl Iterator<Item = (String, Relation)> {
    let names = [index.filling.clone(), index.name.clone()];
    let shadows = full_text::SHADOWS.iter().flat_map({
        let names = names.clone();
        move |suffix| names.clone().map(|name| (format!("{name}_{suffix}"), Kind::Shadow))
    });
    names.map(|name| (name, Kind::Virtual)).into_iter().chain(shadows).map(|(name, kind)| {
        (name.to_ascii_lowercase(), Relation { name, kind, columns: Vec::new(), indexes: Vec::new() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::schema::inventory::Keys;

    fn relation(name: &str, kind: Kind, columns: &[&str]) -> (String, Relation) {
        let columns = columns.iter().map(|c| Column { name: (*c).into(), ..Column::default() }).collect();
        (name.to_ascii_lowercase(), Relation { name: name.into(), kind, columns, indexes: Vec::new() })
    }

    fn database(relations: &[(&str, Kind, &[&str])]) -> Inventory {
        let relations = relations.iter().map(|(n, k, c)| relation(n, *k, c)).collect();
        Inventory { relations, ..Inventory::default() }
    }

    fn planned(inventory: &Inventory, part: Part, scope: Scope) -> Plan {
        plan(inventory, part, scope, &[]).unwrap()
    }

    fn steps(plan: &Plan) -> String {
        plan.steps.iter().map(|s| s.what.as_str()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn an_empty_database_gets_everything_at_once_and_the_key_last() {
        for scope in [Scope::All, Scope::Guest] {
            let plan = planned(&Inventory::default(), Part::Whole, scope);
            assert!(plan.together && plan.pending.is_empty() && plan.notes.is_empty());
            assert!(matches!(plan.steps.last().unwrap().action, Action::AdminKey { first: true, .. }));
            for table in seed::TABLES {
                assert!(steps(&plan).contains(&format!("create table `{}`", table.name)));
            }
        }
    }

    #[test]
    fn beside_other_tables_run_adds_its_own_and_names_the_rest() {
        let other = database(&[("notes", Kind::Table, &["id"])]);
        let run = planned(&other, Part::Whole, Scope::Guest);
        assert!(!run.together && run.steps.iter().all(|s| matches!(s.action, Action::Own(_))), "{run:?}");
        let migrate = planned(&other, Part::Whole, Scope::All);
        let rest: Vec<&str> =
            migrate.steps.iter().map(|s| s.what.as_str()).filter(|w| !w.contains("sidecar_")).collect();
        assert_eq!(run.pending, rest);
        assert!(run.notes.iter().any(|n| n.contains("`processing_queue` is the application's")), "{:?}", run.notes);
    }

    #[test]
    fn with_a_file_for_metrics_run_adds_nothing_to_the_application() {
        let other = database(&[("notes", Kind::Table, &["id"])]);
        assert!(planned(&other, Part::Application, Scope::Guest).steps.is_empty());
        let migrate = steps(&planned(&other, Part::Application, Scope::All));
        assert!(migrate.contains("`sidecar_migrations`") && !migrate.contains("sidecar_state"), "{migrate}");
        let metrics = steps(&planned(&Inventory::default(), Part::Metrics, Scope::All));
        assert!(metrics.contains("`system_metrics`") && metrics.contains("sidecar_state"), "{metrics}");
        assert!(!metrics.contains("api_keys") && !metrics.contains("content_metadata"), "{metrics}");
    }

    #[test]
    fn what_is_not_an_ordinary_table_is_left_alone() {
        for kind in [Kind::View, Kind::Virtual, Kind::WithoutRowid, Kind::Shadow] {
            let inventory = database(&[("Api_Keys", kind, &["id", "name", "key_hash", "permissions"])]);
            let plan = planned(&inventory, Part::Whole, Scope::All);
            let note = format!("`api_keys` is {}", kind.words());
            assert!(plan.notes.iter().any(|n| n.contains(&note)), "{:?}", plan.notes);
            assert!(!steps(&plan).contains("api_keys"), "{}", steps(&plan));
        }
    }

    #[test]
    fn missing_columns_are_added_as_far_as_sqlite_can() {
        let plan = planned(&database(&[("WebHooks", Kind::Table, &["ID", "URL"])]), Part::Whole, Scope::All);
        let done = steps(&plan);
        assert!(done.contains("add column `webhooks`.`failure_count`"), "{done}");
        assert!(done.contains("`webhooks`.`created_at` (without `DEFAULT CURRENT_TIMESTAMP`"), "{done}");
        assert!(plan.notes.iter().any(|n| n.contains("`webhooks`.`events` is missing")), "{:?}", plan.notes);
    }

    #[test]
    fn an_index_is_known_by_what_it_covers_not_by_its_name() {
        let index = |name: &str, columns: &[&str], filter: Option<&str>| Index {
            name: name.into(),
            columns: columns.iter().map(|c| Some((*c).into())).collect(),
            plain: true,
            explicit: true,
            filter: filter.map(canonical),
            ..Index::default()
        };
        let with = |index: Index| {
            let mut inventory = database(&[
                ("system_metrics", Kind::Table, &["id", "metric_name", "metric_value", "tags", "recorded_at"]),
                ("other", Kind::Table, &["recorded_at"]),
            ]);
            inventory.relations.get_mut("system_metrics").unwrap().indexes.push(index);
            planned(&inventory, Part::Whole, Scope::All)
        };
        const OURS: &str = "idx_system_metrics_recorded";
        assert!(steps(&with(index("ix_other", &["tags"], None))).contains(OURS));
        assert!(!steps(&with(index("ix_mine", &["Recorded_At"], None))).contains(OURS));
        assert!(steps(&with(index("ix_mine", &["recorded_at"], Some("tags IS NULL")))).contains(OURS));
        assert!(steps(&with(Index { plain: false, ..index("ix_mine", &["recorded_at"], None) })).contains(OURS));
        assert!(steps(&with(Index { explicit: false, ..index("auto", &["recorded_at"], None) })).contains(OURS));
        let same_name = with(index(OURS, &["tags"], None));
        assert!(!steps(&same_name).contains(OURS) && same_name.notes.iter().any(|n| n.contains("another one")));
    }

    #[test]
    fn a_key_is_made_only_where_there_is_none_and_the_row_is_possible() {
        const ALL: &[&str] = &["id", "name", "key_hash", "permissions"];
        let outcome = |inventory: &Inventory| {
            let plan = planned(inventory, Part::Whole, Scope::All);
            (plan.steps.iter().any(|s| matches!(s.action, Action::AdminKey { .. })), plan.notes.join("\n"))
        };
        let mut inventory = database(&[("api_keys", Kind::Table, ALL)]);
        assert!(outcome(&inventory).0);
        inventory.keys = Keys { any: true, placeholders: vec!["admin-key-001".into()] };
        assert!(!outcome(&inventory).0);
        let warnings = planned(&inventory, Part::Whole, Scope::Guest).warnings;
        assert!(warnings.len() == 1 && warnings[0].contains("`admin-key-001`"), "{warnings:?}");

        let (made, notes) = outcome(&database(&[("api_keys", Kind::Table, &["id", "name"])]));
        assert!(!made && notes.contains("no admin key is made in `api_keys`: column `key_hash`"), "{notes}");
        let mut inventory = database(&[("api_keys", Kind::Table, ALL)]);
        let table = inventory.relations.get_mut("api_keys").unwrap();
        table.columns.push(Column { name: "owner".into(), required: true, ..Column::default() });
        assert!(outcome(&inventory).1.contains("wants a value for `owner`"));
        inventory.relations.get_mut("api_keys").unwrap().columns[0].declared = "integer".into();
        assert!(outcome(&inventory).1.contains("holds numbers"));
    }
}
