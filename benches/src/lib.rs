//! filegate beside its peers: what `benches/compare` and the programs it starts are made of.
//!
//! | module | what |
//! |---|---|
//! | [`workload`] | what is done, and the targets |
//! | [`peer`] | who does it, how each is started and spoken to |
//! | [`speak`] | the requests of an upload or a download, and what is right as an answer |
//! | [`place`] | directories on a disk that does not falsify what is measured |
//! | [`turn`] | one peer does one piece of work for a moment |
//! | [`results`] | turns as lines of JSON, and their medians |
//! | [`report`] | tables and pictures of them |
//! | [`chart`] | how pictures are drawn |

pub mod chart;
pub mod peer;
pub mod place;
pub mod report;
pub mod results;
pub mod speak;
pub mod turn;
pub mod workload;

/// What a program that measures fails with: text for whoever runs it.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String does not fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
