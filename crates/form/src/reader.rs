//! The reader: a state machine over chunks.

use std::mem;
use std::ops::Range;

use crate::boundary::Boundary;
use crate::error::FormError;
use crate::headers::{PartBuilder, PartHeaders};
use crate::params::is_ows;
use crate::scan::{Scan, Scanner};

/// What a form may cost. A zero allows none of the thing.
///
/// The length of a part's data is not limited here: the caller counts it against what the field may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Parts in the form.
    pub parts_max: usize,
    /// Header lines in a part.
    pub headers_max: usize,
    /// Bytes of a part's header block: the lines, their ends and the empty line behind them.
    pub part_header_bytes_max: usize,
    /// Bytes in front of the first boundary line. Clients of forms send none.
    pub preamble_bytes_max: usize,
    /// Spaces and tabs between a boundary and the end of its line. Clients of forms send none.
    pub padding_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            parts_max: 32,
            headers_max: 16,
            part_header_bytes_max: 16 * 1024,
            preamble_bytes_max: 1024,
            padding_bytes_max: 64,
        }
    }
}

/// What the reader found.
///
/// A form is `(PartStart (Data | Held)* PartEnd)* End`. How a part's bytes are spread over [`Data`](Self::Data)
/// and [`Held`](Self::Held) depends on the chunks; the bytes do not.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A part begins.
    PartStart(PartHeaders),
    /// Bytes of the part: this range of the chunk, never empty.
    Data(Range<usize>),
    /// Bytes of the part that were held back from earlier chunks because a boundary could have begun with
    /// them; at most 73, never empty.
    Held(&'a [u8]),
    /// The part is complete.
    PartEnd,
    /// The closing boundary: nothing of the form follows.
    End,
}

impl<'a> Event<'a> {
    /// The bytes of the part that this event brings, if any, given the chunk that was fed.
    pub fn bytes(&self, chunk: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Self::Data(range) => chunk.get(range.clone()),
            Self::Held(bytes) => Some(bytes),
            Self::PartStart(_) | Self::PartEnd | Self::End => None,
        }
    }
}

/// Reads one form. See the [crate documentation](crate) for the grammar and an example.
///
/// An error is final: every later call gives it again.
#[derive(Debug)]
pub struct Reader {
    scanner: Scanner,
    limits: Limits,
    state: State,
    /// A header line that began in an earlier chunk; at most `part_header_bytes_max`, allocated when needed.
    line: Vec<u8>,
    parts: usize,
    failed: Option<FormError>,
}

#[derive(Debug)]
enum State {
    /// In front of the first boundary, having passed over so many bytes.
    Preamble { bytes: usize },
    /// Right behind a boundary.
    Delimiter(DelimiterEnd),
    /// In the headers of a part.
    Headers { builder: PartBuilder, bytes: usize },
    /// In the data of a part.
    Data,
    /// On the line of the closing boundary.
    Closing(LineEnd),
    /// Behind it.
    Epilogue,
}

#[derive(Debug)]
enum DelimiterEnd {
    /// The next byte decides between a dash and the end of the line.
    Start,
    /// One dash of the two that close the form.
    Dash,
    Line(LineEnd),
}

/// The rest of a boundary line: padding and CRLF.
#[derive(Debug, Default)]
struct LineEnd {
    padding: usize,
    cr: bool,
}

/// An [`Event`] before it borrows anything.
#[derive(Debug)]
enum Step {
    PartStart(PartHeaders),
    Data(Range<usize>),
    /// Of the delimiter.
    Held(Range<usize>),
    PartEnd,
    End,
}

impl Reader {
    /// A reader for one form.
    pub fn new(boundary: &Boundary, limits: Limits) -> Self {
        let mut scanner = Scanner::new(boundary);
        scanner.start_of_line();
        Self {
            scanner,
            limits,
            state: State::Preamble { bytes: 0 },
            line: Vec::new(),
            parts: 0,
            failed: None,
        }
    }

    /// Hands the next bytes of the body to the reader. The [`Feed`] must be read until it gives `None`.
    pub fn feed<'a>(&'a mut self, chunk: &'a [u8]) -> Feed<'a> {
        Feed { reader: self, chunk, at: 0 }
    }

    /// The body is at its end: was the form?
    pub fn finish(self) -> Result<(), FormError> {
        match (self.failed, self.state) {
            (Some(error), _) => Err(error),
            (None, State::Closing(LineEnd { cr: true, .. })) => Err(FormError::BareCr),
            (None, State::Closing(_) | State::Epilogue) => Ok(()),
            (None, _) => Err(FormError::Truncated),
        }
    }

