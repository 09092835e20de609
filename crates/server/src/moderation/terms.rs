//! Blocked terms in names and texts.
//!
//! Both sides are brought to one form first, so that width, case, ligatures and invisible characters
//! hide nothing: default-ignorable characters are dropped, then NFKC, full case folding, and NFKC
//! again for what folding took apart. Texts are read in pieces; memory is a piece and the longest
//! term, whatever the text.

use aho_corasick::{AhoCorasick, AhoCorasickKind, BuildError};
use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizer;
use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup};
use icu_properties::{CodePointMapData, CodePointSetData};

use super::unescape::Unescape;

/// Bytes of text that wait for a place to cut, at most: no real text has so many marks in a row.
const UNCUT_BYTES_MAX: usize = 64 << 10;

/// `text` as it is compared.
pub fn normal_form(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    push_visible(&mut visible, text);
    normalised(&visible)
}

fn push_visible(out: &mut String, text: &str) {
    if text.is_ascii() {
        out.push_str(text);
        return;
    }
    let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    out.extend(text.chars().filter(|c| c.is_ascii() || !ignorable.contains(*c)));
}

fn normalised(visible: &str) -> String {
    if visible.is_ascii() {
        return visible.to_ascii_lowercase();
    }
    let nfkc = ComposingNormalizer::new_nfkc();
    let folded = CaseMapper::new().fold_string(&nfkc.normalize(visible)).into_owned();
    nfkc.normalize(&folded).into_owned()
}

/// Whether nothing from `c` on changes the normal form of what stands before it.
fn starts_afresh(c: char) -> bool {
    if c.is_ascii() {
        return true;
    }
    // Vowels and finals of Korean syllables, and half-width letters that become those or marks.
    if matches!(c, '\u{1160}'..='\u{11FF}' | '\u{D7B0}'..='\u{D7FF}' | '\u{FF9E}'..='\u{FFDC}') {
        return false;
    }
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    !GeneralCategoryGroup::Mark.contains(category)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// All terms, ready to be searched for at once.
pub(super) struct Terms {
    automaton: AhoCorasick,
    entry_ids: Vec<i64>,
    longest: usize,
    whole_words: bool,
}

impl Terms {
    /// Of `(entry id, term)`; `None` if there are none. Terms of which nothing is visible are left out.
    pub(super) fn build<'a>(
        terms: impl Iterator<Item = (i64, &'a str)>,
        whole_words: bool,
    ) -> Result<Option<Self>, BuildError> {
        let mut entry_ids = Vec::new();
        let mut forms = Vec::new();
        for (entry_id, term) in terms {
            let form = normal_form(term.trim());
            if form.is_empty() {
                tracing::warn!(entry_id, "moderation.term.empty: it refuses nothing");
                continue;
            }
            entry_ids.push(entry_id);
            forms.push(form);
        }
        if forms.is_empty() {
            return Ok(None);
        }
        let longest = forms.iter().map(String::len).max().unwrap_or(0);
        // Not the faster DFA: its memory is a multiple.
        let automaton =
            AhoCorasick::builder().kind(Some(AhoCorasickKind::ContiguousNFA)).build(&forms)?;
        Ok(Some(Self { automaton, entry_ids, longest, whole_words }))
    }

    /// The entry of a term in a short text.
    pub(super) fn find(&self, text: &str) -> Option<i64> {
        self.find_in(&normal_form(text), true, true)
    }

    /// Reads a long text; `json` says that escapes of JSON stand for characters.
    pub(super) fn reader(&self, json: bool) -> TermReader<'_> {
        TermReader {
            terms: self,
            unescape: json.then(Unescape::default),
            bytes: Vec::new(),
            uncut: String::new(),
            window: String::new(),
            trimmed: false,
            found: None,
        }
    }

    /// `first` and `last`: whether the text begins and ends here, which are ends of words.
    fn find_in(&self, window: &str, first: bool, last: bool) -> Option<i64> {
        let whole = |start: usize, end: usize| {
            let (before, rest) = window.split_at(start);
            let (term, after) = rest.split_at(end - start);
            let joined = |left: Option<char>, right: Option<char>| {
                left.is_some_and(is_word) && right.is_some_and(is_word)
            };
            // At an open end the neighbour is not known: the term comes round again, or has been.
            (first || start > 0)
                && (last || !after.is_empty())
                && !joined(before.chars().next_back(), term.chars().next())
                && !joined(term.chars().next_back(), after.chars().next())
        };
        self.automaton
            .find_overlapping_iter(window)
            .find(|found| !self.whole_words || whole(found.start(), found.end()))
            .and_then(|found| self.entry_ids.get(found.pattern().as_usize()).copied())
    }
}

