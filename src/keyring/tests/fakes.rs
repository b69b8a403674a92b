//! What the keyring stands on, written by hand: each counts its calls, and fails on demand.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::*;
use crate::crypto::{CustomerKey, Environment};
use crate::factors::document::{KeyDocument, KeyEntry};
use crate::factors::{EnvironmentSource, WrapContext, WrappedKey};
use crate::store::contract::customer;
use crate::store::{
    CustomerRow, CustomerState, CustomerWrite, KeyRow, KeyVersion, KeyVersionState, Met, OperationId, OperationRow,
    Page, Replaced, Rows, Versioned, WriteId,
};

/// A call's count, its failure and how long it takes.
pub(super) struct Calls<E> {
    count: AtomicU32,
    failure: Mutex<Option<E>>,
    delay: Mutex<Duration>,
}

impl<E> Default for Calls<E> {
    fn default() -> Self {
        Self { count: AtomicU32::new(0), failure: Mutex::new(None), delay: Mutex::default() }
    }
}

impl<E: Clone> Calls<E> {
    pub(super) fn count(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }

    pub(super) fn fail(&self, error: impl Into<Option<E>>) {
        *self.failure.lock().unwrap() = error.into();
    }

    pub(super) fn take(&self, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
    }

    async fn call(&self) -> Result<(), E> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        match &*self.failure.lock().unwrap() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

/// Number, octet and state of each version of a factor.
pub(super) type Entry = (u32, u8, KeyState);
pub(super) type Versions<'a> = &'a [Entry];

pub(super) fn key_set<F>(primary: u32, versions: Versions<'_>) -> KeySet<F> {
    let entry = |&(version, octet, state): &Entry| KeyEntry {
        version,
        key: Zeroizing::new([octet; 32]),
        state,
        created_at: None,
        primary_until: None,
    };
    KeySet::from_document(KeyDocument { primary, keys: versions.iter().map(entry).collect() }).unwrap()
}

pub(super) struct FakeSource {
    pub(super) calls: Calls<FactorError>,
    pub(super) lag: Mutex<Duration>,
    keys: Mutex<(u32, Vec<Entry>)>,
}

impl FakeSource {
    pub(super) fn holds(&self, primary: u32, versions: Versions<'_>) {
        *self.keys.lock().unwrap() = (primary, versions.to_vec());
    }
}

#[async_trait]
impl EnvironmentSource for FakeSource {
    async fn fetch(&self) -> Result<KeySet<Environment>, FactorError> {
        self.calls.call().await?;
        let (primary, versions) = &*self.keys.lock().unwrap();
        Ok(key_set(*primary, versions))
    }

    fn lag(&self) -> Duration {
        *self.lag.lock().unwrap()
    }
}

/// Its wrapped keys are one octet: the one that the key consists of.
#[derive(Default)]
pub(super) struct FakeWrapper {
    pub(super) unwraps: Calls<FactorError>,
}

#[async_trait]
impl KeyWrapper for FakeWrapper {
    async fn wrap_new(&self, _: &WrapContext<'_>) -> Result<WrappedKey, FactorError> {
        unreachable!("no key is ever made because of a look-up")
    }

    async fn unwrap(&self, context: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<CustomerKey, FactorError> {
        assert_eq!(context.deployment.as_str(), "test");
        self.unwraps.call().await?;
        Ok(CustomerKey::new(Zeroizing::new([wrapped.octets[0]; 32])))
    }

    async fn rewrap(&self, _: &WrapContext<'_>, _: &WrappedKey) -> Result<WrappedKey, FactorError> {
        unreachable!("nothing here wraps a key anew")
    }

    fn wraps_with(&self) -> &str {
        "arn"
    }
}

#[derive(Default)]
pub(super) struct FakeCustomers {
    pub(super) reads: Calls<StoreError>,
    pub(super) key_reads: Calls<StoreError>,
    rows: Mutex<HashMap<CustomerId, CustomerRow>>,
}

impl FakeCustomers {
    /// A customer in a state, with key versions.
    pub(super) fn holds(&self, id: &str, state: CustomerState, primary: u32, versions: &[(u32, KeyVersionState)]) {
        let versions = versions.iter().map(|&(number, state)| KeyVersion {
            version: version(number),
            state,
            create_time: jiff::Timestamp::UNIX_EPOCH,
            primary_until: None,
            kms_key_arn: "arn".to_owned(),
        });
        let row = CustomerRow { state, primary: version(primary), versions: versions.collect(), ..customer(id) };
        self.rows.lock().unwrap().insert(customer_id(id), row);
    }

    /// A customer with the key versions from 1 to `newest`, which is the primary.
    pub(super) fn active(&self, id: &str, newest: u32) {
        let versions: Vec<_> = (1..=newest).map(|number| (number, KeyVersionState::Enabled)).collect();
        self.holds(id, CustomerState::Active, newest, &versions);
    }

