//! The snapshot encoder: `/metrics` from what [`Latest`] holds and our own registry, never from the database.
//!
//! Pages are cached for a second, so that several scrapers, or one that hurries, share one encoding and one compression (E-8). A
//! page is whole or not at all: it is made aside and handed over as immutable bytes.
//!
//! What differs between the syntaxes: OpenMetrics names a counter's family without `_total` (one that has no `_total` is `unknown`
//! there), forbids families whose series would have the same name (a counter that clashes becomes `unknown`; a family `x_created` beside
//! an `x` that may have such a series of its own is left out, the one thing that is in text and not here), forbids values that contradict
//! their type (such a counter becomes `unknown`, such a histogram one `unknown` family per name of its series), counts time in seconds
//! and ends with `# EOF`. Text 1.0.0 is text 0.0.4 with quoted names.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use prometheus::Registry;

use super::negotiate::{Filter, Format, Syntax};
use crate::clock::{Clock, Timestamp};
use crate::ingest::latest::shown::{SUFFIXES, Shown, ShownFamily, write_escaped, write_series};
use crate::ingest::latest::{Latest, OWN};
use crate::sample::names::{Of, Scheme};
use crate::sample::{Kind, Suffix};
use crate::telemetry;

/// How long an encoded page serves: shorter than any sensible scrape interval.
const PAGE_AGE: Duration = Duration::from_secs(1);

/// The name of our own registry among the sources of `collect[]`.
pub const OWN_SOURCE: &str = "sidecar";

/// What the server asks for `/metrics`: the page in a format, reduced to the sources of the filter.
pub type Pages = Arc<dyn Fn(Format, &Filter) -> Arc<Page> + Send + Sync>;

/// One encoded page; its compressed form is made once, when somebody first wants it.
#[derive(Debug)]
pub struct Page {
    text: Bytes,
    gzip: OnceLock<Bytes>,
}

impl Page {
    /// A page of `text`.
    pub fn new(text: impl Into<Bytes>) -> Self {
        Self { text: text.into(), gzip: OnceLock::new() }
    }

    /// The plain page.
    pub fn text(&self) -> Bytes {
        self.text.clone()
    }

    /// The page in gzip, level 1 (at 100,000 series 19 ms against 114 ms of level 6, 15 % larger).
    pub fn gzip(&self) -> Bytes {
        self.gzip
            .get_or_init(|| {
                let mut encoder = GzEncoder::new(Vec::with_capacity(self.text.len() / 6 + 64), Compression::fast());
                // Writing into a Vec cannot fail.
                let _ = encoder.write_all(&self.text);
                encoder.finish().unwrap_or_default().into()
            })
            .clone()
    }
}

/// Makes pages and keeps them for a second.
pub struct Exposer {
    latest: Arc<Latest>,
    registry: Registry,
    clock: Clock,
    cached: Mutex<HashMap<Format, (Instant, Arc<Page>)>>,
}

impl Exposer {
    /// Pages of what `latest` and `registry` hold.
    pub fn new(latest: Arc<Latest>, registry: Registry, clock: Clock) -> Self {
        Self { latest, registry, clock, cached: Mutex::default() }
    }

    /// The page in `format`; a filtered one is made anew each time.
    pub fn page(&self, format: Format, filter: &Filter) -> Arc<Page> {
        if *filter != Filter::default() {
            return Arc::new(Page::new(self.encode(format, filter)));
        }
        // Held while encoding: whoever comes meanwhile wants the same page.
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.retain(|_, (made, _)| made.elapsed() < PAGE_AGE);
        if let Some((_, page)) = cached.get(&format) {
            return Arc::clone(page);
        }
        let page = Arc::new(Page::new(self.encode(format, filter)));
        cached.insert(format, (Instant::now(), Arc::clone(&page)));
        page
    }

