//! The progress of a run on stderr: a bar on a terminal, now and then a line elsewhere.

use std::cell::Cell;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Without a terminal a line is printed whenever another such part of the run is done.
const PARTS: u64 = 10;

/// The progress of one run.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    quiet: bool,
    /// How many parts were done when a line was printed last.
    printed: Cell<u64>,
}

impl Progress {
    /// A bar that has not begun.
    pub fn new(quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let style = ProgressStyle::with_template("{pos}/{len} {wide_bar} {elapsed_precise}, {eta} left")
            .expect("a valid template");
        Self { bar: ProgressBar::with_draw_target(None, target).with_style(style), quiet, printed: Cell::new(0) }
    }

    /// So many items in all, so many of them done before.
    pub fn begin(&self, total: usize, done: usize) {
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        self.bar.reset_eta();
        self.printed.set(self.parts());
    }

    /// One more item is done.
    pub fn advance(&self) {
        self.bar.inc(1);
        let parts = self.parts();
        if !self.quiet && self.bar.is_hidden() && parts > self.printed.replace(parts) {
            eprintln!("{}/{}", self.bar.position(), self.bar.length().unwrap_or_default());
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn parts(&self) -> u64 {
        PARTS * self.bar.position() / self.bar.length().unwrap_or_default().max(1)
    }
}
