//! Whatever the chunks are, the outcome is the same: parts, bytes, and the error if there is one.

use filegate_form::{Boundary, Limits};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::{boundary, read};

/// Boundaries that share their parts with each other and with the fragments below.
fn boundaries() -> impl Strategy<Value = Boundary> {
    prop_oneof![
        Just("b"),
        Just("-"),
        Just("--"),
        Just("bb"),
        Just("b b"),
        Just("--b--"),
        Just("bound-bound")
    ]
    .prop_map(boundary)
}

/// Bodies glued together from what matters to the reader.
fn bodies(boundary: &Boundary) -> impl Strategy<Value = Vec<u8>> + use<> {
    let line = format!("--{}", boundary.as_str());
    let fragment = prop_oneof![
        6 => Just(format!("\r\n{line}\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n").into_bytes()),
        2 => Just(format!("\r\n{line}\r\n").into_bytes()),
        2 => Just(format!("\r\n{line}--\r\n").into_bytes()),
        1 => Just(format!("\r\n{line}").into_bytes()),
        1 => Just(line.clone().into_bytes()),
        1 => Just(b"Content-Type: a\r\n".to_vec()),
        1 => Just(b"Content-Disposition: form-data; name=x; filename=\"a\\\"%22\"\r\n\r\n".to_vec()),
        1 => Just(b"\r\n\r\n".to_vec()),
        1 => Just(b"\r\n".to_vec()),
        1 => (0..line.len()).prop_map(move |len| [b"\r\n", &line.as_bytes()[..len]].concat()),
        3 => prop::collection::vec(prop::sample::select(b"\r\n- \tb:\x00\xffx".to_vec()), 0..6),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    // Most bodies begin well, or few would get beyond the preamble.
    let start =
        format!("--{}\r\nContent-Disposition: form-data; name=x\r\n\r\n", boundary.as_str())
            .into_bytes();
    (prop::bool::weighted(0.8), prop::collection::vec(fragment, 0..12)).prop_map(
        move |(well, fragments)| {
            if well { [start.clone(), fragments.concat()].concat() } else { fragments.concat() }
        },
    )
}

fn small_limits() -> impl Strategy<Value = Limits> {
    (0..6_usize, 0..4_usize, 0..120_usize, 0..12_usize, 0..3_usize).prop_map(
        |(parts, headers, bytes, preamble, padding)| Limits {
            parts_max: parts,
            headers_max: headers,
            part_header_bytes_max: bytes,
            preamble_bytes_max: preamble,
            padding_bytes_max: padding,
        },
    )
}

pub(crate) fn chunks<'a>(body: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
    cuts.sort_unstable();
    let mut chunks = Vec::new();
    let mut from = 0;
    for cut in cuts {
        chunks.push(&body[from..cut]);
        from = cut;
    }
    chunks.push(&body[from..]);
    chunks
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chunks_do_not_matter(
        (boundary, body) in boundaries().prop_flat_map(|boundary| { let bodies = bodies(&boundary); (Just(boundary), bodies) }),
        limits in prop_oneof![Just(Limits::default()), small_limits()],
        cuts in prop::collection::vec(any::<Index>(), 0..20),
    ) {
        let whole = read(&boundary, limits, [body.as_slice()]);
        prop_assert_eq!(&read(&boundary, limits, body.chunks(1)), &whole);
        prop_assert_eq!(&read(&boundary, limits, chunks(&body, &cuts)), &whole);
    }
}
