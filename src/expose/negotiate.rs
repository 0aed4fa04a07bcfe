//! What a client may ask for: content negotiation, compression, filters, timeout.
//!
//! Everything here is a pure function of what the client sent, and every one of them has an answer for nonsense: a header that cannot be
//! understood counts as absent (E-9, E-10), because a scrape that fails over a header hides the very numbers that would explain it.
//! The one exception is a filter that names a source which does not exist: it is refused, as in node_exporter, since a page
//! without the numbers that were asked for looks like a source that has none.
//!
//! Decisions, each after what Prometheus and client_golang do:
//!
//! - Three syntaxes are written: text 0.0.4, text 1.0.0 and OpenMetrics 1.0.0. Protobuf is not; a client that offers it always offers text too.
//! - `text/plain` without a version means 0.0.4, as it always has. `application/openmetrics-text` without one means 1.0.0.
//! - OpenMetrics 0.0.1 was a draft, is not what we write, and is therefore passed over: every client that asks for it
//!   (Prometheus since 2.5) names 1.0.0 or a text format or `*/*` beside it.
//! - `*/*`, nothing usable, or nothing that we write: text 0.0.4, the format that everything reads. Never 406.
//! - The answer names its escaping, also in text 0.0.4 (as client_golang's `expfmt` does): Prometheus 3 reads it, 2.x ignores it.

use std::cmp::Reverse;
use std::fmt;
use std::time::Duration;

use crate::sample::names::Scheme;

/// The syntaxes that we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Syntax {
    /// `text/plain; version=0.0.4`
    Text004,
    /// `text/plain; version=1.0.0`
    Text100,
    /// `application/openmetrics-text; version=1.0.0`
    OpenMetrics100,
}

/// What the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Format {
    /// The syntax.
    pub syntax: Syntax,
    /// How foreign names are written; text 0.0.4 always has [`Scheme::Underscores`].
    pub escaping: Scheme,
}

impl Format {
    /// What everything reads, and what a client gets that asks for nothing.
    pub const DEFAULT: Self = Self { syntax: Syntax::Text004, escaping: Scheme::Underscores };

    /// The `Content-Type` of a page in this format.
    pub const fn content_type(self) -> &'static str {
        match (self.syntax, self.escaping) {
            (Syntax::Text004, _) => "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
            (Syntax::Text100, Scheme::Underscores) => "text/plain; version=1.0.0; charset=utf-8; escaping=underscores",
            (Syntax::Text100, Scheme::Dots) => "text/plain; version=1.0.0; charset=utf-8; escaping=dots",
            (Syntax::Text100, Scheme::Values) => "text/plain; version=1.0.0; charset=utf-8; escaping=values",
            (Syntax::Text100, Scheme::AllowUtf8) => "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
            (Syntax::OpenMetrics100, Scheme::Underscores) => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
            }
            (Syntax::OpenMetrics100, Scheme::Dots) => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=dots"
            }
            (Syntax::OpenMetrics100, Scheme::Values) => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=values"
            }
            (Syntax::OpenMetrics100, Scheme::AllowUtf8) => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"
            }
        }
    }
}

/// `collect[]` and `exclude[]`: names of sources. Both empty: everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only these sources.
    pub collect: Vec<String>,
    /// All but these.
    pub exclude: Vec<String>,
}

/// The format for a client with this `Accept` header (several headers: joined with commas).
pub fn format(accept: Option<&str>) -> Format {
    let ranges: Vec<Range> = split(accept.unwrap_or_default(), ',').filter_map(range).collect();
    // The order is our preference where the client has none: `*/*` is text 0.0.4.
    let mut best: Option<(Wish, Syntax, Scheme)> = None;
    for syntax in [Syntax::Text004, Syntax::Text100, Syntax::OpenMetrics100] {
        let Some((at, range, closeness)) = closest(&ranges, syntax) else { continue };
        let wish = (range.quality, closeness >= Closeness::Type, Reverse(at));
        if range.quality > 0 && best.as_ref().is_none_or(|(other, ..)| wish > *other) {
            best = Some((wish, syntax, range.escaping));
        }
    }
    match best {
        None | Some((_, Syntax::Text004, _)) => Format::DEFAULT,
        Some((_, syntax, escaping)) => Format { syntax, escaping },
    }
}

