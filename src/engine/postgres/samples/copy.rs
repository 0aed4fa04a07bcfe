//! Rows as COPY's text format has them (<https://www.postgresql.org/docs/current/sql-copy.html>): a line a row, columns parted by tabs. The server
//! reads each column by its own type, whichever it is, so that one text serves NUMERIC, DOUBLE PRECISION and REAL, JSON, JSONB and TEXT.

use sqlx::PgConnection;

use super::columns::Number;
use crate::clock::Timestamp;
use crate::engine::postgres::errors::is_session_over;
use crate::store::Row;

const COPY: &str = "COPY system_metrics (id, metric_name, metric_value, tags, recorded_at) FROM STDIN";

/// Bytes of a message: enough that sending costs little, and the server reads the first rows while the last ones are written.
const MESSAGE: usize = 64 * 1024;

/// The longest row that is usual, beyond [`MESSAGE`].
const ROOM: usize = 4 * 1024;

/// Writes `rows`, all or none; gives back how many the table has now. Those that are missing a trigger of the application took for itself (`RETURN NULL`).
pub(super) async fn rows(connection: &mut PgConnection, value: Number, rows: &[Row]) -> Result<u64, sqlx::Error> {
    let mut copy = connection.copy_in_raw(COPY).await?;
    let mut text = Vec::with_capacity(MESSAGE + ROOM);
    let mut time = Time::default();
    for row in rows {
        push_row(&mut text, row, value, &mut time);
        if text.len() >= MESSAGE {
            copy.send(text.as_slice()).await?;
            text.clear();
        }
    }
    copy.send(text.as_slice()).await?;
    copy.finish().await
}

/// The first of `rows` with which the rows before it are refused, in transactions that are rolled back; nothing if they pass now.
pub(super) async fn first_refused(
    connection: &mut PgConnection,
    value: Number,
    rows: &[Row],
) -> Result<Option<usize>, sqlx::Error> {
    // Those before `passes` pass, and those before `refused` do not.
    let (mut passes, mut refused) = (0, rows.len() + 1);
    while refused - passes > 1 {
        let middle = if refused > rows.len() { rows.len() } else { passes.midpoint(refused) };
        match pass(connection, value, &rows[..middle]).await? {
            true => passes = middle,
            false => refused = middle,
        }
    }
    Ok((refused <= rows.len()).then(|| refused - 1))
}

/// Whether the table would take `part`, also as the transaction ends.
async fn pass(connection: &mut PgConnection, value: Number, part: &[Row]) -> Result<bool, sqlx::Error> {
    sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
    let tried = match rows(connection, value, part).await {
        Ok(_) => sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *connection).await.map(drop),
        Err(e) => Err(e),
    };
    match tried {
        Err(e) if is_session_over(&e) => Err(e),
        tried => {
            sqlx::raw_sql("ROLLBACK").execute(connection).await?;
            Ok(tried.is_ok())
        }
    }
}

/// The last time that was written: rows of one scrape share theirs.
#[derive(Default)]
struct Time(Option<(Timestamp, String)>);

impl Time {
    fn text(&mut self, at: Timestamp) -> &str {
        let known = self.0.take().filter(|(time, _)| *time == at);
        // With its offset, which a TIMESTAMP ignores and a TIMESTAMPTZ wants, whatever time zone the session has (T-3).
        &self.0.insert(known.unwrap_or_else(|| (at, at.to_sql() + "+00"))).1
    }
}

fn push_row(out: &mut Vec<u8>, row: &Row, value: Number, time: &mut Time) {
    push_text(out, &row.id);
    out.push(b'\t');
    push_text(out, &row.name);
    out.push(b'\t');
    value.push(out, row.value);
    out.push(b'\t');
    push_text(out, &row.tags);
    out.push(b'\t');
    out.extend_from_slice(time.text(row.at).as_bytes());
    out.push(b'\n');
}

/// Nearly every text is plain; the others have a backslash, or one of the three characters that part rows and columns.
fn push_text(out: &mut Vec<u8>, text: &str) {
    if !text.bytes().any(|b| matches!(b, b'\\' | b'\t' | b'\n' | b'\r')) {
        return out.extend_from_slice(text.as_bytes());
    }
    for byte in text.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_line() {
        let row = |name: &str, value| Row {
            id: "i".to_owned(),
            name: name.to_owned(),
            tags: r#"{"a":"\n"}"#.to_owned(),
            value,
            at: Timestamp::from_millis(1_795_341_600_250),
        };
        let (mut out, mut time) = (Vec::new(), Time::default());
        for row in [row("m", 5.0), row("\\N\t\r\n", 5e-324), row("\\.", -1e300)] {
            push_row(&mut out, &row, Number::Any, &mut time);
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                "i\tm\t5\t{\"a\":\"\\\\n\"}\t2026-11-22 10:00:00.250+00\n",
                "i\t\\\\N\\t\\r\\n\t5e-324\t{\"a\":\"\\\\n\"}\t2026-11-22 10:00:00.250+00\n",
                "i\t\\\\.\t-1e+300\t{\"a\":\"\\\\n\"}\t2026-11-22 10:00:00.250+00\n",
            )
        );
    }
}
