//! Names and conditions in SQL text: written so that any name is safe, compared so that spelling does not matter.

/// `name` as an identifier in SQL, whatever it contains.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `name` for people: in backticks, without control characters that a terminal would obey.
pub fn shown(name: &str) -> String {
    format!("`{}`", name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>())
}

/// Several names for people.
pub fn shown_list<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(|n| shown(n.as_ref())).collect::<Vec<_>>().join(", ")
}

/// The condition of a partial index out of its `CREATE INDEX` text, in the form of [`canonical`].
pub fn filter_of(create_index: &str) -> Option<String> {
    let tokens = tokens(create_index);
    let mut depth = 0_i32;
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "(" => depth += 1,
            ")" => depth -= 1,
            // A quoted identifier that spells `where` keeps its quotes as a token: see `tokens`.
            "where" if depth == 0 => return Some(joined(&tokens[at + 1..])),
            _ => {}
        }
    }
    None
}

/// A condition in one spelling: lower-case words, no comments, single spaces, no quotes around plain identifiers, no outer parentheses.
pub fn canonical(condition: &str) -> String {
    joined(&tokens(condition))
}

fn joined(mut tokens: &[String]) -> String {
    while let [first, inner @ .., last] = tokens {
        if first != "(" || last != ")" || !balanced(inner) {
            break;
        }
        tokens = inner;
    }
    tokens.join(" ")
}

fn balanced(tokens: &[String]) -> bool {
    let mut depth = 0_i32;
    for token in tokens {
        match token.as_str() {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

/// SQLite's tokens, near enough to compare with: strings, words, numbers, and single other characters. A quoted identifier becomes its word where it
/// is a plain one; otherwise, and where the word would read as the keyword `where`, it stays in double quotes.
fn tokens(sql: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = sql.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '\'' | '"' | '`' => quoted_len(rest, first),
            '[' => rest.find(']').map_or(rest.len(), |at| at + 1),
            '-' if rest.starts_with("--") => rest.find('\n').map_or(rest.len(), |at| at + 1),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(len);
        match first {
            '-' | '/' if len > 1 => {}
            '\'' => out.push(token.to_owned()),
            '"' | '`' | '[' => out.push(identifier(token, first)),
            _ => out.push(token.to_ascii_lowercase()),
        }
        rest = after.trim_start();
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || c == '.'
}

fn identifier(token: &str, quote: char) -> String {
    let inner = token.get(1..token.len().saturating_sub(1)).unwrap_or_default();
    let name =
        if quote == '[' { inner.to_owned() } else { inner.replace(&format!("{quote}{quote}"), &quote.to_string()) };
    let plain = !name.is_empty() && name.chars().all(is_word) && !name.eq_ignore_ascii_case("where");
    if plain { name.to_ascii_lowercase() } else { quoted(&name.to_ascii_lowercase()) }
}

/// The length of the quoted token that `text` begins with; a doubled quote is part of it.
fn quoted_len(text: &str, quote: char) -> usize {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return at + 1;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_one_identifier() {
        assert_eq!(quoted(r#"a"; DROP TABLE t; --"#), r#""a""; DROP TABLE t; --""#);
        assert_eq!(shown("a\u{1b}[2J"), "`a\u{fffd}[2J`");
    }

    #[test]
    fn a_condition_is_recognised_in_other_spellings() {
        let wanted = canonical("status = 'pending'");
        for sql in [
            "CREATE INDEX i ON q (priority, created_at) WHERE status='pending'",
            "create index \"i\" on q(a,b) where (\"status\" = 'pending')",
            "CREATE INDEX i ON q(a) WHERE ((  [status]\n= /* why */ 'pending')) -- so",
            "CREATE INDEX \"where\" ON q(a, (b || 'where')) WHERE `STATUS` = 'pending'",
        ] {
            assert_eq!(filter_of(sql).as_deref(), Some(wanted.as_str()), "{sql}");
        }
    }

    #[test]
    fn other_conditions_stay_other() {
        let of = |filter: &str| filter_of(&format!("CREATE INDEX i ON q(a) WHERE {filter}"));
        assert_eq!(filter_of("CREATE INDEX \"where\" ON q(\"where\")"), None);
        for other in
            ["status = 'PENDING'", "status = 'pend''ing'", "(status) = ('pending') or (a)", "status <> 'pending'"]
        {
            assert_ne!(of(other), Some(canonical("status = 'pending'")), "{other}");
        }
        // Unbalanced after taking the outer pair away: left as it is.
        assert_eq!(of("(a) AND (b)").as_deref(), Some("( a ) and ( b )"));
        // Text that ends in the middle of a token must not panic.
        for torn in ["'", "\"", "[", "/*", "--", "\"a\"\""] {
            let _ = canonical(torn);
        }
    }
}
