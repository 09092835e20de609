//! The parameters of a header value: `*( OWS ";" OWS name "=" ( token / quoted-string ) )`.

use std::borrow::Cow;

/// The value does not follow the grammar.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// One parameter, its name as written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Param<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) value: Value<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Token(&'a [u8]),
    /// What stands between the quotes, escapes still in place.
    Quoted(&'a [u8]),
}

/// Is there a parameter between two semicolons?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Empty {
    /// RFC 9110 5.6.6: HTTP allows `; ;` and a semicolon at the end.
    Allowed,
    /// RFC 2183: MIME does not.
    Refused,
}

/// Walks over the parameters; `rest` starts right behind the value's first token.
#[derive(Debug)]
pub(crate) struct Params<'a> {
    rest: &'a [u8],
    empty: Empty,
}

impl<'a> Params<'a> {
    pub(crate) fn new(rest: &'a [u8], empty: Empty) -> Self {
        Self { rest, empty }
    }

    pub(crate) fn next_param(&mut self) -> Result<Option<Param<'a>>, Malformed> {
        loop {
            if self.rest.is_empty() {
                return Ok(None);
            }
            self.rest = skip_ows(self.rest).strip_prefix(b";").ok_or(Malformed)?;
            let after = skip_ows(self.rest);
            if self.empty == Empty::Allowed && (after.is_empty() || after[0] == b';') {
                self.rest = after;
                continue;
            }
            return self.param(after).map(Some);
        }
    }

    fn param(&mut self, input: &'a [u8]) -> Result<Param<'a>, Malformed> {
        let (name, rest) = token(input).ok_or(Malformed)?;
        let rest = rest.strip_prefix(b"=").ok_or(Malformed)?;
        let (value, rest) = match rest.strip_prefix(b"\"") {
            Some(rest) => {
                let end = closing_quote(rest).ok_or(Malformed)?;
                (Value::Quoted(&rest[..end]), &rest[end + 1..])
            }
            None => {
                token(rest).map(|(value, rest)| (Value::Token(value), rest)).ok_or(Malformed)?
            }
        };
        self.rest = rest;
        Ok(Param { name, value })
    }
}

/// Where the quoted string ends: at the first quote that is not escaped. Only `\"` and `\\` are escapes:
/// old browsers send `C:\dir\a.mp3` as it stands.
fn closing_quote(input: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', &input[at..])?;
        match (input[at], input.get(at + 1)) {
            (b'"', _) => return Some(at),
            (_, Some(b'"' | b'\\')) => at += 2,
            _ => at += 1,
        }
    }
}

impl<'a> Value<'a> {
    /// Undoes what the encoders of forms do to a quoted value, and nothing else: `\"` and `\\` (reqwest,
    /// curl), `%22`, `%0D` and `%0A` (browsers, fetch, requests). One pass, so `\\"` is not undone twice and
    /// `100%41.mp3` keeps its name. A token stands as it is.
    pub(crate) fn decode(&self) -> Cow<'a, [u8]> {
        let raw = match *self {
            Self::Token(raw) => return Cow::Borrowed(raw),
            Self::Quoted(raw) => raw,
        };
        if memchr::memchr2(b'\\', b'%', raw).is_none() {
            return Cow::Borrowed(raw);
        }
        let mut out = Vec::with_capacity(raw.len());
        let mut rest = raw;
        while let [first, tail @ ..] = rest {
            let (byte, used) = match (*first, tail) {
                (b'\\', [escaped @ (b'"' | b'\\'), ..]) => (*escaped, 2),
                (b'%', [b'2', b'2', ..]) => (b'"', 3),
                (b'%', [b'0', b'D', ..]) => (b'\r', 3),
                (b'%', [b'0', b'A', ..]) => (b'\n', 3),
                (byte, _) => (byte, 1),
            };
            out.push(byte);
            rest = &rest[used..];
        }
        Cow::Owned(out)
    }
}

