//! The front door, on the real binary over real sockets: accounts, limits, books, moderation, and what
//! operators do.

mod admin;
mod backup;
mod resources;
