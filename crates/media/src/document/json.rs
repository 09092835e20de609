//! JSON (RFC 8259) that comes in pieces: whether it is one value, in a fixed number of bytes of
//! state. serde_json is the oracle of its tests; it is not used itself as skipping a value keeps a
//! byte for each open bracket there, however many a hostile file has.

/// Arrays and objects in one another, at most; serde_json's limit too.
pub(crate) const DEPTH_MAX: u8 = 128;

/// One value being read, with white space around it.
#[derive(Debug, Default)]
pub(crate) struct Json {
    state: State,
    depth: u8,
    /// A bit for each open bracket, the innermost lowest: 1 for an object.
    objects: u128,
    offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Value,
    /// Behind `[`.
    ValueOrEnd,
    /// Behind `{`.
    KeyOrEnd,
    /// Behind a comma in an object.
    Key,
    Colon,
    AfterValue,
    /// In a string; `true` for a key.
    Text(bool),
    Escape(bool),
    /// So many hexadecimal digits to come.
    Hex(bool, u8),
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    /// The rest of `true`, `false` or `null`.
    Word(&'static [u8]),
}

impl Json {
    /// # Errors
    /// Says what is wrong at which byte.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<(), String> {
        let mut rest = piece;
        while let Some((byte, behind)) = rest.split_first() {
            // Most bytes of most files are inside strings.
            if let State::Text(_) = self.state {
                let plain = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1F));
                let plain = plain.unwrap_or(rest.len());
                if plain > 0 {
                    self.offset += plain as u64;
                    rest = rest.get(plain..).unwrap_or_default();
                    continue;
                }
            }
            self.state = self.step(*byte)?;
            self.offset += 1;
            rest = behind;
        }
        Ok(())
    }

    /// # Errors
    /// Says that the value is not complete.
    pub(crate) fn finish(&self) -> Result<(), String> {
        use State::{AfterValue, ExponentDigits, Fraction, Integer, Value, Zero};
        match self.state {
            AfterValue | Zero | Integer | Fraction | ExponentDigits if self.depth == 0 => Ok(()),
            Value if self.depth == 0 => Err("there is no json value".to_owned()),
            _ => Err("the json ends inside a value".to_owned()),
        }
    }

    /// Whether only white space was read so far.
    pub(crate) fn is_blank(&self) -> bool {
        self.state == State::Value && self.depth == 0
    }

    /// Whether the bytes so far could be the beginning of a value, but are not a whole one.
    pub(crate) fn is_inside(&self) -> bool {
        !self.is_blank() && self.finish().is_err()
    }

    fn step(&mut self, byte: u8) -> Result<State, String> {
        use State::{
            AfterValue, Colon, Escape, Exponent, ExponentDigits, ExponentSign, Fraction, Hex,
            Integer, Key, KeyOrEnd, Minus, Point, Text, Value, ValueOrEnd, Word, Zero,
        };
        Ok(match (self.state, byte) {
            (
                Value | ValueOrEnd | KeyOrEnd | Key | Colon | AfterValue,
                b' ' | b'\t' | b'\n' | b'\r',
            ) => self.state,
            (ValueOrEnd, b']') | (KeyOrEnd, b'}') => self.close(byte)?,
            (Value | ValueOrEnd, _) => self.begin(byte)?,
            (KeyOrEnd | Key, b'"') => Text(true),
            (Colon, b':') => Value,

            (Text(true), b'"') => Colon,
            (Text(false), b'"') => AfterValue,
            (Text(key), b'\\') => Escape(key),
            (Text(key), 0x20..)
            | (Escape(key), b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Text(key),
            (Escape(key), b'u') => Hex(key, 4),
            (Hex(key, left), _) if byte.is_ascii_hexdigit() => {
                if left > 1 {
                    Hex(key, left - 1)
                } else {
                    Text(key)
                }
            }

            (Word([next]), _) if byte == *next => AfterValue,
            (Word([next, left @ ..]), _) if byte == *next => Word(left),

            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') | (Integer, b'0'..=b'9') => Integer,
            (Zero | Integer, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Zero | Integer | Fraction, b'e' | b'E') => Exponent,
            (Exponent, b'+' | b'-') => ExponentSign,
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
            (Zero | Integer | Fraction | ExponentDigits, b' ' | b'\t' | b'\n' | b'\r') => {
                AfterValue
            }
            (AfterValue | Zero | Integer | Fraction | ExponentDigits, _) => self.go_on(byte)?,
            _ => return Err(self.unexpected()),
        })
    }

    /// The first byte of a value.
    fn begin(&mut self, byte: u8) -> Result<State, String> {
        Ok(match byte {
            b'{' | b'[' => {
                if self.depth >= DEPTH_MAX {
                    return Err(format!("json nested deeper than {DEPTH_MAX}"));
                }
                self.depth += 1;
                self.objects = self.objects << 1 | u128::from(byte == b'{');
                if byte == b'{' { State::KeyOrEnd } else { State::ValueOrEnd }
            }
            b'"' => State::Text(false),
            b'-' => State::Minus,
            b'0' => State::Zero,
            b'1'..=b'9' => State::Integer,
            b't' => State::Word(b"rue"),
            b'f' => State::Word(b"alse"),
            b'n' => State::Word(b"ull"),
            _ => return Err(self.unexpected()),
        })
    }

    /// The byte behind a value that is not white space.
    fn go_on(&mut self, byte: u8) -> Result<State, String> {
        let in_object = self.objects & 1 == 1;
        match byte {
            b',' if self.depth > 0 => Ok(if in_object { State::Key } else { State::Value }),
            b'}' | b']' => self.close(byte),
            _ => Err(self.unexpected()),
        }
    }

    fn close(&mut self, byte: u8) -> Result<State, String> {
        let in_object = self.objects & 1 == 1;
        if self.depth == 0 || in_object != (byte == b'}') {
            return Err(self.unexpected());
        }
        self.depth -= 1;
        self.objects >>= 1;
        Ok(State::AfterValue)
    }

    fn unexpected(&self) -> String {
        format!("it is no json from byte {}", crate::types::grouped(self.offset))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    fn is_json(bytes: &[u8], pieces: usize) -> bool {
        let mut json = Json::default();
        bytes.chunks(pieces).all(|piece| json.push(piece).is_ok()) && json.finish().is_ok()
    }

    #[test]
    fn takes_what_is_json_and_nothing_else() {
        for good in [
            "0",
            " -1.5e+10\n",
            "\"\"",
            "\"\\u00e9\\n\"",
            "true",
            "[]",
            "{}",
            "[1,[2],{}]",
            "{\"a\":{\"b\":[null,false]}, \"c\" : 1}",
            "1E5",
            "0.0",
            "[0]",
            "{\"a\":0}",
        ] {
            assert!(is_json(good.as_bytes(), 1) && is_json(good.as_bytes(), 99), "{good}");
        }
        for bad in [
            "",
            " ",
            "01",
            "-",
            "1.",
            "1e",
            ".5",
            "+1",
            "tru",
            "truee",
            "[1,]",
            "[,1]",
            "{\"a\"}",
            "{\"a\":1,}",
            "{a:1}",
            "[1}",
            "{]",
            "1 2",
            "\"a",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\n\"",
            "]",
            "nul",
            "[1 2]",
            "{\"a\":1 \"b\":2}",
            "{1:2}",
            ",",
            "NaN",
        ] {
            assert!(!is_json(bad.as_bytes(), 1) && !is_json(bad.as_bytes(), 99), "{bad}");
        }
    }

    #[test]
    fn depth_has_an_end() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_json(nested(128).as_bytes(), 7));
        assert!(!is_json(nested(129).as_bytes(), 7));
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(
            text in r#"[\[\]{}:,"\\u0eE.\-+1 tfn\n]{0,12}|(\[|\{"a":|1,|"x",|\]|\}|null|true|-0.5e1| )*"#,
            pieces in 1_usize..9,
        ) {
            let expected = serde_json::from_str::<IgnoredAny>(&text).is_ok();
            prop_assert_eq!(is_json(text.as_bytes(), pieces), expected, "{}", text);
        }
    }
}
