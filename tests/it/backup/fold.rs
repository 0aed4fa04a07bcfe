//! Folding, against a store in memory: what comes back from folds alone, what is refused, and what crashes leave.

mod crash;
mod random;
mod swept;
mod world;

use std::time::Duration;

use atlas_sidecar::backup::codec::{Form, Identity};
use atlas_sidecar::backup::fold::FoldError;
use atlas_sidecar::backup::manifest::Codec;
use atlas_sidecar::backup::{Kind, Place, Position};

use self::world::{PAGE, World};

/// What `age-keygen` printed once.
const SECRET: &str = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";

fn identity() -> Identity {
    Identity::parse(SECRET).unwrap()
}

fn encrypted(codec: Codec) -> Form {
    Form { codec, recipients: identity().recipients().collect() }
}

/// All ways to store bytes.
fn forms() -> [(Form, Option<Identity>); 4] {
    let plain = |codec| Form { codec, recipients: Vec::new() };
    [
        (plain(Codec::Gzip), None),
        (plain(Codec::Zstd), None),
        (encrypted(Codec::Gzip), Some(identity())),
        (encrypted(Codec::Zstd), Some(identity())),
    ]
}

#[tokio::test]
async fn an_hour_is_folded_and_each_second_of_it_comes_back() {
    for (form, identity) in forms() {
        let mut world = World::new(form, identity).await;
        for number in 0..9 {
            world.write(number % 7 + 2, number as u8).await;
        }
        assert_eq!(world.merged().await.unwrap(), None, "there is no fine one yet");
        let folded = world.fine().await.unwrap().unwrap();
        assert_eq!((folded.made, folded.segments, folded.manifest.to), (1, 9, Position(10)));
        let manifest = &folded.manifest;
        assert_eq!((manifest.kind, manifest.from, manifest.sent_pages), (Kind::Fine, Some(Position(1)), 9));
        assert_eq!(manifest.observed, world.states[&Position(10)].0);
        assert_eq!(manifest.first_observed, Some(world.states[&Position(2)].0));
        let catalog = world.catalog().await;
        assert_eq!((catalog.unreadable, catalog.unnamed), (vec![], vec![]));
        assert_eq!(
            world.index(manifest).iter().map(|line| line.position.0).collect::<Vec<_>>(),
            (2..=10).collect::<Vec<_>>()
        );
        assert_eq!(world.merged().await.unwrap(), None, "one is too few");
        assert_eq!(world.fine().await.unwrap(), None, "all of them are covered");
        for number in 0..4 {
            world.write(number + 3, 99).await;
        }
        let second = world.fine().await.unwrap().unwrap();
        assert_eq!((second.segments, second.manifest.from), (4, Some(Position(10))));
        let catalog = world.catalog().await;
        let first = &catalog.folds[&(manifest.place(), Kind::Fine)];
        assert_eq!(second.manifest.previous, Some(first.sha256.clone()));
        let day = world.merged().await.unwrap().unwrap();
        assert_eq!(
            (day.manifest.kind, day.manifest.from, day.manifest.to),
            (Kind::Merged, Some(Position(1)), Position(14))
        );
        assert_eq!(day.manifest.sent_pages, 7, "each page once");
        assert_eq!(world.merged().await.unwrap(), None);
        world.restorable("all of it").await;
        assert_eq!(world.left(), 0, "the scratch folder");
    }
}

/// A position without a live segment ends a run, on both sides; a merged segment leads over no gap.
#[tokio::test]
async fn no_fold_leads_over_a_gap() {
    let mut world = World::new(Form::default(), None).await;
    for _ in 0..3 {
        world.write(2, 1).await;
    }
    world.fine().await.unwrap();
    let mut image = world.image.clone();
    image[3 * PAGE + 5] ^= 1;
    world.write(3, 2).await;
    image[2 * PAGE..3 * PAGE].copy_from_slice(&world.image[2 * PAGE..3 * PAGE]);
    world.gap(image).await;
    for _ in 0..2 {
        world.write(4, 3).await;
    }
    let folded = world.fine().await.unwrap().unwrap();
    assert_eq!((folded.made, folded.segments), (2, 3));
    let catalog = world.catalog().await;
    let spans: Vec<_> = catalog.folds.values().map(|e| (e.manifest.from.unwrap().0, e.manifest.to.0)).collect();
    assert_eq!(spans, [(1, 4), (4, 5), (6, 8)]);
    assert_eq!(world.merged().await.unwrap().unwrap().made, 1);
    world.write(5, 3).await;
    world.fine().await.unwrap();
    assert_eq!(world.merged().await.unwrap().unwrap().manifest.from, Some(Position(6)), "beyond the gap");
    world.restorable("around the gap").await;
}

/// More than a day is several merged segments.
#[tokio::test]
async fn a_merged_segment_is_a_day() {
    let mut world = World::new(Form::default(), None).await;
    for _ in 0..60 {
        world.write(2, 1).await;
        world.pass(Duration::from_secs(1800));
        world.write(3, 1).await;
        world.pass(Duration::from_secs(1800));
        world.fine().await.unwrap();
    }
    let merged = world.merged().await.unwrap().unwrap();
    assert_eq!((merged.made, merged.segments), (3, 60));
    let catalog = world.catalog().await;
    for entry in catalog.folds.values().filter(|e| e.manifest.kind == Kind::Merged) {
        let first = world.states[&entry.manifest.from.unwrap().next()].0;
        assert!(entry.manifest.observed.since(first) <= Duration::from_secs(86_400));
        let before =
            catalog.folds.get(&(Place { position: entry.manifest.from.unwrap(), ..world.place }, Kind::Merged));
        assert_eq!(entry.manifest.previous, before.map(|before| before.sha256.clone()), "though made in one go");
    }
}

