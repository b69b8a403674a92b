//! Jobs at work: started, looked at, cancelled, and carried out by whichever replica takes a part.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::plan::{self, Job, JobKind, JobState, LEASE, Part, Progress};
use super::record::{JOB, JobId, PART, read_job, read_part, write_job, write_part};
use super::replicas::{self, Replica, ReplicaId};
use crate::crypto::Envelope;
use crate::factors::FactorError;
use crate::ids::{CredentialRef, CustomerId};
use crate::keyring::{Keyring, KeyringError};
use crate::store::{
    self, ChangeError, CredentialRow, Credentials, Decision, Life, OperationId, OperationRow, Operations, Page,
    StoreError, WriteId, change, row_time,
};
use crate::vault::{Resealed, Vault, VaultError};

/// Of the record that names the job of a kind that runs.
const SLOT: &str = "job-slot";
/// Rows between two checkpoints.
const PAGE: usize = 256;
/// Records under way at once: they share the store's commits, or its round trips.
const AT_ONCE: usize = 32;
/// Between two looks for work.
const LOOK: Duration = Duration::from_secs(2);
/// How long a job gives way to callers, before each page.
const GIVES_WAY: Duration = Duration::from_secs(1);
/// A record whose dependencies are away is tried again so often, and then the part is left to another time.
const TRIES: u32 = 8;
/// A job whose name is taken and that is not written yet is on its way for so long.
const ON_ITS_WAY: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// Why a job was not started or shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// There is no such job.
    #[error("the job does not exist")]
    NotFound,
    /// One of its kind runs.
    #[error("the job {0} is running: wait for it, or cancel it")]
    Running(JobId),
    /// Others changed it each time.
    #[error("the job was changed by others at the same time")]
    ChangedConcurrently,
    /// The keyring's: the target is not known.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A system without randomness.
    #[error("{0}")]
    Internal(&'static str),
}

impl From<ChangeError> for JobError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Concurrent => Self::ChangedConcurrently,
            ChangeError::Store(error) => Self::Store(error),
        }
    }
}

