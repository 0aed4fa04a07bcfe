use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::catalog::{Claim, Entry, Need};
use super::super::index;
use super::super::layout::{FORMAT, claim_key, fold_key, live_key, manifest_key};
use super::super::manifest::tests::manifest;
use super::super::manifest::{Object, Sum};
use super::super::{Base, Kind, Place, Position, Soundness};
use super::error::Hole;
use super::*;
use crate::object::{Listed, ObjectKey};

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn place(timeline: u32, position: u64) -> Place {
    Place { timeline: Timeline(timeline), position: Position(position) }
}

/// A history as sidecars would write it, and what was lost of it since.
#[derive(Clone, Debug, Default)]
struct History {
    manifests: Vec<Manifest>,
    claims: Vec<Claim>,
    lost_manifests: BTreeSet<Place>,
    lost_objects: BTreeSet<Place>,
    unreadable: BTreeSet<Place>,
}

impl History {
    fn claim(&mut self, parent: Option<usize>) {
        let timeline = Timeline(u32::try_from(self.claims.len() + 1).unwrap());
        self.claims.push(Claim {
            format: FORMAT,
            timeline,
            parent: parent.map(|index| self.manifests[index].base()),
            host: "h".to_owned(),
            instance: "i".to_owned(),
            identity: "1:2".to_owned(),
            reason: "a test".to_owned(),
            claimed: at(0),
        });
    }

    /// Appends a segment to the newest timeline.
    fn append(&mut self, kind: Kind, observed: i64) -> &mut Manifest {
        let claim = self.claims.last().unwrap();
        let before = self.manifests.last().filter(|last| last.timeline == claim.timeline).cloned();
        let parent = || claim.parent.and_then(|base| self.manifests.iter().find(|m| m.base() == base).cloned());
        let number = self.manifests.last().map_or(1, |last| last.to.0 + 1);
        // A new timeline begins with a full.
        let kind = if before.is_some() { kind } else { Kind::Full };
        let mut made = manifest(claim.timeline.0, number, kind, at(observed));
        made.previous = before.or_else(parent).map(|before| Sum::of(&before.to_bytes()));
        self.manifests.push(made);
        self.manifests.last_mut().unwrap()
    }

    fn catalog(&self) -> Catalog {
        let (mut listed, mut documents) = (Vec::new(), Vec::new());
        let mut list = |key: ObjectKey, bytes: u64| listed.push(Listed { key, bytes, modified: at(0) });
        for manifest in &self.manifests {
            let place = manifest.place();
            if let Some(object) = manifest.object.as_ref().filter(|_| !self.lost_objects.contains(&place)) {
                list(ObjectKey::ours(&object.key), object.stored.bytes);
            }
            if !self.lost_manifests.contains(&place) {
                let bytes = if self.unreadable.contains(&place) { b"{".to_vec() } else { manifest.to_bytes() };
                documents.push((manifest_key(place), bytes.into()));
            }
        }
        for claim in &self.claims {
            documents.push((claim_key(claim.timeline), serde_json::to_vec(claim).unwrap().into()));
        }
        Catalog::of(&listed, documents)
    }

    /// The line to `timeline`, by walking the true history.
    fn line(&self, timeline: usize) -> Vec<&Manifest> {
        let mut line = Vec::new();
        let (mut timeline, mut bound) = (timeline, u64::MAX);
        loop {
            let own = |m: &&Manifest| m.timeline.0 as usize == timeline && m.to.0 <= bound;
            line.extend(self.manifests.iter().rev().filter(own));
            let Some(parent) = self.claims[timeline - 1].parent else { break };
            (timeline, bound) = (parent.place.timeline.0 as usize, parent.place.position.0);
        }
        line.reverse();
        line
    }

    fn known(&self, manifest: &Manifest) -> bool {
        !self.lost_manifests.contains(&manifest.place()) && !self.unreadable.contains(&manifest.place())
    }

    /// Whether all that `manifest` rests on is there.
    fn whole(&self, manifest: &Manifest) -> bool {
        let there = self.known(manifest) && !self.lost_objects.contains(&manifest.place());
        let below = manifest.from.map(|from| self.manifests.iter().find(|m| m.to == from).unwrap());
        there && below.is_none_or(|below| self.whole(below))
    }
}

/// What happens, in order.
#[derive(Clone, Debug)]
enum Step {
    Segment(bool, i64),
    Switch(prop::sample::Index),
    LoseManifest(prop::sample::Index),
    LoseObject(prop::sample::Index),
    Garble(prop::sample::Index),
}

