//! Streams of events (`text/event-stream`), changed as they pass: the data of each event is a document.
//!
//! Lines that are not data pass as they are, and so does data that is not JSON, such as `[DONE]`. Nothing is
//! kept but the name of a field and what a [`Transform`] keeps of a document.

use bytes::{Buf as _, Bytes};

use super::json::{Found, Rules, Transform};

/// What the field is called that carries documents.
const DATA: &[u8] = b"data:";

/// Where in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// So many bytes of [`DATA`] have come, and nothing else.
    Name(usize),
    /// In data.
    Data,
    /// In any other line.
    Other,
}

/// Lets a stream of events through and stops at what is found, as [`Transform`] does with one document.
#[derive(Debug)]
pub(crate) struct Events {
    rules: &'static Rules,
    at: At,
    document: Transform<'static>,
}

impl Events {
    /// At the beginning of a stream.
    pub(crate) fn new(rules: &'static Rules) -> Self {
        Self { rules, at: At::Name(0), document: Transform::new(rules) }
    }

    /// As [`Transform::push`].
    pub(crate) fn push(&mut self, input: &mut Bytes, out: &mut Vec<Bytes>) -> Option<Found> {
        self.document.resolve(None, out);
        while !input.is_empty() {
            let line_end = memchr::memchr(b'\n', input).map(|at| at + 1);
            let mut line = input.slice(..line_end.unwrap_or(input.len()));
            let before = line.len();
            let found = match self.at {
                At::Data => self.document.push(&mut line, out),
                At::Other => {
                    out.push(std::mem::take(&mut line));
                    None
                }
                At::Name(known) => {
                    self.in_name(known, &mut line, out);
                    None
                }
            };
            input.advance(before - line.len());
            // The end of a line is white space to a document: it is never part of a find.
            if line.is_empty() && line_end.is_some() && found.is_none() {
                self.end_line(out);
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// As [`Transform::resolve`].
    pub(crate) fn resolve(&mut self, text: Option<&str>, out: &mut Vec<Bytes>) {
        self.document.resolve(text, out);
    }

    /// Says that there is no more; what was held passes.
    pub(crate) fn finish(&mut self, out: &mut Vec<Bytes>) {
        let _passed_as_it_was = self.document.finish(out);
    }

    /// Takes what goes on like the name of data; the rest of the line is its value, or another field's.
    fn in_name(&mut self, known: usize, line: &mut Bytes, out: &mut Vec<Bytes>) {
        let same = line.iter().zip(&DATA[known..]).take_while(|(one, other)| one == other).count();
        if same > 0 {
            out.push(line.split_to(same));
        }
        self.at = match (known + same, line.is_empty()) {
            (all, _) if all == DATA.len() => At::Data,
            (known, true) => At::Name(known),
            (0, false) if matches!(&line[..], b"\n" | b"\r\n" | b"\r") => {
                out.push(std::mem::take(line));
                At::Name(0)
            }
            _ => At::Other,
        };
    }

    fn end_line(&mut self, out: &mut Vec<Bytes>) {
        if self.at == At::Name(0) {
            // An empty line: the event is over, and its document.
            let _passed_as_it_was = self.document.finish(out);
            self.document = Transform::new(self.rules);
        }
        self.at = At::Name(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::relay::json::{Kind, Rule};

    static RULES: LazyLock<Rules> = LazyLock::new(|| {
        Rules::new(&[
            Rule::new(Kind::FileId, "file_id"),
            Rule::new(Kind::Units, "usage.total_tokens"),
        ])
    });

    /// What comes of `stream`, cut into pieces of `size`, and what was found in it.
    fn passed(stream: &str, size: usize) -> (String, Vec<String>) {
        let mut events = Events::new(&RULES);
        let (mut out, mut finds) = (Vec::new(), Vec::new());
        for piece in stream.as_bytes().chunks(size) {
            let mut piece = Bytes::copy_from_slice(piece);
            while let Some(found) = events.push(&mut piece, &mut out) {
                let other = (found.kind == Kind::FileId).then(|| format!("9{}", found.text));
                events.resolve(other.as_deref(), &mut out);
                finds.push(found.text);
            }
        }
        events.finish(&mut out);
        (String::from_utf8(out.concat()).unwrap(), finds)
    }

    #[track_caller]
    fn becomes(stream: &str, expected: &str, finds: &[&str]) {
        for size in 1..=stream.len() {
            let (text, found) = passed(stream, size);
            assert_eq!(text, expected, "in pieces of {size}");
            assert_eq!(found, finds, "in pieces of {size}");
        }
    }

    #[test]
    fn each_event_is_a_document() {
        becomes(
            "data: {\"file_id\":12}\n\ndata:{\"file_id\":\"3\",\"usage\":{\"total_tokens\":7}}\n\n",
            "data: {\"file_id\":912}\n\ndata:{\"file_id\":\"93\",\"usage\":{\"total_tokens\":7}}\n\n",
            &["12", "3", "7"],
        );
    }

    #[test]
    fn what_is_no_document_passes() {
        for stream in [
            ": ping\n\nevent: done\nid: 7\ndata: [DONE]\n\n",
            "data\n\ndat: {\"file_id\":1}\n\n{\"file_id\":1}\n\ndatafile_id: {\"file_id\":1}\n\n",
            "data: {\"file_id\":1",
            "\r\n\n\r\r\n",
        ] {
            becomes(stream, stream, &[]);
        }
        // One that is cut off does not spoil the next.
        becomes(
            "data: {\"file\n\ndata: {\"file_id\":1}\n\n",
            "data: {\"file\n\ndata: {\"file_id\":91}\n\n",
            &["1"],
        );
    }

    #[test]
    fn a_document_may_have_several_lines_and_lines_other_ends() {
        becomes(
            "event: x\r\ndata: {\r\ndata: \"file_id\":\r\ndata: 1\r\ndata: }\r\n\r\ndata: {\"file_id\":2}\r\n\r\n",
            "event: x\r\ndata: {\r\ndata: \"file_id\":\r\ndata: 91\r\ndata: }\r\n\r\ndata: {\"file_id\":92}\r\n\r\n",
            &["1", "2"],
        );
    }
}
