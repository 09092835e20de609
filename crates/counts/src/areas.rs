//! Where the instructions of a call go, by area.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::compare::grouped;
use crate::profile::{Place, Profile};

/// Functions that are named of each area.
const NAMED: usize = 4;

/// Not among what the others are shares of: outside valgrind the processor does it.
const HASHING: &str = "SHA-256";

/// What a source file, or the crate or object of a function, belongs to. The first that is found counts.
const AREAS: &[(&str, &[&str])] = &[
    (HASHING, &["/sha2-", "sha2::"]),
    ("CRC-32C of the blocks", &["/crc32c-", "crc32c::"]),
    ("probe", &["crates/media/", "filegate_media::", "/symphonia-", "symphonia"]),
    ("form", &["crates/form/", "filegate_form::", "/memchr-", "memchr::"]),
    (
        "catalog, SQLite",
        &["sqlite3", "/rusqlite-", "rusqlite::", "store/src/catalog", "filegate_store::catalog"],
    ),
    (
        "logging and metrics",
        &[
            "/tracing",
            "tracing",
            "/metrics",
            "metrics",
            "/sharded-slab-",
            "sharded_slab::",
            "/quanta-",
            "/chrono-",
        ],
    ),
    (
        "blobs",
        &["crates/store/", "filegate_store::", "/rustix-", "rustix::", "std::fs", "std/src/fs"],
    ),
    ("relay", &["server/src/relay/", "filegate_server::relay"]),
    (
        "intake",
        &[
            "server/src/intake/",
            "filegate_server::intake",
            "server/src/pay",
            "server/src/moderation",
        ],
    ),
    (
        "key, limits, turns",
        &[
            "server/src/gate/",
            "filegate_server::gate",
            "http/auth.rs",
            "src/shared/",
            "/governor-",
            "governor::",
        ],
    ),
    (
        "socket and HTTP",
        &[
            "/hyper",
            "hyper",
            "/http-",
            "http::",
            "/httparse-",
            "httparse::",
            "/axum",
            "axum",
            "/tower",
            "tower",
            "/matchit-",
            "matchit::",
            "/http-body",
            "tokio-1",
            "net/",
            "server/src/",
            "filegate_server::",
            "/mio-",
            "mio::",
            "/bytes-",
            "bytes::",
        ],
    ),
    ("answer in JSON", &["/serde", "serde", "/itoa", "/zmij", "crates/types", "filegate_types::"]),
    ("runtime", &["/tokio", "tokio", "/futures", "futures", "/parking_lot", "parking_lot"]),
];

/// Of the C library.
const LIBC: &[(&str, &[&str])] = &[
    (
        "allocation",
        &[
            "malloc",
            "free",
            "calloc",
            "realloc",
            "_int_",
            "arena",
            "tcache",
            "unlink_chunk",
            "sysmalloc",
        ],
    ),
    ("copying and clearing memory", &["mem", "str"]),
];

/// A table in Markdown: areas, the most first, with their largest functions.
pub(crate) fn table(name: &str, profile: &Profile) -> String {
    let mut areas = BTreeMap::<&str, BTreeMap<&str, u64>>::new();
    for (place, cost) in &profile.costs {
        *areas.entry(area(place)).or_default().entry(&place.function).or_insert(0) += cost;
    }
    let sum = |functions: &BTreeMap<&str, u64>| functions.values().sum::<u64>();
    let all: u64 = areas.values().map(sum).sum();
    let rest = all - areas.get(HASHING).map_or(0, sum);
    let mut rows: Vec<_> = areas.iter().collect();
    rows.sort_by_key(|(_, functions)| Reverse(sum(functions)));
    let mut out = format!(
        "| {name} | instructions | of all but hashing | most of it in |\n|---|---|---|---|\n"
    );
    for (area, functions) in rows {
        let cost = sum(functions);
        let share = match *area {
            HASHING => String::new(),
            _ => format!("{:.1} %", cost as f64 / rest as f64 * 100.0),
        };
        let mut most: Vec<_> = functions.iter().collect();
        most.sort_by_key(|(_, cost)| Reverse(**cost));
        let most =
            most.iter().take(NAMED).map(|(name, cost)| format!("`{name}` {}", grouped(**cost)));
        let most = most.collect::<Vec<_>>().join(", ");
        // Writing to a string cannot fail.
        let _infallible = writeln!(out, "| {area} | {} | {share} | {most} |", grouped(cost));
    }
    let _infallible =
        writeln!(out, "| *all; without hashing* | {}; {} | | |", grouped(all), grouped(rest));
    out
}

/// Code that was inlined belongs to where it comes from, unless that is the standard library, whose parts do the
/// work of whoever calls them.
fn area(place: &Place) -> &'static str {
    let memory = place.function.split_once(" for ").map(|(short, _)| short);
    if memory.is_some_and(|short| short.starts_with("mem")) {
        return "copying and clearing memory";
    }
    let in_c = !place.function.contains("::") && !place.file.contains("sqlite3");
    let find = |areas: &[(&'static str, &[&str])], text: &str| {
        areas
            .iter()
            .find(|(_, words)| words.iter().any(|word| text.contains(word)))
            .map(|(area, _)| *area)
    };
    if in_c && let Some(area) = find(LIBC, &place.function) {
        return area;
    }
    let library = place.file.contains("/library/") || place.file.contains("/hashbrown-");
    let by_file = if library { None } else { find(AREAS, &place.file) };
    by_file.or_else(|| find(AREAS, &place.function)).unwrap_or("the rest of the libraries")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inlined_code_belongs_to_where_it_comes_from() {
        for (function, file, expected) in [
            ("filegate_server::http::layer::wrap", "/r/sha2-0.11.0/src/sha256.rs", "SHA-256"),
            (
                "<hyper::proto::Conn>::poll",
                "/rustc/1/library/core/src/ptr/mod.rs",
                "socket and HTTP",
            ),
            ("sqlite3VdbeExec", "sqlite3/sqlite3.c", "catalog, SQLite"),
            ("_int_malloc", "./malloc/malloc.c", "allocation"),
            ("__memcpy_avx_unaligned_erms", "./string/memmove.S", "copying and clearing memory"),
            (
                "core::fmt::write",
                "/rustc/1/library/core/src/fmt/mod.rs",
                "the rest of the libraries",
            ),
        ] {
            let place = Place { function: function.to_owned(), file: file.to_owned() };
            assert_eq!(area(&place), expected, "{function} in {file}");
        }
    }
}
