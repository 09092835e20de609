//! The bar on stderr: how far, how fast, how long still.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::printer::Printer;
use crate::text::escape;

/// Longest name beside the bar, in characters.
const NAME_CHARS_MAX: usize = 32;

/// A bar for `length` bytes, or a counter when the length is unknown. Drawn only on a terminal
/// and only for people; it erases itself at the end.
pub(crate) fn bar(printer: &Printer, name: &str, length: Option<u64>) -> Bar {
    if !printer.shows_progress() {
        return Bar(ProgressBar::hidden());
    }
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    let template = if length.is_some() {
        "{msg} [{bar:24}] {binary_bytes} / {binary_total_bytes}  {binary_bytes_per_sec}  ETA {eta}"
    } else {
        "{msg} {spinner} {binary_bytes}  {binary_bytes_per_sec}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    let mut shown = escape(name);
    if let Some((end, _)) = shown.char_indices().nth(NAME_CHARS_MAX) {
        shown.truncate(end);
        shown.push('…');
    }
    bar.set_message(shown);
    Bar(bar)
}

/// Erased when dropped.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// A handle for whoever reports how far it is.
    pub(crate) fn handle(&self) -> ProgressBar {
        self.0.clone()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
