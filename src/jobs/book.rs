//! The book of jobs: started, looked at, listed and cancelled. Every entry stands in the store, and is changed by its one rule.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use super::counts::Counts;
use super::plan::{self, Job, JobKind, JobState, Part, Progress};
use super::record::{JOB, JobId, PART, read_job, read_part, write_job};
use super::replicas::{self, Reported, Reporter};
use crate::access::{
    AllCustomers, CancelJob, GetJob, ListJobs, ListReplicas, Permit, StartCustomerKeyRotation, StartReencryption,
    StartRewrap,
};
use crate::audit::entry::Subject;
use crate::audit::{AuditError, AuditLog, Changing, Event, Made, Origin, Reason};
use crate::customers::{CustomerDirectory, CustomerError};
use crate::ids::{Caller, CustomerId, RequestId};
use crate::keyring::{Keyring, KeyringError};
use crate::randomness::NoRandomness;
use crate::store::{
    ChangeError, ClockUnconfirmed, Credentials, CustomerState, Customers, Decision, OperationId, OperationRow,
    Operations, Page, StoreError, WriteId, change, row_time,
};
use crate::vault::Vault;

/// Of the record that names the job of a kind that runs.
const SLOT: &str = "job-slot";
/// A job whose name is taken and that is not written yet is on its way for so long.
const ON_ITS_WAY: SignedDuration = SignedDuration::from_secs(60);
/// A job that ended is remembered for so long: a year of audits and a month.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24 * 400);
/// Of those that are forgotten, so many at a time.
const FORGOTTEN_AT_ONCE: usize = 100;

