//! The scanner: a state for each byte, a set of places for each level.

use std::ops::Range;

use memchr::memchr2;

use super::rules::{Here, Kind, Places, Rules};
use super::splice::Edit;
use super::{DEPTH_MAX, FINDS_MAX, KEY_MAX, MM_FILE, VALUE_MAX};

/// How something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// As a number.
    Number,
    /// As a string.
    String,
    /// As an array where one number or string is to be. Nobody reads an object or `true` as an id: they are not found, as
    /// a client's own schemas may well have them there.
    Other,
}

/// Something that a rule is about. `null` is nothing, and so are an empty string and a zero where an id is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// The rule that says so: its index in [`Rules`].
    pub rule: usize,
    /// How it is written.
    pub form: Form,
    /// A string's content with its escapes undone; a number as it is written, be it an integer or not. Of
    /// [`Kind::MmFile`] what follows `mm_file://`. At most [`VALUE_MAX`] bytes.
    pub text: String,
    /// Whether `text` is all that stands there. If not it is too long, not UTF-8, has half a surrogate or is of
    /// [`Form::Other`]; it is never an id, and is not replaced.
    pub exact: bool,
    /// Where it stands in the document, in bytes: a string without its quotes, of [`Kind::MmFile`] what follows
    /// `mm_file://`. Empty, at its beginning, for [`Form::Other`].
    pub range: Range<u64>,
}

impl Found {
    /// Puts `text` in its place, in its form: digits stand where a number stood, without quotes. `None` if it is not
    /// [`exact`](Self::exact).
    pub fn edit(&self, text: &str) -> Option<Edit> {
        self.exact.then(|| Edit { range: self.range.clone(), bytes: written(self.form, text) })
    }
}

/// `text` as it stands in a document.
pub(super) fn written(form: Form, text: &str) -> Vec<u8> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if form == Form::Number && digits {
        return text.as_bytes().to_vec();
    }
    let quoted = serde_json::to_vec(text).expect("a string always serialises");
    match form {
        // Upstream's id may be a word where ours is a number.
        Form::Number => quoted,
        _ => quoted[1..quoted.len() - 1].to_vec(),
    }
}

/// A document is not JSON, or beyond a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}, at byte {at}")]
pub struct Malformed {
    /// The first byte that was not understood.
    pub at: u64,
    /// What is wrong with it.
    pub what: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before anything, or in a byte order mark, of which so many bytes were seen.
    Start(usize),
    Value,
    FirstItem,
    FirstKey,
    Key,
    Colon,
    /// Behind a value.
    After,
    /// In a string, which is a key or a value.
    Text {
        key: bool,
    },
    /// At the quote that ends a value that was found.
    Closing,
    Number(Number),
    /// In `true`, `false` or `null`; what is to come of it.
    Word(&'static [u8]),
    Broken(Malformed),
}

/// How far a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

impl Number {
    /// With `byte` behind it; `None` if it does not go on with that.
    fn with(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Minus, b'0') => Self::Zero,
            (Self::Minus, b'1'..=b'9') | (Self::Digits, b'0'..=b'9') => Self::Digits,
            (Self::Zero | Self::Digits, b'.') => Self::Point,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Zero | Self::Digits | Self::Fraction, b'e' | b'E') => Self::E,
            (Self::E, b'+' | b'-') => Self::Sign,
            (Self::E | Self::Sign | Self::Exponent, b'0'..=b'9') => Self::Exponent,
            _ => return None,
        })
    }

    fn is_whole(self) -> bool {
        matches!(self, Self::Zero | Self::Digits | Self::Fraction | Self::Exponent)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    Backslash,
    /// `\u` and so many digits, which make so much.
    Hex(u8, u32),
}

/// Whether a string begins with `mm_file://` and something like an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mm {
    No,
    /// So many bytes of the prefix were seen.
    Prefix(usize),
    /// The prefix was; what follows it was not, but for what lenient readers of numbers skip.
    Lead,
    Yes,
}