    fn encode(&self, format: Format, filter: &Filter) -> Vec<u8> {
        let now = self.clock.now();
        let wanted = |name: &str| {
            (filter.collect.is_empty() || filter.collect.iter().any(|n| n == name))
                && !filter.exclude.iter().any(|n| n == name)
        };
        if wanted(OWN_SOURCE) {
            self.latest.put_own(&telemetry::gather(&self.registry, now));
        }
        let named = |name: &str| if name == OWN { wanted(OWN_SOURCE) } else { wanted(name) };
        let sources = self.latest.sources().into_iter();
        let parts: Vec<Arc<Shown>> = sources.filter(|(name, _)| named(name)).map(|(_, shown)| shown).collect();
        encode(&parts, format, now, self.latest.with_timestamps())
    }
}

/// The families of all parts in `format`, those of one name together.
pub fn encode(parts: &[Arc<Shown>], format: Format, now: Timestamp, timestamps: bool) -> Vec<u8> {
    Encoding { format, now, timestamps, out: Vec::new() }.page(parts)
}

struct Encoding {
    format: Format,
    now: Timestamp,
    timestamps: bool,
    out: Vec<u8>,
}

/// A family of one source under the name that it has in this format.
struct Member<'a> {
    name: Cow<'a, str>,
    shown: &'a Shown,
    family: &'a ShownFamily,
}

impl Encoding {
    fn page(mut self, parts: &[Arc<Shown>]) -> Vec<u8> {
        let mut members: Vec<Member<'_>> = parts.iter().flat_map(|shown| self.members(shown)).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        // 24 bytes: the longest number and its line feed, for most; the buffer grows once at worst.
        let size: usize = parts.iter().map(|s| s.text.len() + 24 * s.series.len() + 160 * s.families.len()).sum();
        self.out.reserve_exact(size);
        let groups = members.chunk_by(|a, b| a.name == b.name);
        if self.format.syntax == Syntax::OpenMetrics100 {
            let mut claims = Claims::new(&members);
            groups.for_each(|group| self.open_family(group, &mut claims));
            self.out.extend_from_slice(b"# EOF\n");
        } else {
            groups.for_each(|group| self.family(group, group[0].family.kind, &group[0].name, None));
        }
        self.out
    }

