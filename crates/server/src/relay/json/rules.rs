//! Patterns over paths of keys, as sets of places that a walk over a document moves through.

/// What stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A file's id.
    FileId,
    /// A task's id, and whatever else is made upstream and named by it.
    TaskId,
    /// The name of a voice.
    VoiceId,
    /// A string that begins with `mm_file://` and an id; [`Found::text`](super::Found) is what follows the slashes.
    MmFile,
    /// Where a client wants to be told.
    CallbackUrl,
    /// The code of an answer.
    StatusCode,
    /// Its words.
    StatusMessage,
    /// A count that has a price.
    Units,
}

impl Kind {
    /// Whether it says who may do what, so that something there that is no number and no string is found too.
    pub(super) fn is_reference(self) -> bool {
        matches!(
            self,
            Self::FileId | Self::TaskId | Self::VoiceId | Self::MmFile | Self::CallbackUrl
        )
    }

    /// Whether `text` says that there is none: fields that are not filled in yet.
    pub(super) fn is_nothing(self, text: &str) -> bool {
        match self {
            Self::FileId | Self::TaskId => matches!(text, "" | "0"),
            Self::VoiceId | Self::CallbackUrl => text.is_empty(),
            Self::MmFile | Self::StatusCode | Self::StatusMessage | Self::Units => false,
        }
    }
}

/// Something at a path.
///
/// A path is keys with dots between them; `[]` after a key is each item of an array, `*_id` a key that ends so,
/// `**` any number of levels, arrays included. `**` alone is every value. Keys are in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// What is there.
    pub kind: Kind,
    /// Where.
    pub path: &'static str,
}

impl Rule {
    /// A rule.
    pub const fn new(kind: Kind, path: &'static str) -> Self {
        Self { kind, path }
    }
}

/// A set of places: bit `n` is before step `n`.
pub(super) type Places = u128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Key(&'static str),
    KeyEnd(&'static str),
    Item,
    Deep,
    End(usize),
}

/// Rules, ready to be followed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    all: Vec<Rule>,
    steps: Vec<Step>,
    start: Places,
}

impl Rules {
    /// Makes them ready. Where two rules meet in one value, the earlier one is what it is found as; `mm_file://` comes
    /// before all others.
    ///
    /// # Panics
    /// For more steps than there are places (128), or a path that is not one: both are mistakes in a table of ours.
    pub fn new(rules: &[Rule]) -> Self {
        let mut made = Self { all: rules.to_vec(), ..Self::default() };
        for (index, rule) in rules.iter().enumerate() {
            let first = made.steps.len();
            for part in rule.path.split('.') {
                made.steps_of(part);
            }
            made.steps.push(Step::End(index));
            assert!(made.steps.len() <= Places::BITS as usize, "too many rules");
            made.start |= made.place(first);
        }
        made
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The rule that [`Found::rule`](super::Found) names.
    pub fn get(&self, index: usize) -> Option<&Rule> {
        self.all.get(index)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.all.iter()
    }

    fn steps_of(&mut self, part: &'static str) {
        if part == "**" {
            self.steps.push(Step::Deep);
            return;
        }
        let key = part.trim_end_matches("[]");
        assert!(!key.is_empty() && key == key.to_lowercase(), "not a path: {part}");
        self.steps.push(key.strip_prefix('*').map_or(Step::Key(key), Step::KeyEnd));
        let items = (part.len() - key.len()) / 2;
        self.steps.extend(std::iter::repeat_n(Step::Item, items));
    }

    /// Before step `n`, and behind it if it may be left out.
    fn place(&self, n: usize) -> Places {
        let behind = if self.steps[n] == Step::Deep { self.place(n + 1) } else { 0 };
        1 << n | behind
    }

    /// Where a document begins.
    pub(super) fn start(&self) -> Places {
        self.start
    }

    /// Where the value of `key` is, in an object at `places`.
    pub(super) fn at_key(&self, places: Places, key: &[u8]) -> Places {
        self.moved(places, |step| match step {
            Step::Key(own) => own.as_bytes() == key,
            Step::KeyEnd(end) => key.ends_with(end.as_bytes()),
            _ => false,
        })
    }

    /// Where the items are of an array at `places`.
    pub(super) fn at_item(&self, places: Places) -> Places {
        self.moved(places, |step| step == Step::Item)
    }

    fn moved(&self, places: Places, takes: impl Fn(Step) -> bool) -> Places {
        let mut moved = 0;
        for n in bits(places) {
            match self.steps[n] {
                Step::Deep => moved |= self.place(n),
                step if takes(step) => moved |= self.place(n + 1),
                _ => {}
            }
        }
        moved
    }

    /// The rules that a value at `places` is under: the one for `mm_file://`, and the first of the others.
    pub(super) fn here(&self, places: Places) -> Here {
        let mut here = Here::default();
        for n in bits(places) {
            if let Step::End(index) = self.steps[n] {
                let place = match self.all[index].kind {
                    Kind::MmFile => &mut here.mm_file,
                    _ => &mut here.rule,
                };
                place.get_or_insert((index, self.all[index].kind));
            }
        }
        here
    }
}

/// What a value is under.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Here {
    pub(super) mm_file: Option<(usize, Kind)>,
    pub(super) rule: Option<(usize, Kind)>,
}

fn bits(mut places: Places) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let n = (places != 0).then(|| places.trailing_zeros() as usize)?;
        places &= places - 1;
        Some(n)
    })
}
