//! What a job is, and what comes next for it: pure.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use jiff::{SignedDuration, Timestamp};

use super::record::JobId;
use super::replicas::Replica;
use crate::crypto::{Lineage, Version};
use crate::ids::{Caller, CredentialId, CustomerId};
use crate::vault::Target;

/// Failures that a part names. Those beyond are counted.
const MAX_FAILURES: usize = 100;
/// Different versions of each factor that are counted. A customer has no more; there are more only if somebody edits headers.
const MAX_COUNTS: usize = 1_000;
/// Why a record fails whose version finds no room. That nothing is counted under a version must mean that nothing is there.
const UNCOUNTED: &str = "UNCOUNTED";
/// A call of a replica that did not know the target has ended so long after it knows it: it has 10 s at most. Less than a retirement waits
/// for ([`UNDER_WAY`](crate::factors::rotation::UNDER_WAY)): what a job misses, the walk before that finds.
const CALLS_END: SignedDuration = SignedDuration::from_secs(15);
/// How far two replicas' clocks may be apart: a version that was made before a job began counts as its target, whoever made it.
const CLOCKS: SignedDuration = SignedDuration::from_secs(5);
/// A lease that was not renewed for so long is anybody's.
pub(super) const LEASE: SignedDuration = SignedDuration::from_secs(30);

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobKind {
    /// Seals every record anew that is below the target. As a dry run: counts the versions that records are sealed under.
    Reencryption,
    /// Rotates every customer's key.
    CustomerKeyRotation,
    /// Wraps every customer's keys under another KMS key.
    Rewrap,
}

impl JobKind {
    /// Each once.
    pub const ALL: [Self; 3] = [Self::Reencryption, Self::CustomerKeyRotation, Self::Rewrap];
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Replicas work on it.
    Running,
    /// A whole pass found nothing left to do.
    Done,
    /// The same, but for what failed.
    DoneWithFailures,
    /// Somebody ended it.
    Cancelled,
}

/// Long work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// It writes nothing, and tells what there is to do.
    pub dry_run: bool,
    /// How far it has come.
    pub state: JobState,
    /// Who started it.
    pub caller: Caller,
    /// Only this customer's.
    pub customer: Option<CustomerId>,
    /// The primaries of codebase and environment key when it started.
    pub primaries: (Version, Version),
    /// What customer keys were wrapped with when it started.
    pub wraps_with: String,
    /// Records a second, at most, of all replicas together.
    pub rate: Option<NonZeroU32>,
    /// Passes, from 1.
    pub pass: u32,
    /// When this pass began. `None`: it waits until every replica has seen the target, or wraps with it.
    pub pass_time: Option<Timestamp>,
    /// Into how many parts each pass is cut.
    pub parts: u32,
    /// What the pass before met. 0 in the first.
    pub total: u64,
    /// What earlier passes changed.
    pub changed: u64,
    /// When it was started.
    pub create_time: Timestamp,
    /// When it last came to another pass or state.
    pub update_time: Timestamp,
}

/// How far one part of a pass has come, or a whole pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What was looked at.
    pub done: u64,
    /// Of that, what was changed.
    pub changed: u64,
    /// What needed no change.
    pub skipped: u64,
    /// What could not be done.
    pub failed: u64,
    /// The first of that.
    pub failures: Vec<Failure>,
    /// Records under each version of each factor: in a dry run of re-encryption.
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

/// What a job walks through: a customer, or one of its credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemId {
    /// Of a record, whose it is.
    pub customer: CustomerId,
    /// `None`: the customer itself.
    pub credential: Option<CredentialId>,
}

/// What a job could not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it was about.
    pub id: ItemId,
    /// The reason, as the service's errors have it.
    pub reason: String,
}

/// One part of a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// Of which pass.
    pub(super) pass: u32,
    /// Who works on it.
    pub(super) holder: String,
    /// Until when. `None`: nobody does.
    pub(super) lease_time: Option<Timestamp>,
    /// The last item that is done.
    pub(super) after: Option<ItemId>,
    /// Whether all of them are.
    pub(super) is_done: bool,
    pub(super) progress: Progress,
}

impl Job {
    /// What re-encryption brings every record up to.
    pub fn target(&self) -> Target {
        let (codebase, environment) = self.primaries;
        Target { codebase, environment, customers_by: after(self.create_time, CLOCKS) }
    }

    /// Whether a replica does what the job wants done. One that does not take no part, and is waited for.
    pub(super) fn suits(&self, replica: &Replica) -> bool {
        match self.kind {
            // One that does not seal now reads the environment's keys anew before it does. The codebase's it can't: it seals under the
            // same as before, when it can.
            JobKind::Reencryption => {
                replica.codebase.is_none_or(|version| version >= self.primaries.0)
                    && replica.environment.is_none_or(|version| version >= self.primaries.1)
            }
            JobKind::CustomerKeyRotation => true,
            JobKind::Rewrap => replica.wraps_with == self.wraps_with,
        }
    }

