//! A document that is changed as it passes.

use bytes::Bytes;

use super::rules::Rules;
use super::scan::{Form, Found, Malformed, Scanner, written};

/// Lets a document through and stops at what is found, until it is said what is to stand there.
///
/// What is not understood passes unchanged, and all that follows it.
#[derive(Debug, Clone)]
pub struct Transform<'r> {
    scanner: Scanner<'r>,
    /// Bytes that were taken and not let through: what was found, or may yet be. At most
    /// [`VALUE_MAX`](super::VALUE_MAX).
    held: Vec<u8>,
    /// The form of what was found and is waited for.
    waits: Option<Form>,
    malformed: Option<Malformed>,
}

impl<'r> Transform<'r> {
    /// At the beginning of a document.
    pub fn new(rules: &'r Rules) -> Self {
        Self { scanner: Scanner::new(rules), held: Vec::new(), waits: None, malformed: None }
    }

    /// Takes from `input` up to what is found or all of it; what passes is put behind `out`, and is not copied.
    ///
    /// After a find [`resolve`](Self::resolve) says what is to stand there; if it is not called, what stood there.
    pub fn push(&mut self, input: &mut Bytes, out: &mut Vec<Bytes>) -> Option<Found> {
        self.resolve(None, out);
        while !input.is_empty() {
            if self.malformed.is_some() {
                out.push(std::mem::take(input));
                return None;
            }
            let before = self.scanner.offset();
            match self.scanner.next(input) {
                Ok((taken, found)) => {
                    // Of what cannot be replaced nothing is held: part of it may have passed before.
                    let found = found.filter(|found| found.form != Form::Other);
                    let exact = found.as_ref().filter(|found| found.exact);
                    let held_from = exact.map(|found| found.range.start);
                    let held_from = held_from.or_else(|| self.scanner.held_from());
                    self.waits = exact.map(|found| found.form);
                    self.pass(input.split_to(taken), before, held_from, out);
                    if found.is_some() {
                        return found;
                    }
                }
                Err(malformed) => {
                    self.malformed = Some(malformed);
                    self.let_go(self.held.len(), out);
                }
            }
        }
        None
    }

    /// Puts `text` where the find is that [`push`](Self::push) gave, in its form; `None` leaves what stands there, and
    /// so does a find that is not [`exact`](Found::exact).
    pub fn resolve(&mut self, text: Option<&str>, out: &mut Vec<Bytes>) {
        match (self.waits.take(), text) {
            (Some(form), Some(text)) => {
                self.held.clear();
                out.push(written(form, text).into());
            }
            (Some(_), None) => self.let_go(self.held.len(), out),
            // What is held then is a value that has not ended.
            (None, _) => {}
        }
    }

    /// Says that there is no more; what was held passes.
    ///
    /// # Errors
    /// The document was not JSON, or was cut short. All of it has passed.
    pub fn finish(&mut self, out: &mut Vec<Bytes>) -> Result<(), Malformed> {
        self.resolve(None, out);
        self.let_go(self.held.len(), out);
        match self.malformed {
            Some(malformed) => Err(malformed),
            None => self.scanner.finish(),
        }
    }

    /// Lets through what was held and `piece`, which begins at `before`, but for what is held from `held_from` on.
    fn pass(
        &mut self,
        mut piece: Bytes,
        before: u64,
        held_from: Option<u64>,
        out: &mut Vec<Bytes>,
    ) {
        let now = before + piece.len() as u64;
        let held_from = held_from.unwrap_or(now);
        let held_at = before - self.held.len() as u64;
        self.let_go(held_from.clamp(held_at, before) as usize - held_at as usize, out);
        let passes = piece.split_to(held_from.saturating_sub(before) as usize);
        if !passes.is_empty() {
            out.push(passes);
        }
        self.held.extend_from_slice(&piece);
    }

    fn let_go(&mut self, n: usize, out: &mut Vec<Bytes>) {
        if n > 0 {
            let kept = self.held.split_off(n);
            out.push(std::mem::replace(&mut self.held, kept).into());
        }
    }
}
