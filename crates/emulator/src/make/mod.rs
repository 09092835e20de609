//! What calls are given back: audio that decodes, videos that play, archives that unpack.
//!
//! Nothing is synthesised that sounds like speech: each character of a text is a tone, at the pitch that the voice and the
//! character give, for about as long as it would take to say. The same text in the same voice is the same bytes.

mod bits;
mod flac;
mod mp3;
mod mp4;
mod pcm;
mod tar;
mod tones;
mod video;

pub(crate) use tar::archive;
pub(crate) use tones::{AudioFormat, AudioSetting, Sound, speak};
pub(crate) use video::{Clip, clip};
