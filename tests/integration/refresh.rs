//! Refreshing without races, as products meet it: three callers over TLS under the delivered policy, and a Salesforce that revokes a
//! connection whose refresh token is used twice.

mod lapse;
mod marking;
mod product;
mod scenario;

use std::time::{Duration, Instant};

use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use v1::acquire_refresh_response::Outcome;

use crate::support::salesforce::{Refresh, Salesforce};
use crate::support::tls::Secured;
use crate::support::{Service, data, decrypt, dev, encrypt, oauth, password, reason, until};
use product::{PRODUCTS, Product, deployed};

const CUSTOMER: &str = "demo";
const CRM: &str = "shared.crm";

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn acquire(rejected_revision: Option<u64>) -> v1::AcquireRefreshRequest {
    v1::AcquireRefreshRequest {
        customer_id: CUSTOMER.to_owned(),
        credential_id: CRM.to_owned(),
        rejected_revision,
        lease_ttl: seconds(15),
        ..v1::AcquireRefreshRequest::default()
    }
}

fn complete(lease: &v1::RefreshLease, tokens: v1::SalesforceOAuth) -> v1::CompleteRefreshRequest {
    v1::CompleteRefreshRequest {
        customer_id: CUSTOMER.to_owned(),
        credential_id: CRM.to_owned(),
        lease_token: lease.lease_token.clone(),
        salesforce_oauth: Some(tokens),
    }
}

fn abandon(lease: &v1::RefreshLease, cause: v1::AbandonCause, detail: &str) -> v1::AbandonRefreshRequest {
    v1::AbandonRefreshRequest {
        customer_id: CUSTOMER.to_owned(),
        credential_id: CRM.to_owned(),
        lease_token: lease.lease_token.clone(),
        cause: cause.into(),
        detail: detail.to_owned(),
    }
}

type Client = CredentialServiceClient<Channel>;

async fn outcome(client: &mut Client, request: v1::AcquireRefreshRequest) -> Result<Outcome, Status> {
    client.acquire_refresh(request).await.map(|answer| answer.into_inner().outcome.expect("one is set"))
}

async fn lease(client: &mut Client, revision: u64) -> v1::RefreshLease {
    match outcome(client, acquire(Some(revision))).await.unwrap() {
        Outcome::Lease(lease) => lease,
        Outcome::Fresh(_) => panic!("fresh"),
    }
}

fn told(status: &Status) -> (Code, &str) {
    (status.code(), reason(status))
}

fn tokens(secret: Option<v1::Secret>) -> v1::SalesforceOAuth {
    match secret.unwrap().value.clone() {
        Some(v1::secret::Value::SalesforceOauth(oauth)) => oauth,
        _ => panic!("another kind"),
    }
}

/// First of all: that the Salesforce of these tests refuses what the real one does.
#[tokio::test]
async fn the_salesforce_of_the_tests_rotates_and_revokes() {
    let salesforce = Salesforce::start(Duration::from_millis(1_500)).await;
    let client = &salesforce.client;
    let first = salesforce.consent("crm").await;
    assert!(client.call(&first.access_token).await && !client.call("00D!unknown").await);
    assert!(matches!(client.refresh("5Aep.unknown").await, Refresh::InvalidGrant(_)));
    let Refresh::Tokens(second) = client.refresh(&first.refresh_token).await else { panic!("refused") };
    assert!(client.call(&second.access_token).await && first.refresh_token != second.refresh_token);

    tokio::time::sleep(Duration::from_millis(1_600)).await;
    assert!(!client.call(&second.access_token).await && !client.call(&second.access_token).await, "it is dead");
    salesforce.faults("crm", json!([{ "kind": "unavailable" }])).await;
    assert!(matches!(client.refresh(&second.refresh_token).await, Refresh::NotDone), "and not done");
    let Refresh::Tokens(third) = client.refresh(&second.refresh_token).await else { panic!("refused") };
    assert!(client.call(&third.access_token).await);
    let seen = salesforce.seen("crm").await;
    let count = |name: &str| seen[name].as_u64().unwrap();
    assert_eq!(["refreshes", "deaths", "reuses", "consents"].map(count), [2, 1, 0, 1]);

    // A second use revokes all there is, until the customer consents again.
    assert!(matches!(client.refresh(&first.refresh_token).await, Refresh::InvalidGrant(_)));
    assert!(!client.call(&third.access_token).await);
    assert!(matches!(client.refresh(&third.refresh_token).await, Refresh::InvalidGrant(_)));
    let anew = salesforce.consent("crm").await;
    assert!(client.call(&anew.access_token).await && !client.call(&third.access_token).await);
    client.revoke(&anew.refresh_token).await;
    assert!(!client.call(&anew.access_token).await);
    assert!(matches!(client.refresh(&anew.refresh_token).await, Refresh::InvalidGrant(_)));
    assert_eq!(salesforce.report().await["reuses"], 1);
}