    /// The number of parts begun so far.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// The closing boundary has been seen: what follows in the body is read past.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closing(_) | State::Epilogue)
    }

    /// The memory in use, heap included but for the names of the part being read. It depends on the limits,
    /// not on the form: at most the size of `Self`, the delimiter and
    /// [`part_header_bytes_max`](Limits::part_header_bytes_max).
    pub fn state_bytes(&self) -> usize {
        size_of::<Self>() + self.scanner.delimiter().len() + self.line.capacity()
    }

    /// Goes on until something is found or the chunk is used up.
    fn step(&mut self, chunk: &[u8], at: &mut usize) -> Result<Option<Step>, FormError> {
        loop {
            match &mut self.state {
                State::Preamble { bytes } => {
                    match next_piece(&mut self.scanner, chunk, at) {
                        Some(Piece::Chunk(range) | Piece::Held(range)) => *bytes += range.len(),
                        Some(Piece::Delimiter) => {
                            self.state = State::Delimiter(DelimiterEnd::Start);
                        }
                        None => return Ok(None),
                    }
                    if let State::Preamble { bytes } = self.state
                        && bytes > self.limits.preamble_bytes_max
                    {
                        return Err(FormError::PreambleTooLong {
                            max: self.limits.preamble_bytes_max,
                        });
                    }
                }
                State::Delimiter(_) | State::Closing(_) => {
                    let Some(byte) = chunk.get(*at) else { return Ok(None) };
                    *at += 1;
                    if self.delimiter_byte(*byte)? {
                        return Ok(Some(Step::End));
                    }
                }
                State::Headers { .. } => {
                    let Some(used) = self.header_line(&chunk[*at..])? else {
                        *at = chunk.len();
                        return Ok(None);
                    };
                    *at += used.bytes;
                    if let Some(headers) = used.complete {
                        self.state = State::Data;
                        self.scanner.start_of_line();
                        return Ok(Some(Step::PartStart(headers)));
                    }
                }
                State::Data => {
                    return Ok(next_piece(&mut self.scanner, chunk, at).map(|piece| match piece {
                        Piece::Chunk(range) => Step::Data(range),
                        Piece::Held(range) => Step::Held(range),
                        Piece::Delimiter => {
                            self.state = State::Delimiter(DelimiterEnd::Start);
                            Step::PartEnd
                        }
                    }));
                }
                State::Epilogue => {
                    *at = chunk.len();
                    return Ok(None);
                }
            }
        }
    }

    /// Takes one byte of what follows a boundary; `true`: it closed the form.
    fn delimiter_byte(&mut self, byte: u8) -> Result<bool, FormError> {
        let padding_max = self.limits.padding_bytes_max;
        match &mut self.state {
            State::Delimiter(end @ DelimiterEnd::Start) if byte == b'-' => {
                *end = DelimiterEnd::Dash;
            }
            State::Delimiter(DelimiterEnd::Dash) if byte == b'-' => {
                self.state = State::Closing(LineEnd::default());
                return Ok(true);
            }
            State::Delimiter(DelimiterEnd::Dash) => return Err(FormError::DelimiterMalformed),
            State::Delimiter(end @ DelimiterEnd::Start) => {
                let mut line = LineEnd::default();
                let _complete = line.byte(byte, padding_max)?;
                *end = DelimiterEnd::Line(line);
            }
            State::Delimiter(DelimiterEnd::Line(line)) => {
                if line.byte(byte, padding_max)? {
                    self.start_part()?;
                }
            }
            State::Closing(line) => {
                if line.byte(byte, padding_max)? {
                    self.state = State::Epilogue;
                }
            }
            State::Preamble { .. } | State::Headers { .. } | State::Data | State::Epilogue => {}
        }
        Ok(false)
    }

    fn start_part(&mut self) -> Result<(), FormError> {
        if self.parts == self.limits.parts_max {
            return Err(FormError::TooManyParts { max: self.limits.parts_max });
        }
        self.parts += 1;
        self.state = State::Headers { builder: PartBuilder::default(), bytes: 0 };
        Ok(())
    }

    /// Reads one header line, from the input alone if it stands there whole. `None`: the line goes on in the
    /// next chunk, and what there is of it has been kept.
    fn header_line(&mut self, input: &[u8]) -> Result<Option<UsedLine>, FormError> {
        let State::Headers { builder, bytes } = &mut self.state else { return Ok(None) };
        let max = self.limits.part_header_bytes_max;
        // INVARIANT: `bytes` counts the kept line too and never exceeds `max`.
        let within = &input[..input.len().min(max - *bytes)];
        let Some(line_feed) = memchr::memchr(b'\n', within) else {
            if within.len() < input.len() {
                return Err(FormError::HeadersTooLong { max });
            }
            *bytes += within.len();
            keep(&mut self.line, within, max);
            return Ok(None);
        };
        let used = line_feed + 1;
        *bytes += used;
        let whole = if self.line.is_empty() {
            &input[..line_feed]
        } else {
            keep(&mut self.line, &input[..line_feed], max);
            self.line.as_slice()
        };
        let line = whole.strip_suffix(b"\r").ok_or(FormError::BareLf)?;
        if memchr::memchr(b'\r', line).is_some() {
            return Err(FormError::BareCr);
        }
        let complete = if line.is_empty() {
            Some(mem::take(builder).finish()?)
        } else {
            builder.line(line, self.limits.headers_max)?;
            None
        };
        self.line.clear();
        Ok(Some(UsedLine { bytes: used, complete }))
    }
}

