//! A product that keeps the rules, as the clients of `docs/REFRESH.md` do: it reads, calls, and on a 401 runs the whole protocol. It knows
//! nothing of the tests.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use v1::acquire_refresh_response::Outcome;

use super::{seconds, tokens};
use crate::support::salesforce::{HTTP_TIMEOUT, Refresh, SalesforceClient};
use crate::support::tls::Secured;
use crate::support::{is_ambiguous, reason};

pub(super) const PRODUCTS: [&str; 3] = ["realsync", "realtask", "metasync"];
/// A product gives up after this time: longer than somebody else's lease takes to lapse.
const PATIENCE: Duration = Duration::from_secs(120);

/// What has to remain of a lease, besides Salesforce's time to answer, for bringing the new tokens.
const TIME_TO_BRING: Duration = Duration::from_secs(15);

/// A service under the delivered policy.
pub(super) async fn deployed() -> Secured {
    let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/policy");
    Secured::with(&[("TRISEAL__POLICY__DIRECTORY", policy)]).await
}

/// Why there is no living token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoToken {
    /// The customer has to consent again.
    NeedsReauth,
    /// In all this time nobody brought any.
    GaveUp(String),
}

/// One worker of a product.
pub(super) struct Product {
    credentials: CredentialServiceClient<Channel>,
    salesforce: SalesforceClient,
}

impl Product {
    pub(super) fn new(credentials: CredentialServiceClient<Channel>, salesforce: SalesforceClient) -> Self {
        Self { credentials, salesforce }
    }

    /// Calls Salesforce's API with a living token.
    pub(super) async fn call_with_token(&mut self, customer: &str, credential: &str) -> Result<(), NoToken> {
        let (began, mut rejected, mut key) = (Instant::now(), None, new_key());
        let mut last = "nothing was tried".to_owned();
        while began.elapsed() < PATIENCE {
            let mut request = Request::new(v1::AcquireRefreshRequest {
                customer_id: customer.to_owned(),
                credential_id: credential.to_owned(),
                rejected_revision: rejected,
                min_validity: seconds(30),
                wait: seconds(8),
                lease_ttl: seconds(30),
                idempotency_key: key.clone(),
            });
            request.set_timeout(Duration::from_secs(10));
            match self.credentials.acquire_refresh(request).await {
                Ok(answer) => {
                    // The next call is another one.
                    key = new_key();
                    match answer.into_inner().outcome.expect("one is set") {
                        Outcome::Fresh(fresh) => {
                            if self.salesforce.call(&tokens(fresh.secret).access_token).await {
                                return Ok(());
                            }
                            rejected = Some(fresh.credential.expect("it is set").revision);
                        }
                        Outcome::Lease(lease) => self.refresh(customer, credential, lease).await?,
                    }
                }
                Err(status) => match reason(&status) {
                    "NEEDS_REAUTH" => return Err(NoToken::NeedsReauth),
                    "REFRESH_IN_PROGRESS" => last = format!("{status:?}"),
                    // A lease may have been given: the same call gets it.
                    _ if is_ambiguous(&status) || status.code() == Code::Aborted => {
                        last = format!("{status:?}");
                        sleep(Duration::from_millis(50)).await;
                    }
                    _ => panic!("{status:?}"),
                },
            }
        }
        Err(NoToken::GaveUp(last))
    }

    /// The holder's one call to Salesforce, and what becomes of it.
    async fn refresh(&mut self, customer: &str, credential: &str, lease: v1::RefreshLease) -> Result<(), NoToken> {
        let refresh_token = tokens(lease.secret.clone()).refresh_token.clone();
        let refreshed = if remains(&lease) >= HTTP_TIMEOUT + TIME_TO_BRING {
            self.salesforce.refresh(&refresh_token).await
        } else {
            Refresh::NotDone
        };
        let cause = match refreshed {
            Refresh::Tokens(tokens) => {
                let request = v1::CompleteRefreshRequest {
                    customer_id: customer.to_owned(),
                    credential_id: credential.to_owned(),
                    lease_token: lease.lease_token.clone(),
                    salesforce_oauth: Some(tokens),
                };
                // ABORTED: somebody has brought others since, which are read next.
                let _ = self.bring(request).await;
                return Ok(());
            }
            Refresh::InvalidGrant(_) => v1::AbandonCause::InvalidGrant,
            Refresh::NotDone => v1::AbandonCause::Transient,
            // The request may yet arrive, and the next holder's would be a second use: the lease lapses.
            Refresh::NoAnswer => return Ok(()),
        };
        let request = v1::AbandonRefreshRequest {
            customer_id: customer.to_owned(),
            credential_id: credential.to_owned(),
            lease_token: lease.lease_token.clone(),
            cause: cause.into(),
            detail: String::new(),
        };
        while let Err(status) = self.credentials.abandon_refresh(request.clone()).await {
            if !is_ambiguous(&status) {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Brings new tokens, until it is known what became of them.
    pub(super) async fn bring(&mut self, request: v1::CompleteRefreshRequest) -> Result<v1::Credential, Status> {
        let began = Instant::now();
        loop {
            match self.credentials.complete_refresh(request.clone()).await {
                Ok(answer) => return Ok(answer.into_inner().credential.expect("it is set")),
                Err(status) if matches!(status.code(), Code::Aborted | Code::NotFound) => return Err(status),
                Err(status) => assert!(began.elapsed() < PATIENCE, "the only living tokens are lost: {status:?}"),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// How long the lease lasts.
fn remains(lease: &v1::RefreshLease) -> Duration {
    let expires = SystemTime::try_from(lease.expire_time.expect("it is set")).expect("a time");
    expires.duration_since(SystemTime::now()).unwrap_or_default()
}

fn new_key() -> String {
    format!("{:016x}", getrandom::u64().expect("random numbers"))
}