    /// Whether it ends with a pass of which every replica has seen the target before. Of what it goes on to make, a rotation leaves
    /// nothing behind: a customer that is created meanwhile has a new key.
    fn needs_last_pass(&self) -> bool {
        match self.kind {
            JobKind::Reencryption | JobKind::Rewrap => !self.dry_run,
            JobKind::CustomerKeyRotation => false,
        }
    }
}

/// From when on no replica undoes what the job does, as far as they have reported. `None`: some replica may.
/// `customer_staleness`: for how long a replica may believe that an older version of a customer's key is the primary.
pub(super) fn settled(
    job: &Job,
    replicas: &[Replica],
    customer_staleness: SignedDuration,
    now: Timestamp,
) -> Option<Timestamp> {
    let mut living = replicas.iter().filter(|replica| replica.is_alive(now)).peekable();
    // Nobody knows what those do who have not reported.
    living.peek()?;
    // A version that was made at the same time as the job may be news to the others for so long.
    let mut known = after(after(job.create_time, CLOCKS), customer_staleness);
    for replica in living {
        if !job.suits(replica) {
            return None;
        }
        if replica.had_others {
            known = known.max(replica.since);
        }
    }
    Some(after(known, CALLS_END))
}

/// Whether the first pass waits for nobody. What a rewrap moves, no replica opens that is not set to unwrap with the new KMS key: it
/// moves nothing before all of them wrap with it.
pub(super) fn begins_at_once(kind: JobKind, dry_run: bool) -> bool {
    match kind {
        JobKind::Reencryption | JobKind::CustomerKeyRotation => true,
        JobKind::Rewrap => dry_run,
    }
}

/// The job with its present pass begun, if it waits and may begin now. The first begins as soon as no replica is known to undo what it
/// does: what some have under way, a later one finds.
pub(super) fn begun(job: &Job, settled: Option<Timestamp>, now: Timestamp) -> Option<Job> {
    let may_begin = job.pass_time.is_none() && settled.is_some_and(|settled| settled <= now || job.pass == 1);
    may_begin.then(|| Job { pass_time: Some(now), update_time: now, ..job.clone() })
}

/// The job after a pass of which every part is done.
pub(super) fn after_pass(job: &Job, pass: &Progress, settled: Option<Timestamp>, now: Timestamp) -> Job {
    let began_settled = settled.zip(job.pass_time).is_some_and(|(settled, began)| settled <= began);
    let is_last = !job.needs_last_pass() || (pass.changed == 0 && began_settled);
    let next = Job { changed: job.changed + pass.changed, total: pass.done, update_time: now, ..job.clone() };
    match (is_last, pass.failed) {
        (true, 0) => Job { state: JobState::Done, ..next },
        (true, _) => Job { state: JobState::DoneWithFailures, ..next },
        (false, _) => Job { pass: job.pass.saturating_add(1), pass_time: None, ..next },
    }
}

impl Part {
    /// The part as it stands for this pass: what an earlier one left says nothing of it.
    pub(super) fn of_pass(self, pass: u32) -> Self {
        if self.pass == pass { self } else { Self { pass, ..Self::default() } }
    }

    /// Whether nobody works on it, and there is work.
    pub(super) fn is_free(&self, now: Timestamp) -> bool {
        !self.is_done && self.lease_time.is_none_or(|time| time <= now)
    }
}

impl Progress {
    /// What was neither changed nor needed no change nor failed: in a dry run that does not count versions, what would be changed.
    pub fn untouched(&self) -> u64 {
        self.done.saturating_sub(self.changed + self.skipped + self.failed)
    }

    pub(super) fn fails(&mut self, id: ItemId, reason: &str) {
        self.failed += 1;
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(Failure { id, reason: reason.to_owned() });
        }
    }

    pub(super) fn counts(&mut self, id: ItemId, lineage: Lineage) {
        let versions = [
            VersionCount::Codebase(lineage.codebase.get()),
            VersionCount::Environment(lineage.environment.get()),
            VersionCount::Customer(lineage.customer.get()),
        ];
        let uncounted = versions.into_iter().filter(|version| !self.count(*version, 1)).count();
        if uncounted > 0 {
            self.fails(id, UNCOUNTED);
        }
    }

    /// Whether there was room.
    fn count(&mut self, version: VersionCount, records: u64) -> bool {
        let factor = std::mem::discriminant(&version);
        let known = || self.counts.keys().filter(|known| std::mem::discriminant(*known) == factor).count();
        let has_room = self.counts.contains_key(&version) || known() < MAX_COUNTS;
        if has_room {
            *self.counts.entry(version).or_default() += records;
        }
        has_room
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.changed += other.changed;
        self.skipped += other.skipped;
        self.failed += other.failed;
        let room = MAX_FAILURES.saturating_sub(self.failures.len());
        self.failures.extend(other.failures.iter().take(room).cloned());
        for (version, records) in &other.counts {
            if !self.count(*version, *records) {
                self.failed += records;
            }
        }
    }
}

fn after(time: Timestamp, wait: SignedDuration) -> Timestamp {
    time.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
