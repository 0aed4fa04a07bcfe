//! The landing page: what a person sees who opens the address in a browser.
//!
//! One document rendered here, without scripts, fonts, pictures or a build step, readable on a phone and by night. What it shows of the rest of
//! the program comes as an [`Overview`]; every text in it is somebody else's (names from the configuration, errors from a
//! scraped server) and is escaped, and [`POLICY`] keeps a browser from running anything even where that failed.

use std::fmt::Write;
use std::time::Duration;

use crate::clock::Timestamp;

/// The page's `Content-Security-Policy`: nothing but its own inline style.
pub const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the page shows.
#[derive(Clone, Debug)]
pub struct Overview {
    /// The program's version.
    pub version: String,
    /// When it was started.
    pub started: Timestamp,
    /// Whether it is ready (see `/-/ready`).
    pub ready: bool,
    /// How many series `/metrics` shows.
    pub series: u64,
    /// How many rows were written since the start.
    pub rows_stored: u64,
    /// How many samples were not stored since the start, for whatever reason.
    pub samples_dropped: u64,
    /// The sources, in the order in which they are shown.
    pub sources: Vec<SourceRow>,
}

/// One source.
#[derive(Clone, Debug)]
pub struct SourceRow {
    /// Its name, also of `collect[]`.
    pub name: String,
    /// Whether its last scrape worked; `None` before the first one.
    pub up: Option<bool>,
    /// When a scrape last worked.
    pub last_success: Option<Timestamp>,
    /// How long the last scrape took.
    pub duration: Option<Duration>,
    /// How many samples the last scrape gave.
    pub samples: u64,
    /// Why the last scrape failed.
    pub error: Option<String>,
}

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8886;--dim:#666;--good:#0a6b2d;--bad:#b00020}\
@media(prefers-color-scheme:dark){:root{--dim:#aaa;--good:#5fd38d;--bad:#ff8a80}}\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}\
h1{font-size:1.4rem;margin:0}h2{font-size:1.1rem}small,dt,.dim{color:var(--dim)}\
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin:.8rem 0}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}dd{margin:0}\
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line)}\
.n{text-align:right;font-variant-numeric:tabular-nums}\
.error{color:var(--bad);overflow-wrap:anywhere;min-width:12rem}.up{color:var(--good)}.down{color:var(--bad);font-weight:bold}";

/// The page at `now`.
pub fn render(overview: &Overview, now: Timestamp) -> String {
    let mut page = String::with_capacity(4096 + overview.sources.len() * 256);
    head(&mut page, overview, now);
    sources(&mut page, &overview.sources, now);
    page.push_str("</main></body></html>\n");
    page
}

fn head(page: &mut String, overview: &Overview, now: Timestamp) {
    let (class, state) = if overview.ready { ("up", "ready") } else { ("down", "not ready") };
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>Atlas sidecar</title><style>{STYLE}</style></head><body><header>\
         <h1>Atlas sidecar <small>{version}</small></h1></header>\n\
         <nav><a href=\"/metrics\">Metrics</a> <a href=\"/-/healthy\">Healthy</a> <a href=\"/-/ready\">Ready</a></nav>\n\
         <main><dl><dt>State</dt><dd class=\"{class}\">{state}</dd>\
         <dt>Started</dt><dd>{started} <span class=\"dim\">({uptime} ago)</span></dd>\
         <dt>Series shown</dt><dd>{series}</dd>\
         <dt>Rows stored</dt><dd>{stored}</dd>\
         <dt>Samples dropped</dt><dd>{rejected}</dd></dl>\n",
        version = escaped(&overview.version),
        started = overview.started,
        uptime = span(now.since(overview.started)),
        series = overview.series,
        stored = overview.rows_stored,
        rejected = overview.samples_dropped,
    );
}

