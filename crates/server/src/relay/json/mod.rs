//! Finds ids in JSON documents and puts others in their place, a piece at a time.
//!
//! | part | what is there |
//! |---|---|
//! | [`Rules`] | at which paths of keys something stands, and what |
//! | [`Scanner`] | bytes in, [`Found`] out, with their ranges in the document |
//! | [`scan()`], [`Scan`], [`Splice`] | for requests: all that is found first, then the document with edits |
//! | [`Transform`] | for replies: a find stops the document until it is said what is to stand there |
//!
//! Nothing here does I/O, and nothing is allocated by a document's size: a scanner keeps 16 bytes for each
//! level of nesting ([`DEPTH_MAX`]), a key ([`KEY_MAX`]) and a value ([`VALUE_MAX`]). Each byte is looked at once.
//! What is not replaced is the same bytes: numbers, escapes, white space, the order and repetition of keys.
//! However a document is cut into pieces, the outcome is the same.
//!
//! **Keys match as lenient readers match them.** Escapes are undone, and case is ignored as Go's
//! `encoding/json` ignores it (U+017F is an `s` there, U+212A a `k`): a key that upstream would take for
//! `file_id` and we would not is a way around whose file it is. Of a key that is there twice both are found.

mod rules;
mod scan;
mod splice;
#[cfg(test)]
mod tests;
mod transform;

pub use rules::{Kind, Rule, Rules};
pub use scan::{Form, Found, Malformed, Scan, Scanner, scan};
pub use splice::{Edit, Splice};
pub use transform::Transform;

/// Levels of nesting that are followed.
pub const DEPTH_MAX: usize = 128;
/// Bytes of a key, its escapes undone; longer ones match no rule.
pub const KEY_MAX: usize = 64;
/// Bytes of a value as it is written, without its quotes; longer ones are found and never replaced.
pub const VALUE_MAX: usize = 2048;
/// Finds of one document that [`scan()`] gives; a request with more is refused.
pub const FINDS_MAX: usize = 1024;
/// How a string begins that names a file.
pub const MM_FILE: &str = "mm_file://";
