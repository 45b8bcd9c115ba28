//! A bar for what takes long while loading: on stderr, and only where that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that counts bytes, and vanishes when dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// A bar of `bytes` named after what is done.
    pub(super) fn new(what: &str, bytes: u64) -> Self {
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} ({eta})");
        let bar = ProgressBar::new(bytes).with_message(what.to_string());
        bar.set_style(style.expect("the template is valid"));
        Self(bar)
    }

    /// So many more bytes are done.
    pub(super) fn advance(&self, bytes: usize) {
        self.0.inc(bytes as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
