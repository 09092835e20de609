//! What goes wrong, and when.

use std::collections::HashMap;
use std::time::Duration;

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A whole object goes up.
    Put,
    /// An object, or a range of it, is read.
    Get,
    /// An object is looked at.
    Head,
    /// An object is removed.
    Delete,
    /// Objects are listed.
    List,
    /// An upload in parts begins.
    Create,
    /// A part of it goes up.
    UploadPart,
    /// It becomes an object.
    Complete,
    /// It is given up.
    Abort,
    /// Uploads in parts are listed.
    ListUploads,
    /// Anything else.
    Other,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with 503 and nothing is done.
    SlowDown,
    /// It is answered with this status and code and nothing is done.
    Refuse(u16, &'static str),
    /// The connection ends in the middle of the body: of the request's, if it has one, else of the answer's.
    Reset,
    /// It is done, and the connection ends before the answer.
    LoseAnswer,
    /// It is done, and there is no answer for as long as the client waits.
    StallAnswer,
    /// There is no answer for as long as the client waits.
    Stall,
    /// The body comes in small pieces with a pause before each.
    Slow(Duration),
    /// One byte of the answer's body is another: the one at this place, or the last if it is shorter.
    Corrupt(usize),
}

/// To which requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The next so many, of any kind.
    Next(u64),
    /// Every so-manieth, of any kind.
    Every(u64),
    /// The so-manieth of a kind from now on, counted from 1, and no other.
    Nth(Kind, u64),
    /// All of a kind.
    All(Kind),
}

/// The faults that are switched on, and what has been seen.
#[derive(Debug, Default)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    seen: HashMap<Kind, u64>,
}

#[derive(Debug)]
struct Rule {
    when: When,
    fault: Fault,
    /// Requests that it has counted.
    counted: u64,
}

impl Rules {
    pub(super) fn push(&mut self, when: When, fault: Fault) {
        self.rules.push(Rule { when, fault, counted: 0 });
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(super) fn seen(&self, kind: Kind) -> u64 {
        self.seen.get(&kind).copied().unwrap_or(0)
    }

    /// Counts a request; says what is to go wrong with it.
    pub(super) fn next(&mut self, kind: Kind) -> Option<Fault> {
        *self.seen.entry(kind).or_default() += 1;
        let mut fault = None;
        for rule in &mut self.rules {
            let fits = match rule.when {
                When::Nth(of, _) | When::All(of) => of == kind,
                When::Next(_) | When::Every(_) => true,
            };
            if !fits {
                continue;
            }
            rule.counted += 1;
            let applies = match rule.when {
                When::Next(n) => rule.counted <= n,
                When::Every(n) => rule.counted.is_multiple_of(n),
                When::Nth(_, n) => rule.counted == n,
                When::All(_) => true,
            };
            if applies && fault.is_none() {
                fault = Some(rule.fault);
            }
        }
        fault
    }
}
