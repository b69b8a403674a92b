//! The vault over the embedded store and local factors, with a clock that is set by hand.

mod batch;
mod idempotency;
mod listing;
mod refreshing;
mod setup;
mod tampering;

use setup::{Fault, Setup, at, caller, password, salesforce};

use super::*;
use crate::keyring::KeyringError;
use crate::secret::{Opaque, SecretOctets};
use crate::store::contract::{credential_ref, customer_id};
use crate::store::{CustomerState, Page, Rows, StoreError};

fn revision(number: u64) -> Revision {
    Revision::new(number).unwrap()
}

#[tokio::test]
async fn a_permit_for_one_kind_is_none_for_another() {
    let setup = Setup::new().await;
    let id = credential_ref("acme", "crm");
    let permit = Permit::unasked(caller("realtask"), EncryptCredential { id: id.clone(), kind: Kind::Password });
    let sealed = setup.vault.encrypt(&permit, salesforce("token"), Condition::None, None).await;
    assert!(matches!(sealed, Err(VaultError::Internal(_))));
    assert_eq!(setup.vault.get_unasked(&id).await, Err(VaultError::CredentialNotFound));
    assert!(setup.vault.encrypt(&permit, password("secret"), Condition::None, None).await.is_ok());
}

#[tokio::test]
async fn what_was_stored_is_opened_as_it_was() {
    let setup = Setup::new().await;
    let id = credential_ref("acme", "crm");
    at(1_000);
    let stored = setup.encrypt("crm", salesforce("token"), Condition::None).await.unwrap();
    assert_eq!((stored.revision, stored.kind, &stored.state), (revision(1), Kind::SalesforceOAuth, &State::Active));
    assert_eq!((stored.create_time.as_second(), stored.update_time.as_second()), (1_000, 1_000));
    assert_eq!(stored.refresh_time, Some(stored.create_time));
    assert!(stored.lineage.is_some());
    assert_eq!(setup.vault.get_unasked(&id).await.unwrap(), stored);

    let (secret, shown) = setup.vault.decrypt_unasked(&id, View::Full, Some(revision(1))).await.unwrap();
    assert_eq!(shown, stored);
    let Secret::SalesforceOAuth(oauth) = secret else { panic!("another kind") };
    assert_eq!((oauth.access_token.expose_secret(), oauth.refresh_token.expose_secret()), ("token", "refresh token"));
    let (secret, _) = setup.vault.decrypt_unasked(&id, View::Access, None).await.unwrap();
    let Secret::SalesforceOAuth(oauth) = secret else { panic!("another kind") };
    assert_eq!((oauth.access_token.expose_secret(), oauth.refresh_token.expose_secret()), ("token", ""));

    // A secret of another kind in its place.
    at(2_000);
    let changed = setup.encrypt("crm", password("secret"), Condition::At(revision(1))).await.unwrap();
    assert_eq!((changed.revision, changed.kind, changed.refresh_time), (revision(2), Kind::Password, None));
    assert_eq!((changed.create_time.as_second(), changed.update_time.as_second()), (1_000, 2_000));
    let (secret, _) = setup.vault.decrypt_unasked(&id, View::Full, None).await.unwrap();
    assert!(matches!(secret, Secret::Password(password) if password.password.expose_secret() == "secret"));
}

#[tokio::test]
async fn if_revision_holds_in_every_state() {
    use Condition::{Absent, At, None as Any};
    let exists = |number| Err(VaultError::CredentialExists { current: revision(number) });
    let mismatch = |number| Err(VaultError::RevisionMismatch { current: revision(number) });
    let missing = || Err(VaultError::CredentialNotFound);
    let setup = Setup::new().await;
    for (index, (life, condition, wanted)) in [
        ("missing", Any, Ok(1)),
        ("missing", Absent, Ok(1)),
        ("missing", At(revision(1)), missing()),
        ("at 2", Any, Ok(3)),
        ("at 2", Absent, exists(2)),
        ("at 2", At(revision(1)), mismatch(2)),
        ("at 2", At(revision(2)), Ok(3)),
        ("at 2", At(revision(3)), mismatch(2)),
        ("deleted at 2", Any, Ok(3)),
        ("deleted at 2", Absent, Ok(3)),
        ("deleted at 2", At(revision(2)), missing()),
        ("deleted at 2", At(revision(3)), missing()),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("credential-{index}");
        let id = credential_ref("acme", &name);
        if life != "missing" {
            setup.encrypt(&name, password("first"), Any).await.unwrap();
            setup.encrypt(&name, password("second"), Any).await.unwrap();
        }
        if life == "deleted at 2" {
            setup.vault.delete_unasked(&caller("realtask"), &id, None).await.unwrap();
        }
        let outcome = setup.encrypt(&name, password("new"), condition).await.map(|stored| stored.revision.get());
        assert_eq!(outcome, wanted, "{life}, {condition:?}");

        // Decrypt and delete have the same condition, without "absent".
        let living = outcome.ok().or((life == "at 2").then_some(2));
        for number in 1..=4 {
            let opened = setup.vault.decrypt_unasked(&id, View::Full, Some(revision(number))).await.map(|_| ());
            let wanted = match living {
                None => missing().map(|_: u64| ()),
                Some(present) if present == number => Ok(()),
                Some(present) => mismatch(present).map(|_: u64| ()),
            };
            assert_eq!(opened, wanted);
            if living != Some(number) {
                let deleted = setup.vault.delete_unasked(&caller("realtask"), &id, Some(revision(number))).await;
                assert_eq!(deleted, wanted);
            }
        }
    }
}

