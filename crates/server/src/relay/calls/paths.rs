//! Paths as they are looked up and as they are named.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use super::PathId;
use crate::relay::json::Kind;

/// Segments of the name of a call that is not known, at most; longer paths are all one.
const SEGMENTS_MAX: usize = 8;
/// Bytes of it.
const NAME_MAX: usize = 96;
/// The name of all that are longer.
pub(super) const OTHER: &str = "/other";

/// The name of a path that is not in the table, and the ids in it: a run of digits is what upstream's are.
pub(super) fn normalised(path: &str) -> (Cow<'static, str>, Vec<PathId>) {
    let (mut name, mut ids) = (String::new(), Vec::new());
    for range in segments(path).skip(1) {
        let segment = &path[range.clone()];
        let digits = segment.bytes().filter(u8::is_ascii_digit).count();
        let is_id = digits == segment.len() && digits >= 6;
        if is_id {
            ids.push(PathId { kind: Kind::TaskId, range });
        }
        let shown = if is_id || (digits > 0 && segment.len() >= 16) { "{id}" } else { segment };
        name.push('/');
        name.push_str(shown);
    }
    if name.len() > NAME_MAX || path.split('/').count() > SEGMENTS_MAX + 1 {
        return (Cow::Borrowed(OTHER), ids);
    }
    (Cow::Owned(name), ids)
}

/// Where the segments of a path stand; the first is the empty one before the first slash.
pub(super) fn segments(path: &str) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    path.split('/').map(move |segment| {
        let range = at..at + segment.len();
        at = range.end + 1;
        range
    })
}

/// The path as every reader reads it: escapes of plain characters undone (RFC 3986 §6.2.2), no empty segments, no dots.
pub(super) fn canonical(path: &str) -> String {
    let mut segments: Vec<String> = Vec::new();
    for segment in path.split('/') {
        match unescaped(segment) {
            segment if segment.is_empty() || segment == "." => {}
            segment if segment == ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

fn unescaped(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    let mut rest = segment;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let code =
            rest.get(at + 1..at + 3).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = code.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let taken = match byte {
            Some(byte) if plain(byte) => {
                out.push(char::from(byte));
                3
            }
            Some(byte) => {
                write!(out, "%{byte:02X}").expect("a string takes it");
                3
            }
            None => {
                out.push('%');
                1
            }
        };
        rest = &rest[at + taken..];
    }
    out.push_str(rest);
    out
}
