//! The multipart body of an upload: what stands before and after the bytes of the file.

use std::fmt::Write as _;

use bytes::Bytes;

/// The text around a file's bytes, `purpose` before `file`.
///
/// The length of the whole is known before the first byte is sent.
#[derive(Debug, Clone)]
pub struct FormEnvelope {
    /// The value of the request's `Content-Type`.
    pub content_type: String,
    /// What stands before the file's bytes.
    pub head: Bytes,
    /// What stands after them.
    pub tail: Bytes,
}

impl FormEnvelope {
    /// The envelope with a boundary of 128 fresh random bits, which no content contains.
    pub fn new(purpose: &str, filename: &str) -> Self {
        let mut random = [0_u8; 16];
        // Without randomness the boundary is still longer than any that content happens to have.
        let _unlikely = getrandom::fill(&mut random);
        let mut boundary = "filegate-".to_owned();
        for byte in random {
            // Writing to a String does not fail.
            let _infallible = write!(boundary, "{byte:02x}");
        }
        Self::with_boundary(&boundary, purpose, filename)
    }

    fn with_boundary(boundary: &str, purpose: &str, filename: &str) -> Self {
        let head = format!(
            "--{boundary}\r\n\
             Content-Disposition: form-data; name=\"purpose\"\r\n\r\n\
             {purpose}\r\n\
             --{boundary}\r\n\
             Content-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n",
            escape_name(filename)
        );
        Self {
            content_type: format!("multipart/form-data; boundary={boundary}"),
            head: head.into(),
            tail: format!("\r\n--{boundary}--\r\n").into(),
        }
    }

    /// The length of the whole body with `file` bytes inside.
    pub fn content_length(&self, file: u64) -> u64 {
        file.saturating_add((self.head.len() + self.tail.len()) as u64)
    }
}

/// A file name inside quotes, as browsers write it: `"`, CR and LF percent-encoded, nothing else.
pub fn escape_name(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '"' => escaped.push_str("%22"),
            '\r' => escaped.push_str("%0D"),
            '\n' => escaped.push_str("%0A"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_browsers_do() {
        for (name, escaped) in [
            ("声音.mp3", "声音.mp3"),
            ("a \"b\".wav", "a %22b%22.wav"),
            ("a\r\nX: y.wav", "a%0D%0AX: y.wav"),
            ("100%41.mp3", "100%41.mp3"),
            ("back\\slash", "back\\slash"),
        ] {
            assert_eq!(escape_name(name), escaped);
        }
    }

    #[test]
    fn the_envelope_is_byte_for_byte() {
        let form = FormEnvelope::with_boundary("B", "voice_clone", "a.wav");
        assert_eq!(form.content_type, "multipart/form-data; boundary=B");
        assert_eq!(
            form.head.as_ref(),
            b"--B\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nvoice_clone\r\n\
              --B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
              Content-Type: application/octet-stream\r\n\r\n"
        );
        assert_eq!(form.tail.as_ref(), b"\r\n--B--\r\n");
        assert_eq!(form.content_length(10), (form.head.len() + form.tail.len() + 10) as u64);
        assert_ne!(
            FormEnvelope::new("p", "n").content_type,
            FormEnvelope::new("p", "n").content_type
        );
    }
}
