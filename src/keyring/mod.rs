//! The three factors → a root for a key lineage. It knows versions, states and time; it keeps roots and never customer keys.
//!
//! Every use first passes the customer's state, read within `customer_staleness`. Nothing is sealed without fresh knowledge of the
//! customer and of the environment keys; what is known opens for longer.

mod environment;
mod fingerprints;
mod page_tokens;
mod roots;
mod single_flight;
mod standings;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use quick_cache::sync::Cache;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

pub use environment::{EnvironmentError, EnvironmentTiming, FirstReading};
pub use fingerprints::{FingerprintError, compare};
pub use page_tokens::{NoPageToken, PageTokens};
pub use roots::SharedRoot;

use crate::config;
use crate::crypto::{Codebase, Lineage, Root, Version, combine};
use crate::factors::{FactorError, KeySet, KeyWrapper, Lookup};
use crate::ids::{Caller, CustomerId, Deployment};
use crate::store::{Customers, Operations, StoreError};
use crate::telemetry::metrics::RootCache;
use environment::EnvironmentKeys;
use fingerprints::Proof;
use roots::{CachedRoot, Roots};
use single_flight::SingleFlight;
use standings::Standing;

/// A source is asked for an unknown version at most once in this time for each customer, and for the environment: headers are not
/// authentic when their versions are looked up.
pub const ASK_AGAIN: Duration = Duration::from_secs(5);
/// A source that has not answered in this time is away.
const LOOK_UP: Duration = Duration::from_secs(10);
/// A call waits so long for environment keys that are read for its sake, and not until its own deadline: its caller is then told the
/// reason. The reading goes on.
const ASKED: Duration = Duration::from_secs(3);
/// So replicas and roots do not keep step.
const JITTER: f64 = 0.1;

/// Why there is no root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// The customer was never created.
    #[error("the customer does not exist")]
    CustomerNotFound,
    /// Nothing opens or seals for now.
    #[error("the customer is disabled")]
    CustomerDisabled,
    /// Nothing opens or seals, and the keys will be erased.
    #[error("the customer is pending destruction")]
    CustomerPendingDestruction,
    /// The keys are erased.
    #[error("the customer is destroyed")]
    CustomerDestroyed,
    /// The version was retired on purpose.
    #[error("a key version that this record needs is retired")]
    KeyVersionRetired,
    /// The source does not have the version.
    #[error("a key version that this record needs does not exist")]
    KeyVersionUnknown,
    /// The version is not known here, or the knowledge is too old to seal with: later it may be.
    #[error("this replica's keys are not fresh enough")]
    KeysStale,
    /// The source of the environment keys did not answer.
    #[error("the environment keys can't be read")]
    SecretsUnavailable,
    /// The wrapper of customer keys did not unwrap.
    #[error("the customer key can't be unwrapped: {0}")]
    Wrapper(FactorError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The task that looked it up was ended.
    #[error("a look-up was interrupted")]
    Interrupted,
}

/// Bounds of the caches, in time and number.
#[derive(Clone, Copy, Debug)]
pub struct CacheLimits {
    /// Roots that are kept, at most.
    pub roots: usize,
    /// A root that is used after this is refreshed in the background.
    pub refresh_after: Duration,
    /// A root is used for no longer after its customer key was unwrapped.
    pub max_age: Duration,
    /// A customer's state is believed for so long.
    pub customer_staleness: Duration,
}

impl From<&config::Cache> for CacheLimits {
    fn from(settings: &config::Cache) -> Self {
        Self {
            roots: settings.roots,
            refresh_after: settings.refresh_after,
            max_age: settings.max_age,
            customer_staleness: settings.customer_staleness,
        }
    }
}

/// What the keyring is made of.
pub struct Sources {
    /// Bound into every wrapped key.
    pub deployment: Deployment,
    /// The keys in the binary.
    pub codebase: KeySet<Codebase>,
    /// Where the environment keys stand, and what stood there.
    pub environment: FirstReading,
    /// Who wraps customer keys.
    pub wrapper: Arc<dyn KeyWrapper>,
    /// States of customers, and their wrapped keys.
    pub customers: Arc<dyn Customers>,
    /// Fingerprints.
    pub operations: Arc<dyn Operations>,
}

