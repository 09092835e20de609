//! Every limit at its value, one above and at zero; and that nothing grows with the body.

use filegate_form::{Event, FormError, Limits, Reader};

use crate::support::{boundary, encode, field, read_both_ways};

const HEAD: &str = "Content-Disposition: form-data; name=x\r\n\r\n";

fn result(limits: Limits, body: &str) -> Result<(), FormError> {
    read_both_ways(&boundary("b"), limits, body.as_bytes()).result
}

#[test]
fn parts() {
    let form = |parts: usize| format!("{}--b--\r\n", format!("--b\r\n{HEAD}\r\n").repeat(parts));
    for parts_max in [0, 1, 5] {
        let limits = Limits { parts_max, ..Limits::default() };
        assert_eq!(result(limits, &form(parts_max)), Ok(()));
        assert_eq!(
            result(limits, &form(parts_max + 1)),
            Err(FormError::TooManyParts { max: parts_max })
        );
    }
}

#[test]
fn headers() {
    let form = |more: usize| format!("--b\r\n{}{HEAD}\r\n--b--\r\n", "X: y\r\n".repeat(more));
    for headers_max in [1, 2, 16] {
        let limits = Limits { headers_max, ..Limits::default() };
        assert_eq!(result(limits, &form(headers_max - 1)), Ok(()));
        assert_eq!(
            result(limits, &form(headers_max)),
            Err(FormError::TooManyHeaders { max: headers_max })
        );
    }
    let none = Limits { headers_max: 0, ..Limits::default() };
    assert_eq!(result(none, &form(0)), Err(FormError::TooManyHeaders { max: 0 }));
}

#[test]
fn header_bytes() {
    for (lead, pad) in [("X: ", 1000), ("X: ", 0)] {
        let block = format!("{lead}{}\r\n{HEAD}", "y".repeat(pad));
        let body = format!("--b\r\n{block}\r\n--b--\r\n");
        let exact = Limits { part_header_bytes_max: block.len(), ..Limits::default() };
        assert_eq!(result(exact, &body), Ok(()));
        for max in [block.len() - 1, block.len() - 2, block.len() - 3, HEAD.len(), 1, 0] {
            let limits = Limits { part_header_bytes_max: max, ..Limits::default() };
            assert_eq!(result(limits, &body), Err(FormError::HeadersTooLong { max }));
        }
    }
}

#[test]
fn the_limit_of_header_bytes_is_for_each_part() {
    let limits = Limits { part_header_bytes_max: HEAD.len(), ..Limits::default() };
    let form = format!("--b\r\n{HEAD}\r\n--b\r\n{HEAD}\r\n--b--\r\n");
    assert_eq!(result(limits, &form), Ok(()));
}

#[test]
fn preamble() {
    for max in [0, 1, 100] {
        let limits = Limits { preamble_bytes_max: max, ..Limits::default() };
        for filler in ["x", "\r", "\n", "-"] {
            let form = |len: usize| format!("{}\r\n--b--\r\n", filler.repeat(len));
            assert_eq!(result(limits, &form(max)), Ok(()), "{max} of {filler:?}");
            assert_eq!(
                result(limits, &form(max + 1)),
                Err(FormError::PreambleTooLong { max }),
                "{max} of {filler:?}"
            );
        }
    }
}

#[test]
fn padding() {
    for max in [0, 1, 64] {
        let limits = Limits { padding_bytes_max: max, ..Limits::default() };
        let (fits, more) = (" ".repeat(max), "\t".repeat(max + 1));
        assert_eq!(result(limits, &format!("--b{fits}\r\n{HEAD}\r\n--b--{fits}\r\n")), Ok(()));
        assert_eq!(
            result(limits, &format!("--b{more}\r\n{HEAD}\r\n--b--\r\n")),
            Err(FormError::PaddingTooLong { max })
        );
        assert_eq!(
            result(limits, &format!("--b\r\n{HEAD}\r\n--b--{more}\r\n")),
            Err(FormError::PaddingTooLong { max })
        );
    }
}

