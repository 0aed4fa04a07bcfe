//! Random histories, folded at random moments.

use proptest::prelude::*;

use super::forms;
use super::world::{PAGE, World};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    /// Pages are written.
    Write(Vec<usize>),
    /// The database grows by so many pages; whether the first of them is one that nobody writes.
    Grow(usize, bool),
    /// It is cut off.
    Shrink(usize),
    /// Commits are lost to the tail.
    Gap(usize),
    /// A full beside the tail.
    Full,
    Fine,
    Merged,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => proptest::collection::vec(0_usize..40, 1..5).prop_map(Event::Write),
        3 => (1_usize..6, any::<bool>()).prop_map(|(pages, lazy)| Event::Grow(pages, lazy)),
        2 => (1_usize..8).prop_map(Event::Shrink),
        1 => (0_usize..40).prop_map(Event::Gap),
        1 => Just(Event::Full),
        3 => Just(Event::Fine),
        1 => Just(Event::Merged),
    ]
}

/// The next image; the first page changes with every commit.
fn next(world: &World, event: &Event) -> Vec<u8> {
    let mut image = world.image.clone();
    let stamp = world.place.position.0.to_be_bytes();
    image[40..48].copy_from_slice(&stamp);
    let touch = |image: &mut Vec<u8>, number: usize| {
        let number = number % (image.len() / PAGE);
        image[number * PAGE + 100..number * PAGE + 108].copy_from_slice(&stamp);
    };
    match event {
        Event::Write(numbers) => numbers.iter().for_each(|number| touch(&mut image, *number)),
        Event::Gap(number) => touch(&mut image, *number),
        Event::Grow(pages, lazy) => {
            let old = image.len();
            image.resize(old + pages * PAGE, 0x5a);
            if *lazy {
                image[old..old + PAGE].fill(0);
            }
        }
        Event::Shrink(pages) => image.truncate((image.len() / PAGE).saturating_sub(*pages).max(1) * PAGE),
        Event::Full | Event::Fine | Event::Merged => {}
    }
    image
}

async fn play(events: Vec<Event>, form: usize, keeps: bool) {
    let (form, identity) = forms()[form].clone();
    let mut world = World::new(form, identity).await;
    world.keeps = keeps;
    for event in &events {
        let image = next(&world, event);
        match event {
            Event::Fine => drop(world.fine().await.unwrap()),
            Event::Merged => drop(world.merged().await.unwrap()),
            Event::Gap(_) => world.gap(image).await,
            Event::Full => {
                world.live(image.clone(), true).await;
                world.beside().await;
            }
            _ => drop(world.live(image, true).await),
        }
    }
    world.fine().await.unwrap();
    world.merged().await.unwrap();
    assert_eq!(world.fine().await.unwrap(), None);
    assert_eq!(world.merged().await.unwrap(), None);
    world.restorable(&format!("{events:?}")).await;
    let catalog = world.catalog().await;
    assert_eq!((catalog.unnamed, catalog.unreadable), (vec![], vec![]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Every state comes back to the byte from what was folded alone, whatever was folded when.
    #[test]
    fn every_mark_comes_back_from_folds_alone(
        events in proptest::collection::vec(event(), 1..40), form in 0_usize..4, keeps in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(events, form, keeps));
    }
}
