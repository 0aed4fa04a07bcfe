//! What is to be done to a database, decided from its [`Inventory`] alone: printable, testable, and without a connection.
//!
//! Nothing here drops, rewrites or renames anything of the application's. What stands in the way becomes a note and stays. What the engines do not say
//! or do in the same way is asked of a [`Dialect`]; the words for people, and their order, are the same on both.

use std::borrow::Cow;
use std::fmt;

use super::inventory::{Column, Index, Inventory, Kind, Relation};
use super::names::{canonical, shown, shown_list};
use super::own::{self, ATLAS, Migration, OWN};
use super::seed;
use super::{Part, Scope};
use crate::engine::{EngineError, FullText};

/// What the plan of one engine says in its own words.
pub trait Dialect: fmt::Debug + Sized {
    /// A step that goes through rows in pieces, and that only this engine has.
    type Fill: fmt::Debug + Send + Sync;
    /// A step that refuses to be in a transaction.
    type Outside: fmt::Debug + Send + Sync;

    /// The engine, for people.
    const NAME: &'static str;
    /// The files that make the sidecar's own tables.
    const MIGRATIONS: &'static [Migration];

    /// A column's declaration.
    fn declaration(&self, seed: &'static str) -> Cow<'static, str>;

    /// Adds a column to a table with rows, which must not get `default`; and what this engine has to leave out.
    fn add_column(
        &self,
        table: &str,
        name: &str,
        declaration: &'static str,
        default: Option<&'static str>,
    ) -> (String, Option<&'static str>);

    /// Makes an index of the seed.
    fn create_index(&self, relation: &Relation, index: &'static seed::Index) -> Action<Self>;

    /// Why this engine would refuse an index with `filter`; the columns are there.
    fn unfit(&self, relation: &Relation, filter: &str) -> Option<String>;

    /// Why a column of `api_keys` cannot hold what the admin key's row has for it.
    fn cannot_hold(&self, column: &Column) -> Option<String>;

    /// Plans one full-text index.
    fn full_text(&self, wanted: &FullText, planner: &mut Planner<'_, Self>);

    /// What only this engine has to look after.
    fn further(&self, planner: &mut Planner<'_, Self>, part: Part);
}

/// Ordered steps, and what is left alone.
#[derive(Debug)]
pub struct Plan<D: Dialect> {
    /// What is to be done, in order.
    pub steps: Vec<Step<D>>,
    /// Whether all steps are one transaction: in a database without tables, where they are short and half a schema would look like somebody's.
    pub together: bool,
    /// What this scope does not do and `migrate` would.
    pub pending: Vec<String>,
    /// What is left alone and why.
    pub notes: Vec<String>,
    /// What somebody should look at.
    pub warnings: Vec<String>,
    /// Why the steps cannot be done: each is something that somebody has to grant first.
    pub obstacles: Vec<EngineError>,
}

impl<D: Dialect> Default for Plan<D> {
    fn default() -> Self {
        Self {
            steps: Vec::new(),
            together: false,
            pending: Vec::new(),
            notes: Vec::new(),
            warnings: Vec::new(),
            obstacles: Vec::new(),
        }
    }
}

/// One step: one transaction, or for the filling ones a row of them.
#[derive(Debug)]
pub struct Step<D: Dialect> {
    /// For people.
    pub what: String,
    /// The table that it changes; nothing where it makes one.
    pub table: Option<String>,
    /// For the database.
    pub action: Action<D>,
}

/// What a step does.
#[derive(Debug)]
pub enum Action<D: Dialect> {
    /// Statements that change the schema.
    Sql(String),
    /// The same, outside of a transaction.
    Outside(D::Outside),
    /// One file of `migrations/`, and its record.
    Own(&'static Migration),
    /// Migration 002: `access_count` 0 where it is NULL, and its record.
    FillAccessCount,
    /// Goes through rows.
    Fill(D::Fill),
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
pub fn plan<D: Dialect>(
    dialect: &D,
    inventory: &Inventory,
    part: Part,
    scope: Scope,
    full_text: &[FullText],
) -> Result<Plan<D>, EngineError> {
    own::check(inventory, D::MIGRATIONS)?;
    let mut planner = Planner {
        dialect,
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
        full_text.iter().for_each(|wanted| dialect.full_text(wanted, &mut planner));
        planner.access_count();
        planner.placeholders();
    }
    dialect.further(&mut planner, part);
    if part != Part::Metrics {
        // Last of all: a key that is told once must not be lost in the failure of a later step.
        planner.admin_key();
    }
    Ok(planner.plan)
}

/// A plan in the making.
pub struct Planner<'a, D: Dialect> {
    dialect: &'a D,
    empty: bool,
    all: bool,
    /// The database as it will be after the steps so far.
    pub then: Inventory,
    /// What has been decided.
    pub plan: Plan<D>,
}

impl<D: Dialect> Planner<'_, D> {
    /// Adds a step, on `table` or on none that exists.
    pub fn step(&mut self, what: String, table: Option<&str>, action: Action<D>) {
        match self.all {
            true => self.plan.steps.push(Step { what, table: table.map(str::to_owned), action }),
            false => self.plan.pending.push(what),
        }
    }

    /// Says what is left alone.
    pub fn note(&mut self, note: String) {
        self.plan.notes.push(note);
    }

    fn own_tables(&mut self, part: Part) {
        for migration in D::MIGRATIONS {
            let here = part != Part::Application || migration.version == 1;
            if !here || self.then.applied(OWN, migration.version) {
                continue;
            }
            let what = format!("create {}", shown_list(migration.tables));
            let action = Action::Own(migration);
            match part {
                // With `metrics_url` the application's database gets a record only where `migrate` has something to record.
                Part::Application => self.step(what, None, action),
                Part::Whole | Part::Metrics => self.plan.steps.push(Step { what, table: None, action }),
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
        let columns: Vec<String> = (table.base.iter().chain(table.columns))
            .map(|(name, declaration)| format!("{name} {}", self.dialect.declaration(declaration)))
            .collect();
        let sql = format!("CREATE TABLE {} (\n    {}\n)", table.name, columns.join(",\n    "));
        self.step(format!("create table {}", shown(table.name)), None, Action::Sql(sql));
        let columns = table.base.iter().chain(table.columns).map(|(n, d)| future_column(n, d)).collect();
        let relation =
            Relation { name: table.name.into(), kind: Kind::Table, columns, indexes: Vec::new(), filled: false };
        self.then.relations.insert(table.name.into(), relation);
        table.indexes.iter().for_each(|index| self.index(table.name, index));
    }

    fn add_columns(&mut self, table: &'static seed::Table) {
        for (name, declaration) in table.columns {
            if self.then.has(table.name, &[name]).is_ok() {
                continue;
            }
            let target = format!("{}.{}", shown(table.name), shown(name));
            let Some((declaration, default)) = seed::addable(declaration) else {
                self.note(format!("column {target} is missing, and {} cannot add it as `{declaration}`", D::NAME));
                continue;
            };
            let (sql, lacks) = self.dialect.add_column(table.name, name, declaration, default);
            let lacks = lacks.map(|w| format!(" (without `{w}`, which {} cannot add)", D::NAME)).unwrap_or_default();
            self.step(format!("add column {target}{lacks}"), Some(table.name), Action::Sql(sql));
            if let Some(relation) = self.then.relations.get_mut(table.name) {
                relation.columns.push(future_column(name, declaration));
            }
        }
    }

    fn index(&mut self, table: &'static str, wanted: &'static seed::Index) {
        let filter = wanted.filter.map(canonical);
        let matches = |index: &Index| index.is_over(wanted.columns) && index.filter == filter;
        let name = shown(wanted.name);
        let mut again = "";
        match self.then.index(wanted.name) {
            Some((relation, index)) if relation.name.eq_ignore_ascii_case(table) && matches(index) => {
                if !index.broken {
                    return;
                }
                again = ", whose first building was interrupted";
            }
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
        let twin = |index: &&Index| index.explicit && index.plain && !index.broken && matches(index);
        let Some(relation) = self.then.relations.get_mut(table) else { return };
        if relation.indexes.iter().any(|i| twin(&i)) {
            return;
        }
        if let Some(why) = wanted.filter.and_then(|filter| self.dialect.unfit(relation, filter)) {
            return self.note(format!("index {name} is not made: {why}"));
        }
        let action = self.dialect.create_index(relation, wanted);
        relation.indexes.push(Index {
            name: wanted.name.into(),
            columns: wanted.columns.iter().map(|c| Some((*c).into())).collect(),
            plain: true,
            unique: false,
            explicit: true,
            filter,
            broken: false,
        });
        self.step(format!("create index {name} on `{}`{again}", wanted.on(table)), Some(table), action);
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
        self.step(what, Some("content_metadata"), Action::FillAccessCount);
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
        } else if let Some(why) = present.iter().find_map(|c| self.dialect.cannot_hold(table.column(c)?)) {
            Some(why)
        } else if !unknown.is_empty() {
            Some(format!("it wants a value for {}", shown_list(&unknown)))
        } else {
            None
        };
        match why {
            Some(why) => self.note(format!("no admin key is made in `api_keys`: {why}")),
            None => {
                let action = Action::AdminKey { columns: present, first: !self.then.applied(ATLAS, version) };
                let what = format!("migration {version:03} ({name}): make an admin key");
                self.step(what, Some("api_keys"), action);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::schema::inventory::Keys;
    use crate::engine::{postgres, sqlite};

    fn relation(name: &str, kind: Kind, columns: &[&str]) -> (String, Relation) {
        let columns = columns.iter().map(|c| Column { name: (*c).into(), ..Column::default() }).collect();
        (name.to_ascii_lowercase(), Relation { name: name.into(), kind, columns, indexes: Vec::new(), filled: true })
    }

    fn database(relations: &[(&str, Kind, &[&str])]) -> Inventory {
        let relations = relations.iter().map(|(n, k, c)| relation(n, *k, c)).collect();
        Inventory { relations, ..Inventory::default() }
    }

    /// What of a plan is for people, so that the engines can be compared.
    #[derive(Debug, PartialEq)]
    struct Words {
        together: bool,
        steps: Vec<String>,
        pending: Vec<String>,
        notes: Vec<String>,
        warnings: Vec<String>,
        own_only: bool,
        key_is_last: bool,
    }

    fn words<D: Dialect>(plan: Plan<D>) -> Words {
        assert!(plan.obstacles.is_empty());
        Words {
            together: plan.together,
            own_only: plan.steps.iter().all(|s| matches!(s.action, Action::Own(_))),
            key_is_last: plan.steps.last().is_some_and(|s| matches!(s.action, Action::AdminKey { first: true, .. })),
            steps: plan.steps.into_iter().map(|s| s.what).collect(),
            pending: plan.pending,
            notes: plan.notes,
            warnings: plan.warnings,
        }
    }

    /// What SQLite and PostgreSQL say.
    fn planned(inventory: &Inventory, part: Part, scope: Scope) -> [Words; 2] {
        let about = postgres::schema::about::About { version: 150_000, ..Default::default() };
        let postgres = postgres::schema::plan::Dialect { about, widen: false };
        [
            words(plan(&sqlite::schema::plan::Dialect, inventory, part, scope, &[]).unwrap()),
            words(plan(&postgres, inventory, part, scope, &[]).unwrap()),
        ]
    }

    fn steps(plan: &Words) -> String {
        plan.steps.join("\n")
    }

    #[test]
    fn an_empty_database_gets_everything_at_once_and_the_key_last() {
        for scope in [Scope::All, Scope::Guest] {
            let [plan, other] = planned(&Inventory::default(), Part::Whole, scope);
            assert_eq!(plan, other);
            assert!(plan.together && plan.pending.is_empty() && plan.notes.is_empty() && plan.key_is_last);
            for table in seed::TABLES {
                assert!(steps(&plan).contains(&format!("create table `{}`", table.name)));
            }
        }
    }

    #[test]
    fn beside_other_tables_run_adds_its_own_and_names_the_rest() {
        let other = database(&[("notes", Kind::Table, &["id"])]);
        let [run, same] = planned(&other, Part::Whole, Scope::Guest);
        assert_eq!(run, same);
        assert!(!run.together && run.own_only, "{run:?}");
        let [migrate, same] = planned(&other, Part::Whole, Scope::All);
        assert_eq!(migrate, same);
        let rest: Vec<&String> = migrate.steps.iter().filter(|w| !w.contains("sidecar_")).collect();
        assert_eq!(run.pending.iter().collect::<Vec<_>>(), rest);
        assert!(run.notes.iter().any(|n| n.contains("`processing_queue` is the application's")), "{:?}", run.notes);
    }

    /// Tables that an unqualified name does not reach may be the application's.
    #[test]
    fn a_database_with_tables_elsewhere_is_not_empty() {
        let inventory = Inventory { elsewhere: vec!["app".into()], ..Inventory::default() };
        let [_, run] = planned(&inventory, Part::Whole, Scope::Guest);
        assert!(!run.together && run.own_only, "{run:?}");
    }

    #[test]
    fn with_a_file_for_metrics_run_adds_nothing_to_the_application() {
        let other = database(&[("notes", Kind::Table, &["id"])]);
        assert!(planned(&other, Part::Application, Scope::Guest).iter().all(|plan| plan.steps.is_empty()));
        let [migrate, same] = planned(&other, Part::Application, Scope::All);
        assert_eq!(migrate, same);
        let migrate = steps(&migrate);
        assert!(migrate.contains("`sidecar_migrations`") && !migrate.contains("sidecar_state"), "{migrate}");
        let [metrics, same] = planned(&Inventory::default(), Part::Metrics, Scope::All);
        assert_eq!(metrics, same);
        let metrics = steps(&metrics);
        assert!(metrics.contains("`system_metrics`") && metrics.contains("sidecar_state"), "{metrics}");
        assert!(!metrics.contains("api_keys") && !metrics.contains("content_metadata"), "{metrics}");
    }

    #[test]
    fn what_is_not_an_ordinary_table_is_left_alone() {
        for kind in [Kind::View, Kind::Virtual, Kind::WithoutRowid, Kind::Shadow, Kind::Partitioned, Kind::Foreign] {
            let inventory = database(&[("Api_Keys", kind, &["id", "name", "key_hash", "permissions"])]);
            let note = format!("`api_keys` is {}", kind.words());
            for plan in planned(&inventory, Part::Whole, Scope::All) {
                assert!(plan.notes.iter().any(|n| n.contains(&note)), "{:?}", plan.notes);
                assert!(!steps(&plan).contains("api_keys"), "{}", steps(&plan));
            }
        }
    }

    #[test]
    fn missing_columns_are_added_as_far_as_the_engine_can() {
        let [lite, postgres] =
            planned(&database(&[("WebHooks", Kind::Table, &["ID", "URL"])]), Part::Whole, Scope::All);
        for plan in [&lite, &postgres] {
            assert!(steps(plan).contains("add column `webhooks`.`failure_count`"), "{plan:?}");
            assert!(plan.notes.iter().any(|n| n.contains("`webhooks`.`events` is missing")), "{:?}", plan.notes);
        }
        assert!(steps(&lite).contains("`webhooks`.`created_at` (without `DEFAULT CURRENT_TIMESTAMP`"), "{lite:?}");
        assert!(steps(&postgres).contains("add column `webhooks`.`created_at`\n"), "{postgres:?}");
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
            let [plan, same] = planned(&inventory, Part::Whole, Scope::All);
            assert_eq!((&plan.steps, &plan.notes), (&same.steps, &same.notes));
            plan
        };
        const OURS: &str = "idx_system_metrics_recorded";
        assert!(steps(&with(index("ix_other", &["tags"], None))).contains(OURS));
        assert!(!steps(&with(index("ix_mine", &["Recorded_At"], None))).contains(OURS));
        assert!(steps(&with(index("ix_mine", &["recorded_at"], Some("tags IS NULL")))).contains(OURS));
        assert!(steps(&with(Index { plain: false, ..index("ix_mine", &["recorded_at"], None) })).contains(OURS));
        assert!(steps(&with(Index { explicit: false, ..index("auto", &["recorded_at"], None) })).contains(OURS));
        assert!(steps(&with(Index { broken: true, ..index("ix_mine", &["recorded_at"], None) })).contains(OURS));
        let broken = with(Index { broken: true, ..index(OURS, &["recorded_at"], None) });
        assert!(steps(&broken).contains("first building was interrupted"), "{broken:?}");
        let same_name = with(index(OURS, &["tags"], None));
        assert!(!steps(&same_name).contains(OURS) && same_name.notes.iter().any(|n| n.contains("another one")));
    }

    #[test]
    fn a_key_is_made_only_where_there_is_none_and_the_row_is_possible() {
        const ALL: &[&str] = &["id", "name", "key_hash", "permissions"];
        let outcome = |inventory: &Inventory| {
            let lite = sqlite::schema::plan(inventory, Part::Whole, Scope::All, &[]).unwrap();
            (lite.steps.iter().any(|s| matches!(s.action, Action::AdminKey { .. })), lite.notes.join("\n"))
        };
        let mut inventory = database(&[("api_keys", Kind::Table, ALL)]);
        assert!(outcome(&inventory).0);
        inventory.keys = Keys { any: true, placeholders: vec!["admin-key-001".into()] };
        assert!(!outcome(&inventory).0);
        let [Words { warnings, .. }, same] = planned(&inventory, Part::Whole, Scope::Guest);
        assert_eq!(warnings, same.warnings);
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
