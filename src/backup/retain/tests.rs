//! Plans over histories that no store has to hold.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::catalog::Claim;
use super::super::index::Line;
use super::super::layout::{FORMAT, live_key};
use super::super::manifest::tests::manifest;
use super::super::manifest::{Manifest, Object, Sum};
use super::super::{Base, Place, Position, Soundness};
use super::*;
use crate::object::Listed;

const DAY: i64 = 86_400_000;
/// 2026-11-23.
const TODAY: i64 = 1_795_392_000_000;

fn day(day: i64) -> Timestamp {
    Timestamp::from_millis(TODAY + day * DAY)
}

fn policy(weeks: u64, months: u64) -> Policy {
    let days = |days: u64| Duration::from_secs(days * 86_400);
    Policy { window: days(30), weeks, months, grace: days(1) }
}

/// The key of what commits `manifest`.
fn commit_key(manifest: &Manifest) -> ObjectKey {
    match (manifest.kind, &manifest.object) {
        (Kind::Live, Some(object)) => ObjectKey::ours(&object.key),
        (Kind::Fine | Kind::Merged, _) => fold_key(manifest.place(), manifest.kind),
        _ => manifest_key(manifest.place()),
    }
}

/// A catalog of `manifests` and claims, without the objects in `gone`. Nothing was read but manifests.
fn catalog(manifests: &[Manifest], claims: &[(u32, Option<Place>)], gone: &BTreeSet<String>) -> Catalog {
    let (mut listed, mut documents) = (Vec::new(), Vec::new());
    for manifest in manifests {
        let key = commit_key(manifest);
        for object in manifest.objects().filter(|o| !gone.contains(&o.key)) {
            listed.push(Listed {
                key: ObjectKey::ours(&object.key),
                bytes: object.stored.bytes,
                modified: manifest.observed,
            });
        }
        if manifest.kind != Kind::Live && !gone.contains(key.as_str()) {
            documents.push((key, Bytes::from(manifest.to_bytes())));
        }
    }
    let mut catalog = Catalog::of(&listed, documents);
    for (timeline, parent) in claims {
        let parent = parent.map(|place| Base { place, digest: Default::default() });
        let claim = Claim {
            format: FORMAT,
            timeline: Timeline(*timeline),
            parent,
            host: "h".to_owned(),
            instance: "i".to_owned(),
            identity: "1:1".to_owned(),
            reason: "a test".to_owned(),
            claimed: day(0),
        };
        catalog.claims.insert(Timeline(*timeline), claim);
    }
    catalog
}

/// The same with all notes and indexes read.
fn read(manifests: &[Manifest], claims: &[(u32, Option<Place>)], gone: &BTreeSet<String>) -> Catalog {
    let mut catalog = catalog(manifests, claims, gone);
    let seen: BTreeMap<Place, Timestamp> = manifests.iter().map(|m| (m.place(), m.observed)).collect();
    for manifest in manifests {
        let place = manifest.place();
        if manifest.kind == Kind::Live && catalog.live.contains_key(&place) {
            catalog.notes.insert(place, Entry::committed(manifest.clone(), Sum::of(manifest.to_note().as_bytes())));
        }
    }
    let fines = catalog.folds.values().filter(|e| e.manifest.kind == Kind::Fine && e.index_fault().is_none());
    let indexes: Vec<(Place, Vec<Line>)> =
        fines.map(|fine| (fine.manifest.place(), index(&fine.manifest, &seen))).collect();
    catalog.indexes.extend(indexes);
    catalog
}

fn index(fine: &Manifest, seen: &BTreeMap<Place, Timestamp>) -> Vec<Line> {
    let positions = fine.from.unwrap().0 + 1..=fine.to.0;
    let line = |position: u64| Line {
        position: Position(position),
        observed: seen[&Place { position: Position(position), ..fine.place() }],
        pages: 3,
        frames: 1,
        plain_bytes: 1,
        stored: fine.object.as_ref().unwrap().stored.clone(),
        digest: format!("{position:032x}").parse().unwrap(),
    };
    positions.map(line).collect()
}

