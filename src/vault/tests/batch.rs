//! Many readings at once: each as it would be alone, in their order, within the room and the concurrency that there is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::super::batch::{CUSTOMERS_AT_ONCE, PATIENCE};
use super::*;
use crate::crypto::CustomerKey;
use crate::factors::local::LocalWrapper;
use crate::factors::{FactorError, KeyWrapper, WrapContext, WrappedKey};

const EVERYTHING: usize = usize::MAX;

fn reading(customer: &str, credential: &str, view: View) -> Reading {
    let asked = DecryptCredential { id: credential_ref(customer, credential), view };
    Reading { permit: Permit::unasked(caller("realtask"), asked), revision: None }
}

async fn open_many(vault: &Vault, readings: &[Reading], room: usize) -> Vec<Opened> {
    vault.decrypt_many(&readings.iter().collect::<Vec<_>>(), room).await
}

/// The token or password that was opened, or why not.
fn told(outcome: Opened) -> Result<(String, Credential), VaultError> {
    outcome.map(|(secret, credential)| match secret {
        Secret::SalesforceOAuth(oauth) => {
            let tokens = [oauth.access_token.expose_secret(), oauth.refresh_token.expose_secret()];
            (tokens.join("/"), credential)
        }
        Secret::Password(password) => (password.password.expose_secret().to_owned(), credential),
        Secret::Opaque(opaque) => (format!("{} octets", opaque.data.expose_secret().len()), credential),
    })
}

#[tokio::test]
async fn each_reading_has_the_outcome_that_it_has_alone() {
    let setup = Setup::new().await;
    setup.encrypt("crm", salesforce("token"), Condition::None).await.unwrap();
    setup.encrypt("pw", password("secret"), Condition::None).await.unwrap();
    setup.encrypt("edited", password("secret"), Condition::None).await.unwrap();
    setup.change("edited", |_, living| living.envelope[40] ^= 1).await;
    setup.encrypt("gone", password("secret"), Condition::None).await.unwrap();
    setup.vault.delete_unasked(&caller("realtask"), &credential_ref("acme", "gone"), None).await.unwrap();
    let other = credential_ref("other", "crm");
    setup.vault.encrypt_unasked(&caller("realtask"), &other, salesforce("other"), Condition::None, None).await.unwrap();
    setup.customer_becomes("other", CustomerState::Disabled).await;

    let at = |revision, reading| Reading { revision, ..reading };
    let readings = [
        reading("acme", "crm", View::Access),
        reading("acme", "nothing", View::Full),
        reading("acme", "crm", View::Full),
        reading("acme", "pw", View::Access),
        reading("other", "crm", View::Full),
        reading("acme", "pw", View::Full),
        at(Revision::new(1), reading("acme", "pw", View::Full)),
        at(Revision::new(2), reading("acme", "pw", View::Full)),
        reading("acme", "edited", View::Full),
        reading("nobody", "crm", View::Full),
        reading("acme", "gone", View::Full),
        reading("acme", "crm", View::Access),
    ];
    let mut alone = Vec::new();
    for Reading { permit, revision } in &readings {
        alone.push(told(setup.vault.decrypt(permit, *revision).await));
    }
    let opened: Vec<_> = open_many(&setup.vault, &readings, EVERYTHING).await.into_iter().map(told).collect();
    assert_eq!(opened, alone);
    let texts: Vec<_> = opened.into_iter().map(|outcome| outcome.map(|(text, _)| text)).collect();
    let keyring = |error| Err(VaultError::Keyring(error));
    assert_eq!(
        texts,
        [
            Ok("token/".to_owned()),
            Err(VaultError::CredentialNotFound),
            Ok("token/refresh token".to_owned()),
            Err(VaultError::NoAccessView),
            keyring(KeyringError::CustomerDisabled),
            Ok("secret".to_owned()),
            Ok("secret".to_owned()),
            Err(VaultError::RevisionMismatch { current: revision(1) }),
            Err(VaultError::NotAuthentic),
            keyring(KeyringError::CustomerNotFound),
            Err(VaultError::CredentialNotFound),
            Ok("token/".to_owned()),
        ]
    );
    assert!(open_many(&setup.vault, &[], EVERYTHING).await.is_empty());
}

