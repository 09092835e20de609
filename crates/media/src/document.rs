//! Documents: JSON, JSON lines, PDF and docx. What is checked is that a file is whole and of its
//! kind, not what is in it.
//!
//! - json: one value in UTF-8, at most 128 levels deep; a byte order mark is tolerated.
//! - jsonl: one value on each line that is not blank, and at least one (jsonlines.org).
//! - pdf: `%PDF-` within the first 1024 bytes and `%%EOF` within the last 2048. ISO 32000-1 §7.5.2
//!   and §7.5.5 want them first and last; Acrobat allows 1024 bytes before and after (Adobe's
//!   implementation notes 13 and 18), and signing services and scanners append more.
//! - docx: a zip with `[Content_Types].xml` (ECMA-376 part 2 §10.1.2.2) and `word/document.xml`, which
//!   expand and match their checksums. Files with another main part (allowed, never met) are refused.

pub(crate) mod json;

use json::Json;

use crate::read::Bounded;
use crate::sniff::{HEAD_BYTES, sniff};
use crate::text::{Archive, Role, Utf8Count, feed, refuse_other_formats};
use crate::types::{Format, Limits, MediaInfo, ProbeError, grouped};

/// Where `%PDF-` may begin.
const PDF_HEAD_BYTES: usize = 1024;

/// How far from the end `%%EOF` may be.
const PDF_TAIL_BYTES: usize = 2048;

pub(crate) fn probe(
    reader: &mut Bounded<'_>,
    format: Format,
    limits: &Limits,
) -> Result<MediaInfo, ProbeError> {
    match format {
        Format::Json => check_json(reader)?,
        Format::Jsonl => check_jsonl(reader)?,
        Format::Docx => check_docx(reader, limits)?,
        _ => check_pdf(reader)?,
    }
    Ok(MediaInfo::new(format))
}

fn skip_mark(reader: &mut Bounded<'_>) -> Result<(), ProbeError> {
    if reader.peek(3)? == [0xEF, 0xBB, 0xBF] {
        reader.skip(3);
    }
    Ok(())
}

fn check_json(reader: &mut Bounded<'_>) -> Result<(), ProbeError> {
    const FORMAT: Format = Format::Json;
    refuse_other_formats(reader, FORMAT)?;
    skip_mark(reader)?;
    let (mut text, mut json) = (Utf8Count::default(), Json::default());
    feed(reader, |piece| {
        text.push(piece).map_err(|fault| fault.refusal(FORMAT, ""))?;
        json.push(piece).map_err(|why| ProbeError::undecodable(FORMAT, why))
    })?;
    if json.is_inside() {
        return Err(ProbeError::truncated(FORMAT, "it ends inside a value"));
    }
    text.finish().map_err(|fault| fault.refusal(FORMAT, ""))?;
    json.finish().map_err(|why| ProbeError::undecodable(FORMAT, why))
}

fn check_jsonl(reader: &mut Bounded<'_>) -> Result<(), ProbeError> {
    const FORMAT: Format = Format::Jsonl;
    refuse_other_formats(reader, FORMAT)?;
    skip_mark(reader)?;
    let (mut text, mut json) = (Utf8Count::default(), Json::default());
    let (mut line, mut values) = (1_u64, 0_u64);
    let wrong = |line: u64, why: &str| {
        ProbeError::undecodable(FORMAT, format!("line {}: {why}", grouped(line)))
    };
    feed(reader, |piece| {
        text.push(piece).map_err(|fault| fault.refusal(FORMAT, ""))?;
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let (content, ends) = match part {
                [content @ .., b'\n'] => (content, true),
                _ => (part, false),
            };
            json.push(content).map_err(|why| wrong(line, &why))?;
            if ends {
                if !json.is_blank() {
                    json.finish().map_err(|why| wrong(line, &why))?;
                    values += 1;
                }
                line += 1;
                json = Json::default();
            }
        }
        Ok(())
    })?;
    if json.is_inside() {
        let detail = format!("line {} ends inside a value", grouped(line));
        return Err(ProbeError::truncated(FORMAT, detail));
    }
    text.finish().map_err(|fault| fault.refusal(FORMAT, ""))?;
    if values == 0 && json.is_blank() {
        return Err(ProbeError::undecodable(FORMAT, "there is no json value"));
    }
    Ok(())
}

fn check_pdf(reader: &mut Bounded<'_>) -> Result<(), ProbeError> {
    const FORMAT: Format = Format::Pdf;
    const HEADER: &[u8] = b"%PDF-";
    const END: &[u8] = b"%%EOF";
    let found = sniff(reader.peek(HEAD_BYTES)?);
    let head = reader.peek(PDF_HEAD_BYTES + HEADER.len())?;
    if memchr::memmem::find(head, HEADER).is_none() {
        return Err(ProbeError::Mismatch { expected: FORMAT, found });
    }
    reader.seek_to(reader.len().saturating_sub(PDF_TAIL_BYTES as u64));
    if memchr::memmem::find(reader.peek(PDF_TAIL_BYTES)?, END).is_none() {
        return Err(ProbeError::truncated(FORMAT, "there is no end-of-file marker"));
    }
    Ok(())
}

fn check_docx(reader: &mut Bounded<'_>, limits: &Limits) -> Result<(), ProbeError> {
    const FORMAT: Format = Format::Docx;
    let archive = Archive::read(reader, FORMAT, limits, |name| match name {
        b"[Content_Types].xml" => Role::ContentTypes,
        b"word/document.xml" => Role::WordDocument,
        _ => Role::Other,
    })?;
    // XML repeats itself more than a bomb's threshold for texts allows, so only the bytes count.
    let mut budget = limits.zip_bytes_max;
    for role in [Role::ContentTypes, Role::WordDocument] {
        let Some(entry) = archive.entries.iter().find(|entry| entry.role == role) else {
            return Err(ProbeError::Mismatch { expected: FORMAT, found: Some(Format::Zip) });
        };
        archive.expand(reader, entry, &mut budget, &mut |_| Ok(()))?;
    }
    Ok(())
}
