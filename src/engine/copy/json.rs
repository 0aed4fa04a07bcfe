//! JSON as PostgreSQL takes it: whether a text is JSON for its `json` and its `jsonb`, and one form for each meaning.
//!
//! `jsonb` keeps the meaning and drops the text: order of keys, repeated keys (the last one counts), spaces, the spelling of numbers (V-11). To compare what was sent
//! with what comes back, both are brought into one form here: keys sorted, numbers as exact decimals. serde_json makes doubles of long numbers,
//! and takes some texts that PostgreSQL refuses.

use std::collections::BTreeMap;

use super::decimal::Decimal;

/// Arrays and objects inside one another. PostgreSQL's own limit depends on its stack and lies in the thousands.
const MOST_DEPTH: u32 = 512;

/// Why a text is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not JSON.
    Syntax,
    /// It is nested too deeply.
    Depth,
    /// It has `\u0000`, which `jsonb` cannot hold.
    Nul,
    /// It has half of a surrogate pair, which `jsonb` cannot hold.
    Surrogate,
    /// It has a number that `jsonb` cannot hold.
    Number,
}

impl Fault {
    /// In words, after "is" or "has".
    pub fn words(self) -> &'static str {
        match self {
            Self::Syntax => "is not JSON",
            Self::Depth => "is JSON nested too deeply",
            Self::Nul => "has `\\u0000`, which `jsonb` cannot hold",
            Self::Surrogate => "has half of a surrogate pair, which `jsonb` cannot hold",
            Self::Number => "has a number that `jsonb` cannot hold",
        }
    }
}

/// Whether `json` takes `text`: it keeps it as it is.
pub fn check(text: &str) -> Result<(), Fault> {
    Reader { bytes: text.as_bytes(), at: 0, meaning: false }.whole().map(drop)
}

/// Writes the one form of what `text` means, as `jsonb` sees it.
pub fn canonical(text: &str, out: &mut String) -> Result<(), Fault> {
    let value = Reader { bytes: text.as_bytes(), at: 0, meaning: true }.whole()?;
    value.write(out);
    Ok(())
}

enum Value {
    /// `null`, `true`, `false`, a number.
    Plain(String),
    Text(String),
    Array(Vec<Self>),
    Object(BTreeMap<String, Self>),
}

