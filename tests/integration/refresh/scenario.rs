//! Three products with eight workers each share connections whose access tokens die all the time, while the service is killed and started
//! again. No refresh token is used twice, every worker has a living token in the end, and there is one refresh for each death.
//!
//! `TRISEAL_REFRESH_SECONDS=NUMBER cargo test …` runs it for longer: it is read when the tests are compiled.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;

use super::product::{NoToken, PRODUCTS, Product, deployed};
use super::{CUSTOMER, encrypt};
use crate::support::Random;
use crate::support::salesforce::Salesforce;

const CONNECTIONS: usize = 20;
const WORKERS: usize = 8;
/// Without notice.
const ACCESS_TOKENS_DIE_AFTER: Duration = Duration::from_secs(2);

fn duration() -> Duration {
    let seconds = option_env!("TRISEAL_REFRESH_SECONDS").map(|seconds| seconds.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(12))
}

fn connection(number: usize) -> String {
    format!("shared.connection-{number}")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_worker_has_a_living_token_and_no_refresh_token_is_used_twice() {
    let mut random = Random::printed();
    let salesforce = Salesforce::start(ACCESS_TOKENS_DIE_AFTER).await;
    let mut secured = deployed().await;
    let client = |name: &str| {
        let pair = secured.authority.client(&format!("spiffe://datasert.com/{name}"));
        CredentialServiceClient::new(secured.channel(&pair))
    };
    for number in 0..CONNECTIONS {
        let tokens = salesforce.consent(&connection(number)).await;
        let secret = v1::Secret { value: Some(v1::secret::Value::SalesforceOauth(tokens)) };
        client(PRODUCTS[0]).encrypt_credential(encrypt(CUSTOMER, &connection(number), secret)).await.unwrap();
    }
    let end = Instant::now() + duration();
    let mut workers = Vec::new();
    for product in PRODUCTS {
        let client = client(product);
        for _ in 0..WORKERS {
            let mut product = Product::new(client.clone(), salesforce.client.clone());
            let mut random = Random::new(random.next());
            workers.push(tokio::spawn(async move {
                let mut calls = 0;
                while Instant::now() < end {
                    let called = product.call_with_token(CUSTOMER, &connection(random.below(CONNECTIONS))).await;
                    called.unwrap_or_else(|why: NoToken| panic!("no token: {why:?}"));
                    calls += 1;
                    sleep(Duration::from_millis(random.below(200) as u64)).await;
                }
                calls
            }));
        }
    }
    let mut kills = 0;
    while Instant::now() < end {
        sleep(Duration::from_millis(1_000 + random.below(2_000) as u64)).await;
        secured.kill9_and_restart().await;
        kills += 1;
    }
    let mut calls = 0;
    for worker in workers {
        calls += worker.await.expect("a worker found something wrong");
    }

    let report = salesforce.report().await;
    let (mut refreshes, mut deaths) = (0, 0);
    for number in 0..CONNECTIONS {
        let seen = &report["connections"][connection(number)];
        let count = |name: &str| seen[name].as_u64().unwrap();
        assert_eq!((count("reuses"), &seen["revoked"]), (0, &false.into()), "{seen}");
        // Whoever met a death went on until there was a living token.
        assert_eq!(count("refreshes"), count("deaths"), "{seen}");
        refreshes += count("refreshes");
        deaths += count("deaths");
    }
    println!("{calls} calls, {deaths} deaths, {refreshes} refreshes, {kills} kills");
    assert!(kills >= 2 && refreshes >= CONNECTIONS as u64, "nothing was shown: {report}");
}
