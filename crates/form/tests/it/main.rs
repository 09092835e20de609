//! The reader from outside: the grammar, the limits, real clients, and two oracles (itself in other chunks,
//! and multer).

mod boundary;
mod clients;
mod grammar;
mod limits;
mod oracle;
mod split;
mod support;