/// The delivered policy, a client of each product, and one of the security team.
async fn products() -> (Secured, [Client; 3], Client) {
    let secured = deployed().await;
    let client = |name: &str| {
        let pair = secured.authority.client(&format!("spiffe://datasert.com/{name}"));
        secured.credentials(secured.client(&pair))
    };
    let clients = (PRODUCTS.map(client), client("security"));
    (secured, clients.0, clients.1)
}

#[tokio::test]
async fn one_product_refreshes_and_the_others_get_what_it_brings() {
    let (_secured, [mut sync, mut task, mut meta], _) = products().await;
    sync.encrypt_credential(encrypt(CUSTOMER, CRM, oauth("first", "refresh-1"))).await.unwrap();
    let Outcome::Fresh(fresh) = outcome(&mut task, acquire(None)).await.unwrap() else { panic!("a lease") };
    assert_eq!(fresh.credential.unwrap().revision, 1);
    let read = tokens(fresh.secret);
    assert_eq!((read.access_token.as_str(), read.refresh_token.as_str()), ("first", ""));

    let held = lease(&mut task, 1).await;
    assert_eq!(tokens(held.secret.clone()).refresh_token, "refresh-1");
    assert_eq!((held.after_lapse, held.lease_token.len()), (false, 43));
    let refused = outcome(&mut sync, acquire(Some(1))).await.unwrap_err();
    assert_eq!(told(&refused), (Code::FailedPrecondition, "REFRESH_IN_PROGRESS"));
    let details = refused.get_error_details();
    let available: jiff::Timestamp = details.error_info().unwrap().metadata["lease_available_time"].parse().unwrap();
    let expires = held.expire_time.unwrap();
    // The clocks' allowance, and the grace.
    assert_eq!(available.as_second(), expires.seconds + 65);

    // Those who wait are answered when the tokens come, in the access view.
    let wait = |mut client: Client| async move {
        outcome(&mut client, v1::AcquireRefreshRequest { wait: seconds(8), ..acquire(Some(1)) }).await
    };
    let waiting = [tokio::spawn(wait(sync.clone())), tokio::spawn(wait(meta.clone()))];
    let mut brought = v1::SalesforceOAuth::default();
    (brought.access_token, brought.refresh_token) = ("second".to_owned(), "refresh-2".to_owned());
    let made = task.complete_refresh(complete(&held, brought.clone())).await.unwrap().into_inner().credential.unwrap();
    assert_eq!((made.revision, made.state()), (2, v1::CredentialState::Active));
    assert!(made.refresh_time.is_some() && made.access_token_expire_time.is_none());
    for waited in waiting {
        let Outcome::Fresh(fresh) = waited.await.unwrap().unwrap() else { panic!("a lease") };
        let read = tokens(fresh.secret);
        assert_eq!((read.access_token.as_str(), read.refresh_token.as_str()), ("second", ""));
        assert_eq!(read.instance_url, "https://acme.my.salesforce.com", "kept");
        assert_eq!(fresh.credential.as_ref(), Some(&made));
    }
    // A retry has the first answer; a lease is its caller's, and good once.
    let again = task.complete_refresh(complete(&held, brought.clone())).await.unwrap().into_inner().credential;
    assert_eq!(again, Some(made));
    let stolen = meta.complete_refresh(complete(&held, brought)).await.unwrap_err();
    assert_eq!(told(&stolen), (Code::Aborted, "LEASE_LOST"));
    let late = task.abandon_refresh(abandon(&held, v1::AbandonCause::Transient, "")).await.unwrap_err();
    assert_eq!(told(&late), (Code::Aborted, "LEASE_LOST"));
}