/// Why a job was not started or shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// There is no such job.
    #[error("the job does not exist")]
    NotFound,
    /// One of its kind runs.
    #[error("a job of this kind is already running: {0}")]
    Running(JobId),
    /// This process was told that its store was restored from a backup.
    #[error(
        "store.restored is set: no job is worked on here; bring the restored tables in order, and start the service without the setting"
    )]
    Restored,
    /// A job's times are those of others, too: none is started by a clock that may be wrong.
    #[error(transparent)]
    Clock(#[from] ClockUnconfirmed),
    /// Others changed it each time.
    #[error("the job was changed by others at the same time")]
    ChangedConcurrently,
    /// The customer's whose records it would walk.
    #[error(transparent)]
    Customer(CustomerError),
    /// The audit log's: a change may have happened.
    #[error(transparent)]
    Audit(#[from] AuditError),
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

impl From<NoRandomness> for JobError {
    fn from(_: NoRandomness) -> Self {
        Self::Internal(NoRandomness::TEXT)
    }
}

impl From<&JobError> for Reason {
    fn from(error: &JobError) -> Self {
        use JobError as E;
        match error {
            E::NotFound => Self::JobNotFound,
            E::Running(_) => Self::JobRunning,
            E::Restored | E::Clock(_) => Self::StoreUnavailable,
            E::ChangedConcurrently => Self::ChangedConcurrently,
            E::Customer(error) => error.into(),
            E::Audit(_) => Self::AuditUnavailable,
            E::Keyring(error) => error.into(),
            E::Store(error) => error.into(),
            E::Internal(_) => Self::Internal,
        }
    }
}

/// What jobs are made of.
pub struct Parts {
    /// Re-encrypts records.
    pub vault: Arc<Vault>,
    /// Rotates and rewraps customers.
    pub directory: Arc<CustomerDirectory>,
    /// What a re-encryption walks.
    pub credentials: Arc<dyn Credentials>,
    /// What the others walk.
    pub customers: Arc<dyn Customers>,
    /// Where jobs stand.
    pub operations: Arc<dyn Operations>,
    /// What is primary here.
    pub keyring: Keyring,
    /// Who this replica is.
    pub reporter: Arc<Reporter>,
    /// Where starts, ends and failures are noted.
    pub audit: AuditLog,
    /// The store was restored from a backup: what runs in it was decided in another time, and is left as it is.
    pub restored: bool,
    /// Whether callers need what a job would take.
    pub is_busy: Box<dyn Fn() -> bool + Send + Sync>,
    /// The time.
    pub clock: fn() -> Timestamp,
}

/// Starts jobs, and works on them.
pub struct Jobs(pub(super) Parts, pub(super) Counts);

/// What is asked of a new job.
struct Asked {
    kind: JobKind,
    customer: Option<CustomerId>,
    dry_run: bool,
    rate: Option<NonZeroU32>,
}

impl Jobs {
    /// Jobs over a vault, a directory and their stores.
    pub fn new(parts: Parts) -> Self {
        Self(parts, Counts::new())
    }

    /// Starts a job that seals anew what is below this process's primaries; as a dry run, one that counts what is under each version.
    ///
    /// # Errors
    /// A [`JobError`].
    pub async fn start_reencryption(
        &self,
        permit: &Permit<StartReencryption>,
        dry_run: bool,
        rate: Option<NonZeroU32>,
    ) -> Result<Job, JobError> {
        let StartReencryption(customer) = permit.asked();
        let asked = Asked { kind: JobKind::Reencryption, customer: customer.clone(), dry_run, rate };
        self.start(permit.caller(), Event::StartReencryption, asked).await
    }

    /// Starts a job that rotates customers' keys.
    ///
    /// # Errors
    /// A [`JobError`].
    pub async fn start_customer_key_rotation(
        &self,
        permit: &Permit<StartCustomerKeyRotation>,
        dry_run: bool,
        rate: Option<NonZeroU32>,
    ) -> Result<Job, JobError> {
        let StartCustomerKeyRotation(customer) = permit.asked();
        let asked = Asked { kind: JobKind::CustomerKeyRotation, customer: customer.clone(), dry_run, rate };
        self.start(permit.caller(), Event::StartCustomerKeyRotation, asked).await
    }

    /// Starts a job that wraps customers' keys under the KMS key that this process wraps with.
    ///
    /// # Errors
    /// A [`JobError`].
    pub async fn start_rewrap(
        &self,
        permit: &Permit<StartRewrap>,
        dry_run: bool,
        rate: Option<NonZeroU32>,
    ) -> Result<Job, JobError> {
        let StartRewrap(customer) = permit.asked();
        let asked = Asked { kind: JobKind::Rewrap, customer: customer.clone(), dry_run, rate };
        self.start(permit.caller(), Event::StartRewrap, asked).await
    }

    async fn start(&self, caller: &Caller, event: Event, asked: Asked) -> Result<Job, JobError> {
        let now = row_time((self.0.clock)());
        let id = JobId::new(now, getrandom::u32().map_err(NoRandomness::from)?);
        let subject = asked.customer.as_ref().map(Subject::customer).unwrap_or_default();
        let entries = Changing::new(&self.0.audit, origin(caller, &id), event, subject);
        let started = self.enter(caller, id, asked, &entries, now).await;
        let job = entries.settle(started, |_| Made::default()).await?;
        info!(job = job.id.as_str(), kind = ?job.kind, dry_run = job.dry_run, "job started");
        self.forget_old(now).await;
        Ok(job)
    }

    async fn enter(
        &self,
        caller: &Caller,
        id: JobId,
        asked: Asked,
        entries: &Changing<'_>,
        now: Timestamp,
    ) -> Result<Job, JobError> {
        let Asked { kind, customer, dry_run, rate } = asked;
        if self.0.restored {
            return Err(JobError::Restored);
        }
        self.0.directory.check_clock()?;
        if let Some(customer) = &customer {
            self.check_customer(customer, kind).await?;
        }
        let job = Job {
            id,
            kind,
            dry_run,
            state: JobState::Running,
            caller: caller.clone(),
            primaries: self.0.keyring.primaries().await?,
            wraps_with: self.0.reporter.wraps_with().to_owned(),
            rate,
            pass: 1,
            pass_time: plan::begins_at_once(kind, dry_run).then_some(now),
            parts: match (kind, &customer) {
                (JobKind::Reencryption, None) => self.0.credentials.parts(),
                (JobKind::Reencryption, Some(_)) | (JobKind::CustomerKeyRotation | JobKind::Rewrap, _) => 1,
            },
            customer,
            total: 0,
            changed: 0,
            create_time: now,
            update_time: now,
        };
        entries.announce(None).await?;
        self.take_slot(&job).await?;
        // At its start. Its outcome is written at its end, by whichever replica comes to it.
        let _outcome = self.0.audit.intent(&job.origin(), job.event(), job.subject()).await?;
        self.update(&job.id, |present| Ok(present.is_none().then(|| job.clone()))).await
    }

    /// A count under a name that is known before, for fuzzing.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) async fn start_count_as(&self, caller: &Caller, id: JobId) -> Result<Job, JobError> {
        let entries = Changing::new(&self.0.audit, origin(caller, &id), Event::StartReencryption, Subject::default());
        let asked = Asked { kind: JobKind::Reencryption, customer: None, dry_run: true, rate: None };
        let started = self.enter(caller, id, asked, &entries, row_time((self.0.clock)())).await;
        entries.settle(started, |_| Made::default()).await
    }

    /// A job and how far its present pass has come.
    ///
    /// # Errors
    /// A [`JobError`].
    pub async fn get(&self, permit: &Permit<GetJob>, id: &JobId) -> Result<(Job, Progress), JobError> {
        let GetJob(AllCustomers) = permit.asked();
        let entries = Changing::new(&self.0.audit, origin(permit.caller(), id), Event::GetJob, Subject::default());
        entries.settle(self.look(id).await, |_| Made::default()).await
    }

    /// The same, for tests and the worker.
    pub(super) async fn look(&self, id: &JobId) -> Result<(Job, Progress), JobError> {
        let job = self.job(id).await?;
        let mut progress = Progress::default();
        for index in 0..job.parts {
            let (part, _) = self.part(&job, index).await?;
            progress.add(&part.progress);
        }
        Ok((job, progress))
    }

    /// Jobs, the last first, at most `limit` after `after`.
    ///
    /// # Errors
    /// A [`JobError`].
    pub async fn list(
        &self,
        permit: &Permit<ListJobs>,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Page<Job, JobId>, JobError> {
        let listed = async {
            let page = self.0.operations.query(JOB, after.map(JobId::as_str), limit).await?;
            // One that a newer release wrote, or that is damaged, must not hide all others.
            let read = |row: &OperationRow| {
                read_job(row)
                    .inspect_err(|_| warn!(job = row.id.id, "a job can't be read, and is left out of the list"))
            };
            let rows = page.rows.iter().filter_map(|row| read(row).ok()).collect();
            Ok(Page { rows, next: page.next.as_deref().and_then(JobId::parse) })
        };
        let origin = Origin::of(permit.caller());
        let entries = Changing::new(&self.0.audit, origin, Event::ListJobs, Subject::default());
        entries.settle(listed.await, |_| Made::default()).await
    }

    /// Ends a job. What it has done stands, and what is under way is done. A job that has ended is answered as it is.
    ///
    /// # Errors
    /// A [`JobError`].
    pub async fn cancel(&self, permit: &Permit<CancelJob>, id: &JobId) -> Result<Job, JobError> {
        let CancelJob(AllCustomers) = permit.asked();
        let job = origin(permit.caller(), id);
        // A job may be cancelled twice: the outcome of one call is not to be taken for the other's.
        let call = Origin { request: job.request.as_ref().map(RequestId::of_call), ..job };
        let entries = Changing::new(&self.0.audit, call, Event::CancelJob, Subject::default());
        let cancelled = self.cancelled(id, &entries).await;
        entries.settle(cancelled, |_| Made::default()).await
    }

    async fn cancelled(&self, id: &JobId, entries: &Changing<'_>) -> Result<Job, JobError> {
        let job = self.job(id).await?;
        if job.state != JobState::Running {
            return Ok(job);
        }
        entries.announce(None).await?;
        let now = row_time((self.0.clock)());
        let ended = |job: &Job| Job { state: JobState::Cancelled, update_time: now, ..job.clone() };
        self.finish(id, |job| (job.state == JobState::Running).then(|| ended(job))).await
    }

    /// Every replica that reported in the last day.
    ///
    /// # Errors
    /// A [`JobError`].
    pub async fn replicas(&self, permit: &Permit<ListReplicas>) -> Result<Reported, JobError> {
        let found = self.reported().await.map_err(JobError::from);
        let origin = Origin::of(permit.caller());
        let entries = Changing::new(&self.0.audit, origin, Event::ListReplicas, Subject::default());
        entries.settle(found, |_| Made::default()).await
    }

    /// The time by which reports are to be judged. `None`: nobody knows it here.
    pub fn time(&self) -> Option<Timestamp> {
        self.0.directory.check_clock().ok().map(|()| (self.0.clock)())
    }

    pub(super) async fn reported(&self) -> Result<Reported, StoreError> {
        replicas::all(self.0.operations.as_ref(), (self.0.clock)()).await
    }

    pub(super) async fn job(&self, id: &JobId) -> Result<Job, JobError> {
        let row = self.0.operations.get(&job_id(id)).await?.ok_or(JobError::NotFound)?;
        Ok(read_job(&row).map_err(StoreError::from)?)
    }

    /// A part of the present pass, and the row that it was read from.
    pub(super) async fn part(&self, job: &Job, index: u32) -> Result<(Part, Option<WriteId>), JobError> {
        let Some(row) = self.0.operations.get(&part_id(&job.id, index)).await? else {
            return Ok((Part::default().of_pass(job.pass), None));
        };
        let part = read_part(&row).map_err(StoreError::from)?;
        Ok((part.of_pass(job.pass), Some(row.write_id)))
    }

    /// The job of a kind that runs.
    pub(super) async fn running(&self, kind: JobKind, dry_run: bool) -> Result<Option<Job>, JobError> {
        let Some(row) = self.0.operations.get(&slot_id(kind, dry_run)).await? else { return Ok(None) };
        let Some(id) = named(&row) else { return Ok(None) };
        match self.job(&id).await {
            Ok(job) => Ok(Some(job).filter(|job| job.state == JobState::Running)),
            // Its start was given up, or is under way.
            Err(JobError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes what `step` makes of a job, and if that ends it, the audit entry of its end.
    pub(super) async fn finish(&self, id: &JobId, step: impl Fn(&Job) -> Option<Job>) -> Result<Job, JobError> {
        let ends = AtomicBool::new(false);
        let ended = &ends;
        let job = self
            .update(id, |present| {
                let next = present.and_then(&step);
                ended.store(next.as_ref().is_some_and(|next| next.state != JobState::Running), Ordering::Relaxed);
                Ok(next)
            })
            .await?;
        if !ends.into_inner() {
            return Ok(job);
        }
        info!(job = job.id.as_str(), state = ?job.state, changed = job.changed, "job ended");
        let (origin, event, subject) = (job.origin(), job.event(), job.subject());
        let failed = match job.state {
            JobState::Running | JobState::Done => None,
            JobState::DoneWithFailures => Some(Reason::DoneWithFailures),
            JobState::Cancelled => Some(Reason::Cancelled),
        };
        let _written = self.0.audit.ended(&origin, event, subject, failed).await?;
        Ok(job)
    }

    /// Writes what `step` makes of a job, and answers the job; `None`: it stays as it is.
    async fn update(
        &self,
        id: &JobId,
        step: impl Fn(Option<&Job>) -> Result<Option<Job>, JobError>,
    ) -> Result<Job, JobError> {
        let row_id = &job_id(id);
        change(self.0.operations.as_ref(), row_id, |present: Option<OperationRow>| {
            let decided = (|| {
                let present = present.map(|row| read_job(&row)).transpose().map_err(StoreError::from)?;
                Ok(match step(present.as_ref())? {
                    None => Decision::Done(present.ok_or(JobError::NotFound)?),
                    Some(job) => {
                        let row =
                            OperationRow { id: row_id.clone(), write_id: WriteId::random()?, body: write_job(&job) };
                        Decision::Replace(row, job)
                    }
                })
            })();
            std::future::ready(decided)
        })
        .await
    }

    /// A job of one customer names one that has keys; a rotation, one whose key may be rotated.
    async fn check_customer(&self, id: &CustomerId, kind: JobKind) -> Result<(), JobError> {
        let row = self.0.customers.get(id).await?.ok_or(JobError::Customer(CustomerError::NotFound))?;
        match (row.state, kind) {
            (CustomerState::Destroyed { .. }, _) => Err(JobError::Customer(CustomerError::Destroyed)),
            (CustomerState::PendingDestruction { .. }, JobKind::CustomerKeyRotation) => {
                Err(JobError::Customer(CustomerError::PendingDestruction))
            }
            (CustomerState::PendingDestruction { .. }, JobKind::Reencryption | JobKind::Rewrap)
            | (CustomerState::Active | CustomerState::Disabled, _) => Ok(()),
        }
    }

    /// Reserves the name of the one job of a kind that runs.
    async fn take_slot(&self, job: &Job) -> Result<(), JobError> {
        let (id, slot) = (&job.id, &slot_id(job.kind, job.dry_run));
        change(self.0.operations.as_ref(), slot, |present: Option<OperationRow>| async move {
            match present.as_ref().and_then(named) {
                Some(other) if other == *id => return Ok(Decision::Done(())),
                Some(other) => match self.job(&other).await {
                    Ok(named) if named.state == JobState::Running => return Err(JobError::Running(other)),
                    Ok(_) => {}
                    Err(JobError::NotFound) if other.is_younger_than(ON_ITS_WAY, job.create_time) => {
                        return Err(JobError::Running(other));
                    }
                    Err(JobError::NotFound) => {}
                    Err(error) => return Err(error),
                },
                None => {}
            }
            let body = id.as_str().as_bytes().to_vec();
            Ok(Decision::Replace(OperationRow { id: slot.clone(), write_id: WriteId::random()?, body }, ()))
        })
        .await
    }

    /// Removes some of the jobs that ended long ago. What can't be removed now is met again at the next start.
    async fn forget_old(&self, now: Timestamp) {
        let Ok(then) = now.checked_sub(REMEMBERED) else { return };
        let operations = self.0.operations.as_ref();
        let oldest = JobId::new(then, 0);
        let Ok(page) = operations.query(JOB, Some(oldest.as_str()), FORGOTTEN_AT_ONCE).await else { return };
        for row in page.rows {
            let Ok(job) = read_job(&row) else { continue };
            if job.state == JobState::Running {
                continue;
            }
            for index in 0..job.parts {
                let _next_time = replicas::remove(operations, &part_id(&job.id, index)).await;
            }
            let _next_time = operations.remove(&row.id, row.write_id).await;
        }
    }
}

impl Job {
    /// Whose entries the job's are: of who started it, under the job's name.
    pub(super) fn origin(&self) -> Origin {
        origin(&self.caller, &self.id)
    }

    /// What the audit log calls it.
    fn event(&self) -> Event {
        match self.kind {
            JobKind::Reencryption => Event::ReencryptionJob,
            JobKind::CustomerKeyRotation => Event::CustomerKeyRotationJob,
            JobKind::Rewrap => Event::RewrapJob,
        }
    }

    fn subject(&self) -> Subject {
        self.customer.as_ref().map(Subject::customer).unwrap_or_default()
    }
}

/// An entry about a job has its name in the place of a request's.
fn origin(caller: &Caller, id: &JobId) -> Origin {
    Origin { request: RequestId::parse(id.as_str()).ok(), ..Origin::of(caller) }
}

fn named(slot: &OperationRow) -> Option<JobId> {
    std::str::from_utf8(&slot.body).ok().and_then(JobId::parse)
}

fn slot_id(kind: JobKind, dry_run: bool) -> OperationId {
    let name = match kind {
        JobKind::Reencryption => "reencryption",
        JobKind::CustomerKeyRotation => "customer-key-rotation",
        JobKind::Rewrap => "rewrap",
    };
    OperationId { kind: SLOT, id: if dry_run { format!("{name}-dry-run") } else { name.to_owned() } }
}

fn job_id(id: &JobId) -> OperationId {
    OperationId { kind: JOB, id: id.as_str().to_owned() }
}

pub(super) fn part_id(id: &JobId, index: u32) -> OperationId {
    OperationId { kind: PART, id: format!("{id}#{index:04}") }
}
