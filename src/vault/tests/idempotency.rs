//! Retries: each changes nothing, whatever happened in between.

use super::*;

const DAY: i64 = 86_400;

async fn stored_password(setup: &Setup) -> String {
    let opened = setup.vault.decrypt_unasked(&credential_ref("acme", "crm"), View::Full, None).await.unwrap();
    let (Secret::Password(password), _) = opened else { panic!("another kind") };
    password.password.expose_secret().to_owned()
}

#[tokio::test]
async fn a_retry_is_answered_as_the_first_call_and_writes_nothing() {
    let setup = Setup::new().await;
    let first = setup.encrypt_as("realtask", "key", password("a")).await.unwrap();
    let row = setup.credentials.get(&first.id).await.unwrap();
    at(1_000 + DAY - 1);
    assert_eq!(setup.encrypt_as("realtask", "key", password("a")).await.unwrap(), first);
    assert_eq!(setup.credentials.get(&first.id).await.unwrap(), row);
}

#[tokio::test]
async fn a_key_is_its_callers_and_of_one_day() {
    let setup = Setup::new().await;
    let store = async |who: &str, key: &str, secret: &str| {
        setup.encrypt_as(who, key, password(secret)).await.map(|stored| stored.revision.get())
    };
    assert_eq!(store("realtask", "key", "a").await, Ok(1));
    assert_eq!(store("realtask", "key", "b").await, Err(VaultError::IdempotencyKeyReused));
    assert_eq!(stored_password(&setup).await, "a");
    assert_eq!(store("realsync", "key", "b").await, Ok(2), "another caller's key is another key");
    assert_eq!(store("realsync", "other key", "b").await, Ok(3));
    at(1_000 + DAY);
    assert_eq!(store("realtask", "key", "c").await, Ok(4));
    assert_eq!(store("realtask", "key", "c").await, Ok(4));
}

/// The condition held when the change was made. That it no longer does is the change's own work.
#[tokio::test]
async fn a_retry_is_not_asked_for_its_condition_again() {
    let setup = Setup::new().await;
    let id = credential_ref("acme", "crm");
    let store = async |key: &str, secret: &str, condition| {
        let key = Some(IdempotencyKey::given(key));
        let stored = setup.vault.encrypt_unasked(&caller("realtask"), &id, password(secret), condition, key).await;
        stored.map(|stored| stored.revision.get())
    };
    for _ in 0..2 {
        assert_eq!(store("first", "a", Condition::Absent).await, Ok(1));
    }
    for _ in 0..2 {
        assert_eq!(store("second", "b", Condition::At(revision(1))).await, Ok(2));
    }
    assert_eq!(store("second", "c", Condition::At(revision(1))).await, Err(VaultError::IdempotencyKeyReused));
    // Under other keys both conditions are refused.
    let exists = VaultError::CredentialExists { current: revision(2) };
    assert_eq!(store("third", "c", Condition::Absent).await, Err(exists));
    let mismatch = VaultError::RevisionMismatch { current: revision(2) };
    assert_eq!(store("third", "c", Condition::At(revision(1))).await, Err(mismatch));
    assert_eq!(stored_password(&setup).await, "b");
}

#[tokio::test]
async fn a_call_without_a_key_is_made_as_often_as_it_is_called() {
    let setup = Setup::new().await;
    for number in 1..=3 {
        let stored = setup.encrypt("crm", password("a"), Condition::None).await.unwrap();
        assert_eq!(stored.revision.get(), number);
    }
}