#[tokio::test]
async fn a_tombstone_keeps_the_count_and_shows_nothing() {
    let setup = Setup::new().await;
    let id = credential_ref("acme", "crm");
    at(1_000);
    setup.encrypt("crm", password("first"), Condition::None).await.unwrap();
    setup.encrypt("crm", password("second"), Condition::None).await.unwrap();
    setup.vault.delete_unasked(&caller("realtask"), &id, Some(revision(2))).await.unwrap();
    assert_eq!(setup.vault.get_unasked(&id).await, Err(VaultError::CredentialNotFound));
    assert_eq!(setup.vault.decrypt_unasked(&id, View::Full, None).await.err(), Some(VaultError::CredentialNotFound));
    assert_eq!(setup.vault.delete_unasked(&caller("realtask"), &id, None).await, Err(VaultError::CredentialNotFound));
    let row = setup.credentials.get(&id).await.unwrap().unwrap();
    assert!(matches!(row.life, Life::Deleted { .. }), "the envelope is erased");

    at(5_000);
    let reborn = setup.encrypt("crm", password("third"), Condition::Absent).await.unwrap();
    assert_eq!((reborn.revision, reborn.create_time.as_second()), (revision(3), 5_000));
}

#[tokio::test]
async fn views_are_as_wide_as_their_kind_and_state_permit() {
    let setup = Setup::new().await;
    let opaque = Opaque { data: SecretOctets::new(vec![1]), content_type: String::new() };
    setup.encrypt("oauth", salesforce("token"), Condition::None).await.unwrap();
    setup.encrypt("password", password("secret"), Condition::None).await.unwrap();
    setup.encrypt("opaque", Secret::Opaque(opaque), Condition::None).await.unwrap();
    for name in ["password", "opaque"] {
        let id = credential_ref("acme", name);
        assert_eq!(setup.vault.decrypt_unasked(&id, View::Access, None).await.err(), Some(VaultError::NoAccessView));
        assert!(setup.vault.decrypt_unasked(&id, View::Full, None).await.is_ok());
    }
    let state = State::NeedsReauth { reason: "restored".to_owned(), time: Timestamp::from_second(7).unwrap() };
    setup.change("oauth", |_, living| living.state = state.clone()).await;
    let id = credential_ref("acme", "oauth");
    assert_eq!(setup.vault.decrypt_unasked(&id, View::Access, None).await.err(), Some(VaultError::NeedsReauth));
    assert_eq!(setup.vault.decrypt_unasked(&id, View::Full, None).await.unwrap().1.state, state);
    assert_eq!(setup.vault.get_unasked(&id).await.unwrap().state, state);
    // A new secret ends it.
    assert_eq!(setup.encrypt("oauth", salesforce("new"), Condition::None).await.unwrap().state, State::Active);
}

#[tokio::test]
async fn tokens_are_as_new_as_they_say() {
    let setup = Setup::new().await;
    at(5_000);
    let mut secret = salesforce("token");
    let Secret::SalesforceOAuth(oauth) = &mut secret else { panic!("another kind") };
    oauth.issue_time = Some("1970-01-01T00:10:00.123456789Z".parse().unwrap());
    oauth.access_token_expire_time = Some("1970-01-01T02:00:00Z".parse().unwrap());
    let stored = setup.encrypt("crm", secret, Condition::None).await.unwrap();
    assert_eq!(stored.refresh_time.unwrap().to_string(), "1970-01-01T00:10:00.123456Z", "as rows keep it");
    assert_eq!(setup.vault.get_unasked(&stored.id).await.unwrap(), stored);

    // The row's hint is not believed once the secret is open.
    setup.change("crm", |_, living| living.access_token_expire_time = None).await;
    assert_eq!(setup.vault.get_unasked(&stored.id).await.unwrap().access_token_expire_time, None);
    let (_, shown) = setup.vault.decrypt_unasked(&stored.id, View::Access, None).await.unwrap();
    assert_eq!(shown.access_token_expire_time, stored.access_token_expire_time);
}

