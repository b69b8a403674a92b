//! The three factors → a root for a key lineage. It knows versions, states and time; it keeps roots and never customer keys.
//!
//! Every use first passes the customer's state, read within `customer_staleness`. Nothing is sealed without fresh knowledge of the
//! customer and of the environment keys; what is known opens for longer.

mod environment;
mod fingerprints;
mod page_tokens;
mod single_flight;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter};
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout};
use tracing::{debug, warn};

pub use environment::{EnvironmentError, EnvironmentTiming};
pub use fingerprints::FingerprintError;
pub use page_tokens::{NoPageToken, PageTokens};

use crate::config;
use crate::crypto::{Codebase, Environment, Lineage, Root, Version, combine};
use crate::factors::{EnvironmentSource, FactorError, KeySet, KeyWrapper, Lookup, WrapContext, WrappedKey};
use crate::ids::{Caller, CustomerId, Deployment};
use crate::jitter::jittered;
use crate::store::{CustomerState, Customers, KeyVersion, KeyVersionState, Operations, StoreError};
use crate::telemetry::metrics::{Counter, RootCache};
use environment::EnvironmentKeys;
use fingerprints::Claim;
use single_flight::SingleFlight;

/// A source is asked for an unknown version at most once in this time for each customer, and for the environment: headers are not
/// authentic when their versions are looked up.
pub const ASK_AGAIN: Duration = Duration::from_secs(5);
/// A source that has not answered in this time is away.
const LOOK_UP: Duration = Duration::from_secs(10);
/// A call waits so long for environment keys that are read for its sake, and not until its own deadline: its caller is then told the
/// reason. The reading goes on.
const ASKED: Duration = Duration::from_secs(3);
/// After a background refresh that failed, the next is tried no sooner.
const REFRESH_AGAIN: Duration = Duration::from_secs(30);
/// While the store is away at the start, it is asked for the fingerprints so often.
const PROVE_AGAIN: Duration = Duration::from_secs(1);
/// At the start, a source that seems to lack a version is read again so often, while it may lag.
const FETCH_AGAIN: Duration = Duration::from_secs(3);
/// So replicas and roots do not keep step.
const JITTER: f64 = 0.1;
/// How often roots that have grown old are swept out, used or not.
const SWEEP: Duration = Duration::from_secs(60);

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
    /// Where the environment keys stand.
    pub environment: Arc<dyn EnvironmentSource>,
    /// Who wraps customer keys.
    pub wrapper: Arc<dyn KeyWrapper>,
    /// States of customers, and their wrapped keys.
    pub customers: Arc<dyn Customers>,
    /// Fingerprints.
    pub operations: Arc<dyn Operations>,
}

/// Whether the keys are those that the store knows. `None`: the store has not answered yet.
type Proof = Option<Result<(), FingerprintError>>;

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
    /// Versions count from 1 for every customer, so a lineage alone names nothing.
    roots: Cache<(CustomerId, Lineage), Arc<CachedRoot>, UnitWeighter, DefaultHashBuilder, CountEvictions>,
    standings: Cache<CustomerId, Arc<Standing>>,
    /// When a customer was last read because a header named an unknown version.
    asked: Cache<CustomerId, Instant>,
    unwrapping: SingleFlight<(CustomerId, Lineage), Result<Arc<CachedRoot>, KeyringError>>,
    reading: SingleFlight<CustomerId, Result<Arc<Standing>, KeyringError>>,
    metrics: RootCache,
}

#[derive(Clone)]
struct CountEvictions(Counter);

impl<K, V> Lifecycle<K, V> for CountEvictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: K, _: V) {
        self.0.increment(1);
    }
}

struct CachedRoot {
    root: Root,
    unwrapped_at: Instant,
    refresh_at: Mutex<Instant>,
}

/// What is known of a customer.
struct Standing {
    state: CustomerState,
    primary: Version,
    versions: Box<[Known]>,
    read_at: Instant,
}

/// What is known of a version of a customer's key.
struct Known {
    version: Version,
    state: KeyVersionState,
    create_time: Timestamp,
}

impl Known {
    fn of(key: &KeyVersion) -> Self {
        Self { version: key.version, state: key.state, create_time: key.create_time }
    }
}

impl Standing {
    fn version(&self, version: Version) -> Option<KeyVersionState> {
        self.versions.iter().find(|known| known.version == version).map(|known| known.state)
    }

    fn refusal(&self) -> Option<KeyringError> {
        match self.state {
            CustomerState::Active => None,
            CustomerState::Disabled => Some(KeyringError::CustomerDisabled),
            CustomerState::PendingDestruction { .. } => Some(KeyringError::CustomerPendingDestruction),
            CustomerState::Destroyed { .. } => Some(KeyringError::CustomerDestroyed),
        }
    }
}