#[tokio::test]
async fn what_can_not_be_refreshed_says_so() {
    let (_secured, [mut sync, ..], mut security) = products().await;
    sync.encrypt_credential(encrypt(CUSTOMER, "shared.password.sftp", password("x"))).await.unwrap();
    sync.encrypt_credential(encrypt(CUSTOMER, CRM, oauth("only", ""))).await.unwrap();
    let of = |id: &str, rejected| v1::AcquireRefreshRequest { credential_id: id.to_owned(), ..acquire(rejected) };
    for (request, code, wanted) in [
        (of("shared.password.sftp", None), Code::FailedPrecondition, "NOT_REFRESHABLE"),
        (of(CRM, Some(1)), Code::FailedPrecondition, "NOT_REFRESHABLE"),
        (of(CRM, Some(2)), Code::Aborted, "REVISION_MISMATCH"),
        (of("shared.missing", None), Code::NotFound, "CREDENTIAL_NOT_FOUND"),
        (of("realtask.crm", None), Code::PermissionDenied, "NOT_PERMITTED"),
        (v1::AcquireRefreshRequest { lease_ttl: seconds(14), ..of(CRM, None) }, Code::InvalidArgument, "BAD_FIELD"),
    ] {
        assert_eq!(told(&outcome(&mut sync, request).await.unwrap_err()), (code, wanted));
    }
    assert!(matches!(outcome(&mut sync, of(CRM, None)).await, Ok(Outcome::Fresh(_))), "it is read all the same");

    // The security team marks, and gets no tokens; a product does not mark.
    let mark = v1::MarkNeedsReauthRequest {
        customer_id: CUSTOMER.to_owned(),
        credential_id: CRM.to_owned(),
        reason: "leak".to_owned(),
        if_revision: Some(1),
    };
    assert_eq!(reason(&sync.mark_needs_reauth(mark.clone()).await.unwrap_err()), "NOT_PERMITTED");
    assert_eq!(reason(&outcome(&mut security, of(CRM, None)).await.unwrap_err()), "NOT_PERMITTED");
    let marked = security.mark_needs_reauth(mark).await.unwrap().into_inner().credential.unwrap();
    assert_eq!((marked.state(), marked.state_reason.as_str()), (v1::CredentialState::NeedsReauth, "leak"));
    let refused = sync.decrypt_credential(decrypt(CUSTOMER, CRM, v1::View::Access)).await.unwrap_err();
    assert_eq!(told(&refused), (Code::FailedPrecondition, "NEEDS_REAUTH"));
    let requests = vec![decrypt(CUSTOMER, CRM, v1::View::Access).into_inner()];
    let batch = sync.batch_decrypt_credentials(v1::BatchDecryptCredentialsRequest { requests }).await.unwrap();
    match batch.into_inner().results.remove(0).result.unwrap() {
        v1::batch_decrypt_credentials_result::Result::Error(error) => assert_eq!(error.code, 9, "{error:?}"),
        v1::batch_decrypt_credentials_result::Result::Decrypted(_) => panic!("it is opened"),
    }
}

#[tokio::test]
async fn a_wait_ends_before_the_calls_deadline_and_when_the_service_drains() {
    let (secured, [mut sync, mut task, _], _) = products().await;
    sync.encrypt_credential(encrypt(CUSTOMER, CRM, oauth("first", "refresh"))).await.unwrap();
    lease(&mut task, 1).await;
    let patient = || Request::new(v1::AcquireRefreshRequest { wait: seconds(8), ..acquire(Some(1)) });
    let mut short = patient();
    short.set_timeout(Duration::from_millis(1_500));
    assert_eq!(told(&sync.acquire_refresh(short).await.unwrap_err()).1, "REFRESH_IN_PROGRESS");

    let mut waiting = sync.clone();
    let mut long = patient();
    long.set_timeout(Duration::from_secs(10));
    let waiting = tokio::spawn(async move { waiting.acquire_refresh(long).await });
    until("waiting", async || secured.service.metric("triseal_refresh_waiters").await == 1.0).await;
    let series = "triseal_refresh_leases_total{event=\"given\"}";
    assert_eq!(secured.service.metric(series).await, 1.0);
    secured.service.signal().await;
    let told_so = waiting.await.unwrap().unwrap_err();
    assert_eq!(told(&told_so).1, "REFRESH_IN_PROGRESS", "{told_so:?}");
}

