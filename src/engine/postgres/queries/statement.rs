//! How PostgreSQL writes what is not code (<https://www.postgresql.org/docs/current/sql-syntax-lexical.html>).
//!
//! `standard_conforming_strings` is taken to be on, as it is since 9.1. Where it is off, a backslash in a text may hide its end from us; the server
//! still takes one statement only, and still reads only.

use crate::engine::queries::statement::{self, Spelling, after_quote};

const POSTGRES: Spelling = Spelling {
    after_blank,
    after_word,
    advice: &[("TABLE", "write `SELECT * FROM …`"), ("SHOW", "write `SELECT current_setting('…')`")],
    parameters: b"$",
};

/// `sql` without the semicolon at its end, if it is one statement that reads.
pub(super) fn only_reading(sql: &str) -> Result<&str, String> {
    statement::only_reading(sql, &POSTGRES)
}

/// `sql` without space around it, if it is one condition.
pub(in crate::engine::postgres) fn only_condition(sql: &str) -> Result<&str, String> {
    statement::only_condition(sql, &POSTGRES)
}

/// Behind a text, a name in quotes, or a word; words, because `E` in front of a text changes how it ends, and a `$` in a word begins no text.
fn after_word(bytes: &[u8], at: usize) -> Result<Option<usize>, String> {
    match bytes[at] {
        b'E' | b'e' if bytes.get(at + 1) == Some(&b'\'') => after_escaped(bytes, at + 2).map(Some),
        quote @ (b'\'' | b'"') => after_quote(bytes, at + 1, quote).map(Some),
        b'$' => after_dollars(bytes, at),
        byte if begins_word(byte) => Ok(Some(after_name(bytes, at, true))),
        // The digits of `$1` and of numbers.
        byte if byte.is_ascii_digit() => Ok(Some(after_name(bytes, at, false))),
        _ => Ok(None),
    }
}

fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn after_name(bytes: &[u8], at: usize, dollars: bool) -> usize {
    let within = |b: &u8| begins_word(*b) || b.is_ascii_digit() || (dollars && *b == b'$');
    at + bytes[at..].iter().take_while(|b| within(b)).count()
}

/// Behind an `E'…'`, in which a backslash takes the next character with it.
fn after_escaped(bytes: &[u8], mut at: usize) -> Result<usize, String> {
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            // A doubled one, which does not begin a text of the other kind.
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 2,
            b'\'' => return Ok(at + 1),
            _ => at += 1,
        }
    }
    Err("a quote is not closed".to_owned())
}

/// Behind a `$tag$…$tag$`; nothing where there is no such tag.
fn after_dollars(bytes: &[u8], at: usize) -> Result<Option<usize>, String> {
    let name = at + 1;
    let end = match bytes.get(name) {
        Some(byte) if begins_word(*byte) => after_name(bytes, name, false),
        _ => name,
    };
    if bytes.get(end) != Some(&b'$') {
        return Ok(None);
    }
    let tag = &bytes[at..=end];
    match bytes[end + 1..].windows(tag.len()).position(|w| w == tag) {
        Some(n) => Ok(Some(end + 1 + n + tag.len())),
        None => Err("a quote is not closed".to_owned()),
    }
}

/// The first place from `from` on that is neither space nor comment.
fn after_blank(sql: &[u8], mut from: usize) -> usize {
    loop {
        let blank = |b: &&u8| matches!(**b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c);
        from += sql[from..].iter().take_while(blank).count();
        let rest = &sql[from..];
        from += if rest.starts_with(b"--") {
            rest.iter().position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            comment(rest)
        } else {
            return from;
        };
    }
}

