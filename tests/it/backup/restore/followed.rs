//! Restores of databases whose commits were followed: every instant comes back to the byte, whichever segments lead there.

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use atlas_sidecar::backup::catalog::{Catalog, Piece};
use atlas_sidecar::backup::codec::Identity;
use atlas_sidecar::backup::layout::{fold_key, live_key};
use atlas_sidecar::backup::plan::{self, Moment, Plan, PlanError, Step};
use atlas_sidecar::backup::restore::{Order, OrderError, Reached, RestoreError, carry_out, settle};
use atlas_sidecar::backup::verify::{Depth, Report, verify};
use atlas_sidecar::backup::{Kind, Place, Position, Timeline};
use atlas_sidecar::clock::Timestamp;
use atlas_sidecar::engine;
use atlas_sidecar::object::ObjectStore;

use super::history::{History, Seen, random};

fn millis(at: Timestamp, more: i64) -> Timestamp {
    Timestamp::from_millis(at.millis() + more)
}

fn place(timeline: u32, position: u64) -> Place {
    Place { timeline: Timeline(timeline), position: Position(position) }
}

async fn planned(history: &History, at: Moment) -> Result<Plan, OrderError> {
    let mut catalog = Catalog::load(history.store.as_ref()).await.unwrap();
    settle(&mut catalog, history.store.as_ref(), None, None, at).await
}

/// Restores, and gives the bytes and the last plan.
async fn restored(
    history: &History,
    at: Moment,
    identity: Option<&Identity>,
) -> Result<(Reached, Vec<u8>, Plan), OrderError> {
    let folder = tempfile::tempdir().unwrap();
    let (to, last) = (folder.path().join("new.db"), Mutex::new(None));
    let store = Arc::clone(&history.store) as Arc<dyn ObjectStore>;
    let order = Order {
        store: &store,
        timeline: None,
        at,
        rebuild: engine::rebuild,
        identity,
        to: &to,
        planned: &|plan| *last.lock().unwrap() = Some(plan.clone()),
        progress: &|_| (),
    };
    let reached = carry_out(&order).await;
    let left: Vec<_> = std::fs::read_dir(Path::new(folder.path())).unwrap().collect();
    assert_eq!(left.len(), usize::from(reached.is_ok()), "{left:?}");
    let reached = reached?;
    let bytes = std::fs::read(&to).unwrap();
    assert_eq!(reached.bytes, bytes.len() as u64);
    Ok((reached, bytes, last.into_inner().unwrap().unwrap()))
}

async fn looked_at(history: &History, depth: Depth, identity: Option<&Identity>) -> Report {
    let catalog = Catalog::load(history.store.as_ref()).await.unwrap();
    let store = Arc::clone(&history.store) as Arc<dyn ObjectStore>;
    verify(&store, &catalog, depth, Timestamp::from_millis(0), identity, &|_| ()).await.unwrap()
}

/// What is true of an instant: the newest state seen at or before it, or that it lies in a gap.
fn truth<'a>(line: &[&'a Seen], at: Timestamp) -> Option<Result<&'a Seen, ()>> {
    let mut seen = Timestamp::from_millis(0);
    let mut found: Option<(&Seen, Timestamp)> = None;
    for state in line {
        seen = seen.max(state.observed);
        if seen > at {
            let exact = found.is_some_and(|(_, observed)| observed == at);
            return match state.gap_from {
                Some(from) if at > from && found.is_some() && !exact => Some(Err(())),
                _ => found.map(|(state, _)| Ok(state)),
            };
        }
        found = Some((state, seen));
    }
    found.map(|(state, _)| Ok(state))
}

