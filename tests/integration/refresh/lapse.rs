//! Leases that lapse, waited out: 15 s, the shortest, and 65 s of clocks and grace. All cases share one wait, each on a credential of its
//! own. The times themselves are `crate::refresh`'s tests; here is what becomes of products, tokens and the connection at Salesforce.

use std::time::{Duration, SystemTime};

use tokio::task::JoinHandle;
use tonic::Code;
use triseal::grpc::v1;

use super::product::{NoToken, PRODUCTS, Product, deployed};
use super::{CUSTOMER, Client, acquire, complete, outcome, tokens, told};
use crate::support::salesforce::{Refresh, Salesforce};
use crate::support::tls::Secured;
use crate::support::{encrypt, until};
use v1::acquire_refresh_response::Outcome;

/// From a lease's expiry until another one is given: the clocks' allowance, and the grace.
const UNTIL_GIVEN_AGAIN: Duration = Duration::from_secs(65);

struct Scene {
    secured: Secured,
    salesforce: Salesforce,
}

impl Scene {
    fn client(&self, product: &str) -> Client {
        let pair = self.secured.authority.client(&format!("spiffe://datasert.com/{product}"));
        self.secured.credentials(self.secured.client(&pair))
    }

    /// A connection whose access token is dead.
    async fn stored(&self, crm: &str) {
        let secret = v1::secret::Value::SalesforceOauth(self.salesforce.consent(crm).await);
        let request = encrypt(CUSTOMER, crm, v1::Secret { value: Some(secret) });
        self.client(PRODUCTS[0]).encrypt_credential(request).await.unwrap();
        self.salesforce.expire(crm).await;
    }

    /// The shortest lease of it, given to the first product.
    async fn held(&self, crm: &str) -> v1::RefreshLease {
        let request = v1::AcquireRefreshRequest { credential_id: crm.to_owned(), ..acquire(Some(1)) };
        match outcome(&mut self.client(PRODUCTS[0]), request).await.unwrap() {
            Outcome::Lease(lease) => lease,
            Outcome::Fresh(_) => panic!("fresh"),
        }
    }

    /// Asks Salesforce under a lease. The token is taken.
    async fn asked(&self, lease: &v1::RefreshLease) -> v1::SalesforceOAuth {
        match self.salesforce.client.refresh(&tokens(lease.secret.clone()).refresh_token).await {
            Refresh::Tokens(brought) => brought,
            _ => panic!("no tokens"),
        }
    }

    /// The other two products want tokens of it, until they have them or are told that there are none.
    fn wanted(&self, crm: &'static str) -> Vec<JoinHandle<Result<(), NoToken>>> {
        let products = PRODUCTS[1..].iter();
        let products = products.map(|product| Product::new(self.client(product), self.salesforce.client.clone()));
        products.map(|mut own| tokio::spawn(async move { own.call_with_token(CUSTOMER, crm).await })).collect()
    }

    async fn brought(&self, crm: &str, lease: &v1::RefreshLease, brought: v1::SalesforceOAuth) -> Result<u64, String> {
        let request = v1::CompleteRefreshRequest { credential_id: crm.to_owned(), ..complete(lease, brought) };
        match self.client(PRODUCTS[0]).complete_refresh(request).await {
            Ok(saved) => Ok(saved.into_inner().credential.unwrap().revision),
            Err(status) => {
                assert_eq!(status.code(), Code::Aborted, "{status:?}");
                Err(told(&status).1.to_owned())
            }
        }
    }

    async fn assert_seen(&self, crm: &str, refreshes: u64, reuses: u64) {
        let seen = self.salesforce.seen(crm).await;
        assert_eq!((&seen["refreshes"], &seen["reuses"]), (&refreshes.into(), &reuses.into()), "{crm}");
    }

    async fn leases(&self, event: &str) -> f64 {
        self.secured.service.metric(&format!("triseal_refresh_leases_total{{event=\"{event}\"}}")).await
    }
}

fn expiry(lease: &v1::RefreshLease) -> SystemTime {
    SystemTime::try_from(lease.expire_time.unwrap()).unwrap()
}

#[tokio::test]
async fn what_becomes_of_a_holder_that_does_not_come_back_or_comes_late() {
    let scene = Scene { salesforce: Salesforce::start(Duration::from_secs(3_600)).await, secured: deployed().await };
    let [before, after, late, later] = ["shared.died-before", "shared.died-after", "shared.late", "shared.later"];
    for crm in [before, after, late, later] {
        scene.stored(crm).await;
    }
    // One dies before it asks Salesforce and one after; two have the only living tokens and are slow to bring them.
    let [died_before, died_after] = [scene.held(before).await, scene.held(after).await];
    let [is_late, is_later] = [scene.held(late).await, scene.held(later).await];
    assert!([&died_before, &died_after, &is_late, &is_later].iter().all(|lease| !lease.after_lapse));
    scene.asked(&died_after).await;
    let [brought_late, brought_later] = [scene.asked(&is_late).await, scene.asked(&is_later).await];
    let waiting = [before, after, late].map(|crm| scene.wanted(crm));
    until("waiting", async || scene.secured.service.metric("triseal_refresh_waiters").await == 6.0).await;

    // Its lease has lapsed; within the grace nobody else has asked, and its tokens are saved.
    let lapse = expiry(&is_late) + Duration::from_secs(6);
    tokio::time::sleep(lapse.duration_since(SystemTime::now()).unwrap()).await;
    for (crm, refreshes) in [(before, 0), (after, 1), (late, 1), (later, 1)] {
        scene.assert_seen(crm, refreshes, 0).await;
    }
    assert_eq!(scene.brought(late, &is_late, brought_late).await, Ok(2));
    let [of_before, of_after, of_late] = waiting;
    for product in of_late {
        assert_eq!(product.await.unwrap(), Ok(()));
    }
    scene.assert_seen(late, 1, 0).await;
    assert_eq!((scene.leases("given").await, scene.leases("after_lapse").await), (4.0, 0.0));

    // Who waited for the one that died before gets the next lease, and not before the grace is over.
    for product in of_before {
        assert_eq!(product.await.unwrap(), Ok(()));
    }
    assert!(SystemTime::now() >= expiry(&died_before) + UNTIL_GIVEN_AGAIN);
    scene.assert_seen(before, 1, 0).await;
    // It was no ghost: it comes when others have refreshed, and is told so.
    let mut dead = v1::SalesforceOAuth::default();
    "dead".clone_into(&mut dead.access_token);
    assert_eq!(scene.brought(before, &died_before, dead).await, Err("REVISION_MISMATCH".to_owned()));

    // The one that died after has taken the tokens along: that is found out once, and all others stop asking.
    for product in of_after {
        assert_eq!(product.await.unwrap(), Err(NoToken::NeedsReauth));
    }
    for product in scene.wanted(after) {
        assert_eq!(product.await.unwrap(), Err(NoToken::NeedsReauth));
    }
    scene.assert_seen(after, 1, 1).await;
    assert_eq!((scene.leases("after_lapse").await, scene.leases("invalid_grant").await), (2.0, 1.0));

    // Nobody has asked for this one meanwhile: its tokens are good after the grace, too.
    assert_eq!(scene.brought(later, &is_later, brought_later).await, Ok(2));
    for product in scene.wanted(later) {
        assert_eq!(product.await.unwrap(), Ok(()));
    }
    scene.assert_seen(later, 1, 0).await;
}
