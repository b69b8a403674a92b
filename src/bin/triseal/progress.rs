//! How far long work has come, on standard error: a bar on a terminal, a line now and then elsewhere, nothing where standard error is for
//! one JSON object. What the text says is its caller's.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::output::{Format, printable};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// Taken away when it is dropped.
pub(crate) struct Progress {
    shown: Shown,
    left: TimeLeft,
}

enum Shown {
    Bar(ProgressBar),
    Lines { next: Instant },
    Nothing,
}

/// Who says how long it still takes.
#[derive(Clone, Copy)]
pub(crate) enum TimeLeft {
    Bar,
    Text,
}

impl Progress {
    /// `length`: how much there is to do, where that is known.
    pub(crate) fn new(length: Option<u64>, left: TimeLeft, format: Format) -> Self {
        let shown = match (io::stderr().is_terminal(), format) {
            (true, _) => Shown::Bar(bar(length, left)),
            (false, Format::Text) => Shown::Lines { next: Instant::now() + LINE_EVERY },
            (false, Format::Json) => Shown::Nothing,
        };
        Self { shown, left }
    }

    /// The same from the start, of another length.
    pub(crate) fn restart(&mut self, length: u64) {
        if let Shown::Bar(shown) = &mut self.shown {
            shown.finish_and_clear();
            *shown = bar(Some(length), self.left);
        }
    }

    /// Shows how much is done; where there are lines, if it is time for one.
    pub(crate) fn show(&mut self, done: u64, text: impl FnOnce() -> String) {
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(text());
                bar.tick();
            }
            Shown::Lines { next } if *next <= Instant::now() => {
                *next = Instant::now() + LINE_EVERY;
                line(&text());
            }
            Shown::Lines { .. } | Shown::Nothing => {}
        }
    }

    /// Says something now.
    pub(crate) fn say(&self, text: &str) {
        match &self.shown {
            Shown::Bar(bar) => {
                bar.set_message(printable(text));
                bar.tick();
            }
            Shown::Lines { .. } => line(text),
            Shown::Nothing => {}
        }
    }
}

/// Leaves the terminal as it was.
impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

/// A line on standard error. If that is closed, nobody watches, and the work goes on.
pub(crate) fn line(text: &str) {
    let _ = io::stderr().write_all(format!("{}\n", printable(text)).as_bytes());
}

fn template(length: Option<u64>, left: TimeLeft) -> &'static str {
    match (length, left) {
        (Some(_), TimeLeft::Bar) => "{bar:20} {percent:>3}%  {eta:>4}  {wide_msg}",
        (Some(_), TimeLeft::Text) => "{bar:20} {percent:>3}%  {wide_msg}",
        (None, _) => "{spinner} {elapsed:>4}  {wide_msg}",
    }
}

fn bar(length: Option<u64>, left: TimeLeft) -> ProgressBar {
    let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    match ProgressStyle::with_template(template(length, left)) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_right() {
        for left in [TimeLeft::Bar, TimeLeft::Text] {
            for length in [Some(1), None] {
                assert!(ProgressStyle::with_template(template(length, left)).is_ok());
            }
        }
    }
}
