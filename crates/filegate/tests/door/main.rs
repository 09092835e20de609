//! The front door: what is asked before a file is taken.

mod moderation;
mod moderation_kit;
mod moderation_services;
