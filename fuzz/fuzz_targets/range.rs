//! Range headers: never a panic, and what comes out lies inside the file without overlap.

#![no_main]

use filegate_server::range::{Ranges, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, u64)| {
    let (header, len) = input;
    if let Ranges::Parts(parts) = parse(header, len) {
        assert!(!parts.is_empty());
        let total: u64 = parts.iter().map(|(first, last)| last - first + 1).sum();
        assert!(total <= len);
        assert!(parts.iter().all(|(first, last)| first <= last && *last < len));
    }
});
