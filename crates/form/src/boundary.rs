//! The boundary, from the request's `Content-Type`.

use std::fmt;

use crate::error::FormError;
use crate::params::{Empty, Params, Value, is_ows};

/// A boundary that is valid by RFC 2046: 1 to 70 `bchars`, the last of them not a space.
#[derive(Clone, PartialEq, Eq)]
pub struct Boundary(Box<str>);

impl Boundary {
    /// The longest boundary RFC 2046 allows.
    pub const BYTES_MAX: usize = 70;

    /// Checks a bare boundary, without quotes.
    pub fn new(raw: impl AsRef<[u8]>) -> Result<Self, FormError> {
        let raw = raw.as_ref();
        if !(1..=Self::BYTES_MAX).contains(&raw.len()) {
            return Err(FormError::BoundaryLength { len: raw.len(), max: Self::BYTES_MAX });
        }
        if !raw.iter().all(|byte| is_bchar(*byte)) || raw.last() == Some(&b' ') {
            return Err(FormError::BoundaryCharacter);
        }
        Ok(Self(raw.iter().map(|byte| char::from(*byte)).collect()))
    }

    /// Takes the boundary out of a `Content-Type` value.
    ///
    /// The media type must be `multipart/form-data` (in any case) and exactly one `boundary` must stand among
    /// its parameters, as a token or as a quoted string without escapes. Other parameters (`charset`) are
    /// ignored as long as they follow the grammar of RFC 9110; a boundary in the extended forms of RFC 2231
    /// (`boundary*`, `boundary*0`) is refused, because readers differ on what it means.
    pub fn from_content_type(value: impl AsRef<[u8]>) -> Result<Self, FormError> {
        let value = value.as_ref();
        let end =
            value.iter().position(|byte| *byte == b';' || is_ows(*byte)).unwrap_or(value.len());
        let (media_type, rest) = value.split_at(end);
        if !media_type.eq_ignore_ascii_case(b"multipart/form-data") {
            return Err(FormError::NotMultipart);
        }
        let mut params = Params::new(rest, Empty::Allowed);
        let mut boundary = None;
        while let Some(param) =
            params.next_param().map_err(|_malformed| FormError::ContentTypeMalformed)?
        {
            if !starts_with_ignore_case(param.name, b"boundary") {
                continue;
            }
            match param.name.get(b"boundary".len()) {
                None if boundary.is_some() => {
                    return Err(FormError::ParameterRepeated { parameter: "boundary" });
                }
                None => {
                    let (Value::Token(raw) | Value::Quoted(raw)) = param.value;
                    boundary = Some(raw);
                }
                Some(b'*') => return Err(FormError::ParameterExtended { parameter: "boundary" }),
                Some(_) => {}
            }
        }
        Self::new(boundary.ok_or(FormError::BoundaryMissing)?)
    }

    /// The boundary, without the leading dashes of a delimiter line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Boundary").field(&self.as_str()).finish()
    }
}

/// RFC 2046 5.1.1.
fn is_bchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte)
}

pub(crate) fn starts_with_ignore_case(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}
