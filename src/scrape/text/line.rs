//! The grammar of one line. Everything borrows from the page; only what carries escapes is copied.

use std::borrow::Cow;

use crate::clock::Timestamp;

use super::families::Declared;
use super::{Limits, Pairs, Syntax, number};

/// Why a line was not taken.
pub(super) enum Fault {
    /// It is not understood: skipped and counted.
    Bad(&'static str),
    /// It exceeds a limit: the page fails.
    TooLarge { what: &'static str, limit: usize },
}

/// A line that begins with `#`.
pub(super) enum Comment<'a> {
    Help { name: Cow<'a, str>, help: Cow<'a, str> },
    Type { name: Cow<'a, str>, declared: Declared },
    Eof,
    Other,
}

/// A sample without its labels.
pub(super) struct Read<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) value: f64,
    pub(super) at: Option<Timestamp>,
}

/// Reads a line that begins with `#`; it has no blanks at its ends.
pub(super) fn comment<'a>(text: &'a str, syntax: Syntax, limits: &Limits) -> Result<Comment<'a>, Fault> {
    if syntax == Syntax::OpenMetrics && text == "# EOF" {
        return Ok(Comment::Eof);
    }
    let mut cursor = Cursor::new(text, 1, limits);
    // `#TYPE` without a blank is an ordinary comment, as in Prometheus.
    if !cursor.blanks() {
        return Ok(Comment::Other);
    }
    match cursor.word() {
        "HELP" => {
            let name = cursor.declared_name()?;
            cursor.blanks();
            let help = unescaped(&text[cursor.at..], syntax == Syntax::OpenMetrics);
            cursor.limit("bytes of a help text", help.len(), limits.value_bytes)?;
            Ok(Comment::Help { name, help })
        }
        "TYPE" => {
            let name = cursor.declared_name()?;
            cursor.blanks();
            let declared = Declared::from_word(&text[cursor.at..]).ok_or(Fault::Bad("unknown type"))?;
            Ok(Comment::Type { name, declared })
        }
        _ => Ok(Comment::Other),
    }
}

/// Reads a line that is not empty, has no blanks at its ends and is no comment. `pairs` gets its labels: sorted, each name once.
pub(super) fn sample<'a>(
    text: &'a str,
    syntax: Syntax,
    limits: &Limits,
    pairs: &mut Pairs<'a>,
) -> Result<Read<'a>, Fault> {
    pairs.clear();
    let mut cursor = Cursor::new(text, 0, limits);
    let bare = cursor.metric_name()?;
    let parted = cursor.blanks();
    let name = if cursor.peek() == Some(b'{') {
        let quoted = cursor.labels(pairs)?;
        match (bare, quoted) {
            (Some(name), None) => Cow::Borrowed(name),
            (None, Some(name)) => name,
            (None, None) => return Err(Fault::Bad("no metric name")),
            (Some(_), Some(_)) => return Err(Fault::Bad("two metric names")),
        }
    } else if parted || cursor.peek().is_none() {
        Cow::Borrowed(bare.ok_or(Fault::Bad("no metric name"))?)
    } else {
        return Err(Fault::Bad("invalid metric name"));
    };
    cursor.blanks();
    let value = number::float(cursor.word()).ok_or(Fault::Bad("invalid value"))?;
    let at = cursor.time(syntax)?;
    cursor.exemplar(syntax)?;
    if cursor.peek().is_some() {
        return Err(Fault::Bad("something follows the sample"));
    }
    sort(pairs)?;
    Ok(Read { name, value, at })
}

/// Sorts by name; a name that repeats makes the line bad.
fn sort(pairs: &mut Pairs<'_>) -> Result<(), Fault> {
    if !pairs.is_sorted_by(|(a, _), (b, _)| a < b) {
        pairs.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        if pairs.windows(2).any(|two| two[0].0 == two[1].0) {
            return Err(Fault::Bad("a label repeats"));
        }
    }
    Ok(())
}

