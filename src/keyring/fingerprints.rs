//! The fingerprint of every factor version ever used, kept in the store. So two builds with different keys under one version number
//! are told apart before they seal anything.

use crate::crypto::{Fingerprint, Version};
use crate::factors::KeySet;
use crate::store::{ChangeError, Decision, OperationId, OperationRow, Operations, StoreError, WriteId, change};

/// Why the versions of a factor were not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FingerprintError {
    /// The store knows another key under this version.
    #[error(
        "the {factor} key of version {version} is not the one that this store's records were sealed under: \
         give the service the former key, or another store"
    )]
    Mismatch {
        /// `codebase` or `environment`.
        factor: &'static str,
        /// Which.
        version: Version,
    },
    /// The store's.
    #[error(transparent)]
    Store(#[from] ChangeError),
    /// The operating system's generator did not answer.
    #[error("the system's generator of random numbers does not answer")]
    NoRandomness,
}

impl FingerprintError {
    /// Whether it says nothing about the keys, and is gone when the store answers again.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Store(ChangeError::Concurrent | ChangeError::Store(StoreError::Away(_) | StoreError::Throttled)) => {
                true
            }
            Self::Store(ChangeError::Store(
                StoreError::Refused(_) | StoreError::Absent(_) | StoreError::Newer | StoreError::Corrupt(_),
            ))
            | Self::Mismatch { .. }
            | Self::NoRandomness => false,
        }
    }
}

/// Inserts the fingerprints that the store lacks, and compares those that it has.
///
/// # Errors
/// The first [`FingerprintError`].
pub(super) async fn check<F>(
    operations: &dyn Operations,
    factor: &'static str,
    keys: &KeySet<F>,
) -> Result<(), FingerprintError> {
    for (version, Fingerprint(octets)) in keys.fingerprints() {
        let id = OperationId { kind: "fingerprint", id: format!("{factor}#{version}") };
        let id = &id;
        let stored = change(operations, id, |present: Option<OperationRow>| async move {
            if let Some(row) = present {
                return Ok::<_, FingerprintError>(Decision::Done(row.body));
            }
            let write_id = WriteId::random().map_err(|_| FingerprintError::NoRandomness)?;
            let row = OperationRow { id: id.clone(), write_id, body: octets.to_vec() };
            Ok(Decision::Replace(row, octets.to_vec()))
        });
        if stored.await? != octets {
            return Err(FingerprintError::Mismatch { factor, version });
        }
    }
    Ok(())
}
