//! What is known of a customer: its state, and its key versions.

use super::*;
use crate::store::{CustomerState, Erasure, KeyVersionState};

const NOTHING: Erasure = Erasure { key_versions: 0, credentials: None, end_time: None, backups_end_time: None };
const STATES: [(CustomerState, KeyringError); 3] = [
    (CustomerState::Disabled, KeyringError::CustomerDisabled),
    (
        CustomerState::PendingDestruction { destroy_time: jiff::Timestamp::MAX },
        KeyringError::CustomerPendingDestruction,
    ),
    (
        CustomerState::Destroyed { destroy_time: jiff::Timestamp::UNIX_EPOCH, erasure: NOTHING },
        KeyringError::CustomerDestroyed,
    ),
];

#[tokio::test(start_paused = true)]
async fn a_state_is_believed_for_ten_seconds_and_then_read_again() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    keyring.seals().await.unwrap();
    sleep(9 * SECOND).await;
    keyring.seals().await.unwrap();
    assert_eq!(fakes.customers.reads.count(), 1);
    sleep(2 * SECOND).await;
    keyring.seals().await.unwrap();
    assert_eq!(fakes.customers.reads.count(), 2);

    // Without an answer nothing is believed.
    for error in store_errors() {
        fakes.customers.reads.fail(error.clone());
        sleep(11 * SECOND).await;
        assert_eq!(keyring.seals().await, Err(KeyringError::Store(error.clone())));
        assert_eq!(keyring.opens(lineage(1, 1, 1)).await, Err(KeyringError::Store(error)));
        fakes.customers.reads.fail(None);
        keyring.seals().await.unwrap();
    }
    assert_eq!(fakes.wrapper.unwraps.count(), 1, "a store that is away costs no root");
}

