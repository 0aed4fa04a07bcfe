//! The stages themselves: any bytes, any pieces, any number of threads; ends that go away.

use proptest::prelude::*;

use super::*;

fn pieces(mut plain: Bytes, cuts: &[usize]) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    for cut in cuts.iter().cycle() {
        if plain.is_empty() {
            break;
        }
        pieces.push(plain.split_to((*cut).min(plain.len())));
    }
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// H40 is kept on the way: no piece is longer than two blocks.
    #[test]
    fn any_bytes_in_any_pieces_come_back_and_are_stored_alike(
        length in prop_oneof![Just(0), 1..5_000_usize, Just(MIB), MIB - 2..MIB + 2, 2 * MIB..3 * MIB + 7],
        noise in prop::collection::vec(any::<u8>(), 0..3_000),
        cuts in prop::collection::vec(prop_oneof![Just(MIB), 1_000..3 * MIB], 1..6),
        threads in 0_usize..5,
        seed: u64,
        codec in prop_oneof![Just(Codec::Gzip), Just(Codec::Zstd)],
        encrypted: bool,
    ) {
        let mut bytes = text(length, seed);
        bytes.extend(&noise);
        let form = form(codec, encrypted);
        let whole = Bytes::from(bytes);
        let (file, encoded) = stored(&form, threads, pieces(whole.clone(), &cuts));
        let back = plain(&object(&form, encoded.plain, encoded.stored), &file);
        prop_assert_eq!(back.map_err(|e| e.to_string()), Ok(whole.to_vec()));
        if !encrypted {
            let (again, _) = stored(&form, 1, pieces(whole, &[MIB]));
            prop_assert_eq!(file, again, "the bytes do not depend on threads and pieces");
        }
    }
}

#[test]
fn bytes_that_do_not_compress_cost_next_to_nothing() {
    let mut noise = vec![0; 3 * MIB];
    getrandom::fill(&mut noise).unwrap();
    for codec in [Codec::Gzip, Codec::Zstd] {
        let (file, _) = stored(&form(codec, false), 2, vec![noise.clone().into()]);
        assert!(file.len() < noise.len() + 1_000, "{codec:?}: {} bytes", file.len());
    }
}

#[test]
fn a_receiver_that_goes_ends_the_stage_even_while_it_waits_for_bytes() {
    RUNTIME.block_on(async {
        let (source, plain_side) = mpsc::channel(2);
        let (stored_side, sink) = mpsc::channel::<Bytes>(1);
        drop(sink);
        let form = form(Codec::Gzip, false);
        let ended = encode(&form, label(), 2, plain_side, stored_side).await;
        assert!(matches!(ended, Err(CodecError::Abandoned)), "{ended:?}");
        assert!(source.is_closed(), "the source is told");
    });
}

#[test]
fn a_receiver_that_goes_in_the_middle_ends_the_stage() {
    RUNTIME.block_on(async {
        let (source, plain_side) = mpsc::channel(2);
        let (stored_side, mut sink) = mpsc::channel::<Bytes>(1);
        let send = async move { while source.send(text(MIB, 3).into()).await.is_ok() {} };
        let receive = async move {
            sink.recv().await.unwrap();
        };
        let form = form(Codec::Zstd, true);
        let (ended, (), ()) = tokio::join!(encode(&form, label(), 2, plain_side, stored_side), send, receive);
        assert!(matches!(ended, Err(CodecError::Abandoned)), "{ended:?}");
    });
}

#[test]
fn a_stage_that_is_dropped_closes_both_ends() {
    RUNTIME.block_on(async {
        let (source, plain_side) = mpsc::channel(2);
        let (stored_side, mut sink) = mpsc::channel::<Bytes>(1);
        let form = form(Codec::Gzip, false);
        let mut stage = Box::pin(encode(&form, label(), 2, plain_side, stored_side));
        source.send(text(MIB, 4).into()).await.unwrap();
        assert!(futures_util::poll!(&mut stage).is_pending());
        drop(stage);
        source.closed().await;
        assert_eq!(sink.recv().await, None);
    });
}

#[test]
fn no_bytes_at_all_make_a_file_of_no_bytes() {
    for (codec, encrypted) in [(Codec::Gzip, false), (Codec::Zstd, false), (Codec::Gzip, true)] {
        let form = form(codec, encrypted);
        let (file, encoded) = stored(&form, 2, Vec::new());
        assert!(!file.is_empty() && encoded.plain.bytes == 0);
        assert_eq!(plain(&object(&form, encoded.plain, encoded.stored), &file).unwrap(), b"");
    }
}