/// A live segment to `position`.
fn live(timeline: u32, position: u64, observed: Timestamp) -> Manifest {
    let mut live = manifest(timeline, position, Kind::Live, observed);
    live.object.as_mut().unwrap().key = live_key(live.place(), "gz").to_string();
    live
}

/// What was folded of `segments`, which follow one another.
fn folded(kind: Kind, segments: &[&Manifest]) -> Manifest {
    let (first, last) = (segments[0], segments[segments.len() - 1]);
    let mut folded = manifest(first.timeline.0, last.to.0, kind, last.observed);
    (folded.from, folded.digest_before) = (first.from, first.digest_before);
    if kind == Kind::Fine {
        let object = folded.object.clone().unwrap();
        folded.index = Some(Object { key: object.key.replace(".wal.gz", ".index.gz"), ..object });
        folded.first_observed = Some(first.observed);
    }
    folded
}

/// Has each manifest name the one before it.
fn linked(mut manifests: Vec<Manifest>) -> Vec<Manifest> {
    let primary = |m: &Manifest| matches!(m.kind, Kind::Full | Kind::Incremental | Kind::Live);
    let mut before: BTreeMap<Timeline, Sum> = BTreeMap::new();
    for manifest in manifests.iter_mut().filter(|m| primary(m)) {
        manifest.previous = before.get(&manifest.timeline).cloned();
        let sum = match manifest.kind {
            Kind::Live => Sum::of(manifest.to_note().as_bytes()),
            _ => Sum::of(&manifest.to_bytes()),
        };
        before.insert(manifest.timeline, sum);
    }
    let folds = |m: &Manifest| matches!(m.kind, Kind::Fine | Kind::Merged);
    let sums: BTreeMap<Segment, Sum> = BTreeMap::new();
    manifests.iter_mut().filter(|m| folds(m)).fold(sums, |mut sums, fold| {
        let before = fold.from.map(|position| (Place { position, ..fold.place() }, fold.kind));
        fold.previous = before.and_then(|before| sums.get(&before).cloned());
        sums.insert((fold.place(), fold.kind), Sum::of(&fold.to_bytes()));
        sums
    });
    manifests
}

/// A full each seventh day, an increment on the others, from `first` to `last`.
fn history(timeline: u32, first: i64, last: i64) -> Vec<Manifest> {
    let one = |n: i64| {
        let kind = if (n - first) % 7 == 0 { Kind::Full } else { Kind::Incremental };
        manifest(timeline, u64::try_from(n + 1_000).unwrap(), kind, day(n))
    };
    linked((first..=last).map(one).collect())
}

fn days_kept(catalog: &Catalog, plan: &Plan) -> Vec<i64> {
    let gone: BTreeSet<_> = plan.condemned.iter().map(|c| c.key.clone()).collect();
    let kept = catalog.entries.iter().filter(|(place, _)| !gone.contains(&manifest_key(**place)));
    kept.map(|(_, e)| (e.manifest.observed.millis() - TODAY) / DAY).collect()
}

#[test]
fn the_anchor_s_chain_and_everything_newer_stay() {
    let known = catalog(&history(1, -60, 0), &[(1, None)], &BTreeSet::new());
    let plan = plan(&known, &policy(0, 0), day(0));
    // The window begins at day -30; the mark of that day hangs on the full of day -32.
    assert_eq!(days_kept(&known, &plan), (-32..=0).collect::<Vec<_>>());
    assert_eq!(plan.kept, 33);
    assert_eq!(plan.condemned.len(), 2 * 28, "objects and manifests");
    assert!(plan.condemned.iter().all(|c| c.why == Why::Outdated));
    assert!(plan.to_string().ends_with("56 objects may go, with 2800 bytes; 33 segments stay\n"), "{plan}");
}

#[test]
fn an_anchor_that_cannot_be_restored_is_none() {
    let mut manifests = history(1, -60, 0);
    // The full of day -32.
    manifests[28].soundness = Some(Soundness::Damaged("page 7".to_owned()));
    let manifests = linked(manifests);
    let known = catalog(&manifests, &[(1, None)], &BTreeSet::new());
    let kept = days_kept(&known, &plan(&known, &policy(0, 0), day(0)));
    assert_eq!(kept, (-39..=0).collect::<Vec<_>>(), "the chain of day -33 stands in");
    let lost = manifests[28].object.as_ref().unwrap().key.clone();
    let known = catalog(&manifests, &[(1, None)], &BTreeSet::from([lost]));
    assert_eq!(days_kept(&known, &plan(&known, &policy(0, 0), day(0))), (-39..=0).collect::<Vec<_>>());
}

