//! The words of this crate: formats, limits, findings and refusals.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// A file format that filegate can verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// MPEG-1/2/2.5 audio, layer III, after any ID3 tags.
    Mp3,
    /// ISO BMFF with an audio track (AAC or ALAC) and no video.
    M4a,
    /// RIFF, RF64 or BW64 WAVE.
    Wav,
    /// ISO BMFF video.
    Mp4,
    /// QuickTime.
    Mov,
    /// Matroska or `WebM`.
    Mkv,
    /// RIFF AVI, OpenDML included.
    Avi,
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
    /// WebP.
    Webp,
    /// HEIF and HEIC still images.
    Heic,
    /// Plain UTF-8 text.
    Txt,
    /// A zip archive of texts (`.txt` only, or `.json` only).
    Zip,
    /// PDF.
    Pdf,
    /// Office Open XML text document.
    Docx,
    /// One JSON value.
    Json,
    /// One JSON value a line.
    Jsonl,
    /// Markdown: UTF-8 text.
    Markdown,
    /// Comma-separated values: UTF-8 text.
    Csv,
}

impl Format {
    /// The format that a file-name extension promises, without the dot, in any case.
    pub fn from_extension(extension: &str) -> Option<Self> {
        Some(match extension.to_ascii_lowercase().as_str() {
            "mp3" => Self::Mp3,
            "m4a" => Self::M4a,
            "wav" => Self::Wav,
            "mp4" => Self::Mp4,
            "mov" => Self::Mov,
            "mkv" => Self::Mkv,
            "avi" => Self::Avi,
            "jpg" | "jpeg" => Self::Jpeg,
            "png" => Self::Png,
            "webp" => Self::Webp,
            "heic" | "heif" => Self::Heic,
            "txt" => Self::Txt,
            "zip" => Self::Zip,
            "pdf" => Self::Pdf,
            "docx" => Self::Docx,
            "json" => Self::Json,
            "jsonl" => Self::Jsonl,
            "md" => Self::Markdown,
            "csv" => Self::Csv,
            _ => return None,
        })
    }

    /// Whether [`probe`](crate::probe) only walks over it and decodes nothing: then it takes no longer than to read it once.
    pub fn is_walked(self) -> bool {
        let decoded_or_unpacked = matches!(
            self,
            Self::Mp3 | Self::M4a | Self::Zip | Self::Docx | Self::Json | Self::Jsonl
        );
        !decoded_or_unpacked
    }

    /// The media type that a download of this format is served as.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Mp3 => "audio/mpeg",
            Self::M4a => "audio/mp4",
            Self::Wav => "audio/wav",
            Self::Mp4 => "video/mp4",
            Self::Mov => "video/quicktime",
            Self::Mkv => "video/x-matroska",
            Self::Avi => "video/x-msvideo",
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
            Self::Heic => "image/heic",
            Self::Txt | Self::Markdown | Self::Csv => "text/plain; charset=utf-8",
            Self::Zip => "application/zip",
            Self::Pdf => "application/pdf",
            Self::Docx => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            // Never application/json: clients take that for an error body (contract §2).
            Self::Json | Self::Jsonl => "application/octet-stream",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mp3 => "mp3",
            Self::M4a => "m4a",
            Self::Wav => "wav",
            Self::Mp4 => "mp4",
            Self::Mov => "mov",
            Self::Mkv => "mkv",
            Self::Avi => "avi",
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::Webp => "webp",
            Self::Heic => "heic",
            Self::Txt => "txt",
            Self::Zip => "zip",
            Self::Pdf => "pdf",
            Self::Docx => "docx",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
            Self::Markdown => "md",
            Self::Csv => "csv",
        })
    }
}

/// How much of an audio file is decoded to prove that it is audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecodeScope {
    /// A few windows of frames, spread over the file. Milliseconds for 20 MiB.
    Window,
    /// Every frame.
    Whole,
}