/// `text` with `\\`, `\n` and, where `quotes`, `\"` decoded; any other backslash stays, as in Prometheus.
fn unescaped(text: &str, quotes: bool) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let (decoded, taken) = match rest.as_bytes().get(at + 1) {
            Some(b'\\') => ('\\', 2),
            Some(b'n') => ('\n', 2),
            Some(b'"') if quotes => ('"', 2),
            _ => ('\\', 1),
        };
        out.push(decoded);
        rest = &rest[at + taken..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

struct Cursor<'a, 'l> {
    text: &'a str,
    at: usize,
    limits: &'l Limits,
}

impl<'a> Cursor<'a, '_> {
    fn new<'l>(text: &'a str, at: usize, limits: &'l Limits) -> Cursor<'a, 'l> {
        Cursor { text, at, limits }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Goes over bytes of which `is` holds and gives them. Only ASCII bytes may end a run, so that it never ends within a character.
    fn take_while(&mut self, is: impl Fn(u8) -> bool) -> &'a str {
        let rest = &self.text.as_bytes()[self.at..];
        let length = rest.iter().position(|&byte| !is(byte)).unwrap_or(rest.len());
        let taken = &self.text[self.at..self.at + length];
        self.at += length;
        taken
    }

    /// Goes over spaces and tabs; whether there were any.
    fn blanks(&mut self) -> bool {
        let from = self.at;
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        self.at > from
    }

    /// Everything up to the next blank.
    fn word(&mut self) -> &'a str {
        self.take_while(|byte| !matches!(byte, b' ' | b'\t'))
    }

    fn limit(&self, what: &'static str, is: usize, limit: usize) -> Result<(), Fault> {
        if is > limit { Err(Fault::TooLarge { what, limit }) } else { Ok(()) }
    }

    fn name_limit(&self, name: &str) -> Result<(), Fault> {
        self.limit("bytes of a name", name.len(), self.limits.name_bytes)
    }

    /// A bare metric name, or none where the line begins with a brace.
    fn metric_name(&mut self) -> Result<Option<&'a str>, Fault> {
        match self.peek() {
            Some(b'{') => return Ok(None),
            Some(byte) if is_metric_byte(byte) && !byte.is_ascii_digit() => {}
            _ => return Err(Fault::Bad("invalid metric name")),
        }
        let name = self.take_while(is_metric_byte);
        self.name_limit(name)?;
        Ok(Some(name))
    }

    /// The name in a HELP or TYPE line: bare, or quoted.
    fn declared_name(&mut self) -> Result<Cow<'a, str>, Fault> {
        self.blanks();
        let name = match self.peek() {
            Some(b'"') => self.quoted()?,
            _ => Cow::Borrowed(self.metric_name()?.ok_or(Fault::Bad("invalid metric name"))?),
        };
        self.name_limit(&name)?;
        match self.peek() {
            _ if name.is_empty() => Err(Fault::Bad("empty metric name")),
            None | Some(b' ' | b'\t') => Ok(name),
            Some(_) => Err(Fault::Bad("invalid metric name")),
        }
    }

    /// `{…}`: labels, and at most one quoted metric name, which is given back. A comma may stand behind the last one.
    fn labels(&mut self, pairs: &mut Pairs<'a>) -> Result<Option<Cow<'a, str>>, Fault> {
        let mut metric = None;
        self.at += 1;
        loop {
            self.blanks();
            match self.peek() {
                Some(b'}') => break,
                Some(b'"') => {
                    let name = self.quoted()?;
                    self.name_limit(&name)?;
                    self.blanks();
                    if name.is_empty() {
                        return Err(Fault::Bad("empty name"));
                    }
                    if self.peek() == Some(b'=') {
                        self.label(name, pairs)?;
                    } else if metric.replace(name).is_some() {
                        return Err(Fault::Bad("two metric names"));
                    }
                }
                Some(byte) if is_label_byte(byte) && !byte.is_ascii_digit() => {
                    let name = self.take_while(is_label_byte);
                    self.name_limit(name)?;
                    self.blanks();
                    self.label(Cow::Borrowed(name), pairs)?;
                }
                Some(_) => return Err(Fault::Bad("invalid label name")),
                None => return Err(Fault::Bad("labels do not end")),
            }
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(Fault::Bad("labels do not end")),
            }
        }
        self.at += 1;
        Ok(metric)
    }

    /// What follows a label's name: `="…"`.
    fn label(&mut self, name: Cow<'a, str>, pairs: &mut Pairs<'a>) -> Result<(), Fault> {
        if self.peek() != Some(b'=') {
            return Err(Fault::Bad("a label without `=`"));
        }
        self.at += 1;
        self.blanks();
        if self.peek() != Some(b'"') {
            return Err(Fault::Bad("a label's value without quotes"));
        }
        // It would be a second metric name.
        if name == "__name__" {
            return Err(Fault::Bad("a label `__name__`"));
        }
        let value = self.quoted()?;
        self.limit("bytes of a label's value", value.len(), self.limits.value_bytes)?;
        self.limit("labels of one series", pairs.len() + 1, self.limits.labels)?;
        pairs.push((name, value));
        Ok(())
    }

    /// A text in double quotes, decoded.
    fn quoted(&mut self) -> Result<Cow<'a, str>, Fault> {
        let from = self.at + 1;
        let bytes = self.text.as_bytes();
        let mut at = from;
        let mut escaped = false;
        loop {
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at += 2;
                }
                Some(_) => at += 1,
                None => return Err(Fault::Bad("quotes do not end")),
            }
        }
        self.at = at + 1;
        let inside = &self.text[from..at];
        Ok(if escaped { unescaped(inside, true) } else { Cow::Borrowed(inside) })
    }

    /// The sample's own time, if the line has one.
    fn time(&mut self, syntax: Syntax) -> Result<Option<Timestamp>, Fault> {
        self.blanks();
        match self.peek() {
            None => return Ok(None),
            Some(b'#') if syntax == Syntax::OpenMetrics => return Ok(None),
            Some(_) => {}
        }
        let word = self.word();
        self.blanks();
        let at = match syntax {
            Syntax::Text => number::millis(word),
            Syntax::OpenMetrics => number::seconds(word),
        };
        at.map(Some).ok_or(Fault::Bad("invalid timestamp"))
    }

    /// `# {…} value [time]`, which OpenMetrics allows behind a sample. It is checked like a sample's and left out.
    fn exemplar(&mut self, syntax: Syntax) -> Result<(), Fault> {
        if syntax == Syntax::Text || self.peek() != Some(b'#') {
            return Ok(());
        }
        self.at += 1;
        self.blanks();
        if self.peek() != Some(b'{') {
            return Err(Fault::Bad("invalid exemplar"));
        }
        if self.labels(&mut Vec::new())?.is_some() {
            return Err(Fault::Bad("invalid exemplar"));
        }
        self.blanks();
        number::float(self.word()).ok_or(Fault::Bad("invalid value of an exemplar"))?;
        self.time(syntax).map(drop)
    }
}

fn is_metric_byte(byte: u8) -> bool {
    is_label_byte(byte) || byte == b':'
}

fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}
