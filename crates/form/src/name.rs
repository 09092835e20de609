//! File names: what a client calls its file, made safe to keep and to show.

use std::fmt;

/// Why a file name was refused; the text is fit for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// A control character (C0, DEL, C1), line breaks included.
    #[error("file name has a control character")]
    Control,
    /// A character that reorders the text around it (bidirectional embedding, override or isolate), with which
    /// `exe.3pm` is shown as `mp3.exe`.
    #[error("file name has a text direction character")]
    Direction,
    /// Nothing is left after the last path separator, or nothing but white space.
    #[error("file name is empty")]
    Empty,
    /// The name is `.` or `..`.
    #[error("file name is a relative path")]
    Dots,
    /// The name is too long.
    #[error("file name is {len} bytes, at most {max}")]
    TooLong {
        /// Measured length in bytes.
        len: usize,
        /// [`FileName::BYTES_MAX`].
        max: usize,
    },
}

/// The name of an uploaded file: the last component of what the client sent.
///
/// It is what users see, never a path of ours: storage is addressed by our own ids. INVARIANT: 1 to 255 bytes,
/// no `/` or `\`, no control or text-direction character, not white space alone, neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileName(String);

impl FileName {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 255;

    /// Keeps the last component of a decoded name, or says what is wrong with it.
    ///
    /// Both `/` and `\` separate components: old browsers send `C:\fakepath\a.mp3`. Escapes must be undone
    /// before, as [`PartHeaders::file_name`](crate::PartHeaders::file_name) has done. A forbidden character is
    /// refused in the dropped directories too: nobody who sends one means well.
    pub fn clean(decoded: &str) -> Result<Self, NameError> {
        for character in decoded.chars() {
            match character {
                _ if character.is_control() => return Err(NameError::Control),
                '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => {
                    return Err(NameError::Direction);
                }
                _ => {}
            }
        }
        let last = decoded.rsplit(['/', '\\']).next().unwrap_or(decoded);
        match last {
            "." | ".." => Err(NameError::Dots),
            _ if last.trim().is_empty() => Err(NameError::Empty),
            _ if last.len() > Self::BYTES_MAX => {
                Err(NameError::TooLong { len: last.len(), max: Self::BYTES_MAX })
            }
            _ => Ok(Self(last.to_owned())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, owned.
    pub fn into_string(self) -> String {
        self.0
    }

    /// What follows the last dot, as written: `Some("MP3")` of `a.b.MP3`. `None` without a dot, with nothing
    /// after it, and when the only dot comes first (`.mp3` is a hidden file without an extension).
    pub fn extension(&self) -> Option<&str> {
        let (stem, extension) = self.0.rsplit_once('.')?;
        (!stem.is_empty() && !extension.is_empty()).then_some(extension)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for FileName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<FileName> for String {
    fn from(name: FileName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept() {
        let table = [
            ("a.mp3", "a.mp3"),
            ("100%41.mp3", "100%41.mp3"),
            ("..%2Fa.mp3", "..%2Fa.mp3"),
            ("/etc/passwd", "passwd"),
            ("../../a.mp3", "a.mp3"),
            (r"C:\fakepath\a.mp3", "a.mp3"),
            (r"dir/sub\a.mp3", "a.mp3"),
            (r"dir\sub/a.mp3", "a.mp3"),
            (" take 1 .mp3", " take 1 .mp3"),
            ("...", "..."),
            (".mp3", ".mp3"),
            ("say \"hi\"; name=file.mp3", "say \"hi\"; name=file.mp3"),
            ("声音.mp3", "声音.mp3"),
            ("עברית\u{200F}.mp3", "עברית\u{200F}.mp3"),
        ];
        for (raw, expected) in table {
            assert_eq!(
                FileName::clean(raw).map(FileName::into_string).as_deref(),
                Ok(expected),
                "{raw:?}"
            );
        }
    }

    #[test]
    fn refused() {
        let table = [
            ("", NameError::Empty),
            ("  ", NameError::Empty),
            ("\u{3000}", NameError::Empty),
            ("dir/", NameError::Empty),
            (r"C:\", NameError::Empty),
            (".", NameError::Dots),
            ("..", NameError::Dots),
            ("a/..", NameError::Dots),
            (r"a\.", NameError::Dots),
            ("a\0.mp3", NameError::Control),
            ("a\r\n.mp3", NameError::Control),
            ("a\t.mp3", NameError::Control),
            ("a\u{7f}.mp3", NameError::Control),
            ("a\u{80}.mp3", NameError::Control),
            ("a\u{9f}.mp3", NameError::Control),
            ("\n/a.mp3", NameError::Control),
            ("a\u{202A}.mp3", NameError::Direction),
            ("a\u{202E}3pm.exe", NameError::Direction),
            ("a\u{2066}.mp3", NameError::Direction),
            ("a\u{2069}.mp3", NameError::Direction),
        ];
        for (raw, expected) in table {
            assert_eq!(FileName::clean(raw), Err(expected), "{raw:?}");
        }
    }

    #[test]
    fn every_forbidden_character_and_no_other() {
        for code in 0..=0x2FFF_u32 {
            let Some(character) = char::from_u32(code) else { continue };
            let forbidden =
                matches!(code, 0..=0x1F | 0x7F..=0x9F | 0x202A..=0x202E | 0x2066..=0x2069);
            assert_eq!(
                FileName::clean(&format!("a{character}b")).is_err(),
                forbidden,
                "U+{code:04X}"
            );
        }
    }

    #[test]
    fn length_is_of_the_last_component_in_bytes() {
        let longest = "a".repeat(FileName::BYTES_MAX);
        assert!(FileName::clean(&longest).is_ok());
        assert!(FileName::clean(&format!("{longest}/{longest}")).is_ok());
        assert_eq!(
            FileName::clean(&format!("{longest}a")),
            Err(NameError::TooLong { len: 256, max: 255 })
        );
        assert_eq!(
            FileName::clean(&"声".repeat(86)),
            Err(NameError::TooLong { len: 258, max: 255 })
        );
        assert!(FileName::clean(&"声".repeat(85)).is_ok());
    }

    #[test]
    fn extensions() {
        let table = [
            ("a.mp3", Some("mp3")),
            ("a.b.MP3", Some("MP3")),
            ("a", None),
            ("a.", None),
            (".mp3", None),
            ("..a", Some("a")),
        ];
        for (raw, expected) in table {
            assert_eq!(FileName::clean(raw).expect("is kept").extension(), expected, "{raw}");
        }
    }
}
