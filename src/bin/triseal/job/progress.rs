//! What is said of a job while it is watched: how far it has come, how fast it goes, and how long it still takes.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{Done, Job};
use crate::output::Format;
use crate::progress::{Progress, TimeLeft};

/// A rate is what was done in this time.
const WINDOW: Duration = Duration::from_secs(20);

pub(super) struct Watched {
    progress: Progress,
    /// When how much was done, of the present pass.
    seen: VecDeque<(Instant, u64)>,
    pass: u32,
}

impl Watched {
    pub(super) fn new(format: Format) -> Self {
        Self { progress: Progress::new(None, TimeLeft::Text, format), seen: VecDeque::new(), pass: 0 }
    }

    pub(super) fn show(&mut self, job: &Job) {
        let Some(done) = job.progress.as_ref().map(|done| done.done) else { return };
        let now = Instant::now();
        let is_new_pass = job.pass != self.pass;
        if is_new_pass {
            self.pass = job.pass;
            self.seen.clear();
            if job.total > 0 {
                self.progress.restart(job.total);
            }
        }
        self.seen.push_back((now, done));
        while self.seen.front().is_some_and(|(at, _)| now - *at > WINDOW) {
            self.seen.pop_front();
        }
        let rate = self.rate();
        if is_new_pass {
            self.progress.say(&told(job, rate));
        }
        self.progress.show(done, || told(job, rate));
    }

    /// Why nothing is known of it now.
    pub(super) fn trouble(&self, text: &str) {
        self.progress.say(&format!("trying again: {text}"));
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
    let Some(Done { done, changed, failed, due, .. }) = &job.progress else { return text };
    text += &job.so_far().unwrap_or_default();
    if let Some(rate) = rate.filter(|rate| *rate > 0.0) {
        text += &format!(", {rate:.0}/s");
        if let Some(left) = job.total.checked_sub(*done).filter(|left| *left > 0) {
            text += &format!(", {} left", span(left as f64 / rate));
        }
    }
    match due {
        Some(due) => text + &format!(", {due} due, {failed} failed"),
        None => text + &format!(", {changed} changed, {failed} failed"),
    }
}

fn span(seconds: f64) -> String {
    match seconds.ceil() as u64 {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use triseal::grpc::v1;

    use super::*;

    #[test]
    fn it_tells_the_rate_what_is_left_and_what_it_waits_for() {
        let kind = v1::JobKind::Reencryption.into();
        let job = v1::Job { pass: 2, total: 5_000, done: 2_000, changed: 7, failed: 1, kind, ..v1::Job::default() };
        let waiting = Job::from(v1::Job { waiting: true, ..job.clone() });
        let kind = v1::JobKind::Rewrap.into();
        let dry = Job::from(v1::Job { dry_run: true, kind, due: 1_990, changed: 0, total: 0, ..job.clone() });
        let target_kms_key_arn = "arn:new".to_owned();
        let moving = Job::from(v1::Job { waiting: true, pass: 1, target_kms_key_arn, ..v1::Job::default() });
        let job = Job::from(job);
        assert_eq!(
            told(&moving, None),
            "pass 1: waiting until every replica wraps with arn:new (triseal replicas --output json tells which do not)"
        );
        assert_eq!(told(&job, Some(100.0)), "pass 2: 2000 of 5000 records, 100/s, 30 s left, 7 changed, 1 failed");
        assert_eq!(told(&job, None), "pass 2: 2000 of 5000 records, 7 changed, 1 failed");
        assert_eq!(told(&dry, None), "pass 2: 2000 customers, 1990 due, 1 failed");
        assert_eq!(told(&waiting, Some(1.0)), "pass 2: waiting until every replica has seen the target");
        assert_eq!([span(0.2), span(119.0), span(600.0), span(100_000.0)], ["1 s", "119 s", "10 min", "27 h"]);
    }
}
