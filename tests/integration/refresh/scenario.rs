//! Three products with eight workers each share connections whose access tokens die all the time, while the service is killed and started
//! again. No refresh token is used twice, every worker has a living token in the end, and there is one refresh for each death.
//!
//! `TRISEAL_REFRESH_SECONDS=NUMBER cargo test …` runs it for longer: it is read when the tests are compiled.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;

use super::product::{NoToken, PRODUCTS, Product, deployed};
use super::{CUSTOMER, encrypt};
use crate::support::salesforce::Salesforce;
use crate::support::site::Site;
use crate::support::{Random, Service};

const CONNECTIONS: usize = 20;
const WORKERS: usize = 8;
/// Without notice.
const ACCESS_TOKENS_DIE_AFTER: Duration = Duration::from_secs(2);

fn duration() -> Duration {
    let seconds = option_env!("TRISEAL_REFRESH_SECONDS").map(|seconds| seconds.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(60))
}

fn connection(number: usize) -> String {
    format!("shared.connection-{number}")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_worker_has_a_living_token_and_no_refresh_token_is_used_twice() {
    let mut secured = deployed().await;
    let clients = PRODUCTS.map(|name| {
        let pair = secured.authority.client(&format!("spiffe://datasert.com/{name}"));
        secured.credentials(secured.client(&pair))
    });
    share_connections(&clients, async || secured.kill9_and_restart().await).await;
}

/// The same on two replicas, of which one is killed at a time. Without TLS all products are one caller.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs tests/aws/up"]
async fn every_worker_has_a_living_token_with_two_replicas() {
    let site = Site::aws().await;
    let mut replicas = [site.start().await, site.start().await];
    let addresses = Arc::new(Mutex::new(replicas.each_ref().map(Service::address).to_vec()));
    let clients = PRODUCTS.map(|_| {
        let dial = Dial { addresses: Arc::clone(&addresses), dialed: Arc::default() };
        CredentialServiceClient::new(Endpoint::from_static("http://localhost").connect_with_connector_lazy(dial))
    });
    let mut next = 0;
    let kill_one = async || {
        let killed = next % 2;
        next += 1;
        *addresses.lock().unwrap() = vec![replicas[1 - killed].address()];
        replicas[killed].kill().await;
        replicas[killed] = site.start().await;
        *addresses.lock().unwrap() = replicas.each_ref().map(Service::address).to_vec();
    };
    share_connections(&clients, kill_one).await;
}

/// Lets each of three products' clients work for eight workers, and `kill`s again and again.
async fn share_connections(clients: &[CredentialServiceClient<Channel>; 3], mut kill: impl AsyncFnMut()) {
    let mut random = Random::printed();
    let salesforce = Salesforce::start(ACCESS_TOKENS_DIE_AFTER).await;
    for number in 0..CONNECTIONS {
        let tokens = salesforce.consent(&connection(number)).await;
        let secret = v1::Secret { value: Some(v1::secret::Value::SalesforceOauth(tokens)) };
        clients[0].clone().encrypt_credential(encrypt(CUSTOMER, &connection(number), secret)).await.unwrap();
    }
    let end = Instant::now() + duration();
    let mut workers = Vec::new();
    for client in clients.iter().flat_map(|client| std::iter::repeat_n(client, WORKERS)) {
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
    let mut kills = 0;
    while Instant::now() < end {
        sleep(Duration::from_millis(1_000 + random.below(2_000) as u64)).await;
        kill().await;
        kills += 1;
    }
    let mut calls = 0;
    for worker in workers {
        calls += worker.await.expect("a worker found something wrong");
    }
    let (deaths, refreshes) = judge(&salesforce.report().await);
    println!("{calls} calls, {deaths} deaths, {refreshes} refreshes, {kills} kills");
    assert!(kills >= 2 && refreshes >= CONNECTIONS as u64, "nothing was shown");
}

/// Deaths and refreshes: one for each, and no refresh token twice.
fn judge(report: &serde_json::Value) -> (u64, u64) {
    let (mut deaths, mut refreshes) = (0, 0);
    for number in 0..CONNECTIONS {
        let seen = &report["connections"][connection(number)];
        let count = |name: &str| seen[name].as_u64().unwrap();
        assert_eq!((count("reuses"), &seen["revoked"]), (0, &false.into()), "{seen}");
        // Whoever met a death went on until there was a living token.
        assert_eq!(count("refreshes"), count("deaths"), "{seen}");
        refreshes += count("refreshes");
        deaths += count("deaths");
    }
    (deaths, refreshes)
}

/// Dials one replica after the other.
#[derive(Clone)]
struct Dial {
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
    dialed: Arc<AtomicUsize>,
}

impl tower::Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let address = {
            let addresses = self.addresses.lock().unwrap();
            addresses[self.dialed.fetch_add(1, Ordering::Relaxed) % addresses.len()]
        };
        Box::pin(async move { TcpStream::connect(address).await.map(TokioIo::new) })
    }
}
