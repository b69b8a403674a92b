//! How often the service calls what costs money and time.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::{PATIENCE, Replica};
use crate::support::site::Aws;

/// States of customers are believed for longer than a test runs: reading them again is no part of a warm call.
const BELIEVED: &[(&str, &str)] = &[("TRISEAL__CACHE__CUSTOMER_STALENESS", "1h")];

/// What was asked of DynamoDB, but for the service's own records: of those it reads one every few seconds, to see whether the store
/// answers.
fn calls(replica: &Replica) -> Vec<String> {
    replica.store.take_calls().into_iter().filter(|call| !call.ends_with(" operations")).collect()
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_warm_call_reads_once_and_writes_at_most_once() {
    let site = Aws::new().await;
    let replica = Replica::start(&site, BELIEVED).await;
    replica.create("acme").await;
    replica.seal("acme", "one").await.unwrap();
    replica.open("acme").await.unwrap();
    for proxy in [&replica.store, &replica.kms, &replica.secrets] {
        proxy.take_calls();
    }
    replica.open("acme").await.unwrap();
    assert_eq!(calls(&replica), ["GetItem credentials"]);
    replica.seal("acme", "two").await.unwrap();
    assert_eq!(calls(&replica), ["GetItem credentials", "PutItem credentials"]);
    for number in 0..20 {
        replica.seal("acme", &format!("secret {number}")).await.unwrap();
        assert_eq!(replica.open("acme").await.unwrap(), format!("secret {number}"));
    }
    assert_eq!(calls(&replica).len(), 20 * 3);
    assert!(replica.kms.take_calls().is_empty(), "KMS was called for a customer whose root is at hand");
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_cold_customer_is_unwrapped_once_for_each_replica_also_for_a_hundred_at_once() {
    let site = Aws::new().await;
    let first = Replica::start(&site, BELIEVED).await;
    first.create("acme").await;
    assert_eq!(
        first.kms.take_calls(),
        ["GenerateDataKeyWithoutPlaintext", "Decrypt"],
        "made, and unwrapped as a proof"
    );
    first.seal("acme", "one").await.unwrap();
    assert_eq!(first.kms.take_calls(), ["Decrypt"]);
    for _ in 0..2 {
        let replica = Replica::start(&site, BELIEVED).await;
        assert!(replica.kms.take_calls().is_empty(), "the start needs no KMS");
        let opened = join_all((0..100).map(|_| replica.open("acme"))).await;
        assert!(opened.iter().all(|opened| opened.as_deref() == Ok("one")));
        assert_eq!(replica.kms.take_calls(), ["Decrypt"]);
        let calls = calls(&replica);
        let count = |call| calls.iter().filter(|called| *called == call).count();
        // Each row; the customer, and its wrapped key. And the sweep for customers whose day has come.
        assert_eq!((count("GetItem credentials"), count("GetItem customers")), (100, 2));
        assert!(count("Scan customers") <= 1 && 102 + count("Scan customers") == calls.len(), "{calls:?}");
    }
}

/// However many calls there are, KMS is asked once for each replica and time.
#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_customer_in_use_is_unwrapped_once_for_each_replica_and_refresh_after() {
    const REFRESH_AFTER: Duration = Duration::from_secs(2);
    const REFRESHES: u32 = 3;
    let site = Aws::new().await;
    let settings = [("TRISEAL__CACHE__REFRESH_AFTER", "2s"), BELIEVED[0]];
    let (one, other) = (Replica::start(&site, &settings).await, Replica::start(&site, &settings).await);
    one.create("acme").await;
    one.seal("acme", "one").await.unwrap();
    let refreshed = async |replica: &Replica| {
        replica.open("acme").await.unwrap();
        replica.kms.take_calls();
        let (begun, mut calls, mut opened) = (Instant::now(), Vec::new(), 0);
        while calls.len() < REFRESHES as usize {
            assert!(join_all((0..20).map(|_| replica.open("acme"))).await.iter().all(Result::is_ok));
            calls.extend(replica.kms.take_calls());
            opened += 20;
            assert!(begun.elapsed() < PATIENCE, "{calls:?}");
        }
        assert!(calls.iter().all(|call| call == "Decrypt"), "{calls:?}");
        // Each a tenth early at most. The root was a moment old when this began.
        let between = REFRESH_AFTER.mul_f64(0.9) * (REFRESHES - 1);
        assert!(begun.elapsed() >= between, "{calls:?} in {:?}", begun.elapsed());
        opened
    };
    let opened = tokio::join!(refreshed(&one), refreshed(&other));
    println!("{opened:?} calls for {REFRESHES} of KMS each");
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_customer_and_its_key_are_one_transaction() {
    let site = Aws::new().await;
    let replica = Replica::start(&site, &[]).await;
    replica.create("other").await;
    replica.store.take_calls();
    replica.create("acme").await;
    assert_eq!(calls(&replica), ["GetItem customers", "TransactWriteItems customers"]);
    replica.create("acme").await;
    assert_eq!(calls(&replica), ["GetItem customers"]);
}