/// Not timed: the numbers are printed.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_who_wait_are_one_reader_and_are_all_answered() {
    let (_folder, path) = data();
    let service = Service::start(dev(&path)).await;
    let mut holder = service.credentials();
    holder.encrypt_credential(encrypt(CUSTOMER, CRM, oauth("first", "refresh"))).await.unwrap();
    let held = lease(&mut holder, 1).await;
    let mut waiting = Vec::new();
    let waiters = async || service.metric("triseal_refresh_waiters").await;
    for connection in 1..=5 {
        let client = service.credentials();
        waiting.extend((0..200).map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let patient = v1::AcquireRefreshRequest { wait: seconds(8), ..acquire(Some(1)) };
                let mut patient = Request::new(patient);
                patient.set_timeout(Duration::from_secs(10));
                let answer = client.acquire_refresh(patient).await;
                (answer.map(|answer| answer.into_inner().outcome.expect("one is set")), Instant::now())
            })
        }));
        until("waiting", async || waiters().await == f64::from(200 * connection)).await;
    }
    // They are more calls than may be under way, and take no place of any.
    let others = (0..100).map(|_| {
        let mut client = holder.clone();
        async move { client.decrypt_credential(decrypt(CUSTOMER, CRM, v1::View::Access)).await }
    });
    for served in futures_util::future::join_all(others).await {
        served.unwrap();
    }
    let reads = async || {
        let series =
            "triseal_dependency_seconds_count{dependency=\"store\",operation=\"credentials_get\",outcome=\"ok\"}";
        service.metric(series).await
    };
    let (before, since) = (reads().await, Instant::now());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (read, took) = (reads().await - before, since.elapsed());
    assert!(read > 0.0 && read <= 10.0 * took.as_secs_f64(), "{read} readings in {took:?}");

    let mut brought = v1::SalesforceOAuth::default();
    "second".clone_into(&mut brought.access_token);
    holder.complete_refresh(complete(&held, brought)).await.unwrap();
    let completed = Instant::now();
    let mut last = Duration::ZERO;
    for waited in waiting {
        let (outcome, at) = waited.await.unwrap();
        let Outcome::Fresh(fresh) = outcome.unwrap() else { panic!("a lease") };
        assert_eq!(fresh.credential.unwrap().revision, 2);
        last = last.max(at.saturating_duration_since(completed));
    }
    println!("1,000 waiters: {read} readings in {took:?}; the last was answered {last:?} after CompleteRefresh");
}

