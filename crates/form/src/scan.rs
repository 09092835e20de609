//! The search for the delimiter `CRLF "--" boundary` in a stream of chunks.
//!
//! A chunk can end in the middle of a delimiter. What is held back then is, by its nature, a prefix of the
//! delimiter, so no bytes are kept: only how many of them matched. And because a boundary holds no CR, the
//! delimiter's CR is its first byte and no other: a failed match can start again only at a later CR, never
//! inside the bytes that matched. That makes both the restart and the search for a chunk's open end trivial,
//! and every byte is looked at a constant number of times whatever the chunks are.

use std::ops::Range;

use memchr::memmem::Finder;

use crate::boundary::Boundary;

const CRLF_LEN: usize = 2;

#[derive(Debug)]
pub(crate) struct Scanner {
    /// Its needle is the delimiter.
    finder: Finder<'static>,
    /// How many bytes of the delimiter have been seen and not handed on; all of them: found, not yet told.
    matched: usize,
    /// How many of those were never in the stream: a line starts here although no CRLF is to be read.
    implied: usize,
    /// Bytes compared or searched, to show that work is linear.
    #[cfg(test)]
    pub(crate) work: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// `plain` bytes are not part of a delimiter; `consumed` of the input are done with, the ones between
    /// are held back or belong to a delimiter that the next call tells of.
    Plain { plain: usize, consumed: usize },
    /// These bytes of the delimiter, held back until now, were not part of one; no input consumed.
    Released(Range<usize>),
    /// A delimiter ends after `consumed` bytes.
    Delimiter { consumed: usize },
    /// All the input is held back (or empty).
    Pending,
}

impl Scanner {
    pub(crate) fn new(boundary: &Boundary) -> Self {
        let delimiter = [b"\r\n--", boundary.as_str().as_bytes()].concat();
        Self {
            finder: Finder::new(&delimiter).into_owned(),
            matched: 0,
            implied: 0,
            #[cfg(test)]
            work: 0,
        }
    }

    /// What [`Scan::Released`] points into.
    pub(crate) fn delimiter(&self) -> &[u8] {
        self.finder.needle()
    }

    /// A line starts here: the delimiter may stand without its CRLF.
    pub(crate) fn start_of_line(&mut self) {
        (self.matched, self.implied) = (CRLF_LEN, CRLF_LEN);
    }

    pub(crate) fn scan(&mut self, input: &[u8]) -> Scan {
        let delimiter_len = self.delimiter().len();
        if self.matched == delimiter_len {
            return self.found(0);
        }
        if self.matched > 0 {
            let wanted = &self.delimiter()[self.matched..];
            let common = wanted.iter().zip(input).take_while(|(want, have)| want == have).count();
            let complete = common == wanted.len();
            self.count(common + 1);
            if complete {
                return self.found(common);
            }
            if common == input.len() {
                self.matched += common;
                return Scan::Pending;
            }
            // The common bytes hold no CR, so nothing starts in them: they are searched again below as part
            // of the input, at most once for each release.
            let released = self.implied..self.matched;
            (self.matched, self.implied) = (0, 0);
            if !released.is_empty() {
                return Scan::Released(released);
            }
        }
        self.count(input.len());
        if let Some(at) = self.finder.find(input) {
            let consumed = at + delimiter_len;
            if at == 0 {
                return self.found(consumed);
            }
            self.matched = delimiter_len;
            return Scan::Plain { plain: at, consumed };
        }
        self.matched = self.open_end(input);
        match input.len() - self.matched {
            0 => Scan::Pending,
            plain => Scan::Plain { plain, consumed: input.len() },
        }
    }

    fn found(&mut self, consumed: usize) -> Scan {
        (self.matched, self.implied) = (0, 0);
        Scan::Delimiter { consumed }
    }

    /// The length of the longest end of `input` that a delimiter could go on from.
    fn open_end(&self, input: &[u8]) -> usize {
        let delimiter = self.delimiter();
        let tail = &input[input.len().saturating_sub(delimiter.len() - 1)..];
        match memchr::memrchr(b'\r', tail) {
            Some(at) if delimiter.starts_with(&tail[at..]) => tail.len() - at,
            _ => 0,
        }
    }

