//! The grammar, rule by rule, on bodies with boundary `b`. In the cases, `|` stands for CRLF.

use filegate_form::{FormError, Limits};

use crate::support::{boundary, encode, field, read, read_both_ways};

const HEAD: &str = "Content-Disposition: form-data; name=x||";

/// `@` stands for a header block with its empty line.
fn body(case: &str) -> Vec<u8> {
    case.replace('@', HEAD).replace('|', "\r\n").into_bytes()
}

#[test]
fn accepted() {
    let table: &[(&str, &[&str])] = &[
        ("--b|@|--b--|", &[""]),
        ("--b|@data|--b--|", &["data"]),
        ("--b|@one|--b|@two|--b--|", &["one", "two"]),
        ("--b--|", &[]),
        // The end of the body.
        ("--b|@data|--b--", &["data"]),
        ("--b|@data|--b-- \t|", &["data"]),
        ("--b|@data|--b-- ", &["data"]),
        ("--b|@data|--b--|epilogue", &["data"]),
        ("--b|@data|--b--||--b|@not a part|--b--|", &["data"]),
        ("--b|@data|--b--|\n\r\0--b", &["data"]),
        // In front of the form.
        ("|--b|@data|--b--|", &["data"]),
        ("preamble|--b|@data|--b--|", &["data"]),
        ("pre --b|amble--b|--b|@data|--b--|", &["data"]),
        ("\n--b\n|-|--|--b|@data|--b--|", &["data"]),
        ("-||--b|@data|--b--|", &["data"]),
        // Padding.
        ("--b \t|@data|--b\t|@more|--b--|", &["data", "more"]),
        // RFC 2046 body-part: the CRLF of the empty line is the delimiter's own.
        ("--b|@--b--|", &[""]),
        ("--b|@--b|@two|--b--|", &["", "two"]),
        // Data that looks like a delimiter and is none.
        ("--b|@--|--b--|", &["--"]),
        ("--b|@ --b|--b--|", &[" --b"]),
        ("--b|@x--b|--b--|", &["x--b"]),
        ("--b|@x--b--|--b--|", &["x--b--"]),
        ("--b|@x|-b|--b--|", &["x|-b"]),
        ("--b|@x|--|--b--|", &["x|--"]),
        ("--b|@x|--B|--b--|", &["x|--B"]),
        ("--b|@x| --b|--b--|", &["x| --b"]),
        ("--b|@x\n--b\n|--b--|", &["x\n--b\n"]),
        ("--b|@x\r--b\r|--b--|", &["x\r--b\r"]),
        ("--b|@||||--b--|", &["|||"]),
        ("--b|@|\r|--b--|", &["|\r"]),
        ("--b|@\r\r|\n|--b--|", &["\r\r|\n"]),
        ("--b|@|-|--|-|--b--|", &["|-|--|-"]),
    ];
    for (case, parts) in table {
        let outcome = read_both_ways(&boundary("b"), Limits::default(), &body(case));
        assert_eq!(outcome.result, Ok(()), "{case:?}");
        assert!(outcome.ended, "{case:?}");
        let expected: Vec<_> = parts.iter().map(|part| body(part)).collect();
        let found: Vec<_> = outcome.parts.iter().map(|part| part.data.clone()).collect();
        assert_eq!(found, expected, "{case:?}");
    }
}

#[test]
fn refused() {
    use FormError as E;
    let table: &[(&str, E)] = &[
        // Unfinished.
        ("", E::Truncated),
        ("|", E::Truncated),
        ("--", E::Truncated),
        ("--b", E::Truncated),
        ("--b-", E::Truncated),
        ("--b\r", E::Truncated),
        ("--b|", E::Truncated),
        ("--b|Content-Disp", E::Truncated),
        ("--b|Content-Disposition: form-data; name=x|", E::Truncated),
        ("--b|@", E::Truncated),
        ("--b|@data", E::Truncated),
        ("--b|@data|", E::Truncated),
        ("--b|@data|--", E::Truncated),
        ("--b|@data|--b", E::Truncated),
        ("--b|@data|--b-", E::Truncated),
        ("--b|@data|--b|", E::Truncated),
        ("--b|@one|--b|@two", E::Truncated),
        ("--b--\r", E::BareCr),
        // No delimiter at the start of a line.
        ("x--b|@data|--b--|", E::PreambleTooLong { max: 0 }),
        (" --b--", E::PreambleTooLong { max: 0 }),
        ("--c|@data|--c--|", E::PreambleTooLong { max: 0 }),
        ("-b|@data|-b--|", E::PreambleTooLong { max: 0 }),
        ("\n--b--", E::PreambleTooLong { max: 0 }),
        ("\r--b--", E::PreambleTooLong { max: 0 }),
        // Junk on a boundary line: other readers take it for data, or for a boundary.
        ("--bx|@data|--b--|", E::DelimiterMalformed),
        ("--b x|@data|--b--|", E::DelimiterMalformed),
        ("--b-|@data|--b--|", E::DelimiterMalformed),
        ("--b -|@data|--b--|", E::DelimiterMalformed),
        ("--b --|", E::DelimiterMalformed),
        ("--b\0|", E::DelimiterMalformed),
        ("--b|@data|--bx|--b--|", E::DelimiterMalformed),
        ("--b|@data|--b-x|--b--|", E::DelimiterMalformed),
        ("--b|@data|--b--x|", E::DelimiterMalformed),
        ("--b|@data|--b---|", E::DelimiterMalformed),
        ("--b|@data|--b-- x", E::DelimiterMalformed),
        ("--b|@--bx|--b--|", E::DelimiterMalformed),
        // Line ends.
        ("--b\n@data|--b--|", E::BareLf),
        ("--b \n@data|--b--|", E::BareLf),
        ("--b|@data|--b\n@data|--b--|", E::BareLf),
        ("--b|@data|--b--\n", E::BareLf),
        ("--b\r@data|--b--|", E::BareCr),
        ("--b\r \n@data|--b--|", E::BareCr),
        ("--b\r\r\n@data|--b--|", E::BareCr),
        ("--b|@data|--b--\rx", E::BareCr),
        ("--b|X: y\n@data|--b--|", E::BareLf),
        ("--b|Content-Disposition: form-data; name=x\n\ndata|--b--|", E::BareLf),
        ("--b|Content-Disposition: form-data; name=x|\ndata|--b--|", E::BareLf),
        ("--b|X: y\rZ: y|@data|--b--|", E::BareCr),
        ("--b|X: y\r|@data|--b--|", E::BareCr),
        ("--b|Content-Disposition: form-data; name=x|\r|data|--b--|", E::BareCr),
        // Headers; the rest of their rules has its own tests.
        ("--b||data|--b--|", E::DispositionMissing),
        ("--b|Content-Type: text/plain||data|--b--|", E::DispositionMissing),
        ("--b|Content-Disposition: form-data;| name=x||data|--b--|", E::DispositionMalformed),
        ("--b|X: y| z|@data|--b--|", E::HeaderFolded),
        ("--b| |@data|--b--|", E::HeaderFolded),
        ("--b|X: \0|@data|--b--|", E::HeaderControl),
        ("--b|--b--|", E::HeaderMalformed),
    ];
    for (case, expected) in table {
        let outcome = read_both_ways(
            &boundary("b"),
            Limits { preamble_bytes_max: 0, ..Limits::default() },
            &body(case),
        );
        assert_eq!(outcome.result.as_ref(), Err(expected), "{case:?}");
    }
}