/// H32, H33, H34 over folds, beginnings of fine segments, live segments, gaps and timelines.
#[tokio::test]
async fn every_instant_of_random_histories_is_planned_as_it_was_and_every_mark_comes_back_to_the_byte() {
    for seed in 0..6 {
        let history = random(seed, 40);
        let line = history.line();
        let last = line[line.len() - 1].observed;
        let catalog = Catalog::load(history.store.as_ref()).await.unwrap();
        let around = line.iter().flat_map(|state| [millis(state.observed, -1), millis(state.observed, 1)]);
        for at in around.chain([millis(last, 1_000_000)]).chain(line.iter().filter_map(|state| state.gap_from)) {
            let said = settle(&mut catalog.clone(), history.store.as_ref(), None, None, Moment::At(at)).await;
            match (truth(&line, at), said) {
                (Some(Ok(state)), Ok(plan)) => assert_eq!(plan.mark.place, state.place, "seed {seed}, {at}"),
                (Some(Err(())), Err(OrderError::Plan(PlanError::Gap { .. }))) => {}
                (None, Err(OrderError::Plan(PlanError::Before { .. }))) => {}
                (truth, said) => {
                    let truth = truth.map(|truth| truth.map(|state| state.place));
                    panic!("seed {seed}, {at}: {truth:?}, and the plan says {said:?}");
                }
            }
        }
        for state in &line {
            // Where a clock went back between timelines, several states have the same time.
            let Some(Ok(reached)) = truth(&line, state.observed) else { panic!("a mark is in no gap") };
            let (told, bytes, plan) = restored(&history, Moment::At(state.observed), None).await.unwrap();
            assert_eq!(told.place, reached.place, "seed {seed}");
            assert!(bytes == reached.image, "seed {seed}, {}: {:?}", reached.place, plan.segments);
        }
        let (told, bytes, _) = restored(&history, Moment::Latest, None).await.unwrap();
        assert_eq!(told.place, line[line.len() - 1].place, "seed {seed}");
        assert!(bytes == line[line.len() - 1].image, "seed {seed}");
        let report = looked_at(&history, Depth::Deep, None).await;
        assert!(report.proven() && report.checked_objects == report.objects, "seed {seed}: {report:?}");
        assert!(looked_at(&history, Depth::Plain, None).await.proven(), "seed {seed}");
    }
}

/// A full, twenty live segments, a fine fold of all but some of them. Positions 1 to 21.
fn folded(recipient: Option<String>) -> (History, Place) {
    let mut history = History::new(7);
    history.recipient = recipient;
    history.full();
    for _ in 0..20 {
        history.commit();
    }
    let to = loop {
        let to = history.fold(Kind::Fine).unwrap();
        if to.position.0 > 4 {
            break to;
        }
    };
    (history, to)
}

fn kinds(plan: &Plan) -> Vec<Kind> {
    plan.segments.iter().map(Step::kind).collect()
}

#[tokio::test]
async fn what_is_damaged_is_done_without_while_the_live_segments_are_there() {
    let (history, to) = folded(None);
    let (fine, index) = history.keys_of_fine(to);
    let inside = history.seen[to.position.0 as usize - 2].clone();
    let (_, _, plan) = restored(&history, Moment::At(inside.observed), None).await.unwrap();
    assert!(matches!(plan.segments.last(), Some(Step::Beginning { .. })), "{plan:?}");
    for (key, what) in
        [(&fine, "bit"), (&fine, "cut"), (&fine, "gone"), (&index, "bit"), (&index, "cut"), (&index, "gone")]
    {
        let whole = history.store.bytes(key).unwrap();
        let mut bytes = whole.to_vec();
        match what {
            "bit" => bytes[20] ^= 1,
            "cut" => bytes.truncate(whole.len() - 1),
            _ => {}
        }
        if what == "gone" {
            history.store.remove(key)
        } else {
            history.store.set(key, bytes)
        }
        let (told, bytes, plan) = restored(&history, Moment::At(inside.observed), None).await.unwrap();
        assert!(told.place == inside.place && bytes == inside.image, "{key} {what}");
        assert!(kinds(&plan)[1..].iter().all(|kind| *kind == Kind::Live), "{key} {what}: {plan:?}");
        assert!(!looked_at(&history, Depth::Deep, None).await.proven(), "{key} {what}");
        history.store.set(key, whole);
    }
    assert!(looked_at(&history, Depth::Deep, None).await.proven());
}

