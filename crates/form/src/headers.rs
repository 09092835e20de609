//! The headers of one part, line by line.

use crate::boundary::starts_with_ignore_case;
use crate::error::FormError;
use crate::params::{self, Empty, Params, decode_extended, trim_ows};

/// What the headers of a part say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartHeaders {
    /// The field's name, escapes undone. May be empty and may hold anything, line breaks included.
    pub name: String,
    /// The file's name as the client meant it: escapes undone, nothing checked yet; that is for
    /// [`FileName::clean`](crate::FileName::clean). `None`: the part is not a file.
    pub file_name: Option<String>,
    /// The part's `Content-Type` if it is printable ASCII. Clients leave it out or guess: evidence of nothing.
    pub content_type: Option<String>,
}

/// Collects the header lines of one part. What it holds is bounded by the bytes of those lines.
#[derive(Debug, Default)]
pub(crate) struct PartBuilder {
    lines: usize,
    disposition: Option<Disposition>,
    content_type: Option<String>,
    content_type_seen: bool,
    transfer_encoding_seen: bool,
}

#[derive(Debug)]
struct Disposition {
    name: String,
    file_name: Option<String>,
}

impl PartBuilder {
    /// Takes one line without its CRLF, not the empty one.
    pub(crate) fn line(&mut self, line: &[u8], headers_max: usize) -> Result<(), FormError> {
        if self.lines == headers_max {
            return Err(FormError::TooManyHeaders { max: headers_max });
        }
        self.lines += 1;
        if line.first().is_some_and(|first| params::is_ows(*first)) {
            return Err(FormError::HeaderFolded);
        }
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(FormError::HeaderControl);
        }
        let (name, rest) = params::token(line).ok_or(FormError::HeaderMalformed)?;
        let value = trim_ows(rest.strip_prefix(b":").ok_or(FormError::HeaderMalformed)?);

        if name.eq_ignore_ascii_case(b"content-disposition") {
            if self.disposition.is_some() {
                return Err(FormError::HeaderRepeated { header: "content-disposition" });
            }
            self.disposition = Some(Disposition::parse(value)?);
        } else if name.eq_ignore_ascii_case(b"content-type") {
            if self.content_type_seen {
                return Err(FormError::HeaderRepeated { header: "content-type" });
            }
            self.content_type_seen = true;
            let printable = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
            self.content_type = printable.then(|| String::from_utf8_lossy(value).into_owned());
        } else if name.eq_ignore_ascii_case(b"content-transfer-encoding") {
            if self.transfer_encoding_seen {
                return Err(FormError::HeaderRepeated { header: "content-transfer-encoding" });
            }
            self.transfer_encoding_seen = true;
            if !["7bit", "8bit", "binary"]
                .iter()
                .any(|known| value.eq_ignore_ascii_case(known.as_bytes()))
            {
                return Err(FormError::TransferEncoding { found: short_token(value) });
            }
        }
        // RFC 7578 4.8: other headers must be ignored.
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<PartHeaders, FormError> {
        let Disposition { name, file_name } =
            self.disposition.ok_or(FormError::DispositionMissing)?;
        Ok(PartHeaders { name, file_name, content_type: self.content_type })
    }
}