/// Caps that hold whatever a file claims.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How much of an audio file is decoded.
    pub decode: DecodeScope,
    /// Frames, boxes, chunks, elements and entries walked, at most.
    pub steps_max: u64,
    /// Bytes a zip may expand to, in all.
    pub zip_bytes_max: u64,
    /// Times its own size that a zip may expand to.
    pub zip_ratio_max: u64,
    /// Entries in a zip.
    pub zip_entries_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            decode: DecodeScope::Window,
            steps_max: 4_000_000,
            zip_bytes_max: 200 << 20,
            zip_ratio_max: 100,
            zip_entries_max: 10_000,
        }
    }
}

/// What was measured. Kept with the file and shown by `retrieve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaInfo {
    /// What the content is.
    pub format: Format,
    /// The coding of the (first) audio track, or of the video where there is one: `mp3`, `aac`,
    /// `alac`, `pcm_s16le`, `pcm_f32le`, `pcm_mulaw`, `h264`, `hevc`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<String>,
    /// Length of the media itself, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Audio samples a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_rate_hz: Option<u32>,
    /// Audio channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<u16>,
    /// Picture width in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width_px: Option<u32>,
    /// Picture height in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height_px: Option<u32>,
    /// Unicode scalar values in a text, or in all texts of a zip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub characters: Option<u64>,
}

impl MediaInfo {
    /// A finding with nothing measured yet.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            codec: None,
            duration_ms: None,
            sample_rate_hz: None,
            channels: None,
            width_px: None,
            height_px: None,
            characters: None,
        }
    }
}

/// Why a file is not what it should be. The text may be shown to the client.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No bytes at all.
    #[error("file is empty")]
    Empty,
    /// The content is something else, or nothing known.
    #[error("content is not {expected}{}", found.map(|f| format!(" (it looks like {f})")).unwrap_or_default())]
    Mismatch {
        /// What the name promised.
        expected: Format,
        /// What the first bytes look like.
        found: Option<Format>,
    },
    /// The file ends before what it announced.
    #[error("{format} is truncated: {detail}")]
    Truncated {
        /// The format it was read as.
        format: Format,
        /// What is missing.
        detail: String,
    },
    /// The structure is broken or the audio does not decode.
    #[error("{format} cannot be decoded: {detail}")]
    Undecodable {
        /// The format it was read as.
        format: Format,
        /// What is wrong.
        detail: String,
    },
    /// Well formed, but of a kind that is not accepted.
    #[error("{format} of an unsupported kind: {detail}")]
    Unsupported {
        /// The format it was read as.
        format: Format,
        /// Which kind.
        detail: String,
    },
    /// A cap of [`Limits`] was reached.
    #[error("{format} is too complex: {detail}")]
    TooComplex {
        /// The format it was read as.
        format: Format,
        /// Which cap.
        detail: String,
    },
    /// The reader failed; says nothing about the file.
    #[error("reading the file failed")]
    Io(#[source] io::Error),
}

impl ProbeError {
    pub(crate) fn truncated(format: Format, detail: impl Into<String>) -> Self {
        Self::Truncated { format, detail: detail.into() }
    }

    pub(crate) fn undecodable(format: Format, detail: impl Into<String>) -> Self {
        Self::Undecodable { format, detail: detail.into() }
    }

    pub(crate) fn unsupported(format: Format, detail: impl Into<String>) -> Self {
        Self::Unsupported { format, detail: detail.into() }
    }

    pub(crate) fn too_complex(format: Format, detail: impl Into<String>) -> Self {
        Self::TooComplex { format, detail: detail.into() }
    }

    /// "sample 12 ends at byte 9,000, the file has 8,192".
    pub(crate) fn ends_past_file(
        format: Format,
        what: impl fmt::Display,
        end: u64,
        len: u64,
    ) -> Self {
        let (end, len) = (grouped(end), grouped(len));
        Self::truncated(format, format!("{what} ends at byte {end}, the file has {len}"))
    }
}

/// `value` in decimal with a comma before each third digit.
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_digits_by_three() {
        for (value, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(value), text);
        }
    }
}
