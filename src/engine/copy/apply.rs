//! One transaction of PostgreSQL: locks, rows, the check, sequences, COMMIT. Whatever ends it earlier leaves the target as it was.

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, PgConnection};

use super::decimal::Decimal;
use super::plan::{Plan, TablePlan};
use super::source::Source;
use super::survey::{convert, name};
use super::tally::{ColumnTotals, Digest, Tally, Totals};
use super::wire::Line;
use super::{CopyError, EngineError, Progress, ROWS_PER_CALL, Step, Watch, target};
use crate::engine::postgres::Database;
use crate::engine::postgres::errors::said;
use crate::engine::schema::names::{quoted, shown};

/// Bytes that are sent at once.
const CHUNK: usize = 64 << 10;

/// What the session is told for this transaction. How values are printed is set, not hoped for. A statement that copies a table takes as long as the table is
/// long; a day is for one that hangs.
const SETTINGS: &str =
    "SET LOCAL statement_timeout = '24h'; SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL TimeZone = 'UTC';
    SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 1";

/// Both sides of a table, counted.
#[derive(Debug)]
pub struct Checked {
    /// What was sent.
    pub sent: Totals,
    /// What the server says that it has.
    pub there: Totals,
    /// The digest of what was sent.
    pub sent_digest: Digest,
    /// The digest of what was read back.
    pub there_digest: Digest,
}

impl Checked {
    /// Whether both sides are the same.
    pub fn is_equal(&self) -> bool {
        self.sent == self.there && self.sent_digest == self.there_digest
    }
}

/// Copies what `plan` says and checks it; only where every table is equal it is committed. The answer is in the order of the plan.
pub async fn apply(
    source: &mut Source,
    database: &Database,
    plan: &Plan,
    round: bool,
    watch: Watch<'_>,
) -> Result<Vec<Checked>, CopyError> {
    let shown = database.shown().to_owned();
    let failed = |e: sqlx::Error| target::error("cannot copy to", &shown, &e);
    let mut transaction = database.write().await.map_err(failed)?;
    sqlx::raw_sql(SETTINGS).execute(&mut *transaction).await.map_err(failed)?;
    lock(&mut transaction, plan).await?;
    let mut checked = Vec::new();
    for table in &plan.tables {
        let (sent, sent_digest) = send(source, &mut transaction, table, round, watch).await?;
        let (there, there_digest) = read_back(&mut transaction, table, watch).await?;
        checked.push(Checked { sent, there, sent_digest, there_digest });
    }
    if checked.iter().all(Checked::is_equal) {
        // What was deferred is checked now: a rollback would not take the sequences back.
        sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *transaction).await.map_err(failed)?;
        for table in &plan.tables {
            set_sequences(&mut transaction, table).await?;
        }
        transaction.commit().await.map_err(|e| unanswered(&shown, &e))?;
    } else {
        transaction.rollback().await.map_err(failed)?;
    }
    Ok(checked)
}

/// Nobody else writes from here on; readers are not in the way. The survey took its time: what was empty then has to be empty still.
async fn lock(connection: &mut PgConnection, plan: &Plan) -> Result<(), CopyError> {
    for table in &plan.tables {
        let failed = |e: sqlx::Error| target::error("cannot lock", table.wanted.name, &e);
        let sql = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", table.to.sql);
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await.map_err(failed)?;
        let now = target::look(connection, &[table.wanted]).await.map_err(failed)?;
        let now = now.get(table.wanted.name);
        if now.is_none_or(|now| now.filled && !(table.replaces_made_key && now.made_key_only)) {
            let error = EngineError::new(format!("{} has got rows in the target meanwhile", shown(table.wanted.name)));
            return Err(CopyError::Failed(error.hint("stop what works with the target, then copy into empty tables")));
        }
        if table.replaces_made_key {
            let sql = format!("DELETE FROM {}", table.to.sql);
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await.map_err(failed)?;
        }
    }
    Ok(())
}

