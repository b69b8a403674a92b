//! What a job does to one record or one customer, and what became of it. What may be better in a moment is tried again; what is wrong
//! with the thing itself is an outcome, and the job goes on.

use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use super::book::{JobError, Jobs};
use super::plan::{ItemId, Job, JobKind, Progress};
use crate::audit::entry::Subject;
use crate::audit::{Event, Reason};
use crate::crypto::{Envelope, Lineage};
use crate::customers::rotation::{Upkeep, is_wrapped_with, wants_rotation};
use crate::customers::{CustomerError, InUse};
use crate::factors::FactorError;
use crate::ids::{CredentialRef, CustomerId};
use crate::keyring::KeyringError;
use crate::store::{CredentialRow, CustomerRow, Life, Met, StoreError};
use crate::telemetry::metrics::JobItem;
use crate::vault::{Resealed, VaultError};

/// A dependency that is away is asked so often, about 15 s in all, and then the part is left to another time.
const TRIES: u32 = 8;
/// Before the second try. It doubles, to at most 32 times as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Something that a job came to.
pub(super) enum Item {
    Record(Met<CredentialRef, CredentialRow>),
    Customer(Met<CustomerId, CustomerRow>),
}

/// What became of it.
pub(super) enum Outcome {
    Changed,
    Skipped,
    /// In a dry run: it would have been changed.
    Due,
    /// In a dry run: it is sealed under these versions.
    Counted(Lineage),
    Failed(Reason),
}

impl Outcome {
    fn counted_as(&self) -> JobItem {
        match self {
            Self::Changed => JobItem::Changed,
            Self::Skipped => JobItem::Skipped,
            Self::Due => JobItem::Due,
            Self::Counted(_) => JobItem::Counted,
            Self::Failed(_) => JobItem::Failed,
        }
    }
}

impl Item {
    pub(super) fn id(&self) -> ItemId {
        match self {
            Self::Record(met) => {
                ItemId { customer: met.id.customer.clone(), credential: Some(met.id.credential.clone()) }
            }
            Self::Customer(met) => ItemId { customer: met.id.clone(), credential: None },
        }
    }
}

impl Progress {
    pub(super) fn take(&mut self, id: ItemId, outcome: &Outcome) {
        self.done += 1;
        match outcome {
            Outcome::Changed => self.changed += 1,
            Outcome::Skipped => self.skipped += 1,
            Outcome::Due => {}
            Outcome::Counted(lineage) => self.counts(id, *lineage),
            Outcome::Failed(reason) => self.fails(id, reason.as_str()),
        }
    }
}

impl Jobs {
    /// Does it, and notes a failure in the audit log.
    ///
    /// # Errors
    /// A [`JobError`] of what is not the item's fault: the job can't go on now.
    pub(super) async fn work_on_item(&self, job: &Job, item: &Item) -> Result<Outcome, JobError> {
        let outcome = self.tried(job, item).await?;
        self.1.of(job.kind, job.dry_run).came_to(outcome.counted_as());
        if let Outcome::Failed(reason) = outcome {
            let id = item.id();
            let event = match job.kind {
                JobKind::Reencryption => Event::ReencryptionRecord,
                JobKind::CustomerKeyRotation => Event::CustomerKeyRotationRecord,
                JobKind::Rewrap => Event::RewrapRecord,
            };
            warn!(
                job = job.id.as_str(),
                customer = id.customer.as_str(),
                reason = reason.as_str(),
                "not done by a job"
            );
            let subject = Subject { credential: id.credential, ..Subject::customer(&id.customer) };
            let _written = self.0.audit.ended(&job.origin(), event, subject, Some(reason)).await?;
        }
        Ok(outcome)
    }

    async fn tried(&self, job: &Job, item: &Item) -> Result<Outcome, JobError> {
        let mut tries = 1;
        loop {
            let done = match item {
                Item::Record(met) => self.record(job, met).await.map_err(|error| of_record(&error)),
                Item::Customer(met) => self.customer(job, met).await.map_err(|error| of_customer(&error)),
            };
            match done {
                Ok(outcome) => return Ok(outcome),
                Err(Failed::Item(outcome)) => return Ok(outcome),
                Err(Failed::ForNow(Reason::KeysStale)) if tries == TRIES => {
                    // No fault of the item's, if this process has no fresh keys at all: another may have.
                    self.0.keyring.primaries().await?;
                    // It names versions that this build does not know: waiting would not help, and would hold up all others.
                    return Ok(Outcome::Failed(Reason::KeysStale));
                }
                Err(Failed::ForNow(reason)) if tries == TRIES => {
                    let what = format!("a dependency does not answer: {}", reason.as_str());
                    return Err(JobError::Store(StoreError::Away(what)));
                }
                Err(Failed::ForNow(_)) => sleep(FIRST_PAUSE * 2_u32.pow((tries - 1).min(5))).await,
            }
            tries += 1;
        }
    }

