mod destruction;
mod rotation;

use std::cell::Cell;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;
use crate::crypto::{Codebase, CustomerKey, Environment};
use crate::factors::document::KeyDocument;
use crate::factors::{EnvironmentSource, KeySet, WrappedKey};
use crate::keyring::{CacheLimits, EnvironmentTiming, FirstReading, Sources};
use crate::store::embedded::{EmbeddedCredentials, EmbeddedCustomers, EmbeddedOperations, EmbeddedStore};
use crate::store::{Erasure, Rows};

thread_local! {
    static SECOND: Cell<i64> = const { Cell::new(0) };
}

/// Sets the clock of this test, in days.
fn on_day(day: i64) {
    SECOND.set(day * 86_400);
}

/// Lets time pass, in seconds.
fn pass(seconds: i64) {
    SECOND.set(SECOND.get() + seconds);
}

fn clock() -> Timestamp {
    Timestamp::from_second(SECOND.get()).unwrap()
}

fn key_set<F>(octet: u8) -> KeySet<F> {
    KeySet::from_document(KeyDocument::first(Zeroizing::new([octet; 32]), Timestamp::UNIX_EPOCH)).unwrap()
}

struct FixedEnvironment;

#[async_trait]
impl EnvironmentSource for FixedEnvironment {
    async fn fetch(&self) -> Result<KeySet<Environment>, FactorError> {
        Ok(key_set(2))
    }
}

/// What begins with these is not wrapped anew.
const REFUSED: u8 = 66;
const AWAY: u8 = 67;

/// Wraps nothing, and fails as it is told to. The first octet of what it wrapped is that of the key.
struct FakeWrapper {
    name: &'static str,
    /// In place of the key that it is given.
    rewraps_as: Arc<Mutex<Option<u8>>>,
    wrapping: Mutex<Option<FactorError>>,
    unwrapping: Mutex<Option<FactorError>>,
}

#[async_trait]
impl KeyWrapper for FakeWrapper {
    async fn wrap_new(&self, _: &WrapContext<'_>) -> Result<WrappedKey, FactorError> {
        let wrapped = WrappedKey { octets: vec![7; 8], kms_key_arn: self.name.to_owned() };
        self.wrapping.lock().unwrap().clone().map_or(Ok(wrapped), Err)
    }