    /// The families of `shown` that have a series which is not stale.
    fn members<'a>(&self, shown: &'a Shown) -> impl Iterator<Item = Member<'a>> {
        let (escaping, now) = (self.format.escaping, self.now);
        let fresh = move |family: &&ShownFamily| {
            let oldest = shown.oldest_shown(family.kind, now);
            shown.series[family.series.clone()].iter().any(|series| series.at >= oldest)
        };
        shown.families.iter().filter(fresh).map(move |family| Member { name: escaped(family, escaping), shown, family })
    }

    /// A family as OpenMetrics may have it: as it is, as `unknown`, or series by series.
    fn open_family(&mut self, group: &[Member<'_>], claims: &mut Claims<'_>) {
        let Member { name, family, .. } = &group[0];
        if claims.is_created(name) {
            return;
        }
        let sound = is_sound(group);
        let base = name.strip_suffix("_total").filter(|base| !base.is_empty());
        match (family.kind, base) {
            (Kind::Counter, Some(base)) if sound && claims.claim(Kind::Counter, base) => {
                self.family(group, Kind::Counter, base, None);
            }
            (Kind::Histogram | Kind::Summary, _) if sound && claims.claim(family.kind, name) => {
                self.family(group, family.kind, name, None);
            }
            (Kind::Histogram | Kind::Summary, _) => {
                for suffix in SUFFIXES {
                    let part = format!("{name}{}", suffix.text());
                    let has = |member: &Member<'_>| member.shown.suffixes(member.family).any(|s| s == suffix);
                    if group.iter().any(has) && claims.claim(Kind::Unknown, &part) {
                        self.family(group, Kind::Unknown, &part, Some(suffix));
                    }
                }
            }
            (kind, _) => {
                let kind = if kind == Kind::Gauge { Kind::Gauge } else { Kind::Unknown };
                if claims.claim(kind, name) {
                    self.family(group, kind, name, None);
                }
            }
        }
    }

    /// Writes the head and then the series that are not stale, of `only` where that is given.
    fn family(&mut self, group: &[Member<'_>], kind: Kind, name: &str, only: Option<Suffix>) {
        let mut headed = false;
        let mut foreign = HashSet::new();
        for Member { shown, family, .. } in group {
            let oldest = shown.oldest_shown(family.kind, self.now);
            let wanted = |place: &usize| {
                let series = &shown.series[*place];
                series.at >= oldest && only.is_none_or(|suffix| series.suffix == suffix)
            };
            for place in family.series.clone().filter(wanted) {
                if !headed {
                    self.head(group, kind, name);
                    headed = true;
                }
                self.series(shown, family, place, &mut foreign);
            }
        }
    }

    fn head(&mut self, group: &[Member<'_>], kind: Kind, name: &str) {
        let open_metrics = self.format.syntax == Syntax::OpenMetrics100;
        let quoted = self.format.escaping == Scheme::AllowUtf8 && !Of::Metric.is_legacy(name);
        let write_name = |out: &mut Vec<u8>| {
            if quoted {
                out.push(b'"');
                write_escaped(out, name, true);
                out.push(b'"');
            } else {
                out.extend_from_slice(name.as_bytes());
            }
        };
        if let Some(help) = group.iter().map(|member| &member.family.help).find(|help| !help.is_empty()) {
            self.out.extend_from_slice(b"# HELP ");
            write_name(&mut self.out);
            self.out.push(b' ');
            write_escaped(&mut self.out, help, open_metrics);
            self.out.push(b'\n');
        }
        self.out.extend_from_slice(b"# TYPE ");
        write_name(&mut self.out);
        self.out.push(b' ');
        let word = if open_metrics && kind == Kind::Unknown { "unknown" } else { kind.word() };
        self.out.extend_from_slice(word.as_bytes());
        self.out.push(b'\n');
    }

    fn series(&mut self, shown: &Shown, family: &ShownFamily, place: usize, seen: &mut HashSet<Vec<u8>>) {
        let series = &shown.series[place];
        match (self.format.escaping, shown.foreign.get(&place)) {
            (Scheme::Underscores, _) | (Scheme::AllowUtf8 | Scheme::Values, None) => {
                self.out.extend_from_slice(shown.text_of(place));
            }
            (Scheme::Dots, None) => write_dotted(&mut self.out, shown.text_of(place), &family.name),
            (scheme, Some(foreign)) => {
                let start = self.out.len();
                write_series(&mut self.out, &foreign.name, foreign.suffix, &foreign.labels, scheme);
                // What underscores tell apart, these schemes may not: of `{a-b,a.b,a_b}` and `{a~b,a.b,a_b}` one is left.
                if scheme != Scheme::AllowUtf8 && !seen.insert(self.out[start..].to_vec()) {
                    return self.out.truncate(start);
                }
            }
        }
        write_value(&mut self.out, series.value);
        if self.timestamps {
            self.out.push(b' ');
            match self.format.syntax {
                Syntax::OpenMetrics100 => write_value(&mut self.out, series.at.seconds()),
                _ => self.out.extend_from_slice(itoa::Buffer::new().format(series.at.millis()).as_bytes()),
            }
        }
        self.out.push(b'\n');
    }
}

/// The family's name under `scheme`.
fn escaped(family: &ShownFamily, scheme: Scheme) -> Cow<'_, str> {
    match scheme {
        Scheme::Underscores => Cow::Borrowed(&family.name),
        _ => Of::Metric.escape(family.raw.as_deref().unwrap_or(&family.name), scheme),
    }
}

/// Whether OpenMetrics takes all values of the family for its type.
fn is_sound(group: &[Member<'_>]) -> bool {
    group.iter().all(|member| member.family.sound)
}

/// Which names an OpenMetrics page has given away: there, a family owns its name with every suffix that its type may have.
///
/// Families come by name, so what could claim a longer name (`x` with `x_count`) comes before what has that name.
struct Claims<'a> {
    /// Counters by their names without `_total`: they claim their `_created` later than the family of that name would.
    counters: HashSet<&'a str>,
    taken: HashSet<String>,
}

impl<'a> Claims<'a> {
    fn new(members: &'a [Member<'_>]) -> Self {
        let counters = members.chunk_by(|a, b| a.name == b.name);
        let counters = counters.filter(|group| group[0].family.kind == Kind::Counter && is_sound(group));
        let counters = counters.filter_map(|group| group[0].name.strip_suffix("_total")).collect();
        Self { counters, taken: HashSet::new() }
    }

    /// Whether the name is that of a counter's times of creation.
    fn is_created(&self, name: &str) -> bool {
        let base = name.strip_suffix("_created");
        base.is_some_and(|base| self.counters.contains(base) && !self.taken.contains(base))
    }

    fn claim(&mut self, kind: Kind, base: &str) -> bool {
        let suffixes: &[&str] = match kind {
            Kind::Counter => &["", "_total", "_created"],
            Kind::Histogram => &["", "_bucket", "_sum", "_count", "_created"],
            Kind::Summary => &["", "_sum", "_count", "_created"],
            Kind::Gauge | Kind::Unknown => &[""],
        };
        let names: Vec<String> = suffixes.iter().map(|suffix| format!("{base}{suffix}")).collect();
        let free = names.iter().all(|name| !self.taken.contains(name));
        if free {
            self.taken.extend(names);
        }
        free
    }
}

