//! What was accepted, and how the counts of now stand to it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::profile::{Place, Profile};
use crate::write;

/// By how much a count may differ from what was accepted, in percent.
const TOLERANCE: u64 = 5;
/// Functions with fewer of a thousand instructions, hashing aside, have no line of their own in the file.
const LINE_PER_MILLE: u64 = 3;
/// Functions that are shown of what became worse.
const SHOWN: usize = 20;

/// The file beside this crate.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    /// Where it was counted.
    pub(crate) machine: Machine,
    counts: BTreeMap<String, Count>,
}

/// Instructions of one call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    /// Those of SHA-256.
    hashing: u64,
    /// All others.
    rest: u64,
    /// Those of single functions, but for small ones.
    functions: BTreeMap<String, u64>,
}

/// How one count stands to the accepted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Same,
    Better,
    Worse,
    /// Nothing is accepted yet.
    New,
    /// It was accepted, and is counted no more.
    Gone,
}

/// The outcome, to be shown.
#[derive(Debug)]
pub(crate) struct Compared {
    lines: Vec<(String, Verdict, Count, Count)>,
}

impl Count {
    pub(crate) fn of(profile: &Profile) -> Self {
        let functions = profile.by_function();
        let all: u64 = functions.values().sum();
        let is_hashing =
            |place: &Place| place.function.contains("sha2") || place.file.contains("/sha2-");
        let hashing =
            profile.costs.iter().filter(|(place, _)| is_hashing(place)).map(|(_, cost)| cost).sum();
        Self { hashing, rest: all - hashing, functions }
    }

    /// Whether a function with so many instructions has a line of its own in the file.
    fn is_told(&self, cost: u64) -> bool {
        cost * 1000 >= self.rest * LINE_PER_MILLE
    }

    /// As it is kept.
    fn without_small_functions(mut self) -> Self {
        let functions = std::mem::take(&mut self.functions);
        self.functions = functions.into_iter().filter(|(_, cost)| self.is_told(*cost)).collect();
        self
    }

    fn all(&self) -> u64 {
        self.hashing + self.rest
    }

    /// Each of the two parts by itself: as long as hashing is most of it, the rest could double unseen.
    fn verdict(&self, now: &Self) -> Verdict {
        // In whole numbers: at the limit itself a quotient may be rounded to either side.
        let of = |part: fn(&Self) -> u64| {
            (part(now) * 100, part(self) * (100 - TOLERANCE), part(self) * (100 + TOLERANCE))
        };
        let parts = [of(|count| count.hashing), of(|count| count.rest)];
        if parts.iter().any(|(now, _, most)| now > most) {
            Verdict::Worse
        } else if parts.iter().any(|(now, least, _)| now < least) {
            Verdict::Better
        } else {
            Verdict::Same
        }
    }

    /// What each function has more of now, most first. One that was too small for a line of its own counts as having
    /// had nothing.
    fn differences<'a>(&'a self, now: &'a Self) -> Vec<(&'a str, u64, u64)> {
        let of = |count: &Self, name: &str| count.functions.get(name).copied().unwrap_or(0);
        let grown = now
            .functions
            .iter()
            .filter(|(name, cost)| !self.functions.contains_key(*name) && self.is_told(**cost));
        let names = self.functions.keys().chain(grown.map(|(name, _)| name));
        let mut all: Vec<_> =
            names.map(|name| (name.as_str(), of(self, name), of(now, name))).collect();
        all.retain(|(_, before, now)| before != now);
        all.sort_by_key(|(name, before, now)| (before.cast_signed() - now.cast_signed(), *name));
        all
    }
}