/// The length of the comment at the start; comments nest. One that is not closed goes to the end, and the server will say so.
fn comment(sql: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while at < sql.len() {
        match &sql[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e7_statements_that_read_pass_without_their_semicolon() {
        for (sql, wanted) in [
            ("SELECT 1", "SELECT 1"),
            (" select 1 ; -- done\r /* ; /* ) */ */ ", " select 1 "),
            (
                "/* a /* b */ ; */ WITH x AS (VALUES (1)) SELECT * FROM x;",
                "/* a /* b */ ; */ WITH x AS (VALUES (1)) SELECT * FROM x",
            ),
            ("VALUES (';'), ('it''s; (')", "VALUES (';'), ('it''s; (')"),
            (r"SELECT E'it\'s; (', e'\\', 'a\'", r"SELECT E'it\'s; (', e'\\', 'a\'"),
            (r"SELECT E'a''b\\\';('", r"SELECT E'a''b\\\';('"),
            ("SELECT nameE'a;'", "SELECT nameE'a;'"),
            ("SELECT $$;($$, $a$ $$ ; $b$ ) $a$", "SELECT $$;($$, $a$ $$ ; $b$ ) $a$"),
            ("SELECT a$b$ FROM c$b$;", "SELECT a$b$ FROM c$b$"),
            ("SELECT $ü$;$ü$", "SELECT $ü$;$ü$"),
            (r#"SELECT ";" FROM t WHERE a[1] = ANY ('{1}')"#, r#"SELECT ";" FROM t WHERE a[1] = ANY ('{1}')"#),
            ("SELECT 1 -- ; comment", "SELECT 1 -- ; comment"),
            ("SELECT 4 - -2 / 2, 1e5, 0x1f", "SELECT 4 - -2 / 2, 1e5, 0x1f"),
        ] {
            assert_eq!(only_reading(sql), Ok(wanted), "{sql}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(sql in "(?s)(SELECT|;|--|/\\*|\\*/|[eE]'|\\$a?\\$|[\\\\'\"`()]|\n|.){0,20}") {
            let _ = only_reading(&sql);
        }

        /// What passes as a condition stays inside of its pair of parentheses, and leaves what follows as it is.
        #[test]
        fn e7_a_condition_is_one_in_its_parentheses(sql in "(?s)(a|=|AND|;|--|/\\*|\\*/|[eE]'|\\$a?\\$|[\\\\'\"`()]|\n|\r|.){0,14}") {
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
            "COPY t TO PROGRAM 'x'",
            "SHOW all",
            "TABLE t",
            "EXPLAIN ANALYZE SELECT 1",
            "CALL p()",
            "DO $$BEGIN END$$",
            "SELECT 1; SELECT 2",
            "SELECT 1;; DELETE FROM t",
            "SELECT 1); DELETE FROM t; SELECT (1",
            "SELECT 1) UNION SELECT * FROM (SELECT 2",
            // What looks like the inside of a text or comment to another database.
            "SELECT 1 -- \r); DELETE FROM t; SELECT (1",
            "SELECT `1); DELETE FROM t; SELECT (`",
            "SELECT [1); DELETE FROM t; SELECT (]",
            r"SELECT 'a\'); DELETE FROM t; SELECT ('",
            "SELECT xE'\\'); DELETE FROM t; SELECT ('",
            "SELECT a$$); DELETE FROM t; SELECT (a$$",
            "SELECT 'open",
            "SELECT $a$ open $b$",
            "SELECT (1",
            "BEGIN",
            "é",
        ] {
            assert!(only_reading(sql).is_err(), "{sql}");
        }
    }

    #[test]
    fn e7_conditions_pass_and_what_is_more_or_less_does_not() {
        for sql in [
            "a = 1",
            " a <> E'\\';)' -- b ",
            "(\"a;\" = 1) OR c IN (SELECT d FROM e)",
            "a::text ? 'b' AND $x$ ) $x$ = d",
        ] {
            assert_eq!(only_condition(sql), Ok(sql.trim()), "{sql}");
        }
        for sql in ["", "--", "a = 1;", "a) OR (b", "(a", "a = 'x", "a /* /* */", "a = $1", "a = $$ x"] {
            assert!(only_condition(sql).is_err(), "{sql}");
        }
    }
}