#[tokio::test]
async fn a_reading_that_the_store_fails_fails_alone() {
    let setup = Setup::new().await;
    for name in ["a", "b"] {
        setup.encrypt(name, password(name), Condition::None).await.unwrap();
    }
    let away = StoreError::Away("planted".to_owned());
    setup.credentials.faults([Fault::Reading(away.clone())]);
    let readings = [reading("acme", "a", View::Full), reading("acme", "b", View::Full)];
    let opened: Vec<_> = open_many(&setup.vault, &readings, EVERYTHING).await.into_iter().map(told).collect();
    assert_eq!(opened[0], Err(VaultError::Store(away)));
    assert_eq!(opened[1].as_ref().map(|(text, _)| text.as_str()), Ok("b"));
}

#[tokio::test]
async fn what_the_room_does_not_hold_is_left_out_and_not_opened() {
    let setup = Setup::new().await;
    let opaque =
        |octets| Secret::Opaque(Opaque { data: SecretOctets::new(vec![7; octets]), content_type: String::new() });
    for (name, octets) in [("large", 10_000), ("larger", 20_000), ("small", 100)] {
        setup.encrypt(name, opaque(octets), Condition::None).await.unwrap();
    }
    let readings =
        ["large", "nothing", "larger", "large", "small", "large"].map(|name| reading("acme", name, View::Full));
    let outcomes = async |vault: &Vault, room| {
        let opened = open_many(vault, &readings, room).await;
        opened.into_iter().map(|outcome| told(outcome).map(|(text, _)| text)).collect::<Vec<_>>()
    };
    let (large, small) = (|| Ok("10000 octets".to_owned()), || Ok("100 octets".to_owned()));
    let no_room = || Err(VaultError::NoRoom);
    let missing = || Err(VaultError::CredentialNotFound);
    // In their order, and what fails takes no room.
    assert_eq!(outcomes(&setup.vault, 21_000).await, [large(), missing(), no_room(), large(), small(), no_room()]);
    assert_eq!(outcomes(&setup.vault, 0).await, [no_room(), missing(), no_room(), no_room(), no_room(), no_room()]);
    // An envelope that would not open is not even looked at.
    setup.change("larger", |_, living| living.envelope[40] ^= 1).await;
    assert_eq!(outcomes(&setup.vault, 21_000).await[2], no_room());
    assert_eq!(outcomes(&setup.vault, EVERYTHING).await[2], Err(VaultError::NotAuthentic));
}

#[tokio::test]
async fn a_long_reason_takes_room_too() {
    let setup = Setup::new().await;
    setup.encrypt("crm", salesforce("token"), Condition::None).await.unwrap();
    let readings = [reading("acme", "crm", View::Full)];
    assert!(open_many(&setup.vault, &readings, 1_000).await[0].is_ok());
    let time = Timestamp::UNIX_EPOCH;
    setup.change("crm", |_, living| living.state = State::NeedsReauth { reason: "x".repeat(1_000), time }).await;
    assert_eq!(open_many(&setup.vault, &readings, 1_000).await.remove(0).err(), Some(VaultError::NoRoom));
    assert!(open_many(&setup.vault, &readings, 2_000).await[0].is_ok());
}

/// Unwraps at once, but for one customer, whose keys never come.
struct Hangs(LocalWrapper, CustomerId);

#[async_trait]
impl KeyWrapper for Hangs {
    async fn wrap_new(&self, context: &WrapContext<'_>) -> Result<WrappedKey, FactorError> {
        self.0.wrap_new(context).await
    }