impl Accepted {
    /// Reads the file; without one nothing is accepted.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            read => {
                let text = read.with_context(|| format!("cannot read {}", path.display()))?;
                serde_json::from_str(&text).with_context(|| path.display().to_string())
            }
        }
    }

    /// Whether nothing was ever accepted.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        write(path, &(serde_json::to_string_pretty(self)? + "\n"))
    }

    /// With the counts of now; those that are not among them stay if not the `whole` was counted.
    ///
    /// # Errors
    /// If those that would stay are of another machine.
    pub(crate) fn replaced(
        mut self,
        machine: Machine,
        now: BTreeMap<String, Count>,
        whole: bool,
    ) -> anyhow::Result<Self> {
        if whole {
            self.counts.clear();
        } else if self.machine != machine {
            anyhow::bail!("the accepted counts are of another machine: accept all, without --only");
        }
        self.machine = machine;
        self.counts
            .extend(now.into_iter().map(|(name, count)| (name, count.without_small_functions())));
        Ok(self)
    }

    /// Holds the counts of now against these.
    pub(crate) fn compare(&self, now: &BTreeMap<String, Count>, whole: bool) -> Compared {
        let mut lines: Vec<_> = now
            .iter()
            .map(|(name, now)| match self.counts.get(name) {
                Some(before) => (name.clone(), before.verdict(now), before.clone(), now.clone()),
                None => (name.clone(), Verdict::New, Count::default(), now.clone()),
            })
            .collect();
        let gone = self.counts.iter().filter(|(name, _)| whole && !now.contains_key(*name));
        lines.extend(
            gone.map(|(name, before)| {
                (name.clone(), Verdict::Gone, before.clone(), Count::default())
            }),
        );
        Compared { lines }
    }
}

impl Compared {
    /// Whether nothing became worse, and what is counted is what was accepted.
    pub(crate) fn passes(&self) -> bool {
        self.lines.iter().all(|(_, verdict, ..)| matches!(verdict, Verdict::Same | Verdict::Better))
    }

    /// A table of all, and what became worse by function.
    pub(crate) fn report(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _infallible = self.render(&mut out);
        out
    }

    fn render(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "{:28} {:>12} {:>12} {:>8}",
            "instructions of one call", "accepted", "now", "change"
        )?;
        for (name, verdict, before, now) in &self.lines {
            row(out, name, before.all(), now.all(), *verdict)?;
            if before.hashing + now.hashing > 0 {
                row(out, "  SHA-256", before.hashing, now.hashing, Verdict::Same)?;
                row(out, "  all else", before.rest, now.rest, Verdict::Same)?;
            }
        }
        for (name, _, before, now) in self.lines.iter().filter(|line| line.1 == Verdict::Worse) {
            writeln!(out, "\n{name}: more than {TOLERANCE} % worse; by function, the most first:")?;
            for (function, before, now) in before.differences(now).iter().take(SHOWN) {
                let more = now.cast_signed() - before.cast_signed();
                writeln!(
                    out,
                    "{:>+12} {:>12} -> {:>12}  {function}",
                    more,
                    grouped(*before),
                    grouped(*now)
                )?;
            }
        }
        if !self.passes() {
            writeln!(
                out,
                "\nIf it is worth it, or was meant: accept the counts of now with --accept, and say why in the commit."
            )?;
        } else if self.lines.iter().any(|line| line.1 == Verdict::Better) {
            writeln!(
                out,
                "\nBetter: accept the counts of now with --accept, so that it stays so."
            )?;
        }
        Ok(())
    }
}

fn row(out: &mut String, name: &str, before: u64, now: u64, verdict: Verdict) -> std::fmt::Result {
    let change = match verdict {
        Verdict::New | Verdict::Gone => String::new(),
        _ => format!("{:+.1} %", change(before, now)),
    };
    let word = match verdict {
        Verdict::Same => "",
        Verdict::Better => "  better",
        Verdict::Worse => "  WORSE",
        Verdict::New => "  NOT ACCEPTED YET",
        Verdict::Gone => "  COUNTED NO MORE",
    };
    writeln!(out, "{name:28} {:>12} {:>12} {change:>8}{word}", grouped(before), grouped(now))
}

/// In percent of what was before.
fn change(before: u64, now: u64) -> f64 {
    match (before, now) {
        (0, 0) => 0.0,
        (0, _) => f64::INFINITY,
        _ => (now as f64 / before as f64 - 1.0) * 100.0,
    }
}

