//! A vault whose store fails on demand.

use std::cell::Cell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64ct::{Base64, Encoding};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;
use crate::customers::CustomerDirectory;
use crate::factors::document::{Form, KeyDocument, KeyEntry, KeyState};
use crate::factors::local::{EnvironmentFile, LocalWrapper, create};
use crate::factors::{KeySet, KeyWrapper};
use crate::keyring::{CacheLimits, EnvironmentTiming, FirstReading, Sources};
use crate::secret::{Password, SalesforceOAuth, SecretString};
use crate::store::contract::time;
use crate::store::embedded::{EmbeddedCredentials, EmbeddedCustomers, EmbeddedOperations, EmbeddedStore};
use crate::store::{CustomerRow, CustomerState, CustomerWrite, Customers, Extent, Met, Replaced, Rows};

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(1_000) };
}

/// Sets the clock of this test, in seconds.
pub(super) fn at(second: i64) {
    NOW.set(second);
}

fn clock() -> Timestamp {
    time(NOW.get() * 1_000_000)
}

pub(super) fn caller(name: &str) -> Caller {
    Caller::new(name)
}

pub(super) fn password(password: &str) -> Secret {
    Secret::Password(Password {
        username: SecretString::new("user".to_owned()),
        password: SecretString::new(password.to_owned()),
        security_token: SecretString::new(String::new()),
        login_url: String::new(),
    })
}

pub(super) fn salesforce(token: &str) -> Secret {
    Secret::SalesforceOAuth(SalesforceOAuth {
        access_token: SecretString::new(token.to_owned()),
        refresh_token: SecretString::new("refresh token".to_owned()),
        instance_url: "https://acme.my.salesforce.com".to_owned(),
        token_url: String::new(),
        identity_url: String::new(),
        scopes: vec!["api".to_owned()],
        issue_time: None,
        access_token_expire_time: None,
    })
}

/// What goes wrong at the next call.
pub(super) enum Fault {
    /// A reading fails.
    Reading(StoreError),
    /// A write is done, and its answer is lost.
    LostAfter,
    /// A write is not done, and its answer is lost.
    LostBefore,
    /// Somebody else writes the row first.
    Overtaken,
}

/// The credentials, with faults. Each fault waits for the call that it befits.
pub(super) struct FaultyCredentials {
    inner: EmbeddedCredentials,
    faults: Mutex<VecDeque<Fault>>,
    reads: AtomicUsize,
}

impl FaultyCredentials {
    pub(super) fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    /// How often a row was read.
    pub(super) fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    fn next(&self, reading: bool) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let befits = faults.front().is_some_and(|fault| matches!(fault, Fault::Reading(_)) == reading);
        if befits { faults.pop_front() } else { None }
    }
}

#[async_trait]
impl Rows for FaultyCredentials {
    type Id = CredentialRef;
    type Row = CredentialRow;
    type Write = CredentialRow;

    async fn get(&self, id: &CredentialRef) -> Result<Option<CredentialRow>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        match self.next(true) {
            Some(Fault::Reading(error)) => Err(error),
            Some(_) | None => self.inner.get(id).await,
        }
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        row: CredentialRow,
    ) -> Result<Replaced<CredentialRow>, StoreError> {
        let lost = || StoreError::Away("timed out".to_owned());
        match self.next(false) {
            Some(Fault::LostBefore) => return Err(lost()),
            Some(Fault::LostAfter) => {
                self.inner.replace(expected, row).await?;
                return Err(lost());
            }
            Some(Fault::Overtaken) => {
                let present = self.inner.get(&row.id).await?.unwrap();
                let write_id = WriteId::random().unwrap();
                self.inner.replace(expected, CredentialRow { write_id, ..present }).await?;
            }
            Some(Fault::Reading(_)) | None => {}
        }
        self.inner.replace(expected, row).await
    }
}

#[async_trait]
impl Credentials for FaultyCredentials {
    async fn query(
        &self,
        customer: Option<&CustomerId>,
        after: Option<&CredentialRef>,
        limit: usize,
    ) -> Result<Page<CredentialRow, CredentialRef>, StoreError> {
        match self.next(true) {
            Some(Fault::Reading(error)) => Err(error),
            Some(_) | None => self.inner.query(customer, after, limit).await,
        }
    }

    async fn erase(&self, _: &CredentialRef) -> Result<(), StoreError> {
        unreachable!("a vault removes no row")
    }

