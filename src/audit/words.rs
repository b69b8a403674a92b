//! The words of an entry: what was asked for, and how it went. They are closed, so no entry can say anything else. What is
//! once written is never renamed: logs are kept for years.

use crate::factors::FactorError;
use crate::keyring::KeyringError;
use crate::store::{ChangeError, StoreError};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $($word:ident = $text:literal,)+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = concat!("`", $text, "`")] $word,)+
        }

        impl $name {
            /// Each once.
            pub const ALL: &'static [Self] = &[$(Self::$word,)+];

            /// As it stands in an entry.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => $text,)+
                }
            }
        }
    };
}

words! {
    /// What an entry is about: an RPC by its name, or what the service does by itself.
    Event:
    // The stream itself: its first entry and, unless its process was killed, its last.
    StreamOpened = "stream_opened",
    StreamClosed = "stream_closed",
    // CredentialService. A batch has one entry for each of its credentials.
    EncryptCredential = "encrypt_credential",
    DecryptCredential = "decrypt_credential",
    BatchDecryptCredentials = "batch_decrypt_credentials",
    GetCredential = "get_credential",
    ListCredentials = "list_credentials",
    DeleteCredential = "delete_credential",
    AcquireRefresh = "acquire_refresh",
    CompleteRefresh = "complete_refresh",
    AbandonRefresh = "abandon_refresh",
    MarkNeedsReauth = "mark_needs_reauth",
    // CustomerService.
    CreateCustomer = "create_customer",
    GetCustomer = "get_customer",
    ListCustomers = "list_customers",
    DisableCustomer = "disable_customer",
    EnableCustomer = "enable_customer",
    DestroyCustomer = "destroy_customer",
    RestoreCustomer = "restore_customer",
    // KeyService.
    RotateCustomerKey = "rotate_customer_key",
    StartCustomerKeyRotation = "start_customer_key_rotation",
    StartRewrap = "start_rewrap",
    StartReencryption = "start_reencryption",
    GetJob = "get_job",
    ListJobs = "list_jobs",
    CancelJob = "cancel_job",
    RetireCustomerKeyVersion = "retire_customer_key_version",
    ListReplicas = "list_replicas",
    // Long work: an intent at its start, an outcome at its end, and an entry for each record that failed.
    ReencryptionJob = "reencryption_job",
    ReencryptionRecord = "reencryption_record",
    RewrapJob = "rewrap_job",
    RewrapRecord = "rewrap_record",
    CustomerKeyRotationJob = "customer_key_rotation_job",
    CustomerKeyRotationRecord = "customer_key_rotation_record",
    // The day on which a customer that is pending destruction is destroyed.
    CustomerDestruction = "customer_destruction",
}