/// Sends the rows of a table and counts them.
async fn send(
    source: &mut Source,
    connection: &mut PgConnection,
    table: &TablePlan,
    round: bool,
    watch: Watch<'_>,
) -> Result<(Totals, Digest), CopyError> {
    let refused = |e: &sqlx::Error| target::error("cannot copy", table.wanted.name, e);
    let columns = target::list(table.columns.iter().map(|c| c.to.name.as_str()));
    let statement = format!("COPY {} ({columns}) FROM STDIN", table.to.sql);
    let mut sink = connection.copy_in_raw(&statement).await.map_err(|e| refused(&e))?;
    let mut tally = Tally::new(table.kinds());
    let read = {
        let mut rows = source.rows(table.select());
        let (mut line, mut bytes, mut count) = (Line::default(), Vec::new(), 0_u64);
        loop {
            let row = match rows.try_next().await {
                Ok(Some(row)) => row,
                Ok(None) => break Ok(bytes),
                Err(e) => break Err(e),
            };
            match convert(table, &row, round, &mut line, |_, _| {}) {
                Ok(true) => {}
                // Named by the survey, and left out.
                Ok(false) => continue,
                Err(e) => break Err(e),
            }
            assert!(tally.add(&line), "what is sent has a form");
            line.encode(&mut bytes);
            if bytes.len() >= CHUNK {
                sink.send(bytes.as_slice()).await.map_err(|e| refused(&e))?;
                bytes.clear();
                // One huge row must not be kept for all that follow.
                bytes.shrink_to(CHUNK * 2);
            }
            count += 1;
            if count.is_multiple_of(ROWS_PER_CALL) {
                watch(Progress { step: Step::Copying, table: table.wanted.name, rows: count });
            }
        }
    };
    let rest = match read {
        Ok(rest) => rest,
        Err(e) => {
            let _ = sink.abort("the source cannot be read").await;
            return Err(source.error(&e));
        }
    };
    sink.send(rest).await.map_err(|e| refused(&e))?;
    match sink.finish().await {
        Ok(_) => Ok((tally.totals(), tally.digest())),
        Err(e) => Err(explain(source, table, round, &e).await),
    }
}

/// The server's refusal, with the row that it is about. It counts lines; what the line was is read from the source again.
async fn explain(source: &mut Source, table: &TablePlan, round: bool, e: &sqlx::Error) -> CopyError {
    let Some(server) = target::server(e) else { return target::error("cannot copy", table.wanted.name, e) };
    let context = server.r#where().unwrap_or_default();
    let Some(number) = line_number(context) else { return target::error("cannot copy", table.wanted.name, e) };
    let column = server.column().or_else(|| column_name(context));
    let mut place = shown(table.wanted.name);
    if let Some(column) = column {
        place = format!("column {} of {place}", shown(column));
    }
    if let Some(constraint) = server.constraint() {
        place = format!("{place}, constraint {}", shown(constraint));
    }
    let row = match name_of_line(source, table, round, number).await {
        Ok(Some(name)) => format!("row {}", shown(&name)),
        _ => format!("line {number}"),
    };
    // Neither the detail nor the context: they quote the row, which may be a secret.
    let why = server.message();
    let error = EngineError::new(format!("the target refuses {row}: {why} ({place})"));
    CopyError::Failed(error.hint(target::NOTHING))
}

/// `COPY t, line 3, column c: "…"`, perhaps below the lines of a trigger.
fn place(context: &str) -> Option<&str> {
    context.lines().find(|line| line.starts_with("COPY "))
}