impl Disposition {
    fn parse(value: &[u8]) -> Result<Self, FormError> {
        let (kind, rest) = params::token(value).ok_or(FormError::DispositionMalformed)?;
        if !kind.eq_ignore_ascii_case(b"form-data") {
            return Err(FormError::DispositionType);
        }
        let (mut name, mut plain, mut extended) = (None, None, None);
        let mut params = Params::new(rest, Empty::Refused);
        while let Some(param) =
            params.next_param().map_err(|_malformed| FormError::DispositionMalformed)?
        {
            if param.name.eq_ignore_ascii_case(b"name") {
                set_once(&mut name, "name", utf8(param.value.decode().into_owned(), "name")?)?;
            } else if param.name.eq_ignore_ascii_case(b"filename") {
                set_once(
                    &mut plain,
                    "filename",
                    utf8(param.value.decode().into_owned(), "filename")?,
                )?;
            } else if param.name.eq_ignore_ascii_case(b"filename*") {
                let params::Value::Token(raw) = param.value else {
                    return Err(FormError::ExtendedMalformed);
                };
                let decoded = decode_extended(raw).ok_or(FormError::ExtendedMalformed)?;
                set_once(&mut extended, "filename*", utf8(decoded, "filename*")?)?;
            } else if starts_with_ignore_case(param.name, b"name*") {
                return Err(FormError::ParameterExtended { parameter: "name" });
            } else if starts_with_ignore_case(param.name, b"filename*") {
                return Err(FormError::ParameterExtended { parameter: "filename" });
            }
        }
        // RFC 7578 4.2 forbids `filename*` in forms, so it counts only where nothing else does (old requests).
        Ok(Self { name: name.ok_or(FormError::NameMissing)?, file_name: plain.or(extended) })
    }
}

fn set_once(
    slot: &mut Option<String>,
    parameter: &'static str,
    value: String,
) -> Result<(), FormError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(FormError::ParameterRepeated { parameter }),
    }
}

fn utf8(raw: Vec<u8>, parameter: &'static str) -> Result<String, FormError> {
    String::from_utf8(raw).map_err(|_invalid| FormError::ParameterNotUtf8 { parameter })
}

