//! A document with edits, copied a piece at a time.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

/// What is to stand instead of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The bytes that go.
    pub range: Range<u64>,
    /// What comes.
    pub bytes: Vec<u8>,
}

/// Copies a document, with edits. Its length is known before.
#[derive(Debug, Clone)]
pub struct Splice {
    edits: VecDeque<Edit>,
    /// Bytes of the document that were given.
    offset: u64,
    /// Where the edit ends whose bytes are being left out.
    skip_to: u64,
    grows: i64,
}

impl Splice {
    /// With `edits`, of which no two meet in a byte.
    ///
    /// # Panics
    /// If two do, which finds of one document never do.
    pub fn new(mut edits: Vec<Edit>) -> Self {
        edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
        let apart = edits.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start);
        assert!(apart, "edits that meet");
        let grow = |edit: &Edit| {
            edit.bytes.len() as i64 - edit.range.end.saturating_sub(edit.range.start) as i64
        };
        let grows = edits.iter().map(grow).sum();
        Self { edits: edits.into(), offset: 0, skip_to: 0, grows }
    }

    /// Bytes of the outcome, for a document of `len` bytes.
    pub fn len_of(&self, len: u64) -> u64 {
        len.saturating_add_signed(self.grows)
    }

    /// Takes the next piece of the document and puts behind `out` what stands for it. Edits are written where their
    /// first byte is, and bytes that stay are not copied.
    pub fn push(&mut self, mut piece: Bytes, out: &mut Vec<Bytes>) {
        while !piece.is_empty() {
            let skipped = self.skip_to.saturating_sub(self.offset).min(piece.len() as u64);
            self.drop_front(&mut piece, skipped);
            let until = self.edits.front().map_or(u64::MAX, |edit| edit.range.start);
            let passed = until.saturating_sub(self.offset).min(piece.len() as u64);
            if passed > 0 {
                out.push(piece.split_to(passed as usize));
                self.offset += passed;
            }
            if self.offset == until && !piece.is_empty() {
                let edit = self.edits.pop_front().expect("there is one that begins here");
                self.skip_to = edit.range.end;
                if !edit.bytes.is_empty() {
                    out.push(edit.bytes.into());
                }
            }
        }
    }

    /// All of a document that is in memory.
    pub fn whole(mut self, document: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.push(Bytes::copy_from_slice(document), &mut out);
        out.concat()
    }

    fn drop_front(&mut self, piece: &mut Bytes, n: u64) {
        let _dropped = piece.split_to(n as usize);
        self.offset += n;
    }
}