    async fn record(&self, job: &Job, met: &Met<CredentialRef, CredentialRow>) -> Result<Outcome, VaultError> {
        let row = met.row.as_ref().map_err(Clone::clone)?;
        if job.dry_run {
            let Life::Living(living) = &row.life else { return Ok(Outcome::Skipped) };
            return Envelope::lineage_of(&living.envelope).map(Outcome::Counted).map_err(|_| VaultError::Malformed);
        }
        // Most records of a last pass need no second reading.
        let resealed = match self.0.vault.due(row, job.target()).await? {
            Resealed::Changed => self.0.vault.reseal(&met.id, job.target()).await?,
            decided @ (Resealed::Skipped | Resealed::Ahead) => decided,
        };
        Ok(match resealed {
            Resealed::Changed => Outcome::Changed,
            Resealed::Skipped => Outcome::Skipped,
            Resealed::Ahead => Outcome::Failed(Reason::VersionAhead),
        })
    }

    async fn customer(&self, job: &Job, met: &Met<CustomerId, CustomerRow>) -> Result<Outcome, CustomerError> {
        let row = met.row.as_ref().map_err(Clone::clone)?;
        let upkeep = match (job.kind, job.dry_run) {
            // Records are not walked here.
            (JobKind::Reencryption, _) => Upkeep::Skipped,
            (JobKind::CustomerKeyRotation, true) if wants_rotation(row, job.create_time) => return Ok(Outcome::Due),
            (JobKind::Rewrap, true) if !is_wrapped_with(row, &job.wraps_with) => return Ok(Outcome::Due),
            (JobKind::CustomerKeyRotation | JobKind::Rewrap, true) => Upkeep::Skipped,
            (JobKind::CustomerKeyRotation, false) => self.0.directory.rotate_since(&met.id, job.create_time).await?,
            (JobKind::Rewrap, false) => self.0.directory.rewrap(&met.id).await?,
        };
        Ok(match upkeep {
            Upkeep::Changed => Outcome::Changed,
            Upkeep::Skipped => Outcome::Skipped,
        })
    }
}

/// What an error says.
enum Failed {
    /// Of the item.
    Item(Outcome),
    /// Of the dependencies, for now.
    ForNow(Reason),
}

fn of_record(error: &VaultError) -> Failed {
    use VaultError as E;
    let reason = Reason::from(error);
    match error {
        // Erased, or being erased.
        E::CredentialNotFound | E::Keyring(KeyringError::CustomerDestroyed) => Failed::Item(Outcome::Skipped),
        E::Store(error) => of_store(error, reason),
        E::Keyring(error) => match error {
            KeyringError::Wrapper(error) => of_wrapper(error, reason),
            KeyringError::Store(error) => of_store(error, reason),
            KeyringError::KeysStale | KeyringError::SecretsUnavailable | KeyringError::Interrupted => {
                Failed::ForNow(reason)
            }
            KeyringError::CustomerNotFound
            | KeyringError::CustomerDisabled
            | KeyringError::CustomerPendingDestruction
            | KeyringError::CustomerDestroyed
            | KeyringError::KeyVersionRetired
            | KeyringError::KeyVersionUnknown => Failed::Item(Outcome::Failed(reason)),
        },
        E::ChangedConcurrently | E::Clock(_) | E::Audit(_) | E::TooSlow => Failed::ForNow(reason),
        E::Malformed
        | E::NotAuthentic
        | E::EncodingUnknown
        | E::CredentialExists { .. }
        | E::RevisionMismatch { .. }
        | E::IdempotencyKeyReused
        | E::NoAccessView
        | E::NeedsReauth
        | E::NotRefreshable
        | E::RefreshInProgress { .. }
        | E::LeaseLost
        | E::NoRoom
        | E::SecretTooLong
        | E::Internal(_) => Failed::Item(Outcome::Failed(reason)),
    }
}

fn of_customer(error: &CustomerError) -> Failed {
    use CustomerError as E;
    let reason = Reason::from(error);
    match error {
        E::NotFound | E::Destroyed | E::PendingDestruction => Failed::Item(Outcome::Skipped),
        E::Wrapper(error) => of_wrapper(error, reason),
        E::Store(error) => of_store(error, reason),
        E::ChangedConcurrently | E::Clock(_) | E::Audit(_) => Failed::ForNow(reason),
        E::NotDisabled
        | E::KeyVersionUnknown
        | E::KeyVersionInUse(
            InUse::Primary | InUse::TooEarly { .. } | InUse::Records { .. } | InUse::Unreadable { .. },
        )
        | E::Internal(_) => Failed::Item(Outcome::Failed(reason)),
    }
}

fn of_store(error: &StoreError, reason: Reason) -> Failed {
    match error {
        StoreError::Corrupt(_) | StoreError::Newer => Failed::Item(Outcome::Failed(reason)),
        StoreError::Away(_) | StoreError::Throttled | StoreError::Refused(_) | StoreError::Absent(_) => {
            Failed::ForNow(reason)
        }
    }
}

fn of_wrapper(error: &FactorError, reason: Reason) -> Failed {
    match error {
        FactorError::Refused(_) | FactorError::Absent(_) | FactorError::Corrupt(_) => {
            Failed::Item(Outcome::Failed(reason))
        }
        FactorError::Away(_) | FactorError::Throttled => Failed::ForNow(reason),
    }
}
