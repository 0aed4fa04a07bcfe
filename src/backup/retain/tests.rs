//! Plans over histories that no store has to hold.

use bytes::Bytes;
use proptest::prelude::*;

use super::super::catalog::Claim;
use super::super::layout::FORMAT;
use super::super::manifest::Manifest;
use super::super::manifest::tests::manifest;
use super::super::{Base, Position, Soundness};
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

/// A catalog of `manifests` and claims, without the objects in `gone`.
fn catalog(manifests: &[Manifest], claims: &[(u32, Option<Place>)], gone: &BTreeSet<String>) -> Catalog {
    let (mut listed, mut documents) = (Vec::new(), Vec::new());
    for manifest in manifests {
        let key = manifest_key(manifest.place());
        if let Some(object) = manifest.object.as_ref().filter(|o| !gone.contains(&o.key)) {
            listed.push(Listed {
                key: ObjectKey::ours(&object.key),
                bytes: object.stored.bytes,
                modified: manifest.observed,
            });
        }
        if !gone.contains(key.as_str()) {
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

/// A full each seventh day, an increment on the others, from `first` to `last`.
fn history(timeline: u32, first: i64, last: i64) -> Vec<Manifest> {
    (first..=last)
        .map(|n| {
            let kind = if (n - first) % 7 == 0 { Kind::Full } else { Kind::Incremental };
            manifest(timeline, u64::try_from(n + 1_000).unwrap(), kind, day(n))
        })
        .collect()
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

/// One thing that happens to a destination.
#[derive(Clone, Debug)]
enum Event {
    Full,
    Incremental,
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
        12 => Just(Event::Incremental),
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
            made => {
                position += 1;
                let kind = if fresh || !matches!(made, Event::Incremental) { Kind::Full } else { Kind::Incremental };
                fresh = false;
                // Along a timeline, marks only grow.
                let last = manifests.iter().rev().find(|m| m.timeline == Timeline(timeline)).map(|m| m.observed);
                let mut made_now = manifest(timeline, position, kind, last.map_or(now, |last| last.max(now)));
                if matches!(made, Event::Damaged) {
                    made_now.soundness = Some(Soundness::Damaged("page 7".to_owned()));
                }
                manifests.push(made_now);
            }
        }
    }
    (manifests, claims, gone, now)
}

/// What a restore of `at` on the line of `timeline` would give.
fn answer(catalog: &Catalog, timeline: Timeline, at: Timestamp) -> Option<Place> {
    let line = Line::of(catalog, Some(timeline)).ok()?;
    line.marks().rev().find(|(mark, e)| mark.observed <= at && is_sound(catalog, e)).map(|(mark, _)| mark.place)
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
        for (timeline, _) in &claims {
            let timeline = Timeline(*timeline);
            let lives = is_living(&before, timeline, begin);
            for at in instants.iter().filter(|_| lives) {
                prop_assert_eq!(answer(&before, timeline, *at), answer(&after, timeline, *at), "{} {}", timeline, at);
            }
        }
        prop_assert_eq!(plan(&after, &policy, now).condemned, vec![]);
        // Enough goes: what stays on a living line is the window, its anchor's chain, or a week's or month's full.
        if made.halted.is_none() && weeks == 0 && months == 0 {
            for place in after.entries.keys() {
                let needed = keep(&after, &policy, begin, now);
                prop_assert!(needed.contains(place), "{place} stays for nothing");
            }
        }
    }
}
