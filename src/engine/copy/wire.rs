//! The text form of COPY (<https://www.postgresql.org/docs/current/sql-copy.html>): a line per row, tabs between columns, `\N` for NULL.

/// A row on its way, as text for each column. Its memory is used again for the next one.
#[derive(Debug, Default)]
pub struct Line {
    cells: Vec<Cell>,
    used: usize,
}

#[derive(Debug, Default)]
struct Cell {
    present: bool,
    text: String,
}

impl Line {
    /// Forgets the row.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Adds a NULL.
    pub fn push_null(&mut self) {
        self.next(false);
    }

    /// Adds an empty text, to be written to.
    pub fn push_text(&mut self) -> &mut String {
        &mut self.next(true).text
    }

    fn next(&mut self, present: bool) -> &mut Cell {
        if self.used == self.cells.len() {
            self.cells.push(Cell::default());
        }
        self.used += 1;
        let cell = &mut self.cells[self.used - 1];
        cell.present = present;
        cell.text.clear();
        cell
    }

    /// The columns.
    pub fn cells(&self) -> impl Iterator<Item = Option<&str>> {
        self.cells[..self.used].iter().map(|cell| cell.present.then_some(cell.text.as_str()))
    }

    /// Writes it as COPY reads it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for (at, cell) in self.cells().enumerate() {
            if at > 0 {
                out.push(b'\t');
            }
            match cell {
                None => out.extend_from_slice(b"\\N"),
                Some(text) => escape(text, out),
            }
        }
        out.push(b'\n');
    }

    /// Reads a line that COPY wrote, without its end; false where it is none.
    pub fn decode(&mut self, line: &[u8]) -> bool {
        self.clear();
        for cell in line.split(|b| *b == b'\t') {
            if cell == b"\\N" {
                self.push_null();
            } else if !unescape(cell, self.push_text()) {
                return false;
            }
        }
        true
    }
}

fn escape(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.push(byte),
        }
    }
}

fn unescape(cell: &[u8], out: &mut String) -> bool {
    let Ok(text) = std::str::from_utf8(cell) else { return false };
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('b') => '\u{8}',
                Some('f') => '\u{c}',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('v') => '\u{b}',
                Some(other) => other,
                None => return false,
            },
            c => c,
        });
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_read_back(cells in prop::collection::vec(prop::option::of("[\\\\\t\n\r\u{8}\u{c}N.a-cé]{0,6}"), 1..5)) {
            let mut line = Line::default();
            for cell in &cells {
                match cell {
                    Some(text) => line.push_text().push_str(text),
                    None => line.push_null(),
                }
            }
            let mut bytes = Vec::new();
            line.encode(&mut bytes);
            prop_assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 1);
            let mut read = Line::default();
            prop_assert!(read.decode(&bytes[..bytes.len() - 1]));
            prop_assert_eq!(read.cells().map(|c| c.map(str::to_owned)).collect::<Vec<_>>(), cells);
        }
    }

    #[test]
    fn the_end_of_data_is_no_data() {
        let mut line = Line::default();
        line.push_text().push_str("\\.");
        let mut bytes = Vec::new();
        line.encode(&mut bytes);
        assert_eq!(bytes, b"\\\\.\n");
    }
}