fn sources(page: &mut String, sources: &[SourceRow], now: Timestamp) {
    page.push_str("<h2>Sources</h2>\n");
    if sources.is_empty() {
        page.push_str("<p>No source is configured.</p>");
        return;
    }
    page.push_str(
        "<div class=\"wide\"><table><thead><tr><th scope=\"col\">Source</th><th scope=\"col\">State</th>\
         <th scope=\"col\">Last success</th><th scope=\"col\" class=\"n\">Took</th><th scope=\"col\" class=\"n\">Samples</th></tr></thead><tbody>\n",
    );
    for source in sources {
        row(page, source, now);
    }
    page.push_str("</tbody></table></div>");
}

fn row(page: &mut String, source: &SourceRow, now: Timestamp) {
    let (class, state) = match source.up {
        Some(true) => ("up", "up"),
        Some(false) => ("down", "down"),
        None => ("dim", "waiting"),
    };
    let last = match source.last_success {
        Some(at) => format!("<time datetime=\"{at}\" title=\"{at}\">{} ago</time>", span(now.since(at))),
        None => "never".to_owned(),
    };
    let _ = writeln!(
        page,
        "<tr><td>{name}{error}</td><td class=\"{class}\">{state}</td><td>{last}</td><td class=\"n\">{took}</td>\
         <td class=\"n\">{samples}</td></tr>",
        name = escaped(&source.name),
        took = source.duration.map_or_else(String::new, |d| format!("{} ms", d.as_millis())),
        samples = source.samples,
        // Under the name, where a phone shows it too.
        error = source
            .error
            .as_deref()
            .map_or_else(String::new, |error| format!("<div class=\"error\">{}</div>", escaped(error))),
    );
}

/// `text` such that it is only ever text, inside of an element as well as inside of a quoted attribute.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters and marks that turn the direction of writing could dress one text up as another.
            c if c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                out.push('\u{fffd}');
            }
            c => out.push(c),
        }
    }
    out
}

/// A length of time in its two largest units: `3 d 4 h`.
fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overview(sources: Vec<SourceRow>) -> Overview {
        Overview {
            version: "1.2.3<x>".to_owned(),
            started: Timestamp::from_millis(1_000),
            ready: true,
            series: 17,
            rows_stored: 18,
            samples_dropped: 19,
            sources,
        }
    }

    fn source(name: &str, error: Option<&str>) -> SourceRow {
        SourceRow {
            name: name.to_owned(),
            up: Some(error.is_none()),
            last_success: Some(Timestamp::from_millis(60_000)),
            duration: Some(Duration::from_millis(12)),
            samples: 345,
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn the_page_shows_the_overview() {
        let mut waiting = source("late", None);
        (waiting.up, waiting.last_success, waiting.duration) = (None, None, None);
        let page = render(&overview(vec![source("host", None), waiting]), Timestamp::from_millis(90_000));
        for part in [
            "1.2.3&lt;x&gt;",
            "1 min 29 s ago",
            "href=\"/metrics\"",
            "href=\"/-/healthy\"",
            "href=\"/-/ready\"",
            "<td>host</td><td class=\"up\">up</td>",
            ">30 s ago</time>",
            "12 ms",
            ">345<",
            "<td class=\"dim\">waiting</td><td>never</td>",
            "<dd>17</dd>",
            "<dd>18</dd>",
            "<dd>19</dd>",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(render(&overview(Vec::new()), Timestamp::from_millis(0)).contains("No source is configured"));
    }

    #[test]
    fn hostile_names_and_errors_stay_text() {
        let hostile = "<script>alert(1)</script>\" onload='x' &amp; \u{202e}evil\0\r\n";
        let page = render(&overview(vec![source(hostile, Some(hostile))]), Timestamp::from_millis(0));
        let shown = "&lt;script&gt;alert(1)&lt;/script&gt;&quot; onload=&#39;x&#39; &amp;amp; \u{fffd}evil\u{fffd}\u{fffd}\u{fffd}";
        assert_eq!(page.matches(shown).count(), 2);
        assert!(!page.contains("<script"));
    }

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3_661, "1 h 1 min"),
            (86_400 * 3 + 4 * 3_600 + 59, "3 d 4 h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
