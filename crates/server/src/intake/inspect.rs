//! Step 5: the content against its extension and its purpose. Blocks; runs on its own thread.

use std::io::{Read, Seek};

use filegate_media::{DecodeScope, Format, Limits, MediaInfo, ProbeError};
use filegate_types::purpose::{AcceptRule, Keep, Measured, PurposePolicy};
use filegate_types::{ApiError, ErrorCode};

use super::spool::Spool;
use crate::http::reply::store_failed;

/// What was found of a file that passed.
pub(super) struct Inspected {
    pub(super) media_type: &'static str,
    pub(super) media: serde_json::Value,
    pub(super) keep: Keep,
}

/// Examines the file; gives the spool back with what was found.
pub(super) fn inspect(
    mut spool: Spool,
    policy: &PurposePolicy,
    extension: &str,
    decode: DecodeScope,
) -> Result<(Spool, Inspected), ApiError> {
    spool.flush().map_err(|error| store_failed(&error))?;
    let rule = policy.rule_for(extension).ok_or(ErrorCode::Unknown)?;
    let mut source = spool.source().map_err(|error| store_failed(&error))?;
    let info = inspect_file(&mut source, policy, rule, extension, decode)?;
    let media = serde_json::to_value(&info).map_err(|_never| ErrorCode::Unknown)?;
    let inspected = Inspected { media_type: info.format.media_type(), media, keep: policy.keep };
    Ok((spool, inspected))
}

/// Holds a file's content against its extension, and what was measured against `rule`.
///
/// # Errors
/// The code of the table, with what is wrong and, for limits, the measured value.
pub fn inspect_file<R: Read + Seek>(
    source: &mut R,
    policy: &PurposePolicy,
    rule: &AcceptRule,
    extension: &str,
    decode: DecodeScope,
) -> Result<MediaInfo, ApiError> {
    // The configuration takes no extension without a format.
    let format = Format::from_extension(extension).ok_or(ErrorCode::Unknown)?;
    let limits = Limits { decode, ..Limits::default() };
    let info = filegate_media::probe(source, format, &limits).map_err(|error| refused(&error))?;
    let measured = Measured {
        duration_ms: info.duration_ms,
        size_px: info.width_px.zip(info.height_px).filter(|_| is_picture(info.format)),
        characters: info.characters,
    };
    policy.check(rule, &measured)?;
    Ok(info)
}

/// Bounds on sides and shape are of pictures; videos have their own upstream.
fn is_picture(format: Format) -> bool {
    matches!(format, Format::Jpeg | Format::Png | Format::Webp | Format::Heic)
}

fn refused(error: &ProbeError) -> ApiError {
    match error {
        ProbeError::Io(source) => {
            tracing::error!(error = source as &dyn std::error::Error, "inspect.read.failed");
            ApiError::plain(ErrorCode::Internal).retry_after(5)
        }
        other => ApiError::invalid(other),
    }
}