/// Combines the factors, and remembers the roots. Cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

struct Inner {
    deployment: Deployment,
    codebase: KeySet<Codebase>,
    environment: Arc<EnvironmentKeys>,
    wrapper: Arc<dyn KeyWrapper>,
    customers: Arc<dyn Customers>,
    operations: Arc<dyn Operations>,
    proof: watch::Sender<Proof>,
    limits: CacheLimits,
    roots: Roots,
    standings: Cache<CustomerId, Arc<Standing>>,
    /// When a customer was last read because a header named an unknown version.
    asked: Cache<CustomerId, Instant>,
    unwrapping: SingleFlight<(CustomerId, Lineage), Result<Arc<CachedRoot>, KeyringError>>,
    reading: SingleFlight<CustomerId, Result<Arc<Standing>, KeyringError>>,
    metrics: RootCache,
}

impl Keyring {
    /// Compares the fingerprints of all versions, and keeps reading the environment keys in the background for as long as the keyring
    /// lives. While the store is away, it gives no root, and goes on asking for the fingerprints: [`Self::proven`].
    ///
    /// # Errors
    /// A [`FingerprintError`]: the service must not start.
    pub async fn start(
        sources: Sources,
        timing: EnvironmentTiming,
        limits: CacheLimits,
    ) -> Result<Self, FingerprintError> {
        let operations = sources.operations;
        let environment = EnvironmentKeys::new(sources.environment, Arc::clone(&operations), timing);
        let metrics = RootCache::new();
        let inner = Arc::new(Inner {
            deployment: sources.deployment,
            codebase: sources.codebase,
            environment,
            wrapper: sources.wrapper,
            customers: sources.customers,
            operations,
            proof: watch::Sender::new(None),
            limits,
            roots: roots::roots(limits.roots, &metrics),
            standings: Cache::new(limits.roots),
            asked: Cache::new(limits.roots),
            unwrapping: SingleFlight::new(),
            reading: SingleFlight::new(),
            metrics,
        });
        match inner.settled_fingerprints().await {
            Err(error) if error.may_pass() => {
                warn!(%error, "nothing is opened or sealed until the fingerprints of the keys are compared");
                tokio::spawn(fingerprints::prove(Arc::downgrade(&inner)));
            }
            checked => drop(inner.proof.send_replace(Some(Ok(checked?)))),
        }
        tokio::spawn(environment::poll(Arc::downgrade(&inner.environment), timing.poll));
        tokio::spawn(roots::sweep_for_ever(Arc::downgrade(&inner)));
        Ok(Self(inner))
    }

