//! Any bytes as zip and docx: the walk ends and never expands more than its caps.
#![no_main]

use std::io::Cursor;

use filegate_media::{Format, Limits, ProbeError, probe};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let limits = Limits { zip_bytes_max: 1 << 20, ..Limits::default() };
    for format in [Format::Zip, Format::Docx] {
        match probe(&mut Cursor::new(data), format, &limits) {
            // A character takes a byte at least.
            Ok(info) => assert!(info.characters.unwrap_or(0) <= limits.zip_bytes_max),
            Err(ProbeError::Io(error)) => panic!("the reader cannot fail: {error}"),
            Err(_) => {}
        }
    }
});
