//! The condition of a partial index, as the server writes it, in the spelling of [`names::canonical`].
//!
//! `pg_get_expr` puts the types in: of `status = 'pending'` on a VARCHAR it makes `((status)::text = 'pending'::text)`. Without the casts, and without
//! parentheses around a single word, both are the same.

use crate::engine::schema::names;

/// One spelling for a condition that `pg_get_expr` gave.
pub fn canonical(condition: &str) -> String {
    let text = names::canonical(condition);
    let mut out: Vec<&str> = Vec::new();
    // `canonical` sets single spaces between tokens; one inside a literal is parted and joined again the same way.
    let mut tokens = text.split(' ').peekable();
    while let Some(token) = tokens.next() {
        match token {
            ":" if tokens.peek() == Some(&":") => {
                tokens.next();
                skip_type(&mut tokens);
            }
            ")" if out.len() >= 2 && out[out.len() - 2] == "(" => {
                let word = out.pop().unwrap_or_default();
                out.pop();
                out.push(word);
            }
            _ => out.push(token),
        }
    }
    names::canonical(&out.join(" "))
}

/// The words of a type: `text`, `character varying`, `numeric ( 15 , 4 )`.
fn skip_type<'a>(tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) {
    if tokens.next() == Some("character") {
        tokens.next_if_eq(&"varying");
    }
    if tokens.next_if_eq(&"(").is_some() {
        while tokens.next().is_some_and(|token| token != ")") {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_writes_is_what_was_asked_for() {
        for (server, ours) in [
            ("((status)::text = 'pending'::text)", "status = 'pending'"),
            ("(status = 'pending'::queue_status)", "status = 'pending'"),
            ("(status = 'pending'::character varying(20))", "status = 'pending'"),
            ("is_active", "is_active"),
        ] {
            assert_eq!(canonical(server), names::canonical(ours), "{server}");
        }
        for other in ["((status)::text = 'done'::text)", "(NOT is_active)", "(is_active IS TRUE)", "(a AND b)"] {
            assert!(![names::canonical("status = 'pending'"), "is_active".to_owned()].contains(&canonical(other)));
        }
        // Torn text must not panic.
        for torn in ["::", "(", "a::", "a::character", "::numeric("] {
            let _ = canonical(torn);
        }
    }
}