    #[cfg_attr(
        not(test),
        expect(
            clippy::unused_self,
            clippy::needless_pass_by_ref_mut,
            reason = "counts in tests only"
        )
    )]
    fn count(&mut self, bytes: usize) {
        #[cfg(test)]
        {
            self.work += bytes as u64;
        }
        let _ = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanner(boundary: &str) -> Scanner {
        Scanner::new(&Boundary::new(boundary).expect("is valid"))
    }

    #[test]
    fn one_chunk() {
        let mut scanner = scanner("b");
        assert_eq!(scanner.scan(b"12\r\n--b--"), Scan::Plain { plain: 2, consumed: 7 });
        assert_eq!(scanner.scan(b"--"), Scan::Delimiter { consumed: 0 });
        assert_eq!(scanner.scan(b"\r\n--b"), Scan::Delimiter { consumed: 5 });
        assert_eq!(scanner.scan(b""), Scan::Pending);
        assert_eq!(scanner.scan(b"x--b"), Scan::Plain { plain: 4, consumed: 4 });
        assert_eq!(scanner.scan(b"\n--b"), Scan::Plain { plain: 4, consumed: 4 });
    }

    #[test]
    fn a_delimiter_across_chunks_is_held_back_and_released_if_it_is_none() {
        let mut scanner = scanner("bound");
        assert_eq!(scanner.scan(b"12\r\n--b"), Scan::Plain { plain: 2, consumed: 7 });
        assert_eq!(scanner.scan(b"oun"), Scan::Pending);
        assert_eq!(scanner.scan(b"d"), Scan::Delimiter { consumed: 1 });
        assert_eq!(scanner.scan(b"\r\n--boun"), Scan::Pending);
        assert_eq!(scanner.scan(b"\r"), Scan::Released(0..8));
        assert_eq!(scanner.scan(b"\r"), Scan::Pending);
        assert_eq!(scanner.scan(b"\r\n"), Scan::Released(0..1));
        assert_eq!(scanner.scan(b"\r\n"), Scan::Pending);
        assert_eq!(scanner.scan(b"--bound"), Scan::Delimiter { consumed: 7 });
    }

    #[test]
    fn an_implied_line_start_is_never_released() {
        let mut scanner = scanner("b");
        scanner.start_of_line();
        assert_eq!(scanner.scan(b"--"), Scan::Pending);
        assert_eq!(scanner.scan(b"b"), Scan::Delimiter { consumed: 1 });
        scanner.start_of_line();
        assert_eq!(scanner.scan(b"--"), Scan::Pending);
        assert_eq!(scanner.scan(b"x"), Scan::Released(2..4));
        scanner.start_of_line();
        assert_eq!(scanner.scan(b"x"), Scan::Plain { plain: 1, consumed: 1 });
        scanner.start_of_line();
        assert_eq!(scanner.scan(b"\r\n--b"), Scan::Delimiter { consumed: 5 });
    }

    #[test]
    fn work_is_linear_whatever_the_bytes_and_the_chunks() {
        let near_misses: &[&[u8]] = &[
            b"x",
            b"\r",
            b"\r\n",
            b"\r\n-",
            b"\r\n--",
            b"\r\n--bounda",
            b"\r\n--boundar",
            b"\r\n--boundarx",
            b"-",
        ];
        for pattern in near_misses {
            let body = pattern.repeat(40_000);
            for chunk_len in [1, 2, 3, 7, 12, 13, 64, 4096, body.len()] {
                let mut scanner = scanner("boundary");
                let mut seen = 0;
                for chunk in body.chunks(chunk_len) {
                    let mut at = 0;
                    loop {
                        match scanner.scan(&chunk[at..]) {
                            Scan::Plain { plain, consumed } => {
                                (at, seen) = (at + consumed, seen + plain);
                            }
                            Scan::Released(range) => seen += range.len(),
                            Scan::Delimiter { .. } => unreachable!("there is none"),
                            Scan::Pending => break,
                        }
                    }
                }
                assert_eq!(seen + scanner.matched, body.len());
                let per_byte = scanner.work / body.len() as u64;
                assert!(
                    per_byte <= 4,
                    "{per_byte} looks per byte at {pattern:?} in chunks of {chunk_len}"
                );
            }
        }
    }
}
