//! What a job is, and what comes next for it: pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::record::JobId;
use super::replicas::Replica;
use crate::crypto::Lineage;
use crate::ids::{CredentialRef, CustomerId};
use crate::vault::Target;

/// Failures that a part names. Those beyond are counted.
const MAX_FAILURES: usize = 100;
/// What a replica that did not know the target may have under way, once it knows it: a call has 10 s at most.
const UNDER_WAY: SignedDuration = SignedDuration::from_secs(15);
/// How soon it is looked again whether every replica seals at the target.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(10);
/// A lease that was not renewed for so long is anybody's.
pub(super) const LEASE: SignedDuration = SignedDuration::from_secs(30);

/// What a job does to every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Seals it anew, if it is below the target.
    Reencryption,
    /// Counts the versions that it is sealed under.
    Count,
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Replicas work on it.
    Running,
    /// A whole pass found nothing left to do.
    Done,
    /// The same, but for records that failed.
    DoneWithFailures,
    /// Somebody ended it.
    Cancelled,
}

/// Long work on every record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// How far it has come.
    pub state: JobState,
    /// Only this customer's records.
    pub customer: Option<CustomerId>,
    /// Fixed when it started.
    pub target: Target,
    /// Records a second, at most, of all replicas together.
    pub rate: Option<u32>,
    /// Passes, from 1.
    pub pass: u32,
    /// When this pass began.
    pub pass_time: Timestamp,
    /// Into how many parts each pass is cut.
    pub parts: u32,
    /// Records that the pass before saw. 0 in the first.
    pub total: u64,
    /// Records that earlier passes changed.
    pub changed: u64,
    /// When it was started.
    pub create_time: Timestamp,
    /// When it last came to another pass or state.
    pub update_time: Timestamp,
}

/// How far one part of a pass has come, or a whole pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records that were looked at.
    pub done: u64,
    /// Records that were changed.
    pub changed: u64,
    /// Records with nothing to do.
    pub skipped: u64,
    /// Records that could not be done.
    pub failed: u64,
    /// The first of them.
    pub failures: Vec<Failure>,
    /// Records under each version of each factor: in a [`JobKind::Count`].
    pub counts: BTreeMap<VersionCount, u64>,
}

/// A version of a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VersionCount {
    /// Of the key in the binary.
    Codebase(u32),
    /// Of the deployment's key.
    Environment(u32),
    /// Of customers' keys: each customer's versions count from 1.
    Customer(u32),
}

/// A record that a job could not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub id: CredentialRef,
    /// The reason, as the service's errors have it.
    pub reason: String,
}

/// One part of a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// Who works on it.
    pub(super) holder: String,
    /// Until when.
    pub(super) lease_time: Option<Timestamp>,
    /// The last record that is done.
    pub(super) after: Option<CredentialRef>,
    /// Whether all of them are.
    pub(super) is_done: bool,
    pub(super) progress: Progress,
}

impl Part {
    /// Whether nobody works on it, and there is work.
    pub(super) fn is_free(&self, now: Timestamp) -> bool {
        !self.is_done && self.lease_time.is_none_or(|time| time <= now)
    }
}

impl Progress {
    pub(super) fn fails(&mut self, id: CredentialRef, reason: &str) {
        self.failed += 1;
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(Failure { id, reason: reason.to_owned() });
        }
    }

    pub(super) fn counts(&mut self, lineage: Lineage) {
        for version in [
            VersionCount::Codebase(lineage.codebase.get()),
            VersionCount::Environment(lineage.environment.get()),
            VersionCount::Customer(lineage.customer.get()),
        ] {
            *self.counts.entry(version).or_default() += 1;
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.changed += other.changed;
        self.skipped += other.skipped;
        self.failed += other.failed;
        let room = MAX_FAILURES.saturating_sub(self.failures.len());
        self.failures.extend(other.failures.iter().take(room).cloned());
        for (version, count) in &other.counts {
            *self.counts.entry(*version).or_default() += count;
        }
    }
}

/// The job after a pass of which every part is done. `everybody_since`: since when every replica seals at the target, if it does.
/// `customer_staleness`: for how long a replica may believe that an older version of a customer's key is the primary.
pub(super) fn after_pass(
    job: &Job,
    pass: &Progress,
    everybody_since: Option<Timestamp>,
    customer_staleness: SignedDuration,
    now: Timestamp,
) -> Job {
    // From then on nothing is sealed below the target any more, on any replica.
    let settled = everybody_since.map(|since| {
        let known = since.max(job.create_time.saturating_add(customer_staleness).unwrap_or(Timestamp::MAX));
        known.saturating_add(UNDER_WAY).unwrap_or(Timestamp::MAX)
    });
    let is_last = match job.kind {
        JobKind::Count => true,
        JobKind::Reencryption => pass.changed == 0 && settled.is_some_and(|settled| settled <= job.pass_time),
    };
    let changed = job.changed + pass.changed;
    let next = Job { changed, total: pass.done, update_time: now, ..job.clone() };
    match (is_last, pass.failed) {
        (true, 0) => Job { state: JobState::Done, ..next },
        (true, _) => Job { state: JobState::DoneWithFailures, ..next },
        (false, _) => {
            // A pass before that could not be the last one.
            let wait = || now.saturating_add(LOOK_AGAIN).unwrap_or(Timestamp::MAX);
            Job { pass: job.pass + 1, pass_time: settled.unwrap_or_else(wait).max(now), ..next }
        }
    }
}

/// Since when every replica seals at the target or above, as far as they have reported. `None`: some does not, or nobody knows.
pub(super) fn everybody_since(replicas: &[Replica], target: Target, now: Timestamp) -> Option<Timestamp> {
    let living = replicas.iter().filter(|replica| replica.is_alive(now));
    let mut latest = None;
    for replica in living {
        let (codebase, environment) = replica.primaries?;
        if codebase < target.codebase || environment < target.environment {
            return None;
        }
        latest = latest.max(Some(replica.primaries_since));
    }
    latest
}