/// A piece of the preamble or of a part's data.
enum Piece {
    /// Of the chunk.
    Chunk(Range<usize>),
    /// Of the delimiter.
    Held(Range<usize>),
    Delimiter,
}

/// `None`: the chunk is used up.
fn next_piece(scanner: &mut Scanner, chunk: &[u8], at: &mut usize) -> Option<Piece> {
    let start = *at;
    match scanner.scan(&chunk[start..]) {
        Scan::Plain { plain, consumed } => {
            *at += consumed;
            Some(Piece::Chunk(start..start + plain))
        }
        Scan::Released(range) => Some(Piece::Held(range)),
        Scan::Delimiter { consumed } => {
            *at += consumed;
            Some(Piece::Delimiter)
        }
        Scan::Pending => {
            *at = chunk.len();
            None
        }
    }
}

#[derive(Debug)]
struct UsedLine {
    bytes: usize,
    /// It was the empty line.
    complete: Option<PartHeaders>,
}

/// Appends to the kept line without ever allocating more than `max`.
fn keep(line: &mut Vec<u8>, more: &[u8], max: usize) {
    let needed = line.len() + more.len();
    if needed > line.capacity() {
        let target = needed.max(line.capacity() * 2).max(256).min(max);
        line.reserve_exact(target - line.len());
    }
    line.extend_from_slice(more);
}

impl LineEnd {
    /// `true`: the line is at its end.
    fn byte(&mut self, byte: u8, padding_max: usize) -> Result<bool, FormError> {
        match byte {
            b'\n' if self.cr => return Ok(true),
            _ if self.cr => return Err(FormError::BareCr),
            b'\n' => return Err(FormError::BareLf),
            b'\r' => self.cr = true,
            _ if !is_ows(byte) => return Err(FormError::DelimiterMalformed),
            _ if self.padding == padding_max => {
                return Err(FormError::PaddingTooLong { max: padding_max });
            }
            _ => self.padding += 1,
        }
        Ok(false)
    }
}

/// The events of one chunk.
///
/// Dropping it before [`next_event`](Self::next_event) has given `None` (or an error, or
/// [`Event::End`]) would lose bytes of the form, so it makes the reader fail with [`FormError::Abandoned`].
#[derive(Debug)]
pub struct Feed<'a> {
    reader: &'a mut Reader,
    chunk: &'a [u8],
    at: usize,
}

impl Feed<'_> {
    /// The next event, or `None`: the chunk is used up, feed the next one.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, FormError> {
        if let Some(error) = &self.reader.failed {
            return Err(error.clone());
        }
        match self.reader.step(self.chunk, &mut self.at) {
            Ok(step) => Ok(step.map(|step| match step {
                Step::PartStart(headers) => Event::PartStart(headers),
                Step::Data(range) => Event::Data(range),
                Step::Held(range) => Event::Held(&self.reader.scanner.delimiter()[range]),
                Step::PartEnd => Event::PartEnd,
                Step::End => Event::End,
            })),
            Err(error) => {
                self.reader.failed = Some(error.clone());
                Err(error)
            }
        }
    }
}

impl Drop for Feed<'_> {
    fn drop(&mut self) {
        if self.at < self.chunk.len() && self.reader.failed.is_none() && !self.reader.is_closed() {
            self.reader.failed = Some(FormError::Abandoned);
        }
    }
}