    async fn scan(
        &self,
        extent: &Extent,
        after: Option<&CredentialRef>,
        limit: usize,
    ) -> Result<Page<Met<CredentialRef, CredentialRow>, CredentialRef>, StoreError> {
        self.inner.scan(extent, after, limit).await
    }
}

/// The customers, which may be away.
pub(super) struct FaultyCustomers {
    inner: EmbeddedCustomers,
    away: Mutex<bool>,
}

impl FaultyCustomers {
    fn answers(&self) -> Result<(), StoreError> {
        if *self.away.lock().unwrap() { Err(StoreError::Away("timed out".to_owned())) } else { Ok(()) }
    }
}

#[async_trait]
impl Rows for FaultyCustomers {
    type Id = CustomerId;
    type Row = CustomerRow;
    type Write = CustomerWrite;

    async fn get(&self, id: &CustomerId) -> Result<Option<CustomerRow>, StoreError> {
        self.answers()?;
        self.inner.get(id).await
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        write: CustomerWrite,
    ) -> Result<Replaced<CustomerRow>, StoreError> {
        self.answers()?;
        self.inner.replace(expected, write).await
    }
}

#[async_trait]
impl Customers for FaultyCustomers {
    async fn key(
        &self,
        customer: &CustomerId,
        version: crate::crypto::Version,
    ) -> Result<Option<crate::store::KeyRow>, StoreError> {
        self.answers()?;
        self.inner.key(customer, version).await
    }

