//! Any boundary, any body, any chunks: no panic, bounded state, and the same outcome whole, cut up, and byte by
//! byte.
//!
//! Input: a byte for the boundary, a byte for the chunk length, a byte for the limits, then the body. Where the
//! body has `\x01` stands the delimiter (`CRLF--boundary`), so that the fuzzer need not guess it.

#![no_main]

use filegate_form::{Boundary, Event, FileName, FormError, Limits, PartHeaders, Reader};
use libfuzzer_sys::fuzz_target;

const BOUNDARIES: [&str; 8] = [
    "b",
    "-",
    "--",
    "a b",
    "----WebKitFormBoundary7MA4YWxkTrZu0gW",
    "?=:/.-,+_()'",
    "--b--b",
    "0123456789012345678901234567890123456789012345678901234567890123456789",
];

#[derive(Debug, PartialEq)]
struct Outcome {
    parts: Vec<(PartHeaders, Vec<u8>, bool)>,
    ended: bool,
    result: Result<(), FormError>,
}

fn read<'a>(
    boundary: &Boundary,
    limits: Limits,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> Outcome {
    let mut reader = Reader::new(boundary, limits);
    let mut outcome = Outcome { parts: Vec::new(), ended: false, result: Ok(()) };
    for chunk in chunks {
        let result = read_chunk(&mut reader, chunk, &mut outcome);
        let state_max = size_of::<Reader>() + 74 + limits.part_header_bytes_max;
        assert!(reader.state_bytes() <= state_max);
        if result.is_err() {
            assert_eq!(reader.finish(), result);
            return Outcome { result, ..outcome };
        }
    }
    assert_eq!(reader.is_closed(), outcome.ended);
    assert!(reader.parts() <= limits.parts_max);
    outcome.result = reader.finish();
    assert!(outcome.result.is_err() || outcome.parts.iter().all(|(_, _, complete)| *complete));
    outcome
}

fn read_chunk(reader: &mut Reader, chunk: &[u8], outcome: &mut Outcome) -> Result<(), FormError> {
    let mut feed = reader.feed(chunk);
    while let Some(event) = feed.next_event()? {
        assert!(!outcome.ended);
        match event {
            Event::PartStart(headers) => {
                if let Some(raw) = &headers.file_name
                    && let Ok(name) = FileName::clean(raw)
                {
                    assert!((1..=FileName::BYTES_MAX).contains(&name.as_str().len()));
                    assert!(
                        !name.as_str().contains(|c: char| c.is_control() || c == '/' || c == '\\')
                    );
                    assert_eq!(
                        FileName::clean(name.as_str()),
                        Ok(name),
                        "cleaning is done after once"
                    );
                }
                outcome.parts.push((headers, Vec::new(), false));
            }
            Event::Data(_) | Event::Held(_) => {
                let bytes = event.bytes(chunk).expect("the range lies in the chunk");
                assert!(!bytes.is_empty());
                let (_, data, complete) = outcome.parts.last_mut().expect("data stands in a part");
                assert!(!*complete);
                data.extend_from_slice(bytes);
            }
            Event::PartEnd => outcome.parts.last_mut().expect("a part ends that began").2 = true,
            Event::End => outcome.ended = true,
        }
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    let [boundary, chunk_len, limits, body @ ..] = input else { return };
    let _ = Boundary::from_content_type(body);

    let boundary =
        Boundary::new(BOUNDARIES[usize::from(*boundary) % BOUNDARIES.len()]).expect("is valid");
    let limits = if limits % 2 == 0 {
        Limits::default()
    } else {
        let small = usize::from(limits / 2);
        Limits {
            parts_max: small % 4,
            headers_max: small % 5,
            part_header_bytes_max: small,
            preamble_bytes_max: small % 7,
            padding_bytes_max: small % 3,
        }
    };
    let delimiter = format!("\r\n--{}", boundary.as_str());
    let mut written = Vec::with_capacity(body.len());
    for byte in body {
        match byte {
            1 => written.extend_from_slice(delimiter.as_bytes()),
            byte => written.push(*byte),
        }
    }

    let whole = read(&boundary, limits, std::iter::once(written.as_slice()));
    assert_eq!(read(&boundary, limits, written.chunks(1)), whole);
    assert_eq!(read(&boundary, limits, written.chunks(usize::from(*chunk_len).max(1))), whole);
    if whole.result.is_ok() {
        let data: usize = whole.parts.iter().map(|(_, data, _)| data.len()).sum();
        assert!(data <= written.len());
    }
});