/// How much a client wants something: its quality, whether it is named rather than met by a wildcard, and then whatever came first.
type Wish = (u16, bool, Reverse<usize>);

/// One element of an `Accept` header.
struct Range {
    media: String,
    version: Option<String>,
    escaping: Scheme,
    quality: u16,
}

/// How exactly a range names a syntax. RFC 9110, 12.5.1: the most specific range that matches gives the quality.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Closeness {
    Anything,
    Family,
    Type,
    Version,
}

fn closest(ranges: &[Range], syntax: Syntax) -> Option<(usize, &Range, Closeness)> {
    let matching = ranges.iter().enumerate().filter_map(|(at, r)| closeness(r, syntax).map(|c| (at, r, c)));
    matching.max_by_key(|(at, _, closeness)| (*closeness, Reverse(*at)))
}

fn closeness(range: &Range, syntax: Syntax) -> Option<Closeness> {
    let (media, family, version) = match syntax {
        Syntax::Text004 => ("text/plain", "text/*", "0.0.4"),
        Syntax::Text100 => ("text/plain", "text/*", "1.0.0"),
        Syntax::OpenMetrics100 => ("application/openmetrics-text", "application/*", "1.0.0"),
    };
    match range.version.as_deref() {
        _ if range.media == "*/*" => Some(Closeness::Anything),
        _ if range.media == family => Some(Closeness::Family),
        _ if range.media != media => None,
        Some(wanted) => (wanted == version).then_some(Closeness::Version),
        None => (syntax != Syntax::Text100).then_some(Closeness::Type),
    }
}

/// Reads one element; nonsense gives nothing.
fn range(element: &str) -> Option<Range> {
    let mut parts = split(element, ';');
    let media = parts.next()?.trim().to_ascii_lowercase();
    media.split_once('/').filter(|(family, kind)| !family.is_empty() && !kind.is_empty())?;
    let mut range = Range { media, version: None, escaping: Scheme::Underscores, quality: 1000 };
    for part in parts {
        let Some((name, value)) = part.split_once('=') else { continue };
        let value = unquoted(value.trim());
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => range.quality = quality(&value)?,
            "version" => range.version = Some(value),
            "escaping" => range.escaping = scheme(&value),
            _ => {}
        }
    }
    Some(range)
}

/// Thousandths; RFC 9110, 12.4.2 gives them three digits.
fn quality(text: &str) -> Option<u16> {
    let q: f32 = text.trim().parse().ok()?;
    (0.0..=1.0).contains(&q).then_some((q * 1000.0).round() as u16)
}

fn scheme(text: &str) -> Scheme {
    match text {
        "allow-utf-8" => Scheme::AllowUtf8,
        "dots" => Scheme::Dots,
        "values" => Scheme::Values,
        // Also for words that are not known: Prometheus' default scheme where a client names none.
        _ => Scheme::Underscores,
    }
}

/// The parts of `text` between `separator`s that stand outside of quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return c == separator && !quoted,
        }
        false
    })
}

/// `"a\"b"` → `a"b`; anything else as it is.
fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) else { return value.to_owned() };
    let mut escaped = false;
    inner
        .chars()
        .filter(|&c| {
            escaped = c == '\\' && !escaped;
            !escaped
        })
        .collect()
}

/// Whether a client with this `Accept-Encoding` header wants gzip: it accepts it, and not less than the plain page.
pub fn gzip(accept_encoding: Option<&str>) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for element in split(accept_encoding.unwrap_or_default(), ',') {
        let mut parts = element.split(';');
        let coding = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
        let q = parts.find_map(|p| p.trim().strip_prefix("q=").or(p.trim().strip_prefix("Q=")));
        let Some(q) = q.map_or(Some(1000), quality) else { continue };
        match coding.as_str() {
            "gzip" | "x-gzip" => gzip = Some(q),
            "identity" => identity = Some(q),
            "*" => any = Some(q),
            _ => {}
        }
    }
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && gzip >= identity.unwrap_or(0)
}

