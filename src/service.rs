//! What answers the calls, put together over the ports: the vault, the customers, the jobs, and the reports of this replica. It starts
//! nothing, and knows neither the protocol nor which store and which sources of keys there are.

use std::sync::Arc;

use jiff::Timestamp;

use crate::audit::AuditLog;
use crate::customers::CustomerDirectory;
use crate::factors::KeyWrapper;
use crate::ids::Deployment;
use crate::jobs::{self, Jobs, ReplicaId, Reporter};
use crate::keyring::Keyring;
use crate::store::{Credentials, Customers, Operations, StoreClock};
use crate::vault::Vault;

/// What it is put together of.
pub struct Parts {
    /// Who this replica is.
    pub replica: ReplicaId,
    /// Bound into every envelope and every wrapped key.
    pub deployment: Deployment,
    /// The sealed credentials.
    pub credentials: Arc<dyn Credentials>,
    /// The customers, and their wrapped keys.
    pub customers: Arc<dyn Customers>,
    /// Where jobs and reports stand.
    pub operations: Arc<dyn Operations>,
    /// Who wraps customer keys.
    pub wrapper: Arc<dyn KeyWrapper>,
    /// Where roots come from.
    pub keyring: Keyring,
    /// What every disclosure and change is noted in.
    pub audit: AuditLog,
    /// The store's, where it tells the time: nothing that depends on the time is done while this clock does not agree with it.
    pub store_clock: Option<Arc<StoreClock>>,
    /// Whether the store was restored from a backup: no job is worked on.
    pub restored: bool,
    /// Whether callers need what a job would take.
    pub is_busy: Box<dyn Fn() -> bool + Send + Sync>,
    /// The time.
    pub clock: fn() -> Timestamp,
}

/// All that calls are answered with.
pub struct Service {
    /// Credentials.
    pub vault: Arc<Vault>,
    /// Customers.
    pub directory: Arc<CustomerDirectory>,
    /// What this replica seals under, told to the others.
    pub reporter: Arc<Reporter>,
    /// Long work.
    pub jobs: Arc<Jobs>,
}

impl Service {
    /// Puts it together.
    pub fn new(parts: Parts) -> Self {
        let Parts { replica, deployment, credentials, customers, operations, wrapper, keyring, audit, .. } = parts;
        let Parts { store_clock, restored, is_busy, clock, .. } = parts;
        let vault = Vault::new(deployment.clone(), credentials.clone(), keyring.clone(), audit.clone(), clock);
        let vault = Arc::new(vault.with_store_clock(store_clock.clone()));
        let wraps_with = wrapper.wraps_with().to_owned();
        let directory = CustomerDirectory::new(
            deployment,
            customers.clone(),
            credentials.clone(),
            wrapper,
            keyring.clone(),
            audit.clone(),
            clock,
        );
        let directory = Arc::new(directory.with_store_clock(store_clock));
        let reporter = Arc::new(Reporter::new(replica, keyring.clone(), wraps_with, operations.clone(), clock));
        let jobs = Arc::new(Jobs::new(jobs::Parts {
            vault: vault.clone(),
            directory: directory.clone(),
            credentials,
            customers,
            operations,
            keyring,
            reporter: reporter.clone(),
            audit,
            restored,
            is_busy,
            clock,
        }));
        Self { vault, directory, reporter, jobs }
    }
}
