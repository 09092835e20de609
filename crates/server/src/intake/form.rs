//! Step 2: the fields of the form, in either order, each limit applied as early as it can be known.

use std::sync::Arc;

use filegate_form::{Boundary, Event, FileName, FormError, Limits, PartHeaders, Reader};
use filegate_types::purpose::{PurposeName, PurposePolicy};
use filegate_types::units::{Bytes, Span};
use filegate_types::{AccountSettings, ApiError, Principal};
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::spool::{SMALL_BYTES, Spool};
use super::{Received, UploadGuard, quota};
use crate::app::App;
use crate::config::Config;
use crate::gate::purposes;
use crate::http::body::{Incoming, content_length, refuse_encoded};

/// Parts of a form; upstream's has two, some clients add one or two of their own.
const PARTS_MAX: usize = 20;
/// Bytes of the purpose field.
const PURPOSE_BYTES_MAX: usize = 256;
/// Bytes of the `expires_after` field.
const SPAN_BYTES_MAX: usize = 64;
/// Bytes of a form that are not the file: boundaries, headers, other fields, what follows the end.
const OVERHEAD_BYTES_MAX: u64 = 128 << 10;

/// The fields of a form as far as they have come.
#[derive(Default)]
pub(super) struct ReceivedForm {
    pub(super) purpose: Option<(PurposeName, PurposePolicy)>,
    pub(super) file: Option<ReceivedFile>,
    pub(super) expires_after: Option<Span>,
    /// Bytes of the body, if it says so.
    length: Option<u64>,
}

/// The file of a form.
pub(super) struct ReceivedFile {
    pub(super) filename: String,
    pub(super) extension: String,
    pub(super) spool: Spool,
    /// Bytes that were thrown away, because no purpose takes the extension.
    discarded: u64,
}

impl ReceivedFile {
    /// Bytes received.
    pub(super) fn bytes(&self) -> u64 {
        self.spool.bytes() + self.discarded
    }
}

/// The part being read.
enum Part {
    None,
    Purpose(Vec<u8>),
    ExpiresAfter(Vec<u8>),
    File {
        max: Bytes,
    },
    /// A file with an extension that no purpose takes: counted, until the purpose comes and refuses
    /// it in its own words.
    DiscardedFile,
    Ignored,
}

/// Reads the whole body. What is refused is refused as soon as it is known.
pub(super) async fn receive(
    app: &Arc<App>,
    principal: &Principal,
    headers: &HeaderMap,
    incoming: &mut Incoming,
    guard: &mut UploadGuard,
    label: &mut Option<PurposeName>,
) -> Result<Received, ApiError> {
    refuse_encoded(headers)?;
    let mut reader = reader(headers)?;
    let largest = app.config.largest_file();
    if let Some(length) = content_length(headers)
        && length > largest + OVERHEAD_BYTES_MAX
    {
        return Err(ApiError::too_large(format_args!(
            "the body is {length} bytes, no purpose takes a file over {}",
            Bytes(largest)
        )));
    }

    let length = content_length(headers);
    let least = length.map_or(1, |length| length.saturating_sub(OVERHEAD_BYTES_MAX).max(1));
    quota::check(app, principal, None, Bytes(least)).await?;
    guard.bytes_max = Bytes(length.unwrap_or(largest).min(largest));

    let mut form = ReceivedForm { length, ..ReceivedForm::default() };
    let mut part = Part::None;
    while let Some(chunk) = incoming.next().await? {
        let mut feed = reader.feed(&chunk);
        while let Some(event) = feed.next_event().map_err(form_error)? {
            match &event {
                Event::PartStart(headers) => {
                    part = start(app, &mut form, headers)?;
                }
                Event::Data(_) | Event::Held(_) => {
                    let bytes = event.bytes(&chunk).unwrap_or_default();
                    if let Some(file) = take(app, &mut form, &mut part, bytes)? {
                        // A body that says so is received as large from its first byte on.
                        let least = SMALL_BYTES as u64 + OVERHEAD_BYTES_MAX;
                        let large = length.is_some_and(|length| length > least);
                        file.spool.push(app, guard, bytes, large).await?;
                    }
                }
                Event::PartEnd => match std::mem::replace(&mut part, Part::None) {
                    Part::Purpose(value) => {
                        end_purpose(&app.config, principal, &mut form, &value)?;
                        *label = form.purpose.as_ref().map(|(name, _)| name.clone());
                        guard.purpose.clone_from(label);
                        quota::check(app, principal, label.as_ref(), Bytes(least)).await?;
                    }
                    Part::ExpiresAfter(value) => {
                        let asked = expires_after(&value, &principal.settings)?;
                        form.expires_after = Some(asked);
                    }
                    _ => {}
                },
                Event::End => {}
            }
        }
        let of_file = form.file.as_ref().map_or(0, ReceivedFile::bytes);
        if incoming.received() - of_file > OVERHEAD_BYTES_MAX {
            return Err(ApiError::too_large(format_args!(
                "the form has over {OVERHEAD_BYTES_MAX} bytes beside the file"
            )));
        }
        guard.renew().await?;
    }
    reader.finish().map_err(form_error)?;
    if let Some(file) = &mut form.file {
        file.spool.settle().await?;
    }
    form.complete()
}

fn reader(headers: &HeaderMap) -> Result<Reader, ApiError> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(content_type), None) = (types.next(), types.next()) else {
        return Err(ApiError::invalid("content type is not multipart/form-data"));
    };
    let boundary = Boundary::from_content_type(content_type).map_err(form_error)?;
    let limits = Limits { parts_max: PARTS_MAX, ..Limits::default() };
    Ok(Reader::new(&boundary, limits))
}