impl Mm {
    fn with(self, byte: u8) -> Self {
        match self {
            Self::Prefix(0) if byte <= b' ' => self,
            Self::Prefix(n) if byte.eq_ignore_ascii_case(&MM_FILE.as_bytes()[n]) => {
                if n + 1 == MM_FILE.len() { Self::Lead } else { Self::Prefix(n + 1) }
            }
            Self::Lead => match byte {
                b'+' | b'-' | b'_' | b'/' | b'%' | 0..=b' ' => self,
                // Other scripts have digits as well.
                b'0'..=b'9' | 0x80.. => Self::Yes,
                _ => Self::No,
            },
            Self::Yes => self,
            Self::Prefix(_) | Self::No => Self::No,
        }
    }

    fn is_decided(self) -> bool {
        matches!(self, Self::No | Self::Yes)
    }
}

#[derive(Debug, Clone, Copy)]
struct Level {
    is_object: bool,
    places: Places,
}

/// Walks over a document and stops at what its rules are about.
#[derive(Debug, Clone)]
pub struct Scanner<'r> {
    rules: &'r Rules,
    /// Bytes taken.
    offset: u64,
    state: State,
    levels: Vec<Level>,
    /// Of the value that comes or is being read.
    places: Places,
    here: Here,
    /// Something of [`Form::Other`] has been told, and is still to be taken.
    told: bool,
    /// Where the value begins that is being read.
    start: u64,
    /// The key or value that is being read, its escapes undone, as far as it is kept.
    text: Vec<u8>,
    /// How long that is, kept or not.
    decoded: usize,
    escape: Escape,
    /// The first half of a surrogate pair.
    high: Option<u32>,
    /// Half a surrogate was there alone.
    halved: bool,
    mm: Mm,
    /// What follows `mm_file://`: where in the document, and where in `text`.
    mm_start: (u64, usize),
}

/// Bytes taken, or why they cannot be.
type Step = Result<(usize, Option<Found>), &'static str>;

impl<'r> Scanner<'r> {
    /// At the beginning of a document.
    pub fn new(rules: &'r Rules) -> Self {
        Self {
            rules,
            offset: 0,
            state: State::Start(0),
            levels: Vec::new(),
            places: rules.start(),
            here: Here::default(),
            told: false,
            start: 0,
            text: Vec::new(),
            decoded: 0,
            escape: Escape::None,
            high: None,
            halved: false,
            mm: Mm::No,
            mm_start: (0, 0),
        }
    }

    /// Takes bytes of `piece` until something is found or the piece ends, and says how many. What is found has been
    /// taken, and nothing behind it; the rest of the piece is to be given again.
    ///
    /// # Errors
    /// The document is not JSON. So it stays.
    pub fn next(&mut self, piece: &[u8]) -> Result<(usize, Option<Found>), Malformed> {
        let mut taken = 0;
        while taken < piece.len() {
            match self.step(&piece[taken..]) {
                Ok((n, found)) => {
                    taken += n;
                    self.offset += n as u64;
                    if found.is_some() {
                        return Ok((taken, found));
                    }
                }
                Err(what) => return Err(self.broken(what)),
            }
        }
        Ok((taken, None))
    }

    /// Says that there is no more. A document of nothing but white space is one in which nothing is.
    ///
    /// # Errors
    /// It is cut short, or was not JSON before.
    pub fn finish(&mut self) -> Result<(), Malformed> {
        match self.state {
            State::Start(0) => Ok(()),
            State::After if self.levels.is_empty() => Ok(()),
            State::Number(number) if self.levels.is_empty() && number.is_whole() => Ok(()),
            _ => Err(self.broken("the document ends too early")),
        }
    }

    /// Bytes taken.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// From where on what was taken may yet be found; `None` if nothing is.
    pub(super) fn held_from(&self) -> Option<u64> {
        let held = match self.state {
            State::Text { key: false } => self.keeps_value(),
            State::Number(_) => self.here.rule.is_some(),
            _ => false,
        };
        (held && self.offset - self.start <= VALUE_MAX as u64).then_some(self.start)
    }