impl Keyring {
    /// Reads the environment keys, compares the fingerprints of all versions, and keeps reading in the background for as long as the
    /// keyring lives. While the store is away, it gives no root, and goes on asking for the fingerprints: [`Self::proven`].
    ///
    /// # Errors
    /// An [`EnvironmentError`]: the service must not start.
    pub async fn start(
        sources: Sources,
        timing: EnvironmentTiming,
        limits: CacheLimits,
    ) -> Result<Self, EnvironmentError> {
        let operations = sources.operations;
        let environment = EnvironmentKeys::start(sources.environment, Arc::clone(&operations), timing).await?;
        let metrics = RootCache::new();
        let evictions = CountEvictions(metrics.evictions.clone());
        let inner = Arc::new(Inner {
            deployment: sources.deployment,
            codebase: sources.codebase,
            environment,
            wrapper: sources.wrapper,
            customers: sources.customers,
            operations,
            proof: watch::Sender::new(None),
            limits,
            roots: Cache::with(
                limits.roots,
                limits.roots as u64,
                UnitWeighter,
                DefaultHashBuilder::default(),
                evictions,
            ),
            standings: Cache::new(limits.roots),
            asked: Cache::new(limits.roots),
            unwrapping: SingleFlight::new(),
            reading: SingleFlight::new(),
            metrics,
        });
        match inner.settled_fingerprints().await {
            Err(error) if error.may_pass() => {
                warn!(%error, "nothing is opened or sealed until the fingerprints of the keys are compared");
                tokio::spawn(prove(Arc::downgrade(&inner)));
            }
            checked => drop(inner.proof.send_replace(Some(Ok(checked?)))),
        }
        let (polled, swept) = (Arc::downgrade(&inner.environment), Arc::downgrade(&inner));
        tokio::spawn(environment::poll(polled, timing.poll));
        tokio::spawn(async move {
            let mut ticks = interval(SWEEP);
            while let Some(inner) = swept.upgrade() {
                inner.sweep();
                drop(inner);
                ticks.tick().await;
            }
        });
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

/// Whether a service with these keys would start on a store: compares them with the fingerprints that it has, and writes nothing.
///
/// # Errors
/// A [`FingerprintError`].
pub async fn compare(
    operations: &dyn Operations,
    codebase: &KeySet<Codebase>,
    environment: &KeySet<Environment>,
) -> Result<(), FingerprintError> {
    check_none_lost(operations, codebase, environment).await?;
    fingerprints::compare(operations, claims(codebase, environment)).await.map(drop)
}

async fn check_none_lost(
    operations: &dyn Operations,
    codebase: &KeySet<Codebase>,
    environment: &KeySet<Environment>,
) -> Result<(), FingerprintError> {
    let absent = environment.gaps().chain(environment.next_version());
    fingerprints::check_none_lost(operations, "environment", absent).await?;
    // The next version of the codebase key may be known from a newer build that runs beside this one, or ran before it.
    fingerprints::check_none_lost(operations, "codebase", codebase.gaps()).await
}

fn claims(codebase: &KeySet<Codebase>, environment: &KeySet<Environment>) -> impl Iterator<Item = Claim> {
    fingerprints::claims("codebase", codebase).chain(fingerprints::claims("environment", environment))
}

/// A root that stays in memory for as long as somebody holds it.
pub struct SharedRoot(Arc<CachedRoot>);

impl std::ops::Deref for SharedRoot {
    type Target = Root;

    fn deref(&self) -> &Root {
        &self.0.root
    }
}

impl Inner {
    /// Compares the fingerprints. The store may know the environment's next version from a replica that has read a newer value than the
    /// one that was read here: before that version counts as lost, the source is read again for as long as it may lag.
    async fn settled_fingerprints(&self) -> Result<(), FingerprintError> {
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
        check_none_lost(operations, &self.codebase, &environment.keys).await?;
        // Both at once: where one factor is refused, nothing is remembered of the other.
        fingerprints::check(operations, claims(&self.codebase, &environment.keys)).await
    }

    /// Whether the keys are known to be the right ones. What is sealed under wrong ones would be lost, and what they don't open would
    /// be told as damaged.
    fn check_proof(&self) -> Result<(), KeyringError> {
        match *self.proof.borrow() {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(KeyringError::KeysStale),
            None => Err(StoreError::Away("the fingerprints of the keys are not compared yet".to_owned()).into()),
        }
    }

    /// The customer, if its state was read recently and is active.
    async fn active(self: &Arc<Self>, customer: &CustomerId) -> Result<Arc<Standing>, KeyringError> {
        let standing = self.standing(customer).await?;
        match standing.refusal() {
            None => Ok(standing),
            Some(refusal) => Err(refusal),
        }
    }

    /// The customer, whatever its state, unless its keys are erased.
    async fn kept(self: &Arc<Self>, customer: &CustomerId) -> Result<Arc<Standing>, KeyringError> {
        self.check_proof()?;
        let standing = self.standing(customer).await?;
        match standing.refusal() {
            None | Some(KeyringError::CustomerDisabled | KeyringError::CustomerPendingDestruction) => Ok(standing),
            Some(refusal) => Err(refusal),
        }
    }

    async fn standing(self: &Arc<Self>, customer: &CustomerId) -> Result<Arc<Standing>, KeyringError> {
        match self.standings.get(customer) {
            Some(standing) if standing.read_at.elapsed() < self.limits.customer_staleness => Ok(standing),
            Some(_) | None => self.read_standing(customer).await,
        }
    }

    async fn primary_of(
        self: &Arc<Self>,
        customer: &CustomerId,
        standing: &Standing,
    ) -> Result<(Lineage, SharedRoot), KeyringError> {
        let environment = self.environment.fresh().await?.keys.primary();
        let lineage = Lineage { codebase: self.codebase.primary(), environment, customer: standing.primary };
        // A row that someone edited: what is sealed under a retired version would not open again.
        if standing.version(standing.primary) != Some(KeyVersionState::Enabled) {
            return Err(KeyringError::KeyVersionRetired);
        }
        Ok((lineage, self.root_of(customer, lineage).await?))
    }

    /// Reads a customer's row. A customer that is not active loses its roots at once.
    async fn read_standing(self: &Arc<Self>, customer: &CustomerId) -> Result<Arc<Standing>, KeyringError> {
        let (this, id) = (Arc::clone(self), customer.clone());
        let read = move || async move {
            let read_at = Instant::now();
            let Some(row) = this.customers.get(&id).await? else {
                this.standings.remove(&id);
                return Err(KeyringError::CustomerNotFound);
            };
            let standing = Arc::new(Standing {
                state: row.state,
                primary: row.primary,
                versions: row.versions.iter().map(Known::of).collect(),
                read_at,
            });
            let was_known_inactive = this.standings.get(&id).is_some_and(|before| before.refusal().is_some());
            // Before the roots are dropped, so that none is kept after that (see `unwrap`).
            this.standings.insert(id.clone(), Arc::clone(&standing));
            if standing.refusal().is_some() && !was_known_inactive {
                this.roots.retain(|(owner, _), _| *owner != id);
            }
            Ok(standing)
        };
        self.reading.start(customer, read).await.unwrap_or(Err(KeyringError::Interrupted))
    }

    /// Whether each version of a header is known here and enabled. What is not known is asked for.
    async fn check_versions(
        self: &Arc<Self>,
        customer: &CustomerId,
        standing: &Arc<Standing>,
        lineage: Lineage,
    ) -> Result<(), KeyringError> {
        match self.codebase.get(lineage.codebase) {
            Lookup::Enabled(_) => {}
            Lookup::Retired => return Err(KeyringError::KeyVersionRetired),
            // Another build may hold it.
            Lookup::Unknown => return Err(KeyringError::KeysStale),
        }
        self.environment.with(lineage.environment).await?;
        let state = match standing.version(lineage.customer) {
            Some(state) => state,
            None => self.ask_for(customer, lineage.customer).await?,
        };
        match state {
            KeyVersionState::Enabled => Ok(()),
            KeyVersionState::Retired => Err(KeyringError::KeyVersionRetired),
        }
    }

    /// Reads a customer again for the sake of a version that is not known here.
    async fn ask_for(
        self: &Arc<Self>,
        customer: &CustomerId,
        version: Version,
    ) -> Result<KeyVersionState, KeyringError> {
        // Somebody else may have asked since.
        if let Some(state) = self.standings.get(customer).and_then(|standing| standing.version(version)) {
            return Ok(state);
        }
        let asked_at = Instant::now();
        if self.asked.get(customer).is_some_and(|at| at.elapsed() < ASK_AGAIN) {
            // Not again so soon; but an answer that is on its way is waited for.
            let under_way = self.reading.join(customer).ok_or(KeyringError::KeysStale)?;
            let standing = under_way.await.unwrap_or(Err(KeyringError::Interrupted))?;
            standing.refusal().map_or(Ok(()), Err)?;
            return standing.version(version).ok_or(KeyringError::KeysStale);
        }
        self.asked.insert(customer.clone(), asked_at);
        let standing = self.read_standing(customer).await?;
        standing.refusal().map_or(Ok(()), Err)?;
        // A reading that was under way when this one was asked for may have missed a version that a header already names.
        let missed =
            if standing.read_at < asked_at { KeyringError::KeysStale } else { KeyringError::KeyVersionUnknown };
        standing.version(version).ok_or(missed)
    }

    /// The root of a lineage whose versions have been checked.
    async fn root_of(self: &Arc<Self>, customer: &CustomerId, lineage: Lineage) -> Result<SharedRoot, KeyringError> {
        let key = (customer.clone(), lineage);
        if let Some(cached) = self.roots.get(&key).filter(|cached| self.is_young(cached)) {
            self.metrics.hits.increment(1);
            self.refresh_if_due(&key, &cached);
            return Ok(SharedRoot(cached));
        }
        self.metrics.misses.increment(1);
        let (this, work_key) = (Arc::clone(self), key.clone());
        let unwrap = move || async move {
            // A look-up may have ended since.
            match this.roots.get(&work_key).filter(|cached| this.is_young(cached)) {
                Some(cached) => Ok(cached),
                None => this.unwrap(work_key).await,
            }
        };
        let root = self.unwrapping.start(&key, unwrap).await.unwrap_or(Err(KeyringError::Interrupted))?;
        Ok(SharedRoot(root))
    }

    fn is_young(&self, cached: &CachedRoot) -> bool {
        cached.unwrapped_at.elapsed() < self.limits.max_age
    }

    /// Starts a refresh in the background, if it is time for one. The root goes on being used meanwhile.
    fn refresh_if_due(self: &Arc<Self>, key: &(CustomerId, Lineage), cached: &CachedRoot) {
        {
            let mut refresh_at = cached.refresh_at.lock().unwrap_or_else(PoisonError::into_inner);
            if Instant::now() < *refresh_at {
                return;
            }
            *refresh_at = Instant::now() + jittered(REFRESH_AGAIN, JITTER);
        }
        let (this, work_key) = (Arc::clone(self), key.clone());
        // The flight's task runs by itself; nobody here waits for it.
        drop(self.unwrapping.start(key, move || async move {
            let refreshed = this.unwrap(work_key.clone()).await;
            match &refreshed {
                Err(KeyringError::Wrapper(FactorError::Refused(_))) => {
                    this.roots.remove(&work_key);
                    warn!(customer = work_key.0.as_str(), "root dropped: its customer key is refused");
                }
                Err(error) => debug!(%error, customer = work_key.0.as_str(), "root not refreshed; it stays for now"),
                Ok(_) => {}
            }
            refreshed
        }));
    }

    /// Unwraps the customer key, combines it with the others, and keeps the root.
    async fn unwrap(&self, (customer, lineage): (CustomerId, Lineage)) -> Result<Arc<CachedRoot>, KeyringError> {
        let unwrapped_at = Instant::now();
        let row = self.customers.key(&customer, lineage.customer).await?.ok_or(KeyringError::KeyVersionUnknown)?;
        let context = WrapContext { deployment: &self.deployment, customer: &customer, version: lineage.customer };
        let wrapped = WrappedKey { octets: row.wrapped, kms_key_arn: row.kms_key_arn };
        let unwrapped = timeout(LOOK_UP, self.wrapper.unwrap(&context, &wrapped)).await;
        let unwrapped = unwrapped.unwrap_or_else(|_| Err(FactorError::Away("no answer in time".to_owned())));
        let customer_key = unwrapped.map_err(KeyringError::Wrapper)?;
        let environment = self.environment.snapshot();
        let root = match (self.codebase.get(lineage.codebase), environment.keys.get(lineage.environment)) {
            (Lookup::Enabled(codebase), Lookup::Enabled(environment)) => combine(codebase, environment, customer_key),
            (_, _) => return Err(KeyringError::KeysStale),
        };
        let refresh_at = Mutex::new(unwrapped_at + jittered(self.limits.refresh_after, JITTER));
        let cached = Arc::new(CachedRoot { root, unwrapped_at, refresh_at });
        // While the key was unwrapped, the customer may have been found disabled; then nothing is kept. Looked at again afterwards,
        // since the roots are dropped after the state is known.
        let key = (customer, lineage);
        let is_active = || self.standings.get(&key.0).is_some_and(|standing| standing.refusal().is_none());
        if is_active() {
            self.roots.insert(key.clone(), Arc::clone(&cached));
            if !is_active() {
                self.roots.remove(&key);
            }
        }
        Ok(cached)
    }

    fn sweep(&self) {
        self.roots.retain(|_, cached| self.is_young(cached));
        self.standings.retain(|_, standing| standing.read_at.elapsed() < self.limits.max_age);
    }
}

/// Asks the store for the fingerprints until it answers, for as long as somebody else holds the keyring.
async fn prove(keyring: Weak<Inner>) {
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

#[cfg(test)]
mod tests;