/// Undoes `UTF-8'[language]'value` of RFC 8187. `None`: not that, or not well-formed.
pub(crate) fn decode_extended(raw: &[u8]) -> Option<Vec<u8>> {
    let (charset, rest) = raw.split_at(memchr::memchr(b'\'', raw)?);
    let rest = &rest[1..];
    let (language, rest) = rest.split_at(memchr::memchr(b'\'', rest)?);
    if !charset.eq_ignore_ascii_case(b"utf-8")
        || !language.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    {
        return None;
    }
    let mut out = Vec::with_capacity(rest.len());
    let mut rest = &rest[1..];
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let [high, low, tail @ ..] = tail else { return None };
            out.push(hex(*high)? << 4 | hex(*low)?);
            rest = tail;
        } else if is_attr_char(*first) {
            out.push(*first);
            rest = tail;
        } else {
            return None;
        }
    }
    Some(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// RFC 8187 `attr-char`.
fn is_attr_char(byte: u8) -> bool {
    is_token_char(byte) && !matches!(byte, b'*' | b'\'' | b'%')
}

/// RFC 9110 `tchar`.
fn is_token_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Splits off a token of at least one character.
pub(crate) fn token(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = input.iter().take_while(|byte| is_token_char(**byte)).count();
    (len > 0).then(|| input.split_at(len))
}

pub(crate) fn is_ows(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn skip_ows(input: &[u8]) -> &[u8] {
    let len = input.iter().take_while(|byte| is_ows(**byte)).count();
    &input[len..]
}

pub(crate) fn trim_ows(input: &[u8]) -> &[u8] {
    let mut input = skip_ows(input);
    while let [head @ .., last] = input
        && is_ows(*last)
    {
        input = head;
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(rest: &str, empty: Empty) -> Result<Vec<(String, String)>, Malformed> {
        let mut params = Params::new(rest.as_bytes(), empty);
        let mut out = Vec::new();
        while let Some(param) = params.next_param()? {
            let text = |raw: &[u8]| String::from_utf8_lossy(raw).into_owned();
            out.push((text(param.name), text(&param.value.decode())));
        }
        Ok(out)
    }

    #[test]
    fn well_formed_parameters() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            (";a=b", &[("a", "b")]),
            (" \t; \ta=b ; c=\"d\"", &[("a", "b"), ("c", "d")]),
            (r#"; a="""#, &[("a", "")]),
            (r#"; a="x; name=\"y\"; b=c"; d=e"#, &[("a", "x; name=\"y\"; b=c"), ("d", "e")]),
            (r#"; a="C:\fake\a.mp3""#, &[("a", r"C:\fake\a.mp3")]),
            (r#"; a="C:\\fake\\a.mp3""#, &[("a", r"C:\fake\a.mp3")]),
            (r#"; a="x\\"; b=c"#, &[("a", r"x\"), ("b", "c")]),
            (r#"; a="x\\\"y""#, &[("a", r#"x\"y"#)]),
            (r#"; a="%22%0D%0A%0d%0a%41%2""#, &[("a", "\"\r\n%0d%0a%41%2")]),
            (r#"; a="\%22""#, &[("a", "\\\"")]),
            (r"; a=%22", &[("a", "%22")]),
        ];
        for (input, expected) in table {
            let expected: Vec<_> =
                expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(all(input, Empty::Refused).as_ref(), Ok(&expected), "{input}");
        }
    }

    #[test]
    fn malformed_parameters() {
        for input in [
            " ",
            ";",
            "; ",
            "a=b",
            " a=b",
            ";a",
            ";a=",
            ";a =b",
            ";a= b",
            ";=b",
            ";a=b c=d",
            ";a=\"b\"c=d",
            ";a=\"b\" c=d",
            ";a=\"b",
            ";a=\"b\\\"",
            ";a=b\u{e9}",
            ";a=b;",
            ";a=b;;c=d",
            ";a=b/c",
            ";a=b ",
            ";a='b c'",
        ] {
            assert_eq!(all(input, Empty::Refused), Err(Malformed), "{input}");
        }
    }

    #[test]
    fn empty_parameters_where_http_allows_them() {
        for input in [";a=b;", ";;a=b", "; ;a=b ; "] {
            assert_eq!(all(input, Empty::Allowed), Ok(vec![("a".into(), "b".into())]), "{input}");
        }
    }

    #[test]
    fn extended_values() {
        let table: &[(&str, Option<&str>)] = &[
            ("UTF-8''a.mp3", Some("a.mp3")),
            ("utf-8'en-GB'%e2%82%AC%20rates", Some("€ rates")),
            ("utf-8''", Some("")),
            ("iso-8859-1''a", None),
            ("''a", None),
            ("utf-8'a", None),
            ("a", None),
            ("utf-8'e n'a", None),
            ("utf-8''a%2", None),
            ("utf-8''a%zz", None),
            ("utf-8''a b", None),
            ("utf-8''a'b", None),
            ("utf-8''a*b", None),
        ];
        for (input, expected) in table {
            let expected = expected.map(|text| text.as_bytes().to_vec());
            assert_eq!(decode_extended(input.as_bytes()), expected, "{input}");
        }
    }
}
