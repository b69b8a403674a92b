//! Refreshing tokens while their records are sealed anew and the customer's key is rotated.

use super::*;
use crate::refresh::Acquire;
use crate::secret::{SalesforceOAuth, SecretString};
use crate::store::Revision;
use crate::vault::{GivenLease, Refreshed};

fn caller() -> Caller {
    Caller::new("test")
}

fn tokens(access: &str) -> SalesforceOAuth {
    SalesforceOAuth {
        access_token: SecretString::new(access.to_owned()),
        refresh_token: SecretString::new(format!("after {access}")),
        instance_url: String::new(),
        token_url: String::new(),
        identity_url: String::new(),
        scopes: vec![],
        issue_time: None,
        access_token_expire_time: None,
    }
}

impl Replica {
    async fn leases(&self, id: &CredentialRef, revision: Revision) -> GivenLease {
        let asked = Acquire {
            rejected: Some(revision),
            min_validity: Duration::ZERO,
            wait: Duration::ZERO,
            ttl: Acquire::MAX_TTL,
            key: None,
        };
        match self.vault.acquire_unasked(&caller(), id, &asked).await.unwrap() {
            Refreshed::Lease(lease) => *lease,
            Refreshed::Fresh(_) => panic!("fresh"),
        }
    }

    async fn completes(&self, id: &CredentialRef, lease: &GivenLease, access: &str) -> Revision {
        self.vault.complete_unasked(&caller(), id, &lease.token, &tokens(access)).await.unwrap().revision
    }

    async fn tokens_of(&self, id: &CredentialRef) -> (String, String) {
        match self.vault.decrypt_unasked(id, View::Full, None).await.unwrap().0 {
            Secret::SalesforceOAuth(oauth) => (oauth.access_token.into_exposed(), oauth.refresh_token.into_exposed()),
            _ => panic!("another kind"),
        }
    }
}

#[tokio::test]
async fn tokens_are_refreshed_while_their_records_are_sealed_anew() {
    let setup = Setup::new();
    let replica = setup.replica(1).await;
    filled(&replica).await;
    let ids: Vec<_> = (0..60).map(|number| credential("acme", &format!("crm-{number}"))).collect();
    let (held, others) = ids.split_at(30);
    let first = Revision::new(1).unwrap();
    for id in &ids {
        let secret = Secret::SalesforceOAuth(tokens("first"));
        replica.vault.encrypt_unasked(&caller(), id, secret, Condition::None, None).await.unwrap();
    }
    // These leases are given before the rotation, and completed after the records were sealed anew.
    let (mut leases, mut before) = (Vec::new(), Vec::new());
    for id in held {
        leases.push(replica.leases(id, first).await);
        before.push(setup.row(id).await);
    }
    rotate(&replica, "acme").await;
    replica.reencrypts(Some("acme")).await;
    let refreshes = async {
        for round in 0..3 {
            for id in others {
                let revision = setup.row(id).await.revision;
                let lease = replica.leases(id, revision).await;
                assert!(replica.completes(id, &lease, &format!("round {round}")).await > revision);
            }
        }
    };
    tokio::join!(replica.works(), refreshes);
    for id in others {
        assert_eq!(replica.tokens_of(id).await, ("round 2".to_owned(), "after round 2".to_owned()));
        let row = setup.row(id).await;
        assert_eq!((row.revision.get(), lineage(&row)), (4, versions(1, 1, 2)));
    }
    for (id, (lease, before)) in held.iter().zip(leases.iter().zip(before)) {
        let after = setup.row(id).await;
        assert_eq!((lineage(&before), lineage(&after)), (versions(1, 1, 1), versions(1, 1, 2)));
        assert_eq!((&after.leases, after.revision), (&before.leases, first), "a lease stays as it is");
        assert_eq!(replica.completes(id, lease, "second").await.get(), 2);
        assert_eq!(replica.tokens_of(id).await, ("second".to_owned(), "after second".to_owned()));
    }
}
