//! The fingerprint of every factor version ever used, kept in the store. So two builds with different keys under one version number
//! are told apart before they seal anything: until they are compared, a keyring gives no root.

use std::sync::Weak;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{Inner, JITTER, KeyringError};
use crate::crypto::{Codebase, Environment, Fingerprint, Version};
use crate::factors::KeySet;
use crate::jitter::jittered;
use crate::randomness::NoRandomness;
use crate::store::{ChangeError, Decision, OperationId, OperationRow, Operations, StoreError, WriteId, change};

/// While the store is away at the start, it is asked for the fingerprints so often.
const PROVE_AGAIN: Duration = Duration::from_secs(1);
/// At the start, a source that seems to lack a version is read again so often, while it may lag.
const FETCH_AGAIN: Duration = Duration::from_secs(3);

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
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
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
            | Self::NoRandomness(_) => false,
        }
    }
}

/// Whether the keys are those that the store knows. `None`: the store has not answered yet.
pub(super) type Proof = Option<Result<(), FingerprintError>>;

impl Inner {
    /// Compares the fingerprints. The store may know the environment's next version from a replica that has read a newer value than the
    /// one that was read here: before that version counts as lost, the source is read again for as long as it may lag.
    pub(super) async fn settled_fingerprints(&self) -> Result<(), FingerprintError> {
        let begun = Instant::now();
        loop {
            let next = self.environment.snapshot().keys.next_version();
            let checked = self.check_fingerprints().await;
            match checked {
                Err(FingerprintError::Lost { factor: "environment", version })
                    if Some(version) == next && begun.elapsed() < self.environment.lag() =>
                {
                    warn!(version = version.get(), "an environment key is not here yet, or lost; reading again");
                    sleep(jittered(FETCH_AGAIN, JITTER)).await;
                    if let Err(error) = self.environment.start_again().await {
                        warn!(%error, "environment keys not read");
                    }
                }
                checked => return checked,
            }
        }
    }

    async fn check_fingerprints(&self) -> Result<(), FingerprintError> {
        let (operations, environment) = (self.operations.as_ref(), self.environment.snapshot());
        check_both_lost_none(operations, &self.codebase, &environment.keys).await?;
        // Both at once: where one factor is refused, nothing is remembered of the other.
        check(operations, claims_of_both(&self.codebase, &environment.keys)).await
    }

    /// Whether the keys are known to be the right ones. What is sealed under wrong ones would be lost, and what they don't open would
    /// be told as damaged.
    pub(super) fn check_proof(&self) -> Result<(), KeyringError> {
        match *self.proof.borrow() {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(KeyringError::KeysStale),
            None => Err(StoreError::Away("the fingerprints of the keys are not compared yet".to_owned()).into()),
        }
    }
}

/// Asks the store for the fingerprints until it answers, for as long as somebody else holds the keyring.
pub(super) async fn prove(keyring: Weak<Inner>) {
    loop {
        sleep(jittered(PROVE_AGAIN, JITTER)).await;
        let Some(keyring) = keyring.upgrade() else { return };
        match keyring.settled_fingerprints().await {
            Err(error) if error.may_pass() => debug!(%error, "fingerprints not compared"),
            checked => {
                keyring.proof.send_replace(Some(checked));
                return;
            }
        }
    }
}

/// Whether a service with these keys would start on a store: compares them with the fingerprints that it has, and writes nothing.
///
/// # Errors
/// A [`FingerprintError`].
pub async fn compare(
    operations: &dyn Operations,
    codebase: &KeySet<Codebase>,
    environment: &KeySet<Environment>,
) -> Result<(), FingerprintError> {
    check_both_lost_none(operations, codebase, environment).await?;
    unknown(operations, claims_of_both(codebase, environment)).await.map(drop)
}

async fn check_both_lost_none(
    operations: &dyn Operations,
    codebase: &KeySet<Codebase>,
    environment: &KeySet<Environment>,
) -> Result<(), FingerprintError> {
    let absent = environment.gaps().chain(environment.next_version());
    check_none_lost(operations, "environment", absent).await?;
    // The next version of the codebase key may be known from a newer build that runs beside this one, or ran before it.
    check_none_lost(operations, "codebase", codebase.gaps()).await
}

fn claims_of_both(codebase: &KeySet<Codebase>, environment: &KeySet<Environment>) -> impl Iterator<Item = Claim> {
    claims("codebase", codebase).chain(claims("environment", environment))
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
    for claim in unknown(operations, claims).await? {
        // Another process may have inserted one since, of this key or another.
        claim.compare(&claim.insert(operations).await?)?;
    }
    Ok(())
}

/// Compares each claim with the fingerprint that the store has. Those that it lacks are the answer.
///
/// # Errors
/// The first [`FingerprintError`].
async fn unknown(
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
async fn check_none_lost(
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
            let write_id = WriteId::random()?;
            Ok(Decision::Replace(OperationRow { id: id.clone(), write_id, body: octets.clone() }, octets.clone()))
        })
        .await
    }
}