#[tokio::test]
async fn what_is_damaged_is_refused_by_its_name_when_nothing_else_leads_there() {
    let (history, to) = folded(None);
    let (fine, index) = history.keys_of_fine(to);
    for position in 2..=to.position.0 {
        history.store.remove(live_key(place(1, position), "gz").as_str());
    }
    let inside = history.seen[to.position.0 as usize - 2].clone();
    for key in [&fine, &index] {
        let whole = history.store.bytes(key).unwrap();
        for what in ["bit", "gone"] {
            let mut bytes = whole.to_vec();
            bytes[20] ^= 1;
            if what == "gone" {
                history.store.remove(key)
            } else {
                history.store.set(key, bytes)
            }
            let error = restored(&history, Moment::At(inside.observed), None).await.unwrap_err().to_string();
            assert!(error.contains(key.as_str()), "{what}: {error}");
            history.store.set(key, whole.clone());
        }
    }
    // Without the index its end is still there.
    history.store.remove(&index);
    let end = &history.seen[to.position.0 as usize - 1];
    let (_, bytes, plan) = restored(&history, Moment::At(end.observed), None).await.unwrap();
    assert!(bytes == end.image && kinds(&plan) == [Kind::Full, Kind::Fine], "{plan:?}");
}

#[tokio::test]
async fn a_live_segment_that_is_missing_or_changed_is_named() {
    let (history, _) = folded(None);
    let key = live_key(place(1, 19), "gz");
    let (whole, note) = (history.store.bytes(key.as_str()).unwrap(), history.store.note(key.as_str()).unwrap());
    history.store.remove(key.as_str());
    let error = restored(&history, Moment::Latest, None).await.unwrap_err();
    assert!(error.to_string().contains("t000001/0000000019"), "{error}");
    let (before, after) = (&history.seen[17], &history.seen[19]);
    let between = planned(&history, Moment::At(millis(after.observed, -1))).await.unwrap_err();
    assert!(matches!(&between, OrderError::Plan(PlanError::Hole { .. })), "{between}");
    let (_, bytes, _) = restored(&history, Moment::At(before.observed), None).await.unwrap();
    assert!(bytes == before.image);
    let mut turned = whole.to_vec();
    turned[15] ^= 1;
    for (bytes, note) in [
        (turned, Some(note.clone())),
        (whole.to_vec(), None),
        (whole.to_vec(), Some("{}".to_owned())),
        (whole.to_vec(), history.store.note(live_key(place(1, 18), "gz").as_str())),
        (whole[1..].to_vec(), Some(note.clone())),
    ] {
        match &note {
            Some(note) => history.store.set_noted(key.as_str(), bytes, note),
            None => history.store.set(key.as_str(), bytes),
        }
        let error = restored(&history, Moment::Latest, None).await.unwrap_err();
        assert!(error.to_string().contains(key.as_str()), "{error}");
        assert!(!looked_at(&history, Depth::Deep, None).await.proven());
    }
    history.store.set_noted(key.as_str(), whole, &note);
    restored(&history, Moment::Latest, None).await.unwrap();
}

#[tokio::test]
async fn beginnings_of_encrypted_segments_need_the_identity_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("identity");
    let made = std::process::Command::new("age-keygen").arg("-o").arg(&file).output().expect("tests/run installs age");
    assert!(made.status.success());
    let identity = Identity::from_file(&file).unwrap();
    let (history, to) = folded(Some(identity.recipients().next().unwrap().to_string()));
    for position in 2..=to.position.0 {
        history.store.remove(live_key(place(1, position), "gz.age").as_str());
    }
    for state in &history.seen {
        let (_, bytes, _) = restored(&history, Moment::At(state.observed), Some(&identity)).await.unwrap();
        assert!(bytes == state.image, "{}", state.place);
    }
    let inside = &history.seen[to.position.0 as usize - 2];
    let error = restored(&history, Moment::At(inside.observed), None).await.unwrap_err();
    assert!(error.to_string().contains("no identity"), "{error}");
    let error = restored(&history, Moment::Latest, None).await.unwrap_err();
    assert!(matches!(error, OrderError::Restore(RestoreError::Identity { .. })), "{error}");
    assert!(looked_at(&history, Depth::Deep, Some(&identity)).await.proven());
}