    async fn unwrap(&self, _: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<CustomerKey, FactorError> {
        let key = CustomerKey::new(Zeroizing::new([wrapped.octets[0]; 32]));
        self.unwrapping.lock().unwrap().clone().map_or(Ok(key), Err)
    }

    async fn rewrap(&self, _: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<WrappedKey, FactorError> {
        match wrapped.octets[0] {
            REFUSED => return Err(FactorError::Refused("by a policy".to_owned())),
            AWAY => return Err(FactorError::Away("no answer".to_owned())),
            _ => {}
        }
        let key = self.rewraps_as.lock().unwrap().unwrap_or(wrapped.octets[0]);
        Ok(WrappedKey { octets: vec![key; 8], kms_key_arn: self.name.to_owned() })
    }

    fn wraps_with(&self) -> &str {
        self.name
    }
}

impl FakeWrapper {
    fn new(name: &'static str, rewraps_as: Arc<Mutex<Option<u8>>>) -> Self {
        Self { name, rewraps_as, wrapping: Mutex::default(), unwrapping: Mutex::default() }
    }
}

struct Setup {
    directory: CustomerDirectory,
    wrapper: Arc<FakeWrapper>,
    customers: Arc<EmbeddedCustomers>,
    credentials: Arc<EmbeddedCredentials>,
    keyring: Keyring,
    _files: TempDir,
}

impl Setup {
    /// Another process on the same store, whose settings name another wrapping key.
    async fn wrapping_with(&self, name: &'static str) -> CustomerDirectory {
        CustomerDirectory::new(
            Deployment::parse("test").unwrap(),
            self.customers.clone(),
            self.credentials.clone(),
            Arc::new(FakeWrapper::new(name, self.wrapper.rewraps_as.clone())),
            self.keyring.clone(),
            AuditLog::insecure_none(),
            clock,
        )
    }
}

async fn setup() -> Setup {
    let files = tempfile::tempdir().unwrap();
    let deployment = Deployment::parse("test").unwrap();
    let store = Arc::new(EmbeddedStore::open(&files.path().join("store.redb"), &deployment).unwrap());
    let customers = Arc::new(EmbeddedCustomers(Arc::clone(&store)));
    let credentials = Arc::new(EmbeddedCredentials(Arc::clone(&store)));
    let wrapper = Arc::new(FakeWrapper::new("fake", Arc::default()));
    let sources = Sources {
        deployment: deployment.clone(),
        codebase: key_set::<Codebase>(1),
        environment: FirstReading::of(Arc::new(FixedEnvironment)).await.unwrap(),
        wrapper: wrapper.clone(),
        customers: customers.clone(),
        operations: Arc::new(EmbeddedOperations(store)),
    };
    let hour = Duration::from_hours(1);
    let timing = EnvironmentTiming { poll: hour, max_age: hour };
    let limits = CacheLimits { roots: 10, refresh_after: hour, max_age: hour, customer_staleness: hour };
    let keyring = Keyring::start(sources, timing, limits).await.unwrap();
    let directory = CustomerDirectory::new(
        deployment,
        customers.clone(),
        credentials.clone(),
        wrapper.clone(),
        keyring.clone(),
        AuditLog::insecure_none(),
        clock,
    );
    Setup { directory, wrapper, customers, credentials, keyring, _files: files }
}

fn id(name: &str) -> CustomerId {
    CustomerId::parse(name).unwrap()
}

/// Puts a customer into a state, as a later release's commands do.
async fn put(setup: &Setup, name: &str, state: CustomerState) -> CustomerRow {
    let row = setup.directory.create_unasked(&id(name)).await.unwrap();
    let changed = CustomerRow { state, write_id: WriteId::random().unwrap(), ..row.clone() };
    let write = CustomerWrite::of(changed.clone());
    setup.customers.replace(Some(row.write_id), write).await.unwrap();
    changed
}

#[tokio::test]
async fn no_customer_is_written_whose_key_was_not_proved() {
    let setup = setup().await;
    let failures = [
        FactorError::Absent("x".into()),
        FactorError::Refused("x".into()),
        FactorError::Throttled,
        FactorError::Away("x".into()),
        FactorError::Corrupt("x".into()),
    ];
    for failure in failures {
        for part in [&setup.wrapper.wrapping, &setup.wrapper.unwrapping] {
            *part.lock().unwrap() = Some(failure.clone());
            let told = setup.directory.create_unasked(&id("acme")).await.unwrap_err();
            assert_eq!(told, CustomerError::Wrapper(failure.clone()));
            *part.lock().unwrap() = None;
            assert_eq!(setup.directory.get_unasked(&id("acme")).await, Err(CustomerError::NotFound));
            assert_eq!(setup.customers.key(&id("acme"), Version::FIRST).await, Ok(None));
        }
    }
    let made = setup.directory.create_unasked(&id("acme")).await.unwrap();
    let key = setup.customers.key(&id("acme"), Version::FIRST).await.unwrap().unwrap();
    assert_eq!((made.primary, key.kms_key_arn.as_str()), (Version::FIRST, "fake"));
}

#[tokio::test]
async fn an_existing_customer_is_answered_as_it_is_and_a_destroyed_one_is_not_made_again() {
    let setup = setup().await;
    let disabled = put(&setup, "disabled", CustomerState::Disabled).await;
    assert_eq!(setup.directory.create_unasked(&id("disabled")).await, Ok(disabled));
    let destroy_time = Timestamp::UNIX_EPOCH;
    put(&setup, "destroyed", CustomerState::Destroyed { destroy_time, erasure: Erasure::default() }).await;
    assert_eq!(setup.directory.create_unasked(&id("destroyed")).await, Err(CustomerError::Destroyed));
}

#[tokio::test]
async fn a_list_shows_those_in_one_state() {
    let setup = setup().await;
    let destroy_time = Timestamp::UNIX_EPOCH;
    for (name, state) in [
        ("a", CustomerState::Active),
        ("b", CustomerState::Disabled),
        ("c", CustomerState::PendingDestruction { destroy_time }),
        ("d", CustomerState::Destroyed { destroy_time, erasure: Erasure::default() }),
        ("e", CustomerState::Active),
    ] {
        put(&setup, name, state).await;
    }
    for (filter, wanted) in [
        (None, &["a", "b", "c", "d", "e"][..]),
        (Some(StateFilter::Active), &["a", "e"]),
        (Some(StateFilter::Disabled), &["b"]),
        (Some(StateFilter::PendingDestruction), &["c"]),
        (Some(StateFilter::Destroyed), &["d"]),
    ] {
        for limit in [1, 2, 100] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = setup.directory.list_unasked(filter, after, limit).await.unwrap();
                assert!(page.rows.len() <= limit);
                found.extend(page.rows.into_iter().map(|row| row.id.to_string()));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, wanted, "{filter:?}, {limit} at a time");
        }
    }
}
