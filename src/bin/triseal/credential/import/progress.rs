//! How far an import has come, on standard error: a bar on a terminal, a line now and then elsewhere, nothing where standard error is
//! for one JSON object.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::report::Report;
use crate::output::{Format, printable};

const BAR_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(10);
const OF_A_FILE: &str = "{bar:20} {percent:>3}%  {eta:>4}  {wide_msg}";
const OF_A_PIPE: &str = "{spinner} {elapsed:>4}  {wide_msg}";

pub(super) struct Progress {
    shown: Shown,
    every: Interval,
    /// How much of the input has been done with.
    octets: u64,
}

enum Shown {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

impl Progress {
    pub(super) fn new(input: &File, format: Format) -> Self {
        let (shown, every) = match (io::stderr().is_terminal(), format) {
            (true, _) => (Shown::Bar(bar(length(input))), BAR_EVERY),
            (false, Format::Text) => (Shown::Lines, LINE_EVERY),
            (false, Format::Json) => (Shown::Nothing, LINE_EVERY),
        };
        let mut every = interval_at(Instant::now() + every, every);
        every.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self { shown, every, octets: 0 }
    }

    /// So much of the input has been done with.
    pub(super) fn reached(&mut self, octets: u64) {
        self.octets = self.octets.max(octets);
    }

    /// Until it is time to show it again.
    pub(super) async fn due(&mut self) {
        self.every.tick().await;
    }

    /// Shows how far it has come, and why it does not go on.
    pub(super) fn show(&self, report: &Report, trouble: Option<&str>) {
        let trouble = trouble.map(|trouble| format!("; trying again: {}", printable(trouble))).unwrap_or_default();
        let text = format!("so far {}{trouble}", report.so_far());
        match &self.shown {
            Shown::Bar(bar) => {
                bar.set_position(self.octets);
                bar.set_message(text);
                bar.tick();
            }
            // If standard error is closed, nobody watches.
            Shown::Lines => drop(io::stderr().write_all((text + "\n").as_bytes())),
            Shown::Nothing => {}
        }
    }

    /// Leaves the terminal as it was.
    pub(super) fn end(&self) {
        match &self.shown {
            Shown::Bar(bar) => bar.finish_and_clear(),
            Shown::Lines | Shown::Nothing => {}
        }
    }
}

/// Of a file whose end is known.
fn length(input: &File) -> Option<u64> {
    input.metadata().ok().filter(std::fs::Metadata::is_file).map(|about| about.len()).filter(|length| *length > 0)
}

fn bar(length: Option<u64>) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), OF_A_FILE),
        None => (ProgressBar::new_spinner(), OF_A_PIPE),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_right() {
        for template in [OF_A_FILE, OF_A_PIPE] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