/// H12: both ends of a gap are marks, and before it began the state is known.
#[tokio::test]
async fn h12_a_gap_is_an_error_that_names_its_ends() {
    let mut history = History::new(1);
    history.full();
    history.commit();
    history.increment(true);
    let (before, after) = (&history.seen[1], &history.seen[2]);
    let since = after.gap_from.unwrap();
    let reached = async |at| planned(&history, Moment::At(at)).await.map(|plan| plan.mark.place.position.0);
    assert_eq!(reached(since).await.unwrap(), 2);
    assert_eq!(reached(after.observed).await.unwrap(), 3);
    if after.observed > millis(since, 1) {
        let error = reached(millis(since, 1)).await.unwrap_err();
        let OrderError::Plan(gap @ PlanError::Gap { .. }) = &error else { panic!("{error}") };
        for end in [since, after.observed] {
            assert!(gap.to_string().contains(&end.to_string()), "{gap}");
        }
        let hint = gap.hint().unwrap();
        assert!(hint.contains(&before.observed.to_string()) && hint.contains(&after.observed.to_string()), "{hint}");
    }
}

#[tokio::test]
async fn a_heartbeat_says_until_when_the_newest_mark_was_it() {
    let mut history = History::new(3);
    history.full();
    history.commit();
    let until = history.heartbeat();
    let plan = planned(&history, Moment::At(millis(until, 1))).await.unwrap();
    assert_eq!((plan.mark.place, plan.newest, plan.quiet_until), (place(1, 2), true, Some(until)));
    let mut catalog = Catalog::load(history.store.as_ref()).await.unwrap();
    let newest = catalog.newest_notes();
    catalog.read_details(history.store.as_ref(), None, &newest).await.unwrap();
    assert_eq!(plan::window(&catalog, Timeline(1)), Some((history.seen[0].observed, until)));
    assert_eq!(catalog.tip(Timeline(1)).unwrap().manifest.place(), place(1, 2));
    // What its owner has seen there, and is not there any more, is a hole.
    history.store.remove(live_key(place(1, 2), "gz").as_str());
    let error = planned(&history, Moment::Latest).await.unwrap_err();
    assert!(matches!(&error, OrderError::Plan(PlanError::Hole { .. })), "{error}");
    assert!(!looked_at(&history, Depth::Plain, None).await.proven());
}

/// The longest segments lead to a state; where one is lost, those that it was made of do.
#[tokio::test]
async fn the_longest_way_is_taken_and_a_shorter_one_where_it_is_lost() {
    let (mut history, _) = folded(None);
    let merged = history.fold(Kind::Merged).unwrap();
    let catalog = Catalog::load(history.store.as_ref()).await.unwrap();
    let way = |catalog: &Catalog| {
        let way = catalog.cover(merged.timeline, merged.position).unwrap();
        way.iter().map(Piece::kind).collect::<Vec<_>>()
    };
    assert!(way(&catalog).len() <= 3, "{:?}", way(&catalog));
    let key = catalog.folds[&(merged, Kind::Merged)].manifest.object.as_ref().unwrap().key.clone();
    history.store.remove(&key);
    let lost = Catalog::load(history.store.as_ref()).await.unwrap();
    assert!(!way(&lost).contains(&Kind::Merged));
    let end = history.seen[merged.position.0 as usize - 1].clone();
    let (_, bytes, _) = restored(&history, Moment::At(end.observed), None).await.unwrap();
    assert!(bytes == end.image);
    history.store.remove(fold_key(merged, Kind::Merged).as_str());
    restored(&history, Moment::At(end.observed), None).await.unwrap();
}