#[test]
fn the_longest_boundary_and_its_near_misses() {
    let long = "0123456789".repeat(7);
    let boundary = boundary(&long);
    let misses =
        [&long[..69], "", "0", &long[1..]].map(|miss| format!("\r\n--{miss}\r\n--{miss}")).concat();
    let form = encode(&boundary, &[field("x", misses.as_bytes()), field("y", b"")]);
    let whole = read_both_ways(&boundary, Limits::default(), &form);
    assert_eq!(whole.result, Ok(()));
    assert_eq!(whole.parts[0].data, misses.as_bytes());
    for cut in 0..form.len() {
        let (head, tail) = form.split_at(cut);
        assert_eq!(read(&boundary, Limits::default(), [head, tail]), whole, "cut at {cut}");
        assert_eq!(read(&boundary, Limits::default(), [head, b"", tail]), whole, "cut at {cut}");
        let shortened = read(&boundary, Limits::default(), [head]);
        assert_eq!(
            shortened.result.is_ok(),
            cut >= form.len() - 2 && cut != form.len() - 1,
            "cut at {cut}"
        );
    }
}

#[test]
fn a_boundary_of_dashes() {
    for dashes in [1, 2, 3, 68, 70] {
        let boundary = boundary(&"-".repeat(dashes));
        let data = format!("\r\n{}\n{}", "-".repeat(dashes + 1), "-".repeat(200));
        let form = encode(&boundary, &[field("x", data.as_bytes()), field("y", b"-")]);
        let outcome = read_both_ways(&boundary, Limits::default(), &form);
        assert_eq!(outcome.result, Ok(()), "{dashes} dashes");
        assert_eq!(outcome.parts[0].data, data.as_bytes());
        assert_eq!(outcome.parts[1].data, b"-");
        // One dash too many or too few is neither a boundary nor a closing one.
        let lines = |extra: usize| format!("\r\n{}\r\n", "-".repeat(dashes + 2 + extra));
        for (extra, refused) in [(1, true), (2, false), (3, true)] {
            let body = [&form[..form.len() - dashes - 8], lines(extra).as_bytes()].concat();
            let outcome = read_both_ways(&boundary, Limits::default(), &body);
            assert_eq!(
                outcome.result == Err(FormError::DelimiterMalformed),
                refused,
                "{dashes} dashes and {extra}"
            );
        }
    }
}

#[test]
fn a_boundary_with_spaces() {
    let boundary = boundary("a b  c");
    let form = encode(&boundary, &[field("x", b"\r\n--a b \r\n--a b  ")]);
    let outcome = read_both_ways(&boundary, Limits::default(), &form);
    assert_eq!(outcome.result, Ok(()));
    assert_eq!(outcome.parts[0].data, b"\r\n--a b \r\n--a b  ");
}

#[test]
fn the_end_of_a_delimiter_is_not_the_start_of_the_next() {
    // `\r\n--b\r\n--b`: after a delimiter line come headers.
    let outcome = read_both_ways(&boundary("b"), Limits::default(), b"--b\r\n--b\r\n--b--\r\n");
    assert_eq!(outcome.result, Err(FormError::HeaderMalformed));
}

#[test]
fn messages_are_fit_for_clients() {
    let errors = [
        FormError::BoundaryLength { len: 71, max: 70 },
        FormError::TooManyParts { max: 32 },
        FormError::HeadersTooLong { max: 16384 },
        FormError::TransferEncoding { found: "base64".into() },
        FormError::ParameterRepeated { parameter: "filename*" },
        FormError::Truncated,
    ];
    let texts = errors.map(|error| error.to_string());
    assert_eq!(texts[0], "boundary is 71 bytes, at least 1 and at most 70");
    assert_eq!(
        texts[3],
        "content-transfer-encoding base64 is not supported, only 7bit, 8bit and binary"
    );
    for text in texts {
        assert!(
            text.is_ascii()
                && !text.ends_with('.')
                && text.starts_with(|c: char| c.is_ascii_lowercase()),
            "{text}"
        );
    }
}
