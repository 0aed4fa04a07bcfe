//! Whether a text is one statement that reads.
//!
//! The engine has the last word: it takes one statement at a time, inside of ours, on a connection that cannot write. This is so that a mistake is named in
//! words before anything is sent, and that no parenthesis ends ours.

/// How an engine writes what is not code: the places where a semicolon or a parenthesis means nothing.
pub struct Spelling {
    /// The first place from a given one on that is neither space nor comment.
    pub after_blank: fn(&[u8], usize) -> usize,
    /// Behind the text, name or word that begins at a given place; nothing where there is none. An error where it does not end.
    pub after_word: fn(&[u8], usize) -> Result<Option<usize>, String>,
    /// First words that are refused with a word on what to do instead.
    pub advice: &'static [(&'static str, &'static str)],
    /// Bytes that begin a parameter where code stands.
    pub parameters: &'static [u8],
}

/// `sql` without the semicolon at its end, if it is one statement that begins with SELECT, WITH or VALUES.
pub fn only_reading<'s>(sql: &'s str, spelling: &Spelling) -> Result<&'s str, String> {
    let (end, rest) = first_statement(sql.as_bytes(), spelling)?;
    let start = (spelling.after_blank)(sql.as_bytes(), 0);
    let word = sql.as_bytes()[start..].iter().take_while(|b| b.is_ascii_alphabetic());
    let word: String = word.map(|b| char::from(b.to_ascii_uppercase())).collect();
    if (spelling.after_blank)(sql.as_bytes(), rest) < sql.len() {
        return Err("more than one statement".to_owned());
    }
    if let Some((_, advice)) = spelling.advice.iter().find(|(refused, _)| *refused == word) {
        return Err(format!("{word} is not allowed; {advice}"));
    }
    match word.as_str() {
        "SELECT" | "WITH" | "VALUES" => Ok(&sql[..end]),
        "" => Err("no statement".to_owned()),
        other => Err(format!("a statement that begins with {other} is not allowed, only SELECT, WITH and VALUES")),
    }
}

/// `sql` without space around it, if it is one condition that can stand in a pair of parentheses: it ends neither them nor the statement, leaves
/// nothing open, and has no parameters, which would be ours.
///
/// That it only reads is seen to by where it is used: it is asked on a connection that cannot write before rows go by it.
pub fn only_condition<'s>(sql: &'s str, spelling: &Spelling) -> Result<&'s str, String> {
    let sql = sql.trim();
    // With an end of ours behind it: whatever is open would swallow it.
    let ended = format!("{sql}\n;");
    match first_statement(ended.as_bytes(), spelling)? {
        (end, _) if end + 1 < ended.len() => return Err("more than a condition".to_owned()),
        (end, _) if end == ended.len() => return Err("a comment is not closed".to_owned()),
        _ => {}
    }
    let (bytes, mut at) = (sql.as_bytes(), (spelling.after_blank)(sql.as_bytes(), 0));
    if at >= bytes.len() {
        return Err("no condition".to_owned());
    }
    while at < bytes.len() {
        at = match (spelling.after_word)(bytes, at)? {
            Some(next) => next,
            None if spelling.parameters.contains(&bytes[at]) => return Err("parameters are not allowed".to_owned()),
            None => at + 1,
        };
        at = (spelling.after_blank)(bytes, at);
    }
    Ok(sql)
}

/// Where the first statement ends, and where what follows its semicolon begins. Parentheses must be even in it: it is run inside
/// of a pair.
fn first_statement(bytes: &[u8], spelling: &Spelling) -> Result<(usize, usize), String> {
    let (mut at, mut depth) = (0, 0_i32);
    while at < bytes.len() {
        let next = (spelling.after_blank)(bytes, at);
        if next > at {
            at = next;
            continue;
        }
        if let Some(next) = (spelling.after_word)(bytes, at)? {
            at = next;
            continue;
        }
        match bytes[at] {
            b';' => return balanced(depth).map(|()| (at, at + 1)),
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
pub fn after_quote(bytes: &[u8], from: usize, quote: u8) -> Result<usize, String> {
    let found = bytes[from..].iter().position(|b| *b == quote);
    found.map(|n| from + n + 1).ok_or_else(|| "a quote is not closed".to_owned())
}
