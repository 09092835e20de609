//! The multipart/form-data reader: sans-I/O, strict, bounded.
//!
//! Chunks of a request body go in, [`Event`]s come out. There is no I/O, no async and no clock in here, so every
//! rule is tested without a socket, and the state has a fixed size whatever is sent. File data is never copied:
//! an event names a range of the chunk, to be sliced off a `bytes::Bytes`.
//!
//! ```
//! use filegate_form::{Boundary, Event, FileName, Limits, Reader};
//!
//! let boundary = Boundary::from_content_type("multipart/form-data; boundary=b7d1")?;
//! let chunks = [
//!     "--b7d1\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nvoice_clone\r\n--b7",
//!     "d1\r\nContent-Disposition: form-data; name=\"file\"; filename=\"C:\\take %22one%22.mp3\"\r\n\r\nID3",
//!     "\r\n--b7 is data\r\n--b7d1--\r\n",
//! ];
//!
//! let mut reader = Reader::new(&boundary, Limits::default());
//! let (mut parts, mut data) = (Vec::new(), Vec::new());
//! for chunk in chunks.map(bytes::Bytes::from) {
//!     let mut feed = reader.feed(&chunk);
//!     while let Some(event) = feed.next_event()? {
//!         match event {
//!             Event::PartStart(headers) => parts.push(headers),
//!             Event::Data(range) => data.push(chunk.slice(range)), // no copy
//!             Event::Held(bytes) => data.push(bytes::Bytes::copy_from_slice(bytes)),
//!             Event::PartEnd => data.push("|".into()),
//!             Event::End => {}
//!         }
//!     }
//! }
//! reader.finish()?; // without this a truncated upload would pass for a whole one
//!
//! assert_eq!(data.concat(), b"voice_clone|ID3\r\n--b7 is data|");
//! assert_eq!(parts[0].name, "purpose");
//! let file_name = parts[1].file_name.as_deref().expect("the second part is a file");
//! assert_eq!(FileName::clean(file_name)?.as_str(), "take \"one\".mp3");
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # The grammar
//!
//! RFC 2046 5.1.1 and RFC 7578, and what they leave open is closed: where two readers could understand the same
//! bytes differently, the form is refused.
//!
//! ```text
//! body       = [preamble CRLF] "--" boundary ( close / 1*part )
//!                                              ; the delimiter stands at the start of the body or after CRLF
//! part       = *padding CRLF *header CRLF *OCTET CRLF "--" boundary   ; then the next part, or close
//! close      = "--" *padding [CRLF epilogue]
//! header     = token ":" *( SP / HTAB / %x21-7E / %x80-FF ) CRLF      ; no folding, no other control
//! padding    = SP / HTAB
//! ```
//!
//! - A delimiter is `CRLF--boundary`, wherever it stands in the data (RFC 2046: it is enough that a line begins
//!   with it). What follows must be `--`, or padding and CRLF; anything else is an **error**, not data.
//!   In mid-line it is data, and so it is after LF or CR alone.
//! - The delimiter may come straight after the empty line of the headers: then the part is empty (RFC 2046
//!   `body-part`; multer takes it for data).
//! - Lines end in CRLF. An LF alone, a CR alone, folding and control characters in headers are errors.
//! - After the closing boundary's line everything is passed over, further boundaries included. The caller counts
//!   it as part of the body.
//! - A form may have no parts; browsers send such.
//! - `Content-Disposition` must stand once, be `form-data`, and have one `name`. `Content-Type` and
//!   `Content-Transfer-Encoding` may stand once, in any order; encodings other than 7bit, 8bit and binary are
//!   refused. Other headers are ignored (RFC 7578 4.8), a part's `Content-Length` among them.
//! - Parameters are tokens or quoted strings and may stand once. `filename*` is read (`UTF-8''…`, from
//!   requests before 2.22) but gives way to `filename`, in either order: RFC 7578 4.2 forbids it in forms.
//!   `name*` and the continuations of RFC 2231 (`filename*0`) are refused.
//! - In quoted values `\"` and `\\` (reqwest, curl) and `%22`, `%0D`, `%0A` (browsers, fetch, requests) are
//!   undone, in one pass, and nothing else is: `100%41.mp3` and `C:\dir\a.mp3` keep their look. Names are UTF-8.
//!
//! # The limits
//!
//! [`Limits`] caps the parts, the header lines and header bytes of a part, the preamble and the padding; the
//! boundary is at most 70 bytes. All are checked before anything is kept. The reader holds the delimiter and at
//! most one header line ([`Reader::state_bytes`]); work is linear in the body, however it is cut into chunks. How
//! much data a part may have is the caller's to say, and so is what the fields mean.
//!
//! # Why not multer
//!
//! multer 3.1 (axum's `Multipart`) collects a body that is always ready, the preamble, and every header block
//! whole before any limit, and searches them from the start on each poll. It takes a first boundary in
//! mid-line and LF line ends, finds `name=` inside a quoted file name, loses the name when `filename*` comes
//! first, and undoes neither `\\` nor `%22`. It serves as the oracle of a test here.

mod boundary;
mod error;
mod headers;
mod name;
mod params;
mod reader;
mod scan;

pub use boundary::Boundary;
pub use error::FormError;
pub use headers::PartHeaders;
pub use name::{FileName, NameError};
pub use reader::{Event, Feed, Limits, Reader};