#[tokio::test]
async fn a_customer_must_be_there_and_active() {
    let setup = Setup::new().await;
    let unknown = credential_ref("unknown", "crm");
    let not_found = VaultError::Keyring(KeyringError::CustomerNotFound);
    let stored = setup.vault.encrypt_unasked(&caller("realtask"), &unknown, password("x"), Condition::None, None).await;
    assert_eq!(stored, Err(not_found.clone()));
    assert_eq!(setup.credentials.get(&unknown).await.unwrap(), None);
    assert_eq!(setup.vault.get_unasked(&unknown).await, Err(not_found.clone()));
    assert_eq!(setup.vault.decrypt_unasked(&unknown, View::Full, None).await.err(), Some(not_found.clone()));
    assert_eq!(setup.vault.delete_unasked(&caller("realtask"), &unknown, None).await, Err(not_found));

    setup.encrypt("crm", password("secret"), Condition::None).await.unwrap();
    setup.customer_becomes("acme", CustomerState::Disabled).await;
    let id = credential_ref("acme", "crm");
    let disabled = VaultError::Keyring(KeyringError::CustomerDisabled);
    assert_eq!(setup.encrypt("crm", password("new"), Condition::None).await, Err(disabled.clone()));
    assert_eq!(setup.vault.decrypt_unasked(&id, View::Full, None).await.err(), Some(disabled.clone()));
    assert_eq!(setup.vault.get_unasked(&credential_ref("acme", "other")).await, Err(disabled));
    assert!(setup.vault.get_unasked(&id).await.is_ok(), "metadata are shown");
    setup.customer_becomes("acme", CustomerState::Active).await;
    assert!(setup.vault.decrypt_unasked(&id, View::Full, None).await.is_ok());
}

#[tokio::test]
async fn of_many_who_create_one_does() {
    let setup = Setup::new().await;
    let creations = (0..20).map(|number| setup.encrypt("crm", password(&number.to_string()), Condition::Absent));
    let outcomes = futures_util::future::join_all(creations).await;
    let (made, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (1, 19));
    let exists = VaultError::CredentialExists { current: revision(1) };
    assert!(refused.into_iter().all(|outcome| outcome == Err(exists.clone())));
}

#[tokio::test]
async fn the_stores_errors_are_told_as_they_are() {
    let setup = Setup::new().await;
    let id = credential_ref("acme", "crm");
    for error in [
        StoreError::Absent("x".to_owned()),
        StoreError::Refused("x".to_owned()),
        StoreError::Throttled,
        StoreError::Away("x".to_owned()),
        StoreError::Corrupt("x".to_owned()),
    ] {
        let told = VaultError::Store(error.clone());
        setup.credentials.faults([Fault::Reading(error.clone())]);
        assert_eq!(setup.encrypt("crm", password("x"), Condition::None).await, Err(told.clone()));
        setup.credentials.faults([Fault::Reading(error.clone())]);
        assert_eq!(setup.vault.get_unasked(&id).await, Err(told.clone()));
        setup.credentials.faults([Fault::Reading(error.clone())]);
        assert_eq!(setup.vault.decrypt_unasked(&id, View::Full, None).await.err(), Some(told.clone()));
        setup.credentials.faults([Fault::Reading(error)]);
        assert_eq!(setup.vault.delete_unasked(&caller("realtask"), &id, None).await, Err(told));
    }
    assert_eq!(setup.vault.get_unasked(&id).await, Err(VaultError::CredentialNotFound), "nothing was made meanwhile");
}

#[tokio::test]
async fn a_secret_that_is_too_long_is_not_stored() {
    let setup = Setup::new().await;
    let opaque =
        |octets| Secret::Opaque(Opaque { data: SecretOctets::new(vec![7; octets]), content_type: String::new() });
    let stored = setup.encrypt("crm", opaque(65_600), Condition::None).await;
    assert_eq!(stored, Err(VaultError::SecretTooLong));
    assert!(setup.encrypt("crm", opaque(65_500), Condition::None).await.is_ok());
    assert!(setup.vault.decrypt_unasked(&credential_ref("acme", "crm"), View::Full, None).await.is_ok());
}
