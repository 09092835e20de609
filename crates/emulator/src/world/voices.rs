//! Voices: those that everybody has, and an account's own.

use filegate_types::UnixMillis;
use std::time::Duration;

use super::{AccountIx, World};
use crate::reply::Refusal;

/// Voices in an account.
const VOICES_MAX: usize = 10_000;
/// A voice that was not used for so long is deleted.
const UNUSED_MAX: Duration = Duration::from_hours(168);

/// Some of the voices that every account has. Names with a language in front (`English_…`) are taken for such too: the
/// published list is long and grows.
const SYSTEM: [&str; 40] = [
    "male-qn-qingse",
    "male-qn-jingying",
    "male-qn-badao",
    "male-qn-daxuesheng",
    "female-shaonv",
    "female-yujie",
    "female-chengshu",
    "female-tianmei",
    "presenter_male",
    "presenter_female",
    "audiobook_male_1",
    "audiobook_male_2",
    "audiobook_female_1",
    "audiobook_female_2",
    "clever_boy",
    "cute_boy",
    "lovely_girl",
    "cartoon_pig",
    "Wise_Woman",
    "Friendly_Person",
    "Inspirational_girl",
    "Deep_Voice_Man",
    "Calm_Woman",
    "Casual_Guy",
    "Lively_Girl",
    "Patient_Man",
    "Young_Knight",
    "Determined_Man",
    "Lovely_Girl",
    "Decent_Boy",
    "Imposing_Manner",
    "Elegant_Man",
    "Abbess",
    "Sweet_Girl_2",
    "Exuberant_Girl",
    "English_expressive_narrator",
    "English_radiant_girl",
    "English_Graceful_Lady",
    "English_Insightful_Speaker",
    "English_Persuasive_Man",
];

const LANGUAGES: [&str; 24] = [
    "English_",
    "Chinese (Mandarin)_",
    "Cantonese_",
    "Japanese_",
    "Korean_",
    "Spanish_",
    "Portuguese_",
    "French_",
    "Indonesian_",
    "German_",
    "Russian_",
    "Italian_",
    "Arabic_",
    "Turkish_",
    "Ukrainian_",
    "Dutch_",
    "Vietnamese_",
    "Thai_",
    "Polish_",
    "Romanian_",
    "greek_",
    "czech_",
    "finnish_",
    "hindi_",
];

/// A voice of an account.
#[derive(Debug, Clone)]
pub(crate) struct Voice {
    pub(crate) created_at: UnixMillis,
    /// It is listed only after its first use.
    pub(crate) used_at: Option<UnixMillis>,
}

impl Voice {
    fn is_there(&self, now: UnixMillis) -> bool {
        self.used_at.unwrap_or(self.created_at).plus(UNUSED_MAX) > now
    }
}

/// Whether the name is one of everybody's.
pub(crate) fn is_system(name: &str) -> bool {
    SYSTEM.contains(&name)
        || LANGUAGES.iter().any(|language| name.starts_with(language))
        || name.strip_suffix("-jingpin").is_some_and(|base| SYSTEM.contains(&base))
}

pub(crate) fn system_voices() -> impl Iterator<Item = &'static str> {
    SYSTEM.into_iter()
}

/// 8 to 256 characters, a letter first, then letters, digits, `-` and `_`, neither of which may be last.
pub(crate) fn is_voice_id(name: &str) -> bool {
    let bytes = name.as_bytes();
    (8..=256).contains(&bytes.len())
        && bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
}

impl World {
    pub(crate) fn has_voice(&self, ix: AccountIx, name: &str, now: UnixMillis) -> bool {
        self.account(ix).voices.get(name).is_some_and(|voice| voice.is_there(now))
    }

    /// The account's own voices, by name, with their state now.
    pub(crate) fn voices(
        &self,
        ix: AccountIx,
        now: UnixMillis,
    ) -> impl Iterator<Item = (&str, &Voice)> {
        let all = self.account(ix).voices.iter();
        all.filter(move |(_, voice)| voice.is_there(now))
            .map(|(name, voice)| (name.as_str(), voice))
    }

    pub(crate) fn add_voice(
        &mut self,
        ix: AccountIx,
        name: &str,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        if is_system(name) || self.has_voice(ix, name, now) {
            return Err(Refusal::new(2039, "voice clone voice id duplicate"));
        }
        let voices = &mut self.account_mut(ix).voices;
        voices.retain(|_, voice| voice.is_there(now));
        if voices.len() >= VOICES_MAX {
            return Err(Refusal::full("voices of the account"));
        }
        voices.insert(name.to_owned(), Voice { created_at: now, used_at: None });
        Ok(())
    }

    /// Marks the voice as used, if the account may speak with it.
    pub(crate) fn use_voice(
        &mut self,
        ix: AccountIx,
        name: &str,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        let own = self.account_mut(ix).voices.get_mut(name).filter(|voice| voice.is_there(now));
        if let Some(voice) = own {
            voice.used_at = Some(now);
            return Ok(());
        }
        if is_system(name) {
            Ok(())
        } else {
            Err(Refusal::new(20132, "invalid samples or voice_id"))
        }
    }

    pub(crate) fn delete_voice(
        &mut self,
        ix: AccountIx,
        name: &str,
        now: UnixMillis,
    ) -> Option<Voice> {
        self.account_mut(ix).voices.remove(name).filter(|voice| voice.is_there(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_voices_have_rules() {
        for good in ["my-voice", "Voice_01", "a1234567", &format!("a{}", "b".repeat(255))] {
            assert!(is_voice_id(good), "{good}");
        }
        for bad in ["short-1", "1voice-x", "my-voice-", "my-voice_", "my voice 1", "stimmé-01", ""]
        {
            assert!(!is_voice_id(bad), "{bad}");
        }
        assert!(!is_voice_id(&format!("a{}", "b".repeat(256))));
    }
}