words! {
    /// Why it was not done: the reasons of the API's errors, and what they have no word for.
    Reason:
    BadField = "BAD_FIELD",
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED",
    NoClientCertificate = "NO_CLIENT_CERTIFICATE",
    NotPermitted = "NOT_PERMITTED",
    CredentialNotFound = "CREDENTIAL_NOT_FOUND",
    CustomerNotFound = "CUSTOMER_NOT_FOUND",
    JobNotFound = "JOB_NOT_FOUND",
    CredentialExists = "CREDENTIAL_EXISTS",
    JobRunning = "JOB_RUNNING",
    RevisionMismatch = "REVISION_MISMATCH",
    LeaseLost = "LEASE_LOST",
    ChangedConcurrently = "CHANGED_CONCURRENTLY",
    CustomerDisabled = "CUSTOMER_DISABLED",
    CustomerPendingDestruction = "CUSTOMER_PENDING_DESTRUCTION",
    CustomerDestroyed = "CUSTOMER_DESTROYED",
    CustomerNotDisabled = "CUSTOMER_NOT_DISABLED",
    NeedsReauth = "NEEDS_REAUTH",
    RefreshInProgress = "REFRESH_IN_PROGRESS",
    NotRefreshable = "NOT_REFRESHABLE",
    NoAccessView = "NO_ACCESS_VIEW",
    KeyVersionRetired = "KEY_VERSION_RETIRED",
    KeyVersionUnknown = "KEY_VERSION_UNKNOWN",
    KeyVersionInUse = "KEY_VERSION_IN_USE",
    NotAuthentic = "NOT_AUTHENTIC",
    Malformed = "MALFORMED",
    Overloaded = "OVERLOADED",
    RateLimited = "RATE_LIMITED",
    KmsThrottled = "KMS_THROTTLED",
    KmsUnavailable = "KMS_UNAVAILABLE",
    SecretsUnavailable = "SECRETS_UNAVAILABLE",
    StoreUnavailable = "STORE_UNAVAILABLE",
    KeysStale = "KEYS_STALE",
    EncodingUnknown = "ENCODING_UNKNOWN",
    KmsRefused = "KMS_REFUSED",
    AuditUnavailable = "AUDIT_UNAVAILABLE",
    Internal = "INTERNAL",
    ReplyFull = "REPLY_FULL",
    // The gRPC status of that name, which has no reason of ours.
    DeadlineExceeded = "DEADLINE_EXCEEDED",
    Cancelled = "CANCELLED",
    // Of a job, and of a record that a replica with newer keys has to do.
    DoneWithFailures = "DONE_WITH_FAILURES",
    VersionAhead = "VERSION_AHEAD",
}

impl Reason {
    /// After these a change may have happened all the same: nobody was told.
    const IN_DOUBT: &[Self] =
        &[Self::StoreUnavailable, Self::AuditUnavailable, Self::Internal, Self::DeadlineExceeded, Self::Cancelled];

    /// Whether a change with this outcome, as it stands in an entry, may have happened all the same.
    pub(super) fn is_in_doubt(text: &str) -> bool {
        Self::IN_DOUBT.iter().any(|reason| reason.as_str() == text)
    }
}

impl From<&StoreError> for Reason {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Throttled => Self::Overloaded,
            StoreError::Newer => Self::EncodingUnknown,
            StoreError::Away(_) | StoreError::Refused(_) | StoreError::Absent(_) => Self::StoreUnavailable,
            StoreError::Corrupt(_) => Self::Malformed,
        }
    }
}

impl From<&ChangeError> for Reason {
    fn from(error: &ChangeError) -> Self {
        match error {
            ChangeError::Concurrent => Self::ChangedConcurrently,
            ChangeError::Store(error) => error.into(),
        }
    }
}

/// Of the customer keys: nothing else of a factor fails within a call.
impl From<&FactorError> for Reason {
    fn from(error: &FactorError) -> Self {
        match error {
            FactorError::Absent(_) | FactorError::Refused(_) => Self::KmsRefused,
            FactorError::Throttled => Self::KmsThrottled,
            FactorError::Away(_) => Self::KmsUnavailable,
            FactorError::Corrupt(_) => Self::NotAuthentic,
        }
    }
}

impl From<&KeyringError> for Reason {
    fn from(error: &KeyringError) -> Self {
        match error {
            KeyringError::CustomerNotFound => Self::CustomerNotFound,
            KeyringError::CustomerDisabled => Self::CustomerDisabled,
            KeyringError::CustomerPendingDestruction => Self::CustomerPendingDestruction,
            KeyringError::CustomerDestroyed => Self::CustomerDestroyed,
            KeyringError::KeyVersionRetired => Self::KeyVersionRetired,
            KeyringError::KeyVersionUnknown => Self::KeyVersionUnknown,
            KeyringError::KeysStale => Self::KeysStale,
            KeyringError::SecretsUnavailable => Self::SecretsUnavailable,
            KeyringError::Wrapper(error) => error.into(),
            KeyringError::Store(error) => error.into(),
            KeyringError::Interrupted => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests;