    async fn query(
        &self,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Page<CustomerRow, CustomerId>, StoreError> {
        self.answers()?;
        self.inner.query(after, limit).await
    }

    async fn scan(
        &self,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Page<Met<CustomerId, CustomerRow>, CustomerId>, StoreError> {
        self.inner.scan(after, limit).await
    }
}

/// A vault with the active customers `acme` and `other`.
pub(super) struct Setup {
    pub(super) vault: Vault,
    pub(super) keyring: Keyring,
    pub(super) credentials: Arc<FaultyCredentials>,
    customers: Arc<FaultyCustomers>,
    store: Arc<EmbeddedStore>,
    files: TempDir,
}

fn document<F>(octet: u8) -> (KeyDocument, KeySet<F>) {
    let document = || KeyDocument {
        primary: 1,
        keys: vec![KeyEntry {
            version: 1,
            key: Zeroizing::new([octet; 32]),
            state: KeyState::Enabled,
            created_at: None,
            primary_until: None,
        }],
    };
    (document(), KeySet::from_document(document()).unwrap())
}

fn deployment() -> Deployment {
    Deployment::parse("test").unwrap()
}

async fn keyring(
    files: &TempDir,
    store: &Arc<EmbeddedStore>,
    customers: Arc<FaultyCustomers>,
    wrapper: Arc<dyn KeyWrapper>,
) -> Keyring {
    let environment = Arc::new(EnvironmentFile::new(files.path().join("environment.json")));
    let sources = Sources {
        deployment: deployment(),
        codebase: document(1).1,
        environment: FirstReading::of(environment).await.unwrap(),
        wrapper,
        customers,
        operations: Arc::new(EmbeddedOperations(Arc::clone(store))),
    };
    let hour = Duration::from_hours(1);
    let timing = EnvironmentTiming { poll: hour, max_age: hour };
    let limits = CacheLimits { roots: 100, refresh_after: hour, max_age: hour, customer_staleness: hour };
    Keyring::start(sources, timing, limits).await.unwrap()
}

impl Setup {
    pub(super) async fn new() -> Self {
        at(1_000);
        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name);
        let environment = document::<crate::crypto::Environment>(2).0.to_json(Form::Environment);
        create(&path("environment.json"), environment.as_bytes()).unwrap();
        create(&path("local.key"), Base64::encode_string(&[3; 32]).as_bytes()).unwrap();
        let store = Arc::new(EmbeddedStore::open(&path("store.redb"), &deployment()).unwrap());
        let wrapper = Arc::new(LocalWrapper::open(&path("local.key")).unwrap());
        let inner = EmbeddedCredentials(Arc::clone(&store));
        let credentials = Arc::new(FaultyCredentials { inner, faults: Mutex::default(), reads: AtomicUsize::new(0) });
        let inner = EmbeddedCustomers(Arc::clone(&store));
        let customers = Arc::new(FaultyCustomers { inner, away: Mutex::new(false) });
        let keyring = keyring(&files, &store, customers.clone(), wrapper.clone()).await;
        let vault = Vault::new(deployment(), credentials.clone(), keyring.clone(), AuditLog::insecure_none(), clock);
        let setup = Self { vault, keyring, credentials, customers, store, files };
        setup.create(["acme", "other"].map(customer_id)).await;
        setup
    }

    /// The key file that [`LocalWrapper`] opens.
    pub(super) fn wrapping_key(&self) -> PathBuf {
        self.files.path().join("local.key")
    }

    /// Another vault over the same store, which has unwrapped nothing yet.
    pub(super) async fn cold(&self, wrapper: Arc<dyn KeyWrapper>) -> Vault {
        let keyring = keyring(&self.files, &self.store, self.customers.clone(), wrapper).await;
        Vault::new(deployment(), self.credentials.clone(), keyring, AuditLog::insecure_none(), clock)
    }

    /// Another vault over the same store and keys, with an audit log.
    pub(super) fn audited(&self) -> (Vault, crate::audit::Recording) {
        let (log, recording) = AuditLog::recording(clock);
        (Vault::new(deployment(), self.credentials.clone(), self.keyring.clone(), log, clock), recording)
    }

    /// Makes a version of acme's key the primary that nobody can unwrap.
    pub(super) async fn primary_is_lost(&self) {
        let row = self.customers.get(&customer_id("acme")).await.unwrap().unwrap();
        let lost =
            crate::store::KeyVersion { version: crate::crypto::Version::new(2).unwrap(), ..row.versions[0].clone() };
        let versions = [row.versions.clone(), vec![lost.clone()]].concat();
        let write_id = WriteId::random().unwrap();
        let customer = CustomerRow { write_id, primary: lost.version, versions, ..row.clone() };
        self.customers.replace(Some(row.write_id), CustomerWrite::of(customer)).await.unwrap();
        self.keyring.forget(&customer_id("acme"));
    }

    /// Creates further customers.
    pub(super) async fn create(&self, ids: impl IntoIterator<Item = CustomerId>) {
        let wrapper = Arc::new(LocalWrapper::open(&self.wrapping_key()).unwrap());
        let (customers, credentials) = (self.customers.clone(), self.credentials.clone());
        let directory = CustomerDirectory::new(
            deployment(),
            customers,
            credentials,
            wrapper,
            self.keyring.clone(),
            AuditLog::insecure_none(),
            clock,
        );
        for id in ids {
            directory.create_unasked(&id).await.unwrap();
        }
    }

    /// Stores a credential of acme without an idempotency key.
    pub(super) async fn encrypt(
        &self,
        name: &str,
        secret: Secret,
        condition: Condition,
    ) -> Result<Credential, VaultError> {
        self.vault.encrypt_unasked(&caller("realtask"), &credential_ref("acme", name), secret, condition, None).await
    }

    /// Stores acme's `crm` with an idempotency key.
    pub(super) async fn encrypt_as(&self, who: &str, key: &str, secret: Secret) -> Result<Credential, VaultError> {
        let key = Some(IdempotencyKey::given(key));
        self.vault.encrypt_unasked(&caller(who), &credential_ref("acme", "crm"), secret, Condition::None, key).await
    }

    /// Changes a living row of acme's behind the service's back.
    pub(super) async fn change(&self, name: &str, edit: impl FnOnce(&mut CredentialRow, &mut Living)) {
        let mut row = self.credentials.get(&credential_ref("acme", name)).await.unwrap().unwrap();
        let Life::Living(mut living) = row.life.clone() else { panic!("a tombstone") };
        edit(&mut row, &mut living);
        row.life = Life::Living(living);
        self.put(row).await;
    }

    /// Puts a row into the store, whatever stands there.
    pub(super) async fn put(&self, row: CredentialRow) {
        let expected = self.credentials.get(&row.id).await.unwrap().map(|row| row.write_id);
        let row = CredentialRow { write_id: WriteId::random().unwrap(), ..row };
        assert!(matches!(self.credentials.replace(expected, row).await.unwrap(), Replaced::Done));
    }

    pub(super) async fn customer_becomes(&self, id: &str, state: CustomerState) {
        let row = self.customers.get(&customer_id(id)).await.unwrap().unwrap();
        let customer = CustomerRow { state, write_id: WriteId::random().unwrap(), ..row.clone() };
        self.customers.replace(Some(row.write_id), CustomerWrite::of(customer)).await.unwrap();
        self.keyring.forget(&customer_id(id));
    }

    pub(super) fn customers_are_away(&self, away: bool) {
        *self.customers.away.lock().unwrap() = away;
    }
}
