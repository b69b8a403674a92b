//! Why a call of the vault did not do what it was asked: one enum, which the edge makes a status of and the audit log a reason.

use jiff::Timestamp;

use crate::audit::{AuditError, Reason};
use crate::crypto::{self, NotAuthentic};
use crate::keyring::KeyringError;
use crate::randomness::NoRandomness;
use crate::secret::stored::DecodeError;
use crate::store::{ChangeError, ClockUnconfirmed, Revision, StoreError};

/// Why nothing was sealed, opened, shown or erased.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// There is no living credential.
    #[error("the credential does not exist")]
    CredentialNotFound,
    /// There is one, and there must be none.
    #[error("the credential exists already, at revision {}", current.get())]
    CredentialExists {
        /// Its revision.
        current: Revision,
    },
    /// It is at another revision.
    #[error("the credential is at revision {}", current.get())]
    RevisionMismatch {
        /// Its revision.
        current: Revision,
    },
    /// The key named another secret before.
    #[error("the idempotency key was used for another secret")]
    IdempotencyKeyReused,
    /// Others changed the row each time.
    #[error("the credential was changed by others at the same time")]
    ChangedConcurrently,
    /// A view without the refresh token exists for Salesforce credentials alone.
    #[error("a credential of this kind has no access view")]
    NoAccessView,
    /// The customer has to consent again.
    #[error("the credential needs a new consent")]
    NeedsReauth,
    /// There is no refresh token.
    #[error("the credential has no refresh token")]
    NotRefreshable,
    /// Somebody else refreshes it, and did not come back in time.
    #[error("the credential is being refreshed; its lease may be had from {available} on")]
    RefreshInProgress {
        /// From when on the lease may be had, if its holder does not come back.
        available: Timestamp,
        /// Its revision.
        current: Revision,
    },
    /// The lease is not remembered, or is not the present one where it has to be.
    #[error("the lease is lost: another one was given since, or it is not the caller's")]
    LeaseLost,
    /// What is stored is no envelope.
    #[error("the stored envelope is malformed")]
    Malformed,
    /// The envelope was not sealed by these keys for this place.
    #[error("the stored envelope is not authentic")]
    NotAuthentic,
    /// A newer release wrote it.
    #[error("the stored secret has an encoding that this release does not know")]
    EncodingUnknown,
    /// Its keys did not come while others of the same batch were waiting.
    #[error("the customer's keys did not come in time")]
    TooSlow,
    /// What was opened before it in the same batch leaves no room for it in the answer.
    #[error("the answer has no room for it")]
    NoRoom,
    /// Its fields are within their limits, and together too long.
    #[error("the secret is longer than {} octets", crypto::MAX_PLAINTEXT_OCTETS - 1)]
    SecretTooLong,
    /// A lease's end is told by other replicas' clocks, too: none is given by one that may be wrong.
    #[error(transparent)]
    Clock(#[from] ClockUnconfirmed),
    /// The audit log's: nothing was shown, and a change may have happened.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The keyring's.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A bug, or a system without randomness.
    #[error("{0}")]
    Internal(&'static str),
}

impl From<ChangeError> for VaultError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Concurrent => Self::ChangedConcurrently,
            ChangeError::Store(error) => Self::Store(error),
        }
    }
}

impl From<&VaultError> for Reason {
    fn from(error: &VaultError) -> Self {
        use VaultError as E;
        match error {
            E::CredentialNotFound => Self::CredentialNotFound,
            E::CredentialExists { .. } => Self::CredentialExists,
            E::RevisionMismatch { .. } => Self::RevisionMismatch,
            E::IdempotencyKeyReused => Self::IdempotencyKeyReused,
            E::ChangedConcurrently => Self::ChangedConcurrently,
            E::NoAccessView => Self::NoAccessView,
            E::NeedsReauth => Self::NeedsReauth,
            E::NotRefreshable => Self::NotRefreshable,
            E::RefreshInProgress { .. } => Self::RefreshInProgress,
            E::LeaseLost => Self::LeaseLost,
            E::Malformed => Self::Malformed,
            E::NotAuthentic => Self::NotAuthentic,
            E::EncodingUnknown => Self::EncodingUnknown,
            E::NoRoom => Self::ReplyFull,
            E::TooSlow => Self::DeadlineExceeded,
            E::SecretTooLong => Self::BadField,
            E::Audit(_) => Self::AuditUnavailable,
            E::Keyring(error) => error.into(),
            E::Clock(_) => Self::StoreUnavailable,
            E::Store(error) => error.into(),
            E::Internal(_) => Self::Internal,
        }
    }
}

impl From<NoRandomness> for VaultError {
    fn from(_: NoRandomness) -> Self {
        Self::Internal(NoRandomness::TEXT)
    }
}

impl From<NotAuthentic> for VaultError {
    fn from(_: NotAuthentic) -> Self {
        Self::NotAuthentic
    }
}

impl From<DecodeError> for VaultError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::UnknownEncoding => Self::EncodingUnknown,
            DecodeError::Malformed => Self::Malformed,
        }
    }
}
