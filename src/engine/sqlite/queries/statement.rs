//! Whether a text is one statement that reads.

/// `sql` without the semicolon at its end, if it is one statement that begins with SELECT, WITH or VALUES.
pub(super) fn only_reading(sql: &str) -> Result<&str, String> {
    let (end, rest) = first_statement(sql)?;
    let one = &sql[..end];
    let start = &sql.as_bytes()[skip_blank(sql.as_bytes(), 0)..];
    let word = start.iter().take_while(|b| b.is_ascii_alphabetic()).map(|b| char::from(b.to_ascii_uppercase()));
    let word: String = word.collect();
    if skip_blank(sql.as_bytes(), rest) < sql.len() {
        return Err("more than one statement".to_owned());
    }
    match word.as_str() {
        "SELECT" | "WITH" | "VALUES" => Ok(one),
        "" => Err("no statement".to_owned()),
        "PRAGMA" => Err("PRAGMA is not allowed; read it as a function: `SELECT * FROM pragma_page_count`".to_owned()),
        other => Err(format!("a statement that begins with {other} is not allowed, only SELECT, WITH and VALUES")),
    }
}

/// Where the first statement ends, and where what follows its semicolon begins. Parentheses must be even in it: it is run inside
/// of a pair.
fn first_statement(sql: &str) -> Result<(usize, usize), String> {
    let bytes = sql.as_bytes();
    let (mut at, mut depth) = (0, 0_i32);
    while at < bytes.len() {
        let next = skip_blank(bytes, at);
        if next > at {
            at = next;
            continue;
        }
        match bytes[at] {
            b';' => return balanced(depth).map(|()| (at, at + 1)),
            quote @ (b'\'' | b'"' | b'`') => at = after(bytes, at + 1, quote)?,
            b'[' => at = after(bytes, at + 1, b']')?,
            byte => {
                depth += i32::from(byte == b'(') - i32::from(byte == b')');
                if depth < 0 {
                    return balanced(depth).map(|()| (at, at));
                }
                at += 1;
            }
        }
    }
    balanced(depth).map(|()| (bytes.len(), bytes.len()))
}

fn balanced(depth: i32) -> Result<(), String> {
    if depth == 0 { Ok(()) } else { Err("parentheses do not match".to_owned()) }
}

/// Behind the next `quote`. A doubled one inside a text ends it and begins another, which comes to the same.
fn after(bytes: &[u8], from: usize, quote: u8) -> Result<usize, String> {
    let found = bytes[from..].iter().position(|b| *b == quote);
    found.map(|n| from + n + 1).ok_or_else(|| "a quote is not closed".to_owned())
}

/// The first place from `from` on that is neither space nor comment.
fn skip_blank(sql: &[u8], mut from: usize) -> usize {
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
}
