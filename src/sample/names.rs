//! Names as an exposition may carry them: the legacy character set, and Prometheus' escaping schemes for everything else (V-12, V-13).
//!
//! The schemes are those of `EscapeName` in prometheus/common (`model/metric.go`), with one difference: a `:` in a label's name is
//! foreign here, because no text parser accepts it there.

use std::borrow::Cow;
use std::fmt::Write;

/// How names beyond `[a-zA-Z_:][a-zA-Z0-9_:]*` are written (Prometheus' escaping schemes, content negotiation of version 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Every foreign character becomes `_`.
    Underscores,
    /// `.` becomes `_dot_`, `_` becomes `__`, any other foreign character `__`.
    Dots,
    /// `U__` in front, foreign characters as `_HEX_`, `_` as `__`.
    Values,
    /// As it is, quoted.
    AllowUtf8,
}

/// What a name is the name of: metrics may have a `:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// A metric.
    Metric,
    /// A label.
    Label,
}

impl Of {
    fn is_legacy_char(self, c: char, at: usize) -> bool {
        c.is_ascii_alphabetic() || c == '_' || (c == ':' && self == Self::Metric) || (c.is_ascii_digit() && at > 0)
    }

    /// Whether every parser since the first accepts `name` as it is.
    pub fn is_legacy(self, name: &str) -> bool {
        !name.is_empty() && name.chars().enumerate().all(|(at, c)| self.is_legacy_char(c, at))
    }

    /// `name` under `scheme`. An empty name becomes `_`: nothing else can be shown.
    pub fn escape(self, name: &str, scheme: Scheme) -> Cow<'_, str> {
        let legacy = self.is_legacy(name);
        let every = |rewrite: fn(char, bool, &mut String)| {
            let mut out = String::with_capacity(name.len() + 8);
            for (at, c) in name.chars().enumerate() {
                rewrite(c, self.is_legacy_char(c, at), &mut out);
            }
            out
        };
        match scheme {
            _ if name.is_empty() => Cow::Borrowed("_"),
            Scheme::AllowUtf8 => Cow::Borrowed(name),
            Scheme::Underscores | Scheme::Values if legacy => Cow::Borrowed(name),
            Scheme::Underscores => Cow::Owned(every(|c, fine, out| out.push(if fine { c } else { '_' }))),
            // Not even a legacy name is left alone: its underscores double, or the way back would be ambiguous.
            Scheme::Dots => Cow::Owned(every(|c, fine, out| match c {
                '.' => out.push_str("_dot_"),
                '_' => out.push_str("__"),
                c if fine => out.push(c),
                _ => out.push_str("__"),
            })),
            Scheme::Values => Cow::Owned(format!(
                "U__{}",
                every(|c, fine, out| match c {
                    '_' => out.push_str("__"),
                    c if fine => out.push(c),
                    // Writing to a String cannot fail.
                    c => drop(write!(out, "_{:x}_", u32::from(c))),
                })
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of `TestEscapeName` in prometheus/common, and the empty name.
    #[test]
    fn names_are_escaped_as_prometheus_does() {
        for (name, underscores, dots, values) in [
            ("no:escaping_required", "no:escaping_required", "no:escaping__required", "no:escaping_required"),
            (
                "mysystem.prod.west.cpu.load",
                "mysystem_prod_west_cpu_load",
                "mysystem_dot_prod_dot_west_dot_cpu_dot_load",
                "U__mysystem_2e_prod_2e_west_2e_cpu_2e_load",
            ),
            (
                "mysystem.prod.west.cpu.load_total",
                "mysystem_prod_west_cpu_load_total",
                "mysystem_dot_prod_dot_west_dot_cpu_dot_load__total",
                "U__mysystem_2e_prod_2e_west_2e_cpu_2e_load__total",
            ),
            ("http.status:sum", "http_status:sum", "http_dot_status:sum", "U__http_2e_status:sum"),
            ("label with 😱", "label_with__", "label__with____", "U__label_20_with_20__1f631_"),
            ("花火", "__", "____", "U___82b1__706b_"),
            ("1st", "_st", "__st", "U___31_st"),
            ("", "_", "_", "_"),
        ] {
            assert_eq!(Of::Metric.escape(name, Scheme::Underscores), underscores, "{name}");
            assert_eq!(Of::Metric.escape(name, Scheme::Dots), dots, "{name}");
            assert_eq!(Of::Metric.escape(name, Scheme::Values), values, "{name}");
        }
        assert_eq!(Of::Label.escape("a:b", Scheme::Underscores), "a_b");
        assert!(!Of::Label.is_legacy("a:b") && Of::Metric.is_legacy("a:b") && !Of::Metric.is_legacy("0a"));
    }
}