#[tokio::test]
async fn a_retry_after_other_changes_answers_with_its_own_revision() {
    let setup = Setup::new().await;
    let first = setup.encrypt_as("realtask", "key", password("a")).await.unwrap();
    at(2_000);
    setup.encrypt_as("realsync", "key", password("b")).await.unwrap();
    let retried = setup.encrypt_as("realtask", "key", password("a")).await.unwrap();
    assert_eq!((retried.revision, retried.update_time), (first.revision, first.update_time));
    assert_eq!(stored_password(&setup).await, "b", "the later change stands");
    // There is nothing left to compare with.
    assert_eq!(setup.encrypt_as("realtask", "key", password("x")).await.unwrap().revision, first.revision);
    assert_eq!(stored_password(&setup).await, "b");

    // Seven more changes are remembered beside it; an eighth is one too many.
    for number in 0..6 {
        setup.encrypt_as("realsync", &number.to_string(), password("b")).await.unwrap();
    }
    assert_eq!(setup.encrypt_as("realtask", "key", password("a")).await.unwrap().revision, first.revision);
    setup.encrypt_as("realsync", "6", password("b")).await.unwrap();
    assert_eq!(setup.encrypt_as("realtask", "key", password("a")).await.unwrap().revision.get(), 10);
}

#[tokio::test]
async fn a_retry_after_a_deletion_does_not_resurrect() {
    let setup = Setup::new().await;
    let first = setup.encrypt_as("realtask", "key", password("a")).await.unwrap();
    setup.vault.delete_unasked(&caller("realsync"), &first.id, None).await.unwrap();
    let retried = setup.encrypt_as("realtask", "key", password("a")).await.unwrap();
    assert_eq!((retried.revision, retried.lineage), (first.revision, None));
    assert_eq!(setup.vault.get_unasked(&first.id).await, Err(VaultError::CredentialNotFound));

    // Nor in the next life, which goes on at revision 2.
    setup.encrypt_as("realsync", "key", password("b")).await.unwrap();
    assert_eq!(setup.encrypt_as("realtask", "key", password("a")).await.unwrap().revision, first.revision);
    assert_eq!(stored_password(&setup).await, "b");
}

#[tokio::test]
async fn an_answer_that_was_lost_is_found_again() {
    for (fault, key) in [
        (Fault::LostAfter, Some("key")),
        (Fault::LostBefore, Some("key")),
        (Fault::LostAfter, None),
        (Fault::LostBefore, None),
    ] {
        let setup = Setup::new().await;
        setup.credentials.faults([fault]);
        let (id, key) = (credential_ref("acme", "crm"), key.map(IdempotencyKey::given));
        let stored = setup.vault.encrypt_unasked(&caller("realtask"), &id, password("a"), Condition::Absent, key).await;
        assert_eq!(stored.unwrap().revision.get(), 1);
        assert_eq!(setup.vault.get_unasked(&id).await.unwrap().revision.get(), 1);
        setup.credentials.faults([Fault::LostAfter]);
        assert_eq!(setup.vault.delete_unasked(&caller("realtask"), &id, None).await, Ok(()));
        assert_eq!(setup.vault.get_unasked(&id).await, Err(VaultError::CredentialNotFound));
    }
}

#[tokio::test]
async fn a_call_that_ends_unknown_may_be_retried() {
    let setup = Setup::new().await;
    let away = StoreError::Away("timed out".to_owned());
    setup.encrypt_as("realsync", "other", password("former")).await.unwrap();
    // The write is done, and neither its answer nor the reading after it comes.
    setup.credentials.faults([Fault::LostAfter, Fault::Reading(away.clone())]);
    assert_eq!(setup.encrypt_as("realtask", "key", password("a")).await, Err(VaultError::Store(away)));
    let retried = setup.encrypt_as("realtask", "key", password("a")).await.unwrap();
    assert_eq!(retried.revision.get(), 2);
    assert_eq!(setup.vault.get_unasked(&retried.id).await.unwrap().revision.get(), 2);
}

#[tokio::test]
async fn a_row_that_is_changed_again_and_again_is_given_up() {
    let setup = Setup::new().await;
    setup.encrypt("crm", password("a"), Condition::None).await.unwrap();
    setup.credentials.faults((0..4).map(|_| Fault::Overtaken));
    assert_eq!(setup.encrypt("crm", password("b"), Condition::None).await.unwrap().revision.get(), 2);
    setup.credentials.faults((0..5).map(|_| Fault::Overtaken));
    assert_eq!(setup.encrypt("crm", password("c"), Condition::None).await, Err(VaultError::ChangedConcurrently));
    assert_eq!(stored_password(&setup).await, "b");
}