/// Why a filter is refused; the text is for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// `collect[]` and `exclude[]` in one request.
    Both,
    /// There is no source of that name.
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Both => f.write_str("`collect[]` and `exclude[]` cannot be combined"),
            Self::Unknown { name, known } => write!(f, "no source is named `{name}`; known: {}", known.join(", ")),
        }
    }
}

impl std::error::Error for FilterError {}

impl Filter {
    /// The filter of a request's query, sorted and each name once, so that equal filters are equal keys; `known` is asked only if there is one.
    pub fn from_query(query: Option<&str>, known: impl FnOnce() -> Vec<String>) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        for pair in query.unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match decoded(name).as_str() {
                "collect[]" => filter.collect.push(decoded(value)),
                "exclude[]" => filter.exclude.push(decoded(value)),
                // Foreign parameters are none of our business: proxies add them.
                _ => {}
            }
        }
        if !filter.collect.is_empty() && !filter.exclude.is_empty() {
            return Err(FilterError::Both);
        }
        if !filter.collect.is_empty() || !filter.exclude.is_empty() {
            let known = known();
            let mut asked = filter.collect.iter().chain(&filter.exclude);
            if let Some(name) = asked.find(|name| !known.contains(name)).cloned() {
                return Err(FilterError::Unknown { name, known });
            }
        }
        for names in [&mut filter.collect, &mut filter.exclude] {
            names.sort_unstable();
            names.dedup();
        }
        Ok(filter)
    }
}