#[tokio::test(start_paused = true)]
async fn a_state_other_than_active_refuses_and_drops_the_roots_at_once() {
    for (state, refusal) in STATES {
        let fakes = Fakes::new();
        fakes.customers.active("acme", 2);
        fakes.customers.active("other", 1);
        let keyring = fakes.keyring().await;
        keyring.seals().await.unwrap();
        keyring.opens(lineage(1, 1, 1)).await.unwrap();
        keyring.primary(&customer_id("other")).await.unwrap();

        fakes.customers.becomes("acme", state);
        sleep(11 * SECOND).await;
        assert_eq!(keyring.check_active(&customer_id("acme")).await, Err(refusal.clone()));
        assert_eq!(keyring.0.roots.len(), 1, "the other customer's stays");
        assert_eq!(keyring.seals().await, Err(refusal.clone()));
        assert_eq!(keyring.opens(lineage(1, 1, 1)).await, Err(refusal));

        fakes.customers.becomes("acme", CustomerState::Active);
        sleep(11 * SECOND).await;
        keyring.seals().await.unwrap();
        assert_eq!(fakes.wrapper.unwraps.count(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_root_is_not_kept_if_its_customer_was_disabled_meanwhile() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    fakes.wrapper.unwraps.take(9 * SECOND);
    let slow = keyring.clone();
    let slow = tokio::spawn(async move { slow.seals().await });
    sleep(SECOND).await;
    // Read again meanwhile, as after `customer_staleness`.
    keyring.forget(&customer_id("acme"));
    fakes.customers.becomes("acme", CustomerState::Disabled);
    assert_eq!(keyring.check_active(&customer_id("acme")).await, Err(KeyringError::CustomerDisabled));
    slow.await.unwrap().unwrap();
    assert_eq!(keyring.0.roots.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_customer_that_is_not_there_is_not_made_and_not_remembered() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    let unknown = customer_id("unknown");
    for reads in 1..=3 {
        assert_eq!(keyring.primary(&unknown).await.err(), Some(KeyringError::CustomerNotFound));
        assert_eq!(fakes.customers.reads.count(), reads);
    }
    fakes.customers.active("unknown", 1);
    assert!(keyring.primary(&unknown).await.is_ok());
    assert_eq!(fakes.customers.key_reads.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_this_process_changed_it_reads_again_at_once() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    keyring.seals().await.unwrap();
    fakes.customers.becomes("acme", CustomerState::Disabled);
    assert_eq!(keyring.check_active(&customer_id("acme")).await, Ok(()));
    keyring.forget(&customer_id("acme"));
    assert_eq!(keyring.check_active(&customer_id("acme")).await, Err(KeyringError::CustomerDisabled));
    assert_eq!(keyring.0.roots.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_primary_version_is_the_stores() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    assert_eq!(keyring.seals().await, Ok(lineage(1, 1, 1)));
    fakes.customers.active("acme", 2);
    sleep(11 * SECOND).await;
    assert_eq!(keyring.seals().await, Ok(lineage(1, 1, 2)));
    assert_eq!(keyring.opens(lineage(1, 1, 1)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_version_is_asked_for_at_once_and_once_in_five_seconds() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    keyring.seals().await.unwrap();
    let reads = || fakes.customers.reads.count();
    assert_eq!(keyring.opens(lineage(1, 1, 7)).await, Err(KeyringError::KeyVersionUnknown));
    assert_eq!(reads(), 2);
    // Whichever version is named.
    for number in [7, 8, u32::MAX] {
        assert_eq!(keyring.opens(lineage(1, 1, number)).await, Err(KeyringError::KeysStale));
    }
    sleep(4 * SECOND).await;
    assert_eq!(keyring.opens(lineage(1, 1, 8)).await, Err(KeyringError::KeysStale));
    assert_eq!(reads(), 2);
    sleep(2 * SECOND).await;
    fakes.customers.active("acme", 7);
    assert_eq!(keyring.opens(lineage(1, 1, 7)).await, Ok(()));
    assert_eq!((reads(), fakes.wrapper.unwraps.count()), (3, 2));

    // Each customer for itself.
    fakes.customers.active("other", 1);
    keyring.check_active(&customer_id("other")).await.unwrap();
    fakes.customers.active("other", 2);
    assert!(keyring.root(&customer_id("other"), lineage(1, 1, 2)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_asked_for_a_version_no_more_often() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    keyring.seals().await.unwrap();
    let away = StoreError::Away("timed out".to_owned());
    fakes.customers.reads.fail(away.clone());
    assert_eq!(keyring.opens(lineage(1, 1, 2)).await, Err(KeyringError::Store(away)));
    assert_eq!(keyring.opens(lineage(1, 1, 2)).await, Err(KeyringError::KeysStale));
    assert_eq!(fakes.customers.reads.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_requests_for_a_new_version_read_once_and_all_open() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    keyring.seals().await.unwrap();
    fakes.customers.active("acme", 2);
    fakes.customers.reads.take(SECOND);
    let outcomes = join_all((0..100).map(|_| keyring.opens(lineage(1, 1, 2)))).await;
    assert!(outcomes.into_iter().all(|outcome| outcome == Ok(())));
    assert_eq!((fakes.customers.reads.count(), fakes.wrapper.unwraps.count()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_version_is_not_called_unknown_by_a_reading_that_began_before() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    keyring.seals().await.unwrap();
    fakes.customers.reads.take(3 * SECOND);
    sleep(9 * SECOND).await;
    let acme = customer_id("acme");
    keyring.forget(&acme);
    let (reading, asking) = tokio::join!(keyring.check_active(&acme), async {
        sleep(SECOND).await;
        // As another replica does, after that reading has seen the row.
        fakes.customers.active("acme", 2);
        keyring.0.ask_for(&acme, version(2)).await
    });
    assert_eq!((reading, asking), (Ok(()), Err(KeyringError::KeysStale)));
}

#[tokio::test(start_paused = true)]
async fn a_customer_that_is_found_disabled_when_asked_for_a_version_is_refused() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    keyring.seals().await.unwrap();
    fakes.customers.active("acme", 2);
    fakes.customers.becomes("acme", CustomerState::Disabled);
    assert_eq!(keyring.opens(lineage(1, 1, 2)).await, Err(KeyringError::CustomerDisabled));
    assert_eq!(fakes.wrapper.unwraps.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retired_version_is_refused() {
    let fakes = Fakes::new();
    let versions = [(1, KeyVersionState::Retired), (2, KeyVersionState::Enabled)];
    fakes.customers.holds("acme", CustomerState::Active, 2, &versions);
    let keyring = fakes.keyring().await;
    assert_eq!(keyring.opens(lineage(1, 1, 1)).await, Err(KeyringError::KeyVersionRetired));
    assert_eq!(keyring.opens(lineage(1, 1, 2)).await, Ok(()));
}