/// The holder died, or its answer was lost: the next one finds out, says so once, and all others stop asking.
#[tokio::test]
async fn an_answer_that_was_lost_after_the_token_was_taken_is_found_out_once() {
    let salesforce = Salesforce::start(Duration::from_secs(3_600)).await;
    let (_secured, [mut sync, mut task, mut meta], _) = products().await;
    let connection = salesforce.consent(CRM).await;
    let secret = v1::Secret { value: Some(v1::secret::Value::SalesforceOauth(connection)) };
    sync.encrypt_credential(encrypt(CUSTOMER, CRM, secret.clone())).await.unwrap();

    // A product lets a lease lapse for which there was no answer. This test knows what became of the requests, and saves that time by
    // giving the leases up.
    salesforce.faults(CRM, json!([{ "kind": "lost_before" }, { "kind": "lost_after" }])).await;
    let held = lease(&mut task, 1).await;
    let refresh_token = tokens(held.secret.clone()).refresh_token.clone();
    assert!(matches!(salesforce.client.refresh(&refresh_token).await, Refresh::NoAnswer));
    task.abandon_refresh(abandon(&held, v1::AbandonCause::Transient, "")).await.unwrap();
    // Not taken the first time; taken the second, and nobody has the tokens.
    let held = lease(&mut sync, 1).await;
    assert!(matches!(salesforce.client.refresh(&refresh_token).await, Refresh::NoAnswer));
    sync.abandon_refresh(abandon(&held, v1::AbandonCause::Transient, "")).await.unwrap();
    let held = lease(&mut meta, 1).await;
    let Refresh::InvalidGrant(detail) = salesforce.client.refresh(&refresh_token).await else { panic!("not refused") };
    let request = abandon(&held, v1::AbandonCause::InvalidGrant, &detail);
    let marked = meta.abandon_refresh(request).await.unwrap().into_inner().credential.unwrap();
    assert_eq!(marked.state(), v1::CredentialState::NeedsReauth);
    assert_eq!(marked.state_reason, "INVALID_GRANT: token reused");

    for client in [&mut sync, &mut task, &mut meta] {
        for rejected in [None, Some(1)] {
            assert_eq!(reason(&outcome(client, acquire(rejected)).await.unwrap_err()), "NEEDS_REAUTH");
        }
    }
    let seen = salesforce.seen(CRM).await;
    assert_eq!((&seen["refreshes"], &seen["reuses"], &seen["revoked"]), (&1.into(), &1.into(), &true.into()));

    // The customer consents again.
    let secret = v1::Secret { value: Some(v1::secret::Value::SalesforceOauth(salesforce.consent(CRM).await)) };
    sync.encrypt_credential(encrypt(CUSTOMER, CRM, secret)).await.unwrap();
    let mut product = Product::new(task, salesforce.client.clone());
    product.call_with_token(CUSTOMER, CRM).await.unwrap();
}

#[tokio::test]
async fn a_holder_that_is_slow_loses_nothing_even_when_the_service_is_killed_meanwhile() {
    let salesforce = Salesforce::start(Duration::from_secs(3_600)).await;
    let (mut secured, [mut sync, mut task, _], _) = products().await;
    let secret = v1::secret::Value::SalesforceOauth(salesforce.consent(CRM).await);
    sync.encrypt_credential(encrypt(CUSTOMER, CRM, v1::Secret { value: Some(secret) })).await.unwrap();
    salesforce.faults(CRM, json!([{ "kind": "slow", "seconds": 2 }])).await;
    let asked = v1::AcquireRefreshRequest { idempotency_key: "refresh-1".to_owned(), ..acquire(Some(1)) };
    let Outcome::Lease(lost) = outcome(&mut task, asked.clone()).await.unwrap() else { panic!("fresh") };
    secured.kill9_and_restart().await;
    // Its answer is taken to be lost: the same call gets the lease again.
    let again = async {
        loop {
            match outcome(&mut task, asked.clone()).await {
                Ok(Outcome::Lease(held)) => return held,
                Ok(Outcome::Fresh(_)) => panic!("fresh"),
                Err(status) => assert!(crate::support::is_ambiguous(&status), "{status:?}"),
            }
        }
    };
    let held = tokio::time::timeout(crate::support::PATIENCE, again).await.unwrap();
    assert_eq!(held.expire_time, lost.expire_time);
    let Refresh::Tokens(brought) = salesforce.client.refresh(&tokens(held.secret.clone()).refresh_token).await else {
        panic!("no tokens")
    };
    let mut product = Product::new(task.clone(), salesforce.client.clone());
    product.bring(complete(&held, brought.clone())).await.unwrap();
    product.call_with_token(CUSTOMER, CRM).await.unwrap();
    // Under its former token the lease is the same one.
    assert_eq!(reason(&task.complete_refresh(complete(&lost, brought)).await.unwrap_err()), "REVISION_MISMATCH");
    let seen = salesforce.seen(CRM).await;
    assert_eq!((&seen["refreshes"], &seen["reuses"], &seen["deaths"]), (&1.into(), &0.into(), &0.into()));
}
