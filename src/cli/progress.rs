//! How far a piece of work is, for whoever waits for it: on standard error, as a bar where that is a terminal, else as a line every
//! few seconds. Work that ends at once says nothing.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two lines where there is no terminal.
const LINES_EVERY: Duration = Duration::from_secs(5);
/// Between two frames of a spinner.
const TICK: Duration = Duration::from_millis(100);

/// Whether whoever runs a command wants to see how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Yes.
    Shown,
    /// A program reads what is printed, or they said so.
    Quiet,
}

impl Shown {
    /// Shown, unless this holds.
    pub(super) const fn unless(quiet: bool) -> Self {
        if quiet { Self::Quiet } else { Self::Shown }
    }
}

/// A piece of work under way. It is gone from the terminal once it is dropped.
pub(super) struct Progress {
    bar: ProgressBar,
    unit: &'static str,
    shown: Shown,
    /// When a line was printed last, or the work began.
    said: Cell<Instant>,
}

impl Progress {
    /// Work of so many steps; none: nobody knows how many.
    pub(super) fn of(total: Option<u64>, unit: &'static str, shown: Shown) -> Self {
        let counted = format!("{{wide_bar}} {{human_pos}}/{{human_len}} {unit}, {{eta}} left");
        let uncounted = format!("{{spinner}} {{human_pos}} {unit}, {{elapsed}}");
        let template = if total.is_some() { counted } else { uncounted };
        Self::styled(total, unit, &template, shown)
    }

    /// Reading so many bytes; none: nobody knows how many.
    pub(super) fn of_bytes(total: Option<u64>, shown: Shown) -> Self {
        let template = if total.is_some() {
            "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"
        } else {
            "{spinner} {bytes}, {bytes_per_sec}"
        };
        Self::styled(total, "bytes", template, shown)
    }

    /// Work in named steps, of which nobody knows how long they take.
    pub(super) fn of_steps(shown: Shown) -> Self {
        let progress = Self::styled(None, "", "{spinner} {msg} ({elapsed})", shown);
        progress.bar.enable_steady_tick(TICK);
        progress
    }

    fn styled(total: Option<u64>, unit: &'static str, template: &str, shown: Shown) -> Self {
        let target = match shown {
            Shown::Shown => ProgressDrawTarget::stderr(),
            Shown::Quiet => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(total, target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, unit, shown, said: Cell::new(Instant::now()) }
    }

    /// So much is done.
    pub(super) fn set(&self, done: u64) {
        self.bar.set_position(done);
        self.say(|| match self.bar.length() {
            Some(total) => format!("{done} of {total} {}", self.unit),
            None => format!("{done} {}", self.unit),
        });
    }

    /// So much more is done.
    pub(super) fn inc(&self, more: u64) {
        self.set(self.bar.position().saturating_add(more));
    }

    /// So much there is to do.
    pub(super) fn set_total(&self, total: u64) {
        self.bar.set_length(total);
    }

    /// What is being done.
    pub(super) fn step(&self, what: &'static str) {
        self.bar.set_message(what);
        self.say(|| what.to_owned());
    }

    /// A line for logs of pipelines, not too often.
    fn say(&self, line: impl FnOnce() -> String) {
        let is_due = self.said.get().elapsed() >= LINES_EVERY;
        if is_due && self.shown == Shown::Shown && !std::io::stderr().is_terminal() {
            eprintln!("mainstay: {}", line());
            self.said.set(Instant::now());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
