//! The walks, on real files made by ffmpeg and on what is left of them after damage.

mod audio;
mod containers;
mod support;
mod texts;
