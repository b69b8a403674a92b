//! Roots that were unwrapped, kept for as long as they may be: refreshed in the background while they are used, and gone at once when their
//! customer is found not to be active. Customer keys are unwrapped here and never kept.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter};
use tokio::time::{Instant, interval, timeout};
use tracing::{debug, warn};

use super::standings::Standing;
use super::{Inner, JITTER, KeyringError, LOOK_UP};
use crate::crypto::{Lineage, Root, combine};
use crate::factors::{FactorError, Lookup, WrapContext, WrappedKey};
use crate::ids::CustomerId;
use crate::jitter::jittered;
use crate::store::KeyVersionState;
use crate::telemetry::metrics::{Counter, RootCache};

/// After a background refresh that failed, the next is tried no sooner.
const REFRESH_AGAIN: Duration = Duration::from_secs(30);
/// How often roots that have grown old are swept out, used or not.
const SWEEP: Duration = Duration::from_secs(60);

/// Roots by customer and lineage: versions count from 1 for every customer, so a lineage alone names nothing.
pub(super) type Roots = Cache<(CustomerId, Lineage), Arc<CachedRoot>, UnitWeighter, DefaultHashBuilder, CountEvictions>;

/// At most `limit` of them.
pub(super) fn roots(limit: usize, metrics: &RootCache) -> Roots {
    let evictions = CountEvictions(metrics.evictions.clone());
    Cache::with(limit, limit as u64, UnitWeighter, DefaultHashBuilder::default(), evictions)
}

#[derive(Clone)]
pub(super) struct CountEvictions(Counter);

impl<K, V> Lifecycle<K, V> for CountEvictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: K, _: V) {
        self.0.increment(1);
    }
}

pub(super) struct CachedRoot {
    root: Root,
    unwrapped_at: Instant,
    refresh_at: Mutex<Instant>,
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
    pub(super) async fn primary_of(
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

    /// The root of a lineage whose versions have been checked.
    pub(super) async fn root_of(
        self: &Arc<Self>,
        customer: &CustomerId,
        lineage: Lineage,
    ) -> Result<SharedRoot, KeyringError> {
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

    pub(super) fn sweep(&self) {
        self.roots.retain(|_, cached| self.is_young(cached));
        self.standings.retain(|_, standing| standing.read_at.elapsed() < self.limits.max_age);
    }
}

/// Sweeps out what has grown old, used or not, for as long as somebody else holds the keyring.
pub(super) async fn sweep_for_ever(keyring: Weak<Inner>) {
    let mut ticks = interval(SWEEP);
    while let Some(keyring) = keyring.upgrade() {
        keyring.sweep();
        drop(keyring);
        ticks.tick().await;
    }
}
