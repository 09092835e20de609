//! What a file is uploaded for, and what each purpose takes (contract §3).
//!
//! Purposes are configuration, not an enum: upstream adds about two a year. [`defaults`] is the
//! contract's table; an operator overrides any part of it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{ApiError, ErrorCode};
use crate::units::{Bytes, Span};

/// The name of a purpose: 1 to 64 of `a-z A-Z 0-9 _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PurposeName(String);

/// The text cannot be the name of a purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a purpose is 1 to 64 letters, digits, '_' or '-'")]
pub struct PurposeNameError;

impl PurposeName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PurposeName {
    type Err = PurposeNameError;

    fn from_str(text: &str) -> Result<Self, PurposeNameError> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if fits { Ok(Self(text.to_owned())) } else { Err(PurposeNameError) }
    }
}

impl TryFrom<String> for PurposeName {
    type Error = PurposeNameError;

    fn try_from(text: String) -> Result<Self, PurposeNameError> {
        text.parse()
    }
}

impl From<PurposeName> for String {
    fn from(name: PurposeName) -> Self {
        name.0
    }
}

impl fmt::Display for PurposeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long files of a purpose are kept: `until_deleted`, or a span such as `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Keep {
    /// Until the client deletes it.
    UntilDeleted,
    /// For this long after the upload.
    For(Span),
}

impl TryFrom<String> for Keep {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "until_deleted" { Ok(Self::UntilDeleted) } else { text.parse().map(Self::For) }
    }
}

impl From<Keep> for String {
    fn from(keep: Keep) -> Self {
        match keep {
            Keep::UntilDeleted => "until_deleted".to_owned(),
            Keep::For(span) => span.to_string(),
        }
    }
}

/// Which code a wrong duration is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DurationErrors {
    /// 2037 `voice duration too short` / `too long`.
    Voice,
    /// 2048 `prompt audio too long`.
    Prompt,
    /// 2013 `invalid params, …`.
    Params,
}

/// A purpose: who may upload to it, what it takes, how long it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurposePolicy {
    /// Whether clients upload to it; outputs of upstream are only adopted.
    #[serde(default = "yes")]
    pub upload: bool,
    /// How long its files are kept.
    #[serde(default = "until_deleted")]
    pub keep: Keep,
    /// Which code a wrong duration is answered with.
    #[serde(default = "params")]
    pub duration_errors: DurationErrors,
    /// A purpose that delete and list take for this one and the other way round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as: Option<PurposeName>,
    /// What it takes, by a name of the operator's choice.
    #[serde(default)]
    pub accept: BTreeMap<String, AcceptRule>,
}

fn yes() -> bool {
    true
}

fn until_deleted() -> Keep {
    Keep::UntilDeleted
}

fn params() -> DurationErrors {
    DurationErrors::Params
}

/// A group of extensions with their limits. A limit that is absent is not checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptRule {
    /// File-name extensions, lower case, without the dot. An empty list switches the rule off.
    pub extensions: Vec<String>,
    /// Largest file.
    pub bytes_max: Bytes,
    /// Shortest duration, itself accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_min: Option<Span>,
    /// Longest duration, itself accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_max: Option<Span>,
    /// Durations from here on are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_below: Option<Span>,
    /// Shortest side of a picture, in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side_min_px: Option<u32>,
    /// Longest side of a picture, in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side_max_px: Option<u32>,
    /// Smallest width / height.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_min: Option<f64>,
    /// Largest width / height.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_max: Option<f64>,
    /// Most Unicode characters in a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub characters_max: Option<u64>,
}

/// What was measured, as far as rules look at it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measured {
    /// Length of the media in milliseconds.
    pub duration_ms: Option<u64>,
    /// Width and height in pixels.
    pub size_px: Option<(u32, u32)>,
    /// Unicode characters.
    pub characters: Option<u64>,
}

impl PurposePolicy {
    /// The rule for an extension, in any case.
    pub fn rule_for(&self, extension: &str) -> Option<&AcceptRule> {
        let extension = extension.to_ascii_lowercase();
        self.accept.values().find(|rule| rule.extensions.contains(&extension))
    }

    /// The largest file that any rule takes: the cap before the name is known.
    pub fn bytes_max(&self) -> Bytes {
        self.accept.values().map(|rule| rule.bytes_max).max().unwrap_or(Bytes(0))
    }

    /// Holds `measured` against `rule`.
    ///
    /// # Errors
    /// The code of the table, with the measured value and the limit.
    pub fn check(&self, rule: &AcceptRule, measured: &Measured) -> Result<(), ApiError> {
        if let Some(duration_ms) = measured.duration_ms {
            self.check_duration(rule, duration_ms)?;
        }
        if let Some((width, height)) = measured.size_px {
            check_picture(rule, width, height)?;
        }
        match (measured.characters, rule.characters_max) {
            (Some(count), Some(max)) if count > max => Err(ApiError::invalid(format_args!(
                "text too long: {count} characters, at most {max}"
            ))),
            _ => Ok(()),
        }
    }

    fn check_duration(&self, rule: &AcceptRule, duration_ms: u64) -> Result<(), ApiError> {
        let below = |limit: Option<Span>| limit.filter(|limit| duration_ms < limit.millis());
        let above = |limit: Option<Span>| limit.filter(|limit| duration_ms > limit.millis());
        let from = |limit: Option<Span>| limit.filter(|limit| duration_ms >= limit.millis());
        let (word, bound) = if let Some(limit) = below(rule.duration_min) {
            ("short", format!("at least {}", seconds(limit.millis())))
        } else if let Some(limit) = above(rule.duration_max) {
            ("long", format!("at most {}", seconds(limit.millis())))
        } else if let Some(limit) = from(rule.duration_below) {
            ("long", format!("must be below {}", seconds(limit.millis())))
        } else {
            return Ok(());
        };
        let measured = seconds(duration_ms);
        Err(match (self.duration_errors, word) {
            (DurationErrors::Voice, _) => ApiError::duration(
                ErrorCode::VoiceDuration,
                format!("voice duration too {word}: {measured}, {bound}"),
            ),
            (DurationErrors::Prompt, "long") => ApiError::duration(
                ErrorCode::PromptTooLong,
                format!("prompt audio too long: {measured}, {bound}"),
            ),
            _ => ApiError::invalid(format_args!("duration too {word}: {measured}, {bound}")),
        })
    }
}

/// Milliseconds as seconds, rounded down to hundredths so that a value just under a limit is never
/// shown as the limit; whole seconds without a fraction.
fn seconds(ms: u64) -> String {
    if ms.is_multiple_of(1000) {
        format!("{} s", ms / 1000)
    } else {
        format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
    }
}

fn check_picture(rule: &AcceptRule, width: u32, height: u32) -> Result<(), ApiError> {
    let (short, long) = (width.min(height), width.max(height));
    if let Some(min) = rule.side_min_px.filter(|min| short < *min) {
        return Err(ApiError::invalid(format_args!(
            "picture too small: {width}x{height} px, each side at least {min} px"
        )));
    }
    if let Some(max) = rule.side_max_px.filter(|max| long > *max) {
        return Err(ApiError::invalid(format_args!(
            "picture too large: {width}x{height} px, each side at most {max} px"
        )));
    }
    if rule.ratio_min.is_none() && rule.ratio_max.is_none() {
        return Ok(());
    }
    let ratio = f64::from(width) / f64::from(height.max(1));
    let (min, max) = (rule.ratio_min.unwrap_or(0.0), rule.ratio_max.unwrap_or(f64::INFINITY));
    if ratio < min || ratio > max {
        return Err(ApiError::invalid(format_args!(
            "picture of the wrong shape: width / height is {ratio:.3} ({width}x{height} px), \
             must be from {min} to {max}"
        )));
    }
    Ok(())
}

fn accept(extensions: &[&str], bytes_max: Bytes) -> AcceptRule {
    AcceptRule {
        extensions: extensions.iter().map(|&e| e.to_owned()).collect(),
        bytes_max,
        duration_min: None,
        duration_max: None,
        duration_below: None,
        side_min_px: None,
        side_max_px: None,
        ratio_min: None,
        ratio_max: None,
        characters_max: None,
    }
}

fn policy(rules: impl IntoIterator<Item = (&'static str, AcceptRule)>) -> PurposePolicy {
    PurposePolicy {
        upload: true,
        keep: Keep::UntilDeleted,
        duration_errors: DurationErrors::Params,
        same_as: None,
        accept: rules.into_iter().map(|(name, rule)| (name.to_owned(), rule)).collect(),
    }
}

/// The purposes of contract §3.
pub fn defaults() -> BTreeMap<PurposeName, PurposePolicy> {
    let week = Keep::For(Span::seconds(7 * 86_400));
    let voice = ["mp3", "m4a", "wav"];
    let documents = ["pdf", "docx", "txt", "jsonl", "json", "md", "csv"];
    let output = || PurposePolicy { upload: false, ..policy([]) };
    let name = |text: &str| PurposeName(text.to_owned());

    let clone = AcceptRule {
        duration_min: Some(Span::seconds(10)),
        duration_max: Some(Span::seconds(300)),
        ..accept(&voice, Bytes::mib(20))
    };
    let prompt =
        AcceptRule { duration_below: Some(Span::seconds(8)), ..accept(&voice, Bytes::mib(20)) };
    let texts =
        AcceptRule { characters_max: Some(1_000_000), ..accept(&["txt", "zip"], Bytes::mib(20)) };
    let picture = AcceptRule {
        side_min_px: Some(256),
        side_max_px: Some(5760),
        ratio_min: Some(0.4),
        ratio_max: Some(2.5),
        ..accept(&["jpg", "jpeg", "png", "webp", "heic", "heif"], Bytes::mib(30))
    };

    let mut all = BTreeMap::from([
        (
            name("voice_clone"),
            PurposePolicy { duration_errors: DurationErrors::Voice, ..policy([("audio", clone)]) },
        ),
        (
            name("prompt_audio"),
            PurposePolicy {
                duration_errors: DurationErrors::Prompt,
                ..policy([("audio", prompt)])
            },
        ),
        (
            name("t2a_async_input"),
            PurposePolicy { same_as: Some(name("t2a_async")), ..policy([("text", texts)]) },
        ),
        (
            name("video_understanding"),
            PurposePolicy {
                keep: week,
                ..policy([("video", accept(&["mp4", "avi", "mov", "mkv"], Bytes::mib(512)))])
            },
        ),
        (
            name("video_generation_input"),
            PurposePolicy {
                keep: week,
                ..policy([
                    ("picture", picture),
                    ("video", accept(&["mp4", "mov"], Bytes::mib(50))),
                    ("audio", accept(&["wav", "mp3"], Bytes::mib(15))),
                ])
            },
        ),
        (name("t2a_async"), PurposePolicy { same_as: Some(name("t2a_async_input")), ..output() }),
        (name("video_generation"), output()),
    ]);
    for document in ["retrieval", "fine-tune", "assistants", "batch", "role-recognition"] {
        all.insert(name(document), policy([("document", accept(&documents, Bytes::mib(512)))]));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(purpose: &str, extension: &str, measured: Measured) -> Result<(), String> {
        let all = defaults();
        let policy = &all[&purpose.parse::<PurposeName>().unwrap()];
        let rule = policy.rule_for(extension).expect("a rule");
        policy.check(rule, &measured).map_err(|e| e.to_string())
    }

    fn lasting(ms: u64) -> Measured {
        Measured { duration_ms: Some(ms), ..Measured::default() }
    }

    #[test]
    fn voice_samples_last_10_to_300_s() {
        assert_eq!(check("voice_clone", "WAV", lasting(10_000)), Ok(()));
        assert_eq!(check("voice_clone", "mp3", lasting(300_000)), Ok(()));
        assert_eq!(
            check("voice_clone", "mp3", lasting(8_420)).unwrap_err(),
            "voice duration too short: 8.42 s, at least 10 s (2037)"
        );
        assert_eq!(
            check("voice_clone", "mp3", lasting(9_999)).unwrap_err(),
            "voice duration too short: 9.99 s, at least 10 s (2037)"
        );
        assert_eq!(
            check("voice_clone", "mp3", lasting(300_010)).unwrap_err(),
            "voice duration too long: 300.01 s, at most 300 s (2037)"
        );
    }

    #[test]
    fn prompts_stay_below_8_s() {
        assert_eq!(check("prompt_audio", "m4a", lasting(7_999)), Ok(()));
        assert_eq!(
            check("prompt_audio", "m4a", lasting(8_000)).unwrap_err(),
            "prompt audio too long: 8 s, must be below 8 s (2048)"
        );
    }

    #[test]
    fn pictures_have_their_bounds() {
        let of = |w, h| Measured { size_px: Some((w, h)), ..Measured::default() };
        assert_eq!(check("video_generation_input", "jpeg", of(256, 640)), Ok(()));
        assert_eq!(check("video_generation_input", "png", of(5760, 2304)), Ok(()));
        for (w, h) in [(255, 300), (5761, 3000), (256, 641), (2560, 1023)] {
            let why = check("video_generation_input", "png", of(w, h)).unwrap_err();
            assert!(why.contains(&format!("{w}x{h}")), "{why}");
        }
    }

    #[test]
    fn texts_have_their_bound() {
        let of = |n| Measured { characters: Some(n), ..Measured::default() };
        assert_eq!(check("t2a_async_input", "txt", of(1_000_000)), Ok(()));
        assert!(check("t2a_async_input", "txt", of(1_000_001)).is_err());
    }

    #[test]
    fn outputs_are_never_uploaded() {
        for (name, policy) in defaults() {
            let output = ["t2a_async", "video_generation"].contains(&name.as_str());
            assert_eq!(policy.upload, !output, "{name}");
            assert_eq!(policy.accept.is_empty(), output, "{name}");
        }
    }
}