/// Digits in groups of three.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(functions: &[(&str, u64)]) -> Count {
        let place = |name: &str| Place { function: name.to_owned(), file: String::new() };
        Count::of(&Profile {
            costs: functions.iter().map(|(name, cost)| (place(name), *cost)).collect(),
        })
    }

    fn compared(before: &[(&str, u64)], now: &[(&str, u64)]) -> Compared {
        let named = |functions| BTreeMap::from([("upload".to_owned(), count(functions))]);
        let accepted = Accepted { machine: Machine::default(), counts: named(before) };
        accepted.compare(&named(now), true)
    }

    #[test]
    fn five_percent_are_the_limit() {
        for (now, verdict, passes) in [
            (105_000, Verdict::Same, true),
            (105_001, Verdict::Worse, false),
            (95_000, Verdict::Same, true),
            (94_999, Verdict::Better, true),
        ] {
            let compared =
                compared(&[("a", 60_000), ("b", 40_000)], &[("a", now - 40_000), ("b", 40_000)]);
            assert_eq!(compared.lines[0].1, verdict, "{now}");
            assert_eq!(compared.passes(), passes, "{now}");
        }
    }

    #[test]
    fn hashing_hides_nothing_and_is_not_hidden() {
        let before = [("<sha2::Sha256>::compress", 900_000), ("a", 100_000)];
        let rest = compared(&before, &[before[0], ("a", 106_000)]);
        assert!(!rest.passes());
        let hashing = compared(&before, &[("<sha2::Sha256>::compress", 960_000), before[1]]);
        assert!(!hashing.passes());
        assert!(compared(&before, &before).passes());
    }

    #[test]
    fn what_is_worse_is_told_by_function_the_most_first() {
        let before = [("a", 100_000), ("b", 50_000), ("less", 20_000), ("same", 7_000)];
        let now =
            [("a", 103_000), ("b", 60_000), ("less", 15_000), ("same", 7_000), ("new", 5_000)];
        let compared = compared(&before, &now);
        let (.., before, now) = &compared.lines[0];
        let differences = before.differences(now);
        let expected = [
            ("b", 50_000, 60_000),
            ("new", 0, 5_000),
            ("a", 100_000, 103_000),
            ("less", 20_000, 15_000),
        ];
        assert_eq!(differences, expected);
        let report = compared.report();
        assert!(report.contains("WORSE") && report.contains("--accept"), "{report}");
        assert!(report.contains("+10000       50,000 ->       60,000  b\n"), "{report}");
    }

    #[test]
    fn what_is_not_accepted_and_what_is_gone_do_not_pass() {
        let one = |name: &str| BTreeMap::from([(name.to_owned(), count(&[("a", 1)]))]);
        let accepted = Accepted { machine: Machine::default(), counts: one("old") };
        let compared = accepted.compare(&one("new"), true);
        let verdicts: Vec<_> = compared.lines.iter().map(|line| line.1).collect();
        assert_eq!(verdicts, [Verdict::New, Verdict::Gone]);
        assert!(!compared.passes());
        // With only a part counted, the others are not missing.
        assert!(accepted.compare(&one("old"), false).passes());
        assert!(accepted.compare(&BTreeMap::new(), false).passes());
    }

    #[test]
    fn small_functions_are_counted_have_no_line_and_are_not_taken_for_new() {
        let now = count(&[("large", 998), ("small", 2), ("sha256", 9_000)]);
        let before = now.clone().without_small_functions();
        assert_eq!((before.hashing, before.rest), (9_000, 1_000));
        assert_eq!(before.functions.keys().collect::<Vec<_>>(), ["large", "sha256"]);
        assert!(before.differences(&now).is_empty());
        // What has a line is looked up, however small its share has become.
        let now = count(&[("large", 998), ("small", 2), ("sha256", 9_000), ("other", 900_000)]);
        assert_eq!(before.differences(&now), [("other", 0, 900_000)]);
    }

    #[test]
    fn accepting_a_part_keeps_the_others_of_the_same_machine() {
        let one = |name: &str, cost| BTreeMap::from([(name.to_owned(), count(&[("a", cost)]))]);
        let accepted = || Accepted { machine: Machine::default(), counts: one("old", 1) };
        let part = accepted().replaced(Machine::default(), one("new", 2), false).unwrap();
        assert_eq!(part.counts.keys().collect::<Vec<_>>(), ["new", "old"]);
        let whole = accepted().replaced(Machine::default(), one("new", 2), true).unwrap();
        assert_eq!(whole.counts.keys().collect::<Vec<_>>(), ["new"]);
        let elsewhere: Machine =
            serde_json::from_str(r#"{"rustc":"1","libc":"2","processor":"3"}"#).unwrap();
        assert!(accepted().replaced(elsewhere, one("new", 2), false).is_err());
    }

    #[test]
    fn digits_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")]
        {
            assert_eq!(grouped(number), text);
        }
    }
}