/// The texts of a form error are made for clients: they name limits, never content.
fn form_error(error: FormError) -> ApiError {
    ApiError::invalid(error)
}

fn start(app: &App, form: &mut ReceivedForm, headers: &PartHeaders) -> Result<Part, ApiError> {
    match headers.name.as_str() {
        "purpose" if form.purpose.is_some() => Err(ApiError::invalid("purpose is given twice")),
        "purpose" if headers.file_name.is_some() => {
            Err(ApiError::invalid("purpose is a file, must be text"))
        }
        "purpose" => Ok(Part::Purpose(Vec::new())),
        "expires_after" if form.expires_after.is_some() => {
            Err(ApiError::invalid("expires_after is given twice"))
        }
        "expires_after" => Ok(Part::ExpiresAfter(Vec::new())),
        "file" if form.file.is_some() => Err(ApiError::invalid("file is given twice")),
        "file" => start_file(app, form, headers.file_name.as_deref()),
        _ => Ok(Part::Ignored),
    }
}

fn start_file(
    app: &App,
    form: &mut ReceivedForm,
    raw_name: Option<&str>,
) -> Result<Part, ApiError> {
    let Some(raw_name) = raw_name else {
        return Err(ApiError::invalid("file has no file name"));
    };
    let name = FileName::clean(raw_name).map_err(ApiError::invalid)?;
    let extension = name.extension().unwrap_or("").to_ascii_lowercase();
    let max = size_limit(&app.config, form, &extension)?;
    let filename = name.into_string();
    let spool = Spool::expecting(&app.pieces, form.length);
    form.file = Some(ReceivedFile { filename, extension, spool, discarded: 0 });
    Ok(max.map_or(Part::DiscardedFile, |max| Part::File { max }))
}

/// The size limit as far as it is known: the rule's when the purpose came first, else the largest
/// of any purpose that takes the extension, if one does.
fn size_limit(
    config: &Config,
    form: &ReceivedForm,
    extension: &str,
) -> Result<Option<Bytes>, ApiError> {
    if let Some((purpose, policy)) = &form.purpose {
        let rule = policy.rule_for(extension);
        let rule = rule.ok_or_else(|| ApiError::invalid_extension(purpose.as_str(), ""))?;
        return Ok(Some(rule.bytes_max));
    }
    let rules = config.purposes.values().filter_map(|policy| policy.rule_for(extension));
    Ok(rules.map(|rule| rule.bytes_max).max())
}

fn end_purpose(
    config: &Config,
    principal: &Principal,
    form: &mut ReceivedForm,
    value: &[u8],
) -> Result<(), ApiError> {
    let known = std::str::from_utf8(value).ok().and_then(|text| config.upload_policy(text));
    let (name, policy) = known.ok_or_else(ApiError::invalid_purpose)?;
    purposes::check(principal, name)?;
    if let Some(file) = &form.file {
        let rule = policy.rule_for(&file.extension);
        let rule = rule.ok_or_else(|| ApiError::invalid_extension(name.as_str(), ""))?;
        check_size(file.bytes(), rule.bytes_max)?;
    }
    form.purpose = Some((name.clone(), policy.clone()));
    Ok(())
}

/// Takes more of a part; gives the file, if it is for its spool.
fn take<'f>(
    app: &App,
    form: &'f mut ReceivedForm,
    part: &mut Part,
    bytes: &[u8],
) -> Result<Option<&'f mut ReceivedFile>, ApiError> {
    match part {
        Part::Purpose(value) => {
            if value.len() + bytes.len() > PURPOSE_BYTES_MAX {
                return Err(ApiError::invalid_purpose());
            }
            value.extend_from_slice(bytes);
            Ok(None)
        }
        Part::ExpiresAfter(value) => {
            if value.len() + bytes.len() > SPAN_BYTES_MAX {
                return Err(ApiError::invalid("expires_after is too long"));
            }
            value.extend_from_slice(bytes);
            Ok(None)
        }
        Part::File { max } => {
            let Some(file) = &mut form.file else { return Ok(None) };
            check_size(file.spool.bytes() + bytes.len() as u64, *max)?;
            Ok(Some(file))
        }
        Part::DiscardedFile => {
            let Some(file) = &mut form.file else { return Ok(None) };
            file.discarded += bytes.len() as u64;
            check_size(file.discarded, Bytes(app.config.largest_file()))?;
            Ok(None)
        }
        // Counted with the rest of what is not the file.
        Part::Ignored | Part::None => Ok(None),
    }
}

/// How long the upload asks to be kept: seconds, or a span such as `12h`; within the account's bounds.
fn expires_after(value: &[u8], settings: &AccountSettings) -> Result<Span, ApiError> {
    let text = std::str::from_utf8(value).unwrap_or("").trim();
    let seconds = text.parse::<u32>().ok().map(|seconds| Span::seconds(u64::from(seconds)));
    let span = seconds.or_else(|| text.parse::<Span>().ok()).filter(|span| !span.0.is_zero());
    let span = span.ok_or_else(|| {
        ApiError::invalid("expires_after is neither seconds nor a span of time such as 12h or 7d")
    })?;
    if let Some(least) = settings.keep_min.filter(|least| span < *least) {
        return Err(ApiError::invalid(format_args!(
            "expires_after is {span}, this account's shortest is {least}"
        )));
    }
    if let Some(longest) = settings.keep_max.filter(|longest| span > *longest) {
        return Err(ApiError::invalid(format_args!(
            "expires_after is {span}, this account's longest is {longest}"
        )));
    }
    Ok(span)
}

pub(super) fn check_size(bytes: u64, max: Bytes) -> Result<(), ApiError> {
    if bytes <= max.0 {
        return Ok(());
    }
    Err(ApiError::too_large(format_args!("file is too large: over {max} ({} bytes)", max.0)))
}
