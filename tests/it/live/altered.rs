//! That the proofs can fail: what was altered in the destination is refused, by name.

use super::scene::{Fresh, sql};
use super::{FAST, SOON, Scene, Store};
use crate::support::wait_for;

/// Live segments as the store has them: key and bytes.
fn live(scene: &Scene) -> Vec<(String, Vec<u8>)> {
    let keys = scene.store.keys().into_iter().filter(|key| key.contains(".wal.") && !key.contains("-from-"));
    keys.map(|key| (key.clone(), scene.store.bytes(&key).unwrap())).collect()
}

/// Changes of the same length until two live segments have the same, with at least one other behind them.
fn twins(scene: &mut Scene) -> (usize, usize) {
    sql(&scene.database(), "INSERT INTO app_notes(body, noise) VALUES ('twin', randomblob(100))");
    wait_for("two live segments of the same length", SOON, || {
        sql(&scene.database(), "UPDATE app_notes SET noise = randomblob(100)");
        scene.mark();
        let live = live(scene);
        let lengths: Vec<usize> = live.iter().map(|(_, bytes)| bytes.len()).collect();
        let pairs = (1..lengths.len().saturating_sub(1)).flat_map(|b| (0..b).map(move |a| (a, b)));
        pairs.into_iter().find(|(a, b)| lengths[*a] == lengths[*b])
    })
}

/// What a restore of the newest state says, which it must refuse.
fn refused(scene: &Scene) -> String {
    let fresh = Fresh::new(&scene.store);
    let (out, to) = fresh.restore("latest");
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(!out.status.success(), "restored all the same: {said}");
    assert!(!to.exists(), "nothing is left where the database was to be");
    said
}

fn what_is_altered_is_refused(store: Store) {
    let mut scene = Scene::new(store, FAST);
    let (a, b) = twins(&mut scene);
    // Nobody puts it right again.
    assert_eq!(scene.running.take().unwrap().stop(), 0);
    let live = live(&scene);
    Fresh::new(&scene.store).comes_back(scene.marks.last().unwrap());

    scene.store.alter(&live[a].0, live[b].1.clone());
    scene.store.alter(&live[b].0, live[a].1.clone());
    let said = refused(&scene);
    assert!(said.contains(&live[a].0), "it names {}: {said}", live[a].0);

    scene.store.alter(&live[a].0, live[a].1.clone());
    scene.store.alter(&live[b].0, live[b].1.clone());
    Fresh::new(&scene.store).comes_back(scene.marks.last().unwrap());

    let last = live.last().unwrap();
    let (mut cut, mut flipped) = (last.1.clone(), last.1.clone());
    cut.pop();
    scene.store.alter(&last.0, cut);
    assert!(refused(&scene).contains(&last.0));
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    scene.store.alter(&last.0, flipped);
    assert!(refused(&scene).contains(&last.0));
    scene.store.alter(&last.0, last.1.clone());

    scene.store.remove(&live[a].0);
    let (said, missing) = (refused(&scene), live[a].0.split(['/', '.']).nth(1).unwrap().to_owned());
    let plain = missing.trim_start_matches('0').to_owned();
    assert!(said.contains(&missing) || said.contains(&plain), "it names {missing}: {said}");
}

#[test]
fn segments_that_were_altered_or_taken_away_are_refused_in_a_bucket() {
    what_is_altered_is_refused(Store::s3());
}

#[test]
fn segments_that_were_altered_or_taken_away_are_refused_in_a_folder() {
    what_is_altered_is_refused(Store::folder());
}