    fn broken(&mut self, what: &'static str) -> Malformed {
        if let State::Broken(malformed) = self.state {
            return malformed;
        }
        let malformed = Malformed { at: self.offset, what };
        self.state = State::Broken(malformed);
        malformed
    }

    fn step(&mut self, rest: &[u8]) -> Step {
        let byte = rest[0];
        let blank = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match self.state {
            State::Text { key } => return self.in_text(rest, key),
            State::Number(number) => return self.in_number(number, rest),
            State::Start(seen) => return self.at_start(seen, byte, blank),
            State::Broken(malformed) => return Err(malformed.what),
            State::Word(rest) => {
                if rest.first() != Some(&byte) {
                    return Err("a word that is not true, false or null");
                }
                self.state = if rest.len() == 1 { State::After } else { State::Word(&rest[1..]) };
            }
            State::Closing => self.state = State::After,
            _ if blank => {}
            State::FirstItem if byte == b']' => self.close(),
            State::Value | State::FirstItem => return self.at_value(byte),
            State::FirstKey if byte == b'}' => self.close(),
            State::FirstKey | State::Key if byte == b'"' => self.open_text(true),
            State::FirstKey | State::Key => return Err("no key where one is to be"),
            State::Colon if byte == b':' => self.state = State::Value,
            State::Colon => return Err("no colon behind a key"),
            State::After => self.after(byte)?,
        }
        Ok((1, None))
    }

    /// Some writers begin with a byte order mark, which some readers skip.
    fn at_start(&mut self, seen: usize, byte: u8, blank: bool) -> Step {
        const MARK: &[u8] = b"\xEF\xBB\xBF";
        match (seen, byte) {
            (0, _) if blank => {}
            (n, byte) if byte == MARK[n] && (n > 0 || self.offset == 0) => {
                self.state = if n == 2 { State::Value } else { State::Start(n + 1) };
            }
            (0, _) => {
                self.state = State::Value;
                return Ok((0, None));
            }
            _ => return Err("not JSON"),
        }
        Ok((1, None))
    }

    fn at_value(&mut self, byte: u8) -> Step {
        self.here = self.rules.here(self.places);
        self.start = self.offset;
        if byte == b'['
            && !self.told
            && let Some((rule, kind)) = self.here.rule.filter(|(_, kind)| kind.is_reference())
        {
            self.told = true;
            let range = self.offset..self.offset;
            let text = String::new();
            let found = Found { kind, rule, form: Form::Other, text, exact: false, range };
            return Ok((0, Some(found)));
        }
        self.told = false;
        match byte {
            b'"' => self.open_text(false),
            b'{' => self.open(true)?,
            b'[' => self.open(false)?,
            b't' => self.state = State::Word(b"rue"),
            b'f' => self.state = State::Word(b"alse"),
            b'n' => self.state = State::Word(b"ull"),
            b'-' => self.open_number(Number::Minus, byte),
            b'0' => self.open_number(Number::Zero, byte),
            b'1'..=b'9' => self.open_number(Number::Digits, byte),
            _ => return Err("no value where one is to be"),
        }
        Ok((1, None))
    }