fn history() -> impl Strategy<Value = History> {
    let step = prop_oneof![
        12 => (any::<bool>(), 1..4_i64).prop_map(|(full, span)| Step::Segment(full, span)),
        2 => any::<prop::sample::Index>().prop_map(Step::Switch),
        1 => any::<prop::sample::Index>().prop_map(Step::LoseManifest),
        1 => any::<prop::sample::Index>().prop_map(Step::LoseObject),
        1 => any::<prop::sample::Index>().prop_map(Step::Garble),
    ];
    proptest::collection::vec(step, 1..30).prop_map(|steps| {
        let mut history = History::default();
        history.claim(None);
        let mut now = 10;
        history.append(Kind::Full, now);
        for step in steps {
            let any = |index: &prop::sample::Index| index.index(history.manifests.len());
            let some = |index: &prop::sample::Index| history.manifests[any(index)].place();
            match &step {
                Step::Segment(full, span) => {
                    now += span;
                    history.append(if *full { Kind::Full } else { Kind::Incremental }, now);
                }
                Step::Switch(index) => {
                    let parent = any(index);
                    history.claim(Some(parent));
                }
                Step::LoseManifest(index) => drop(history.lost_manifests.insert(some(index))),
                Step::LoseObject(index) => drop(history.lost_objects.insert(some(index))),
                Step::Garble(index) => drop(history.unreadable.insert(some(index))),
            }
        }
        history
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// H32, H33, H34. The oracle knows what was written and what was lost; the plan knows only what is left.
    #[test]
    fn a_plan_is_the_newest_mark_before_t_or_there_is_none(history in history(), chosen: prop::sample::Index, asked in 5..100_i64) {
        let catalog = history.catalog();
        let timeline = 1 + chosen.index(history.claims.len());
        let line = history.line(timeline);
        let wanted = [Moment::At(at(asked)), Moment::Latest];
        for moment in wanted {
            let reaches = |m: &Manifest| matches!(moment, Moment::At(at) if m.observed <= at) || moment == Moment::Latest;
            let truth = line.iter().rposition(|m| reaches(m));
            let exact = |m: &Manifest| moment == Moment::At(m.observed);
            match plan(&catalog, Some(Timeline(u32::try_from(timeline).unwrap())), moment) {
                Ok(plan) => {
                    let index = line.iter().position(|m| m.place() == plan.mark.place).expect("on the line");
                    prop_assert!(reaches(line[index]), "never after T");
                    prop_assert!(history.whole(line[index]), "never a chain with a hole");
                    // What is lost behind all that is left leaves no trace, on the timeline that the line leads to.
                    let unknowable = line[index + 1..]
                        .iter()
                        .all(|m| history.lost_manifests.contains(&m.place()) && m.timeline.0 as usize == timeline);
                    prop_assert!(Some(index) == truth || unknowable, "not the newest: {} of {truth:?}", index);
                    let chain: Vec<u64> = plan.segments.iter().map(|step| step.place().position.0).collect();
                    prop_assert!(chain.windows(2).all(|pair| pair[0] + 1 == pair[1]));
                    prop_assert_eq!(plan.segments[0].kind(), Kind::Full);
                    prop_assert_eq!(plan.segments.last().map(super::Step::place), Some(plan.mark.place));
                }
                Err(error) => {
                    // Refused only with a reason.
                    let fine = truth.is_some_and(|index| {
                        let next = line.get(index + 1).is_none_or(|next| history.known(next));
                        history.whole(line[index]) && (next || exact(line[index]))
                    });
                    prop_assert!(!fine, "{error}");
                    if let PlanError::Broken { nearest, .. } | PlanError::Hole { nearest, .. } = &error {
                        for mark in [nearest.before, nearest.after].into_iter().flatten() {
                            let by_its_time = super::plan(&catalog, Some(Timeline(u32::try_from(timeline).unwrap())), Moment::At(mark.observed));
                            prop_assert_eq!(by_its_time.unwrap().mark, mark, "what the error names works");
                        }
                    }
                }
            }
        }
    }
}

/// One timeline: full, increment, increment, full, increment, at 10, 20, 30, 40, 50 ms.
fn simple() -> History {
    let mut history = History::default();
    history.claim(None);
    for (kind, when) in [Kind::Full, Kind::Incremental, Kind::Incremental, Kind::Full, Kind::Incremental]
        .into_iter()
        .zip([10, 20, 30, 40, 50])
    {
        history.append(kind, when);
    }
    history
}

fn reached(history: &History, moment: Moment) -> Result<u64, PlanError> {
    plan(&history.catalog(), None, moment).map(|plan| plan.mark.place.position.0)
}

#[test]
fn h34_the_newest_mark_at_or_before_t() {
    let history = simple();
    for (asked, mark) in [(10, 1), (19, 1), (20, 2), (39, 3), (40, 4), (50, 5), (1_000_000, 5)] {
        assert_eq!(reached(&history, Moment::At(at(asked))), Ok(mark), "{asked}");
    }
    assert_eq!(reached(&history, Moment::Latest), Ok(5));
    let plan = plan(&history.catalog(), None, Moment::At(at(90))).unwrap();
    assert_eq!((plan.newest, plan.age(at(0))), (true, Duration::from_millis(40)));
    assert_eq!((plan.fetched_bytes(), plan.database_bytes()), (200, 3 * 4096));
    assert_eq!(plan.to_json()["mark"]["observed"], "1970-01-01T00:00:00.050Z");
    let early = reached(&history, Moment::At(at(9))).unwrap_err();
    assert_eq!(
        early.to_string(),
        "1970-01-01T00:00:00.009Z lies before the first mark; what can be restored lies from 1970-01-01T00:00:00.010Z until 1970-01-01T00:00:00.050Z"
    );
    assert_eq!(early.hint().unwrap(), "the nearest mark: `--at 1970-01-01T00:00:00.010Z` (t000001/0000000001)");
}

#[test]
fn h32_h33_a_hole_is_an_error_that_names_its_ends() {
    let mut history = simple();
    history.lost_manifests.insert(place(1, 3));
    let error = reached(&history, Moment::At(at(35))).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("t000001/0000000002") && text.contains("t000001/0000000004") && text.ends_with("is missing"),
        "{text}"
    );
    assert!(error.hint().unwrap().contains("`--at 1970-01-01T00:00:00.020Z`"), "{error:?}");
    assert_eq!(reached(&history, Moment::At(at(20))), Ok(2), "by its own time a mark is always had");

    let mut history = simple();
    history.unreadable.insert(place(1, 5));
    let error = reached(&history, Moment::Latest).unwrap_err();
    assert!(error.to_string().contains("t000001/0000000005.json"), "{error}");
    assert_eq!(reached(&history, Moment::At(at(40))), Ok(4));

    let mut history = simple();
    history.lost_objects.insert(place(1, 1));
    let error = reached(&history, Moment::At(at(30))).unwrap_err();
    assert!(
        matches!(&error, PlanError::Broken { why, .. } if why.contains("t000001/0000000001-") && why.ends_with("is missing"))
    );
    assert_eq!(
        error.hint().unwrap(),
        "the nearest mark that can be restored: `--at 1970-01-01T00:00:00.040Z` (t000001/0000000004)"
    );
}

#[test]
fn a_manifest_that_was_edited_is_found_by_the_next_one() {
    let history = simple();
    let mut catalog = history.catalog();
    let mut edited = history.manifests[1].clone();
    edited.pages = 9;
    let entry = catalog.entries.get_mut(&place(1, 2)).unwrap();
    (entry.sha256, entry.manifest) = (Sum::of(&edited.to_bytes()), edited);
    let error = plan(&catalog, None, Moment::At(at(30))).unwrap_err();
    assert!(matches!(&error, PlanError::Broken { why, .. } if why.contains("t000001/0000000002")), "{error}");
    let error = plan(&catalog, None, Moment::At(at(25))).unwrap_err();
    assert!(matches!(error, PlanError::Hole { hole: Hole::Changed, .. }), "{error}");
}

#[test]
fn a_database_that_was_damaged_is_the_last_choice() {
    let mut history = simple();
    history.manifests.truncate(3);
    history.append(Kind::Full, 40).soundness = Some(Soundness::Damaged("page 7 is lost".to_owned()));
    let error = reached(&history, Moment::Latest).unwrap_err();
    assert!(
        matches!(&error, PlanError::Damaged { nearest, .. } if nearest.before.is_some_and(|m| m.place == place(1, 3)))
    );
    assert!(error.to_string().ends_with("damaged when its full was read: page 7 is lost"));
    for position in 1..4 {
        history.lost_objects.insert(place(1, position));
    }
    let plan = plan(&history.catalog(), None, Moment::Latest).unwrap();
    assert_eq!(plan.mark.place, place(1, 4));
    assert!(plan.warnings[0].contains("page 7 is lost"), "{:?}", plan.warnings);
}

#[test]
fn a_branch_is_chosen_and_the_newest_claim_is_the_default() {
    let mut history = simple();
    history.claim(Some(1));
    history.append(Kind::Full, 60);
    let catalog = history.catalog();
    let to = |timeline, asked| plan(&catalog, timeline, asked).map(|plan| plan.mark.place);
    assert_eq!(to(None, Moment::Latest), Ok(place(2, 6)));
    assert_eq!(to(None, Moment::At(at(55))), Ok(place(1, 2)), "what came later on the old timeline is not on the way");
    assert_eq!(to(Some(Timeline(1)), Moment::At(at(55))), Ok(place(1, 5)));
    assert!(
        matches!(to(Some(Timeline(9)), Moment::Latest), Err(PlanError::Timeline { known, .. }) if known == [Timeline(1), Timeline(2)])
    );
    assert_eq!(plan(&Catalog::default(), None, Moment::Latest), Err(PlanError::Empty));
}

#[test]
fn a_claim_without_a_mark_still_says_where_the_line_was_left() {
    let mut history = simple();
    history.claim(Some(4));
    assert_eq!(reached(&history, Moment::Latest), Ok(5));
    history.lost_manifests.insert(place(1, 5));
    assert!(matches!(reached(&history, Moment::Latest), Err(PlanError::Hole { hole: Hole::Missing, .. })));
}

#[test]
fn a_newest_claim_that_cannot_be_read_makes_the_line_unclear() {
    let mut catalog = simple().catalog();
    catalog.unreadable.push((claim_key(Timeline(2)), "no claim".to_owned()));
    assert!(matches!(plan(&catalog, None, Moment::Latest), Err(PlanError::Claim { .. })));
    assert!(plan(&catalog, Some(Timeline(1)), Moment::Latest).is_ok());
}

#[test]
fn a_clock_that_went_back_puts_nothing_before_its_past() {
    let mut history = simple();
    history.claim(Some(4));
    history.append(Kind::Full, 45);
    assert_eq!(reached(&history, Moment::At(at(47))), Ok(4), "the state of 6 holds what was committed at 50");
    assert_eq!(reached(&history, Moment::At(at(50))), Ok(6));
}

#[test]
fn several_databases_in_one_place_are_not_guessed_about() {
    let mut history = simple();
    history.claim(None);
    history.append(Kind::Full, 60).database = "other.db".to_owned();
    let error = reached(&history, Moment::Latest).unwrap_err();
    assert!(
        error.to_string().contains("`other.db` (sqlite) and `atlas.db` (sqlite), the latter on t000001"),
        "{error}"
    );
    assert_eq!(plan(&history.catalog(), Some(Timeline(1)), Moment::Latest).unwrap().database(), "atlas.db");
    history.append(Kind::Full, 70).engine = "postgres".to_owned();
    assert!(matches!(plan(&history.catalog(), Some(Timeline(2)), Moment::Latest), Err(PlanError::Several { .. })));
}

#[test]
fn states_tell_whose_fault_it_is() {
    let mut history = simple();
    history.lost_objects.insert(place(1, 2));
    let catalog = history.catalog();
    let words: BTreeMap<u64, &str> = catalog
        .entries
        .iter()
        .map(|(place, entry)| (place.position.0, state(&catalog.ways(place.timeline), entry).word()))
        .collect();
    let expected = [(1, "restorable"), (2, "broken"), (3, "uploaded"), (4, "restorable"), (5, "restorable")];
    assert_eq!(words, expected.into());
}

/// The state of a claim's parent, as [`Base`] has it, is where the line goes on from.
#[test]
fn a_line_knows_its_window() {
    let mut history = simple();
    history.lost_objects.insert(place(1, 1));
    let catalog = history.catalog();
    let line = Line::of(&catalog, None).unwrap();
    let (first, last) = line.window().unwrap();
    assert_eq!((first.place, last.place), (place(1, 4), place(1, 5)));
    assert_eq!(line.marks().count(), 5);
    assert_eq!(Base { place: last.place, digest: last.digest }, history.manifests[4].base());
}

/// A full at position 1, `live` segments behind it a second apart, and fine ones of 100 each over the first of them, whose live segments are gone.
fn followed(live: u64, fines: u64) -> Catalog {
    let second = |position: u64| at(i64::try_from(position).unwrap() * 1_000);
    let full = manifest(1, 1, Kind::Full, second(1));
    let mut documents = vec![(manifest_key(full.place()), full.to_bytes().into())];
    let listing = |key: &str, bytes| Listed { key: ObjectKey::ours(key), bytes, modified: at(0) };
    let mut listed = vec![listing(&full.object.as_ref().unwrap().key, 100)];
    for fine in 0..fines {
        let mut made = manifest(1, 1 + (fine + 1) * 100, Kind::Fine, second(1 + (fine + 1) * 100));
        made.from = Some(Position(1 + fine * 100));
        made.digest_before = Some(format!("{:032x}", 1 + fine * 100).parse().unwrap());
        made.first_observed = Some(second(2 + fine * 100));
        let object = made.object.as_ref().unwrap();
        let index = Object { key: format!("{}.index.gz", object.key), ..object.clone() };
        listed.extend([listing(&object.key, 100), listing(&index.key, 100)]);
        made.index = Some(index);
        documents.push((fold_key(made.place(), Kind::Fine), made.to_bytes().into()));
    }
    let first = 2 + fines * 100;
    listed.extend((first..first + live).map(|position| listing(live_key(place(1, position), "gz").as_str(), 100)));
    Catalog::of(&listed, documents)
}

/// Plans, and reads what is asked for as a store has it; how much that was, and in how many turns.
fn read_on(catalog: &mut Catalog, asked: Moment) -> (Result<u64, PlanError>, usize, usize) {
    let (mut turns, mut read) = (0, 0);
    loop {
        let needs = match plan(catalog, None, asked) {
            Err(PlanError::Unread(needs)) => needs,
            other => return (other.map(|plan| plan.mark.place.position.0), turns, read),
        };
        (turns, read) = (turns + 1, read + needs.len());
        for need in needs {
            let second = |position: Position| at(i64::try_from(position.0).unwrap() * 1_000);
            match need {
                Need::Note(place) => {
                    let sum = |position: u64| Sum::of(&position.to_be_bytes());
                    let mut note = manifest(1, place.position.0, Kind::Live, second(place.position));
                    note.previous = Some(sum(place.position.0 - 1));
                    catalog.notes.insert(place, Entry::committed(note, sum(place.position.0)));
                }
                Need::Index(place) => {
                    let fine = &catalog.folds[&(place, Kind::Fine)].manifest;
                    let line = |position| index::Line {
                        position: Position(position),
                        observed: second(Position(position)),
                        pages: 3,
                        frames: 1,
                        plain_bytes: 1,
                        stored: fine.object.as_ref().unwrap().stored.clone(),
                        digest: format!("{position:032x}").parse().unwrap(),
                    };
                    let lines = (fine.from.unwrap().0 + 1..=fine.to.0).map(line).collect();
                    catalog.indexes.insert(place, lines);
                }
            }
        }
    }
}

#[test]
fn of_thousands_of_marks_few_are_read() {
    for (asked, turns, read) in [
        (Moment::Latest, 1, 1),
        (Moment::At(at(99_000_000_000)), 1, 16),
        (Moment::At(at(12_345_000)), 4, 64),
        (Moment::At(at(450_500)), 1, 1),
        (Moment::At(at(501_500)), 1, 1),
        (Moment::At(at(501_000)), 0, 0),
    ] {
        let mut catalog = followed(12_000, 10);
        let (reached, took, looked) = read_on(&mut catalog, asked);
        let wanted = match asked {
            Moment::At(at) => (at.millis() / 1_000).unsigned_abs().min(13_001),
            Moment::Latest => 13_001,
        };
        assert_eq!(reached, Ok(wanted));
        assert!(took <= turns && looked <= read, "{asked:?}: {took} turns, {looked} objects");
    }
}

/// A catalog of years: what is asked of all its marks costs no more than a look at each.
#[test]
fn ten_thousand_live_segments_and_a_thousand_fine_ones_are_no_burden() {
    let catalog = followed(10_000, 1_000);
    let ways = catalog.ways(Timeline(1));
    for entry in catalog.folds.values() {
        assert_eq!(state(&ways, entry), State::Restorable);
    }
    assert_eq!(ways.to(Position(110_001)).unwrap().len(), 1 + 1_000 + 10_000);
    assert_eq!(ways.to(Position(110_002)).unwrap_err(), "there is no segment to t000001/0000110002");
}