/// T-5, and whoever comes back after a year: nothing goes while there is no backup in the window.
#[test]
fn t5_a_clock_ahead_or_backups_that_stopped_condemn_nothing() {
    let known = catalog(&history(1, -60, 0), &[(1, None)], &BTreeSet::new());
    for now in [31, 365, 3_650] {
        let plan = plan(&known, &policy(0, 0), day(now));
        assert_eq!(plan.condemned, []);
        assert!(plan.halted.unwrap().contains("older than the window"));
    }
    let plan = plan(&known, &policy(0, 0), day(-3_650));
    assert_eq!(plan.condemned, [], "nor does one that is behind");
}

#[test]
fn a_line_that_was_left_goes_when_its_last_mark_does() {
    let left = Place { timeline: Timeline(1), position: Position(1_000 - 50) };
    let mut manifests = history(1, -60, -40);
    manifests.extend(history(2, -49, 0));
    let known = catalog(&manifests, &[(1, None), (2, Some(left))], &BTreeSet::new());
    let first = plan(&known, &policy(0, 0), day(-15));
    // Day -45 is the window's begin; the other line's last mark, of day -40, is inside.
    assert_eq!(first.condemned.iter().map(|c| c.why).collect::<BTreeSet<_>>(), BTreeSet::from([Why::Outdated]));
    let kept = days_kept(&known, &first);
    assert!(kept.contains(&-40) && kept.contains(&-46), "{kept:?}");
    let later = plan(&known, &policy(0, 0), day(0));
    assert!(later.condemned.iter().any(|c| c.why == Why::Left));
    assert_eq!(days_kept(&known, &later), (-35..=0).collect::<Vec<_>>());
}

#[test]
fn weeks_and_months_keep_their_newest_full() {
    let known = catalog(&history(1, -200, 0), &[(1, None)], &BTreeSet::new());
    let kept = |weeks, months| {
        let mut days = days_kept(&known, &plan(&known, &policy(weeks, months), day(0)));
        days.retain(|day| *day < -32);
        days
    };
    let none: [i64; 0] = [];
    assert_eq!(kept(0, 0), none);
    // Fulls are of the days -200, -193, …, -4; 2026-11-23 is a Monday. Of the last eight weeks, five lie inside the window.
    assert_eq!(kept(8, 0), [-46, -39]);
    // The newest fulls of November and October are inside; before come those of September 24 and August 27.
    assert_eq!(kept(0, 4), [-88, -60]);
}

#[test]
fn what_no_manifest_names_goes_when_it_is_old() {
    let mut known = catalog(&history(1, -3, 0), &[(1, None)], &BTreeSet::new());
    let stray = |name: &str, at| Listed { key: ObjectKey::ours(name), bytes: 9, modified: at };
    known.unnamed = vec![stray("t000001/old.db.gz", day(-2)), stray("t000001/new.db.gz", day(0))];
    let first = plan(&known, &policy(0, 0), day(0));
    assert_eq!(first.condemned.len(), 1);
    assert_eq!((first.condemned[0].key.as_str(), first.condemned[0].why), ("t000001/old.db.gz", Why::Unnamed));
    known.unreadable = vec![(ObjectKey::ours("t000001/0000000009.json"), "rubbish".to_owned())];
    assert_eq!(
        plan(&known, &policy(0, 0), day(0)).condemned,
        [],
        "it may be what a manifest names that cannot be read"
    );
}

