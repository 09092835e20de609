//! The texts of a zip archive, for those who want to read them.

use super::archive::{Archive, Role, role_in_texts};
use crate::read::Bounded;
use crate::types::{Format, Limits, ProbeError};

/// A piece of a text in an archive. Pieces of one text follow each other.
#[derive(Debug, Clone, Copy)]
pub struct ArchivedText<'a> {
    /// Which text, from 0.
    pub number: usize,
    /// Whether it is JSON; plain text otherwise.
    pub json: bool,
    /// The next bytes. They may end inside a character.
    pub piece: &'a [u8],
}

pub(crate) fn show(
    reader: &mut Bounded<'_>,
    limits: &Limits,
    visit: &mut dyn FnMut(ArchivedText<'_>) -> bool,
) -> Result<(), ProbeError> {
    let archive = Archive::read(reader, Format::Zip, limits, role_in_texts)?;
    let mut budget = archive.budget(reader, limits)?;
    let texts = archive.entries.iter().filter(|e| matches!(e.role, Role::Txt | Role::Json));
    for (number, entry) in texts.enumerate() {
        let json = entry.role == Role::Json;
        let mut more = true;
        archive.expand(reader, entry, &mut budget, &mut |piece| {
            more = more && visit(ArchivedText { number, json, piece });
            Ok(())
        })?;
        if !more {
            break;
        }
    }
    Ok(())
}
