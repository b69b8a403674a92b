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
    /// The store knows a version that is not there.
    #[error(
        "version {version} of the {factor} key is gone, and this store may hold records that were sealed under it: \
         give the service all the keys that it had, or another store"
    )]
    Lost {
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
            | Self::Lost { .. }
            | Self::NoRandomness => false,
        }
    }
}

/// One version of a factor as this process has it.
pub(super) struct Claim {
    factor: &'static str,
    version: Version,
    fingerprint: Fingerprint,
}

/// A claim for each version of a factor, the retired ones too.
pub(super) fn claims<F>(factor: &'static str, keys: &KeySet<F>) -> impl Iterator<Item = Claim> {
    keys.fingerprints().map(move |(version, fingerprint)| Claim { factor, version, fingerprint })
}

/// Compares each claim with the fingerprint that the store has, and then inserts those that it lacks: a refusal leaves the store as
/// it was, and the right keys are accepted after the wrong ones.
///
/// # Errors
/// The first [`FingerprintError`].
pub(super) async fn check(
    operations: &dyn Operations,
    claims: impl Iterator<Item = Claim>,
) -> Result<(), FingerprintError> {
    for claim in compare(operations, claims).await? {
        // Another process may have inserted one since, of this key or another.
        claim.compare(&claim.insert(operations).await?)?;
    }
    Ok(())
}

/// Compares each claim with the fingerprint that the store has. Those that it lacks are the answer.
///
/// # Errors
/// The first [`FingerprintError`].
pub(super) async fn compare(
    operations: &dyn Operations,
    claims: impl Iterator<Item = Claim>,
) -> Result<Vec<Claim>, FingerprintError> {
    let mut unknown = Vec::new();
    for claim in claims {
        match operations.get(&claim.id()).await.map_err(ChangeError::from)? {
            Some(row) => claim.compare(&row.body)?,
            None => unknown.push(claim),
        }
    }
    Ok(unknown)
}

/// Looks for the fingerprints of versions that are not there: one that the store has was lost. What a start can't know is a primary
/// that went back, since no fingerprint tells which version sealed.
///
/// # Errors
/// The first [`FingerprintError`].
pub(super) async fn check_none_lost(
    operations: &dyn Operations,
    factor: &'static str,
    absent: impl Iterator<Item = Version>,
) -> Result<(), FingerprintError> {
    for version in absent {
        if operations.get(&id(factor, version)).await.map_err(ChangeError::from)?.is_some() {
            return Err(FingerprintError::Lost { factor, version });
        }
    }
    Ok(())
}

fn id(factor: &str, version: Version) -> OperationId {
    OperationId { kind: "fingerprint", id: format!("{factor}#{version}") }
}

impl Claim {
    fn id(&self) -> OperationId {
        id(self.factor, self.version)
    }

    fn compare(&self, stored: &[u8]) -> Result<(), FingerprintError> {
        if stored == self.fingerprint.0 {
            return Ok(());
        }
        Err(FingerprintError::Mismatch { factor: self.factor, version: self.version })
    }

    /// The fingerprint that then stands in the store.
    async fn insert(&self, operations: &dyn Operations) -> Result<Vec<u8>, FingerprintError> {
        let id = self.id();
        let (id, octets) = (&id, self.fingerprint.0.to_vec());
        let octets = &octets;
        change(operations, id, |present: Option<OperationRow>| async move {
            if let Some(row) = present {
                return Ok::<_, FingerprintError>(Decision::Done(row.body));
            }
            let write_id = WriteId::random().map_err(|_| FingerprintError::NoRandomness)?;
            Ok(Decision::Replace(OperationRow { id: id.clone(), write_id, body: octets.clone() }, octets.clone()))
        })
        .await
    }
}