/// A full each week, beside the tail: an hour's live segments each six hours, of which the older ones are folded, and merged by the day.
fn followed(days: i64) -> (Vec<Manifest>, BTreeSet<String>) {
    let (mut manifests, mut swept, mut position) = (vec![manifest(1, 1, Kind::Full, day(-days))], BTreeSet::new(), 1);
    for today in -days..0 {
        let mut fines = Vec::new();
        for part in 0..4 {
            let minute = |n: i64| Timestamp::from_millis(day(today).millis() + (part * 360 + n) * 60_000);
            let made: Vec<Manifest> =
                (1..=3).map(|n| live(1, position + n, minute(i64::try_from(n).unwrap()))).collect();
            position += 3;
            if (today, part) != (-1, 3) {
                swept.extend(made.iter().flat_map(Manifest::objects).map(|object| object.key.clone()));
                fines.push(folded(Kind::Fine, &made.iter().collect::<Vec<_>>()));
            }
            manifests.extend(made);
        }
        if today % 7 == 0 {
            let last = manifests[manifests.len() - 1].clone();
            let mut full = manifest(1, position, Kind::Full, last.observed);
            full.digest_after = last.digest_after;
            manifests.push(full);
        }
        manifests.push(folded(Kind::Merged, &fines.iter().collect::<Vec<_>>()));
        manifests.extend(fines);
    }
    (linked(manifests), swept)
}

/// Behind the anchor nothing stays but the way to it.
#[test]
fn fine_segments_stay_for_the_window_and_the_way_to_it_is_short() {
    let (manifests, swept) = followed(60);
    let known = catalog(&manifests, &[(1, None)], &swept);
    let made = plan(&known, &policy(0, 0), day(0));
    let gone: BTreeSet<_> = made.condemned.iter().map(|c| c.key.clone()).collect();
    let kept = |kind: Kind| {
        let all =
            known.entries.values().chain(known.folds.values()).map(|e| &e.manifest).filter(move |m| m.kind == kind);
        all.filter(|m| !gone.contains(&commit_key(m)))
            .map(|m| (m.observed.millis() - TODAY).div_euclid(DAY))
            .collect::<Vec<_>>()
    };
    // The window begins with day -30; the newest state before it is the end of day -31's last fine segment, and the full of day -35 leads there, over a merged segment for each day.
    assert_eq!(kept(Kind::Full), [-35, -28, -21, -14, -7]);
    assert_eq!(kept(Kind::Merged), (-34..=-1).collect::<Vec<_>>());
    assert_eq!(kept(Kind::Fine).len(), 30 * 4 - 1, "four a day, but for the last ones, which are live still");
    assert!(known.live.keys().all(|place| !gone.contains(&live_key(*place, "gz"))));
    assert_eq!(known.live.len(), 3);
    let indexes = made.condemned.iter().filter(|c| c.key.as_str().ends_with(".index.gz")).count();
    assert_eq!(indexes, 30 * 4, "each goes with its segment");
}

/// What a fine segment has had for longer than the grace goes where nobody swept it.
#[test]
fn live_segments_that_nobody_swept_go_when_a_fine_one_has_them() {
    let (manifests, _) = followed(5);
    let known = catalog(&manifests, &[(1, None)], &BTreeSet::new());
    let made = plan(&known, &policy(0, 0), day(0));
    let live: Vec<&Condemned> = made.condemned.iter().filter(|c| c.key.as_str().ends_with(".wal.gz")).collect();
    assert_eq!(live.len(), 4 * 4 * 3, "all but those of the last day");
    assert_eq!(made.condemned.len(), live.len());
    // Without its index, a fine segment has not all of their marks.
    let lost = manifests.iter().find(|m| m.kind == Kind::Fine).and_then(|m| m.index.clone()).unwrap().key;
    let known = catalog(&manifests, &[(1, None)], &BTreeSet::from([lost]));
    assert_eq!(plan(&known, &policy(0, 0), day(0)).condemned.len(), live.len() - 3);
}