/// Percent-decoding of a query (`+` is a space); what is not valid stays as it is, and bytes that are no UTF-8 become U+FFFD.
fn decoded(text: &str) -> String {
    let hex = |byte: Option<&u8>| byte.and_then(|&b| char::from(b).to_digit(16));
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                // Two hexadecimal digits fit a byte.
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            (other, ..) => out.push(other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Time for a page where the client names none: Prometheus' default `scrape_timeout`.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// The longest that a page may take, whatever the client would wait: it comes from memory, so beyond this something is stuck.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// The shortest, so that a tiny timeout still has a chance.
const TIMEOUT_MIN: Duration = Duration::from_millis(50);

/// What is kept back for the way of the answer (as sql_exporter's `scrape_timeout_offset`).
const OFFSET: f64 = 0.5;

/// How long a page may take for a client with this `X-Prometheus-Scrape-Timeout-Seconds` (E-10).
///
/// Its value less half a second, or half of it where little would be left; between 50 ms and a minute. Absent, zero, negative, not a
/// number: 10 s.
pub fn timeout(header: Option<&str>) -> Duration {
    match header.and_then(|text| text.trim().parse::<f64>().ok()).filter(|seconds| *seconds > 0.0) {
        None => TIMEOUT_DEFAULT,
        Some(seconds) => {
            let seconds = (seconds - OFFSET).max(seconds / 2.0).min(TIMEOUT_MAX.as_secs_f64());
            Duration::from_secs_f64(seconds).max(TIMEOUT_MIN)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PROMETHEUS_2: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    const PROMETHEUS_3: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    const PROMETHEUS_PROTO: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    const FIREFOX: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

    const fn text100(escaping: Scheme) -> Format {
        Format { syntax: Syntax::Text100, escaping }
    }

    const fn open(escaping: Scheme) -> Format {
        Format { syntax: Syntax::OpenMetrics100, escaping }
    }

    /// E-9, one line per kind of client.
    #[test]
    fn accept_headers_and_their_formats() {
        use Scheme::{AllowUtf8, Dots, Underscores, Values};
        let text = Format::DEFAULT;
        for (accept, expected) in [
            // what is really sent
            (PROMETHEUS_2, open(Underscores)),
            (PROMETHEUS_3, open(AllowUtf8)),
            (PROMETHEUS_PROTO, open(AllowUtf8)),
            (FIREFOX, text),
            ("*/*", text),
            // versions
            ("text/plain", text),
            ("text/plain;version=0.0.4", text),
            ("text/plain; version=1.0.0", text100(Underscores)),
            ("text/plain;version=\"1.0.0\"", text100(Underscores)),
            ("TEXT/Plain; VERSION=1.0.0; Q=0.5", text100(Underscores)),
            ("text/plain;version=2.0.0", text),
            ("application/openmetrics-text", open(Underscores)),
            ("application/openmetrics-text;version=1.0.0;charset=utf-8", open(Underscores)),
            ("application/openmetrics-text;version=0.0.1", text),
            ("application/openmetrics-text;version=2.0.0", text),
            ("application/openmetrics-text;version=0.0.1,text/plain;version=1.0.0;q=0.5", text100(Underscores)),
            // escaping
            ("application/openmetrics-text;version=1.0.0;escaping=underscores", open(Underscores)),
            ("application/openmetrics-text;version=1.0.0;escaping=dots", open(Dots)),
            ("application/openmetrics-text;version=1.0.0;escaping=values", open(Values)),
            ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8", open(AllowUtf8)),
            ("application/openmetrics-text;version=1.0.0;escaping=ALLOW", open(Underscores)),
            ("text/plain;version=1.0.0;escaping=dots", text100(Dots)),
            ("text/plain;version=1.0.0;escaping=values", text100(Values)),
            ("text/plain;version=1.0.0;escaping=allow-utf-8", text100(AllowUtf8)),
            ("text/plain;version=0.0.4;escaping=allow-utf-8", text),
            // q-values
            ("text/plain;version=0.0.4;q=0.2,application/openmetrics-text;version=1.0.0;q=0.1", text),
            ("text/plain;version=0.0.4;q=0.1,application/openmetrics-text;version=1.0.0;q=0.2", open(Underscores)),
            ("text/plain,application/openmetrics-text", text),
            ("application/openmetrics-text,text/plain", open(Underscores)),
            ("*/*,application/openmetrics-text", open(Underscores)),
            ("*/*;q=0.9,application/openmetrics-text;q=0.1", text),
            ("text/plain;q=0,*/*", text100(Underscores)),
            ("text/*;q=0,*/*;q=0.1", open(Underscores)),
            ("text/*", text),
            ("application/*", open(Underscores)),
            ("application/*;q=0.5,text/*;q=0.6", text),
            ("*/*;q=0", text),
            ("text/plain;version=0.0.4;q=0", text),
            // unknown only
            ("image/png", text),
            ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited", text),
            // nonsense
            ("", text),
            (",,,;;;===", text),
            ("text", text),
            ("/", text),
            ("text/plain;version=1.0.0;q=abc", text),
            ("text/plain;version=1.0.0;q=NaN", text),
            ("text/plain;version=1.0.0;q=7", text),
            ("text/plain;version=1.0.0;q=-1", text),
            ("text/plain;version=1.0.0;q=", text),
            ("text/plain;version=\"1.0.0", text),
            ("nonsense;;,text/plain;version=1.0.0", text100(Underscores)),
            ("a/b;c=\"x,text/plain;version=1.0.0\"", text),
            ("a/b;c=\"x\\\",\",text/plain;version=1.0.0", text100(Underscores)),
        ] {
            assert_eq!(format(Some(accept)), expected, "{accept}");
        }
        assert_eq!(format(None), text);
    }

    #[test]
    fn content_types_are_what_client_golang_sends() {
        assert_eq!(Format::DEFAULT.content_type(), "text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
        for (scheme, word) in [
            (Scheme::Underscores, "underscores"),
            (Scheme::Dots, "dots"),
            (Scheme::Values, "values"),
            (Scheme::AllowUtf8, "allow-utf-8"),
        ] {
            assert_eq!(
                open(scheme).content_type(),
                format!("application/openmetrics-text; version=1.0.0; charset=utf-8; escaping={word}")
            );
            assert_eq!(
                text100(scheme).content_type(),
                format!("text/plain; version=1.0.0; charset=utf-8; escaping={word}")
            );
            // What we answer, taken as a wish, is answered the same.
            assert_eq!(super::format(Some(open(scheme).content_type())), open(scheme));
            assert_eq!(super::format(Some(text100(scheme).content_type())), text100(scheme));
        }
    }

    #[test]
    fn accept_encoding() {
        for (header, expected) in [
            ("gzip", true),
            ("GZIP", true),
            ("x-gzip", true),
            ("gzip, deflate, br, zstd", true),
            ("deflate, gzip;q=1.0, *;q=0.5", true),
            ("gzip;q=0.001", true),
            ("*", true),
            ("gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("*;q=0", false),
            ("identity", false),
            ("identity, gzip;q=0.5", false),
            ("identity;q=0.5, gzip", true),
            ("identity;q=0", false),
            ("br", false),
            ("gzip;q=abc", false),
            ("gzip;q=7", false),
            ("", false),
            (",;", false),
        ] {
            assert_eq!(gzip(Some(header)), expected, "{header}");
        }
        assert!(!gzip(None));
    }

    /// E-10
    #[test]
    fn timeouts_are_clamped() {
        let ms = Duration::from_millis;
        for (header, expected) in [
            (None, TIMEOUT_DEFAULT),
            (Some(""), TIMEOUT_DEFAULT),
            (Some("abc"), TIMEOUT_DEFAULT),
            (Some("0"), TIMEOUT_DEFAULT),
            (Some("-1"), TIMEOUT_DEFAULT),
            (Some("-inf"), TIMEOUT_DEFAULT),
            (Some("nan"), TIMEOUT_DEFAULT),
            (Some("1e9"), TIMEOUT_MAX),
            (Some("inf"), TIMEOUT_MAX),
            (Some("1e400"), TIMEOUT_MAX),
            (Some("10"), ms(9_500)),
            (Some(" 2.5 "), ms(2_000)),
            (Some("1"), ms(500)),
            (Some("0.5"), ms(250)),
            (Some("0.3"), ms(150)),
            (Some("1e-9"), TIMEOUT_MIN),
        ] {
            assert_eq!(timeout(header), expected, "{header:?}");
        }
    }

    fn from_query(query: &str) -> Result<Filter, FilterError> {
        Filter::from_query(Some(query), || ["host", "my app", "sqlite"].map(str::to_owned).to_vec())
    }

    #[test]
    fn filters() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        for (query, collect, exclude) in [
            ("", &[][..], &[][..]),
            ("x=1&&=&collect=host", &[], &[]),
            ("collect[]=host", &["host"], &[]),
            ("collect[]=sqlite&a=b&collect%5B%5D=host&collect[]=host", &["host", "sqlite"], &[]),
            ("exclude[]=my+app&exclude[]=%68ost", &[], &["host", "my app"]),
            ("exclude%5b%5d=my%20app", &[], &["my app"]),
        ] {
            let filter = from_query(query).expect(query);
            assert_eq!((filter.collect, filter.exclude), (names(collect), names(exclude)), "{query}");
        }
        assert_eq!(from_query("collect[]=host&exclude[]=host"), Err(FilterError::Both));
        for (query, name) in [
            ("collect[]=nope", "nope"),
            ("exclude[]=nope", "nope"),
            ("collect[]", ""),
            ("collect[]=%ff%zz", "\u{fffd}%zz"),
        ] {
            let error = from_query(query).expect_err(query);
            assert_eq!(error.to_string(), format!("no source is named `{name}`; known: host, my app, sqlite"));
        }
        assert_eq!(Filter::from_query(None, || panic!("asked without need")), Ok(Filter::default()));
    }

    proptest! {
        #[test]
        fn nothing_a_client_sends_breaks_anything(text in "(?s).{0,60}", list in "[a-z0-9*/;,=.\" \\\\q-]{0,80}") {
            for header in [text.as_str(), list.as_str()] {
                let _ = (format(Some(header)), gzip(Some(header)), timeout(Some(header)), from_query(header));
            }
        }
    }
}