/// A value that may be repeated in an error text: a short token, or `?`.
fn short_token(value: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 24;
    match params::token(value) {
        Some((token, b"")) if token.len() <= SHOWN_BYTES_MAX => {
            String::from_utf8_lossy(token).to_ascii_lowercase()
        }
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header lines, separated by `|`.
    fn parse(lines: &str) -> Result<PartHeaders, FormError> {
        let mut builder = PartBuilder::default();
        for line in lines.split('|') {
            builder.line(line.as_bytes(), 16)?;
        }
        builder.finish()
    }

    fn headers(name: &str, file_name: Option<&str>, content_type: Option<&str>) -> PartHeaders {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        PartHeaders {
            name: name.to_owned(),
            file_name: owned(file_name),
            content_type: owned(content_type),
        }
    }

    #[test]
    fn accepted() {
        let table = [
            ("Content-Disposition: form-data; name=\"a\"", headers("a", None, None)),
            ("content-disposition:FORM-DATA;NAME=a", headers("a", None, None)),
            ("CONTENT-DISPOSITION: \t form-data ; name=a \t", headers("a", None, None)),
            ("Content-Disposition: form-data; name=\"\"", headers("", None, None)),
            (
                "Content-Disposition: form-data; name=\"a\"; filename=\"\"",
                headers("a", Some(""), None),
            ),
            (
                "Content-Disposition: form-data; filename=\"b\"; name=\"a\"",
                headers("a", Some("b"), None),
            ),
            ("Content-Disposition: form-data; name=a; size=7; size=8", headers("a", None, None)),
            (
                "X-Other: é|Content-Type: text/plain|Content-Disposition: form-data; name=a",
                headers("a", None, Some("text/plain")),
            ),
            ("Content-Type: é|Content-Disposition: form-data; name=a", headers("a", None, None)),
            ("Content-Type:|Content-Disposition: form-data; name=a", headers("a", None, Some(""))),
            (
                "Content-Disposition: form-data; name=a|Content-Transfer-Encoding: BINARY",
                headers("a", None, None),
            ),
            (
                "Content-Disposition: form-data; name=a|Content-Transfer-Encoding: 8bit",
                headers("a", None, None),
            ),
            (
                "Content-Disposition: form-data; name=a|Content-Transfer-Encoding: 7bit",
                headers("a", None, None),
            ),
            // Names: each encoding undone, and only those.
            (
                "Content-Disposition: form-data; name=\"a\"; filename=\"声 音.mp3\"",
                headers("a", Some("声 音.mp3"), None),
            ),
            (
                r#"Content-Disposition: form-data; name="a"; filename="x\"y\\z.mp3""#,
                headers("a", Some(r#"x"y\z.mp3"#), None),
            ),
            (
                r#"Content-Disposition: form-data; name="a"; filename="x%22y.mp3""#,
                headers("a", Some("x\"y.mp3"), None),
            ),
            (
                r#"Content-Disposition: form-data; name="a"; filename="x%0D%0Ay""#,
                headers("a", Some("x\r\ny"), None),
            ),
            (
                r#"Content-Disposition: form-data; name="a"; filename="100%41.mp3""#,
                headers("a", Some("100%41.mp3"), None),
            ),
            (
                r#"Content-Disposition: form-data; name="a"; filename="C:\f\a.mp3""#,
                headers("a", Some(r"C:\f\a.mp3"), None),
            ),
            (r#"Content-Disposition: form-data; name="x%22y""#, headers("x\"y", None, None)),
            (
                r#"Content-Disposition: form-data; name="a"; filename="; name=b; filename=c""#,
                headers("a", Some("; name=b; filename=c"), None),
            ),
            (
                r#"Content-Disposition: form-data; filename="x\"; name=\"b"; name="a""#,
                headers("a", Some("x\"; name=\"b"), None),
            ),
            (
                "Content-Disposition: form-data; name=a; filename*=utf-8''%E5%A3%B0.mp3",
                headers("a", Some("声.mp3"), None),
            ),
            (
                "Content-Disposition: form-data; filename*=UTF-8'en'x; name=a",
                headers("a", Some("x"), None),
            ),
            (
                "Content-Disposition: form-data; name=a; filename=p; filename*=utf-8''x",
                headers("a", Some("p"), None),
            ),
            (
                "Content-Disposition: form-data; filename*=utf-8''x; filename=p; name=a",
                headers("a", Some("p"), None),
            ),
            (
                "Content-Disposition: form-data; name=a; filename=\"\"; filename*=utf-8''x",
                headers("a", Some(""), None),
            ),
        ];
        for (lines, expected) in table {
            assert_eq!(parse(lines), Ok(expected), "{lines}");
        }
    }

    #[test]
    fn refused() {
        use FormError as E;
        let repeated = |parameter| E::ParameterRepeated { parameter };
        let table = [
            ("Content-Type: text/plain", E::DispositionMissing),
            ("Content-Disposition:", E::DispositionMalformed),
            ("Content-Disposition: form-data", E::NameMissing),
            ("Content-Disposition: form-data; filename=b", E::NameMissing),
            ("Content-Disposition: attachment; name=a", E::DispositionType),
            ("Content-Disposition: form-data-x; name=a", E::DispositionType),
            ("Content-Disposition: form-data name=a", E::DispositionMalformed),
            ("Content-Disposition: form-data; name=a;", E::DispositionMalformed),
            ("Content-Disposition: form-data;; name=a", E::DispositionMalformed),
            ("Content-Disposition: form-data; name", E::DispositionMalformed),
            ("Content-Disposition: form-data; name=", E::DispositionMalformed),
            ("Content-Disposition: form-data; name = a", E::DispositionMalformed),
            ("Content-Disposition: form-data; name=a filename=b", E::DispositionMalformed),
            ("Content-Disposition: form-data; name=\"a\"filename=b", E::DispositionMalformed),
            ("Content-Disposition: form-data; name=\"a", E::DispositionMalformed),
            ("Content-Disposition: form-data; name=a; filename=\"x\"y\"", E::DispositionMalformed),
            ("Content-Disposition: form-data; name=a; filename=é", E::DispositionMalformed),
            ("Content-Disposition: form-data, name=a", E::DispositionMalformed),
            ("Content-Disposition: form-data; name=a; name=a", repeated("name")),
            ("Content-Disposition: form-data; name=a; NAME=\"b\"", repeated("name")),
            (
                "Content-Disposition: form-data; name=a; filename=x; filename=x",
                repeated("filename"),
            ),
            (
                "Content-Disposition: form-data; name=a; filename*=utf-8''x; filename*=utf-8''x",
                repeated("filename*"),
            ),
            (
                "Content-Disposition: form-data; name*=utf-8''a",
                E::ParameterExtended { parameter: "name" },
            ),
            (
                "Content-Disposition: form-data; name=a; name*0=a",
                E::ParameterExtended { parameter: "name" },
            ),
            (
                "Content-Disposition: form-data; name=a; filename*0=x",
                E::ParameterExtended { parameter: "filename" },
            ),
            (
                "Content-Disposition: form-data; name=a; filename*0*=utf-8''x",
                E::ParameterExtended { parameter: "filename" },
            ),
            ("Content-Disposition: form-data; name=a; filename*=x", E::ExtendedMalformed),
            ("Content-Disposition: form-data; name=a; filename*=latin1''x", E::ExtendedMalformed),
            (
                "Content-Disposition: form-data; name=a; filename*=\"utf-8''x\"",
                E::ExtendedMalformed,
            ),
            (
                "Content-Disposition: form-data; name=a; filename=p; filename*=x",
                E::ExtendedMalformed,
            ),
            (
                "Content-Disposition: form-data; name=a; filename*=utf-8''%ff",
                E::ParameterNotUtf8 { parameter: "filename*" },
            ),
            (
                "Content-Disposition: form-data; name=a|Content-Disposition: form-data; name=a",
                E::HeaderRepeated { header: "content-disposition" },
            ),
            ("Content-Type: a|content-type: a", E::HeaderRepeated { header: "content-type" }),
            (
                "Content-Transfer-Encoding: 8bit|content-transfer-encoding: 8bit",
                E::HeaderRepeated { header: "content-transfer-encoding" },
            ),
            ("Content-Transfer-Encoding: Base64", E::TransferEncoding { found: "base64".into() }),
            (
                "Content-Transfer-Encoding: quoted-printable",
                E::TransferEncoding { found: "quoted-printable".into() },
            ),
            ("Content-Transfer-Encoding: <script>", E::TransferEncoding { found: "?".into() }),
            (
                "Content-Transfer-Encoding: aaaaaaaaaaaaaaaaaaaaaaaaa",
                E::TransferEncoding { found: "?".into() },
            ),
            ("Content-Transfer-Encoding:", E::TransferEncoding { found: "?".into() }),
            ("Content-Disposition: form-data;| name=a", E::DispositionMalformed),
            ("X: y| z", E::HeaderFolded),
            ("\tname=a", E::HeaderFolded),
            ("X-No-Colon", E::HeaderMalformed),
            (": value", E::HeaderMalformed),
            ("Content-Disposition : form-data; name=a", E::HeaderMalformed),
            ("Conténu: x", E::HeaderMalformed),
            ("X: a\0b", E::HeaderControl),
            ("X: a\x1bb", E::HeaderControl),
            ("X: a\x7fb", E::HeaderControl),
            ("X\x01: b", E::HeaderControl),
        ];
        for (lines, expected) in table {
            assert_eq!(parse(lines), Err(expected), "{lines}");
        }
    }

    #[test]
    fn names_that_are_not_utf8() {
        for (parameter, line) in [
            ("name", b"Content-Disposition: form-data; name=\"\xff\"".as_slice()),
            ("filename", b"Content-Disposition: form-data; name=a; filename=\"\xc3\""),
            ("filename", b"Content-Disposition: form-data; name=a; filename=\"\xed\xa0\x80\""),
        ] {
            let result = PartBuilder::default().line(line, 1);
            assert_eq!(result, Err(FormError::ParameterNotUtf8 { parameter }));
        }
    }

    #[test]
    fn header_count() {
        for headers_max in [0, 1, 3] {
            let mut builder = PartBuilder::default();
            for _ in 0..headers_max {
                assert_eq!(builder.line(b"X: y", headers_max), Ok(()));
            }
            assert_eq!(
                builder.line(b"X: y", headers_max),
                Err(FormError::TooManyHeaders { max: headers_max })
            );
        }
    }
}