    pub(super) fn becomes(&self, id: &str, state: CustomerState) {
        self.rows.lock().unwrap().get_mut(&customer_id(id)).unwrap().state = state;
    }
}

#[async_trait]
impl Rows for FakeCustomers {
    type Id = CustomerId;
    type Row = CustomerRow;
    type Write = CustomerWrite;

    async fn get(&self, id: &CustomerId) -> Result<Option<CustomerRow>, StoreError> {
        let row = self.rows.lock().unwrap().get(id).cloned();
        self.reads.call().await?;
        Ok(row)
    }

    async fn replace(&self, _: Option<WriteId>, _: CustomerWrite) -> Result<Replaced<CustomerRow>, StoreError> {
        unreachable!("a keyring changes no customer")
    }
}

#[async_trait]
impl Customers for FakeCustomers {
    async fn key(&self, customer: &CustomerId, version: Version) -> Result<Option<KeyRow>, StoreError> {
        self.key_reads.call().await?;
        let known = self
            .rows
            .lock()
            .unwrap()
            .get(customer)
            .is_some_and(|row| row.versions.iter().any(|key| key.version == version));
        let wrapped = vec![version.get() as u8];
        Ok(known.then(|| KeyRow { version, wrapped, kms_key_arn: "arn".to_owned() }))
    }

    async fn query(&self, _: Option<&CustomerId>, _: usize) -> Result<Page<CustomerRow, CustomerId>, StoreError> {
        unreachable!("a keyring lists no customers")
    }

    async fn scan(
        &self,
        _: Option<&CustomerId>,
        _: usize,
    ) -> Result<Page<Met<CustomerId, CustomerRow>, CustomerId>, StoreError> {
        unreachable!("a keyring lists no customers")
    }
}

#[derive(Default)]
pub(super) struct FakeOperations {
    pub(super) calls: Calls<StoreError>,
    rows: Mutex<HashMap<OperationId, OperationRow>>,
}

impl FakeOperations {
    pub(super) fn len(&self) -> usize {
        self.rows.lock().unwrap().len()
    }
}

#[async_trait]
impl Rows for FakeOperations {
    type Id = OperationId;
    type Row = OperationRow;
    type Write = OperationRow;

    async fn get(&self, id: &OperationId) -> Result<Option<OperationRow>, StoreError> {
        self.calls.call().await?;
        Ok(self.rows.lock().unwrap().get(id).cloned())
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        row: OperationRow,
    ) -> Result<Replaced<OperationRow>, StoreError> {
        self.calls.call().await?;
        let mut rows = self.rows.lock().unwrap();
        let present = rows.get(&row.id).cloned();
        if present.as_ref().map(Versioned::write_id) != expected {
            return Ok(Replaced::Refused(present));
        }
        rows.insert(row.id.clone(), row);
        Ok(Replaced::Done)
    }
}

#[async_trait]
impl Operations for FakeOperations {
    async fn query(
        &self,
        _: &'static str,
        _: Option<&str>,
        _: usize,
    ) -> Result<Page<OperationRow, String>, StoreError> {
        unreachable!("nothing is listed")
    }

    async fn remove(&self, _: &OperationId, _: WriteId) -> Result<Replaced<OperationRow>, StoreError> {
        unreachable!("nothing is removed")
    }
}

/// All of them. The customer `acme` is active with key version 1; codebase and environment have version 1.
pub(super) struct Fakes {
    pub(super) environment: Arc<FakeSource>,
    pub(super) wrapper: Arc<FakeWrapper>,
    pub(super) customers: Arc<FakeCustomers>,
    pub(super) operations: Arc<FakeOperations>,
    pub(super) codebase: (u32, Vec<Entry>),
}

impl Fakes {
    pub(super) fn new() -> Self {
        let customers = FakeCustomers::default();
        customers.active("acme", 1);
        let keys = Mutex::new((1, vec![(1, 101, Enabled)]));
        Self {
            environment: Arc::new(FakeSource { calls: Calls::default(), lag: Mutex::default(), keys }),
            wrapper: Arc::default(),
            customers: Arc::new(customers),
            operations: Arc::default(),
            codebase: (1, vec![(1, 201, Enabled)]),
        }
    }

    pub(super) async fn start(
        &self,
        timing: EnvironmentTiming,
        limits: CacheLimits,
    ) -> Result<Keyring, EnvironmentError> {
        let sources = Sources {
            deployment: Deployment::parse("test").unwrap(),
            codebase: key_set(self.codebase.0, &self.codebase.1),
            environment: FirstReading::of(self.environment.clone()).await?,
            wrapper: self.wrapper.clone(),
            customers: self.customers.clone(),
            operations: self.operations.clone(),
        };
        Ok(Keyring::start(sources, timing, limits).await?)
    }

    /// A keyring with the usual times, and one that polls nothing.
    pub(super) async fn keyring(&self) -> Keyring {
        self.start(timing(), limits()).await.unwrap()
    }

    pub(super) async fn unpolled(&self) -> Keyring {
        self.start(EnvironmentTiming { poll: NEVER, ..timing() }, limits()).await.unwrap()
    }
}
