//! Any bytes as mp3: the walk ends, says something, and neither panics nor reads past the end.
#![no_main]

use std::io::Cursor;

use filegate_media::{DecodeScope, Format, Limits, ProbeError, probe};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for decode in [DecodeScope::Window, DecodeScope::Whole] {
        let limits = Limits { decode, ..Limits::default() };
        match probe(&mut Cursor::new(data), Format::Mp3, &limits) {
            Ok(info) => assert_eq!(info.format, Format::Mp3),
            Err(ProbeError::Io(error)) => panic!("the reader cannot fail: {error}"),
            Err(_) => {}
        }
    }
});
