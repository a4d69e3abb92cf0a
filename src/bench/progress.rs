//! What is seen while it runs: on standard error, and only where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One bar, for the load under way.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Draws nothing where `silent`, or where standard error is no terminal.
    pub(super) fn new(silent: bool) -> Self {
        let target = if silent { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(1000), target);
        let style = ProgressStyle::with_template("{prefix:24.cyan} [{bar:32}] {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        Self(bar)
    }

    /// A load begins.
    pub(super) fn begin(&self, name: &str) {
        self.0.set_prefix(name.to_owned());
        self.0.set_message("");
        self.0.set_position(0);
    }

    /// How many of so many are done.
    pub(super) fn made(&self, done: usize, count: usize) {
        self.0.set_position((done as f64 / count.max(1) as f64 * 1000.0) as u64);
        self.0.set_message(format!("{done} of {count}"));
    }

    /// How far it is.
    pub(super) fn seen(&self, elapsed: Duration, expected: Duration, good: u64, failed: u64) {
        let share = elapsed.as_secs_f64() / expected.as_secs_f64().max(0.001);
        self.0.set_position((share.min(1.0) * 1000.0) as u64);
        let rate = good as f64 / elapsed.as_secs_f64().max(0.001);
        let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        self.0.set_message(format!("{:.1} s, {good} answered, {rate:.0}/s{failures}", elapsed.as_secs_f64()));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
