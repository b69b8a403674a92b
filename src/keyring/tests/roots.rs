//! The cache of roots: how long one is kept, and when its customer key is unwrapped.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_the_primary_sealed_its_lineage_opens_and_no_other() {
    use crate::crypto::{Context, Plaintext, Salt, open, seal};
    let fakes = Fakes::new();
    fakes.customers.active("acme", 2);
    fakes.customers.active("other", 2);
    let keyring = fakes.keyring().await;
    let (lineage, root) = keyring.primary(&customer_id("acme")).await.unwrap();
    assert_eq!(lineage, super::lineage(1, 1, 2));
    let context = Context::new("test", "acme", "crm", "opaque", 1).unwrap();
    let plaintext = Plaintext::new(vec![1].into()).unwrap();
    let envelope = seal(&root, lineage, &context, Salt::new([7; 32]), &plaintext).unwrap();

    let again = keyring.root(&customer_id("acme"), lineage).await.unwrap();
    assert!(open(&again, &context, &envelope).unwrap().is_same(&plaintext));
    let former = keyring.root(&customer_id("acme"), super::lineage(1, 1, 1)).await.unwrap();
    assert!(open(&former, &context, &envelope).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_root_is_unwrapped_once_for_each_customer_and_lineage() {
    let fakes = Fakes::new();
    fakes.customers.active("acme", 2);
    fakes.customers.active("other", 2);
    let keyring = fakes.keyring().await;
    for _ in 0..3 {
        for customer in ["acme", "other"] {
            for number in [1, 2] {
                keyring.root(&customer_id(customer), lineage(1, 1, number)).await.unwrap();
            }
        }
    }
    assert_eq!(fakes.wrapper.unwraps.count(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_cold_requests_unwrap_once() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    fakes.wrapper.unwraps.take(SECOND);
    let requests = (0..100).map(|number| {
        let keyring = keyring.clone();
        async move {
            if number % 2 == 0 { keyring.seals().await.map(|_| ()) } else { keyring.opens(lineage(1, 1, 1)).await }
        }
    });
    assert!(join_all(requests).await.into_iter().all(|outcome| outcome == Ok(())));
    assert_eq!((fakes.wrapper.unwraps.count(), fakes.customers.reads.count()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_gives_up_fails_nobody_else() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    fakes.wrapper.unwraps.take(2 * SECOND);
    let leader = keyring.clone();
    let leader = tokio::time::timeout(SECOND, async move { leader.seals().await });
    let (leader, follower) = tokio::join!(leader, async {
        sleep(SECOND / 2).await;
        keyring.seals().await
    });
    assert!(leader.is_err() && follower.is_ok());
    assert_eq!(fakes.wrapper.unwraps.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_root_in_use_is_refreshed_in_the_background() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    keyring.seals().await.unwrap();
    fakes.wrapper.unwraps.take(SECOND);
    // 15 minutes, give or take a tenth.
    sleep(13 * MINUTE).await;
    keyring.seals().await.unwrap();
    sleep(2 * SECOND).await;
    assert_eq!(fakes.wrapper.unwraps.count(), 1);
    sleep(4 * MINUTE).await;
    let before = Instant::now();
    for _ in 0..100 {
        keyring.seals().await.unwrap();
    }
    assert_eq!(Instant::now(), before, "nobody waits for the refresh");
    sleep(2 * SECOND).await;
    assert_eq!(fakes.wrapper.unwraps.count(), 2);

    // The refreshed root is good for another hour.
    sleep(58 * MINUTE).await;
    fakes.wrapper.unwraps.fail(away());
    keyring.seals().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unused_root_is_not_refreshed_and_ends_at_its_age() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    keyring.seals().await.unwrap();
    sleep(59 * MINUTE).await;
    assert_eq!((fakes.wrapper.unwraps.count(), keyring.0.roots.len()), (1, 1));
    sleep(2 * MINUTE).await;
    assert_eq!(keyring.0.roots.len(), 0, "it is swept out");
    keyring.seals().await.unwrap();
    assert_eq!(fakes.wrapper.unwraps.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_refused_drops_the_root() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    keyring.seals().await.unwrap();
    let refused = FactorError::Refused("disabled".to_owned());
    fakes.wrapper.unwraps.fail(refused.clone());
    sleep(17 * MINUTE).await;
    keyring.seals().await.unwrap();
    sleep(SECOND).await;
    assert_eq!(keyring.0.roots.len(), 0);
    assert_eq!(keyring.seals().await, Err(KeyringError::Wrapper(refused)));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_otherwise_keeps_the_root_to_its_age() {
    for error in factor_errors().into_iter().filter(|error| !matches!(error, FactorError::Refused(_))) {
        let fakes = Fakes::new();
        let keyring = fakes.keyring().await;
        keyring.seals().await.unwrap();
        fakes.wrapper.unwraps.fail(error.clone());
        sleep(17 * MINUTE).await;
        // It is tried again, and not at every use.
        for _ in 0..42 * 60 {
            keyring.seals().await.unwrap();
            sleep(SECOND).await;
        }
        let tries = fakes.wrapper.unwraps.count();
        assert!((70..100).contains(&tries), "tried {tries} times in 42 minutes");
        sleep(2 * MINUTE).await;
        assert_eq!(keyring.seals().await, Err(KeyringError::Wrapper(error)));
        fakes.wrapper.unwraps.fail(None);
        keyring.seals().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_not_cached() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    for error in factor_errors() {
        fakes.wrapper.unwraps.fail(error.clone());
        assert_eq!(keyring.seals().await, Err(KeyringError::Wrapper(error)));
    }
    fakes.wrapper.unwraps.fail(None);
    for error in store_errors() {
        fakes.customers.key_reads.fail(error.clone());
        assert_eq!(keyring.seals().await, Err(KeyringError::Store(error)));
    }
    fakes.customers.key_reads.fail(None);
    assert_eq!(keyring.seals().await, Ok(lineage(1, 1, 1)));
}

#[tokio::test(start_paused = true)]
async fn the_cache_is_bounded() {
    let fakes = Fakes::new();
    let keyring = fakes.start(timing(), CacheLimits { roots: 20, ..limits() }).await.unwrap();
    for number in 0..500 {
        let id = format!("customer-{number}");
        fakes.customers.active(&id, 1);
        keyring.primary(&customer_id(&id)).await.unwrap();
    }
    assert!(keyring.0.roots.len() <= 20 && keyring.0.standings.len() <= 20);
}

#[tokio::test(start_paused = true)]
async fn a_self_check_asks_nobody() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    let key = crate::crypto::CustomerKey::new(zeroize::Zeroizing::new([1; 32]));
    let (lineage, _) = keyring.rehearsal(key).await.unwrap();
    assert_eq!(lineage, super::lineage(1, 1, 1));
    assert_eq!((fakes.wrapper.unwraps.count(), fakes.customers.reads.count()), (0, 0));
}
