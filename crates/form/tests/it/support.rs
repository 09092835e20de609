//! Reading whole forms, and writing them.

use filegate_form::{Boundary, Event, FormError, Limits, PartHeaders, Reader};

/// A part with all its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) headers: PartHeaders,
    pub(crate) data: Vec<u8>,
    pub(crate) complete: bool,
}

/// All a reader says about a body. Equal for equal bytes, whatever the chunks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) parts: Vec<Part>,
    pub(crate) ended: bool,
    pub(crate) result: Result<(), FormError>,
}

pub(crate) fn boundary(text: &str) -> Boundary {
    Boundary::new(text).expect("is a valid boundary")
}

pub(crate) fn read<'a>(
    boundary: &Boundary,
    limits: Limits,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Outcome {
    let mut reader = Reader::new(boundary, limits);
    let mut outcome = Outcome { parts: Vec::new(), ended: false, result: Ok(()) };
    for chunk in chunks {
        if let Err(error) = read_chunk(&mut reader, chunk, &mut outcome) {
            assert_eq!(reader.feed(b"x").next_event(), Err(error.clone()), "an error is final");
            assert_eq!(reader.finish(), Err(error.clone()), "an error is final");
            outcome.result = Err(error);
            return outcome;
        }
    }
    let state_max = size_of::<Reader>() + 74 + limits.part_header_bytes_max;
    assert!(reader.state_bytes() <= state_max, "the state is bounded by the limits");
    assert_eq!(reader.is_closed(), outcome.ended);
    assert!(reader.parts() >= outcome.parts.len());
    outcome.result = reader.finish();
    outcome
}

fn read_chunk(reader: &mut Reader, chunk: &[u8], outcome: &mut Outcome) -> Result<(), FormError> {
    let mut feed = reader.feed(chunk);
    while let Some(event) = feed.next_event()? {
        assert!(!outcome.ended, "nothing after the end: {event:?}");
        let open = outcome.parts.last_mut().filter(|part| !part.complete);
        match event {
            Event::PartStart(headers) => {
                assert!(open.is_none(), "a part begins inside another");
                outcome.parts.push(Part { headers, data: Vec::new(), complete: false });
            }
            Event::Data(_) | Event::Held(_) => {
                let bytes = event.bytes(chunk).expect("the range lies in the chunk");
                assert!(!bytes.is_empty(), "no empty data");
                assert!(
                    matches!(event, Event::Data(_)) || bytes.len() <= 73,
                    "little is held back"
                );
                open.expect("data stands in a part").data.extend_from_slice(bytes);
            }
            Event::PartEnd => open.expect("a part ends that began").complete = true,
            Event::End => {
                assert!(open.is_none(), "the form ends inside a part");
                outcome.ended = true;
            }
        }
    }
    assert_eq!(feed.next_event(), Ok(None), "a chunk stays used up");
    Ok(())
}

/// Reads with boundary `b`, whole and byte by byte, and wants the same of both.
pub(crate) fn read_both_ways(boundary: &Boundary, limits: Limits, body: &[u8]) -> Outcome {
    let whole = read(boundary, limits, [body]);
    let bytewise = read(boundary, limits, body.chunks(1));
    assert_eq!(whole, bytewise, "whole and byte by byte differ: {}", body.escape_ascii());
    whole
}

/// A field as an encoder gets it. `file_name` is written between quotes as it stands.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) file_name: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn field(name: &str, data: &[u8]) -> Field {
    Field { name: name.to_owned(), file_name: None, content_type: None, data: data.to_vec() }
}

pub(crate) fn encode(boundary: &Boundary, fields: &[Field]) -> Vec<u8> {
    let mut body = Vec::new();
    for Field { name, file_name, content_type, data } in fields {
        body.extend_from_slice(format!("--{}\r\n", boundary.as_str()).as_bytes());
        body.extend_from_slice(
            format!("Content-Disposition: form-data; name=\"{name}\"").as_bytes(),
        );
        if let Some(file_name) = file_name {
            body.extend_from_slice(format!("; filename=\"{file_name}\"").as_bytes());
        }
        if let Some(content_type) = content_type {
            body.extend_from_slice(format!("\r\nContent-Type: {content_type}").as_bytes());
        }
        body.extend_from_slice(b"\r\n\r\n");
        body.extend_from_slice(data);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{}--\r\n", boundary.as_str()).as_bytes());
    body
}