fn line_number(context: &str) -> Option<u64> {
    let (_, behind) = place(context)?.split_once(", line ")?;
    let digits: String = behind.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn column_name(context: &str) -> Option<&str> {
    let (_, behind) = place(context)?.split_once(", column ")?;
    behind.split([':', ',']).next()
}

async fn name_of_line(
    source: &mut Source,
    table: &TablePlan,
    round: bool,
    number: u64,
) -> Result<Option<String>, sqlx::Error> {
    let mut rows = source.rows(table.select());
    let (mut line, mut count) = (Line::default(), 0);
    while let Some(row) = rows.try_next().await? {
        count += u64::from(convert(table, &row, round, &mut line, |_, _| {})?);
        if count == number {
            return name(&row).map(Some);
        }
    }
    Ok(None)
}

/// Reads a table back: every row for the digest, and the server's own counts and sums.
async fn read_back(
    connection: &mut PgConnection,
    table: &TablePlan,
    watch: Watch<'_>,
) -> Result<(Totals, Digest), CopyError> {
    let failed = |e: sqlx::Error| target::error("cannot read back", table.wanted.name, &e);
    let columns = target::list(table.columns.iter().map(|c| c.to.name.as_str()));
    let filter = table.wanted.filter();
    let statement = format!("COPY (SELECT {columns} FROM {}{filter}) TO STDOUT", table.to.sql);
    let mut tally = Tally::new(table.kinds());
    let mut rows = 0_u64;
    {
        let mut chunks = connection.copy_out_raw(&statement).await.map_err(failed)?;
        let (mut line, mut rest) = (Line::default(), Vec::new());
        while let Some(chunk) = chunks.try_next().await.map_err(failed)? {
            rest.extend_from_slice(&chunk);
            // A chunk is a row, as servers are; the protocol does not promise it.
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                if !(line.decode(&rest[..end]) && tally.add(&line)) {
                    let what = format!("a row of {} came back as none that was sent", shown(table.wanted.name));
                    return Err(CopyError::Failed(EngineError::new(what)));
                }
                rest.drain(..=end);
                rows += 1;
                if rows.is_multiple_of(ROWS_PER_CALL) {
                    watch(Progress { step: Step::Checking, table: table.wanted.name, rows });
                }
            }
        }
    }
    Ok((count(connection, table).await.map_err(failed)?, tally.digest()))
}

/// The server's own counts and sums.
async fn count(connection: &mut PgConnection, table: &TablePlan) -> Result<Totals, sqlx::Error> {
    use sqlx::Row;
    let mut asked = vec!["count(*)".to_owned()];
    for column in &table.columns {
        let name = quoted(&column.to.name);
        asked.push(format!("count({name})"));
        if column.to.kind.has_sum() {
            asked.push(format!("coalesce(sum({name}), 0)::text"));
        }
    }
    let sql = format!("SELECT {} FROM {}{}", asked.join(", "), table.to.sql, table.wanted.filter());
    let row = sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch_one(connection).await?;
    let number = |at: usize| row.try_get::<i64, _>(at).map(|n| n.unsigned_abs());
    let mut totals = Totals { rows: number(0)?, columns: Vec::new() };
    let mut at = 1;
    for column in &table.columns {
        let present = number(at)?;
        at += 1;
        let mut sum = None;
        if column.to.kind.has_sum() {
            sum = Decimal::parse(row.try_get::<&str, _>(at)?);
            at += 1;
        }
        totals.columns.push(ColumnTotals { present, sum });
    }
    Ok(totals)
}

/// Lets the sequences of a table go on behind its rows; never back.
async fn set_sequences(connection: &mut PgConnection, table: &TablePlan) -> Result<(), CopyError> {
    let failed = |e: sqlx::Error| target::error("cannot set the sequence of", table.wanted.name, &e);
    for column in &table.columns {
        let Some(sequence) = &column.to.sequence else { continue };
        let sql = format!(
            "SELECT setval($1::regclass, most) FROM (SELECT max({})::bigint AS most FROM {}) AS rows
             WHERE most > (SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM {sequence})",
            quoted(&column.to.name),
            table.to.sql
        );
        sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .bind(sequence)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// COMMIT failed. Where the server said so, nothing was copied; where it said nothing, nobody knows.
fn unanswered(shown: &str, e: &sqlx::Error) -> CopyError {
    match target::server(e) {
        Some(_) => target::error("cannot copy to", shown, e),
        None => {
            let error = EngineError::new(format!("the connection to `{shown}` was lost at the very end: {}", said(e)));
            CopyError::Failed(
                error.hint("all or nothing was copied; copying again says which: it refuses tables that have rows"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_name_line_and_column() {
        let context = "COPY api_keys, line 3, column rate_limit_per_hour: \"x, line 9\"";
        assert_eq!((line_number(context), column_name(context)), (Some(3), Some("rate_limit_per_hour")));
        assert_eq!((line_number("COPY t, line 12: \"a\tb\""), column_name("COPY t, line 12")), (Some(12), None));
        assert_eq!(line_number("PL/pgSQL function f(a, line 4) line 3 at RAISE\nCOPY t, line 2: \"a\""), Some(2));
        assert_eq!(line_number("SQL function x"), None);
    }
}