/// One thing that happens to a destination.
#[derive(Clone, Debug)]
enum Event {
    Full,
    Incremental,
    /// So many live segments, a minute apart.
    Live(usize),
    /// A full at the place of a live segment.
    Beside,
    /// Live segments are folded, and swept where it says so.
    Fine(bool),
    Merged,
    /// Another installation goes on, from the tip or from some steps before it.
    Fork(usize),
    /// An object is lost.
    Lose(usize),
    Damaged,
    /// That many hours pass.
    Wait(u64),
    /// The next installation's clock is behind by that many hours.
    Back(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Full),
        6 => Just(Event::Incremental),
        8 => (1_usize..6).prop_map(Event::Live),
        1 => Just(Event::Beside),
        5 => any::<bool>().prop_map(Event::Fine),
        2 => Just(Event::Merged),
        1 => (0_usize..10).prop_map(Event::Fork),
        1 => (0_usize..40).prop_map(Event::Lose),
        1 => Just(Event::Damaged),
        8 => (1_u64..72).prop_map(Event::Wait),
        1 => (1_u64..100).prop_map(Event::Back),
    ]
}

type History = (Vec<Manifest>, Vec<(u32, Option<Place>)>, BTreeSet<String>, Timestamp);

fn played(events: &[Event]) -> History {
    let (mut manifests, mut claims, mut gone): (Vec<Manifest>, _, _) = (Vec::new(), vec![(1, None)], BTreeSet::new());
    let (mut now, mut timeline, mut position, mut fresh) = (day(0), 1_u32, 0_u64, true);
    let (mut unfolded, mut merged): (Vec<Manifest>, BTreeSet<Place>) = Default::default();
    for event in events {
        now = now.after(Duration::from_secs(60));
        match event {
            Event::Wait(hours) => now = now.after(Duration::from_secs(hours * 3_600)),
            Event::Back(hours) => now = now.before(Duration::from_secs(hours * 3_600)),
            Event::Fork(back) => {
                let own: Vec<Place> = manifests.iter().map(Manifest::place).collect();
                let parent = own.len().checked_sub(back + 1).and_then(|at| own.get(at)).copied();
                timeline += 1;
                claims.push((timeline, parent));
                fresh = true;
            }
            Event::Lose(at) => {
                if let Some(object) = manifests.get(*at).and_then(|m| m.object.as_ref()) {
                    gone.insert(object.key.clone());
                }
            }
            Event::Fine(sweeps) => {
                let all = std::mem::take(&mut unfolded);
                for run in all.chunk_by(|one, next| one.to.next() == next.to && one.timeline == next.timeline) {
                    manifests.push(folded(Kind::Fine, &run.iter().collect::<Vec<_>>()));
                    if *sweeps {
                        gone.extend(run.iter().flat_map(Manifest::objects).map(|object| object.key.clone()));
                    }
                }
            }
            Event::Merged => {
                let mut fines: Vec<&Manifest> = manifests.iter().filter(|m| m.kind == Kind::Fine).collect();
                fines.retain(|fine| !merged.contains(&fine.place()));
                fines.sort_by_key(|fine| fine.place());
                let made: Vec<Manifest> = fines
                    .chunk_by(|one, next| Some(one.to) == next.from && one.timeline == next.timeline)
                    .filter(|run| run.len() > 1)
                    .map(|run| folded(Kind::Merged, run))
                    .collect();
                merged.extend(fines.iter().map(|fine| fine.place()));
                manifests.extend(made);
            }
            Event::Live(_) | Event::Beside if fresh => {}
            Event::Live(count) => {
                for _ in 0..*count {
                    now = now.after(Duration::from_secs(60));
                    position += 1;
                    let made =
                        live(timeline, position, last_of(&manifests, timeline).map_or(now, |last| last.max(now)));
                    unfolded.push(made.clone());
                    manifests.push(made);
                }
            }
            Event::Beside => {
                let last = manifests.iter().rev().find(|m| m.kind == Kind::Live && m.timeline == Timeline(timeline));
                if let Some(last) = last.filter(|last| last.to.0 == position) {
                    let full = manifest(timeline, position, Kind::Full, last.observed);
                    if !manifests.iter().any(|m| m.place() == full.place() && m.kind == Kind::Full) {
                        manifests.push(full);
                    }
                }
            }
            made => {
                position += 1;
                let kind = if fresh || !matches!(made, Event::Incremental) { Kind::Full } else { Kind::Incremental };
                fresh = false;
                // Along a timeline, marks only grow.
                let last = last_of(&manifests, timeline);
                let mut made_now = manifest(timeline, position, kind, last.map_or(now, |last| last.max(now)));
                if matches!(made, Event::Damaged) {
                    made_now.soundness = Some(Soundness::Damaged("page 7".to_owned()));
                }
                manifests.push(made_now);
            }
        }
    }
    (linked(manifests), claims, gone, now)
}