impl Value {
    fn write(&self, out: &mut String) {
        // Any form will do that differs where meanings differ: strings are led by their length.
        let text = |text: &str, out: &mut String| {
            out.push_str(&format!("{}\"{text}\"", text.len()));
        };
        match self {
            Self::Plain(word) => out.push_str(word),
            Self::Text(content) => text(content, out),
            Self::Array(elements) => {
                out.push('[');
                for element in elements {
                    element.write(out);
                    out.push(',');
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (key, value) in members {
                    text(key, out);
                    out.push(':');
                    value.write(out);
                    out.push(',');
                }
                out.push('}');
            }
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether the meaning is wanted; otherwise only the syntax is looked at, and what is in strings and numbers is left out.
    meaning: bool,
}

impl Reader<'_> {
    fn whole(&mut self) -> Result<Value, Fault> {
        let value = self.value(0)?;
        self.space();
        if self.at == self.bytes.len() { Ok(value) } else { Err(Fault::Syntax) }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Whether `byte` comes next, behind spaces; then it is taken.
    fn takes(&mut self, byte: u8) -> bool {
        self.space();
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.takes(byte) { Ok(()) } else { Err(Fault::Syntax) }
    }

    fn value(&mut self, depth: u32) -> Result<Value, Fault> {
        if depth > MOST_DEPTH {
            return Err(Fault::Depth);
        }
        self.space();
        match self.peek().ok_or(Fault::Syntax)? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.text().map(Value::Text),
            b'-' | b'0'..=b'9' => self.number(),
            _ => ["null", "true", "false"]
                .into_iter()
                .find(|word| self.bytes[self.at..].starts_with(word.as_bytes()))
                .map(|word| {
                    self.at += word.len();
                    Value::Plain(word.to_owned())
                })
                .ok_or(Fault::Syntax),
        }
    }

    fn object(&mut self, depth: u32) -> Result<Value, Fault> {
        self.expect(b'{')?;
        let mut members = BTreeMap::new();
        if self.takes(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.space();
            let key = self.text()?;
            self.expect(b':')?;
            let value = self.value(depth + 1)?;
            if self.meaning {
                members.insert(key, value);
            }
            if !self.takes(b',') {
                self.expect(b'}')?;
                return Ok(Value::Object(members));
            }
        }
    }

    fn array(&mut self, depth: u32) -> Result<Value, Fault> {
        self.expect(b'[')?;
        let mut elements = Vec::new();
        if self.takes(b']') {
            return Ok(Value::Array(elements));
        }
        loop {
            let element = self.value(depth + 1)?;
            if self.meaning {
                elements.push(element);
            }
            if !self.takes(b',') {
                self.expect(b']')?;
                return Ok(Value::Array(elements));
            }
        }
    }

    fn digits(&mut self) -> usize {
        let count = self.bytes[self.at..].iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let leading_zero = self.peek() == Some(b'0');
        let mut good = matches!((self.digits(), leading_zero), (1, true) | (1.., false));
        if self.peek() == Some(b'.') {
            self.at += 1;
            good &= self.digits() > 0;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            good &= self.digits() > 0;
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).ok().filter(|_| good).ok_or(Fault::Syntax)?;
        if !self.meaning {
            return Ok(Value::Plain(String::new()));
        }
        let number = Decimal::parse(text).filter(|n| n.fits(None).is_ok()).ok_or(Fault::Number)?;
        Ok(Value::Plain(number.to_string()))
    }

    fn text(&mut self) -> Result<String, Fault> {
        if self.peek() != Some(b'"') {
            return Err(Fault::Syntax);
        }
        self.at += 1;
        let mut content = Vec::new();
        loop {
            let plain = self.bytes[self.at..].iter().take_while(|b| !matches!(b, b'"' | b'\\' | 0..0x20)).count();
            if self.meaning {
                content.extend_from_slice(&self.bytes[self.at..self.at + plain]);
            }
            self.at += plain + 1;
            match self.bytes.get(self.at - 1) {
                Some(b'"') => return String::from_utf8(content).map_err(|_| Fault::Syntax),
                Some(b'\\') => {
                    let escaped = self.escaped()?;
                    content.extend_from_slice(escaped.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => return Err(Fault::Syntax),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, Fault> {
        let letter = self.peek().ok_or(Fault::Syntax)?;
        self.at += 1;
        Ok(match letter {
            b'"' | b'\\' | b'/' => char::from(letter),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.unit()?;
                return if self.meaning { self.character(first) } else { Ok('?') };
            }
            _ => return Err(Fault::Syntax),
        })
    }

    /// The character whose first (or only) UTF-16 unit is `first`.
    fn character(&mut self, first: u32) -> Result<char, Fault> {
        match first {
            0 => Err(Fault::Nul),
            0xd800..0xdc00 => {
                if !self.bytes[self.at..].starts_with(b"\\u") {
                    return Err(Fault::Surrogate);
                }
                self.at += 2;
                match self.unit()? {
                    second @ 0xdc00..0xe000 => {
                        char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or(Fault::Surrogate)
                    }
                    _ => Err(Fault::Surrogate),
                }
            }
            _ => char::from_u32(first).ok_or(Fault::Surrogate),
        }
    }

    fn unit(&mut self) -> Result<u32, Fault> {
        let hex = self.bytes.get(self.at..self.at + 4).filter(|h| h.iter().all(u8::is_ascii_hexdigit));
        let hex = hex.and_then(|h| std::str::from_utf8(h).ok()).ok_or(Fault::Syntax)?;
        self.at += 4;
        u32::from_str_radix(hex, 16).map_err(|_| Fault::Syntax)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn form(text: &str) -> Result<String, Fault> {
        let mut out = String::new();
        canonical(text, &mut out).map(|()| out)
    }

    #[test]
    fn v11_one_meaning_has_one_form() {
        for (a, b) in [
            (r#"{"b":1,"a":2}"#, r#" { "a" : 2.0 , "b" : 1e0 } "#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#""\u00e9\n\/""#, "\"é\\u000a/\""),
            (r#""\ud83d\ude00""#, "\"😀\""),
            ("[1.50, -0]", "[1.5,0]"),
        ] {
            assert_eq!(form(a), form(b), "{a}");
            assert!(form(a).is_ok());
        }
        for (a, b) in [
            ("[\"a,\",1]", "[\"a\",1]"),
            ("9007199254740993", "9007199254740992"),
            ("\"1\"", "1"),
            ("[[]]", "[]"),
            ("[\"a\",\"b\"]", "[\"a\\\",1\\\"b\"]"),
            ("null", "\"null\""),
        ] {
            assert_ne!(form(a), form(b), "{a}");
        }
    }

    #[test]
    fn what_jsonb_cannot_hold_json_may() {
        for (text, fault) in
            [(r#""\u0000""#, Fault::Nul), (r#""\ud800""#, Fault::Surrogate), (r#""\udc00\ud800""#, Fault::Surrogate)]
        {
            assert_eq!((form(text), check(text)), (Err(fault), Ok(())), "{text}");
        }
        assert_eq!((form("1e200000"), check("1e200000")), (Err(Fault::Number), Ok(())));
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert_eq!((check(&deep(500)), check(&deep(600))), (Ok(()), Err(Fault::Depth)));
    }

    #[test]
    fn other_texts_are_not_json() {
        for bad in [
            "",
            " ",
            "{",
            "[1,]",
            "{a:1}",
            "{'a':1}",
            "01",
            "1.",
            ".5",
            "+1",
            "-",
            "1e",
            "NaN",
            "Infinity",
            "tru",
            "\"",
            "\"\n\"",
            r#""\x""#,
            r#""\u12g4""#,
            "[1]x",
            "{\"a\"}",
            "{\"a\":}",
            "/* */ 1",
            "\u{feff}1",
        ] {
            assert_eq!((form(bad), check(bad)), (Err(Fault::Syntax), Err(Fault::Syntax)), "{bad}");
        }
    }

    proptest! {
        /// serde_json takes the same texts, surrogates and huge numbers aside.
        #[test]
        fn serde_json_agrees(text in r#"([\[\]{}:,"0-9eE+. \\ntu-]|null|true|"a"|"b":|\\u00e9){0,24}"#) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            match (check(&text), &theirs) {
                (Ok(()), Ok(_)) | (Err(_), Err(_)) => {}
                (Ok(()), Err(e)) => prop_assert!(e.to_string().contains("number out of range") || text.contains("\\u"), "{text}: {e}"),
                (Err(fault), Ok(_)) => prop_assert!(false, "{text}: {fault:?}"),
            }
        }
    }
}