    fn open(&mut self, is_object: bool) -> Result<(), &'static str> {
        if self.levels.len() == DEPTH_MAX {
            return Err("nested too deeply");
        }
        self.levels.push(Level { is_object, places: self.places });
        if is_object {
            self.state = State::FirstKey;
        } else {
            self.places = self.rules.at_item(self.places);
            self.state = State::FirstItem;
        }
        Ok(())
    }

    fn close(&mut self) {
        self.levels.pop();
        self.state = State::After;
    }

    fn after(&mut self, byte: u8) -> Result<(), &'static str> {
        let level = *self.levels.last().ok_or("something follows the document")?;
        match byte {
            b',' if level.is_object => self.state = State::Key,
            b',' => {
                self.places = self.rules.at_item(level.places);
                self.state = State::Value;
            }
            b'}' if level.is_object => self.close(),
            b']' if !level.is_object => self.close(),
            _ => return Err("neither a comma nor an end behind a value"),
        }
        Ok(())
    }

    fn open_number(&mut self, number: Number, byte: u8) {
        self.text.clear();
        self.text.push(byte);
        self.halved = false;
        self.state = State::Number(number);
    }

    fn in_number(&mut self, number: Number, rest: &[u8]) -> Step {
        if let Some(number) = number.with(rest[0]) {
            if self.here.rule.is_some() && self.text.len() < VALUE_MAX {
                self.text.push(rest[0]);
            }
            self.state = State::Number(number);
            return Ok((1, None));
        }
        if !number.is_whole() {
            return Err("not a number");
        }
        self.state = State::After;
        Ok((0, self.found(Form::Number)))
    }

    fn open_text(&mut self, key: bool) {
        self.text.clear();
        self.decoded = 0;
        self.escape = Escape::None;
        self.high = None;
        self.halved = false;
        self.start = self.offset + 1;
        let mm = !key && self.here.mm_file.is_some();
        self.mm = if mm { Mm::Prefix(0) } else { Mm::No };
        self.state = State::Text { key };
    }

    fn keeps_value(&self) -> bool {
        self.here.rule.is_some() || self.mm != Mm::No
    }

    fn in_text(&mut self, rest: &[u8], key: bool) -> Step {
        match (self.escape, rest[0]) {
            (Escape::None, b'"') => return Ok(self.end_text(key)),
            (Escape::None, b'\\') => self.escape = Escape::Backslash,
            (Escape::None, _) => {
                let run = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                let start = self.offset;
                self.take(&rest[..run], key, |n| start + n as u64 + 1);
                return Ok((run, None));
            }
            (Escape::Backslash, b'u') => self.escape = Escape::Hex(0, 0),
            (Escape::Backslash, byte) => {
                let meant = match byte {
                    b'"' | b'\\' | b'/' => byte,
                    b'b' => 8,
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    _ => return Err("an escape that is none"),
                };
                self.escape = Escape::None;
                let end = self.offset + 1;
                self.take(&[meant], key, |_| end);
            }
            (Escape::Hex(n, code), byte) => {
                let digit = char::from(byte).to_digit(16).ok_or("an escape that is none")?;
                let code = code << 4 | digit;
                if n < 3 {
                    self.escape = Escape::Hex(n + 1, code);
                } else {
                    self.escape = Escape::None;
                    self.take_code(code, key);
                }
            }
        }
        Ok((1, None))
    }

    /// A code unit of UTF-16, whose escape ends with the next byte.
    fn take_code(&mut self, code: u32, key: bool) {
        let end = self.offset + 1;
        let code = match (self.high.take(), code) {
            (Some(high), 0xDC00..=0xDFFF) => 0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00),
            (before, _) => {
                self.high = before;
                self.end_half(key);
                if matches!(code, 0xD800..=0xDBFF) {
                    self.high = Some(code);
                    return;
                }
                code
            }
        };
        self.halved |= matches!(code, 0xDC00..=0xDFFF);
        let meant = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        self.take(meant.encode_utf8(&mut [0; 4]).as_bytes(), key, |_| end);
    }

    /// The first half of a surrogate pair is not followed by the second.
    fn end_half(&mut self, key: bool) {
        if self.high.take().is_some() {
            self.halved = true;
            let end = self.offset;
            self.take("\u{FFFD}".as_bytes(), key, |_| end);
        }
    }

    /// More of a string; `end_of` says where in the document each byte of it ends.
    fn take(&mut self, bytes: &[u8], key: bool, end_of: impl Fn(usize) -> u64) {
        self.end_half(key);
        for (n, byte) in bytes.iter().enumerate() {
            if self.mm.is_decided() {
                break;
            }
            let before = self.mm;
            self.mm = before.with(*byte);
            if self.mm == Mm::Lead && before != Mm::Lead {
                self.mm_start = (end_of(n), self.decoded + n + 1);
            }
        }
        self.decoded += bytes.len();
        let max = match key {
            true => KEY_MAX,
            false if self.keeps_value() => VALUE_MAX,
            false => 0,
        };
        let room = max.saturating_sub(self.text.len()).min(bytes.len());
        self.text.extend_from_slice(&bytes[..room]);
    }

    fn end_text(&mut self, key: bool) -> (usize, Option<Found>) {
        self.end_half(key);
        if key {
            let level = self.levels.last().expect("a key is in an object");
            let key = if self.decoded > KEY_MAX { b"\xFF".to_vec() } else { folded(&self.text) };
            self.places = self.rules.at_key(level.places, &key);
            self.state = State::Colon;
            return (1, None);
        }
        let found = self.found(Form::String);
        self.state = if found.is_some() { State::Closing } else { State::After };
        (usize::from(found.is_none()), found)
    }

    /// The value that has just been read, if a rule is about it.
    fn found(&self, form: Form) -> Option<Found> {
        let is_mm = form == Form::String && self.mm == Mm::Yes;
        let (rule, kind) = if is_mm { self.here.mm_file? } else { self.here.rule? };
        let (start, skipped) = if is_mm { self.mm_start } else { (self.start, 0) };
        let text = self.text.get(skipped..).unwrap_or_default();
        let whole = self.offset - self.start <= VALUE_MAX as u64 && !self.halved;
        let exact = whole && std::str::from_utf8(text).is_ok();
        let text = String::from_utf8_lossy(text).into_owned();
        if exact && kind.is_nothing(&text) {
            return None;
        }
        Some(Found { kind, rule, form, text, exact, range: start..self.offset })
    }
}

