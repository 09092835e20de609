//! What callgrind writes, read.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, bail};

use crate::names;

/// Instructions by where they are, for one call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Profile {
    /// Of each place its own instructions, without those of what it calls.
    pub(crate) costs: BTreeMap<Place, u64>,
}

/// Where instructions are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The function, without the types it is made for.
    pub(crate) function: String,
    /// The source file; of code that was inlined, the one that it comes from.
    pub(crate) file: String,
}

impl Profile {
    /// Reads one of callgrind's files, with the counts of `calls` equal calls.
    ///
    /// # Errors
    /// If it is none, or does not add up to what it says itself.
    pub(crate) fn read(text: &str, calls: u64) -> anyhow::Result<Self> {
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.line(line).with_context(|| format!("callgrind's line {line:?}"))?;
        }
        let sum: u64 = reader.costs.values().sum();
        if reader.totals != Some(sum) {
            bail!("callgrind says {:?} instructions, and {sum} were read", reader.totals);
        }
        let mut costs = reader.by_place();
        // Divided last: functions that not every call reaches would be lost to rounding.
        for cost in costs.values_mut() {
            *cost = (*cost + calls / 2) / calls;
        }
        Ok(Self { costs })
    }

    /// All instructions.
    pub(crate) fn all(&self) -> u64 {
        self.costs.values().sum()
    }

    /// Instructions by function.
    pub(crate) fn by_function(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (place, cost) in &self.costs {
            *sums.entry(place.function.clone()).or_insert(0) += cost;
        }
        sums
    }
}

/// The format is in valgrind's manual, "Callgrind Format Specification". Names are written once, with a number, and
/// then stand for themselves by it; line numbers are relative.
#[derive(Debug, Default)]
struct Reader {
    functions: HashMap<u64, String>,
    files: HashMap<u64, String>,
    function: u64,
    file: u64,
    /// The function that is called next.
    callee: u64,
    /// The next line is what calls cost, which stands with the function that was called, too.
    called: bool,
    costs: HashMap<(u64, u64), u64>,
    /// What calls cost, by who calls whom.
    calls: BTreeMap<(u64, u64), u64>,
    totals: Option<u64>,
}

impl Reader {
    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        let first = line.chars().next().unwrap_or('#');
        if first.is_ascii_digit() || matches!(first, '+' | '-' | '*') {
            return self.cost(line);
        }
        if let Some((key, value)) = line.split_once('=') {
            match key {
                "fn" => self.function = named(&mut self.functions, value)?,
                "cfn" => self.callee = named(&mut self.functions, value)?,
                "fl" | "fi" | "fe" => self.file = named(&mut self.files, value)?,
                "cfi" | "cfl" => drop(named(&mut self.files, value)?),
                "calls" => self.called = true,
                _ => {}
            }
        } else if let Some(totals) = line.strip_prefix("totals: ") {
            self.totals = Some(totals.trim().parse()?);
        } else if let Some(events) = line.strip_prefix("events: ")
            && events.trim() != "Ir"
        {
            bail!("only instructions were to be counted");
        }
        Ok(())
    }

    fn cost(&mut self, line: &str) -> anyhow::Result<()> {
        // A line without a count is one that was never reached.
        let cost: u64 = line.split(' ').nth(1).map_or(Ok(0), str::parse)?;
        let sum = if std::mem::take(&mut self.called) {
            self.calls.entry((self.function, self.callee)).or_insert(0)
        } else {
            self.costs.entry((self.function, self.file)).or_insert(0)
        };
        *sum += cost;
        Ok(())
    }

    /// By readable names. Copying and clearing memory calls nothing, so that what it costs is known by caller, and
    /// it is named with it: by itself it would say nothing.
    fn by_place(&self) -> BTreeMap<Place, u64> {
        let readable: HashMap<u64, String> = self
            .functions
            .iter()
            .map(|(number, symbol)| (*number, names::readable(symbol)))
            .collect();
        let mut costs = BTreeMap::new();
        for ((function, file), cost) in &self.costs {
            let mut left = *cost;
            let file = &self.files[file];
            let mut add = |function: String, cost: u64| {
                if cost > 0 {
                    *costs.entry(Place { function, file: file.clone() }).or_insert(0) += cost;
                }
            };
            if let Some(short) = names::of_memory(&readable[function]) {
                for ((caller, _), cost) in
                    self.calls.iter().filter(|((_, callee), _)| callee == function)
                {
                    let cost = left.min(*cost);
                    left -= cost;
                    add(format!("{short} for {}", readable[caller]), cost);
                }
            }
            add(readable[function].clone(), left);
        }
        costs
    }
}

/// `(7) name` gives a name to 7, `(7)` is the one that has it.
fn named(names: &mut HashMap<u64, String>, value: &str) -> anyhow::Result<u64> {
    let (number, name) = value
        .strip_prefix('(')
        .and_then(|rest| rest.split_once(')'))
        .context("a name without a number")?;
    let number = number.parse()?;
    match name.trim() {
        "" if !names.contains_key(&number) => bail!("no name has this number"),
        "" => {}
        name => drop(names.insert(number, name.to_owned())),
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# callgrind format
events: Ir
fl=(1) a.rs
fn=(1) outer
10 6
+2 4
fi=(2) inlined.rs
7 10
fe=(1)
* 2
cfi=(2)
cfn=(2) inner
calls=2 3
+1 100

fl=(2)
fn=(2)
3 100
-1 8
totals: 130
";

    fn place(function: &str, file: &str) -> Place {
        Place { function: function.to_owned(), file: file.to_owned() }
    }

    #[test]
    fn each_instruction_is_counted_once_where_it_is() {
        let profile = Profile::read(TEXT, 2).unwrap();
        let expected = [
            (place("inner", "inlined.rs"), 54),
            (place("outer", "a.rs"), 6),
            (place("outer", "inlined.rs"), 5),
        ];
        assert_eq!(profile.costs, BTreeMap::from(expected));
        assert_eq!(
            profile.by_function(),
            BTreeMap::from([("inner".to_owned(), 54), ("outer".to_owned(), 11)])
        );
    }

    #[test]
    fn copying_is_told_by_who_copies() {
        let text = TEXT.replace("(2) inner", "(2) __memcpy_avx_unaligned_erms");
        let functions = Profile::read(&text, 1).unwrap().by_function();
        let expected =
            [("__memcpy_avx_unaligned_erms", 8), ("memcpy for outer", 100), ("outer", 22)];
        assert_eq!(functions, expected.map(|(name, cost)| (name.to_owned(), cost)).into());
    }

    #[test]
    fn what_does_not_add_up_is_an_error() {
        for (from, to) in [
            ("totals: 130", "totals: 131"),
            ("totals: 130\n", ""),
            ("fn=(2)\n", "fn=(3)\n"),
            ("Ir", "Ir Dr"),
        ] {
            assert!(Profile::read(&TEXT.replace(from, to), 1).is_err(), "{to}");
        }
    }
}
