//! Perceptual hashes of pictures: alike for pictures that look alike, however they were coded.
//!
//! 64 bits: the low frequencies of a small grey copy, each above the median or not. Scaling, another
//! format or quality and light touches of colour change a few bits; cutting, turning and mirroring
//! change many, and are not recognised.
//!
//! The decoders are foreign and the files hostile: bytes of memory are capped, panics caught, and only
//! pictures get here that our own walk has found whole.

use std::io::{BufRead, Seek};

use filegate_media::Format;
use filegate_types::units::Bytes;
use image::{ImageDecoder as _, ImageFormat, ImageReader, Limits};
use image_hasher::{BitOrder, HashAlg, HasherConfig};

/// Longest side that is decoded.
const SIDE_MAX_PX: u32 = 20_000;

/// Why a picture has no hash.
#[derive(Debug, thiserror::Error)]
pub enum ImageHashError {
    /// It is no JPEG, PNG or WebP, or a damaged one.
    #[error("the picture cannot be decoded")]
    Undecodable(#[source] image::ImageError),
    /// Decoding it takes more memory than is allowed.
    #[error("the picture is too large to be decoded")]
    TooLarge,
    /// The decoder panicked.
    #[error("the decoder failed")]
    Panicked,
}

/// The hash of a JPEG, PNG or WebP picture as the blocked list has it: 16 hex digits.
pub fn image_hash<R: BufRead + Seek>(
    source: R,
    memory_max: Bytes,
) -> Result<String, ImageHashError> {
    hash(source, memory_max).map(|hash| format!("{hash:016x}"))
}

/// Whether pictures of this format are looked at.
pub(super) fn is_hashed(format: Format) -> bool {
    matches!(format, Format::Jpeg | Format::Png | Format::Webp)
}

/// A hash as the blocked list has it.
pub(super) fn parse(value: &str) -> Option<u64> {
    let hex = value.len() == 16 && value.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| u64::from_str_radix(value, 16).ok()).flatten()
}

pub(super) fn hash<R: BufRead + Seek>(source: R, memory_max: Bytes) -> Result<u64, ImageHashError> {
    filegate_media::caught(|| decode_and_hash(source, memory_max))
        .unwrap_or(Err(ImageHashError::Panicked))
}

fn decode_and_hash<R: BufRead + Seek>(source: R, memory_max: Bytes) -> Result<u64, ImageHashError> {
    let undecodable = |error| match error {
        image::ImageError::Limits(_) => ImageHashError::TooLarge,
        other => ImageHashError::Undecodable(other),
    };
    let mut reader = ImageReader::new(source)
        .with_guessed_format()
        .map_err(|error| undecodable(error.into()))?;
    if !matches!(reader.format(), Some(ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP)) {
        let unknown = image::error::ImageFormatHint::Unknown;
        return Err(undecodable(image::ImageError::Unsupported(unknown.into())));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX_PX);
    limits.max_image_height = Some(SIDE_MAX_PX);
    limits.max_alloc = Some(memory_max.0);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(undecodable)?;
    // Not every decoder counts its own buffers: the picture, and as much again for its working.
    if decoder.total_bytes().saturating_mul(2) > memory_max.0 {
        return Err(ImageHashError::TooLarge);
    }
    let picture = image::DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    let hasher = HasherConfig::with_bytes_type::<[u8; 8]>()
        .hash_size(8, 8)
        .hash_alg(HashAlg::Median)
        .preproc_dct()
        .bit_order(BitOrder::MsbFirst)
        .to_hasher();
    Ok(u64::from_be_bytes(hasher.hash_image(&picture).into_inner()))
}