/// A page that comes back without anybody writing it is zeros, not what it was before the database was cut off there.
#[tokio::test]
async fn a_page_that_was_cut_off_does_not_come_back() {
    let mut world = World::new(Form::default(), None).await;
    world.write(8, 0xee).await;
    let mut cut = world.image[..5 * PAGE].to_vec();
    cut[50] ^= 1;
    world.live(cut.clone(), false).await;
    let mut grown = cut;
    grown[50] ^= 2;
    grown.extend([0; PAGE]);
    grown.extend([9; PAGE]);
    grown.extend([0; PAGE]);
    world.live(grown, true).await;
    let folded = world.fine().await.unwrap().unwrap();
    assert_eq!(folded.manifest.sent_pages, 1 + 1 + 4, "two of them were nobody's");
    world.write(2, 1).await;
    world.fine().await.unwrap();
    world.merged().await.unwrap();
    world.restorable("cut off").await;
}

/// It is told which one it is, and the others are folded all the same.
#[tokio::test]
async fn a_damaged_segment_is_refused_and_stops_no_other() {
    let damages: [fn(&World, &str); 4] = [
        |world, key| {
            let note = world.bucket.note(key).unwrap();
            let mut bytes = world.bucket.bytes(key).unwrap().to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            world.bucket.set_noted(key, bytes, &note);
        },
        |world, key| {
            let bytes = world.bucket.bytes(key).unwrap();
            world.bucket.set(key, bytes);
        },
        |world, key| {
            let note = world.bucket.note(key).unwrap();
            world.bucket.set_noted(key, world.bucket.bytes(key).unwrap().slice(1..), &note);
        },
        |world, key| {
            let note = world.bucket.note(key).unwrap();
            let at = note.find("digest_before\":\"").unwrap() + 16;
            let other = format!("{}{}{}", &note[..at], "0".repeat(32), &note[at + 32..]);
            world.bucket.set_noted(key, world.bucket.bytes(key).unwrap(), &other);
        },
    ];
    for (which, damage) in damages.iter().enumerate() {
        let mut world = World::new(Form::default(), None).await;
        let mut keys = Vec::new();
        for number in 0..7 {
            keys.push(world.write(number % 3 + 2, number as u8).await);
        }
        damage(&world, keys[3].as_str());
        let error = world.fine().await.unwrap_err();
        assert!(
            matches!(&error, FoldError::Damaged { place, .. } if place.position == Position(5)),
            "{which}: {error}"
        );
        let catalog = world.catalog().await;
        let spans: Vec<_> = catalog.folds.values().map(|e| (e.manifest.from.unwrap().0, e.manifest.to.0)).collect();
        assert_eq!(spans, [(1, 4), (5, 8)], "{which}");
        assert_eq!(world.left(), 0);
    }
}

/// The store's bytes stand in for a copy of this machine that is damaged.
#[tokio::test]
async fn a_damaged_copy_is_not_believed() {
    let mut world = World::new(Form::default(), None).await;
    world.keeps = true;
    for number in 0..5 {
        world.write(number % 3 + 2, number as u8).await;
    }
    world.copies.0.lock().unwrap().values_mut().nth(2).unwrap()[200] ^= 1;
    assert_eq!(world.fine().await.unwrap().unwrap().segments, 5);
    world.restorable("from the store").await;
}

/// Without an identity, what this machine keeps is folded, and the rest stays as it is.
#[tokio::test]
async fn without_an_identity_the_copies_are_folded_and_nothing_is_merged() {
    let mut world = World::new(encrypted(Codec::Gzip), None).await;
    world.write(2, 1).await;
    assert_eq!(world.fine().await.unwrap(), None, "there is no copy of it");
    world.keeps = true;
    for _ in 0..2 {
        for number in 0..3 {
            world.write(number + 3, number as u8).await;
        }
        assert_eq!(world.fine().await.unwrap().unwrap().segments, 3);
    }
    let catalog = world.catalog().await;
    assert!(catalog.folds.values().flat_map(|e| &e.manifest.object).all(|object| object.encrypted));
    assert_eq!(world.merged().await.unwrap(), None);
    // Whoever has one reads all of it.
    world.identity = Some(identity());
    assert_eq!(world.fine().await.unwrap().unwrap().segments, 1);
    assert_eq!(world.merged().await.unwrap().unwrap().segments, 3);
    world.restorable("with an identity").await;
}

/// A full beside the tail that differs from it is an alarm, not a fold.
#[tokio::test]
async fn a_full_with_another_digest_at_a_mark_is_refused() {
    let mut world = World::new(Form::default(), None).await;
    for number in 0..3 {
        world.write(number + 2, 1).await;
    }
    let (image, place) = (world.image.clone(), world.place);
    let mut other = image.clone();
    other[PAGE] ^= 1;
    world.place.position = Position(place.position.0 - 1);
    world.full(other).await;
    let error = world.fine().await.unwrap_err();
    assert!(error.to_string().contains("the full at the same place"), "{error}");
}

/// As many as an hour has, within bounded memory: what is held grows by the marks alone.
#[tokio::test]
async fn an_hour_of_seconds() {
    let mut world = World::new(Form::default(), None).await;
    for number in 0..3_600 {
        world.write(number % 7 + 2, number as u8).await;
    }
    let folded = world.fine().await.unwrap().unwrap();
    assert_eq!((folded.made, folded.segments), (1, 3_600));
    let catalog = world.catalog().await;
    for position in [2, 1_800, 3_601].map(Position) {
        let chain = world.chain(&catalog, position, false);
        assert!(world.rebuilt(&catalog, chain).unwrap() == world.states[&position].1, "{position}");
    }
}
