//! A progress bar on stderr, drawn only where a person can see it.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The progress of one run. On anything but a terminal nothing is drawn.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar that has not begun.
    pub fn new(quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let style = ProgressStyle::with_template("{pos}/{len} {wide_bar} {elapsed_precise}, {eta} left")
            .expect("a valid template");
        Self { bar: ProgressBar::with_draw_target(None, target).with_style(style) }
    }

    /// So many items in all, so many of them done before.
    pub fn begin(&self, total: usize, done: usize) {
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        self.bar.reset_eta();
    }

    /// One more item is done.
    pub fn advance(&self) {
        self.bar.inc(1);
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
