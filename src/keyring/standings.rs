//! What is known of a customer, and for how long it is believed. A version that nobody here knows is asked for, at most so often: headers are
//! not authentic when their versions are looked up.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{ASK_AGAIN, Inner, KeyringError};
use crate::crypto::{Lineage, Version};
use crate::factors::Lookup;
use crate::ids::CustomerId;
use crate::store::{CustomerState, KeyVersion, KeyVersionState};

/// What is known of a customer.
pub(super) struct Standing {
    state: CustomerState,
    pub(super) primary: Version,
    pub(super) versions: Box<[Known]>,
    pub(super) read_at: Instant,
}

/// What is known of a version of a customer's key.
pub(super) struct Known {
    pub(super) version: Version,
    state: KeyVersionState,
    pub(super) create_time: Timestamp,
}

impl Known {
    fn of(key: &KeyVersion) -> Self {
        Self { version: key.version, state: key.state, create_time: key.create_time }
    }
}

impl Standing {
    pub(super) fn version(&self, version: Version) -> Option<KeyVersionState> {
        self.versions.iter().find(|known| known.version == version).map(|known| known.state)
    }

    pub(super) fn refusal(&self) -> Option<KeyringError> {
        match self.state {
            CustomerState::Active => None,
            CustomerState::Disabled => Some(KeyringError::CustomerDisabled),
            CustomerState::PendingDestruction { .. } => Some(KeyringError::CustomerPendingDestruction),
            CustomerState::Destroyed { .. } => Some(KeyringError::CustomerDestroyed),
        }
    }
}

impl Inner {
    /// The customer, if its state was read recently and is active.
    pub(super) async fn active(self: &Arc<Self>, customer: &CustomerId) -> Result<Arc<Standing>, KeyringError> {
        let standing = self.standing(customer).await?;
        match standing.refusal() {
            None => Ok(standing),
            Some(refusal) => Err(refusal),
        }
    }

    /// The customer, whatever its state, unless its keys are erased.
    pub(super) async fn kept(self: &Arc<Self>, customer: &CustomerId) -> Result<Arc<Standing>, KeyringError> {
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

    /// Whether each version of a header is known here and enabled. What is not known is asked for.
    pub(super) async fn check_versions(
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
    pub(super) async fn ask_for(
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
}