/// Starts jobs, and works on them.
pub struct Jobs {
    vault: Arc<Vault>,
    credentials: Arc<dyn Credentials>,
    operations: Arc<dyn Operations>,
    keyring: Keyring,
    replica: ReplicaId,
    clock: fn() -> Timestamp,
    /// Whether callers need what a job would take.
    is_busy: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Jobs {
    /// Jobs over a vault and its stores.
    pub fn new(
        vault: Arc<Vault>,
        credentials: Arc<dyn Credentials>,
        operations: Arc<dyn Operations>,
        keyring: Keyring,
        replica: ReplicaId,
        clock: fn() -> Timestamp,
        is_busy: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { vault, credentials, operations, keyring, replica, clock, is_busy: Box::new(is_busy) }
    }

    /// Starts a job toward this process's primaries, unless one of its kind runs. `rate`: records a second, at most.
    ///
    /// # Errors
    /// A [`JobError`].
    pub async fn start(&self, kind: JobKind, customer: Option<CustomerId>, rate: Option<u32>) -> Result<Job, JobError> {
        let (codebase, environment) = self.keyring.primaries().await?;
        let now = row_time((self.clock)());
        let random = getrandom::u32().map_err(|_| JobError::Internal(NO_RANDOMNESS))?;
        let id = JobId::new(now, random);
        self.take_slot(kind, &id, now).await?;
        let job = Job {
            id,
            kind,
            state: JobState::Running,
            parts: if customer.is_some() { 1 } else { self.credentials.parts() },
            customer,
            target: crate::vault::Target { codebase, environment },
            rate,
            pass: 1,
            pass_time: now,
            total: 0,
            changed: 0,
            create_time: now,
            update_time: now,
        };
        self.update(&job.id, |present| Ok(present.is_none().then(|| job.clone()))).await?;
        info!(job = job.id.as_str(), ?kind, "job started");
        Ok(job)
    }

    /// A job and how far its present pass has come.
    ///
    /// # Errors
    /// A [`JobError`].
    pub async fn get(&self, id: &JobId) -> Result<(Job, Progress), JobError> {
        let row = self.operations.get(&job_id(id)).await?.ok_or(JobError::NotFound)?;
        let job = read_job(&row.id.id, &row.body).map_err(StoreError::from)?;
        let mut progress = Progress::default();
        for (part, _) in self.parts(&job).await?.into_values() {
            progress.add(&part.progress);
        }
        Ok((job, progress))
    }

    /// Jobs, the last first, at most `limit` after `after`.
    ///
    /// # Errors
    /// A [`JobError`].
    pub async fn list(&self, after: Option<&JobId>, limit: usize) -> Result<Page<Job, JobId>, JobError> {
        let page = self.operations.query(JOB, after.map(JobId::as_str), limit).await?;
        let jobs = page.rows.iter().map(|row| read_job(&row.id.id, &row.body).map_err(StoreError::from));
        let rows = jobs.collect::<Result<Vec<_>, _>>()?;
        Ok(Page { rows, next: page.next.as_deref().and_then(JobId::parse) })
    }

    /// Ends a job after the pages that are under way. One that has ended is answered as it is.
    ///
    /// # Errors
    /// A [`JobError`].
    pub async fn cancel(&self, id: &JobId) -> Result<Job, JobError> {
        let now = row_time((self.clock)());
        self.update(id, |present| match present {
            None => Err(JobError::NotFound),
            Some(job) if job.state != JobState::Running => Ok(None),
            Some(job) => Ok(Some(Job { state: JobState::Cancelled, update_time: now, ..job.clone() })),
        })
        .await
    }

    /// Every replica that reported in the last day.
    ///
    /// # Errors
    /// The store's.
    pub async fn replicas(&self) -> Result<Vec<Replica>, StoreError> {
        replicas::all(self.operations.as_ref(), (self.clock)()).await
    }

    /// Takes one part of one job to its end, or to where it can't go on. Answers whether there was anything to do.
    ///
    /// # Errors
    /// A [`JobError`]: what was done until then stands.
    pub async fn work(&self) -> Result<bool, JobError> {
        let mut after = None;
        loop {
            let page = self.list(after.as_ref(), 100).await?;
            for job in page.rows {
                if job.state == JobState::Running && self.work_on(&job).await? {
                    return Ok(true);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(false);
            }
        }
    }

    async fn work_on(&self, job: &Job) -> Result<bool, JobError> {
        let now = (self.clock)();
        let (codebase, environment) = self.keyring.primaries().await?;
        if now < job.pass_time || codebase < job.target.codebase || environment < job.target.environment {
            return Ok(false);
        }
        let mut parts = self.parts(job).await?;
        if parts.values().filter(|part| part.0.is_done).count() == job.parts as usize {
            self.advance(job, parts.values().map(|part| &part.0)).await?;
            return Ok(true);
        }
        for index in 0..job.parts {
            let (part, written) = parts.remove(&index).unwrap_or_default();
            if part.is_free(now) && self.take(job, index, part, written).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Goes to the next pass, or ends the job.
    async fn advance<'a>(&self, job: &Job, parts: impl Iterator<Item = &'a Part>) -> Result<(), JobError> {
        let mut pass = Progress::default();
        parts.for_each(|part| pass.add(&part.progress));
        let now = row_time((self.clock)());
        let since = plan::everybody_since(&self.replicas().await?, job.target, now);
        let staleness = self.keyring.customer_staleness().try_into().unwrap_or(jiff::SignedDuration::MAX);
        let next = plan::after_pass(job, &pass, since, staleness, now);
        let written = self
            .update(&job.id, |present| {
                // Another replica may have been quicker.
                let is_there = present.is_some_and(|present| present.pass == job.pass && present.state == job.state);
                Ok(is_there.then(|| next.clone()))
            })
            .await?;
        if written == next && next.state != JobState::Running {
            info!(job = job.id.as_str(), state = ?next.state, changed = next.changed, failed = pass.failed, "job ended");
        }
        Ok(())
    }

    /// Takes the lease of a part and works through it. Answers false if somebody else has it.
    async fn take(&self, job: &Job, index: u32, part: Part, written: Option<WriteId>) -> Result<bool, JobError> {
        let Some((mut part, mut written)) = self.checkpoint(job, index, part, written).await? else {
            return Ok(false);
        };
        let mut pace = Pace::new(self.share_of_rate(job).await?);
        while !part.is_done {
            self.give_way().await;
            let page = self.page(job, index, part.after.as_ref()).await?;
            let last = page.rows.last().map(|row| row.id.clone());
            self.work_through(job, page.rows, &mut part.progress, &mut pace).await?;
            part.is_done = page.next.is_none();
            part.after = page.next.or(last).or(part.after);
            match self.checkpoint(job, index, part, written).await? {
                Some(next) => (part, written) = next,
                // The lease lapsed, and somebody else took it.
                None => return Ok(true),
            }
            let row = self.operations.get(&job_id(&job.id)).await?.ok_or(JobError::NotFound)?;
            let present = read_job(&row.id.id, &row.body).map_err(StoreError::from)?;
            if present.state != JobState::Running {
                return Ok(true);
            }
        }
        Ok(true)
    }

    async fn page(
        &self,
        job: &Job,
        index: u32,
        after: Option<&CredentialRef>,
    ) -> Result<Page<CredentialRow, CredentialRef>, StoreError> {
        match &job.customer {
            Some(customer) => self.credentials.query(Some(customer), after, PAGE).await,
            None => self.credentials.scan(store::Part { index, of: job.parts }, after, PAGE).await,
        }
    }

    async fn work_through(
        &self,
        job: &Job,
        rows: Vec<CredentialRow>,
        progress: &mut Progress,
        pace: &mut Pace,
    ) -> Result<(), JobError> {
        if job.kind == JobKind::Count {
            for row in rows {
                let Life::Living(living) = &row.life else { continue };
                progress.done += 1;
                match Envelope::lineage_of(&living.envelope) {
                    Ok(lineage) => progress.counts(lineage),
                    Err(_) => progress.fails(row.id, "MALFORMED"),
                }
            }
            return Ok(());
        }
        let mut started = Vec::with_capacity(rows.len());
        for row in rows {
            started.push((row.id, pace.next()));
        }
        let mut outcomes = stream::iter(started)
            .map(|(id, at)| async move {
                if let Some(at) = at {
                    sleep_until(at).await;
                }
                let outcome = self.reseal(&id, job).await;
                (id, outcome)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((id, outcome)) = outcomes.next().await {
            match outcome? {
                Outcome::Changed => progress.changed += 1,
                Outcome::Skipped => progress.skipped += 1,
                Outcome::Failed(reason) => {
                    warn!(job = job.id.as_str(), customer = id.customer.as_str(), reason, "record not re-encrypted");
                    progress.fails(id, reason);
                }
            }
            progress.done += 1;
        }
        Ok(())
    }

    /// One record. What may be better in a moment is tried again; what is wrong with the record is an outcome.
    async fn reseal(&self, id: &CredentialRef, job: &Job) -> Result<Outcome, JobError> {
        let mut tries = 0;
        loop {
            let error = match self.vault.reseal(id, job.target).await {
                Ok(Resealed::Changed) => return Ok(Outcome::Changed),
                Ok(Resealed::Skipped) => return Ok(Outcome::Skipped),
                Ok(Resealed::Ahead) => return Ok(Outcome::Failed("VERSION_AHEAD")),
                Err(error) => error,
            };
            if let Some(outcome) = outcome_of(&error) {
                return Ok(outcome);
            }
            tries += 1;
            if tries == TRIES {
                return Err(JobError::Store(StoreError::Away(format!("a record could not be re-encrypted: {error}"))));
            }
            sleep(Duration::from_millis(100) * 2_u32.pow(tries.min(5))).await;
        }
    }

    /// Writes how far a part has come, under a lease that is renewed. `None`: somebody else has it.
    async fn checkpoint(
        &self,
        job: &Job,
        index: u32,
        part: Part,
        written: Option<WriteId>,
    ) -> Result<Option<(Part, Option<WriteId>)>, JobError> {
        let lease_time = row_time((self.clock)()).checked_add(LEASE).unwrap_or(Timestamp::MAX);
        let part = Part { holder: self.replica.as_str().to_owned(), lease_time: Some(lease_time), ..part };
        let write_id = WriteId::random().map_err(|_| JobError::Internal(NO_RANDOMNESS))?;
        let id = part_id(job, index);
        let row = OperationRow { id: id.clone(), write_id, body: write_part(&part) };
        let is_ours = change(self.operations.as_ref(), &id, |present: Option<OperationRow>| {
            let present = present.map(|row| row.write_id);
            let decision = if present == written {
                Decision::Replace(row.clone(), true)
            } else {
                // Ours, and only its answer was lost; or another's.
                Decision::Done(present == Some(write_id))
            };
            std::future::ready(Ok::<_, JobError>(decision))
        })
        .await?;
        Ok(is_ours.then_some((part, Some(write_id))))
    }

    /// The parts of the present pass that somebody has begun.
    async fn parts(&self, job: &Job) -> Result<HashMap<u32, (Part, Option<WriteId>)>, JobError> {
        let mut parts = HashMap::new();
        for index in 0..job.parts {
            if let Some(row) = self.operations.get(&part_id(job, index)).await? {
                let part = read_part(&row.body).map_err(StoreError::from)?;
                parts.insert(index, (part, Some(row.write_id)));
            }
        }
        Ok(parts)
    }

    /// Reserves the name of the one job of a kind that runs.
    async fn take_slot(&self, kind: JobKind, id: &JobId, now: Timestamp) -> Result<(), JobError> {
        let slot = OperationId {
            kind: SLOT,
            id: match kind {
                JobKind::Reencryption => "reencryption".to_owned(),
                JobKind::Count => "count".to_owned(),
            },
        };
        let slot = &slot;
        change(self.operations.as_ref(), slot, |present: Option<OperationRow>| async move {
            let named = present.and_then(|row| String::from_utf8(row.body).ok()).and_then(|text| JobId::parse(&text));
            match named {
                Some(other) if other == *id => return Ok(Decision::Done(())),
                Some(other) => match self.operations.get(&job_id(&other)).await? {
                    Some(row) => {
                        let job = read_job(&row.id.id, &row.body).map_err(StoreError::from)?;
                        if job.state == JobState::Running {
                            return Err(JobError::Running(other));
                        }
                    }
                    None if other.is_younger_than(ON_ITS_WAY, now) => return Err(JobError::Running(other)),
                    None => {}
                },
                None => {}
            }
            let write_id = WriteId::random().map_err(|_| JobError::Internal(NO_RANDOMNESS))?;
            Ok(Decision::Replace(
                OperationRow { id: slot.clone(), write_id, body: id.as_str().as_bytes().to_vec() },
                (),
            ))
        })
        .await
    }

    /// Writes what `step` makes of a job, and answers the job; `None`: it stays as it is.
    async fn update(
        &self,
        id: &JobId,
        step: impl Fn(Option<&Job>) -> Result<Option<Job>, JobError>,
    ) -> Result<Job, JobError> {
        let row_id = &job_id(id);
        change(self.operations.as_ref(), row_id, |present: Option<OperationRow>| {
            let decided = (|| {
                let present =
                    present.map(|row| read_job(&row.id.id, &row.body)).transpose().map_err(StoreError::from)?;
                Ok(match step(present.as_ref())? {
                    None => Decision::Done(present.ok_or(JobError::NotFound)?),
                    Some(job) => {
                        let write_id = WriteId::random().map_err(|_| JobError::Internal(NO_RANDOMNESS))?;
                        let row = OperationRow { id: row_id.clone(), write_id, body: write_job(&job) };
                        Decision::Replace(row, job)
                    }
                })
            })();
            std::future::ready(decided)
        })
        .await
    }

    async fn share_of_rate(&self, job: &Job) -> Result<Option<f64>, JobError> {
        let Some(rate) = job.rate else { return Ok(None) };
        let now = (self.clock)();
        let alive = self.replicas().await?.iter().filter(|replica| replica.is_alive(now)).count();
        let at_work = alive.clamp(1, job.parts.max(1) as usize);
        Ok(Some((f64::from(rate) / at_work as f64).max(0.01)))
    }

    async fn give_way(&self) {
        let until = Instant::now() + GIVES_WAY;
        while (self.is_busy)() && Instant::now() < until {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Looks for work and does it, for as long as the process lives.
pub async fn work_for_ever(jobs: Arc<Jobs>) {
    loop {
        match jobs.work().await {
            Ok(true) => {}
            Ok(false) => sleep(LOOK).await,
            Err(error) => {
                warn!(%error, "a job can't go on now; it does when it can");
                sleep(LOOK).await;
            }
        }
    }
}

/// When the next record may begin.
struct Pace {
    interval: Option<Duration>,
    next: Instant,
}

impl Pace {
    fn new(rate: Option<f64>) -> Self {
        Self { interval: rate.map(|rate| Duration::from_secs_f64(1.0 / rate)), next: Instant::now() }
    }

    fn next(&mut self) -> Option<Instant> {
        let interval = self.interval?;
        let at = self.next.max(Instant::now());
        self.next = at + interval;
        Some(at)
    }
}

enum Outcome {
    Changed,
    Skipped,
    Failed(&'static str),
}

/// What an error says of the record. `None`: of its dependencies, and only for now.
fn outcome_of(error: &VaultError) -> Option<Outcome> {
    use VaultError as E;
    let failed = |reason| Some(Outcome::Failed(reason));
    match error {
        E::Malformed => failed("MALFORMED"),
        E::NotAuthentic => failed("NOT_AUTHENTIC"),
        E::EncodingUnknown => failed("ENCODING_UNKNOWN"),
        E::Store(StoreError::Corrupt(_)) => failed("MALFORMED"),
        E::Store(StoreError::Newer) => failed("ENCODING_UNKNOWN"),
        // Erased, or being erased.
        E::CredentialNotFound | E::Keyring(KeyringError::CustomerDestroyed | KeyringError::CustomerNotFound) => {
            Some(Outcome::Skipped)
        }
        E::Keyring(KeyringError::KeyVersionRetired) => failed("KEY_VERSION_RETIRED"),
        E::Keyring(KeyringError::KeyVersionUnknown) => failed("KEY_VERSION_UNKNOWN"),
        E::Keyring(KeyringError::Wrapper(FactorError::Refused(_) | FactorError::Absent(_))) => failed("KMS_REFUSED"),
        E::Keyring(KeyringError::Wrapper(FactorError::Corrupt(_))) => failed("NOT_AUTHENTIC"),
        E::Keyring(_) | E::Store(_) | E::ChangedConcurrently => None,
        E::CredentialExists { .. }
        | E::RevisionMismatch { .. }
        | E::IdempotencyKeyReused
        | E::NoAccessView
        | E::NeedsReauth
        | E::SecretTooLong
        | E::Internal(_) => failed("INTERNAL"),
    }
}

fn job_id(id: &JobId) -> OperationId {
    OperationId { kind: JOB, id: id.as_str().to_owned() }
}

fn part_id(job: &Job, index: u32) -> OperationId {
    OperationId { kind: PART, id: format!("{}#{:06}#{index:04}", job.id, job.pass) }
}

const NO_RANDOMNESS: &str = "the system's generator of random numbers does not answer";

#[cfg(test)]
mod tests;
