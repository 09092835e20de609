//! Stages 1 to 3: what the lists say, by looking at the bytes. Blocks; runs on its own thread.

use std::io::{BufReader, Read as _};
use std::sync::Arc;
use std::time::Instant;

use filegate_media::Format;
use filegate_types::units::Bytes;
use filegate_types::{AccountId, ApiError, ErrorCode};

use super::lists::Lists;
use super::terms::Terms;
use super::{Course, What, image, refused};
use crate::app::App;
use crate::http::reply::store_failed;
use crate::intake::{Source, Spool};

/// Bytes of a text read at a time.
const PIECE_BYTES: usize = 64 << 10;

/// What is to be looked at.
struct Look {
    lists: Arc<Lists>,
    format: Format,
    filename: String,
    distance: u32,
    memory_max: Bytes,
}

/// Holds the file against the lists.
pub(super) async fn check(
    app: &Arc<App>,
    account: AccountId,
    spool: Spool,
    what: What<'_>,
    course: &mut Course,
) -> Result<Spool, ApiError> {
    let lists = app.moderation.lists.current(app).await?;
    let format = what.format()?;
    let looks_at_image = lists.has_images() && image::is_hashed(format);
    if !lists.has_files() && !looks_at_image && lists.terms.is_none() {
        return Ok(spool);
    }
    let look = Look {
        lists,
        format,
        filename: what.filename.to_owned(),
        distance: app.config.moderation.image_distance,
        memory_max: app.config.moderation.image_memory_max,
    };
    let image_place = if looks_at_image {
        let place = Arc::clone(&app.moderation.images).acquire_owned().await;
        Some(place.map_err(|_closed| ErrorCode::Internal)?)
    } else {
        None
    };
    let turn = app.gate.turn(account).await?;
    let mut so_far = std::mem::take(course);
    let work = app.tasks.blocking(move || {
        let (_image_place, _turn) = (image_place, turn);
        let mut spool = spool;
        look.at(&mut spool, &mut so_far).map(|()| (spool, so_far))
    });
    let (spool, so_far) = work.await.map_err(|_panic| ErrorCode::Unknown)??;
    *course = so_far;
    Ok(spool)
}

impl Look {
    fn at(&self, spool: &mut Spool, course: &mut Course) -> Result<(), ApiError> {
        let since = Instant::now();
        if self.lists.has_files() {
            if let Some(entry) = self.lists.file(&spool.sha256()) {
                return Err(refused("sha256", Some(entry), since, "the file is blocked"));
            }
            course.note("sha256", "passed", since, None);
        }
        if self.lists.has_images() && image::is_hashed(self.format) {
            self.at_image(spool, course)?;
        }
        if let Some(terms) = &self.lists.terms {
            let since = Instant::now();
            if let Some(entry) = terms.find(&self.filename) {
                let told = "the file name has a blocked term";
                return Err(refused("term", Some(entry), since, told));
            }
            if let Some(entry) = self.term_in(terms, spool)? {
                let told = "the text has a blocked term";
                return Err(refused("term", Some(entry), since, told));
            }
            course.note("term", "passed", since, None);
        }
        Ok(())
    }

    fn at_image(&self, spool: &mut Spool, course: &mut Course) -> Result<(), ApiError> {
        let since = Instant::now();
        let source = spool.source().map_err(|error| store_failed(&error))?;
        match image::hash(BufReader::new(source), self.memory_max) {
            Ok(hash) => {
                if let Some(entry) = self.lists.image(hash, self.distance) {
                    let told = "the picture is blocked, or resembles one that is";
                    return Err(refused("image", Some(entry), since, told));
                }
                course.note("image", "passed", since, None);
            }
            // The probe has taken it for whole; what only our decoder cannot read is let through.
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "moderation.image.failed");
                let why = match error {
                    image::ImageHashError::TooLarge => "too_large",
                    _ => "undecodable",
                };
                course.note("image", "not_asked", since, Some(why.to_owned()));
            }
        }
        Ok(())
    }

    fn term_in(&self, terms: &Terms, spool: &mut Spool) -> Result<Option<i64>, ApiError> {
        let mut source = spool.source().map_err(|error| store_failed(&error))?;
        match self.format {
            Format::Txt | Format::Markdown | Format::Csv => in_text(terms, &mut source, false),
            Format::Json | Format::Jsonl => in_text(terms, &mut source, true),
            Format::Zip => in_archive(terms, &mut source),
            _ => Ok(None),
        }
    }
}

fn in_text(terms: &Terms, source: &mut Source<'_>, json: bool) -> Result<Option<i64>, ApiError> {
    let mut reader = terms.reader(json);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let n = source.read(&mut piece).map_err(|error| unreadable(&error))?;
        let Some(read) = piece.get(..n).filter(|read| !read.is_empty()) else {
            return Ok(reader.finish());
        };
        if let Some(entry) = reader.push(read) {
            return Ok(Some(entry));
        }
    }
}

fn in_archive(terms: &Terms, source: &mut Source<'_>) -> Result<Option<i64>, ApiError> {
    let mut found = None;
    let mut current: Option<(usize, super::terms::TermReader<'_>)> = None;
    let limits = filegate_media::Limits::default();
    filegate_media::archived_texts(source, &limits, &mut |text| {
        if current.as_ref().is_none_or(|(number, _)| *number != text.number) {
            let ended = current.replace((text.number, terms.reader(text.json)));
            found = found.or_else(|| ended.and_then(|(_, reader)| reader.finish()));
        }
        if let Some((_, reader)) = &mut current {
            found = found.or_else(|| reader.push(text.piece));
        }
        found.is_none()
    })
    .map_err(|error| match error {
        filegate_media::ProbeError::Io(error) => unreadable(&error),
        // The probe has read it whole.
        other => {
            tracing::error!(error = &other as &dyn std::error::Error, "moderation.archive.failed");
            ErrorCode::Unknown.into()
        }
    })?;
    Ok(found.or_else(|| current.and_then(|(_, reader)| reader.finish())))
}

fn unreadable(error: &std::io::Error) -> ApiError {
    tracing::error!(error = error as &dyn std::error::Error, "moderation.read.failed");
    ApiError::plain(ErrorCode::Internal).retry_after(5)
}
