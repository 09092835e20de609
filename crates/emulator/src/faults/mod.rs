//! What goes wrong, and when: rules from a file or from control calls.

mod script;

use filegate_types::UnixMillis;
use serde_json::{Value, json};

use crate::rng::Rng;
pub use script::{Fault, Kind, Script, ScriptError};

/// Rules in force at a time.
pub(crate) const FAULTS_MAX: usize = 1000;

/// A rule with what has come of it.
#[derive(Debug)]
struct Rule {
    id: u64,
    fault: Fault,
    /// Its own sequence, so that rules do not disturb each other's luck.
    dice: Rng,
    /// Calls that it was meant for.
    matched: u64,
    /// Calls that met it.
    hits: u64,
    first_hit: Option<UnixMillis>,
}

#[derive(Debug)]
pub(crate) struct Faults {
    seed: u64,
    rules: Vec<Rule>,
    last_id: u64,
}

impl Faults {
    pub(crate) fn new(seed: u64, script: Script) -> Self {
        let mut faults = Self { seed, rules: Vec::new(), last_id: 0 };
        faults.add(script);
        faults
    }

    /// Adds rules behind those in force; gives their ids.
    pub(crate) fn add(&mut self, script: Script) -> Vec<u64> {
        let seed = script.seed.unwrap_or(self.seed);
        script.fault.into_iter().map(|fault| self.add_one(fault, seed)).collect()
    }

    fn add_one(&mut self, fault: Fault, seed: u64) -> u64 {
        self.last_id += 1;
        let dice = Rng::new(seed, 0x0100 + self.last_id);
        self.rules.push(Rule {
            id: self.last_id,
            fault,
            dice,
            matched: 0,
            hits: 0,
            first_hit: None,
        });
        self.last_id
    }

    pub(crate) fn len(&self) -> usize {
        self.rules.len()
    }

    /// Removes one rule, or all.
    pub(crate) fn remove(&mut self, id: Option<u64>) -> usize {
        let before = self.rules.len();
        self.rules.retain(|rule| id.is_some_and(|id| id != rule.id));
        before - self.rules.len()
    }

    /// The fault that a call meets: that of the first rule that is meant for it and strikes.
    pub(crate) fn pick(
        &mut self,
        path: &str,
        account: Option<&str>,
        now: UnixMillis,
    ) -> Option<Fault> {
        self.rules.iter_mut().find_map(|rule| rule.strikes(path, account, now))
    }

    pub(crate) fn show(&self) -> Value {
        let show = |rule: &Rule| json!({"id": rule.id, "fault": rule.fault, "matched": rule.matched, "hits": rule.hits});
        self.rules.iter().map(show).collect()
    }
}

impl Rule {
    fn strikes(&mut self, path: &str, account: Option<&str>, now: UnixMillis) -> Option<Fault> {
        let fault = &self.fault;
        if !fault.is_meant_for(path, account) {
            return None;
        }
        self.matched += 1;
        let spent = fault.count.is_some_and(|count| self.hits >= count);
        let over = fault
            .lasts
            .zip(self.first_hit)
            .is_some_and(|(lasts, first)| now >= first.plus(lasts.0));
        // The dice are thrown for each call that the rule is meant for, so that a run can be repeated.
        let lucky = fault.probability.is_some_and(|chance| self.dice.fraction() >= chance);
        if self.matched <= fault.skip || spent || over || lucky {
            return None;
        }
        self.hits += 1;
        self.first_hit.get_or_insert(now);
        Some(fault.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(toml: &str) -> Faults {
        Faults::new(7, Script::from_toml(toml).unwrap())
    }

    fn hits(faults: &mut Faults, calls: usize) -> Vec<usize> {
        let strikes = |_nth: &usize| faults.pick("/v1/t2a_v2", Some("a1"), UnixMillis(0)).is_some();
        (0..calls).filter(strikes).collect()
    }

    #[test]
    fn counts_and_skips() {
        let mut faults = faults("[[fault]]\nkind = \"stall\"\nskip = 2\ncount = 3\n");
        assert_eq!(hits(&mut faults, 8), [2, 3, 4]);
    }

    #[test]
    fn the_first_rule_that_strikes_counts() {
        let mut faults = faults(
            "[[fault]]\nkind = \"banned\"\naccount = \"a2\"\n\
             [[fault]]\nkind = \"stall\"\npath = \"/v1/files/*\"\n\
             [[fault]]\nkind = \"http\"\npath = \"/v1/t2a_v2\"\n",
        );
        let mut kind =
            |path, account| faults.pick(path, Some(account), UnixMillis(0)).map(|fault| fault.kind);
        assert_eq!(kind("/v1/t2a_v2", "a2"), Some(Kind::Banned));
        assert_eq!(kind("/v1/t2a_v2", "a1"), Some(Kind::Http));
        assert_eq!(kind("/v1/files/list", "a1"), Some(Kind::Stall));
        assert_eq!(kind("/v1/get_voice", "a1"), None);
    }

    #[test]
    fn a_rule_can_last_from_its_first_hit() {
        let mut faults = faults("[[fault]]\nkind = \"rate_limited\"\nfor = \"30s\"\n");
        let mut at = |ms| faults.pick("/v1/t2a_v2", None, UnixMillis(ms)).is_some();
        assert_eq!([at(5_000), at(34_999), at(35_000), at(90_000)], [true, true, false, false]);
    }

    #[test]
    fn luck_comes_from_the_seed() {
        let with_seed = |seed| {
            let toml = format!("seed = {seed}\n[[fault]]\nkind = \"stall\"\nprobability = 0.3\n");
            hits(&mut faults(&toml), 200)
        };
        assert_eq!(with_seed(1), with_seed(1));
        assert_ne!(with_seed(1), with_seed(2));
        assert!((30..=90).contains(&with_seed(1).len()), "{:?}", with_seed(1));
    }

    #[test]
    fn wrong_scripts_are_refused_with_the_reason() {
        for (toml, why) in [
            ("[[fault]]\nkind = \"explode\"\n", "explode"),
            ("[[fault]]\nkind = \"stall\"\nprobabilty = 1\n", "probabilty"),
            ("[[fault]]\nkind = \"stall\"\nprobability = 1.5\n", "probability"),
            ("[[fault]]\nkind = \"http\"\nstatus = 99\n", "status"),
            ("[[fault]]\nkind = \"code\"\n", "code"),
            ("[[fault]]\nkind = \"stall\"\ncode = 1002\n", "code"),
        ] {
            let error = Script::from_toml(toml).unwrap_err().to_string();
            assert!(error.contains(why), "{toml}: {error}");
        }
    }
}
