//! Any bytes as avi: the walk ends, says something, and neither panics nor reads past the end.
#![no_main]

use std::io::Cursor;

use filegate_media::{Format, Limits, ProbeError, probe, sniff};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = sniff(data);
    for format in [Format::Avi] {
        match probe(&mut Cursor::new(data), format, &Limits::default()) {
            Ok(info) => assert_eq!(info.format, format),
            Err(ProbeError::Io(error)) => panic!("the reader cannot fail: {error}"),
            Err(_) => {}
        }
    }
});
