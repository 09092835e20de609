//! Calls that are upstream's to answer, on a channel.

pub(crate) mod calls;
pub mod json;
pub(crate) mod refuse;