/// When the newest state of `timeline` was seen.
fn last_of(manifests: &[Manifest], timeline: u32) -> Option<Timestamp> {
    manifests.iter().filter(|m| m.timeline == Timeline(timeline)).map(|m| m.observed).max()
}

/// All marks of the line that leads to `timeline` in a catalog that was read, with when each was seen on it, and whether it can be restored.
fn marks(catalog: &Catalog, timeline: Timeline) -> Vec<(Place, Timestamp, bool)> {
    let mut seen: BTreeMap<Place, Timestamp> = BTreeMap::new();
    let entries = catalog.entries.values().chain(catalog.folds.values()).chain(catalog.notes.values());
    seen.extend(entries.map(|e| (e.manifest.place(), e.manifest.observed)));
    for (fine, lines) in &catalog.indexes {
        seen.extend(lines.iter().map(|line| (Place { position: line.position, ..*fine }, line.observed)));
    }
    let (mut at, mut bound, mut marks) = (Some(timeline), None, Vec::new());
    while let Some(timeline) = at {
        let ways = catalog.ways(timeline);
        let own = seen
            .iter()
            .rev()
            .filter(|(place, _)| place.timeline == timeline && bound.is_none_or(|bound| place.position <= bound));
        marks.extend(own.map(|(place, seen)| (*place, *seen, ways.is_sound(place.position))));
        let parent = catalog.claims.get(&timeline).and_then(|claim| claim.parent).map(|parent| parent.place);
        bound = parent.map(|parent| parent.position);
        at = parent.map(|parent| parent.timeline).filter(|parent| *parent < timeline);
    }
    marks.reverse();
    let mut latest = None;
    for (_, seen, _) in &mut marks {
        latest = latest.max(Some(*seen));
        *seen = latest.unwrap();
    }
    marks
}

/// What a restore of `at` would give.
fn answer(marks: &[(Place, Timestamp, bool)], at: Timestamp) -> Option<Place> {
    marks.iter().rev().find(|(_, seen, sound)| *seen <= at && *sound).map(|(place, ..)| *place)
}

proptest! {
    /// Every instant of the window that can be restored before can be restored after, to the same mark, on every line that reaches into it; and
    /// what stays is settled: a second plan condemns nothing more.
    #[test]
    fn every_instant_of_the_window_stays_restorable(
        events in proptest::collection::vec(event(), 0..120), weeks in 0_u64..4, months in 0_u64..3,
    ) {
        let (manifests, claims, gone, now) = played(&events);
        let before = catalog(&manifests, &claims, &gone);
        let policy = policy(weeks, months);
        let made = plan(&before, &policy, now);
        let mut after_gone = gone.clone();
        after_gone.extend(made.condemned.iter().map(|c| c.key.to_string()));
        let after = catalog(&manifests, &claims, &after_gone);
        prop_assert_eq!(after.unnamed.len(), before.unnamed.len(), "objects go with their manifests");
        let begin = now.before(policy.window);
        let mut instants: Vec<Timestamp> = manifests.iter().map(|m| m.observed).filter(|at| *at >= begin).collect();
        instants.extend([begin, now]);
        let (known, left) = (read(&manifests, &claims, &gone), read(&manifests, &claims, &after_gone));
        for (timeline, _) in &claims {
            let timeline = Timeline(*timeline);
            let (known, left) = (marks(&known, timeline), marks(&left, timeline));
            let lives = before.newest_timeline() == Some(timeline)
                || known.last().is_some_and(|(place, seen, _)| place.timeline == timeline && *seen >= begin);
            for at in instants.iter().filter(|_| lives) {
                prop_assert_eq!(answer(&known, *at), answer(&left, *at), "{} {}", timeline, at);
            }
        }
        prop_assert_eq!(plan(&after, &policy, now).condemned, vec![]);
    }
}
