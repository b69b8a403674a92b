//! Several services on the same keys and tables.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use tonic::Code;
use triseal::grpc::v1;

use super::{Replica, told, until};
use crate::support::site::{Aws, environment, environment_of};

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn what_one_writes_the_other_reads() {
    let site = Aws::new().await;
    let (one, other) = (Replica::start(&site, &[]).await, Replica::start(&site, &[]).await);
    one.create("acme").await;
    for number in 1..=20_u64 {
        let (writer, reader) = if number % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let secret = format!("secret {number}");
        assert_eq!(writer.seal("acme", &secret).await, Ok(number));
        assert_eq!(reader.open("acme").await, Ok(secret));
    }
    // Written by both at once, each change is made once.
    let writes = (0..10).map(|number| {
        let replica = if number % 2 == 0 { &one } else { &other };
        async move { replica.seal_under("acme", &format!("at once {number}"), &format!("key-{number}")).await }
    });
    let aborted = told(Code::Aborted, "CHANGED_CONCURRENTLY", false);
    let outcomes = join_all(writes).await;
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().map_or_else(|told| *told == aborted, |_| true)));
    let made: BTreeSet<_> = outcomes.into_iter().filter_map(Result::ok).collect();
    assert!(!made.is_empty());
    let last = 20 + made.len() as u64;
    assert_eq!(made, (21..=last).collect());
    assert_eq!(one.seal("acme", "last").await, Ok(last + 1));
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_customer_that_is_created_by_all_at_once_has_one_key() {
    let site = Aws::new().await;
    let (one, other) = (Replica::start(&site, &[]).await, Replica::start(&site, &[]).await);
    let creations = (0..16).map(|number| {
        let mut customers = if number % 2 == 0 { one.service.customers() } else { other.service.customers() };
        async move {
            let request = v1::CreateCustomerRequest { customer_id: "acme".into() };
            customers.create_customer(request).await.unwrap().into_inner().customer.unwrap()
        }
    });
    let created = join_all(creations).await;
    assert!(created.iter().all(|customer| *customer == created[0]));
    assert_eq!(created[0].key_versions.len(), 1);
    one.seal("acme", "one").await.unwrap();
    assert_eq!(other.open("acme").await.as_deref(), Ok("one"));
    let wrapped = site.dynamodb.scan().table_name(&site.tables.customers).send().await.unwrap();
    assert_eq!(wrapped.count, 2, "the customer, and one key");
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_new_environment_key_is_promoted_everywhere_without_a_restart() {
    let site = Aws::new().await;
    let often = Replica::start(&site, &[("TRISEAL__FACTORS__SECRETS_MANAGER__POLL", "200ms")]).await;
    // Polls after the test is over, and asks when it meets a version that it does not know.
    let seldom =
        [("TRISEAL__FACTORS__SECRETS_MANAGER__POLL", "12h"), ("TRISEAL__FACTORS__SECRETS_MANAGER__MAX_AGE", "24h")];
    let seldom = Replica::start(&site, &seldom).await;
    often.create("acme").await;
    let version = async |replica: &Replica| {
        replica.seal("acme", "sealed").await.unwrap();
        let request = v1::GetCredentialRequest { customer_id: "acme".into(), credential_id: "main".into() };
        let got = replica.service.credentials().get_credential(request).await.unwrap().into_inner();
        got.credential.unwrap().lineage.unwrap().environment_version
    };
    assert_eq!(version(&often).await, 1);
    site.put_secret(&environment(2, 2)).await;
    until(&2, async || version(&often).await).await;
    assert_eq!(seldom.open("acme").await.as_deref(), Ok("sealed"), "asked for at once");
    assert_eq!(version(&seldom).await, 2, "and what was read is known");
    assert!(often.service.stderr().contains("environment key promoted"));

    // A value that has lost a version, has another key or is none: the last good one stays.
    for bad in [environment(1, 1), environment(2, 1), environment_of([(1, 101), (2, 9)], 2), "MARKED".to_owned()] {
        let before = often.service.stderr().len();
        site.put_secret(&bad).await;
        until(&true, async || often.service.stderr()[before..].contains("the last good ones stay")).await;
        assert_eq!(version(&often).await, 2);
        assert_eq!(often.open("acme").await.as_deref(), Ok("sealed"));
    }
    assert!(!often.service.stderr().contains("MARKED"));
    site.put_secret(&environment(3, 3)).await;
    until(&3, async || version(&often).await).await;
}