    /// Waits until the keys are known to be those under which the store's records were sealed.
    ///
    /// # Errors
    /// A [`FingerprintError`]: they are not, or it can't be known, and the process must end.
    pub async fn proven(&self) -> Result<(), FingerprintError> {
        let mut proof = self.0.proof.subscribe();
        match proof.wait_for(Option::is_some).await.map(|proof| proof.clone()) {
            Ok(Some(proof)) => proof,
            // The sender is as old as the keyring.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// The lineage that seals for a customer now, and its root.
    ///
    /// # Errors
    /// A [`KeyringError`]; among them [`KeyringError::KeysStale`] where the root would open, and sealing is too late.
    pub async fn primary(&self, customer: &CustomerId) -> Result<(Lineage, SharedRoot), KeyringError> {
        self.0.check_proof()?;
        let standing = self.0.active(customer).await?;
        self.0.primary_of(customer, &standing).await
    }

    /// As [`Keyring::primary`], for what goes on while a customer is disabled or pending destruction: re-encryption, so that such a
    /// customer holds up no retirement, and saving tokens that are the only living ones.
    ///
    /// # Errors
    /// A [`KeyringError`].
    pub async fn upkeep_primary(&self, customer: &CustomerId) -> Result<(Lineage, SharedRoot), KeyringError> {
        let standing = self.0.kept(customer).await?;
        self.0.primary_of(customer, &standing).await
    }

    /// The versions that would seal for a customer now, as [`Keyring::upkeep_primary`], and the highest version of its key that was
    /// made until `by` and is not above the primary.
    ///
    /// # Errors
    /// A [`KeyringError`].
    pub async fn upkeep_versions(
        &self,
        customer: &CustomerId,
        by: Timestamp,
    ) -> Result<(Lineage, Version), KeyringError> {
        let standing = self.0.kept(customer).await?;
        let (codebase, environment) = self.primaries().await?;
        let primary = standing.primary;
        let made = standing.versions.iter().filter(|known| known.create_time <= by && known.version <= primary);
        let target = made.map(|known| known.version).max().unwrap_or(Version::FIRST);
        Ok((Lineage { codebase, environment, customer: primary }, target))
    }

    /// As [`Keyring::root`], for what [`Keyring::upkeep_primary`] is for.
    ///
    /// # Errors
    /// A [`KeyringError`].
    pub async fn upkeep_root(&self, customer: &CustomerId, lineage: Lineage) -> Result<SharedRoot, KeyringError> {
        let standing = self.0.kept(customer).await?;
        self.0.check_versions(customer, &standing, lineage).await?;
        self.0.root_of(customer, lineage).await
    }

    /// The version of the codebase key that this process seals under, from its start to its end.
    pub fn codebase_primary(&self) -> Version {
        self.0.codebase.primary()
    }

    /// The versions of codebase and environment key that this process seals under.
    ///
    /// # Errors
    /// [`KeyringError::KeysStale`], if it does not seal at all.
    pub async fn primaries(&self) -> Result<(Version, Version), KeyringError> {
        Ok((self.0.codebase.primary(), self.0.environment.fresh().await?.keys.primary()))
    }

    /// The root of the lineage that a header names.
    ///
    /// # Errors
    /// A [`KeyringError`].
    pub async fn root(&self, customer: &CustomerId, lineage: Lineage) -> Result<SharedRoot, KeyringError> {
        self.0.check_proof()?;
        let standing = self.0.active(customer).await?;
        self.0.check_versions(customer, &standing, lineage).await?;
        self.0.root_of(customer, lineage).await
    }

    /// Whether a customer's credentials open now.
    ///
    /// # Errors
    /// A [`KeyringError`] that says why not.
    pub async fn check_active(&self, customer: &CustomerId) -> Result<(), KeyringError> {
        self.0.active(customer).await.map(|_| ())
    }

    /// What seals and opens the page tokens of a list, for a caller.
    pub fn page_tokens<'a>(&'a self, list: &'static str, caller: &'a Caller) -> PageTokens<'a> {
        PageTokens::new(&self.0.codebase, &self.0.deployment, list, caller)
    }

    /// Forgets what is known of a customer, and its roots, after this process changed its state. A root that is being unwrapped
    /// meanwhile is not kept: nothing says that the customer is active (see `unwrap`).
    pub fn forget(&self, customer: &CustomerId) {
        self.0.standings.remove(customer);
        self.0.roots.retain(|(owner, _), _| owner != customer);
    }

    /// For how long a replica may go on sealing under what it knows of a customer.
    pub fn customer_staleness(&self) -> Duration {
        self.0.limits.customer_staleness
    }

    /// A lineage of this process's primaries and a customer key that lives no longer than the call, for the self-check.
    ///
    /// # Errors
    /// [`KeyringError::KeysStale`].
    pub async fn rehearsal(&self, customer_key: crate::crypto::CustomerKey) -> Result<(Lineage, Root), KeyringError> {
        let snapshot = self.0.environment.fresh().await?;
        let (codebase, environment) = (self.0.codebase.primary(), snapshot.keys.primary());
        let lineage = Lineage { codebase, environment, customer: Version::FIRST };
        match (self.0.codebase.get(codebase), snapshot.keys.get(environment)) {
            (Lookup::Enabled(codebase), Lookup::Enabled(environment)) => {
                Ok((lineage, combine(codebase, environment, customer_key)))
            }
            (_, _) => Err(KeyringError::KeysStale),
        }
    }
}

#[cfg(test)]
mod tests;
