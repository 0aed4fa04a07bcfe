//! How SQLite writes what is not code.
//!
//! No PRAGMA: some change the connection for whoever uses it next; those that only tell are there as functions (`SELECT * FROM pragma_page_count`).
//! No EXPLAIN: a plan is no measurement. No ATTACH: this database is what we were given.

use crate::engine::queries::statement::{self, Spelling, after_quote};

const SQLITE: Spelling = Spelling {
    after_blank,
    after_word,
    advice: &[("PRAGMA", "read it as a function: `SELECT * FROM pragma_page_count`")],
    parameters: b"?:@$",
};

/// `sql` without the semicolon at its end, if it is one statement that reads.
pub(super) fn only_reading(sql: &str) -> Result<&str, String> {
    statement::only_reading(sql, &SQLITE)
}

/// `sql` without space around it, if it is one condition.
///
/// No name in double quotes: where there is no such column, SQLite takes it for a text, and a misspelt `"level" <> 'error'` would hold for every row.
pub(in crate::engine::sqlite) fn only_condition(sql: &str) -> Result<&str, String> {
    let sql = statement::only_condition(sql, &SQLITE)?;
    let (bytes, mut at) = (sql.as_bytes(), after_blank(sql.as_bytes(), 0));
    while at < bytes.len() {
        if bytes[at] == b'"' {
            return Err("a name in double quotes may be taken for a text; write `[name]`".to_owned());
        }
        at = after_blank(bytes, after_word(bytes, at)?.unwrap_or(at + 1));
    }
    Ok(sql)
}

/// Behind a text, or a name in one of three kinds of quotes.
fn after_word(bytes: &[u8], at: usize) -> Result<Option<usize>, String> {
    match bytes[at] {
        quote @ (b'\'' | b'"' | b'`') => after_quote(bytes, at + 1, quote).map(Some),
        b'[' => after_quote(bytes, at + 1, b']').map(Some),
        _ => Ok(None),
    }
}

/// The first place from `from` on that is neither space nor comment.
fn after_blank(sql: &[u8], mut from: usize) -> usize {
    loop {
        let rest = sql[from..].trim_ascii_start();
        from = sql.len() - rest.len();
        from += if rest.starts_with(b"--") {
            rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        } else if let Some(comment) = rest.strip_prefix(b"/*") {
            // A comment that is not closed goes to the end, in SQLite as well.
            comment.windows(2).position(|end| end == b"*/").map_or(rest.len(), |n| n + 4)
        } else {
            return from;
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e7_statements_that_read_pass_without_their_semicolon() {
        for (sql, wanted) in [
            ("SELECT 1", "SELECT 1"),
            (" select 1 ; -- done\n /* ; */ ", " select 1 "),
            ("-- first\nWITH x AS (VALUES (1)) SELECT * FROM x;", "-- first\nWITH x AS (VALUES (1)) SELECT * FROM x"),
            ("VALUES (';'), ('it''s; (')", "VALUES (';'), ('it''s; (')"),
            (r#"SELECT ";" FROM [a;)b] WHERE `c;` = 'ü;'"#, r#"SELECT ";" FROM [a;)b] WHERE `c;` = 'ü;'"#),
            ("SELECT 1 -- ; comment", "SELECT 1 -- ; comment"),
            ("SELECT 4 - -2 / 2", "SELECT 4 - -2 / 2"),
        ] {
            assert_eq!(only_reading(sql), Ok(wanted), "{sql}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(sql in "(?s)(SELECT|;|--|/\\*|\\*/|[\\['\"`()]|\n|.){0,20}") {
            let _ = only_reading(&sql);
        }

        /// What passes as a condition stays inside of its pair of parentheses, and leaves what follows as it is.
        #[test]
        fn e7_a_condition_is_one_in_its_parentheses(sql in "(?s)(a|=|AND|;|--|/\\*|\\*/|['\"`()]|\\[|\\]|\n|.){0,14}") {
            if let Ok(condition) = only_condition(&sql) {
                let whole = format!("SELECT (({condition}\n) AND 'x' = 'y');");
                proptest::prop_assert_eq!(only_reading(&whole), Ok(&whole[..whole.len() - 1]));
                let cut = format!("SELECT 1 WHERE ({condition}\n;");
                proptest::prop_assert!(only_reading(&cut).is_err());
            }
        }
    }

    #[test]
    fn e7_everything_else_is_refused() {
        for sql in [
            "",
            " ; ",
            "-- nothing",
            "/* open",
            "INSERT INTO t VALUES (1)",
            "PRAGMA query_only = OFF",
            "ATTACH 'x' AS y",
            "EXPLAIN SELECT 1",
            "DELETE FROM t",
            "SELECT 1; SELECT 2",
            "SELECT 1;; DELETE FROM t",
            "SELECT 1); DELETE FROM t; SELECT (1",
            "SELECT 1) UNION SELECT * FROM (SELECT 2",
            "SELECT 'open",
            "SELECT (1",
            "BEGIN",
            "é",
        ] {
            assert!(only_reading(sql).is_err(), "{sql}");
        }
    }

    #[test]
    fn e7_conditions_pass_and_what_is_more_or_less_does_not() {
        for sql in ["a = 1", " a <> 'x;)' -- b ", "([a\"b] = 1) OR `c?` IN (SELECT d FROM e)", "a LIKE '%?:@$' /* ; */"]
        {
            assert_eq!(only_condition(sql), Ok(sql.trim()), "{sql}");
        }
        for sql in
            ["", "--", "a = 1;", "a) OR (b", "(a", "a = 'x", "a /*", "a = ?", "a = :a", "a = @a", "a = $a", "\"a\" = 1"]
        {
            assert!(only_condition(sql).is_err(), "{sql}");
        }
    }
}