/// A text being read.
pub(super) struct TermReader<'a> {
    terms: &'a Terms,
    unescape: Option<Unescape>,
    /// The beginning of a character that was cut.
    bytes: Vec<u8>,
    /// Visible characters whose normal form may depend on what follows.
    uncut: String,
    /// Normal form that a term may begin in.
    window: String,
    trimmed: bool,
    found: Option<i64>,
}

impl TermReader<'_> {
    /// Reads on; gives the entry of a term once one was found.
    pub(super) fn push(&mut self, piece: &[u8]) -> Option<i64> {
        if self.found.is_some() {
            return self.found;
        }
        match &mut self.unescape {
            Some(unescape) => unescape.push(piece, &mut self.bytes),
            None => self.bytes.extend_from_slice(piece),
        }
        self.decode(false);
        let boundary = |(at, c): (usize, char)| (at > 0 && starts_afresh(c)).then_some(at);
        let cut = self.uncut.char_indices().rev().find_map(boundary);
        match cut {
            Some(cut) => self.search(cut, false),
            None if self.uncut.len() > UNCUT_BYTES_MAX => self.search(self.uncut.len(), false),
            None => {}
        }
        self.found
    }

    /// The text has ended.
    pub(super) fn finish(mut self) -> Option<i64> {
        if self.found.is_none() {
            self.decode(true);
            self.search(self.uncut.len(), true);
        }
        self.found
    }

    /// Moves whole characters from `bytes` to `uncut`. What is not UTF-8 was refused before; if it
    /// comes here all the same, it stands for an unknown character.
    fn decode(&mut self, last: bool) {
        let bytes = std::mem::take(&mut self.bytes);
        let chunks = bytes.utf8_chunks();
        let mut read = 0;
        for chunk in chunks {
            push_visible(&mut self.uncut, chunk.valid());
            read += chunk.valid().len();
            let invalid = chunk.invalid();
            let cut_off = read + invalid.len() == bytes.len()
                && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if cut_off && !last {
                break;
            }
            if !invalid.is_empty() {
                self.uncut.push(char::REPLACEMENT_CHARACTER);
                read += invalid.len();
            }
        }
        self.bytes = bytes.get(read..).unwrap_or_default().to_vec();
    }

    fn search(&mut self, cut: usize, last: bool) {
        let (whole, rest) = self.uncut.split_at(cut);
        self.window.push_str(&normalised(whole));
        self.uncut = rest.to_owned();
        self.found = self.terms.find_in(&self.window, !self.trimmed, last);
        // A term that is cut here, and a character before it.
        let keep = self.terms.longest + 8;
        if let Some(over) = self.window.len().checked_sub(keep).filter(|over| *over > 0) {
            let over = (0..=over).rev().find(|at| self.window.is_char_boundary(*at)).unwrap_or(0);
            self.window.drain(..over);
            self.trimmed |= over > 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(list: &[&str], whole_words: bool) -> Terms {
        let numbered = list.iter().enumerate().map(|(i, term)| (i as i64, *term));
        Terms::build(numbered, whole_words).unwrap().unwrap()
    }

    fn read(terms: &Terms, json: bool, pieces: &[&[u8]]) -> Option<i64> {
        let mut reader = terms.reader(json);
        for piece in pieces {
            reader.push(piece);
        }
        reader.finish()
    }

    #[test]
    fn width_case_ligatures_and_invisible_characters_hide_nothing() {
        let terms = terms(&["Bad Word", "straße", "禁止语", "ficus", "café"], false);
        for (text, entry) in [
            ("so BAD WORD there", 0),
            ("ｂａｄ　ｗｏｒｄ", 0),
            ("b\u{200B}ad\u{AD} w\u{FEFF}ord", 0),
            ("STRASSE", 1),
            ("这是禁\u{200D}止语。", 2),
            ("a ﬁcus", 3),
            ("CAFE\u{301}", 4),
        ] {
            assert_eq!(terms.find(text), Some(entry), "{text}");
            assert_eq!(read(&terms, false, &[text.as_bytes()]), Some(entry), "{text}");
        }
        for text in ["badword", "strase", "禁语", "cafe", ""] {
            assert_eq!(terms.find(text), None, "{text}");
        }
    }

    #[test]
    fn whole_words_stand_alone() {
        let terms = terms(&["ass", "c++", "禁止"], true);
        for text in ["ass", "an ass!", "(ASS)", "\u{feff}ass", "c++", "x c++y", "ass禁止 ass"] {
            assert!(terms.find(text).is_some(), "{text}");
        }
        for text in ["class", "asset", "ass_x", "1ass", "xc++", "被禁止的"] {
            assert_eq!(terms.find(text), None, "{text}");
        }
        // The same when the neighbours come in another piece.
        for cut in 0..5 {
            let (a, b) = "class".split_at(cut);
            assert_eq!(read(&terms, false, &[a.as_bytes(), b.as_bytes()]), None);
            let (a, b) = " ass ".split_at(cut);
            assert_eq!(read(&terms, false, &[a.as_bytes(), b.as_bytes()]), Some(0));
        }
    }

    #[test]
    fn escapes_of_json_stand_for_characters() {
        let terms = terms(&["禁止", "a\"b", "😀x"], false);
        assert_eq!(read(&terms, true, &[br#"{"k":"\u7981\u6b62"}"#]), Some(0));
        assert_eq!(read(&terms, true, &[br#"{"k":"\u79"#, br"81\u6", b"B62\"}"]), Some(0));
        assert_eq!(read(&terms, true, &[br#"["a\"b"]"#]), Some(1));
        assert_eq!(read(&terms, true, &[br#"["\ud83d\u"#, br#"de00x"]"#]), Some(2));
        assert_eq!(read(&terms, false, &[br#"["\u7981\u6b62"]"#]), None);
        assert_eq!(read(&terms, true, &[br#"["\\u7981\\u6b62"]"#]), None);
    }

    #[test]
    fn marks_without_end_take_bounded_memory() {
        let terms = terms(&["never"], false);
        let mut reader = terms.reader(false);
        let piece = "\u{301}".repeat(8 << 10);
        for _ in 0..100 {
            assert_eq!(reader.push(piece.as_bytes()), None);
            assert!(reader.uncut.len() <= UNCUT_BYTES_MAX + piece.len());
            assert!(reader.window.len() <= 64);
        }
    }

    fn naive(list: &[String], text: &str) -> bool {
        let text = normal_form(text);
        list.iter().any(|term| text.contains(&normal_form(term)))
    }

    proptest! {
        /// However a text is cut, what is found is what a search of the whole finds.
        #[test]
        fn pieces_change_nothing(
            list in proptest::collection::vec("[abAB가각\u{1100}\u{1161}\u{11a8}éßﬁｱﾞ]{1,4}", 1..4),
            text in "[abAB가각\u{1100}\u{1161}\u{11a8}e\u{301}\u{345}ßﬁｱﾞ\u{200b} \u{9be}\u{9c7}ㄱ]{0,40}",
            cuts in proptest::collection::vec(0usize..160, 0..8),
        ) {
            let numbered = list.iter().enumerate().map(|(i, term)| (i as i64, term.as_str()));
            let terms = Terms::build(numbered, false).unwrap().unwrap();
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&terms, false, &pieces).is_some(), naive(&list, &text));
            prop_assert_eq!(terms.find(&text).is_some(), naive(&list, &text));
        }

        /// Bytes of any kind are read without a panic, cut anywhere.
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>, cut: proptest::sample::Index, json: bool) {
            let terms = terms(&["needle"], true);
            let (a, b) = bytes.split_at(cut.index(bytes.len() + 1));
            prop_assert_eq!(read(&terms, json, &[a, b]), None);
        }
    }
}