    async fn unwrap(&self, context: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<CustomerKey, FactorError> {
        if *context.customer == self.1 {
            std::future::pending::<()>().await;
        }
        self.0.unwrap(context, wrapped).await
    }

    async fn rewrap(&self, _: &WrapContext<'_>, _: &WrappedKey) -> Result<WrappedKey, FactorError> {
        unreachable!("nothing here wraps a key anew")
    }

    fn wraps_with(&self) -> &str {
        "arn"
    }
}

#[tokio::test]
async fn a_customer_whose_keys_do_not_come_holds_nobody_up() {
    let setup = Setup::new().await;
    setup.encrypt("crm", password("hangs"), Condition::None).await.unwrap();
    let other = credential_ref("other", "crm");
    setup.vault.encrypt_unasked(&caller("realtask"), &other, password("opens"), Condition::None, None).await.unwrap();
    let inner = LocalWrapper::open(&setup.wrapping_key()).unwrap();
    let vault = setup.cold(Arc::new(Hangs(inner, customer_id("acme")))).await;

    // The many of one customer do not take the places of the others.
    let mut readings: Vec<_> = (0..99).map(|_| reading("acme", "crm", View::Full)).collect();
    readings.insert(50, reading("other", "crm", View::Full));
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let mut opened = open_many(&vault, &readings, EVERYTHING).await;
    // The clock goes in whole milliseconds.
    assert!((PATIENCE..PATIENCE + Duration::from_millis(2)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(told(opened.remove(50)).unwrap().0, "opens");
    assert!(opened.into_iter().all(|outcome| outcome.err() == Some(VaultError::TooSlow)));
}

/// Unwraps slowly enough for others to come, and counts.
struct Slow {
    inner: LocalWrapper,
    calls: AtomicUsize,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl Slow {
    fn new(setup: &Setup) -> Arc<Self> {
        let inner = LocalWrapper::open(&setup.wrapping_key()).unwrap();
        Arc::new(Self { inner, calls: 0.into(), under_way: 0.into(), most: 0.into() })
    }
}

#[async_trait]
impl KeyWrapper for Slow {
    async fn wrap_new(&self, context: &WrapContext<'_>) -> Result<WrappedKey, FactorError> {
        self.inner.wrap_new(context).await
    }

    async fn unwrap(&self, context: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<CustomerKey, FactorError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(under_way, Ordering::SeqCst);
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        let unwrapped = self.inner.unwrap(context, wrapped).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        unwrapped
    }

    async fn rewrap(&self, _: &WrapContext<'_>, _: &WrappedKey) -> Result<WrappedKey, FactorError> {
        unreachable!("nothing here wraps a key anew")
    }

    fn wraps_with(&self) -> &str {
        "arn"
    }
}

#[tokio::test]
async fn readings_of_one_cold_customer_share_an_unwrapping() {
    let setup = Setup::new().await;
    setup.encrypt("crm", password("secret"), Condition::None).await.unwrap();
    let wrapper = Slow::new(&setup);
    let vault = setup.cold(wrapper.clone()).await;
    let readings: Vec<_> = (0..100).map(|_| reading("acme", "crm", View::Full)).collect();
    let opened = open_many(&vault, &readings, EVERYTHING).await;
    assert!(opened.len() == 100 && opened.iter().all(Result::is_ok));
    assert_eq!(wrapper.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn cold_customers_are_unwrapped_at_the_same_time_within_bounds() {
    let setup = Setup::new().await;
    let name = |number| format!("customer-{number}");
    setup.create((0..40).map(|number| customer_id(&name(number)))).await;
    let mut readings = Vec::new();
    for number in 0..40 {
        let id = credential_ref(&name(number), "crm");
        setup
            .vault
            .encrypt_unasked(&caller("realtask"), &id, password(&name(number)), Condition::None, None)
            .await
            .unwrap();
        let asked = DecryptCredential { id, view: View::Full };
        readings.push(Reading { permit: Permit::unasked(caller("realtask"), asked), revision: None });
    }
    let wrapper = Slow::new(&setup);
    let vault = setup.cold(wrapper.clone()).await;
    let opened = open_many(&vault, &readings, EVERYTHING).await;
    let texts: Vec<_> = opened.into_iter().map(|outcome| told(outcome).unwrap().0).collect();
    assert_eq!(texts, (0..40).map(name).collect::<Vec<_>>(), "in the order asked, whichever was ready first");
    assert_eq!(wrapper.calls.load(Ordering::SeqCst), 40);
    assert_eq!(wrapper.most.load(Ordering::SeqCst), CUSTOMERS_AT_ONCE);
}
