//! Escapes of JSON strings, as the characters they stand for.
//!
//! Common writers of JSON escape every character that is not ASCII, so a search of the raw bytes would
//! find nothing in most of the world's languages. Outside of strings valid JSON has no backslash, so
//! the structure need not be known.

/// A reader of escapes, over pieces.
#[derive(Debug, Default)]
pub(super) struct Unescape {
    state: State,
    /// The first half of a surrogate pair.
    high: Option<u16>,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Plain,
    Backslash,
    /// Digits read, and their value.
    Unicode(u8, u16),
}

impl Unescape {
    /// Appends what `piece` stands for to `out`.
    pub(super) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        for byte in piece {
            self.state = self.step(*byte, out);
        }
    }

    fn step(&mut self, byte: u8, out: &mut Vec<u8>) -> State {
        match self.state {
            State::Plain if byte == b'\\' => State::Backslash,
            State::Plain => {
                self.lone(out);
                out.push(byte);
                State::Plain
            }
            State::Backslash if byte == b'u' => State::Unicode(0, 0),
            State::Backslash => {
                self.lone(out);
                out.push(match byte {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'b' | b'f' => b' ',
                    other => other,
                });
                State::Plain
            }
            State::Unicode(read, value) => {
                let Some(digit) = char::from(byte).to_digit(16) else {
                    // No JSON; the probe has refused it.
                    out.push(byte);
                    return State::Plain;
                };
                let value = value << 4 | digit as u16;
                if read < 3 {
                    return State::Unicode(read + 1, value);
                }
                self.unit(value, out);
                State::Plain
            }
        }
    }

    fn unit(&mut self, unit: u16, out: &mut Vec<u8>) {
        if matches!(unit, 0xD800..=0xDBFF) {
            self.lone(out);
            self.high = Some(unit);
            return;
        }
        let low = matches!(unit, 0xDC00..=0xDFFF);
        if !low {
            self.lone(out);
        }
        let units = self.high.take().into_iter().chain([unit]);
        for c in char::decode_utf16(units) {
            push(c.unwrap_or(char::REPLACEMENT_CHARACTER), out);
        }
    }

    /// A first half that no second one follows.
    fn lone(&mut self, out: &mut Vec<u8>) {
        if self.high.take().is_some() {
            push(char::REPLACEMENT_CHARACTER, out);
        }
    }
}

fn push(c: char, out: &mut Vec<u8>) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}
