//! How far a job has come, on standard error: a bar on a terminal, a line now and then elsewhere, nothing where standard error is for one
//! JSON object.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::Job;
use crate::output::{Format, printable};

const LINE_EVERY: Duration = Duration::from_secs(10);
/// A rate is what was done in this time.
const WINDOW: Duration = Duration::from_secs(20);
const OF_KNOWN_LENGTH: &str = "{bar:20} {percent:>3}%  {wide_msg}";
const OF_UNKNOWN_LENGTH: &str = "{spinner} {elapsed:>4}  {wide_msg}";

pub(super) struct Progress {
    shown: Shown,
    /// When how much was done, of the present pass.
    seen: VecDeque<(Instant, u64)>,
    pass: u32,
}

enum Shown {
    Bar(ProgressBar),
    Lines { next: Instant },
    Nothing,
}

impl Progress {
    pub(super) fn new(format: Format) -> Self {
        let shown = match (io::stderr().is_terminal(), format) {
            (true, _) => Shown::Bar(styled(ProgressBar::new_spinner(), OF_UNKNOWN_LENGTH)),
            (false, Format::Text) => Shown::Lines { next: Instant::now() },
            (false, Format::Json) => Shown::Nothing,
        };
        Self { shown, seen: VecDeque::new(), pass: 0 }
    }

    pub(super) fn show(&mut self, job: &Job) {
        let now = Instant::now();
        let is_new_pass = job.pass != self.pass;
        if is_new_pass {
            self.pass = job.pass;
            self.seen.clear();
        }
        self.seen.push_back((now, job.done));
        while self.seen.front().is_some_and(|(at, _)| now - *at > WINDOW) {
            self.seen.pop_front();
        }
        let text = told(job, self.rate());
        match &mut self.shown {
            Shown::Bar(bar) => {
                if is_new_pass && job.total > 0 {
                    bar.finish_and_clear();
                    *bar = styled(ProgressBar::new(job.total), OF_KNOWN_LENGTH);
                }
                bar.set_position(job.done);
                bar.set_message(text);
                bar.tick();
            }
            Shown::Lines { next } if *next <= now => {
                *next = now + LINE_EVERY;
                line(&text);
            }
            Shown::Lines { .. } | Shown::Nothing => {}
        }
    }

    /// Why nothing is known of it now.
    pub(super) fn trouble(&self, text: &str) {
        let text = format!("trying again: {}", printable(text));
        match &self.shown {
            Shown::Bar(bar) => {
                bar.set_message(text);
                bar.tick();
            }
            Shown::Lines { .. } => line(&text),
            Shown::Nothing => {}
        }
    }

    /// Leaves the terminal as it was.
    pub(super) fn end(&self) {
        match &self.shown {
            Shown::Bar(bar) => bar.finish_and_clear(),
            Shown::Lines { .. } | Shown::Nothing => {}
        }
    }

    /// Things a second.
    fn rate(&self) -> Option<f64> {
        let ((first, before), (last, after)) = (self.seen.front()?, self.seen.back()?);
        let seconds = (*last - *first).as_secs_f64();
        (seconds > 0.5).then(|| after.saturating_sub(*before) as f64 / seconds)
    }
}

fn told(job: &Job, rate: Option<f64>) -> String {
    let mut text = format!("pass {}: ", job.pass);
    if job.waiting {
        return text + "waiting " + &job.waits_for();
    }
    text += &job.so_far();
    if let Some(rate) = rate.filter(|rate| *rate > 0.0) {
        text += &format!(", {rate:.0}/s");
        if let Some(left) = job.total.checked_sub(job.done).filter(|left| *left > 0) {
            text += &format!(", {} left", span(left as f64 / rate));
        }
    }
    text + &format!(", {} changed, {} failed", job.changed, job.failed)
}

fn span(seconds: f64) -> String {
    match seconds.ceil() as u64 {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

fn line(text: &str) {
    // If standard error is closed, nobody watches.
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use triseal::grpc::v1;

    use super::*;

    #[test]
    fn the_templates_are_right() {
        for template in [OF_KNOWN_LENGTH, OF_UNKNOWN_LENGTH] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }

    #[test]
    fn it_tells_the_rate_what_is_left_and_what_it_waits_for() {
        let kind = v1::JobKind::Reencryption.into();
        let job = v1::Job { pass: 2, total: 5_000, done: 2_000, changed: 7, failed: 1, kind, ..v1::Job::default() };
        let waiting = Job::from(v1::Job { waiting: true, ..job.clone() });
        let target_kms_key_arn = "arn:new".to_owned();
        let moving = Job::from(v1::Job { waiting: true, pass: 1, target_kms_key_arn, ..v1::Job::default() });
        let job = Job::from(job);
        assert_eq!(
            told(&moving, None),
            "pass 1: waiting until every replica wraps with arn:new (triseal replicas --output json tells which do not)"
        );
        assert_eq!(told(&job, Some(100.0)), "pass 2: 2000 of 5000 records, 100/s, 30 s left, 7 changed, 1 failed");
        assert_eq!(told(&job, None), "pass 2: 2000 of 5000 records, 7 changed, 1 failed");
        assert_eq!(told(&waiting, Some(1.0)), "pass 2: waiting until every replica has seen the target");
        assert_eq!([span(0.2), span(119.0), span(600.0), span(100_000.0)], ["1 s", "119 s", "10 min", "27 h"]);
    }
}