/// Appends a series' text with its names under [`Scheme::Dots`], which changes legacy names too.
fn write_dotted(out: &mut Vec<u8>, text: &[u8], family: &str) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    out.extend_from_slice(Of::Metric.escape(family, Scheme::Dots).as_bytes());
    let rest = &text[family.len()..];
    let (suffix, mut rest) = rest.split_at(rest.find(['{', ' ']).unwrap_or(rest.len()));
    out.extend_from_slice(suffix.as_bytes());
    while let Some(equals) = rest.find('=').filter(|_| rest.starts_with(['{', ','])) {
        out.extend_from_slice(&rest.as_bytes()[..1]);
        out.extend_from_slice(Of::Label.escape(&rest[1..equals], Scheme::Dots).as_bytes());
        let value = &rest[equals..];
        let mut escape = false;
        let end = value.char_indices().skip(2).find(|&(_, c)| {
            let closes = c == '"' && !escape;
            escape = c == '\\' && !escape;
            closes
        });
        let end = end.map_or(value.len(), |(at, _)| at + 1);
        out.extend_from_slice(&value.as_bytes()[..end]);
        rest = &value[end..];
    }
    out.extend_from_slice(rest.as_bytes());
}

/// Appends the shortest text that reads back as `value` (V-14).
pub fn write_value(out: &mut Vec<u8>, value: f64) {
    // Whole numbers below 2^53 are exact and shorter without an exponent; -0 is not one of them.
    if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 && !(value == 0.0 && value.is_sign_negative()) {
        out.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
    } else if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::latest::Settings;
    use crate::sample::globs::Globs;
    use crate::sample::{Batch, Labels, Sample, Suffix};

    const NOW: Timestamp = Timestamp::from_millis(1_795_374_000_123);
    const MINUTE: Duration = Duration::from_secs(60);

    fn settings(max_series: usize) -> Settings {
        Settings {
            keep_prefixes: vec!["app_".to_owned()],
            max_series,
            timestamps: false,
            counters_stale_after: Duration::from_secs(3600),
            hidden: Globs::new(["atlas_hidden*"]),
        }
    }

    fn latest(max_series: usize) -> (Latest, Registry) {
        let registry = Registry::new();
        (Latest::new(settings(max_series), &registry), registry)
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|&(n, v)| (n.to_owned(), v)).collect()
    }

    fn page(latest: &Latest, syntax: Syntax, escaping: Scheme, now: Timestamp) -> String {
        let parts: Vec<_> = latest.sources().into_iter().map(|(_, shown)| shown).collect();
        String::from_utf8(encode(&parts, Format { syntax, escaping }, now, latest.with_timestamps())).unwrap()
    }

    fn text(latest: &Latest) -> String {
        page(latest, Syntax::Text004, Scheme::Underscores, NOW)
    }

    fn gauges(names: &[&str]) -> Batch {
        let mut batch = Batch::new(NOW);
        for name in names {
            batch.family((*name).to_owned(), Kind::Gauge, "").push(Labels::none(), 1.0);
        }
        batch
    }

    #[test]
    fn families_of_all_sources_stand_together_and_names_get_their_prefix() {
        let (latest, _) = latest(100);
        let mut a = Batch::new(NOW);
        a.family("requests_total", Kind::Counter, "say \"hi\"\\\n").push(labels(&[("source", "a")]), 5.0);
        a.family("app_up", Kind::Gauge, "").push(Labels::none(), 1.5);
        a.family("hidden_thing", Kind::Gauge, "").push(Labels::none(), 1.0);
        let mut b = Batch::new(NOW);
        b.family("requests_total", Kind::Counter, "other help").push(labels(&[("source", "b")]), 6.0);
        latest.put("a", MINUTE, false, &a);
        latest.put("b", MINUTE, false, &b);
        assert_eq!(
            text(&latest),
            "# TYPE app_up gauge\napp_up 1.5\n\
             # HELP atlas_requests_total say \"hi\"\\\\\\n\n# TYPE atlas_requests_total counter\n\
             atlas_requests_total{source=\"a\"} 5\natlas_requests_total{source=\"b\"} 6\n"
        );
        assert_eq!(
            page(&latest, Syntax::OpenMetrics100, Scheme::Underscores, NOW),
            "# TYPE app_up gauge\napp_up 1.5\n\
             # HELP atlas_requests say \\\"hi\\\"\\\\\\n\n# TYPE atlas_requests counter\n\
             atlas_requests_total{source=\"a\"} 5\natlas_requests_total{source=\"b\"} 6\n# EOF\n"
        );
    }

    /// V-13, E-9: each escaping scheme gets the names it can carry.
    #[test]
    fn foreign_names_under_every_scheme() {
        let (latest, _) = latest(100);
        let mut batch = Batch::new(NOW);
        batch.family("queue.depth", Kind::Gauge, "").push(labels(&[("worker.id", "a=\"b\",c")]), 2.0);
        batch.family("plain_total", Kind::Counter, "").push(labels(&[("x_y", "\\\"}{=")]), 3.0);
        latest.put("table", MINUTE, false, &batch);
        let page = |escaping| page(&latest, Syntax::Text100, escaping, NOW);
        assert_eq!(
            page(Scheme::AllowUtf8),
            "# TYPE atlas_plain_total counter\natlas_plain_total{x_y=\"\\\\\\\"}{=\"} 3\n\
             # TYPE \"atlas_queue.depth\" gauge\n{\"atlas_queue.depth\",\"worker.id\"=\"a=\\\"b\\\",c\"} 2\n"
        );
        assert_eq!(
            page(Scheme::Dots),
            "# TYPE atlas__plain__total counter\natlas__plain__total{x__y=\"\\\\\\\"}{=\"} 3\n\
             # TYPE atlas__queue_dot_depth gauge\natlas__queue_dot_depth{worker_dot_id=\"a=\\\"b\\\",c\"} 2\n"
        );
        assert!(page(Scheme::Values).contains("\nU__atlas__queue_2e_depth{U__worker_2e_id=\"a=\\\"b\\\",c\"} 2\n"));
        assert!(page(Scheme::Underscores).contains("\natlas_queue_depth{worker_id=\"a=\\\"b\\\",c\"} 2\n"));
    }

    /// OpenMetrics forbids what text 0.0.4 allows: clashing names are resolved, not emitted.
    #[test]
    fn open_metrics_families_never_clash() {
        let (latest, _) = latest(100);
        let mut batch = Batch::new(NOW);
        for (name, kind) in [
            ("node_a", Kind::Gauge),
            ("node_a_total", Kind::Counter),
            ("node_b_created", Kind::Gauge),
            ("node_b_total", Kind::Counter),
            ("node_c", Kind::Counter),
            ("node_d", Kind::Unknown),
        ] {
            batch.family(name, kind, "").push(Labels::none(), 1.0);
        }
        latest.put("x", MINUTE, false, &batch);
        let page = page(&latest, Syntax::OpenMetrics100, Scheme::Underscores, NOW);
        assert_eq!(
            page,
            "# TYPE node_a gauge\nnode_a 1\n# TYPE node_a_total unknown\nnode_a_total 1\n\
             # TYPE node_b counter\nnode_b_total 1\n# TYPE node_c unknown\nnode_c 1\n# TYPE node_d unknown\nnode_d 1\n# EOF\n"
        );
    }

    /// Families that only look alike under underscores stand apart where their names are told apart.
    #[test]
    fn names_that_differ_have_heads_of_their_own() {
        let (latest, _) = latest(100);
        latest.put("one", MINUTE, false, &gauges(&["a.b"]));
        let mut other = Batch::new(NOW);
        other.family("a_b", Kind::Gauge, "").push(labels(&[("x", "y")]), 2.0);
        latest.put("two", MINUTE, false, &other);
        assert_eq!(text(&latest), "# TYPE atlas_a_b gauge\natlas_a_b 1\natlas_a_b{x=\"y\"} 2\n");
        assert_eq!(
            page(&latest, Syntax::Text100, Scheme::AllowUtf8, NOW),
            "# TYPE \"atlas_a.b\" gauge\n{\"atlas_a.b\"} 1\n# TYPE atlas_a_b gauge\natlas_a_b{x=\"y\"} 2\n"
        );
        assert_eq!(
            page(&latest, Syntax::Text100, Scheme::Dots, NOW),
            "# TYPE atlas__a__b gauge\natlas__a__b{x=\"y\"} 2\n# TYPE atlas__a_dot_b gauge\natlas__a_dot_b 1\n"
        );
    }

    /// Values that contradict their type cost the type in OpenMetrics, never the page.
    #[test]
    fn open_metrics_shows_what_contradicts_its_type_as_unknown() {
        let (latest, _) = latest(100);
        let mut batch = Batch::new(NOW);
        batch.family("node_a_total", Kind::Counter, "").push(Labels::none(), -1.0);
        batch.family("node_a_created", Kind::Gauge, "").push(Labels::none(), 5.0);
        let family = batch.family("node_h", Kind::Histogram, "a help");
        for (suffix, value) in [(Suffix::Sum, f64::NAN), (Suffix::Count, 1.0)] {
            family.samples.push(Sample { suffix, labels: Labels::none(), value, at: None });
        }
        latest.put("x", MINUTE, false, &batch);
        assert_eq!(
            page(&latest, Syntax::OpenMetrics100, Scheme::Underscores, NOW),
            "# TYPE node_a_created gauge\nnode_a_created 5\n# TYPE node_a_total unknown\nnode_a_total -1\n\
             # HELP node_h_sum a help\n# TYPE node_h_sum unknown\nnode_h_sum NaN\n\
             # HELP node_h_count a help\n# TYPE node_h_count unknown\nnode_h_count 1\n# EOF\n"
        );
    }

    /// What is stale takes no name from what is shown.
    #[test]
    fn stale_families_claim_nothing() {
        let (latest, _) = latest(100);
        let mut batch = gauges(&["node_a"]);
        batch.families[0].samples[0].at = Some(NOW.before(MINUTE * 6));
        batch.family("node_a_total", Kind::Counter, "").push(Labels::none(), 1.0);
        latest.put("x", MINUTE, false, &batch);
        let page = page(&latest, Syntax::OpenMetrics100, Scheme::Underscores, NOW);
        assert_eq!(page, "# TYPE node_a counter\nnode_a_total 1\n# EOF\n");
    }

    /// Gauges go stale after max(5 min, 3 × interval), counters after an hour; the sample's own time counts.
    #[test]
    fn staleness_by_kind_and_own_time() {
        let (latest, _) = latest(100);
        let mut batch = Batch::new(NOW);
        batch.family("node_g", Kind::Gauge, "").samples = [("old", 301), ("new", 299)]
            .map(|(name, age)| Sample {
                suffix: Suffix::None,
                labels: labels(&[("n", name)]),
                value: 1.0,
                at: Some(NOW.before(Duration::from_secs(age))),
            })
            .to_vec();
        batch.family("node_c_total", Kind::Counter, "").push(Labels::none(), 1.0);
        latest.put("x", MINUTE, false, &batch);
        assert_eq!(
            text(&latest),
            "# TYPE node_c_total counter\nnode_c_total 1\n# TYPE node_g gauge\nnode_g{n=\"new\"} 1\n"
        );
        let at = |secs| page(&latest, Syntax::Text004, Scheme::Underscores, NOW.after(Duration::from_secs(secs)));
        assert_eq!(at(3600), "# TYPE node_c_total counter\nnode_c_total 1\n");
        assert_eq!(at(3601), "");
        // A source that is collected every two hours is not stale in between.
        latest.put("x", Duration::from_secs(7200), false, &batch);
        assert!(at(3 * 7200 - 300).contains("node_g"));
    }

    /// E-12: at the limit known series stay, new ones are dropped, and a source that failed finds its place again.
    #[test]
    fn the_series_limit_never_flaps() {
        let (latest, registry) = latest(3);
        latest.put("a", MINUTE, false, &gauges(&["node_a1", "node_a2"]));
        latest.put("b", MINUTE, false, &gauges(&["node_b1", "node_b2"]));
        assert_eq!(text(&latest).matches("\nnode_").count(), 3);
        // `a` fails: its series vanish, their places do not go to `b`.
        latest.put("a", MINUTE, true, &gauges(&[]));
        latest.put("b", MINUTE, false, &gauges(&["node_b2", "node_b1"]));
        assert_eq!(text(&latest), "# TYPE node_b1 gauge\nnode_b1 1\n");
        latest.put("a", MINUTE, false, &gauges(&["node_a1", "node_a2"]));
        assert_eq!(text(&latest).matches("\nnode_").count(), 3);
        // A series that is gone makes room.
        latest.put("a", MINUTE, false, &gauges(&["node_a1"]));
        latest.put("b", MINUTE, false, &gauges(&["node_b1", "node_b2"]));
        assert!(text(&latest).contains("node_b2"));
        let own = telemetry::gather(&registry, NOW);
        let dropped = own.families.iter().find(|f| f.name == "atlas_sidecar_series_dropped_total").unwrap();
        assert_eq!(dropped.samples[0].labels, labels(&[("source", "b"), ("reason", "limit")]));
        assert_eq!(dropped.samples[0].value, 2.0);
        latest.retain(&["b".to_owned()], settings(3));
        assert_eq!(latest.len(), 2);
    }

    /// V-12, V-13: names that become equal, and one name with two types: one wins, the other is counted.
    #[test]
    fn collisions_are_dropped_and_counted() {
        let (latest, registry) = latest(100);
        let mut batch = gauges(&["a.b", "a_b", "c"]);
        batch.family("a-b", Kind::Counter, "").push(Labels::none(), 9.0);
        latest.put("one", MINUTE, false, &batch);
        let mut other = Batch::new(NOW);
        other.family("c", Kind::Counter, "").push(labels(&[("x", "y")]), 1.0);
        latest.put("two", MINUTE, false, &other);
        assert_eq!(text(&latest), "# TYPE atlas_a_b gauge\natlas_a_b 1\n# TYPE atlas_c gauge\natlas_c 1\n");
        let own = telemetry::gather(&registry, NOW);
        let dropped = own.families.iter().find(|f| f.name == "atlas_sidecar_series_dropped_total").unwrap();
        assert_eq!(dropped.samples.iter().map(|s| s.value).sum::<f64>(), 3.0);
    }

    /// V-14
    #[test]
    fn numbers_are_the_shortest_that_read_back() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "-0.0"),
            (5.0, "5"),
            (-17.25, "-17.25"),
            (1e300, "1e+300"),
            (5e-324, "5e-324"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            let mut out = Vec::new();
            write_value(&mut out, value);
            let text = String::from_utf8(out).unwrap();
            if value.is_finite() {
                assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits(), "{text}");
            }
            assert!(text == expected || value.abs() > 1e15, "{value} {text} {expected}");
        }
    }

    /// Our encoder and the `prometheus` crate's write the same text for what both can.
    #[test]
    fn equal_to_the_text_encoder_of_the_prometheus_crate() {
        let registry = Registry::new();
        let vec = prometheus::GaugeVec::new(prometheus::Opts::new("atlas_t", "a \"b\"\\c\nd"), &["l", "m"]).unwrap();
        registry.register(Box::new(vec.clone())).unwrap();
        for (at, value) in [0.5, -3.0, 1e15, 123_456.789, f64::NAN].iter().enumerate() {
            vec.with_label_values(&[&format!("x\"\\\n{at}"), "plain"]).set(*value);
        }
        let theirs = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let (latest, _) = latest(100);
        latest.put("x", MINUTE, false, &telemetry::gather(&registry, NOW));
        assert_eq!(text(&latest), theirs);
    }

    #[test]
    fn timestamps_only_when_asked_for() {
        let registry = Registry::new();
        let latest = Latest::new(Settings { timestamps: true, ..settings(9) }, &registry);
        latest.put("x", MINUTE, false, &gauges(&["node_x"]));
        assert!(text(&latest).ends_with("node_x 1 1795374000123\n"));
        let open = page(&latest, Syntax::OpenMetrics100, Scheme::Underscores, NOW);
        assert!(open.ends_with("node_x 1 1795374000.123\n# EOF\n"), "{open}");
    }

    #[test]
    fn pages_are_shared_and_filtered() {
        let (latest, registry) = latest(9);
        latest.put("x", MINUTE, false, &gauges(&["node_x"]));
        let exposer = Exposer::new(Arc::new(latest), registry, Clock::by_hand(NOW));
        let format = Format { syntax: Syntax::Text004, escaping: Scheme::Underscores };
        let whole = exposer.page(format, &Filter::default());
        assert!(Arc::ptr_eq(&whole, &exposer.page(format, &Filter::default())));
        let only = exposer.page(format, &Filter { collect: vec!["x".to_owned()], exclude: vec![] });
        assert_eq!(only.text(), "# TYPE node_x gauge\nnode_x 1\n");
        let without = exposer.page(format, &Filter { collect: vec![], exclude: vec!["x".to_owned()] });
        let without = String::from_utf8(without.text().to_vec()).unwrap();
        assert!(without.contains("atlas_sidecar_series 1\n") && !without.contains("node_x"));
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&whole.gzip()[..]), &mut plain).unwrap();
        assert_eq!(plain, whole.text());
    }
}
