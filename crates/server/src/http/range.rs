//! `Range` and `If-Range` (RFC 9110 §14): which bytes of a file are sent.

/// Ranges in one request, at most; more are answered with the whole file (RFC 9110 §14.2 allows it).
const RANGES_MAX: usize = 16;

/// What a Range header asks of a file of known length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranges {
    /// No range, or one that is to be ignored: everything.
    Whole,
    /// These, each `(first, last)` inclusive and inside the file, in the order they were asked.
    Parts(Vec<(u64, u64)>),
    /// None of them is inside the file: 416.
    Unsatisfiable,
}

impl Ranges {
    /// How many bytes of a file of `len` they are.
    pub fn bytes(&self, len: u64) -> u64 {
        match self {
            Self::Whole => len,
            Self::Parts(parts) => parts.iter().map(|(first, last)| last - first + 1).sum(),
            Self::Unsatisfiable => 0,
        }
    }
}

/// Reads a Range header against a file of `len` bytes.
///
/// Malformed headers and other units are ignored, as RFC 9110 §14.2 wants. Sets that are too many,
/// that overlap, or that ask for more than the file are answered with the whole file: nothing is
/// gained by sending bytes twice (CVE-2011-3192).
pub fn parse(header: &str, len: u64) -> Ranges {
    let Some(set) = header
        .split_once('=')
        .filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"))
        .map(|(_, set)| set)
    else {
        return Ranges::Whole;
    };
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for (count, spec) in set.split(',').enumerate() {
        if count >= RANGES_MAX {
            return Ranges::Whole;
        }
        let spec = spec.trim_matches([' ', '\t']);
        match one(spec, len) {
            None => return Ranges::Whole,
            Some(Some(part)) => parts.push(part),
            Some(None) => {}
        }
    }
    if parts.is_empty() {
        return Ranges::Unsatisfiable;
    }
    let mut sorted = parts.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[1].0 <= pair[0].1) {
        return Ranges::Whole;
    }
    Ranges::Parts(parts)
}

/// One spec: `None` if malformed, `Some(None)` if it lies outside the file.
#[expect(clippy::option_option, reason = "malformed and outside are treated differently")]
fn one(spec: &str, len: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = spec.split_once('-')?;
    match (number(first), number(last)) {
        // The last `n` bytes.
        (None, Some(n)) if first.is_empty() => {
            Some((n > 0 && len > 0).then(|| (len.saturating_sub(n), len.saturating_sub(1))))
        }
        (Some(first), None) if last.is_empty() => {
            Some((first < len).then(|| (first, len.saturating_sub(1))))
        }
        (Some(first), Some(last)) if first <= last => {
            Some((first < len).then(|| (first, last.min(len.saturating_sub(1)))))
        }
        _ => None,
    }
}

/// Digits only; a number past 2^64 is as far as can be.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_of_a_thousand_bytes() {
        let parts = |p: &[(u64, u64)]| Ranges::Parts(p.to_vec());
        for (header, expected) in [
            ("bytes=0-0", parts(&[(0, 0)])),
            ("bytes=0-", parts(&[(0, 999)])),
            ("bytes=-1", parts(&[(999, 999)])),
            ("bytes=-5000", parts(&[(0, 999)])),
            ("bytes=990-5000", parts(&[(990, 999)])),
            ("Bytes = 1-2", parts(&[(1, 2)])),
            ("bytes=0-99999999999999999999999", parts(&[(0, 999)])),
            ("bytes=500-599, 0-99", parts(&[(500, 599), (0, 99)])),
            ("bytes=0-1,5000-", parts(&[(0, 1)])),
            ("bytes=1000-", Ranges::Unsatisfiable),
            ("bytes=-0", Ranges::Unsatisfiable),
            ("bytes=5000-,6000-", Ranges::Unsatisfiable),
            ("bytes=", Ranges::Whole),
            ("bytes=-", Ranges::Whole),
            ("bytes=5-4", Ranges::Whole),
            ("bytes=a-b", Ranges::Whole),
            ("bytes=+1-2", Ranges::Whole),
            ("bytes=1-2-3", Ranges::Whole),
            ("bytes=0-1,x", Ranges::Whole),
            ("lines=0-1", Ranges::Whole),
            ("0-1", Ranges::Whole),
            ("bytes=0-10,5-15", Ranges::Whole),
            ("bytes=0-,0-,0-", Ranges::Whole),
        ] {
            assert_eq!(parse(header, 1000), expected, "{header}");
        }
        let many =
            format!("bytes={}", (0..17).map(|i| format!("{i}-{i}")).collect::<Vec<_>>().join(","));
        assert_eq!(parse(&many, 1000), Ranges::Whole);
        assert_eq!(parse("bytes=0-0", 0), Ranges::Unsatisfiable);
        assert_eq!(parse("bytes=-1", 0), Ranges::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn parts_are_inside_and_apart(header in "bytes=[0-9,\\- ]{0,40}", len in 0u64..3000) {
            if let Ranges::Parts(parts) = parse(&header, len) {
                let total: u64 = parts.iter().map(|(first, last)| last - first + 1).sum();
                prop_assert!(total <= len);
                prop_assert!(parts.iter().all(|(first, last)| first <= last && *last < len));
            }
        }
    }
}