#[test]
fn a_flood_is_cut_off_just_past_the_limit() {
    let flood = vec![b'x'; 64 * 1024];
    let cases: &[(&str, FormError)] = &[
        ("", FormError::PreambleTooLong { max: 1024 }),
        ("--b\r\n", FormError::HeadersTooLong { max: 16 * 1024 }),
        ("--b\r\nX: ", FormError::HeadersTooLong { max: 16 * 1024 }),
    ];
    for (lead, expected) in cases {
        let mut reader = Reader::new(&boundary("b"), Limits::default());
        assert_eq!(reader.feed(lead.as_bytes()).next_event(), Ok(None));
        let mut fed = 0;
        let error = flood.chunks(100).find_map(|chunk| {
            fed += chunk.len();
            reader.feed(chunk).next_event().err()
        });
        assert_eq!(error.as_ref(), Some(expected));
        assert!(fed <= 16 * 1024 + 100, "refused only after {fed} bytes");
    }
}

#[test]
fn memory_stays_the_same_over_64_mib() {
    let limits = Limits::default();
    let mut reader = Reader::new(&boundary("boundary"), limits);
    let start = format!(
        "--boundary\r\nX: {}\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n",
        "y".repeat(16_000)
    );
    for byte in start.as_bytes().chunks(7) {
        let mut feed = reader.feed(byte);
        while feed.next_event().expect("is well-formed").is_some() {}
    }
    let before = reader.state_bytes();
    assert!(before <= size_of::<Reader>() + 12 + limits.part_header_bytes_max, "{before} bytes");

    // Ends in the middle of a delimiter every time.
    let chunk = [vec![b'x'; 64 * 1024 - 10], b"\r\n--bounda".to_vec()].concat();
    let mut data = 0_usize;
    for _ in 0..1024 {
        let mut feed = reader.feed(&chunk);
        while let Some(event) = feed.next_event().expect("is data") {
            data += event.bytes(&chunk).expect("is data").len();
        }
        drop(feed);
        assert_eq!(reader.state_bytes(), before);
    }
    assert_eq!(data, 64 * 1024 * 1024 - 10, "all but what is held back");
}

#[test]
fn a_chunk_that_is_not_read_to_its_end_fails_the_form() {
    let boundary = boundary("b");
    let form = encode(&boundary, &[field("x", b"data")]);
    let mut reader = Reader::new(&boundary, Limits::default());
    assert!(matches!(reader.feed(&form).next_event(), Ok(Some(Event::PartStart(_)))));
    assert_eq!(reader.feed(b"").next_event(), Err(FormError::Abandoned));
    assert_eq!(reader.finish(), Err(FormError::Abandoned));

    // The end of the form is enough.
    let mut reader = Reader::new(&boundary, Limits::default());
    let mut feed = reader.feed(&form);
    while feed.next_event().expect("is well-formed") != Some(Event::End) {}
    drop(feed);
    assert_eq!(reader.finish(), Ok(()));
}

#[test]
fn a_chunk_read_to_its_last_byte_may_be_dropped() {
    // The delimiter ends with the chunk; its event comes with the next.
    let mut reader = Reader::new(&boundary("b"), Limits::default());
    let head = format!("--b\r\n{HEAD}");
    assert!(matches!(reader.feed(head.as_bytes()).next_event(), Ok(Some(Event::PartStart(_)))));
    assert_eq!(reader.feed(b"data\r\n--b").next_event(), Ok(Some(Event::Data(0..4))));
    assert_eq!(reader.feed(b"").next_event(), Ok(Some(Event::PartEnd)));
    assert_eq!(reader.feed(b"--").next_event(), Ok(Some(Event::End)));
    assert_eq!(reader.finish(), Ok(()));
}