/// A key as Go compares them: without case, and with the two letters beyond ASCII that have one within.
fn folded(key: &[u8]) -> Vec<u8> {
    let mut folded = Vec::with_capacity(key.len());
    let mut rest = key;
    while let [first, behind @ ..] = rest {
        (folded, rest) = match rest {
            [0xC5, 0xBF, behind @ ..] => (pushed(folded, b's'), behind),
            [0xE2, 0x84, 0xAA, behind @ ..] => (pushed(folded, b'k'), behind),
            _ => (pushed(folded, first.to_ascii_lowercase()), behind),
        };
    }
    folded
}

fn pushed(mut bytes: Vec<u8>, byte: u8) -> Vec<u8> {
    bytes.push(byte);
    bytes
}

/// Finds all in a document that is given in pieces.
///
/// # Errors
/// It is not JSON, or more than [`FINDS_MAX`] are in it.
pub fn scan<'p>(
    rules: &Rules,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> Result<Vec<Found>, Malformed> {
    let mut scan = Scan::new(rules);
    for piece in pieces {
        scan.push(piece)?;
    }
    scan.finish()
}

/// [`scan`] for pieces that have to be waited for.
#[derive(Debug, Clone)]
pub struct Scan<'r> {
    scanner: Scanner<'r>,
    finds: Vec<Found>,
}

impl<'r> Scan<'r> {
    /// At the beginning of a document.
    pub fn new(rules: &'r Rules) -> Self {
        Self { scanner: Scanner::new(rules), finds: Vec::new() }
    }

    /// Takes all of `piece`.
    ///
    /// # Errors
    /// As [`scan`].
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), Malformed> {
        loop {
            let (taken, found) = self.scanner.next(piece)?;
            piece = &piece[taken..];
            let Some(found) = found else { return Ok(()) };
            if self.finds.len() == FINDS_MAX {
                return Err(self.scanner.broken("too many ids"));
            }
            self.finds.push(found);
        }
    }

    /// What was found, in the order of the document.
    ///
    /// # Errors
    /// As [`scan`].
    pub fn finish(mut self) -> Result<Vec<Found>, Malformed> {
        self.scanner.finish()?;
        Ok(self.finds)
    }
}
