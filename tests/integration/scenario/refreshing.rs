//! The RPCs that refresh a Salesforce token, each answered and refused.

use triseal::grpc::v1;
use v1::acquire_refresh_response::Outcome;

use super::came_out::CameOut;
use super::{ACCESS, DATA, NEW, REFRESH, REFUSED, Scenario, marked};
use crate::support::{encrypt, oauth, opaque};

fn acquire(credential: &str, rejected: u64) -> v1::AcquireRefreshRequest {
    v1::AcquireRefreshRequest {
        customer_id: "acme".to_owned(),
        credential_id: credential.to_owned(),
        rejected_revision: Some(rejected),
        ..Default::default()
    }
}

fn complete(lease_token: &str) -> v1::CompleteRefreshRequest {
    let mut oauth = v1::SalesforceOAuth::default();
    NEW.clone_into(&mut oauth.access_token);
    v1::CompleteRefreshRequest {
        customer_id: "acme".to_owned(),
        credential_id: "refreshed".to_owned(),
        lease_token: lease_token.to_owned(),
        salesforce_oauth: Some(oauth),
    }
}

fn abandon(lease_token: &str) -> v1::AbandonRefreshRequest {
    v1::AbandonRefreshRequest {
        customer_id: "acme".to_owned(),
        credential_id: "refreshed".to_owned(),
        lease_token: lease_token.to_owned(),
        cause: v1::AbandonCause::InvalidGrant.into(),
        detail: "invalid_grant".to_owned(),
    }
}

impl Scenario {
    /// One life of a token: refreshed, read by another, given up, marked.
    pub(super) async fn refreshing(&self, out: &mut CameOut) {
        let mut client = self.credentials();
        for (name, secret) in [("refreshed", oauth(ACCESS, REFRESH)), ("no-token", opaque(DATA))] {
            out.shown(client.encrypt_credential(marked(encrypt("acme", name, secret))).await).unwrap();
        }
        let first = self.lease(1, out).await;
        // Held by another call; not a token; not that lease.
        out.opened(client.acquire_refresh(marked(acquire("refreshed", 1))).await).unwrap_err();
        out.opened(client.acquire_refresh(marked(acquire("no-token", 1))).await).unwrap_err();
        out.opened(client.acquire_refresh(marked(acquire(REFUSED, 1))).await).unwrap_err();
        out.shown(client.complete_refresh(marked(complete(&"A".repeat(43)))).await).unwrap_err();
        out.shown(client.complete_refresh(marked(complete(REFUSED))).await).unwrap_err();
        out.shown(client.complete_refresh(marked(complete(&first))).await).unwrap();
        // Who comes later gets what it brought.
        let fresh = out.opened(client.acquire_refresh(marked(acquire("refreshed", 1))).await).unwrap();
        assert!(matches!(fresh.outcome, Some(Outcome::Fresh(_))), "a lease for a token that was not refused");
        let second = self.lease(2, out).await;
        out.shown(client.abandon_refresh(marked(abandon(&first))).await).unwrap_err();
        out.shown(client.abandon_refresh(marked(abandon(&second))).await).unwrap();

        let mark = |credential: &str, reason: &str| {
            let (customer_id, credential_id) = ("acme".to_owned(), credential.to_owned());
            marked(v1::MarkNeedsReauthRequest {
                customer_id,
                credential_id,
                reason: reason.to_owned(),
                if_revision: None,
            })
        };
        out.shown(client.mark_needs_reauth(mark("refreshed", "a breach")).await).unwrap();
        out.shown(client.mark_needs_reauth(mark("nothing", REFUSED)).await).unwrap_err();
    }

    /// A lease, whose token is a secret from now on.
    async fn lease(&self, rejected: u64, out: &mut CameOut) -> String {
        let mut client = self.credentials();
        let answer = out.opened(client.acquire_refresh(marked(acquire("refreshed", rejected))).await).unwrap();
        let Some(Outcome::Lease(lease)) = answer.outcome else { panic!("no lease") };
        self.lease_tokens.lock().unwrap().push(lease.lease_token.clone());
        lease.lease_token
    }
}
